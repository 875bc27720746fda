/*
 * sender.h - the one queue of a connection: what all its publishers want stored, in order, sent as the
 * backend's batches. Inside of publisher.c; nobody else needs it.
 *
 * Whoever finds nobody sending sends: the caller of wm_sender_send does it until its own job is finished,
 * then whoever owns the first job in the queue goes on. Asynchronous jobs are the affair of one thread, which
 * is started with the first of them and serves whatever is queued. So a lone caller hands nothing over, and
 * what queued up while a batch was under way is the next batch.
 */
#ifndef WM_SENDER_H
#define WM_SENDER_H

#include <pthread.h>

#include "connection.h"

typedef struct wm_sender wm_sender;
typedef struct wm_job wm_job;

/* What one publisher has in the queue. */
typedef struct wm_feed {
  /* constant; `sender` from wm_sender_attach on */
  wm_sender *sender;
  const char *url;      /* masked, for texts */
  const char *order_by; /* NULL: none */
  int64_t timeout_ms;   /* < 0: none */
  size_t queue_bytes;   /* above it publishing waits */

  /* the sender's lock */
  bool closing;           /* takes no more jobs */
  bool cut;               /* nothing is tried again */
  size_t waits_for_room;  /* threads */
  size_t jobs;            /* not finished, or their `finish` has not returned */
  uint64_t seen;          /* the last batch with something of it */
  wm_publisher_stats stats;
  pthread_cond_t changed; /* room, or no jobs any more; by its maker, from wm_cond_init */
} wm_feed;

/* Why a job ended with messages that are not stored. */
typedef enum wm_job_end {
  WM_JOB_SENT,   /* every message got a final answer */
  WM_JOB_LATE,   /* its time was over */
  WM_JOB_HALTED, /* the broker said that it will never work (`cause`) */
  WM_JOB_CUT     /* the publisher was closed */
} wm_job_end;

/* Messages to one topic that one call published. */
struct wm_job {
  /* by its maker, constant while it is queued */
  wm_feed *feed;
  const char *topic;
  wm_message *const *msgs;
  size_t n;     /* at least 1 */
  size_t bytes; /* of all messages */
  /* NULL: its maker waits in wm_sender_send. Else called once, from the sender's thread or a closing one, no lock
   * held; it owns the job. */
  void (*finish)(wm_job *job);
  wm_publish_cb cb; /* for finish */
  void *arg;

  /* when it is finished: a result a message, why, and the broker's words (NULL: none; to be freed) */
  wm_result *results; /* room for n, by its maker */
  wm_job_end end;
  wm_error *cause;

  /* the sender's */
  wm_job *prev, *next;
  int64_t deadline;   /* monotonic ms */
  size_t open;        /* messages without a final result */
  size_t first_open;  /* all before it are final */
  bool out;           /* part of the batch under way */
  bool tried;         /* a batch with it has failed */
  bool leads;         /* its maker sends, or is about to */
  bool finished;
  struct wm_waiter *waiter;
};

wm_sender *wm_sender_new(wm_connection *conn); /* NULL: out of memory */
void wm_sender_free(wm_sender *s);             /* no feed is attached; NULL: nothing */

/* The constant fields and `changed` are set, all else is zero. */
void wm_sender_attach(wm_sender *s, wm_feed *feed);
/* Takes no more jobs, waits until those of the feed are finished, and after `until` (monotonic ms) gives up
 * those that are not. WM_OK, or WM_TIMEOUT when some were given up. */
int wm_sender_detach(wm_feed *feed, int64_t until);

/* Sends a job and waits until it is finished. WM_OK: it is, whatever its results. Otherwise it was not
 * queued: WM_TIMEOUT (no room in time), WM_CLOSED, WM_NOMEM. */
int wm_sender_send(wm_job *job);
/* Queues a job with `finish`. WM_OK; WM_TIMEOUT (no room now), WM_CLOSED, WM_NOMEM: it still is the caller's. */
int wm_sender_queue(wm_job *job);

void wm_sender_get_stats(wm_feed *feed, wm_publisher_stats *out);

#endif
