/*
 * retain.c - deleting messages that nobody needs any more, some at a time, within turns that write anyway. Used
 * by whoever leads the hub's turn.
 *
 * A row that is deleted costs as much as one that is consumed: its page goes through the write-ahead log. A table
 * that is emptied as a whole costs next to nothing. So there is no hurry, until it is about space.
 *
 * `acked`: what every group that the file knows of has acked (Watermill's own groups, too), and every living
 * subscription without a group has read; all, until there is a group. A time: what is older, acked or not.
 */
#include "clock.h"
#include "sqlite.h"

/* A program that starts may make a second group when the first has acked already: what is there is left to it. */
enum { FIRST_TRIM_MS = 10000 };
/* How often it is looked for; and at once when so much may have been acked since. */
enum { TRIM_EVERY_MS = 1000, TRIM_BYTES = 64 * 1024 * 1024 };
/* At most so many rows in one turn, others wait for its end; or so many with all of a table. */
enum { TRIM_AT_ONCE = 5000, EMPTY_AT_ONCE = 100000 };

/* The lowest position of the living subscriptions without a group; forgets those whose process has gone. */
static int lowest_cursor(wm_sqlite_hub *h, wm_sqlite_topic *t, int64_t *out, wm_error *err) {
  int64_t dead[64];
  size_t n = 0;
  sqlite3_stmt *stmt = wm_sqlite_stmt(&h->db, Q_CURSOR_ALL);
  int rc = wm_sqlite_first(&h->db, stmt, err, "t", t->name);
  for (; rc == 1; rc = wm_sqlite_next(&h->db, stmt, err)) {
    int64_t next = sqlite3_column_int64(stmt, 1);
    bool lives = wm_sqlite_bell_lives(&h->db, sqlite3_column_int64(stmt, 2));
    if (lives && next < *out) *out = next;
    if (!lives && n < sizeof dead / sizeof *dead) dead[n++] = sqlite3_column_int64(stmt, 0);
  }
  for (size_t i = 0; i < n && rc == WM_OK; i++)
    rc = wm_sqlite_do(&h->db, wm_sqlite_stmt(&h->db, Q_CURSOR_DROP), err, "ti", t->name, dead[i]);
  return rc;
}

/* The highest offset that may go; 0: none. */
static int find_floor(wm_sqlite_hub *h, wm_sqlite_topic *t, int64_t *out, wm_error *err) {
  if (h->keep.kind == RETAIN_TIME)
    return wm_sqlite_from_find(h, t, (wm_sqlite_from){WM_SQLITE_TIME, h->now - h->keep.ms}, out,
                               err);
  int rc = wm_sqlite_number(&h->db, wm_sqlite_topic_stmt(h, t, T_OFFSETS_LOWEST), 0, out, err, "");
  return rc == WM_OK && *out > 0 ? lowest_cursor(h, t, out, err) : rc;
}

int wm_sqlite_trim(wm_sqlite_hub *h, wm_sqlite_topic *t, wm_error *err) {
  int64_t floor, lowest, highest, now = wm_now_ms();
  if (h->keep.kind == RETAIN_ALL || (h->keep.kind == RETAIN_ACKED && !t->acked)) return WM_OK;
  if (!t->trim_at) t->trim_at = now + (h->keep.kind == RETAIN_ACKED ? FIRST_TRIM_MS : 0);
  if (now < t->trim_at && t->acked < TRIM_BYTES) return WM_OK;
  t->trim_at = now + TRIM_EVERY_MS;
  int rc = find_floor(h, t, &floor, err);
  if (rc == WM_OK)
    rc =
        wm_sqlite_number(&h->db, wm_sqlite_topic_stmt(h, t, T_LOWEST), INT64_MAX, &lowest, err, "");
  if (rc == WM_OK)
    rc = wm_sqlite_number(&h->db, wm_sqlite_topic_stmt(h, t, T_HIGHEST), 0, &highest, err, "");
  if (rc != WM_OK) return rc;
  int64_t rows = floor - lowest + 1;
  bool all = floor >= highest && rows <= EMPTY_AT_ONCE;
  bool more = !all && rows > TRIM_AT_ONCE;
  t->acked = more ? t->acked - t->acked / (size_t)rows * TRIM_AT_ONCE : 0;
  if (lowest > floor) return WM_OK;
  if (all) return wm_sqlite_do(&h->db, wm_sqlite_topic_stmt(h, t, T_EMPTY), err, "");
  return wm_sqlite_do(&h->db, wm_sqlite_topic_stmt(h, t, T_TRIM), err, "i",
                      more ? lowest + TRIM_AT_ONCE - 1 : floor);
}
