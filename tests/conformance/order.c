/*
 * order.c - one at a time, in the broker's order, or in that of each key.
 */
#include <stdlib.h>

#include "harness.h"

enum { WAIT_MS = 20000 };

static void order(test *t) {
  enum { N = 1000 };
  topic topic = topic_new(t);
  group *g = group_new(t, &topic, NULL);
  member *m = member_open(g, t, NULL);
  member_start(m, NULL, NULL);
  publish(t, &topic, N);
  group_wait_acked(g, t, N, WAIT_MS);
  member_close(m, WAIT_MS);
}

/* Keeps a few in hand and settles them in any order; nacks some. */
typedef struct shuffler {
  wm_message *held[16];
  int n;
} shuffler;

static void settle_any(member *m, shuffler *s) {
  unsigned i = test_random(m->t, (unsigned)s->n);
  wm_message *msg = s->held[i];
  s->held[i] = s->held[--s->n];
  if (wm_message_attempt(msg) == 1 && test_random(m->t, 10) == 0)
    member_nack(m, msg, 0);
  else
    member_ack(m, msg);
}

static void order_by_key(test *t) {
  enum { KEYS = 16 };
  size_t n = short_count(4000, 800);
  topic topic = topic_new(t);
  group *g = group_new(t, &topic, NULL);
  t->rules.order = ORDER_KEY;
  source *s = source_open(t, "order_by=key");
  source_publish(s, &topic, n, &(load){.keys = KEYS});
  source_close(s);
  member *m = member_open(g, t, "max_in_flight=16,order_by=key");
  shuffler sh = {.n = 0};
  int most = 0;
  while (group_acked(g) < n) {
    int got = sh.n < KEYS ? member_next(m, sh.held + sh.n, (size_t)(KEYS - sh.n), sh.n ? 0 : stretch(WAIT_MS)) : 0;
    CHECK(t, got >= 0 || (got == WM_TIMEOUT && sh.n), "%s with %zu of %zu acked", wm_code_name(got), group_acked(g), n);
    if (got > 0) sh.n += got;
    if (sh.n > most) most = sh.n;
    settle_any(m, &sh);
  }
  CHECK(t, most > KEYS / 2, "at most %d keys were in hand at once, %d are free of each other", most, KEYS);
  CHECK(t, member_close(m, WAIT_MS) == WM_OK, "close");
}

static void no_ack_blocks(test *t) {
  topic topic = topic_new(t);
  group *g = group_new(t, &topic, NULL);
  member *m = member_open(g, t, NULL);
  publish(t, &topic, 2);
  wm_message *first = member_take(m);
  member_take_none(m, 100);
  member_ack(m, first);
  member_ack(m, member_take(m));
  member_close(m, WAIT_MS);
}

const test_def order_tests[] = {{"order", order, WM_F_ORDERED, 0, 0},
                                {"order_by_key", order_by_key, WM_F_ORDERED, 0, 0},
                                {"no_ack_blocks", no_ack_blocks, 0, 0, 0},
                                {0}};
