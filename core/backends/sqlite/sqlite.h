/*
 * sqlite.h - what the files of the SQLite backend share. Nothing outside this folder includes it but the
 * backend's own tests.
 *
 *   backend.c    the contract's struct, options, opening, probing
 *   hub.c        one hub a file and process: the queue of jobs, and turns that carry them out
 *   db.c         the file: opening, settings, transactions, errors
 *   sql.c        statements that name no topic's table
 *   bell.c       the file beside it: how processes see each other
 *   topic.c      a topic's tables and statements
 *   group.c      a group's row, and where a group begins
 *   publish.c    storing
 *   fetch.c      claims on messages, take-overs, waiting
 *   settle.c     acks, releases, notes, keeping claims alive
 *   subscribe.c  subscribing, unsubscribing
 *   retain.c     deleting what nobody needs any more
 *   watch.c      noticing what other processes do
 *   wire.c       columns <-> messages
 *
 * Tables: Watermill's two a topic (`watermill_<topic>`, `watermill_offsets_<topic>`), and ours for all:
 *   wm_group    a group of a topic: `next` is the highest offset that was ever claimed
 *   wm_held     a row a message that a member has claimed and that is not acked; `until` is when the claim
 *               ends (ms since the epoch), `attempt` the number of deliveries begun. member 0: given back
 *   wm_cursor   where subscriptions without a group are, so that what they have not read is not deleted
 * A member is a number: its process id in the upper half, random bits in the lower.
 */
#ifndef WM_SQLITE_H
#define WM_SQLITE_H

#include <pthread.h>
#include <sqlite3.h>
#include <stdatomic.h>
#include <sys/stat.h>
#include <sys/types.h>

#include "backend.h"

typedef struct wm_sqlite_hub wm_sqlite_hub;
typedef struct wm_sqlite_job wm_sqlite_job;
typedef struct wm_sqlite_sub wm_sqlite_sub;

/* ---- wire ------------------------------------------------------------------------------------- */

/* Where the bytes of a metadata column that is no JSON object of texts are found. */
#define WM_SQLITE_RAW_METADATA "_wm_raw_metadata"
/* What `position` and `from` put before an offset; a bare number there is a time. */
#define WM_SQLITE_POSITION "offset:"
/* Room for a time as text, "2026-01-01T00:00:00.000Z", and its NUL. */
#define WM_SQLITE_TIME_SIZE 25

typedef struct wm_sqlite_buf {
  char *data;
  size_t len, cap;
} wm_sqlite_buf;

/* One row of a topic's table; borrowed from the statement. */
typedef struct wm_sqlite_record {
  int64_t offset;
  wm_slice uuid, created_at, payload, metadata;
} wm_sqlite_record;

/* A message from a row; NULL: out of memory. `json` is the prepared WM_SQLITE_JSON_SQL. */
wm_message *wm_sqlite_message(sqlite3_stmt *json, const wm_sqlite_record *record);
#define WM_SQLITE_JSON_SQL "SELECT key, atom, type FROM json_each(?1)"
/* The metadata as a JSON object, in place of what buf held. False: out of memory. */
bool wm_sqlite_put_metadata(wm_sqlite_buf *buf, const wm_message *msg);
/* Can JSON carry it? */
bool wm_sqlite_is_text(wm_slice text);
void wm_sqlite_print_time(int64_t epoch_ms, char out[WM_SQLITE_TIME_SIZE]);
/* RFC 3339, or as SQLite's CURRENT_TIMESTAMP; to ms since the epoch, 0: it is neither. */
int64_t wm_sqlite_parse_time(wm_slice text);

/* ---- the file --------------------------------------------------------------------------------- */

