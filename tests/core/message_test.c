/*
 * message_test.c - messages: what is put in comes out, what may not go in is named, references and copies.
 */
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmocka.h>
#include <pthread.h>

#include "message.h"

#define SLICE(literal) ((wm_slice){literal, sizeof literal - 1})

static wm_error err;

static void assert_slice(wm_slice got, const void *data, size_t len) {
  assert_int_equal(got.len, len);
  assert_non_null(got.data);
  assert_memory_equal(got.data, data, len);
  assert_int_equal(got.data[len], 0);
}

static wm_message *make(const char *uuid, wm_slice payload, const wm_pair *pairs, size_t n) {
  wm_message *msg = NULL;
  err = (wm_error){0};
  assert_int_equal(wm_message_new(&msg, uuid, payload, pairs, n, &err), WM_OK);
  assert_non_null(msg);
  return msg;
}

static void what_is_put_in_comes_out(void **state) {
  (void)state;
  const wm_pair pairs[] = {{SLICE("type"), SLICE("Order\0Placed")},
                           {SLICE("name"), SLICE("J\xc3\xb6rg")},
                           {SLICE("empty"), {NULL, 0}}};
  char bytes[256];
  for (int i = 0; i < 256; i++)
    bytes[i] = (char)i;
  wm_message *msg = make("u-1", (wm_slice){bytes, sizeof bytes}, pairs, 3);
  assert_slice(wm_message_uuid(msg), "u-1", 3);
  assert_slice(wm_message_payload(msg), bytes, sizeof bytes);
  assert_int_equal(wm_message_pairs(msg), 3);
  for (size_t i = 0; i < 3; i++) {
    wm_pair p = wm_message_pair(msg, i);
    assert_slice(p.key, pairs[i].key.data, pairs[i].key.len);
    assert_slice(p.value, pairs[i].value.len ? pairs[i].value.data : "", pairs[i].value.len);
  }
  assert_slice(wm_message_metadata(msg, "type"), "Order\0Placed", 12);
  assert_slice(wm_message_metadata(msg, "empty"), "", 0);
  assert_null(wm_message_metadata(msg, "typ").data);
  assert_null(wm_message_metadata(msg, "").data);
  wm_message_release(msg);
}

static void what_was_not_received_has_no_place(void **state) {
  (void)state;
  wm_message *msg = make("u", SLICE("x"), NULL, 0);
  assert_string_equal(wm_message_topic(msg), "");
  assert_string_equal(wm_message_position(msg), "");
  assert_int_equal(wm_message_attempt(msg), 0);
  assert_int_equal(wm_message_failures(msg), 0);
  assert_int_equal(wm_message_time(msg), 0);
  assert_int_equal(wm_message_pairs(msg), 0);
  wm_message_release(msg);
  wm_message_release(NULL);
}

static void an_empty_payload_is_a_payload(void **state) {
  (void)state;
  wm_message *msg = make("u", (wm_slice){NULL, 0}, NULL, 0);
  assert_slice(wm_message_payload(msg), "", 0);
  wm_message_release(msg);
}

static void without_a_uuid_it_gets_a_new_one(void **state) {
  (void)state;
  wm_message *a = make(NULL, SLICE("x"), NULL, 0), *b = make("", SLICE("x"), NULL, 0);
  assert_int_equal(wm_message_uuid(a).len, WM_UUID_SIZE - 1);
  assert_int_equal(wm_message_uuid(b).len, WM_UUID_SIZE - 1);
  assert_string_not_equal(wm_message_uuid(a).data, wm_message_uuid(b).data);
  wm_message_release(a);
  wm_message_release(b);
}

static void refused(const char *uuid, const wm_pair *pairs, size_t n, const char *named) {
  wm_message *msg = (wm_message *)&err;
  err = (wm_error){0};
  assert_int_equal(wm_message_new(&msg, uuid, SLICE("x"), pairs, n, &err), WM_BAD_INPUT);
  assert_null(msg);
  assert_int_equal(err.code, WM_BAD_INPUT);
  if (!strstr(err.text, named)) fail_msg("'%s' does not name '%s'", err.text, named);
  assert_int_equal(wm_message_new(&msg, uuid, SLICE("x"), pairs, n, NULL), WM_BAD_INPUT);
}

