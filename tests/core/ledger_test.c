/* ledger_test.c - the rules of ledger.h, one test each. That they hold together under any order of
 * operations is for ledger_model_test.c. */
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "ledger.h"

static const wm_ledger_config plain = {
  .max_in_flight = 1, .batch = 1, .ordered = true, .can_bury = true, .prefetch = 1000};

static wm_ledger *ledger_of(wm_ledger_config config) {
  wm_ledger *l = wm_ledger_new(&config);
  assert_non_null(l);
  return l;
}

static wm_message *message(unsigned char name, const char *key) {
  wm_message *msg = wm_message_alloc(1, 64);
  assert_non_null(msg);
  if (key)
    wm_message_add(msg, "key", 3, key, strlen(key));
  msg->token[0] = name;
  msg->first_attempt = 1;
  return msg;
}

static wm_message *add_message(wm_ledger *l, wm_message *msg, int64_t now) {
  assert_int_equal(wm_ledger_add(l, &msg, 1, now), WM_OK);
  return msg;
}

/* Adds one message for each letter. Lower case: of the lane of that letter; others have no key. */
static void add(wm_ledger *l, const char *names, int64_t now) {
  for (; *names; names++) {
    char key[2] = {*names, 0};
    bool keyed = *names >= 'a' && *names <= 'z';
    add_message(l, message((unsigned char)*names, keyed ? key : NULL), now);
  }
}

/* The names that come out, at most `max`; the messages in `out`, whose references are dropped
 * again, as the ledger's last while the test looks at them. */
static const char *next(wm_ledger *l, size_t max, wm_message **out, int64_t now) {
  static char names[64];
  size_t n = wm_ledger_next(l, out, max, NULL, now);
  for (size_t i = 0; i < n; i++) {
    names[i] = (char)out[i]->token[0];
    wm_message_release(out[i]);
  }
  names[n] = 0;
  return names;
}

/* The ops as text, "A" ack, "R" release, "N" note, each with name and attempt; told to have gone
 * well or not. */
static const char *settle(wm_ledger *l, bool ok) {
  static char text[256];
  wm_settle_op ops[32];
  wm_message *gone[32];
  size_t n = wm_ledger_take_settled(l, ops, 32), at = 0;
  text[0] = 0;
  for (size_t i = 0; i < n; i++)
    at += (size_t)snprintf(text + at, sizeof text - at, "%s%c%c%u", i ? " " : "",
                           "ARN"[ops[i].kind], (char)ops[i].msg->token[0], ops[i].attempt);
  n = wm_ledger_settled(l, ops, n, ok, gone, 0);
  while (n--)
    wm_message_release(gone[n]);
  return text;
}

static wm_ledger_counts counts(const wm_ledger *l) {
  wm_ledger_counts c;
  wm_ledger_count(l, &c);
  return c;
}

static bool is_named(const wm_message *msg, void *arg) {
  return strchr(arg, (int)msg->token[0]) != NULL;
}

static size_t lose(wm_ledger *l, char *names) {
  wm_message *gone[32];
  size_t n = wm_ledger_lost(l, is_named, names, gone, 0);
  for (size_t i = 0; i < n; i++)
    wm_message_release(gone[i]);
  return n;
}

/* ---- order -------------------------------------------------------------------------------- */

static void one_at_a_time_by_default(void **state) {
  (void)state;
  wm_message *out[8];
  wm_ledger *l = ledger_of(plain);
  add(l, "ABC", 0);
  assert_string_equal(next(l, 8, out, 0), "A");
  assert_false(wm_ledger_ready(l, 0));
  assert_true(wm_ledger_ack(l, out[0], 0));
  assert_true(wm_ledger_ready(l, 0));
  assert_string_equal(next(l, 8, out, 0), "B");
  wm_ledger_free(l);
}

