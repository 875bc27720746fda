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

/* The ledger's part of a message; touched only under the subscription's lock. */
typedef struct wm_entry {
  wm_entry_state state;
  bool lost;               /* the claim is gone: settle nothing */
  bool note;               /* its attempt is to be written down */
  bool handed;             /* was handed out since it was fetched */
  int settled_as;          /* 0, or what won: 'a' ack, 'n' nack, of the hand-out of now */
  unsigned failures;       /* calls of wm_fail */
  uint32_t unit;           /* index of the batch it was handed out in */
  size_t heap;             /* place in the delayed heap */
  uint64_t seq;            /* order of arrival */
  int64_t due;             /* when a delayed one comes back, monotonic ms */
  int64_t since;           /* when it was handed out, monotonic ms */
  struct wm_message *prev, *next;           /* the list of its state */
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

/* A copy with one reference, in no ledger; attempt and the received fields are kept. NULL: out of memory. */
wm_message *wm_message_copy(const wm_message *msg);

#endif
