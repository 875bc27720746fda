/*
 * subscription_settle_test.c - what became of messages is told to the broker in bulk and in order, and flushes wait for
 * it. What wm.h promises of that, against a broker that does what the test says.
 */
#include <time.h>

#include "subscribing.h"

static size_t count_of(const char *text, char c) {
  size_t n = 0;
  for (; *text; text++)
    n += *text == c;
  return n;
}

/* ---- settling in bulk --------------------------------------------------------------------- */

static void a_lone_ack_goes_at_once(void **state) {
  (void)state;
  wm_subscription *sub = subscribe("");
  wm_consumer *con = consumer(sub);
  for (size_t i = 1; i <= 5; i++) {
    put("1");
    take_and_ack(con, "1");
    promptly(ops_taken() == i);
    nothing(con);
  }
  told_broker("a1|a1|a1|a1|a1|");
  close_sub(sub);
  wm_consumer_close(con);
}

static void acks_given_while_the_broker_is_asked_go_together(void **state) {
  (void)state;
  wm_subscription *sub = subscribe("max_in_flight=8");
  wm_consumer *con = consumer(sub);
  set_gate(FEED_SETTLE, true);
  put("1");
  take_and_ack(con, "1");
  until(calls(FEED_SETTLE) == 1);
  set_gate(FEED_FETCH, true);
  put_numbers(3);
  put("4");
  set_gate(FEED_FETCH, false);
  wm_message *one = take(con, "1"), *two = take(con, "2"), *three = take(con, "3"),
             *four = take(con, "4");
  ack(two);
  ack(one);
  assert_true(wm_nack(three, 0));
  wm_message_release(three);
  ack(four);
  assert_int_equal(stats(sub).unsettled, 5);
  assert_int_equal(calls(FEED_SETTLE), 1);
  set_gate(FEED_SETTLE, false);
  told_broker("a1|a2 a1 n3:2 a4|");
  take_and_ack(con, "3");
  told_broker("a1|a2 a1 n3:2 a4|a3|");
  close_sub(sub);
  wm_consumer_close(con);
}

static int64_t now_us(void) {
  struct timespec t;
  clock_gettime(CLOCK_MONOTONIC, &t);
  return t.tv_sec * 1000000 + t.tv_nsec / 1000;
}

/* While messages are handed out, ops are collected for a millisecond, or until there are many. */
static void acks_are_collected_while_there_is_work(void **state) {
  (void)state;
  enum { MANY = 500, EACH_US = 100, SLACK = 10 };
  wm_subscription *sub = subscribe("max_in_flight=501&prefetch=501");
  wm_consumer *con = consumer(sub);
  wm_message *msgs[MANY + 1];
  size_t n = 0;
  put_numbers(MANY + 1);
  while (n < MANY + 1) {
    int got = wm_next(con, msgs + n, MANY + 1 - n, SCRIPT_WAIT_MS);
    assert_true(got > 0);
    n += (size_t)got;
  }
  int64_t began = wm_now_ms();
  for (size_t i = 0; i < MANY; i++) {
    int64_t next = now_us() + EACH_US;
    ack(msgs[i]);
    while (now_us() < next)
      sched_yield();
  }
  assert_int_equal(wm_flush(sub, SCRIPT_WAIT_MS), WM_OK);
  size_t most = (size_t)(wm_now_ms() - began) + SLACK;
  assert_true(calls(FEED_SETTLE) <= most);
  ack(msgs[MANY]); /* the last goes at once */
  promptly(ops_taken() == MANY + 1);
  close_sub(sub);
  wm_consumer_close(con);
}

static void at_most_1000_go_together(void **state) {
  (void)state;
  enum { MANY = 2500, MOST = 1000 };
  wm_subscription *sub = subscribe("max_in_flight=2501&prefetch=2501");
  wm_consumer *con = consumer(sub);
  put("0");
  set_gate(FEED_SETTLE, true);
  take_and_ack(con, "0");
  until(calls(FEED_SETTLE) == 1);
  put_numbers(MANY);
  for (size_t n = 1; n <= MANY; n++) {
    char text[24];
    snprintf(text, sizeof text, "%zu", n);
    take_and_ack(con, text);
    assert_true(asked_for() <= MOST);
  }
  set_gate(FEED_SETTLE, false);
  until(ops_taken() == MANY + 1);
  assert_int_equal(count_of(feed.ops, '|'), 4);
  size_t batch = 0;
  for (const char *at = feed.ops; *at; at++) {
    batch = *at == '|' ? 0 : batch + (*at == 'a');
    assert_true(batch <= MOST);
  }
  close_sub(sub);
  wm_consumer_close(con);
}

