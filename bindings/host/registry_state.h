/*
 * registry_state.h - the inside of the registry, shared by registry.c, registry_join.c and
 * registry_entry.c: an entry a subscription, a member a consumer. All of it is under the registry's
 * one lock, but where it says otherwise.
 */
#ifndef WM_REGISTRY_STATE_H
#define WM_REGISTRY_STATE_H

#include <pthread.h>

#include "registry.h"
#include "subscription_key.h"

enum { PHASE_LOADING = 0, PHASE_LIVE, PHASE_STOPPING, PHASE_RETIRED };

typedef enum wm_entry_state { WANTED, OPENING, OPEN, FAILED, CLOSING } wm_entry_state;

/* A call of a state that waits for its end. */
typedef struct wm_pending {
  wm_done_cb cb; /* NULL: none */
  void *arg;
} wm_pending;

typedef struct wm_member {
  wm_consumer *con;
  wm_holder *holder;
  int worker;
  wm_pending open;  /* its subscribe */
  bool leaving;     /* what it has in hand is waited for */
  wm_pending leave; /* its unsubscribe */
  int64_t leave_until;
  struct wm_member *next;
} wm_member;

typedef struct wm_entry {
  wm_registry *registry;
  const void *script;
  wm_subscription_key key;
  int worker;            /* whose it is alone; 0: all share it */
  wm_options *opts;      /* of the generation that is live */
  wm_options *next_opts; /* of the one that loads; NULL: none */
  char *where;           /* who asked for next_opts, or opts */
  wm_entry_state state;
  wm_error err; /* FAILED */
  wm_subscription *sub;
  const wm_holder *owner; /* whose consumers are attached; NULL: nobody's */
  int64_t orphan_until;   /* nobody's: closed then, if no member is left */
  wm_member *members;
  wm_pending *closers; /* those that wait for the close */
  size_t n_closers;
  struct wm_entry *next;
} wm_entry;

struct wm_registry {
  void (*changed)(void *arg);
  void *arg;
  pthread_mutex_t lock; /* of all entries */
  wm_entry *entries;
};

typedef struct call {
  wm_pending to;
  int code;
  wm_error err;
} call;

/* What is to be called once the lock is released. */
typedef struct wm_calls {
  call *list;
  size_t n, room;
} wm_calls;

/* ---- registry_entry.c ----------------------------------------------------------------------- */

/* *p is called with the others, once, if it is anything. */
void wm_calls_add(wm_calls *c, wm_pending *p, int code, const wm_error *err);
/* Releases the lock, then makes the calls. */
void wm_registry_unlock(wm_registry *r, wm_calls *c);

wm_entry *wm_entry_new(wm_registry *r, const wm_holder *h, const wm_subscription_key *key,
                       int worker);
bool wm_entry_has(const wm_entry *e, const wm_holder *h);
/* Begins to; the lock is not held while libwm answers. */
int wm_entry_open(wm_entry *e, wm_error *err);
/* Its members must have left, or wait for this. */
void wm_entry_close(wm_entry *e, int timeout_ms, wm_calls *c);
void wm_entry_add_closer(wm_entry *e, wm_pending p);
/* Attaches those of h that do not leave. */
int wm_entry_attach(wm_entry *e, const wm_holder *h, wm_error *err);

/* ---- registry_join.c ------------------------------------------------------------------------ */

/* Of a member that leaves: true when it has, and is freed. */
bool wm_member_leaves(wm_entry *e, wm_member *m, int64_t now, wm_calls *c);

#endif
