/*
 * backend.h - the contract that a broker adapter fulfils.
 *
 * A backend is one `static const wm_backend`, reached through the one table in backends.c; it is the
 * file's only global symbol (`wm_backend_<name>`). It knows this header and its client library, never
 * another backend, and nothing of publishers' queues, ledgers, retries, or Lua. All it does is: move
 * batches. Group commit, order, in-flight limits, nacks, backoff, timeouts and shutdown are the
 * core's, written once. The tests that hold each promise are named in [brackets]; they live in
 * tests/conformance.
 *
 * Levels. A *connection* is what a URL names; the core opens one for each different URL (with the
 * backend's options), shares and counts it. A *subscription* hangs on a connection. There is no
 * "connect" and no "reopen": a backend connects when a call needs it and connects again when a later
 * call finds the connection broken. So every call may fail with WM_UNREACHABLE.
 *
 * Return codes, of every function that returns int:
 *   WM_OK
 *   WM_UNREACHABLE  the broker cannot be asked now. The core waits (50 ms, doubling to 5 s, with
 *                   jitter) and calls again with the same work, for as long as the subscription is
 *                   open or the publish has time. Never loop or back off inside a backend. [reconnect]
 *   WM_DENIED WM_NOT_FOUND WM_UNSUPPORTED WM_REFUSED WM_TOO_LARGE WM_BAD_INPUT
 *                   will never work. At subscribe the caller gets it. Later, at fetch or settle, the
 *                   core treats it as an outage but logs it: nothing ends a subscription. [broker_wiped]
 *   WM_NOMEM
 * On every failure err->text says what happened, to what, and the way out; the core adds the URL.
 *
 * Threads. On one connection: `publish` and `publish_close` come from one thread at a time. On one
 * subscription: `fetch` from one thread, `settle` and `touch` from one other, at the same time;
 * `interrupt` from any, at any time between subscribe and unsubscribe. `subscribe` and `unsubscribe`
 * never overlap another call on the same subscription. Different subscriptions, and publish, overlap
 * freely: what they share on the connection, the backend guards.
 * No call is made with a lock of the core held, and none may call back into the core but through the
 * functions below.
 */
#ifndef WM_BACKEND_H
#define WM_BACKEND_H

#include "message.h"
#include "options.h"
#include "url.h"
#include "wm.h"

/* What a broker can do by its own means. */
enum wm_feature {
  WM_F_GROUPS = 1 << 0,       /* several groups on a topic [consumer_groups] */
  WM_F_ORDERED = 1 << 1,      /* one subscriber sees the order of publishing [order] */
  WM_F_PERSISTENT = 1 << 2,   /* stored messages survive the end of all processes [old_messages, reconnect] */
  WM_F_REPLAY = 1 << 3,       /* a new group can start at the oldest message [old_messages] */
  WM_F_DUPLICATES = 1 << 4,   /* may deliver twice though nothing failed */
  WM_F_FANOUT = 1 << 5,       /* subscriptions without a group */
  WM_F_EXCLUSIVE = 1 << 6,    /* one member of a group at a time */
  WM_F_NATIVE_DELAY = 1 << 7, /* delay at publish */
  WM_F_TX = 1 << 8,           /* exactly once: tx = true */
  WM_F_SERVER = 1 << 9        /* there is a server that can go away [reconnect] */
};

/* What wm_message.attempt is worth after a crash. */
enum wm_attempt_kind { WM_ATTEMPT_NONE, WM_ATTEMPT_UPPER, WM_ATTEMPT_EXACT };

/* When the rest of a group gets what a closing member gives back. */
enum wm_give_back { WM_GIVE_BACK_AT_ONCE, WM_GIVE_BACK_SOON, WM_GIVE_BACK_REBALANCE };

