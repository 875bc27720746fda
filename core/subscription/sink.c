/*
 * sink.c - where a backend puts what it fetched, and says what is lost. On the fetcher, within a fetch.
 */
#include <stdlib.h>

#include "log.h"
#include "subscription/state.h"

void wm_sink_put(wm_sink *sink, wm_message *msg) {
  if (sink->n == sink->room) {
    sink->room = sink->room ? sink->room * 2 : WM_BATCH_MESSAGES;
    sink->msgs = realloc(sink->msgs, sink->room * sizeof *sink->msgs);
    if (!sink->msgs) abort(); /* a few kB: nothing else would work either */
  }
  sink->msgs[sink->n++] = msg;
}

static size_t lost_in_sink(wm_sink *sink, wm_lost_fn match, void *arg, wm_message **gone) {
  size_t kept = 0, n = 0;
  for (size_t i = 0; i < sink->n; i++) {
    if (match(sink->msgs[i], arg))
      gone[n++] = sink->msgs[i];
    else
      sink->msgs[kept++] = sink->msgs[i];
  }
  sink->n = kept;
  return n;
}

void wm_sink_lost(wm_sink *sink, wm_lost_fn match, void *arg) {
  wm_subscription *s = sink->sub;
  wm_ledger_counts counts;
  pthread_mutex_lock(&s->lock);
  wm_ledger_count(s->ledger, &counts);
  wm_message **gone = malloc((counts.held + sink->n + 1) * sizeof *gone);
  if (!gone) abort();
  size_t n = lost_in_sink(sink, match, arg, gone);
  int64_t now = wm_now_ms();
  n += wm_ledger_lost(s->ledger, match, arg, gone + n, now);
  s->stats.lost += n;
  wm_subscription_wake(s, now);    /* what they held up may go */
  wm_subscription_wake_settler(s); /* a flush waits for fewer */
  pthread_mutex_unlock(&s->lock);
  for (size_t i = 0; i < n; i++)
    wm_message_release(gone[i]);
  free(gone);
}

void wm_sink_gone(wm_sink *sink, size_t n, const char *why) {
  wm_subscription *s = sink->sub;
  pthread_mutex_lock(&s->lock);
  s->stats.lost += n;
  pthread_mutex_unlock(&s->lock);
  wm_log(WM_LOG_WARN, "%s: %s: the broker has removed %zu message%s that nobody had handled: %s",
         s->conn->masked, s->what, n, n == 1 ? "" : "s", why);
}
