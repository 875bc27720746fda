/*
 * publisher_test.c - many callers, one batch: what publishers promise, against a backend that does what the test
 * says.
 */
#include <poll.h>
#include <sched.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>

#include "connection.h"
#include "scripted.h"

#include <cmocka.h>

enum { BATCH_MOST = 1000, MANY = 64 };

static wm_error err;

/* ---- helpers -------------------------------------------------------------------------------- */

static pthread_mutex_t log_lock = PTHREAD_MUTEX_INITIALIZER;
static size_t warnings, infos;
static char last_warning[2000], last_info[2000];

static void keep_log(void *arg, wm_log_level level, const char *text) {
  (void)arg;
  pthread_mutex_lock(&log_lock);
  bool warn = level >= WM_LOG_WARN;
  *(warn ? &warnings : &infos) += 1;
  snprintf(warn ? last_warning : last_info, sizeof last_info, "%s", text);
  pthread_mutex_unlock(&log_lock);
}

static int setup(void **state) {
  (void)state;
  script_reset();
  pthread_mutex_lock(&log_lock);
  warnings = infos = 0;
  pthread_mutex_unlock(&log_lock);
  return 0;
}

static wm_message *message(const char *payload) {
  wm_message *msg;
  wm_slice p = {payload, strlen(payload)};
  if (wm_message_new(&msg, NULL, p, NULL, 0, &err) != WM_OK) fail_msg("%s", err.text);
  return msg;
}

static wm_message *large(size_t bytes) {
  char *data = calloc(1, bytes);
  wm_message *msg;
  memset(data, 'x', bytes);
  if (wm_message_new(&msg, NULL, (wm_slice){data, bytes}, NULL, 0, &err) != WM_OK)
    fail_msg("%s", err.text);
  free(data);
  return msg;
}

static wm_publisher *open_at(const char *url) {
  wm_publisher *pub;
  if (wm_publisher_open(&pub, url, NULL, &err) != WM_OK) fail_msg("%s", err.text);
  return pub;
}

static void close_pub(wm_publisher *pub) {
  assert_int_equal(wm_publisher_close(pub, SCRIPT_WAIT_MS), WM_OK);
}

static int publish(wm_publisher *pub, const char *payload) {
  wm_message *msg = message(payload);
  int rc = wm_publish(pub, "orders", &msg, 1, NULL, &err);
  wm_message_release(msg);
  return rc;
}

/* Messages "0", "1", ... */
static void make(wm_message **msgs, size_t n) {
  char text[24];
  for (size_t i = 0; i < n; i++) {
    snprintf(text, sizeof text, "%zu", i);
    msgs[i] = message(text);
  }
}

static void drop(wm_message **msgs, size_t n) {
  for (size_t i = 0; i < n; i++)
    wm_message_release(msgs[i]);
}

static void shut_gate(void) {
  pthread_mutex_lock(&script.lock);
  script.gate = true;
  pthread_mutex_unlock(&script.lock);
}

static void open_gate(void) {
  pthread_mutex_lock(&script.lock);
  script.gate = false;
  pthread_cond_broadcast(&script.changed);
  pthread_mutex_unlock(&script.lock);
}

static void answer_with(script_answer answer) {
  pthread_mutex_lock(&script.lock);
  script.answer = answer;
  pthread_mutex_unlock(&script.lock);
}

static void wait_for_calls(size_t n) {
  int64_t until = wm_now_ms() + SCRIPT_WAIT_MS;
  pthread_mutex_lock(&script.lock);
  while (script.calls < n)
    if (!wm_cond_wait_until(&script.changed, &script.lock, until))
      fail_msg("%zu calls of %zu", script.calls, n);
  pthread_mutex_unlock(&script.lock);
}

static size_t queued(wm_publisher *pub) {
  wm_publisher_stats stats;
  wm_publisher_get_stats(pub, &stats);
  return stats.queued;
}

static void wait_until_queued(wm_publisher *pub, size_t n) {
  int64_t until = wm_now_ms() + SCRIPT_WAIT_MS;
  while (queued(pub) != n) {
    if (wm_now_ms() > until) fail_msg("%zu are queued, not %zu", queued(pub), n);
    sched_yield();
  }
}

static void stored_is(size_t i, const char *payload) {
  assert_true(i < script.n_stored);
  assert_string_equal(script.stored[i], payload);
}

/* "0" ... in order, each once */
static void all_stored(size_t n) {
  char text[24];
  assert_int_equal(script.n_stored, n);
  for (size_t i = 0; i < n; i++) {
    snprintf(text, sizeof text, "%zu", i);
    stored_is(i, text);
  }
}

static void text_has(const char *text, const char *part) {
  if (!strstr(text, part)) fail_msg("'%s' lacks '%s'", text, part);
}

/* Results of asynchronous publishes. */
static struct {
  pthread_mutex_t lock;
  pthread_cond_t changed;
  size_t n, codes[32]; /* codes: how often, by -code */
  pthread_t thread;
  wm_result last[8];
  char text[WM_ERROR_MAX];
} told = {.lock = PTHREAD_MUTEX_INITIALIZER};

static void tell(void *arg, int code, const wm_result *results, size_t n, const wm_error *e) {
  (void)arg;
  pthread_mutex_lock(&told.lock);
  told.n++;
  told.codes[-code]++;
  told.thread = pthread_self();
  for (size_t i = 0; i < n && i < 8; i++)
    told.last[i] = results[i];
  if (e) snprintf(told.text, sizeof told.text, "%s", e->text);
  if ((code == WM_OK) != (e == NULL) || (e && e->code != code)) abort();
  pthread_cond_broadcast(&told.changed);
  pthread_mutex_unlock(&told.lock);
}

