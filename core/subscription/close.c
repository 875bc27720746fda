/*
 * close.c - closing: no more hand-outs, what is in hand gets its time, everything is told to the broker, the rest goes
 * back to the group. The settler does it, step by step; programs only ask for it.
 */
#include <stdlib.h>
#include <string.h>

#include "error.h"
#include "log.h"
#include "subscription/state.h"

/* ---- the settler's part ------------------------------------------------------------------- */

static void begin(wm_subscription *s) {
  void *handle = s->handle;
  s->closing_begun = true;
  s->settle_at = 0; /* a broker that was away is asked once more at once */
  wm_ledger_release_waiting(s->ledger);
  pthread_cond_signal(&s->fetch_wake);
  if (!handle) return;
  pthread_mutex_unlock(&s->lock);
  s->backend->interrupt(handle);
  pthread_mutex_lock(&s->lock);
}

bool wm_subscription_closing(wm_subscription *s, int64_t now) {
  wm_ledger_counts counts;
  if (!s->closing_begun) begin(s);
  wm_ledger_count(s->ledger, &counts);
  if (!s->forced && (counts.in_hand || counts.dead)) {
    if (now < s->close_until) return false;
    s->forced = true;
    wm_ledger_release_all(s->ledger);
  }
  if (!s->fetch_done) return false;
  size_t left = wm_ledger_unsettled(s->ledger);
  if (!left || !s->handle) return true;
  s->broken_off = now >= s->close_until + WM_LAST_OPS_MS && s->settle_outage.tries;
  return s->broken_off;
}

static void cut_flushes(wm_subscription *s, flush *f) {
  while (f) {
    flush *next = f->next;
    wm_error err;
    wm_fail_with(&err, WM_CLOSED, "flush of %s: the subscription was closed", s->what);
    f->cb(f->arg, WM_CLOSED, &err);
    free(f);
    f = next;
  }
}

void wm_subscription_end(wm_subscription *s) {
  void *handle = s->handle;
  flush *flushes = s->flushes;
  wm_error err;
  int code = s->forced || s->broken_off ? WM_TIMEOUT : WM_OK;
  s->flushes = NULL;
  s->handle = NULL;
  pthread_mutex_unlock(&s->lock);
  cut_flushes(s, flushes);
  if (s->broken_off)
    wm_log(WM_LOG_WARN,
           "%s: closed, but the broker could not be told what became of all messages; some may "
           "come again within takeover (%.0f s)",
           s->what, (double)s->takeover / 1000.0);
  if (s->dead_publisher)
    wm_publisher_close(s->dead_publisher,
                       0); /* ends the letters under way, which touch the ledger */
  if (handle) s->backend->unsubscribe(handle);
  pthread_mutex_lock(&s->lock);
  wm_ledger *ledger = s->ledger;
  s->ledger = NULL;
  s->stats.connected = false;
  pthread_mutex_unlock(&s->lock);
  wm_ledger_free(ledger);
  wm_connection_release(s->conn);
  if (code != WM_OK)
    wm_fail_with(
        &err, code, "closing %s: %s", s->what,
        s->forced ? "something was still in hand when the time was over and went back to the group"
                  : "the broker could not be told of all acks");
  if (s->close_cb) s->close_cb(s->close_arg, code, code == WM_OK ? NULL : &err);
  wm_subscription_unref(s); /* the handle's */
}

/* ---- the program's part ------------------------------------------------------------------- */

void wm_subscription_close_async(wm_subscription *s, int timeout_ms, wm_done_cb cb, void *arg) {
  pthread_mutex_lock(&s->lock);
  s->close_until = wm_now_ms() + (timeout_ms < 0 ? s->close_timeout : timeout_ms);
  s->close_cb = cb;
  s->close_arg = arg;
  s->closing = true;
  wm_subscription_wake_all(s);
  wm_subscription_wake_settler(s);
  pthread_cond_signal(&s->fetch_wake);
  pthread_mutex_unlock(&s->lock);
}

