/*
 * connection.h - connections by URL, shared and counted; and the settings that a handle is opened with.
 * Any thread may call these; the table of connections has a lock of its own.
 *
 * Two URLs are the same connection when scheme, user, password, hosts, path and the backend's own options
 * are equal: memory topics meet there, SQLite has its one writer, publishers their one queue.
 */
#ifndef WM_CONNECTION_H
#define WM_CONNECTION_H

#include "backend.h"
#include "options.h"

/* The options of a publisher or subscription after all layers: built in < URL < table. Owns the text that
 * its values point to. */
typedef struct wm_settings {
  wm_option_value *values; /* one a definition of its table */
  wm_options *texts;
} wm_settings;

struct wm_sender;

typedef struct wm_connection {
  const wm_backend *backend;
  void *handle;       /* the backend's */
  const char *masked; /* the first URL that named it, without password */
  wm_url *url;
  wm_option_value *values; /* of the backend's options */
  wm_options *texts;       /* what they point to */

  struct wm_sender *sender; /* the one queue of all publishers on this connection (sender.h) */

  /* connection.c */
  char *key;
  size_t users;
  struct wm_connection *next;
} wm_connection;

/* Finds or makes the connection that url and the backend's options in opts (may be NULL) name, and
 * resolves the options of `table` (wm_publisher_options or wm_subscription_options) into settings. The
 * URL's query may have names of both tables, opts only those of `table` and the backend. No network.
 * WM_BAD_INPUT, WM_UNSUPPORTED, WM_NOMEM: nothing is held, the text begins with the masked URL. */
int wm_connection_open(wm_connection **out, const char *url, const wm_options *opts,
                       const wm_option_def *table, wm_settings *settings, wm_error *err);
/* One more user; returns conn. */
wm_connection *wm_connection_retain(wm_connection *conn);
/* The last one closes it. */
void wm_connection_release(wm_connection *conn);

/* Resolves once more, for another opts, for a handle that is open: *settings, which must be zero or hold
 * earlier ones, is replaced on success, untouched else. The backend's own options may stand in opts and
 * are not looked at. Errors as wm_connection_open's. */
int wm_settings_resolve(wm_settings *settings, const char *url, const wm_options *opts,
                        const wm_option_def *table, wm_error *err);
void wm_settings_clear(wm_settings *settings);

/* What holds on every broker (a topic is not empty, has no NUL or control character, is valid UTF-8 and at most
 * 255 bytes; a group likewise; the payload is within the backend's max_payload), then the backend's own check. NULL:
 * not asked. The text does not name the URL. */
int wm_connection_check(wm_connection *conn, const char *topic, const char *group,
                        const wm_message *msg, wm_error *err);

/* A publisher on a connection that is open already, for what the library itself publishes: reserved
 * metadata keys are allowed. `timeout_ms` as the option `timeout`. It holds the connection. */
int wm_publisher_open_on(wm_publisher **out, wm_connection *conn, int timeout_ms, wm_error *err);

#endif
