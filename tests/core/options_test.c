/*
 * options_test.c - sets of options, durations and sizes, tables: values, defaults, and what errors say.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "backend.h"
#include "options.h"

#define COUNT_OF(table) (sizeof(table) / sizeof *(table))

static wm_error err;

static void a_set_keeps_the_last_value_of_a_name(void **state) {
  (void)state;
  wm_options *opts = wm_options_new();
  char name[16] = "group", value[16] = "first";
  assert_int_equal(wm_options_set(opts, name, value), WM_OK);
  strcpy(value, "second");
  assert_string_equal(wm_options_get(opts, "group"), "first"); /* it was copied */
  assert_int_equal(wm_options_set(opts, name, value), WM_OK);
  strcpy(name, "x");
  assert_string_equal(wm_options_get(opts, "group"), "second");
  assert_null(wm_options_get(opts, "x"));
  assert_null(wm_options_at(opts, 1, NULL));
  for (int i = 0; i < 100; i++) {
    snprintf(name, sizeof name, "n%d", i);
    assert_int_equal(wm_options_set(opts, name, name), WM_OK);
  }
  assert_string_equal(wm_options_get(opts, "n99"), "n99");
  assert_string_equal(wm_options_at(opts, 100, NULL), "n99");
  wm_options_free(opts);
  wm_options_free(NULL);
  assert_null(wm_options_get(NULL, "x"));
  assert_null(wm_options_at(NULL, 0, NULL));
}

static void durations_are_read(void **state) {
  (void)state;
  static const struct {
    const char *text;
    int64_t ms;
  } good[] = {{"0", 0},
              {"30", 30000},
              {"30.0", 30000},
              {"0.25", 250},
              {"250ms", 250},
              {"30s", 30000},
              {"5m", 300000},
              {"2h", 7200000},
              {"7d", 604800000},
              {"1.5h", 5400000},
              {"1H", 3600000},
              {"0.5ms", 1},
              {"0.0001", 1}, /* what is not nothing stays so */
              {"0.00000000000000000001", 1},
              {"0.33333333333333", 334},
              {"0.1000000000000000000000", 100},
              {"0.000000000", 0},
              {"9223372036854775807ms", INT64_MAX},
              {"106751991167d", 106751991167 * 86400000}};
  for (size_t i = 0; i < COUNT_OF(good); i++) {
    int64_t ms = -1;
    if (wm_parse_duration(good[i].text, &ms) != WM_OK || ms != good[i].ms)
      fail_msg("'%s' is %lld", good[i].text, (long long)ms);
  }
  static const char *const bad[] = {"",
                                    "s",
                                    "-1",
                                    "+1",
                                    " 1",
                                    "1 ",
                                    "1 s",
                                    "1x",
                                    "1min",
                                    ".5",
                                    "1.",
                                    "1.s",
                                    "1..5",
                                    "0x10",
                                    "1e5",
                                    "inf",
                                    "nan",
                                    "5 parsecs",
                                    "9223372036854775808ms",
                                    "9223372036854775807",
                                    "9223372036854775807.5ms",
                                    "106751991168d",
                                    "99999999999999999999999999"};
  int64_t ms;
  for (size_t i = 0; i < COUNT_OF(bad); i++)
    if (wm_parse_duration(bad[i], &ms) != WM_BAD_INPUT) fail_msg("'%s' was taken", bad[i]);
  assert_int_equal(wm_parse_duration(NULL, &ms), WM_BAD_INPUT);
}

static void sizes_are_read(void **state) {
  (void)state;
  static const struct {
    const char *text;
    int64_t bytes;
  } good[] = {{"0", 0},
              {"1", 1},
              {"64k", 65536},
              {"64K", 65536},
              {"4M", 4194304},
              {"1G", 1073741824},
              {"4096", 4096},
              {"8589934591G", (int64_t)8589934591 << 30},
              {"9223372036854775807", INT64_MAX}};
  for (size_t i = 0; i < COUNT_OF(good); i++) {
    int64_t bytes = -1;
    if (wm_parse_size(good[i].text, &bytes) != WM_OK || bytes != good[i].bytes)
      fail_msg("'%s' is %lld", good[i].text, (long long)bytes);
  }
  static const char *const bad[] = {"",    "k",   "-1",          "12q",
                                    "1kb", "1 k", "1.5",         "1,0",
                                    "0x1", "1e3", "8589934592G", "9223372036854775808"};
  int64_t bytes;
  for (size_t i = 0; i < COUNT_OF(bad); i++)
    if (wm_parse_size(bad[i], &bytes) != WM_BAD_INPUT) fail_msg("'%s' was taken", bad[i]);
  assert_int_equal(wm_parse_size(NULL, &bytes), WM_BAD_INPUT);
}

