/*
 * subscription_dead_test.c - what has failed for good goes to the dead letter topic: what wm.h promises of that,
 * against a broker that does what the test says.
 */
#include <sys/resource.h>

#include "subscribing.h"

/* ---- the letters -------------------------------------------------------------------------- */

/* The last message that was published, as text "key=value\n...", and what it was. */
static struct {
  char pairs[2000], uuid[64], payload[64], topic[64];
  size_t n_pairs;
  int refuse; /* so many publishes are */
} letter;     /* under script.lock */

static int take_letter(size_t call, const wm_outgoing *out, size_t n, wm_result *results,
                       wm_error *e) {
  (void)call;
  size_t used = 0;
  pthread_mutex_lock(&script.lock);
  const wm_message *msg = out[n - 1].msg;
  for (size_t i = 0; i < wm_message_pairs(msg); i++) {
    wm_pair p = wm_message_pair(msg, i);
    used += (size_t)snprintf(letter.pairs + used, sizeof letter.pairs - used, "%s=%s\n", p.key.data,
                             p.value.data);
  }
  letter.n_pairs = wm_message_pairs(msg);
  snprintf(letter.uuid, sizeof letter.uuid, "%s", msg->uuid.data);
  snprintf(letter.payload, sizeof letter.payload, "%s", msg->payload.data);
  snprintf(letter.topic, sizeof letter.topic, "%s", out[n - 1].topic);
  bool refused = letter.refuse > 0 && letter.refuse--;
  pthread_mutex_unlock(&script.lock);
  if (!refused) return WM_OK;
  for (size_t i = 0; i < n; i++)
    results[i] = WM_RESULT_REFUSED;
  return wm_fail_with(e, WM_REFUSED, "the topic is full");
}

static size_t letters(void) {
  pthread_mutex_lock(&script.lock);
  size_t n = script.calls;
  pthread_mutex_unlock(&script.lock);
  return n;
}

static void set_publish_gate(bool shut) {
  pthread_mutex_lock(&script.lock);
  script.gate = shut;
  pthread_cond_broadcast(&script.changed);
  pthread_mutex_unlock(&script.lock);
}

static void refuse(int times) {
  pthread_mutex_lock(&script.lock);
  letter.refuse = times;
  pthread_mutex_unlock(&script.lock);
}

static int begin_dead_test(void **state) {
  begin_test(state);
  memset(&letter, 0, sizeof letter);
  script.answer = take_letter;
  return 0;
}

static bool has_key(const char *key) {
  char line[80];
  snprintf(line, sizeof line, "\n%s=", key);
  return strncmp(letter.pairs, line + 1, strlen(line + 1)) == 0 || strstr(letter.pairs, line);
}

/* "2024-05-06T07:08:09.123Z" */
static void is_time(const char *key) {
  char line[80], text[40];
  int y, mo, d, h, mi, s, ms;
  snprintf(line, sizeof line, "\n%s=", key);
  const char *at = strstr(letter.pairs, line);
  assert_non_null(at);
  snprintf(text, sizeof text, "%s", at + strlen(line));
  *strchrnul(text, '\n') = 0;
  assert_int_equal(strlen(text), 24);
  assert_int_equal(sscanf(text, "%4d-%2d-%2dT%2d:%2d:%2d.%3dZ", &y, &mo, &d, &h, &mi, &s, &ms), 7);
  assert_true(y >= 2020 && text[23] == 'Z');
}

static int64_t cpu_ms(void) {
  struct rusage used;
  getrusage(RUSAGE_THREAD, &used);
  return (used.ru_utime.tv_sec + used.ru_stime.tv_sec) * 1000 +
         (used.ru_utime.tv_usec + used.ru_stime.tv_usec) / 1000;
}

/* ---- going there -------------------------------------------------------------------------- */

