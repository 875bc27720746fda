/*
 * held.c - the ids that the core holds: open addressing, linear probing, removal by moving back.
 * The fetching thread adds, the settling one removes; one lock a batch.
 */
#include <stdlib.h>
#include <string.h>

#include "redis.h"

enum { FIRST_SIZE = 64 };

void wm_redis_held_init(wm_redis_held *h) {
  *h = (wm_redis_held){0};
  pthread_mutex_init(&h->lock, NULL);
}

void wm_redis_held_free(wm_redis_held *h) {
  free(h->slots);
  pthread_mutex_destroy(&h->lock);
}

/* Ids of one millisecond follow each other, so that neighbours must not fall together. */
static size_t home_of(const wm_redis_held *h, wm_redis_id id) {
  uint64_t x = (id.ms + id.seq * 0x9e3779b97f4a7c15u) * 0xbf58476d1ce4e5b9u;
  return (size_t)(x ^ x >> 32) & (h->size - 1);
}

/* 0-0 is no id of an entry. */
static bool is_free(wm_redis_id id) { return id.ms == 0 && id.seq == 0; }

static bool equal(wm_redis_id a, wm_redis_id b) { return a.ms == b.ms && a.seq == b.seq; }

/* Where it is, or where it would go. */
static size_t find(const wm_redis_held *h, wm_redis_id id) {
  size_t i = home_of(h, id);
  while (!is_free(h->slots[i]) && !equal(h->slots[i], id))
    i = (i + 1) & (h->size - 1);
  return i;
}

static bool grow(wm_redis_held *h, size_t n) {
  size_t size = h->size ? h->size : FIRST_SIZE;
  while (n * 2 > size)
    size *= 2;
  if (size == h->size) return true;
  wm_redis_held bigger = {.slots = calloc(size, sizeof *h->slots), .size = size};
  if (!bigger.slots) return false;
  for (size_t i = 0; i < h->size; i++)
    if (!is_free(h->slots[i])) bigger.slots[find(&bigger, h->slots[i])] = h->slots[i];
  free(h->slots);
  h->slots = bigger.slots;
  h->size = size;
  return true;
}

int wm_redis_held_add(wm_redis_held *h, wm_message **msgs, size_t *n) {
  pthread_mutex_lock(&h->lock);
  if (!grow(h, h->n + *n)) {
    pthread_mutex_unlock(&h->lock);
    return WM_NOMEM;
  }
  size_t kept = 0;
  for (size_t i = 0; i < *n; i++) {
    wm_redis_id id = wm_redis_id_of(msgs[i]);
    size_t at = find(h, id);
    if (!is_free(h->slots[at])) {
      wm_message_release(msgs[i]);
      continue;
    }
    h->slots[at] = id;
    h->n++;
    msgs[kept++] = msgs[i];
  }
  *n = kept;
  pthread_mutex_unlock(&h->lock);
  return WM_OK;
}

bool wm_redis_held_has(wm_redis_held *h, wm_redis_id id) {
  pthread_mutex_lock(&h->lock);
  bool has = h->n > 0 && !is_free(h->slots[find(h, id)]);
  pthread_mutex_unlock(&h->lock);
  return has;
}

/* Closes the hole at i: what was pushed past it moves back. */
static void close_hole(wm_redis_held *h, size_t hole) {
  size_t mask = h->size - 1;
  for (size_t i = (hole + 1) & mask; !is_free(h->slots[i]); i = (i + 1) & mask) {
    size_t home = home_of(h, h->slots[i]);
    if (((i - home) & mask) < ((i - hole) & mask)) continue;
    h->slots[hole] = h->slots[i];
    hole = i;
  }
  h->slots[hole] = (wm_redis_id){0, 0};
}

void wm_redis_held_remove(wm_redis_held *h, const wm_redis_id *ids, size_t n) {
  pthread_mutex_lock(&h->lock);
  for (size_t i = 0; i < n && h->n > 0; i++) {
    size_t at = find(h, ids[i]);
    if (is_free(h->slots[at])) continue;
    close_hole(h, at);
    h->n--;
  }
  pthread_mutex_unlock(&h->lock);
}

void wm_redis_held_clear(wm_redis_held *h) {
  pthread_mutex_lock(&h->lock);
  if (h->size) memset(h->slots, 0, h->size * sizeof *h->slots);
  h->n = 0;
  pthread_mutex_unlock(&h->lock);
}
