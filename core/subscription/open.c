/*
 * open.c - subscriptions come into being and go with their last reference. Any thread.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "check.h"
#include "error.h"
#include "subscription/state.h"
#include "thread.h"

/* What a subscription that could not be opened in time gets to end. */
#define GIVE_UP_MS 0

/* ---- references --------------------------------------------------------------------------- */

void wm_subscription_ref(wm_subscription *s) {
  atomic_fetch_add_explicit(&s->refs, 1, memory_order_relaxed);
}

static void free_subscription(wm_subscription *s) {
  wm_settings_clear(&s->settings);
  wm_ledger_free(s->ledger);
  pthread_cond_destroy(&s->settle_wake);
  pthread_cond_destroy(&s->fetch_wake);
  pthread_cond_destroy(&s->opened);
  pthread_mutex_destroy(&s->lock);
  free(s->dead_letter);
  free(s->what);
  free(s->from);
  free(s->group);
  free(s->topic);
  free(s->url);
  free(s);
}

void wm_subscription_unref(wm_subscription *s) {
  if (atomic_fetch_sub_explicit(&s->refs, 1, memory_order_acq_rel) == 1) free_subscription(s);
}

/* ---- options ------------------------------------------------------------------------------ */

static const char *text_or_null(const wm_option_value *value) {
  return value->text && *value->text ? value->text : NULL;
}

static wm_ledger_config ledger_config(const wm_option_value *v) {
  return (wm_ledger_config){
      .max_in_flight = (size_t)v[WM_SUB_MAX_IN_FLIGHT].number,
      .batch = (size_t)v[WM_SUB_BATCH].number,
      .batch_wait = v[WM_SUB_BATCH_WAIT].number,
      .ordered = v[WM_SUB_ORDERED].number,
      .order_by = text_or_null(&v[WM_SUB_ORDER_BY]),
      .max_attempts = (unsigned)v[WM_SUB_MAX_ATTEMPTS].number,
      .can_bury = text_or_null(&v[WM_SUB_DEAD_LETTER]) != NULL,
      .prefetch = (size_t)v[WM_SUB_PREFETCH].number,
      .prefetch_bytes = (size_t)v[WM_SUB_PREFETCH_BYTES].number,
  };
}

int wm_subscription_apply(wm_subscription *s, const wm_settings *settings) {
  const wm_option_value *v = settings->values;
  const char *topic = text_or_null(&v[WM_SUB_DEAD_LETTER]);
  char *dead_letter = topic ? strdup(topic) : NULL;
  wm_ledger_config config = ledger_config(v);
  if (topic && !dead_letter) return WM_NOMEM;
  if (!s->ledger && !(s->ledger = wm_ledger_new(&config))) goto fail;
  if (wm_ledger_configure(s->ledger, &config) != WM_OK) goto fail;
  /* Letters under way still need the topic that they were meant for. */
  if (dead_letter) {
    free(s->dead_letter);
    s->dead_letter = dead_letter;
  }
  s->on_undecodable = (int)v[WM_SUB_ON_UNDECODABLE].number;
  s->stall = v[WM_SUB_STALL_WARNING].number;
  s->close_timeout = v[WM_SUB_CLOSE_TIMEOUT].number;
  return WM_OK;
fail:
  free(dead_letter);
  return WM_NOMEM;
}

/* Options that say where messages come from: another value needs another subscription. */
static int refuse_changes(const wm_subscription *s, const wm_settings *settings, wm_error *err) {
  static const int fixed[] = {WM_SUB_GROUP, WM_SUB_EXCLUSIVE, WM_SUB_TAKEOVER, WM_SUB_TX};
  for (size_t i = 0; i < sizeof fixed / sizeof *fixed; i++) {
    const wm_option_value *was = &s->settings.values[fixed[i]], *is = &settings->values[fixed[i]];
    if (was->number == is->number && !strcmp(was->text ? was->text : "", is->text ? is->text : ""))
      continue;
    return wm_fail_with(
        err, WM_BAD_INPUT,
        "%s: option '%s' cannot be changed from '%s' to '%s' while the subscription is open; "
        "close it and subscribe again",
        s->what, wm_subscription_options[fixed[i]].name, was->text, is->text);
  }
  return WM_OK;
}