static int setup_told(void **state) {
  setup(state);
  memset(told.codes, 0, sizeof told.codes);
  told.n = 0;
  return wm_cond_init(&told.changed);
}

static void wait_until_told(size_t n) {
  int64_t until = wm_now_ms() + SCRIPT_WAIT_MS;
  pthread_mutex_lock(&told.lock);
  while (told.n < n)
    if (!wm_cond_wait_until(&told.changed, &told.lock, until))
      fail_msg("told %zu times, not %zu", told.n, n);
  pthread_mutex_unlock(&told.lock);
}

static int publish_async(wm_publisher *pub, const char *payload) {
  wm_message *msg = message(payload);
  int rc = wm_publish_async(pub, "orders", &msg, 1, tell, NULL, &err);
  wm_message_release(msg);
  return rc;
}

/* A blocking publish in a thread of its own. */
typedef struct caller {
  pthread_t thread;
  wm_publisher *pub;
  const char *payload;
  int rc;
  wm_error err;
} caller;

static void *call(void *arg) {
  caller *c = arg;
  wm_message *msg = message(c->payload);
  c->rc = wm_publish(c->pub, "orders", &msg, 1, NULL, &c->err);
  wm_message_release(msg);
  return NULL;
}

static void start(caller *c, wm_publisher *pub, const char *payload) {
  *c = (caller){.pub = pub, .payload = payload};
  assert_int_equal(pthread_create(&c->thread, NULL, call, c), 0);
}

static int end(caller *c) {
  pthread_join(c->thread, NULL);
  return c->rc;
}

/* ---- batches -------------------------------------------------------------------------------- */

static void a_lone_message_is_sent_by_its_caller_at_once(void **state) {
  (void)state;
  wm_publisher *pub = open_at("script:");
  for (int i = 0; i < 3; i++)
    assert_int_equal(publish(pub, "hello"), WM_OK);
  assert_true(pthread_equal(script.thread, pthread_self()));
  assert_int_equal(script.calls, 3);
  assert_string_equal(script.topic, "orders");
  assert_true(script.timeout_ms > 5000 && script.timeout_ms <= 10000);
  close_pub(pub);
}

static void what_queues_up_meanwhile_is_the_next_batch(void **state) {
  (void)state;
  wm_publisher *pub = open_at("script:"), *other = open_at("script:?queue_bytes=1G");
  caller first, rest[MANY];
  shut_gate();
  start(&first, pub, "first");
  wait_for_calls(1);
  for (size_t i = 0; i < MANY; i++)
    start(&rest[i], i % 2 ? pub : other, "rest");
  wait_until_queued(pub, 1 + MANY / 2);
  wait_until_queued(other, MANY / 2);
  open_gate();
  assert_int_equal(end(&first), WM_OK);
  for (size_t i = 0; i < MANY; i++)
    assert_int_equal(end(&rest[i]), WM_OK);
  assert_int_equal(script.calls, 2);
  assert_int_equal(script.sizes[1], MANY);
  assert_int_equal(script.n_stored, 1 + MANY);
  close_pub(pub);
  close_pub(other);
}

static void a_batch_has_a_thousand_messages_at_most(void **state) {
  (void)state;
  enum { N = 2500 };
  wm_message *msgs[N];
  wm_publisher *pub = open_at("script:");
  make(msgs, N);
  shut_gate();
  assert_int_equal(publish_async(pub, "0"), WM_OK);
  wait_for_calls(1);
  for (size_t i = 1; i < N; i++)
    assert_int_equal(wm_publish_async(pub, "orders", &msgs[i], 1, NULL, NULL, &err), WM_OK);
  open_gate();
  wait_until_queued(pub, 0);
  assert_int_equal(script.calls, 4);
  assert_int_equal(script.sizes[1], BATCH_MOST);
  assert_int_equal(script.sizes[2], BATCH_MOST);
  all_stored(N);
  drop(msgs, N);
  close_pub(pub);
}

static void a_call_with_more_is_split_in_order(void **state) {
  (void)state;
  enum { N = 2500 };
  static wm_message *msgs[N];
  static wm_result results[N];
  wm_publisher *pub = open_at("script:");
  make(msgs, N);
  memset(results, 0xff, sizeof results);
  assert_int_equal(wm_publish(pub, "orders", msgs, N, results, &err), WM_OK);
  for (size_t i = 0; i < N; i++)
    assert_int_equal(results[i], WM_STORED);
  assert_int_equal(script.calls, 3);
  all_stored(N);
  drop(msgs, N);
  close_pub(pub);
}

static void a_batch_has_four_mebibytes_at_most_or_one_message(void **state) {
  (void)state;
  wm_message *msgs[] = {large(3 << 20), large(900 << 10), large(3 << 20), large(5 << 20),
                        large(10)};
  wm_publisher *pub = open_at("script:");
  assert_int_equal(wm_publish(pub, "orders", msgs, 5, NULL, &err), WM_OK);
  const size_t sizes[] = {2, 1, 1, 1};
  assert_int_equal(script.calls, 4);
  for (size_t i = 0; i < 4; i++)
    assert_int_equal(script.sizes[i], sizes[i]);
  drop(msgs, 5);
  close_pub(pub);
}