/* For the calls that wait: the end of an asynchronous one. */
typedef struct rendezvous {
  pthread_mutex_t lock;
  pthread_cond_t cond;
  bool done;
  int code;
} rendezvous;

static void arrive(void *arg, int code, const wm_error *err) {
  rendezvous *r = arg;
  (void)err;
  pthread_mutex_lock(&r->lock);
  r->done = true;
  r->code = code;
  pthread_cond_signal(&r->cond);
  pthread_mutex_unlock(&r->lock);
}

static void prepare(rendezvous *r) {
  *r = (rendezvous){0};
  pthread_mutex_init(&r->lock, NULL);
  wm_cond_init(&r->cond);
}

/* False: the time is over. */
static bool wait_for_end(rendezvous *r, int64_t until) {
  pthread_mutex_lock(&r->lock);
  while (!r->done && wm_cond_wait_until(&r->cond, &r->lock, until)) {
  }
  bool done = r->done;
  pthread_mutex_unlock(&r->lock);
  return done;
}

static int finish(rendezvous *r) {
  pthread_cond_destroy(&r->cond);
  pthread_mutex_destroy(&r->lock);
  return r->code;
}

int wm_subscription_close(wm_subscription *s, int timeout_ms) {
  rendezvous r;
  if (!s) return WM_OK;
  prepare(&r);
  wm_subscription_close_async(s, timeout_ms, arrive, &r);
  wait_for_end(&r, WM_NEVER);
  return finish(&r);
}

/* ---- flushing ----------------------------------------------------------------------------- */

void wm_flush_async(wm_subscription *s, int timeout_ms, wm_done_cb cb, void *arg) {
  flush *f = malloc(sizeof *f);
  int code = WM_NOMEM;
  pthread_mutex_lock(&s->lock);
  if (s->closing || !s->ledger) {
    code = WM_CLOSED;
  } else if (f && !wm_ledger_unsettled(s->ledger)) {
    code = WM_OK;
  } else if (f) {
    *f = (flush){.left = wm_ledger_unsettled(s->ledger),
                 .until = timeout_ms < 0 ? WM_NEVER : wm_now_ms() + timeout_ms,
                 .cb = cb,
                 .arg = arg,
                 .next = s->flushes};
    s->flushes = f;
    wm_subscription_wake_settler(s);
    pthread_mutex_unlock(&s->lock);
    return;
  }
  pthread_mutex_unlock(&s->lock);
  free(f);
  wm_error err;
  if (code != WM_OK)
    wm_fail_with(&err, code, "flush of %s: %s", s->what,
                 code == WM_CLOSED ? "the subscription is closed" : "out of memory");
  cb(arg, code, code == WM_OK ? NULL : &err);
}

/* False: its end is on the way. */
static bool withdraw_flush(wm_subscription *s, const rendezvous *r) {
  pthread_mutex_lock(&s->lock);
  flush **at = &s->flushes;
  while (*at && (*at)->arg != r)
    at = &(*at)->next;
  flush *f = *at;
  if (f) *at = f->next;
  pthread_mutex_unlock(&s->lock);
  free(f);
  return f != NULL;
}

int wm_flush(wm_subscription *s, int timeout_ms) {
  rendezvous r;
  prepare(&r);
  wm_subscription_ref(s); /* it may be closed meanwhile */
  int64_t until = timeout_ms < 0 ? WM_NEVER : wm_now_ms() + timeout_ms;
  wm_flush_async(s, -1, arrive, &r);
  /* The settler cannot tell the time while the broker does not answer. */
  if (!wait_for_end(&r, until)) {
    if (withdraw_flush(s, &r))
      r.code = WM_TIMEOUT;
    else
      wait_for_end(&r, WM_NEVER);
  }
  wm_subscription_unref(s);
  return finish(&r);
}
