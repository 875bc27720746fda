/*
 * backend.c - SQLite: the contract's struct, options, opening and probing. A broker is a file, a topic a table in
 * it; several processes may use it at once. sqlite.h says what lies where.
 */
#include <errno.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/statvfs.h>
#include <unistd.h>

#include "clock.h"
#include "error.h"
#include "sqlite.h"

enum { OPT_RETAIN, OPT_BUSY };

/* SQLite's limit for a row, less what stands beside the payload. */
enum { MAX_PAYLOAD = 1000000000 - 1024 * 1024 };
enum { MAX_TOPIC = 200, SHOWN_KEY = 80 };

static const wm_option_def options[] = {
    [OPT_RETAIN] =
        {.name = "retain",
         .type = WM_OPT_TEXT,
         .value = "acked",
         .help = "what is kept: acked (until every known group has acked it; all, until there is "
                 "one), all, or a duration (what is older is deleted, acked or not)"},
    [OPT_BUSY] =
        {.name = "busy_timeout",
         .type = WM_OPT_DURATION,
         .value = "5s",
         .min = 1,
         .max = 600000,
         .help = "how long another program may have the file locked before it counts as an outage"},
    {0}};

static const char *library(void) {
  static const char text[] = "SQLite " SQLITE_VERSION;
  return sqlite3_libversion_number() == SQLITE_VERSION_NUMBER ? text : sqlite3_libversion();
}

/* ---- opening ---------------------------------------------------------------------------------- */

static int parse_retention(const char *text, wm_sqlite_retention *out, wm_error *err) {
  *out = (wm_sqlite_retention){RETAIN_ACKED, 0};
  if (!text || !*text || strcmp(text, "acked") == 0) return WM_OK;
  out->kind = strcmp(text, "all") == 0 ? RETAIN_ALL : RETAIN_TIME;
  if (out->kind == RETAIN_ALL || (wm_parse_duration(text, &out->ms) == WM_OK && out->ms > 0))
    return WM_OK;
  return wm_fail_with(err, WM_BAD_INPUT,
                      "option 'retain': acked, all, or a duration like 7d expected, got '%s'",
                      text);
}

static int absolute(const char *path, char **out, wm_error *err) {
  char here[PATH_MAX];
  if (*path == '/') {
    *out = strdup(path);
  } else {
    if (!getcwd(here, sizeof here))
      return wm_fail_with(
          err, WM_BAD_INPUT,
          "file '%s' is relative, and the current directory cannot be found (%s); write "
          "sqlite:/path/to/file",
          path, strerror(errno));
    size_t size = strlen(here) + strlen(path) + 2;
    *out = malloc(size);
    if (*out) snprintf(*out, size, "%s/%s", here, path);
  }
  return *out ? WM_OK : wm_fail_with(err, WM_NOMEM, "out of memory");
}

static int check_path(const char *path, wm_error *err) {
  if (!*path)
    return wm_fail_with(err, WM_BAD_INPUT,
                        "the file's name is missing; write sqlite:file.db, or memory: for no file");
  if (strcmp(path, ":memory:") == 0)
    return wm_fail_with(err, WM_BAD_INPUT,
                        "':memory:' is no file; the URL memory: is what it means here");
  return WM_OK;
}

static int open_sqlite(const wm_url *url, const wm_option_value *values, void **conn,
                       wm_error *err) {
  if (!sqlite3_threadsafe())
    return wm_fail_with(
        err, WM_UNSUPPORTED,
        "this SQLite library was built without support for threads; install another");
  int rc = check_path(url->path, err);
  if (rc != WM_OK) return rc;
  wm_sqlite *c = calloc(1, sizeof *c);
  if (!c) return wm_fail_with(err, WM_NOMEM, "out of memory");
  pthread_mutex_init(&c->lock, NULL);
  c->busy_ms = values[OPT_BUSY].number;
  if ((rc = parse_retention(values[OPT_RETAIN].text, &c->retention, err)) != WM_OK) goto fail;
  if ((rc = absolute(url->path, &c->path, err)) != WM_OK) goto fail;
  *conn = c;
  return WM_OK;
fail:
  pthread_mutex_destroy(&c->lock);
  free(c);
  return rc;
}

static void close_sqlite(void *conn) {
  wm_sqlite *c = conn;
  if (c->hub) wm_sqlite_hub_release(c->hub);
  pthread_mutex_destroy(&c->lock);
  free(c->path);
  free(c);
}

int wm_sqlite_hub_of(wm_sqlite *c, wm_sqlite_hub **out, wm_error *err) {
  int rc = WM_OK;
  pthread_mutex_lock(&c->lock);
  if (!c->hub) rc = wm_sqlite_hub_acquire(&c->hub, c->path, c->retention, err);
  *out = c->hub;
  pthread_mutex_unlock(&c->lock);
  return rc;
}

