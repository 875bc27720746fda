/*
 * group.c - groups: where they start, what their members hold, what came back, and who waits. The
 * topic's lock guards all of it.
 *
 * A group knows an entry for each message that is held or came back; what is below `next` and has
 * none was acked. What came back is always older than what nobody has fetched, so it goes first.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "clock.h"
#include "error.h"
#include "memory.h"

/* ---- where a group starts ------------------------------------------------------------------- */

int wm_memory_start_parse(const char *from, const char *otherwise, wm_memory_start *out,
                          wm_error *err) {
  char *end;
  const size_t prefix = sizeof WM_MEMORY_POSITION - 1;
  if (!from || !*from) from = otherwise;
  *out = (wm_memory_start){.kind = WM_MEMORY_OLDEST};
  if (strcmp(from, "oldest") == 0) return WM_OK;
  out->kind = WM_MEMORY_NEWEST;
  if (strcmp(from, "newest") == 0) return WM_OK;
  errno = 0;
  if (strncmp(from, WM_MEMORY_POSITION, prefix) == 0) {
    out->kind = WM_MEMORY_OFFSET;
    out->value = strtoull(from + prefix, &end, 10);
    if (from[prefix] >= '0' && from[prefix] <= '9' && !*end && !errno) return WM_OK;
  } else {
    double seconds = strtod(from, &end);
    out->kind = WM_MEMORY_TIME;
    if (end != from && !*end && seconds >= 0 && seconds < 1e15) {
      out->value = (uint64_t)(seconds * 1000 + 0.5);
      return WM_OK;
    }
  }
  return wm_fail_with(err, WM_BAD_INPUT,
                      "option 'from': oldest, newest, an epoch in seconds or a position "
                      "(" WM_MEMORY_POSITION "<n>) expected, got '%s'",
                      from);
}

static uint64_t since(const wm_memory_topic *t, int64_t time) {
  for (uint64_t at = 0; (at = wm_memory_strip_skip(&t->log, at)) < t->end; at++) {
    const wm_message *msg = wm_memory_strip_at(&t->log, at)->slot.msg;
    if (msg && msg->time >= time) return at;
  }
  return t->end;
}

static uint64_t resolve(const wm_memory_topic *t, const wm_memory_start *start) {
  uint64_t at = t->end;
  if (start->kind == WM_MEMORY_OLDEST) at = wm_memory_strip_skip(&t->log, 0);
  if (start->kind == WM_MEMORY_OFFSET) at = start->value;
  if (start->kind == WM_MEMORY_TIME) at = since(t, (int64_t)start->value);
  return at < t->end ? at : t->end;
}

/* ---- coming and going ----------------------------------------------------------------------- */

wm_memory_group *wm_memory_group_find(const wm_memory_topic *t, const char *name) {
  wm_memory_group *g = t->groups;
  while (g && !(g->name && strcmp(g->name, name) == 0))
    g = g->next_group;
  return g;
}

wm_memory_group *wm_memory_group_add(wm_memory_topic *t, const char *name,
                                     const wm_memory_start *start) {
  wm_memory_group *g = calloc(1, sizeof *g);
  if (!g) return NULL;
  if (name && !(g->name = strdup(name))) {
    free(g);
    return NULL;
  }
  g->next = g->look_from = resolve(t, start);
  for (uint64_t at = g->next; (at = wm_memory_strip_skip(&t->log, at)) < t->end; at++) {
    wm_memory_slot *slot = &wm_memory_strip_at(&t->log, at)->slot;
    if (slot->msg) slot->wanted++;
  }
  g->next_group = t->groups;
  t->groups = g;
  t->n_groups++;
  if (name) t->grouped = true;
  return g;
}

void wm_memory_group_free(wm_memory_group *g) {
  wm_memory_strip_free(&g->entries);
  free(g->name);
  free(g);
}

