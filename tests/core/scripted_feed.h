/*
 * scripted_feed.h - the receiving half of the scripted backends: what fetch brings, and how each call ends, as the
 * test says. Part of scripted.h; whoever subscribes uses it through subscribing.h.
 */
#ifndef SCRIPTED_FEED_H
#define SCRIPTED_FEED_H

#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "backend.h"
#include "clock.h"
#include "error.h"

enum { FEED_TEXT = 1 << 16, FEED_NAME = 128 };

typedef enum feed_call {
  FEED_SUBSCRIBE,
  FEED_FETCH,
  FEED_SETTLE,
  FEED_TOUCH,
  FEED_INTERRUPT,
  FEED_UNSUBSCRIBE,
  FEED_CALLS
} feed_call;

static struct {
  pthread_mutex_t lock; /* guards all */
  unsigned epoch;       /* what a failed test left subscribed gets nothing of the next one's */
  pthread_cond_t changed;
  size_t begun[FEED_CALLS], ended[FEED_CALLS];
  bool shut[FEED_CALLS];   /* calls wait until it is opened ... */
  size_t pass[FEED_CALLS]; /* ... but for so many */
  int code[FEED_CALLS];    /* how they end; what a failing fetch brings is put before */
  bool overlapped;         /* two calls ran at once that must not */

  char topic[FEED_NAME], group[FEED_NAME], from[FEED_NAME], member[FEED_NAME];
  int64_t takeover;
  bool exclusive;

  wm_message **queue; /* what fetch brings */
  size_t queued, room;
  size_t at_once;         /* of one fetch at most, 0: what it asks for */
  size_t max, bytes;      /* that the last fetch asked for */
  const char *lost;       /* payload that the next fetch says is another's */
  size_t gone;            /* that the next fetch says were removed */
  const char *taken_over; /* payload that settle and touch find to be another's */
  char ops[FEED_TEXT]; /* "a1 n2:3 r4:0|a5!": batches; ! for one that failed; payloads, attempts */
  size_t ops_used, n_ops;  /* n_ops: taken by the broker */
  char touched[FEED_TEXT]; /* payloads of the last touch */
} feed = {.lock = PTHREAD_MUTEX_INITIALIZER};

typedef struct feed_sub {
  unsigned epoch;
  bool interrupted;
  bool fetching, settling; /* settling: or touching */
} feed_sub;

/* ---- calls; under the lock ---------------------------------------------------------------- */

static void feed_begin(feed_call call) {
  feed.begun[call]++;
  pthread_cond_broadcast(&feed.changed);
  while (feed.shut[call] && !feed.pass[call])
    pthread_cond_wait(&feed.changed, &feed.lock);
  if (feed.shut[call]) feed.pass[call]--;
}

static int feed_end(feed_call call, wm_error *err) {
  feed.ended[call]++;
  pthread_cond_broadcast(&feed.changed);
  if (feed.code[call] == WM_OK) return WM_OK;
  return wm_fail_with(err, feed.code[call], "the script says %s", wm_code_name(feed.code[call]));
}

static void feed_enter(bool *inside) {
  feed.overlapped |= *inside;
  *inside = true;
}

static bool feed_is(const wm_message *msg, const char *payload) {
  return payload && msg->payload.len == strlen(payload) &&
         memcmp(msg->payload.data, payload, msg->payload.len) == 0;
}

/* ---- the backend's functions -------------------------------------------------------------- */

static int script_subscribe(void *conn, const wm_sub_spec *spec, void **sub, wm_error *err) {
  (void)conn;
  pthread_mutex_lock(&feed.lock);
  snprintf(feed.topic, sizeof feed.topic, "%s", spec->topic);
  snprintf(feed.group, sizeof feed.group, "%s", spec->group ? spec->group : "(none)");
  snprintf(feed.from, sizeof feed.from, "%s", spec->from ? spec->from : "(none)");
  snprintf(feed.member, sizeof feed.member, "%s", spec->member);
  feed.takeover = spec->takeover_ms;
  feed.exclusive = spec->exclusive;
  feed_begin(FEED_SUBSCRIBE);
  int code = feed_end(FEED_SUBSCRIBE, err);
  if (code == WM_OK) {
    feed_sub *s = *sub = calloc(1, sizeof *s);
    s->epoch = feed.epoch;
  }
  pthread_mutex_unlock(&feed.lock);
  return code;
}

static bool feed_lost(const wm_message *msg, void *payload) { return feed_is(msg, payload); }

