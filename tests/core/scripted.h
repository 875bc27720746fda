/*
 * scripted.h - two backends for tests of the core, which do what the test says: "script" can do everything,
 * "plain" has no features, checks nothing and needs no touch. One test program includes this once.
 */
#ifndef SCRIPTED_H
#define SCRIPTED_H

#include <pthread.h>
#include <stdlib.h>
#include <string.h>

#include "backend.h"
#include "clock.h"
#include "error.h"
#include "scripted_feed.h"

enum { SCRIPT_WAIT_MS = 20000, SCRIPT_PAYLOAD_MAX = 8 << 20, SCRIPT_CALLS = 65536 };

/* What a call of publish does after it has been recorded; results are STORED before. NULL: nothing more. */
typedef int (*script_answer)(size_t call, const wm_outgoing *out, size_t n, wm_result *results,
                             wm_error *err);

static struct {
  pthread_mutex_t lock; /* guards all */
  pthread_cond_t changed;
  int opened, closed, publish_closed;
  bool inside;     /* publish or publish_close is running */
  bool overlapped; /* two at a time were */
  bool gate;       /* publish waits while it is shut */
  script_answer answer;
  size_t calls;
  size_t sizes[SCRIPT_CALLS]; /* messages, by call */
  int timeout_ms;             /* of the last call */
  pthread_t thread;           /* that made it */
  char key[64], topic[64];    /* of its first message */
  char **stored;              /* payloads, in order */
  size_t n_stored, room;
  char text[16]; /* the option `text`, when it was opened last */
} script = {.lock = PTHREAD_MUTEX_INITIALIZER};

static void script_enter(void) {
  pthread_mutex_lock(&script.lock);
  script.overlapped |= script.inside;
  script.inside = true;
  pthread_mutex_unlock(&script.lock);
}

static void script_leave(void) {
  pthread_mutex_lock(&script.lock);
  script.inside = false;
  pthread_mutex_unlock(&script.lock);
}

static void script_store(const wm_message *msg) {
  if (script.n_stored == script.room) {
    script.room = script.room ? script.room * 2 : 64;
    script.stored = realloc(script.stored, script.room * sizeof *script.stored);
  }
  wm_slice p = wm_message_payload(msg);
  script.stored[script.n_stored++] = strndup(p.data ? p.data : "", p.len < 32 ? p.len : 32);
}

static int script_publish(void *conn, const wm_outgoing *out, size_t n, int timeout_ms,
                          wm_result *results, wm_error *err) {
  (void)conn;
  script_enter();
  pthread_mutex_lock(&script.lock);
  size_t call = script.calls++;
  if (call < SCRIPT_CALLS) script.sizes[call] = n;
  script.timeout_ms = timeout_ms;
  script.thread = pthread_self();
  snprintf(script.topic, sizeof script.topic, "%s", out[0].topic);
  snprintf(script.key, sizeof script.key, "%.*s", (int)out[0].key.len,
           out[0].key.data ? out[0].key.data : "");
  pthread_cond_broadcast(&script.changed);
  while (script.gate)
    pthread_cond_wait(&script.changed, &script.lock);
  script_answer answer = script.answer;
  pthread_mutex_unlock(&script.lock);
  for (size_t i = 0; i < n; i++)
    results[i] = WM_STORED;
  int rc = answer ? answer(call, out, n, results, err) : WM_OK;
  pthread_mutex_lock(&script.lock);
  for (size_t i = 0; i < n; i++)
    if (results[i] == WM_STORED) script_store(out[i].msg);
  pthread_mutex_unlock(&script.lock);
  script_leave();
  return rc;
}

static void script_publish_close(void *conn) {
  (void)conn;
  script_enter();
  pthread_mutex_lock(&script.lock);
  script.publish_closed++;
  pthread_mutex_unlock(&script.lock);
  script_leave();
}

static const wm_option_def script_options[] = {
    {.name = "text", .type = WM_OPT_TEXT, .value = "", .help = "any text"},
    {.name = "wait", .type = WM_OPT_DURATION, .value = "5s", .help = "any time"},
    {0}};

static int script_open(const wm_url *url, const wm_option_value *values, void **conn,
                       wm_error *err) {
  if (strcmp(url->path, "bad") == 0) return wm_fail_with(err, WM_BAD_INPUT, "the path is bad");
  pthread_mutex_lock(&script.lock);
  script.opened++;
  snprintf(script.text, sizeof script.text, "%s", values[0].text);
  pthread_mutex_unlock(&script.lock);
  *conn = &script;
  return WM_OK;
}

static void script_close(void *conn) {
  (void)conn;
  pthread_mutex_lock(&script.lock);
  script.closed++;
  pthread_mutex_unlock(&script.lock);
}

static int script_check(void *conn, const char *topic, const char *group, const wm_message *msg,
                        wm_error *err) {
  (void)conn;
  (void)group;
  if (topic && strchr(topic, '*'))
    return wm_fail_with(err, WM_BAD_INPUT, "the topic '%s' has a '*'", topic);
  if (msg && wm_message_metadata(msg, "bad").data)
    return wm_fail_with(err, WM_BAD_INPUT, "the metadata key 'bad' is bad");
  return WM_OK;
}

static int script_probe(void *conn, wm_probe_fn fn, void *arg, wm_error *err) {
  (void)conn;
  if (script.gate) return wm_fail_with(err, WM_UNREACHABLE, "connection refused");
  fn(arg, "server", "scripted", false);
  return WM_OK;
}

static const char *script_library(void) { return ""; }

#define SCRIPT_MEMBERS                                                                             \
  .options = script_options, .library = script_library, .open = script_open,                       \
  .close = script_close, .publish = script_publish, .publish_close = script_publish_close,         \
  .subscribe = script_subscribe, .fetch = script_fetch, .settle = script_settle,                   \
  .interrupt = script_interrupt, .unsubscribe = script_unsubscribe

static const wm_backend script_backend = {.name = "script",
                                          .schemes = "script",
                                          .features = WM_F_GROUPS | WM_F_ORDERED | WM_F_REPLAY |
                                                      WM_F_FANOUT | WM_F_EXCLUSIVE | WM_F_TX,
                                          .max_payload = SCRIPT_PAYLOAD_MAX,
                                          .check = script_check,
                                          .probe = script_probe,
                                          .touch = script_touch,
                                          SCRIPT_MEMBERS};

static const wm_backend plain_backend = {.name = "plain", .schemes = "plain", SCRIPT_MEMBERS};

/* Forgets what happened; nothing may be open. */
static void script_reset(void) {
  static bool registered;
  if (!registered) {
    registered = wm_backend_register(&script_backend) == WM_OK &&
                 wm_backend_register(&plain_backend) == WM_OK;
    wm_cond_init(&script.changed);
  }
  for (size_t i = 0; i < script.n_stored; i++)
    free(script.stored[i]);
  free(script.stored);
  script.stored = NULL;
  script.n_stored = script.room = script.calls = 0;
  script.opened = script.closed = script.publish_closed = 0;
  script.inside = script.overlapped = script.gate = false;
  script.answer = NULL;
  script_feed_reset();
}

#endif