static void a_delayed_message_blocks_all_when_sequential(void **state) {
  (void)state;
  wm_message *out[8];
  wm_ledger *l = ledger_of(plain);
  add(l, "AB", 0);
  next(l, 1, out, 0);
  assert_true(wm_ledger_nack(l, out[0], 50, 0, 0));
  assert_int_equal(wm_ledger_deadline(l), 50);
  assert_string_equal(next(l, 8, out, 49), "");
  assert_string_equal(next(l, 8, out, 50), "A");
  assert_int_equal(wm_message_attempt(out[0]), 2);
  wm_ledger_free(l);
}

static void a_dying_message_blocks_all_when_sequential(void **state) {
  (void)state;
  wm_message *out[8];
  wm_ledger *l = ledger_of(plain);
  add(l, "AB", 0);
  next(l, 1, out, 0);
  assert_true(wm_ledger_bury(l, out[0], 0));
  wm_message *dead = wm_ledger_take_dead(l, 0);
  assert_ptr_equal(dead, out[0]);
  assert_null(wm_ledger_take_dead(l, 0));
  wm_ledger_dead_done(l, dead, false, 70, 0);
  assert_int_equal(wm_ledger_dead_due(l), 70);
  assert_int_equal(wm_ledger_deadline(l), INT64_MAX); /* nothing to be handed out then */
  assert_null(wm_ledger_take_dead(l, 69));
  assert_string_equal(next(l, 8, out, 69), "");
  wm_ledger_dead_done(l, wm_ledger_take_dead(l, 70), true, 0, 70);
  assert_string_equal(next(l, 8, out, 70), "B");
  assert_string_equal(settle(l, true), "AA0");
  wm_ledger_free(l);
}

static void max_in_flight_is_never_passed(void **state) {
  (void)state;
  wm_message *out[8];
  wm_ledger_config c = plain;
  c.max_in_flight = 3;
  wm_ledger *l = ledger_of(c);
  add(l, "ABCDE", 0);
  assert_string_equal(next(l, 8, out, 0), "ABC");
  assert_string_equal(next(l, 8, out, 0), "");
  wm_ledger_free(l);
}

static void several_in_flight_without_a_key_block_nothing(void **state) {
  (void)state;
  wm_message *out[8];
  wm_ledger_config c = plain;
  c.max_in_flight = 2;
  wm_ledger *l = ledger_of(c);
  add(l, "ABCD", 0);
  next(l, 2, out, 0);
  wm_ledger_nack(l, out[0], 10, 0, 0);
  wm_ledger_ack(l, out[1], 0);
  assert_string_equal(next(l, 1, out, 0), "C");
  assert_string_equal(next(l, 8, out, 10), "A"); /* what came back goes first */
  wm_ledger_free(l);
}

static void unordered_blocks_nothing_even_one_at_a_time(void **state) {
  (void)state;
  wm_message *out[8];
  wm_ledger_config c = plain;
  c.ordered = false;
  c.order_by = "key";
  wm_ledger *l = ledger_of(c);
  add(l, "aa", 0);
  next(l, 1, out, 0);
  wm_ledger_nack(l, out[0], 10, 0, 0);
  assert_string_equal(next(l, 1, out, 0), "a");
  wm_ledger_free(l);
}

static void messages_of_one_key_go_one_at_a_time(void **state) {
  (void)state;
  wm_message *out[8];
  wm_ledger_config c = plain;
  c.max_in_flight = 8;
  c.order_by = "key";
  wm_ledger *l = ledger_of(c);
  add(l, "aabab", 0);
  assert_string_equal(next(l, 8, out, 0), "ab");
  wm_ledger_nack(l, out[0], 20, 0, 0);
  wm_ledger_ack(l, out[1], 0);
  assert_string_equal(next(l, 8, out, 0), "b"); /* `a` is blocked by its delayed one alone */
  assert_string_equal(next(l, 8, out, 20), "a");
  assert_int_equal(wm_message_attempt(out[0]), 2);
  wm_ledger_free(l);
}

