/*
 * redis.h - what the files of the Redis Streams backend share. Nothing outside this folder includes
 * it but the backend's own tests.
 *
 *   backend.c    the contract's struct, options, opening, probing
 *   link.c       one socket: connecting, greeting, writing, reading replies, deadlines
 *   reply.c      replies decoded straight into messages
 *   wire.c       entry fields <-> messages; no socket
 *   held.c       the ids that the core holds
 *   publish.c    XADD in batches
 *   subscribe.c  subscribing, unsubscribing
 *   fetch.c      reading, taking over, recovering
 *   settle.c     acks, releases, notes, keeping claims alive
 *   scripts.c    the Lua scripts that run inside the server
 */
#ifndef WM_REDIS_H
#define WM_REDIS_H

#include <hiredis/hiredis.h>
#include <pthread.h>
#include <stdatomic.h>

#include "backend.h"

#define WM_REDIS_PORT 6379
/* Room for a stream id, "<ms>-<seq>", and its NUL. */
#define WM_REDIS_ID_SIZE 48
/* A released entry seems to be idle for so long: every takeover is shorter, so the next one takes
 * it. */
#define WM_REDIS_RELEASED_IDLE_MS "3600000"
/* The consumer that released entries are parked with, so that a member that leaves owns nothing. */
#define WM_REDIS_POOL "wm-released"
/* Ids in one call of a script; Lua's unpack fails at about 8,000. */
#define WM_REDIS_PAGE 1000

/* ---- ids ------------------------------------------------------------------------------------ */

typedef struct wm_redis_id {
  uint64_t ms, seq;
} wm_redis_id;

/* Parses "<ms>-<seq>" or "<ms>"; false when it is neither. */
bool wm_redis_id_parse(const char *text, size_t len, wm_redis_id *out);
size_t wm_redis_id_print(wm_redis_id id, char out[WM_REDIS_ID_SIZE]);
int wm_redis_id_compare(wm_redis_id a, wm_redis_id b);

/* ---- output --------------------------------------------------------------------------------- */

/* Commands on their way out. Running out of memory is remembered until the buffer is cleared. */
typedef struct wm_redis_buf {
  char *data;
  size_t len, cap;
  bool failed;
} wm_redis_buf;

bool wm_redis_reserve(wm_redis_buf *b, size_t more);
/* A command: its number of arguments, then each. */
void wm_redis_begin(wm_redis_buf *b, size_t argc);
void wm_redis_arg(wm_redis_buf *b, const void *data, size_t len);
void wm_redis_text(wm_redis_buf *b, const char *text);
void wm_redis_number(wm_redis_buf *b, long long n);
void wm_redis_id_arg(wm_redis_buf *b, wm_redis_id id);
/* A whole command of texts, ended by NULL. */
void wm_redis_command(wm_redis_buf *b, ...);

/* ---- wire ----------------------------------------------------------------------------------- */

#define WM_REDIS_UUID "_watermill_message_uuid"
#define WM_REDIS_METADATA "metadata"
#define WM_REDIS_PAYLOAD "payload"
/* Where the bytes of a metadata field that is no msgpack map of texts are found. */
#define WM_REDIS_RAW_METADATA "_wm_raw_metadata"

typedef struct wm_redis_field {
  wm_slice name, value;
} wm_redis_field;

/* A message from the fields of one entry; NULL: out of memory. Without a payload field the payload
 * is the whole entry as a msgpack map. Both kinds of damage are named in msg->undecodable. */
wm_message *wm_redis_message(wm_redis_id id, const wm_redis_field *fields, size_t n);

/* Appends XADD topic [MAXLEN ~ maxlen] * uuid metadata payload. */
void wm_redis_xadd(wm_redis_buf *out, const char *topic, int64_t maxlen, const wm_message *msg);

/* ---- replies -------------------------------------------------------------------------------- */

/* How the reply that is read next is built. */
typedef enum wm_redis_shape {
  WM_REDIS_READ,  /* XREAD, XREADGROUP: [[stream, entries]] */
  WM_REDIS_CLAIM, /* the claim script: [cursor, gone, [[id, deliveries]], entries] */
  WM_REDIS_RANGE, /* XCLAIM, XRANGE: entries */
  WM_REDIS_STATE  /* nothing but an answer: an id, a status, an error */
} wm_redis_shape;

