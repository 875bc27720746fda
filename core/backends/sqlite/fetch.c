/*
 * fetch.c - where messages come from: claims that have ended or were given back, then new ones; without a group
 * just the next rows. Fetching thread, and whoever leads the hub's turn for it.
 *
 * A fetch first looks, which only reads. It begins to write when there is something to claim, so that waiting
 * costs no transaction. It waits for the hub's news (commits of this process, and what watch.c notices of
 * others), and for the time to look for claims that have ended.
 */
#include <stdlib.h>
#include <string.h>

#include "clock.h"
#include "error.h"
#include "sqlite.h"

/* How often claims that have ended are looked for: takeover / 10, within these. */
enum { SCAN_PART = 10, SCAN_LEAST_MS = 20, SCAN_MOST_MS = 1000 };
/* How far wm_cursor may be behind what a subscription without a group has read. */
enum { CURSOR_BEHIND = 1000, CURSOR_BEHIND_MS = 1000 };

typedef struct fetching {
  wm_sqlite_job job;
  wm_sqlite_sub *s;
  size_t max, bytes;
  size_t gone;     /* messages that were deleted before anybody acked them */
  bool all_lost;   /* another member has what we held */
  int64_t seen_id; /* of the group; claims of any other are lost */
} fetching;

/* ---- reading rows ----------------------------------------------------------------------------- */

static wm_slice column(sqlite3_stmt *stmt, int i) {
  const char *data = sqlite3_column_blob(stmt, i);
  return (wm_slice){data, data ? (size_t)sqlite3_column_bytes(stmt, i) : 0};
}

static void drop_messages(wm_sqlite_sub *s) {
  for (size_t i = 0; i < s->n; i++)
    wm_message_release(s->msgs[i]);
  s->n = 0;
}

/* The row that the statement stands on, as a message. False: it is more than is wanted, or *rc is a failure. */
static bool add_row(wm_sqlite_hub *h, fetching *f, sqlite3_stmt *stmt, size_t *size, int *rc,
                    wm_error *err) {
  wm_sqlite_sub *s = f->s;
  wm_sqlite_record r = {.offset = sqlite3_column_int64(stmt, 0),
                        .uuid = column(stmt, 1),
                        .created_at = column(stmt, 2),
                        .payload = column(stmt, 3),
                        .metadata = column(stmt, 4)};
  size_t more = r.uuid.len + r.payload.len + r.metadata.len;
  if (s->n && *size + more > f->bytes) return false;
  wm_message *msg = wm_sqlite_message(wm_sqlite_stmt(&h->db, Q_JSON), &r);
  if (!msg) {
    *rc = wm_fail_with(err, WM_NOMEM, "out of memory");
    return false;
  }
  int64_t attempt = sqlite3_column_int64(stmt, 5);
  msg->first_attempt = attempt < 0 ? 1 : attempt >= UINT32_MAX ? UINT32_MAX : (unsigned)attempt + 1;
  msg->redelivered = attempt > 0;
  s->msgs[s->n++] = msg;
  *size += more;
  return true;
}

/* ---- claims ----------------------------------------------------------------------------------- */

static int64_t scan_period(const wm_sqlite_sub *s) {
  int64_t ms = s->takeover_ms / SCAN_PART;
  return ms < SCAN_LEAST_MS ? SCAN_LEAST_MS : ms > SCAN_MOST_MS ? SCAN_MOST_MS : ms;
}

static bool scan_is_due(const wm_sqlite_sub *s, const wm_sqlite_state *g) {
  return wm_now_ms() >= s->group->scan_at || g->returned != s->group->returned ||
         (s->exclusive && g->leader != s->member);
}

/* What ends before this may be taken: who has just got the lease takes everything, nobody else may work on it. */
static int64_t ended_before(const wm_sqlite_hub *h, const wm_sqlite_sub *s,
                            const wm_sqlite_state *g) {
  return s->exclusive && g->leader != s->member ? INT64_MAX : wm_sqlite_ended_before(h);
}

/* May this member claim anything now? */
static bool stands_by(const wm_sqlite_hub *h, const wm_sqlite_sub *s, const wm_sqlite_state *g) {
  if (wm_sqlite_group_is_foreign(h, g)) return true;
  return s->exclusive && g->leader && g->leader != s->member &&
         g->leader_until > wm_sqlite_ended_before(h);
}

