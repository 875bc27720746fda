/*
 * sender.c - see sender.h: the queue, who leads, the thread. What a leader does with the queue is in
 * sender_batch.c.
 */
#include <stdatomic.h>
#include <stdlib.h>

#include "clock.h"
#include "sender_state.h"
#include "thread.h"

/* ---- those who wait ------------------------------------------------------------------------- */

typedef enum wake_up { SLEEP, FINISHED, LEAD } wake_up;

/* A semaphore each: those who are woken together meet at no lock. A condition with a lock each cost a quarter more
 * processor time with fifty callers. */
typedef struct wm_waiter {
  sem_t woken;
  atomic_int word; /* wake_up */
} wm_waiter;

static int waiter_init(wm_waiter *w) {
  atomic_init(&w->word, SLEEP);
  return sem_init(&w->woken, 0, 0) == 0 ? WM_OK : WM_NOMEM;
}

static void waiter_destroy(wm_waiter *w) { sem_destroy(&w->woken); }

static wake_up waiter_wait(wm_waiter *w, int64_t until) {
  if (!wm_sem_wait_until(&w->woken, until)) return SLEEP;
  return (wake_up)atomic_exchange(&w->word, SLEEP);
}

/* The waiter may be gone when this returns. */
static void waiter_wake(wm_waiter *w, wake_up word) {
  atomic_store(&w->word, word);
  sem_post(&w->woken);
}

/* ---- the queue ------------------------------------------------------------------------------ */

static void append(wm_sender *s, wm_job *job) {
  wm_feed *f = job->feed;
  job->open = job->n;
  for (size_t i = 0; i < job->n; i++)
    job->results[i] = WM_RESULT_NOT_SENT;
  if (!s->first) s->fresh = true;
  job->prev = s->last;
  job->next = NULL;
  *(s->last ? &s->last->next : &s->first) = job;
  s->last = job;
  s->queued += job->n;
  f->jobs++;
  f->stats.queued += job->n;
  f->stats.queued_bytes += job->bytes;
  if (job->deadline < s->sleeps_until) pthread_cond_signal(&s->pause);
}

static void count_results(wm_job *job) {
  wm_publisher_stats *stats = &job->feed->stats;
  for (size_t i = 0; i < job->n; i++) {
    job->results[i] &= ~WM_FINAL;
    switch (job->results[i]) {
    case WM_STORED:
      stats->stored++;
      break;
    case WM_RESULT_REFUSED:
      stats->refused++;
      break;
    case WM_RESULT_NOT_SENT:
      stats->not_sent++;
      break;
    default:
      stats->unknown++;
    }
  }
}

void wm_sender_finish(wm_sender *s, wm_job *job, wm_job_end end, wm_jobs *done) {
  wm_feed *f = job->feed;
  if (end == WM_JOB_LATE || end == WM_JOB_CUT) wm_sender_tell_cause(s, job, NULL);
  if (job->end == WM_JOB_SENT) job->end = end;
  *(job->prev ? &job->prev->next : &s->first) = job->next;
  *(job->next ? &job->next->prev : &s->last) = job->prev;
  s->queued -= job->n;
  count_results(job);
  f->stats.queued -= job->n;
  f->stats.queued_bytes -= job->bytes;
  job->finished = true;
  if (!job->finish) f->jobs--; /* the others when `finish` has returned */
  if (f->closing || f->waits_for_room) pthread_cond_broadcast(&f->changed);
  if (job->leads) return; /* its maker looks by itself */
  job->next = NULL;
  *(done->last ? &done->last->next : &done->first) = job;
  done->last = job;
}

int64_t wm_sender_expire(wm_sender *s, int64_t now, wm_jobs *done) {
  int64_t earliest = INT64_MAX;
  for (wm_job *job = s->first, *next; job; job = next) {
    next = job->next;
    if (job->deadline <= now)
      wm_sender_finish(s, job, WM_JOB_LATE, done);
    else if (job->deadline < earliest)
      earliest = job->deadline;
  }
  return earliest;
}

static void called_back(wm_feed *f, size_t n) {
  pthread_mutex_lock(&f->sender->lock);
  f->jobs -= n;
  if (f->closing && !f->jobs) pthread_cond_broadcast(&f->changed);
  pthread_mutex_unlock(&f->sender->lock);
}

