/*
 * message.h - the inside of wm_message. One allocation holds the header, the pairs, and every byte;
 * who touches which field is said beside it.
 */
#ifndef WM_MESSAGE_H
#define WM_MESSAGE_H

#include <stdatomic.h>

#include "wm.h"

struct wm_ledger_lane;

/* Where a message is in its subscription's ledger. */
typedef enum wm_entry_state {
  WM_ENTRY_NONE,    /* not in a ledger */
  WM_ENTRY_WAITING, /* may be handed out, or stands behind others of its key */
  WM_ENTRY_DELAYED, /* nacked; waits for `due` */
  WM_ENTRY_IN_HAND, /* handed out, not settled */
  WM_ENTRY_DEAD,    /* on its way to the dead letter topic */
  WM_ENTRY_SETTLED, /* acked or released; the broker does not know yet */
  WM_ENTRY_DONE     /* out of the ledger again */
} wm_entry_state;

/* A place in a heap or a list of the ledger (ledger_heap.h). */
typedef struct wm_node {
  struct wm_node *prev, *next, *child;
  int64_t due;    /* heaps of times: monotonic ms; else 0 */
  uint64_t order; /* order of arrival */
} wm_node;

/* The ledger's part of a message; touched only under the subscription's lock, but for `failures`. */
typedef struct wm_entry {
  wm_entry_state state;
  bool lost;      /* the claim is gone: settle nothing */
  bool handed;    /* was handed out since it was fetched */
  bool came_back; /* waiting: among those that came back, not in the list of new ones */
  bool eager;     /* waits for no batch to fill: redelivered or handed out before */
  bool taken;     /* dead: is being published now */
  bool out;       /* an op of it is with the broker */
  uint8_t op;     /* the op that waits to be taken (ledger_state.h) */
  int settled_as;      /* 0, or what won: 'a' ack, 'n' nack, of the hand-out of now */
  atomic_uint failures; /* calls of wm_fail; any thread may read it */
  unsigned nacks;      /* nacks since it was fetched */
  unsigned op_attempt; /* of `op` */
  wm_node node;        /* its place among those of its state */
  int64_t arrived;     /* when it was added, monotonic ms */
  int64_t since;       /* when it was handed out, monotonic ms */
  struct wm_message *all_prev, *all_next;   /* all that the ledger holds, by arrival */
  struct wm_message *op_prev, *op_next;     /* those whose op waits, by settling */
  struct wm_message *mate_prev, *mate_next; /* in hand: the ring of its unit */
  struct wm_ledger_lane *lane;              /* of its order_by key, NULL: none */
  struct wm_consumer *holder;               /* in hand: who has it */
} wm_entry;

struct wm_message {
  /* set while it is made, constant afterwards */
  wm_slice uuid, payload;
  wm_pair *meta;
  size_t pairs;
  wm_slice handle;         /* received: the broker's own name of it where a token is too small */
  uint64_t token[2];       /* received: the broker's own name of it, meaning known to its backend */
  int64_t time;            /* received: ms since the epoch, 0 = unknown */
  unsigned first_attempt;  /* received: deliveries before this one, as the broker knows, + 1 */
  bool redelivered;        /* received: somebody may have had it in hand before */
  const char *undecodable; /* received: why its record could not be read (static text), or NULL */
  char position[48];       /* received: as `from` takes it */
  size_t size;             /* of the whole allocation, bytes */

  /* any thread */
  atomic_uint refs;

  /* by the core */
  struct wm_subscription *sub; /* set once when it enters a ledger; holds a reference to it */
  atomic_uint attempt;         /* of the hand-out of now */
  char *dead_reason, *dead_detail; /* the last failure's, freed with the message; subscription's lock */
  wm_entry entry;

  /* allocation: used bytes of data */
  size_t room, used;
  char data[];
};

/* ---- for backends: making what was received ----------------------------------------------- */

/* A message with one reference and room for `pairs` metadata pairs and `bytes` of uuid, keys, values,
 * payload and handle together (terminating NULs are extra, and counted by the callee). Too much is fine,
 * too little is a defect (assert). NULL: out of memory. */
wm_message *wm_message_alloc(size_t pairs, size_t bytes);

/* Each copies once into the allocation. `add` keeps the last value of a key that comes again. */
void wm_message_set_uuid(wm_message *msg, const void *data, size_t len);
void wm_message_set_payload(wm_message *msg, const void *data, size_t len);
void wm_message_set_handle(wm_message *msg, const void *data, size_t len);
void wm_message_add(wm_message *msg, const void *key, size_t key_len, const void *value, size_t value_len);
/* Reserves n bytes for the payload, to be filled by the caller at once. */
char *wm_message_payload_room(wm_message *msg, size_t n);

/* ---- for the core --------------------------------------------------------------------------- */

/* Like wm_message_new, but reserved keys are allowed: for what the library itself adds. */
int wm_message_make(wm_message **out, const char *uuid, wm_slice payload, const wm_pair *metadata, size_t pairs,
                    wm_error *err);

/* A copy with one reference, in no ledger; attempt, the received fields and `sub` (with a reference of
 * its own) are kept: the ledger hands it out in the place of the other. NULL: out of memory. */
wm_message *wm_message_copy(const wm_message *msg);

#endif
