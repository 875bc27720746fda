/*
 * wm.h - libwm: publishers, subscribers, acknowledgement and consumer groups over many message
 * brokers behind one small API.
 *
 * Conventions
 *   - A function returns WM_OK (0) or a negative WM_* code; where it also fills a wm_error, the text
 *     names what happened, to what, where, and the way out (passwords are shown as ***). A wm_error
 *     argument may be NULL.
 *   - *_new/_free have one owner, *_retain/_release are shared, *_open/_close talk to the outside.
 *     A pointer that a getter returns is borrowed from its object.
 *   - C arguments that are times are milliseconds (`int ..._ms`, -1 = no limit) or, for points in
 *     time, milliseconds since the epoch (`int64_t`). Options are text, where a bare number is
 *     seconds and `250ms 30s 5m 2h 7d` are understood; sizes are bytes, also `64k 4M 1G`.
 *   - Every handle may be used from any thread unless its comment says otherwise. No callback is
 *     ever called with a lock of the library held.
 *   - A process that uses the library must not fork without exec: the child has no threads.
 */
#ifndef WM_H
#define WM_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

#define WM_VERSION "0.1.0"

#if defined(__GNUC__)
#define WM_API __attribute__((visibility("default")))
#define WM_PRINTF(fmt, args) __attribute__((format(printf, fmt, args)))
#else
#define WM_API
#define WM_PRINTF(fmt, args)
#endif

/* ---- errors ------------------------------------------------------------------------------- */

/* The codes of every function. Lua shows them without the prefix ("TIMEOUT"). */
enum wm_code {
  WM_OK = 0,
  WM_TIMEOUT = -1,     /* not within the time given; nothing else is wrong */
  WM_CLOSED = -2,      /* the handle is closed, or was closed meanwhile */
  WM_CANCELLED = -3,   /* the waiting task was cancelled (Lua) */
  WM_NOT_SENT = -4,    /* publish: nothing reached the broker; publishing again is safe */
  WM_UNKNOWN = -5,     /* publish: may be stored; publishing again may double it */
  WM_REFUSED = -6,     /* the broker said no, and will say so again */
  WM_DENIED = -7,      /* wrong credentials or missing rights */
  WM_NOT_FOUND = -8,   /* no such topic, group, file */
  WM_TOO_LARGE = -9,   /* over a limit of the broker */
  WM_UNSUPPORTED = -10,/* this broker, or this build, cannot do that */
  WM_BAD_INPUT = -11,  /* an argument, option or URL is wrong */
  WM_REPLY_ERROR = -12,/* request-reply: the other side answered with an error */
  WM_NOMEM = -13,      /* out of memory */
  WM_RETIRED = -14,    /* wm_next: another consumer has taken over the subscription */
  WM_UNREACHABLE = -15 /* the broker cannot be reached now; it may come back */
};

#define WM_ERROR_MAX 1024

typedef struct wm_error {
  int code;                /* a WM_* code */
  char text[WM_ERROR_MAX]; /* one line, NUL terminated, UTF-8 as far as its parts are */
} wm_error;

/* The name of a code without its prefix, "TIMEOUT"; "ERROR" for an unknown one. Static. */
WM_API const char *wm_code_name(int code);

/* ---- log ---------------------------------------------------------------------------------- */

typedef enum wm_log_level { WM_LOG_DEBUG, WM_LOG_INFO, WM_LOG_WARN, WM_LOG_ERROR } wm_log_level;

/* Gets one line without a newline. Called from any thread, also at once from several. */
typedef void (*wm_log_fn)(void *arg, wm_log_level level, const char *text);

/* Sends the library's log to fn (NULL: stderr, the default). Lines below `least` (default
 * WM_LOG_INFO) are not made at all. Call it before other threads use the library. */
WM_API void wm_log_set(wm_log_fn fn, void *arg, wm_log_level least);

/* ---- options ------------------------------------------------------------------------------ */

/* A set of names and values, both text: what a URL's query can hold, too. Not thread-safe. */
typedef struct wm_options wm_options;

WM_API wm_options *wm_options_new(void); /* NULL: out of memory */
WM_API void wm_options_free(wm_options *opts);
/* Copies both; a name set before is replaced. Names and values are checked where the options are
 * used. WM_OK or WM_NOMEM. */
WM_API int wm_options_set(wm_options *opts, const char *name, const char *value);

/* One option as help, manual and check show it. `value` is the default as text, "" when none. */
typedef struct wm_option_info {
  const char *name, *value, *unit, *help; /* static; unit: "duration" "size" "count" "bool" "text" or "a|b|c" */
  const char *where;                      /* "publisher", "subscription", or a backend's name */
} wm_option_info;