/* Tells the makers of finished jobs. No lock is held; blocking jobs are gone afterwards. */
static void deliver(wm_jobs *done) {
  wm_feed *feed = NULL;
  size_t n = 0;
  for (wm_job *job = done->first, *next; job; job = next) {
    next = job->next;
    if (!job->finish) {
      waiter_wake(job->waiter, FINISHED);
      continue;
    }
    if (feed != job->feed) {
      if (feed) called_back(feed, n);
      feed = job->feed;
      n = 0;
    }
    n++;
    job->finish(job);
  }
  if (feed) called_back(feed, n);
}

/* ---- leading -------------------------------------------------------------------------------- */

/* Nobody leads now: the owner of the first job is to. Lock held. */
static void pass_on(wm_sender *s) {
  wm_job *first = s->first;
  s->busy = first != NULL;
  if (!first) {
    if (!s->feeds) pthread_cond_broadcast(&s->idle);
    return;
  }
  if (first->finish) {
    s->thread_leads = true;
    pthread_cond_signal(&s->work);
    return;
  }
  first->leads = true;
  waiter_wake(first->waiter, LEAD);
}

/* Sends until `own`, which is the first in the queue, is finished; NULL: until nothing is queued. Lock held
 * before, not after. */
static void lead(wm_sender *s, wm_job *own) {
  bool over = false;
  while (!over) {
    wm_jobs done = {NULL, NULL};
    if (own ? !own->finished : s->first != NULL) wm_sender_step(s, own, &done);
    over = own ? own->finished : !s->first;
    if (over) pass_on(s); /* before the others wake up: it is the next batch that waits for it */
    pthread_mutex_unlock(&s->lock);
    deliver(&done);
    if (!over) pthread_mutex_lock(&s->lock);
  }
}

static void *run(void *arg) {
  wm_sender *s = arg;
  pthread_mutex_lock(&s->lock);
  while (!s->stop) {
    if (!s->thread_leads) {
      pthread_cond_wait(&s->work, &s->lock);
      continue;
    }
    s->thread_leads = false;
    lead(s, NULL);
    pthread_mutex_lock(&s->lock);
  }
  pthread_mutex_unlock(&s->lock);
  return NULL;
}

/* ---- jobs ----------------------------------------------------------------------------------- */

static int64_t after(int64_t now, int64_t ms) {
  return ms < 0 || ms > INT64_MAX - now ? INT64_MAX : now + ms;
}

static bool has_room(const wm_job *job) {
  const wm_feed *f = job->feed;
  size_t queued = f->stats.queued_bytes;
  return !queued || (queued < f->queue_bytes && job->bytes <= f->queue_bytes - queued);
}

static int wait_for_room(wm_sender *s, wm_job *job) {
  wm_feed *f = job->feed;
  bool in_time = true;
  f->waits_for_room++;
  while (!f->closing && !has_room(job) && in_time)
    in_time = wm_cond_wait_until(&f->changed, &s->lock, job->deadline);
  f->waits_for_room--;
  if (f->closing) return WM_CLOSED;
  return has_room(job) ? WM_OK : WM_TIMEOUT;
}

/* Takes a job whose time is over out of the queue, unless somebody has it in hand. */
static bool withdraw(wm_sender *s, wm_job *job) {
  wm_jobs done = {NULL, NULL};
  pthread_mutex_lock(&s->lock);
  bool ours = !job->finished && !job->out && !job->leads;
  if (ours) wm_sender_finish(s, job, WM_JOB_LATE, &done);
  pthread_mutex_unlock(&s->lock);
  return ours;
}

static void wait_until_finished(wm_sender *s, wm_job *job) {
  int64_t until = job->deadline;
  for (;;) {
    wake_up word = waiter_wait(job->waiter, until);
    if (word == LEAD) {
      pthread_mutex_lock(&s->lock);
      lead(s, job);
      return;
    }
    if (word == FINISHED || withdraw(s, job)) return;
    until = INT64_MAX; /* whoever has it will tell */
  }
}

int wm_sender_send(wm_job *job) {
  wm_sender *s = job->feed->sender;
  job->deadline = after(wm_now_ms(), job->feed->timeout_ms);
  pthread_mutex_lock(&s->lock);
  int rc = wait_for_room(s, job);
  if (rc != WM_OK) {
    pthread_mutex_unlock(&s->lock);
    return rc;
  }
  if (!s->busy) {
    s->busy = job->leads = true;
    append(s, job);
    lead(s, job);
    return WM_OK;
  }
  wm_waiter waiter;
  if (waiter_init(&waiter) != WM_OK) {
    pthread_mutex_unlock(&s->lock);
    return WM_NOMEM;
  }
  job->waiter = &waiter;
  append(s, job);
  pthread_mutex_unlock(&s->lock);
  wait_until_finished(s, job);
  waiter_destroy(&waiter);
  return WM_OK;
}

