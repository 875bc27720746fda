/*
 * subscription_switch_test.c - consumers are replaced by others while messages flow, given up, and paused. What wm.h
 * promises of that, against a broker that does what the test says.
 */
#include "subscribing.h"

/* ---- switching ---------------------------------------------------------------------------- */

static void a_switch_hands_all_over_at_once(void **state) {
  (void)state;
  wm_subscription *sub = subscribe("prefetch=2");
  wm_consumer *old = consumer(sub), *fresh = consumer(NULL);
  put_numbers(3);
  wm_message *one = take(old, "1");
  until(stats(sub).waiting == 1);
  size_t fetches = calls(FEED_FETCH);
  assert_int_equal(wm_subscription_switch(sub, &fresh, 1, &err), WM_OK);
  assert_int_equal(try_next(old), WM_RETIRED);
  nothing(fresh); /* what is in flight counts on */
  assert_int_equal(stats(sub).in_flight, 1);
  assert_int_equal(stats(sub).switches, 1);
  assert_int_equal(calls(FEED_FETCH), fetches);
  assert_int_equal(calls(FEED_SUBSCRIBE), 1);
  assert_int_equal(calls(FEED_SETTLE), 0);
  assert_true(wm_ack(one)); /* and is settled by who has it */
  wm_message_release(one);
  assert_int_equal(try_next(old), WM_RETIRED);
  take_and_ack(fresh, "2");
  take_and_ack(fresh, "3");
  assert_int_equal(try_next(old), WM_RETIRED);
  close_sub(sub);
  wm_consumer_close(old);
  wm_consumer_close(fresh);
}

static void a_switch_to_nobody_lets_messages_wait(void **state) {
  (void)state;
  wm_subscription *sub = subscribe("");
  wm_consumer *con = consumer(sub);
  assert_int_equal(wm_subscription_switch(sub, NULL, 0, &err), WM_OK);
  put("1");
  until(stats(sub).waiting == 1);
  assert_int_equal(try_next(con), WM_RETIRED);
  assert_int_equal(wm_subscription_switch(sub, &con, 1, &err),
                   WM_OK); /* a retired one may return */
  assert_true(readable(con));
  take_and_ack(con, "1");
  nothing(con);
  close_sub(sub);
  wm_consumer_close(con);
}

static void a_switch_keeps_those_who_stay(void **state) {
  (void)state;
  wm_subscription *sub = subscribe("max_in_flight=2");
  wm_consumer *stays = consumer(sub), *goes = consumer(sub);
  standing s;
  stand(&s, stays, -1);
  until(stands(sub, stays));
  wm_consumer *to[] = {stays, consumer(NULL), stays};
  assert_int_equal(wm_subscription_switch(sub, to, 3, &err), WM_OK);
  assert_false(s.ended);
  put_numbers(2);
  assert_int_equal(stood(&s), 1);
  wm_message *other = take(to[1], is(s.msg, "1") ? "2" : "1");
  assert_int_equal(try_next(goes), WM_RETIRED);
  ack(other);
  ack(s.msg);
  close_sub(sub);
  wm_consumer_close(stays);
  wm_consumer_close(goes);
  wm_consumer_close(to[1]);
}

static void a_switch_refuses_consumers_of_another_subscription(void **state) {
  (void)state;
  wm_subscription *sub = subscribe("group=a"), *other = subscribe("group=b");
  wm_consumer *con = consumer(sub), *cons[] = {consumer(NULL), consumer(other)};
  assert_int_equal(wm_subscription_switch(sub, cons, 2, &err), WM_BAD_INPUT);
  assert_int_equal(err.code, WM_BAD_INPUT);
  text_has(err.text, "consumer 2");
  text_has(err.text, "group 'a'");
  text_has(err.text, "group 'b'");
  assert_int_equal(wm_subscription_switch(sub, cons, 2, NULL), WM_BAD_INPUT);
  nothing(con); /* nothing has changed */
  assert_null(wm_consumer_subscription(cons[0]));
  assert_int_equal(stats(sub).switches, 0);
  close_sub(sub);
  close_sub(other);
  assert_int_equal(wm_subscription_switch(wm_consumer_subscription(con), cons, 1, &err), WM_CLOSED);
  text_has(err.text, "closed");
  wm_consumer_close(con);
  wm_consumer_close(cons[0]);
  wm_consumer_close(cons[1]);
}