static void nothing_to_publish_is_no_call(void **state) {
  (void)state;
  wm_publisher *pub = open_at("script:");
  assert_int_equal(wm_publish(pub, "orders", NULL, 0, NULL, &err), WM_OK);
  assert_int_equal(wm_publish_async(pub, "orders", NULL, 0, tell, NULL, &err), WM_OK);
  wait_until_told(1);
  assert_int_equal(script.calls, 0);
  close_pub(pub);
}

static void order_by_gives_the_partition_key(void **state) {
  (void)state;
  wm_pair pair = {{"customer", 8}, {"ann", 3}};
  wm_message *msg;
  assert_int_equal(wm_message_new(&msg, NULL, (wm_slice){"x", 1}, &pair, 1, &err), WM_OK);
  wm_publisher *pub = open_at("script:?order_by=customer");
  assert_int_equal(wm_publish(pub, "orders", &msg, 1, NULL, &err), WM_OK);
  assert_string_equal(script.key, "ann");
  assert_int_equal(publish(pub, "without"), WM_OK);
  assert_string_equal(script.key, "");
  wm_message_release(msg);
  close_pub(pub);
}

/* ---- results -------------------------------------------------------------------------------- */

static int refuse_the_second(size_t call, const wm_outgoing *out, size_t n, wm_result *results,
                             wm_error *e) {
  (void)out;
  if (call || n < 2) return WM_OK;
  results[1] = WM_RESULT_REFUSED;
  wm_fail_with(e, WM_REFUSED, "too odd");
  return WM_OK;
}

static void a_refusal_is_final_and_of_its_message_alone(void **state) {
  (void)state;
  wm_message *msgs[3];
  wm_result results[3];
  wm_publisher *pub = open_at("script:");
  make(msgs, 3);
  answer_with(refuse_the_second);
  assert_int_equal(wm_publish(pub, "orders", msgs, 3, results, &err), WM_REFUSED);
  assert_int_equal(results[0], WM_STORED);
  assert_int_equal(results[1], WM_RESULT_REFUSED);
  assert_int_equal(results[2], WM_STORED);
  assert_int_equal(script.calls, 1);
  assert_string_equal(
      err.text,
      "publish to 'orders' on script:: refused: too odd; of 3 messages 2 are stored, 1 is "
      "refused (REFUSED)");
  drop(msgs, 3);
  close_pub(pub);
}

static wm_publisher *failing_pub;

/* The batch of four: 0 stored, 1 not sent, 2 unknown, 3 stored, and meanwhile something new comes. The next
 * one: 1 stored, 2 not sent. Then all. */
static int fail_in_the_middle(size_t call, const wm_outgoing *out, size_t n, wm_result *results,
                              wm_error *e) {
  (void)out;
  if (call == 0 || call > 2) return WM_OK;
  if (call == 1 && publish_async(failing_pub, "new") != WM_OK) abort();
  results[1] = WM_RESULT_NOT_SENT;
  if (n > 2) results[2] = WM_RESULT_UNKNOWN;
  return wm_fail_with(e, WM_UNREACHABLE, "connection lost");
}

static void what_failed_is_repeated_in_order_before_all_else(void **state) {
  (void)state;
  wm_message *msgs[4];
  failing_pub = open_at("script:");
  make(msgs, 4);
  answer_with(fail_in_the_middle);
  shut_gate();
  assert_int_equal(publish_async(failing_pub, "first"), WM_OK);
  wait_for_calls(1);
  assert_int_equal(wm_publish_async(failing_pub, "orders", msgs, 4, tell, NULL, &err), WM_OK);
  open_gate();
  wait_until_told(3);
  const char *order[] = {"first", "0", "3", "1", "2", "new"};
  const size_t sizes[] = {1, 4, 2, 1, 1};
  assert_int_equal(script.calls, 5);
  for (size_t i = 0; i < 5; i++)
    assert_int_equal(script.sizes[i], sizes[i]);
  assert_int_equal(script.n_stored, 6);
  for (size_t i = 0; i < 6; i++)
    stored_is(i, order[i]);
  assert_int_equal(told.codes[0], 3);
  drop(msgs, 4);
  close_pub(failing_pub);
}

static int unknown_once(size_t call, const wm_outgoing *out, size_t n, wm_result *results,
                        wm_error *e) {
  (void)out;
  if (call > 1) return WM_OK;
  for (size_t i = 0; i < n; i++)
    results[i] = call ? WM_RESULT_REFUSED : WM_RESULT_UNKNOWN;
  return call ? WM_OK : wm_fail_with(e, WM_UNREACHABLE, "connection lost");
}

static void what_may_be_stored_and_is_then_refused_may_be_stored(void **state) {
  (void)state;
  wm_message *msg = message("x");
  wm_result result;
  wm_publisher *pub = open_at("script:");
  answer_with(unknown_once);
  assert_int_equal(wm_publish(pub, "orders", &msg, 1, &result, &err), WM_UNKNOWN);
  assert_int_equal(result, WM_RESULT_UNKNOWN);
  assert_int_equal(script.calls, 2);
  wm_message_release(msg);
  close_pub(pub);
}

/* 2 stored, then always the third of what is left unknown */
static int two_of_five(size_t call, const wm_outgoing *out, size_t n, wm_result *results,
                       wm_error *e) {
  (void)out;
  for (size_t i = call ? 0 : 2; i < n; i++)
    results[i] = call ? WM_RESULT_NOT_SENT : WM_RESULT_UNKNOWN;
  return wm_fail_with(e, WM_UNREACHABLE, "connection refused");
}

