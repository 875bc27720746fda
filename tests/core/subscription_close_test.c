/*
 * subscription_close_test.c - subscriptions close gently: what is in hand gets its time, all is settled, the rest goes
 * back. What wm.h promises of that, against a broker that does what the test says.
 */
#include <sys/resource.h>

#include "subscribing.h"

/* A close in the background that has begun. */
static void begin_to_close(wm_subscription *sub, int timeout_ms, told *t) {
  *t = (told){0};
  wm_subscription_close_async(sub, timeout_ms, tell, t);
  until(calls(FEED_INTERRUPT) == 1);
}

/* ---- gently ------------------------------------------------------------------------------- */

static void closing_waits_for_what_is_in_hand(void **state) {
  (void)state;
  told t;
  wm_subscription *sub = subscribe("max_in_flight=2");
  wm_consumer *con = consumer(sub);
  put_numbers(4);
  wm_message *one = take(con, "1"), *two = take(con, "2");
  until(stats(sub).waiting == 2);
  begin_to_close(sub, -1, &t);
  assert_int_equal(try_next(con), WM_CLOSED);
  assert_true(readable(con));
  told_broker("r3:0 r4:0|");
  ack(one);
  told_broker("r3:0 r4:0|a1|");
  assert_int_equal(t.times, 0);
  assert_int_equal(calls(FEED_UNSUBSCRIBE), 0);
  ack(two);
  assert_int_equal(told_code(&t), WM_OK);
  told_broker("r3:0 r4:0|a1|a2|");
  assert_int_equal(returned(FEED_UNSUBSCRIBE), 1);
  wm_consumer_close(con);
}

static void what_was_handed_out_before_is_given_back_with_its_attempts(void **state) {
  (void)state;
  told t;
  wm_subscription *sub = subscribe("ordered=false&max_in_flight=3");
  wm_consumer *con = consumer(sub);
  wm_message *made = received("1", NULL);
  made->first_attempt = 4;
  put_messages(&made, 1);
  put_numbers(3);
  wm_message *old = take(con, "1"), *one = take(con, "1"), *two = take(con, "2");
  assert_true(wm_nack(old, 3600 * 1000) && wm_nack(one, 3600 * 1000));
  wm_message_release(old);
  wm_message_release(one);
  assert_int_equal(wm_flush(sub, SCRIPT_WAIT_MS), WM_OK);
  begin_to_close(sub, -1, &t);
  assert_true(wm_nack(two, 0)); /* while it is being closed */
  wm_message_release(two);
  assert_int_equal(told_code(&t), WM_OK);
  text_has(feed.ops, "r1:4 r1:1 r3:0");
  text_has(feed.ops, "r2:1");
  wm_consumer_close(con);
}

static void what_is_not_settled_in_time_goes_back(void **state) {
  (void)state;
  wm_subscription *sub = subscribe("group=mail");
  wm_consumer *con = consumer(sub);
  told t;
  put_numbers(2);
  wm_message *one = take(con, "1");
  until(stats(sub).waiting == 1);
  int64_t began = wm_now_ms();
  begin_to_close(sub, 60, &t);
  promptly(t.times > 0);
  assert_int_equal(told_code(&t), WM_TIMEOUT);
  assert_true(wm_now_ms() - began >= 60);
  text_has(t.text, "topic 'orders', group 'mail'");
  text_has(t.text, "still in hand");
  until(ops_taken() == 2);
  text_has(feed.ops, "r2:0");
  text_has(feed.ops, "r1:1");
  assert_false(wm_ack(one) || wm_nack(one, 0) || wm_fail(one, 0, "late", NULL) ||
               wm_dead(one, "late", NULL));
  wm_message_release(one);
  wm_consumer_close(con);
}

static void close_timeout_is_the_option_when_none_is_given(void **state) {
  (void)state;
  wm_subscription *sub = subscribe("close_timeout=50ms");
  wm_consumer *con = consumer(sub);
  put("1");
  wm_message *one = take(con, "1");
  int64_t began = wm_now_ms();
  assert_int_equal(wm_subscription_close(sub, -1), WM_TIMEOUT);
  assert_true(wm_now_ms() - began >= 50 && wm_now_ms() - began < PROMPT_MS);
  assert_false(wm_ack(one));
  wm_message_release(one);
  wm_consumer_close(con);
  sub = subscribe("close_timeout=1h");
  con = consumer(sub);
  put("1");
  one = take(con, "1");
  assert_int_equal(wm_subscription_close(sub, 0), WM_TIMEOUT);
  wm_message_release(one);
  wm_consumer_close(con);
}

