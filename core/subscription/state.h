/*
 * state.h - the inside of a subscription and of a consumer, shared by the files of this folder alone.
 *
 * A subscription has two threads. The fetcher (fetch.c) makes the group, then fills the ledger as far as the window
 * lets it. The settler (settle.c) tells the broker what became of messages, keeps claims alive, sends
 * dead letters (dead.c), ends flushes and closes (close.c). Programs' threads take and settle messages
 * (consume.c, consumers.c). All of them meet in one ledger under one lock, which nobody holds while he waits for a
 * broker, writes to the log or calls back.
 */
#ifndef WM_SUBSCRIPTION_STATE_H
#define WM_SUBSCRIPTION_STATE_H

#include <pthread.h>
#include <stdatomic.h>

#include "clock.h"
#include "connection.h"
#include "ledger.h"
#include "message.h"
#include "outage.h"
#include "subscription.h"
#include "wm.h"

#define WM_BATCH_MESSAGES 1000    /* of one fetch or settle at most (BROKERS: bounds of a batch) */
#define WM_BATCH_BYTES (4u << 20) /* of one fetch, about */
#define WM_LOCKED_MESSAGES 64       /* put into the ledger or taken out of it without a break */
#define WM_NEVER INT64_MAX
/* What the broker gets for taking the last ops, when `close_timeout` is over. */
#define WM_LAST_OPS_MS 2000

typedef enum consumer_state {
  CON_BUSY,    /* has taken something, or has not asked yet */
  CON_WAITING, /* its thread stands in wm_next */
  CON_IDLE,    /* was told WM_TIMEOUT: its descriptor must wake it */
  CON_WOKEN    /* its descriptor does; it has not asked since */
} consumer_state;

struct wm_consumer {
  _Atomic(wm_subscription *) sub; /* set once, with a reference, when it is attached */
  pthread_mutex_t lock;           /* guards the wait for being attached */
  pthread_cond_t attached;        /* with `lock` */
  pthread_cond_t wake;            /* with the subscription's lock */
  int fd;                         /* a timer: readable = wm_next has something to say */

  /* under the subscription's lock */
  bool retired;
  consumer_state state;
  int64_t due; /* WAITING: until when; else when the descriptor is readable: 0: now; WM_NEVER */
  struct wm_consumer *next;
};

/* One wm_flush, from its call to its end. */
typedef struct flush {
  size_t left; /* ops that the broker must still take */
  int64_t until;
  wm_done_cb cb;
  void *arg;
  struct flush *next;
} flush;

typedef enum opening {
  OPENING,
  OPEN,  /* the group exists */
  FAILED /* it never will; open_error says why */
} opening;

typedef enum settler_state {
  SETTLER_AT_WORK,
  SETTLER_ASLEEP,    /* any op wakes it */
  SETTLER_COLLECTING /* waits a little for more ops, while there is work going on */
} settler_state;

struct wm_subscription {
  atomic_size_t
      refs; /* the handle, the threads, each consumer, message and dead letter on its way */

  /* constant while it is open */
  char *url, *topic, *group, *from, *what; /* group, from: NULL = none; what: for the log */
  char member[128];
  wm_connection *conn;
  const wm_backend *backend;
  int64_t takeover;

  pthread_mutex_t lock; /* guards all below, but where it says otherwise */
  wm_settings settings;
  wm_ledger *ledger;
  char *dead_letter;         /* NULL: none */
  atomic_int on_undecodable; /* read by the fetcher without the lock */
  int64_t stall, close_timeout;
  wm_consumer *consumers;
  bool paused, closing;

  opening opening;
  wm_error open_error; /* OPENING: the last failure of the backend; FAILED: what is told */
  wm_done_cb open_cb;  /* called once, then NULL */
  void *open_arg;
  pthread_cond_t opened;

  void *handle; /* the backend's subscription, from OPEN until close */
  pthread_cond_t fetch_wake;
  bool fetch_waits; /* for room in the ledger */
  bool fetch_done;  /* its thread touches nothing any more */
  wm_outage fetch_outage;
  size_t mean_size; /* of the messages fetched last; the fetcher's alone */

  pthread_cond_t settle_wake;
  settler_state settler;
  bool settler_again; /* at work: something has come up meanwhile */
  flush *flushes;
  wm_outage settle_outage, touch_outage;
  int64_t settle_at; /* not before: the broker did not answer */
  int64_t touch_at;
  int64_t sure_until; /* what is held is still ours, unless the broker says otherwise */
  uint64_t stalled;   /* the message that was warned of last */
  wm_settle_op ops[WM_BATCH_MESSAGES]; /* with the broker; these two are the settler's alone */
  wm_message *gone[WM_BATCH_MESSAGES];
  bool broken_off; /* closing: acks did not reach the broker */

  wm_publisher *dead_publisher; /* made with the first dead letter; the settler's alone */
  unsigned dead_tries;

  /* closing */
  int64_t close_until;
  bool closing_begun, forced;
  wm_done_cb close_cb;
  void *close_arg;

  wm_subscription_stats stats; /* the counters */
  int64_t undecodable_told;    /* when the log last said so; the fetcher's alone */
};

/* What a fetch brought, until it is in the ledger. The fetcher's alone. */
struct wm_sink {
  wm_subscription *sub;
  wm_message **msgs;
  size_t n, room;
};

/* open.c */
/* Takes what `settings` say into the ledger and the fields; under the lock. WM_OK, WM_NOMEM. */
int wm_subscription_apply(wm_subscription *s, const wm_settings *settings);

/* Why it is not open yet, under the lock. */
const char *wm_subscription_open_cause(const wm_subscription *s);

/* consume.c; under the lock */
/* After anything that may have made a message ready, or due sooner: wakes a consumer. */
void wm_subscription_wake(wm_subscription *s, int64_t now);
/* After anything that may have made room: wakes the fetcher if it waits for that. */
void wm_subscription_wake_fetcher(wm_subscription *s, int64_t now);
/* After messages were settled: lets the settler and the fetcher know, if that is worth it. */
void wm_subscription_settled(wm_subscription *s, int64_t now);
/* A consumer looks up at once. */
void wm_subscription_rouse(wm_consumer *con);
/* All of them: it was closed. */
void wm_subscription_wake_all(wm_subscription *s);

/* fetch.c */
void *wm_subscription_fetcher(void *sub);

/* settle.c */
void *wm_subscription_settler(void *sub);
void wm_subscription_wake_settler(wm_subscription *s);

/* dead.c; on the settler, under the lock, which it drops meanwhile */
/* Sends one dead letter that is due; false: there is none. */
bool wm_subscription_send_dead(wm_subscription *s, int64_t now);

/* close.c; on the settler, under the lock, which they drop meanwhile */
/* One step of closing; true: only the end is left. */
bool wm_subscription_closing(wm_subscription *s, int64_t now);
/* Gives everything back but the memory, which goes with the last reference; ends without the lock. */
void wm_subscription_end(wm_subscription *s);

#endif
