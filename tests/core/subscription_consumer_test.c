/*
 * subscription_consumer_test.c - consumers take messages: waiting, being woken, one or several. What wm.h promises of
 * them, against a broker that does what the test says.
 */
#include "subscribing.h"

/* ---- taking ------------------------------------------------------------------------------- */

static void next_waits_as_long_as_it_is_told(void **state) {
  (void)state;
  wm_subscription *sub = subscribe("");
  wm_consumer *con = consumer(sub), *loose = consumer(NULL);
  wm_message *msg;
  int64_t began = wm_now_ms();
  assert_int_equal(wm_next(con, &msg, 1, 30), WM_TIMEOUT);
  assert_true(wm_now_ms() - began >= 30);
  began = wm_now_ms();
  assert_int_equal(wm_next(loose, &msg, 1, 30), WM_TIMEOUT);
  assert_true(wm_now_ms() - began >= 30);
  nothing(con);
  nothing(loose);
  close_sub(sub);
  wm_consumer_close(con);
  wm_consumer_close(loose);
}

static void next_returns_when_a_message_comes(void **state) {
  (void)state;
  wm_subscription *sub = subscribe("");
  wm_consumer *con = consumer(sub);
  standing s;
  for (int i = 0; i < 20; i++) {
    stand(&s, con, -1);
    if (i % 2) until(stands(sub, con));
    put("1");
    promptly(s.ended);
    assert_int_equal(stood(&s), 1);
    ack(s.msg);
  }
  close_sub(sub);
  wm_consumer_close(con);
}

static void several_come_where_several_may_be_in_flight(void **state) {
  (void)state;
  wm_message *msgs[8];
  wm_subscription *sub = subscribe("max_in_flight=3");
  wm_consumer *con = consumer(sub);
  put_numbers(5);
  until(stats(sub).waiting == 5);
  assert_int_equal(wm_next(con, msgs, 2, 0), 2);
  assert_int_equal(wm_next(con, msgs + 2, 6, 0), 1);
  nothing(con);
  assert_true(is(msgs[0], "1") && is(msgs[1], "2") && is(msgs[2], "3"));
  for (size_t i = 0; i < 3; i++)
    ack(msgs[i]);
  assert_int_equal(wm_next(con, msgs, 8, 0), 2);
  ack(msgs[0]);
  ack(msgs[1]);
  close_sub(sub);
  wm_consumer_close(con);
}

static void a_batch_is_one_in_flight(void **state) {
  (void)state;
  wm_message *msgs[8];
  wm_subscription *sub = subscribe("batch=3");
  wm_consumer *con = consumer(sub);
  put_numbers(5);
  until(stats(sub).waiting == 5);
  assert_int_equal(wm_next(con, msgs, 8, 0), 3);
  ack(msgs[0]);
  ack(msgs[1]);
  nothing(con);
  ack(msgs[2]);
  assert_int_equal(wm_next(con, msgs, 8, 0), 2);
  ack(msgs[0]);
  ack(msgs[1]);
  close_sub(sub);
  wm_consumer_close(con);
}

static void only_received_messages_can_be_settled(void **state) {
  (void)state;
  wm_message *msg;
  assert_int_equal(wm_message_new(&msg, NULL, (wm_slice){"x", 1}, NULL, 0, NULL), WM_OK);
  assert_false(wm_ack(msg) || wm_nack(msg, 0) || wm_fail(msg, 0, NULL, NULL) ||
               wm_dead(msg, NULL, NULL));
  wm_message_release(msg);
}

static void the_first_settling_wins(void **state) {
  (void)state;
  wm_subscription *sub = subscribe("");
  wm_consumer *con = consumer(sub);
  put("1");
  wm_message *one = take(con, "1");
  assert_true(wm_fail(one, 0, NULL, NULL));
  assert_int_equal(wm_message_failures(one), 1);
  assert_false(wm_ack(one) || wm_nack(one, 0) || wm_fail(one, 0, "late", NULL));
  wm_message *again = take(con, "1");
  assert_int_equal(wm_message_attempt(again), 2);
  assert_int_equal(wm_message_failures(again), 1);
  assert_false(wm_dead(again, "no topic for it", NULL)); /* and it is still in hand */
  assert_false(wm_ack(one));
  assert_true(wm_ack(again));
  assert_false(wm_nack(again, 0));
  assert_int_equal(wm_flush(sub, SCRIPT_WAIT_MS), WM_OK);
  assert_int_equal(stats(sub).acked, 1);
  wm_message_release(one);
  wm_message_release(again);
  close_sub(sub);
  wm_consumer_close(con);
}

/* ---- the descriptor ----------------------------------------------------------------------- */

