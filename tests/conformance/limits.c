/*
 * limits.c - a member holds no more than its window, in messages and in bytes, however much is waiting.
 */
#include <stdio.h>
#include <stdlib.h>

#include "harness.h"

enum { WAIT_MS = 20000, KIB = 1024, PREFETCH = 1000, PREFETCH_BYTES = 16 << 20, SMALL_BYTES = 64 << 10 };
enum { RSS_GROWTH = 64 << 20 };

static size_t resident(void) {
  unsigned long size = 0, pages = 0;
  FILE *f = fopen("/proc/self/statm", "r");
  if (f && fscanf(f, "%lu %lu", &size, &pages) != 2) pages = 0;
  if (f) fclose(f);
  return pages * 4096;
}

/* Not recorded: the history would hide the process's own growth. */
static void publish_unrecorded(test *t, const topic *topic, size_t n) {
  static const char payload[KIB];
  wm_message *msgs[PREFETCH];
  wm_error err;
  source *s = source_open(t, "timeout=60s");
  for (size_t i = 0; i < PREFETCH; i++)
    CHECK_OK(t, wm_message_new(&msgs[i], NULL, (wm_slice){payload, KIB}, NULL, 0, &err), &err);
  for (size_t i = 0; i < n; i += PREFETCH)
    CHECK_OK(t, wm_publish(s->pub, topic->name, msgs, PREFETCH, NULL, &err), &err);
  for (size_t i = 0; i < PREFETCH; i++)
    wm_message_release(msgs[i]);
  source_close(s);
}

typedef struct bounds {
  size_t messages, bytes; /* at most, at any time */
  size_t most_messages, most_bytes;
} bounds;

static void check_bounds(test *t, member *m, bounds *b) {
  wm_subscription_stats s;
  wm_subscription_get_stats(m->sub, &s);
  size_t held = s.waiting + s.in_flight + s.delayed;
  if (held > b->most_messages) b->most_messages = held;
  if (s.bytes > b->most_bytes) b->most_bytes = s.bytes;
  CHECK(t, held <= b->messages, "%zu messages are held, at most %zu should be; the window is %zu", held, b->messages,
        s.window);
  CHECK(t, s.bytes <= b->bytes, "%zu bytes are held, at most %zu should be", s.bytes, b->bytes);
}

static void take_and_ack(test *t, member *m, int n, int work_ms, bounds *b) {
  while (n-- > 0) {
    wm_message *msg;
    int rc = wm_next(m->con, &msg, 1, stretch(WAIT_MS));
    CHECK(t, rc == 1, "%s", wm_code_name(rc));
    for (int ms = 0; ms < work_ms; ms += 10) {
      sleep_ms(10);
      check_bounds(t, m, b);
    }
    check_bounds(t, m, b);
    CHECK(t, wm_ack(msg), "ack");
    wm_message_release(msg);
  }
}

static void slow_consumer(test *t) {
  enum { SLOW_MS = 50, SLOW = 60, QUICK = 5000 };
  size_t n = short_count(200000, 10000);
  topic topic = topic_new(t);
  group *g = group_new(t, &topic, NULL), *small = group_new(t, &topic, NULL);
  t->rules.unfinished = true;
  publish_unrecorded(t, &topic, n);
  size_t before = resident();
  member *m = member_open(g, t, NULL);
  /* About a second of its own work: twice that is still a bound. */
  bounds slow = {.messages = 2 * 1000 / SLOW_MS, .bytes = PREFETCH_BYTES + 2 * KIB};
  take_and_ack(t, m, SLOW, SLOW_MS, &slow);
  bounds quick = {.messages = PREFETCH, .bytes = PREFETCH_BYTES + 2 * KIB};
  take_and_ack(t, m, QUICK, 0, &quick);
  wm_message *msg;
  CHECK(t, wm_next(m->con, &msg, 1, stretch(WAIT_MS)) == 1, "a message to sleep on");
  for (int i = 0; i < 100; i++) {
    sleep_ms(10);
    check_bounds(t, m, &quick);
  }
  wm_message_release(msg);
  member_close(m, 0);
  /* The running mean of the size decides how many fit, so a batch may go over. */
  member *narrow = member_open(small, t, "prefetch_bytes=64k");
  bounds bytes = {.messages = PREFETCH, .bytes = 2 * SMALL_BYTES};
  take_and_ack(t, narrow, QUICK / 5, 0, &bytes);
  member_close(narrow, WAIT_MS);
  printf("held at most: slow %zu, quick %zu messages; narrow %zu bytes\n", slow.most_messages, quick.most_messages,
         bytes.most_bytes);
#if !defined(__SANITIZE_ADDRESS__) && !defined(__SANITIZE_THREAD__)
  size_t grown = resident() > before ? resident() - before : 0;
  printf("grown by %zu KiB\n", grown / KIB);
  if (!t->row->in_process) CHECK(t, grown < RSS_GROWTH, "%zu bytes", grown);
#else
  (void)before;
#endif
}

const test_def limit_tests[] = {{"slow_consumer", slow_consumer, WM_F_GROUPS | WM_F_REPLAY, 0, 180}, {0}};
