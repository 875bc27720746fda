/*
 * outage.c - the broker goes away and comes back; somebody deletes what it keeps for us.
 */
#include <stdio.h>

#include "harness.h"

enum { WAIT_MS = 20000 };

/* ---- reconnect ---------------------------------------------------------------------------------------------------- */

enum { PUBLISHERS = 100 };

typedef struct publishing {
  test *t;
  const topic *topic;
  size_t n;
  pthread_t thread;
} publishing;

static void *publish_in_thread(void *arg) {
  publishing *p = arg;
  source *s = source_open(p->t, "timeout=60s");
  source_publish(s, p->topic, p->n, &(load){.batch = 5, .may_fail = true});
  source_close(s);
  return NULL;
}

typedef struct enough {
  group *g;
  size_t n;
} enough;

static bool has_enough(void *arg) { return group_acked(((enough *)arg)->g) >= ((enough *)arg)->n; }

static void reconnect(test *t) {
  size_t n = short_count(10000, 2000), each = n / PUBLISHERS;
  int wait = WAIT_MS + t->row->restart_ms;
  topic topic = topic_new(t);
  group *g = group_new(t, &topic, NULL);
  t->watch = g;
  member *m = member_open(g, t, NULL);
  member_start(m, NULL, NULL);
  publishing publishers[PUBLISHERS];
  for (int i = 0; i < PUBLISHERS; i++) {
    publishers[i] = (publishing){.t = t, .topic = &topic, .n = each};
    pthread_create(&publishers[i].thread, NULL, publish_in_thread, &publishers[i]);
  }
  wait_until(t, wait, has_enough, &(enough){g, n / 3}, "a third has arrived");
  broker_outage(t);
  wait_until(t, wait, has_enough, &(enough){g, n / 2}, "a half has arrived");
  broker_outage(t);
  for (int i = 0; i < PUBLISHERS; i++)
    pthread_join(publishers[i].thread, NULL);
  printf("%zu of %zu confirmed\n", g->confirmed, n);
  CHECK(t, g->confirmed == n, "%zu of %zu: outages are shorter than the publishers' time", g->confirmed, n);
  group_wait_confirmed(g, t, wait);
  member_close(m, WAIT_MS);
}

/* ---- broker_wiped ---------------------------------------------------------------------------------------------------- */

static void wipe(test *t, group *g, broker_wipe what) {
  char why[BROKER_WHY];
  history_add(t->h, &(history_event){.kind = H_WIPED});
  bool done = broker_kind_find(t->row->name)->wipe(t->broker_url, g->topic.name, g->name, what, why);
  CHECK(t, done, "%s", why);
  history_add(t->h, &(history_event){.kind = H_WIPED}); /* between the two it may already have come again */
}

static uint64_t fetches(member *m) {
  wm_subscription_stats stats;
  wm_subscription_get_stats(m->sub, &stats);
  return stats.fetches;
}

static void broker_wiped(test *t) {
  enum { N = 20, QUIET_MS = 500, MOST = 200 };
  topic topic = topic_new(t);
  group *g = group_new(t, &topic, NULL);
  member *m = member_open(g, t, NULL);
  member_start(m, NULL, NULL);
  publish(t, &topic, N);
  group_wait_acked(g, t, N, WAIT_MS);
  member_flush(m);
  for (int i = 0; i < 2; i++) {
    wipe(t, g, i == 0 ? WIPE_GROUP : WIPE_TOPIC);
    uint64_t before = fetches(m);
    sleep_ms(QUIET_MS); /* not waiting for anything: it must not spin meanwhile */
    CHECK(t, fetches(m) - before < MOST, "%llu fetches in %d ms", (unsigned long long)(fetches(m) - before),
          QUIET_MS);
    publish(t, &topic, N);
    group_wait_acked(g, t, (size_t)N * (size_t)(i + 2), WAIT_MS);
  }
  member_close(m, WAIT_MS);
}

const test_def outage_tests[] = {{"reconnect", reconnect, WM_F_SERVER | WM_F_PERSISTENT, OWN_BROKER, 240},
                                 {"broker_wiped", broker_wiped, 0, WIPE, 0},
                                 {0}};
