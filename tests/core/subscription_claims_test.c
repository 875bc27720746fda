/*
 * subscription_claims_test.c - claims on what is held are kept alive, and what other members took over is let go.
 * What wm.h promises of that, against a broker that does what the test says.
 */
#include <sys/resource.h>

#include "subscribing.h"

/* ---- keeping claims alive ----------------------------------------------------------------- */

static void all_that_is_held_is_touched_three_times_a_takeover(void **state) {
  (void)state;
  enum { TAKEOVER = 240, TIMES = 4 };
  wm_subscription *sub = subscribe("takeover=240ms");
  wm_consumer *con = consumer(sub);
  put_numbers(3);
  wm_message *one = take(con, "1");
  until(stats(sub).waiting == 2);
  size_t before = calls(FEED_TOUCH);
  int64_t began = wm_now_ms();
  until(calls(FEED_TOUCH) >= before + 1);
  until(feed_text_is(feed.touched, "1 2 3"));
  until(calls(FEED_TOUCH) >= before + TIMES);
  assert_true(wm_now_ms() - began >= (TIMES - 1) * TAKEOVER / 3);
  ack(one);
  assert_int_equal(wm_flush(sub, SCRIPT_WAIT_MS), WM_OK);
  until(feed_text_is(feed.touched, "2 3")); /* what is settled no more */
  take_and_ack(con, "2");
  take_and_ack(con, "3");
  assert_int_equal(wm_flush(sub, SCRIPT_WAIT_MS), WM_OK);
  close_sub(sub);
  wm_consumer_close(con);
}

static void a_touch_that_failed_is_tried_again_soon(void **state) {
  (void)state;
  wm_subscription *sub = subscribe("takeover=1h");
  put("1");
  until(stats(sub).waiting == 1);
  set_code(FEED_TOUCH, WM_UNREACHABLE);
  set_time(sub, &sub->touch_at, 0);
  promptly(calls(FEED_TOUCH) >= 3);
  set_code(FEED_TOUCH, WM_OK);
  until(logged("is there again") == 1);
  close_sub(sub);
}

static void a_prefetched_message_that_touch_finds_lost_is_dropped(void **state) {
  (void)state;
  wm_subscription *sub = subscribe("takeover=100ms");
  wm_consumer *con = consumer(sub);
  put_numbers(3);
  wm_message *one = take(con, "1");
  until(stats(sub).waiting == 2);
  take_over("2");
  until(stats(sub).waiting == 1);
  assert_int_equal(stats(sub).lost, 1);
  ack(one);
  take_and_ack(con, "3");
  assert_int_equal(wm_flush(sub, SCRIPT_WAIT_MS), WM_OK);
  assert_null(strchr(feed.ops, '2'));
  close_sub(sub);
  wm_consumer_close(con);
}

static void the_ack_of_a_lost_message_in_hand_is_true_and_has_no_effect(void **state) {
  (void)state;
  wm_subscription *sub = subscribe("takeover=100ms");
  wm_consumer *con = consumer(sub);
  put_numbers(2);
  wm_message *one = take(con, "1");
  take_over("1");
  size_t before = calls(FEED_TOUCH);
  until(returned(FEED_TOUCH) >= before + 2 && feed_text_is(feed.touched, "2"));
  assert_int_equal(stats(sub).in_flight, 1);
  assert_true(wm_ack(one));
  assert_false(wm_ack(one));
  wm_message_release(one);
  take_and_ack(con, "2");
  told_broker("a2|");
  close_sub(sub);
  wm_consumer_close(con);
}

static void messages_that_fetch_says_are_lost_are_dropped(void **state) {
  (void)state;
  wm_subscription *sub = subscribe("");
  wm_consumer *con = consumer(sub);
  put_numbers(4);
  wm_message *one = take(con, "1");
  until(stats(sub).waiting == 3);
  lose("2");
  until(stats(sub).waiting == 2);
  assert_int_equal(stats(sub).lost, 1);
  wm_message *five = received("5", NULL);
  put_and_lose(&five, 1, "1"); /* which is in hand */
  until(stats(sub).waiting == 3);
  assert_true(wm_ack(one));
  wm_message_release(one);
  wm_message *three = take(con, "3");
  wm_message *both[] = {received("6", NULL), received("7", NULL)};
  put_and_lose(both, 2, "6");
  ack(three);
  take_and_ack(con, "4");
  take_and_ack(con, "5");
  take_and_ack(con, "7");
  assert_int_equal(wm_flush(sub, SCRIPT_WAIT_MS), WM_OK);
  assert_null(strchr(feed.ops, '1'));
  assert_null(strchr(feed.ops, '2'));
  close_sub(sub);
  wm_consumer_close(con);
}

static void a_lost_message_holds_up_nobody(void **state) {
  (void)state;
  wm_subscription *sub = subscribe("");
  wm_consumer *con = consumer(sub), *polls = consumer(sub);
  standing s;
  put_numbers(2);
  wm_message *one = take(con, "1");
  until(stats(sub).waiting == 1);
  assert_true(wm_nack(one, 3600 * 1000));
  wm_message_release(one);
  nothing(polls);
  stand(&s, con, -1);
  until(stands(sub, con));
  lose("1");
  promptly(s.ended);
  assert_int_equal(stood(&s), 1);
  assert_true(is(s.msg, "2"));
  ack(s.msg);
  close_sub(sub);
  wm_consumer_close(con);
  wm_consumer_close(polls);
}