/* The i-th known option of any part of this build; false past the last. */
WM_API bool wm_option_list(size_t i, wm_option_info *out);

/* Parses a duration ("30", "250ms", "5m") to ms, a size ("64k") to bytes. WM_OK or WM_BAD_INPUT. */
WM_API int wm_parse_duration(const char *text, int64_t *ms);
WM_API int wm_parse_size(const char *text, int64_t *bytes);

/* ---- messages ----------------------------------------------------------------------------- */

/* A message: uuid, payload, metadata. Immutable and shared by counted references. */
typedef struct wm_message wm_message;

typedef struct wm_slice {
  const char *data; /* not necessarily NUL terminated unless a getter says so; may be NULL when len is 0 */
  size_t len;
} wm_slice;

typedef struct wm_pair {
  wm_slice key, value;
} wm_pair;

/* Room for a uuid's text and its NUL. */
#define WM_UUID_SIZE 37

/* Writes a new random (version 4) uuid. */
WM_API void wm_uuid(char out[WM_UUID_SIZE]);

/* Makes a message with one reference; copies everything. uuid NULL or empty: a new random one.
 * WM_BAD_INPUT: a uuid over 255 bytes or with a NUL, a metadata key that is empty, given twice, or
 * reserved (`_watermill_...`, `_wm_...`). */
WM_API int wm_message_new(wm_message **out, const char *uuid, wm_slice payload,
                          const wm_pair *metadata, size_t pairs, wm_error *err);
WM_API wm_message *wm_message_retain(wm_message *msg); /* returns msg */
WM_API void wm_message_release(wm_message *msg);       /* NULL: nothing */

/* Getters; what they return lives as long as the caller's reference. Slices are NUL terminated
 * (the NUL is not counted). */
WM_API wm_slice wm_message_uuid(const wm_message *msg);
WM_API wm_slice wm_message_payload(const wm_message *msg);
WM_API size_t wm_message_pairs(const wm_message *msg);
WM_API wm_pair wm_message_pair(const wm_message *msg, size_t i); /* i < wm_message_pairs() */
/* The value of a key; data is NULL when there is none. */
WM_API wm_slice wm_message_metadata(const wm_message *msg, const char *key);

/* Of received messages; "", 0 and 0 for others. */
WM_API const char *wm_message_topic(const wm_message *msg);
WM_API unsigned wm_message_attempt(const wm_message *msg);  /* 1 on the first delivery */
WM_API unsigned wm_message_failures(const wm_message *msg); /* times wm_fail was called, this process */
WM_API int64_t wm_message_time(const wm_message *msg);      /* ms since the epoch, 0 = unknown */
/* The broker's own name of the place, as `from` takes it; "" when it has none. */
WM_API const char *wm_message_position(const wm_message *msg);
/* Why the broker's record could not be read; its payload is then the raw bytes. NULL for all others. */
WM_API const char *wm_message_undecodable(const wm_message *msg);

/* ---- publishing --------------------------------------------------------------------------- */

typedef struct wm_publisher wm_publisher;

typedef enum wm_result {
  WM_STORED,         /* the broker has confirmed it */
  WM_RESULT_REFUSED, /* will never work as it is */
  WM_RESULT_NOT_SENT,/* did not reach the broker */
  WM_RESULT_UNKNOWN  /* sent, but no answer: may be stored */
} wm_result;

/* Opens a publisher. No network I/O: a broker that is down is an outage like any later one.
 * opts (may be NULL; copied) win over the URL's query. Options: `timeout` (10s), `order_by`,
 * `queue_bytes` (64M), and the backend's own. WM_BAD_INPUT, WM_UNSUPPORTED, WM_NOMEM. */
WM_API int wm_publisher_open(wm_publisher **out, const char *url, const wm_options *opts, wm_error *err);

/* Publishes n messages to topic and waits until the broker has confirmed all of them, or `timeout`
 * is over. Order is kept. Waits while more than `queue_bytes` are queued. results (may be NULL) gets
 * n values. Returns WM_OK when all are stored, else the code of the worst: WM_BAD_INPUT or
 * WM_TOO_LARGE (then nothing was sent), WM_REFUSED, WM_DENIED, WM_UNKNOWN, WM_NOT_SENT, WM_CLOSED. */
WM_API int wm_publish(wm_publisher *pub, const char *topic, wm_message *const *msgs, size_t n,
                      wm_result *results, wm_error *err);

/* Called once for each accepted wm_publish_async, from a thread of the library or, when nothing is
 * under way, from the publishing one; it must not wait. results has n values and is borrowed. */
typedef void (*wm_publish_cb)(void *arg, int code, const wm_result *results, size_t n, const wm_error *err);

