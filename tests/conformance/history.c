/*
 * history.c - a growing array of events under one lock, or a file opened with O_APPEND.
 */
#include "history.h"

#include <fcntl.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

struct history {
  int fd;               /* of a child's file, else -1 */
  pthread_mutex_t lock; /* guards all below */
  history_event *events;
  size_t n, room;
};

static const char *const names[] = {
    [H_PUBLISH] = "publish",         [H_CONFIRMED] = "confirmed", [H_FAILED] = "failed",
    [H_UNKNOWN] = "unknown",         [H_DELIVERED] = "delivered", [H_ACK] = "ack",
    [H_NACK] = "nack",               [H_REJECTED] = "rejected",   [H_CORRUPT] = "corrupt",
    [H_SUBSCRIBING] = "subscribing", [H_SUBSCRIBED] = "subscribed", [H_FLUSHED] = "flushed",
    [H_CLOSED] = "closed",           [H_KILLED] = "killed",       [H_PAUSED] = "paused",
    [H_RESUMED] = "resumed",         [H_LIMIT] = "limit",         [H_OUTAGE] = "outage",
    [H_RESTORED] = "restored",       [H_WIPED] = "wiped",         [H_END] = "end"};

const char *history_kind_name(uint32_t kind) {
  return kind < sizeof names / sizeof *names && names[kind] ? names[kind] : "?";
}

int64_t history_now(void) {
  struct timespec ts;
  clock_gettime(CLOCK_MONOTONIC, &ts);
  return ts.tv_sec * INT64_C(1000000000) + ts.tv_nsec;
}

history *history_new(void) {
  history *h = calloc(1, sizeof *h);
  if (!h) abort();
  h->fd = -1;
  pthread_mutex_init(&h->lock, NULL);
  return h;
}

history *history_open(const char *path) {
  int fd = open(path, O_WRONLY | O_APPEND | O_CREAT | O_CLOEXEC, 0600);
  if (fd < 0) return NULL;
  history *h = history_new();
  h->fd = fd;
  return h;
}

void history_free(history *h) {
  if (!h) return;
  if (h->fd >= 0) close(h->fd);
  pthread_mutex_destroy(&h->lock);
  free(h->events);
  free(h);
}

static void append(history *h, const history_event *events, size_t n) {
  if (h->n + n > h->room) {
    h->room = h->room * 2 + n + 1024;
    h->events = realloc(h->events, h->room * sizeof *h->events);
    if (!h->events) abort();
  }
  memcpy(h->events + h->n, events, n * sizeof *events);
  h->n += n;
}

void history_add_all(history *h, history_event *events, size_t n) {
  pthread_mutex_lock(&h->lock);
  int64_t now = history_now(); /* under the lock: the array is in order of time */
  for (size_t i = 0; i < n; i++)
    if (!events[i].time) events[i].time = now;
  if (h->fd < 0)
    append(h, events, n);
  else if (write(h->fd, events, n * sizeof *events) < 0)
    abort();
  pthread_mutex_unlock(&h->lock);
}

void history_add(history *h, const history_event *event) {
  history_event copy = *event;
  history_add_all(h, &copy, 1);
}

size_t history_merge(history *h, const char *path, int64_t *offset,
                     void (*seen)(void *arg, const history_event *event), void *arg) {
  enum { AT_ONCE = 256 };
  history_event events[AT_ONCE];
  size_t total = 0;
  int fd = open(path, O_RDONLY | O_CLOEXEC);
  if (fd < 0) return 0;
  for (;;) {
    ssize_t got = pread(fd, events, sizeof events, *offset);
    size_t n = got > 0 ? (size_t)got / sizeof *events : 0;
    if (n == 0) break;
    *offset += (int64_t)(n * sizeof *events);
    total += n;
    for (size_t i = 0; seen && i < n; i++)
      seen(arg, &events[i]);
    pthread_mutex_lock(&h->lock);
    append(h, events, n);
    pthread_mutex_unlock(&h->lock);
  }
  close(fd);
  return total;
}

/* Events of one time keep the order they were appended in. */
typedef struct numbered {
  history_event event;
  size_t index;
} numbered;

static int by_time(const void *a, const void *b) {
  const numbered *x = a, *y = b;
  if (x->event.time != y->event.time) return x->event.time < y->event.time ? -1 : 1;
  return x->index < y->index ? -1 : x->index > y->index;
}

history_event *history_take(history *h, size_t *n) {
  pthread_mutex_lock(&h->lock);
  *n = h->n;
  numbered *sorted = malloc((h->n + 1) * sizeof *sorted);
  history_event *out = malloc((h->n + 1) * sizeof *out);
  if (!sorted || !out) abort();
  for (size_t i = 0; i < h->n; i++)
    sorted[i] = (numbered){h->events[i], i};
  pthread_mutex_unlock(&h->lock);
  qsort(sorted, *n, sizeof *sorted, by_time);
  for (size_t i = 0; i < *n; i++)
    out[i] = sorted[i].event;
  free(sorted);
  return out;
}

bool history_save(history *h, const char *path) {
  FILE *f = fopen(path, "w");
  if (!f) return false;
  size_t n;
  history_event *events = history_take(h, &n);
  fprintf(f, "# ms event topic group consumer uuid attempt publisher/seq key value\n");
  for (size_t i = 0; i < n; i++) {
    const history_event *e = &events[i];
    fprintf(f, "%.3f %s t%u g%u c%u %s a%u p%u/%u k%u %lld\n", (double)(e->time - events[0].time) / 1e6,
            history_kind_name(e->kind), e->topic, e->group, e->consumer, e->uuid[0] ? e->uuid : "-",
            e->attempt, e->publisher, e->seq, e->key, (long long)e->value);
  }
  free(events);
  return fclose(f) == 0;
}