typedef struct wm_redis_place {
  size_t name, name_len, value, value_len;
} wm_redis_place;

typedef struct wm_redis_delivery {
  wm_redis_id id;
  unsigned count;
} wm_redis_delivery;

/* A reply as it is decoded. Messages in it belong to whoever owns the batch. */
typedef struct wm_redis_batch {
  wm_redis_shape shape;
  wm_message **msgs;
  size_t n, cap;
  wm_redis_delivery *deliveries;
  size_t n_deliveries, cap_deliveries;
  size_t gone; /* entries that were claimed but no longer exist */
  wm_redis_id cursor;
  bool nil, nomem;
  char error[512]; /* "" or the error reply */

  /* the entry under way: its id, and copies of those of its fields that are complete */
  wm_redis_id id;
  char *scratch;
  size_t used, room;
  wm_redis_place *places;
  wm_redis_field *fields;
  size_t n_places, cap_places;
} wm_redis_batch;

extern redisReplyObjectFunctions wm_redis_batch_functions;

void wm_redis_batch_begin(wm_redis_batch *b,
                          wm_redis_shape shape); /* keeps messages that are in it */
void wm_redis_batch_free(wm_redis_batch *b);

/* ---- links ---------------------------------------------------------------------------------- */

/* What a URL names. Constant once it is open, but for what is said. */
typedef struct wm_redis {
  const char *host, *user, *password; /* NULL: none */
  int port;
  long database;
  const char *consumer; /* NULL: a fresh name for each member */
  int64_t maxlen;
  bool trim_acked;
  int dial_ms, command_ms;
  atomic_flag told;          /* durability gaps were looked for */
  struct wm_redis_link *pub; /* publishing thread */
} wm_redis;

/* One socket. Used by one thread at a time. */
typedef struct wm_redis_link {
  wm_redis *redis;
  int fd;   /* -1: not connected */
  int wake; /* an eventfd that ends waits early, -1: none; not owned */
  redisReader *reader;
  redisReplyObjectFunctions *tree; /* hiredis' own, for replies that are read as a tree */
  wm_redis_buf out;
  size_t sent;      /* of out, since it was last cleared */
  uint64_t written; /* bytes that any of its sockets took */
  int64_t used;     /* when it last heard from the server, monotonic ms */
  bool listens; /* the reply that it waits for may be left for later: being woken ends the wait at
                   once */
  long long id; /* of CLIENT ID, 0 = unknown */
  char *chunk;  /* what read() fills */
} wm_redis_link;

wm_redis_link *wm_redis_link_new(wm_redis *redis, int wake); /* NULL: out of memory */
void wm_redis_link_free(wm_redis_link *l);
/* Connects and greets when there is no connection. *fresh (may be NULL): it made one. WM_OK,
 * WM_CANCELLED (woken), WM_UNREACHABLE, WM_DENIED, ... */
int wm_redis_link_up(wm_redis_link *l, int64_t deadline, bool *fresh, wm_error *err);
void wm_redis_link_down(wm_redis_link *l);
/* Writes what is in out, and reads one reply as the batch's shape says. WM_OK, WM_TIMEOUT (the
 * reply is still to come), WM_CANCELLED (woken, the same), or the connection is down:
 * WM_UNREACHABLE. Error replies are in the batch. */
int wm_redis_receive(wm_redis_link *l, wm_redis_batch *batch, int64_t deadline, wm_error *err);
/* The same as hiredis' tree, which the caller frees. An error reply is WM_OK, too. */
int wm_redis_receive_tree(wm_redis_link *l, redisReply **reply, int64_t deadline, wm_error *err);
/* Reads one tree that must not be an error: then its code, and err says what was tried. */
int wm_redis_expect(wm_redis_link *l, redisReply **reply, int64_t deadline, const char *what,
                    wm_error *err);
/* The code of an error reply; *down: the connection is of no use. */
int wm_redis_code(const char *text, bool *down);
/* Fills err from an error reply to `what`. Returns the code; closes a connection (l may be NULL)
 * that is of no use. */
int wm_redis_refused(wm_redis_link *l, const char *text, const char *what, wm_error *err);
/* The stream or its group is not there. */
bool wm_redis_no_group(const char *text);
/* Warns of what makes stored messages less durable than they seem; once for each wm_redis. */
void wm_redis_tell_durability(wm_redis_link *l);