static void a_timeout_says_what_is_stored_and_what_may_be(void **state) {
  (void)state;
  wm_message *msgs[5];
  wm_result results[5];
  wm_publisher *pub = open_at("script:?timeout=200ms");
  make(msgs, 5);
  answer_with(two_of_five);
  assert_int_equal(wm_publish(pub, "orders", msgs, 5, results, &err), WM_UNKNOWN);
  for (size_t i = 0; i < 5; i++)
    assert_int_equal(results[i], i < 2 ? WM_STORED : WM_RESULT_UNKNOWN);
  assert_string_equal(
      err.text,
      "publish to 'orders' on script:?timeout=200ms: no confirmation within 0.2 s "
      "(connection refused); of 5 messages 2 are stored, 3 may be (UNKNOWN); publishing those "
      "again may double them; or raise timeout");
  assert_true(script.calls > 1);
  drop(msgs, 5);
  close_pub(pub);
}

static int refuse_connections(size_t call, const wm_outgoing *out, size_t n, wm_result *results,
                              wm_error *e) {
  (void)call;
  (void)out;
  for (size_t i = 0; i < n; i++)
    results[i] = WM_RESULT_NOT_SENT;
  return wm_fail_with(e, WM_UNREACHABLE, "connection refused");
}

static void what_was_never_sent_is_told_so(void **state) {
  (void)state;
  wm_publisher *pub = open_at("script:?timeout=100ms");
  answer_with(refuse_connections);
  assert_int_equal(publish(pub, "x"), WM_NOT_SENT);
  text_has(err.text, "no confirmation within 0.1 s (connection refused); it was not sent");
  assert_int_equal(publish_async(pub, "x"), WM_OK);
  wait_until_told(1);
  assert_int_equal(told.codes[-WM_NOT_SENT], 1);
  assert_int_equal(told.last[0], WM_RESULT_NOT_SENT);
  text_has(told.text, "(connection refused)");
  close_pub(pub);
}

static int deny(size_t call, const wm_outgoing *out, size_t n, wm_result *results, wm_error *e) {
  refuse_connections(call, out, n, results, e);
  return wm_fail_with(e, WM_DENIED, "wrong password for 'app'");
}

static void wrong_credentials_are_told_at_once(void **state) {
  (void)state;
  wm_publisher *pub = open_at("script:");
  answer_with(deny);
  assert_int_equal(publish(pub, "x"), WM_DENIED);
  text_has(err.text,
           "publish to 'orders' on script:: denied: wrong password for 'app'; it was not sent");
  assert_int_equal(script.calls, 1);
  close_pub(pub);
}

static int no_such_topic(size_t call, const wm_outgoing *out, size_t n, wm_result *results,
                         wm_error *e) {
  refuse_connections(call, out, n, results, e);
  return wm_fail_with(e, WM_NOT_FOUND, "no such topic");
}

static int lost_then_no_such_topic(size_t call, const wm_outgoing *out, size_t n,
                                   wm_result *results, wm_error *e) {
  if (call) return no_such_topic(call, out, n, results, e);
  refuse_connections(call, out, n, results, e);
  results[0] = WM_RESULT_UNKNOWN;
  return WM_UNREACHABLE;
}

static void what_will_never_work_is_refused_at_once(void **state) {
  (void)state;
  wm_message *msg = message("x");
  wm_result result;
  wm_publisher *pub = open_at("script:");
  answer_with(no_such_topic);
  assert_int_equal(wm_publish(pub, "orders", &msg, 1, &result, &err), WM_REFUSED);
  assert_int_equal(result, WM_RESULT_REFUSED);
  assert_string_equal(err.text, "publish to 'orders' on script:: refused: no such topic");
  assert_int_equal(script.calls, 1);
  script.calls = 0;
  answer_with(lost_then_no_such_topic);
  assert_int_equal(wm_publish(pub, "orders", &msg, 1, &result, &err), WM_UNKNOWN);
  assert_int_equal(result, WM_RESULT_UNKNOWN);
  text_has(err.text, "refused: no such topic; it may be stored (UNKNOWN)");
  wm_message_release(msg);
  close_pub(pub);
}

/* The topic "secret" is denied, the other messages of its batch fail with it the first time. */
static int deny_one_topic(size_t call, const wm_outgoing *out, size_t n, wm_result *results,
                          wm_error *e) {
  (void)call;
  bool denied = false;
  for (size_t i = 0; i < n; i++) {
    bool secret = strcmp(out[i].topic, "secret") == 0;
    if (secret || (denied && i + 1 == n)) results[i] = WM_RESULT_NOT_SENT;
    denied |= secret;
  }
  return denied ? wm_fail_with(e, WM_DENIED, "no right to 'secret'") : WM_OK;
}

static void a_denial_is_of_the_first_that_failed_alone(void **state) {
  (void)state;
  wm_message *msgs[3];
  wm_publisher *pub = open_at("script:");
  make(msgs, 3);
  answer_with(deny_one_topic);
  shut_gate();
  assert_int_equal(wm_publish_async(pub, "orders", &msgs[0], 1, tell, NULL, &err), WM_OK);
  wait_for_calls(1);
  assert_int_equal(wm_publish_async(pub, "orders", &msgs[0], 1, tell, NULL, &err), WM_OK);
  assert_int_equal(wm_publish_async(pub, "secret", &msgs[1], 1, tell, NULL, &err), WM_OK);
  assert_int_equal(wm_publish_async(pub, "orders", &msgs[2], 1, tell, NULL, &err), WM_OK);
  open_gate();
  wait_until_told(4);
  assert_int_equal(told.codes[0], 3);
  assert_int_equal(told.codes[-WM_DENIED], 1);
  assert_int_equal(script.calls, 3);
  drop(msgs, 3);
  close_pub(pub);
}

