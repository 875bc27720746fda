/*
 * settle.c - telling the server what became of messages: acks, releases, notes; keeping claims
 * alive. Settling thread only, but for wm_redis_keep, which is used by the fetching one, too, each
 * on its own link.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "clock.h"
#include "error.h"
#include "redis.h"

/* How often what every group has acked is trimmed. */
enum { TRIM_EVERY_MS = 5000 };

static void begin_script(wm_redis_buf *out, const char *script, const wm_redis_sub *s,
                         size_t more) {
  wm_redis_begin(out, 6 + more);
  wm_redis_text(out, "EVAL");
  wm_redis_text(out, script);
  wm_redis_text(out, "1");
  wm_redis_text(out, s->topic);
  wm_redis_text(out, s->group);
  wm_redis_text(out, s->member);
}

/* ---- settling ------------------------------------------------------------------------------- */

/* Consecutive ops that go out as one command: acks, or releases and notes. */
static size_t run_of(const wm_settle_op *ops, size_t n) {
  size_t i = 1;
  bool ack = ops[0].kind == WM_SETTLE_ACK;
  while (i < n && i < WM_REDIS_PAGE && (ops[i].kind == WM_SETTLE_ACK) == ack)
    i++;
  return i;
}

static void put_run(wm_redis_sub *s, const wm_settle_op *ops, size_t n) {
  wm_redis_buf *out = &s->settler->out;
  if (ops[0].kind == WM_SETTLE_ACK) {
    wm_redis_begin(out, 3 + n);
    wm_redis_text(out, "XACK");
    wm_redis_text(out, s->topic);
    wm_redis_text(out, s->group);
    for (size_t i = 0; i < n; i++)
      wm_redis_id_arg(out, wm_redis_id_of(ops[i].msg));
    return;
  }
  begin_script(out, wm_redis_script_settle, s, 1 + 3 * n);
  wm_redis_text(out, WM_REDIS_POOL);
  for (size_t i = 0; i < n; i++) {
    wm_redis_text(out, ops[i].kind == WM_SETTLE_RELEASE ? "r" : "n");
    wm_redis_id_arg(out, wm_redis_id_of(ops[i].msg));
    wm_redis_number(out, ops[i].attempt);
  }
}

/* What one run's answer says. A group that is gone has nothing left to settle. */
static int take_answer(wm_redis_sub *s, wm_settle_op *ops, size_t n, int64_t deadline,
                       wm_error *err) {
  redisReply *reply;
  int rc = wm_redis_receive_tree(s->settler, &reply, deadline, err);
  if (rc == WM_TIMEOUT)
    rc = wm_fail_with(err, WM_UNREACHABLE, "settling on '%s': no answer from %s:%d", s->topic,
                      s->redis->host, s->redis->port);
  if (rc != WM_OK) return rc;
  bool all_lost = false;
  if (reply->type == REDIS_REPLY_ERROR) {
    char what[300];
    snprintf(what, sizeof what, "settling on stream '%.200s'", s->topic);
    all_lost = wm_redis_no_group(reply->str);
    if (!all_lost) rc = wm_redis_refused(s->settler, reply->str, what, err);
  } else if (reply->type == REDIS_REPLY_INTEGER) {
    all_lost = reply->integer == 0; /* of several acks it does not say which were too late */
  }
  for (size_t i = 0; all_lost && i < n; i++)
    ops[i].lost = true;
  for (size_t i = 0; reply->type == REDIS_REPLY_ARRAY && i < reply->elements; i++) {
    long long at = reply->element[i]->integer;
    if (at >= 0 && (size_t)at < n) ops[at].lost = true;
  }
  freeReplyObject(reply);
  return rc;
}

/* They are the core's no longer, so that they may come again. */
static void forget(wm_redis_sub *s, const wm_settle_op *ops, size_t n) {
  wm_redis_id ids[64];
  size_t put = 0;
  for (size_t i = 0; i < n; i++) {
    if (ops[i].kind != WM_SETTLE_NOTE) ids[put++] = wm_redis_id_of(ops[i].msg);
    if (put == 64 || (i + 1 == n && put)) {
      wm_redis_held_remove(&s->held, ids, put);
      put = 0;
    }
  }
}

static void put_trim(wm_redis_sub *s) {
  wm_redis_command(&s->settler->out, "EVAL", wm_redis_script_trim, "1", s->topic, NULL);
  s->trim_at = wm_now_ms() + TRIM_EVERY_MS;
}

