/*
 * subscribe.c - making and ending subscriptions. Neither overlaps another call on the same subscription, but for
 * interrupt.
 */
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "clock.h"
#include "error.h"
#include "sqlite.h"

/* What leaving may take. */
enum { LEAVE_MS = 900 };

typedef struct joining {
  wm_sqlite_job job;
  wm_sqlite_sub *s;
  wm_sqlite_from from;
} joining;

typedef struct leaving {
  wm_sqlite_job job;
  wm_sqlite_sub *s;
} leaving;

/* ---- coming ----------------------------------------------------------------------------------- */

static bool hold_topic(wm_sqlite_hub *h, wm_sqlite_sub *s) {
  wm_sqlite_topic *t = wm_sqlite_topic_find(h, s->topic_name);
  if (!t) return false;
  pthread_mutex_lock(&h->lock);
  if (s->group_name) s->group = wm_sqlite_group_retain(t, s->group_name);
  if (s->group || !s->group_name) {
    t->users++;
    s->topic = t;
  }
  pthread_mutex_unlock(&h->lock);
  return s->topic != NULL;
}

static void let_topic_go(wm_sqlite_hub *h, wm_sqlite_sub *s) {
  pthread_mutex_lock(&h->lock);
  if (s->topic) {
    if (s->group) wm_sqlite_group_release(s->topic, s->group);
    s->topic->users--;
  }
  s->topic = NULL;
  s->group = NULL;
  pthread_mutex_unlock(&h->lock);
}

static int join_group(wm_sqlite_hub *h, joining *j, wm_error *err) {
  wm_sqlite_sub *s = j->s;
  wm_sqlite_state g;
  int rc = wm_sqlite_group_get(h, s->topic, s->group_name, &g, err);
  if (rc == 0) rc = wm_sqlite_group_make(h, s->topic, s->group_name, j->from, &g, err);
  if (rc < 0) return rc;
  s->group_id = g.id;
  return WM_OK;
}

static int fix_position(wm_sqlite_hub *h, joining *j, wm_error *err) {
  wm_sqlite_sub *s = j->s;
  int rc = wm_sqlite_from_find(h, s->topic, j->from, &s->cursor, err);
  if (rc == WM_OK)
    rc = wm_sqlite_do(&h->db, wm_sqlite_stmt(&h->db, Q_CURSOR_SAVE), err, "tiii", s->topic_name,
                      s->member, s->cursor, h->db.slot);
  s->stored = s->cursor;
  s->stored_at = wm_now_ms();
  s->stored_slot = h->db.slot;
  return rc;
}

static int join(wm_sqlite_hub *h, wm_sqlite_job *job, wm_error *err) {
  joining *j = (joining *)job;
  if (!hold_topic(h, j->s)) return wm_fail_with(err, WM_NOMEM, "out of memory");
  int rc = wm_sqlite_topic_ready(h, j->s->topic, err);
  if (rc != WM_OK) return rc;
  return j->s->group_name ? join_group(h, j, err) : fix_position(h, j, err);
}

static void unjoin(wm_sqlite_hub *h, wm_sqlite_job *job) { let_topic_go(h, ((joining *)job)->s); }

static void free_sub(wm_sqlite_sub *s) {
  pthread_cond_destroy(&s->cond);
  free(s->topic_name);
  free(s->group_name);
  free(s->msgs);
  free(s);
}

static wm_sqlite_sub *new_sub(wm_sqlite *conn, const wm_sub_spec *spec) {
  wm_sqlite_sub *s = calloc(1, sizeof *s);
  if (!s) return NULL;
  bool group = spec->group && *spec->group;
  s->conn = conn;
  s->member = (int64_t)getpid() << 32 | (int64_t)(wm_random() & UINT32_MAX);
  s->takeover_ms = spec->takeover_ms;
  s->exclusive = spec->exclusive;
  wm_cond_init(&s->cond);
  s->topic_name = strdup(spec->topic);
  s->group_name = group ? strdup(spec->group) : NULL;
  if (s->topic_name && (s->group_name || !group)) return s;
  free_sub(s);
  return NULL;
}

