/* ledger_heap.c - see ledger_heap.h. Pure; the caller holds what guards the nodes. A node's prev is
 * its left sibling, or its parent when it is the first child. */
#include "ledger_heap.h"

bool wm_node_before(const wm_node *a, const wm_node *b) {
  return a->due != b->due ? a->due < b->due : a->order < b->order;
}

static wm_node *meld(wm_node *a, wm_node *b) {
  if (wm_node_before(b, a)) {
    wm_node *t = a;
    a = b;
    b = t;
  }
  b->prev = a;
  b->next = a->child;
  if (a->child)
    a->child->prev = b;
  a->child = b;
  a->prev = a->next = NULL;
  return a;
}

/* Pairs up siblings from the left, then melds the pairs from the right: this gives the logarithm.
 * */
static wm_node *meld_siblings(wm_node *first) {
  wm_node *pairs = NULL, *root = NULL;
  while (first) {
    wm_node *a = first, *b = a->next;
    first = b ? b->next : NULL;
    if (b)
      a = meld(a, b);
    a->next = pairs;
    pairs = a;
  }
  while (pairs) {
    wm_node *node = pairs;
    pairs = node->next;
    node->prev = node->next = NULL;
    root = root ? meld(root, node) : node;
  }
  return root;
}

void wm_heap_push(wm_node **heap, wm_node *node) {
  node->prev = node->next = node->child = NULL;
  *heap = *heap ? meld(*heap, node) : node;
}

void wm_heap_remove(wm_node **heap, wm_node *node) {
  wm_node *below = meld_siblings(node->child);
  if (node == *heap) {
    *heap = below;
  } else {
    if (node->prev->child == node)
      node->prev->child = node->next;
    else
      node->prev->next = node->next;
    if (node->next)
      node->next->prev = node->prev;
    if (below)
      *heap = meld(*heap, below);
  }
  node->prev = node->next = node->child = NULL;
}