/* ---- tables -------------------------------------------------------------------------------- */

static const wm_option_def table[] = {
    {"name", WM_OPT_TEXT, "", 0, 0, NULL, "text"},
    {"count", WM_OPT_COUNT, "1", 1, 1000, NULL, "number"},
    {"wait", WM_OPT_DURATION, "30s", 1000, 12 * 3600000, NULL, "time"},
    {"room", WM_OPT_SIZE, "1M", 65536, 0, NULL, "size"},
    {"really", WM_OPT_BOOL, "false", 0, 0, NULL, "yes or no"},
    {"mode", WM_OPT_CHOICE, "raw", 0, 0, "raw|dead_letter|skip", "one of"},
    {"api_key", WM_OPT_COUNT, "0", 0, 0, NULL, "number that is secret"},
    {"free", WM_OPT_COUNT, "0", 0, INT64_MAX, NULL, "number without a limit"},
    {0}};

enum { NAME, COUNT, WAIT, ROOM, REALLY, MODE, API_KEY, FREE, VALUES };

static wm_options *options(const char *name, const char *value) {
  wm_options *opts = wm_options_new();
  if (name) assert_int_equal(wm_options_set(opts, name, value), WM_OK);
  return opts;
}

static void defaults_hold_where_nothing_is_given(void **state) {
  (void)state;
  wm_option_value v[VALUES];
  assert_int_equal(wm_options_resolve(table, NULL, v, &err), WM_OK);
  assert_string_equal(v[NAME].text, "");
  assert_int_equal(v[COUNT].number, 1);
  assert_int_equal(v[WAIT].number, 30000);
  assert_int_equal(v[ROOM].number, 1 << 20);
  assert_int_equal(v[REALLY].number, 0);
  assert_int_equal(v[MODE].number, 0);
  assert_string_equal(v[WAIT].text, "30s");
  for (int i = 0; i < VALUES; i++)
    assert_false(v[i].set);
}

static void what_is_given_is_taken(void **state) {
  (void)state;
  wm_option_value v[VALUES];
  wm_options *opts = options("count", "1000");
  wm_options_set(opts, "wait", "12h");
  wm_options_set(opts, "mode", "skip");
  wm_options_set(opts, "room", "64k");
  wm_options_set(opts, "name", "");
  wm_options_set(opts, "free", "9223372036854775807");
  wm_options_set(opts, "of another table", "x");
  assert_int_equal(wm_options_resolve(table, opts, v, &err), WM_OK);
  assert_int_equal(v[COUNT].number, 1000);
  assert_true(v[COUNT].set);
  assert_string_equal(v[COUNT].text, "1000");
  assert_int_equal(v[WAIT].number, 43200000);
  assert_int_equal(v[MODE].number, 2);
  assert_int_equal(v[ROOM].number, 65536);
  assert_int_equal(v[FREE].number, INT64_MAX);
  assert_true(v[NAME].set);
  assert_false(v[REALLY].set);
  wm_options_free(opts);
}

static void truth_has_several_words(void **state) {
  (void)state;
  static const char *const words[] = {"false", "true", "no", "yes", "off", "on", "0", "1"};
  for (int i = 0; i < (int)COUNT_OF(words); i++) {
    wm_option_value v;
    assert_int_equal(wm_option_parse(&table[REALLY], words[i], &v, &err), WM_OK);
    assert_int_equal(v.number, i % 2);
  }
}