int wm_subscription_configure(wm_subscription *s, const wm_options *opts, wm_error *err) {
  wm_settings next = {0};
  pthread_mutex_lock(&s->lock);
  wm_connection *conn = s->ledger ? wm_connection_retain(s->conn) : NULL; /* closing lets it go */
  pthread_mutex_unlock(&s->lock);
  if (!conn) return wm_fail_with(err, WM_CLOSED, "%s: the subscription is closed", s->what);
  int code = wm_settings_resolve(&next, s->url, opts, wm_subscription_options, err);
  if (code == WM_OK) code = wm_check_subscription(conn, s->topic, &next, err);
  if (code != WM_OK) goto done;
  pthread_mutex_lock(&s->lock);
  if (s->closing)
    code = wm_fail_with(err, WM_CLOSED, "%s: the subscription is closed", s->what);
  else if ((code = refuse_changes(s, &next, err)) == WM_OK &&
           (code = wm_subscription_apply(s, &next)) != WM_OK)
    wm_fail_with(err, code, "%s: out of memory", s->what);
  if (code == WM_OK) {
    wm_settings was = s->settings;
    s->settings = next;
    next = was;
    wm_subscription_settled(s, wm_now_ms()); /* there may be room, or something that may go */
  }
  pthread_mutex_unlock(&s->lock);
done:
  wm_settings_clear(&next);
  wm_connection_release(conn);
  return code;
}

/* ---- opening ------------------------------------------------------------------------------ */

static void name_member(char *out, size_t room) {
  char host[64] = "";
  gethostname(host, sizeof host - 1);
  snprintf(out, room, "%s-%ld-%08x", host, (long)getpid(), (unsigned)wm_random());
}

static char *copy_text(const char *text, bool *failed) {
  char *copy = text ? strdup(text) : NULL;
  *failed = *failed || (text && !copy);
  return copy;
}

static char *describe(const char *topic, const char *group) {
  char *what;
  int n = group ? asprintf(&what, "topic '%s', group '%s'", topic, group)
                : asprintf(&what, "topic '%s'", topic);
  return n < 0 ? NULL : what;
}

/* It is held for moments only, so that spinning for it beats sleeping. */
static void init_lock(pthread_mutex_t *lock) {
  pthread_mutexattr_t attr;
  pthread_mutexattr_init(&attr);
  pthread_mutexattr_settype(&attr, PTHREAD_MUTEX_ADAPTIVE_NP);
  pthread_mutex_init(lock, &attr);
  pthread_mutexattr_destroy(&attr);
}

/* Everything but threads. The connection is the subscription's from here on, also on failure. */
static wm_subscription *new_subscription(const char *url, const char *topic, wm_connection *conn,
                                         wm_settings *settings) {
  wm_subscription *s = calloc(1, sizeof *s);
  bool failed = false;
  if (!s) {
    wm_settings_clear(settings);
    return NULL;
  }
  const wm_option_value *v = settings->values;
  atomic_store(&s->refs, 1);
  init_lock(&s->lock);
  wm_cond_init(&s->opened);
  wm_cond_init(&s->fetch_wake);
  wm_cond_init(&s->settle_wake);
  s->conn = conn;
  s->backend = conn->backend;
  s->settings = *settings;
  s->url = copy_text(url, &failed);
  s->topic = copy_text(topic, &failed);
  s->group = copy_text(text_or_null(&v[WM_SUB_GROUP]), &failed);
  s->from = copy_text(text_or_null(&v[WM_SUB_FROM]), &failed);
  s->what = describe(topic, s->group);
  s->takeover = v[WM_SUB_TAKEOVER].number;
  s->touch_at = wm_now_ms();
  name_member(s->member, sizeof s->member);
  if (!failed && s->what && wm_subscription_apply(s, &s->settings) == WM_OK) return s;
  free_subscription(s);
  return NULL;
}

