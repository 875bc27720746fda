/*
 * hub.c - one hub a file and process: the queue of jobs, and turns that carry them out. Any thread.
 *
 * There is no thread for it. A caller that finds nobody leading leads one turn: it lets all that is queued look
 * (reading, outside of a transaction), and if something is left to be written, begins a transaction, takes all
 * that is queued by then, carries it out, and commits: one fsync for everybody. Then the next caller leads.
 *
 * Until the transaction has begun, which may take as long as other processes have the file's lock, jobs stay in
 * the queue: whoever is interrupted or has waited long enough takes its own out again.
 */
#include <errno.h>
#include <limits.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include "clock.h"
#include "error.h"
#include "log.h"
#include "sqlite.h"

/* ---- the table -------------------------------------------------------------------------------- */

static pthread_mutex_t table_lock = PTHREAD_MUTEX_INITIALIZER; /* guards table, users, next */
static wm_sqlite_hub *table;

static void free_hub(wm_sqlite_hub *h) {
  wm_sqlite_topics_free(h);
  wm_sqlite_db_close(&h->db);
  if (h->watch_stop >= 0) close(h->watch_stop);
  pthread_mutex_destroy(&h->lock);
  pthread_mutex_destroy(&h->watch_lock);
  free(h->scratch.data);
  free(h->path);
  free(h);
}

static wm_sqlite_hub *new_hub(const char *path) {
  wm_sqlite_hub *h = calloc(1, sizeof *h);
  if (!h) return NULL;
  pthread_mutex_init(&h->lock, NULL);
  pthread_mutex_init(&h->watch_lock, NULL);
  h->db.bell = -1;
  h->watch_stop = eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC);
  h->db.path = h->path = strdup(path);
  if (h->path && h->watch_stop >= 0) return h;
  free_hub(h);
  return NULL;
}

/* What keeps longer wins: nobody may miss what he was promised. */
static void widen(wm_sqlite_hub *h, wm_sqlite_retention r) {
  pthread_mutex_lock(&h->lock);
  if (r.kind > h->retention.kind || (r.kind == h->retention.kind && r.ms > h->retention.ms))
    h->retention = r;
  pthread_mutex_unlock(&h->lock);
}

int wm_sqlite_hub_acquire(wm_sqlite_hub **out, const char *path, wm_sqlite_retention retention,
                          wm_error *err) {
  char real[PATH_MAX];
  pthread_mutex_lock(&table_lock);
  int rc = wm_sqlite_make_file(path, err);
  if (rc == WM_OK && !realpath(path, real))
    rc = wm_fail_with(err, WM_UNREACHABLE, "file '%s': %s", path, strerror(errno));
  if (rc != WM_OK) {
    pthread_mutex_unlock(&table_lock);
    return rc;
  }
  wm_sqlite_hub *h = table;
  while (h && strcmp(h->path, real) != 0)
    h = h->next;
  if (!h && (h = new_hub(real))) {
    h->next = table;
    table = h;
  }
  if (h) {
    h->users++;
    widen(h, retention);
  }
  pthread_mutex_unlock(&table_lock);
  *out = h;
  return h ? WM_OK : wm_fail_with(err, WM_NOMEM, "out of memory");
}

void wm_sqlite_hub_release(wm_sqlite_hub *h) {
  pthread_mutex_lock(&table_lock);
  if (--h->users == 0) {
    wm_sqlite_hub **at = &table;
    while (*at != h)
      at = &(*at)->next;
    *at = h->next;
    free_hub(h); /* within the lock: closing must be over before the file is opened again */
  }
  pthread_mutex_unlock(&table_lock);
}

/* ---- the queue -------------------------------------------------------------------------------- */

static void append(wm_sqlite_hub *h, wm_sqlite_job *job) {
  wm_sqlite_job **at = &h->queue;
  while (*at)
    at = &(*at)->next;
  job->next = NULL;
  job->state = JOB_QUEUED;
  *at = job;
}

static void take_out(wm_sqlite_hub *h, wm_sqlite_job *job) {
  wm_sqlite_job **at = &h->queue;
  while (*at != job)
    at = &(*at)->next;
  *at = job->next;
}

static bool is_wanted(const wm_sqlite_job *job, bool looking, bool durable) {
  if (looking) return job->look && !job->looked;
  return job->run && (durable || !job->durable);
}

/* Takes those that have not looked yet, or those that a transaction of this kind may carry out; in order. */
static wm_sqlite_job *take(wm_sqlite_hub *h, bool looking, bool durable) {
  wm_sqlite_job *taken = NULL, **end = &taken;
  for (wm_sqlite_job **at = &h->queue; *at;) {
    wm_sqlite_job *job = *at;
    if (!is_wanted(job, looking, durable)) {
      at = &job->next;
      continue;
    }
    *at = job->next;
    job->state = JOB_TAKEN;
    job->next = NULL;
    *end = job;
    end = &job->next;
  }
  return taken;
}