static void the_descriptor_is_readable_while_next_has_something_to_say(void **state) {
  (void)state;
  wm_subscription *sub = subscribe("");
  wm_consumer *con = consumer(sub);
  for (int i = 0; i < 3; i++) {
    nothing(con);
    assert_false(readable(con));
    put("1");
    assert_true(readable_within(con, PROMPT_MS));
    assert_true(readable(con)); /* looking takes nothing away */
    take_and_ack(con, "1");
  }
  put("2");
  wm_message *two = take(con, "2");
  put("3"); /* which may not go yet */
  until(stats(sub).waiting == 1);
  nothing(con);
  assert_false(readable(con));
  ack(two);
  assert_true(readable(con));
  take_and_ack(con, "3");
  close_sub(sub);
  wm_consumer_close(con);
}

static void the_descriptor_is_readable_when_a_delay_is_over(void **state) {
  (void)state;
  enum { DELAY = 150 };
  wm_message *msg;
  wm_subscription *sub = subscribe("");
  wm_consumer *con = consumer(sub);
  put("1");
  wm_message *one = take(con, "1");
  int64_t due = wm_now_ms() + DELAY;
  assert_true(wm_nack(one, DELAY));
  wm_message_release(one);
  assert_true(wm_next(con, &msg, 1, 0) == WM_TIMEOUT && readable_within(con, SCRIPT_WAIT_MS));
  assert_true(wm_now_ms() >= due);
  assert_int_equal(wm_next(con, &msg, 1, 0), 1);
  due = wm_now_ms() + DELAY;
  assert_true(wm_nack(msg, DELAY)); /* once more, for who stands in wm_next */
  wm_message_release(msg);
  one = take(con, "1");
  assert_true(wm_now_ms() >= due);
  ack(one);
  nothing(con);
  assert_false(readable(con));
  close_sub(sub);
  wm_consumer_close(con);
}

static void the_descriptor_is_readable_when_a_batch_is_full_or_has_waited(void **state) {
  (void)state;
  enum { WAIT = 150 };
  wm_message *msgs[4];
  wm_subscription *sub = subscribe("batch=2&batch_wait=150ms");
  wm_consumer *con = consumer(sub);
  nothing(con);
  int64_t due = wm_now_ms() + WAIT;
  put("1");
  assert_true(readable_within(con, SCRIPT_WAIT_MS));
  assert_true(wm_now_ms() >= due);
  assert_int_equal(wm_next(con, msgs, 4, 0), 1);
  ack(msgs[0]);
  close_sub(sub);
  wm_consumer_close(con);
  sub = subscribe("batch=2&batch_wait=1h");
  con = consumer(sub);
  put("1");
  until(stats(sub).waiting == 1);
  assert_int_equal(wm_next(con, msgs, 4, 0), WM_TIMEOUT);
  assert_false(readable(con));
  put("2");
  assert_true(readable_within(con, PROMPT_MS));
  assert_int_equal(wm_next(con, msgs, 4, 0), 2);
  ack(msgs[0]);
  ack(msgs[1]);
  close_sub(sub);
  wm_consumer_close(con);
}

static void the_descriptor_is_readable_for_good_after_retiring_and_closing(void **state) {
  (void)state;
  wm_subscription *sub = subscribe("");
  wm_consumer *polls = consumer(sub), *stays = consumer(sub), *other = consumer(sub);
  standing s;
  nothing(polls);
  stand(&s, stays, -1);
  until(stands(sub, stays));
  assert_false(readable(polls) || readable(stays));
  assert_int_equal(wm_subscription_switch(sub, &other, 1, &err), WM_OK);
  assert_int_equal(stood(&s), WM_RETIRED);
  for (int i = 0; i < 2; i++) {
    assert_true(readable(polls) && readable(stays));
    assert_int_equal(try_next(polls), WM_RETIRED);
    assert_int_equal(try_next(stays), WM_RETIRED);
  }
  stand(&s, other, -1);
  until(stands(sub, other));
  close_sub(sub);
  assert_int_equal(stood(&s), WM_CLOSED);
  for (int i = 0; i < 2; i++) {
    assert_true(readable(other));
    assert_int_equal(try_next(other), WM_CLOSED);
  }
  wm_consumer_close(polls);
  wm_consumer_close(stays);
  wm_consumer_close(other);
}

static void the_descriptor_is_readable_after_being_attached(void **state) {
  (void)state;
  wm_subscription *sub = subscribe("");
  wm_consumer *con = consumer(NULL);
  put("1");
  until(stats(sub).waiting == 1);
  assert_null(wm_consumer_subscription(con));
  assert_false(readable(con));
  nothing(con);
  assert_false(readable(con));
  assert_int_equal(wm_subscription_switch(sub, &con, 1, &err), WM_OK);
  assert_ptr_equal(wm_consumer_subscription(con), sub);
  assert_true(readable(con));
  take_and_ack(con, "1");
  close_sub(sub);
  wm_consumer_close(con);
}

