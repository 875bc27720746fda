/*
 * strip.c - arrays by offset, with holes that take no room: one message that stays for long must not
 * keep the room of all that came and went behind it. No lock: its owner's guards it.
 */
#include <assert.h>
#include <stdlib.h>
#include <string.h>

#include "memory.h"

enum { CHUNK = 256, FIRST_ROOM = 16 };

typedef struct wm_memory_chunk {
  unsigned used;
  wm_memory_item items[CHUNK];
} chunk;

/* Room for one more chunk pointer. */
static bool reserve(wm_memory_strip *s) {
  if (s->head + s->n < s->room) return true;
  if (s->head > s->room / 2) {
    memmove(s->chunks, s->chunks + s->head, s->n * sizeof *s->chunks);
    s->head = 0;
    return true;
  }
  size_t room = s->room ? s->room * 2 : FIRST_ROOM;
  chunk **chunks = realloc(s->chunks, room * sizeof *chunks);
  if (!chunks) return false;
  s->chunks = chunks;
  s->room = room;
  return true;
}

/* The place of the chunk with that number, which is the last or comes after it. */
static chunk **place_of(wm_memory_strip *s, uint64_t number) {
  if (!s->n) s->first = number;
  while (s->first + s->n <= number) {
    if (!reserve(s)) return NULL;
    s->chunks[s->head + s->n++] = NULL;
  }
  return &s->chunks[s->head + (number - s->first)];
}

wm_memory_item *wm_memory_strip_add(wm_memory_strip *s, uint64_t at) {
  chunk **place = place_of(s, at / CHUNK);
  if (!place) return NULL;
  if (!*place) {
    *place = s->spare ? s->spare : calloc(1, sizeof **place);
    s->spare = NULL;
    if (!*place) return NULL;
  }
  (*place)->used++;
  return &(*place)->items[at % CHUNK];
}

wm_memory_item *wm_memory_strip_at(const wm_memory_strip *s, uint64_t at) {
  uint64_t i = at / CHUNK - s->first;
  if (i >= s->n || !s->chunks[s->head + i]) return NULL;
  return &s->chunks[s->head + i]->items[at % CHUNK];
}

static void trim_front(wm_memory_strip *s) {
  while (s->n && !s->chunks[s->head]) {
    s->head++;
    s->first++;
    s->n--;
  }
  if (!s->n) s->head = 0;
}

void wm_memory_strip_remove(wm_memory_strip *s, uint64_t at) {
  chunk **place = &s->chunks[s->head + (at / CHUNK - s->first)];
  memset(&(*place)->items[at % CHUNK], 0, sizeof(wm_memory_item));
  assert((*place)->used);
  if (--(*place)->used) return;
  free(s->spare);
  s->spare = *place;
  *place = NULL;
  trim_front(s);
}

uint64_t wm_memory_strip_skip(const wm_memory_strip *s, uint64_t at) {
  uint64_t i = at / CHUNK < s->first ? 0 : at / CHUNK - s->first;
  while (i < s->n && !s->chunks[s->head + i])
    i++;
  if (i >= s->n) return UINT64_MAX;
  uint64_t start = (s->first + i) * CHUNK;
  return start > at ? start : at;
}

void wm_memory_strip_free(wm_memory_strip *s) {
  for (size_t i = 0; i < s->n; i++)
    free(s->chunks[s->head + i]);
  free(s->chunks);
  free(s->spare);
}