static void finish(wm_sqlite_job *job) {
  job->state = JOB_DONE;
  pthread_cond_signal(job->cond);
}

/* ---- carrying out ----------------------------------------------------------------------------- */

static void close_db(wm_sqlite_hub *h) {
  wm_sqlite_topics_unprepare(h);
  wm_sqlite_db_close(&h->db);
  h->schema = h->data = -1;
}

/* Opens the file where it is not, or where it was replaced. */
static int open_db(wm_sqlite_hub *h, const wm_sqlite_job *own, wm_error *err) {
  h->db.give_up = own->give_up;
  h->db.stop = own->stop;
  if (h->db.handle && wm_sqlite_db_moved(&h->db)) {
    wm_log(WM_LOG_WARN,
           "sqlite: file '%s' was deleted or replaced by another; going on with what is there now",
           h->path);
    close_db(h);
  }
  if (h->db.handle && wm_sqlite_db_broken(&h->db)) close_db(h);
  if (h->db.handle) return WM_OK;
  h->schema = h->data = -1;
  return wm_sqlite_db_open(&h->db, err);
}

int wm_sqlite_check_schema(wm_sqlite_hub *h, wm_error *err) {
  int64_t version;
  int rc = wm_sqlite_number(&h->db, wm_sqlite_stmt(&h->db, Q_SCHEMA_VERSION), 0, &version, err, "");
  if (rc != WM_OK || version == h->schema) return rc;
  h->schema = version;
  for (wm_sqlite_topic *t = h->topics; t; t = t->next)
    t->ready = false;
  return WM_OK;
}

static int begin(wm_sqlite_hub *h, bool durable, int64_t give_up, const atomic_bool *stop,
                 wm_error *err) {
  h->db.give_up = give_up;
  h->db.stop = stop;
  h->db.code = SQLITE_OK;
  return wm_sqlite_db_begin(&h->db, durable, err);
}

static int run_all(wm_sqlite_hub *h, wm_sqlite_job *batch, bool last, wm_error *err) {
  for (wm_sqlite_job *job = batch; job; job = job->next) {
    int rc = job->last == last ? job->run(h, job, &job->error) : WM_OK;
    if (rc == WM_OK) continue;
    *err = job->error;
    return rc;
  }
  return WM_OK;
}

/* Tells those who wait, in this process and in others. */
static void announce(wm_sqlite_hub *h) {
  bool some = false;
  for (wm_sqlite_topic *t = h->topics; t; t = t->next) {
    if (!t->news) continue;
    if (!some) pthread_mutex_lock(&h->lock);
    some = true;
    t->changes++;
    t->news = false;
    for (wm_sqlite_sub *s = h->subs; s; s = s->next)
      if (s->topic == t) pthread_cond_signal(&s->cond);
  }
  if (!some) return;
  pthread_mutex_unlock(&h->lock);
  wm_sqlite_bell_ring(&h->db);
}

static void roll_back(wm_sqlite_hub *h, wm_sqlite_job *batch) {
  if (!sqlite3_get_autocommit(h->db.handle)) {
    int code = h->db.code;
    wm_sqlite_do(&h->db, wm_sqlite_stmt(&h->db, Q_ROLLBACK), NULL, "");
    h->db.code = code;
  }
  h->schema = -1; /* tables that were made are gone again */
  for (wm_sqlite_topic *t = h->topics; t; t = t->next)
    t->news = t->ready = false;
  for (wm_sqlite_job *job = batch; job; job = job->next)
    if (job->undo) job->undo(h, job);
}

/* One transaction, which has begun. *uncertain: whether it was committed is not known. */
static int transact(wm_sqlite_hub *h, wm_sqlite_job *batch, bool *uncertain, wm_error *err) {
  *uncertain = false;
  int rc = wm_sqlite_check_schema(h, err);
  if (rc == WM_OK) rc = run_all(h, batch, false, err);
  if (rc == WM_OK) rc = run_all(h, batch, true, err);
  if (rc == WM_OK) {
    rc = wm_sqlite_db_commit(&h->db, err);
    *uncertain = rc != WM_OK && (h->db.code & 0xff) == SQLITE_IOERR;
  }
  if (rc == WM_OK)
    announce(h);
  else
    roll_back(h, batch);
  return rc;
}

/* Where one job makes the transaction fail, each gets one of its own. */
static void carry_out(wm_sqlite_hub *h, wm_sqlite_job *batch, bool durable) {
  wm_error error = {0};
  bool uncertain;
  int rc = transact(h, batch, &uncertain, &error);
  bool again = rc != WM_OK && !uncertain && batch->next && !wm_sqlite_db_broken(&h->db);
  for (wm_sqlite_job *job = batch, *next; job; job = next) {
    next = job->next;
    if (!again) {
      job->rc = rc;
      job->uncertain = uncertain;
      job->error = error;
      continue;
    }
    job->next = NULL;
    if ((job->rc = begin(h, durable, job->give_up, NULL, &job->error)) == WM_OK)
      job->rc = transact(h, job, &job->uncertain, &job->error);
    job->next = next;
  }
}