static void who_stands_in_next_unattached_gets_messages_after_a_switch(void **state) {
  (void)state;
  wm_subscription *sub = subscribe("");
  for (int i = 0; i < 20; i++) {
    wm_consumer *con = consumer(NULL);
    standing s;
    stand(&s, con, -1);
    if (i % 2) put("1");
    assert_int_equal(wm_subscription_switch(sub, &con, 1, &err), WM_OK);
    if (i % 2 == 0) put("1");
    promptly(s.ended);
    assert_int_equal(stood(&s), 1);
    ack(s.msg);
    wm_consumer_close(con);
  }
  close_sub(sub);
}

/* Messages flow while one consumer after the other takes over, each with a thread of its own. */
enum { FLOW = 3000, GENERATIONS = 40 };

static atomic_int generation;     /* the last that was switched to */
static atomic_int seen[FLOW + 1]; /* how often each message came */
static atomic_int late, flowed, wrong;

typedef struct worker {
  pthread_t thread;
  wm_consumer *con;
  int generation;
} worker;

static void *work(void *arg) {
  worker *w = arg;
  for (;;) {
    wm_message *msg;
    int newest = generation;
    int rc = wm_next(w->con, &msg, 1, -1);
    if (rc == WM_RETIRED || rc == WM_CLOSED) break;
    if (rc != 1) {
      wrong++;
      break;
    }
    late += newest > w->generation;
    seen[atoi(wm_message_payload(msg).data)]++;
    wrong += !wm_ack(msg);
    flowed++;
    wm_message_release(msg);
  }
  wm_consumer_close(w->con); /* while the next switch may be running */
  return NULL;
}

static void a_switch_while_messages_flow_loses_none_and_doubles_none(void **state) {
  (void)state;
  wm_subscription *sub = subscribe("max_in_flight=2&prefetch=64");
  worker workers[2 * GENERATIONS];
  size_t n = 0;
  char text[24];
  memset(seen, 0, sizeof seen);
  generation = late = flowed = wrong = 0;
  pthread_mutex_lock(&feed.lock);
  feed.at_once = 16;
  pthread_mutex_unlock(&feed.lock);
  for (int g = 1, put_in = 0; g <= GENERATIONS; g++) {
    wm_consumer *pair[2] = {consumer(NULL), consumer(NULL)};
    for (size_t i = 0; i < 2; i++) {
      workers[n] = (worker){.con = pair[i], .generation = g};
      assert_int_equal(pthread_create(&workers[n].thread, NULL, work, &workers[n]), 0);
      n++;
    }
    assert_int_equal(wm_subscription_switch(sub, pair, 2, &err), WM_OK);
    generation = g;
    while (put_in < g * (FLOW / GENERATIONS)) {
      snprintf(text, sizeof text, "%d", ++put_in);
      put(text);
    }
    until(flowed >= put_in / 2); /* some are still under way at the next switch */
  }
  until(flowed == FLOW);
  assert_int_equal(stats(sub).switches, GENERATIONS);
  close_sub(sub);
  while (n--)
    pthread_join(workers[n].thread, NULL);
  for (size_t i = 1; i <= FLOW; i++)
    assert_int_equal(seen[i], 1);
  assert_int_equal(late, 0);
  assert_int_equal(wrong, 0);
  assert_int_equal(feed.n_ops, FLOW);
}

/* ---- giving up a worker ------------------------------------------------------------------- */

