/*
 * crash.c - processes killed with -9 at random points.
 */
#include <stdio.h>

#include "harness.h"

enum { WAIT_MS = 20000, FLUSHED_MS = 1000 };

/* Lets children run until a random moment: a number of deliveries, or some time. */
static void let_run(test *t, child *c, group *g, size_t n) {
  size_t until = c->delivered + 1 + test_random(t, (unsigned)(n / 15 + 1));
  int64_t latest = now_ms() + stretch(50 + (int)test_random(t, 500));
  while (c->delivered < until && now_ms() < latest && group_acked(g) < n) {
    child_poll(c);
    sleep_ms(1);
  }
}

static void crash_consumer(test *t) {
  enum { KILLS = 12 };
  size_t n = short_count(10000, 2000);
  topic topic = topic_new(t);
  group *g = group_new(t, &topic, NULL);
  t->rules.flushed_ms = stretch(FLUSHED_MS); /* acks that are older must not come again */
  publish(t, &topic, n);
  for (int i = 0; i < KILLS && group_acked(g) < n; i++) {
    child *c = child_start(t, "consumer", &topic, g, "takeover", 0, 0);
    let_run(t, c, g, n);
    child_kill(c);
  }
  printf("%zu of %zu acked after %d kills\n", group_acked(g), n, KILLS);
  child_start(t, "consumer", &topic, g, "takeover", 0, 0);
  group_wait_acked(g, t, n, WAIT_MS + t->row->takeover_ms);
}

static void crash_publisher(test *t) {
  enum { KILLS = 8, BATCH = 50 };
  topic topic = topic_new(t);
  group *g = group_new(t, &topic, NULL);
  t->watch = g;
  member *m = member_open(g, t, NULL);
  member_start(m, NULL, NULL);
  for (int i = 0; i < KILLS; i++) {
    child *c = child_start(t, "publisher", &topic, NULL, NULL, 0, BATCH);
    size_t before = g->confirmed;
    int64_t until = now_ms() + stretch(WAIT_MS), latest = 0;
    while (!latest || now_ms() < latest) { /* some time after its first confirmation */
      child_poll(c);
      if (!latest && g->confirmed > before) latest = now_ms() + test_random(t, 100);
      CHECK(t, latest || now_ms() < until, "the child publishes nothing");
      sleep_ms(1);
    }
    child_kill(c);
  }
  printf("%zu confirmed in %d runs\n", g->confirmed, KILLS);
  group_wait_confirmed(g, t, WAIT_MS);
  member_close(m, WAIT_MS);
}

const test_def crash_tests[] = {{"crash_consumer", crash_consumer, WM_F_PERSISTENT, PROCESSES, 120},
                                {"crash_publisher", crash_publisher, WM_F_PERSISTENT, PROCESSES, 120},
                                {0}};