static void the_last_failure_goes_there_with_its_reason(void **state) {
  (void)state;
  wm_subscription *sub = subscribe("group=mail&dead_letter=dead&max_attempts=2");
  wm_consumer *con = consumer(sub);
  wm_message *made = received("1", "k");
  put_messages(&made, 1);
  wm_message *msg = take(con, "1");
  assert_true(wm_fail(msg, 0, "first error", "first trace"));
  wm_message_release(msg);
  assert_int_equal(wm_flush(sub, SCRIPT_WAIT_MS), WM_OK);
  msg = take(con, "1");
  assert_int_equal(letters(), 0);
  assert_true(wm_fail(msg, 0, "no such address", "stack:\n  a.lua:1"));
  assert_false(wm_ack(msg));
  wm_message_release(msg);
  until(stats(sub).dead == 1);
  assert_string_equal(letter.topic, "dead");
  assert_string_equal(letter.uuid, "u-1");
  assert_string_equal(letter.payload, "1");
  text_has(letter.pairs, "key=k\n");
  text_has(letter.pairs, "\nreason_poisoned=no such address\n");
  text_has(letter.pairs, "\ntopic_poisoned=orders\n");
  text_has(letter.pairs, "\nhandler_poisoned=mail\n");
  text_has(letter.pairs, "\nsubscriber_poisoned=script\n");
  text_has(letter.pairs, "\n_wm_dead_attempts=2\n");
  text_has(letter.pairs, "\n_wm_dead_error=no such address\n");
  text_has(letter.pairs, "\n_wm_dead_traceback=stack:\n  a.lua:1\n");
  is_time("_wm_dead_first_time");
  is_time("_wm_dead_last_time");
  assert_int_equal(letter.n_pairs, 10);
  until(logged("message u-1 went to dead letter topic 'dead' after attempt 2") == 1);
  told_broker("n1:2|a1|");
  wm_subscription_stats s = stats(sub);
  assert_int_equal(s.nacked, 2);
  assert_int_equal(s.acked, 0);
  close_sub(sub);
  wm_consumer_close(con);
}

static void who_nacks_without_a_word_gives_no_error(void **state) {
  (void)state;
  wm_subscription *sub = subscribe("dead_letter=dead&max_attempts=1");
  wm_consumer *con = consumer(sub);
  put("1");
  wm_message *msg = take(con, "1");
  assert_true(wm_nack(msg, WM_BACKOFF));
  wm_message_release(msg);
  until(stats(sub).dead == 1);
  text_has(letter.pairs, "reason_poisoned=nacked max_attempts times\n");
  text_has(letter.pairs, "\nhandler_poisoned=\n");
  assert_false(has_key("_wm_dead_error") || has_key("_wm_dead_traceback"));
  close_sub(sub);
  wm_consumer_close(con);
}

static void a_program_may_send_it_there_itself(void **state) {
  (void)state;
  wm_subscription *sub = subscribe("dead_letter=dead&max_in_flight=2");
  wm_consumer *con = consumer(sub);
  put_numbers(2);
  wm_message *one = take(con, "1"), *two = take(con, "2");
  assert_true(wm_dead(one, "bad JSON", "at byte 3"));
  assert_false(wm_dead(one, "again", NULL) || wm_ack(one) || wm_nack(one, 0));
  until(stats(sub).dead == 1);
  text_has(letter.pairs, "reason_poisoned=bad JSON\n");
  text_has(letter.pairs, "\n_wm_dead_attempts=1\n");
  text_has(letter.pairs, "\n_wm_dead_traceback=at byte 3\n");
  assert_true(wm_dead(two, NULL, NULL));
  until(stats(sub).dead == 2 && ops_taken() == 2);
  wm_message_release(one);
  wm_message_release(two);
  close_sub(sub);
  wm_consumer_close(con);
}

