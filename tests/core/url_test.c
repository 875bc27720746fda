/*
 * url_test.c - URLs: their parts, what is wrong and where, and that no password is ever shown.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "options.h"
#include "url.h"

static wm_error err;

static wm_url *parse(const char *text) {
  wm_url *url = NULL;
  if (wm_url_parse(&url, text, &err) != WM_OK) fail_msg("'%s': %s", text, err.text);
  return url;
}

static void every_part_is_found(void **state) {
  (void)state;
  wm_url *url = parse("Redis://app:p%40ss@cache.example:6380/2?dial_timeout=250ms&consumer=a=b");
  assert_string_equal(url->scheme, "redis");
  assert_true(url->has_user);
  assert_true(url->has_password);
  assert_string_equal(url->user, "app");
  assert_string_equal(url->password, "p@ss");
  assert_int_equal(url->n_hosts, 1);
  assert_string_equal(url->hosts[0].name, "cache.example");
  assert_int_equal(url->hosts[0].port, 6380);
  assert_string_equal(url->path, "2");
  assert_string_equal(wm_options_get(url->query, "dial_timeout"), "250ms");
  assert_string_equal(wm_options_get(url->query, "consumer"), "a=b");
  assert_string_equal(url->masked,
                      "Redis://app:***@cache.example:6380/2?dial_timeout=250ms&consumer=a=b");
  wm_url_free(url);
}

static void what_is_absent_is_empty(void **state) {
  (void)state;
  wm_url *url = parse("nats://");
  assert_int_equal(url->n_hosts, 1);
  assert_string_equal(url->hosts[0].name, "");
  assert_int_equal(url->hosts[0].port, 0);
  assert_false(url->has_user || url->has_password);
  assert_string_equal(url->user, "");
  assert_string_equal(url->password, "");
  assert_string_equal(url->path, "");
  assert_null(wm_options_at(url->query, 0, NULL));
  wm_url_free(url);
  url = parse("memory:");
  assert_int_equal(url->n_hosts, 0);
  assert_string_equal(url->path, "");
  wm_url_free(url);
  wm_url_free(NULL);
}

static void password_without_a_user(void **state) {
  (void)state;
  wm_url *url = parse("redis://:secret@h");
  assert_false(url->has_user);
  assert_true(url->has_password);
  assert_string_equal(url->password, "secret");
  wm_url_free(url);
  url = parse("redis://app:@h");
  assert_true(url->has_user && url->has_password);
  assert_string_equal(url->password, "");
  wm_url_free(url);
  url = parse("redis://a:b@c@h"); /* the last @ ends it */
  assert_string_equal(url->password, "b@c");
  assert_string_equal(url->masked, "redis://a:***@h");
  wm_url_free(url);
}

static void several_hosts(void **state) {
  (void)state;
  wm_url *url = parse("kafka://a:1,b,[::1]:9093,[fe80::1%25eth0],c%2Fd:5/x");
  static const wm_host hosts[] = {
      {"a", 1}, {"b", 0}, {"::1", 9093}, {"fe80::1%eth0", 0}, {"c/d", 5}};
  assert_int_equal(url->n_hosts, 5);
  for (size_t i = 0; i < 5; i++) {
    assert_string_equal(url->hosts[i].name, hosts[i].name);
    assert_int_equal(url->hosts[i].port, hosts[i].port);
  }
  assert_string_equal(url->path, "x");
  wm_url_free(url);
}

static void paths_of_files(void **state) {
  (void)state;
  static const struct {
    const char *url, *path;
  } files[] = {{"sqlite:file.db", "file.db"},
               {"sqlite:a/b c.db?x=1", "a/b c.db"},
               {"sqlite:/a/b.db", "/a/b.db"},
               {"sqlite:///a/b.db?x=1", "/a/b.db"},
               {"sqlite://localhost/a/b.db", "/a/b.db"},
               {"sqlite:j%C3%B6%3f%23.db", "j\xc3\xb6?#.db"},
               {"sqlite:j\xc3\xb6.db", "j\xc3\xb6.db"},
               {"postgres://h//a/", "/a/"}};
  for (size_t i = 0; i < sizeof files / sizeof *files; i++) {
    wm_url *url = parse(files[i].url);
    assert_string_equal(url->path, files[i].path);
    wm_url_free(url);
  }
}

