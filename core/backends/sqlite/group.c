/*
 * group.c - a group's row in wm_group and in Watermill's table of offsets, and where a group begins. Used by
 * whoever leads the hub's turn, but for parsing.
 *
 * Watermill's own members lock the whole group while they work on a batch: locked_until, unix seconds. While we
 * hold messages we keep that lock ahead of the clock (`house_until` remembers what we wrote), and while a lock
 * that is not ours lasts we claim nothing. offset_acked is the highest offset below which all is acked.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "clock.h"
#include "error.h"
#include "sqlite.h"

/* ---- where to begin --------------------------------------------------------------------------- */

int wm_sqlite_from_parse(const char *text, wm_sqlite_from *out, wm_error *err) {
  static const size_t prefix = sizeof WM_SQLITE_POSITION - 1;
  char *end;
  errno = 0;
  if (strcmp(text, "oldest") == 0) {
    *out = (wm_sqlite_from){WM_SQLITE_OLDEST, 0};
    return WM_OK;
  }
  if (strcmp(text, "newest") == 0) {
    *out = (wm_sqlite_from){WM_SQLITE_NEWEST, 0};
    return WM_OK;
  }
  if (strncmp(text, WM_SQLITE_POSITION, prefix) == 0) {
    long long offset = strtoll(text + prefix, &end, 10);
    *out = (wm_sqlite_from){WM_SQLITE_OFFSET, offset};
    if (end != text + prefix && !*end && !errno && offset >= 0) return WM_OK;
  } else {
    double seconds = strtod(text, &end);
    bool good = end != text && !*end && seconds >= 0 && seconds < 1e12;
    *out = (wm_sqlite_from){WM_SQLITE_TIME, good ? (int64_t)(seconds * 1000 + 0.5) : 0};
    if (good) return WM_OK;
  }
  return wm_fail_with(err, WM_BAD_INPUT,
                      "option 'from': oldest, newest, an epoch in seconds, or a message's position "
                      "(" WM_SQLITE_POSITION "<n>) expected, got '%s'",
                      text);
}

/* Halves what lies between the lowest and the highest: times grow with offsets. */
static int find_time(wm_sqlite_hub *h, wm_sqlite_topic *t, int64_t time, int64_t highest,
                     int64_t *out, wm_error *err) {
  int64_t low, high = highest + 1;
  int rc = wm_sqlite_number(&h->db, wm_sqlite_topic_stmt(h, t, T_LOWEST), high, &low, err, "");
  while (rc == WM_OK && low < high) {
    int64_t middle = low + (high - low) / 2;
    sqlite3_stmt *stmt = wm_sqlite_topic_stmt(h, t, T_FROM);
    if ((rc = wm_sqlite_first(&h->db, stmt, err, "i", middle)) < 0) return rc;
    if (rc == 0) {
      high = middle;
      continue;
    }
    const char *text = (const char *)sqlite3_column_text(stmt, 1);
    wm_slice created = {text, text ? (size_t)sqlite3_column_bytes(stmt, 1) : 0};
    if (wm_sqlite_parse_time(created) >= time)
      high = middle;
    else
      low = sqlite3_column_int64(stmt, 0) + 1;
    sqlite3_reset(stmt);
    rc = WM_OK;
  }
  *out = low - 1;
  return rc;
}

int wm_sqlite_from_find(wm_sqlite_hub *h, wm_sqlite_topic *t, wm_sqlite_from from, int64_t *out,
                        wm_error *err) {
  int64_t highest;
  int rc = wm_sqlite_topic_highest(h, t, &highest, err);
  *out = from.kind == WM_SQLITE_NEWEST ? highest : 0;
  if (from.kind == WM_SQLITE_OFFSET && from.value > 0)
    *out = from.value - 1 < highest ? from.value - 1 : highest;
  if (rc == WM_OK && from.kind == WM_SQLITE_TIME)
    rc = find_time(h, t, from.value, highest, out, err);
  return rc;
}

/* ---- the rows --------------------------------------------------------------------------------- */

