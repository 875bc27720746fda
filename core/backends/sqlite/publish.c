/*
 * publish.c - storing messages: n INSERTs in a turn's transaction, each a result of its own.
 */
#include <string.h>

#include "clock.h"
#include "error.h"
#include "sqlite.h"

typedef struct publishing {
  wm_sqlite_job job;
  const wm_outgoing *out;
  size_t n;
  wm_result *results;
  wm_error refused; /* why the first one was */
} publishing;

static int insert(wm_sqlite_hub *h, wm_sqlite_topic *t, const wm_message *msg, wm_error *err) {
  wm_slice metadata = {"{}", 2};
  if (msg->pairs) {
    if (!wm_sqlite_put_metadata(&h->scratch, msg))
      return wm_fail_with(err, WM_NOMEM, "out of memory");
    metadata = (wm_slice){h->scratch.data, h->scratch.len};
  }
  return wm_sqlite_do(&h->db, wm_sqlite_topic_stmt(h, t, T_INSERT), err, "stbb", msg->uuid,
                      h->created_at, msg->payload, metadata);
}

/* The failure is this row's alone: too large, or against a constraint that somebody has put on the table. */
static bool is_its_own(const wm_sqlite_hub *h, int rc) {
  int code = h->db.code & 0xff;
  return rc == WM_BAD_INPUT || (code == SQLITE_TOOBIG && rc == WM_TOO_LARGE) ||
         (code == SQLITE_CONSTRAINT && rc == WM_REFUSED);
}

static int store_all(wm_sqlite_hub *h, wm_sqlite_job *job, wm_error *err) {
  publishing *p = (publishing *)job;
  wm_sqlite_topic *t = NULL;
  p->refused.code = WM_OK;
  for (size_t i = 0; i < p->n; i++) {
    const wm_outgoing *o = &p->out[i];
    if (!t || strcmp(t->name, o->topic) != 0) t = wm_sqlite_topic_find(h, o->topic);
    if (!t) return wm_fail_with(err, WM_NOMEM, "out of memory");
    int rc = wm_sqlite_topic_ready(h, t, err);
    if (rc == WM_OK) rc = insert(h, t, o->msg, err);
    p->results[i] = rc == WM_OK ? WM_STORED : WM_RESULT_REFUSED;
    if (rc == WM_OK) {
      wm_sqlite_news(t);
      continue;
    }
    if (!is_its_own(h, rc)) return rc;
    if (p->refused.code == WM_OK && err) p->refused = *err;
  }
  return t ? wm_sqlite_trim(h, t, err) : WM_OK;
}

static void none_stored(wm_sqlite_hub *h, wm_sqlite_job *job) {
  (void)h;
  publishing *p = (publishing *)job;
  for (size_t i = 0; i < p->n; i++)
    p->results[i] = WM_RESULT_NOT_SENT;
}

int wm_sqlite_publish(void *conn, const wm_outgoing *out, size_t n, int timeout_ms,
                      wm_result *results, wm_error *err) {
  wm_sqlite *c = conn;
  wm_sqlite_hub *h;
  pthread_cond_t cond;
  publishing p = {.job = {.run = store_all, .undo = none_stored, .durable = true, .cond = &cond},
                  .out = out,
                  .n = n,
                  .results = results};
  none_stored(NULL, &p.job);
  int rc = wm_sqlite_hub_of(c, &h, err);
  if (rc != WM_OK) return rc;
  int64_t wait = timeout_ms < c->busy_ms ? timeout_ms : c->busy_ms;
  p.job.give_up = wm_now_ms() + wait;
  wm_cond_init(&cond);
  rc = wm_sqlite_submit(h, &p.job, err);
  pthread_cond_destroy(&cond);
  if (rc != WM_OK) {
    for (size_t i = 0; i < n; i++)
      results[i] = p.job.uncertain ? WM_RESULT_UNKNOWN : WM_RESULT_NOT_SENT;
    return rc;
  }
  if (p.refused.code != WM_OK && err) *err = p.refused;
  return WM_OK;
}
