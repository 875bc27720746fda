/* placeholder_sink.c - stands in for the sinks of fetches where no subscription is built: nothing fetches. */
#include "backend.h"

void wm_sink_put(wm_sink *sink, wm_message *msg) {
  (void)sink;
  wm_message_release(msg);
}

void wm_sink_lost(wm_sink *sink, wm_lost_fn match, void *arg) {
  (void)sink;
  (void)match;
  (void)arg;
}

void wm_sink_gone(wm_sink *sink, size_t n, const char *why) {
  (void)sink;
  (void)n;
  (void)why;
}
