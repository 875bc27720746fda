/*
 * settle.c - the settler: tells the broker what became of messages, keeps claims alive, warns of messages that
 * nobody settles, ends flushes, and closes. A thread of each subscription; it alone calls the backend's
 * settle, touch and unsubscribe.
 *
 * Ops go out at once when nothing else is to be done. While there is work going on they are collected for
 * a moment, as a round trip for each would cost the broker more than the messages did.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "error.h"
#include "log.h"
#include "subscription/state.h"

/* How long ops are collected while messages are handed out. */
#define COLLECT_MS 2
/* Claims are kept alive so many times within `takeover`. */
#define TOUCHES 3
#define TICK_MS 5000

void wm_subscription_wake_settler(wm_subscription *s) {
  if (s->settler == SETTLER_AT_WORK)
    s->settler_again = true;
  else
    pthread_cond_signal(&s->settle_wake);
}

/* ---- settling ----------------------------------------------------------------------------- */

/* The broker has taken so many; before the lock is dropped, as later flushes wait for others. */
static void count_flushes(wm_subscription *s, size_t settled) {
  for (flush *f = s->flushes; f; f = f->next)
    f->left -= settled < f->left ? settled : f->left;
}

/* Takes the flushes that are over out of the list; left = 0: all was taken. */
static flush *flushes_over(wm_subscription *s, int64_t now) {
  bool none = !wm_ledger_unsettled(s->ledger);
  flush *over = NULL;
  for (flush **at = &s->flushes; *at;) {
    flush *f = *at;
    if (f->left && !none && now < f->until) {
      at = &f->next;
      continue;
    }
    if (none) f->left = 0;
    *at = f->next;
    f->next = over;
    over = f;
  }
  return over;
}

static void tell_flushes(wm_subscription *s, flush *f) {
  while (f) {
    flush *next = f->next;
    wm_error err = {.code = WM_TIMEOUT};
    if (f->left)
      wm_fail_with(&err, WM_TIMEOUT,
                   "flush of %s on %s: the broker has not taken all acks yet (%zu are left)",
                   s->what, s->conn->masked, f->left);
    f->cb(f->arg, f->left ? WM_TIMEOUT : WM_OK, f->left ? &err : NULL);
    free(f);
    f = next;
  }
}

/* Under the lock, which it drops meanwhile. */
static void end_flushes(wm_subscription *s, int64_t now) {
  if (!s->flushes) return;
  flush *over = flushes_over(s, now);
  if (!over) return;
  pthread_mutex_unlock(&s->lock);
  tell_flushes(s, over);
  pthread_mutex_lock(&s->lock);
}

static size_t count_lost(const wm_settle_op *ops, size_t n) {
  size_t lost = 0;
  for (size_t i = 0; i < n; i++)
    lost += ops[i].lost;
  return lost;
}

/* Tells the ledger how a batch went; under the lock, which it drops between slices: whoever hands out or settles a
 * message meanwhile waits for one at most. From the end, as the ledger puts what comes again first. */
static void note_settled(wm_subscription *s, size_t n, bool ok) {
  while (n) {
    size_t first = (n - 1) / WM_LOCKED_MESSAGES * WM_LOCKED_MESSAGES;
    size_t gone = wm_ledger_settled(s->ledger, s->ops + first, n - first, ok, s->gone, wm_now_ms());
    if (ok) count_flushes(s, n - first);
    pthread_mutex_unlock(&s->lock);
    for (size_t i = 0; i < gone; i++)
      wm_message_release(s->gone[i]);
    pthread_mutex_lock(&s->lock);
    n = first;
  }
}

