/*
 * ledger_settle.c - the other half of the ledger: what becomes of messages in hand, and the ops
 * that tell the broker. Pure bookkeeping; the caller holds the subscription's lock.
 */
#include <assert.h>

#include "ledger.h"
#include "ledger_heap.h"
#include "ledger_state.h"

/* WM_BACKOFF, ms. */
#define BACKOFF_FIRST 100
#define BACKOFF_MOST 5000

static unsigned attempt_of(const wm_message *msg) {
  return atomic_load_explicit(&msg->attempt, memory_order_relaxed);
}

/* ---- the queue of ops --------------------------------------------------------------------- */

void wm_ledger_op_remove(wm_ledger *l, wm_message *msg) {
  wm_entry *e = &msg->entry;
  if (e->op == OP_NONE)
    return;
  *(e->op_prev ? &e->op_prev->entry.op_next : &l->op_first) = e->op_next;
  *(e->op_next ? &e->op_next->entry.op_prev : &l->op_last) = e->op_prev;
  e->op_prev = e->op_next = NULL;
  e->op = OP_NONE;
  l->ops--;
}

void wm_ledger_op(wm_ledger *l, wm_message *msg, int op, unsigned attempt) {
  wm_entry *e = &msg->entry;
  wm_ledger_op_remove(l, msg);
  e->op = (uint8_t)op;
  e->op_attempt = attempt;
  e->op_prev = l->op_last;
  e->op_next = NULL;
  *(l->op_last ? &l->op_last->entry.op_next : &l->op_first) = msg;
  l->op_last = msg;
  l->ops++;
}

static void op_first(wm_ledger *l, wm_message *msg, int op, unsigned attempt) {
  wm_entry *e = &msg->entry;
  wm_ledger_op_remove(l, msg);
  e->op = (uint8_t)op;
  e->op_attempt = attempt;
  e->op_prev = NULL;
  e->op_next = l->op_first;
  *(l->op_first ? &l->op_first->entry.op_prev : &l->op_last) = msg;
  l->op_first = msg;
  l->ops++;
}

size_t wm_ledger_take_settled(wm_ledger *l, wm_settle_op *ops, size_t max) {
  static const wm_settle_kind kinds[] = {
    [OP_ACK] = WM_SETTLE_ACK, [OP_RELEASE] = WM_SETTLE_RELEASE, [OP_NOTE] = WM_SETTLE_NOTE};
  if (l->out)
    return 0;
  for (; l->out < max && l->op_first; l->out++) {
    wm_message *msg = l->op_first;
    ops[l->out] =
      (wm_settle_op){.kind = kinds[msg->entry.op], .attempt = msg->entry.op_attempt, .msg = msg};
    wm_ledger_op_remove(l, msg);
    msg->entry.out = true;
  }
  return l->out;
}

void wm_ledger_keep_left(wm_ledger *l, wm_message *msg) {
  msg->entry.all_prev = NULL;
  msg->entry.all_next = l->left;
  if (l->left)
    l->left->entry.all_prev = msg;
  l->left = msg;
}

/* Leaves `left`, where it stood because of its op. */
static void forget_left(wm_ledger *l, wm_message *msg) {
  wm_entry *e = &msg->entry;
  *(e->all_prev ? &e->all_prev->entry.all_next : &l->left) = e->all_next;
  if (e->all_next)
    e->all_next->entry.all_prev = e->all_prev;
}

/* True: the message is gone. */
static bool op_failed(wm_ledger *l, const wm_settle_op *op) {
  wm_message *msg = op->msg;
  if (msg->entry.lost) /* its op is no longer ours */
    return msg->entry.state == WM_ENTRY_SETTLED && wm_ledger_leave(l, msg);
  if (op->kind != WM_SETTLE_NOTE)
    op_first(l, msg, op->kind == WM_SETTLE_ACK ? OP_ACK : OP_RELEASE, op->attempt);
  else if (msg->entry.op == OP_NOTE || msg->entry.op == OP_NONE)
    op_first(l, msg, OP_NOTE, attempt_of(msg));
  /* else it was settled meanwhile and needs no note */
  return false;
}

size_t wm_ledger_settled(wm_ledger *l, wm_settle_op *ops, size_t n, bool ok, wm_message **gone,
                         int64_t now) {
  size_t left = 0;
  wm_ledger_tick(l, now);
  assert(n <= l->out);
  l->out -= n;
  for (size_t i = n; i--;) { /* from the end, as each that comes again is put first */
    wm_message *msg = ops[i].msg;
    msg->entry.out = false;
    bool is_gone = msg->entry.state == WM_ENTRY_DONE;
    if (is_gone)
      forget_left(l, msg);
    else if (!ok)
      is_gone = op_failed(l, &ops[i]);
    else
      is_gone = ops[i].kind != WM_SETTLE_NOTE && wm_ledger_leave(l, msg);
    if (is_gone)
      gone[left++] = msg;
  }
  return left;
}

size_t wm_ledger_unsettled(const wm_ledger *l) {
  return l->ops + l->out;
}

