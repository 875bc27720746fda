/*
 * fetch.c - the fetcher: makes the group, then keeps the ledger filled as far as its window goes. A thread of
 * each subscription; it alone calls the backend's subscribe and fetch.
 */
#include <stdlib.h>

#include "error.h"
#include "log.h"
#include "subscription/state.h"

/* How long a fetch waits for messages at the broker. */
#define FETCH_MS 5000
/* Room comes with time, too: the settle rate that it depends on does. */
#define ROOM_AGAIN_MS 1000
#define MEMORY_AGAIN_MS 100
/* Between two lines about records that cannot be read. */
#define TELL_MS 1000

/* ---- the group ---------------------------------------------------------------------------- */

static void tell_opened(wm_subscription *s, int code, const wm_error *err) {
  pthread_mutex_lock(&s->lock);
  wm_done_cb cb = s->open_cb;
  s->open_cb = NULL;
  pthread_mutex_unlock(&s->lock);
  if (cb) cb(s->open_arg, code, code == WM_OK ? NULL : err);
}

/* Under the lock. False: the subscription is being closed. */
static bool wait_to_try(wm_subscription *s, int64_t ms) {
  int64_t until = wm_now_ms() + ms;
  while (!s->closing && wm_cond_wait_until(&s->fetch_wake, &s->lock, until)) {
  }
  return !s->closing;
}

/* Asks until the group exists, for ever. False: it never will, or the subscription was closed. */
static bool open_group(wm_subscription *s) {
  wm_sub_spec spec = {.topic = s->topic,
                      .group = s->group,
                      .from = s->from,
                      .takeover_ms = s->takeover,
                      .member = s->member};
  pthread_mutex_lock(&s->lock);
  spec.exclusive = s->settings.values[WM_SUB_EXCLUSIVE].number;
  spec.tx = s->settings.values[WM_SUB_TX].number;
  while (!s->closing) {
    wm_error err = {0};
    void *handle = NULL;
    pthread_mutex_unlock(&s->lock);
    int code = s->backend->subscribe(s->conn->handle, &spec, &handle, &err);
    int wait = code == WM_UNREACHABLE
                   ? wm_outage_failed(&s->fetch_outage, s->conn->masked, s->what, &err)
                   : 0;
    pthread_mutex_lock(&s->lock);
    if (code == WM_OK) {
      s->handle = handle;
      s->opening = OPEN;
      s->sure_until = wm_now_ms() + s->takeover;
      s->stats.connected = true;
      pthread_cond_broadcast(&s->opened);
      pthread_mutex_unlock(&s->lock);
      wm_outage_over(&s->fetch_outage, s->conn->masked, s->what);
      tell_opened(s, WM_OK, NULL);
      return true;
    }
    s->open_error = err;
    if (code != WM_UNREACHABLE) {
      wm_fail_with(&s->open_error, code, "%s: subscribing to %s: %s", s->conn->masked, s->what,
                   err.text);
      s->opening = FAILED;
      wm_subscription_wake_all(s);
      pthread_cond_broadcast(&s->opened);
      pthread_mutex_unlock(&s->lock);
      tell_opened(s, code, &s->open_error);
      return false;
    }
    wait_to_try(s, wait);
  }
  wm_error err;
  wm_fail_with(&err, WM_CLOSED, "%s: subscribing to %s: it was closed before the group existed: %s",
               s->conn->masked, s->what, wm_subscription_open_cause(s));
  pthread_mutex_unlock(&s->lock);
  tell_opened(s, WM_CLOSED, &err);
  return false;
}

/* ---- messages ----------------------------------------------------------------------------- */

/* Under the lock: n messages in order, which it drops between slices, as others wait for it. */
static void add(wm_subscription *s, wm_message *const *msgs, size_t n) {
  while (n) {
    size_t some = n < WM_LOCKED_MESSAGES ? n : WM_LOCKED_MESSAGES;
    if (wm_ledger_add(s->ledger, msgs, some, wm_now_ms()) != WM_OK) {
      wm_cond_wait_until(&s->fetch_wake, &s->lock, wm_now_ms() + MEMORY_AGAIN_MS);
      continue;
    }
    msgs += some;
    n -= some;
    if (!n) break;
    wm_subscription_wake(s, wm_now_ms());
    pthread_mutex_unlock(&s->lock);
    pthread_mutex_lock(&s->lock);
  }
}

