/*
 * backend.c - the memory broker: the contract's struct, options, opening and probing. Its topics live
 * on the connection, which the core shares: who opens the same URL in this process meets there.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "error.h"
#include "memory.h"

enum { OPT_RETAIN, OPT_CAPACITY };

static const wm_option_def options[] = {
    [OPT_RETAIN] = {.name = "retain",
                    .type = WM_OPT_TEXT,
                    .value = "acked",
                    .help = "how long messages are kept: acked = until every group has acked them "
                            "(all of them until the first group exists), all = for ever, or a "
                            "duration: what is older is dropped, acked or not"},
    [OPT_CAPACITY] = {.name = "capacity",
                      .type = WM_OPT_SIZE,
                      .value = "0",
                      .help =
                          "bytes that one topic keeps; publishing to a full one waits for room, "
                          "and all that is published through the same URL behind it, until the "
                          "publisher's timeout is over; 0 = no limit but the machine's memory"},
    {0}};

static const char *library(void) { return ""; }

static int parse_retain(const char *text, wm_memory *m, wm_error *err) {
  m->retain = WM_MEMORY_RETAIN_ACKED;
  if (!text || !*text || strcmp(text, "acked") == 0) return WM_OK;
  m->retain = WM_MEMORY_RETAIN_ALL;
  if (strcmp(text, "all") == 0) return WM_OK;
  m->retain = WM_MEMORY_RETAIN_TIME;
  if (wm_parse_duration(text, &m->keep_ms) == WM_OK && m->keep_ms > 0) return WM_OK;
  return wm_fail_with(err, WM_BAD_INPUT,
                      "option 'retain': acked, all or a duration (90, 30s, 5m, 2h) expected, got "
                      "'%s'",
                      text);
}

static int open_memory(const wm_url *url, const wm_option_value *values, void **conn,
                       wm_error *err) {
  const wm_host *host = url->n_hosts ? &url->hosts[0] : NULL;
  if (url->has_user || url->n_hosts > 1 || (host && (*host->name || host->port)))
    return wm_fail_with(err, WM_BAD_INPUT,
                        "memory: there is no server to name; the URL is memory: or, for one of "
                        "several brokers in this process, memory:NAME");
  wm_memory *m = calloc(1, sizeof *m);
  if (!m) return wm_fail_with(err, WM_NOMEM, "out of memory");
  int rc = parse_retain(values[OPT_RETAIN].text, m, err);
  if (rc != WM_OK) {
    free(m);
    return rc;
  }
  m->name = url->path;
  m->capacity = (size_t)values[OPT_CAPACITY].number;
  pthread_mutex_init(&m->lock, NULL);
  *conn = m;
  return WM_OK;
}

static void close_memory(void *conn) {
  wm_memory *m = conn;
  for (size_t i = 0; i < m->n_topics; i++)
    wm_memory_topic_free(m->topics[i]);
  free(m->topics);
  pthread_mutex_destroy(&m->lock);
  free(m);
}

static void tell_kept(wm_memory *m, wm_probe_fn fn, void *arg) {
  char text[160];
  size_t messages = 0, bytes = 0;
  pthread_mutex_lock(&m->lock);
  for (size_t i = 0; i < m->n_topics; i++) {
    wm_memory_topic *t = m->topics[i];
    wm_memory_topic_lock(t);
    messages += t->count;
    bytes += t->bytes;
    pthread_mutex_unlock(&t->lock);
  }
  snprintf(text, sizeof text, "%zu messages, %zu bytes, in %zu topics", messages, bytes,
           m->n_topics);
  pthread_mutex_unlock(&m->lock);
  fn(arg, "kept", text, false);
}

static int probe(void *conn, wm_probe_fn fn, void *arg, wm_error *err) {
  wm_memory *m = conn;
  char text[160];
  (void)err;
  snprintf(text, sizeof text, "in this process%s%.100s", *m->name ? ", named " : "", m->name);
  fn(arg, "server", text, false);
  fn(arg, "durability", "in memory: nothing survives the end of the process", false);
  if (m->capacity)
    snprintf(text, sizeof text, "%zu bytes a topic", m->capacity);
  else
    snprintf(text, sizeof text, "none but memory (capacity=0)");
  fn(arg, "limit", text, false);
  tell_kept(m, fn, arg);
  return WM_OK;
}

const wm_backend wm_backend_memory = {
    .name = "memory",
    .schemes = "memory",
    .features = WM_F_GROUPS | WM_F_ORDERED | WM_F_REPLAY | WM_F_FANOUT | WM_F_EXCLUSIVE,
    .attempt = WM_ATTEMPT_NONE,
    .give_back = WM_GIVE_BACK_AT_ONCE,
    .options = options,
    .library = library,
    .open = open_memory,
    .close = close_memory,
    .probe = probe,
    .publish = wm_memory_publish,
    .subscribe = wm_memory_subscribe,
    .fetch = wm_memory_fetch,
    .settle = wm_memory_settle,
    .interrupt = wm_memory_interrupt,
    .unsubscribe = wm_memory_unsubscribe,
};
