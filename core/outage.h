/*
 * outage.h - how often a broker that is away is asked again, and what the log says meanwhile: the first
 * failure, then a line in five seconds at most, and the end. Not thread-safe: one owner each.
 */
#ifndef WM_OUTAGE_H
#define WM_OUTAGE_H

#include "wm.h"

typedef struct wm_outage {
  unsigned tries; /* that failed in a row; 0: all is well */
  int64_t since;  /* when the first did, monotonic ms */
  int64_t told;   /* when the log last said so */
} wm_outage;

/* One more try failed. `url` is masked, `what` says what waits ("topic 'orders', group 'mail'"). Returns
 * the ms until the next try. */
int wm_outage_failed(wm_outage *o, const char *url, const char *what, const wm_error *err);
/* A try succeeded; cheap while there was no outage. */
void wm_outage_over(wm_outage *o, const char *url, const char *what);

#endif