static void bad_input_is_refused_by_name(void **state) {
  (void)state;
  char uuid[257];
  memset(uuid, 'u', 256);
  uuid[256] = 0;
  refused(uuid, NULL, 0, "256 bytes");
  uuid[255] = 0;
  wm_message_release(make(uuid, SLICE("x"), NULL, 0));
  wm_pair pairs[] = {{SLICE("fine"), SLICE("1")}, {{NULL, 0}, SLICE("1")}};
  refused("u", pairs, 2, "metadata key 2 of 2 is empty");
  pairs[1].key = SLICE("fine");
  refused("u", pairs, 2, "'fine' is given twice");
  pairs[1].key = SLICE("_wm_attempt");
  refused("u", pairs, 2, "'_wm_attempt' is reserved");
  pairs[1].key = SLICE("_watermill_message_uuid");
  refused("u", pairs, 2, "'_watermill_message_uuid' is reserved");
  pairs[1].key = SLICE("_watermil_");
  wm_message_release(make("u", SLICE("x"), pairs, 2));
  pairs[1].key = SLICE("_wm");
  wm_message_release(make("u", SLICE("x"), pairs, 2));
}

static void the_library_itself_may_add_reserved_keys(void **state) {
  (void)state;
  wm_pair pairs[] = {{SLICE("_wm_dead_reason"), SLICE("why")}, {SLICE("a"), SLICE("b")}};
  wm_message *msg;
  assert_int_equal(wm_message_make(&msg, "u", SLICE("x"), pairs, 2, &err), WM_OK);
  assert_slice(wm_message_metadata(msg, "_wm_dead_reason"), "why", 3);
  wm_message_release(msg);
  pairs[1].key = pairs[0].key;
  assert_int_equal(wm_message_make(&msg, "u", SLICE("x"), pairs, 2, &err), WM_BAD_INPUT);
}

static void sizes_beyond_memory_are_no_memory(void **state) {
  (void)state;
  wm_message *msg;
  assert_int_equal(wm_message_new(&msg, "u", (wm_slice){"x", SIZE_MAX / 2}, NULL, 0, &err),
                   WM_NOMEM);
  wm_pair pairs[] = {{{"a", SIZE_MAX / 2 - 10}, {"b", SIZE_MAX / 2}}};
  assert_int_equal(wm_message_new(&msg, "u", SLICE("x"), pairs, 1, &err), WM_NOMEM);
  assert_null(wm_message_alloc(SIZE_MAX / 2, 1));
  assert_null(wm_message_alloc(SIZE_MAX, SIZE_MAX));
  assert_null(wm_message_alloc(1, SIZE_MAX));
}

/* ---- received ------------------------------------------------------------------------------ */

static wm_message *received(void) {
  wm_message *msg = wm_message_alloc(3, 100);
  assert_non_null(msg);
  wm_message_set_uuid(msg, "id", 2);
  wm_message_add(msg, "key", 3, "value", 5);
  wm_message_add(msg, "", 0, "nameless", 8);
  memcpy(wm_message_payload_room(msg, 4), "a\0bc", 4);
  wm_message_set_handle(msg, "handle", 6);
  strcpy(msg->position, "1-2");
  msg->token[0] = 1;
  msg->token[1] = 2;
  msg->time = 77;
  msg->first_attempt = 3;
  msg->redelivered = true;
  msg->undecodable = "why";
  return msg;
}

static void received_ones_hold_exactly_what_they_made_room_for(void **state) {
  (void)state;
  wm_message *msg = wm_message_alloc(2, 2 + 3 + 2 + 2 + 7);
  wm_message_set_uuid(msg, "id", 2);
  wm_message_add(msg, "k", 1, "v1", 2);
  wm_message_add(msg, "m", 1, "w", 1);
  wm_message_set_handle(msg, "hh", 2);
  wm_message_set_payload(msg, "payload", 7);
  assert_slice(wm_message_metadata(msg, "k"), "v1", 2);
  assert_slice(wm_message_metadata(msg, "m"), "w", 1);
  assert_slice(msg->handle, "hh", 2);
  assert_slice(wm_message_payload(msg), "payload", 7);
  wm_message_release(msg);
  msg = wm_message_alloc(0, 0);
  assert_slice(wm_message_uuid(msg), "", 0);
  *wm_message_payload_room(msg, 0) = 0;
  assert_slice(wm_message_payload(msg), "", 0);
  wm_message_release(msg);
}

static void the_last_value_of_a_key_counts(void **state) {
  (void)state;
  wm_message *msg = wm_message_alloc(2, 20);
  wm_message_add(msg, "k", 1, "first", 5);
  wm_message_add(msg, "k", 1, "last", 4);
  assert_int_equal(wm_message_pairs(msg), 1);
  assert_slice(wm_message_metadata(msg, "k"), "last", 4);
  wm_message_release(msg);
}

static void too_many_bytes(void) {
  wm_message *msg = wm_message_alloc(0, 3);
  size_t free_room = msg->room - msg->used; /* room for the NULs of other texts included */
  wm_message_set_payload(msg, "more than three", free_room);
}