/* ---- held ids ------------------------------------------------------------------------------- */

/* The ids that the core holds. Fetching thread adds, settling thread removes; its own lock. */
typedef struct wm_redis_held {
  pthread_mutex_t lock; /* guards all of it */
  wm_redis_id *slots;   /* open addressing; ms 0 = free */
  size_t n, size;
} wm_redis_held;

void wm_redis_held_init(wm_redis_held *h);
void wm_redis_held_free(wm_redis_held *h);
/* Adds the messages' ids. Those that are in it already are released, taken out of msgs, and *n is
 * less by them. WM_OK or WM_NOMEM (nothing changed). */
int wm_redis_held_add(wm_redis_held *h, wm_message **msgs, size_t *n);
bool wm_redis_held_has(wm_redis_held *h, wm_redis_id id);
void wm_redis_held_remove(wm_redis_held *h, const wm_redis_id *ids, size_t n);
void wm_redis_held_clear(wm_redis_held *h);

/* ---- subscriptions -------------------------------------------------------------------------- */

typedef struct wm_redis_sub {
  wm_redis *redis;
  char *topic, *group, *member, *lease; /* group NULL: none; lease: its key, NULL: not exclusive */
  int64_t takeover_ms;
  int wake; /* eventfd; any thread */
  wm_redis_held held;

  /* fetching thread */
  wm_redis_link *reader;
  wm_redis_batch batch; /* what is being read, and what is left of it: msgs[next..n) */
  size_t next;
  int64_t kept;             /* when the claims on what is left were made or kept */
  bool waiting;             /* a read was sent, its reply is to come */
  int64_t asked, answer_by; /* when it was sent; when it must have been answered */
  wm_redis_id last;         /* without a group: the last one read */
  wm_redis_id cursor;       /* of the takeover scan */
  int64_t scan_at;          /* when the next one is due */
  bool recover;             /* own pending entries are to be compared with the held ones */
  wm_redis_id recovered;    /* how far that got */
  bool was_mine;            /* they were handed out by an earlier process of the same name */
  double mean;              /* size of a message, 0 = unknown */
  bool leader;              /* exclusive: has the lease */
  int64_t lease_at;         /* when it is to be renewed or asked for */
  bool sweep;               /* the lease is new: take over everything first */

  /* settling thread */
  wm_redis_link *settler;
  int64_t trim_at;
} wm_redis_sub;

int wm_redis_subscribe(void *conn, const wm_sub_spec *spec, void **sub, wm_error *err);
void wm_redis_unsubscribe(void *sub);
void wm_redis_interrupt(void *sub);
int wm_redis_fetch(void *sub, size_t max, size_t bytes, int timeout_ms, wm_sink *sink,
                   wm_error *err);
int wm_redis_settle(void *sub, wm_settle_op *ops, size_t n, wm_error *err);
int wm_redis_touch(void *sub, wm_message *const *msgs, size_t n, bool *lost, wm_error *err);
int wm_redis_publish(void *conn, const wm_outgoing *out, size_t n, int timeout_ms,
                     wm_result *results, wm_error *err);
void wm_redis_publish_close(void *conn);
/* Makes the group, at the oldest entry when it is made anew. */
int wm_redis_make_group(wm_redis_sub *s, wm_redis_link *l, const char *id, int64_t deadline,
                        wm_error *err);
/* Keeps n claims; lost[i] tells which are somebody else's now. n <= WM_REDIS_PAGE. */
int wm_redis_keep(wm_redis_sub *s, wm_redis_link *l, wm_message *const *msgs, size_t n, bool *lost,
                  int64_t deadline, wm_error *err);

static inline wm_redis_id wm_redis_id_of(const wm_message *msg) {
  return (wm_redis_id){msg->token[0], msg->token[1]};
}

/* ---- scripts -------------------------------------------------------------------------------- */

extern const char wm_redis_script_keep[], wm_redis_script_settle[], wm_redis_script_claim[],
    wm_redis_script_leave[], wm_redis_script_sweep[], wm_redis_script_lease[],
    wm_redis_script_unlease[], wm_redis_script_trim[];

#endif