static void what_the_broker_did_not_take_comes_again_in_order(void **state) {
  (void)state;
  wm_subscription *sub = subscribe("max_in_flight=4");
  wm_consumer *con = consumer(sub);
  put_numbers(4);
  wm_message *one = take(con, "1"), *two = take(con, "2"), *three = take(con, "3"),
             *four = take(con, "4");
  set_gate(FEED_SETTLE, true);
  set_code(FEED_SETTLE, WM_UNREACHABLE);
  ack(three);
  until(calls(FEED_SETTLE) == 1);
  assert_true(wm_nack(one, 0));
  wm_message_release(one);
  ack(two);
  let_pass(FEED_SETTLE);
  until(calls(FEED_SETTLE) == 2); /* after a while: it has failed */
  ack(four);
  let_pass(FEED_SETTLE);
  until(calls(FEED_SETTLE) == 3);
  set_code(FEED_SETTLE, WM_OK);
  set_gate(FEED_SETTLE, false);
  told_broker("a3!a3 n1:2 a2!a3 n1:2 a2 a4|");
  until(stats(sub).unsettled == 0);
  assert_int_equal(stats(sub).retries, 2);
  assert_int_equal(logged("the script says UNREACHABLE"), 1);
  assert_int_equal(logged("is there again"), 1);
  take_and_ack(con, "1");
  close_sub(sub);
  wm_consumer_close(con);
}

static void however_many_were_not_taken_they_keep_their_order(void **state) {
  (void)state;
  enum { MANY = 300 };
  wm_subscription *sub = subscribe("max_in_flight=300");
  wm_consumer *con = consumer(sub);
  put("0");
  set_gate(FEED_SETTLE, true);
  take_and_ack(con, "0");
  until(calls(FEED_SETTLE) == 1);
  put_numbers(MANY);
  for (size_t n = 0; n < MANY; n++) {
    wm_message *msg;
    assert_int_equal(wm_next(con, &msg, 1, SCRIPT_WAIT_MS), 1);
    ack(msg);
  }
  let_pass(FEED_SETTLE);
  until(calls(FEED_SETTLE) == 2);
  set_code(FEED_SETTLE, WM_UNREACHABLE);
  let_pass(FEED_SETTLE);
  until(calls(FEED_SETTLE) == 3);
  set_code(FEED_SETTLE, WM_OK);
  set_gate(FEED_SETTLE, false);
  assert_int_equal(wm_flush(sub, SCRIPT_WAIT_MS), WM_OK);
  assert_int_equal(ops_taken(), MANY + 1);
  const char *first = strchr(feed.ops, '|') + 1, *again = strchr(feed.ops, '!') + 1;
  assert_int_equal(count_of(again, 'a'), MANY);
  assert_int_equal(strncmp(first, again, (size_t)(again - first) - 1), 0);
  close_sub(sub);
  wm_consumer_close(con);
}

static void what_settle_refuses_is_an_outage_too(void **state) {
  (void)state;
  wm_subscription *sub = subscribe("");
  wm_consumer *con = consumer(sub);
  set_code(FEED_SETTLE, WM_DENIED);
  put("1");
  take_and_ack(con, "1");
  until(logged("the script says DENIED") == 1);
  set_code(FEED_SETTLE, WM_OK);
  until(ops_taken() == 1);
  put("2");
  take_and_ack(con, "2");
  close_sub(sub);
  wm_consumer_close(con);
}

static void an_outage_is_asked_after_with_growing_pauses(void **state) {
  (void)state;
  wm_subscription *sub = subscribe("");
  wm_consumer *con = consumer(sub);
  set_code(FEED_SETTLE, WM_UNREACHABLE);
  put("1");
  int64_t began = wm_now_ms();
  take_and_ack(con, "1");
  until(calls(FEED_SETTLE) == 3);
  assert_true(wm_now_ms() - began >= 50 + 100);
  set_code(FEED_SETTLE, WM_OK);
  close_sub(sub);
  wm_consumer_close(con);
}

static void an_ack_overtakes_the_note_of_the_same_message(void **state) {
  (void)state;
  wm_subscription *sub = subscribe("");
  wm_consumer *con = consumer(sub);
  put("0");
  set_gate(FEED_SETTLE, true);
  take_and_ack(con, "0");
  until(calls(FEED_SETTLE) == 1);
  put("1");
  wm_message *one = take(con, "1");
  assert_true(wm_nack(one, 0)); /* its note waits */
  wm_message_release(one);
  take_and_ack(con, "1"); /* and is no longer of use */
  put("2");
  one = take(con, "2");
  assert_true(wm_nack(one, 0));
  wm_message_release(one);
  let_pass(FEED_SETTLE);
  until(calls(FEED_SETTLE) == 2);
  set_code(FEED_SETTLE, WM_UNREACHABLE);
  take_and_ack(con, "2"); /* while its note is with the broker, who does not take it */
  let_pass(FEED_SETTLE);
  until(calls(FEED_SETTLE) == 3);
  set_code(FEED_SETTLE, WM_OK);
  set_gate(FEED_SETTLE, false);
  told_broker("a0|a1 n2:2!a1 a2|");
  close_sub(sub);
  wm_consumer_close(con);
}