/* Statements that name no topic's table. */
enum wm_sqlite_statement {
  Q_BEGIN,
  Q_COMMIT,
  Q_ROLLBACK,
  Q_SCHEMA_VERSION,
  Q_DATA_VERSION,
  Q_JSON,
  Q_TABLE_NAME,
  Q_SEQUENCE,
  Q_SEQUENCE_MAKE,
  Q_GROUP_MAKE,
  Q_GROUP_SAVE,
  Q_GROUP_HIGHEST,
  Q_GROUP_FORGET,
  Q_HELD_ANY,
  Q_HELD_OWN,
  Q_HELD_LOWEST,
  Q_HELD_COUNT,
  Q_HELD_ACK,
  Q_HELD_RELEASE,
  Q_HELD_NOTE,
  Q_HELD_TOUCH,
  Q_HELD_TAKE,
  Q_HELD_DROP,
  Q_HELD_LEAVE,
  Q_HELD_ORPHANS,
  Q_CURSOR_SAVE,
  Q_CURSOR_DROP,
  Q_CURSOR_RESTART,
  Q_CURSOR_ALL,
  Q_COUNT
};

/* The one connection of a hub. Used by whoever leads a turn. */
typedef struct wm_sqlite_db {
  const char *path;
  sqlite3 *handle; /* NULL: not open */
  dev_t device;    /* what was opened, to notice when it was replaced */
  ino_t inode;
  int bell;                /* <file>-wm: written after what others wait for */
  int64_t slot;            /* the byte of it that stays locked while this process lives */
  bool full;               /* synchronous = FULL, not NORMAL */
  bool waits;              /* others can see that we wait for the file */
  int64_t began, spent;    /* of our transactions, since another process had the file; ms */
  int code;                /* SQLite's, of the last failure */
  int64_t give_up;         /* when a wait for another process's lock ends, monotonic ms */
  const atomic_bool *stop; /* ends it earlier; NULL: nothing does */
  sqlite3_stmt *stmts[Q_COUNT];
} wm_sqlite_db;

/* Makes an empty file where there is none. */
int wm_sqlite_make_file(const char *path, wm_error *err);
int wm_sqlite_db_open(wm_sqlite_db *db, wm_error *err);
void wm_sqlite_db_close(wm_sqlite_db *db);
/* The file that was opened is no longer what its name leads to. */
bool wm_sqlite_db_moved(const wm_sqlite_db *db);
/* After this failure it is of no use. */
bool wm_sqlite_db_broken(const wm_sqlite_db *db);
/* full: the COMMIT waits until it is on disk. */
int wm_sqlite_db_begin(wm_sqlite_db *db, bool full, wm_error *err);
int wm_sqlite_db_commit(wm_sqlite_db *db, wm_error *err);

/* bell.c. Opening takes a slot, too. */
int wm_sqlite_bell_open(wm_sqlite_db *db, const struct stat *file, wm_error *err);
void wm_sqlite_bell_ring(wm_sqlite_db *db);
/* Does the process whose slot this is live? */
bool wm_sqlite_bell_lives(const wm_sqlite_db *db, int64_t slot);
/* Says that we wait for the file, or no longer. */
void wm_sqlite_bell_wait(wm_sqlite_db *db, bool waits);
bool wm_sqlite_bell_others_wait(const wm_sqlite_db *db);

/* NULL: it could not be prepared; the calls below take that as their failure. */
sqlite3_stmt *wm_sqlite_stmt(wm_sqlite_db *db, enum wm_sqlite_statement q);
sqlite3_stmt *wm_sqlite_prepare(wm_sqlite_db *db, const char *sql);
/* Bind values in the order of `types` (i int64_t, t const char *, s wm_slice as text, b wm_slice as blob),
 * and carry the statement out: do to its end; first up to its first row: 1 (the caller resets it), or 0 (there
 * is none); next: 1 or 0 (it is reset). Negative: a WM code. Texts and blobs must outlive the statement's reset. */
int wm_sqlite_do(wm_sqlite_db *db, sqlite3_stmt *stmt, wm_error *err, const char *types, ...);
int wm_sqlite_first(wm_sqlite_db *db, sqlite3_stmt *stmt, wm_error *err, const char *types, ...);
int wm_sqlite_next(wm_sqlite_db *db, sqlite3_stmt *stmt, wm_error *err);
/* One number, `otherwise` where there is no row or it is NULL. */
int wm_sqlite_number(wm_sqlite_db *db, sqlite3_stmt *stmt, int64_t otherwise, int64_t *out,
                     wm_error *err, const char *types, ...);
