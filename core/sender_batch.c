/*
 * sender_batch.c - what a leader does with the queue (sender_state.h): takes a batch, has the backend store it,
 * gives each message its result, and decides what is tried again and when. Called by one thread at a time.
 */
#include <stdio.h>
#include <stdlib.h>

#include "clock.h"
#include "error.h"
#include "sender_state.h"

enum {
  BATCH_MESSAGES = 1000,
  BATCH_BYTES = 4 << 20,
  ATTEMPT_LEAST_MS =
      1000, /* though somebody's time ends before: cut short, all of a batch would be unknown */
  ATTEMPT_MOST_MS = 30000, /* a connection that has died in silence is noticed at last */
  SLOW_MS = 100,           /* a batch that takes longer makes others wait noticeably */
  EXPIRE_STEP_MS = 10,     /* what expires one after the other is looked for so often at most */
  RETRY_LEAST_MS =
      500 /* retries are not put off for longer than this because time is running out */
};

/* A batch on its way: messages of the jobs first..last, and what became of it. */
typedef struct batch {
  wm_job *first, *last;
  size_t n;
  int timeout_ms;

  int code;
  wm_error err;
  size_t unresolved; /* NOT_SENT and UNKNOWN */
  enum { ALL_FINAL, TRY_AGAIN, HALT_FIRST, HALT_ALL } verdict;
} batch;

static bool is_open(wm_result r) { return r == WM_RESULT_NOT_SENT || r == WM_RESULT_UNKNOWN; }

void wm_sender_tell_cause(wm_sender *s, wm_job *job, const wm_error *err) {
  if (!err && s->failing) err = &s->cause;
  if (job->cause || !err || !(job->cause = malloc(sizeof *job->cause))) return;
  *job->cause = *err;
}

/* ---- taking --------------------------------------------------------------------------------- */

/* How many of a job's messages fit into a batch of their own. */
static size_t part_of(const wm_job *job) {
  size_t n = 0, bytes = 0;
  for (size_t i = job->first_open; i < job->n && n < BATCH_MESSAGES; i++) {
    if (!is_open(job->results[i])) continue;
    bytes += job->msgs[i]->size;
    if (n && bytes > BATCH_BYTES) break;
    n++;
  }
  return n;
}

/* How long a batch with this job in it may take. */
static int64_t time_for(const wm_job *job, int64_t now) {
  int64_t least = job->feed->timeout_ms;
  if (least < 0 || least > ATTEMPT_LEAST_MS) least = ATTEMPT_LEAST_MS;
  int64_t left = job->deadline - now;
  return left > least ? left : least;
}

/* Marks the jobs of the next batch. After a failure only what has failed goes: nothing shall overtake it.
 * Lock held. */
static void take(wm_sender *s, bool blocking_only, int64_t now, batch *b) {
  size_t bytes = 0;
  int64_t time = ATTEMPT_MOST_MS;
  *b = (batch){.first = s->first};
  s->batches++;
  for (wm_job *job = s->first; job; job = job->next) {
    if ((blocking_only && job->finish) || (s->first->tried && !job->tried)) break;
    bool fits = b->n + job->open <= BATCH_MESSAGES && bytes + job->bytes <= BATCH_BYTES;
    if (!fits && b->last) break;
    b->n += fits ? job->open : part_of(job);
    bytes += job->bytes;
    b->last = job;
    job->out = true;
    if (time_for(job, now) < time) time = time_for(job, now);
    if (job->feed->seen != s->batches) {
      job->feed->seen = s->batches;
      job->feed->stats.batches++;
    }
    if (!fits) break;
  }
  b->timeout_ms = (int)time;
}

/* ---- sending -------------------------------------------------------------------------------- */

static wm_job *next_in(const batch *b, const wm_job *job) {
  return job == b->last ? NULL : job->next;
}

static void fill(wm_sender *s, const batch *b) {
  size_t k = 0;
  for (const wm_job *job = b->first; job; job = next_in(b, job)) {
    const char *order_by = job->feed->order_by;
    for (size_t i = job->first_open; i < job->n && k < b->n; i++) {
      if (!is_open(job->results[i])) continue;
      wm_slice key = {NULL, 0};
      if (order_by) key = wm_message_metadata(job->msgs[i], order_by);
      s->results[k] = WM_RESULT_NOT_SENT;
      s->out[k++] = (wm_outgoing){.topic = job->topic, .msg = job->msgs[i], .key = key};
    }
  }
}

static bool never_works(int code) {
  switch (code) {
  case WM_DENIED:
  case WM_NOT_FOUND:
  case WM_UNSUPPORTED:
  case WM_REFUSED:
  case WM_TOO_LARGE:
  case WM_BAD_INPUT:
    return true;
  default:
    return false;
  }
}

/* A code is about the first message that failed. Where it is the only reason, it holds for all of them;
 * where others were stored, the rest is asked again. */
static void judge(wm_sender *s, batch *b) {
  for (size_t k = 0; k < b->n; k++)
    b->unresolved += is_open(s->results[k]);
  if (!b->unresolved)
    b->verdict = ALL_FINAL;
  else if (!never_works(b->code))
    b->verdict = TRY_AGAIN;
  else
    b->verdict = b->unresolved == b->n ? HALT_ALL : HALT_FIRST;
}

/* The log, and when to try again. */
static void note_outage(wm_sender *s, const batch *b, size_t queued) {
  s->retry_at = 0;
  if (b->verdict == TRY_AGAIN) {
    char what[48];
    snprintf(what, sizeof what, "%zu message%s to publish", queued, queued == 1 ? "" : "s");
    s->retry_at = wm_now_ms() + wm_outage_failed(&s->outage, s->conn->masked, what, &b->err);
  } else if (b->verdict == ALL_FINAL) {
    wm_outage_over(&s->outage, s->conn->masked, "publishing");
  }
}

