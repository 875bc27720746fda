/*
 * close.c - closing is gentle: nothing is lost, what was not handled goes back, what is acked stays acked.
 */
#include <stdlib.h>

#include "harness.h"

enum { WAIT_MS = 20000 };

static void continue_after_close(test *t) {
  size_t n = short_count(5000, 500), round = n / 20;
  topic topic = topic_new(t);
  group *g = group_new(t, &topic, NULL);
  publish(t, &topic, n);
  while (group_acked(g) < n) {
    member *m = member_open(g, t, NULL);
    for (size_t i = 0; i < round && group_acked(g) < n; i++)
      member_ack(m, member_take(m));
    CHECK(t, member_close(m, WAIT_MS) == WM_OK, "close");
  }
}

typedef struct opening {
  test *t;
  group *g;
  pthread_t thread;
} opening;

static void *open_and_close(void *arg) {
  opening *o = arg;
  member_close(member_open(o->g, o->t, NULL), WAIT_MS);
  return NULL;
}

static void concurrent_close(test *t) {
  enum { SUBSCRIBERS = 10, N = 50 };
  topic topic = topic_new(t);
  group *g = group_new(t, &topic, NULL);
  opening openings[SUBSCRIBERS];
  for (int i = 0; i < SUBSCRIBERS; i++) {
    openings[i] = (opening){.t = t, .g = g};
    pthread_create(&openings[i].thread, NULL, open_and_close, &openings[i]);
  }
  for (int i = 0; i < SUBSCRIBERS; i++)
    pthread_join(openings[i].thread, NULL);
  member *m = member_open(g, t, NULL);
  member_start(m, NULL, NULL);
  publish(t, &topic, N);
  group_wait_acked(g, t, N, WAIT_MS);
  member_close(m, WAIT_MS);
}

static void continue_after_errors(test *t) {
  enum { SUBSCRIBERS = 3, NACKS = 100, N = 50 };
  topic topic = topic_new(t);
  group *g = group_new(t, &topic, NULL);
  publish(t, &topic, N);
  for (int i = 0; i < SUBSCRIBERS; i++) {
    member *m = member_open(g, t, NULL);
    for (int k = 0; k < NACKS; k++)
      member_nack(m, member_take(m), 0);
    member_close(m, WAIT_MS);
  }
  member *m = member_open(g, t, NULL);
  member_start(m, NULL, NULL);
  group_wait_acked(g, t, N, WAIT_MS);
  member_close(m, WAIT_MS);
}

static void cancel_subscription(test *t) {
  topic topic = topic_new(t);
  group *g = group_new(t, &topic, NULL);
  publish(t, &topic, 1);
  member *m = member_open(g, t, NULL);
  wm_message *msg = member_take(m);
  CHECK(t, member_close(m, 0) == WM_TIMEOUT, "closing with a message in flight gives it back, and says so");
  CHECK(t, !wm_ack(msg), "its later ack returned true");
  wm_message_release(msg);
  m = member_open(g, t, NULL);
  member_ack(m, member_take(m));
  member_close(m, WAIT_MS);
}

static bool has_waiting(void *arg) {
  wm_subscription_stats stats;
  wm_subscription_get_stats(((member *)arg)->sub, &stats);
  return stats.waiting > 0;
}

/* What a closing member had prefetched is another's long before the takeover time. */
static void give_back(test *t) {
  enum { N = 100 };
  topic topic = topic_new(t);
  group *g = group_new(t, &topic, NULL);
  publish(t, &topic, N);
  member *first = member_open(g, t, "takeover=1h");
  for (int i = 0; i < N / 4; i++) /* quick: its window grows */
    member_ack(first, member_take(first));
  wm_message *held = member_take(first);
  wait_until(t, WAIT_MS, has_waiting, first, "something is prefetched");
  member *second = member_open(g, t, "takeover=1h");
  member_ack(first, held);
  CHECK(t, member_close(first, WAIT_MS) == WM_OK, "close");
  while (group_acked(g) < N)
    member_ack(second, member_take(second));
  member_close(second, WAIT_MS);
}