static void reclaimed_messages_go_to_the_consumers_of_now(void **state) {
  (void)state;
  wm_subscription *sub = subscribe("max_in_flight=3");
  wm_consumer *old = consumer(sub), *other = consumer(sub), *loose = consumer(NULL);
  put_numbers(3);
  wm_message *one = take(old, "1"), *two = take(old, "2"), *three = take(other, "3");
  assert_int_equal(wm_subscription_switch(sub, &other, 1, &err), WM_OK);
  nothing(other);
  assert_false(readable(other));
  assert_int_equal(wm_consumer_reclaim(loose), 0);
  assert_int_equal(wm_consumer_reclaim(old), 2);
  assert_true(readable(other));
  assert_false(wm_ack(one) || wm_nack(two, 0));
  wm_message *again = take(other, "1");
  assert_int_equal(wm_message_attempt(again), 2);
  assert_false(wm_ack(one));
  ack(again);
  take_and_ack(other, "2");
  ack(three);
  assert_int_equal(wm_consumer_reclaim(old), 0);
  assert_int_equal(wm_consumer_reclaim(other), 0);
  assert_true(is(one, "1") && wm_message_attempt(one) == 1);
  wm_message_release(one);
  wm_message_release(two);
  close_sub(sub);
  wm_consumer_close(old);
  wm_consumer_close(other);
  wm_consumer_close(loose);
}

/* ---- pausing ------------------------------------------------------------------------------ */

static void a_pause_hands_out_nothing_until_resumed(void **state) {
  (void)state;
  wm_subscription *sub = subscribe("max_in_flight=3");
  wm_consumer *con = consumer(sub), *polls = consumer(sub);
  standing s;
  put("1");
  wm_message *one = take(con, "1");
  stand(&s, con, -1);
  until(stands(sub, con));
  nothing(polls);
  wm_subscription_pause(sub);
  put_numbers(2);
  until(stats(sub).waiting == 2);
  nothing(polls);
  assert_true(stands(sub, con) && !readable(polls));
  assert_true(wm_nack(one, 1)); /* due before the pause is over */
  wm_message_release(one);
  int64_t due = wm_now_ms() + 1;
  until(wm_now_ms() > due);
  nothing(polls);
  assert_true(stands(sub, con) && !readable(polls));
  wm_subscription_resume(sub);
  assert_int_equal(stood(&s), 1);
  assert_true(readable_within(polls, PROMPT_MS));
  for (int i = 0; i < 2; i++) {
    wm_message *msg;
    assert_int_equal(wm_next(polls, &msg, 1, 0), 1);
    ack(msg);
  }
  ack(s.msg);
  close_sub(sub);
  wm_consumer_close(con);
  wm_consumer_close(polls);
}

static void a_delay_that_ends_after_a_pause_is_kept(void **state) {
  (void)state;
  wm_subscription *sub = subscribe("");
  wm_consumer *con = consumer(sub), *polls = consumer(sub);
  standing s;
  put("1");
  wm_message *one = take(con, "1");
  wm_subscription_pause(sub);
  stand(&s, con, -1);
  until(stands(sub, con));
  nothing(polls);
  int64_t due = wm_now_ms() + 50;
  assert_true(wm_nack(one, 50));
  wm_message_release(one);
  wm_subscription_resume(sub);
  assert_int_equal(stood(&s), 1);
  assert_true(wm_now_ms() >= due);
  ack(s.msg);
  close_sub(sub);
  wm_consumer_close(con);
  wm_consumer_close(polls);
}

int main(void) {
  const struct CMUnitTest tests[] = {
      test(a_switch_hands_all_over_at_once),
      test(a_switch_to_nobody_lets_messages_wait),
      test(a_switch_keeps_those_who_stay),
      test(a_switch_refuses_consumers_of_another_subscription),
      test(who_stands_in_next_unattached_gets_messages_after_a_switch),
      test(a_switch_while_messages_flow_loses_none_and_doubles_none),
      test(reclaimed_messages_go_to_the_consumers_of_now),
      test(a_pause_hands_out_nothing_until_resumed),
      test(a_delay_that_ends_after_a_pause_is_kept),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
