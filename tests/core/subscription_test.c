/*
 * subscription_test.c - subscriptions open, change while they are open, and tell about themselves. What wm.h promises
 * of that, against a broker that does what the test says.
 */
#include <unistd.h>

#include "subscribing.h"

/* ---- helpers ------------------------------------------------------------------------------ */

/* A wm_subscribe in a thread of its own. */
typedef struct opener {
  pthread_t thread;
  char url[512];
  wm_subscription *sub;
  int rc;
  atomic_bool ended;
  wm_error err;
} opener;

static void *open_there(void *arg) {
  opener *o = arg;
  o->rc = wm_subscribe(&o->sub, o->url, "orders", NULL, &o->err);
  o->ended = true;
  return NULL;
}

static void start_opening(opener *o, const char *query) {
  *o = (opener){0};
  snprintf(o->url, sizeof o->url, "%s", url_of(query));
  assert_int_equal(pthread_create(&o->thread, NULL, open_there, o), 0);
}

static int opened(opener *o) {
  until(o->ended);
  pthread_join(o->thread, NULL);
  return o->rc;
}

static wm_subscription *subscribe_async(const char *query, told *t) {
  wm_subscription *sub;
  *t = (told){0};
  if (wm_subscribe_async(&sub, url_of(query), "orders", NULL, tell, t, &err) != WM_OK)
    fail_msg("%s", err.text);
  return sub;
}

static int fails(const char *query, const char *topic) {
  wm_subscription *sub;
  return wm_subscribe(&sub, url_of(query), topic, NULL, &err);
}

static int configure(wm_subscription *sub, const char *name, const char *value) {
  wm_options *opts = wm_options_new();
  wm_options_set(opts, name, value);
  int rc = wm_subscription_configure(sub, opts, &err);
  wm_options_free(opts);
  return rc;
}

/* ---- opening ------------------------------------------------------------------------------ */

static void the_group_exists_when_subscribe_returns(void **state) {
  (void)state;
  opener o;
  set_gate(FEED_SUBSCRIBE, true);
  start_opening(&o, "group=mail");
  until(calls(FEED_SUBSCRIBE) == 1);
  assert_false(o.ended);
  set_gate(FEED_SUBSCRIBE, false);
  assert_int_equal(opened(&o), WM_OK);
  assert_int_equal(returned(FEED_SUBSCRIBE), 1);
  assert_true(stats(o.sub).connected);
  close_sub(o.sub);
}

static void the_broker_is_told_what_was_asked_for(void **state) {
  (void)state;
  wm_subscription *sub = subscribe("group=mail&from=newest&takeover=20s&exclusive=true");
  assert_string_equal(feed.topic, "orders");
  assert_string_equal(feed.group, "mail");
  assert_string_equal(feed.from, "newest");
  assert_int_equal(feed.takeover, 20000);
  assert_true(feed.exclusive);
  char host[64], first[FEED_NAME], pid[32];
  gethostname(host, sizeof host);
  snprintf(pid, sizeof pid, "-%ld-", (long)getpid());
  text_has(feed.member, host);
  text_has(feed.member, pid);
  snprintf(first, sizeof first, "%s", feed.member);
  assert_string_equal(wm_subscription_topic(sub), "orders");
  assert_string_equal(wm_subscription_group(sub), "mail");
  close_sub(sub);
  sub = subscribe("");
  assert_string_equal(feed.group, "(none)");
  assert_string_equal(feed.from, "(none)");
  assert_int_equal(feed.takeover, 30000);
  assert_false(feed.exclusive);
  assert_string_not_equal(feed.member, first);
  assert_string_equal(wm_subscription_group(sub), "");
  close_sub(sub);
}

static void an_absent_broker_is_unreachable_after_connect_timeout(void **state) {
  (void)state;
  set_code(FEED_SUBSCRIBE, WM_UNREACHABLE);
  assert_int_equal(fails("group=mail&connect_timeout=120ms", "orders"), WM_UNREACHABLE);
  assert_int_equal(err.code, WM_UNREACHABLE);
  text_has(err.text, "script:");
  text_has(err.text, "topic 'orders', group 'mail'");
  text_has(err.text, "connect_timeout");
  text_has(err.text, "the script says UNREACHABLE");
  assert_true(calls(FEED_SUBSCRIBE) >= 2);
}