int wm_sqlite_group_get(wm_sqlite_hub *h, wm_sqlite_topic *t, const char *name,
                        wm_sqlite_state *out, wm_error *err) {
  sqlite3_stmt *stmt = wm_sqlite_topic_stmt(h, t, T_GROUP);
  int rc = wm_sqlite_first(&h->db, stmt, err, "tt", t->name, name);
  if (rc != 1) return rc;
  *out = (wm_sqlite_state){.id = sqlite3_column_int64(stmt, 0),
                           .next = sqlite3_column_int64(stmt, 1),
                           .returned = sqlite3_column_int64(stmt, 2),
                           .house_until = sqlite3_column_int64(stmt, 3),
                           .leader = sqlite3_column_int64(stmt, 4),
                           .leader_until = sqlite3_column_int64(stmt, 5),
                           .acked = -1,
                           .locked_until = -1};
  if (sqlite3_column_type(stmt, 6) != SQLITE_NULL) {
    out->acked = sqlite3_column_int64(stmt, 6);
    out->locked_until = sqlite3_column_int64(stmt, 7);
  }
  sqlite3_reset(stmt);
  return 1;
}

int wm_sqlite_group_make(wm_sqlite_hub *h, wm_sqlite_topic *t, const char *name,
                         wm_sqlite_from from, wm_sqlite_state *out, wm_error *err) {
  int64_t acked, next;
  wm_sqlite_db *db = &h->db;
  int rc = wm_sqlite_do(db, wm_sqlite_stmt(db, Q_HELD_ORPHANS), err, "");
  if (rc == WM_OK)
    rc = wm_sqlite_number(db, wm_sqlite_topic_stmt(h, t, T_OFFSET), -1, &acked, err, "t", name);
  if (rc != WM_OK) return rc;
  if (acked >= 0)
    next = acked; /* other software's group, which goes on where it is */
  else
    rc = wm_sqlite_from_find(h, t, from, &next, err);
  if (rc == WM_OK)
    rc = wm_sqlite_do(db, wm_sqlite_stmt(db, Q_GROUP_MAKE), err, "tti", t->name, name, next);
  if (rc == WM_OK && acked < 0)
    rc = wm_sqlite_do(db, wm_sqlite_topic_stmt(h, t, T_OFFSETS_SAVE), err, "tii", name, next,
                      (int64_t)0);
  if (rc != WM_OK) return rc;
  rc = wm_sqlite_group_get(h, t, name, out, err);
  return rc == 1 ? WM_OK : rc;
}

bool wm_sqlite_group_is_foreign(const wm_sqlite_hub *h, const wm_sqlite_state *g) {
  return g->locked_until > h->now / 1000 && g->locked_until != g->house_until;
}

static bool same_row(const wm_sqlite_state *a, const wm_sqlite_state *b) {
  return a->next == b->next && a->returned == b->returned && a->house_until == b->house_until &&
         a->leader == b->leader && a->leader_until == b->leader_until;
}

int wm_sqlite_group_save(wm_sqlite_hub *h, wm_sqlite_topic *t, const char *name,
                         const wm_sqlite_state *was, wm_sqlite_state *now, int64_t takeover_ms,
                         wm_error *err) {
  int64_t lowest, ahead = (h->now + takeover_ms) / 1000 + 1;
  wm_sqlite_db *db = &h->db;
  int rc = wm_sqlite_number(db, wm_sqlite_stmt(db, Q_HELD_LOWEST), 0, &lowest, err, "i", now->id);
  if (rc != WM_OK) return rc;
  int64_t acked = lowest ? lowest - 1 : now->next;
  if (acked > now->acked) now->acked = acked;
  if (!wm_sqlite_group_is_foreign(h, now)) {
    if (!lowest)
      now->house_until = 0;
    else if (ahead > now->house_until)
      now->house_until = ahead;
    now->locked_until = now->house_until;
  }
  if (!same_row(was, now))
    rc = wm_sqlite_do(db, wm_sqlite_stmt(db, Q_GROUP_SAVE), err, "iiiiii", now->id, now->next,
                      now->returned, now->house_until, now->leader, now->leader_until);
  if (rc == WM_OK && (now->acked != was->acked || now->locked_until != was->locked_until))
    rc = wm_sqlite_do(db, wm_sqlite_topic_stmt(h, t, T_OFFSETS_SAVE), err, "tii", name, now->acked,
                      now->locked_until);
  return rc;
}
