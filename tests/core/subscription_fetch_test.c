/*
 * subscription_fetch_test.c - subscriptions fetch within their bounds, through outages, and what cannot be read, too.
 * What wm.h promises of that, against a broker that does what the test says.
 */
#include "subscribing.h"

/* ---- fetching ----------------------------------------------------------------------------- */

static void a_message_tells_where_it_comes_from(void **state) {
  (void)state;
  wm_subscription *sub = subscribe("");
  wm_consumer *con = consumer(sub);
  wm_message *made = received("1", "k");
  made->first_attempt = 3;
  made->time = 1700000000123;
  put_messages(&made, 1);
  wm_message *msg = take(con, "1");
  assert_string_equal(wm_message_topic(msg), "orders");
  assert_string_equal(wm_message_position(msg), "at-1");
  assert_string_equal(wm_message_uuid(msg).data, "u-1");
  assert_int_equal(wm_message_attempt(msg), 3);
  assert_int_equal(wm_message_failures(msg), 0);
  assert_int_equal(wm_message_time(msg), 1700000000123);
  ack(msg);
  close_sub(sub);
  wm_consumer_close(con);
}

static void no_more_than_prefetch_is_held(void **state) {
  (void)state;
  enum { MANY = 200, MOST = 10 };
  wm_subscription *sub = subscribe("prefetch=10");
  wm_consumer *con = consumer(sub);
  char text[24];
  size_t most = 0;
  put_numbers(MANY);
  for (size_t i = 1; i <= MANY; i++) {
    snprintf(text, sizeof text, "%zu", i);
    wm_message *msg = take(con, text);
    wm_subscription_stats s = stats(sub);
    if (s.waiting + s.in_flight > most) most = s.waiting + s.in_flight;
    assert_true(s.window <= MOST && asked_for() <= MOST);
    ack(msg);
  }
  assert_true(most > 1 && most <= MOST);
  close_sub(sub);
  wm_consumer_close(con);
}

/* About: it counts what a message takes in memory, and the broker only payloads. */
static void no_more_than_about_prefetch_bytes_are_held(void **state) {
  (void)state;
  enum { MANY = 64, SIZE = 2000, MOST = 20000 };
  wm_subscription *sub = subscribe("prefetch_bytes=20000");
  wm_consumer *con = consumer(sub);
  wm_message *msgs[MANY];
  char payload[SIZE + 1] = "";
  memset(payload, 'x', SIZE);
  for (size_t i = 0; i < MANY; i++)
    msgs[i] = received(payload, NULL);
  put_messages(msgs, MANY);
  for (size_t i = 0; i < MANY; i++) {
    wm_message *msg = take(con, payload);
    assert_true(stats(sub).bytes <= 2 * MOST);
    ack(msg);
    assert_int_equal(wm_flush(sub, SCRIPT_WAIT_MS), WM_OK); /* what is settled is memory, too */
  }
  close_sub(sub);
  wm_consumer_close(con);
}

static void a_message_larger_than_all_bounds_comes(void **state) {
  (void)state;
  wm_subscription *sub = subscribe("prefetch_bytes=100&prefetch=1");
  wm_consumer *con = consumer(sub);
  char payload[8000] = "";
  memset(payload, 'x', sizeof payload - 1);
  for (int i = 0; i < 3; i++)
    put(payload);
  for (int i = 0; i < 3; i++)
    take_and_ack(con, payload);
  close_sub(sub);
  wm_consumer_close(con);
}

/* The fetcher looks for room by itself once a second: so many times of that would be more than is allowed here. */
static void an_ack_makes_room_though_the_broker_is_slow_to_take_it(void **state) {
  (void)state;
  enum { ROUNDS = 4, BEHIND = 4 /* times prefetch, that settling may be */ };
  wm_subscription *sub = subscribe("prefetch=1");
  wm_consumer *con = consumer(sub);
  char text[24];
  put_numbers(ROUNDS * BEHIND);
  int64_t began = wm_now_ms();
  for (size_t i = 0; i < ROUNDS * BEHIND; i++) {
    set_gate(FEED_SETTLE, true);
    snprintf(text, sizeof text, "%zu", i + 1);
    take_and_ack(con, text);
    if (i % BEHIND < BEHIND - 1) continue;
    set_gate(FEED_SETTLE, false);
    assert_int_equal(wm_flush(sub, SCRIPT_WAIT_MS), WM_OK);
  }
  assert_true(wm_now_ms() - began < PROMPT_MS);
  close_sub(sub);
  wm_consumer_close(con);
}

static void a_hand_out_makes_room_at_once(void **state) {
  (void)state;
  enum { ROUNDS = 8, HELD = 4 };
  wm_subscription *sub = subscribe("prefetch=1&max_in_flight=4");
  wm_consumer *con = consumer(sub);
  wm_message *msgs[HELD];
  int64_t began = wm_now_ms();
  for (size_t round = 0; round < ROUNDS; round++) {
    set_gate(FEED_FETCH, true);
    put_numbers(HELD - 1);
    set_gate(FEED_FETCH, false);
    until(stats(sub).waiting == HELD - 1); /* more than half of what it may hold */
    put("last");
    for (size_t i = 0; i < HELD; i++)
      assert_int_equal(wm_next(con, &msgs[i], 1, SCRIPT_WAIT_MS), 1);
    for (size_t i = 0; i < HELD; i++)
      ack(msgs[i]);
  }
  assert_true(wm_now_ms() - began < PROMPT_MS);
  close_sub(sub);
  wm_consumer_close(con);
}

