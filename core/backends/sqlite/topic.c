/*
 * topic.c - a topic's two tables, as Watermill names and makes them, and the statements that name them. Used by
 * whoever leads the hub's turn.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "error.h"
#include "sqlite.h"

/* Topics that are known without being used by a subscription: their statements are worth keeping. */
enum { IDLE_TOPICS = 256 };

/* For SQLite's own printf: %w is a name within double quotes. */
static const char *const texts[T_COUNT] = {
    [T_INSERT] =
        "INSERT INTO \"watermill_%w\"(uuid, created_at, payload, metadata) VALUES(?1, ?2, ?3, ?4)",
    /* Both have the columns of a record, then attempt, then whether the message is still there. */
    [T_ROWS] = "SELECT \"offset\", uuid, created_at, payload, metadata, 0, 1 FROM \"watermill_%w\""
               " WHERE \"offset\">?1 ORDER BY \"offset\" LIMIT ?2",
    [T_TAKEABLE] =
        "SELECT h.\"offset\", t.uuid, t.created_at, t.payload, t.metadata, h.attempt,"
        " t.\"offset\" IS NOT NULL FROM wm_held h"
        " LEFT JOIN \"watermill_%w\" t ON t.\"offset\"=h.\"offset\""
        " WHERE h.grp_id=?1 AND h.until<?2 AND h.member<>?3 ORDER BY h.\"offset\" LIMIT ?4",
    [T_ANY] = "SELECT 1 FROM \"watermill_%w\" WHERE \"offset\">?1 LIMIT 1",
    [T_HOLD] = "INSERT OR REPLACE INTO wm_held(grp_id, \"offset\", member, until, attempt)"
               " SELECT ?1, \"offset\", ?4, ?5, 1 FROM \"watermill_%w\" WHERE \"offset\" BETWEEN "
               "?2 AND ?3",
    [T_GROUP] = "SELECT g.id, g.next, g.returned, g.house_until, g.leader, g.leader_until,"
                " o.offset_acked, o.locked_until FROM wm_group g"
                " LEFT JOIN \"watermill_offsets_%w\" o ON o.consumer_group=g.grp"
                " WHERE g.topic=?1 AND g.grp=?2",
    [T_OFFSET] = "SELECT offset_acked FROM \"watermill_offsets_%w\" WHERE consumer_group=?1",
    [T_OFFSETS_SAVE] =
        "INSERT INTO \"watermill_offsets_%w\"(consumer_group, offset_acked, locked_until)"
        " VALUES(?1, ?2, ?3) ON CONFLICT(consumer_group) DO UPDATE SET"
        " offset_acked=max(offset_acked, excluded.offset_acked),"
        " locked_until=excluded.locked_until",
    [T_OFFSETS_LOWEST] = "SELECT min(offset_acked) FROM \"watermill_offsets_%w\"",
    [T_OFFSETS_RESTART] = "UPDATE \"watermill_offsets_%w\" SET offset_acked=0, locked_until=0",
    [T_LOWEST] = "SELECT min(\"offset\") FROM \"watermill_%w\"",
    [T_HIGHEST] = "SELECT max(\"offset\") FROM \"watermill_%w\"",
    [T_FROM] = "SELECT \"offset\", created_at FROM \"watermill_%w\" WHERE \"offset\">=?1 ORDER BY "
               "\"offset\" LIMIT 1",
    [T_EMPTY] = "DELETE FROM \"watermill_%w\"",
    [T_TRIM] = "DELETE FROM \"watermill_%w\" WHERE \"offset\"<=?1",
};

static const char message_table[] =
    "CREATE TABLE IF NOT EXISTS \"watermill_%w\"(\"offset\" INTEGER NOT NULL PRIMARY KEY "
    "AUTOINCREMENT,"
    " uuid TEXT NOT NULL, created_at TEXT NOT NULL, payload BLOB, metadata JSON NOT NULL)";
static const char offsets_table[] =
    "CREATE TABLE IF NOT EXISTS \"watermill_offsets_%w\"(consumer_group TEXT NOT NULL,"
    " offset_acked INTEGER NOT NULL, locked_until INTEGER NOT NULL, PRIMARY KEY(consumer_group))";

/* ---- the list --------------------------------------------------------------------------------- */

