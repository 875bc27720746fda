/*
 * registry_entry.c - the subscriptions of a registry: how they open, are attached to and close.
 * Callbacks of states are called without the lock, from a list that is gathered under it; calls of
 * libwm that never wait are made under it.
 */
#include <stdlib.h>

#include "error.h"
#include "registry_state.h"

/* ---- calling back --------------------------------------------------------------------------- */

void wm_calls_add(wm_calls *c, wm_pending *p, int code, const wm_error *err) {
  if (!p->cb) return;
  if (c->n == c->room) {
    size_t room = 2 * c->room + 8;
    call *list = realloc(c->list, room * sizeof *list);
    if (!list) return; /* whoever waits for it goes on waiting until he is stopped */
    c->list = list;
    c->room = room;
  }
  call *new = &c->list[c->n++];
  new->to = *p;
  new->code = code;
  if (err) new->err = *err;
  p->cb = NULL;
}

void wm_registry_unlock(wm_registry *r, wm_calls *c) {
  pthread_mutex_unlock(&r->lock);
  for (size_t i = 0; i < c->n; i++) {
    call *now = &c->list[i];
    now->to.cb(now->to.arg, now->code, now->code == WM_OK ? NULL : &now->err);
  }
  free(c->list);
}

/* ---- entries -------------------------------------------------------------------------------- */

wm_entry *wm_entry_new(wm_registry *r, const wm_holder *h, const wm_subscription_key *key,
                       int worker) {
  wm_entry *e = calloc(1, sizeof *e);
  if (!e || wm_subscription_key_copy(&e->key, key) != WM_OK) {
    free(e);
    return NULL;
  }
  e->registry = r;
  e->script = h->script;
  e->worker = worker;
  e->next = r->entries;
  r->entries = e;
  return e;
}

static void wm_entry_free(wm_entry *e) {
  while (e->members) {
    wm_member *m = e->members;
    e->members = m->next;
    free(m);
  }
  for (wm_entry **at = &e->registry->entries; *at; at = &(*at)->next)
    if (*at == e) {
      *at = e->next;
      break;
    }
  wm_subscription_key_clear(&e->key);
  wm_options_free(e->opts);
  wm_options_free(e->next_opts);
  free(e->where);
  free(e->closers);
  free(e);
}

bool wm_entry_has(const wm_entry *e, const wm_holder *h) {
  for (const wm_member *m = e->members; m; m = m->next)
    if (m->holder == h) return true;
  return false;
}

/* ---- libwm's answers; threads of the library ------------------------------------------------ */

static void opened(void *arg, int code, const wm_error *err) {
  wm_entry *e = arg;
  wm_registry *r = e->registry;
  wm_calls c = {0};
  pthread_mutex_lock(&r->lock);
  if (e->state == OPENING) {
    e->state = code == WM_OK ? OPEN : FAILED;
    if (err) e->err = *err;
    for (wm_member *m = e->members; m; m = m->next) {
      if (code != WM_OK) m->holder->failure = code;
      if (m->holder == e->owner) wm_calls_add(&c, &m->open, code, err);
    }
  }
  wm_registry_unlock(r, &c);
  r->changed(r->arg);
}

static void closed(void *arg, int code, const wm_error *err) {
  wm_entry *e = arg;
  wm_registry *r = e->registry;
  wm_calls c = {0};
  pthread_mutex_lock(&r->lock);
  for (size_t i = 0; i < e->n_closers; i++)
    wm_calls_add(&c, &e->closers[i], code, err);
  for (wm_member *m = e->members; m; m = m->next)
    wm_calls_add(&c, &m->leave, code, err);
  wm_entry_free(e);
  wm_registry_unlock(r, &c);
  r->changed(r->arg);
}

/* ---- opening and closing; under the lock ---------------------------------------------------- */

int wm_entry_open(wm_entry *e, wm_error *err) {
  wm_options *opts = e->next_opts ? e->next_opts : e->opts;
  int code = wm_subscribe_async(&e->sub, e->key.url, e->key.topic, opts, opened, e, err);
  e->state = code == WM_OK ? OPENING : FAILED;
  if (code == WM_OK) return code;
  e->sub = NULL;
  e->err = *err;
  return code;
}

void wm_entry_add_closer(wm_entry *e, wm_pending p) {
  if (!p.cb) return;
  wm_pending *more = realloc(e->closers, (e->n_closers + 1) * sizeof *more);
  if (!more) return;
  e->closers = more;
  e->closers[e->n_closers++] = p;
}

void wm_entry_close(wm_entry *e, int timeout_ms, wm_calls *c) {
  static const wm_error gone = {.code = WM_CLOSED,
                                .text = "the subscription was closed before it had opened"};
  for (wm_member *m = e->members; m; m = m->next)
    wm_calls_add(c, &m->open, WM_CLOSED, &gone);
  if (!e->sub) {
    wm_entry_free(e);
    return;
  }
  e->state = CLOSING;
  e->owner = NULL;
  wm_subscription_close_async(e->sub, timeout_ms, closed, e);
}

int wm_entry_attach(wm_entry *e, const wm_holder *h, wm_error *err) {
  size_t n = 0;
  for (const wm_member *m = e->members; m; m = m->next)
    n++;
  wm_consumer **cons = calloc(n + 1, sizeof *cons);
  if (!cons) return wm_fail_with(err, WM_NOMEM, "out of memory");
  n = 0;
  for (const wm_member *m = e->members; m; m = m->next)
    if (m->holder == h && !m->leaving) cons[n++] = m->con;
  int code = wm_subscription_switch(e->sub, cons, n, err);
  free(cons);
  if (code == WM_OK) e->owner = h;
  return code;
}
