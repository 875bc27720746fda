/*
 * settle.c - telling the file what became of messages: acks, releases, notes; keeping claims alive. Settling
 * thread, and whoever leads the hub's turn for it.
 *
 * Neighbouring offsets are settled as one range. Every statement asks for this member, so that what another one
 * has taken over is left alone and found to be lost.
 */
#include <string.h>

#include "clock.h"
#include "error.h"
#include "sqlite.h"

typedef struct settling {
  wm_sqlite_job job;
  wm_sqlite_sub *s;
  wm_settle_op *ops;
  size_t n;
} settling;

typedef struct touching {
  wm_sqlite_job job;
  wm_sqlite_sub *s;
  wm_message *const *msgs;
  size_t n;
  bool *lost;
} touching;

/* ---- the group -------------------------------------------------------------------------------- */

/* 1: it is there; 0: it is not, all claims are lost. The lease of an exclusive member is kept alive along. */
static int get_group(wm_sqlite_hub *h, wm_sqlite_sub *s, wm_sqlite_state *was, wm_sqlite_state *now,
                     wm_error *err) {
  int rc = wm_sqlite_topic_ready(h, s->topic, err);
  if (rc == WM_OK) rc = wm_sqlite_group_get(h, s->topic, s->group_name, was, err);
  *now = *was;
  if (rc == 1 && s->exclusive && now->leader == s->member)
    now->leader_until = h->now + s->takeover_ms;
  return rc;
}

static int save_group(wm_sqlite_hub *h, wm_sqlite_sub *s, const wm_sqlite_state *was,
                      wm_sqlite_state *now, wm_error *err) {
  return wm_sqlite_group_save(h, s->topic, s->group_name, was, now, s->takeover_ms, err);
}

/* ---- settling --------------------------------------------------------------------------------- */

/* Ops that are one statement: of a kind, and of neighbouring offsets of one group. */
static size_t run_of(const wm_settle_op *ops, size_t n) {
  size_t i = 1;
  const wm_message *first = ops[0].msg;
  while (i < n && ops[i].kind == ops[0].kind &&
         (ops[0].kind == WM_SETTLE_ACK || ops[i].attempt == ops[0].attempt) &&
         wm_sqlite_group_of(ops[i].msg) == wm_sqlite_group_of(first) &&
         wm_sqlite_offset_of(ops[i].msg) == wm_sqlite_offset_of(first) + (int64_t)i)
    i++;
  return i;
}

static int settle_range(wm_sqlite_hub *h, int64_t member, const wm_settle_op *op, size_t n,
                        wm_error *err) {
  static const enum wm_sqlite_statement statements[] = {[WM_SETTLE_ACK] = Q_HELD_ACK,
                                                        [WM_SETTLE_RELEASE] = Q_HELD_RELEASE,
                                                        [WM_SETTLE_NOTE] = Q_HELD_NOTE};
  sqlite3_stmt *stmt = wm_sqlite_stmt(&h->db, statements[op->kind]);
  int64_t low = wm_sqlite_offset_of(op->msg), high = low + (int64_t)n - 1,
          group = wm_sqlite_group_of(op->msg);
  return wm_sqlite_do(&h->db, stmt, err, op->kind == WM_SETTLE_ACK ? "iiii" : "iiiii", group, low,
                      high, member, (int64_t)op->attempt);
}

/* Is the whole run still ours? */
static int all_ours(wm_sqlite_hub *h, int64_t member, const wm_settle_op *op, size_t n, bool *out,
                    wm_error *err) {
  int64_t low = wm_sqlite_offset_of(op->msg), high = low + (int64_t)n - 1, count;
  int rc = wm_sqlite_number(&h->db, wm_sqlite_stmt(&h->db, Q_HELD_COUNT), 0, &count, err, "iiii",
                            wm_sqlite_group_of(op->msg), low, high, member);
  *out = count == (int64_t)n;
  return rc;
}

static int settle_run(wm_sqlite_hub *h, wm_sqlite_sub *s, wm_settle_op *ops, size_t n,
                      wm_error *err) {
  bool whole = false;
  int rc = n > 1 ? all_ours(h, s->member, ops, n, &whole, err) : WM_OK;
  size_t step = whole ? n : 1;
  for (size_t i = 0; i < n && rc == WM_OK; i += step) {
    rc = settle_range(h, s->member, &ops[i], step, err);
    ops[i].lost = rc == WM_OK && sqlite3_changes(h->db.handle) == 0;
  }
  return rc;
}

