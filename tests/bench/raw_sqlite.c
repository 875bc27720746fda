/*
 * raw_sqlite.c - the broker's file through SQLite, with prepared statements, in the tables that libwm made.
 */
#include "bench.h"

#include <sqlite3.h>
#include <stdlib.h>
#include <string.h>

enum { BUSY_MS = 10000, SQL_ROOM = 512 };

static void check(sqlite3 *db, int rc, const char *what) {
  if (rc != SQLITE_OK && rc != SQLITE_ROW && rc != SQLITE_DONE)
    bench_die("SQLite: %s: %s", what, sqlite3_errmsg(db));
}

static void run(sqlite3 *db, const char *sql) {
  check(db, sqlite3_exec(db, sql, NULL, NULL, NULL), sql);
}

static sqlite3 *open_file(const char *url, const char *synchronous) {
  char text[SQL_ROOM];
  sqlite3 *db;
  int rc = sqlite3_open_v2(url + strlen("sqlite:"), &db, SQLITE_OPEN_READWRITE, NULL);
  check(db, rc, url);
  sqlite3_busy_timeout(db, BUSY_MS);
  run(db, "PRAGMA journal_mode=WAL");
  snprintf(text, sizeof text, "PRAGMA synchronous=%s", synchronous);
  run(db, text);
  return db;
}

static void *open_full(const char *url) { return open_file(url, "FULL"); }
static void *open_normal(const char *url) { return open_file(url, "NORMAL"); }
static void close_file(void *raw) { sqlite3_close(raw); }

/* A statement on a topic's tables; in `format` %s is the topic. */
static sqlite3_stmt *prepare(sqlite3 *db, const char *format, const char *topic) {
  char sql[SQL_ROOM];
  sqlite3_stmt *statement;
  snprintf(sql, sizeof sql, format, topic, topic);
  check(db, sqlite3_prepare_v2(db, sql, -1, &statement, NULL), sql);
  return statement;
}

static void step(sqlite3 *db, sqlite3_stmt *statement) {
  check(db, sqlite3_step(statement), sqlite3_sql(statement));
  sqlite3_reset(statement);
}

static void publish(void *raw, const char *topic, long n, long depth) {
  sqlite3_stmt *begin = prepare(raw, "BEGIN IMMEDIATE", ""), *commit = prepare(raw, "COMMIT", "");
  sqlite3_stmt *insert = prepare(
      raw, "INSERT INTO \"watermill_%s\"(uuid, created_at, payload, metadata) VALUES(?, ?, ?, ?)",
      topic);
  char uuid[WM_UUID_SIZE];
  sqlite3_bind_text(insert, 2, "2026-01-01T00:00:00Z", -1, SQLITE_STATIC);
  sqlite3_bind_blob(insert, 3, bench_payload, BENCH_PAYLOAD, SQLITE_STATIC);
  sqlite3_bind_blob(insert, 4, "{}", 2, SQLITE_STATIC);
  for (long sent = 0; sent < n; sent += depth) {
    step(raw, begin);
    for (long i = sent; i < n && i < sent + depth; i++) {
      int len = snprintf(uuid, sizeof uuid, "00000000-0000-4000-8000-%012ld", i);
      sqlite3_bind_text(insert, 1, uuid, len, SQLITE_STATIC);
      step(raw, insert);
    }
    step(raw, commit);
  }
  sqlite3_finalize(insert);
  sqlite3_finalize(commit);
  sqlite3_finalize(begin);
}

static void make_group(sqlite3 *db, const char *topic, const char *group) {
  sqlite3_stmt *insert =
      prepare(db,
              "INSERT INTO \"watermill_offsets_%s\"(consumer_group, offset_acked,"
              " locked_until) VALUES(?, 0, 0)",
              topic);
  sqlite3_bind_text(insert, 1, group, -1, SQLITE_STATIC);
  step(db, insert);
  sqlite3_finalize(insert);
}

static long consume(void *raw, const char *topic, const char *group, long n, long depth) {
  make_group(raw, topic, group);
  sqlite3_stmt *begin = prepare(raw, "BEGIN IMMEDIATE", ""), *commit = prepare(raw, "COMMIT", "");
  sqlite3_stmt *read =
      prepare(raw,
              "SELECT \"offset\", uuid, payload, metadata FROM \"watermill_%s\""
              " WHERE \"offset\" > (SELECT offset_acked FROM \"watermill_offsets_%s\""
              " WHERE consumer_group = ?) ORDER BY \"offset\" LIMIT ?",
              topic);
  sqlite3_stmt *ack = prepare(
      raw, "UPDATE \"watermill_offsets_%s\" SET offset_acked = ? WHERE consumer_group = ?", topic);
  sqlite3_bind_text(read, 1, group, -1, SQLITE_STATIC);
  sqlite3_bind_text(ack, 2, group, -1, SQLITE_STATIC);
  long payloads = 0;
  for (long left = n; left > 0;) {
    long some = left < depth ? left : depth;
    sqlite3_int64 offset = 0;
    int rc;
    step(raw, begin);
    sqlite3_bind_int64(read, 2, some);
    while ((rc = sqlite3_step(read)) == SQLITE_ROW) {
      offset = sqlite3_column_int64(read, 0);
      payloads += sqlite3_column_blob(read, 2) && sqlite3_column_bytes(read, 2) == BENCH_PAYLOAD;
      left--;
      some--;
    }
    check(raw, rc, "reading");
    sqlite3_reset(read);
    if (some > 0) bench_die("SQLite: %ld messages are missing", left);
    sqlite3_bind_int64(ack, 1, offset);
    step(raw, ack);
    step(raw, commit);
  }
  sqlite3_finalize(ack);
  sqlite3_finalize(read);
  sqlite3_finalize(commit);
  sqlite3_finalize(begin);
  return payloads;
}

const raw_client raw_sqlite = {"raw SQLite", open_full, close_file, publish, consume};
const raw_client raw_sqlite_normal = {"raw SQLite at synchronous=NORMAL", open_normal, close_file,
                                      publish, consume};