/* Has the group yet to ack that stored message? */
static bool wants(const wm_memory_group *g, uint64_t at) {
  if (at >= g->next) return true;
  const wm_memory_item *item = wm_memory_strip_at(&g->entries, at);
  return item && item->entry.state != WM_MEMORY_SETTLED;
}

static void forget_released(wm_memory_group *g, uint64_t at) {
  const wm_memory_item *item = wm_memory_strip_at(&g->entries, at);
  if (!item || item->entry.state != WM_MEMORY_RELEASED) return;
  wm_memory_strip_remove(&g->entries, at);
  g->released--;
  g->gone++;
}

void wm_memory_groups_lose(wm_memory_topic *t, uint64_t at) {
  for (wm_memory_group *g = t->groups; g; g = g->next_group) {
    if (at >= g->next)
      g->gone++;
    else
      forget_released(g, at);
  }
}

void wm_memory_group_remove(wm_memory_topic *t, wm_memory_group *g) {
  wm_memory_trash trash = {.n = 0};
  pthread_mutex_lock(&t->lock);
  wm_memory_group **link = &t->groups;
  while (*link != g)
    link = &(*link)->next_group;
  *link = g->next_group;
  t->n_groups--;
  const uint64_t end = t->end; /* what comes from now on it never wanted */
  for (uint64_t at = 0; (at = wm_memory_strip_skip(&t->log, at)) < end; at++) {
    if (wants(g, at)) wm_memory_unwant(t, at, &trash);
    if (trash.n < WM_MEMORY_PAGE) continue;
    pthread_mutex_unlock(&t->lock);
    wm_memory_trash_empty(&trash);
    pthread_mutex_lock(&t->lock);
  }
  pthread_mutex_unlock(&t->lock);
  wm_memory_trash_empty(&trash);
  wm_memory_group_free(g);
}

/* The first exclusive member has its turn; the list is in the order of coming. */
static void appoint(wm_memory_group *g) {
  wm_memory_sub *s = g->members;
  while (s && !s->exclusive)
    s = s->next_member;
  if (s == g->leader) return;
  g->leader = s;
  if (s) pthread_cond_signal(&s->wake);
}

void wm_memory_group_join(wm_memory_group *g, wm_memory_sub *s) {
  wm_memory_sub **link = &g->members;
  while (*link)
    link = &(*link)->next_member;
  *link = s;
  appoint(g);
}

static void give_back_all(wm_memory_sub *s) {
  wm_memory_group *g = s->group;
  for (uint64_t at = 0; s->held && (at = wm_memory_strip_skip(&g->entries, at)) < g->next; at++) {
    wm_memory_entry *e = wm_memory_group_held(s, at);
    if (e) wm_memory_group_release(s, e, at);
  }
}

void wm_memory_group_leave(wm_memory_sub *s) {
  wm_memory_group *g = s->group;
  wm_memory_sub **link = &g->members;
  while (*link != s)
    link = &(*link)->next_member;
  *link = s->next_member;
  give_back_all(s);
  appoint(g);
  wm_memory_group_wake(g, g->released);
}

bool wm_memory_group_stands_by(const wm_memory_sub *s) {
  return s->exclusive && s->group->leader != s;
}

/* ---- taking --------------------------------------------------------------------------------- */

/* Counts what a broker elsewhere would send; the core adds what a message needs besides. */
static bool fits(const wm_memory_slot *slot, size_t *bytes, bool first) {
  size_t size = slot->msg->size - sizeof *slot->msg;
  if (size > *bytes && !first) return false;
  *bytes -= size < *bytes ? size : *bytes;
  return true;
}

static void take(wm_memory_sub *s, wm_memory_slot *slot, wm_memory_entry *e, uint64_t at,
                 wm_memory_pick *out) {
  e->holder = s;
  e->state = WM_MEMORY_HELD;
  s->held++;
  *out = (wm_memory_pick){.offset = at,
                          .msg = wm_message_retain(slot->msg),
                          .attempt = e->attempt,
                          .copy = slot->given || slot->wanted > 1 ||
                                  !wm_memory_ends_with_ack(s->topic)};
  if (!out->copy) slot->given = true;
}

