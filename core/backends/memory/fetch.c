/*
 * fetch.c - waiting for messages and handing them out. A page is taken under one lock; what must be
 * copied is copied after it. Fetching thread only.
 */
#include "clock.h"
#include "error.h"
#include "memory.h"

/* Takes up to max messages; waits for the first until the deadline. */
static int take_or_wait(wm_memory_sub *s, wm_memory_pick *picks, size_t max, size_t *bytes,
                        bool first, int64_t deadline, size_t *n, size_t *gone) {
  int rc = WM_OK;
  bool in_time = true;
  *n = 0;
  wm_memory_topic_lock(s->topic);
  for (;;) {
    if (!wm_memory_group_stands_by(s)) rc = wm_memory_group_take(s, picks, max, bytes, first, n);
    if (rc != WM_OK || *n || s->interrupted || !in_time || wm_now_ms() >= deadline) break;
    in_time = wm_memory_group_wait(s, deadline);
  }
  s->interrupted = false;
  *gone = s->group->gone;
  s->group->gone = 0;
  pthread_mutex_unlock(&s->topic->lock);
  return rc;
}

static wm_message *deliverable(const wm_memory_pick *p) {
  wm_message *msg = p->copy ? wm_memory_copy(p->msg) : p->msg;
  if (!msg) return NULL;
  if (p->copy) {
    wm_memory_place(msg, p->offset, p->msg->time);
    wm_message_release(p->msg);
  }
  msg->first_attempt = p->attempt + 1;
  msg->redelivered = p->attempt > 0;
  return msg;
}

static void give_back(wm_memory_sub *s, const wm_memory_pick *picks, size_t n) {
  pthread_mutex_lock(&s->topic->lock);
  for (size_t i = 0; i < n; i++)
    wm_memory_group_release(s, wm_memory_group_held(s, picks[i].offset), picks[i].offset);
  wm_memory_group_wake(s->group, n);
  pthread_mutex_unlock(&s->topic->lock);
  for (size_t i = 0; i < n; i++)
    wm_message_release(picks[i].msg);
}

static int hand_out(wm_memory_sub *s, const wm_memory_pick *picks, size_t n, wm_sink *sink) {
  for (size_t i = 0; i < n; i++) {
    wm_message *msg = deliverable(&picks[i]);
    if (!msg) {
      give_back(s, picks + i, n - i);
      return WM_NOMEM;
    }
    wm_sink_put(sink, msg);
  }
  return WM_OK;
}

int wm_memory_fetch(void *sub, size_t max, size_t bytes, int timeout_ms, wm_sink *sink,
                    wm_error *err) {
  wm_memory_pick picks[WM_MEMORY_PAGE];
  wm_memory_sub *s = sub;
  int64_t deadline = timeout_ms < 0 ? INT64_MAX : wm_now_ms() + timeout_ms;
  size_t put = 0, page, n, gone;
  int rc;
  do {
    page = max - put < WM_MEMORY_PAGE ? max - put : WM_MEMORY_PAGE;
    rc = take_or_wait(s, picks, page, &bytes, !put, put ? INT64_MIN : deadline, &n, &gone);
    if (gone) wm_sink_gone(sink, gone, "older than 'retain'");
    if (rc == WM_OK) rc = hand_out(s, picks, n, sink);
    put += n;
  } while (rc == WM_OK && n == page && put < max);
  return rc == WM_OK ? WM_OK : wm_fail_with(err, rc, "out of memory");
}