static void flush(test *t) {
  enum { N = 40, ACKED = 20 };
  topic topic = topic_new(t);
  group *g = group_new(t, &topic, NULL);
  publish(t, &topic, N);
  child *c = child_start(t, "flusher", &topic, g, "takeover", 0, ACKED);
  group_wait_acked(g, t, ACKED, WAIT_MS);
  int64_t until = now_ms() + stretch(WAIT_MS);
  while (!c->flushed) {
    CHECK(t, now_ms() < until, "the child's wm_flush does not return");
    child_poll(c);
    sleep_ms(1);
  }
  child_kill(c);
  member *m = member_open(g, t, "takeover");
  member_start(m, NULL, NULL);
  group_wait_acked(g, t, N, WAIT_MS + t->row->takeover_ms);
  member_close(m, WAIT_MS);
}

/* ---- publisher_close ------------------------------------------------------------------------------------------------ */

enum { CALLS = 200, EACH = 5, THREADS = 20 };

typedef struct under_way {
  test *t;
  source *s;
  const topic *topic;
  wm_message *msgs[EACH];
  history_event events[EACH];
  atomic_int *done;
  pthread_t thread;
} under_way;

static void prepare(under_way *u, test *t, source *s, const topic *topic, atomic_int *done) {
  *u = (under_way){.t = t, .s = s, .topic = topic, .done = done};
  for (int i = 0; i < EACH; i++)
    u->msgs[i] = message_new(t, topic, s->id, s->seq++, NULL, &u->events[i]);
  history_add_all(t->h, u->events, EACH);
}

static void finish(under_way *u, const wm_result *results) {
  for (int i = 0; i < EACH; i++) {
    record_result(u->t, &u->events[i], results[i], message_number(u->msgs[i]));
    wm_message_release(u->msgs[i]);
  }
  atomic_fetch_add(u->done, 1);
}

static void published(void *arg, int code, const wm_result *results, size_t n, const wm_error *err) {
  under_way *u = arg;
  (void)err;
  CHECK(u->t, n == EACH, "%zu results of %d messages (%s)", n, EACH, wm_code_name(code));
  finish(u, results);
}

static void *publish_blocking(void *arg) {
  under_way *u = arg;
  wm_result results[EACH];
  wm_publish(u->s->pub, u->topic->name, u->msgs, EACH, results, NULL);
  finish(u, results);
  return NULL;
}

static bool all_accepted(void *arg) {
  wm_publisher_stats stats;
  wm_publisher_get_stats(arg, &stats);
  return stats.stored + stats.refused + stats.not_sent + stats.unknown + stats.queued >= (CALLS + THREADS) * EACH;
}

static bool all_done(void *arg) { return atomic_load((atomic_int *)arg) == CALLS + THREADS; }

static void publisher_close(test *t) {
  topic topic = topic_new(t);
  group *g = group_new(t, &topic, NULL);
  member *m = member_open(g, t, NULL);
  source *s = source_open(t, NULL);
  atomic_int done = 0;
  under_way *calls = calloc(CALLS + THREADS, sizeof *calls);
  t->watch = g;
  t->rules.order = ORDER_NONE; /* the threads overtake each other */
  for (int i = 0; i < CALLS + THREADS; i++)
    prepare(&calls[i], t, s, &topic, &done);
  for (int i = CALLS; i < CALLS + THREADS; i++)
    pthread_create(&calls[i].thread, NULL, publish_blocking, &calls[i]);
  for (int i = 0; i < CALLS; i++) {
    wm_error err;
    CHECK_OK(t, wm_publish_async(s->pub, topic.name, calls[i].msgs, EACH, published, &calls[i], &err), &err);
  }
  wait_until(t, WAIT_MS, all_accepted, s->pub, "all publishes have begun"); /* no call may begin after close */
  source_close(s);
  wait_until(t, WAIT_MS, all_done, &done, "every publish has a result");
  for (int i = CALLS; i < CALLS + THREADS; i++)
    pthread_join(calls[i].thread, NULL);
  member_start(m, NULL, NULL);
  group_wait_confirmed(g, t, WAIT_MS);
  CHECK(t, g->confirmed > 0, "nothing was confirmed");
  member_close(m, WAIT_MS);
  free(calls);
}

const test_def close_tests[] = {{"continue_after_close", continue_after_close, 0, 0, 120},
                                {"concurrent_close", concurrent_close, WM_F_GROUPS, 0, 0},
                                {"continue_after_errors", continue_after_errors, 0, 0, 0},
                                {"cancel_subscription", cancel_subscription, 0, 0, 0},
                                {"give_back", give_back, WM_F_GROUPS, 0, 0},
                                {"flush", flush, WM_F_PERSISTENT, PROCESSES, 0},
                                {"publisher_close", publisher_close, 0, 0, 0},
                                {0}};