static void wrong_values_are_told_what_is_expected(void **state) {
  (void)state;
  static const struct {
    const char *name, *value, *said;
  } wrong[] = {
      {"count", "many", "option 'count': a whole number from 1 to 1000 expected, got 'many'"},
      {"count", "0", "option 'count': a whole number from 1 to 1000 expected, got '0'"},
      {"count", "1001", "from 1 to 1000 expected, got '1001'"},
      {"count", "-1", "got '-1'"},
      {"count", "1.5", "got '1.5'"},
      {"count", "", "got ''"},
      {"count", "99999999999999999999", "got '99999999999999999999'"},
      {"wait", "soon",
       "option 'wait': a duration from 1s to 12h (30 or 30s, 250ms, 5m, 2h, 7d) expected, got "
       "'soon'"},
      {"wait", "999ms", "from 1s to 12h"},
      {"wait", "1d", "from 1s to 12h"},
      {"room", "12q",
       "option 'room': a size of at least 64k in bytes (65536 or 64k, 4M, 1G) expected, got '12q'"},
      {"room", "1k", "at least 64k"},
      {"really", "perhaps", "option 'really': true or false expected, got 'perhaps'"},
      {"mode", "weep", "option 'mode': raw, dead_letter or skip expected, got 'weep'"},
      {"mode", "ra", "got 'ra'"},
      {"mode", "raw|skip", "got 'raw|skip'"},
      {"mode", "", "got ''"},
      {"api_key", "hush", "option 'api_key': a whole number expected, got '***'"},
      {"count", "a\nb", "got 'a b'"},
  };
  for (size_t i = 0; i < COUNT_OF(wrong); i++) {
    wm_options *opts = options(wrong[i].name, wrong[i].value);
    wm_option_value v[VALUES];
    err = (wm_error){0};
    assert_int_equal(wm_options_resolve(table, opts, v, &err), WM_BAD_INPUT);
    if (!strstr(err.text, wrong[i].said))
      fail_msg("'%s' does not say '%s'", err.text, wrong[i].said);
    assert_int_equal(wm_options_resolve(table, opts, v, NULL), WM_BAD_INPUT);
    wm_options_free(opts);
  }
  char text[200];
  memset(text, 'x', sizeof text - 1);
  text[sizeof text - 1] = 0;
  wm_option_value v;
  assert_int_equal(wm_option_parse(&table[COUNT], text, &v, &err), WM_BAD_INPUT);
  assert_non_null(strstr(err.text, "xxx...'"));
}

static int check_names(const char *name) {
  static const wm_option_def other[] = {{"timeout", WM_OPT_DURATION, "1", 0, 0, NULL, "t"}, {0}};
  const wm_option_def *const tables[] = {wm_subscription_options, other};
  wm_options *opts = options("group", "g");
  wm_options_set(opts, "timeout", "1");
  wm_options_set(opts, name, "1");
  err = (wm_error){0};
  int rc = wm_options_unknown(opts, tables, COUNT_OF(tables), &err);
  wm_options_free(opts);
  return rc;
}

static void unknown_names_get_the_nearest_known_one(void **state) {
  (void)state;
  static const struct {
    const char *name, *near;
  } unknown[] = {{"max_inflight", "max_in_flight"},
                 {"maxInFlight", "max_in_flight"},
                 {"max-in-flight", "max_in_flight"},
                 {"Group", "group"},
                 {"gruop", "group"},
                 {"xt", "tx"},
                 {"timout", "timeout"},
                 {"deadletter", "dead_letter"},
                 {"prefetch_byte", "prefetch_bytes"},
                 {"take_over", "takeover"},
                 {"ordered_by", "order_by"}};
  for (size_t i = 0; i < COUNT_OF(unknown); i++) {
    char said[100];
    assert_int_equal(check_names(unknown[i].name), WM_BAD_INPUT);
    snprintf(said, sizeof said, "unknown option '%s'; did you mean '%s'?", unknown[i].name,
             unknown[i].near);
    assert_string_equal(err.text, said);
  }
  assert_int_equal(check_names("batch"), WM_OK);
  assert_int_equal(wm_options_unknown(NULL, NULL, 0, &err), WM_OK);
}

static void unknown_names_near_nothing_get_all(void **state) {
  (void)state;
  assert_int_equal(check_names("nonsense"), WM_BAD_INPUT);
  assert_non_null(strstr(err.text, "unknown option 'nonsense'; known are: group, from, "));
  assert_non_null(strstr(err.text, ", timeout"));
  char name[300];
  memset(name, 'x', sizeof name - 1);
  name[sizeof name - 1] = 0;
  assert_int_equal(check_names(name), WM_BAD_INPUT);
  assert_non_null(strstr(err.text, "xx'; known are: group"));
  assert_int_equal(check_names(""), WM_BAD_INPUT);
  assert_non_null(strstr(err.text, "unknown option ''"));
}

/* ---- what this build has ---------------------------------------------------------------------- */

static void assert_whole(const wm_option_def *defs, size_t n) {
  for (size_t i = 0; i < n; i++) {
    const wm_option_def *def = &defs[i];
    wm_option_value v;
    assert_non_null(def->name);
    assert_non_null(def->help);
    assert_true(strlen(def->help) > 0 && def->help[strlen(def->help) - 1] != '.');
    assert_int_equal(wm_option_parse(def, def->value, &v, &err), WM_OK);
    for (size_t k = 0; k < i; k++)
      assert_string_not_equal(defs[k].name, def->name);
  }
  assert_null(defs[n].name);
}