static void all_acks_are_settled_before_close_returns(void **state) {
  (void)state;
  enum { MANY = 2500 };
  wm_subscription *sub = subscribe("max_in_flight=2500&prefetch=2500");
  wm_consumer *con = consumer(sub);
  put_numbers(MANY);
  for (size_t i = 0; i < MANY; i++) {
    wm_message *msg;
    assert_int_equal(wm_next(con, &msg, 1, SCRIPT_WAIT_MS), 1);
    ack(msg);
  }
  assert_int_equal(wm_subscription_close(sub, 0),
                   WM_OK); /* even without time for what is in hand */
  assert_int_equal(feed.n_ops, MANY);
  wm_consumer_close(con);
}

static void what_comes_while_it_closes_goes_back_unseen(void **state) {
  (void)state;
  told t;
  wm_subscription *sub = subscribe("");
  wm_consumer *con = consumer(sub);
  put("1");
  wm_message *one = take(con, "1");
  until(calls(FEED_FETCH) == 2);
  pthread_mutex_lock(&feed.lock);
  feed.code[FEED_FETCH] = WM_UNREACHABLE;
  pthread_mutex_unlock(&feed.lock);
  wm_subscription_pause(sub); /* what came before closing began would wait as well */
  put("2");
  begin_to_close(sub, -1, &t);
  ack(one);
  assert_int_equal(told_code(&t), WM_OK);
  if (!still_queued()) text_has(feed.ops, "r2:0");
  wm_consumer_close(con);
}

/* ---- when the broker is away -------------------------------------------------------------- */

static void a_broker_that_is_away_ends_closing_in_bounded_time(void **state) {
  (void)state;
  told t, flushed = {0};
  wm_subscription *sub = subscribe("group=mail");
  wm_consumer *con = consumer(sub);
  put_numbers(2);
  set_code(FEED_SETTLE, WM_UNREACHABLE);
  take_and_ack(con, "1");
  until(calls(FEED_SETTLE) == 1);
  wm_flush_async(sub, -1, tell, &flushed);
  set_code(FEED_FETCH, WM_UNREACHABLE);
  begin_to_close(sub, 50, &t);
  promptly(t.times > 0);
  assert_int_equal(told_code(&t), WM_TIMEOUT);
  text_has(t.text, "topic 'orders', group 'mail'");
  text_has(t.text, "could not be told");
  assert_int_equal(logged("could not be told what became of all messages"), 1);
  assert_int_equal(told_code(&flushed), WM_CLOSED);
  text_has(flushed.text, "closed");
  assert_int_equal(returned(FEED_UNSUBSCRIBE), 1);
  wm_consumer_close(con);
}

static void a_broker_that_returns_is_told_all_while_it_closes(void **state) {
  (void)state;
  told t, flushed = {0};
  wm_subscription *sub = subscribe("");
  wm_consumer *con = consumer(sub);
  put_numbers(2);
  set_code(FEED_SETTLE, WM_UNREACHABLE);
  take_and_ack(con, "1");
  until(calls(FEED_SETTLE) == 1);
  wm_flush_async(sub, -1, tell, &flushed);
  begin_to_close(sub, SCRIPT_WAIT_MS, &t);
  size_t before = calls(FEED_SETTLE);
  until(calls(FEED_SETTLE) > before);
  assert_int_equal(t.times, 0);
  set_code(FEED_SETTLE, WM_OK);
  assert_int_equal(told_code(&t), WM_OK);
  assert_int_equal(told_code(&flushed), WM_OK);
  text_has(feed.ops, "a1 r2:0|");
  wm_consumer_close(con);
}

/* The pause after many failures is longer than the time that closing has. */
static void closing_asks_a_broker_that_was_away_at_once(void **state) {
  (void)state;
  wm_subscription *sub = subscribe("");
  wm_consumer *con = consumer(sub);
  put("1");
  set_code(FEED_SETTLE, WM_UNREACHABLE);
  take_and_ack(con, "1");
  settle_much_later(sub);
  set_code(FEED_SETTLE, WM_OK);
  assert_int_equal(wm_subscription_close(sub, 0), WM_OK);
  assert_int_equal(feed.n_ops, 1);
  wm_consumer_close(con);
}