/* ---- claims and long locks -------------------------------------------------------------------- */

/* While the file is locked nobody can keep a claim alive. So for a while after a long lock claims last longer by
 * as much as it did: their owners, who have waited too, come first. */
enum { LONG_LOCK_MS = 200, UNSEEN_MS = 1000, GRACE_FOR_MS = 2000, RETRIES_WITHIN_MS = 8000 };

static void note_wait(wm_sqlite_hub *h, int64_t since, bool over) {
  int64_t now = wm_now_ms();
  if (h->blocked_at && since - h->blocked_at < RETRIES_WITHIN_MS) since = h->blocked_since;
  h->blocked_since = since;
  h->blocked_at = over ? 0 : now;
  if (!over || now - since < LONG_LOCK_MS) return;
  h->grace_ms = now - since + UNSEEN_MS; /* it may have been locked before we wanted it */
  h->grace_until = now + GRACE_FOR_MS;
}

int64_t wm_sqlite_ended_before(const wm_sqlite_hub *h) {
  return wm_now_ms() < h->grace_until ? h->now - h->grace_ms : h->now;
}

/* ---- turns ------------------------------------------------------------------------------------ */

static void set_time(wm_sqlite_hub *h) {
  h->now = wm_epoch_ms();
  wm_sqlite_print_time(h->now, h->created_at);
}

/* Opens the file and lets everybody look; those who need no transaction are done. */
static int look_around(wm_sqlite_hub *h, wm_sqlite_job *own) {
  wm_sqlite_job *looking = take(h, true, false);
  pthread_mutex_unlock(&h->lock);
  int rc = open_db(h, own, &own->error);
  set_time(h);
  for (wm_sqlite_job *job = looking; job && rc == WM_OK; job = job->next) {
    job->looked = true;
    job->needed = job->look(h, job) && job->run;
  }
  pthread_mutex_lock(&h->lock);
  for (wm_sqlite_job *job = looking, *next; job; job = next) {
    next = job->next;
    if (rc != WM_OK || job->needed)
      append(h, job);
    else
      finish(job);
  }
  return rc;
}

static bool any_durable(const wm_sqlite_hub *h) {
  const wm_sqlite_job *job = h->queue;
  while (job && !job->durable)
    job = job->next;
  return job != NULL;
}

/* One turn. Called and returns with the lock held, lets go of it in between. */
static void lead(wm_sqlite_hub *h, wm_sqlite_job *own) {
  int rc = look_around(h, own);
  if (own->state == JOB_DONE) return;
  if (rc == WM_OK) {
    bool durable = any_durable(h);
    pthread_mutex_unlock(&h->lock);
    int64_t since = wm_now_ms();
    rc = begin(h, durable, own->give_up, own->stop, &own->error);
    note_wait(h, since, rc == WM_OK);
    pthread_mutex_lock(&h->lock);
    if (rc == WM_OK) {
      wm_sqlite_job *batch = take(h, false, durable);
      h->keep = h->retention;
      pthread_mutex_unlock(&h->lock);
      h->db.stop = NULL;
      set_time(h);
      carry_out(h, batch, durable);
      pthread_mutex_lock(&h->lock);
      for (wm_sqlite_job *job = batch, *next; job; job = next) {
        next = job->next;
        finish(job);
      }
      wm_sqlite_topics_trim(h);
      return;
    }
  }
  take_out(h, own);
  own->rc = own->stop && atomic_load(own->stop) ? WM_CANCELLED : rc;
  own->state = JOB_DONE;
}

/* Has it waited long enough? Then it is taken out of the queue. */
static bool give_up(wm_sqlite_hub *h, wm_sqlite_job *job) {
  bool stopped = job->stop && atomic_load(job->stop);
  if (!stopped && wm_now_ms() < job->give_up) return false;
  take_out(h, job);
  job->rc = stopped ? WM_CANCELLED : wm_sqlite_fail_busy(h->path, &job->error);
  job->state = JOB_DONE;
  return true;
}

int wm_sqlite_submit(wm_sqlite_hub *h, wm_sqlite_job *job, wm_error *err) {
  job->rc = WM_OK;
  pthread_mutex_lock(&h->lock);
  append(h, job);
  while (job->state != JOB_DONE) {
    bool queued = job->state == JOB_QUEUED;
    if (queued && h->led && give_up(h, job)) break;
    if (queued && !h->led) {
      h->led = true;
      lead(h, job);
      h->led = false;
    } else {
      wm_cond_wait_until(job->cond, &h->lock, queued ? job->give_up : INT64_MAX);
    }
  }
  if (!h->led && h->queue) pthread_cond_signal(h->queue->cond);
  pthread_mutex_unlock(&h->lock);
  if (job->rc != WM_OK && err) *err = job->error;
  return job->rc;
}
