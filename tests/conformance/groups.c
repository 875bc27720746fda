/*
 * groups.c - who gets what: groups, their members, members that die, sleep or are slow, where a group begins.
 */
#include <stdlib.h>

#include "harness.h"

enum { WAIT_MS = 20000 };

static void consumer_groups(test *t) {
  enum { N = 50 };
  topic topic = topic_new(t);
  group *groups[2] = {group_new(t, &topic, NULL), group_new(t, &topic, NULL)};
  member *members[2];
  for (int i = 0; i < 2; i++) {
    members[i] = member_open(groups[i], t, NULL);
    member_start(members[i], NULL, NULL);
  }
  publish(t, &topic, N);
  for (int i = 0; i < 2; i++)
    group_wait_acked(groups[i], t, N, WAIT_MS);
  for (int i = 0; i < 2; i++)
    member_close(members[i], WAIT_MS);
  for (int i = 0; i < 2 && !t->rules.duplicates; i++)
    CHECK(t, group_deliveries(groups[i]) == N, "group %d got %zu", i, group_deliveries(groups[i]));
}

static void fan_out(test *t) {
  enum { N = 50, SUBSCRIBERS = 3 };
  topic topic = topic_new(t);
  group *groups[SUBSCRIBERS];
  member *members[SUBSCRIBERS];
  publish(t, &topic, N); /* nobody gets these */
  for (int i = 0; i < SUBSCRIBERS; i++) {
    groups[i] = group_none(t, &topic);
    members[i] = member_open(groups[i], t, NULL);
    member_start(members[i], NULL, NULL);
  }
  publish(t, &topic, N);
  for (int i = 0; i < SUBSCRIBERS; i++)
    group_wait_acked(groups[i], t, N, WAIT_MS);
  for (int i = 0; i < SUBSCRIBERS; i++)
    member_close(members[i], WAIT_MS);
}

/* ---- members that die, stop, or take long ------------------------------------------------------------------------ */

static void work_then_ack(member *m, wm_message **msgs, int n, void *arg) {
  for (int i = 0; i < n; i++) {
    sleep_ms(*(int *)arg);
    member_ack(m, msgs[i]);
  }
}

static bool has_some(void *arg) { return ((child *)arg)->delivered >= 5; }

static void group_share(test *t) {
  enum { N = 300 };
  int work_ms = 5;
  topic topic = topic_new(t);
  group *g = group_new(t, &topic, NULL);
  member *members[2];
  for (int i = 0; i < 2; i++) {
    members[i] = member_open(g, t, "takeover");
    member_start(members[i], work_then_ack, &work_ms);
  }
  child *victim = child_start(t, "consumer", &topic, g, "takeover", work_ms, 0);
  source *s = source_open(t, NULL);
  source_publish(s, &topic, N / 2, &(load){.batch = 5});
  for (int i = 0; i < 20 && !has_some(victim); i++) { /* it may come late to the first ones */
    source_publish(s, &topic, 10, NULL);
    int64_t until = now_ms() + stretch(500);
    while (!has_some(victim) && now_ms() < until) {
      child_poll(victim);
      sleep_ms(1);
    }
  }
  CHECK(t, has_some(victim), "the third member gets nothing, %zu messages went to the others", group_acked(g));
  source_publish(s, &topic, N / 2, NULL);
  child_kill(victim);
  group_wait_acked(g, t, s->seq, WAIT_MS + t->row->takeover_ms);
  source_close(s);
  for (int i = 0; i < 2; i++)
    member_close(members[i], WAIT_MS);
}

static void slow_but_alive(test *t) {
  topic topic = topic_new(t);
  group *g = group_new(t, &topic, NULL);
  member *slow = member_open(g, t, "takeover");
  publish(t, &topic, 1);
  wm_message *msg = member_take(slow);
  member *other = member_open(g, t, "takeover");
  member_take_none(other, 3 * stretch(t->row->takeover_ms));
  member_ack(slow, msg);
  CHECK(t, member_close(slow, WAIT_MS) == WM_OK, "close");
  member_take_none(other, stretch(t->row->takeover_ms) + t->row->settle_ms); /* the ack counts */
  publish(t, &topic, 1);
  member_ack(other, member_take(other));
  member_close(other, WAIT_MS);
}

/* Stops it where it does not have the broker locked, as a process that is writing to a SQLite file has. */
static void pause_harmlessly(test *t, child *c) {
  topic other = topic_new(t);
  source *s = source_open(t, "timeout=2s");
  for (int64_t until = now_ms() + stretch(WAIT_MS);;) {
    child_pause(c);
    if (source_publish(s, &other, 1, &(load){.may_fail = true}) == 1) break;
    CHECK(t, now_ms() < until, "nothing can be published while the child sleeps");
    child_resume(c);
    sleep_ms((int)test_random(t, 50));
  }
  source_close(s);
}