/* ---- when claims may have expired --------------------------------------------------------- */

/* Touching fails for longer than the takeover: by its backoff the third failure comes later than that. */
static void let_claims_expire(void) {
  set_code(FEED_TOUCH, WM_UNREACHABLE);
  size_t before = calls(FEED_TOUCH);
  int64_t long_ago = wm_now_ms() + 100;
  until(returned(FEED_TOUCH) >= before + 3 && wm_now_ms() > long_ago);
}

static void nothing_is_handed_out_after_claims_expired_until_touched(void **state) {
  (void)state;
  wm_subscription *sub = subscribe("takeover=100ms");
  wm_consumer *con = consumer(sub), *polls = consumer(sub);
  standing s;
  put_numbers(4);
  wm_message *one = take(con, "1");
  until(stats(sub).waiting == 3);
  let_claims_expire();
  ack(one); /* what is in hand stays so */
  nothing(con);
  nothing(polls);
  assert_false(readable(con) || readable(polls));
  stand(&s, con, -1);
  until(stands(sub, con));
  assert_int_equal(stats(sub).waiting, 3);
  take_over("2");
  set_code(FEED_TOUCH, WM_OK);
  assert_int_equal(stood(&s), 1);
  assert_true(is(s.msg, "3"));
  assert_int_equal(stats(sub).lost, 1);
  ack(s.msg);
  take_and_ack(polls, "4");
  close_sub(sub);
  wm_consumer_close(con);
  wm_consumer_close(polls);
}

static int64_t cpu_ms(void) {
  struct rusage used;
  getrusage(RUSAGE_THREAD, &used);
  return (used.ru_utime.tv_sec + used.ru_stime.tv_sec) * 1000 +
         (used.ru_utime.tv_usec + used.ru_stime.tv_usec) / 1000;
}

static void waiting_for_a_touch_is_no_work(void **state) {
  (void)state;
  enum { STAND = 200 };
  wm_subscription *sub = subscribe("takeover=100ms");
  wm_consumer *con = consumer(sub), *polls = consumer(sub);
  wm_message *msg;
  put_numbers(2);
  wm_message *one = take(con, "1");
  until(stats(sub).waiting == 1);
  assert_true(wm_nack(one, 150)); /* due when nothing may be handed out */
  wm_message_release(one);
  int64_t due = wm_now_ms() + 150;
  let_claims_expire();
  until(wm_now_ms() > due);
  nothing(polls);
  assert_false(readable(polls));
  int64_t before = cpu_ms();
  assert_int_equal(wm_next(con, &msg, 1, STAND), WM_TIMEOUT);
  assert_true(cpu_ms() - before < STAND / 4);
  set_code(FEED_TOUCH, WM_OK);
  take_and_ack(con, "1");
  take_and_ack(con, "2");
  close_sub(sub);
  wm_consumer_close(con);
  wm_consumer_close(polls);
}

static void asking_for_messages_does_not_hurry_a_broker_that_is_away(void **state) {
  (void)state;
  wm_subscription *sub = subscribe("takeover=100ms");
  wm_consumer *con = consumer(sub);
  put_numbers(2);
  ack(take(con, "1"));
  until(stats(sub).waiting == 1);
  let_claims_expire();
  size_t before = calls(FEED_TOUCH);
  int64_t began = wm_now_ms();
  until(calls(FEED_TOUCH) >= before + 2 || try_next(con) != WM_TIMEOUT);
  assert_true(wm_now_ms() - began >= 400); /* from one to the next, after three failures */
  set_code(FEED_TOUCH, WM_OK);
  take_and_ack(con, "2");
  until(logged("is there again") == 1);
  close_sub(sub);
  wm_consumer_close(con);
}

/* A broker whose claims need no upkeep. */
static void without_touch_claims_never_expire(void **state) {
  (void)state;
  static wm_backend keeper;
  if (!keeper.name) {
    keeper = script_backend;
    keeper.name = keeper.schemes = "keeper";
    keeper.touch = NULL;
    assert_int_equal(wm_backend_register(&keeper), WM_OK);
  }
  wm_subscription *sub;
  assert_int_equal(wm_subscribe(&sub, "keeper:?takeover=100ms", "orders", NULL, &err), WM_OK);
  wm_consumer *con = consumer(sub);
  put_numbers(2);
  wm_message *one = take(con, "1");
  int64_t expired = wm_now_ms() + 100;
  until(wm_now_ms() > expired);
  ack(one);
  take_and_ack(con, "2");
  assert_int_equal(calls(FEED_TOUCH), 0);
  close_sub(sub);
  wm_consumer_close(con);
}

int main(void) {
  const struct CMUnitTest tests[] = {
      test(all_that_is_held_is_touched_three_times_a_takeover),
      test(a_touch_that_failed_is_tried_again_soon),
      test(a_prefetched_message_that_touch_finds_lost_is_dropped),
      test(the_ack_of_a_lost_message_in_hand_is_true_and_has_no_effect),
      test(messages_that_fetch_says_are_lost_are_dropped),
      test(a_lost_message_holds_up_nobody),
      test(nothing_is_handed_out_after_claims_expired_until_touched),
      test(waiting_for_a_touch_is_no_work),
      test(asking_for_messages_does_not_hurry_a_broker_that_is_away),
      test(without_touch_claims_never_expire),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