/* Fills err from SQLite's last failure; returns its WM code. */
int wm_sqlite_fail(wm_sqlite_db *db, int code, wm_error *err);
int wm_sqlite_fail_busy(const char *path, wm_error *err);

/* ---- topics and groups ------------------------------------------------------------------------ */

/* Statements that name a topic's tables. */
enum wm_sqlite_topic_statement {
  T_INSERT,
  T_ROWS,
  T_ANY,
  T_HOLD,
  T_TAKEABLE,
  T_GROUP,
  T_OFFSET,
  T_OFFSETS_SAVE,
  T_OFFSETS_LOWEST,
  T_OFFSETS_RESTART,
  T_LOWEST,
  T_HIGHEST,
  T_FROM,
  T_EMPTY,
  T_TRIM,
  T_COUNT
};

/* What all members of a group in this process know of it. */
typedef struct wm_sqlite_group {
  /* hub's lock */
  char *name;
  size_t users;
  struct wm_sqlite_group *next;

  /* leader */
  int64_t scan_at;  /* when to look for claims that have ended, monotonic ms */
  int64_t returned; /* wm_group.returned when that was done last */
} wm_sqlite_group;

typedef struct wm_sqlite_topic {
  char *name, *table; /* "orders", "watermill_orders" */

  /* hub's lock */
  uint64_t changes; /* commits of this process that its subscriptions wait for */
  size_t users;     /* subscriptions */
  wm_sqlite_group *groups;

  /* leader */
  bool ready;      /* its tables are as they should be */
  bool news;       /* this transaction brings some */
  size_t acked;    /* bytes that may be deleted since it was last trimmed, or more */
  int64_t trim_at; /* monotonic ms */
  sqlite3_stmt *stmts[T_COUNT];
  struct wm_sqlite_topic *next;
} wm_sqlite_topic;

/* Finds or makes what is known of a topic; NULL: out of memory. */
wm_sqlite_topic *wm_sqlite_topic_find(wm_sqlite_hub *h, const char *name);
sqlite3_stmt *wm_sqlite_topic_stmt(wm_sqlite_hub *h, wm_sqlite_topic *t,
                                   enum wm_sqlite_topic_statement q);
/* In a transaction: makes its tables if they are missing. WM_BAD_INPUT: the file has that name in other letters. */
int wm_sqlite_topic_ready(wm_sqlite_hub *h, wm_sqlite_topic *t, wm_error *err);
/* The highest offset that there ever was. */
int wm_sqlite_topic_highest(wm_sqlite_hub *h, wm_sqlite_topic *t, int64_t *out, wm_error *err);
/* With the hub's lock, between turns: forgets those that nobody uses, beyond what is worth keeping. */
void wm_sqlite_topics_trim(wm_sqlite_hub *h);
void wm_sqlite_topics_unprepare(wm_sqlite_hub *h);
void wm_sqlite_topics_free(wm_sqlite_hub *h);

/* Both with the hub's lock. retain: NULL: out of memory. */
wm_sqlite_group *wm_sqlite_group_retain(wm_sqlite_topic *t, const char *name);
void wm_sqlite_group_release(wm_sqlite_topic *t, wm_sqlite_group *g);

/* A group as the file has it. */
typedef struct wm_sqlite_state {
  int64_t id, next, returned, house_until, leader, leader_until;
  int64_t acked, locked_until; /* Watermill's table; -1: no row */
} wm_sqlite_state;

typedef enum wm_sqlite_from_kind {
  WM_SQLITE_OLDEST,
  WM_SQLITE_NEWEST,
  WM_SQLITE_OFFSET,
  WM_SQLITE_TIME
} wm_sqlite_from_kind;

typedef struct wm_sqlite_from {
  wm_sqlite_from_kind kind;
  int64_t value; /* offset, or ms since the epoch */
} wm_sqlite_from;