/* What a subscription asks for. Borrowed for the duration of the subscribe call. */
typedef struct wm_sub_spec {
  const char *topic;   /* checked by `check` */
  const char *group;   /* NULL: none, every subscription gets every message from now on */
  const char *from;    /* "oldest", "newest", or a position (decimal epoch seconds or the broker's own); NULL: the
                          oldest where the backend can replay; without a group the newest. Counts only
                          when the group is new. */
  int64_t takeover_ms; /* a member silent for so long is dead; its messages go to others */
  bool exclusive;      /* hand out to one member of the group at a time, the others stand by */
  bool tx;
  const char *member;  /* unique name of this member: <host>-<pid>-<8 hex> */
} wm_sub_spec;

/* A message to publish. Borrowed; key is the value of the publisher's order_by (data NULL: none), for
 * brokers with partition keys. */
typedef struct wm_outgoing {
  const char *topic;
  const wm_message *msg;
  wm_slice key;
} wm_outgoing;

/* What to tell the broker about a fetched message. NACKs do not exist here: they are the core's. */
typedef enum wm_settle_kind {
  WM_SETTLE_ACK,     /* done, never again */
  WM_SETTLE_RELEASE, /* back to the group; `attempt` deliveries really were handed out (0: none) */
  WM_SETTLE_NOTE     /* still held; write down `attempt` so that a crash does not forget it. Backends
                        whose attempt is not WM_ATTEMPT_EXACT ignore it. */
} wm_settle_kind;

typedef struct wm_settle_op {
  wm_settle_kind kind;
  unsigned attempt;
  wm_message *msg; /* borrowed; identified by msg->token and msg->handle */
  bool lost;       /* out: another member has it by now; counted, otherwise like success */
} wm_settle_op;

/* Where fetch puts what came. Not to be kept after fetch has returned. */
typedef struct wm_sink wm_sink;

/* Gives a message made with wm_message_alloc to the core, which owns it from then on. Order of calls =
 * order of delivery. */
void wm_sink_put(wm_sink *sink, wm_message *msg);

/* Declares messages lost (claim taken over, partition revoked, tokens of a dead channel): every message
 * still held for which match says so. Prefetched ones are dropped, handed-out ones stay with their
 * handler, whose ack returns true without effect. `match` is called under the core's lock: no calls
 * back. Messages put into this sink before are included. [paused_process, reconnect] */
typedef bool (*wm_lost_fn)(const wm_message *msg, void *arg);
void wm_sink_lost(wm_sink *sink, wm_lost_fn match, void *arg);

/* Messages that the broker removed before anybody had them (trimmed while pending): logged, counted. */
void wm_sink_gone(wm_sink *sink, size_t n, const char *why);