/* ---- leaving ------------------------------------------------------------------------------ */

/* The meter stands still while there is nothing to do. */
static void rest(wm_ledger *l) {
  if (!wm_ledger_live(l))
    wm_meter_work(&l->meter, false, l->now);
}

bool wm_ledger_leave(wm_ledger *l, wm_message *msg) {
  wm_entry *e = &msg->entry;
  wm_ledger_op_remove(l, msg);
  wm_ledger_all_remove(l, msg);
  if (e->state != WM_ENTRY_SETTLED)
    wm_ledger_live_end(l, msg);
  wm_ledger_set_state(l, msg, WM_ENTRY_DONE);
  l->n[WM_ENTRY_DONE]--;
  l->held--;
  l->bytes -= msg->size;
  rest(l);
  if (!e->out)
    return true;
  wm_ledger_keep_left(l, msg);
  return false;
}

static void settle(wm_ledger *l, wm_message *msg, int op, unsigned attempt) {
  wm_ledger_live_end(l, msg);
  wm_ledger_set_state(l, msg, WM_ENTRY_SETTLED);
  wm_ledger_op(l, msg, op, attempt);
  rest(l);
}

void wm_ledger_release(wm_ledger *l, wm_message *msg, unsigned attempt) {
  settle(l, msg, OP_RELEASE, attempt);
}

static void acknowledge(wm_ledger *l, wm_message *msg) {
  wm_meter_settled(&l->meter, 1, l->now);
  settle(l, msg, OP_ACK, 0);
}

/* Takes it out of hand. A lost one leaves the ledger: *lost. */
static bool settle_begin(wm_ledger *l, wm_message *msg, int as, int64_t now, bool *lost) {
  wm_ledger_tick(l, now);
  if (msg->entry.state != WM_ENTRY_IN_HAND)
    return false;
  wm_ledger_unplace(l, msg);
  msg->entry.settled_as = as;
  *lost = msg->entry.lost;
  if (*lost && wm_ledger_leave(l, msg))
    wm_message_release(msg); /* the last reference is the caller's: nothing is freed here */
  return true;
}

bool wm_ledger_ack(wm_ledger *l, wm_message *msg, int64_t now) {
  bool lost;
  if (!settle_begin(l, msg, 'a', now, &lost))
    return false;
  if (!lost)
    acknowledge(l, msg);
  return true;
}

/* ---- back and on -------------------------------------------------------------------------- */

static int64_t backoff(unsigned nacks, uint64_t random) {
  int64_t ms = BACKOFF_FIRST;
  if (!nacks)
    return 0;
  while (--nacks && ms < BACKOFF_MOST)
    ms *= 2;
  if (ms > BACKOFF_MOST)
    ms = BACKOFF_MOST;
  return ms + (int64_t)(random % (uint64_t)(ms / 4 + 1));
}

/* To the dead letter topic; its attempt stays that of the last hand-out. */
static void to_dead(wm_ledger *l, wm_message *msg, int64_t at) {
  msg->entry.taken = false;
  msg->entry.node.due = at;
  wm_heap_push(&l->dying, &msg->entry.node);
  wm_ledger_set_state(l, msg, WM_ENTRY_DEAD);
  wm_ledger_block(l, msg, true);
}

/* An unplaced message gets ready for its next hand-out. */
static void to_wait(wm_ledger *l, wm_message *msg, int64_t delay_ms, int64_t now) {
  unsigned attempt = attempt_of(msg);
  if (l->closing) {
    wm_ledger_release(l, msg, attempt);
    return;
  }
  atomic_store_explicit(&msg->attempt, ++attempt, memory_order_relaxed);
  if (msg->entry.op != OP_NOTE)
    wm_ledger_op(l, msg, OP_NOTE, attempt);
  msg->entry.op_attempt = attempt;
  if (!delay_ms) {
    wm_ledger_wait(l, msg, true);
    return;
  }
  msg->entry.node.due = delay_ms > INT64_MAX - now ? INT64_MAX : now + delay_ms;
  wm_heap_push(&l->delayed, &msg->entry.node);
  wm_ledger_set_state(l, msg, WM_ENTRY_DELAYED);
  wm_ledger_block(l, msg, true);
}

bool wm_ledger_nack(wm_ledger *l, wm_message *msg, int64_t delay_ms, uint64_t random, int64_t now) {
  bool lost;
  if (!settle_begin(l, msg, 'n', now, &lost))
    return false;
  if (lost)
    return true;
  if (l->config.can_bury && l->config.max_attempts && attempt_of(msg) >= l->config.max_attempts) {
    to_dead(l, msg, now);
    return true;
  }
  if (delay_ms < 0)
    delay_ms = backoff(msg->entry.nacks, random);
  msg->entry.nacks++;
  to_wait(l, msg, delay_ms, now);
  return true;
}

bool wm_ledger_bury(wm_ledger *l, wm_message *msg, int64_t now) {
  bool lost;
  if (!l->config.can_bury || !settle_begin(l, msg, 'n', now, &lost))
    return false;
  if (!lost)
    to_dead(l, msg, now);
  return true;
}