int wm_sqlite_from_parse(const char *text, wm_sqlite_from *out, wm_error *err);
/* The offset to start after. */
int wm_sqlite_from_find(wm_sqlite_hub *h, wm_sqlite_topic *t, wm_sqlite_from from, int64_t *out,
                        wm_error *err);

/* 1: `now` and `was` hold it; 0: there is none; or a WM code. */
int wm_sqlite_group_get(wm_sqlite_hub *h, wm_sqlite_topic *t, const char *name,
                        wm_sqlite_state *out, wm_error *err);
int wm_sqlite_group_make(wm_sqlite_hub *h, wm_sqlite_topic *t, const char *name,
                         wm_sqlite_from from, wm_sqlite_state *out, wm_error *err);
/* Writes what differs from `was`, and what Watermill's members are to see. */
int wm_sqlite_group_save(wm_sqlite_hub *h, wm_sqlite_topic *t, const char *name,
                         const wm_sqlite_state *was, wm_sqlite_state *now, int64_t takeover_ms,
                         wm_error *err);
/* A member of other software has the group. */
bool wm_sqlite_group_is_foreign(const wm_sqlite_hub *h, const wm_sqlite_state *g);

/* ---- jobs and turns --------------------------------------------------------------------------- */

typedef enum wm_sqlite_job_state { JOB_NEW, JOB_QUEUED, JOB_TAKEN, JOB_DONE } wm_sqlite_job_state;

/* What somebody wants done with the file. */
struct wm_sqlite_job {
  /* Reads only, in no transaction. True: `run` is needed. NULL: it always is. A failure is left to run. */
  bool (*look)(wm_sqlite_hub *h, wm_sqlite_job *job);
  /* In a write transaction. Any failure rolls it back; so it may be called again. NULL: never needed. */
  int (*run)(wm_sqlite_hub *h, wm_sqlite_job *job, wm_error *err);
  /* What run did was rolled back. May be NULL. */
  void (*undo)(wm_sqlite_hub *h, wm_sqlite_job *job);
  bool durable;            /* a crash of the machine must not undo it */
  bool last;               /* after all others of its turn */
  const atomic_bool *stop; /* its caller has been interrupted; NULL: cannot be */
  pthread_cond_t *cond;    /* signalled at its end, and by whoever sets stop */
  int64_t give_up;         /* monotonic ms: when waiting for locks ends */

  /* out */
  int rc;         /* WM_CANCELLED: stopped */
  bool uncertain; /* it failed, and yet it may have been done */
  wm_error error;

  /* hub's */
  wm_sqlite_job_state state;
  bool looked, needed;
  wm_sqlite_job *next;
};

/* What to keep, the longest of all connections. */
typedef enum wm_sqlite_retain_kind { RETAIN_ACKED, RETAIN_TIME, RETAIN_ALL } wm_sqlite_retain_kind;

typedef struct wm_sqlite_retention {
  wm_sqlite_retain_kind kind;
  int64_t ms; /* RETAIN_TIME */
} wm_sqlite_retention;

struct wm_sqlite_hub {
  char *path;

  /* lock of the table of hubs */
  size_t users;
  wm_sqlite_hub *next;

  /* lock */
  pthread_mutex_t lock; /* guards the queue, who leads, and what wakes those who wait */
  wm_sqlite_job *queue;
  bool led;
  wm_sqlite_sub *subs;
  size_t waiting;   /* of subs, for something to change */
  uint64_t foreign; /* changes by others that were noticed */
  wm_sqlite_retention retention;

  /* leader of the turn */
  wm_sqlite_db db;
  wm_sqlite_topic *topics;
  size_t n_topics;
  int64_t schema, data; /* versions as last seen */
  int64_t now;          /* of this turn, ms since the epoch */
  char created_at[WM_SQLITE_TIME_SIZE];
  wm_sqlite_retention keep; /* copy of retention for this turn */
  wm_sqlite_buf scratch;
  int64_t blocked_since,
      blocked_at;                /* when waiting for the file's lock began, and was last given up */
  int64_t grace_ms, grace_until; /* claims last longer by so much, until then; monotonic ms */

