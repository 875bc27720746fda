/*
 * harness.c - failing, waiting, topics and groups.
 */
#include "harness.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

enum { EXIT_FAILED = 1, EXIT_SKIPPED = 77, POLL_MS = 2 };

#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
#define SLOW 4
#elif defined(__has_feature)
#if __has_feature(address_sanitizer) || __has_feature(thread_sanitizer)
#define SLOW 4
#endif
#endif
#ifndef SLOW
#define SLOW 1
#endif

int64_t now_ms(void) { return history_now() / 1000000; }

void sleep_ms(int ms) {
  struct timespec ts = {ms / 1000, ms % 1000 * 1000000L};
  while (nanosleep(&ts, &ts) != 0) {
  }
}

int stretch(int ms) {
  const char *slow = getenv("WM_TEST_SLOW");
  int factor = slow ? atoi(slow) : 1;
  return ms * SLOW * (factor > 1 ? factor : 1);
}

size_t short_count(size_t n, size_t least) {
  const char *value = getenv("WM_TEST_SHORT");
  if (!value || strcmp(value, "0") == 0 || !*value) return n;
  return n / 10 > least ? n / 10 : least < n ? least : n;
}

unsigned test_random(test *t, unsigned below) { /* xorshift: the seed is all there is to know */
  t->seed ^= t->seed << 13;
  t->seed ^= t->seed >> 7;
  t->seed ^= t->seed << 17;
  return (unsigned)(t->seed >> 16) % below;
}

void test_fail(test *t, const char *format, ...) {
  static atomic_flag once = ATOMIC_FLAG_INIT;
  if (atomic_flag_test_and_set(&once))
    for (;;)
      pause(); /* another thread is reporting */
  char path[512];
  va_list args;
  va_start(args, format);
  printf("failed: ");
  vprintf(format, args);
  printf("\n");
  va_end(args);
  for (group *g = t->all_groups; g; g = g->next)
    printf("  group %u of topic %s: %zu deliveries, %zu messages, %zu acked\n", g->id, g->topic.name,
           g->deliveries, g->delivered, g->acked);
  children_stop(t);
  history_add(t->h, &(history_event){.kind = H_END});
  checker_report report;
  checker_run(t->h, &t->rules, &report);
  for (size_t i = 0; i < report.n_texts; i++)
    printf("  %s\n", report.text[i]);
  fflush(stdout);
  snprintf(path, sizeof path, "%s/history", t->dir ? t->dir : ".");
  if (t->dir) history_save(t->h, path);
  broker_stop(t->own);
  _exit(EXIT_FAILED);
}

void test_fail_at(test *t, const char *file, int line, const char *expression, const char *format, ...) {
  char text[2048];
  const char *slash = strrchr(file, '/');
  va_list args;
  va_start(args, format);
  vsnprintf(text, sizeof text, format, args);
  va_end(args);
  test_fail(t, "%s:%d: %s: %s", slash ? slash + 1 : file, line, expression, text);
}

void test_skip(test *t, const char *format, ...) {
  va_list args;
  va_start(args, format);
  printf("skipped: ");
  vprintf(format, args);
  printf("\n");
  va_end(args);
  fflush(stdout);
  children_stop(t);
  broker_stop(t->own);
  _exit(EXIT_SKIPPED);
}

void wait_until(test *t, int ms, bool (*condition)(void *arg), void *arg, const char *what) {
  int64_t until = now_ms() + stretch(ms);
  while (!condition(arg)) {
    if (now_ms() > until) test_fail(t, "not within %d ms: %s", stretch(ms), what);
    children_poll(t);
    sleep_ms(POLL_MS);
  }
}

/* ---- topics and groups ------------------------------------------------------------------------------------ */

topic topic_new(test *t) {
  topic topic = {.id = atomic_fetch_add(&t->topics, 1) + 1};
  char uuid[WM_UUID_SIZE];
  wm_uuid(uuid);
  snprintf(topic.name, sizeof topic.name, "%.20s_%u_%.8s", t->def->name, topic.id, uuid);
  return topic;
}