static void a_message_without_the_key_is_in_no_lane(void **state) {
  (void)state;
  wm_message *out[8];
  wm_ledger_config c = plain;
  c.max_in_flight = 8;
  c.order_by = "key";
  wm_ledger *l = ledger_of(c);
  add(l, "XYaZa", 0);
  assert_string_equal(next(l, 8, out, 0), "XYaZ");
  wm_ledger_free(l);
}

static void new_rules_hold_for_what_is_held(void **state) {
  (void)state;
  wm_message *out[8];
  wm_ledger_config c = plain;
  c.max_in_flight = 4;
  wm_ledger *l = ledger_of(c);
  add(l, "aabb", 0);
  assert_string_equal(next(l, 1, out, 0), "a");
  c.order_by = "key";
  assert_int_equal(wm_ledger_configure(l, &c), WM_OK);
  assert_string_equal(next(l, 8, out + 1, 0), "b"); /* the other `a` is behind the one in hand */
  wm_ledger_ack(l, out[0], 0);
  assert_string_equal(next(l, 8, out + 2, 0), "a");
  wm_ledger_free(l);
}

/* ---- batches ------------------------------------------------------------------------------ */

static void a_batch_is_one_unit_until_all_of_it_is_settled(void **state) {
  (void)state;
  wm_message *out[8];
  wm_ledger_config c = plain;
  c.batch = 3;
  wm_ledger *l = ledger_of(c);
  add(l, "ABCDE", 0);
  assert_string_equal(next(l, 8, out, 0), "ABC");
  assert_int_equal(counts(l).units, 1);
  wm_ledger_ack(l, out[2], 0);
  wm_ledger_nack(l, out[1], 0, 0, 0);
  assert_string_equal(next(l, 8, out + 3, 0), "");
  wm_ledger_nack(l, out[0], 0, 0, 0);
  assert_string_equal(next(l, 8, out, 0), "ABD"); /* the nacked ones lead, by arrival */
  wm_ledger_free(l);
}

static void a_batch_may_hold_several_of_a_lane_in_order(void **state) {
  (void)state;
  wm_message *out[8];
  wm_ledger_config c = plain;
  c.batch = 3;
  c.max_in_flight = 2;
  c.order_by = "key";
  wm_ledger *l = ledger_of(c);
  add(l, "aabab", 0);
  assert_string_equal(next(l, 8, out, 0), "aab");
  assert_string_equal(next(l, 8, out, 0), "");
  wm_ledger_free(l);
}

static void a_batch_waits_to_be_filled(void **state) {
  (void)state;
  wm_message *out[8];
  wm_ledger_config c = plain;
  c.batch = 3;
  c.batch_wait = 100;
  wm_ledger *l = ledger_of(c);
  add(l, "A", 1000);
  add(l, "B", 1040);
  assert_false(wm_ledger_ready(l, 1050));
  assert_int_equal(wm_ledger_deadline(l), 1100);
  assert_string_equal(next(l, 8, out, 1099), "");
  assert_string_equal(next(l, 8, out, 1100), "AB");
  wm_ledger_ack(l, out[0], 1100);
  wm_ledger_nack(l, out[1], 0, 0, 1100);
  assert_string_equal(next(l, 8, out, 1100), "B"); /* has waited before */
  wm_ledger_ack(l, out[0], 1100);
  add(l, "CDE", 1100);
  assert_string_equal(next(l, 8, out, 1100), "CDE");
  wm_ledger_free(l);
}

/* ---- settling ----------------------------------------------------------------------------- */

static void the_first_settling_wins(void **state) {
  (void)state;
  wm_message *out[8];
  wm_ledger *l = ledger_of(plain);
  add(l, "A", 0);
  next(l, 1, out, 0);
  assert_true(wm_ledger_ack(l, out[0], 0));
  assert_false(wm_ledger_nack(l, out[0], 0, 0, 0));
  assert_false(wm_ledger_ack(l, out[0], 0));
  assert_false(wm_ledger_bury(l, out[0], 0));
  assert_string_equal(settle(l, true), "AA0");
  assert_int_equal(counts(l).held, 0);
  wm_ledger_free(l);
}