static int64_t next_of(const wm_sqlite_state *g) { return g->acked > g->next ? g->acked : g->next; }

static void scanned(wm_sqlite_sub *s, const wm_sqlite_state *g, bool all) {
  s->group->scan_at = all ? wm_now_ms() + scan_period(s) : 0;
  s->group->returned = g->returned;
}

/* Is there something to claim? Failures are left to the transaction. */
static bool look_for_claims(wm_sqlite_hub *h, wm_sqlite_job *job) {
  fetching *f = (fetching *)job;
  wm_sqlite_sub *s = f->s;
  wm_sqlite_state g;
  if (!s->topic->ready) return true;
  if (wm_sqlite_group_get(h, s->topic, s->group_name, &g, NULL) != 1) return true;
  f->seen_id = g.id;
  if (s->leads && g.leader != s->member) {
    f->all_lost = true;
    s->leads = false;
  }
  if (stands_by(h, s, &g)) return false;
  if (scan_is_due(s, &g)) {
    sqlite3_stmt *stmt = wm_sqlite_stmt(&h->db, Q_HELD_ANY);
    int rc = wm_sqlite_first(&h->db, stmt, NULL, "iii", g.id, ended_before(h, s, &g), s->member);
    sqlite3_reset(stmt);
    if (rc != 0) return true;
    if (!s->exclusive || g.leader == s->member) scanned(s, &g, true);
  }
  sqlite3_stmt *stmt = wm_sqlite_topic_stmt(h, s->topic, T_ANY);
  int rc = wm_sqlite_first(&h->db, stmt, NULL, "i", next_of(&g));
  sqlite3_reset(stmt);
  return rc != 0;
}

/* Reads rows whose claims have ended; those whose message is gone are dropped. */
static int take_over(wm_sqlite_hub *h, fetching *f, const wm_sqlite_state *g, size_t *size,
                     wm_error *err) {
  wm_sqlite_sub *s = f->s;
  wm_sqlite_db *db = &h->db;
  int64_t until = h->now + s->takeover_ms, gone[64];
  size_t n_gone = 0, rows = 0;
  bool fits = true;
  sqlite3_stmt *stmt = wm_sqlite_topic_stmt(h, s->topic, T_TAKEABLE);
  int rc = wm_sqlite_first(db, stmt, err, "iiii", g->id, ended_before(h, s, g), s->member,
                           (int64_t)f->max);
  while (rc == 1 && fits && n_gone < sizeof gone / sizeof *gone) {
    rows++;
    if (sqlite3_column_int(stmt, 6))
      fits = add_row(h, f, stmt, size, &rc, err);
    else
      gone[n_gone++] = sqlite3_column_int64(stmt, 0);
    if (fits) rc = wm_sqlite_next(db, stmt, err);
  }
  bool all = rc == 0 && rows < f->max;
  sqlite3_reset(stmt);
  for (size_t i = 0; i < s->n && rc >= 0; i++)
    rc = wm_sqlite_do(db, wm_sqlite_stmt(db, Q_HELD_TAKE), err, "iiii", g->id,
                      wm_sqlite_offset_of(s->msgs[i]), s->member, until);
  for (size_t i = 0; i < n_gone && rc >= 0; i++)
    rc = wm_sqlite_do(db, wm_sqlite_stmt(db, Q_HELD_DROP), err, "ii", g->id, gone[i]);
  f->gone += n_gone;
  if (rc >= 0) scanned(s, g, all);
  return rc < 0 ? rc : WM_OK;
}

static int read_rows(wm_sqlite_hub *h, fetching *f, int64_t after, size_t *size, wm_error *err) {
  bool fits = true;
  sqlite3_stmt *stmt = wm_sqlite_topic_stmt(h, f->s->topic, T_ROWS);
  int rc = wm_sqlite_first(&h->db, stmt, err, "ii", after, (int64_t)(f->max - f->s->n));
  while (rc == 1 && fits) {
    fits = add_row(h, f, stmt, size, &rc, err);
    if (fits) rc = wm_sqlite_next(&h->db, stmt, err);
  }
  sqlite3_reset(stmt);
  return rc < 0 ? rc : WM_OK;
}

