/* window_test.c - how much a subscription holds: about a second of its own work. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>

#include "window.h"

static size_t window(size_t last, double rate, size_t least, size_t most) {
  return wm_window(
    &(wm_window_input){.last = last, .known = true, .rate = rate, .least = least, .most = most});
}

static void it_is_a_second_of_work(void **state) {
  (void)state;
  assert_int_equal(window(1000, 300, 1, 1000), 300);
  assert_int_equal(window(1000, 4, 1, 1000), 4);
}

static void it_grows_at_most_fourfold_a_fetch(void **state) {
  (void)state;
  assert_int_equal(window(1, 1e6, 1, 1000), 4);
  assert_int_equal(window(100, 1e6, 1, 1000), 400);
}

static void it_stays_between_max_in_flight_and_prefetch(void **state) {
  (void)state;
  assert_int_equal(window(1000, 1e9, 1, 1000), 1000);
  assert_int_equal(window(1000, 0.2, 1, 1000), 1);
  assert_int_equal(window(1000, 0, 8, 1000), 8);
  assert_int_equal(window(1000, 1e9, 50, 10), 50); /* what is asked for by max_in_flight wins */
}

static void a_redelivered_message_makes_it_one(void **state) {
  (void)state;
  wm_window_input in = {
    .last = 900, .known = true, .rate = 1e6, .redelivered = true, .least = 64, .most = 1000};
  assert_int_equal(wm_window(&in), 1);
}

static void it_starts_small(void **state) {
  (void)state;
  wm_window_input in = {.least = 1, .most = 1000};
  assert_int_equal(wm_window(&in), WM_WINDOW_START);
  in.most = WM_WINDOW_START - 1;
  assert_int_equal(wm_window(&in), WM_WINDOW_START - 1);
  in.most = 1000;
  in.last = 1000; /* nothing settled yet: what was fetched proves nothing */
  assert_int_equal(wm_window(&in), WM_WINDOW_START);
}

/* Settles one message every `ms`, `n` times, from *now on. */
static void work(wm_meter *m, int64_t *now, int64_t ms, int n) {
  wm_meter_work(m, true, *now);
  while (n--) {
    *now += ms;
    wm_meter_settled(m, 1, *now);
  }
  wm_meter_work(m, false, *now);
}

static void assert_rate(const wm_meter *m, int64_t now, double low, double high) {
  double rate = wm_meter_rate(m, now);
  assert_true(rate >= low && rate <= high);
}

static void the_meter_tells_the_rate_of_a_handler(void **state) {
  (void)state;
  static const struct {
    int64_t ms;
    int n;
    double low, high;
  } cases[] = {{250, 1, 3.9, 4.1}, {250, 40, 3.4, 4.6}, {5000, 1, 0.19, 0.21},
               {5000, 9, 0.19, 0.21}, {10, 777, 90, 110}};
  for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
    wm_meter m = {0};
    int64_t now = 77;
    work(&m, &now, cases[i].ms, cases[i].n);
    assert_rate(&m, now, cases[i].low, cases[i].high);
  }
}

static void the_meter_does_not_count_idle_time(void **state) {
  (void)state;
  wm_meter m = {0};
  int64_t now = 0;
  for (int i = 0; i < 50; i++) {
    work(&m, &now, 2, 10);
    now += 60000;
  }
  assert_rate(&m, now, 400, 600);
}

static void the_meter_follows_a_change_within_a_second_or_two(void **state) {
  (void)state;
  wm_meter m = {0};
  int64_t now = 0;
  work(&m, &now, 1, 5000);
  assert_rate(&m, now, 900, 1100);
  work(&m, &now, 500, 4);
  assert_rate(&m, now, 1, 3);
  work(&m, &now, 1, 1500);
  assert_rate(&m, now, 900, 1100);
}

static void the_meter_sees_a_handler_that_hangs(void **state) {
  (void)state;
  wm_meter m = {0};
  int64_t now = 0;
  work(&m, &now, 1, 3000);
  wm_meter_work(&m, true, now);
  assert_rate(&m, now + 30000, 0, 40);
}

static void the_meter_is_quick_enough_for_what_takes_no_time(void **state) {
  (void)state;
  wm_meter m = {0};
  wm_meter_work(&m, true, 5);
  wm_meter_settled(&m, 1000, 5);
  assert_rate(&m, 5, 1e5, 1e7);
}

int main(void) {
  const struct CMUnitTest tests[] = {
    cmocka_unit_test(it_is_a_second_of_work),
    cmocka_unit_test(it_grows_at_most_fourfold_a_fetch),
    cmocka_unit_test(it_stays_between_max_in_flight_and_prefetch),
    cmocka_unit_test(a_redelivered_message_makes_it_one),
    cmocka_unit_test(it_starts_small),
    cmocka_unit_test(the_meter_tells_the_rate_of_a_handler),
    cmocka_unit_test(the_meter_does_not_count_idle_time),
    cmocka_unit_test(the_meter_follows_a_change_within_a_second_or_two),
    cmocka_unit_test(the_meter_sees_a_handler_that_hangs),
    cmocka_unit_test(the_meter_is_quick_enough_for_what_takes_no_time),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
