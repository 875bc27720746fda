/*
 * consume.c - consumers: handing out, settling, and switching from one set of them to another. Called by
 * programs' threads; all of it is bookkeeping under the subscription's lock.
 *
 * Who is woken: one consumer a ready message, and each that takes one wakes the next while more are
 * ready. A thread that stands in wm_next comes first, as it has nothing else to do; one that polls may be
 * at something else just then, so the others look a little later, one by one, unless it was taken.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/timerfd.h>
#include <unistd.h>

#include "error.h"
#include "subscription/state.h"

/* After so long one more idle consumer looks for what those who were woken have left. */
#define NUDGE_MS 2
/* The settler is told that this many ops have come together. */
#define COLLECT_OPS (WM_BATCH_MESSAGES / 2)

/* ---- waking ------------------------------------------------------------------------------- */

/* Makes the descriptor readable at `due`. */
static void arm(wm_consumer *con, int64_t due) {
  struct itimerspec at = {0};
  if (con->due == due) return;
  con->due = due;
  if (due != WM_NEVER) {
    at.it_value.tv_sec = due / 1000;
    at.it_value.tv_nsec = due % 1000 * 1000000 + 1; /* all zero would disarm it */
  }
  timerfd_settime(con->fd, TFD_TIMER_ABSTIME, &at, NULL);
}

void wm_subscription_rouse(wm_consumer *con) {
  if (con->state == CON_WAITING) {
    pthread_cond_signal(&con->wake);
    con->state = CON_BUSY;
  } else {
    arm(con, 0);
    con->state = CON_WOKEN;
  }
}

static wm_consumer *next_in_state(wm_consumer *con, consumer_state state) {
  while (con && con->state != state)
    con = con->next;
  return con;
}

/* Who was woken last is the last to be woken again. */
static void put_last(wm_subscription *s, wm_consumer *con) {
  wm_consumer **at = &s->consumers;
  while (*at != con)
    at = &(*at)->next;
  *at = con->next;
  while (*at)
    at = &(*at)->next;
  *at = con;
  con->next = NULL;
}

static void wake_one(wm_subscription *s, int64_t now) {
  wm_consumer *con = next_in_state(s->consumers, CON_WAITING);
  bool waits = con != NULL;
  if (!con && !(con = next_in_state(s->consumers, CON_IDLE))) return;
  wm_subscription_rouse(con);
  put_last(s, con);
  if (waits) return;
  for (con = s->consumers; (con = next_in_state(con, CON_IDLE)); con = con->next) {
    now += NUDGE_MS;
    if (con->due > now) arm(con, now);
  }
}

/* What becomes ready by itself is seen in time by everybody who waits. */
static void wake_at(wm_subscription *s, int64_t due) {
  for (wm_consumer *con = s->consumers; con; con = con->next) {
    if (con->state == CON_BUSY || con->due <= due) continue;
    if (con->state == CON_WAITING)
      pthread_cond_signal(&con->wake);
    else
      arm(con, due);
  }
}

/* Nothing is left for those who were woken besides: they need not look. */
static void hush(wm_subscription *s) {
  int64_t due = wm_ledger_deadline(s->ledger);
  for (wm_consumer *con = s->consumers; con; con = con->next)
    if (con->state == CON_IDLE || con->state == CON_WOKEN) {
      arm(con, due);
      con->state = CON_IDLE;
    }
}

/* When a consumer that found nothing looks again by itself. What holds all back now, it is told the end of. */
static int64_t look_again(const wm_subscription *s, int64_t now) {
  return s->paused || now >= s->sure_until ? WM_NEVER : wm_ledger_deadline(s->ledger);
}

void wm_subscription_wake(wm_subscription *s, int64_t now) {
  const wm_consumer *con = s->consumers;
  while (con && con->state == CON_BUSY)
    con = con->next;
  if (!con || s->paused || s->closing || s->opening == FAILED || now >= s->sure_until) return;
  if (wm_ledger_ready(s->ledger, now))
    wake_one(s, now);
  else
    wake_at(s, wm_ledger_deadline(s->ledger));
}

void wm_subscription_wake_all(wm_subscription *s) {
  for (wm_consumer *con = s->consumers; con; con = con->next)
    wm_subscription_rouse(con);
}