static void bad_input_is_refused_before_anything_is_sent(void **state) {
  (void)state;
  wm_pair pair = {{"bad", 3}, {"x", 1}};
  wm_message *msgs[3];
  wm_result results[3] = {WM_STORED, WM_STORED, WM_STORED};
  wm_publisher *pub = open_at("script://u:secret@h");
  make(msgs, 2);
  assert_int_equal(wm_message_new(&msgs[2], NULL, (wm_slice){"x", 1}, &pair, 1, &err), WM_OK);
  assert_int_equal(wm_publish(pub, "orders", msgs, 3, results, &err), WM_BAD_INPUT);
  assert_string_equal(
      err.text,
      "publish to 'orders' on script://u:***@h: message 3 of 3, none of which was sent: the "
      "metadata key 'bad' is bad");
  for (size_t i = 0; i < 3; i++)
    assert_int_equal(results[i], WM_RESULT_NOT_SENT);
  assert_int_equal(wm_publish_async(pub, "orders", msgs, 3, tell, NULL, &err), WM_BAD_INPUT);
  assert_int_equal(wm_publish(pub, "or*", msgs, 1, NULL, &err), WM_BAD_INPUT);
  assert_string_equal(err.text, "publish on script://u:***@h: the topic 'or*' has a '*'");
  assert_int_equal(wm_publish(pub, "", msgs, 1, NULL, &err), WM_BAD_INPUT);
  assert_int_equal(wm_publish(pub, NULL, msgs, 1, NULL, NULL), WM_BAD_INPUT);
  assert_int_equal(wm_publish_async(pub, "a\nb", msgs, 1, tell, NULL, &err), WM_BAD_INPUT);
  drop(msgs, 3);
  msgs[0] = large(SCRIPT_PAYLOAD_MAX + 1);
  assert_int_equal(wm_publish(pub, "orders", msgs, 1, NULL, &err), WM_TOO_LARGE);
  text_has(err.text, "at most 8388608");
  wm_message_release(msgs[0]);
  assert_int_equal(script.calls, 0);
  close_pub(pub);
  assert_int_equal(told.n, 0);
}

/* ---- waiting -------------------------------------------------------------------------------- */

static void over_queue_bytes_async_refuses_and_blocking_waits(void **state) {
  (void)state;
  wm_message *msg = large(1000);
  wm_publisher *pub = open_at("script:?queue_bytes=2k"),
               *hasty = open_at("script:?queue_bytes=1&timeout=50ms");
  caller waits;
  shut_gate();
  assert_int_equal(publish_async(pub, "first"), WM_OK);
  wait_for_calls(1);
  assert_int_equal(wm_publish_async(pub, "orders", &msg, 1, tell, NULL, &err), WM_OK);
  assert_int_equal(wm_publish_async(pub, "orders", &msg, 1, tell, NULL, &err), WM_TIMEOUT);
  text_has(err.text, "raise queue_bytes");
  start(&waits, pub,
        "large enough not to "
        "fit........................................................................"
        ".........................................................................................."
        "......"
        ".........................................................................................."
        "......"
        ".........................................................................................."
        "......");
  assert_int_equal(publish_async(hasty, "x"), WM_OK); /* larger than its limit, but alone */
  assert_int_equal(publish(hasty, "x"), WM_NOT_SENT);
  text_has(err.text, "the queue is full");
  assert_int_equal(queued(pub), 2);
  open_gate();
  assert_int_equal(end(&waits), WM_OK);
  wait_until_told(3);
  close_pub(pub);
  wm_publisher_close(hasty, SCRIPT_WAIT_MS);
  assert_int_equal(script.n_stored, 3 + (told.codes[0] == 3));
  wm_message_release(msg);
}

static void a_short_timeout_does_not_wait_for_others_batches(void **state) {
  (void)state;
  wm_publisher *slow = open_at("script:?timeout=20s"), *hasty = open_at("script:?timeout=50ms");
  caller leader;
  shut_gate();
  start(&leader, slow, "slow");
  wait_for_calls(1);
  assert_int_equal(publish(hasty, "hasty"), WM_NOT_SENT); /* the gate is still shut */
  open_gate();
  assert_int_equal(end(&leader), WM_OK);
  assert_int_equal(script.n_stored, 1);
  close_pub(slow);
  close_pub(hasty);
}

static void a_batch_is_not_cut_short_by_who_has_no_time_left(void **state) {
  (void)state;
  wm_publisher *slow = open_at("script:?timeout=20s"), *hasty = open_at("script:?timeout=600ms");
  shut_gate();
  assert_int_equal(publish_async(slow, "first"), WM_OK);
  wait_for_calls(1);
  assert_int_equal(script.timeout_ms > 10000, true);
  assert_int_equal(publish_async(hasty, "second"), WM_OK);
  assert_int_equal(publish_async(slow, "second"), WM_OK);
  poll(NULL, 0, 50); /* of its time; not waiting for anything */
  open_gate();
  wait_until_told(3);
  if (script.sizes[1] == 2) assert_int_equal(script.timeout_ms, 600);
  close_pub(slow);
  close_pub(hasty);
}