/* The same without waiting: takes its own references and returns. Never waits: over `queue_bytes`
 * it returns WM_TIMEOUT and takes nothing. cb may be NULL. On any other code than WM_OK cb is not
 * called and nothing was queued. */
WM_API int wm_publish_async(wm_publisher *pub, const char *topic, wm_message *const *msgs, size_t n,
                            wm_publish_cb cb, void *arg, wm_error *err);

/* The end of something that was begun without waiting. err is NULL when code is WM_OK. Called once,
 * from a thread of the library; it must not wait. */
typedef void (*wm_done_cb)(void *arg, int code, const wm_error *err);

/* Refuses new messages, sends what is queued (for at most timeout_ms; what remains fails as NOT_SENT),
 * frees the handle. WM_OK, or WM_TIMEOUT when something remained. No other call may use pub
 * afterwards; calls under way in other threads end with their own result. */
WM_API int wm_publisher_close(wm_publisher *pub, int timeout_ms);
WM_API void wm_publisher_close_async(wm_publisher *pub, int timeout_ms, wm_done_cb cb, void *arg);

typedef struct wm_publisher_stats {
  uint64_t stored, refused, not_sent, unknown; /* messages, by their result */
  uint64_t batches;                            /* calls of the backend */
  size_t queued, queued_bytes;                 /* now */
} wm_publisher_stats;

WM_API void wm_publisher_get_stats(wm_publisher *pub, wm_publisher_stats *out);

/* ---- subscribing -------------------------------------------------------------------------- */

typedef struct wm_subscription wm_subscription;
typedef struct wm_consumer wm_consumer;

/* Subscribes to a topic. Returns when the group exists at the broker (or, without a group, the
 * position is fixed), within `connect_timeout`; else WM_UNREACHABLE with the cause, WM_DENIED,
 * WM_NOT_FOUND, WM_UNSUPPORTED, WM_BAD_INPUT. Options by name, with their defaults: wm_option_list. */
WM_API int wm_subscribe(wm_subscription **out, const char *url, const char *topic,
                        const wm_options *opts, wm_error *err);

/* The same without waiting: checks all that needs no network, then goes on in the background, and
 * for ever: `connect_timeout` is not looked at, an outage is only logged. cb (may be NULL) is called
 * once: WM_OK when the group exists, WM_CLOSED when the subscription was closed before, or another
 * code when it will never work (the subscription is then closed but must still be closed). */
WM_API int wm_subscribe_async(wm_subscription **out, const char *url, const char *topic,
                              const wm_options *opts, wm_done_cb cb, void *arg, wm_error *err);

/* Changes, while messages flow, the options that do not say where messages come from (all but
 * group, from, exclusive, takeover, connect_timeout and the backend's own). An option that is not
 * in opts gets its default back. WM_BAD_INPUT: nothing changed. */
WM_API int wm_subscription_configure(wm_subscription *sub, const wm_options *opts, wm_error *err);

WM_API void wm_subscription_pause(wm_subscription *sub);  /* hands out nothing until resumed */
WM_API void wm_subscription_resume(wm_subscription *sub);

/* Waits until the broker has taken every ack given so far. WM_OK, WM_TIMEOUT, WM_CLOSED. */
WM_API int wm_flush(wm_subscription *sub, int timeout_ms);
WM_API void wm_flush_async(wm_subscription *sub, int timeout_ms, wm_done_cb cb, void *arg);

/* Closes gently: no more hand-outs (wm_next returns WM_CLOSED), waits up to timeout_ms (-1: the
 * option `close_timeout`) for what is in flight, settles all, gives the rest back to the group; then
 * frees the handle. Consumers and messages stay valid until released. WM_OK, or WM_TIMEOUT when
 * something in flight was given back unsettled (its later ack returns false). */
WM_API int wm_subscription_close(wm_subscription *sub, int timeout_ms);
WM_API void wm_subscription_close_async(wm_subscription *sub, int timeout_ms, wm_done_cb cb, void *arg);

typedef struct wm_subscription_stats {
  uint64_t fetched, handed_out, acked, nacked, dead, released, lost, undecodable;
  size_t waiting, in_flight, delayed, unsettled; /* now: messages; unsettled: acks under way */
  size_t bytes;                                  /* held now */
  size_t window;                                 /* messages it would hold at most, now */
  uint64_t fetches, settles, retries, switches;  /* backend calls, failed ones, changes of consumers */
  bool connected;
} wm_subscription_stats;

WM_API void wm_subscription_get_stats(wm_subscription *sub, wm_subscription_stats *out);
WM_API const char *wm_subscription_topic(const wm_subscription *sub);
WM_API const char *wm_subscription_group(const wm_subscription *sub); /* "" = none */

/* ---- consuming ---------------------------------------------------------------------------- */