static void free_topic(wm_sqlite_topic *t) {
  for (size_t i = 0; i < T_COUNT; i++)
    sqlite3_finalize(t->stmts[i]);
  while (t->groups)
    wm_sqlite_group_release(t, t->groups);
  free(t->name);
  free(t->table);
  free(t);
}

static wm_sqlite_topic *new_topic(const char *name) {
  static const char prefix[] = "watermill_";
  wm_sqlite_topic *t = calloc(1, sizeof *t);
  if (!t) return NULL;
  t->name = strdup(name);
  t->table = malloc(sizeof prefix + strlen(name));
  if (t->name && t->table) {
    memcpy(t->table, prefix, sizeof prefix - 1);
    strcpy(t->table + sizeof prefix - 1, name);
    return t;
  }
  free_topic(t);
  return NULL;
}

/* Found ones go to the front: what is used is used again. */
wm_sqlite_topic *wm_sqlite_topic_find(wm_sqlite_hub *h, const char *name) {
  wm_sqlite_topic **at = &h->topics, *t;
  while (*at && strcmp((*at)->name, name) != 0)
    at = &(*at)->next;
  if ((t = *at))
    *at = t->next;
  else if ((t = new_topic(name)))
    h->n_topics++;
  else
    return NULL;
  t->next = h->topics;
  h->topics = t;
  return t;
}

void wm_sqlite_topics_trim(wm_sqlite_hub *h) {
  size_t kept = 0;
  if (h->n_topics <= IDLE_TOPICS) return;
  for (wm_sqlite_topic **at = &h->topics; *at;) {
    wm_sqlite_topic *t = *at;
    if (t->users || ++kept <= IDLE_TOPICS / 2) {
      at = &t->next;
      continue;
    }
    *at = t->next;
    free_topic(t);
    h->n_topics--;
  }
}

void wm_sqlite_topics_unprepare(wm_sqlite_hub *h) {
  for (wm_sqlite_topic *t = h->topics; t; t = t->next) {
    for (size_t i = 0; i < T_COUNT; i++) {
      sqlite3_finalize(t->stmts[i]);
      t->stmts[i] = NULL;
    }
    t->ready = false;
  }
}

void wm_sqlite_topics_free(wm_sqlite_hub *h) {
  while (h->topics) {
    wm_sqlite_topic *t = h->topics;
    h->topics = t->next;
    free_topic(t);
  }
  h->n_topics = 0;
}

sqlite3_stmt *wm_sqlite_topic_stmt(wm_sqlite_hub *h, wm_sqlite_topic *t,
                                   enum wm_sqlite_topic_statement q) {
  if (t->stmts[q]) return t->stmts[q];
  char *sql = sqlite3_mprintf(texts[q], t->name);
  if (sql)
    t->stmts[q] = wm_sqlite_prepare(&h->db, sql);
  else
    h->db.code = SQLITE_NOMEM;
  sqlite3_free(sql);
  return t->stmts[q];
}

wm_sqlite_group *wm_sqlite_group_retain(wm_sqlite_topic *t, const char *name) {
  wm_sqlite_group *g = t->groups;
  while (g && strcmp(g->name, name) != 0)
    g = g->next;
  if (!g) {
    if (!(g = calloc(1, sizeof *g))) return NULL;
    if (!(g->name = strdup(name))) {
      free(g);
      return NULL;
    }
    g->next = t->groups;
    t->groups = g;
  }
  g->users++;
  return g;
}

void wm_sqlite_group_release(wm_sqlite_topic *t, wm_sqlite_group *g) {
  if (g->users && --g->users) return;
  wm_sqlite_group **at = &t->groups;
  while (*at != g)
    at = &(*at)->next;
  *at = g->next;
  free(g->name);
  free(g);
}

/* ---- tables ----------------------------------------------------------------------------------- */

static int create(wm_sqlite_hub *h, wm_sqlite_topic *t, const char *text, wm_error *err) {
  char *sql = sqlite3_mprintf(text, t->name);
  if (!sql) return wm_fail_with(err, WM_NOMEM, "out of memory");
  int rc = sqlite3_exec(h->db.handle, sql, NULL, NULL, NULL);
  sqlite3_free(sql);
  return rc == SQLITE_OK ? WM_OK : wm_sqlite_fail(&h->db, rc, err);
}

