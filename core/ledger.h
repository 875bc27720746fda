/*
 * ledger.h - what a subscription owes: messages waiting, delayed, in hand, settled; per key; with
 * retries and deadlines. Pure bookkeeping: no thread, no lock, no clock, no broker. Time is an
 * argument, in monotonic ms. Its caller holds the subscription's lock.
 *
 * Rules (DESIGN: the contract of delivery, points 3, 4, 5, 7)
 *   - Messages come out in the order they went in, as far as what blocks them allows.
 *   - A hand-out is a unit: one message, or with batch = n up to n together. At most max_in_flight
 *     units are open; a unit is open until each of its messages was acked, nacked or buried.
 *   - Sequential (max_in_flight = 1, ordered, no order_by): while a message is delayed or on its
 *     way to the dead letter topic nothing is handed out. What was nacked comes first, in the order
 *     of arrival.
 *   - With lanes (order_by): messages of one lane go one unit at a time and in order; one that is
 *     in hand, delayed or dying blocks its lane alone. In one unit several of a lane may stand
 *     together, in order. A message without a key is in no lane and blocks nothing.
 *   - Otherwise (several in flight without order_by, or ordered = false) nothing blocks anything.
 *   - attempt starts at first_attempt and grows with each nack and reclaim, which ask for a NOTE
 *     with the new attempt: of the hand-out to come, as a broker counts the delivery under way. A
 *     RELEASE carries how many hand-outs there really were (first_attempt - 1 before the first), so
 *     that the next one is this + 1.
 *   - What was nacked is handed out as a new object while somebody still has a reference to the old
 *     one, so that settling the old hand-out again returns false.
 *   - What the ledger holds: everything from add until the broker has taken its settling. It holds
 *     one reference to each.
 */
#ifndef WM_LEDGER_H
#define WM_LEDGER_H

#include "backend.h"
#include "message.h"

typedef struct wm_ledger wm_ledger;

typedef struct wm_ledger_config {
  size_t max_in_flight;    /* units; at least 1 */
  size_t batch;            /* messages a unit; at least 1 */
  int64_t batch_wait;      /* ms that an unfilled batch waits, from its first message's arrival */
  bool ordered;            /* false: nothing blocks anything */
  const char *order_by;    /* metadata key, copied; NULL: none */
  unsigned max_attempts;   /* a nack at this attempt buries it; 0 = no limit */
  bool can_bury;           /* there is a dead letter topic */
  size_t prefetch, prefetch_bytes;
} wm_ledger_config;

wm_ledger *wm_ledger_new(const wm_ledger_config *config); /* NULL: out of memory */
/* Releases every message. */
void wm_ledger_free(wm_ledger *l);
/* Changes the rules while messages are held: lanes are built anew, nothing is lost or handed out
 * twice. WM_OK or WM_NOMEM (nothing changed). */
int wm_ledger_configure(wm_ledger *l, const wm_ledger_config *config);

/* Takes over one reference to each of n fetched messages, in order. WM_NOMEM: took none. */
int wm_ledger_add(wm_ledger *l, wm_message *const *msgs, size_t n, int64_t now);

/* Hands out up to max messages: one unit with batch > 1, else up to max units. Adds one reference
 * to each for the caller. Returns 0 when nothing may go now. */
size_t wm_ledger_next(wm_ledger *l, wm_message **out, size_t max, struct wm_consumer *holder,
                      int64_t now);
/* Would wm_ledger_next give something? Call it, or wm_ledger_next, when wm_ledger_deadline has
 * passed, after adding and after settling: a deadline that one of them has seen pass is not told
 * again. */
bool wm_ledger_ready(wm_ledger *l, int64_t now);

/* Is anything in hand, or waiting to be handed out? */
bool wm_ledger_busy(const wm_ledger *l);
/* `holder` is gone: what it has in hand stays there, and is nobody's. */
void wm_ledger_forget_holder(wm_ledger *l, const struct wm_consumer *holder);

/* Settling what is in hand; false when it is not (settled before, reclaimed, released). A lost
 * message is accepted (true) and settles nothing. */
bool wm_ledger_ack(wm_ledger *l, wm_message *msg, int64_t now);
/* delay_ms >= 0, or WM_BACKOFF: 0, then 100 ms doubling to 5 s by the number of nacks. `random`
 * (any bits) makes the jitter, which only lengthens, by at most a quarter. Buried instead when
 * max_attempts is reached and can_bury. */