/* One batch; false: there is nothing to tell, or not now. */
static bool settle_some(wm_subscription *s, int64_t now) {
  wm_settle_op *ops = s->ops;
  wm_error err = {0};
  if (now < s->settle_at) return false;
  size_t n = wm_ledger_take_settled(s->ledger, ops, WM_BATCH_MESSAGES);
  if (!n) return false;
  pthread_mutex_unlock(&s->lock);
  int code = s->backend->settle(s->handle, ops, n, &err);
  int wait = 0;
  if (code == WM_OK)
    wm_outage_over(&s->settle_outage, s->conn->masked, s->what);
  else
    wait = wm_outage_failed(&s->settle_outage, s->conn->masked, s->what, &err);
  pthread_mutex_lock(&s->lock);
  now = wm_now_ms();
  size_t released = 0;
  for (size_t i = 0; code == WM_OK && i < n; i++)
    released += ops[i].kind == WM_SETTLE_RELEASE;
  s->settle_at = now + wait;
  s->stats.settles++;
  s->stats.retries += code != WM_OK;
  s->stats.released += released;
  s->stats.lost += code == WM_OK ? count_lost(ops, n) : 0;
  note_settled(s, n, code == WM_OK);
  wm_subscription_wake_fetcher(s, now);
  end_flushes(s, now);
  return true;
}

/* ---- claims ------------------------------------------------------------------------------- */

typedef struct page {
  wm_message *msgs[WM_BATCH_MESSAGES];
  bool lost[WM_BATCH_MESSAGES];
  size_t n;
} page;

static bool is_lost(const wm_message *msg, void *arg) {
  const page *p = arg;
  for (size_t i = 0; i < p->n; i++)
    if (p->lost[i] && p->msgs[i]->token[0] == msg->token[0] &&
        p->msgs[i]->token[1] == msg->token[1] && p->msgs[i]->handle.len == msg->handle.len &&
        !memcmp(p->msgs[i]->handle.len ? p->msgs[i]->handle.data : "",
                msg->handle.len ? msg->handle.data : "", msg->handle.len))
      return true;
  return false;
}

/* Under the lock: what another member has taken leaves the ledger. */
static size_t drop_lost(wm_subscription *s, page *p, wm_message **gone) {
  bool any = false;
  for (size_t i = 0; i < p->n; i++)
    any = any || p->lost[i];
  if (!any) return 0;
  size_t n = wm_ledger_lost(s->ledger, is_lost, p, gone, wm_now_ms());
  s->stats.lost += n;
  return n;
}

/* One page of what is held; under the lock, which it drops meanwhile. False: it was the last, or failed. */
static bool touch_page(wm_subscription *s, page *p, uint64_t *cursor, int *code, wm_error *err) {
  wm_ledger_counts counts;
  wm_message **gone;
  p->n = wm_ledger_held(s->ledger, p->msgs, WM_BATCH_MESSAGES, cursor);
  if (!p->n) return false;
  memset(p->lost, 0, sizeof p->lost);
  pthread_mutex_unlock(&s->lock);
  *code = s->backend->touch(s->handle, p->msgs, p->n, p->lost, err);
  pthread_mutex_lock(&s->lock);
  wm_ledger_count(s->ledger, &counts);
  gone = malloc((counts.held + 1) * sizeof *gone);
  size_t lost = 0;
  if (!gone) /* they are told of again */
    *code = wm_fail_with(err, WM_NOMEM, "out of memory for what other members took over");
  else if (*code == WM_OK)
    lost = drop_lost(s, p, gone);
  pthread_mutex_unlock(&s->lock);
  for (size_t i = 0; i < lost; i++)
    wm_message_release(gone[i]);
  for (size_t i = 0; i < p->n; i++)
    wm_message_release(p->msgs[i]);
  free(gone);
  pthread_mutex_lock(&s->lock);
  return *code == WM_OK && p->n == WM_BATCH_MESSAGES;
}

/* All that is held; under the lock, which it drops meanwhile. */
static int touch_held(wm_subscription *s, wm_error *err) {
  uint64_t cursor = 0;
  int code = WM_OK;
  if (!s->backend->touch) return WM_OK;
  page *p = malloc(sizeof *p);
  if (!p) return wm_fail_with(err, WM_NOMEM, "out of memory for keeping claims alive");
  while (touch_page(s, p, &cursor, &code, err)) {
  }
  free(p);
  return code;
}