static int start_thread(wm_sender *s) {
  if (s->started) return WM_OK;
  if (wm_thread_start(&s->thread, "wm-publish", run, s) != WM_OK) return WM_NOMEM;
  s->started = true;
  return WM_OK;
}

int wm_sender_queue(wm_job *job) {
  wm_feed *f = job->feed;
  wm_sender *s = f->sender;
  job->deadline = after(wm_now_ms(), f->timeout_ms);
  pthread_mutex_lock(&s->lock);
  int rc = f->closing ? WM_CLOSED : has_room(job) ? start_thread(s) : WM_TIMEOUT;
  if (rc == WM_OK) {
    append(s, job);
    if (!s->busy) pass_on(s);
  }
  pthread_mutex_unlock(&s->lock);
  return rc;
}

/* ---- feeds ---------------------------------------------------------------------------------- */

void wm_sender_attach(wm_sender *s, wm_feed *feed) {
  feed->sender = s;
  pthread_mutex_lock(&s->lock);
  s->feeds++;
  pthread_mutex_unlock(&s->lock);
}

/* Gives up what is queued of the feed, and what is under way as soon as it comes back. Lock held. */
static void cut(wm_sender *s, wm_feed *feed) {
  wm_jobs done = {NULL, NULL};
  feed->cut = true;
  for (wm_job *job = s->first, *next; job; job = next) {
    next = job->next;
    if (job->feed == feed && !job->out) wm_sender_finish(s, job, WM_JOB_CUT, &done);
  }
  pthread_cond_signal(&s->pause);
  pthread_mutex_unlock(&s->lock);
  deliver(&done);
  pthread_mutex_lock(&s->lock);
}

/* The last publisher has gone: the backend may drop what serves only publishing, which is a turn like a batch
 * is. Lock held. */
static void close_publishing(wm_sender *s) {
  const wm_backend *b = s->conn->backend;
  while (s->busy && !s->feeds)
    pthread_cond_wait(&s->idle, &s->lock);
  if (s->feeds || !b->publish_close) return;
  s->busy = true;
  pthread_mutex_unlock(&s->lock);
  b->publish_close(s->conn->handle);
  pthread_mutex_lock(&s->lock);
  pass_on(s);
}

int wm_sender_detach(wm_feed *feed, int64_t until) {
  wm_sender *s = feed->sender;
  bool in_time = true;
  pthread_mutex_lock(&s->lock);
  feed->closing = true;
  pthread_cond_broadcast(&feed->changed);
  while (feed->jobs && in_time)
    in_time = wm_cond_wait_until(&feed->changed, &s->lock, until);
  int rc = feed->jobs ? WM_TIMEOUT : WM_OK;
  if (feed->jobs) cut(s, feed);
  while (feed->jobs)
    pthread_cond_wait(&feed->changed, &s->lock);
  s->feeds--;
  close_publishing(s);
  pthread_mutex_unlock(&s->lock);
  return rc;
}

void wm_sender_get_stats(wm_feed *feed, wm_publisher_stats *out) {
  pthread_mutex_lock(&feed->sender->lock);
  *out = feed->stats;
  pthread_mutex_unlock(&feed->sender->lock);
}

wm_sender *wm_sender_new(wm_connection *conn) {
  wm_sender *s = calloc(1, sizeof *s);
  if (!s) return NULL;
  s->conn = conn;
  s->sleeps_until = INT64_MIN;
  pthread_mutex_init(&s->lock, NULL);
  pthread_cond_t *conds[] = {&s->work, &s->idle, &s->pause};
  for (size_t i = 0; i < sizeof conds / sizeof *conds; i++) {
    if (wm_cond_init(conds[i]) == WM_OK) continue;
    while (i--)
      pthread_cond_destroy(conds[i]);
    pthread_mutex_destroy(&s->lock);
    free(s);
    return NULL;
  }
  return s;
}

void wm_sender_free(wm_sender *s) {
  if (!s) return;
  if (s->started) {
    pthread_mutex_lock(&s->lock);
    s->stop = true;
    pthread_cond_signal(&s->work);
    pthread_mutex_unlock(&s->lock);
    pthread_join(s->thread, NULL);
  }
  pthread_cond_destroy(&s->work);
  pthread_cond_destroy(&s->idle);
  pthread_cond_destroy(&s->pause);
  pthread_mutex_destroy(&s->lock);
  free(s->out);
  free(s->results);
  free(s);
}
