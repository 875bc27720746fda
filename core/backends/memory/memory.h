/*
 * memory.h - what the files of the memory broker share. Nothing outside this folder includes it.
 *
 *   backend.c       the contract's struct, options, opening, probing
 *   strip.c         arrays by offset, with holes that take no room
 *   topic.c         topics and their logs: appending, retention
 *   group.c         groups: where they start, what their members hold, what came back
 *   publish.c       publishing, waiting for room
 *   subscription.c  subscribing, settling, unsubscribing
 *   fetch.c         waiting, handing out
 *
 * A topic is a log of messages, numbered from 0 by their offset, and the groups that read it. A
 * message stays in the log as long as a group has not acked it (`wanted` counts those groups), unless
 * the option `retain` says otherwise. A subscription without a group has one of its own that
 * ends with it.
 *
 * A stored message is a copy of the published one. The last group that wants it is given the stored
 * object itself, the others get copies. The topic keeps a reference to what it gave away, but never
 * gives it a second time: from then on it belongs to a ledger.
 *
 * Locks: one a topic, for all that belongs to it; one a connection, for its table of topics. Both at
 * once only in the order table, topic. Under them nothing is copied or freed that a batch brings.
 */
#ifndef WM_MEMORY_H
#define WM_MEMORY_H

#include <pthread.h>

#include "backend.h"

/* How many messages are handled under one lock, at most. */
enum { WM_MEMORY_PAGE = 256 };

/* A position as text is this and the offset. */
#define WM_MEMORY_POSITION "offset:"

typedef struct wm_memory_sub wm_memory_sub;
typedef struct wm_memory_group wm_memory_group;

/* ---- strips --------------------------------------------------------------------------------- */

/* What a topic knows of an offset. */
typedef struct wm_memory_slot {
  wm_message *msg; /* a reference; NULL: not, or no longer, stored */
  unsigned wanted; /* groups that have not acked it */
  bool given;      /* the object itself was handed out */
} wm_memory_slot;

typedef enum wm_memory_state {
  WM_MEMORY_SETTLED, /* acked; or not fetched yet, from the group's `next` on */
  WM_MEMORY_HELD,
  WM_MEMORY_RELEASED
} wm_memory_state;

/* What a group knows of an offset below its `next`. */
typedef struct wm_memory_entry {
  wm_memory_sub *holder; /* of a held one */
  unsigned attempt;      /* deliveries that really were handed out, but for the one under way */
  wm_memory_state state;
} wm_memory_entry;

typedef union wm_memory_item {
  wm_memory_slot slot;
  wm_memory_entry entry;
} wm_memory_item;

struct wm_memory_chunk;

/* Items by offset, in chunks that exist only while one of their items is in use. All zero: empty. */
typedef struct wm_memory_strip {
  struct wm_memory_chunk **chunks; /* from `head` on `n` are valid; NULL: no item in use */
  size_t head, n, room;
  uint64_t first;                /* the number of chunks[head] */
  struct wm_memory_chunk *spare; /* the last one that became empty */
} wm_memory_strip;

/* Takes the item at an offset into use, zeroed; offsets only grow. NULL: out of memory. */
wm_memory_item *wm_memory_strip_add(wm_memory_strip *s, uint64_t at);
/* NULL: nothing near it is in use. What is there but not in use is zero. */
wm_memory_item *wm_memory_strip_at(const wm_memory_strip *s, uint64_t at);
/* Ends the use of an item. */
void wm_memory_strip_remove(wm_memory_strip *s, uint64_t at);
/* The first offset from `at` on that may be in use; UINT64_MAX: none. */
uint64_t wm_memory_strip_skip(const wm_memory_strip *s, uint64_t at);
void wm_memory_strip_free(wm_memory_strip *s);

/* ---- topics --------------------------------------------------------------------------------- */

typedef enum wm_memory_retain {
  WM_MEMORY_RETAIN_ACKED, /* what a group has not acked; all until the first group exists */
  WM_MEMORY_RETAIN_ALL,
  WM_MEMORY_RETAIN_TIME /* what is younger than keep_ms, acked or not */
} wm_memory_retain;

typedef struct wm_memory_topic {
  const char *name;
  wm_memory_retain retain;
  int64_t keep_ms;
  size_t capacity;      /* bytes, 0: no limit */
  pthread_mutex_t lock; /* guards all below, and all of the groups and subscriptions */
  wm_memory_strip log;
  uint64_t end; /* the next offset; changed by publish alone, which may read it without the lock */
  uint64_t swept; /* retention has been looked at up to here */
  size_t count, bytes;
  bool grouped; /* a group with a name exists, and so for ever */
  unsigned n_groups;
  wm_memory_group *groups;
  pthread_cond_t space; /* something was dropped */
  bool publisher_waits;
} wm_memory_topic;

typedef struct wm_memory {
  const char *name; /* of the broker, for texts */
  wm_memory_retain retain;
  int64_t keep_ms;
  size_t capacity;
  pthread_mutex_t lock;     /* guards the table */
  wm_memory_topic **topics; /* by name, sorted */
  size_t n_topics, room;
  wm_memory_topic *published; /* by publish alone: the topic of the last message */
} wm_memory;

/* Messages whose reference must be dropped without a lock. */
typedef struct wm_memory_trash {
  wm_message *msgs[WM_MEMORY_PAGE];
  size_t n;
} wm_memory_trash;

