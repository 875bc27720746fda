/*
 * topic.c - topics by name, what is stored in them, and for how long.
 */
#include <assert.h>
#include <stdlib.h>
#include <string.h>

#include "clock.h"
#include "memory.h"

enum { FIRST_ROOM = 16, DECIMAL_DIGITS = 20 };

/* ---- the table ------------------------------------------------------------------------------ */

static wm_memory_topic *new_topic(const wm_memory *m, const char *name) {
  size_t size = strlen(name) + 1;
  wm_memory_topic *t = calloc(1, sizeof *t + size);
  if (!t) return NULL;
  t->name = memcpy(t + 1, name, size);
  t->retain = m->retain;
  t->keep_ms = m->keep_ms;
  t->capacity = m->capacity;
  pthread_mutex_init(&t->lock, NULL);
  wm_cond_init(&t->space);
  return t;
}

void wm_memory_topic_free(wm_memory_topic *t) {
  wm_memory_group *next;
  for (uint64_t at = 0; (at = wm_memory_strip_skip(&t->log, at)) < t->end; at++)
    wm_message_release(wm_memory_strip_at(&t->log, at)->slot.msg);
  wm_memory_strip_free(&t->log);
  for (wm_memory_group *g = t->groups; g; g = next) {
    next = g->next_group;
    wm_memory_group_free(g);
  }
  pthread_cond_destroy(&t->space);
  pthread_mutex_destroy(&t->lock);
  free(t);
}

/* Where the name stands, or would; true: it is there. */
static bool search(const wm_memory *m, const char *name, size_t *at) {
  size_t low = 0, high = m->n_topics;
  while (low < high) {
    size_t middle = low + (high - low) / 2;
    int order = strcmp(m->topics[middle]->name, name);
    *at = middle;
    if (order == 0) return true;
    if (order < 0)
      low = middle + 1;
    else
      high = middle;
  }
  *at = low;
  return false;
}

static wm_memory_topic *insert(wm_memory *m, const char *name, size_t at) {
  if (m->n_topics == m->room) {
    size_t room = m->room ? m->room * 2 : FIRST_ROOM;
    wm_memory_topic **topics = realloc(m->topics, room * sizeof *topics);
    if (!topics) return NULL;
    m->topics = topics;
    m->room = room;
  }
  wm_memory_topic *t = new_topic(m, name);
  if (!t) return NULL;
  memmove(m->topics + at + 1, m->topics + at, (m->n_topics - at) * sizeof(wm_memory_topic *));
  m->topics[at] = t;
  m->n_topics++;
  return t;
}

wm_memory_topic *wm_memory_topic_of(wm_memory *m, const char *name) {
  size_t at;
  pthread_mutex_lock(&m->lock);
  wm_memory_topic *t = search(m, name, &at) ? m->topics[at] : insert(m, name, at);
  pthread_mutex_unlock(&m->lock);
  return t;
}

/* ---- messages ------------------------------------------------------------------------------- */

wm_message *wm_memory_copy(const wm_message *msg) {
  size_t bytes = msg->uuid.len + msg->payload.len;
  for (size_t i = 0; i < msg->pairs; i++)
    bytes += msg->meta[i].key.len + msg->meta[i].value.len;
  wm_message *copy = wm_message_alloc(msg->pairs, bytes);
  if (!copy) return NULL;
  wm_message_set_uuid(copy, msg->uuid.data, msg->uuid.len);
  for (size_t i = 0; i < msg->pairs; i++)
    wm_message_add(copy, msg->meta[i].key.data, msg->meta[i].key.len, msg->meta[i].value.data,
                   msg->meta[i].value.len);
  wm_message_set_payload(copy, msg->payload.data, msg->payload.len);
  return copy;
}

void wm_memory_place(wm_message *msg, uint64_t offset, int64_t time) {
  static const char prefix[] = WM_MEMORY_POSITION;
  char digits[DECIMAL_DIGITS];
  size_t n = sizeof digits, at = sizeof prefix - 1;
  msg->token[0] = offset;
  msg->time = time;
  do
    digits[--n] = (char)('0' + offset % 10);
  while (offset /= 10);
  _Static_assert(sizeof prefix + sizeof digits <= sizeof msg->position, "a position has room");
  memcpy(msg->position, prefix, at);
  memcpy(msg->position + at, digits + n, sizeof digits - n);
  msg->position[at + sizeof digits - n] = '\0';
}

/* ---- retention ------------------------------------------------------------------------------ */

void wm_memory_trash_empty(wm_memory_trash *t) {
  for (size_t i = 0; i < t->n; i++)
    wm_message_release(t->msgs[i]);
  t->n = 0;
}

wm_memory_slot *wm_memory_slot_at(const wm_memory_topic *t, uint64_t at) {
  wm_memory_item *item = wm_memory_strip_at(&t->log, at);
  return item && item->slot.msg ? &item->slot : NULL;
}

bool wm_memory_ends_with_ack(const wm_memory_topic *t) {
  return t->retain == WM_MEMORY_RETAIN_ACKED && t->grouped;
}

static void drop(wm_memory_topic *t, wm_memory_slot *slot, uint64_t at, wm_memory_trash *trash) {
  assert(trash->n < WM_MEMORY_PAGE);
  trash->msgs[trash->n++] = slot->msg;
  t->count--;
  t->bytes -= slot->msg->size;
  wm_memory_strip_remove(&t->log, at);
  if (t->publisher_waits) pthread_cond_signal(&t->space);
}

void wm_memory_unwant(wm_memory_topic *t, uint64_t at, wm_memory_trash *trash) {
  wm_memory_slot *slot = wm_memory_slot_at(t, at);
  if (!slot) return; /* too old meanwhile */
  assert(slot->wanted);
  if (--slot->wanted == 0 && wm_memory_ends_with_ack(t)) drop(t, slot, at, trash);
}

/* May it go, whoever wants it? */
static bool is_too_old(const wm_memory_topic *t, const wm_memory_slot *slot, int64_t now) {
  return t->retain == WM_MEMORY_RETAIN_TIME && slot->msg->time <= now - t->keep_ms;
}

void wm_memory_sweep(wm_memory_topic *t) {
  wm_memory_trash trash = {.n = 0};
  int64_t now = wm_epoch_ms();
  while ((t->swept = wm_memory_strip_skip(&t->log, t->swept)) < t->end) {
    wm_memory_slot *slot = wm_memory_slot_at(t, t->swept);
    bool too_old = slot && is_too_old(t, slot, now);
    if (slot && !too_old && !wm_memory_ends_with_ack(t)) break;
    if (too_old && slot->wanted) wm_memory_groups_lose(t, t->swept);
    if (too_old || (slot && !slot->wanted)) drop(t, slot, t->swept, &trash);
    t->swept++;
    if (trash.n < WM_MEMORY_PAGE) continue;
    pthread_mutex_unlock(&t->lock);
    wm_memory_trash_empty(&trash);
    pthread_mutex_lock(&t->lock);
  }
  if (t->swept > t->end) t->swept = t->end;
  if (!trash.n) return;
  pthread_mutex_unlock(&t->lock);
  wm_memory_trash_empty(&trash);
  pthread_mutex_lock(&t->lock);
}

void wm_memory_topic_lock(wm_memory_topic *t) {
  pthread_mutex_lock(&t->lock);
  if (t->retain == WM_MEMORY_RETAIN_TIME) wm_memory_sweep(t);
}
