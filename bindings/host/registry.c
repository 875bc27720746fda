/*
 * registry.c - see registry.h. Callbacks of states are called without the lock, from a list that is gathered under
 * it; calls of libwm that never wait are made under it.
 */
#include "registry.h"

#include <pthread.h>
#include <stdlib.h>
#include <string.h>

#include "clock.h"
#include "error.h"
#include "options.h"
#include "subscription_key.h"

enum {
  LINGER_MS =
      1000, /* a vanished subscription is kept that long: its script may ask for it in a moment */
  LEAVING_POLL_MS = 20 /* between looks whether a consumer that leaves has settled everything */
};

enum { PHASE_LOADING = 0, PHASE_LIVE, PHASE_STOPPING, PHASE_RETIRED };

typedef enum entry_state { WANTED, OPENING, OPEN, FAILED, CLOSING } entry_state;

/* A call of a state that waits for its end. */
typedef struct pending {
  wm_done_cb cb; /* NULL: none */
  void *arg;
} pending;

typedef struct member {
  wm_consumer *con;
  wm_holder *holder;
  int worker;
  pending open;  /* its subscribe */
  pending leave; /* its unsubscribe, while messages in hand are waited for */
  int64_t leave_until;
  struct member *next;
} member;

typedef struct entry {
  wm_registry *registry;
  const void *script;
  wm_subscription_key key;
  int worker;            /* whose it is alone; 0: all share it */
  wm_options *opts;      /* of the generation that is live */
  wm_options *next_opts; /* of the one that loads; NULL: none */
  char *where;           /* who asked for next_opts, or opts */
  entry_state state;
  wm_error err; /* FAILED */
  wm_subscription *sub;
  const wm_holder *owner; /* whose consumers are attached; NULL: nobody's */
  int64_t orphan_until;   /* nobody's: closed then, if no member is left */
  member *members;
  pending *closers; /* those that wait for the close */
  size_t n_closers;
  struct entry *next;
} entry;

struct wm_registry {
  void (*changed)(void *arg);
  void *arg;
  pthread_mutex_t lock; /* of all entries */
  entry *entries;
};

/* ---- calling back -------------------------------------------------------------------------------- */

typedef struct call {
  pending to;
  int code;
  wm_error err;
} call;

/* What is to be called once the lock is released. */
typedef struct calls {
  call *list;
  size_t n, room;
} calls;

