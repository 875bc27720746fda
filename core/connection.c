/*
 * connection.c - the one table of connections in the process, and the options of handles. Any thread;
 * the table has a lock of its own, which is never held while a backend is called.
 */
#include "connection.h"

#include <inttypes.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "error.h"
#include "names.h"
#include "sender.h"

enum { MASKED_SIZE = 512 };

static struct {
  pthread_mutex_t lock; /* guards the list, and `users` and `next` of what is in it */
  wm_connection *first;
} table = {PTHREAD_MUTEX_INITIALIZER, NULL};

/* ---- options -------------------------------------------------------------------------------- */

static const wm_option_def no_options[] = {{0}};

static const wm_option_def *options_of(const wm_backend *backend) {
  return backend->options ? backend->options : no_options;
}

static size_t count(const wm_option_def *defs) {
  size_t n = 0;
  while (defs[n].name)
    n++;
  return n;
}

static int copy_options(wm_options *into, const wm_options *from) {
  const char *name, *value;
  for (size_t i = 0; (name = wm_options_at(from, i, &value)) != NULL; i++)
    if (wm_options_set(into, name, value) != WM_OK) return WM_NOMEM;
  return WM_OK;
}

/* Resolves defs from the URL's query and opts, which win. On failure nothing is held. */
static int resolve(const wm_url *url, const wm_options *opts, const wm_option_def *defs,
                   wm_settings *out, wm_error *err) {
  wm_settings s = {.values = calloc(count(defs) + 1, sizeof *s.values), .texts = wm_options_new()};
  int rc = WM_NOMEM;
  if (!s.values || !s.texts || copy_options(s.texts, url->query) != WM_OK ||
      copy_options(s.texts, opts) != WM_OK)
    wm_fail_with(err, rc, "out of memory");
  else
    rc = wm_options_resolve(defs, s.texts, s.values, err);
  if (rc != WM_OK) wm_settings_clear(&s);
  *out = s;
  return rc;
}

/* A query serves every handle that uses the URL, so it may hold what other handles want. */
static int check_names(const wm_url *url, const wm_options *opts, const wm_option_def *defs,
                       const wm_backend *backend, wm_error *err) {
  const wm_option_def *anyones[] = {wm_publisher_options, wm_subscription_options,
                                    options_of(backend)};
  int rc = wm_options_unknown(url->query, anyones, sizeof anyones / sizeof *anyones, err);
  if (rc != WM_OK) return rc;
  const wm_option_def *own[] = {defs, options_of(backend)};
  return wm_options_unknown(opts, own, sizeof own / sizeof *own, err);
}

void wm_settings_clear(wm_settings *settings) {
  free(settings->values);
  wm_options_free(settings->texts);
  *settings = (wm_settings){0};
}

/* ---- opening -------------------------------------------------------------------------------- */

/* A URL, its backend, and both sets of options, before it is known whether there is a connection. */
typedef struct request {
  wm_url *url;
  const wm_backend *backend;
  wm_settings backends, handles; /* settings of the backend, of the handle */
} request;

static void drop_request(request *r) {
  wm_url_free(r->url);
  wm_settings_clear(&r->backends);
  wm_settings_clear(&r->handles);
}

static int read_request(request *r, const char *url, const wm_options *opts,
                        const wm_option_def *defs, wm_error *err) {
  *r = (request){0};
  wm_error unasked;
  if (!err) err = &unasked;
  int rc = wm_url_parse(&r->url, url, err);
  if (rc != WM_OK) goto fail;
  r->backend = wm_backend_find(r->url->scheme, err);
  if (!r->backend) {
    rc = err->code;
    goto fail;
  }
  if ((rc = check_names(r->url, opts, defs, r->backend, err)) != WM_OK) goto fail;
  if ((rc = resolve(r->url, opts, options_of(r->backend), &r->backends, err)) != WM_OK) goto fail;
  if ((rc = resolve(r->url, opts, defs, &r->handles, err)) == WM_OK) return WM_OK;
fail:
  drop_request(r);
  return rc;
}

/* Texts of any content one behind the other, so that different ones never look alike. */
static void put(FILE *f, const char *text) { fprintf(f, "%zu:%s", strlen(text), text); }

/* What makes a connection the same as another. NULL: out of memory. */
static char *make_key(const request *r) {
  char *key = NULL;
  size_t len = 0;
  FILE *f = open_memstream(&key, &len);
  if (!f) return NULL;
  const wm_url *url = r->url;
  put(f, url->scheme);
  fprintf(f, "%d%d", url->has_user, url->has_password);
  put(f, url->user);
  put(f, url->password);
  fprintf(f, "%zu,", url->n_hosts);
  for (size_t i = 0; i < url->n_hosts; i++) {
    put(f, url->hosts[i].name);
    fprintf(f, "%d,", url->hosts[i].port);
  }
  put(f, url->path);
  const wm_option_def *defs = options_of(r->backend);
  for (size_t i = 0; defs[i].name; i++)
    if (defs[i].type == WM_OPT_TEXT)
      put(f, r->backends.values[i].text ? r->backends.values[i].text : "");
    else
      fprintf(f, "%" PRId64 ",", r->backends.values[i].number);
  bool failed = ferror(f);
  if (fclose(f) != 0 || failed) {
    free(key);
    return NULL;
  }
  return key;
}