static void a_late_ack_does_not_settle_the_next_hand_out(void **state) {
  (void)state;
  wm_message *old[1], *new[1];
  wm_ledger *l = ledger_of(plain);
  add(l, "A", 0);
  assert_int_equal(wm_ledger_next(l, old, 1, NULL, 0), 1);
  wm_ledger_nack(l, old[0], 0, 0, 0);
  assert_int_equal(wm_ledger_next(l, new, 1, NULL, 0), 1);
  assert_false(wm_ledger_ack(l, old[0], 0));
  assert_true(wm_ledger_ack(l, new[0], 0));
  wm_message_release(old[0]);
  wm_message_release(new[0]);
  wm_ledger_free(l);
}

static void backoff_is_none_then_doubles_from_100_ms_to_5_s(void **state) {
  (void)state;
  static const int64_t delays[] = {0, 100, 200, 400, 800, 1600, 3200, 5000, 5000};
  wm_message *out[8];
  wm_ledger *l = ledger_of(plain);
  int64_t now = 0;
  add(l, "A", now);
  for (size_t i = 0; i < sizeof delays / sizeof *delays; i++) {
    int64_t least = delays[i], most = least + least / 4;
    assert_string_equal(next(l, 1, out, now), "A");
    wm_ledger_nack(l, out[0], WM_BACKOFF, (i + 1) * 0x9e3779b97f4a7c15u, now);
    int64_t due = least ? wm_ledger_deadline(l) : now;
    assert_true(due >= now + least && due <= now + most);
    now = due;
  }
  wm_ledger_free(l);
}

static void at_max_attempts_a_nack_buries(void **state) {
  (void)state;
  wm_message *out[8];
  wm_ledger_config c = plain;
  c.max_attempts = 2;
  wm_ledger *l = ledger_of(c);
  add(l, "A", 0);
  next(l, 1, out, 0);
  wm_ledger_nack(l, out[0], 0, 0, 0);
  next(l, 1, out, 0);
  wm_ledger_nack(l, out[0], 0, 0, 0);
  assert_int_equal(counts(l).dead, 1);
  assert_int_equal(wm_message_attempt(wm_ledger_take_dead(l, 0)), 2);
  wm_ledger_free(l);
}

static void without_a_dead_letter_topic_it_is_tried_for_ever(void **state) {
  (void)state;
  wm_message *out[8];
  wm_ledger_config c = plain;
  c.max_attempts = 1;
  c.can_bury = false;
  wm_ledger *l = ledger_of(c);
  add(l, "A", 0);
  for (unsigned i = 1; i < 20; i++) {
    assert_string_equal(next(l, 1, out, 0), "A");
    assert_int_equal(wm_message_attempt(out[0]), i);
    assert_false(wm_ledger_bury(l, out[0], 0));
    wm_ledger_nack(l, out[0], 0, 0, 0);
  }
  wm_ledger_free(l);
}

static void ops_come_in_the_order_of_settling(void **state) {
  (void)state;
  wm_message *out[8];
  wm_ledger_config c = plain;
  c.max_in_flight = 4;
  wm_ledger *l = ledger_of(c);
  add(l, "ABCD", 0);
  next(l, 4, out, 0);
  wm_ledger_ack(l, out[2], 0);
  wm_ledger_nack(l, out[0], 0, 0, 0);
  wm_ledger_ack(l, out[3], 0);
  assert_string_equal(settle(l, true), "AC0 NA2 AD0");
  assert_int_equal(wm_ledger_unsettled(l), 0);
  wm_ledger_free(l);
}

