/*
 * window.h - how many messages a subscription holds at most: about a second of its own work. Pure
 * functions; time is an argument, in monotonic ms.
 */
#ifndef WM_WINDOW_H
#define WM_WINDOW_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* The window of a subscription that has settled nothing yet: small, as its handler may be slow. */
#define WM_WINDOW_START 8
/* The factor by which it may grow from one fetch to the next. */
#define WM_WINDOW_GROWTH 4

/* Messages settled per second of work. Time in which nothing was held does not count, so that a
 * quiet topic does not look like a slow handler. Slides over the last second of work. */
typedef struct wm_meter {
  uint64_t settled;    /* in the second under way */
  int64_t worked;      /* ms of work in it, up to `since` */
  int64_t since;       /* when the work that goes on now was last added up */
  bool working;        /* something is held */
  bool known;          /* something was settled, ever */
  bool has_before;     /* one second is over */
  double before;       /* the rate in that one */
} wm_meter;

/* Something is held from now on, or nothing. */
void wm_meter_work(wm_meter *m, bool working, int64_t now);
void wm_meter_settled(wm_meter *m, size_t n, int64_t now);
double wm_meter_rate(const wm_meter *m, int64_t now); /* per second */

typedef struct wm_window_input {
  size_t last;       /* messages that the last fetch brought; 0: none did yet */
  bool known;        /* something was settled, so that rate means something */
  double rate;       /* settled per second */
  bool redelivered;  /* a redelivered message is held */
  size_t least, most;
} wm_window_input;

/* min(4 x last, rate x 1 s) within least .. most (least wins); 1 while a redelivered message is
 * held. Before the first fetch and settling WM_WINDOW_START stands for what is not known. */
size_t wm_window(const wm_window_input *in);

#endif
