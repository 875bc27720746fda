/*
 * dead.c - dead letters: what has failed for good is published to the subscription's dead letter topic, then
 * acked. The settler sends them; how that went is told by a thread of the publisher.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "log.h"
#include "subscription/state.h"

/* How long one publish of a dead letter may take before it counts as failed and is tried again. */
#define DEAD_TIMEOUT_MS 10000
#define NUMBER_TEXT 32

/* The metadata keys (WIRE: poison queue); Watermill's four, then ours. */
enum { REASON, TOPIC, HANDLER, SUBSCRIBER, FIRST, LAST, ATTEMPTS, ERROR, TRACEBACK, KEYS };
static const char *const keys[KEYS] = {
    "reason_poisoned",     "topic_poisoned",      "handler_poisoned",
    "subscriber_poisoned", "_wm_dead_first_time", "_wm_dead_last_time",
    "_wm_dead_attempts",   "_wm_dead_error",      "_wm_dead_traceback"};

typedef struct letter {
  wm_subscription *sub; /* a reference */
  wm_message *msg;      /* a reference; the ledger's own */
} letter;

static wm_slice slice(const char *text) { return (wm_slice){text, text ? strlen(text) : 0}; }

static bool is_ours(wm_slice key) {
  for (int i = 0; i < KEYS; i++)
    if (key.len == strlen(keys[i]) && !memcmp(key.data, keys[i], key.len)) return true;
  return false;
}

/* RFC 3339, ms. */
static void time_text(char out[NUMBER_TEXT], int64_t epoch_ms) {
  time_t seconds = (time_t)(epoch_ms / 1000);
  struct tm tm;
  char text[NUMBER_TEXT];
  gmtime_r(&seconds, &tm);
  strftime(text, sizeof text, "%Y-%m-%dT%H:%M:%S", &tm);
  snprintf(out, NUMBER_TEXT, "%.19s.%03dZ", text, (int)(epoch_ms % 1000));
}

/* Under the lock, as the reasons are. NULL: out of memory. */
static wm_message *make_letter(const wm_subscription *s, const wm_message *msg) {
  char attempts[NUMBER_TEXT], first[NUMBER_TEXT], last[NUMBER_TEXT];
  wm_message *made = NULL;
  wm_pair *pairs = malloc((msg->pairs + KEYS) * sizeof *pairs);
  const char *reason = msg->dead_reason ? msg->dead_reason : "nacked max_attempts times";
  size_t n = 0;
  int64_t epoch = wm_epoch_ms();
  if (!pairs) return NULL;
  for (size_t i = 0; i < msg->pairs; i++)
    if (!is_ours(msg->meta[i].key)) pairs[n++] = msg->meta[i];
  snprintf(attempts, sizeof attempts, "%u", atomic_load(&msg->attempt));
  time_text(first, epoch - (wm_now_ms() - msg->entry.arrived));
  time_text(last, epoch);
  const char *values[KEYS] = {reason, s->topic, s->group ? s->group : "", s->backend->name, first,
                              last,   attempts, msg->dead_reason,         msg->dead_detail};
  for (int i = 0; i < KEYS; i++)
    if (values[i]) pairs[n++] = (wm_pair){slice(keys[i]), slice(values[i])};
  wm_message_make(&made, msg->uuid.data, msg->payload, pairs, n, NULL);
  free(pairs);
  return made;
}

/* From the publisher's thread, or at once from the settler. */
static void done(void *arg, int code, const wm_result *results, size_t n, const wm_error *err) {
  (void)results, (void)n;
  letter *l = arg;
  wm_subscription *s = l->sub;
  bool good = code == WM_OK;
  unsigned attempt = atomic_load(&l->msg->attempt);
  pthread_mutex_lock(&s->lock);
  int64_t now = wm_now_ms();
  int wait = good ? 0 : wm_backoff_ms(s->dead_tries);
  s->dead_tries = good ? 0 : s->dead_tries + 1;
  s->stats.dead += good;
  if (s->ledger) wm_ledger_dead_done(s->ledger, l->msg, good, now + wait, now);
  char *topic = strdup(s->dead_letter ? s->dead_letter : "");
  if (s->ledger) wm_subscription_settled(s, now);
  wm_subscription_wake_settler(s);
  pthread_mutex_unlock(&s->lock);
  if (good)
    wm_log(WM_LOG_WARN, "%s: message %.*s went to dead letter topic '%s' after attempt %u", s->what,
           (int)l->msg->uuid.len, l->msg->uuid.data, topic ? topic : "", attempt);
  else
    wm_log(WM_LOG_ERROR,
           "%s: message %.*s is held, as dead letter topic '%s' did not take it: %s; next try in "
           "%.1f s",
           s->what, (int)l->msg->uuid.len, l->msg->uuid.data, topic ? topic : "",
           err ? err->text : "", wait / 1000.0);
  free(topic);
  wm_message_release(l->msg);
  free(l);
  wm_subscription_unref(s);
}

static int publish(wm_subscription *s, const char *topic, wm_message *made, letter *l,
                   wm_error *err) {
  if (!s->dead_publisher) {
    int code = wm_publisher_open_on(&s->dead_publisher, s->conn, DEAD_TIMEOUT_MS, err);
    if (code != WM_OK) return code;
  }
  return wm_publish_async(s->dead_publisher, topic, &made, 1, done, l, err);
}

bool wm_subscription_send_dead(wm_subscription *s, int64_t now) {
  wm_error err = {.code = WM_NOMEM, .text = "out of memory"};
  wm_message *msg = s->dead_letter ? wm_ledger_take_dead(s->ledger, now) : NULL;
  int code = WM_NOMEM;
  if (!msg) return false;
  wm_message *made = make_letter(s, msg);
  char *topic = strdup(s->dead_letter);
  letter *l = malloc(sizeof *l);
  if (l) {
    *l = (letter){s, wm_message_retain(msg)};
    wm_subscription_ref(s);
  }
  pthread_mutex_unlock(&s->lock);
  if (made && l && topic) code = publish(s, topic, made, l, &err);
  if (code != WM_OK && l) done(l, code, NULL, 0, &err);
  wm_message_release(made);
  free(topic);
  pthread_mutex_lock(&s->lock);
  if (!l) /* looked at again later, like any that failed */
    wm_ledger_dead_done(s->ledger, msg, false, now + DEAD_TIMEOUT_MS, now);
  return true;
}