static void what_an_earlier_death_wrote_is_replaced(void **state) {
  (void)state;
  wm_subscription *sub = subscribe("dead_letter=dead");
  wm_consumer *con = consumer(sub);
  wm_message *made = wm_message_alloc(8, 512);
  wm_message_set_payload(made, "1", 1);
  wm_message_set_uuid(made, "u-1", 3);
  wm_message_add(made, "reason_poisoned", 15, "old", 3);
  wm_message_add(made, "_wm_dead_traceback", 18, "old", 3);
  wm_message_add(made, "own", 3, "kept", 4);
  made->first_attempt = 1;
  put_messages(&made, 1);
  wm_message *msg = take(con, "1");
  assert_true(wm_dead(msg, "new", NULL));
  wm_message_release(msg);
  until(stats(sub).dead == 1);
  text_has(letter.pairs, "own=kept\nreason_poisoned=new\n");
  assert_null(strstr(letter.pairs, "old"));
  assert_false(has_key("_wm_dead_traceback"));
  close_sub(sub);
  wm_consumer_close(con);
}

static void a_record_that_cannot_be_read_goes_there_when_asked_for(void **state) {
  (void)state;
  wm_subscription *sub = subscribe("dead_letter=dead&on_undecodable=dead_letter");
  wm_consumer *con = consumer(sub);
  wm_message *made = received("raw", NULL);
  made->undecodable = "no field payload";
  put_messages(&made, 1);
  put("2");
  take_and_ack(con, "2");
  until(stats(sub).dead == 1);
  assert_string_equal(letter.payload, "raw");
  text_has(letter.pairs, "reason_poisoned=no field payload\n");
  assert_int_equal(logged("moved to the dead letter topic"), 1);
  assert_int_equal(stats(sub).handed_out, 1);
  until(ops_taken() == 2);
  text_has(feed.ops, "araw");
  close_sub(sub);
  wm_consumer_close(con);
}

/* ---- held until it is there --------------------------------------------------------------- */

static void it_is_acked_only_when_it_is_stored_there(void **state) {
  (void)state;
  wm_subscription *sub = subscribe("dead_letter=dead");
  wm_consumer *con = consumer(sub);
  put_numbers(2);
  wm_message *msg = take(con, "1");
  set_publish_gate(true);
  assert_true(wm_dead(msg, "bad", NULL));
  wm_message_release(msg);
  until(letters() == 1);
  nothing(con); /* in order: the next one waits */
  assert_false(readable(con));
  assert_int_equal(stats(sub).unsettled, 0);
  assert_int_equal(stats(sub).dead, 0);
  set_publish_gate(false);
  assert_true(readable_within(con, PROMPT_MS));
  take_and_ack(con, "2");
  until(ops_taken() == 2);
  assert_int_equal(strncmp(feed.ops, "a1", 2), 0);
  close_sub(sub);
  wm_consumer_close(con);
}

static void what_cannot_be_published_is_held_and_tried_again(void **state) {
  (void)state;
  wm_subscription *sub = subscribe("group=mail&dead_letter=dead");
  wm_consumer *con = consumer(sub);
  put_numbers(2);
  wm_message *msg = take(con, "1");
  refuse(3);
  int64_t began = wm_now_ms();
  assert_true(wm_dead(msg, "bad", NULL));
  wm_message_release(msg);
  take_and_ack(con, "2"); /* after four tries */
  assert_true(wm_now_ms() - began >= 50 + 100 + 200);
  assert_int_equal(letters(), 4);
  assert_int_equal(stats(sub).dead, 1);
  assert_int_equal(logged("message u-1 is held, as dead letter topic 'dead' did not take it"), 3);
  assert_int_equal(logged("the topic is full"), 3);
  until(logged("went to dead letter topic") == 1);
  close_sub(sub);
  wm_consumer_close(con);
}

/* Its time has come, but the settler, who sends it, waits for the broker. */
static void waiting_behind_a_dead_letter_is_no_work(void **state) {
  (void)state;
  enum { STAND = 200 };
  wm_subscription *sub = subscribe("dead_letter=dead");
  wm_consumer *con = consumer(sub), *polls = consumer(sub);
  wm_message *msg;
  put_numbers(3);
  set_gate(FEED_SETTLE, true);
  take_and_ack(con, "1");
  until(calls(FEED_SETTLE) == 1);
  msg = take(con, "2");
  assert_true(wm_dead(msg, "bad", NULL));
  wm_message_release(msg);
  nothing(polls);
  assert_false(readable(polls));
  int64_t before = cpu_ms();
  assert_int_equal(wm_next(con, &msg, 1, STAND), WM_TIMEOUT);
  assert_true(cpu_ms() - before < STAND / 4);
  assert_int_equal(letters(), 0);
  set_gate(FEED_SETTLE, false);
  take_and_ack(con, "3");
  close_sub(sub);
  wm_consumer_close(con);
  wm_consumer_close(polls);
}