static void an_outage_of_fetching_does_not_hold_up_closing(void **state) {
  (void)state;
  enum { FAILURES = 7, NEXT_MS = 3200 };
  wm_subscription *sub = subscribe("");
  set_code(FEED_FETCH, WM_UNREACHABLE);
  until(stats(sub).retries >= FAILURES);
  int64_t began = wm_now_ms();
  size_t before = calls(FEED_FETCH);
  close_sub(sub);
  assert_true(wm_now_ms() - began < NEXT_MS);
  assert_true(calls(FEED_FETCH) <= before + 1);
}

static void a_close_during_a_slow_touch_is_not_overlooked(void **state) {
  (void)state;
  told t = {0};
  wm_subscription *sub = subscribe("takeover=1h");
  put("1");
  until(stats(sub).waiting == 1);
  set_gate(FEED_TOUCH, true);
  set_time(sub, &sub->touch_at, 0);
  until(calls(FEED_TOUCH) == 1);
  wm_subscription_close_async(sub, -1, tell, &t);
  set_gate(FEED_TOUCH, false);
  promptly(t.times > 0);
  assert_int_equal(told_code(&t), WM_OK);
  told_broker("r1:0|");
}

static int64_t cpu_ms(void) {
  struct rusage used;
  getrusage(RUSAGE_SELF, &used);
  return (used.ru_utime.tv_sec + used.ru_stime.tv_sec) * 1000 +
         (used.ru_utime.tv_usec + used.ru_stime.tv_usec) / 1000;
}

static void waiting_for_a_silent_broker_is_no_work(void **state) {
  (void)state;
  enum { WATCH = 200, LONG_AGO = 60000 };
  told opened = {0}, t = {0};
  wm_subscription *sub;
  wm_message *msg;
  wm_consumer *loose = consumer(NULL);
  set_gate(FEED_SUBSCRIBE, true);
  assert_int_equal(wm_subscribe_async(&sub, "script:", "orders", NULL, tell, &opened, NULL), WM_OK);
  until(calls(FEED_SUBSCRIBE) == 1);
  wm_subscription_close_async(sub, 0, tell, &t);
  set_time(sub, &sub->close_until, wm_now_ms() - LONG_AGO);
  int64_t before = cpu_ms();
  assert_int_equal(wm_next(loose, &msg, 1, WATCH), WM_TIMEOUT);
  assert_true(cpu_ms() - before < WATCH / 4);
  set_gate(FEED_SUBSCRIBE, false);
  assert_int_equal(told_code(&t), WM_OK);
  wm_consumer_close(loose);
}

/* ---- afterwards --------------------------------------------------------------------------- */

static void consumers_and_messages_outlive_it(void **state) {
  (void)state;
  told t = {0};
  wm_subscription *sub = subscribe("group=mail");
  wm_consumer *con = consumer(sub), *other = consumer(NULL);
  put("1");
  wm_message *one = take(con, "1");
  assert_int_equal(wm_subscription_close(sub, 0), WM_TIMEOUT);
  assert_true(is(one, "1"));
  assert_string_equal(wm_message_topic(one), "orders");
  assert_int_equal(wm_message_attempt(one), 1);
  assert_false(wm_ack(one));
  assert_int_equal(try_next(con), WM_CLOSED);
  wm_message *msg;
  assert_int_equal(wm_next(con, &msg, 1, -1), WM_CLOSED);
  assert_true(readable(con));
  assert_int_equal(wm_consumer_reclaim(con), 0);
  assert_ptr_equal(wm_consumer_subscription(con), sub);
  assert_string_equal(wm_subscription_topic(sub), "orders");
  assert_string_equal(wm_subscription_group(sub), "mail");
  wm_subscription_pause(sub);
  assert_int_equal(try_next(con), WM_CLOSED);
  wm_subscription_resume(sub);
  assert_int_equal(wm_flush(sub, -1), WM_CLOSED);
  wm_flush_async(sub, -1, tell, &t);
  assert_int_equal(told_code(&t), WM_CLOSED);
  assert_int_equal(wm_subscription_configure(sub, NULL, &err), WM_CLOSED);
  text_has(err.text, "closed");
  assert_int_equal(wm_subscription_switch(sub, &other, 1, &err), WM_CLOSED);
  assert_int_equal(stats(sub).handed_out, 1);
  wm_consumer_close(con);
  assert_string_equal(wm_message_topic(one), "orders"); /* which only the message holds now */
  assert_false(wm_nack(one, 0));
  wm_message_release(one);
  wm_consumer_close(other);
}

