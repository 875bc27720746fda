/*
 * registry.c - see registry.h: what happens to a generation's subscriptions as a whole, and what
 * comes due. The control thread.
 */
#include "registry.h"

#include <stdlib.h>

#include "clock.h"
#include "registry_state.h"

enum {
  LINGER_MS =
      1000, /* a vanished subscription is kept that long: its script may ask for it in a moment */
  LEAVING_POLL_MS = 20 /* between looks whether a consumer that leaves has settled everything */
};

#define EACH_ENTRY(r, e, following)                                                                \
  for (wm_entry *e = (r)->entries, *following = e ? e->next : NULL; e;                             \
       e = following, following = e ? e->next : NULL)

void wm_registry_open(wm_registry *r, wm_holder *h) {
  wm_error err;
  pthread_mutex_lock(&r->lock);
  EACH_ENTRY(r, e, next) {
    if (e->state == WANTED && wm_entry_has(e, h)) wm_entry_open(e, &err);
  }
  pthread_mutex_unlock(&r->lock);
}

int wm_registry_opened(wm_registry *r, const wm_holder *h, wm_error *err) {
  int code = WM_OK;
  pthread_mutex_lock(&r->lock);
  EACH_ENTRY(r, e, next) {
    if (!wm_entry_has(e, h)) continue;
    if (e->state == FAILED) {
      code = e->err.code;
      *err = e->err;
      break;
    }
    if (e->state != OPEN) code = WM_TIMEOUT;
  }
  pthread_mutex_unlock(&r->lock);
  return code;
}

static void set_paused(wm_registry *r, const wm_holder *h, void (*set)(wm_subscription *sub)) {
  pthread_mutex_lock(&r->lock);
  EACH_ENTRY(r, e, next) {
    if (e->owner == h && e->sub) set(e->sub);
  }
  pthread_mutex_unlock(&r->lock);
}

void wm_registry_pause(wm_registry *r, const wm_holder *h) {
  set_paused(r, h, wm_subscription_pause);
}

void wm_registry_resume(wm_registry *r, const wm_holder *h) {
  set_paused(r, h, wm_subscription_resume);
}

/* The options of the new generation become those of the subscription. */
static void take_options(wm_entry *e) {
  wm_error err;
  if (!e->next_opts) return;
  bool same = e->opts && wm_options_same(e->opts, e->next_opts);
  /* Its options were checked when it was asked for, and those that cannot change are part of the
   * key. */
  if (!same && e->opts) wm_subscription_configure(e->sub, e->next_opts, &err);
  wm_options_free(e->opts);
  e->opts = e->next_opts;
  e->next_opts = NULL;
}

static void hand_to(wm_entry *e, const wm_holder *h, wm_calls *c) {
  wm_error err;
  if (e->sub) {
    take_options(e);
    wm_entry_attach(e, h, &err);
  }
  for (wm_member *m = e->members; m; m = m->next)
    if (m->holder == h && e->state != OPENING)
      wm_calls_add(c, &m->open, e->state == OPEN ? WM_OK : e->err.code, &e->err);
}

/* The generation that takes over does not want it; it may still ask for it. */
static void vanish(wm_entry *e, int64_t now) {
  wm_error err;
  wm_subscription_switch(e->sub, NULL, 0, &err);
  e->owner = NULL;
  e->orphan_until = now + LINGER_MS;
}

void wm_registry_switch(wm_registry *r, wm_holder *h) {
  wm_calls c = {0};
  wm_error err;
  pthread_mutex_lock(&r->lock);
  h->phase = PHASE_LIVE;
  int64_t now = wm_now_ms();
  EACH_ENTRY(r, e, next) {
    if (e->script != h->script || e->state == CLOSING) continue;
    bool wanted = wm_entry_has(e, h);
    /* What was asked for since wm_registry_open. */
    if (wanted && e->state == WANTED) wm_entry_open(e, &err);
    if (wanted)
      hand_to(e, h, &c);
    else if (e->owner)
      vanish(e, now);
    if (e->sub) wm_subscription_resume(e->sub);
  }
  wm_registry_unlock(r, &c);
  r->changed(r->arg);
}

static void set_phase(wm_registry *r, wm_holder *h, int phase) {
  pthread_mutex_lock(&r->lock);
  h->phase = phase;
  pthread_mutex_unlock(&r->lock);
  r->changed(r->arg);
}

void wm_registry_retire(wm_registry *r, wm_holder *h) { set_phase(r, h, PHASE_RETIRED); }

void wm_registry_stop(wm_registry *r, wm_holder *h) { set_phase(r, h, PHASE_STOPPING); }

size_t wm_registry_reclaim(wm_registry *r, const wm_holder *h) {
  size_t n = 0;
  pthread_mutex_lock(&r->lock);
  EACH_ENTRY(r, e, next) {
    for (wm_member *m = e->members; m; m = m->next)
      if (m->holder == h && wm_consumer_subscription(m->con)) n += wm_consumer_reclaim(m->con);
  }
  pthread_mutex_unlock(&r->lock);
  return n;
}

void wm_registry_forget(wm_registry *r, wm_holder *h) {
  pthread_mutex_lock(&r->lock);
  EACH_ENTRY(r, e, next) {
    for (wm_member **at = &e->members; *at;) {
      wm_member *m = *at;
      if (m->holder != h) {
        at = &m->next;
        continue;
      }
      if (wm_consumer_subscription(m->con)) wm_consumer_reclaim(m->con);
      *at = m->next;
      free(m);
    }
    if (e->owner == h) e->owner = NULL;
  }
  h->phase = PHASE_RETIRED;
  pthread_mutex_unlock(&r->lock);
  r->changed(r->arg);
}

/* ---- what comes due ------------------------------------------------------------------------- */

static void sooner(int *ms, int64_t other) {
  if (other < 0) other = 0;
  if (*ms < 0 || other < *ms) *ms = (int)other;
}

int wm_registry_tick(wm_registry *r) {
  wm_calls c = {0};
  int ms = -1;
  pthread_mutex_lock(&r->lock);
  int64_t now = wm_now_ms();
  EACH_ENTRY(r, e, next) {
    if (e->state == CLOSING) continue;
    for (wm_member *m = e->members, *after; m; m = after) {
      after = m->next;
      if (m->leaving && !wm_member_leaves(e, m, now, &c)) sooner(&ms, LEAVING_POLL_MS);
    }
    if (e->members) continue;
    if (now >= e->orphan_until)
      wm_entry_close(e, -1, &c);
    else
      sooner(&ms, e->orphan_until - now);
  }
  wm_registry_unlock(r, &c);
  return ms;
}

bool wm_registry_idle(wm_registry *r) {
  pthread_mutex_lock(&r->lock);
  bool idle = !r->entries;
  pthread_mutex_unlock(&r->lock);
  return idle;
}

wm_registry *wm_registry_new(void (*changed)(void *arg), void *arg) {
  wm_registry *r = calloc(1, sizeof *r);
  if (!r) return NULL;
  pthread_mutex_init(&r->lock, NULL);
  r->changed = changed;
  r->arg = arg;
  return r;
}
