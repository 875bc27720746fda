/*
 * registry_join.c - how a state joins a subscription and leaves it. The thread of the state, but
 * for members that leave later.
 */
#include <stdlib.h>
#include <string.h>

#include "clock.h"
#include "error.h"
#include "options.h"
#include "registry_state.h"

/* ---- joining -------------------------------------------------------------------------------- */

static wm_entry *find(wm_registry *r, const wm_holder *h, const wm_subscription_key *key,
                      int worker) {
  for (wm_entry *e = r->entries; e; e = e->next) {
    if (e->script != h->script || e->state == CLOSING || e->state == FAILED || e->worker != worker)
      continue;
    if (!wm_subscription_key_same(&e->key, key)) continue;
    /* Two subscriptions without a group are two, also in one worker. */
    if (worker && wm_entry_has(e, h)) continue;
    return e;
  }
  return NULL;
}

static int refuse(const wm_entry *e, wm_error *err) {
  return wm_fail_with(
      err, WM_BAD_INPUT,
      "topic '%s', group '%s' is subscribed to at %s with other options; equal ones share a "
      "subscription, so give them the same options or another group",
      e->key.topic, e->key.group, e->where);
}

/* Puts the options that h wants where they belong. */
static int note_options(wm_entry *e, const wm_holder *h, const wm_options *opts, const char *where,
                        wm_error *err) {
  bool loading = h->phase == PHASE_LOADING;
  wm_options **place = loading ? &e->next_opts : &e->opts;
  if (*place && wm_entry_has(e, h)) return wm_options_same(*place, opts) ? WM_OK : refuse(e, err);
  wm_options *copy = wm_options_copy(opts);
  char *at = strdup(where);
  if (!copy || !at) {
    wm_options_free(copy);
    free(at);
    return wm_fail_with(err, WM_NOMEM, "out of memory");
  }
  wm_options_free(*place);
  *place = copy;
  free(e->where);
  e->where = at;
  return WM_OK;
}

/* A live generation gets what it asks for at once: opens, or takes over from an old one. */
static int join_live(wm_entry *e, wm_holder *h, wm_error *err) {
  int code = WM_OK;
  if (e->state == WANTED)
    code = wm_entry_open(e, err);
  else if (e->owner != h)
    code = wm_subscription_configure(e->sub, e->opts, err);
  return code == WM_OK ? wm_entry_attach(e, h, err) : code;
}

static int join(wm_registry *r, wm_holder *h, int worker, const wm_subscription_key *key,
                const wm_options *opts, const char *where, wm_member *m, wm_calls *c,
                wm_error *err) {
  int lane = *key->group ? 0 : worker;
  wm_entry *e = find(r, h, key, lane);
  bool fresh = !e;
  if (!e && !(e = wm_entry_new(r, h, key, lane)))
    return wm_fail_with(err, WM_NOMEM, "out of memory");
  int code = note_options(e, h, opts, where, err);
  if (code == WM_OK) code = wm_consumer_open(&m->con, NULL, err);
  if (code == WM_OK) {
    m->next = e->members;
    e->members = m;
    if (h->phase == PHASE_LIVE) code = join_live(e, h, err);
    if (code != WM_OK) {
      e->members = m->next;
      wm_consumer_close(m->con);
    }
  }
  if (code == WM_OK && h->phase == PHASE_LIVE && e->state == OPEN)
    wm_calls_add(c, &m->open, WM_OK, NULL);
  if (code != WM_OK && fresh) wm_entry_close(e, 0, c);
  return code;
}

/* For a generation that ends, or failed while another of its workers was still loading: one that
 * never gets anything. */
static int give_dormant(wm_member *m, const char *topic, wm_calls *c, wm_error *err) {
  wm_error ended;
  int code = wm_consumer_open(&m->con, NULL, err);
  if (code != WM_OK) return code;
  wm_fail_with(&ended, WM_CLOSED, "subscribing to '%s': this generation of the script has ended",
               topic);
  wm_calls_add(c, &m->open, WM_CLOSED, &ended);
  return WM_OK;
}