static void add_call(calls *c, pending *p, int code, const wm_error *err) {
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

static void unlock_and_call(wm_registry *r, calls *c) {
  pthread_mutex_unlock(&r->lock);
  for (size_t i = 0; i < c->n; i++) {
    call *now = &c->list[i];
    now->to.cb(now->to.arg, now->code, now->code == WM_OK ? NULL : &now->err);
  }
  free(c->list);
}

/* ---- entries --------------------------------------------------------------------------------------- */

static entry *new_entry(wm_registry *r, const wm_holder *h, const wm_subscription_key *key,
                        int worker) {
  entry *e = calloc(1, sizeof *e);
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

static void free_entry(entry *e) {
  while (e->members) {
    member *m = e->members;
    e->members = m->next;
    free(m);
  }
  for (entry **at = &e->registry->entries; *at; at = &(*at)->next)
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

static bool has_member_of(const entry *e, const wm_holder *h) {
  for (const member *m = e->members; m; m = m->next)
    if (m->holder == h) return true;
  return false;
}

static entry *find(wm_registry *r, const wm_holder *h, const wm_subscription_key *key, int worker) {
  for (entry *e = r->entries; e; e = e->next) {
    if (e->script != h->script || e->state == CLOSING || e->state == FAILED || e->worker != worker)
      continue;
    if (!wm_subscription_key_same(&e->key, key)) continue;
    /* Two subscriptions without a group are two, also in one worker. */
    if (worker && has_member_of(e, h)) continue;
    return e;
  }
  return NULL;
}

/* ---- libwm's answers; threads of the library --------------------------------------------------------- */

static void opened(void *arg, int code, const wm_error *err) {
  entry *e = arg;
  wm_registry *r = e->registry;
  calls c = {0};
  pthread_mutex_lock(&r->lock);
  if (e->state == OPENING) {
    e->state = code == WM_OK ? OPEN : FAILED;
    if (err) e->err = *err;
    for (member *m = e->members; m; m = m->next) {
      if (code != WM_OK) m->holder->failure = code;
      if (m->holder == e->owner) add_call(&c, &m->open, code, err);
    }
  }
  unlock_and_call(r, &c);
  r->changed(r->arg);
}

static void closed(void *arg, int code, const wm_error *err) {
  entry *e = arg;
  wm_registry *r = e->registry;
  calls c = {0};
  pthread_mutex_lock(&r->lock);
  for (size_t i = 0; i < e->n_closers; i++)
    add_call(&c, &e->closers[i], code, err);
  for (member *m = e->members; m; m = m->next)
    add_call(&c, &m->leave, code, err);
  free_entry(e);
  unlock_and_call(r, &c);
  r->changed(r->arg);
}

/* ---- opening and closing; under the lock --------------------------------------------------------------- */

static int begin_open(entry *e, wm_error *err) {
  wm_options *opts = e->next_opts ? e->next_opts : e->opts;
  int code = wm_subscribe_async(&e->sub, e->key.url, e->key.topic, opts, opened, e, err);
  e->state = code == WM_OK ? OPENING : FAILED;
  if (code == WM_OK) return code;
  e->sub = NULL;
  e->err = *err;
  return code;
}

static void add_closer(entry *e, pending p) {
  if (!p.cb) return;
  pending *more = realloc(e->closers, (e->n_closers + 1) * sizeof *more);
  if (!more) return;
  e->closers = more;
  e->closers[e->n_closers++] = p;
}

/* Its members must have left, or wait for this. */
static void begin_close(entry *e, int timeout_ms, calls *c) {
  static const wm_error gone = {.code = WM_CLOSED,
                                .text = "the subscription was closed before it had opened"};
  for (member *m = e->members; m; m = m->next)
    add_call(c, &m->open, WM_CLOSED, &gone);
  if (!e->sub) {
    free_entry(e);
    return;
  }
  e->state = CLOSING;
  e->owner = NULL;
  wm_subscription_close_async(e->sub, timeout_ms, closed, e);
}

/* Attaches those of h that do not leave. */
static int attach(entry *e, const wm_holder *h, wm_error *err) {
  size_t n = 0;
  for (const member *m = e->members; m; m = m->next)
    n++;
  wm_consumer **cons = calloc(n + 1, sizeof *cons);
  if (!cons) return wm_fail_with(err, WM_NOMEM, "out of memory");
  n = 0;
  for (const member *m = e->members; m; m = m->next)
    if (m->holder == h && !m->leave.cb) cons[n++] = m->con;
  int code = wm_subscription_switch(e->sub, cons, n, err);
  free(cons);
  if (code == WM_OK) e->owner = h;
  return code;
}

/* ---- joining ------------------------------------------------------------------------------------------ */

static int refuse(const entry *e, wm_error *err) {
  return wm_fail_with(
      err, WM_BAD_INPUT,
      "topic '%s', group '%s' is subscribed to at %s with other options; equal ones share a "
      "subscription, so give them the same options or another group",
      e->key.topic, e->key.group, e->where);
}

/* Puts the options that h wants where they belong. */
static int note_options(entry *e, const wm_holder *h, const wm_options *opts, const char *where,
                        wm_error *err) {
  bool loading = h->phase == PHASE_LOADING;
  wm_options **place = loading ? &e->next_opts : &e->opts;
  if (*place && has_member_of(e, h)) return wm_options_same(*place, opts) ? WM_OK : refuse(e, err);
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
static int join_live(entry *e, wm_holder *h, wm_error *err) {
  int code = WM_OK;
  if (e->state == WANTED)
    code = begin_open(e, err);
  else if (e->owner != h)
    code = wm_subscription_configure(e->sub, e->opts, err);
  return code == WM_OK ? attach(e, h, err) : code;
}

static int join(wm_registry *r, wm_holder *h, int worker, const wm_subscription_key *key,
                const wm_options *opts, const char *where, member *m, calls *c, wm_error *err) {
  int lane = *key->group ? 0 : worker;
  entry *e = find(r, h, key, lane);
  bool fresh = !e;
  if (!e && !(e = new_entry(r, h, key, lane))) return wm_fail_with(err, WM_NOMEM, "out of memory");
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
    add_call(c, &m->open, WM_OK, NULL);
  if (code != WM_OK && fresh) begin_close(e, 0, c);
  return code;
}

/* For a generation that ends, or failed while another of its workers was still loading: one that never gets
 * anything. */
static int give_dormant(member *m, const char *topic, calls *c, wm_error *err) {
  wm_error ended;
  int code = wm_consumer_open(&m->con, NULL, err);
  if (code != WM_OK) return code;
  wm_fail_with(&ended, WM_CLOSED, "subscribing to '%s': this generation of the script has ended",
               topic);
  add_call(c, &m->open, WM_CLOSED, &ended);
  return WM_OK;
}

int wm_registry_subscribe(wm_registry *r, wm_holder *h, int worker, const char *url,
                          const char *topic, const wm_options *opts, const char *where,
                          wm_consumer **con, wm_done_cb cb, void *cb_arg, wm_error *err) {
  wm_subscription_key key;
  calls c = {0};
  int code = wm_check(url, topic, opts, false, err);
  if (code == WM_OK) code = wm_subscription_key_make(&key, url, topic, opts, err);
  if (code != WM_OK) return code;
  member *m = calloc(1, sizeof *m);
  if (!m) {
    wm_subscription_key_clear(&key);
    return wm_fail_with(err, WM_NOMEM, "out of memory");
  }
  *m = (member){.holder = h, .worker = worker, .open = {cb, cb_arg}};
  pthread_mutex_lock(&r->lock);
  bool joins = h->phase == PHASE_LOADING || h->phase == PHASE_LIVE;
  if (joins)
    code = join(r, h, worker, &key, opts, where, m, &c, err);
  else
    code = give_dormant(m, topic, &c, err);
  if (code == WM_OK) *con = m->con; /* before the end is told */
  if (code != WM_OK || !joins) free(m);
  unlock_and_call(r, &c);
  wm_subscription_key_clear(&key);
  return code;
}

static int default_close_timeout(void) {
  const wm_option_def *def = &wm_subscription_options[WM_SUB_CLOSE_TIMEOUT];
  int64_t ms = 0;
  wm_parse_duration(def->value, &ms);
  return (int)ms;
}

/* ---- leaving ------------------------------------------------------------------------------------------ */

static entry *entry_of(wm_registry *r, const wm_consumer *con, member **out) {
  for (entry *e = r->entries; e; e = e->next)
    for (member *m = e->members; m; m = m->next)
      if (m->con == con) {
        *out = m;
        return e;
      }
  return NULL;
}

static void remove_member(entry *e, member *m) {
  member **at = &e->members;
  while (*at != m)
    at = &(*at)->next;
  *at = m->next;
  free(m);
}

/* It leaves while others stay, or after its generation was replaced: what it has in hand gets its time. */
static void begin_leaving(entry *e, member *m, pending p, int timeout_ms) {
  wm_error ignored;
  m->leave = p;
  m->leave_until = wm_now_ms() + (timeout_ms < 0 ? default_close_timeout() : timeout_ms);
  if (e->sub && e->owner == m->holder) attach(e, e->owner, &ignored);
}

/* True: it has left. */
static bool has_left(entry *e, member *m, int64_t now, calls *c) {
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
  add_call(c, &m->leave, code, code == WM_OK ? NULL : &err);
  remove_member(e, m);
  return true;
}

void wm_registry_unsubscribe(wm_registry *r, wm_consumer *con, int timeout_ms, wm_done_cb cb,
                             void *cb_arg) {
  static const wm_error gone = {.code = WM_CLOSED,
                                .text = "the subscription was closed before it had opened"};
  calls c = {0};
  member *m = NULL;
  pending p = {cb, cb_arg};
  pthread_mutex_lock(&r->lock);
  entry *e = entry_of(r, con, &m);
  if (e) add_call(&c, &m->open, WM_CLOSED, &gone);
  bool owns = e && e->owner == m->holder;
  bool alone = e && e->members == m && !m->next;
  if (!e) { /* dormant, or its generation was given up */
    add_call(&c, &p, WM_OK, NULL);
  } else if (e->state == CLOSING) {
    add_closer(e, p);
    remove_member(e, m);
  } else if (!e->sub) {
    add_call(&c, &p, WM_OK, NULL);
    remove_member(e, m); /* the last one's entry goes with the next tick */
  } else if (owns && (alone || m->holder->phase == PHASE_STOPPING)) {
    add_closer(e, p);
    remove_member(e, m);
    begin_close(e, timeout_ms, &c);
  } else {
    begin_leaving(e, m, p, timeout_ms);
    has_left(e, m, wm_now_ms(), &c);
  }
  unlock_and_call(r, &c);
  r->changed(r->arg);
}

/* ---- generations --------------------------------------------------------------------------------------- */

#define EACH_ENTRY(r, e, following)                                                                \
  for (entry *e = (r)->entries, *following = e ? e->next : NULL; e;                                \
       e = following, following = e ? e->next : NULL)

void wm_registry_open(wm_registry *r, wm_holder *h) {
  wm_error err;
  pthread_mutex_lock(&r->lock);
  EACH_ENTRY(r, e, next) {
    if (e->state == WANTED && has_member_of(e, h)) begin_open(e, &err);
  }
  pthread_mutex_unlock(&r->lock);
}

int wm_registry_opened(wm_registry *r, const wm_holder *h, wm_error *err) {
  int code = WM_OK;
  pthread_mutex_lock(&r->lock);
  EACH_ENTRY(r, e, next) {
    if (!has_member_of(e, h)) continue;
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
static void take_options(entry *e) {
  wm_error err;
  if (!e->next_opts) return;
  bool same = e->opts && wm_options_same(e->opts, e->next_opts);
  /* Its options were checked when it was asked for, and those that cannot change are part of the key. */
  if (!same && e->opts) wm_subscription_configure(e->sub, e->next_opts, &err);
  wm_options_free(e->opts);
  e->opts = e->next_opts;
  e->next_opts = NULL;
}

static void hand_to(entry *e, const wm_holder *h, calls *c) {
  wm_error err;
  if (e->sub) {
    take_options(e);
    attach(e, h, &err);
  }
  for (member *m = e->members; m; m = m->next)
    if (m->holder == h && e->state != OPENING)
      add_call(c, &m->open, e->state == OPEN ? WM_OK : e->err.code, &e->err);
}

/* The generation that takes over does not want it; it may still ask for it. */
static void vanish(entry *e, int64_t now) {
  wm_error err;
  wm_subscription_switch(e->sub, NULL, 0, &err);
  e->owner = NULL;
  e->orphan_until = now + LINGER_MS;
}

void wm_registry_switch(wm_registry *r, wm_holder *h) {
  calls c = {0};
  wm_error err;
  pthread_mutex_lock(&r->lock);
  h->phase = PHASE_LIVE;
  int64_t now = wm_now_ms();
  EACH_ENTRY(r, e, next) {
    if (e->script != h->script || e->state == CLOSING) continue;
    bool wanted = has_member_of(e, h);
    /* What was asked for since wm_registry_open. */
    if (wanted && e->state == WANTED) begin_open(e, &err);
    if (wanted)
      hand_to(e, h, &c);
    else if (e->owner)
      vanish(e, now);
    if (e->sub) wm_subscription_resume(e->sub);
  }
  unlock_and_call(r, &c);
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
    for (member *m = e->members; m; m = m->next)
      if (m->holder == h && wm_consumer_subscription(m->con)) n += wm_consumer_reclaim(m->con);
  }
  pthread_mutex_unlock(&r->lock);
  return n;
}

void wm_registry_forget(wm_registry *r, wm_holder *h) {
  pthread_mutex_lock(&r->lock);
  EACH_ENTRY(r, e, next) {
    for (member **at = &e->members; *at;) {
      member *m = *at;
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

/* ---- what comes due -------------------------------------------------------------------------------------- */

static void sooner(int *ms, int64_t other) {
  if (other < 0) other = 0;
  if (*ms < 0 || other < *ms) *ms = (int)other;
}

int wm_registry_tick(wm_registry *r) {
  calls c = {0};
  int ms = -1;
  pthread_mutex_lock(&r->lock);
  int64_t now = wm_now_ms();
  EACH_ENTRY(r, e, next) {
    if (e->state == CLOSING) continue;
    for (member *m = e->members, *after; m; m = after) {
      after = m->next;
      if (m->leave.cb && !has_left(e, m, now, &c)) sooner(&ms, LEAVING_POLL_MS);
    }
    if (e->members) continue;
    if (now >= e->orphan_until)
      begin_close(e, -1, &c);
    else
      sooner(&ms, e->orphan_until - now);
  }
  unlock_and_call(r, &c);
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

void wm_registry_free(wm_registry *r) {
  if (!r) return;
  pthread_mutex_destroy(&r->lock);
  free(r);
}