/* Moves what was fetched into the ledger; under the lock. */
static void take_in(wm_subscription *s, wm_sink *sink, size_t asked) {
  int64_t now = wm_now_ms();
  s->stats.fetches++;
  s->stats.fetched += sink->n;
  for (size_t i = 0; i < sink->n; i++)
    s->stats.undecodable += sink->msgs[i]->undecodable != NULL;
  add(s, sink->msgs, sink->n);
  wm_ledger_fetched(s->ledger, asked, sink->n, now);
  if (s->closing && sink->n)
    wm_subscription_wake_settler(s);
  else if (sink->n)
    wm_subscription_wake(s, now);
  sink->n = 0;
}

static void tell_undecodable(wm_subscription *s, const wm_message *msg) {
  static const char *const becomes[] = {"delivered with its raw bytes",
                                        "moved to the dead letter topic", "skipped"};
  int64_t now = wm_now_ms();
  if (now - s->undecodable_told < TELL_MS) return;
  s->undecodable_told = now;
  wm_log(WM_LOG_WARN,
         "%s: %s: record %s cannot be read (%s); it is %s, as on_undecodable says; stats count "
         "them all",
         s->conn->masked, s->what, msg->position, msg->undecodable,
         becomes[atomic_load(&s->on_undecodable)]);
}

/* The messages belong to the subscription from here on. */
static void adopt(wm_subscription *s, const wm_sink *sink) {
  size_t size = 0;
  for (size_t i = 0; i < sink->n; i++) {
    sink->msgs[i]->sub = s;
    size += sink->msgs[i]->size;
    if (sink->msgs[i]->undecodable) tell_undecodable(s, sink->msgs[i]);
  }
  if (sink->n) s->mean_size = size / sink->n;
  atomic_fetch_add_explicit(&s->refs, sink->n, memory_order_relaxed);
}

/* Under the lock: waits until there is room. 0: closing. */
static size_t wait_for_room(wm_subscription *s, size_t *bytes) {
  size_t n = 0;
  while (!s->closing && !(n = wm_ledger_room(s->ledger, bytes, wm_now_ms()))) {
    s->fetch_waits = true;
    wm_cond_wait_until(&s->fetch_wake, &s->lock, wm_now_ms() + ROOM_AGAIN_MS);
    s->fetch_waits = false;
  }
  if (s->closing) return 0;
  /* The broker counts payloads; in memory each message is more than that. */
  double payload = s->mean_size ? 1 - (double)sizeof(wm_message) / (double)s->mean_size : 1;
  if (*bytes > WM_BATCH_BYTES) *bytes = WM_BATCH_BYTES;
  *bytes = (size_t)((double)*bytes * payload) + 1;
  return n < WM_BATCH_MESSAGES ? n : WM_BATCH_MESSAGES;
}

static void pump(wm_subscription *s, wm_sink *sink) {
  size_t max, bytes;
  pthread_mutex_lock(&s->lock);
  while ((max = wait_for_room(s, &bytes))) {
    wm_error err = {0};
    pthread_mutex_unlock(&s->lock);
    int code = s->backend->fetch(s->handle, max, bytes, FETCH_MS, sink, &err);
    int wait = 0;
    if (code == WM_OK)
      wm_outage_over(&s->fetch_outage, s->conn->masked, s->what);
    else
      wait = wm_outage_failed(&s->fetch_outage, s->conn->masked, s->what, &err);
    adopt(s, sink);
    pthread_mutex_lock(&s->lock);
    take_in(s, sink, max);
    s->stats.connected = code == WM_OK;
    if (code == WM_OK) continue;
    s->stats.retries++;
    wait_to_try(s, wait);
  }
  pthread_mutex_unlock(&s->lock);
}

void *wm_subscription_fetcher(void *sub) {
  wm_subscription *s = sub;
  wm_sink sink = {.sub = s};
  if (open_group(s)) pump(s, &sink);
  free(sink.msgs);
  pthread_mutex_lock(&s->lock);
  s->fetch_done = true;
  wm_subscription_wake_settler(s);
  pthread_mutex_unlock(&s->lock);
  wm_subscription_unref(s);
  return NULL;
}
