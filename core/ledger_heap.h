/*
 * ledger_heap.h - an intrusive pairing heap, by (due, order). No allocation, so nothing in the
 * ledger that moves a message can fail. A heap is its root; NULL is the empty one.
 */
#ifndef WM_LEDGER_HEAP_H
#define WM_LEDGER_HEAP_H

#include "message.h"

bool wm_node_before(const wm_node *a, const wm_node *b);
void wm_heap_push(wm_node **heap, wm_node *node); /* O(1) */
/* O(log n) amortized; node must be in it. */
void wm_heap_remove(wm_node **heap, wm_node *node);

#endif