/* ---- checking --------------------------------------------------------------------------------- */

static int check_topic(const char *topic, wm_error *err) {
  if (strlen(topic) > MAX_TOPIC)
    return wm_fail_with(err, WM_BAD_INPUT,
                        "topic '%.*s...' has %zu bytes; SQLite topics have at most %d",
                        (int)wm_cut_utf8(topic, SHOWN_KEY), topic, strlen(topic), MAX_TOPIC);
  if (strncasecmp(topic, "offsets_", strlen("offsets_")) == 0)
    return wm_fail_with(
        err, WM_BAD_INPUT,
        "topic '%s': its table would be the one of the offsets of topic '%s'; take a name that "
        "does not begin with offsets_",
        topic, topic + strlen("offsets_"));
  return WM_OK;
}

static int check(void *conn, const char *topic, const char *group, const wm_message *msg,
                 wm_error *err) {
  (void)conn;
  (void)group;
  int rc = topic ? check_topic(topic, err) : WM_OK;
  for (size_t i = 0; rc == WM_OK && msg && i < msg->pairs; i++) {
    wm_slice key = msg->meta[i].key, value = msg->meta[i].value;
    if (wm_sqlite_is_text(key) && wm_sqlite_is_text(value)) continue;
    rc = wm_fail_with(
        err, WM_BAD_INPUT,
        "metadata '%.*s': SQLite topics keep metadata as JSON, which carries UTF-8 without NUL; "
        "put other bytes into the payload",
        (int)(key.len > SHOWN_KEY ? wm_cut_utf8(key.data, SHOWN_KEY) : key.len), key.data);
  }
  return rc;
}

/* ---- probing ---------------------------------------------------------------------------------- */

typedef struct probing {
  wm_sqlite_job job;
  char mode[16];
} probing;

/* A transaction that writes nothing shows that one is possible. */
static int try_to_write(wm_sqlite_hub *h, wm_sqlite_job *job, wm_error *err) {
  probing *p = (probing *)job;
  sqlite3_stmt *stmt = wm_sqlite_prepare(&h->db, "PRAGMA journal_mode");
  int rc = wm_sqlite_first(&h->db, stmt, err, "");
  if (rc == 1) snprintf(p->mode, sizeof p->mode, "%s", (const char *)sqlite3_column_text(stmt, 0));
  sqlite3_finalize(stmt);
  return rc < 0 ? rc : WM_OK;
}

static int probe(void *conn, wm_probe_fn fn, void *arg, wm_error *err) {
  wm_sqlite *c = conn;
  wm_sqlite_hub *h;
  pthread_cond_t cond;
  struct statvfs fs;
  char text[PATH_MAX + 128];
  probing p = {.job = {.run = try_to_write,
                       .durable = true,
                       .cond = &cond,
                       .give_up = wm_now_ms() + c->busy_ms}};
  int rc = wm_sqlite_hub_of(c, &h, err);
  if (rc != WM_OK) return rc;
  wm_cond_init(&cond);
  rc = wm_sqlite_submit(h, &p.job, err);
  pthread_cond_destroy(&cond);
  if (rc != WM_OK) return rc;
  snprintf(text, sizeof text, "SQLite %s, file %s", sqlite3_libversion(), h->path);
  fn(arg, "server", text, false);
  snprintf(text, sizeof text,
           "every confirmed message is on disk (journal_mode %s, synchronous FULL)", p.mode);
  fn(arg, "durability", text, false);
  if (statvfs(h->path, &fs) == 0) {
    unsigned long long mib = (unsigned long long)fs.f_bavail * fs.f_frsize / (1024 * 1024);
    snprintf(text, sizeof text, "%llu MiB free on its file system, 1000000000 bytes a message",
             mib);
    fn(arg, "limit", text, mib < 100);
  }
  fn(arg, "rights", "this user may write the file and its directory", false);
  return WM_OK;
}

const wm_backend wm_backend_sqlite = {
    .name = "sqlite",
    .schemes = "sqlite",
    .features =
        WM_F_GROUPS | WM_F_ORDERED | WM_F_PERSISTENT | WM_F_REPLAY | WM_F_FANOUT | WM_F_EXCLUSIVE,
    .attempt = WM_ATTEMPT_EXACT,
    .give_back = WM_GIVE_BACK_AT_ONCE,
    .options = options,
    .max_payload = MAX_PAYLOAD,
    .library = library,
    .check = check,
    .open = open_sqlite,
    .close = close_sqlite,
    .probe = probe,
    .publish = wm_sqlite_publish,
    .subscribe = wm_sqlite_subscribe,
    .fetch = wm_sqlite_fetch,
    .settle = wm_sqlite_settle,
    .touch = wm_sqlite_touch,
    .interrupt = wm_sqlite_interrupt,
    .unsubscribe = wm_sqlite_unsubscribe,
};