static void nobody_needs_to_wait_for_it(void **state) {
  (void)state;
  wm_subscription *sub = subscribe("");
  wm_subscription_close_async(sub, -1, NULL, NULL);
  until(all_closed());
  assert_int_equal(returned(FEED_UNSUBSCRIBE), 1);
  assert_int_equal(wm_subscription_close(NULL, 0), WM_OK);
}

static void a_connection_is_closed_with_its_last_subscription(void **state) {
  (void)state;
  wm_subscription *sub = subscribe("group=a"), *other = subscribe("group=b");
  close_sub(sub);
  pthread_mutex_lock(&script.lock);
  assert_int_equal(script.opened, 1);
  assert_int_equal(script.closed, 0);
  pthread_mutex_unlock(&script.lock);
  close_sub(other);
  assert_true(all_closed());
}

/* ---- all at once -------------------------------------------------------------------------- */

enum { THREADS = 4, ROUNDS = 25 };

/* Waits for messages until it hears the end, then closes the consumer while the subscription may be closing. */
static void *consume_until_closed(void *arg) {
  wm_consumer *con = arg;
  wm_message *msg;
  while (wm_next(con, &msg, 1, -1) > 0) {
    wm_ack(msg);
    wm_message_release(msg);
  }
  wm_consumer_close(con);
  return NULL;
}

static void *open_and_close(void *arg) {
  atomic_int *bad = arg;
  for (int i = 0; i < ROUNDS; i++) {
    wm_subscription *sub;
    wm_consumer *cons[2];
    pthread_t threads[2];
    told opened = {0};
    if (wm_subscribe_async(&sub, "script:?group=a", "orders", NULL, tell, &opened, NULL) != WM_OK)
      abort();
    for (int k = 0; k < 2; k++)
      if (wm_consumer_open(&cons[k], sub, NULL) != WM_OK ||
          pthread_create(&threads[k], NULL, consume_until_closed, cons[k]) != 0)
        abort();
    if (i % 2) until(opened.times > 0);
    *bad += wm_subscription_close(sub, SCRIPT_WAIT_MS) != WM_OK;
    *bad += opened.times != 1 || (opened.code != WM_OK && opened.code != WM_CLOSED);
    for (int k = 0; k < 2; k++)
      pthread_join(threads[k], NULL);
  }
  return NULL;
}

static void many_open_and_close_at_once(void **state) {
  (void)state;
  pthread_t threads[THREADS];
  atomic_int bad = 0;
  for (size_t i = 0; i < THREADS; i++)
    assert_int_equal(pthread_create(&threads[i], NULL, open_and_close, &bad), 0);
  put_numbers(50);
  for (size_t i = 0; i < THREADS; i++)
    pthread_join(threads[i], NULL);
  assert_int_equal(bad, 0);
  until(returned(FEED_UNSUBSCRIBE) == returned(FEED_SUBSCRIBE));
}

int main(void) {
  const struct CMUnitTest tests[] = {
      test(closing_waits_for_what_is_in_hand),
      test(what_was_handed_out_before_is_given_back_with_its_attempts),
      test(what_is_not_settled_in_time_goes_back),
      test(close_timeout_is_the_option_when_none_is_given),
      test(all_acks_are_settled_before_close_returns),
      test(what_comes_while_it_closes_goes_back_unseen),
      test(a_broker_that_is_away_ends_closing_in_bounded_time),
      test(a_broker_that_returns_is_told_all_while_it_closes),
      test(closing_asks_a_broker_that_was_away_at_once),
      test(an_outage_of_fetching_does_not_hold_up_closing),
      test(a_close_during_a_slow_touch_is_not_overlooked),
      test(waiting_for_a_silent_broker_is_no_work),
      test(consumers_and_messages_outlive_it),
      test(nobody_needs_to_wait_for_it),
      test(a_connection_is_closed_with_its_last_subscription),
      test(many_open_and_close_at_once),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
