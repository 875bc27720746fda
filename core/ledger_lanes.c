/* ledger_lanes.c - see ledger_lanes.h. Pure; the caller holds the subscription's lock. */
#include "ledger_lanes.h"

#include <stdlib.h>
#include <string.h>

#include "ledger_heap.h"

#define LANES_LEAST 16

void wm_queue_add(wm_queue *q, wm_message *msg, bool came_back) {
  wm_node *node = &msg->entry.node;
  q->n++;
  q->eager += msg->entry.eager;
  msg->entry.came_back = came_back;
  node->due = 0;
  if (came_back) {
    wm_heap_push(&q->back, node);
    return;
  }
  node->next = node->child = NULL;
  node->prev = q->tail;
  if (q->tail)
    q->tail->next = node;
  else
    q->head = node;
  q->tail = node;
}

void wm_queue_remove(wm_queue *q, wm_message *msg) {
  wm_node *node = &msg->entry.node;
  q->n--;
  q->eager -= msg->entry.eager;
  if (msg->entry.came_back) {
    wm_heap_remove(&q->back, node);
    return;
  }
  if (node->prev)
    node->prev->next = node->next;
  else
    q->head = node->next;
  if (node->next)
    node->next->prev = node->prev;
  else
    q->tail = node->prev;
  node->prev = node->next = NULL;
}

static uint64_t hash_of(wm_slice key) { /* FNV-1a, its upper bits folded in */
  uint64_t h = 0xcbf29ce484222325u;
  for (size_t i = 0; i < key.len; i++)
    h = (h ^ (unsigned char)key.data[i]) * 0x100000001b3u;
  return h ^ (h >> 32);
}

static bool grow(wm_lanes *lanes) {
  size_t size = lanes->size ? lanes->size * 2 : LANES_LEAST;
  wm_ledger_lane **buckets = calloc(size, sizeof *buckets);
  if (!buckets)
    return false;
  for (size_t i = 0; i < lanes->size; i++) {
    while (lanes->buckets[i]) {
      wm_ledger_lane *lane = lanes->buckets[i];
      lanes->buckets[i] = lane->chain;
      lane->chain = buckets[lane->hash & (size - 1)];
      buckets[lane->hash & (size - 1)] = lane;
    }
  }
  free(lanes->buckets);
  lanes->buckets = buckets;
  lanes->size = size;
  return true;
}

static wm_ledger_lane *lane_new(wm_lanes *lanes, wm_slice key) {
  wm_ledger_lane *lane = lanes->spare;
  if (lane)
    lanes->spare = lane->chain;
  else if (!(lane = calloc(1, sizeof *lane)))
    return NULL;
  if (lane->room < key.len || !lane->key) {
    char *room = realloc(lane->key, key.len + 1);
    if (!room) {
      lane->chain = lanes->spare;
      lanes->spare = lane;
      return NULL;
    }
    lane->key = room;
    lane->room = key.len;
  }
  if (key.len)
    memcpy(lane->key, key.data, key.len);
  lane->len = key.len;
  return lane;
}

wm_ledger_lane *wm_lanes_join(wm_lanes *lanes, wm_slice key) {
  uint64_t hash = hash_of(key);
  wm_ledger_lane *lane = lanes->size ? lanes->buckets[hash & (lanes->size - 1)] : NULL;
  for (; lane; lane = lane->chain) {
    if (lane->hash == hash && lane->len == key.len &&
        (!key.len || memcmp(lane->key, key.data, key.len) == 0)) {
      lane->members++;
      return lane;
    }
  }
  /* A table that cannot grow is only slower, unless there is none. */
  if (lanes->count >= lanes->size && !grow(lanes) && !lanes->size)
    return NULL;
  if (!(lane = lane_new(lanes, key)))
    return NULL;
  lane->hash = hash;
  lane->members = 1;
  lane->chain = lanes->buckets[hash & (lanes->size - 1)];
  lanes->buckets[hash & (lanes->size - 1)] = lane;
  lanes->count++;
  return lane;
}

void wm_lanes_leave(wm_lanes *lanes, wm_ledger_lane *lane) {
  if (--lane->members)
    return;
  wm_ledger_lane **at = &lanes->buckets[lane->hash & (lanes->size - 1)];
  while (*at != lane)
    at = &(*at)->chain;
  *at = lane->chain;
  lanes->count--;
  lane->chain = lanes->spare;
  lanes->spare = lane;
}

static void free_chain(wm_ledger_lane *lane) {
  while (lane) {
    wm_ledger_lane *next = lane->chain;
    free(lane->key);
    free(lane);
    lane = next;
  }
}

void wm_lanes_clear(wm_lanes *lanes) {
  for (size_t i = 0; i < lanes->size; i++)
    free_chain(lanes->buckets[i]);
  free_chain(lanes->spare);
  free(lanes->buckets);
  *lanes = (wm_lanes){0};
}