static int start_threads(wm_subscription *s) {
  wm_subscription_ref(s);
  if (wm_thread_start(NULL, "wm-settle", wm_subscription_settler, s) != WM_OK) {
    wm_subscription_unref(s);
    wm_connection_release(s->conn);
    wm_subscription_unref(s);
    return WM_NOMEM;
  }
  wm_subscription_ref(s);
  if (wm_thread_start(NULL, "wm-fetch", wm_subscription_fetcher, s) == WM_OK) return WM_OK;
  pthread_mutex_lock(&s->lock);
  s->fetch_done = true;
  s->open_cb = NULL;
  pthread_mutex_unlock(&s->lock);
  wm_subscription_unref(s);
  wm_subscription_close_async(s, GIVE_UP_MS, NULL, NULL);
  return WM_NOMEM;
}

int wm_subscribe_async(wm_subscription **out, const char *url, const char *topic,
                       const wm_options *opts, wm_done_cb cb, void *arg, wm_error *err) {
  wm_settings settings = {0};
  wm_connection *conn;
  int code = wm_connection_open(&conn, url, opts, wm_subscription_options, &settings, err);
  if (code != WM_OK) return code;
  code = wm_check_subscription(conn, topic, &settings, err);
  if (code != WM_OK) {
    wm_settings_clear(&settings);
    wm_connection_release(conn);
    return code;
  }
  wm_subscription *s = new_subscription(url, topic, conn, &settings);
  if (!s) {
    wm_connection_release(conn);
    return wm_fail_with(err, WM_NOMEM, "subscribing to '%s': out of memory", topic);
  }
  s->open_cb = cb;
  s->open_arg = arg;
  *out = s; /* before cb may be called */
  if (start_threads(s) != WM_OK)
    return wm_fail_with(
        err, WM_NOMEM,
        "subscribing to '%s': no thread could be started; raise the limit (ulimit -u)", topic);
  return WM_OK;
}

const char *wm_subscription_open_cause(const wm_subscription *s) {
  return *s->open_error.text ? s->open_error.text : "the broker has not answered yet";
}

/* Waits until the group exists or never will; WM_TIMEOUT: neither, within the time. */
static int wait_opened(wm_subscription *s, int64_t ms, wm_error *err) {
  int64_t until = wm_now_ms() + ms;
  pthread_mutex_lock(&s->lock);
  while (s->opening == OPENING && wm_cond_wait_until(&s->opened, &s->lock, until)) {
  }
  int code = s->opening == OPEN ? WM_OK : s->opening == FAILED ? s->open_error.code : WM_TIMEOUT;
  if (code == WM_TIMEOUT)
    code = wm_fail_with(
        err, WM_UNREACHABLE, "%s: subscribing to %s: not within %.1f s (connect_timeout): %s",
        s->conn->masked, s->what, (double)ms / 1000.0, wm_subscription_open_cause(s));
  else if (code != WM_OK && err)
    *err = s->open_error;
  pthread_mutex_unlock(&s->lock);
  return code;
}

int wm_subscribe(wm_subscription **out, const char *url, const char *topic, const wm_options *opts,
                 wm_error *err) {
  wm_subscription *s;
  int code = wm_subscribe_async(&s, url, topic, opts, NULL, NULL, err);
  if (code != WM_OK) return code;
  code = wait_opened(s, s->settings.values[WM_SUB_CONNECT_TIMEOUT].number, err);
  if (code == WM_OK)
    *out = s;
  else
    wm_subscription_close_async(s, GIVE_UP_MS, NULL, NULL);
  return code;
}

/* ---- looking ------------------------------------------------------------------------------ */

const char *wm_subscription_topic(const wm_subscription *s) { return s->topic; }

const char *wm_subscription_group(const wm_subscription *s) { return s->group ? s->group : ""; }

void wm_subscription_get_stats(wm_subscription *s, wm_subscription_stats *out) {
  wm_ledger_counts counts = {0};
  pthread_mutex_lock(&s->lock);
  *out = s->stats;
  if (s->ledger) {
    wm_ledger_count(s->ledger, &counts);
    out->unsettled = wm_ledger_unsettled(s->ledger);
  }
  pthread_mutex_unlock(&s->lock);
  out->waiting = counts.waiting;
  out->in_flight = counts.in_hand;
  out->delayed = counts.delayed;
  out->bytes = counts.bytes;
  out->window = counts.window;
}