typedef struct wm_backend {
  const char *name;    /* "redis" */
  const char *schemes; /* separated by blanks: "redis" */
  unsigned features;   /* wm_feature */
  enum wm_attempt_kind attempt;
  enum wm_give_back give_back;
  const wm_option_def *options; /* the connection's own options, ends with a NULL name; in the URL's query or
                                   in an options table, parsed and checked by the core */
  size_t max_payload;           /* a limit known without asking, 0 = none; over it: WM_TOO_LARGE */

  /* Client library and version, for `version`. Static. Mandatory. */
  const char *(*library)(void);

  /* Would this broker take the topic (NULL: not asked), group (NULL: not asked) and message (NULL: not
   * asked)? No I/O, any thread; conn is an open connection. WM_OK, WM_BAD_INPUT, WM_TOO_LARGE,
   * WM_UNSUPPORTED. The core has already checked what holds on every broker. NULL: takes all. [bad_input] */
  int (*check)(void *conn, const char *topic, const char *group, const wm_message *msg, wm_error *err);

  /* Makes a connection object from a URL and its parsed options (values[i] belongs to options[i]; url and values
   * stay valid until close). No network I/O. Mandatory. WM_OK, WM_BAD_INPUT, WM_UNSUPPORTED, WM_NOMEM. */
  int (*open)(const wm_url *url, const wm_option_value *values, void **conn, wm_error *err);

  /* Frees it. All subscriptions are gone, publish_close was called. Does not wait for the network. */
  void (*close)(void *conn);

  /* Tells about the broker: calls fn for each fact. May block for a few seconds. NULL: nothing to tell. */
  int (*probe)(void *conn, wm_probe_fn fn, void *arg, wm_error *err);

  /* Stores n (1..1000, or one message over 4 MiB, otherwise at most 4 MiB) messages as one native batch, in
   * order, and returns when the broker has confirmed what it will, at the latest after timeout_ms. Fills
   * all n results: WM_STORED only for what is confirmed. The core repeats NOT_SENT and UNKNOWN ones itself,
   * in order. Returns WM_OK when every result is STORED or REFUSED, otherwise why not. err says
   * why the first message that failed did. Mandatory. [publish_subscribe, crash_publisher, reconnect] */
  int (*publish)(void *conn, const wm_outgoing *out, size_t n, int timeout_ms, wm_result *results, wm_error *err);

  /* Nothing is published any more: drop what serves only publishing. May be NULL. */
  void (*publish_close)(void *conn);

  /* Makes sure that the group exists (or fixes the position) and returns a subscription. Blocks at most a
   * few seconds, then WM_UNREACHABLE; called again by the core. Mandatory. [old_messages, from_newest] */
  int (*subscribe)(void *conn, const wm_sub_spec *spec, void **sub, wm_error *err);

  /* Waits up to timeout_ms for messages, puts between 0 and max of them, of together about `bytes`
   * (at least one even if it is larger), into the sink, at once when there are any. It is here that
   * messages of dead members are taken over. WM_OK also when nothing came. Must return within 50 ms of
   * an interrupt. What it has put before failing is kept. Mandatory. [slow_consumer, group_share] */
  int (*fetch)(void *sub, size_t max, size_t bytes, int timeout_ms, wm_sink *sink, wm_error *err);

  /* Carries out n (1..1000) ops in order. WM_OK means the broker has taken them all; anything else means none is
   * sure, and all come again (so each must be idempotent). Mandatory. [flush, cancel_subscription] */
  int (*settle)(void *sub, wm_settle_op *ops, size_t n, wm_error *err);

  /* Keeps the claims on these held messages alive for another takeover_ms; called every third of it.
   * Sets lost[i] for what another member has taken meanwhile. NULL: claims need no upkeep. [slow_but_alive] */
  int (*touch)(void *sub, wm_message *const *msgs, size_t n, bool *lost, wm_error *err);

  /* Makes a fetch that waits, or the next one to begin, return soon. Must not block. Mandatory. */
  void (*interrupt)(void *sub);

  /* Ends the subscription; every message was settled or released before, if the broker could be reached.
   * Whatever the broker handed to this member that the core never saw is given back. Frees sub. At most
   * a second of waiting. Mandatory. [continue_after_close, concurrent_close] */
  void (*unsubscribe)(void *sub);
} wm_backend;

/* The table of all known backends: entry i, NULL past the last; `missing` is set (and backend NULL)
 * for those that this build left out. */
typedef struct wm_backend_entry {
  const char *name, *schemes;
  const wm_backend *backend;
  const char *missing;
} wm_backend_entry;

const wm_backend_entry *wm_backend_at(size_t i);
/* Adds one from elsewhere, for the life of the process. WM_OK; WM_BAD_INPUT: one of its schemes is another's;
 * WM_NOMEM: there are too many. */
int wm_backend_register(const wm_backend *b);
/* The backend for a URL's scheme; NULL with WM_BAD_INPUT (unknown; suggests the nearest) or
 * WM_UNSUPPORTED (not in this build) in err. */
const wm_backend *wm_backend_find(const char *scheme, wm_error *err);
/* Checks that a backend is whole; a broken one is a defect of the build (assert). */
void wm_backend_verify(const wm_backend *b);

#endif