/* Under the lock, which it drops meanwhile. */
static void touch(wm_subscription *s, int64_t now) {
  wm_error err = {0};
  int wait = 0;
  s->touch_at = now + s->takeover / TOUCHES;
  if (!s->handle) return;
  int code = touch_held(s, &err);
  if (code == WM_OK) {
    s->sure_until = now + s->takeover;
    wm_subscription_wake(s, wm_now_ms());
  }
  pthread_mutex_unlock(&s->lock);
  if (code == WM_OK)
    wm_outage_over(&s->touch_outage, s->conn->masked, s->what);
  else
    wait = wm_outage_failed(&s->touch_outage, s->conn->masked, s->what, &err);
  pthread_mutex_lock(&s->lock);
  if (wait) s->touch_at = wm_now_ms() + wait;
}

/* A forgotten ack does not hang in silence. Under the lock, which it drops meanwhile. */
static void warn_of_stall(wm_subscription *s, int64_t now) {
  const wm_message *msg = wm_ledger_oldest_in_hand(s->ledger);
  if (!s->stall || !msg || now - msg->entry.since < s->stall || s->stalled == msg->entry.node.order)
    return;
  char uuid[256];
  snprintf(uuid, sizeof uuid, "%.*s", (int)msg->uuid.len, msg->uuid.data);
  unsigned attempt = atomic_load(&msg->attempt);
  double held = (double)(now - msg->entry.since) / 1000.0;
  s->stalled = msg->entry.node.order;
  pthread_mutex_unlock(&s->lock);
  wm_log(WM_LOG_WARN,
         "%s: message %s (attempt %u) has been in hand for %.0f s and is not settled; does its "
         "handler still "
         "work, or was ack or nack forgotten? (stall_warning)",
         s->what, uuid, attempt, held);
  pthread_mutex_lock(&s->lock);
}

/* ---- the thread --------------------------------------------------------------------------- */

static int64_t least(int64_t a, int64_t b) { return a < b ? a : b; }

/* The next time that closing has an eye on. */
static int64_t closing_due(const wm_subscription *s, int64_t now) {
  int64_t due = s->close_until + (now < s->close_until ? 0 : WM_LAST_OPS_MS);
  return s->closing && due > now ? due : WM_NEVER;
}

/* Under the lock: sleeps until something is to be done. */
static void wait_for_work(wm_subscription *s, int64_t now) {
  int64_t until = now + least(TICK_MS, s->takeover / TOUCHES);
  bool ops = s->handle && wm_ledger_unsettled(s->ledger);
  if (s->settler_again) {
    s->settler_again = false;
    return;
  }
  if (s->handle) until = least(until, s->touch_at);
  if (s->stall) until = least(until, now + s->stall / TOUCHES + 1);
  if (ops) until = least(until, s->settle_at); /* past already, when it has come meanwhile */
  for (const flush *f = s->flushes; f; f = f->next)
    until = least(until, f->until);
  until = least(until, wm_ledger_dead_due(s->ledger));
  until = least(until, closing_due(s, now));
  s->settler = SETTLER_ASLEEP;
  wm_cond_wait_until(&s->settle_wake, &s->lock, until);
  s->settler = SETTLER_AT_WORK;
}

/* Under the lock: ops have come; lets more of them come while messages are handed out. */
static void collect(wm_subscription *s) {
  int64_t until = wm_now_ms() + COLLECT_MS;
  if (s->flushes || s->closing || !wm_ledger_busy(s->ledger)) return;
  s->settler = SETTLER_COLLECTING;
  wm_cond_wait_until(&s->settle_wake, &s->lock, until);
  s->settler = SETTLER_AT_WORK;
}

void *wm_subscription_settler(void *sub) {
  wm_subscription *s = sub;
  pthread_mutex_lock(&s->lock);
  for (;;) {
    int64_t now = wm_now_ms();
    s->settler_again = false;
    if (s->closing && wm_subscription_closing(s, now)) break;
    if (now >= s->touch_at) touch(s, now);
    while (wm_subscription_send_dead(s, now)) {
    }
    warn_of_stall(s, now);
    if (wm_ledger_unsettled(s->ledger) && s->handle && now >= s->settle_at) collect(s);
    if (s->handle && settle_some(s, wm_now_ms())) continue;
    end_flushes(s, now);
    wait_for_work(s, wm_now_ms());
  }
  wm_subscription_end(s); /* drops the lock */
  wm_subscription_unref(s);
  return NULL;
}