static void faults_name_their_place(void **state) {
  (void)state;
  static const struct {
    const char *url, *said;
  } faults[] = {
      {"", "the URL is empty"},
      {"no scheme", "character 1: a scheme and ':' expected"},
      {"localhost", "character 1: a scheme"},
      {":x", "character 1: a scheme"},
      {"1x://h", "character 1: a scheme"},
      {"/tmp/x.db", "character 1: a scheme"},
      {"redis://h:/2", "character 11: a port from 1 to 65535"},
      {"redis://h:0", "character 11: a port"},
      {"redis://h:65536", "character 11: a port"},
      {"redis://h:99999999999999999999", "character 11: a port"},
      {"redis://h:6379x", "character 11: a port"},
      {"redis://::1:6379", "[::1]:6379"},
      {"redis://[::1", "'[' without ']'"},
      {"redis://[]", "an IPv6 address expected"},
      {"redis://[h]:1", "an IPv6 address expected"},
      {"redis://[::1]6379", "':' and a port expected after ']'"},
      {"kafka://a,,b", "character 11: a host expected between commas"},
      {"kafka://a,", "character 11: a host expected"},
      {"redis://my host/", "a host name without blanks"},
      {"redis://h%0a/", "a host name without blanks"},
      {"redis://u:p%4@h", "character 12: in the password: % without two hex digits"},
      {"redis://u%zz@h", "character 10: in the user: %"},
      {"redis://h/%", "character 11: in the path: %"},
      {"redis://h/%4", "in the path: %"},
      {"redis://h/%00", "%00, a NUL byte"},
      {"redis://h?a=%x1", "in the option's value: %"},
      {"redis://h?%=1", "in the option's name: %"},
      {"redis://h?a", "character 11: an option is written name=value"},
      {"redis://h?a=1&=2", "character 15: the name of an option expected"},
      {"redis://h?a=1&b=2&a=3", "character 19: this option is given twice"},
      {"redis://h?a=1&%61=3", "given twice"},
      {"redis://h/x#y", "'#' is possible nowhere as it is; it is written %23"},
      {"redis://h/x\ny", "character 12: a control character"},
      {"sqlite:\xc3\xb6%", "character 9: in the path: %"},
      {"sqlite://file.db", "write sqlite:file.db"},
      {"sqlite://host/file.db", "a file has none"},
      {"redis://:p/ss@h", "in a password / ? # are written"},
  };
  for (size_t i = 0; i < sizeof faults / sizeof *faults; i++) {
    wm_url *url = (wm_url *)&err;
    err = (wm_error){0};
    assert_int_equal(wm_url_parse(&url, faults[i].url, &err), WM_BAD_INPUT);
    assert_null(url);
    assert_int_equal(err.code, WM_BAD_INPUT);
    if (!strstr(err.text, faults[i].said))
      fail_msg("'%s': '%s' does not say '%s'", faults[i].url, err.text, faults[i].said);
    assert_int_equal(wm_url_parse(&url, faults[i].url, NULL), WM_BAD_INPUT);
  }
}

static void empty_pairs_in_a_query_are_nothing(void **state) {
  (void)state;
  wm_url *url = parse("redis://h?&a=1&&b=&");
  const char *value;
  assert_string_equal(wm_options_at(url->query, 0, &value), "a");
  assert_string_equal(value, "1");
  assert_string_equal(wm_options_at(url->query, 1, &value), "b");
  assert_string_equal(value, "");
  assert_null(wm_options_at(url->query, 2, NULL));
  wm_url_free(url);
}

