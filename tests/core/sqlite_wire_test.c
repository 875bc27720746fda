/*
 * sqlite_wire_test.c - columns <-> messages: metadata as JSON, times as text. No file.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "backends/sqlite/sqlite.h"

#define SLICE(text) ((wm_slice){text, sizeof(text) - 1})
#define WITH_METADATA(text) with_metadata(SLICE(text))

static sqlite3 *db;
static sqlite3_stmt *json;

static wm_message *with_metadata(wm_slice metadata) {
  wm_sqlite_record r = {
      .offset = 42, .uuid = SLICE("u"), .payload = SLICE("p\0q"), .metadata = metadata};
  wm_message *msg = wm_sqlite_message(json, &r);
  assert_non_null(msg);
  assert_int_equal(msg->payload.len, 3);
  assert_memory_equal(msg->payload.data, "p\0q", 3);
  assert_string_equal(msg->uuid.data, "u");
  assert_string_equal(msg->position, "offset:42");
  return msg;
}

static void assert_value(const wm_message *msg, const char *key, const char *value) {
  for (size_t i = 0; i < msg->pairs; i++)
    if (strcmp(msg->meta[i].key.data, key) == 0) {
      assert_string_equal(msg->meta[i].value.data, value);
      return;
    }
  fail_msg("no key '%s'", key);
}

static void texts_are_read_with_all_their_escapes(void **state) {
  (void)state;
  wm_message *msg = WITH_METADATA(
      " {\"a\": \"1\", \"\": \"\", \"\\u00e4\\n\\\"\\\\\\/\":\"\\ud83d\\ude00\xc3\xa4\","
      "\"t:ime\":\"12:30:00\"}\n");
  assert_null(msg->undecodable);
  assert_int_equal(msg->pairs, 4);
  assert_value(msg, "a", "1");
  assert_value(msg, "", "");
  assert_value(msg, "\xc3\xa4\n\"\\/", "\xf0\x9f\x98\x80\xc3\xa4");
  assert_value(msg, "t:ime", "12:30:00");
  wm_message_release(msg);
}

static void foreign_values_become_text(void **state) {
  (void)state;
  wm_message *msg =
      WITH_METADATA("{\"i\":1,\"n\":-2,\"r\":1.5,\"t\":true,\"f\":false,\"z\":null,\"big\":1e300,"
                    "\"long\":9223372036854775807}");
  assert_null(msg->undecodable);
  assert_value(msg, "i", "1");
  assert_value(msg, "n", "-2");
  assert_value(msg, "r", "1.5");
  assert_value(msg, "t", "true");
  assert_value(msg, "f", "false");
  assert_value(msg, "z", "");
  assert_value(msg, "big", "1.0e+300");
  assert_value(msg, "long", "9223372036854775807");
  wm_message_release(msg);
}

static void the_last_of_equal_keys_wins(void **state) {
  (void)state;
  wm_message *msg = WITH_METADATA("{\"k\":\"1\",\"k\":\"2\"}");
  assert_int_equal(msg->pairs, 1);
  assert_value(msg, "k", "2");
  wm_message_release(msg);
}

static void nothing_is_nothing(void **state) {
  (void)state;
  static const char *const none[] = {"", "{}", " {} ", "null", "{ }"};
  for (size_t i = 0; i < sizeof none / sizeof *none; i++) {
    wm_message *msg = with_metadata((wm_slice){none[i], strlen(none[i])});
    assert_null(msg->undecodable);
    assert_int_equal(msg->pairs, 0);
    wm_message_release(msg);
  }
}

static void bad_metadata_keeps_the_payload_and_its_own_bytes(void **state) {
  (void)state;
  const wm_slice bad[] = {SLICE("no object"),
                          SLICE("{"),
                          SLICE("[]"),
                          SLICE("[\"a\",\"b\"]"),
                          SLICE("5"),
                          SLICE("\"text\""),
                          SLICE("{\"a\":{}}"),
                          SLICE("{\"a\":[\"b\"]}"),
                          SLICE("{\"a\":\"b\"}x"),
                          SLICE("{\"a\":\"b\""),
                          SLICE("{\"a\"}"),
                          SLICE("{\"a\":\"\\u0000\"}"),
                          SLICE("{\"a\":\"\0\"}"),
                          SLICE("{}\0x"),
                          SLICE("\xff"),
                          SLICE("{{{{{{{{{{{{{{{{")};
  for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
    wm_message *msg = with_metadata(bad[i]);
    if (!msg->undecodable) fail_msg("%s was decoded", bad[i].data);
    assert_int_equal(msg->pairs, 1);
    assert_string_equal(msg->meta[0].key.data, WM_SQLITE_RAW_METADATA);
    assert_int_equal(msg->meta[0].value.len, bad[i].len);
    assert_memory_equal(msg->meta[0].value.data, bad[i].data, bad[i].len);
    wm_message_release(msg);
  }
  /* A NUL that only looks like one. */
  wm_message *msg = WITH_METADATA("{\"a\":\"\\\\u0000\"}");
  assert_null(msg->undecodable);
  assert_value(msg, "a", "\\u0000");
  wm_message_release(msg);
}

