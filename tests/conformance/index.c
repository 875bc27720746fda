/*
 * index.c - open addressing with powers of two.
 */
#include "index.h"

#include <stdlib.h>
#include <string.h>

struct text_index {
  size_t mask;
  struct {
    const char *text;
    size_t value;
  } slots[];
};

static uint64_t hash_bytes(const void *data, size_t len) {
  const unsigned char *at = data;
  uint64_t h = UINT64_C(14695981039346656037);
  while (len--)
    h = (h ^ *at++) * UINT64_C(1099511628211);
  return h ^ h >> 29;
}

static size_t room_for(size_t n) {
  size_t room = 64;
  while (room < n * 2)
    room *= 2;
  return room;
}

text_index *text_index_new(size_t n) {
  size_t room = room_for(n);
  text_index *t = calloc(1, sizeof *t + room * sizeof t->slots[0]);
  if (!t) abort();
  t->mask = room - 1;
  return t;
}

void text_index_free(text_index *t) { free(t); }

static size_t text_slot(const text_index *t, const char *text) {
  size_t i = hash_bytes(text, strlen(text)) & t->mask;
  while (t->slots[i].text && strcmp(t->slots[i].text, text) != 0)
    i = (i + 1) & t->mask;
  return i;
}

void text_index_add(text_index *t, const char *text, size_t value) {
  size_t i = text_slot(t, text);
  t->slots[i].text = text;
  t->slots[i].value = value;
}

size_t text_index_find(const text_index *t, const char *text) {
  size_t i = text_slot(t, text);
  return t->slots[i].text ? t->slots[i].value : INDEX_NONE;
}

typedef struct slot {
  uint32_t key[3];
  void *memory;
} slot;

struct key_index {
  size_t n, room;
  slot *slots;
};

key_index *key_index_new(void) {
  key_index *k = calloc(1, sizeof *k);
  if (!k) abort();
  return k;
}

void key_index_free(key_index *k) {
  for (size_t i = 0; i < k->room; i++)
    free(k->slots[i].memory);
  free(k->slots);
  free(k);
}

static slot *find(const key_index *k, const uint32_t key[3]) {
  size_t i = hash_bytes(key, sizeof(uint32_t[3])) & (k->room - 1);
  while (k->slots[i].memory && memcmp(k->slots[i].key, key, sizeof k->slots[i].key) != 0)
    i = (i + 1) & (k->room - 1);
  return &k->slots[i];
}

static void grow(key_index *k) {
  key_index larger = {.n = k->n, .room = room_for(k->n + 32) * 2};
  larger.slots = calloc(larger.room, sizeof *larger.slots);
  if (!larger.slots) abort();
  for (size_t i = 0; i < k->room; i++)
    if (k->slots[i].memory) *find(&larger, k->slots[i].key) = k->slots[i];
  free(k->slots);
  *k = larger;
}

void *key_index_at(key_index *k, uint32_t a, uint32_t b, uint32_t c, size_t size) {
  if (k->n * 2 >= k->room) grow(k);
  const uint32_t key[3] = {a, b, c};
  slot *s = find(k, key);
  if (s->memory) return s->memory;
  memcpy(s->key, key, sizeof s->key);
  s->memory = calloc(1, size);
  if (!s->memory) abort();
  k->n++;
  return s->memory;
}
