/*
 * publisher.c - the handles that programs publish with: checking input, making jobs for the connection's one
 * sender (sender.h), and saying what became of them. Any thread. A handle is freed when it is closed and the
 * last call in it has returned.
 */
#include <stdatomic.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "check.h"
#include "clock.h"
#include "error.h"
#include "outcome.h"
#include "sender.h"
#include "thread.h"

struct wm_publisher {
  wm_feed feed;
  wm_connection *conn;
  wm_settings settings;
  atomic_uint refs; /* the handle, and each wm_publish under way */
};

/* ---- opening -------------------------------------------------------------------------------- */

/* Takes over the connection and the settings, also when it fails. */
static int open_with(wm_publisher **out, wm_connection *conn, wm_settings settings, wm_feed feed,
                     wm_error *err) {
  wm_publisher *pub = calloc(1, sizeof *pub);
  if (!pub || wm_cond_init(&feed.changed) != WM_OK) {
    free(pub);
    wm_settings_clear(&settings);
    wm_connection_release(conn);
    return wm_fail_with(err, WM_NOMEM, "out of memory");
  }
  pub->feed = feed;
  pub->feed.url = conn->masked;
  pub->conn = conn;
  pub->settings = settings;
  pub->refs = 1;
  wm_sender_attach(conn->sender, &pub->feed);
  *out = pub;
  return WM_OK;
}

int wm_publisher_open(wm_publisher **out, const char *url, const wm_options *opts, wm_error *err) {
  wm_connection *conn;
  wm_settings settings;
  int rc = wm_connection_open(&conn, url, opts, wm_publisher_options, &settings, err);
  if (rc != WM_OK) return rc;
  const wm_option_value *v = settings.values;
  wm_feed feed = {.timeout_ms = v[WM_PUB_TIMEOUT].number,
                  .order_by = *v[WM_PUB_ORDER_BY].text ? v[WM_PUB_ORDER_BY].text : NULL,
                  .queue_bytes = (size_t)v[WM_PUB_QUEUE_BYTES].number};
  return open_with(out, conn, settings, feed, err);
}

int wm_publisher_open_on(wm_publisher **out, wm_connection *conn, int timeout_ms, wm_error *err) {
  wm_feed feed = {.timeout_ms = timeout_ms, .queue_bytes = SIZE_MAX};
  return open_with(out, wm_connection_retain(conn), (wm_settings){0}, feed, err);
}

static void unref(wm_publisher *pub) {
  if (atomic_fetch_sub(&pub->refs, 1) != 1) return;
  pthread_cond_destroy(&pub->feed.changed);
  wm_settings_clear(&pub->settings);
  wm_connection *conn = pub->conn;
  free(pub);
  wm_connection_release(conn);
}

/* ---- publishing ----------------------------------------------------------------------------- */

static int name_publish(int rc, const wm_publisher *pub, const char *topic, wm_error *err) {
  wm_error_prefix(err, "publish to '%s' on %s", topic, pub->conn->masked);
  return rc;
}

/* What can be known without asking the broker; also how many bytes they are. */
static int check(const wm_publisher *pub, const char *topic, wm_message *const *msgs, size_t n,
                 size_t *bytes, wm_error *err) {
  int rc = wm_check_publish(pub->conn, topic, err);
  if (rc != WM_OK) return rc;
  *bytes = 0;
  for (size_t i = 0; i < n; i++) {
    rc = wm_connection_check(pub->conn, NULL, NULL, msgs[i], err);
    if (rc != WM_OK) {
      if (n > 1) wm_error_prefix(err, "message %zu of %zu, none of which was sent", i + 1, n);
      return name_publish(rc, pub, topic, err);
    }
    *bytes += msgs[i]->size;
  }
  return WM_OK;
}

/* Why a job was not queued. */
static int not_queued(int rc, const wm_publisher *pub, const char *topic, wm_error *err) {
  if (rc == WM_CLOSED)
    wm_fail_with(err, rc, "the publisher is closed");
  else if (rc == WM_NOMEM)
    wm_fail_with(err, rc, "out of memory");
  else
    wm_fail_with(
        err, rc,
        "the queue is full, %zu bytes wait to be confirmed; publish slower, or raise queue_bytes",
        pub->feed.queue_bytes);
  return name_publish(rc, pub, topic, err);
}

static int publish(wm_publisher *pub, const char *topic, wm_message *const *msgs, size_t n,
                   size_t bytes, wm_result *results, wm_error *err) {
  wm_job job = {
      .feed = &pub->feed, .topic = topic, .msgs = msgs, .n = n, .bytes = bytes, .results = results};
  int rc = wm_sender_send(&job);
  if (rc == WM_OK) {
    rc = wm_job_outcome(&job, err);
    free(job.cause);
    return rc;
  }
  for (size_t i = 0; i < n; i++)
    results[i] = WM_RESULT_NOT_SENT;
  not_queued(rc, pub, topic, err);
  if (rc != WM_TIMEOUT) return rc;
  if (err) err->code = WM_NOT_SENT;
  return WM_NOT_SENT;
}