/* Table names differ in more than the case of letters. */
static int look_up(wm_sqlite_hub *h, wm_sqlite_topic *t, bool *there, wm_error *err) {
  sqlite3_stmt *stmt = wm_sqlite_stmt(&h->db, Q_TABLE_NAME);
  int rc = wm_sqlite_first(&h->db, stmt, err, "t", t->table);
  *there = rc == 1;
  if (rc != 1) return rc;
  const char *name = (const char *)sqlite3_column_text(stmt, 0);
  rc = WM_OK;
  if (name && strcmp(name, t->table) != 0)
    rc = wm_fail_with(
        err, WM_BAD_INPUT,
        "topic '%s': file '%s' has the topic '%s', and SQLite's table names do not tell small "
        "letters from capitals; use that name, or another file",
        t->name, h->path, name + (strlen(t->table) - strlen(t->name)));
  sqlite3_reset(stmt);
  return rc;
}

int wm_sqlite_topic_highest(wm_sqlite_hub *h, wm_sqlite_topic *t, int64_t *out, wm_error *err) {
  int64_t sequence;
  int rc = wm_sqlite_number(&h->db, wm_sqlite_stmt(&h->db, Q_SEQUENCE), 0, &sequence, err, "t",
                            t->table);
  if (rc == WM_OK)
    rc = wm_sqlite_number(&h->db, wm_sqlite_topic_stmt(h, t, T_HIGHEST), 0, out, err, "");
  if (rc == WM_OK && sequence > *out) *out = sequence;
  return rc;
}

/* Offsets go on where they were when the table was deleted, so that none is given twice. */
static int make_anew(wm_sqlite_hub *h, wm_sqlite_topic *t, wm_error *err) {
  int64_t highest;
  int rc = create(h, t, message_table, err);
  if (rc == WM_OK) rc = create(h, t, offsets_table, err);
  if (rc == WM_OK)
    rc = wm_sqlite_number(&h->db, wm_sqlite_stmt(&h->db, Q_GROUP_HIGHEST), 0, &highest, err, "t",
                          t->name);
  if (rc != WM_OK || highest == 0) return rc;
  return wm_sqlite_do(&h->db, wm_sqlite_stmt(&h->db, Q_SEQUENCE_MAKE), err, "ti", t->table,
                      highest);
}

/* Where other software has made the table anew its offsets begin again, and so do the groups: as others, so that
 * nothing that was claimed of the old table is taken for what is in the new one. */
static int check_restart(wm_sqlite_hub *h, wm_sqlite_topic *t, wm_error *err) {
  int64_t highest, claimed;
  int rc = create(h, t, offsets_table, err);
  if (rc == WM_OK) rc = wm_sqlite_topic_highest(h, t, &highest, err);
  if (rc == WM_OK)
    rc = wm_sqlite_number(&h->db, wm_sqlite_stmt(&h->db, Q_GROUP_HIGHEST), 0, &claimed, err, "t",
                          t->name);
  if (rc != WM_OK || claimed <= highest) return rc;
  rc = wm_sqlite_do(&h->db, wm_sqlite_stmt(&h->db, Q_GROUP_FORGET), err, "t", t->name);
  if (rc == WM_OK) rc = wm_sqlite_do(&h->db, wm_sqlite_stmt(&h->db, Q_HELD_ORPHANS), err, "");
  if (rc == WM_OK)
    rc = wm_sqlite_do(&h->db, wm_sqlite_stmt(&h->db, Q_CURSOR_RESTART), err, "t", t->name);
  if (rc == WM_OK)
    rc = wm_sqlite_do(&h->db, wm_sqlite_topic_stmt(h, t, T_OFFSETS_RESTART), err, "");
  return rc;
}

int wm_sqlite_topic_ready(wm_sqlite_hub *h, wm_sqlite_topic *t, wm_error *err) {
  bool there;
  if (t->ready) return WM_OK;
  int rc = look_up(h, t, &there, err);
  if (rc == WM_OK) rc = there ? check_restart(h, t, err) : make_anew(h, t, err);
  if (rc == WM_OK)
    rc = wm_sqlite_number(&h->db, wm_sqlite_stmt(&h->db, Q_SCHEMA_VERSION), 0, &h->schema, err, "");
  t->ready = rc == WM_OK;
  return rc;
}