static void a_silent_broker_is_unreachable_after_connect_timeout(void **state) {
  (void)state;
  set_gate(FEED_SUBSCRIBE, true);
  assert_int_equal(fails("connect_timeout=20ms", "orders"), WM_UNREACHABLE);
  text_has(err.text, "has not answered yet");
  set_gate(FEED_SUBSCRIBE, false);
}

static void an_outage_at_subscribe_passes(void **state) {
  (void)state;
  opener o;
  set_code(FEED_SUBSCRIBE, WM_UNREACHABLE);
  start_opening(&o, "");
  until(calls(FEED_SUBSCRIBE) == 3);
  assert_false(o.ended);
  set_code(FEED_SUBSCRIBE, WM_OK);
  assert_int_equal(opened(&o), WM_OK);
  assert_int_equal(logged("try 1"), 1);
  until(logged("is there again") == 1);
  close_sub(o.sub);
}

static void a_refusal_is_told_at_once(void **state) {
  (void)state;
  static const int codes[] = {WM_DENIED, WM_NOT_FOUND, WM_UNSUPPORTED, WM_BAD_INPUT};
  for (size_t i = 0; i < sizeof codes / sizeof *codes; i++) {
    set_code(FEED_SUBSCRIBE, codes[i]);
    assert_int_equal(fails("group=mail", "orders"), codes[i]);
    assert_int_equal(err.code, codes[i]);
    text_has(err.text, "script:");
    text_has(err.text, "group 'mail'");
    text_has(err.text, wm_code_name(codes[i]));
    assert_int_equal(calls(FEED_SUBSCRIBE), i + 1);
  }
}

static void bad_input_is_refused_before_the_broker_is_asked(void **state) {
  (void)state;
  assert_int_equal(fails("groop=mail", "orders"), WM_BAD_INPUT);
  text_has(err.text, "did you mean 'group'");
  assert_int_equal(fails("", "a*"), WM_BAD_INPUT);
  assert_int_equal(fails("", ""), WM_BAD_INPUT);
  assert_int_equal(fails("max_attempts=3", "orders"), WM_BAD_INPUT);
  assert_int_equal(fails("on_undecodable=dead_letter", "orders"), WM_BAD_INPUT);
  wm_subscription *sub;
  assert_int_equal(wm_subscribe(&sub, "script:", "a*", NULL, NULL), WM_BAD_INPUT);
  assert_int_equal(calls(FEED_SUBSCRIBE), 0);
}

/* ---- opening without waiting -------------------------------------------------------------- */

static void async_goes_on_in_the_background_and_tells_once(void **state) {
  (void)state;
  told t;
  set_code(FEED_SUBSCRIBE, WM_UNREACHABLE);
  wm_subscription *sub = subscribe_async("connect_timeout=1ms", &t);
  wm_consumer *con = consumer(sub);
  until(calls(FEED_SUBSCRIBE) == 3);
  assert_int_equal(t.times, 0);
  assert_false(stats(sub).connected);
  nothing(con);
  put("1");
  set_code(FEED_SUBSCRIBE, WM_OK);
  assert_int_equal(told_code(&t), WM_OK);
  take_and_ack(con, "1");
  close_sub(sub);
  assert_int_equal(t.times, 1);
  wm_consumer_close(con);
}

static void async_tells_when_it_will_never_work(void **state) {
  (void)state;
  told t;
  standing s;
  set_gate(FEED_SUBSCRIBE, true);
  set_code(FEED_SUBSCRIBE, WM_DENIED);
  wm_subscription *sub = subscribe_async("group=mail", &t);
  wm_consumer *con = consumer(sub), *poller = consumer(sub);
  stand(&s, con, -1);
  until(stands(sub, con));
  nothing(poller);
  assert_false(readable(poller));
  set_gate(FEED_SUBSCRIBE, false);
  assert_int_equal(told_code(&t), WM_DENIED);
  text_has(t.text, "script:");
  text_has(t.text, "topic 'orders', group 'mail'");
  text_has(t.text, "the script says DENIED");
  assert_int_equal(stood(&s), WM_CLOSED);
  assert_true(readable_within(poller, SCRIPT_WAIT_MS));
  assert_int_equal(try_next(poller), WM_CLOSED);
  close_sub(sub);
  assert_int_equal(t.times, 1);
  wm_consumer_close(con);
  wm_consumer_close(poller);
}