int wm_publish(wm_publisher *pub, const char *topic, wm_message *const *msgs, size_t n,
               wm_result *results, wm_error *err) {
  enum { FEW = 64 };
  wm_result few[FEW], *room = results ? results : few;
  for (size_t i = 0; results && i < n; i++)
    results[i] = WM_RESULT_NOT_SENT;
  size_t bytes;
  int rc = check(pub, topic, msgs, n, &bytes, err);
  if (rc != WM_OK || !n) return rc;
  if (!results && n > FEW && !(room = malloc(n * sizeof *room)))
    return name_publish(wm_fail_with(err, WM_NOMEM, "out of memory"), pub, topic, err);
  atomic_fetch_add(&pub->refs, 1);
  rc = publish(pub, topic, msgs, n, bytes, room, err);
  unref(pub);
  if (!results && room != few) free(room);
  return rc;
}

/* ---- without waiting ------------------------------------------------------------------------ */

static void free_job(wm_job *job, size_t retained) {
  for (size_t i = 0; i < retained; i++)
    wm_message_release(job->msgs[i]);
  free(job->cause);
  free(job);
}

static void finish(wm_job *job) {
  wm_error err;
  int code = wm_job_outcome(job, &err);
  if (job->cb) job->cb(job->arg, code, job->results, job->n, code == WM_OK ? NULL : &err);
  free_job(job, job->n);
}

/* A job, its messages, results and topic in one allocation. */
static wm_job *make_job(wm_publisher *pub, const char *topic, wm_message *const *msgs, size_t n) {
  size_t topic_size = strlen(topic) + 1, one = sizeof *msgs + sizeof(wm_result);
  if (n > (SIZE_MAX - sizeof(wm_job) - topic_size) / one) return NULL;
  wm_job *job = malloc(sizeof *job + n * one + topic_size);
  if (!job) return NULL;
  wm_message **copies = (wm_message **)(job + 1);
  wm_result *results = (wm_result *)(copies + n);
  for (size_t i = 0; i < n; i++)
    copies[i] = wm_message_retain(msgs[i]);
  *job = (wm_job){.feed = &pub->feed,
                  .topic = memcpy(results + n, topic, topic_size),
                  .msgs = copies,
                  .n = n,
                  .results = results,
                  .finish = finish};
  return job;
}

int wm_publish_async(wm_publisher *pub, const char *topic, wm_message *const *msgs, size_t n,
                     wm_publish_cb cb, void *arg, wm_error *err) {
  size_t bytes;
  int rc = check(pub, topic, msgs, n, &bytes, err);
  if (rc != WM_OK) return rc;
  if (!n) {
    if (cb) cb(arg, WM_OK, NULL, 0, NULL);
    return WM_OK;
  }
  wm_job *job = make_job(pub, topic, msgs, n);
  if (!job) return not_queued(WM_NOMEM, pub, topic, err);
  job->bytes = bytes;
  job->cb = cb;
  job->arg = arg;
  rc = wm_sender_queue(job);
  if (rc == WM_OK) return WM_OK;
  free_job(job, n);
  return not_queued(rc, pub, topic, err);
}

/* ---- closing -------------------------------------------------------------------------------- */

int wm_publisher_close(wm_publisher *pub, int timeout_ms) {
  int rc = wm_sender_detach(&pub->feed, timeout_ms < 0 ? INT64_MAX : wm_now_ms() + timeout_ms);
  unref(pub);
  return rc;
}

typedef struct closing {
  wm_publisher *pub;
  int timeout_ms;
  wm_done_cb cb;
  void *arg;
} closing;

static void finish_closing(const closing *c) {
  wm_error err;
  int rc = wm_publisher_close(c->pub, c->timeout_ms);
  if (rc != WM_OK)
    wm_fail_with(&err, rc, "the publisher was closed before everything queued was sent");
  if (c->cb) c->cb(c->arg, rc, rc == WM_OK ? NULL : &err);
}

static void *close_in_thread(void *arg) {
  closing c = *(closing *)arg;
  free(arg);
  finish_closing(&c);
  return NULL;
}

void wm_publisher_close_async(wm_publisher *pub, int timeout_ms, wm_done_cb cb, void *arg) {
  closing here = {pub, timeout_ms, cb, arg}, *there = malloc(sizeof *there);
  if (there) *there = here;
  if (there && wm_thread_start(NULL, "wm-close", close_in_thread, there) == WM_OK) return;
  free(there);
  finish_closing(&here); /* no memory for a thread: late is better than never */
}

void wm_publisher_get_stats(wm_publisher *pub, wm_publisher_stats *out) {
  wm_sender_get_stats(&pub->feed, out);
}
