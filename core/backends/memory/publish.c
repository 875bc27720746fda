/*
 * publish.c - publishing: copies are made first, then appended under one lock, then each group that
 * waits is woken once. Publishing thread only.
 */
#include <string.h>

#include "clock.h"
#include "error.h"
#include "memory.h"

/* What cannot be stored yet, of one page. */
typedef struct page {
  wm_memory_topic *topic;
  wm_message *msgs[WM_MEMORY_PAGE];
  size_t n, stored;
} page;

static void wake_all(wm_memory_topic *t, size_t n) {
  for (wm_memory_group *g = t->groups; g; g = g->next_group)
    wm_memory_group_wake(g, n);
}

/* One that is larger than the capacity is let in when there is nothing else. */
static bool has_room(const wm_memory_topic *t, const wm_message *msg) {
  return !t->capacity || !t->count || t->bytes + msg->size <= t->capacity;
}

static int fail_full(const wm_memory_topic *t, wm_error *err) {
  const char *kept = t->retain == WM_MEMORY_RETAIN_ALL    ? "retain=all keeps acked ones too"
                     : t->retain == WM_MEMORY_RETAIN_TIME ? "younger than 'retain'"
                     : t->grouped                         ? "not acked by every group"
                                                          : "kept for the first group";
  return wm_fail_with(err, WM_UNREACHABLE,
                      "topic '%.200s' is full: %zu messages, %zu bytes (%s), of a 'capacity' of "
                      "%zu bytes; consume faster, or raise it",
                      t->name, t->count, t->bytes, kept, t->capacity);
}

static int append(wm_memory_topic *t, wm_message *msg) {
  wm_memory_item *item = wm_memory_strip_add(&t->log, t->end);
  if (!item) return WM_NOMEM;
  item->slot = (wm_memory_slot){.msg = msg, .wanted = t->n_groups};
  t->end++;
  t->count++;
  t->bytes += msg->size;
  return WM_OK;
}

/* Stores as many as there is room for until the deadline. */
static int store(page *p, int64_t deadline, wm_error *err) {
  wm_memory_topic *t = p->topic;
  size_t woken = 0;
  int rc = WM_OK;
  wm_memory_topic_lock(t);
  while (p->stored < p->n && rc == WM_OK) {
    if (!has_room(t, p->msgs[p->stored])) {
      wake_all(t, p->stored - woken);
      woken = p->stored;
      t->publisher_waits = true;
      bool in_time = wm_cond_wait_until(&t->space, &t->lock, deadline);
      t->publisher_waits = false;
      if (t->retain == WM_MEMORY_RETAIN_TIME) wm_memory_sweep(t);
      if (!in_time && !has_room(t, p->msgs[p->stored])) rc = fail_full(t, err);
      continue;
    }
    if ((rc = append(t, p->msgs[p->stored])) == WM_OK) p->stored++;
  }
  wake_all(t, p->stored - woken);
  pthread_mutex_unlock(&t->lock);
  return rc == WM_NOMEM ? wm_fail_with(err, rc, "out of memory") : rc;
}

/* One page of one topic. */
static int publish_page(wm_memory_topic *t, const wm_outgoing *out, size_t n, int64_t deadline,
                        wm_result *results, wm_error *err) {
  page p = {.topic = t, .n = 0};
  int64_t now = wm_epoch_ms();
  for (; p.n < n && (p.msgs[p.n] = wm_memory_copy(out[p.n].msg)); p.n++)
    wm_memory_place(p.msgs[p.n], t->end + p.n, now);
  int rc = p.n ? store(&p, deadline, err) : WM_OK;
  for (size_t i = 0; i < p.stored; i++)
    results[i] = WM_STORED;
  for (size_t i = p.stored; i < p.n; i++)
    wm_message_release(p.msgs[i]);
  return rc == WM_OK && p.n < n ? wm_fail_with(err, WM_NOMEM, "out of memory") : rc;
}

static wm_memory_topic *topic_of(wm_memory *m, const char *name) {
  if (!m->published || strcmp(m->published->name, name) != 0)
    m->published = wm_memory_topic_of(m, name);
  return m->published;
}

int wm_memory_publish(void *conn, const wm_outgoing *out, size_t n, int timeout_ms,
                      wm_result *results, wm_error *err) {
  int64_t deadline = timeout_ms < 0 ? INT64_MAX : wm_now_ms() + timeout_ms;
  for (size_t i = 0; i < n; i++)
    results[i] = WM_RESULT_NOT_SENT;
  for (size_t i = 0, run; i < n; i += run) {
    for (run = 1; run < WM_MEMORY_PAGE && i + run < n; run++)
      if (strcmp(out[i + run].topic, out[i].topic) != 0) break;
    wm_memory_topic *t = topic_of(conn, out[i].topic);
    if (!t) return wm_fail_with(err, WM_NOMEM, "out of memory");
    /* What follows a failure is not sent, so that the order stays when it is tried again. */
    int rc = publish_page(t, out + i, run, deadline, results + i, err);
    if (rc != WM_OK) return rc;
  }
  return WM_OK;
}