/* ---- several consumers -------------------------------------------------------------------- */

/* Says to all that message 1 may go, and how many of those in `from` it has put into `to`. */
static size_t moved(wm_subscription *sub, wm_consumer **cons, size_t n, consumer_state from,
                    consumer_state to) {
  size_t before = 0, after = 0;
  pthread_mutex_lock(&sub->lock);
  for (size_t i = 0; i < n; i++)
    before += cons[i]->state == from;
  sub->paused = false;
  wm_subscription_wake(sub, wm_now_ms());
  for (size_t i = 0; i < n; i++)
    after += cons[i]->state == to;
  pthread_mutex_unlock(&sub->lock);
  assert_int_equal(before, n);
  return after;
}

static void a_message_wakes_one(void **state) {
  (void)state;
  enum { N = 3 };
  wm_subscription *sub = subscribe("max_in_flight=3");
  wm_consumer *cons[N];
  standing s[N];
  wm_subscription_pause(sub);
  put("1");
  until(stats(sub).waiting == 1);
  for (size_t i = 0; i < N; i++)
    nothing(cons[i] = consumer(sub));
  assert_int_equal(moved(sub, cons, N, CON_IDLE, CON_WOKEN), 1);
  wm_subscription_pause(sub);
  for (size_t i = 0; i < N; i++) {
    stand(&s[i], cons[i], -1);
    until(stands(sub, cons[i]));
  }
  assert_int_equal(moved(sub, cons, N, CON_WAITING, CON_BUSY), 1);
  put_numbers(2);
  for (size_t i = 0; i < N; i++) {
    assert_int_equal(stood(&s[i]), 1);
    ack(s[i].msg);
  }
  close_sub(sub);
  for (size_t i = 0; i < N; i++)
    wm_consumer_close(cons[i]);
}

static bool is_woken(wm_subscription *sub, const wm_consumer *con) {
  pthread_mutex_lock(&sub->lock);
  bool woken = con->state == CON_WOKEN;
  pthread_mutex_unlock(&sub->lock);
  return woken;
}

static void consumers_are_woken_in_turn(void **state) {
  (void)state;
  enum { N = 3 };
  wm_subscription *sub = subscribe("");
  wm_consumer *cons[N];
  size_t times[N] = {0};
  for (size_t i = 0; i < N; i++)
    cons[i] = consumer(sub);
  for (size_t round = 0; round < 2 * N; round++) {
    size_t who = 0;
    for (size_t i = 0; i < N; i++)
      nothing(cons[i]);
    put("1");
    until(stats(sub).waiting == 1);
    while (who < N - 1 && !is_woken(sub, cons[who]))
      who++;
    times[who]++;
    take_and_ack(cons[who], "1");
  }
  for (size_t i = 0; i < N; i++)
    assert_int_equal(times[i], 2);
  close_sub(sub);
  for (size_t i = 0; i < N; i++)
    wm_consumer_close(cons[i]);
}

/* Its descriptor is not readable, nor will be by itself. */
static bool is_quiet(wm_subscription *sub, wm_consumer *con) {
  pthread_mutex_lock(&sub->lock);
  bool quiet = con->due == WM_NEVER && !readable(con);
  pthread_mutex_unlock(&sub->lock);
  return quiet;
}

static void a_message_that_was_taken_wakes_nobody_else(void **state) {
  (void)state;
  enum { N = 3 };
  wm_subscription *sub = subscribe("");
  wm_consumer *cons[N];
  for (size_t i = 0; i < N; i++)
    cons[i] = consumer(sub);
  for (size_t who = 0; who < N; who++) {
    for (size_t i = 0; i < N; i++)
      nothing(cons[i]);
    put("1");
    until(stats(sub).waiting == 1);
    wm_message *msg = take(cons[who], "1");
    for (size_t i = 0; i < N; i++)
      if (i != who) assert_true(is_quiet(sub, cons[i]));
    ack(msg);
  }
  close_sub(sub);
  for (size_t i = 0; i < N; i++)
    wm_consumer_close(cons[i]);
}

static void nobody_waits_for_pollers_that_are_busy(void **state) {
  (void)state;
  enum { N = 4 };
  wm_subscription *sub = subscribe("");
  wm_consumer *cons[N];
  for (size_t last = 0; last < N; last++) {
    for (size_t i = 0; i < N; i++)
      nothing(cons[i] = consumer(sub));
    put("1");
    assert_true(readable_within(cons[last], PROMPT_MS)); /* though the others do not take it */
    take_and_ack(cons[last], "1");
    for (size_t i = 0; i < N; i++)
      wm_consumer_close(cons[i]);
  }
  close_sub(sub);
}