int wm_sqlite_subscribe(void *conn, const wm_sub_spec *spec, void **sub, wm_error *err) {
  wm_sqlite *c = conn;
  wm_sqlite_from from;
  const char *otherwise = spec->group && *spec->group ? "oldest" : "newest";
  if (spec->tx)
    return wm_fail_with(err, WM_UNSUPPORTED,
                        "option 'tx': transactions on SQLite are not supported yet");
  int rc = wm_sqlite_from_parse(spec->from && *spec->from ? spec->from : otherwise, &from, err);
  if (rc != WM_OK) return rc;
  wm_sqlite_sub *s = new_sub(c, spec);
  if (!s) return wm_fail_with(err, WM_NOMEM, "out of memory");
  joining j = {
      .job = {.run = join, .undo = unjoin, .cond = &s->cond, .give_up = wm_now_ms() + c->busy_ms},
      .s = s,
      .from = from};
  if ((rc = wm_sqlite_hub_of(c, &s->hub, err)) != WM_OK) goto fail;
  if ((rc = wm_sqlite_submit(s->hub, &j.job, err)) != WM_OK) goto fail;
  if ((rc = wm_sqlite_watch(s->hub, err)) != WM_OK) {
    let_topic_go(s->hub, s);
    goto fail;
  }
  pthread_mutex_lock(&s->hub->lock);
  s->next = s->hub->subs;
  s->hub->subs = s;
  pthread_mutex_unlock(&s->hub->lock);
  *sub = s;
  return WM_OK;
fail:
  free_sub(s);
  return rc;
}

void wm_sqlite_interrupt(void *sub) {
  wm_sqlite_sub *s = sub;
  atomic_store(&s->stop, true);
  pthread_mutex_lock(&s->hub->lock); /* so that it is not lost between its test and its wait */
  pthread_cond_signal(&s->cond);
  pthread_mutex_unlock(&s->hub->lock);
}

/* ---- going ------------------------------------------------------------------------------------ */

static bool has_left_something(wm_sqlite_hub *h, wm_sqlite_job *job) {
  wm_sqlite_sub *s = ((leaving *)job)->s;
  wm_sqlite_state g;
  if (!s->group_name || !s->topic->ready) return true;
  int rc = wm_sqlite_group_get(h, s->topic, s->group_name, &g, NULL);
  if (rc == 0) return false;
  if (rc < 0 || g.leader == s->member) return true;
  sqlite3_stmt *stmt = wm_sqlite_stmt(&h->db, Q_HELD_OWN);
  rc = wm_sqlite_first(&h->db, stmt, NULL, "ii", g.id, s->member);
  sqlite3_reset(stmt);
  return rc != 0;
}

/* What is still claimed goes back with its count: its release did not get through. */
static int leave(wm_sqlite_hub *h, wm_sqlite_job *job, wm_error *err) {
  wm_sqlite_sub *s = ((leaving *)job)->s;
  wm_sqlite_state was, now;
  if (!s->group_name)
    return wm_sqlite_do(&h->db, wm_sqlite_stmt(&h->db, Q_CURSOR_DROP), err, "ti", s->topic_name,
                        s->member);
  int rc = wm_sqlite_topic_ready(h, s->topic, err);
  if (rc == WM_OK) rc = wm_sqlite_group_get(h, s->topic, s->group_name, &was, err);
  if (rc != 1) return rc;
  now = was;
  rc = wm_sqlite_do(&h->db, wm_sqlite_stmt(&h->db, Q_HELD_LEAVE), err, "ii", now.id, s->member);
  if (now.leader == s->member) now.leader = now.leader_until = 0;
  now.returned++;
  wm_sqlite_news(s->topic);
  return rc == WM_OK
             ? wm_sqlite_group_save(h, s->topic, s->group_name, &was, &now, s->takeover_ms, err)
             : rc;
}

void wm_sqlite_unsubscribe(void *sub) {
  wm_sqlite_sub *s = sub;
  wm_sqlite_hub *h = s->hub;
  leaving l = {.job = {.look = has_left_something,
                       .run = leave,
                       .cond = &s->cond,
                       .give_up = wm_now_ms() + LEAVE_MS},
               .s = s};
  pthread_mutex_lock(&h->lock);
  wm_sqlite_sub **at = &h->subs;
  while (*at != s)
    at = &(*at)->next;
  *at = s->next;
  pthread_mutex_unlock(&h->lock);
  wm_sqlite_submit(h, &l.job,
                   NULL); /* what could not be given back is taken over when its claims end */
  let_topic_go(h, s);
  wm_sqlite_unwatch(h);
  free_sub(s);
}