wm_message *wm_ledger_take_dead(wm_ledger *l, int64_t now) {
  wm_ledger_tick(l, now);
  if (!l->dying || l->dying->due > now)
    return NULL;
  wm_message *msg = wm_node_message(l->dying);
  wm_heap_remove(&l->dying, &msg->entry.node);
  msg->entry.taken = true;
  return msg;
}

int64_t wm_ledger_dead_due(const wm_ledger *l) {
  return l->dying ? l->dying->due : INT64_MAX;
}

void wm_ledger_dead_done(wm_ledger *l, wm_message *msg, bool done, int64_t retry_at, int64_t now) {
  wm_ledger_tick(l, now);
  assert(msg->entry.state == WM_ENTRY_DEAD && msg->entry.taken);
  wm_ledger_unplace(l, msg);
  if (msg->entry.lost) {
    if (wm_ledger_leave(l, msg))
      wm_message_release(msg);
  } else if (done) {
    acknowledge(l, msg);
  } else if (l->closing) {
    wm_ledger_release(l, msg, attempt_of(msg));
  } else {
    to_dead(l, msg, retry_at);
  }
}

static bool reclaim_one(wm_ledger *l, wm_message *msg, int64_t now) {
  if (msg->entry.lost) { /* somebody else has it: there is nothing to hand out */
    wm_ledger_unplace(l, msg);
    if (wm_ledger_leave(l, msg))
      wm_message_release(msg);
    return true;
  }
  /* When closing it is handed out no more, so that nobody else can be mistaken for its holder. */
  wm_message *copy = l->closing ? msg : wm_message_copy(msg);
  if (!copy)
    return false;
  wm_ledger_unplace(l, msg);
  if (copy != msg)
    wm_ledger_replace(l, msg, copy);
  to_wait(l, copy, 0, now);
  return true;
}

size_t wm_ledger_reclaim(wm_ledger *l, struct wm_consumer *holder, int64_t now) {
  size_t n = 0;
  wm_node *next;
  wm_ledger_tick(l, now);
  for (wm_node *node = l->hand_first; node; node = next) {
    wm_message *msg = wm_node_message(node);
    next = node->next;
    if ((holder && msg->entry.holder != holder) || !reclaim_one(l, msg, now))
      continue;
    n++;
  }
  return n;
}

size_t wm_ledger_in_hand_of(const wm_ledger *l, const struct wm_consumer *holder) {
  size_t n = 0;
  for (wm_node *node = l->hand_first; node; node = node->next)
    n += wm_node_message(node)->entry.holder == holder;
  return n;
}

/* ---- closing and losing ------------------------------------------------------------------- */

/* How many times it was really handed out, as the broker counted plus here: the next delivery is
 * this + 1. A nack and a reclaim have counted the hand-out to come. */
static unsigned handed_out(const wm_message *msg) {
  bool to_come = msg->entry.state == WM_ENTRY_WAITING || msg->entry.state == WM_ENTRY_DELAYED;
  return attempt_of(msg) - (to_come ? 1 : 0);
}

static void release_held(wm_ledger *l, bool hand) {
  wm_message *next;
  l->closing = true;
  for (wm_message *msg = l->all_first; msg; msg = next) {
    next = msg->entry.all_next;
    wm_entry_state state = msg->entry.state;
    if (state == WM_ENTRY_SETTLED || (state == WM_ENTRY_IN_HAND && !hand) ||
        (state == WM_ENTRY_DEAD && msg->entry.taken))
      continue;
    unsigned attempt = handed_out(msg);
    wm_ledger_unplace(l, msg);
    if (!msg->entry.lost)
      wm_ledger_release(l, msg, attempt);
    else if (wm_ledger_leave(l, msg))
      wm_message_release(msg);
  }
}

void wm_ledger_release_waiting(wm_ledger *l) {
  release_held(l, false);
}

void wm_ledger_release_all(wm_ledger *l) {
  release_held(l, true);
}

size_t wm_ledger_lost(wm_ledger *l, wm_lost_fn match, void *arg, wm_message **gone, int64_t now) {
  wm_message *next;
  size_t n = 0;
  wm_ledger_tick(l, now);
  for (wm_message *msg = l->all_first; msg; msg = next) {
    wm_entry *e = &msg->entry;
    next = e->all_next;
    if (e->lost || !match(msg, arg))
      continue;
    e->lost = true;
    bool stays = e->state == WM_ENTRY_IN_HAND || (e->state == WM_ENTRY_DEAD && e->taken) ||
                 (e->state == WM_ENTRY_SETTLED && e->out && e->op == OP_NONE);
    if (stays) {
      wm_ledger_op_remove(l, msg);
      continue;
    }
    if (e->state != WM_ENTRY_SETTLED)
      wm_ledger_unplace(l, msg);
    if (wm_ledger_leave(l, msg))
      gone[n++] = msg;
  }
  return n;
}