static void secrets_are_masked_whatever_the_url(void **state) {
  (void)state;
  static const struct {
    const char *url, *masked;
  } urls[] = {
      {"redis://h:6379/2?consumer=a@b", "redis://h:6379/2?consumer=a@b"},
      {"redis://user@h", "redis://user@h"},
      {"redis://u:hush@h", "redis://u:***@h"},
      {"redis://:hush@h", "redis://:***@h"},
      {"redis://u:hush@[::1]:1/x", "redis://u:***@[::1]:1/x"},
      {"redis://[::1]:1/x", "redis://[::1]:1/x"},
      {"redis://[::1]:1/x?consumer=a@b", "redis://[::1]:1/x?consumer=a@b"},
      {"redis://.u:hush@h", "redis://.u:***@h"},
      {"redis://[u:hush@h", "redis://[u:***@h"},
      {"redis://[u:hu/sh@h", "redis://[u:***@h"},
      {"redis://u:hu@sh@h", "redis://u:***@h"},
      {"redis://u:hu/sh@h", "redis://u:***@h"},
      {"redis://u:hu?sh@h", "redis://u:***@h"},
      {"redis://u:hu#sh@h", "redis://u:***@h"},
      {"redis://u:12#sh@h", "redis://u:***@h"},
      {"redis://u:12#hu=sh@h", "redis://u:***@h"},
      {"redis://u:12?sh@h", "redis://u:***@h"},
      {"redis://u:12/sh@h", "redis://u:***@h"},
      {"redis://u:%zz@h", "redis://u:***@h"},
      {"redis:u:hush@h", "redis:u:***@h"},
      {"u:hush@h", "u:***@h"},
      {"://u:hush@h", "://u:***@h"},
      {"kafka://a:1,b:2/x?y=c:d@e", "kafka://a:1,b:2/x?y=c:d@e"},
      {"sqlite:/a:b@c.db", "sqlite:/a:b@c.db"},
      {"sqlite:///a:b@c.db", "sqlite:///a:b@c.db"},
      {"x://h?password=hush", "x://h?password=***"},
      {"x://h?a=1&Token=hush&b=2", "x://h?a=1&Token=***&b=2"},
      {"x://h?client_secret=hush", "x://h?client_secret=***"},
      {"x://h?access_key=hush&keys=2", "x://h?access_key=***&keys=2"},
      {"x://h?pass%77ord=hush", "x://h?pass%77ord=***"},
      {"x://u:hush@h?sasl_password=hush=hush", "x://u:***@h?sasl_password=***"},
      {"", ""},
      {"?", "?"},
      {"?token=hush", "?token=***"},
  };
  for (size_t i = 0; i < sizeof urls / sizeof *urls; i++) {
    char out[100];
    wm_url_mask(urls[i].url, out, sizeof out);
    assert_string_equal(out, urls[i].masked);
    err = (wm_error){0};
    wm_url *url = NULL;
    if (wm_url_parse(&url, urls[i].url, &err) == WM_OK) assert_string_equal(url->masked, out);
    assert_null(strstr(err.text, "hu"));
    assert_null(strstr(err.text, "sh@"));
    wm_url_free(url);
  }
  char out[10];
  wm_url_mask(NULL, out, sizeof out);
  assert_string_equal(out, "");
}

static void a_mask_is_cut_to_its_room(void **state) {
  (void)state;
  char out[32];
  memset(out, 'x', sizeof out);
  wm_url_mask("redis://u:hush@host", out, 0);
  assert_int_equal(out[0], 'x');
  wm_url_mask("redis://u:hush@host", out, 1);
  assert_string_equal(out, "");
  wm_url_mask("redis://u:hush@host", out, 19);
  assert_string_equal(out, "redis://u:***@host");
  wm_url_mask("redis://u:hush@host", out, 18);
  assert_string_equal(out, "redis://u:***@...");
  wm_url_mask("sqlite:\xc3\xb6\xc3\xb6\xc3\xb6.db", out, 14); /* no character is torn */
  assert_string_equal(out, "sqlite:\xc3\xb6...");
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(every_part_is_found),
      cmocka_unit_test(what_is_absent_is_empty),
      cmocka_unit_test(password_without_a_user),
      cmocka_unit_test(several_hosts),
      cmocka_unit_test(paths_of_files),
      cmocka_unit_test(faults_name_their_place),
      cmocka_unit_test(empty_pairs_in_a_query_are_nothing),
      cmocka_unit_test(secrets_are_masked_whatever_the_url),
      cmocka_unit_test(a_mask_is_cut_to_its_room),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