void wm_memory_trash_empty(wm_memory_trash *t);

/* Finds or makes it; NULL: out of memory. */
wm_memory_topic *wm_memory_topic_of(wm_memory *m, const char *name);
void wm_memory_topic_free(wm_memory_topic *t);

/* A copy of what the publisher made, in no ledger and from no subscription. NULL: out of memory. */
wm_message *wm_memory_copy(const wm_message *msg);
/* Sets what a received message tells of its place. */
void wm_memory_place(wm_message *msg, uint64_t offset, int64_t time);

/* Under the lock: what is stored there; NULL: nothing. */
wm_memory_slot *wm_memory_slot_at(const wm_memory_topic *t, uint64_t at);
/* Under the lock: is what no group wants kept for nobody else? */
bool wm_memory_ends_with_ack(const wm_memory_topic *t);
/* Under the lock: a group needs it no more. */
void wm_memory_unwant(wm_memory_topic *t, uint64_t at, wm_memory_trash *trash);
/* Under the lock, which it lets go while it frees: drops what `retain` keeps no longer. */
void wm_memory_sweep(wm_memory_topic *t);
/* Takes the lock; what has grown too old is gone. */
void wm_memory_topic_lock(wm_memory_topic *t);

/* ---- groups --------------------------------------------------------------------------------- */

struct wm_memory_group {
  char *name; /* NULL: of one subscription */
  wm_memory_strip entries;
  uint64_t next;                   /* the first offset that nobody has fetched */
  size_t released;                 /* entries that came back */
  uint64_t look_from;              /* none of them is below */
  size_t gone;                     /* too old before they were acked, and not told yet */
  wm_memory_sub *members, *leader; /* the leader: whose turn it is among exclusive ones */
  wm_memory_sub *waiting_first, *waiting_last;
  wm_memory_group *next_group;
};

struct wm_memory_sub {
  wm_memory_topic *topic;
  wm_memory_group *group;
  bool exclusive;
  size_t held;
  pthread_cond_t wake;
  bool interrupted, waiting;
  wm_memory_sub *waiting_prev, *waiting_next;
  wm_memory_sub *next_member;
};

/* One that was taken from the log. */
typedef struct wm_memory_pick {
  uint64_t offset;
  wm_message *msg; /* a reference */
  unsigned attempt;
  bool copy; /* to be handed out as a copy */
} wm_memory_pick;

/* Where a new group starts. */
typedef struct wm_memory_start {
  enum { WM_MEMORY_OLDEST, WM_MEMORY_NEWEST, WM_MEMORY_OFFSET, WM_MEMORY_TIME } kind;
  uint64_t value; /* an offset, or ms since the epoch */
} wm_memory_start;

/* from: NULL or "" is `otherwise`. WM_OK or WM_BAD_INPUT. */
int wm_memory_start_parse(const char *from, const char *otherwise, wm_memory_start *out,
                          wm_error *err);

/* All under the topic's lock. */

/* The message grows too old while some want it. */
void wm_memory_groups_lose(wm_memory_topic *t, uint64_t at);
wm_memory_group *wm_memory_group_find(const wm_memory_topic *t, const char *name);
/* NULL: out of memory. */
wm_memory_group *wm_memory_group_add(wm_memory_topic *t, const char *name,
                                     const wm_memory_start *start);
void wm_memory_group_join(wm_memory_group *g, wm_memory_sub *s);
/* What it still holds goes back, whose turn it was passes on. */
void wm_memory_group_leave(wm_memory_sub *s);
bool wm_memory_group_stands_by(const wm_memory_sub *s);
/* Takes up to max messages, of together at most *bytes (which it lowers) but for the first when
 * `first`. WM_OK or WM_NOMEM. */
int wm_memory_group_take(wm_memory_sub *s, wm_memory_pick *picks, size_t max, size_t *bytes,
                         bool first, size_t *n);
/* What the subscription holds at that offset; NULL: it does not. */
wm_memory_entry *wm_memory_group_held(wm_memory_sub *s, uint64_t at);
void wm_memory_group_ack(wm_memory_sub *s, uint64_t at, wm_memory_trash *trash);
void wm_memory_group_release(wm_memory_sub *s, wm_memory_entry *e, uint64_t at);
/* Up to n members that wait go on. */
void wm_memory_group_wake(wm_memory_group *g, size_t n);
/* Waits until something may have come. False: time is over. */
bool wm_memory_group_wait(wm_memory_sub *s, int64_t deadline);

/* Without the lock: ends a group. */
void wm_memory_group_remove(wm_memory_topic *t, wm_memory_group *g);
void wm_memory_group_free(wm_memory_group *g);

/* ---- the contract's functions --------------------------------------------------------------- */

int wm_memory_publish(void *conn, const wm_outgoing *out, size_t n, int timeout_ms,
                      wm_result *results, wm_error *err);
int wm_memory_subscribe(void *conn, const wm_sub_spec *spec, void **sub, wm_error *err);
int wm_memory_fetch(void *sub, size_t max, size_t bytes, int timeout_ms, wm_sink *sink,
                    wm_error *err);
int wm_memory_settle(void *sub, wm_settle_op *ops, size_t n, wm_error *err);
void wm_memory_interrupt(void *sub);
void wm_memory_unsubscribe(void *sub);

#endif
