/*
 * connection_test.c - connections are shared by what they name, options come from URL and table, and bad input is
 * refused with a text that names it.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>

#include "connection.h"
#include "names.h"
#include "scripted.h"

#include <cmocka.h>

static wm_error err;

static int setup(void **state) {
  (void)state;
  script_reset();
  return 0;
}

static wm_options *options(const char *name, const char *value) {
  wm_options *opts = wm_options_new();
  assert_int_equal(wm_options_set(opts, name, value), WM_OK);
  return opts;
}

static wm_connection *open_with(const char *url, const char *name, const char *value) {
  wm_connection *conn;
  wm_settings settings;
  wm_options *opts = name ? options(name, value) : NULL;
  int rc = wm_connection_open(&conn, url, opts, wm_publisher_options, &settings, &err);
  if (rc != WM_OK) fail_msg("%s: %s", url, err.text);
  wm_options_free(opts);
  wm_settings_clear(&settings);
  return conn;
}

static void is_refused(const char *url, const char *name, const char *value,
                       const wm_option_def *table, int code, const char *text) {
  wm_connection *conn;
  wm_settings settings;
  wm_options *opts = name ? options(name, value) : NULL;
  assert_int_equal(wm_connection_open(&conn, url, opts, table, &settings, &err), code);
  assert_int_equal(err.code, code);
  if (!strstr(err.text, text)) fail_msg("'%s' lacks '%s'", err.text, text);
  assert_int_equal(wm_connection_open(&conn, url, opts, table, &settings, NULL), code);
  wm_options_free(opts);
}

static void same(const char *a, const char *b, bool expected) {
  wm_connection *x = open_with(a, NULL, NULL), *y = open_with(b, NULL, NULL);
  if ((x == y) != expected)
    fail_msg("%s and %s are %s", a, b, expected ? "not the same" : "the same");
  wm_connection_release(x);
  wm_connection_release(y);
}

static void equal_urls_are_one_connection(void **state) {
  (void)state;
  wm_connection *a = open_with("script://h/p", NULL, NULL),
                *b = open_with("script://h/p", NULL, NULL);
  assert_ptr_equal(a, b);
  assert_int_equal(script.opened, 1);
  assert_ptr_equal(wm_connection_retain(a), a);
  wm_connection_release(a);
  wm_connection_release(b);
  assert_int_equal(script.closed, 0);
  wm_connection_release(a);
  assert_int_equal(script.closed, 1);
  wm_connection_release(open_with("script://h/p", NULL, NULL));
  assert_int_equal(script.opened, 2);
}

static void what_names_another_broker_is_another_connection(void **state) {
  (void)state;
  same("script://h/p", "script://h/p?timeout=3", true);
  same("script://h/p", "script://h/p?max_in_flight=3", true);
  same("script://h/p?wait=5", "script://h/p?wait=5000ms", true);
  same("script://h/p", "script://h/p?wait=5s", true);
  same("script://h/p", "script://h/p?wait=6s", false);
  same("script://h/p?text=a", "script://h/p?text=b", false);
  same("script://h/p", "script://h/q", false);
  same("script://h/p", "script://i/p", false);
  same("script://h/p", "script://h:1/p", false);
  same("script://h/p", "script://h,i/p", false);
  same("script://h/p", "script://u@h/p", false);
  same("script://u:a@h/p", "script://u:b@h/p", false);
  same("script://u:a@h/p", "script://u:a@h/p", true);
  same("script://u@h/p", "script://u:@h/p", false);
  same("script:p", "plain:p", false);
  assert_int_equal(script.opened, script.closed);
}

static void a_table_wins_over_the_query_and_both_over_defaults(void **state) {
  (void)state;
  wm_connection *conn;
  wm_settings s;
  wm_options *opts = options("timeout", "3s");
  assert_int_equal(wm_options_set(opts, "text", "table"), WM_OK);
  assert_int_equal(wm_connection_open(&conn, "script://h?timeout=2&order_by=k&text=url&batch=7",
                                      opts, wm_publisher_options, &s, &err),
                   WM_OK);
  wm_options_free(opts);
  assert_int_equal(s.values[WM_PUB_TIMEOUT].number, 3000);
  assert_string_equal(s.values[WM_PUB_ORDER_BY].text, "k");
  assert_int_equal(s.values[WM_PUB_QUEUE_BYTES].number, 64 << 20);
  assert_string_equal(script.text, "table");
  assert_string_equal(conn->values[0].text, "table");
  wm_connection_release(conn);
  wm_settings_clear(&s);
}

static void settings_are_resolved_again_or_left_as_they_were(void **state) {
  (void)state;
  wm_settings s = {0};
  wm_options *opts = options("batch", "7");
  wm_options_set(opts, "text", "not looked at");
  assert_int_equal(
      wm_settings_resolve(&s, "script://h?prefetch=9", opts, wm_subscription_options, &err), WM_OK);
  assert_int_equal(s.values[WM_SUB_BATCH].number, 7);
  assert_int_equal(s.values[WM_SUB_PREFETCH].number, 9);
  wm_options_set(opts, "batch", "0");
  assert_int_equal(wm_settings_resolve(&s, "script://h", opts, wm_subscription_options, &err),
                   WM_BAD_INPUT);
  assert_non_null(strstr(err.text, "script://h: "));
  assert_non_null(strstr(err.text, "batch"));
  assert_int_equal(s.values[WM_SUB_BATCH].number, 7);
  assert_int_equal(wm_settings_resolve(&s, "script://h", NULL, wm_subscription_options, &err),
                   WM_OK);
  assert_int_equal(s.values[WM_SUB_BATCH].number, 1);
  wm_options_free(opts);
  wm_settings_clear(&s);
}

static void what_is_wrong_is_named_with_its_url(void **state) {
  (void)state;
  const wm_option_def *pub = wm_publisher_options, *sub = wm_subscription_options;
  is_refused("script://u:secret@h?timeout=x", NULL, NULL, pub, WM_BAD_INPUT,
             "script://u:***@h?timeout=x: ");
  is_refused("script://h?timeot=1", NULL, NULL, pub, WM_BAD_INPUT, "'timeout'");
  is_refused("script://h?max_inflight=1", NULL, NULL, pub, WM_BAD_INPUT, "'max_in_flight'");
  is_refused("script://h", "max_inflight", "1", sub, WM_BAD_INPUT, "'max_in_flight'");
  is_refused("script://h", "max_in_flight", "1", pub, WM_BAD_INPUT, "max_in_flight");
  is_refused("script://h", "timeout", "1", sub, WM_BAD_INPUT, "timeout");
  is_refused("script://h", "wait", "soon", pub, WM_BAD_INPUT, "wait");
  is_refused("script://h/bad", NULL, NULL, pub, WM_BAD_INPUT, "script://h/bad: the path is bad");
  is_refused("scrip://h", NULL, NULL, pub, WM_BAD_INPUT, "'script'");
  is_refused("no url", NULL, NULL, pub, WM_BAD_INPUT, "no url");
  assert_int_equal(script.opened, script.closed);
}

static void name_is(const char *name, const char *text) {
  int rc = wm_name_check("topic", name, &err);
  if (!text) {
    if (rc != WM_OK) fail_msg("%s", err.text);
    return;
  }
  assert_int_equal(rc, WM_BAD_INPUT);
  if (!strstr(err.text, text)) fail_msg("'%s' lacks '%s'", err.text, text);
}

static void names_are_whole_text(void **state) {
  (void)state;
  char longest[WM_NAME_MAX + 2];
  memset(longest, 'x', sizeof longest);
  longest[WM_NAME_MAX] = 0;
  name_is(longest, NULL);
  longest[WM_NAME_MAX] = 'x';
  longest[WM_NAME_MAX + 1] = 0;
  name_is(longest, "has 256 bytes; at most 255");
  name_is("orders", NULL);
  name_is("a b/c.d-e_f:g", NULL);
  name_is("\xc3\xbc\xe2\x82\xac\xf0\x9f\x98\x80", NULL);
  name_is("", "the topic is empty");
  name_is(NULL, "the topic is empty");
  name_is("a\nb", "'a\\x0ab' has a control character at byte 2");
  name_is("a\x7f", "control character at byte 2");
  name_is("\xc3\xbc\xff", "'\xc3\xbc\\xff' has invalid UTF-8 at byte 3");
  name_is("\xc0\x80", "invalid UTF-8");         /* longer than needed */
  name_is("\xed\xa0\x80", "invalid UTF-8");     /* half of a pair */
  name_is("\xf4\x90\x80\x80", "invalid UTF-8"); /* beyond the last character */
  name_is("ab\xe2\x82", "invalid UTF-8 at byte 3");
}