static void paused_process(test *t) {
  enum { N = 200, MORE = 50 };
  int work_ms = 5;
  topic topic = topic_new(t);
  group *g = group_new(t, &topic, NULL);
  child *sleeper = child_start(t, "consumer", &topic, g, "takeover", work_ms, 0);
  publish(t, &topic, N);
  wait_until(t, WAIT_MS, has_some, sleeper, "the child gets messages");
  pause_harmlessly(t, sleeper);
  int64_t until = now_ms() + 2 * stretch(t->row->takeover_ms);
  member *m = member_open(g, t, "takeover");
  member_start(m, work_then_ack, &work_ms);
  group_wait_acked(g, t, N, WAIT_MS + t->row->takeover_ms);
  while (now_ms() < until) /* a shorter sleep would not be noticed */
    sleep_ms(10);
  child_resume(sleeper);
  publish(t, &topic, MORE);
  group_wait_acked(g, t, N + MORE, WAIT_MS + t->row->takeover_ms);
  child_kill(sleeper);
  member_close(m, WAIT_MS);
}

/* ---- fair_share ------------------------------------------------------------------------------------------------- */

enum { FAST_MS = 5, SLOW_MS = 250, HOARD_MS = 2000 };

typedef struct fairness {
  test *t;
  group *g;
  member *fast, *slow;
  size_t n;
  int64_t idle_since;
} fairness;

static bool all_acked_fairly(void *arg) {
  fairness *f = arg;
  wm_subscription_stats fast, slow;
  wm_subscription_get_stats(f->fast->sub, &fast);
  wm_subscription_get_stats(f->slow->sub, &slow);
  CHECK(f->t, slow.waiting * SLOW_MS <= (size_t)stretch(HOARD_MS),
        "the slow member holds %zu messages it has not begun, %zu ms of its work", slow.waiting,
        slow.waiting * SLOW_MS);
  bool starved = fast.waiting + fast.in_flight == 0 && slow.waiting > 0;
  int64_t now = now_ms();
  if (!starved) f->idle_since = now;
  CHECK(f->t, now - f->idle_since <= stretch(HOARD_MS), "the fast member is idle while the slow one holds %zu",
        slow.waiting);
  return group_acked(f->g) >= f->n;
}

static void fair_share(test *t) {
  int fast_ms = FAST_MS, slow_ms = SLOW_MS;
  topic topic = topic_new(t);
  fairness f = {.t = t, .g = group_new(t, &topic, NULL), .n = short_count(2000, 400)};
  publish(t, &topic, f.n);
  f.slow = member_open(f.g, t, NULL);
  f.fast = member_open(f.g, t, NULL);
  member_start(f.slow, work_then_ack, &slow_ms);
  member_start(f.fast, work_then_ack, &fast_ms);
  f.idle_since = now_ms();
  wait_until(t, 50000, all_acked_fairly, &f, "all messages are acked");
  member_close(f.slow, WAIT_MS);
  member_close(f.fast, WAIT_MS);
}

/* ---- exclusive -------------------------------------------------------------------------------------------------- */

static void exclusive(test *t) {
  enum { N = 200 };
  topic topic = topic_new(t);
  group *g = group_new(t, &topic, NULL);
  t->rules.across_members = true;
  member *first = member_open(g, t, "exclusive=true,takeover");
  publish(t, &topic, N);
  for (int i = 0; i < N / 4; i++)
    member_ack(first, member_take(first));
  member *second = member_open(g, t, "exclusive=true,takeover");
  member_take_none(second, 500); /* stands by */
  for (int i = 0; i < N / 4; i++)
    member_ack(first, member_take(first));
  CHECK(t, member_close(first, WAIT_MS) == WM_OK, "close");
  while (group_acked(g) < N)
    member_ack(second, member_take(second));
  member_close(second, WAIT_MS);
}

/* ---- where a group begins ---------------------------------------------------------------------------------------- */

static void old_messages(test *t) {
  enum { N = 50 };
  topic topic = topic_new(t);
  publish(t, &topic, N);
  group *g = group_new(t, &topic, "oldest");
  member *m = member_open(g, t, NULL);
  member_start(m, NULL, NULL);
  group_wait_acked(g, t, N, WAIT_MS);
  member_close(m, WAIT_MS);
}

static void from_newest(test *t) {
  enum { N = 50 };
  topic topic = topic_new(t);
  publish(t, &topic, N);
  group *g = group_new(t, &topic, "newest");
  member *m = member_open(g, t, NULL);
  member_start(m, NULL, NULL);
  publish(t, &topic, N);
  group_wait_acked(g, t, N, WAIT_MS); /* the checker knows the old ones */
  member_close(m, WAIT_MS);
  CHECK(t, group_delivered(g) == N, "%zu messages came", group_delivered(g));
}

const test_def group_tests[] = {{"consumer_groups", consumer_groups, WM_F_GROUPS, 0, 0},
                                {"fan_out", fan_out, WM_F_FANOUT, 0, 0},
                                {"group_share", group_share, WM_F_GROUPS, PROCESSES, 90},
                                {"slow_but_alive", slow_but_alive, WM_F_GROUPS, 0, 90},
                                {"paused_process", paused_process, WM_F_GROUPS, PROCESSES | OWN_BROKER, 90},
                                {"fair_share", fair_share, WM_F_GROUPS, 0, 90},
                                {"exclusive", exclusive, WM_F_EXCLUSIVE, 0, 0},
                                {"old_messages", old_messages, WM_F_REPLAY, 0, 0},
                                {"from_newest", from_newest, WM_F_GROUPS, 0, 0},
                                {0}};