static void the_tables_of_the_core_are_whole(void **state) {
  (void)state;
  assert_whole(wm_publisher_options, WM_PUB_OPTIONS);
  assert_whole(wm_subscription_options, WM_SUB_OPTIONS);
}

static void defaults_are_those_of_the_manual(void **state) {
  (void)state;
  wm_option_value s[WM_SUB_OPTIONS], p[WM_PUB_OPTIONS];
  assert_int_equal(wm_options_resolve(wm_subscription_options, NULL, s, &err), WM_OK);
  assert_int_equal(wm_options_resolve(wm_publisher_options, NULL, p, &err), WM_OK);
  static const int64_t numbers[WM_SUB_OPTIONS] = {[WM_SUB_MAX_IN_FLIGHT] = 1,
                                                  [WM_SUB_ORDERED] = 1,
                                                  [WM_SUB_BATCH] = 1,
                                                  [WM_SUB_PREFETCH] = 1000,
                                                  [WM_SUB_PREFETCH_BYTES] = 16 << 20,
                                                  [WM_SUB_TAKEOVER] = 30000,
                                                  [WM_SUB_HOLD_MAX] = 60000,
                                                  [WM_SUB_ON_UNDECODABLE] = WM_UNDECODABLE_RAW,
                                                  [WM_SUB_STALL_WARNING] = 30000,
                                                  [WM_SUB_CONNECT_TIMEOUT] = 30000,
                                                  [WM_SUB_CLOSE_TIMEOUT] = 30000};
  for (size_t i = 0; i < WM_SUB_OPTIONS; i++)
    if (s[i].number != numbers[i]) fail_msg("%s", wm_subscription_options[i].name);
  assert_int_equal(p[WM_PUB_TIMEOUT].number, 10000);
  assert_int_equal(p[WM_PUB_QUEUE_BYTES].number, 64 << 20);
}

static void the_codes_of_choices_match_the_table(void **state) {
  (void)state;
  static const char *const modes[] = {[WM_UNDECODABLE_RAW] = "raw",
                                      [WM_UNDECODABLE_DEAD_LETTER] = "dead_letter",
                                      [WM_UNDECODABLE_SKIP] = "skip"};
  for (int i = 0; i < (int)COUNT_OF(modes); i++) {
    wm_option_value v;
    assert_int_equal(
        wm_option_parse(&wm_subscription_options[WM_SUB_ON_UNDECODABLE], modes[i], &v, &err),
        WM_OK);
    assert_int_equal(v.number, i);
  }
}

static void the_list_has_every_option_of_every_part(void **state) {
  (void)state;
  size_t expected = WM_PUB_OPTIONS + WM_SUB_OPTIONS, n = 0;
  const wm_backend_entry *entry;
  for (size_t i = 0; (entry = wm_backend_at(i)) != NULL; i++)
    for (const wm_option_def *def = entry->backend ? entry->backend->options : NULL;
         def && def->name; def++)
      expected++;
  wm_option_info info;
  for (; wm_option_list(n, &info); n++)
    assert_true(info.name && info.value && info.unit && info.help && info.where);
  assert_int_equal(n, expected);
  assert_false(wm_option_list(SIZE_MAX, &info));
  assert_true(wm_option_list(WM_PUB_TIMEOUT, &info));
  assert_string_equal(info.name, "timeout");
  assert_string_equal(info.unit, "duration");
  assert_string_equal(info.where, "publisher");
  assert_true(wm_option_list(WM_PUB_OPTIONS + WM_SUB_ON_UNDECODABLE, &info));
  assert_string_equal(info.unit, "raw|dead_letter|skip");
  assert_string_equal(info.where, "subscription");
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(a_set_keeps_the_last_value_of_a_name),
      cmocka_unit_test(durations_are_read),
      cmocka_unit_test(sizes_are_read),
      cmocka_unit_test(defaults_hold_where_nothing_is_given),
      cmocka_unit_test(what_is_given_is_taken),
      cmocka_unit_test(truth_has_several_words),
      cmocka_unit_test(wrong_values_are_told_what_is_expected),
      cmocka_unit_test(unknown_names_get_the_nearest_known_one),
      cmocka_unit_test(unknown_names_near_nothing_get_all),
      cmocka_unit_test(the_tables_of_the_core_are_whole),
      cmocka_unit_test(defaults_are_those_of_the_manual),
      cmocka_unit_test(the_codes_of_choices_match_the_table),
      cmocka_unit_test(the_list_has_every_option_of_every_part),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