static void who_stands_in_next_comes_before_who_polls(void **state) {
  (void)state;
  wm_subscription *sub = subscribe("");
  wm_consumer *first = consumer(sub), *stays = consumer(sub), *last = consumer(sub);
  standing s;
  nothing(first);
  nothing(last);
  stand(&s, stays, -1);
  until(stands(sub, stays));
  put("1");
  assert_int_equal(stood(&s), 1);
  assert_false(readable(first) || readable(last));
  ack(s.msg);
  close_sub(sub);
  wm_consumer_close(first);
  wm_consumer_close(stays);
  wm_consumer_close(last);
}

static void each_that_takes_one_wakes_the_next(void **state) {
  (void)state;
  enum { STAND = 3, POLL = 3 };
  wm_subscription *sub = subscribe("max_in_flight=6");
  wm_consumer *cons[STAND + POLL];
  standing s[STAND];
  for (size_t i = 0; i < STAND + POLL; i++)
    cons[i] = consumer(sub);
  for (size_t i = 0; i < STAND; i++) {
    stand(&s[i], cons[i], -1);
    until(stands(sub, cons[i]));
  }
  for (size_t i = STAND; i < STAND + POLL; i++)
    nothing(cons[i]);
  put_numbers(STAND + POLL);
  for (size_t i = 0; i < STAND; i++) {
    promptly(s[i].ended);
    assert_int_equal(stood(&s[i]), 1);
    wm_message_release(s[i].msg);
  }
  for (size_t i = STAND; i < STAND + POLL; i++) {
    wm_message *msg;
    assert_true(readable_within(cons[i], PROMPT_MS));
    assert_int_equal(wm_next(cons[i], &msg, 1, 0), 1);
    wm_message_release(msg);
  }
  for (size_t i = 0; i < STAND + POLL; i++)
    assert_int_equal(wm_consumer_reclaim(cons[i]), 1);
  close_sub(sub);
  for (size_t i = 0; i < STAND + POLL; i++)
    wm_consumer_close(cons[i]);
}

static void a_closed_consumer_leaves_what_it_was_woken_for_to_others(void **state) {
  (void)state;
  wm_subscription *sub = subscribe("");
  wm_consumer *cons[2] = {consumer(sub), consumer(sub)};
  put("0");
  wm_message *zero = take(cons[0], "0");
  put("1");
  until(stats(sub).waiting == 1);
  nothing(cons[0]);
  nothing(cons[1]);
  ack(zero);
  size_t woken = readable(cons[0]) ? 0 : 1;
  wm_consumer_close(cons[woken]);
  assert_true(readable(cons[!woken]));
  take_and_ack(cons[!woken], "1");
  close_sub(sub);
  wm_consumer_close(cons[!woken]);
}

static void what_a_closed_consumer_had_stays_in_flight(void **state) {
  (void)state;
  wm_subscription *sub = subscribe("");
  wm_consumer *gone = consumer(sub), *con = consumer(sub);
  put_numbers(2);
  wm_message *one = take(gone, "1");
  wm_consumer_close(gone);
  until(stats(sub).waiting == 1);
  nothing(con);
  assert_int_equal(stats(sub).in_flight, 1);
  ack(one);
  take_and_ack(con, "2");
  close_sub(sub);
  wm_consumer_close(con);
}

static void no_consumer_is_no_trouble(void **state) {
  (void)state;
  wm_consumer_close(NULL);
  wm_consumer *con;
  assert_int_equal(wm_consumer_open(&con, NULL, NULL), WM_OK);
  assert_true(wm_consumer_fd(con) >= 0);
  wm_consumer_close(con);
}

int main(void) {
  const struct CMUnitTest tests[] = {
      test(next_waits_as_long_as_it_is_told),
      test(next_returns_when_a_message_comes),
      test(several_come_where_several_may_be_in_flight),
      test(a_batch_is_one_in_flight),
      test(only_received_messages_can_be_settled),
      test(the_first_settling_wins),
      test(the_descriptor_is_readable_while_next_has_something_to_say),
      test(the_descriptor_is_readable_when_a_delay_is_over),
      test(the_descriptor_is_readable_when_a_batch_is_full_or_has_waited),
      test(the_descriptor_is_readable_for_good_after_retiring_and_closing),
      test(the_descriptor_is_readable_after_being_attached),
      test(a_message_wakes_one),
      test(consumers_are_woken_in_turn),
      test(a_message_that_was_taken_wakes_nobody_else),
      test(nobody_waits_for_pollers_that_are_busy),
      test(who_stands_in_next_comes_before_who_polls),
      test(each_that_takes_one_wakes_the_next),
      test(a_closed_consumer_leaves_what_it_was_woken_for_to_others),
      test(what_a_closed_consumer_had_stays_in_flight),
      test(no_consumer_is_no_trouble),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
