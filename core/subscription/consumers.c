/*
 * consumers.c - consumers come, are attached to a subscription, replaced by others, and go. Any thread; the
 * list of a subscription's consumers is under its lock.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/timerfd.h>
#include <unistd.h>

#include "error.h"
#include "subscription/state.h"

static int new_consumer(wm_consumer **out, wm_error *err) {
  wm_consumer *con = calloc(1, sizeof *con);
  if (!con) return wm_fail_with(err, WM_NOMEM, "out of memory for a consumer");
  con->fd = timerfd_create(CLOCK_MONOTONIC, TFD_NONBLOCK | TFD_CLOEXEC);
  if (con->fd < 0) {
    free(con);
    return wm_fail_with(err, WM_NOMEM,
                        "no file descriptor for a consumer: %s; raise the limit (ulimit -n)",
                        strerror(errno));
  }
  pthread_mutex_init(&con->lock, NULL);
  wm_cond_init(&con->attached);
  wm_cond_init(&con->wake);
  con->due = WM_NEVER;
  *out = con;
  return WM_OK;
}

static void free_consumer(wm_consumer *con) {
  close(con->fd);
  pthread_cond_destroy(&con->wake);
  pthread_cond_destroy(&con->attached);
  pthread_mutex_destroy(&con->lock);
  free(con);
}

/* ---- the list; under the subscription's lock ---------------------------------------------- */

static bool listed(const wm_subscription *s, const wm_consumer *con) {
  const wm_consumer *at = s->consumers;
  while (at && at != con)
    at = at->next;
  return at != NULL;
}

static void unlist(wm_subscription *s, const wm_consumer *con) {
  for (wm_consumer **at = &s->consumers; *at; at = &(*at)->next)
    if (*at == con) {
      *at = con->next;
      return;
    }
}

/* It may have stood in wm_next since before there was a subscription. */
static void attach(wm_subscription *s, wm_consumer *con) {
  con->retired = false;
  if (!listed(s, con)) {
    con->next = s->consumers;
    s->consumers = con;
  }
  pthread_mutex_lock(&con->lock);
  if (!atomic_load(&con->sub)) {
    wm_subscription_ref(s);
    atomic_store_explicit(&con->sub, s, memory_order_release);
    pthread_cond_signal(&con->attached);
  }
  pthread_mutex_unlock(&con->lock);
  wm_subscription_rouse(con);
}

/* ---- public ------------------------------------------------------------------------------- */

int wm_consumer_open(wm_consumer **out, wm_subscription *sub, wm_error *err) {
  int code = new_consumer(out, err);
  if (code != WM_OK || !sub) return code;
  pthread_mutex_lock(&sub->lock);
  attach(sub, *out);
  pthread_mutex_unlock(&sub->lock);
  return WM_OK;
}

void wm_consumer_close(wm_consumer *con) {
  if (!con) return;
  wm_subscription *s = atomic_load(&con->sub);
  if (s) {
    pthread_mutex_lock(&s->lock);
    unlist(s, con);
    if (s->ledger) {
      wm_ledger_forget_holder(s->ledger, con);
      wm_subscription_wake(s, wm_now_ms()); /* it may have been woken for what others can do */
    }
    pthread_mutex_unlock(&s->lock);
    wm_subscription_unref(s);
  }
  free_consumer(con);
}

int wm_consumer_fd(const wm_consumer *con) { return con->fd; }

wm_subscription *wm_consumer_subscription(const wm_consumer *con) { return atomic_load(&con->sub); }

static bool among(const wm_consumer *con, wm_consumer *const *cons, size_t n) {
  while (n && cons[n - 1] != con)
    n--;
  return n > 0;
}

int wm_subscription_switch(wm_subscription *s, wm_consumer *const *cons, size_t n, wm_error *err) {
  for (size_t i = 0; i < n; i++) {
    const wm_subscription *of = atomic_load(&cons[i]->sub);
    if (of && of != s)
      return wm_fail_with(
          err, WM_BAD_INPUT,
          "switching %s: consumer %zu belongs to %s; open a new one for each subscription", s->what,
          i + 1, of->what);
  }
  pthread_mutex_lock(&s->lock);
  if (s->closing) {
    pthread_mutex_unlock(&s->lock);
    return wm_fail_with(err, WM_CLOSED, "switching %s: the subscription is closed", s->what);
  }
  for (wm_consumer *con = s->consumers, *next; con; con = next) {
    next = con->next;
    if (among(con, cons, n)) continue;
    con->retired = true;
    unlist(s, con);
    wm_subscription_rouse(con);
  }
  for (size_t i = 0; i < n; i++)
    attach(s, cons[i]);
  s->stats.switches++;
  pthread_mutex_unlock(&s->lock);
  return WM_OK;
}
