/*
 * check_test.c - what is refused before a broker is asked, by URL, options, topic and what goes together; and what a
 * probe tells.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>

#include "check.h"
#include "scripted.h"

#include <cmocka.h>

static wm_error err;

static int setup(void **state) {
  (void)state;
  script_reset();
  return 0;
}

/* text NULL: it is fine */
static void result_is(int rc, int code, const char *text) {
  if (rc != code) fail_msg("%s: %s", wm_code_name(rc), rc == WM_OK ? "" : err.text);
  if (code == WM_OK) return;
  assert_int_equal(err.code, code);
  if (!strstr(err.text, text)) fail_msg("'%s' lacks '%s'", err.text, text);
}

static void sub_is(const char *url, int code, const char *text) {
  result_is(wm_check(url, "orders", NULL, false, &err), code, text);
  assert_int_equal(wm_check(url, "orders", NULL, false, NULL), code);
}

static void what_excludes_each_other_is_refused(void **state) {
  (void)state;
  sub_is("script:?group=g", WM_OK, NULL);
  sub_is("script:", WM_OK, NULL);
  sub_is("script:?group=g&order_by=k&max_in_flight=8", WM_OK, NULL);
  sub_is("script:?group=g&order_by=k&ordered=false", WM_BAD_INPUT,
         "script:?group=g&order_by=k&ordered=false, topic 'orders', group 'g': order_by = \"k\" "
         "and ordered = false "
         "exclude each other");
  sub_is("script:?tx=true&group=g", WM_OK, NULL);
  sub_is("script:?tx=true&group=g&max_in_flight=2", WM_BAD_INPUT, "leave max_in_flight = 2 out");
  sub_is("script:?exclusive=true&group=g", WM_OK, NULL);
  sub_is("script:?exclusive=true", WM_BAD_INPUT,
         ", topic 'orders': exclusive = true is about the members of a group");
  sub_is("script:?dead_letter=orders", WM_BAD_INPUT, "dead_letter is the topic itself");
  sub_is("script:?dead_letter=or*", WM_BAD_INPUT, "dead_letter: the topic 'or*' has a '*'");
  sub_is("script:?dead_letter=dead&max_attempts=3", WM_OK, NULL);
  sub_is("script:?max_attempts=3", WM_BAD_INPUT, "max_attempts needs a topic");
  sub_is("script:?release_after=3", WM_UNSUPPORTED, "release_after is not supported yet");
  sub_is("script:?on_undecodable=dead_letter", WM_BAD_INPUT, "dead_letter = TOPIC");
  sub_is("script:?on_undecodable=dead_letter&dead_letter=d", WM_OK, NULL);
  sub_is("script:?from=oldest&group=g", WM_OK, NULL);
  sub_is("script:?batch=0", WM_BAD_INPUT, "batch");
}

static void what_the_broker_cannot_do_is_refused(void **state) {
  (void)state;
  sub_is("plain:?group=g", WM_OK, NULL);
  sub_is("plain:", WM_UNSUPPORTED, "plain has no subscriptions without a group");
  sub_is("plain:?group=g&exclusive=true", WM_UNSUPPORTED, "plain cannot keep members standing by");
  sub_is("plain:?group=g&tx=true", WM_UNSUPPORTED,
         "tx = true is impossible, plain has no transactions");
  sub_is("plain:?group=g&from=newest", WM_OK, NULL);
  sub_is("plain:?group=g&from=1700000000", WM_UNSUPPORTED, "from = \"1700000000\" is impossible");
  sub_is("plain:?group=audit&from=oldest", WM_UNSUPPORTED,
         "plain:?group=audit&from=oldest, topic 'orders', group 'audit': from = \"oldest\" is "
         "impossible, plain keeps "
         "no history; leave it out, or create the group ahead: wmlua groups create orders audit");
}

static void names_are_checked_as_opening_would(void **state) {
  (void)state;
  result_is(wm_check("script:", "or*", NULL, false, &err), WM_BAD_INPUT,
            "script:, topic 'or*': the topic 'or*' has");
  result_is(wm_check("script:", NULL, NULL, false, &err), WM_BAD_INPUT, "the topic is empty");
  result_is(wm_check("script:?group=a%0Ab", "orders", NULL, false, &err), WM_BAD_INPUT,
            "the group 'a\\x0ab'");
  result_is(wm_check("script:", "or*", NULL, true, &err), WM_BAD_INPUT,
            "publish on script:: the topic 'or*' has");
  result_is(wm_check("script:", NULL, NULL, true, &err), WM_OK, NULL);
  result_is(wm_check("script:?timeout=0", "orders", NULL, true, &err), WM_BAD_INPUT, "timeout");
  result_is(wm_check("script:?timeout=0", "orders", NULL, false, &err), WM_OK, NULL);
  result_is(wm_check("nosuch:", "orders", NULL, true, &err), WM_BAD_INPUT, "nosuch");
  assert_int_equal(script.opened, script.closed);
}

typedef struct notes {
  char text[2000];
  bool warned;
} notes;

static void note(void *arg, const char *name, const char *text, bool warning) {
  notes *n = arg;
  size_t used = strlen(n->text);
  snprintf(n->text + used, sizeof n->text - used, "%s: %s\n", name, text);
  n->warned |= warning;
}

static void a_probe_tells_what_broker_and_core_know(void **state) {
  (void)state;
  notes n = {"", false};
  result_is(wm_probe("script:", note, &n, &err), WM_OK, NULL);
  assert_non_null(
      strstr(n.text, "features: groups, fan-out, ordered, replay, exclusive, transactions\n"));
  assert_non_null(strstr(n.text, "redelivery: "));
  assert_non_null(strstr(n.text, "limit: a payload has at most 8388608 bytes\n"));
  assert_non_null(strstr(n.text, "server: scripted\n"));
  assert_false(n.warned);
  result_is(wm_probe("plain:", note, &n, &err), WM_OK, NULL);
  assert_non_null(strstr(n.text, "features: none\n"));
  script.gate = true;
  result_is(wm_probe("script://u:secret@h", note, &n, &err), WM_UNREACHABLE,
            "script://u:***@h: connection refused");
  result_is(wm_probe("script:?timeot=1", note, &n, &err), WM_BAD_INPUT, "'timeout'");
  assert_int_equal(script.opened, script.closed);
}

static void a_backend_can_be_registered_once(void **state) {
  (void)state;
  assert_ptr_equal(wm_backend_find("script", &err), &script_backend);
  assert_int_equal(wm_backend_register(&script_backend), WM_BAD_INPUT);
  wm_backend_info info = {0};
  size_t i = 0;
  while (wm_backend_list(i, &info) && strcmp(info.name, "script") != 0)
    i++;
  assert_string_equal(info.name, "script");
  assert_null(info.missing);
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test_setup(what_excludes_each_other_is_refused, setup),
      cmocka_unit_test_setup(what_the_broker_cannot_do_is_refused, setup),
      cmocka_unit_test_setup(names_are_checked_as_opening_would, setup),
      cmocka_unit_test_setup(a_probe_tells_what_broker_and_core_know, setup),
      cmocka_unit_test_setup(a_backend_can_be_registered_once, setup),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
