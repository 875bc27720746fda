/*
 * history.h - what happened in a test, in the order of the monotonic clock: the checker judges it.
 *
 * Appending is cheap and may be done from any thread. A child process that will be killed with -9 appends to a
 * file instead, which its parent merges: CLOCK_MONOTONIC is the same in both.
 */
#ifndef HISTORY_H
#define HISTORY_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>

typedef enum history_kind {
  /* of a message; all carry uuid and topic */
  H_PUBLISH = 1, /* publish invoked */
  H_CONFIRMED,   /* its result: stored */
  H_FAILED,      /* refused, or never sent */
  H_UNKNOWN,     /* may be stored */
  H_DELIVERED,   /* wm_next gave it, with attempt */
  H_ACK,         /* about to be acked: recorded before the call, so that a kill between hides nothing */
  H_NACK,        /* the same for a nack; `value` = delay in ms */
  H_REJECTED,    /* the ack or nack just recorded returned false */
  H_CORRUPT,     /* what was delivered is not what was published */
  /* of a consumer; all carry group and consumer */
  H_SUBSCRIBING, /* subscribe invoked; `value` 1: the group starts at the oldest message, 0: with new ones */
  H_SUBSCRIBED,  /* it returned */
  H_FLUSHED,     /* wm_flush returned WM_OK: every ack before `value` (a time) is taken */
  H_CLOSED,      /* close returned; value 0: WM_OK, every ack was taken */
  H_KILLED,      /* its process was killed with -9 */
  H_PAUSED,      /* its process was stopped with SIGSTOP */
  H_RESUMED,     /* and goes on */
  H_LIMIT,       /* `value` = how many messages it may have in hand (default 1) */
  /* of the broker */
  H_OUTAGE,      /* it was killed, or cut off */
  H_RESTORED,    /* it answers again */
  H_WIPED,       /* somebody deleted its group or topic: of what was stored before anything may be lost or come again */
  H_END          /* the test has stopped waiting */
} history_kind;

/* One event. A power of two, so that a record never crosses a page: a kill between two pages of one
 * write leaves whole records. */
typedef struct history_event {
  int64_t time; /* monotonic ns */
  int64_t value;
  uint32_t kind, attempt;
  uint32_t publisher, seq; /* of PUBLISH: who, and its place in the order of that publisher's publishes */
  uint32_t consumer, group;
  uint32_t topic, key;     /* key: lane of order_by, 0 = none */
  char uuid[80];
} history_event;
_Static_assert(sizeof(history_event) == 128, "a record must divide a page");

typedef struct history history;

history *history_new(void);
/* A history that only appends to a file, for a child process. NULL: cannot be opened. */
history *history_open(const char *path);
void history_free(history *h);

int64_t history_now(void);
/* Sets the time of an event (unless it has one) and appends it. */
void history_add(history *h, const history_event *event);
/* The same for n at once: one lock, one write, one time. */
void history_add_all(history *h, history_event *events, size_t n);

/* Takes over what a child has appended to a file since the last call; *offset starts at 0. Calls `seen`
 * (may be NULL) for each event. Returns how many came. */
size_t history_merge(history *h, const char *path, int64_t *offset,
                     void (*seen)(void *arg, const history_event *event), void *arg);

/* A copy sorted by time, the caller frees it. */
history_event *history_take(history *h, size_t *n);
/* Writes it as text, one event a line. */
bool history_save(history *h, const char *path);
const char *history_kind_name(uint32_t kind);

#endif