static void ops_that_failed_come_again_first(void **state) {
  (void)state;
  wm_message *out[8], *gone[8];
  wm_settle_op ops[8];
  wm_ledger_config c = plain;
  c.max_in_flight = 4;
  wm_ledger *l = ledger_of(c);
  add(l, "ABC", 0);
  next(l, 3, out, 0);
  wm_ledger_ack(l, out[1], 0);
  wm_ledger_ack(l, out[0], 0);
  size_t n = wm_ledger_take_settled(l, ops, 8);
  wm_ledger_ack(l, out[2], 0);
  assert_int_equal(wm_ledger_take_settled(l, ops + 4, 4), 0); /* one batch at a time */
  assert_int_equal(wm_ledger_unsettled(l), 3);
  assert_int_equal(wm_ledger_settled(l, ops, n, false, gone, 0), 0);
  assert_string_equal(settle(l, false), "AB0 AA0 AC0");
  assert_string_equal(settle(l, true), "AB0 AA0 AC0");
  assert_string_equal(settle(l, true), "");
  assert_int_equal(counts(l).held, 0);
  wm_ledger_free(l);
}

static void an_ack_makes_a_waiting_note_needless(void **state) {
  (void)state;
  wm_message *out[8];
  wm_ledger *l = ledger_of(plain);
  add(l, "A", 0);
  for (int i = 0; i < 3; i++) {
    next(l, 1, out, 0);
    wm_ledger_nack(l, out[0], 0, 0, 0);
  }
  next(l, 1, out, 0);
  wm_ledger_ack(l, out[0], 0);
  assert_string_equal(settle(l, true), "AA0");
  wm_ledger_free(l);
}

static void an_ack_while_its_note_is_out_comes_next(void **state) {
  (void)state;
  wm_message *out[8], *gone[8];
  wm_settle_op ops[8];
  wm_ledger *l = ledger_of(plain);
  add(l, "A", 0);
  next(l, 1, out, 0);
  wm_ledger_nack(l, out[0], 0, 0, 0);
  assert_int_equal(wm_ledger_take_settled(l, ops, 8), 1);
  next(l, 1, out, 0);
  wm_ledger_ack(l, out[0], 0);
  assert_int_equal(wm_ledger_settled(l, ops, 1, true, gone, 0), 0);
  assert_string_equal(settle(l, true), "AA0");
  wm_ledger_free(l);
}

static void a_note_is_repeated_though_its_object_was_replaced(void **state) {
  (void)state;
  wm_message *old[1], *new[1], *gone[8];
  wm_settle_op ops[8];
  wm_ledger *l = ledger_of(plain);
  add(l, "A", 0);
  wm_ledger_next(l, old, 1, NULL, 0);
  wm_ledger_nack(l, old[0], 0, 0, 0);
  assert_int_equal(wm_ledger_take_settled(l, ops, 8), 1);
  wm_ledger_next(l, new, 1, NULL, 0);
  assert_int_equal(wm_ledger_settled(l, ops, 1, false, gone, 0), 1);
  wm_message_release(gone[0]);
  assert_string_equal(settle(l, true), "NA2");
  wm_message_release(old[0]);
  wm_message_release(new[0]);
  wm_ledger_free(l);
}

/* ---- taking back -------------------------------------------------------------------------- */

static void what_is_reclaimed_is_handed_out_again_in_its_place(void **state) {
  (void)state;
  char con[2];
  struct wm_consumer *first = (struct wm_consumer *)(void *)&con[0];
  struct wm_consumer *second = (struct wm_consumer *)(void *)&con[1];
  wm_message *old[2], *out[8];
  wm_ledger_config c = plain;
  c.max_in_flight = 2;
  wm_ledger *l = ledger_of(c);
  add(l, "ABC", 0);
  wm_ledger_next(l, &old[0], 1, first, 0);
  wm_ledger_next(l, &old[1], 1, second, 0);
  assert_int_equal(wm_ledger_reclaim(l, first, 0), 1);
  assert_false(wm_ledger_ack(l, old[0], 0));
  assert_string_equal(next(l, 8, out, 0), "A");
  assert_int_equal(wm_message_attempt(out[0]), 2);
  assert_true(wm_ledger_ack(l, old[1], 0));
  assert_int_equal(wm_ledger_reclaim(l, NULL, 0), 1);
  wm_message_release(old[0]);
  wm_message_release(old[1]);
  wm_ledger_free(l);
}