/* A publisher that has all the time, with one message that has failed so often that the next try is more than a
 * second away. */
static wm_publisher *open_failing(void) {
  wm_publisher *patient = open_at("script:?timeout=1h");
  answer_with(refuse_connections);
  assert_int_equal(publish_async(patient, "x"), WM_OK);
  wait_for_calls(6);
  return patient;
}

static void who_has_no_time_for_the_next_try_is_told_before(void **state) {
  (void)state;
  wm_publisher *patient = open_failing(), *hasty = open_at("script:?timeout=20ms");
  assert_int_equal(publish_async(hasty, "x"), WM_OK);
  wait_until_told(1);
  assert_int_equal(script.calls, 6);
  assert_int_equal(told.codes[-WM_NOT_SENT], 1);
  close_pub(hasty);
  assert_int_equal(wm_publisher_close(patient, 0), WM_TIMEOUT);
}

static void after_a_pause_the_first_try_comes_at_once(void **state) {
  (void)state;
  wm_publisher *patient = open_failing(), *pub = open_at("script:?timeout=1s");
  assert_int_equal(wm_publisher_close(patient, 0), WM_TIMEOUT);
  answer_with(NULL);
  assert_int_equal(publish(pub, "x"), WM_OK);
  assert_int_equal(script.calls, 7);
  close_pub(pub);
}

static int refuse_thrice(size_t call, const wm_outgoing *out, size_t n, wm_result *results,
                         wm_error *e) {
  return call < 3 ? refuse_connections(call, out, n, results, e) : WM_OK;
}

static void an_outage_is_logged_once_and_so_is_its_end(void **state) {
  (void)state;
  wm_publisher *pub = open_at("script://u:secret@h");
  answer_with(refuse_thrice);
  assert_int_equal(publish(pub, "x"), WM_OK);
  assert_int_equal(script.calls, 4);
  assert_int_equal(warnings, 1);
  text_has(last_warning, "script://u:***@h: connection refused, try 1, next in 0.");
  text_has(last_warning, "1 message to publish");
  assert_int_equal(infos, 1);
  text_has(last_info, "script://u:***@h: ");
  assert_int_equal(publish(pub, "y"), WM_OK);
  assert_int_equal(infos + warnings, 2);
  close_pub(pub);
}

/* ---- callbacks ------------------------------------------------------------------------------ */

static wm_publisher *again_pub;

static void publish_again(void *arg, int code, const wm_result *results, size_t n,
                          const wm_error *e) {
  size_t *left = arg;
  if (code == WM_OK && --*left) {
    wm_message *msg = message("again");
    if (wm_publish_async(again_pub, "orders", &msg, 1, publish_again, left, &err) != WM_OK) abort();
    wm_message_release(msg);
  }
  tell(NULL, code, results, n, e);
}

static void a_callback_may_publish_again(void **state) {
  (void)state;
  size_t left = 100;
  wm_message *msg = message("first");
  again_pub = open_at("script:?queue_bytes=1");
  assert_int_equal(wm_publish_async(again_pub, "orders", &msg, 1, publish_again, &left, &err),
                   WM_OK);
  wait_until_told(100);
  assert_int_equal(script.n_stored, 100);
  assert_false(pthread_equal(told.thread, pthread_self()));
  wm_message_release(msg);
  close_pub(again_pub);
}

static void a_blocking_caller_runs_nobodys_callback(void **state) {
  (void)state;
  wm_publisher *pub = open_at("script:");
  caller blocking;
  shut_gate();
  start(&blocking, pub, "blocking");
  wait_for_calls(1);
  assert_int_equal(publish_async(pub, "async"), WM_OK);
  open_gate();
  assert_int_equal(end(&blocking), WM_OK);
  wait_until_told(1);
  assert_int_equal(script.calls, 2);
  assert_false(pthread_equal(told.thread, blocking.thread));
  close_pub(pub);
}

/* ---- closing -------------------------------------------------------------------------------- */

static void closing_sends_what_is_queued(void **state) {
  (void)state;
  enum { N = 3000 };
  static wm_message *msgs[N];
  wm_publisher *pub = open_at("script:");
  make(msgs, N);
  for (size_t i = 0; i < N; i++)
    assert_int_equal(wm_publish_async(pub, "orders", &msgs[i], 1, tell, NULL, &err), WM_OK);
  close_pub(pub);
  assert_int_equal(told.codes[0], N);
  all_stored(N);
  assert_int_equal(script.publish_closed, 1);
  assert_int_equal(script.closed, 1);
  drop(msgs, N);
}

static void what_remains_when_closing_fails_and_is_told(void **state) {
  (void)state;
  wm_publisher *pub = open_at("script:");
  caller blocking;
  answer_with(refuse_connections);
  assert_int_equal(publish_async(pub, "a"), WM_OK);
  start(&blocking, pub, "b");
  assert_int_equal(publish_async(pub, "c"), WM_OK);
  wait_until_queued(pub, 3);
  assert_int_equal(wm_publisher_close(pub, 50), WM_TIMEOUT);
  assert_int_equal(told.codes[-WM_CLOSED], 2);
  text_has(
      told.text,
      "the publisher was closed before it was confirmed (connection refused); it was not sent");
  assert_int_equal(end(&blocking), WM_CLOSED);
  assert_int_equal(script.closed, 1);
}

static int unknown(size_t call, const wm_outgoing *out, size_t n, wm_result *results, wm_error *e) {
  refuse_connections(call, out, n, results, e);
  for (size_t i = 0; i < n; i++)
    results[i] = WM_RESULT_UNKNOWN;
  return WM_UNREACHABLE;
}