static int script_fetch(void *sub, size_t max, size_t bytes, int timeout_ms, wm_sink *sink,
                        wm_error *err) {
  feed_sub *s = sub;
  int64_t until = wm_now_ms() + timeout_ms;
  size_t n = 0, used = 0, most = max;
  pthread_mutex_lock(&feed.lock);
  feed_enter(&s->fetching);
  feed.max = max;
  feed.bytes = bytes;
  feed_begin(FEED_FETCH);
  while (s->epoch != feed.epoch && !s->interrupted)
    pthread_cond_wait(&feed.changed, &feed.lock);
  while (!s->interrupted && !feed.queued && !feed.lost && !feed.gone &&
         feed.code[FEED_FETCH] == WM_OK && wm_cond_wait_until(&feed.changed, &feed.lock, until)) {
  }
  if (feed.at_once && feed.at_once < most) most = feed.at_once;
  if (s->epoch != feed.epoch) most = 0;
  for (; n < feed.queued && n < most && (!n || used + feed.queue[n]->payload.len <= bytes); n++) {
    used += feed.queue[n]->payload.len;
    wm_sink_put(sink, feed.queue[n]);
  }
  feed.queued -= n;
  if (n) memmove(feed.queue, feed.queue + n, feed.queued * sizeof *feed.queue);
  char *lost = feed.lost ? strdup(feed.lost) : NULL;
  size_t gone = feed.gone;
  feed.lost = NULL;
  feed.gone = 0;
  s->interrupted = false;
  pthread_mutex_unlock(&feed.lock);
  if (lost) wm_sink_lost(sink, feed_lost, lost);
  if (gone) wm_sink_gone(sink, gone, "trimmed by the script");
  free(lost);
  pthread_mutex_lock(&feed.lock);
  s->fetching = false;
  int code = feed_end(FEED_FETCH, err);
  pthread_mutex_unlock(&feed.lock);
  return code;
}

static void feed_write(const char *text) {
  size_t len = strlen(text);
  if (feed.ops_used + len >= sizeof feed.ops) return;
  memcpy(feed.ops + feed.ops_used, text, len + 1);
  feed.ops_used += len;
}

static void feed_write_op(const wm_settle_op *op, bool first) {
  static const char letters[] = {
      [WM_SETTLE_ACK] = 'a', [WM_SETTLE_RELEASE] = 'r', [WM_SETTLE_NOTE] = 'n'};
  char text[80], attempt[16] = "";
  if (op->kind != WM_SETTLE_ACK) snprintf(attempt, sizeof attempt, ":%u", op->attempt);
  snprintf(text, sizeof text, "%s%c%.40s%s", first ? "" : " ", letters[op->kind],
           op->msg->payload.data, attempt);
  feed_write(text);
}

static int script_settle(void *sub, wm_settle_op *ops, size_t n, wm_error *err) {
  feed_sub *s = sub;
  pthread_mutex_lock(&feed.lock);
  feed_enter(&s->settling);
  feed_begin(FEED_SETTLE);
  for (size_t i = 0; i < n; i++) {
    feed_write_op(&ops[i], i == 0);
    ops[i].lost = feed_is(ops[i].msg, feed.taken_over);
  }
  feed_write(feed.code[FEED_SETTLE] == WM_OK ? "|" : "!");
  if (feed.code[FEED_SETTLE] == WM_OK) feed.n_ops += n;
  s->settling = false;
  int code = feed_end(FEED_SETTLE, err);
  pthread_mutex_unlock(&feed.lock);
  return code;
}

static int script_touch(void *sub, wm_message *const *msgs, size_t n, bool *lost, wm_error *err) {
  feed_sub *s = sub;
  size_t used = 0;
  pthread_mutex_lock(&feed.lock);
  feed_enter(&s->settling);
  for (size_t i = 0; i < n; i++) {
    size_t left = sizeof feed.touched - used;
    if (left > 64)
      used += (size_t)snprintf(feed.touched + used, left, "%s%.40s", i ? " " : "",
                               msgs[i]->payload.data);
  }
  feed_begin(FEED_TOUCH);
  for (size_t i = 0; i < n; i++)
    lost[i] = feed_is(msgs[i], feed.taken_over);
  s->settling = false;
  int code = feed_end(FEED_TOUCH, err);
  pthread_mutex_unlock(&feed.lock);
  return code;
}

static void script_interrupt(void *sub) {
  feed_sub *s = sub;
  pthread_mutex_lock(&feed.lock);
  s->interrupted = true;
  feed.begun[FEED_INTERRUPT]++;
  pthread_cond_broadcast(&feed.changed);
  pthread_mutex_unlock(&feed.lock);
}

static void script_unsubscribe(void *sub) {
  feed_sub *s = sub;
  pthread_mutex_lock(&feed.lock);
  feed_begin(FEED_UNSUBSCRIBE);
  feed.overlapped |= s->fetching || s->settling;
  feed_end(FEED_UNSUBSCRIBE, NULL);
  pthread_mutex_unlock(&feed.lock);
  free(s);
}

/* Forgets what happened; nothing may be subscribed. */
static void script_feed_reset(void) {
  static bool made;
  if (!made) made = wm_cond_init(&feed.changed) == WM_OK;
  pthread_mutex_lock(&feed.lock);
  feed.epoch++;
  for (size_t i = 0; i < feed.queued; i++)
    wm_message_release(feed.queue[i]);
  free(feed.queue);
  feed.queue = NULL;
  feed.queued = feed.room = feed.at_once = feed.max = feed.bytes = 0;
  memset(feed.begun, 0, sizeof feed.begun);
  memset(feed.ended, 0, sizeof feed.ended);
  memset(feed.shut, 0, sizeof feed.shut);
  memset(feed.pass, 0, sizeof feed.pass);
  memset(feed.code, 0, sizeof feed.code);
  feed.overlapped = false;
  feed.lost = feed.taken_over = NULL;
  feed.gone = 0;
  feed.ops[0] = feed.touched[0] = 0;
  feed.ops_used = feed.n_ops = 0;
  pthread_mutex_unlock(&feed.lock);
}

#endif
