/*
 * subscribing.h - what the tests of subscriptions share: the scripted broker's receiving half told what to do, looking
 * at what became of it, and short words for taking and settling. One test program includes this once.
 */
#ifndef SUBSCRIBING_H
#define SUBSCRIBING_H

#include <poll.h>
#include <sched.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>

#include "message.h"
#include "scripted.h"
#include "subscription/state.h"

#include <cmocka.h>

/* Sooner than anything that happens by itself every few seconds: what is awaited so long was asked for. */
enum { PROMPT_MS = 4000 };

static wm_error err;

/* Waits for a condition; fails when it does not come. */
#define until(condition) until_within(condition, SCRIPT_WAIT_MS)
#define promptly(condition) until_within(condition, PROMPT_MS)
#define until_within(condition, ms)                                                                \
  for (int64_t give_up_ = wm_now_ms() + (ms); !(condition); poll(NULL, 0, 1))                      \
    if (wm_now_ms() > give_up_) fail_msg("never within %d ms: %s", (int)(ms), #condition)

static inline void text_has(const char *text, const char *part) {
  if (!strstr(text, part)) fail_msg("'%s' lacks '%s'", text, part);
}

/* ---- the log ------------------------------------------------------------------------------ */

static struct {
  pthread_mutex_t lock;
  char text[1 << 16];
  size_t used;
} lines = {.lock = PTHREAD_MUTEX_INITIALIZER};

static inline void keep_line(void *arg, wm_log_level level, const char *text) {
  (void)arg;
  pthread_mutex_lock(&lines.lock);
  size_t left = sizeof lines.text - lines.used;
  if (left > 2048)
    lines.used += (size_t)snprintf(lines.text + lines.used, left, "%d %s\n", (int)level, text);
  pthread_mutex_unlock(&lines.lock);
}

static inline size_t logged(const char *part) {
  size_t n = 0;
  pthread_mutex_lock(&lines.lock);
  for (const char *at = lines.text; (at = strstr(at, part)); at++)
    n++;
  pthread_mutex_unlock(&lines.lock);
  return n;
}

/* ---- the broker --------------------------------------------------------------------------- */

static inline void set_code(feed_call call, int code) {
  pthread_mutex_lock(&feed.lock);
  feed.code[call] = code;
  pthread_cond_broadcast(&feed.changed);
  pthread_mutex_unlock(&feed.lock);
}

static inline void set_gate(feed_call call, bool shut) {
  pthread_mutex_lock(&feed.lock);
  feed.shut[call] = shut;
  feed.pass[call] = 0;
  pthread_cond_broadcast(&feed.changed);
  pthread_mutex_unlock(&feed.lock);
}

static inline void let_pass(feed_call call) {
  pthread_mutex_lock(&feed.lock);
  feed.pass[call]++;
  pthread_cond_broadcast(&feed.changed);
  pthread_mutex_unlock(&feed.lock);
}

static inline size_t calls(feed_call call) {
  pthread_mutex_lock(&feed.lock);
  size_t n = feed.begun[call];
  pthread_mutex_unlock(&feed.lock);
  return n;
}

static inline size_t returned(feed_call call) {
  pthread_mutex_lock(&feed.lock);
  size_t n = feed.ended[call];
  pthread_mutex_unlock(&feed.lock);
  return n;
}

/* Messages on their way, which come together; the same fetch says that `lost` is lost (NULL: none is). */
static inline void put_and_lose(wm_message *const *msgs, size_t n, const char *lost) {
  pthread_mutex_lock(&feed.lock);
  if (lost) feed.lost = lost;
  if (feed.queued + n > feed.room) {
    feed.room = (feed.queued + n) * 2;
    feed.queue = realloc(feed.queue, feed.room * sizeof *feed.queue);
    if (!feed.queue) abort();
  }
  memcpy(feed.queue + feed.queued, msgs, n * sizeof *msgs);
  feed.queued += n;
  pthread_cond_broadcast(&feed.changed);
  pthread_mutex_unlock(&feed.lock);
}

static inline void put_messages(wm_message *const *msgs, size_t n) { put_and_lose(msgs, n, NULL); }

/* As a backend makes them; uuid "u-<payload>". key: metadata "key", NULL: none. */
static inline wm_message *received(const char *payload, const char *key) {
  static atomic_uint serial;
  char uuid[64];
  size_t len = strlen(payload), key_len = key ? strlen(key) : 0;
  wm_message *msg = wm_message_alloc(4, len + key_len + 256);
  snprintf(uuid, sizeof uuid, "u-%.40s", payload);
  wm_message_set_uuid(msg, uuid, strlen(uuid));
  wm_message_set_payload(msg, payload, len);
  if (key) wm_message_add(msg, "key", 3, key, key_len);
  msg->token[0] = ++serial;
  msg->first_attempt = 1;
  snprintf(msg->position, sizeof msg->position, "at-%.40s", payload);
  return msg;
}

static inline void put(const char *payload) {
  wm_message *msg = received(payload, NULL);
  put_messages(&msg, 1);
}

/* "1".."n", together. */
static inline void put_numbers(size_t n) {
  wm_message **msgs = malloc(n * sizeof *msgs);
  char text[24];
  for (size_t i = 0; i < n; i++) {
    snprintf(text, sizeof text, "%zu", i + 1);
    msgs[i] = received(text, NULL);
  }
  put_messages(msgs, n);
  free(msgs);
}

static inline void set_text(const char **where, const char *payload) {
  pthread_mutex_lock(&feed.lock);
  *where = payload;
  pthread_cond_broadcast(&feed.changed);
  pthread_mutex_unlock(&feed.lock);
}

/* A fetch says that another member has it now. */
static inline void lose(const char *payload) { set_text(&feed.lost, payload); }
/* settle and touch find that another member has it. */
static inline void take_over(const char *payload) { set_text(&feed.taken_over, payload); }

static inline bool feed_text_is(const char *feed_text, const char *wanted) {
  pthread_mutex_lock(&feed.lock);
  bool same = strcmp(feed_text, wanted) == 0;
  pthread_mutex_unlock(&feed.lock);
  return same;
}

/* Waits until the broker was told exactly this ("a1 n2:2|a2|"). */
static inline void told_broker(const char *ops) {
  int64_t give_up = wm_now_ms() + SCRIPT_WAIT_MS;
  while (!feed_text_is(feed.ops, ops)) {
    if (wm_now_ms() > give_up) fail_msg("the broker was told '%s', not '%s'", feed.ops, ops);
    poll(NULL, 0, 1);
  }
}

static inline size_t ops_taken(void) {
  pthread_mutex_lock(&feed.lock);
  size_t n = feed.n_ops;
  pthread_mutex_unlock(&feed.lock);
  return n;
}

/* Messages that the last fetch asked for. */
static inline size_t asked_for(void) {
  pthread_mutex_lock(&feed.lock);
  size_t n = feed.max;
  pthread_mutex_unlock(&feed.lock);
  return n;
}

static inline size_t still_queued(void) {
  pthread_mutex_lock(&feed.lock);
  size_t n = feed.queued;
  pthread_mutex_unlock(&feed.lock);
  return n;
}

/* ---- subscriptions ------------------------------------------------------------------------ */

/* `query` holds options: "group=mail&batch=2". */
static inline const char *url_of(const char *query) {
  static char url[512];
  snprintf(url, sizeof url, "script:%s%s", *query ? "?" : "", query);
  return url;
}

static inline wm_subscription *subscribe(const char *query) {
  wm_subscription *sub;
  if (wm_subscribe(&sub, url_of(query), "orders", NULL, &err) != WM_OK) fail_msg("%s", err.text);
  return sub;
}

static inline void close_sub(wm_subscription *sub) {
  assert_int_equal(wm_subscription_close(sub, SCRIPT_WAIT_MS), WM_OK);
}

static inline wm_subscription_stats stats(wm_subscription *sub) {
  wm_subscription_stats s;
  wm_subscription_get_stats(sub, &s);
  return s;
}

static inline wm_consumer *consumer(wm_subscription *sub) {
  wm_consumer *con;
  if (wm_consumer_open(&con, sub, &err) != WM_OK) fail_msg("%s", err.text);
  return con;
}

/* When the settler settles, or touches, next. */
static inline void set_time(wm_subscription *sub, int64_t *which, int64_t at) {
  pthread_mutex_lock(&sub->lock);
  *which = at;
  wm_subscription_wake_settler(sub);
  pthread_mutex_unlock(&sub->lock);
}

/* As after many failures; settling must be about to fail. */
static inline void settle_much_later(wm_subscription *sub) {
  until(stats(sub).retries > 0);
  set_time(sub, &sub->settle_at, wm_now_ms() + 3600 * 1000);
}

static inline bool is(const wm_message *msg, const char *payload) {
  wm_slice p = wm_message_payload(msg);
  return p.len == strlen(payload) && memcmp(p.data, payload, p.len) == 0;
}

/* The next message, which must be this one. The caller releases it. */
static inline wm_message *take(wm_consumer *con, const char *payload) {
  wm_message *msg;
  int rc = wm_next(con, &msg, 1, SCRIPT_WAIT_MS);
  if (rc != 1) fail_msg("%s instead of message '%s'", wm_code_name(rc), payload);
  if (!is(msg, payload)) fail_msg("'%s' instead of '%s'", msg->payload.data, payload);
  return msg;
}

static inline int try_next(wm_consumer *con) {
  wm_message *msg;
  int rc = wm_next(con, &msg, 1, 0);
  if (rc > 0) fail_msg("nothing expected, '%s' came", msg->payload.data);
  return rc;
}

static inline void nothing(wm_consumer *con) { assert_int_equal(try_next(con), WM_TIMEOUT); }

static inline void ack(wm_message *msg) {
  assert_true(wm_ack(msg));
  wm_message_release(msg);
}

static inline void take_and_ack(wm_consumer *con, const char *payload) { ack(take(con, payload)); }

static inline bool readable_within(wm_consumer *con, int ms) {
  struct pollfd fd = {.fd = wm_consumer_fd(con), .events = POLLIN};
  return poll(&fd, 1, ms) == 1;
}

static inline bool readable(wm_consumer *con) { return readable_within(con, 0); }

/* Its thread waits in wm_next. */
static inline bool stands(wm_subscription *sub, const wm_consumer *con) {
  pthread_mutex_lock(&sub->lock);
  bool waiting = con->state == CON_WAITING;
  pthread_mutex_unlock(&sub->lock);
  return waiting;
}

/* A wm_next in a thread of its own. */
typedef struct standing {
  pthread_t thread;
  wm_consumer *con;
  int timeout_ms, rc;
  wm_message *msg;
  atomic_bool ended;
} standing;

static inline void *stand_there(void *arg) {
  standing *s = arg;
  s->rc = wm_next(s->con, &s->msg, 1, s->timeout_ms);
  s->ended = true;
  return NULL;
}

static inline void stand(standing *s, wm_consumer *con, int timeout_ms) {
  *s = (standing){.con = con, .timeout_ms = timeout_ms};
  assert_int_equal(pthread_create(&s->thread, NULL, stand_there, s), 0);
}

static inline int stood(standing *s) {
  until(s->ended);
  pthread_join(s->thread, NULL);
  return s->rc;
}

/* ---- ends that are told ------------------------------------------------------------------- */

typedef struct told {
  atomic_int times, code, err_code;
  char text[WM_ERROR_MAX]; /* read it when times > 0 */
} told;

static inline void tell(void *arg, int code, const wm_error *e) {
  told *t = arg;
  if ((code == WM_OK) != (e == NULL)) abort();
  t->code = code;
  t->err_code = e ? e->code : WM_OK;
  snprintf(t->text, sizeof t->text, "%s", e ? e->text : "");
  t->times++;
}

static inline int told_code(told *t) {
  until(t->times > 0);
  assert_int_equal(t->times, 1);
  assert_int_equal(t->err_code, t->code);
  return t->code;
}

/* ---- around each test --------------------------------------------------------------------- */

static inline int begin_test(void **state) {
  (void)state;
  script_reset();
  wm_log_set(keep_line, NULL, WM_LOG_DEBUG);
  pthread_mutex_lock(&lines.lock);
  lines.text[0] = 0;
  lines.used = 0;
  pthread_mutex_unlock(&lines.lock);
  return 0;
}

static inline bool all_closed(void) {
  pthread_mutex_lock(&script.lock);
  bool closed = script.opened == script.closed;
  pthread_mutex_unlock(&script.lock);
  return closed;
}

/* Nothing is left open at the broker, and no two calls met that must not. */
static inline int end_test(void **state) {
  (void)state;
  until(all_closed());
  pthread_mutex_lock(&feed.lock);
  bool overlapped = feed.overlapped;
  pthread_mutex_unlock(&feed.lock);
  assert_false(overlapped);
  return 0;
}

#define test(name) cmocka_unit_test_setup_teardown(name, begin_test, end_test)

#endif