static void what_settle_finds_lost_is_counted(void **state) {
  (void)state;
  wm_subscription *sub = subscribe("");
  wm_consumer *con = consumer(sub);
  set_gate(FEED_SETTLE, true);
  put_numbers(2);
  take_and_ack(con, "1");
  until(calls(FEED_SETTLE) == 1);
  take_over("1");
  set_gate(FEED_SETTLE, false);
  take_and_ack(con, "2");
  assert_int_equal(wm_flush(sub, SCRIPT_WAIT_MS), WM_OK);
  assert_int_equal(stats(sub).lost, 1);
  close_sub(sub);
  wm_consumer_close(con);
}

/* ---- flushing ----------------------------------------------------------------------------- */

static void a_flush_waits_for_the_acks_given_and_no_others(void **state) {
  (void)state;
  told before = {0}, between = {0}, after = {0};
  wm_subscription *sub = subscribe("max_in_flight=4");
  wm_consumer *con = consumer(sub);
  put_numbers(4);
  wm_message *one = take(con, "1"), *two = take(con, "2"), *three = take(con, "3"),
             *four = take(con, "4");
  set_gate(FEED_SETTLE, true);
  ack(one);
  until(calls(FEED_SETTLE) == 1);
  wm_flush_async(sub, -1, tell, &before);
  ack(two);
  wm_flush_async(sub, -1, tell, &between);
  ack(three);
  let_pass(FEED_SETTLE);
  assert_int_equal(told_code(&before), WM_OK); /* 2 and 3 are with the broker */
  until(calls(FEED_SETTLE) == 2);
  ack(four);
  wm_flush_async(sub, -1, tell, &after);
  assert_int_equal(between.times, 0);
  let_pass(FEED_SETTLE);
  assert_int_equal(told_code(&between), WM_OK);
  until(calls(FEED_SETTLE) == 3);
  assert_int_equal(after.times, 0);
  let_pass(FEED_SETTLE);
  assert_int_equal(told_code(&after), WM_OK);
  set_gate(FEED_SETTLE, false);
  told_broker("a1|a2 a3|a4|");
  close_sub(sub);
  wm_consumer_close(con);
}

/* What the broker has taken just before the flush, and is being freed now, is none of it. */
static void a_flush_counts_nothing_that_was_taken_before_it(void **state) {
  (void)state;
  enum { MANY = 48, SIZE = 1 << 20 };
  wm_subscription *sub = subscribe("max_in_flight=64&prefetch_bytes=1G");
  wm_consumer *con = consumer(sub);
  wm_message *msgs[MANY], *last;
  char *payload = malloc(SIZE + 1);
  memset(payload, 'x', SIZE);
  payload[SIZE] = 0;
  for (size_t i = 0; i < MANY; i++)
    put(payload);
  put("last");
  for (size_t i = 0; i < MANY; i++)
    msgs[i] = take(con, payload);
  last = take(con, "last");
  set_gate(FEED_SETTLE, true);
  ack(msgs[0]);
  until(calls(FEED_SETTLE) == 1);
  for (size_t i = 1; i < MANY; i++)
    ack(msgs[i]);
  let_pass(FEED_SETTLE);
  until(calls(FEED_SETTLE) == 2);
  let_pass(FEED_SETTLE);
  while (stats(sub).unsettled)
    sched_yield(); /* no longer: freeing takes some ms */
  ack(last);
  assert_int_equal(wm_flush(sub, 20), WM_TIMEOUT);
  set_gate(FEED_SETTLE, false);
  assert_int_equal(wm_flush(sub, SCRIPT_WAIT_MS), WM_OK);
  assert_int_equal(ops_taken(), MANY + 1);
  free(payload);
  close_sub(sub);
  wm_consumer_close(con);
}

static void a_flush_with_nothing_to_wait_for_returns(void **state) {
  (void)state;
  told t = {0};
  wm_subscription *sub = subscribe("");
  wm_consumer *con = consumer(sub);
  put("1");
  wm_message *one = take(con, "1");
  assert_int_equal(wm_flush(sub, 0), WM_OK);
  wm_flush_async(sub, 0, tell, &t);
  assert_int_equal(t.times, 1);
  assert_int_equal(told_code(&t), WM_OK);
  assert_int_equal(calls(FEED_SETTLE), 0);
  ack(one);
  close_sub(sub);
  wm_consumer_close(con);
}