void wm_subscription_wake_fetcher(wm_subscription *s, int64_t now) {
  size_t bytes;
  if (!s->fetch_waits || !wm_ledger_room(s->ledger, &bytes, now)) return;
  s->fetch_waits = false;
  pthread_cond_signal(&s->fetch_wake);
}

void wm_subscription_settled(wm_subscription *s, int64_t now) {
  if (s->settler != SETTLER_AT_WORK && now >= s->settle_at &&
      (s->settler == SETTLER_ASLEEP || wm_ledger_unsettled(s->ledger) >= COLLECT_OPS ||
       !wm_ledger_busy(s->ledger)))
    wm_subscription_wake_settler(s);
  wm_subscription_wake_fetcher(s, now);
  wm_subscription_wake(s, now);
}

/* ---- handing out -------------------------------------------------------------------------- */

/* Of a record that could not be read, handed out just now. True: the program gets it. */
static bool admit(wm_subscription *s, wm_message *msg, int64_t now) {
  if (s->on_undecodable == WM_UNDECODABLE_RAW) return true;
  if (s->on_undecodable == WM_UNDECODABLE_DEAD_LETTER && wm_ledger_bury(s->ledger, msg, now)) {
    if (!msg->dead_reason) msg->dead_reason = strdup(msg->undecodable);
    wm_subscription_wake_settler(s);
  } else {
    wm_ledger_ack(s->ledger, msg, now);
    wm_subscription_settled(s, now);
  }
  return false;
}

/* Leaves in `out` those that the program gets. Their references are the ledger's business too, so none is the
 * last. */
static size_t sift(wm_subscription *s, wm_message **out, size_t n, int64_t now) {
  size_t kept = 0;
  for (size_t i = 0; i < n; i++) {
    if (!out[i]->undecodable || admit(s, out[i], now))
      out[kept++] = out[i];
    else
      wm_message_release(out[i]);
  }
  return kept;
}

/* Messages, or why there are none; under the lock. */
static int take(wm_subscription *s, wm_consumer *con, wm_message **out, size_t max, int64_t now) {
  size_t n = 0, handed;
  if (con->retired) return WM_RETIRED;
  if (s->closing || s->opening == FAILED) return WM_CLOSED;
  if (s->paused) return WM_TIMEOUT;
  /* The process stood still, or the broker was away: others may have taken over what is held. */
  if (now >= s->sure_until) return WM_TIMEOUT;
  do {
    handed = wm_ledger_next(s->ledger, out, max, con, now);
    n = sift(s, out, handed, now);
  } while (handed && !n);
  if (!n) return WM_TIMEOUT;
  s->stats.handed_out += n;
  return (int)n;
}

static int64_t until_of(int timeout_ms) {
  return timeout_ms < 0 ? WM_NEVER : timeout_ms ? wm_now_ms() + timeout_ms : 0;
}

/* Waits until the consumer is attached; NULL: it was not. */
static wm_subscription *wait_attached(wm_consumer *con, int64_t until) {
  wm_subscription *s;
  pthread_mutex_lock(&con->lock);
  while (!(s = atomic_load(&con->sub)) && until > wm_now_ms() &&
         wm_cond_wait_until(&con->attached, &con->lock, until)) {
  }
  pthread_mutex_unlock(&con->lock);
  return s;
}

/* Under the lock: until woken, or something may be ready, or the time is over. */
static void stand(wm_subscription *s, wm_consumer *con, int64_t until, int64_t now) {
  int64_t due = look_again(s, now);
  con->state = CON_WAITING;
  con->due = due < until ? due : until;
  wm_cond_wait_until(&con->wake, &s->lock, con->due);
  con->state = CON_BUSY;
  con->due = WM_NEVER;
}