static void what_a_holder_has_in_hand_is_counted_until_it_is_settled(void **state) {
  (void)state;
  char con[2];
  struct wm_consumer *first = (struct wm_consumer *)(void *)&con[0];
  struct wm_consumer *second = (struct wm_consumer *)(void *)&con[1];
  wm_message *out[3];
  wm_ledger_config c = plain;
  c.max_in_flight = 3;
  wm_ledger *l = ledger_of(c);
  add(l, "ABC", 0);
  wm_ledger_next(l, &out[0], 2, first, 0);
  wm_ledger_next(l, &out[2], 1, second, 0);
  assert_int_equal(wm_ledger_in_hand_of(l, first), 2);
  assert_int_equal(wm_ledger_in_hand_of(l, second), 1);
  wm_ledger_ack(l, out[0], 0);
  wm_ledger_nack(l, out[1], 0, 0, 0);
  assert_int_equal(wm_ledger_in_hand_of(l, first), 0);
  assert_int_equal(wm_ledger_in_hand_of(l, second), 1);
  for (size_t i = 0; i < 3; i++)
    wm_message_release(out[i]);
  wm_ledger_free(l);
}

static void a_lost_message_in_hand_is_acked_without_effect(void **state) {
  (void)state;
  char names[] = "AC";
  wm_message *out[8];
  wm_ledger *l = ledger_of(plain);
  add(l, "ABC", 0);
  assert_int_equal(wm_ledger_next(l, out, 1, NULL, 0), 1);
  assert_int_equal(lose(l, names), 1); /* the prefetched one is dropped */
  assert_int_equal(counts(l).held, 2);
  assert_true(wm_ledger_ack(l, out[0], 0));
  assert_false(wm_ledger_ack(l, out[0], 0));
  wm_message_release(out[0]);
  assert_int_equal(counts(l).held, 1);
  assert_string_equal(settle(l, true), "");
  assert_string_equal(next(l, 8, out, 0), "B");
  wm_ledger_free(l);
}

static void release_tells_how_many_hand_outs_there_were(void **state) {
  (void)state;
  wm_message *out[8];
  wm_ledger_config c = plain;
  c.max_in_flight = 3;
  wm_ledger *l = ledger_of(c);
  add(l, "ABC", 0);
  wm_message *again = message('D', NULL);
  again->first_attempt = 4;
  add_message(l, again, 0);
  next(l, 2, out, 0);
  wm_ledger_nack(l, out[0], 1000, 0, 0);
  wm_ledger_release_waiting(l);
  assert_string_equal(next(l, 8, out + 2, 2000), "");
  assert_string_equal(settle(l, true), "RA1 RC0 RD3");
  wm_ledger_release_all(l);
  assert_false(wm_ledger_ack(l, out[1], 0));
  assert_string_equal(settle(l, true), "RB1");
  assert_int_equal(counts(l).held, 0);
  wm_ledger_free(l);
}

static void when_closing_a_nack_and_a_late_fetch_go_back(void **state) {
  (void)state;
  wm_message *out[8];
  wm_ledger *l = ledger_of(plain);
  add(l, "A", 0);
  next(l, 1, out, 0);
  wm_ledger_release_waiting(l);
  add(l, "B", 0);
  wm_ledger_nack(l, out[0], 0, 0, 0);
  assert_string_equal(settle(l, true), "RB0 RA1");
  wm_ledger_free(l);
}

static void the_oldest_in_hand_is_known(void **state) {
  (void)state;
  wm_message *out[8];
  wm_ledger_config c = plain;
  c.max_in_flight = 2;
  wm_ledger *l = ledger_of(c);
  assert_null(wm_ledger_oldest_in_hand(l));
  add(l, "AB", 0);
  next(l, 2, out, 0);
  assert_ptr_equal(wm_ledger_oldest_in_hand(l), out[0]);
  wm_ledger_ack(l, out[0], 0);
  assert_ptr_equal(wm_ledger_oldest_in_hand(l), out[1]);
  wm_ledger_free(l);
}