static void *open_gate_when_asked(void *arg) {
  wm_publisher *pub = arg;
  wait_until_queued(pub, 1); /* "a" alone: the rest was given up, closing waits for it */
  open_gate();
  return NULL;
}

static void closing_waits_for_the_batch_under_way(void **state) {
  (void)state;
  wm_publisher *pub = open_at("script:");
  pthread_t opener;
  answer_with(unknown);
  shut_gate();
  assert_int_equal(publish_async(pub, "a"), WM_OK);
  wait_for_calls(1);
  assert_int_equal(publish_async(pub, "b"), WM_OK);
  pthread_create(&opener, NULL, open_gate_when_asked, pub);
  assert_int_equal(wm_publisher_close(pub, 0), WM_TIMEOUT);
  pthread_join(opener, NULL);
  assert_int_equal(told.codes[-WM_CLOSED], 1);  /* b */
  assert_int_equal(told.codes[-WM_UNKNOWN], 1); /* a */
  assert_int_equal(script.calls, 1);
}

static void *close_now(void *arg) {
  assert_int_equal(wm_publisher_close(arg, SCRIPT_WAIT_MS), WM_OK);
  return NULL;
}

static void closing_turns_away_who_waits_for_room(void **state) {
  (void)state;
  wm_publisher *pub = open_at("script:?queue_bytes=1");
  caller waits;
  pthread_t closer;
  shut_gate();
  assert_int_equal(publish_async(pub, "a"), WM_OK);
  wait_for_calls(1);
  start(&waits, pub, "b");
  poll(NULL, 0, 20); /* it may wait by now or find the publisher closed: either is right */
  pthread_create(&closer, NULL, close_now, pub);
  assert_int_equal(end(&waits), WM_CLOSED);
  text_has(waits.err.text, "the publisher is closed");
  open_gate();
  pthread_join(closer, NULL);
  assert_int_equal(script.n_stored, 1);
}

static void publishing_ends_with_the_last_publisher(void **state) {
  (void)state;
  wm_connection *conn;
  wm_settings settings;
  assert_int_equal(
      wm_connection_open(&conn, "script:", NULL, wm_publisher_options, &settings, &err), WM_OK);
  wm_settings_clear(&settings);
  for (int i = 1; i < 3; i++) {
    wm_publisher *a = open_at("script:"), *b;
    assert_int_equal(wm_publisher_open_on(&b, conn, 1000, &err), WM_OK);
    assert_int_equal(publish(a, "x"), WM_OK);
    close_pub(a);
    assert_int_equal(script.publish_closed, i - 1);
    assert_int_equal(publish(b, "x"), WM_OK);
    assert_int_equal(script.timeout_ms, 1000);
    close_pub(b);
    assert_int_equal(script.publish_closed, i);
  }
  assert_int_equal(script.closed, 0);
  wm_connection_release(conn);
  assert_int_equal(script.closed, 1);
}

static void tell_closed(void *arg, int code, const wm_error *e) {
  (void)arg;
  tell(NULL, code, NULL, 0, e);
}

static void closing_without_waiting_tells_when_it_is_done(void **state) {
  (void)state;
  wm_publisher *pub = open_at("script:"), *stuck = open_at("script:");
  shut_gate();
  assert_int_equal(publish_async(pub, "x"), WM_OK);
  wait_for_calls(1);
  wm_publisher_close_async(pub, SCRIPT_WAIT_MS, tell_closed, NULL);
  open_gate();
  wait_until_told(2);
  assert_int_equal(told.codes[0], 2);
  answer_with(refuse_connections);
  assert_int_equal(publish_async(stuck, "x"), WM_OK);
  wm_publisher_close_async(stuck, 0, tell_closed, NULL);
  wait_until_told(4);
  assert_int_equal(told.codes[-WM_TIMEOUT], 1);
  assert_int_equal(told.codes[-WM_CLOSED], 1);
}

static void stats_count_by_result(void **state) {
  (void)state;
  wm_publisher_stats stats;
  wm_message *msgs[3];
  wm_publisher *pub = open_at("script:?timeout=50ms"), *other = open_at("script:");
  make(msgs, 3);
  answer_with(refuse_the_second);
  assert_int_equal(wm_publish(pub, "orders", msgs, 3, NULL, &err), WM_REFUSED);
  assert_int_equal(publish(other, "x"), WM_OK);
  answer_with(unknown);
  assert_int_equal(publish(pub, "x"), WM_UNKNOWN);
  wm_publisher_get_stats(pub, &stats);
  assert_int_equal(stats.stored, 2);
  assert_int_equal(stats.refused, 1);
  assert_int_equal(stats.not_sent, 0);
  assert_int_equal(stats.unknown, 1);
  assert_int_equal(stats.batches, script.calls - 1);
  assert_int_equal(stats.queued, 0);
  assert_int_equal(stats.queued_bytes, 0);
  answer_with(NULL);
  shut_gate();
  assert_int_equal(publish_async(other, "x"), WM_OK);
  wm_publisher_get_stats(other, &stats);
  assert_int_equal(stats.stored, 1);
  assert_int_equal(stats.queued, 1);
  assert_true(stats.queued_bytes > 0);
  open_gate();
  drop(msgs, 3);
  close_pub(pub);
  close_pub(other);
}

/* ---- all at once ---------------------------------------------------------------------------- */

enum { CROWD = 8, CROWD_MESSAGES = 400 };