/* A consumer takes messages from one subscription; several share its messages. Each is used by one
 * thread at a time. sub NULL: made now, attached later by wm_subscription_switch. */
WM_API int wm_consumer_open(wm_consumer **out, wm_subscription *sub, wm_error *err);
/* Detaches and frees. What it was handed out stays in flight until it is settled. */
WM_API void wm_consumer_close(wm_consumer *con);

/* The subscription that it is or was last attached to; NULL before. Borrowed until con is closed or attached
 * elsewhere; everything but wm_subscription_close may be called with it, also after it was closed. */
WM_API wm_subscription *wm_consumer_subscription(const wm_consumer *con);

/* Makes these n consumers the ones that get the subscription's messages, at once: all others are
 * retired (wm_next returns WM_RETIRED), none is handed a message afterwards. Prefetched messages,
 * those in flight and their limits stay: nothing is fetched, released or subscribed again. This is
 * hot reload. n = 0 retires all; messages then wait. WM_OK, WM_CLOSED, WM_BAD_INPUT (a consumer is
 * attached elsewhere). */
WM_API int wm_subscription_switch(wm_subscription *sub, wm_consumer *const *cons, size_t n, wm_error *err);

/* Takes up to max messages: one, or with `batch` = n up to n together, or, where max_in_flight allows
 * several and max > 1, several single ones. Each is a reference that the caller releases, settled or
 * not. timeout_ms: 0 = never wait, -1 = for ever. Returns the number (> 0), or WM_TIMEOUT,
 * WM_RETIRED, WM_CLOSED. */
WM_API int wm_next(wm_consumer *con, wm_message **out, size_t max, int timeout_ms);

/* A file descriptor that is readable while wm_next(con, .., 0) has something to say that is not
 * WM_TIMEOUT. Only to be polled; read until wm_next returns WM_TIMEOUT before polling again. */
WM_API int wm_consumer_fd(const wm_consumer *con);

/* Settling. Final, idempotent, never waiting: the first of these wins and returns true, later ones
 * return false. All return false for a message that was not received or whose claim is lost. */
WM_API bool wm_ack(wm_message *msg);
/* Hands it out again after delay_ms (0 = at once); WM_BACKOFF: at once the first time, then after
 * 0.1 s, doubling to 5 s. */
#define WM_BACKOFF (-1)
WM_API bool wm_nack(wm_message *msg, int delay_ms);
/* A nack for a failure: counts it, keeps error and detail (traceback; both may be NULL) for a dead
 * letter. */
WM_API bool wm_fail(wm_message *msg, int delay_ms, const char *error, const char *detail);
/* Moves it to the subscription's dead_letter topic, with the reason in its metadata, then acks it;
 * held and tried again while that cannot be published. False also when there is no dead_letter. */
WM_API bool wm_dead(wm_message *msg, const char *reason, const char *detail);
/* Hands every message that this consumer has in flight out again, to the consumers of now; later
 * acks of the old hand-out return false. Returns how many. For hosts that give up a worker. */
WM_API size_t wm_consumer_reclaim(wm_consumer *con);
/* How many messages it was handed out that are not settled. */
WM_API size_t wm_consumer_in_hand(wm_consumer *con);

/* ---- brokers ------------------------------------------------------------------------------ */

typedef struct wm_backend_info {
  const char *name;    /* "redis" */
  const char *schemes; /* "redis" or "sqlite", several separated by blanks */
  const char *library; /* client library and version, "" for none; static */
  const char *missing; /* NULL when built in, else what would bring it: "libhiredis-dev was not found" */
} wm_backend_info;

/* The i-th broker that libwm knows of, built or not; false past the last. */
WM_API bool wm_backend_list(size_t i, wm_backend_info *out);

/* Called for each line of a probe: a short name ("server", "durability", "limit", "rights") and text;
 * `warning` marks what should be mended. */
typedef void (*wm_probe_fn)(void *arg, const char *name, const char *text, bool warning);

/* Connects, and tells what the broker is: reachability, version, durability class, limits, rights.
 * WM_OK, WM_UNREACHABLE, WM_DENIED, WM_BAD_INPUT, WM_UNSUPPORTED. */
WM_API int wm_probe(const char *url, wm_probe_fn fn, void *arg, wm_error *err);

/* Checks, without network, a URL with options for a subscription to topic (publisher = false) or a
 * publisher. WM_OK or WM_BAD_INPUT / WM_UNSUPPORTED with the text that opening would give. */
WM_API int wm_check(const char *url, const char *topic, const wm_options *opts, bool publisher, wm_error *err);

/* The URL with its password as ***, cut to n bytes. */
WM_API void wm_url_mask(const char *url, char *out, size_t n);

#ifdef __cplusplus
}
#endif
#endif