  /* watch.c */
  pthread_mutex_t watch_lock; /* guards starting and ending the watcher */
  size_t watchers;            /* subscriptions */
  pthread_t watcher;
  int watch_stop; /* eventfd */
};

/* The hub of a file, made where there is none. */
int wm_sqlite_hub_acquire(wm_sqlite_hub **out, const char *path, wm_sqlite_retention retention,
                          wm_error *err);
void wm_sqlite_hub_release(wm_sqlite_hub *h);
/* Has it done, by this thread or by another that does others' work at once. */
int wm_sqlite_submit(wm_sqlite_hub *h, wm_sqlite_job *job, wm_error *err);
/* For run: what ended before this, ms since the epoch, has ended. */
int64_t wm_sqlite_ended_before(const wm_sqlite_hub *h);
/* For run: the transaction has something that subscriptions to t wait for. */
static inline void wm_sqlite_news(wm_sqlite_topic *t) { t->news = true; }

/* Somebody may have made or deleted tables: then no topic is ready. */
int wm_sqlite_check_schema(wm_sqlite_hub *h, wm_error *err);

/* Each subscription keeps the watcher running. */
int wm_sqlite_watch(wm_sqlite_hub *h, wm_error *err);
void wm_sqlite_unwatch(wm_sqlite_hub *h);

/* ---- connections and subscriptions ------------------------------------------------------------ */

/* What a URL names. */
typedef struct wm_sqlite {
  char *path; /* absolute */
  wm_sqlite_retention retention;
  int64_t busy_ms;
  pthread_mutex_t lock; /* guards hub being found */
  wm_sqlite_hub *hub;   /* NULL: not asked for yet */
} wm_sqlite;

int wm_sqlite_hub_of(wm_sqlite *conn, wm_sqlite_hub **out, wm_error *err);

struct wm_sqlite_sub {
  wm_sqlite *conn;
  wm_sqlite_hub *hub;
  char *topic_name, *group_name; /* group NULL: none */
  int64_t member, takeover_ms;
  bool exclusive;

  /* leader */
  wm_sqlite_topic *topic;
  wm_sqlite_group *group;
  int64_t group_id; /* of the claims that were made last */
  bool leads;       /* exclusive: had the lease when it was last looked at */
  int64_t cursor;   /* without a group: the last one read */
  int64_t stored;   /* what wm_cursor says, at what time (monotonic ms), by whose slot */
  int64_t stored_at, stored_slot;

  /* fetching thread; leader during its turns */
  wm_message **msgs;
  size_t n, room;

  /* hub's lock */
  pthread_cond_t cond;
  uint64_t seen; /* changes when it last began to look */
  wm_sqlite_sub *next;

  atomic_bool stop; /* interrupted; any thread */
};

int wm_sqlite_publish(void *conn, const wm_outgoing *out, size_t n, int timeout_ms,
                      wm_result *results, wm_error *err);
int wm_sqlite_subscribe(void *conn, const wm_sub_spec *spec, void **sub, wm_error *err);
int wm_sqlite_fetch(void *sub, size_t max, size_t bytes, int timeout_ms, wm_sink *sink,
                    wm_error *err);
int wm_sqlite_settle(void *sub, wm_settle_op *ops, size_t n, wm_error *err);
int wm_sqlite_touch(void *sub, wm_message *const *msgs, size_t n, bool *lost, wm_error *err);
void wm_sqlite_interrupt(void *sub);
void wm_sqlite_unsubscribe(void *sub);
/* Deletes what may go, now and then. In a transaction. */
int wm_sqlite_trim(wm_sqlite_hub *h, wm_sqlite_topic *t, wm_error *err);

/* Of a message: offset and group. */
static inline int64_t wm_sqlite_offset_of(const wm_message *msg) { return (int64_t)msg->token[0]; }
static inline int64_t wm_sqlite_group_of(const wm_message *msg) { return (int64_t)msg->token[1]; }

#endif
