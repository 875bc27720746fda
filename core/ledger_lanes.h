/*
 * ledger_lanes.h - queues of waiting messages, and the table of lanes (one for each order_by key of
 * which something is held). Part of the ledger: same lock.
 */
#ifndef WM_LEDGER_LANES_H
#define WM_LEDGER_LANES_H

#include "message.h"

/* Waiting messages by arrival: new ones in a list, those that came back in a heap. */
typedef struct wm_queue {
  wm_node *head, *tail; /* new */
  wm_node *back;        /* came back */
  size_t n, eager;
} wm_queue;

static inline wm_message *wm_node_message(wm_node *node) {
  return (wm_message *)(void *)((char *)node - offsetof(wm_message, entry.node));
}

void wm_queue_add(wm_queue *q, wm_message *msg, bool came_back);
void wm_queue_remove(wm_queue *q, wm_message *msg);
/* The first by arrival, NULL: empty. */
static inline wm_node *wm_queue_first(const wm_queue *q) {
  if (!q->back || !q->head)
    return q->back ? q->back : q->head;
  return q->head->order < q->back->order ? q->head : q->back;
}

typedef struct wm_ledger_lane {
  wm_node node; /* in the ledger's heap of lanes that may go */
  wm_queue queue;
  size_t members;            /* messages not settled */
  size_t blocked;            /* of them in hand, delayed or dying */
  bool ready;                /* in the heap */
  size_t counted, counted_eager; /* what the ledger's totals hold of this lane */
  uint64_t hash;
  struct wm_ledger_lane *chain;
  char *key;
  size_t len, room;
} wm_ledger_lane;

typedef struct wm_lanes {
  wm_ledger_lane **buckets;
  size_t size, count; /* size: 0 or a power of two */
  wm_ledger_lane *spare;
} wm_lanes;

/* The lane of a key with one member more; made when there is none. NULL: out of memory. */
wm_ledger_lane *wm_lanes_join(wm_lanes *lanes, wm_slice key);
/* One member less; the last one puts the lane aside for another key. */
void wm_lanes_leave(wm_lanes *lanes, wm_ledger_lane *lane);
void wm_lanes_clear(wm_lanes *lanes);

#endif