static group *add_group(test *t, const topic *topic, const char *name, const char *from) {
  group *g = calloc(1, sizeof *g);
  if (!g) abort();
  g->id = atomic_fetch_add(&t->groups, 1) + 1;
  g->topic = *topic;
  g->from = from;
  if (name) snprintf(g->name, sizeof g->name, "%s%u", name, g->id);
  pthread_mutex_init(&g->lock, NULL);
  pthread_mutex_lock(&t->lock);
  g->next = t->all_groups;
  t->all_groups = g;
  pthread_mutex_unlock(&t->lock);
  return g;
}

group *group_new(test *t, const topic *topic, const char *from) { return add_group(t, topic, "group", from); }

group *group_none(test *t, const topic *topic) { return add_group(t, topic, NULL, NULL); }

enum { DELIVERED_BIT = 1, ACKED_BIT = 2, CONFIRMED_BIT = 4 };

void group_note(group *g, const history_event *event) {
  size_t n = event->seq;
  pthread_mutex_lock(&g->lock);
  if (n >= g->room) {
    size_t room = n * 2 + 1024;
    g->bits = realloc(g->bits, room);
    if (!g->bits) abort();
    memset(g->bits + g->room, 0, room - g->room);
    g->room = room;
  }
  if (event->kind == H_DELIVERED) {
    g->deliveries++;
    g->delivered += !(g->bits[n] & DELIVERED_BIT);
    g->bits[n] |= DELIVERED_BIT;
    g->last = now_ms();
  } else if (event->kind == H_ACK) {
    g->acked += !(g->bits[n] & ACKED_BIT);
    g->owed -= (g->bits[n] & (ACKED_BIT | CONFIRMED_BIT)) == CONFIRMED_BIT;
    g->bits[n] |= ACKED_BIT;
  } else if (event->kind == H_CONFIRMED) {
    g->confirmed++;
    g->owed += !(g->bits[n] & ACKED_BIT);
    g->bits[n] |= CONFIRMED_BIT;
  }
  pthread_mutex_unlock(&g->lock);
}

static size_t read_count(group *g, const size_t *count) {
  pthread_mutex_lock(&g->lock);
  size_t n = *count;
  pthread_mutex_unlock(&g->lock);
  return n;
}

size_t group_acked(group *g) { return read_count(g, &g->acked); }
size_t group_delivered(group *g) { return read_count(g, &g->delivered); }
size_t group_deliveries(group *g) { return read_count(g, &g->deliveries); }

static void wait_count(group *g, test *t, const size_t *count, size_t n, bool at_least, int ms, const char *what) {
  int64_t started = now_ms();
  while (at_least ? read_count(g, count) < n : read_count(g, count) > n) {
    pthread_mutex_lock(&g->lock);
    int64_t since = g->last > started ? g->last : started;
    pthread_mutex_unlock(&g->lock);
    if (now_ms() - since > stretch(ms))
      test_fail(t, "nothing came to group %u of topic %s for %d ms; %zu messages were %s, %zu are expected", g->id,
                g->topic.name, stretch(ms), read_count(g, count), what, n);
    children_poll(t);
    sleep_ms(POLL_MS);
  }
}

void group_wait_acked(group *g, test *t, size_t n, int ms) { wait_count(g, t, &g->acked, n, true, ms, "acked"); }

void group_wait_delivered(group *g, test *t, size_t n, int ms) {
  wait_count(g, t, &g->delivered, n, true, ms, "delivered");
}

void group_wait_confirmed(group *g, test *t, int ms) {
  wait_count(g, t, &g->owed, 0, false, ms, "confirmed and not acked");
}

/* ---- outages ------------------------------------------------------------------------------------------------ */

void broker_outage(test *t) {
  char why[BROKER_WHY];
  history_add(t->h, &(history_event){.kind = H_OUTAGE});
  broker_kill(t->own);
  if (!broker_restart(t->own, why)) test_fail(t, "the broker did not come back: %s", why);
  history_add(t->h, &(history_event){.kind = H_RESTORED});
}