static unsigned mix(size_t call, size_t i) {
  uint64_t x = (call * 2654435761u + i + 1) * 0x9e3779b97f4a7c15u;
  return (unsigned)(x >> 40);
}

/* Now and then a batch is cut off somewhere, at times for longer. */
static int fail_at_times(size_t call, const wm_outgoing *out, size_t n, wm_result *results,
                         wm_error *e) {
  (void)out;
  if (mix(call, 0) % 16) return WM_OK;
  for (size_t i = mix(call, 1) % n; i < n; i++)
    results[i] = WM_RESULT_NOT_SENT;
  return wm_fail_with(e, WM_UNREACHABLE, "connection lost");
}

typedef struct member {
  pthread_t thread;
  int id;
  wm_publisher *pub;
} member;

static void *take_part(void *arg) {
  member *m = arg;
  char text[32];
  for (int i = 0; i < CROWD_MESSAGES; i++) {
    snprintf(text, sizeof text, "%d %d", m->id, i);
    wm_message *msg = message(text);
    wm_error e;
    bool async = m->id % 2 && i % 3;
    int rc = async ? wm_publish_async(m->pub, "orders", &msg, 1, tell, NULL, &e)
                   : wm_publish(m->pub, "orders", &msg, 1, NULL, &e);
    if (rc != WM_OK) fail_msg("%s", e.text);
    wm_message_release(msg);
  }
  return NULL;
}

static void everything_arrives_once_and_in_the_order_of_each_thread(void **state) {
  (void)state;
  member members[CROWD];
  wm_publisher *pubs[] = {open_at("script:?timeout=60s"), open_at("script:?timeout=50s")};
  answer_with(fail_at_times);
  for (int i = 0; i < CROWD; i++) {
    members[i] = (member){.id = i, .pub = pubs[i / 2 % 2]};
    pthread_create(&members[i].thread, NULL, take_part, &members[i]);
  }
  for (int i = 0; i < CROWD; i++)
    pthread_join(members[i].thread, NULL);
  close_pub(pubs[0]);
  close_pub(pubs[1]);
  int next[CROWD] = {0}, id, i;
  assert_int_equal(script.n_stored, CROWD * CROWD_MESSAGES);
  for (size_t k = 0; k < script.n_stored; k++) {
    assert_int_equal(sscanf(script.stored[k], "%d %d", &id, &i), 2);
    assert_int_equal(i, next[id]);
    next[id]++;
  }
  assert_false(script.overlapped);
  assert_int_equal(script.publish_closed, 1);
}

static void *open_publish_close(void *arg) {
  for (int i = 0; i < 100; i++) {
    wm_publisher *pub = open_at("script:");
    if (publish_async(pub, "x") != WM_OK || publish(pub, "x") != WM_OK) abort();
    close_pub(pub);
  }
  return arg;
}

static void publishers_come_and_go(void **state) {
  (void)state;
  enum { THREADS = 4 };
  pthread_t threads[THREADS];
  for (int i = 0; i < THREADS; i++)
    pthread_create(&threads[i], NULL, open_publish_close, NULL);
  for (int i = 0; i < THREADS; i++)
    pthread_join(threads[i], NULL);
  assert_int_equal(script.n_stored, THREADS * 200);
  assert_int_equal(told.n, THREADS * 100);
  assert_false(script.overlapped);
  assert_int_equal(script.opened, script.closed);
}

int main(void) {
  wm_log_set(keep_log, NULL, WM_LOG_INFO);
#define T(name) cmocka_unit_test_setup(name, setup_told)
  const struct CMUnitTest tests[] = {
      T(a_lone_message_is_sent_by_its_caller_at_once),
      T(what_queues_up_meanwhile_is_the_next_batch),
      T(a_batch_has_a_thousand_messages_at_most),
      T(a_call_with_more_is_split_in_order),
      T(a_batch_has_four_mebibytes_at_most_or_one_message),
      T(nothing_to_publish_is_no_call),
      T(order_by_gives_the_partition_key),
      T(a_refusal_is_final_and_of_its_message_alone),
      T(what_failed_is_repeated_in_order_before_all_else),
      T(what_may_be_stored_and_is_then_refused_may_be_stored),
      T(a_timeout_says_what_is_stored_and_what_may_be),
      T(what_was_never_sent_is_told_so),
      T(wrong_credentials_are_told_at_once),
      T(what_will_never_work_is_refused_at_once),
      T(a_denial_is_of_the_first_that_failed_alone),
      T(bad_input_is_refused_before_anything_is_sent),
      T(over_queue_bytes_async_refuses_and_blocking_waits),
      T(a_short_timeout_does_not_wait_for_others_batches),
      T(a_batch_is_not_cut_short_by_who_has_no_time_left),
      T(who_has_no_time_for_the_next_try_is_told_before),
      T(after_a_pause_the_first_try_comes_at_once),
      T(an_outage_is_logged_once_and_so_is_its_end),
      T(a_callback_may_publish_again),
      T(a_blocking_caller_runs_nobodys_callback),
      T(closing_sends_what_is_queued),
      T(what_remains_when_closing_fails_and_is_told),
      T(closing_waits_for_the_batch_under_way),
      T(closing_turns_away_who_waits_for_room),
      T(publishing_ends_with_the_last_publisher),
      T(closing_without_waiting_tells_when_it_is_done),
      T(stats_count_by_result),
      T(everything_arrives_once_and_in_the_order_of_each_thread),
      T(publishers_come_and_go),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