static void a_row_without_uuid_is_named_by_its_offset(void **state) {
  (void)state;
  wm_sqlite_record r = {.offset = 9007199254740993, .metadata = SLICE("{}")};
  wm_message *msg = wm_sqlite_message(json, &r);
  assert_string_equal(msg->uuid.data, "9007199254740993");
  assert_int_equal(msg->payload.len, 0);
  wm_message_release(msg);
}

static void what_is_written_is_read(void **state) {
  (void)state;
  wm_pair pairs[200];
  char values[200][4];
  wm_sqlite_buf buf = {0};
  wm_message *msg, *back;
  for (int i = 0; i < 200; i++) {
    snprintf(values[i], sizeof values[i], "%c%c", i < 127 ? i + 1 : '\xc3',
             i < 127 ? '"' : '\x80' + i % 64);
    pairs[i] = (wm_pair){{values[i], 2}, {values[i], 2}};
  }
  for (size_t n = 0; n < 190; n += 63) {
    assert_int_equal(wm_message_make(&msg, "u", SLICE("p"), pairs, n, NULL), WM_OK);
    assert_true(wm_sqlite_put_metadata(&buf, msg));
    back = with_metadata((wm_slice){buf.data, buf.len});
    assert_null(back->undecodable);
    assert_int_equal(back->pairs, n);
    for (size_t i = 0; i < n; i++) {
      assert_string_equal(back->meta[i].key.data, msg->meta[i].key.data);
      assert_string_equal(back->meta[i].value.data, msg->meta[i].value.data);
    }
    if (n == 0) assert_memory_equal(buf.data, "{}", 2);
    wm_message_release(msg);
    wm_message_release(back);
  }
  free(buf.data);
}

static void only_what_json_can_carry_is_text(void **state) {
  (void)state;
  assert_true(wm_sqlite_is_text(SLICE("")));
  assert_true(wm_sqlite_is_text(SLICE("a\x01\x7f\xc3\xa4\xe2\x82\xac\xf0\x9f\x98\x80")));
  const wm_slice bad[] = {SLICE("\0"),
                          SLICE("a\0"),
                          SLICE("\xff"),
                          SLICE("\xc0\x80"),
                          SLICE("\xed\xa0\x80"),
                          SLICE("\xe2\x82"),
                          SLICE("\xf4\x90\x80\x80")};
  for (size_t i = 0; i < sizeof bad / sizeof *bad; i++)
    assert_false(wm_sqlite_is_text(bad[i]));
}

static int64_t parse(const char *text) {
  return wm_sqlite_parse_time((wm_slice){text, strlen(text)});
}

static void times_are_read_in_any_zone(void **state) {
  (void)state;
  assert_int_equal(parse("2026-01-01T00:00:00Z"), 1767225600000);
  assert_int_equal(parse("2026-01-01T00:00:00.123Z"), 1767225600123);
  assert_int_equal(parse("2026-01-01T00:00:00.123456789+00:00"), 1767225600123);
  assert_int_equal(parse("2026-01-01T02:30:00+02:30"), 1767225600000);
  assert_int_equal(parse("2025-12-31T16:00:00-08:00"), 1767225600000);
  assert_int_equal(parse("2026-01-01 00:00:00"), 1767225600000);
  assert_int_equal(parse("2024-02-29T23:59:59Z"), 1709251199000);
  assert_int_equal(parse("1970-01-01T00:00:01Z"), 1000);
  static const char *const bad[] = {"",
                                    "now",
                                    "2026-01-01",
                                    "2026-13-01T00:00:00Z",
                                    "2026-01-01T00:00:00+0200",
                                    "2026-01-01T00:00:00Zx",
                                    "2026-01-01T00:00Z",
                                    "2026-1-1T00:00:00Z"};
  for (size_t i = 0; i < sizeof bad / sizeof *bad; i++)
    assert_int_equal(parse(bad[i]), 0);
}

static void times_are_written_as_they_are_read(void **state) {
  (void)state;
  char text[WM_SQLITE_TIME_SIZE];
  wm_sqlite_print_time(1767225600007, text);
  assert_string_equal(text, "2026-01-01T00:00:00.007Z");
  for (int64_t ms = 1; ms < 4000000000000; ms += 86399999999) {
    wm_sqlite_print_time(ms, text);
    assert_int_equal(parse(text), ms);
  }
}

static int setup(void **state) {
  (void)state;
  return sqlite3_open(":memory:", &db) ||
         sqlite3_prepare_v2(db, WM_SQLITE_JSON_SQL, -1, &json, NULL);
}

static int teardown(void **state) {
  (void)state;
  return sqlite3_finalize(json) || sqlite3_close(db);
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(texts_are_read_with_all_their_escapes),
      cmocka_unit_test(foreign_values_become_text),
      cmocka_unit_test(the_last_of_equal_keys_wins),
      cmocka_unit_test(nothing_is_nothing),
      cmocka_unit_test(bad_metadata_keeps_the_payload_and_its_own_bytes),
      cmocka_unit_test(a_row_without_uuid_is_named_by_its_offset),
      cmocka_unit_test(what_is_written_is_read),
      cmocka_unit_test(only_what_json_can_carry_is_text),
      cmocka_unit_test(times_are_read_in_any_zone),
      cmocka_unit_test(times_are_written_as_they_are_read),
  };
  return cmocka_run_group_tests(tests, setup, teardown);
}
