/*
 * checker.h - judges a history: one checker for every test of every broker.
 *
 * It knows what excuses what. A message comes twice without blame when it was nacked; when who had it was
 * killed, closed or paused before the ack was taken by the broker (a flush, a close, or `flushed_ms` of
 * time say that it was); when the broker went away meanwhile; or when its publish was under way while the
 * broker went away. Everything else is a finding.
 */
#ifndef CHECKER_H
#define CHECKER_H

#include "history.h"

typedef enum check_kind {
  CHECK_LOST,      /* confirmed, but not handled by a group that owes it */
  CHECK_PHANTOM,   /* delivered, though never published there, failed for sure, or older than its group */
  CHECK_CORRUPT,   /* not what was published */
  CHECK_DUPLICATE, /* came again without an excuse */
  CHECK_REORDER,   /* came after a later one of the same publisher (and key) */
  CHECK_OVERLAP,   /* came while another of its lane, or as many as may, were in hand */
  CHECK_ATTEMPT,   /* 0, not 1 at first, or not more than before the nack */
  CHECK_EARLY,     /* came before the delay of its nack was over */
  CHECK_REFUSED,   /* an ack or nack returned false though the message was in hand */
  CHECK_STUCK,     /* nothing moved though there was a backlog and somebody to take it */
  CHECK_KINDS
} check_kind;

typedef enum check_order {
  ORDER_NONE,
  ORDER_TOPIC, /* all that a consumer gets is one lane */
  ORDER_KEY    /* each key is one; key 0 is none */
} check_order;

typedef struct checker_rules {
  check_order order;
  bool across_members; /* order holds for the group together, not for each consumer alone */
  bool batch;          /* messages of one lane may be in hand together */
  bool duplicates;     /* the broker may repeat without a reason */
  bool unfinished;     /* the test did not wait for everything: nothing is lost yet */
  int flushed_ms;      /* 0: 5,000 */
  int stuck_ms;        /* 0: 10,000; give the takeover time on top where members die */
} checker_rules;

enum { CHECKER_TEXTS = 20 };

typedef struct checker_report {
  size_t total, count[CHECK_KINDS];
  size_t n_texts; /* the first ones */
  char text[CHECKER_TEXTS][320];
  size_t published, confirmed, delivered, repeated; /* what was seen */
} checker_report;

/* Fills *report; true when there is no finding. */
bool checker_run(history *h, const checker_rules *rules, checker_report *report);
const char *check_kind_name(check_kind kind);

#endif