bool wm_ledger_nack(wm_ledger *l, wm_message *msg, int64_t delay_ms, uint64_t random, int64_t now);
bool wm_ledger_bury(wm_ledger *l, wm_message *msg, int64_t now); /* false also without can_bury */

/* Takes the next message to be published to the dead letter topic (a borrowed pointer), NULL when
 * none; it stays DEAD until told how that went: done = true acks it, false leaves it to be taken
 * again at `retry_at` (released instead when closing). What is taken is not touched by
 * wm_ledger_lost and wm_ledger_release_*. */
wm_message *wm_ledger_take_dead(wm_ledger *l, int64_t now);
void wm_ledger_dead_done(wm_ledger *l, wm_message *msg, bool done, int64_t retry_at, int64_t now);

/* When the next of them is to be taken; INT64_MAX: there is none. */
int64_t wm_ledger_dead_due(const wm_ledger *l);

/* Puts all that `holder` (NULL: anyone) has in hand back at its place as not handed out, so that a
 * later ack by the old holder returns false: the old message object is replaced by a copy. Attempts
 * grow by one. Lost ones leave. Returns how many (fewer when memory is short:
 * those stay in hand). */
size_t wm_ledger_reclaim(wm_ledger *l, struct wm_consumer *holder, int64_t now);

/* How many messages `holder` has in hand. */
size_t wm_ledger_in_hand_of(const wm_ledger *l, const struct wm_consumer *holder);

/* Up to max ops for the broker, in order of settling: ACKs, RELEASEs, NOTEs. Their messages stay
 * owned by the ledger. Only one batch may be out at a time; wm_ledger_settled ends it: ok = true:
 * finished messages leave the ledger and one reference to each is dropped; false: the same ops come
 * again first, less the NOTEs of what was settled and all of what was lost meanwhile. It may be
 * ended in several slices, the last first. */
size_t wm_ledger_take_settled(wm_ledger *l, wm_settle_op *ops, size_t max);
/* Fills `gone` (room for n) with messages whose reference the caller must drop, outside its lock;
 * returns how many. */
size_t wm_ledger_settled(wm_ledger *l, wm_settle_op *ops, size_t n, bool ok, wm_message **gone,
                         int64_t now);
/* Ops not yet taken by the broker, the batch that is out included. */
size_t wm_ledger_unsettled(const wm_ledger *l);

/* For closing: everything that is not in hand becomes a RELEASE, in order of arrival; nothing is
 * handed out any more. */
void wm_ledger_release_waiting(wm_ledger *l);
/* For closing: what is in hand too; later acks return false. */
void wm_ledger_release_all(wm_ledger *l);

/* The broker has given these to somebody else: those not in hand leave, those in hand are marked.
 * Fills `gone` like wm_ledger_settled; room for wm_ledger_counts.held. */
size_t wm_ledger_lost(wm_ledger *l, wm_lost_fn match, void *arg, wm_message **gone, int64_t now);

/* Up to max held messages whose claims must be kept alive, from *cursor (0 at first), each with a
 * reference added. */
size_t wm_ledger_held(wm_ledger *l, wm_message **out, size_t max, uint64_t *cursor);

/* How many more messages and bytes a fetch may bring now; 0: none. The window is min(4 x last
 * fetch, settle rate x 1 s), within max_in_flight * batch .. prefetch (the first wins); 1 while a
 * redelivered message is held; and nothing is fetched while more than half of it is held (settled
 * ones not counted), unless a hand-out could go and there is too little for it. Nothing either
 * while the broker is far behind with settling: settled messages are memory, too. */
size_t wm_ledger_room(const wm_ledger *l, size_t *bytes, int64_t now);
/* What a fetch brought, so that the window can learn. */
void wm_ledger_fetched(wm_ledger *l, size_t asked, size_t got, int64_t now);

/* The next time at which something may be handed out by itself (a delayed message is due, a batch has
 * waited long enough); INT64_MAX: never. */
int64_t wm_ledger_deadline(const wm_ledger *l);

/* The message longest in hand; NULL: none. For the stall warning. */
const wm_message *wm_ledger_oldest_in_hand(const wm_ledger *l);

typedef struct wm_ledger_counts {
  size_t waiting, delayed, in_hand, dead, settled; /* messages */
  size_t units;                                    /* open hand-outs */
  size_t held, bytes;                              /* all of them */
  size_t redelivered;                              /* of the held ones that are not settled */
  size_t window;
} wm_ledger_counts;

void wm_ledger_count(const wm_ledger *l, wm_ledger_counts *out);

#endif
