/*
 * faults.c - networks between us and a server: slow, cut in the middle of a frame, reset, silent. Nothing is lost and
 * nothing is stuck; once all is well again, everything flows again.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "../faults/proxy.h"
#include "harness.h"

enum { WAIT_MS = 20000, PUBLISHERS = 4 };

typedef struct publishing {
  test *t;
  const topic *topic;
  size_t n;
  pthread_t thread;
} publishing;

/* Messages that flow through a proxy. */
typedef struct stream {
  test *t;
  proxy *proxy;
  topic topic;
  group *g;
  member *m;
  size_t n;
  publishing publishers[PUBLISHERS];
} stream;

static void *publish_in_thread(void *arg) {
  publishing *p = arg;
  source *s = source_open(p->t, "timeout=60s");
  source_publish(s, p->topic, p->n, &(load){.batch = 5, .size = 200, .may_fail = true});
  source_close(s);
  return NULL;
}

/* From here on the test's URL leads through the proxy. */
static void lead_through(test *t, const proxy *p) {
  const char *colon = strrchr(t->broker_url, ':');
  snprintf(t->url, sizeof t->url, "%.*s:%d%s%s%s%s", (int)(colon - t->broker_url), t->broker_url, proxy_port(p),
           t->row->options || t->row->fault_options ? "?" : "", t->row->options ? t->row->options : "",
           t->row->options && t->row->fault_options ? "&" : "", t->row->fault_options ? t->row->fault_options : "");
}

static void begin(stream *s, test *t, size_t n) {
  s->t = t;
  s->n = n;
  s->proxy = proxy_open(atoi(strrchr(t->broker_url, ':') + 1));
  CHECK(t, s->proxy, "the proxy cannot listen");
  lead_through(t, s->proxy);
  s->topic = topic_new(t);
  s->g = t->watch = group_new(t, &s->topic, NULL);
  s->m = member_open(s->g, t, NULL);
  member_start(s->m, NULL, NULL);
  for (int i = 0; i < PUBLISHERS; i++) {
    s->publishers[i] = (publishing){.t = t, .topic = &s->topic, .n = n / PUBLISHERS};
    pthread_create(&s->publishers[i].thread, NULL, publish_in_thread, &s->publishers[i]);
  }
}

static bool goes_on(stream *s) { return group_acked(s->g) < s->n; }

static void end(stream *s) {
  for (int i = 0; i < PUBLISHERS; i++)
    pthread_join(s->publishers[i].thread, NULL);
  CHECK(s->t, s->g->confirmed == s->n, "%zu of %zu confirmed", s->g->confirmed, s->n);
  group_wait_confirmed(s->g, s->t, WAIT_MS);
  printf("%zu messages over %zu connections\n", s->n, proxy_count(s->proxy));
  member_close(s->m, WAIT_MS);
  proxy_close(s->proxy);
}

/* Lets some more messages pass. */
static void let_flow(stream *s) {
  size_t until = group_acked(s->g) + 1 + test_random(s->t, (unsigned)(s->n / 12));
  int64_t started = now_ms();
  while (goes_on(s) && group_acked(s->g) < until) {
    CHECK(s->t, now_ms() - started < stretch(2 * WAIT_MS), "it does not flow: %zu of %zu after %d ms",
          group_acked(s->g), s->n, stretch(2 * WAIT_MS));
    sleep_ms(1);
  }
}

static void begin_outage(stream *s) { history_add(s->t->h, &(history_event){.kind = H_OUTAGE}); }
static void end_outage(stream *s) { history_add(s->t->h, &(history_event){.kind = H_RESTORED}); }

typedef struct again {
  proxy *proxy;
  size_t before;
} again;

static bool is_connected_again(void *arg) {
  const again *a = arg;
  return proxy_count(a->proxy) > a->before;
}

static void fault_slices(test *t) {
  stream s;
  begin(&s, t, short_count(4000, 1000));
  let_flow(&s);
  proxy_set(s.proxy, PROXY_SLICE, 0);
  while (goes_on(&s) && group_acked(s.g) < s.n / 2)
    sleep_ms(1);
  proxy_set(s.proxy, PROXY_DELAY, 20);
  end(&s);
  CHECK(t, group_deliveries(s.g) == s.n, "%zu deliveries of %zu messages, nothing had failed",
        group_deliveries(s.g), s.n);
}

static void fault_cut(test *t) {
  stream s;
  begin(&s, t, short_count(20000, 4000));
  while (goes_on(&s)) {
    again a = {s.proxy, proxy_count(s.proxy)};
    begin_outage(&s);
    proxy_hit(s.proxy, PROXY_CUT, (int)test_random(t, 3000));
    wait_until(t, WAIT_MS, is_connected_again, &a, "a new connection");
    proxy_hit(s.proxy, PROXY_RESET, 0); /* those that were quiet and are still to be cut */
    end_outage(&s);
    let_flow(&s);
  }
  end(&s);
}

static void fault_reset(test *t) {
  stream s;
  begin(&s, t, short_count(20000, 4000));
  while (goes_on(&s)) {
    begin_outage(&s);
    proxy_hit(s.proxy, PROXY_RESET, 0);
    end_outage(&s);
    let_flow(&s);
  }
  end(&s);
}

/* Silence of one kind for some seconds, in the middle. */
static void silence(test *t, proxy_mode mode, bool half_open) {
  enum { SILENT_MS = 3000 };
  stream s;
  begin(&s, t, short_count(10000, 2000));
  let_flow(&s);
  begin_outage(&s);
  if (half_open) proxy_hit(s.proxy, PROXY_HALF_OPEN, 0);
  else proxy_set(s.proxy, mode, 0);
  for (int64_t until = now_ms() + SILENT_MS; now_ms() < until && goes_on(&s);)
    sleep_ms(10);
  proxy_set(s.proxy, PROXY_PASS, 0);
  end_outage(&s);
  end(&s);
}

static void fault_black_hole(test *t) { silence(t, PROXY_BLACK_HOLE, false); }
static void fault_half_open(test *t) { silence(t, PROXY_PASS, true); }
static void fault_stall_up(test *t) { silence(t, PROXY_STALL_UP, false); }
static void fault_stall_down(test *t) { silence(t, PROXY_STALL_DOWN, false); }

const test_def fault_tests[] = {{"fault_slices", fault_slices, WM_F_SERVER, 0, 90},
                                {"fault_cut", fault_cut, WM_F_SERVER, 0, 90},
                                {"fault_reset", fault_reset, WM_F_SERVER, 0, 90},
                                {"fault_black_hole", fault_black_hole, WM_F_SERVER, 0, 90},
                                {"fault_half_open", fault_half_open, WM_F_SERVER, 0, 90},
                                {"fault_stall_up", fault_stall_up, WM_F_SERVER, 0, 90},
                                {"fault_stall_down", fault_stall_down, WM_F_SERVER, 0, 90},
                                {0}};
