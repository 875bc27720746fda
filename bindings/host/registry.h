/*
 * registry.h - the subscriptions of a host. They belong to it, not to the Lua states that come and
 * go: the consumers of a generation that asks for the same (url, topic, group) share one, and the
 * next generation's take over what it holds. Without a group each worker has its own. One lock
 * guards all of it; any thread.
 *
 * A generation asks while it loads, and gets consumers that wait. wm_registry_open begins to open
 * what is not there yet, wm_registry_switch attaches its consumers; from then on it gets what it
 * asks for at once.
 */
#ifndef WM_REGISTRY_H
#define WM_REGISTRY_H

#include <stdatomic.h>

#include "wm.h"

typedef struct wm_registry wm_registry;

/* One generation of one script, as the registry knows it. Zeroed before its first use. */
typedef struct wm_holder {
  const void *script; /* what its generations have in common */
  int phase;          /* the registry's */
  atomic_int failure; /* why a subscription of it will never work; WM_OK: none has failed */
} wm_holder;

/* It lasts as long as the process: a thread of libwm may still be on its way out of it when all is
 * over. changed(arg) is called, without the lock, by any thread, when a subscription has opened,
 * failed or closed, or a consumer has begun to leave: wm_registry_tick has something to do. NULL:
 * out of memory. */
wm_registry *wm_registry_new(void (*changed)(void *arg), void *arg);

/* As the members of wm_lua_host. worker from 1. */
int wm_registry_subscribe(wm_registry *r, wm_holder *h, int worker, const char *url,
                          const char *topic, const wm_options *opts, const char *where,
                          wm_consumer **con, wm_done_cb cb, void *cb_arg, wm_error *err);
void wm_registry_unsubscribe(wm_registry *r, wm_consumer *con, int timeout_ms, wm_done_cb cb,
                             void *cb_arg);

/* Begins to open what h wants and nobody has. */
void wm_registry_open(wm_registry *r, wm_holder *h);
/* WM_OK: all of that exists; WM_TIMEOUT: not yet; another: it never will, for err's reason. */
int wm_registry_opened(wm_registry *r, const wm_holder *h, wm_error *err);
/* The consumers of h get no messages until resumed or switched. */
void wm_registry_pause(wm_registry *r, const wm_holder *h);
void wm_registry_resume(wm_registry *r, const wm_holder *h);
/* The consumers of h take the place of those of any other generation of its script. */
void wm_registry_switch(wm_registry *r, wm_holder *h);
/* h is not live any more, or never was. What only it wanted is closed once its consumers have
 * left. */
void wm_registry_retire(wm_registry *r, wm_holder *h);
/* Its whole script ends: the first of its consumers that leaves closes the subscription for all. */
void wm_registry_stop(wm_registry *r, wm_holder *h);
/* What h has in hand is handed out again; returns how many messages. */
size_t wm_registry_reclaim(wm_registry *r, const wm_holder *h);
/* Its states will never come back: forgets its consumers. */
void wm_registry_forget(wm_registry *r, wm_holder *h);

/* Does what has come due; returns the ms until it should be called again, -1: not before
 * `changed`. */
int wm_registry_tick(wm_registry *r);
/* Nothing is open or closing any more. */
bool wm_registry_idle(wm_registry *r);

#endif