static void async_tells_when_it_was_closed_before(void **state) {
  (void)state;
  told t, closed = {0};
  set_code(FEED_SUBSCRIBE, WM_UNREACHABLE);
  wm_subscription *sub = subscribe_async("group=mail", &t);
  until(calls(FEED_SUBSCRIBE) == 1);
  wm_subscription_close_async(sub, -1, tell, &closed);
  assert_int_equal(told_code(&closed), WM_OK);
  assert_int_equal(told_code(&t), WM_CLOSED); /* before the end of closing */
  text_has(t.text, "topic 'orders', group 'mail'");
  text_has(t.text, "closed");
  assert_int_equal(calls(FEED_UNSUBSCRIBE), 0);
}

static void a_group_that_is_made_while_it_is_closed_is_left_again(void **state) {
  (void)state;
  told t, closed = {0};
  set_gate(FEED_SUBSCRIBE, true);
  wm_subscription *sub = subscribe_async("", &t);
  until(calls(FEED_SUBSCRIBE) == 1);
  wm_subscription_close_async(sub, -1, tell, &closed);
  set_gate(FEED_SUBSCRIBE, false);
  assert_int_equal(told_code(&closed), WM_OK);
  assert_int_equal(t.times, 1);
  assert_int_equal(returned(FEED_UNSUBSCRIBE), 1);
}

static void nobody_needs_to_be_told(void **state) {
  (void)state;
  wm_subscription *sub;
  assert_int_equal(wm_subscribe_async(&sub, "script:", "orders", NULL, NULL, NULL, NULL), WM_OK);
  until(stats(sub).connected);
  wm_subscription_close_async(sub, -1, NULL, NULL);
  until(all_closed());
  set_code(FEED_SUBSCRIBE, WM_DENIED);
  assert_int_equal(wm_subscribe_async(&sub, "script:", "orders", NULL, NULL, NULL, NULL), WM_OK);
  until(returned(FEED_SUBSCRIBE) == 2);
  wm_subscription_close_async(sub, -1, NULL, NULL);
}

/* ---- changing ----------------------------------------------------------------------------- */

static void configure_changes_what_is_under_way(void **state) {
  (void)state;
  wm_subscription *sub = subscribe("");
  wm_consumer *con = consumer(sub), *other = consumer(sub);
  standing s;
  put_numbers(3);
  wm_message *one = take(con, "1");
  until(stats(sub).waiting == 2);
  nothing(con);
  assert_false(readable(con));
  stand(&s, other, -1);
  until(stands(sub, other));
  assert_int_equal(configure(sub, "max_in_flight", "3"), WM_OK);
  assert_int_equal(stood(&s), 1);
  assert_true(is(s.msg, "2"));
  assert_true(readable_within(con, SCRIPT_WAIT_MS));
  wm_message *three = take(con, "3");
  assert_int_equal(calls(FEED_SUBSCRIBE), 1);
  /* what is not named gets its default back */
  assert_int_equal(configure(sub, "prefetch", "5"), WM_OK);
  put("4");
  ack(one);
  ack(three);
  until(stats(sub).waiting == 1);
  nothing(con);
  ack(s.msg);
  take_and_ack(con, "4");
  close_sub(sub);
  wm_consumer_close(con);
  wm_consumer_close(other);
}

static void configure_refuses_what_says_where_messages_come_from(void **state) {
  (void)state;
  static const char *const fixed[][4] = {{"group", "post", "mail", "post"},
                                         {"takeover", "11s", "30s", "11s"},
                                         {"exclusive", "true", "false", "true"}};
  wm_subscription *sub = subscribe("group=mail&max_in_flight=2");
  wm_consumer *con = consumer(sub);
  for (size_t i = 0; i < 3; i++) {
    assert_int_equal(configure(sub, fixed[i][0], fixed[i][1]), WM_BAD_INPUT);
    for (size_t k = 0; k < 4; k++)
      text_has(err.text, fixed[i][k]);
  }
  assert_int_equal(configure(sub, "max_in_fligth", "4"), WM_BAD_INPUT);
  text_has(err.text, "did you mean 'max_in_flight'");
  assert_int_equal(configure(sub, "max_in_flight", "0"), WM_BAD_INPUT);
  assert_int_equal(configure(sub, "max_attempts", "4"), WM_BAD_INPUT);
  assert_int_equal(wm_subscription_configure(sub, NULL, NULL), WM_OK);
  put_numbers(3); /* still two at a time */
  wm_message *one = take(con, "1"), *two = take(con, "2");
  nothing(con);
  ack(one);
  ack(two);
  take_and_ack(con, "3");
  close_sub(sub);
  wm_consumer_close(con);
}

