/* sender_state.h - what sender.c and sender_batch.c share. */
#ifndef WM_SENDER_STATE_H
#define WM_SENDER_STATE_H

#include <pthread.h>

#include "outage.h"
#include "sender.h"

/* A result that will not change any more, while the job is queued: STORED and REFUSED are so by themselves. */
#define WM_FINAL 8

/* Jobs that are finished, and whose makers are still to be told. */
typedef struct wm_jobs {
  wm_job *first, *last;
} wm_jobs;

struct wm_sender {
  wm_connection *conn; /* which owns it */

  pthread_mutex_t lock; /* guards all down to `cause`, feeds, and jobs but those that are out */
  wm_job *first, *last; /* a job leaves when it is finished; those that are out come first */
  size_t queued;        /* messages */
  bool busy;            /* somebody leads, or is about to; always while there are jobs */
  bool fresh;           /* something came when nothing was queued */
  size_t feeds;         /* open publishers */
  pthread_cond_t idle;  /* nobody leads any more */
  bool started, thread_leads, stop;
  pthread_cond_t work; /* the thread's: it leads, or is to stop */
  int64_t sleeps_until; /* INT64_MIN: the leader is not waiting for the next try */
  pthread_cond_t pause; /* the leader's: something is due before */
  bool failing;         /* the last batch failed */
  wm_error cause;       /* with this */

  pthread_t thread; /* once it is started */

  /* whoever leads; handed on under the lock */
  wm_outage outage;
  int64_t retry_at; /* 0: at once */
  bool slow;        /* the last batch took long: others' time may be over */
  uint64_t batches;
  wm_outgoing *out; /* room for a whole batch, NULL: not made yet */
  wm_result *results;
};

/* Ends a job: takes it out of the queue, fixes and counts its results, and puts it into `done` unless its maker
 * leads. Lock held. */
void wm_sender_finish(wm_sender *s, wm_job *job, wm_job_end end, wm_jobs *done);
/* Finishes the jobs whose time is over; none may be out. Returns the earliest deadline of the others. Lock held. */
int64_t wm_sender_expire(wm_sender *s, int64_t now, wm_jobs *done);

/* The leader's next step: one batch, or waiting until one may be tried. Lock held before and after, not
 * meanwhile. own as in lead(): with it only blocking jobs are sent, since callbacks belong to the thread. */
void wm_sender_step(wm_sender *s, const wm_job *own, wm_jobs *done);
/* Notes why a job fails, unless that is known already: err, or NULL: what failed last. Lock held. */
void wm_sender_tell_cause(wm_sender *s, wm_job *job, const wm_error *err);

#endif