static bool has_room_for_batches(wm_sender *s) {
  if (!s->out) s->out = calloc(BATCH_MESSAGES, sizeof *s->out);
  if (!s->results) s->results = calloc(BATCH_MESSAGES, sizeof *s->results);
  return s->out && s->results;
}

static void send_batch(wm_sender *s, batch *b) {
  if (!has_room_for_batches(s)) {
    b->code = wm_fail_with(&b->err, WM_NOMEM, "out of memory");
    b->unresolved = b->n;
    b->verdict = TRY_AGAIN;
    return;
  }
  fill(s, b);
  b->code =
      s->conn->backend->publish(s->conn->handle, s->out, b->n, b->timeout_ms, s->results, &b->err);
  judge(s, b);
}

/* ---- results -------------------------------------------------------------------------------- */

/* Once it may be stored, only "it is" is better news. */
static wm_result merge(wm_result before, wm_result now) {
  if (before == WM_RESULT_NOT_SENT || now == WM_STORED) return now;
  return now == WM_RESULT_REFUSED ? WM_RESULT_UNKNOWN | WM_FINAL : WM_RESULT_UNKNOWN;
}

/* Of a message that will never work: with other rights it might. */
static wm_result halted(wm_result r, int code) {
  if (r == WM_RESULT_NOT_SENT && code != WM_DENIED) return WM_RESULT_REFUSED;
  return r | WM_FINAL;
}

/* What settling goes through a batch with. */
typedef struct cursor {
  size_t k;        /* of the batch's results */
  bool failed;     /* one before failed: the backend's error was about that */
  bool unresolved; /* one before is unresolved */
} cursor;

static void blame(wm_sender *s, wm_job *job, const batch *b, bool first) {
  if (first || b->verdict != ALL_FINAL) {
    wm_sender_tell_cause(s, job, &b->err);
    return;
  }
  wm_error err;
  wm_fail_with(&err, b->code, "as others of its batch, of which the first: %s", b->err.text);
  wm_sender_tell_cause(s, job, &err);
}

static void settle_job(wm_sender *s, wm_job *job, const batch *b, cursor *c) {
  for (size_t i = job->first_open; i < job->n && c->k < b->n; i++) {
    if (!is_open(job->results[i])) continue;
    wm_result now = s->results[c->k++], r = merge(job->results[i], now);
    bool halts =
        is_open(r) && (b->verdict == HALT_ALL || (b->verdict == HALT_FIRST && !c->unresolved));
    if (now == WM_RESULT_REFUSED || halts) blame(s, job, b, !c->failed);
    if (halts) job->end = WM_JOB_HALTED;
    c->failed |= now != WM_STORED;
    c->unresolved |= is_open(r);
    job->results[i] = r = halts ? halted(r, b->code) : r;
    if (!is_open(r)) job->open--;
  }
  while (job->first_open < job->n && !is_open(job->results[job->first_open]))
    job->first_open++;
}

/* Lock held. */
static void settle(wm_sender *s, const batch *b, wm_jobs *done) {
  cursor c = {0, false, false};
  for (wm_job *job = b->first, *next; job; job = next) {
    next = next_in(b, job);
    settle_job(s, job, b, &c);
    job->out = false;
    job->tried |= b->verdict == TRY_AGAIN || b->verdict == HALT_FIRST;
    if (!job->open)
      wm_sender_finish(s, job, WM_JOB_SENT, done);
    else if (job->feed->cut)
      wm_sender_finish(s, job, WM_JOB_CUT, done);
  }
}

/* ---- one step ------------------------------------------------------------------------------- */

/* Something came after a pause: it is tried at once, and the tries after it soon again. */
static void begin_anew(wm_sender *s) {
  s->fresh = false;
  s->retry_at = 0;
  if (s->outage.tries > 1) s->outage.tries = 1;
}

static void sleep_until_due(wm_sender *s, int64_t now, int64_t earliest) {
  int64_t until = s->retry_at < earliest ? s->retry_at : earliest;
  if (until < now + EXPIRE_STEP_MS) until = now + EXPIRE_STEP_MS;
  s->sleeps_until = until;
  wm_cond_wait_until(&s->pause, &s->lock, until);
  s->sleeps_until = INT64_MIN;
}

/* A backoff that grows up to the timeout would leave no try for a broker that is back in time. */
static int64_t in_time_for(const wm_job *job, int64_t retry_at, int64_t now) {
  int64_t most = (job->deadline - now) / 2;
  if (most < RETRY_LEAST_MS) most = RETRY_LEAST_MS;
  return retry_at - now < most ? retry_at : now + most;
}

void wm_sender_step(wm_sender *s, const wm_job *own, wm_jobs *done) {
  int64_t now = wm_now_ms(), earliest = INT64_MAX;
  if (s->fresh) begin_anew(s);
  if (s->failing || s->slow || s->first->deadline <= now) earliest = wm_sender_expire(s, now, done);
  if (!s->first || (own && own->finished)) return;
  if (s->retry_at > now) {
    /* What expires now is told before. */
    if (!done->first) sleep_until_due(s, now, earliest);
    return;
  }
  batch b;
  take(s, own != NULL, now, &b);
  size_t queued = s->queued;
  pthread_mutex_unlock(&s->lock);
  send_batch(s, &b);
  note_outage(s, &b, queued);
  int64_t then = wm_now_ms();
  s->slow = then - now >= SLOW_MS;
  pthread_mutex_lock(&s->lock);
  s->failing = b.verdict != ALL_FINAL;
  if (s->failing) s->cause = b.err;
  settle(s, &b, done);
  if (s->retry_at && s->first) s->retry_at = in_time_for(s->first, s->retry_at, then);
}