int wm_next(wm_consumer *con, wm_message **out, size_t max, int timeout_ms) {
  int64_t until = until_of(timeout_ms);
  wm_subscription *s = atomic_load_explicit(&con->sub, memory_order_acquire);
  if (!max) return WM_BAD_INPUT;
  if (!s && !(s = wait_attached(con, until))) return WM_TIMEOUT;
  pthread_mutex_lock(&s->lock);
  int64_t now = wm_now_ms(); /* under the lock, so that no two look at times in another order */
  bool waited = con->state != CON_BUSY;
  int rc;
  while ((rc = take(s, con, out, max, now)) == WM_TIMEOUT && timeout_ms && now < until) {
    arm(con, WM_NEVER);
    stand(s, con, until, now);
    waited = true;
    now = wm_now_ms();
  }
  if (rc == WM_TIMEOUT) {
    con->state = CON_IDLE;
    arm(con, look_again(s, now));
  } else {
    con->state = CON_BUSY;
    if (rc < 0) arm(con, 0);      /* it will hear the same again */
    wm_subscription_wake(s, now); /* there may be more, for others */
    if (rc > 0) wm_subscription_wake_fetcher(s, now);
    /* Not while one takes all in a loop: a system call for each consumer would cost more than the message. */
    if (rc > 0 && waited && !wm_ledger_ready(s->ledger, now)) hush(s);
  }
  pthread_mutex_unlock(&s->lock);
  return rc;
}

/* ---- settling ----------------------------------------------------------------------------- */

typedef enum verdict { ACK, NACK, FAIL, DEAD } verdict;

/* Keeps why, for a dead letter; under the lock. */
static void note_reason(wm_message *msg, const char *reason, const char *detail) {
  free(msg->dead_reason);
  free(msg->dead_detail);
  msg->dead_reason = reason ? strdup(reason) : NULL;
  msg->dead_detail = detail ? strdup(detail) : NULL;
}

static bool settle(wm_message *msg, verdict as, int delay_ms, const char *reason,
                   const char *detail) {
  wm_subscription *s = msg->sub;
  bool first = false;
  if (!s) return false;
  int64_t now = wm_now_ms();
  pthread_mutex_lock(&s->lock);
  if (!s->ledger || msg->entry.state != WM_ENTRY_IN_HAND) goto done;
  if (as == ACK) {
    first = wm_ledger_ack(s->ledger, msg, now);
    s->stats.acked += first;
  } else if (as == DEAD) {
    if ((first = s->dead_letter != NULL)) note_reason(msg, reason, detail);
    first = first && wm_ledger_bury(s->ledger, msg, now);
  } else {
    if (as == FAIL) {
      note_reason(msg, reason, detail);
      msg->entry.failures++;
    }
    first = wm_ledger_nack(s->ledger, msg, delay_ms, wm_random(), now);
    s->stats.nacked += first;
  }
  if (first && msg->entry.state == WM_ENTRY_DEAD) wm_subscription_wake_settler(s);
  if (first) wm_subscription_settled(s, now);
done:
  pthread_mutex_unlock(&s->lock);
  return first;
}

bool wm_ack(wm_message *msg) { return settle(msg, ACK, 0, NULL, NULL); }

bool wm_nack(wm_message *msg, int delay_ms) { return settle(msg, NACK, delay_ms, NULL, NULL); }

bool wm_fail(wm_message *msg, int delay_ms, const char *error, const char *detail) {
  return settle(msg, FAIL, delay_ms, error, detail);
}

bool wm_dead(wm_message *msg, const char *reason, const char *detail) {
  return settle(msg, DEAD, 0, reason, detail);
}

size_t wm_consumer_reclaim(wm_consumer *con) {
  wm_subscription *s = atomic_load(&con->sub);
  if (!s) return 0;
  pthread_mutex_lock(&s->lock);
  int64_t now = wm_now_ms();
  size_t n = s->ledger ? wm_ledger_reclaim(s->ledger, con, now) : 0;
  if (n) wm_subscription_settled(s, now);
  pthread_mutex_unlock(&s->lock);
  return n;
}

size_t wm_consumer_in_hand(wm_consumer *con) {
  wm_subscription *s = atomic_load(&con->sub);
  if (!s) return 0;
  pthread_mutex_lock(&s->lock);
  size_t n = s->ledger ? wm_ledger_in_hand_of(s->ledger, con) : 0;
  pthread_mutex_unlock(&s->lock);
  return n;
}

void wm_subscription_pause(wm_subscription *s) {
  pthread_mutex_lock(&s->lock);
  s->paused = true;
  pthread_mutex_unlock(&s->lock);
}

void wm_subscription_resume(wm_subscription *s) {
  pthread_mutex_lock(&s->lock);
  s->paused = false;
  if (s->ledger) wm_subscription_wake(s, wm_now_ms());
  pthread_mutex_unlock(&s->lock);
}