static int settle_all(wm_sqlite_hub *h, wm_sqlite_job *job, wm_error *err) {
  settling *w = (settling *)job;
  wm_sqlite_state was = {0}, now;
  bool returned = false;
  for (size_t i = 0; i < w->n; i++)
    w->ops[i].lost = false;
  int there = get_group(h, w->s, &was, &now, err), rc = there < 0 ? there : WM_OK;
  for (size_t i = 0, run; i < w->n && rc == WM_OK; i += run) {
    run = run_of(w->ops + i, w->n - i);
    bool known = there && wm_sqlite_group_of(w->ops[i].msg) == now.id;
    if (known) rc = settle_run(h, w->s, w->ops + i, run, err);
    for (size_t j = i; j < i + run; j++) {
      if (!known) w->ops[j].lost = true;
      if (w->ops[j].kind == WM_SETTLE_ACK) w->s->topic->acked += w->ops[j].msg->size;
    }
    if (w->ops[i].kind == WM_SETTLE_RELEASE) returned |= known;
  }
  if (rc != WM_OK || !there) return rc;
  now.returned += returned;
  if ((rc = save_group(h, w->s, &was, &now, err)) != WM_OK) return rc;
  if (returned) wm_sqlite_news(w->s->topic);
  return wm_sqlite_trim(h, w->s->topic, err);
}

int wm_sqlite_settle(void *sub, wm_settle_op *ops, size_t n, wm_error *err) {
  wm_sqlite_sub *s = sub;
  pthread_cond_t cond;
  if (!s->group_name || !n) return WM_OK;
  settling w = {
      .job = {.run = settle_all, .cond = &cond, .give_up = wm_now_ms() + s->conn->busy_ms},
      .s = s,
      .ops = ops,
      .n = n};
  wm_cond_init(&cond);
  int rc = wm_sqlite_submit(s->hub, &w.job, err);
  pthread_cond_destroy(&cond);
  return rc;
}

/* ---- keeping claims --------------------------------------------------------------------------- */

static size_t touch_run(wm_message *const *msgs, size_t n) {
  size_t i = 1;
  while (i < n && wm_sqlite_group_of(msgs[i]) == wm_sqlite_group_of(msgs[0]) &&
         wm_sqlite_offset_of(msgs[i]) == wm_sqlite_offset_of(msgs[0]) + (int64_t)i)
    i++;
  return i;
}

static int touch_range(wm_sqlite_hub *h, const wm_sqlite_sub *s, const wm_message *first, size_t n,
                       wm_error *err) {
  int64_t low = wm_sqlite_offset_of(first), high = low + (int64_t)n - 1,
          until = h->now + s->takeover_ms;
  return wm_sqlite_do(&h->db, wm_sqlite_stmt(&h->db, Q_HELD_TOUCH), err, "iiiii",
                      wm_sqlite_group_of(first), low, high, s->member, until);
}

static int touch_all(wm_sqlite_hub *h, wm_sqlite_job *job, wm_error *err) {
  touching *w = (touching *)job;
  wm_sqlite_state was = {0}, now;
  int there = get_group(h, w->s, &was, &now, err), rc = there < 0 ? there : WM_OK;
  for (size_t i = 0, run; i < w->n && rc == WM_OK; i += run) {
    run = touch_run(w->msgs + i, w->n - i);
    bool known = there && wm_sqlite_group_of(w->msgs[i]) == now.id;
    if (known) rc = touch_range(h, w->s, w->msgs[i], run, err);
    bool whole = known && sqlite3_changes(h->db.handle) == (int)run;
    for (size_t j = i; j < i + run && rc == WM_OK; j++) {
      w->lost[j] = !known;
      if (!known || whole) continue;
      rc = touch_range(h, w->s, w->msgs[j], 1, err);
      w->lost[j] = sqlite3_changes(h->db.handle) == 0;
    }
  }
  return rc == WM_OK && there ? save_group(h, w->s, &was, &now, err) : rc;
}

int wm_sqlite_touch(void *sub, wm_message *const *msgs, size_t n, bool *lost, wm_error *err) {
  wm_sqlite_sub *s = sub;
  pthread_cond_t cond;
  memset(lost, 0, n * sizeof *lost);
  if (!s->group_name || !n) return WM_OK;
  touching w = {.job = {.run = touch_all, .cond = &cond, .give_up = wm_now_ms() + s->conn->busy_ms},
                .s = s,
                .msgs = msgs,
                .n = n,
                .lost = lost};
  wm_cond_init(&cond);
  int rc = wm_sqlite_submit(s->hub, &w.job, err);
  pthread_cond_destroy(&cond);
  return rc;
}