static void too_many_pairs(void) {
  wm_message *msg = wm_message_alloc(1, 100);
  wm_message_add(msg, "a", 1, "b", 1);
  wm_message_add(msg, "c", 1, "d", 1);
}

static int signal_of(void (*fn)(void)) {
  pid_t pid = fork();
  assert_true(pid >= 0);
  if (pid == 0) {
    setrlimit(RLIMIT_CORE, &(struct rlimit){0, 0});
    signal(SIGABRT, SIG_DFL);
    if (!freopen("/dev/null", "w", stderr)) _exit(1);
    fn();
    _exit(0);
  }
  int status;
  assert_int_equal(waitpid(pid, &status, 0), pid);
  return WIFSIGNALED(status) ? WTERMSIG(status) : 0;
}

static void more_than_there_is_room_for_ends_the_process(void **state) {
  (void)state;
  assert_int_equal(signal_of(too_many_bytes), SIGABRT);
  assert_int_equal(signal_of(too_many_pairs), SIGABRT);
}

static void a_copy_is_the_same_and_stands_alone(void **state) {
  (void)state;
  wm_message *msg = received();
  atomic_store(&msg->attempt, 5);
  msg->dead_reason = strdup("of the first only");
  msg->entry.state = WM_ENTRY_IN_HAND;
  wm_message *copy = wm_message_copy(msg);
  assert_non_null(copy);
  assert_int_equal(copy->size, msg->size);
  wm_message_release(msg); /* from here on a byte of the first would be a use after free */
  assert_slice(wm_message_uuid(copy), "id", 2);
  assert_slice(wm_message_payload(copy), "a\0bc", 4);
  assert_slice(copy->handle, "handle", 6);
  assert_int_equal(wm_message_pairs(copy), 2);
  assert_slice(wm_message_metadata(copy, "key"), "value", 5);
  assert_slice(wm_message_metadata(copy, ""), "nameless", 8);
  assert_string_equal(wm_message_position(copy), "1-2");
  assert_int_equal(wm_message_attempt(copy), 5);
  assert_int_equal(wm_message_time(copy), 77);
  assert_int_equal(copy->token[0], 1);
  assert_int_equal(copy->token[1], 2);
  assert_int_equal(copy->first_attempt, 3);
  assert_true(copy->redelivered);
  assert_string_equal(wm_message_undecodable(copy), "why");
  assert_null(copy->dead_reason);
  assert_int_equal(copy->entry.state, WM_ENTRY_NONE);
  wm_message_add(copy, "more", 4, "room", 4); /* as the first had */
  assert_slice(wm_message_metadata(copy, "more"), "room", 4);
  wm_message_release(copy);
}

static void release_frees_what_hangs_on_it(void **state) {
  (void)state;
  wm_message *msg = received();
  msg->dead_reason = strdup("reason");
  msg->dead_detail = strdup("detail"); /* a leak checker tells */
  assert_ptr_equal(wm_message_retain(msg), msg);
  wm_message_release(msg);
  assert_slice(wm_message_uuid(msg), "id", 2);
  wm_message_release(msg);
}

enum { THREADS = 4, TURNS = 20000 };

static void *take_and_give(void *arg) {
  wm_message *msg = arg;
  for (int i = 0; i < TURNS; i++)
    wm_message_release(wm_message_retain(msg));
  wm_message_release(msg);
  return NULL;
}

static void references_are_counted_across_threads(void **state) {
  (void)state;
  pthread_t threads[THREADS];
  wm_message *msg = received();
  for (int i = 0; i < THREADS; i++)
    assert_int_equal(pthread_create(&threads[i], NULL, take_and_give, wm_message_retain(msg)), 0);
  for (int i = 0; i < THREADS; i++)
    pthread_join(threads[i], NULL);
  assert_int_equal(atomic_load(&msg->refs), 1);
  wm_message_release(msg);
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(what_is_put_in_comes_out),
      cmocka_unit_test(what_was_not_received_has_no_place),
      cmocka_unit_test(an_empty_payload_is_a_payload),
      cmocka_unit_test(without_a_uuid_it_gets_a_new_one),
      cmocka_unit_test(bad_input_is_refused_by_name),
      cmocka_unit_test(the_library_itself_may_add_reserved_keys),
      cmocka_unit_test(sizes_beyond_memory_are_no_memory),
      cmocka_unit_test(received_ones_hold_exactly_what_they_made_room_for),
      cmocka_unit_test(the_last_value_of_a_key_counts),
      cmocka_unit_test(more_than_there_is_room_for_ends_the_process),
      cmocka_unit_test(a_copy_is_the_same_and_stands_alone),
      cmocka_unit_test(release_frees_what_hangs_on_it),
      cmocka_unit_test(references_are_counted_across_threads),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
