/*
 * sqlite.c - a fresh file in a fresh directory. Nothing runs; what is written behind the library's back goes
 * through SQLite itself, where the build has it.
 */
#include "brokers.h"

#include <stdio.h>
#include <string.h>
#include <time.h>

static bool start(broker *b, char *why) {
  (void)why;
  snprintf(b->url, sizeof b->url, "sqlite:%s/broker.db", b->dir);
  return true;
}

#ifdef WM_WITH_SQLITE
#include <sqlite3.h>

enum { BUSY_MS = 20000, PAUSE_US = 300 };

/* SQLite's own pauses grow to 100 ms: too long to find a gap among many that ask as often as the library. */
static int on_busy(void *until, int tries) {
  (void)tries;
  nanosleep(&(struct timespec){.tv_nsec = PAUSE_US * 1000}, NULL);
  return broker_now_ms() < *(long long *)until;
}

static bool run(const char *url, const char *sql, char *why) {
  char path[512];
  const char *from = url + strlen("sqlite:");
  snprintf(path, sizeof path, "%.*s", (int)strcspn(from, "?"), from);
  sqlite3 *db;
  char *error = NULL;
  bool good = sqlite3_open_v2(path, &db, SQLITE_OPEN_READWRITE, NULL) == SQLITE_OK;
  long long until = broker_now_ms() + BUSY_MS;
  sqlite3_busy_handler(db, on_busy, &until);
  if (good) good = sqlite3_exec(db, sql, NULL, NULL, &error) == SQLITE_OK;
  if (!good) snprintf(why, BROKER_WHY, "%s: %s", sql, error ? error : sqlite3_errmsg(db));
  sqlite3_free(error);
  sqlite3_close(db);
  return good;
}

static bool wipe(const char *url, const char *topic, const char *group, broker_wipe what, char *why) {
  char sql[1024];
  if (what == WIPE_TOPIC)
    snprintf(sql, sizeof sql, "DROP TABLE \"watermill_%s\"", topic);
  else
    snprintf(sql, sizeof sql,
             "BEGIN IMMEDIATE; DELETE FROM wm_group WHERE topic='%s' AND grp='%s';"
             "DELETE FROM \"watermill_offsets_%s\" WHERE consumer_group='%s'; COMMIT",
             topic, group, topic, group);
  return run(url, sql, why);
}

static bool write_foreign(const char *url, const char *topic, char *why) {
  char sql[1024];
  snprintf(sql, sizeof sql,
           "INSERT INTO \"watermill_%s\"(uuid, created_at, payload, metadata)"
           " VALUES('', '2026-01-01T00:00:00Z', x'32312e35', 'no object')",
           topic);
  return run(url, sql, why);
}

const broker_kind broker_sqlite = {
    .name = "sqlite", .start = start, .wipe = wipe, .write_foreign = write_foreign};
#else
const broker_kind broker_sqlite = {.name = "sqlite", .start = start};
#endif