/* ---- the window --------------------------------------------------------------------------- */

/* A topic without end and a handler of `us` microseconds a message; returns the most that is held
 * at the end. */
static size_t steady_window(wm_ledger_config config, int64_t us, int messages) {
  wm_ledger *l = ledger_of(config);
  wm_message *out[1];
  int64_t clock = 1000000;
  size_t most = 0, bytes;
  for (int i = 0; i < messages; i++) {
    int64_t now = clock / 1000;
    size_t room = wm_ledger_room(l, &bytes, now);
    for (size_t n = room; n--;)
      add_message(l, message('x', NULL), now);
    if (room)
      wm_ledger_fetched(l, room, room, now);
    assert_int_equal(wm_ledger_next(l, out, 1, NULL, now), 1);
    clock += us;
    assert_true(wm_ledger_ack(l, out[0], clock / 1000));
    wm_message_release(out[0]);
    if (i >= messages * 3 / 4 && counts(l).held - counts(l).settled > most)
      most = counts(l).held - counts(l).settled;
    if (i % 32 == 31)
      settle(l, true);
  }
  wm_ledger_free(l);
  return most;
}

static void a_fast_handler_gets_the_whole_prefetch(void **state) {
  (void)state;
  assert_in_range(steady_window(plain, 2, 20000), 900, 1000);
  assert_in_range(steady_window(plain, 100, 20000), 900, 1000);
}

static void a_slow_handler_holds_a_second_of_its_work(void **state) {
  (void)state;
  assert_in_range(steady_window(plain, 250 * 1000, 400), 3, 5);
  assert_in_range(steady_window(plain, 5000 * 1000, 400), 0, 1);
}

static void nothing_is_fetched_while_more_than_half_is_held(void **state) {
  (void)state;
  size_t bytes;
  wm_message *out[1];
  wm_ledger_config c = plain;
  c.prefetch = 8;
  wm_ledger *l = ledger_of(c);
  assert_int_equal(wm_ledger_room(l, &bytes, 0), 8);
  add(l, "ABCDE", 0);
  next(l, 1, out, 0); /* now nothing more could go */
  assert_int_equal(wm_ledger_room(l, &bytes, 0), 0);
  wm_ledger_ack(l, out[0], 0);
  assert_int_equal(wm_ledger_room(l, &bytes, 0), 4);
  wm_ledger_free(l);
}

static void free_hands_get_work_at_once(void **state) {
  (void)state;
  size_t bytes;
  wm_message *out[8];
  wm_ledger_config c = plain;
  c.max_in_flight = 8;
  c.prefetch = 8;
  wm_ledger *l = ledger_of(c);
  add(l, "ABCDEFGH", 0);
  next(l, 8, out, 0);
  assert_int_equal(wm_ledger_room(l, &bytes, 0), 0);
  wm_ledger_ack(l, out[0], 1);
  assert_int_equal(wm_ledger_room(l, &bytes, 1), 1);
  wm_ledger_free(l);
}

static void a_redelivered_message_is_fetched_alone(void **state) {
  (void)state;
  size_t bytes;
  wm_message *out[1];
  wm_ledger *l = ledger_of(plain);
  wm_message *msg = message('A', NULL);
  msg->redelivered = true;
  add_message(l, msg, 0);
  wm_ledger_fetched(l, 64, 1, 0);
  assert_int_equal(counts(l).window, 1);
  assert_int_equal(wm_ledger_room(l, &bytes, 0), 0);
  next(l, 1, out, 0);
  wm_ledger_ack(l, out[0], 0);
  assert_int_equal(wm_ledger_room(l, &bytes, 0), 4); /* and grows from there */
  wm_ledger_free(l);
}

