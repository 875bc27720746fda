/*
 * sql.c - statements that name no topic's table: their texts, binding, stepping. Used by whoever leads the hub's
 * turn.
 */
#include <stdarg.h>

#include "error.h"
#include "sqlite.h"

static const char *const texts[Q_COUNT] = {
    [Q_BEGIN] = "BEGIN IMMEDIATE",
    [Q_COMMIT] = "COMMIT",
    [Q_ROLLBACK] = "ROLLBACK",
    [Q_SCHEMA_VERSION] = "PRAGMA schema_version",
    [Q_DATA_VERSION] = "PRAGMA data_version",
    [Q_JSON] = WM_SQLITE_JSON_SQL,
    [Q_TABLE_NAME] = "SELECT name FROM sqlite_master WHERE type='table' AND name=?1 COLLATE NOCASE",
    [Q_SEQUENCE] = "SELECT seq FROM sqlite_sequence WHERE name=?1",
    [Q_SEQUENCE_MAKE] = "INSERT INTO sqlite_sequence(name, seq) VALUES(?1, ?2)",
    [Q_GROUP_MAKE] = "INSERT INTO wm_group(topic, grp, next) VALUES(?1, ?2, ?3)",
    [Q_GROUP_SAVE] =
        "UPDATE wm_group SET next=?2, returned=?3, house_until=?4, leader=?5, leader_until=?6"
        " WHERE id=?1",
    [Q_GROUP_HIGHEST] = "SELECT max(n) FROM (SELECT max(next) AS n FROM wm_group WHERE topic=?1"
                        " UNION ALL SELECT max(next) FROM wm_cursor WHERE topic=?1)",
    [Q_GROUP_FORGET] = "DELETE FROM wm_group WHERE topic=?1",
    [Q_HELD_ANY] = "SELECT 1 FROM wm_held WHERE grp_id=?1 AND until<?2 AND member<>?3 LIMIT 1",
    [Q_HELD_OWN] = "SELECT 1 FROM wm_held WHERE grp_id=?1 AND member=?2 LIMIT 1",
    [Q_HELD_LOWEST] = "SELECT min(\"offset\") FROM wm_held WHERE grp_id=?1",
    [Q_HELD_COUNT] = "SELECT count(*) FROM wm_held WHERE grp_id=?1 AND \"offset\" BETWEEN ?2 AND "
                     "?3 AND member=?4",
    [Q_HELD_ACK] =
        "DELETE FROM wm_held WHERE grp_id=?1 AND \"offset\" BETWEEN ?2 AND ?3 AND member=?4",
    [Q_HELD_RELEASE] = "UPDATE wm_held SET member=0, until=0, attempt=?5"
                       " WHERE grp_id=?1 AND \"offset\" BETWEEN ?2 AND ?3 AND member=?4",
    [Q_HELD_NOTE] = "UPDATE wm_held SET attempt=?5"
                    " WHERE grp_id=?1 AND \"offset\" BETWEEN ?2 AND ?3 AND member=?4",
    [Q_HELD_TOUCH] = "UPDATE wm_held SET until=?5"
                     " WHERE grp_id=?1 AND \"offset\" BETWEEN ?2 AND ?3 AND member=?4",
    [Q_HELD_TAKE] = "UPDATE wm_held SET member=?3, until=?4, attempt=attempt+1 WHERE grp_id=?1 AND "
                    "\"offset\"=?2",
    [Q_HELD_DROP] = "DELETE FROM wm_held WHERE grp_id=?1 AND \"offset\"=?2",
    [Q_HELD_LEAVE] = "UPDATE wm_held SET member=0, until=0 WHERE grp_id=?1 AND member=?2",
    [Q_HELD_ORPHANS] = "DELETE FROM wm_held WHERE grp_id NOT IN (SELECT id FROM wm_group)",
    [Q_CURSOR_SAVE] = "INSERT INTO wm_cursor(topic, member, next, slot) VALUES(?1, ?2, ?3, ?4)"
                      " ON CONFLICT DO UPDATE SET next=excluded.next, slot=excluded.slot",
    [Q_CURSOR_DROP] = "DELETE FROM wm_cursor WHERE topic=?1 AND member=?2",
    [Q_CURSOR_RESTART] = "UPDATE wm_cursor SET next=0 WHERE topic=?1",
    [Q_CURSOR_ALL] = "SELECT member, next, slot FROM wm_cursor WHERE topic=?1",
};