/* ---- looking ------------------------------------------------------------------------------ */

static void stats_count_what_happened(void **state) {
  (void)state;
  wm_subscription *sub = subscribe("max_in_flight=2&ordered=false");
  wm_consumer *con = consumer(sub);
  put_numbers(4);
  until(stats(sub).waiting == 4);
  wm_message *one = take(con, "1"), *two = take(con, "2");
  ack(one);
  assert_true(wm_nack(two, SCRIPT_WAIT_MS));
  assert_int_equal(wm_flush(sub, SCRIPT_WAIT_MS), WM_OK);
  wm_message *three = take(con, "3");
  wm_subscription_stats s = stats(sub);
  assert_int_equal(s.fetched, 4);
  assert_int_equal(s.handed_out, 3);
  assert_int_equal(s.acked, 1);
  assert_int_equal(s.nacked, 1);
  assert_int_equal(s.waiting, 1);
  assert_int_equal(s.in_flight, 1);
  assert_int_equal(s.delayed, 1);
  assert_int_equal(s.unsettled, 0);
  assert_int_equal(s.dead + s.released + s.lost + s.undecodable + s.switches + s.retries, 0);
  assert_true(s.bytes >= 3 * sizeof(wm_message) && s.settles >= 1 && s.fetches >= 1);
  assert_true(s.window >= 2);
  ack(three);
  wm_message_release(two);
  close_sub(sub);
  s = stats(wm_consumer_subscription(con));
  assert_int_equal(s.released, 2);
  assert_int_equal(s.waiting + s.in_flight + s.delayed + s.unsettled + s.bytes, 0);
  assert_false(s.connected);
  wm_consumer_close(con);
}

static void a_forgotten_ack_is_told_once_a_message(void **state) {
  (void)state;
  wm_subscription *sub = subscribe("stall_warning=10ms&group=mail&takeover=1h");
  wm_consumer *con = consumer(sub);
  put_numbers(2);
  wm_message *one = take(con, "1");
  promptly(logged("message u-1 (attempt 1) has been in hand") == 1);
  assert_int_equal(logged("topic 'orders', group 'mail'"), 1);
  for (size_t looks = 1; looks <= 3; looks++) {
    size_t before = calls(FEED_TOUCH);
    set_time(sub, &sub->touch_at, 0); /* the settler looks at everything again */
    until(calls(FEED_TOUCH) > before);
  }
  ack(one);
  wm_message *two = take(con, "2");
  promptly(logged("message u-2 (attempt 1) has been in hand") == 1);
  assert_int_equal(logged("has been in hand"), 2);
  ack(two);
  close_sub(sub);
  wm_consumer_close(con);
}

int main(void) {
  const struct CMUnitTest tests[] = {
      test(the_group_exists_when_subscribe_returns),
      test(the_broker_is_told_what_was_asked_for),
      test(an_absent_broker_is_unreachable_after_connect_timeout),
      test(a_silent_broker_is_unreachable_after_connect_timeout),
      test(an_outage_at_subscribe_passes),
      test(a_refusal_is_told_at_once),
      test(bad_input_is_refused_before_the_broker_is_asked),
      test(async_goes_on_in_the_background_and_tells_once),
      test(async_tells_when_it_will_never_work),
      test(async_tells_when_it_was_closed_before),
      test(a_group_that_is_made_while_it_is_closed_is_left_again),
      test(nobody_needs_to_be_told),
      test(configure_changes_what_is_under_way),
      test(configure_refuses_what_says_where_messages_come_from),
      test(stats_count_what_happened),
      test(a_forgotten_ack_is_told_once_a_message),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