static void prefetch_bytes_bound_the_fetch(void **state) {
  (void)state;
  size_t bytes;
  wm_message *out[1];
  wm_ledger_config c = plain;
  wm_message *msg = message('A', NULL);
  c.prefetch_bytes = msg->size * 4;
  wm_ledger *l = ledger_of(c);
  add_message(l, msg, 0);
  next(l, 1, out, 0);
  assert_true(wm_ledger_room(l, &bytes, 0) > 0);
  assert_int_equal(bytes, msg->size * 3);
  add(l, "BC", 0);
  assert_int_equal(wm_ledger_room(l, &bytes, 0), 0);
  wm_ledger_free(l);
}

static void held_messages_are_met_page_by_page(void **state) {
  (void)state;
  wm_message *out[8];
  uint64_t cursor = 0;
  wm_ledger *l = ledger_of(plain);
  add(l, "ABCDE", 0);
  for (int i = 0; i < 3; i++) {
    size_t n = wm_ledger_held(l, out, 2, &cursor);
    assert_int_equal(n, i < 2 ? 2 : 1);
    assert_int_equal(out[0]->token[0], "ACE"[i]);
    while (n--)
      wm_message_release(out[n]);
  }
  assert_int_equal(wm_ledger_held(l, out, 2, &cursor), 0);
  wm_ledger_free(l);
}

int main(void) {
  const struct CMUnitTest tests[] = {
    cmocka_unit_test(one_at_a_time_by_default),
    cmocka_unit_test(a_delayed_message_blocks_all_when_sequential),
    cmocka_unit_test(a_dying_message_blocks_all_when_sequential),
    cmocka_unit_test(max_in_flight_is_never_passed),
    cmocka_unit_test(several_in_flight_without_a_key_block_nothing),
    cmocka_unit_test(unordered_blocks_nothing_even_one_at_a_time),
    cmocka_unit_test(messages_of_one_key_go_one_at_a_time),
    cmocka_unit_test(a_message_without_the_key_is_in_no_lane),
    cmocka_unit_test(new_rules_hold_for_what_is_held),
    cmocka_unit_test(a_batch_is_one_unit_until_all_of_it_is_settled),
    cmocka_unit_test(a_batch_may_hold_several_of_a_lane_in_order),
    cmocka_unit_test(a_batch_waits_to_be_filled),
    cmocka_unit_test(the_first_settling_wins),
    cmocka_unit_test(a_late_ack_does_not_settle_the_next_hand_out),
    cmocka_unit_test(backoff_is_none_then_doubles_from_100_ms_to_5_s),
    cmocka_unit_test(at_max_attempts_a_nack_buries),
    cmocka_unit_test(without_a_dead_letter_topic_it_is_tried_for_ever),
    cmocka_unit_test(ops_come_in_the_order_of_settling),
    cmocka_unit_test(ops_that_failed_come_again_first),
    cmocka_unit_test(an_ack_makes_a_waiting_note_needless),
    cmocka_unit_test(an_ack_while_its_note_is_out_comes_next),
    cmocka_unit_test(a_note_is_repeated_though_its_object_was_replaced),
    cmocka_unit_test(what_is_reclaimed_is_handed_out_again_in_its_place),
    cmocka_unit_test(what_a_holder_has_in_hand_is_counted_until_it_is_settled),
    cmocka_unit_test(a_lost_message_in_hand_is_acked_without_effect),
    cmocka_unit_test(release_tells_how_many_hand_outs_there_were),
    cmocka_unit_test(when_closing_a_nack_and_a_late_fetch_go_back),
    cmocka_unit_test(the_oldest_in_hand_is_known),
    cmocka_unit_test(a_fast_handler_gets_the_whole_prefetch),
    cmocka_unit_test(a_slow_handler_holds_a_second_of_its_work),
    cmocka_unit_test(nothing_is_fetched_while_more_than_half_is_held),
    cmocka_unit_test(free_hands_get_work_at_once),
    cmocka_unit_test(a_redelivered_message_is_fetched_alone),
    cmocka_unit_test(prefetch_bytes_bound_the_fetch),
    cmocka_unit_test(held_messages_are_met_page_by_page),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