int wm_registry_subscribe(wm_registry *r, wm_holder *h, int worker, const char *url,
                          const char *topic, const wm_options *opts, const char *where,
                          wm_consumer **con, wm_done_cb cb, void *cb_arg, wm_error *err) {
  wm_subscription_key key;
  wm_calls c = {0};
  int code = wm_check(url, topic, opts, false, err);
  if (code == WM_OK) code = wm_subscription_key_make(&key, url, topic, opts, err);
  if (code != WM_OK) return code;
  wm_member *m = calloc(1, sizeof *m);
  if (!m) {
    wm_subscription_key_clear(&key);
    return wm_fail_with(err, WM_NOMEM, "out of memory");
  }
  *m = (wm_member){.holder = h, .worker = worker, .open = {cb, cb_arg}};
  pthread_mutex_lock(&r->lock);
  bool joins = h->phase == PHASE_LOADING || h->phase == PHASE_LIVE;
  if (joins)
    code = join(r, h, worker, &key, opts, where, m, &c, err);
  else
    code = give_dormant(m, topic, &c, err);
  if (code == WM_OK) *con = m->con; /* before the end is told */
  if (code != WM_OK || !joins) free(m);
  wm_registry_unlock(r, &c);
  wm_subscription_key_clear(&key);
  return code;
}

/* ---- leaving -------------------------------------------------------------------------------- */

static wm_entry *entry_of(wm_registry *r, const wm_consumer *con, wm_member **out) {
  for (wm_entry *e = r->entries; e; e = e->next)
    for (wm_member *m = e->members; m; m = m->next)
      if (m->con == con) {
        *out = m;
        return e;
      }
  return NULL;
}

static void wm_member_remove(wm_entry *e, wm_member *m) {
  wm_member **at = &e->members;
  while (*at != m)
    at = &(*at)->next;
  *at = m->next;
  free(m);
}

static int default_close_timeout(void) {
  const wm_option_def *def = &wm_subscription_options[WM_SUB_CLOSE_TIMEOUT];
  int64_t ms = 0;
  wm_parse_duration(def->value, &ms);
  return (int)ms;
}

/* It leaves while others stay, or after its generation was replaced: what it has in hand gets its
 * time. */
static void begin_leaving(wm_entry *e, wm_member *m, wm_pending p, int timeout_ms) {
  wm_error ignored;
  m->leaving = true;
  m->leave = p;
  m->leave_until = wm_now_ms() + (timeout_ms < 0 ? default_close_timeout() : timeout_ms);
  if (e->sub && e->owner == m->holder) wm_entry_attach(e, e->owner, &ignored);
}

bool wm_member_leaves(wm_entry *e, wm_member *m, int64_t now, wm_calls *c) {
  bool late = now >= m->leave_until;
  size_t in_hand = wm_consumer_subscription(m->con) ? wm_consumer_in_hand(m->con) : 0;
  if (in_hand && !late) return false;
  wm_error err;
  int code = WM_OK;
  if (in_hand) {
    wm_consumer_reclaim(m->con);
    code = wm_fail_with(
        &err, WM_TIMEOUT,
        "leaving topic '%s': %zu messages were still in hand when the time was over; they are "
        "handed out again",
        e->key.topic, in_hand);
  }
  wm_calls_add(c, &m->leave, code, code == WM_OK ? NULL : &err);
  wm_member_remove(e, m);
  return true;
}

void wm_registry_unsubscribe(wm_registry *r, wm_consumer *con, int timeout_ms, wm_done_cb cb,
                             void *cb_arg) {
  static const wm_error gone = {.code = WM_CLOSED,
                                .text = "the subscription was closed before it had opened"};
  wm_calls c = {0};
  wm_member *m = NULL;
  wm_pending p = {cb, cb_arg};
  pthread_mutex_lock(&r->lock);
  wm_entry *e = entry_of(r, con, &m);
  if (e) wm_calls_add(&c, &m->open, WM_CLOSED, &gone);
  bool owns = e && e->owner == m->holder;
  bool alone = e && e->members == m && !m->next;
  if (!e) { /* dormant, or its generation was given up */
    wm_calls_add(&c, &p, WM_OK, NULL);
  } else if (e->state == CLOSING) {
    wm_entry_add_closer(e, p);
    wm_member_remove(e, m);
  } else if (!e->sub) {
    wm_calls_add(&c, &p, WM_OK, NULL);
    wm_member_remove(e, m); /* the last one's entry goes with the next tick */
  } else if (owns && (alone || m->holder->phase == PHASE_STOPPING)) {
    wm_entry_add_closer(e, p);
    wm_member_remove(e, m);
    wm_entry_close(e, timeout_ms, &c);
  } else {
    begin_leaving(e, m, p, timeout_ms);
    wm_member_leaves(e, m, wm_now_ms(), &c);
  }
  wm_registry_unlock(r, &c);
  r->changed(r->arg);
}