static wm_connection *find_locked(const char *key) {
  wm_connection *c = table.first;
  while (c && strcmp(c->key, key) != 0)
    c = c->next;
  if (c) c->users++;
  return c;
}

static wm_connection *find(const char *key) {
  pthread_mutex_lock(&table.lock);
  wm_connection *c = find_locked(key);
  pthread_mutex_unlock(&table.lock);
  return c;
}

static void free_connection(wm_connection *c) {
  wm_sender_free(c->sender);
  if (c->handle) c->backend->close(c->handle);
  wm_url_free(c->url);
  free(c->values);
  wm_options_free(c->texts);
  free(c->key);
  free(c);
}

/* A connection with one user that is not in the table. Takes url and backend's settings out of r, and key, also
 * when it fails. */
static int make_connection(wm_connection **out, request *r, char *key, wm_error *err) {
  wm_connection *c = calloc(1, sizeof *c);
  if (!c) {
    free(key);
    return wm_fail_with(err, WM_NOMEM, "out of memory");
  }
  *c = (wm_connection){.backend = r->backend,
                       .masked = r->url->masked,
                       .url = r->url,
                       .values = r->backends.values,
                       .texts = r->backends.texts,
                       .key = key,
                       .users = 1};
  r->url = NULL;
  r->backends = (wm_settings){0};
  c->sender = wm_sender_new(c);
  int rc = c->sender ? c->backend->open(c->url, c->values, &c->handle, err)
                     : wm_fail_with(err, WM_NOMEM, "out of memory");
  if (rc != WM_OK) {
    free_connection(c);
    return rc;
  }
  *out = c;
  return WM_OK;
}

/* Two threads may have made one each for the same key: the first to come here wins. */
static wm_connection *enter(wm_connection *made) {
  pthread_mutex_lock(&table.lock);
  wm_connection *c = find_locked(made->key);
  if (!c) {
    made->next = table.first;
    table.first = c = made;
  }
  pthread_mutex_unlock(&table.lock);
  if (c != made) free_connection(made);
  return c;
}

static int open_request(wm_connection **out, request *r, wm_error *err) {
  char *key = make_key(r);
  if (!key) return wm_fail_with(err, WM_NOMEM, "out of memory");
  *out = find(key);
  if (*out) {
    free(key);
    return WM_OK;
  }
  wm_connection *made = NULL;
  int rc = make_connection(&made, r, key, err);
  if (rc == WM_OK) *out = enter(made);
  return rc;
}

static int name_url(int rc, const char *url, wm_error *err) {
  char masked[MASKED_SIZE];
  if (rc == WM_OK) return rc;
  wm_url_mask(url, masked, sizeof masked);
  wm_error_prefix(err, "%s", masked);
  return rc;
}

int wm_connection_open(wm_connection **out, const char *url, const wm_options *opts,
                       const wm_option_def *defs, wm_settings *settings, wm_error *err) {
  request r;
  int rc = read_request(&r, url, opts, defs, err);
  if (rc != WM_OK) return name_url(rc, url, err);
  rc = open_request(out, &r, err);
  if (rc == WM_OK) {
    *settings = r.handles;
    r.handles = (wm_settings){0};
  }
  drop_request(&r);
  return name_url(rc, url, err);
}

int wm_settings_resolve(wm_settings *settings, const char *url, const wm_options *opts,
                        const wm_option_def *defs, wm_error *err) {
  request r;
  int rc = read_request(&r, url, opts, defs, err);
  if (rc != WM_OK) return name_url(rc, url, err);
  wm_settings_clear(settings);
  *settings = r.handles;
  r.handles = (wm_settings){0};
  drop_request(&r);
  return WM_OK;
}

wm_connection *wm_connection_retain(wm_connection *conn) {
  pthread_mutex_lock(&table.lock);
  conn->users++;
  pthread_mutex_unlock(&table.lock);
  return conn;
}

void wm_connection_release(wm_connection *conn) {
  pthread_mutex_lock(&table.lock);
  bool last = --conn->users == 0;
  if (last) {
    wm_connection **at = &table.first;
    while (*at != conn)
      at = &(*at)->next;
    *at = conn->next;
  }
  pthread_mutex_unlock(&table.lock);
  if (last) free_connection(conn);
}

/* ---- checking ------------------------------------------------------------------------------- */

int wm_connection_check(wm_connection *conn, const char *topic, const char *group,
                        const wm_message *msg, wm_error *err) {
  const wm_backend *b = conn->backend;
  int rc = topic ? wm_name_check("topic", topic, err) : WM_OK;
  if (rc == WM_OK && group) rc = wm_name_check("group", group, err);
  if (rc != WM_OK) return rc;
  if (msg && b->max_payload && msg->payload.len > b->max_payload)
    return wm_fail_with(err, WM_TOO_LARGE, "the payload has %zu bytes; %s takes at most %zu",
                        msg->payload.len, b->name, b->max_payload);
  return b->check ? b->check(conn->handle, topic, group, msg, err) : WM_OK;
}