static void a_changed_topic_counts_from_then_on(void **state) {
  (void)state;
  wm_subscription *sub = subscribe("dead_letter=dead");
  wm_consumer *con = consumer(sub);
  wm_options *opts = wm_options_new();
  put_numbers(4);
  wm_message *msg = take(con, "1");
  wm_options_set(opts, "dead_letter", "grave");
  assert_int_equal(wm_subscription_configure(sub, opts, &err), WM_OK);
  assert_true(wm_dead(msg, "bad", NULL));
  wm_message_release(msg);
  msg = take(con, "2");
  assert_string_equal(letter.topic, "grave");
  /* without one there is nowhere to go, but for what is on its way */
  refuse(1);
  assert_true(wm_dead(msg, "bad", NULL));
  wm_message_release(msg);
  until(letters() == 2);
  wm_options_set(opts, "dead_letter", "");
  assert_int_equal(wm_subscription_configure(sub, opts, &err), WM_OK);
  msg = take(con, "3");
  assert_int_equal(letters(), 3);
  assert_int_equal(stats(sub).dead, 2);
  assert_false(wm_dead(msg, "bad", NULL));
  ack(msg);
  wm_options_free(opts);
  close_sub(sub);
  wm_consumer_close(con);
}

/* ---- closing meanwhile -------------------------------------------------------------------- */

static void closing_waits_for_a_letter_under_way(void **state) {
  (void)state;
  told t = {0};
  wm_subscription *sub = subscribe("dead_letter=dead");
  wm_consumer *con = consumer(sub);
  put("1");
  wm_message *msg = take(con, "1");
  set_publish_gate(true);
  assert_true(wm_dead(msg, "bad", NULL));
  wm_message_release(msg);
  until(letters() == 1);
  wm_subscription_close_async(sub, -1, tell, &t);
  until(calls(FEED_INTERRUPT) == 1);
  assert_int_equal(t.times, 0);
  set_publish_gate(false);
  assert_int_equal(told_code(&t), WM_OK);
  told_broker("a1|");
  wm_consumer_close(con);
}

static void closing_gives_back_what_was_not_published(void **state) {
  (void)state;
  wm_subscription *sub = subscribe("dead_letter=dead");
  wm_consumer *con = consumer(sub);
  put("1");
  wm_message *msg = take(con, "1");
  refuse(1000);
  assert_true(wm_dead(msg, "bad", NULL));
  wm_message_release(msg);
  until(letters() >= 2);
  close_sub(sub);
  told_broker("r1:1|");
  wm_consumer_close(con);
}

#define dead_test(name) cmocka_unit_test_setup_teardown(name, begin_dead_test, end_test)

int main(void) {
  const struct CMUnitTest tests[] = {
      dead_test(the_last_failure_goes_there_with_its_reason),
      dead_test(who_nacks_without_a_word_gives_no_error),
      dead_test(a_program_may_send_it_there_itself),
      dead_test(what_an_earlier_death_wrote_is_replaced),
      dead_test(a_record_that_cannot_be_read_goes_there_when_asked_for),
      dead_test(it_is_acked_only_when_it_is_stored_there),
      dead_test(what_cannot_be_published_is_held_and_tried_again),
      dead_test(waiting_behind_a_dead_letter_is_no_work),
      dead_test(a_changed_topic_counts_from_then_on),
      dead_test(closing_waits_for_a_letter_under_way),
      dead_test(closing_gives_back_what_was_not_published),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