static void an_outage_of_fetching_passes(void **state) {
  (void)state;
  wm_subscription *sub = subscribe("");
  wm_consumer *con = consumer(sub);
  standing s;
  stand(&s, con, -1);
  set_code(FEED_FETCH, WM_UNREACHABLE);
  until(stats(sub).retries >= 2);
  assert_false(stats(sub).connected);
  assert_false(s.ended);
  set_code(FEED_FETCH, WM_OK);
  put("1");
  assert_int_equal(stood(&s), 1);
  ack(s.msg);
  assert_true(stats(sub).connected);
  assert_int_equal(logged("is there again"), 1);
  close_sub(sub);
  wm_consumer_close(con);
}

static void what_fetch_refuses_is_an_outage_too(void **state) {
  (void)state;
  wm_subscription *sub = subscribe("");
  wm_consumer *con = consumer(sub);
  set_code(FEED_FETCH, WM_NOT_FOUND);
  until(logged("the script says NOT_FOUND") == 1);
  set_code(FEED_FETCH, WM_OK);
  put("1");
  take_and_ack(con, "1");
  close_sub(sub);
  wm_consumer_close(con);
}

static void what_came_before_fetching_failed_is_kept(void **state) {
  (void)state;
  wm_subscription *sub = subscribe("");
  wm_consumer *con = consumer(sub);
  wm_message *msgs[] = {received("1", NULL), received("2", NULL)};
  pthread_mutex_lock(&feed.lock);
  feed.code[FEED_FETCH] = WM_UNREACHABLE;
  pthread_mutex_unlock(&feed.lock);
  put_messages(msgs, 2);
  take_and_ack(con, "1");
  take_and_ack(con, "2");
  set_code(FEED_FETCH, WM_OK);
  close_sub(sub);
  wm_consumer_close(con);
}

static void what_was_removed_is_logged_and_counted(void **state) {
  (void)state;
  wm_subscription *sub = subscribe("");
  pthread_mutex_lock(&feed.lock);
  feed.gone = 7;
  pthread_cond_broadcast(&feed.changed);
  pthread_mutex_unlock(&feed.lock);
  until(logged("removed 7 messages") == 1);
  assert_int_equal(logged("trimmed by the script"), 1);
  assert_int_equal(stats(sub).lost, 7);
  close_sub(sub);
}

/* ---- records that cannot be read ---------------------------------------------------------- */

static void put_undecodable(const char *payload) {
  wm_message *msg = received(payload, NULL);
  msg->undecodable = "no field payload";
  put_messages(&msg, 1);
}

static void an_undecodable_record_is_delivered_raw(void **state) {
  (void)state;
  wm_subscription *sub = subscribe("");
  wm_consumer *con = consumer(sub);
  put_undecodable("raw");
  take_and_ack(con, "raw");
  until(logged("record at-raw cannot be read (no field payload)") == 1);
  assert_int_equal(stats(sub).undecodable, 1);
  close_sub(sub);
  wm_consumer_close(con);
}

static void an_undecodable_record_is_skipped_when_asked_for(void **state) {
  (void)state;
  wm_subscription *sub = subscribe("on_undecodable=skip");
  wm_consumer *con = consumer(sub);
  set_gate(FEED_FETCH, true);
  put("1");
  put_undecodable("raw");
  put_undecodable("more");
  put("2");
  set_gate(FEED_FETCH, false);
  take_and_ack(con, "1");
  take_and_ack(con, "2");
  assert_int_equal(wm_flush(sub, SCRIPT_WAIT_MS), WM_OK);
  assert_int_equal(ops_taken(), 4);
  text_has(feed.ops, "araw");
  text_has(feed.ops, "amore");
  assert_int_equal(logged("skipped"), 1); /* one line a second at most */
  assert_int_equal(stats(sub).undecodable, 2);
  assert_int_equal(stats(sub).handed_out, 2);
  close_sub(sub);
  wm_consumer_close(con);
}

int main(void) {
  const struct CMUnitTest tests[] = {
      test(a_message_tells_where_it_comes_from),
      test(no_more_than_prefetch_is_held),
      test(no_more_than_about_prefetch_bytes_are_held),
      test(a_message_larger_than_all_bounds_comes),
      test(an_ack_makes_room_though_the_broker_is_slow_to_take_it),
      test(a_hand_out_makes_room_at_once),
      test(an_outage_of_fetching_passes),
      test(what_fetch_refuses_is_an_outage_too),
      test(what_came_before_fetching_failed_is_kept),
      test(what_was_removed_is_logged_and_counted),
      test(an_undecodable_record_is_delivered_raw),
      test(an_undecodable_record_is_skipped_when_asked_for),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