int wm_redis_settle(void *sub, wm_settle_op *ops, size_t n, wm_error *err) {
  wm_redis_sub *s = sub;
  if (!s->group || !n) return WM_OK;
  int64_t deadline = wm_now_ms() + s->redis->dial_ms + s->redis->command_ms;
  int rc = wm_redis_link_up(s->settler, deadline, NULL, err);
  if (rc != WM_OK) return rc;
  deadline = wm_now_ms() + s->redis->command_ms;
  bool trim = s->redis->trim_acked && wm_now_ms() >= s->trim_at;
  for (size_t i = 0, run; i < n; i += run)
    put_run(s, ops + i, run = run_of(ops + i, n - i));
  if (trim) put_trim(s);

  int first = WM_OK; /* an answer that says no must not leave the later ones unread */
  for (size_t i = 0, run; i < n; i += run) {
    run = run_of(ops + i, n - i);
    wm_error *where = first == WM_OK ? err : NULL;
    rc = take_answer(s, ops + i, run, deadline, where);
    if (first == WM_OK) first = rc;
    if (rc == WM_UNREACHABLE || rc == WM_NOMEM) break;
  }
  if (first == WM_OK && trim) {
    redisReply *reply;
    if (wm_redis_receive_tree(s->settler, &reply, deadline, NULL) == WM_OK)
      freeReplyObject(reply);
    else
      wm_redis_link_down(s->settler);
  }
  if (first != WM_OK) {
    wm_redis_link_down(s->settler);
    return first;
  }
  forget(s, ops, n);
  return WM_OK;
}

/* ---- keeping claims ------------------------------------------------------------------------- */

int wm_redis_keep(wm_redis_sub *s, wm_redis_link *l, wm_message *const *msgs, size_t n, bool *lost,
                  int64_t deadline, wm_error *err) {
  wm_redis_id low = wm_redis_id_of(msgs[0]), high = low;
  for (size_t i = 1; i < n; i++) {
    wm_redis_id id = wm_redis_id_of(msgs[i]);
    if (wm_redis_id_compare(id, low) < 0) low = id;
    if (wm_redis_id_compare(id, high) > 0) high = id;
  }
  begin_script(&l->out, wm_redis_script_keep, s, 2 + n);
  wm_redis_id_arg(&l->out, low);
  wm_redis_id_arg(&l->out, high);
  for (size_t i = 0; i < n; i++)
    wm_redis_id_arg(&l->out, wm_redis_id_of(msgs[i]));

  redisReply *reply;
  memset(lost, 0, n * sizeof *lost);
  int rc = wm_redis_receive_tree(l, &reply, deadline, err);
  if (rc == WM_TIMEOUT || rc == WM_CANCELLED) {
    wm_redis_link_down(l);
    return wm_fail_with(err, WM_UNREACHABLE, "keeping claims on '%s': no answer from %s:%d",
                        s->topic, s->redis->host, s->redis->port);
  }
  if (rc != WM_OK) return rc;
  if (reply->type == REDIS_REPLY_ERROR) {
    char what[300];
    snprintf(what, sizeof what, "keeping claims on stream '%.200s'", s->topic);
    if (wm_redis_no_group(reply->str))
      for (size_t i = 0; i < n; i++)
        lost[i] = true;
    else
      rc = wm_redis_refused(l, reply->str, what, err);
  }
  for (size_t i = 0; reply->type == REDIS_REPLY_ARRAY && i < reply->elements; i++) {
    long long at = reply->element[i]->integer;
    if (at >= 0 && (size_t)at < n) lost[at] = true;
  }
  freeReplyObject(reply);
  for (size_t i = 0; i < n; i++) {
    wm_redis_id id = wm_redis_id_of(msgs[i]);
    if (lost[i]) wm_redis_held_remove(&s->held, &id, 1);
  }
  return rc;
}

static int renew_lease(wm_redis_sub *s, int64_t deadline, wm_error *err) {
  redisReply *reply;
  char ms[24];
  snprintf(ms, sizeof ms, "%lld", (long long)s->takeover_ms);
  wm_redis_command(&s->settler->out, "EVAL", wm_redis_script_lease, "1", s->lease, s->member, ms,
                   NULL);
  int rc = wm_redis_expect(s->settler, &reply, deadline, "renewing the lease", err);
  if (rc == WM_OK) freeReplyObject(reply); /* whose it is, fetch finds out */
  return rc;
}

int wm_redis_touch(void *sub, wm_message *const *msgs, size_t n, bool *lost, wm_error *err) {
  wm_redis_sub *s = sub;
  memset(lost, 0, n * sizeof *lost);
  if (!s->group || !n) return WM_OK;
  int64_t deadline = wm_now_ms() + s->redis->dial_ms + s->redis->command_ms;
  int rc = wm_redis_link_up(s->settler, deadline, NULL, err);
  for (size_t i = 0; i < n && rc == WM_OK; i += WM_REDIS_PAGE) {
    size_t page = n - i < WM_REDIS_PAGE ? n - i : WM_REDIS_PAGE;
    rc = wm_redis_keep(s, s->settler, msgs + i, page, lost + i, wm_now_ms() + s->redis->command_ms,
                       err);
  }
  if (rc == WM_OK && s->lease) rc = renew_lease(s, wm_now_ms() + s->redis->command_ms, err);
  return rc;
}