int wm_memory_group_take(wm_memory_sub *s, wm_memory_pick *picks, size_t max, size_t *bytes,
                         bool first, size_t *n) {
  wm_memory_topic *t = s->topic;
  wm_memory_group *g = s->group;
  *n = 0;
  for (; g->released && *n < max; g->look_from++) {
    g->look_from = wm_memory_strip_skip(&g->entries, g->look_from);
    wm_memory_entry *e = &wm_memory_strip_at(&g->entries, g->look_from)->entry;
    if (e->state != WM_MEMORY_RELEASED) continue;
    wm_memory_slot *slot = wm_memory_slot_at(t, g->look_from);
    if (!fits(slot, bytes, first && !*n)) return WM_OK;
    take(s, slot, e, g->look_from, &picks[(*n)++]);
    g->released--;
  }
  for (; *n < max && g->next < t->end; g->next++) {
    wm_memory_slot *slot = wm_memory_slot_at(t, g->next);
    if (!slot) continue; /* dropped before the group was made, or too old */
    if (!fits(slot, bytes, first && !*n)) return WM_OK;
    wm_memory_item *mine = wm_memory_strip_add(&g->entries, g->next);
    if (!mine) return *n ? WM_OK : WM_NOMEM;
    take(s, slot, &mine->entry, g->next, &picks[(*n)++]);
  }
  return WM_OK;
}

/* ---- settling ------------------------------------------------------------------------------- */

wm_memory_entry *wm_memory_group_held(wm_memory_sub *s, uint64_t at) {
  wm_memory_item *item = wm_memory_strip_at(&s->group->entries, at);
  bool held = item && item->entry.state == WM_MEMORY_HELD && item->entry.holder == s;
  return held ? &item->entry : NULL;
}

void wm_memory_group_ack(wm_memory_sub *s, uint64_t at, wm_memory_trash *trash) {
  wm_memory_strip_remove(&s->group->entries, at);
  s->held--;
  wm_memory_unwant(s->topic, at, trash);
}

void wm_memory_group_release(wm_memory_sub *s, wm_memory_entry *e, uint64_t at) {
  wm_memory_group *g = s->group;
  e->state = WM_MEMORY_RELEASED;
  e->holder = NULL;
  s->held--;
  g->released++;
  if (at < g->look_from) g->look_from = at;
  if (!wm_memory_slot_at(s->topic, at)) forget_released(g, at);
}

/* ---- waiting -------------------------------------------------------------------------------- */

static void leave_queue(wm_memory_sub *s) {
  wm_memory_group *g = s->group;
  *(s->waiting_prev ? &s->waiting_prev->waiting_next : &g->waiting_first) = s->waiting_next;
  *(s->waiting_next ? &s->waiting_next->waiting_prev : &g->waiting_last) = s->waiting_prev;
  s->waiting = false;
}

static void join_queue(wm_memory_sub *s) {
  wm_memory_group *g = s->group;
  s->waiting_prev = g->waiting_last;
  s->waiting_next = NULL;
  *(s->waiting_prev ? &s->waiting_prev->waiting_next : &g->waiting_first) = s;
  g->waiting_last = s;
  s->waiting = true;
}

void wm_memory_group_wake(wm_memory_group *g, size_t n) {
  wm_memory_sub *s;
  for (; n && (s = g->waiting_first); n--) {
    leave_queue(s);
    pthread_cond_signal(&s->wake);
  }
}

bool wm_memory_group_wait(wm_memory_sub *s, int64_t deadline) {
  if (!wm_memory_group_stands_by(s)) join_queue(s);
  bool in_time = wm_cond_wait_until(&s->wake, &s->topic->lock, deadline);
  if (s->waiting) leave_queue(s);
  return in_time;
}