/* Claims what comes after all that was ever claimed. */
static int claim_new(wm_sqlite_hub *h, fetching *f, wm_sqlite_state *g, size_t *size,
                     wm_error *err) {
  wm_sqlite_sub *s = f->s;
  size_t before = s->n;
  int64_t after = next_of(g);
  int rc = read_rows(h, f, after, size, err);
  if (rc != WM_OK || s->n == before) return rc;
  int64_t low = wm_sqlite_offset_of(s->msgs[before]), high = wm_sqlite_offset_of(s->msgs[s->n - 1]);
  /* With a time of retention, offsets may have gone before anybody claimed them; elsewise gaps mean nothing. */
  if (h->keep.kind == RETAIN_TIME && after > 0) f->gone += (size_t)(low - after - 1);
  g->next = high;
  return wm_sqlite_do(&h->db, wm_sqlite_topic_stmt(h, s->topic, T_HOLD), err, "iiiii", g->id, low,
                      high, s->member, h->now + s->takeover_ms);
}

static int claim(wm_sqlite_hub *h, wm_sqlite_job *job, wm_error *err) {
  fetching *f = (fetching *)job;
  wm_sqlite_sub *s = f->s;
  wm_sqlite_state was, now;
  size_t size = 0;
  drop_messages(s);
  f->gone = 0;
  int rc = wm_sqlite_topic_ready(h, s->topic, err);
  if (rc == WM_OK) rc = wm_sqlite_group_get(h, s->topic, s->group_name, &was, err);
  if (rc == 0)
    rc = wm_sqlite_group_make(h, s->topic, s->group_name, (wm_sqlite_from){WM_SQLITE_OLDEST, 0},
                              &was, err);
  if (rc < 0) return rc;
  now = was;
  f->seen_id = now.id;
  if (stands_by(h, s, &now)) return WM_OK;
  rc = scan_is_due(s, &now) ? take_over(h, f, &now, &size, err) : WM_OK;
  /* Older ones first: what is left of them comes before anything new. */
  if (rc == WM_OK && s->n < f->max && s->group->scan_at) rc = claim_new(h, f, &now, &size, err);
  if (rc != WM_OK || !s->n) return rc;
  if (s->exclusive) {
    now.leader = s->member;
    now.leader_until = h->now + s->takeover_ms;
    s->leads = true;
  }
  for (size_t i = 0; i < s->n; i++)
    s->msgs[i]->token[1] = (uint64_t)now.id;
  return wm_sqlite_group_save(h, s->topic, s->group_name, &was, &now, s->takeover_ms, err);
}

static void unclaim(wm_sqlite_hub *h, wm_sqlite_job *job) {
  (void)h;
  fetching *f = (fetching *)job;
  drop_messages(f->s);
  f->gone = 0;
  f->s->group->scan_at = 0;
}

/* ---- without a group -------------------------------------------------------------------------- */

static bool cursor_is_behind(const wm_sqlite_hub *h, const wm_sqlite_sub *s) {
  if (s->stored_slot != h->db.slot) return true;
  int64_t behind = s->cursor - s->stored;
  return behind >= CURSOR_BEHIND || (behind > 0 && wm_now_ms() - s->stored_at >= CURSOR_BEHIND_MS);
}

/* Reads; a transaction is needed only for the tables, and now and then for the cursor. */
static bool look_at_rows(wm_sqlite_hub *h, wm_sqlite_job *job) {
  fetching *f = (fetching *)job;
  wm_sqlite_sub *s = f->s;
  size_t size = 0;
  if (!s->topic->ready) return true;
  drop_messages(s);
  if (read_rows(h, f, s->cursor, &size, NULL) != WM_OK) {
    drop_messages(s);
    return true;
  }
  if (s->n) s->cursor = wm_sqlite_offset_of(s->msgs[s->n - 1]);
  return cursor_is_behind(h, s);
}

static int save_cursor(wm_sqlite_hub *h, wm_sqlite_job *job, wm_error *err) {
  fetching *f = (fetching *)job;
  wm_sqlite_sub *s = f->s;
  int64_t highest;
  size_t size = 0;
  int rc = wm_sqlite_topic_ready(h, s->topic, err);
  if (rc == WM_OK) rc = wm_sqlite_topic_highest(h, s->topic, &highest, err);
  if (rc != WM_OK) return rc;
  if (s->cursor > highest) s->cursor = 0; /* the table was made anew */
  if (!s->n && (rc = read_rows(h, f, s->cursor, &size, err)) != WM_OK) return rc;
  if (s->n) s->cursor = wm_sqlite_offset_of(s->msgs[s->n - 1]);
  rc = wm_sqlite_do(&h->db, wm_sqlite_stmt(&h->db, Q_CURSOR_SAVE), err, "tiii", s->topic->name,
                    s->member, s->cursor, h->db.slot);
  s->stored = s->cursor;
  s->stored_at = wm_now_ms();
  s->stored_slot = h->db.slot;
  return rc;
}