static void each_flush_has_its_own_time(void **state) {
  (void)state;
  told soon = {0}, later = {0};
  wm_subscription *sub = subscribe("group=mail");
  wm_consumer *con = consumer(sub);
  set_code(FEED_SETTLE, WM_UNREACHABLE);
  put("1");
  take_and_ack(con, "1");
  settle_much_later(sub);
  assert_int_equal(wm_flush(sub, 0), WM_TIMEOUT);
  assert_int_equal(wm_flush(sub, 20), WM_TIMEOUT);
  int64_t began = wm_now_ms();
  wm_flush_async(sub, -1, tell, &later);
  wm_flush_async(sub, 60, tell, &soon);
  promptly(soon.times > 0);
  assert_int_equal(told_code(&soon), WM_TIMEOUT);
  assert_true(wm_now_ms() - began >= 60);
  text_has(soon.text, "topic 'orders', group 'mail'");
  text_has(soon.text, "1 are left");
  assert_int_equal(later.times, 0);
  set_code(FEED_SETTLE, WM_OK);
  set_time(sub, &sub->settle_at, 0);
  assert_int_equal(told_code(&later), WM_OK);
  assert_int_equal(wm_flush(sub, SCRIPT_WAIT_MS), WM_OK);
  close_sub(sub);
  wm_consumer_close(con);
}

static void a_flush_returns_in_time_though_the_broker_does_not_answer(void **state) {
  (void)state;
  wm_subscription *sub = subscribe("");
  wm_consumer *con = consumer(sub);
  set_gate(FEED_SETTLE, true);
  put("1");
  take_and_ack(con, "1");
  until(calls(FEED_SETTLE) == 1);
  assert_int_equal(wm_flush(sub, 20), WM_TIMEOUT);
  set_gate(FEED_SETTLE, false);
  assert_int_equal(wm_flush(sub, SCRIPT_WAIT_MS), WM_OK);
  close_sub(sub);
  wm_consumer_close(con);
}

static void a_flush_does_not_wait_for_what_is_lost(void **state) {
  (void)state;
  told t = {0};
  wm_subscription *sub = subscribe("");
  wm_consumer *con = consumer(sub);
  set_code(FEED_SETTLE, WM_UNREACHABLE);
  put("1");
  take_and_ack(con, "1");
  settle_much_later(sub);
  wm_flush_async(sub, -1, tell, &t);
  lose("1");
  promptly(t.times > 0);
  assert_int_equal(told_code(&t), WM_OK);
  set_code(FEED_SETTLE, WM_OK);
  close_sub(sub);
  wm_consumer_close(con);
}

/* A callback takes its time, and the broker's turn comes meanwhile. */
static void linger(void *arg, int code, const wm_error *e) {
  int64_t over = wm_now_ms() + 100;
  until(wm_now_ms() > over);
  tell(arg, code, e);
}

static void what_falls_due_during_a_callback_is_not_forgotten(void **state) {
  (void)state;
  told t = {0};
  wm_subscription *sub = subscribe("");
  wm_consumer *con = consumer(sub);
  set_code(FEED_SETTLE, WM_UNREACHABLE);
  put("1");
  take_and_ack(con, "1");
  until(stats(sub).retries > 0);
  set_code(FEED_SETTLE, WM_OK);
  wm_flush_async(sub, 1, linger, &t);
  assert_true(told_code(&t) == WM_TIMEOUT || ops_taken() == 1); /* OK: the test was too slow */
  promptly(ops_taken() == 1);
  close_sub(sub);
  wm_consumer_close(con);
}

int main(void) {
  const struct CMUnitTest tests[] = {
      test(a_lone_ack_goes_at_once),
      test(acks_given_while_the_broker_is_asked_go_together),
      test(acks_are_collected_while_there_is_work),
      test(at_most_1000_go_together),
      test(what_the_broker_did_not_take_comes_again_in_order),
      test(however_many_were_not_taken_they_keep_their_order),
      test(what_settle_refuses_is_an_outage_too),
      test(an_outage_is_asked_after_with_growing_pauses),
      test(an_ack_overtakes_the_note_of_the_same_message),
      test(what_settle_finds_lost_is_counted),
      test(a_flush_waits_for_the_acks_given_and_no_others),
      test(a_flush_counts_nothing_that_was_taken_before_it),
      test(a_flush_with_nothing_to_wait_for_returns),
      test(each_flush_has_its_own_time),
      test(a_flush_returns_in_time_though_the_broker_does_not_answer),
      test(a_flush_does_not_wait_for_what_is_lost),
      test(what_falls_due_during_a_callback_is_not_forgotten),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
