/*
 * publish.c - storing messages: n XADDs in one go, n answers. Publishing thread only.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "clock.h"
#include "error.h"
#include "redis.h"

/* What one answer means; *code and err keep the first failure. */
static wm_result judge(const wm_redis_batch *answer, const char *topic, int *code, bool *down,
                       wm_error *err) {
  if (!answer->error[0] && !answer->nil) return WM_STORED;
  bool useless = false;
  int why = answer->nil ? WM_REFUSED : wm_redis_code(answer->error, &useless);
  *down |= useless;
  if (*code == WM_OK) {
    char what[300];
    snprintf(what, sizeof what, "publishing to '%.250s'", topic);
    wm_redis_refused(NULL, answer->nil ? "nil" : answer->error, what, err);
  }
  /* Out of memory, loading, a replica: the next try may be the one that works. */
  wm_result result =
      why == WM_REFUSED || why == WM_TOO_LARGE ? WM_RESULT_REFUSED : WM_RESULT_NOT_SENT;
  if (result == WM_RESULT_NOT_SENT && (*code == WM_OK || *code == WM_REFUSED)) *code = why;
  if (*code == WM_OK) *code = WM_REFUSED;
  return result;
}

/* Of what got no answer: it is unknown from the first byte that was handed to the socket on. */
static void mark_unanswered(const size_t *ends, size_t from, size_t n, size_t sent,
                            wm_result *results) {
  for (size_t i = from; i < n; i++) {
    size_t begin = i ? ends[i - 1] : 0;
    results[i] = begin < sent ? WM_RESULT_UNKNOWN : WM_RESULT_NOT_SENT;
  }
}

int wm_redis_publish(void *conn, const wm_outgoing *out, size_t n, int timeout_ms,
                     wm_result *results, wm_error *err) {
  wm_redis *r = conn;
  int64_t deadline = wm_now_ms() + timeout_ms;
  for (size_t i = 0; i < n; i++)
    results[i] = WM_RESULT_NOT_SENT;
  if (!r->pub && !(r->pub = wm_redis_link_new(r, -1)))
    return wm_fail_with(err, WM_NOMEM, "out of memory");
  wm_redis_link *l = r->pub;
  int rc = wm_redis_link_up(l, deadline, NULL, err);
  if (rc != WM_OK) return rc;
  wm_redis_tell_durability(l);
  if ((rc = wm_redis_link_up(l, deadline, NULL, err)) != WM_OK) return rc;

  size_t few[64], *ends = n <= 64 ? few : malloc(n * sizeof *ends);
  if (!ends) return wm_fail_with(err, WM_NOMEM, "out of memory");
  for (size_t i = 0; i < n; i++) {
    wm_redis_xadd(&l->out, out[i].topic, r->maxlen, out[i].msg);
    ends[i] = l->out.len;
  }
  uint64_t before = l->written;
  size_t i = 0;
  int code = WM_OK;
  bool down = false;
  wm_redis_batch answer = {0};
  for (; i < n; i++) {
    wm_redis_batch_begin(&answer, WM_REDIS_STATE);
    rc = wm_redis_receive(l, &answer, deadline, err);
    if (rc != WM_OK) break;
    results[i] = judge(&answer, out[i].topic, &code, &down, err);
  }
  if (i < n) {
    mark_unanswered(ends, i, n, (size_t)(l->written - before), results);
    wm_redis_link_down(l);
    code = rc == WM_TIMEOUT ? wm_fail_with(err, WM_UNREACHABLE,
                                           "no answer from %s:%d within the time of the publish",
                                           r->host, r->port)
                            : rc;
  } else if (down) {
    wm_redis_link_down(l);
  }
  if (ends != few) free(ends);
  return code == WM_REFUSED ? WM_OK : code;
}

void wm_redis_publish_close(void *conn) {
  wm_redis *r = conn;
  wm_redis_link_free(r->pub);
  r->pub = NULL;
}