static void forget_cursor(wm_sqlite_hub *h, wm_sqlite_job *job) {
  (void)h;
  ((fetching *)job)->s->stored_slot = 0;
}

/* ---- all of it -------------------------------------------------------------------------------- */

static bool is_lost(const wm_message *msg, void *arg) {
  const fetching *f = arg;
  return f->all_lost || wm_sqlite_group_of(msg) != f->seen_id;
}

/* What the turn has brought goes to the core, also when it failed later on. */
static void hand_over(fetching *f, wm_sink *sink) {
  wm_sqlite_sub *s = f->s;
  bool anew = s->group_id && f->seen_id && s->group_id != f->seen_id;
  if (s->group_name && (f->all_lost || anew)) wm_sink_lost(sink, is_lost, f);
  if (f->seen_id) s->group_id = f->seen_id;
  if (f->gone) wm_sink_gone(sink, f->gone, "deleted before they were acked");
  for (size_t i = 0; i < s->n; i++)
    wm_sink_put(sink, s->msgs[i]);
  s->n = 0;
}

static bool make_room(wm_sqlite_sub *s, size_t max) {
  if (s->room >= max) return true;
  wm_message **msgs = realloc(s->msgs, max * sizeof *msgs);
  if (!msgs) return false;
  s->msgs = msgs;
  s->room = max;
  return true;
}

static uint64_t changes_of(const wm_sqlite_sub *s) { return s->topic->changes + s->hub->foreign; }

/* Until there may be something. False: the time is over, or it was interrupted. */
static bool wait_for_news(wm_sqlite_sub *s, int64_t deadline) {
  wm_sqlite_hub *h = s->hub;
  int64_t scan_at = s->group_name ? wm_now_ms() + scan_period(s) : INT64_MAX;
  int64_t until = scan_at < deadline ? scan_at : deadline;
  pthread_mutex_lock(&h->lock);
  h->waiting++;
  while (!atomic_load(&s->stop) && s->seen == changes_of(s) && wm_now_ms() < until)
    wm_cond_wait_until(&s->cond, &h->lock, until);
  h->waiting--;
  pthread_mutex_unlock(&h->lock);
  return !atomic_load(&s->stop) && wm_now_ms() < deadline;
}

static int fetch_once(fetching *f, wm_sink *sink, bool *some, wm_error *err) {
  wm_sqlite_sub *s = f->s;
  pthread_mutex_lock(&s->hub->lock);
  s->seen = changes_of(s);
  pthread_mutex_unlock(&s->hub->lock);
  f->job = (wm_sqlite_job){.look = s->group_name ? look_for_claims : look_at_rows,
                           .run = s->group_name ? claim : save_cursor,
                           .undo = s->group_name ? unclaim : forget_cursor,
                           .last = true,
                           .stop = &s->stop,
                           .cond = &s->cond,
                           .give_up = wm_now_ms() + s->conn->busy_ms};
  f->gone = 0;
  f->all_lost = false;
  f->seen_id = 0;
  int rc = wm_sqlite_submit(s->hub, &f->job, err);
  *some = s->n > 0;
  hand_over(f, sink);
  return *some ? WM_OK : rc;
}

int wm_sqlite_fetch(void *sub, size_t max, size_t bytes, int timeout_ms, wm_sink *sink,
                    wm_error *err) {
  wm_sqlite_sub *s = sub;
  fetching f = {.s = s, .max = max, .bytes = bytes};
  int64_t deadline = timeout_ms < 0 ? INT64_MAX : wm_now_ms() + timeout_ms;
  bool some = false;
  int rc = WM_OK;
  if (!max) return WM_OK;
  if (!make_room(s, max)) return wm_fail_with(err, WM_NOMEM, "out of memory");
  do {
    rc = fetch_once(&f, sink, &some, err);
  } while (rc == WM_OK && !some && wait_for_news(s, deadline));
  if (!some) atomic_store(&s->stop, false);
  return rc == WM_CANCELLED ? WM_OK : rc;
}