static void what_no_broker_or_this_one_would_take_is_refused(void **state) {
  (void)state;
  wm_connection *conn = open_with("script://h", NULL, NULL);
  assert_int_equal(wm_connection_check(conn, "orders", "mail", NULL, &err), WM_OK);
  assert_int_equal(wm_connection_check(conn, NULL, NULL, NULL, &err), WM_OK);
  assert_int_equal(wm_connection_check(conn, "or\1ders", NULL, NULL, &err), WM_BAD_INPUT);
  assert_int_equal(wm_connection_check(conn, "orders", "", NULL, &err), WM_BAD_INPUT);
  assert_non_null(strstr(err.text, "group"));
  assert_int_equal(wm_connection_check(conn, "or*", NULL, NULL, &err), WM_BAD_INPUT);
  assert_non_null(strstr(err.text, "has a '*'"));
  char *much = calloc(1, SCRIPT_PAYLOAD_MAX + 1);
  wm_message *msg;
  assert_int_equal(wm_message_new(&msg, NULL, (wm_slice){much, SCRIPT_PAYLOAD_MAX}, NULL, 0, &err),
                   WM_OK);
  assert_int_equal(wm_connection_check(conn, NULL, NULL, msg, &err), WM_OK);
  wm_message_release(msg);
  assert_int_equal(
      wm_message_new(&msg, NULL, (wm_slice){much, SCRIPT_PAYLOAD_MAX + 1}, NULL, 0, &err), WM_OK);
  assert_int_equal(wm_connection_check(conn, NULL, NULL, msg, &err), WM_TOO_LARGE);
  assert_non_null(strstr(err.text, "8388609 bytes"));
  wm_message_release(msg);
  free(much);
  wm_connection_release(conn);
}

static void *open_and_release(void *arg) {
  for (int i = 0; i < 300; i++)
    wm_connection_release(open_with(i % 2 ? "script://h/1" : "script://h/2", NULL, NULL));
  return arg;
}

static void threads_share_connections(void **state) {
  (void)state;
  enum { THREADS = 4 };
  pthread_t threads[THREADS];
  for (int i = 0; i < THREADS; i++)
    pthread_create(&threads[i], NULL, open_and_release, NULL);
  for (int i = 0; i < THREADS; i++)
    pthread_join(threads[i], NULL);
  assert_int_equal(script.opened, script.closed);
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test_setup(equal_urls_are_one_connection, setup),
      cmocka_unit_test_setup(what_names_another_broker_is_another_connection, setup),
      cmocka_unit_test_setup(a_table_wins_over_the_query_and_both_over_defaults, setup),
      cmocka_unit_test_setup(settings_are_resolved_again_or_left_as_they_were, setup),
      cmocka_unit_test_setup(what_is_wrong_is_named_with_its_url, setup),
      cmocka_unit_test(names_are_whole_text),
      cmocka_unit_test_setup(what_no_broker_or_this_one_would_take_is_refused, setup),
      cmocka_unit_test_setup(threads_share_connections, setup),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