/* ---- statements ------------------------------------------------------------------------------- */

sqlite3_stmt *wm_sqlite_prepare(wm_sqlite_db *db, const char *sql) {
  sqlite3_stmt *stmt = NULL;
  int rc = sqlite3_prepare_v3(db->handle, sql, -1, SQLITE_PREPARE_PERSISTENT, &stmt, NULL);
  if (rc != SQLITE_OK) db->code = rc;
  return stmt;
}

sqlite3_stmt *wm_sqlite_stmt(wm_sqlite_db *db, enum wm_sqlite_statement q) {
  if (!db->stmts[q]) db->stmts[q] = wm_sqlite_prepare(db, texts[q]);
  return db->stmts[q];
}

static int bind_slice(sqlite3_stmt *stmt, int i, wm_slice s, bool text) {
  const char *data = s.len ? s.data : "";
  if (text) return sqlite3_bind_text64(stmt, i, data, s.len, SQLITE_STATIC, SQLITE_UTF8);
  return sqlite3_bind_blob64(stmt, i, data, s.len, SQLITE_STATIC);
}

static int bind_all(sqlite3_stmt *stmt, const char *types, va_list args) {
  int rc = SQLITE_OK;
  for (int i = 0; types[i] && rc == SQLITE_OK; i++) {
    if (types[i] == 'i')
      rc = sqlite3_bind_int64(stmt, i + 1, va_arg(args, int64_t));
    else if (types[i] == 't')
      rc = sqlite3_bind_text(stmt, i + 1, va_arg(args, const char *), -1, SQLITE_STATIC);
    else
      rc = bind_slice(stmt, i + 1, va_arg(args, wm_slice), types[i] == 's');
  }
  return rc;
}

/* The error's text is that of the connection: it must be read before the reset, which may change it. */
static int step(wm_sqlite_db *db, sqlite3_stmt *stmt, wm_error *err) {
  int rc = sqlite3_step(stmt);
  if (rc == SQLITE_ROW) return 1;
  int code = rc == SQLITE_DONE ? 0 : wm_sqlite_fail(db, rc, err);
  sqlite3_reset(stmt);
  return code;
}

static int first(wm_sqlite_db *db, sqlite3_stmt *stmt, wm_error *err, const char *types,
                 va_list args) {
  if (!stmt) return wm_sqlite_fail(db, db->code, err);
  int rc = bind_all(stmt, types, args);
  if (rc != SQLITE_OK) return wm_sqlite_fail(db, rc, err);
  return step(db, stmt, err);
}

int wm_sqlite_first(wm_sqlite_db *db, sqlite3_stmt *stmt, wm_error *err, const char *types, ...) {
  va_list args;
  va_start(args, types);
  int rc = first(db, stmt, err, types, args);
  va_end(args);
  return rc;
}

int wm_sqlite_next(wm_sqlite_db *db, sqlite3_stmt *stmt, wm_error *err) {
  return step(db, stmt, err);
}

int wm_sqlite_do(wm_sqlite_db *db, sqlite3_stmt *stmt, wm_error *err, const char *types, ...) {
  va_list args;
  va_start(args, types);
  int rc = first(db, stmt, err, types, args);
  va_end(args);
  while (rc == 1)
    rc = step(db, stmt, err);
  return rc;
}

int wm_sqlite_number(wm_sqlite_db *db, sqlite3_stmt *stmt, int64_t otherwise, int64_t *out,
                     wm_error *err, const char *types, ...) {
  va_list args;
  *out = otherwise;
  va_start(args, types);
  int rc = first(db, stmt, err, types, args);
  va_end(args);
  if (rc != 1) return rc;
  if (sqlite3_column_type(stmt, 0) != SQLITE_NULL) *out = sqlite3_column_int64(stmt, 0);
  sqlite3_reset(stmt);
  return WM_OK;
}
