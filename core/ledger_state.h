/*
 * ledger_state.h - the inside of a ledger, shared by the ledger*.c files alone. The caller of the
 * ledger holds the subscription's lock.
 *
 * Where a message is, by state:
 *   WAITING  the queue of its lane, or `loose`; a lane that may go is in `ready_lanes`, by its
 *   first message DELAYED  `delayed`, by due time
 *   IN_HAND  `hand`, by the time of the hand-out, and the ring of its unit
 *   DEAD     `dying`, by the time of the next try, unless it is taken
 *   SETTLED  only among the ops: waiting (`op_first`..) or with the broker (entry.out)
 * Besides, all of these are in the list of all, by arrival; and one of any state may have a NOTE
 * among the ops. What has left while an op of it was with the broker is in `left`.
 */
#ifndef WM_LEDGER_STATE_H
#define WM_LEDGER_STATE_H

#include "ledger.h"
#include "ledger_lanes.h"
#include "window.h"

enum { OP_NONE, OP_ACK, OP_RELEASE, OP_NOTE };

struct wm_ledger {
  wm_ledger_config config;
  char *order_by;
  bool sequential, laned; /* what config amounts to */
  bool closing;
  uint64_t order;         /* of the last arrival */
  int64_t now;            /* the latest that was heard of */
  int64_t looked;         /* when somebody last looked for what may go */

  wm_queue loose;
  wm_lanes lanes;
  wm_node *ready_lanes;
  size_t lane_waiting, lane_eager; /* messages in the ready ones */
  wm_node *delayed, *dying;
  wm_node *hand_first, *hand_last;
  wm_message *all_first, *all_last;
  wm_message *op_first, *op_last;
  wm_message *left;       /* through all_next, all_prev */

  size_t n[WM_ENTRY_DONE + 1]; /* messages by state */
  size_t units, held, bytes;
  size_t live_bytes, redelivered; /* of those not settled */
  size_t ops, out;        /* ops that wait, ops with the broker */

  wm_meter meter;
  size_t last;            /* messages of the last fetch */
  wm_message *walk;       /* where wm_ledger_held goes on ... */
  uint64_t walk_cursor;   /* ... for the caller who brings this */
};

/* ledger.c */
void wm_ledger_tick(wm_ledger *l, int64_t now);
void wm_ledger_set_state(wm_ledger *l, wm_message *msg, wm_entry_state state);
/* To WAITING; it must be in no place now. */
void wm_ledger_wait(wm_ledger *l, wm_message *msg, bool came_back);
void wm_ledger_block(wm_ledger *l, wm_message *msg, bool blocks); /* its lane, if any */
/* Takes a message out of the place of its state, which stays the same; for any but SETTLED. */
void wm_ledger_unplace(wm_ledger *l, wm_message *msg);
/* What counts as work: everything held that is not settled. */
void wm_ledger_live_begin(wm_ledger *l, wm_message *msg, int64_t now);
void wm_ledger_live_end(wm_ledger *l, wm_message *msg);
void wm_ledger_all_append(wm_ledger *l, wm_message *msg);
void wm_ledger_all_replace(wm_ledger *l, wm_message *old, wm_message *copy);
void wm_ledger_all_remove(wm_ledger *l, wm_message *msg);
/* Puts a copy in the place of an unplaced message, so that settling the old object returns false.
 * The ledger's reference to the old one is dropped (under the lock: rare, and its holder mostly has
 * another). */
void wm_ledger_replace(wm_ledger *l, wm_message *old, wm_message *copy);

/* ledger_settle.c */
/* Queues an op at the end; replaces one that waits. */
void wm_ledger_op(wm_ledger *l, wm_message *msg, int op, unsigned attempt);
void wm_ledger_op_remove(wm_ledger *l, wm_message *msg);
/* Keeps a message that has left because an op of it is with the broker. */
void wm_ledger_keep_left(wm_ledger *l, wm_message *msg);
/* An unplaced message, or a settled one, leaves the ledger. True: its reference is the caller's to
 * drop. */
bool wm_ledger_leave(wm_ledger *l, wm_message *msg);
/* An unplaced message goes back to the group. */
void wm_ledger_release(wm_ledger *l, wm_message *msg, unsigned attempt);

static inline size_t wm_ledger_live(const wm_ledger *l) {
  return l->held - l->n[WM_ENTRY_SETTLED];
}

#endif
