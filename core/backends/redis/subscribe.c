/*
 * subscribe.c - making and ending subscriptions. Neither overlaps another call on the same
 * subscription, but for interrupt.
 */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include "clock.h"
#include "error.h"
#include "log.h"
#include "redis.h"

/* What leaving may take. */
enum { LEAVE_MS = 900, UNBLOCK_MS = 300 };

int wm_redis_make_group(wm_redis_sub *s, wm_redis_link *l, const char *id, int64_t deadline,
                        wm_error *err) {
  redisReply *reply;
  wm_redis_command(&l->out, "XGROUP", "CREATE", s->topic, s->group, id, "MKSTREAM", NULL);
  int rc = wm_redis_receive_tree(l, &reply, deadline, err);
  if (rc == WM_TIMEOUT) {
    wm_redis_link_down(l);
    return wm_fail_with(err, WM_UNREACHABLE, "no answer from %s:%d", s->redis->host,
                        s->redis->port);
  }
  if (rc != WM_OK) return rc;
  if (reply->type == REDIS_REPLY_ERROR && strncmp(reply->str, "BUSYGROUP", 9) != 0) {
    char what[400];
    snprintf(what, sizeof what, "making group '%.150s' of stream '%.150s'", s->group, s->topic);
    rc = wm_redis_refused(l, reply->str, what, err);
  }
  freeReplyObject(reply);
  return rc;
}

/* The id before this one, as groups and XREAD name what comes after. */
static wm_redis_id before(wm_redis_id id) {
  if (id.seq > 0) return (wm_redis_id){id.ms, id.seq - 1};
  if (id.ms > 0) return (wm_redis_id){id.ms - 1, UINT64_MAX};
  return id;
}

/* From `from` to the id to start after; text is "$" for the newest. */
static int start_of(const char *from, const char *otherwise, char text[WM_REDIS_ID_SIZE],
                    wm_error *err) {
  wm_redis_id id;
  if (!from || !*from) from = otherwise;
  if (strcmp(from, "oldest") == 0) {
    strcpy(text, "0-0");
    return WM_OK;
  }
  if (strcmp(from, "newest") == 0) {
    strcpy(text, "$");
    return WM_OK;
  }
  if (strchr(from, '-') && wm_redis_id_parse(from, strlen(from), &id)) {
    wm_redis_id_print(before(id), text);
    return WM_OK;
  }
  char *end;
  double seconds = strtod(from, &end);
  if (*end || end == from || !(seconds >= 0 && seconds < 1e15))
    return wm_fail_with(err, WM_BAD_INPUT,
                        "option 'from': oldest, newest, an epoch in seconds or a stream id "
                        "(<ms>-<n>) expected, got '%s'",
                        from);
  wm_redis_id_print(before((wm_redis_id){(uint64_t)(seconds * 1000 + 0.5), 0}), text);
  return WM_OK;
}

/* Without a group: the last generated id of now, so that nothing from now on is missed. */
static int fix_position(wm_redis_sub *s, const char *from, int64_t deadline, wm_error *err) {
  if (strcmp(from, "$") != 0) {
    wm_redis_id_parse(from, strlen(from), &s->last);
    return WM_OK;
  }
  redisReply *reply;
  wm_redis_command(&s->reader->out, "XINFO", "STREAM", s->topic, NULL);
  int rc = wm_redis_receive_tree(s->reader, &reply, deadline, err);
  if (rc == WM_TIMEOUT) {
    wm_redis_link_down(s->reader);
    return wm_fail_with(err, WM_UNREACHABLE, "no answer from %s:%d", s->redis->host,
                        s->redis->port);
  }
  if (rc != WM_OK) return rc;
  if (reply->type == REDIS_REPLY_ERROR && !wm_redis_no_group(reply->str)) {
    char what[300];
    snprintf(what, sizeof what, "subscribing to stream '%.200s'", s->topic);
    rc = wm_redis_refused(s->reader, reply->str, what, err);
  }
  for (size_t i = 0; reply->type == REDIS_REPLY_ARRAY && i + 1 < reply->elements; i += 2) {
    const redisReply *key = reply->element[i], *value = reply->element[i + 1];
    if (key->str && value->str && strcmp(key->str, "last-generated-id") == 0)
      wm_redis_id_parse(value->str, (size_t)value->len, &s->last);
  }
  freeReplyObject(reply);
  return rc;
}

/* Names of members that died long ago; nothing depends on it. */
static void sweep_consumers(wm_redis_sub *s, int64_t deadline) {
  redisReply *reply;
  wm_error err;
  wm_redis_command(&s->reader->out, "EVAL", wm_redis_script_sweep, "1", s->topic, s->group,
                   s->member, NULL);
  if (wm_redis_receive_tree(s->reader, &reply, deadline, &err) != WM_OK) {
    wm_redis_link_down(s->reader);
    return;
  }
  bool denied = reply->type == REDIS_REPLY_ERROR && wm_redis_code(reply->str, NULL) == WM_DENIED;
  if (denied)
    wm_log(WM_LOG_WARN,
           "redis at %s:%d: scripts are forbidden (%s): taking over the messages of dead members "
           "needs EVAL",
           s->redis->host, s->redis->port, reply->str);
  freeReplyObject(reply);
}

static void free_sub(wm_redis_sub *s) {
  wm_redis_link_free(s->reader);
  wm_redis_link_free(s->settler);
  wm_redis_batch_free(&s->batch);
  wm_redis_held_free(&s->held);
  if (s->wake >= 0) close(s->wake);
  free(s->topic);
  free(s->group);
  free(s->member);
  free(s->lease);
  free(s);
}

static wm_redis_sub *new_sub(wm_redis *r, const wm_sub_spec *spec) {
  wm_redis_sub *s = calloc(1, sizeof *s);
  if (!s) return NULL;
  s->redis = r;
  s->takeover_ms = spec->takeover_ms;
  s->wake = eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC);
  wm_redis_held_init(&s->held);
  s->topic = strdup(spec->topic);
  s->group = spec->group && *spec->group ? strdup(spec->group) : NULL;
  s->member = strdup(r->consumer ? r->consumer : spec->member);
  /* A name that outlives the process has a history, which is read first. */
  s->recover = s->was_mine = r->consumer != NULL;
  s->reader = wm_redis_link_new(r, s->wake);
  s->settler = wm_redis_link_new(r, -1);
  bool whole = s->wake >= 0 && s->topic && s->member && s->reader && s->settler &&
               (s->group || !spec->group || !*spec->group);
  if (whole && spec->exclusive && s->group) {
    size_t size = strlen(s->topic) + strlen(s->group) + 8;
    s->lease = malloc(size);
    if (s->lease) snprintf(s->lease, size, "wm:{%s}:%s", s->topic, s->group);
    whole = s->lease != NULL;
  }
  if (whole) return s;
  free_sub(s);
  return NULL;
}

int wm_redis_subscribe(void *conn, const wm_sub_spec *spec, void **sub, wm_error *err) {
  wm_redis *r = conn;
  char from[WM_REDIS_ID_SIZE];
  bool group = spec->group && *spec->group;
  if (spec->tx)
    return wm_fail_with(err, WM_UNSUPPORTED, "option 'tx': Redis has no transactions to join");
  int rc = start_of(spec->from, group ? "oldest" : "newest", from, err);
  if (rc != WM_OK) return rc;
  wm_redis_sub *s = new_sub(r, spec);
  if (!s) return wm_fail_with(err, WM_NOMEM, "out of memory");

  int64_t deadline = wm_now_ms() + r->dial_ms + r->command_ms;
  if ((rc = wm_redis_link_up(s->reader, deadline, NULL, err)) != WM_OK) goto fail;
  wm_redis_tell_durability(s->reader);
  if ((rc = wm_redis_link_up(s->reader, deadline, NULL, err)) != WM_OK) goto fail;
  if (group)
    rc = wm_redis_make_group(s, s->reader, from, deadline, err);
  else
    rc = fix_position(s, from, deadline, err);
  if (rc != WM_OK) goto fail;
  if (group) sweep_consumers(s, deadline);
  *sub = s;
  return WM_OK;
fail:
  free_sub(s);
  return rc == WM_CANCELLED ? WM_UNREACHABLE : rc;
}

void wm_redis_interrupt(void *sub) {
  wm_redis_sub *s = sub;
  uint64_t one = 1;
  ssize_t n;
  do
    n = write(s->wake, &one, sizeof one);
  while (n < 0 && errno == EINTR);
}

/* ---- leaving -------------------------------------------------------------------------------- */

/* Ends a read that waits in the server, so that it takes no entry any more. */
static void end_read(wm_redis_sub *s, int64_t deadline) {
  wm_error err;
  redisReply *reply;
  s->reader->wake = -1;
  if (s->waiting && s->reader->fd >= 0 && s->reader->id) {
    if (wm_redis_link_up(s->settler, deadline, NULL, &err) == WM_OK) {
      wm_redis_begin(&s->settler->out, 3);
      wm_redis_text(&s->settler->out, "CLIENT");
      wm_redis_text(&s->settler->out, "UNBLOCK");
      wm_redis_number(&s->settler->out, s->reader->id);
      int rc = wm_redis_receive_tree(s->settler, &reply, deadline, &err);
      if (rc == WM_OK)
        freeReplyObject(reply);
      else
        wm_redis_link_down(s->settler);
    }
  }
  int64_t until = wm_now_ms() + UNBLOCK_MS;
  if (s->waiting && s->reader->fd >= 0)
    wm_redis_receive(s->reader, &s->batch, until < deadline ? until : deadline, &err);
  s->waiting = false;
  wm_redis_link_down(s->reader);
}

/* Gives back all that is pending: what the core holds still (its release did not get through) with
 * its count, what it never saw as if it had not been delivered. */
static void leave_group(wm_redis_sub *s, int64_t deadline) {
  wm_error err;
  redisReply *reply;
  if (wm_redis_link_up(s->settler, deadline, NULL, &err) != WM_OK) return;
  for (size_t i = s->next; i < s->batch.n; i++) {
    wm_redis_id id = wm_redis_id_of(s->batch.msgs[i]);
    wm_redis_held_remove(&s->held, &id, 1);
  }
  wm_redis_buf *out = &s->settler->out;
  size_t held = s->held.n < 4 * WM_REDIS_PAGE ? s->held.n : 4 * WM_REDIS_PAGE, put = 0;
  wm_redis_begin(out, 8 + held);
  wm_redis_text(out, "EVAL");
  wm_redis_text(out, wm_redis_script_leave);
  wm_redis_text(out, "1");
  wm_redis_text(out, s->topic);
  wm_redis_text(out, s->group);
  wm_redis_text(out, s->member);
  wm_redis_text(out, WM_REDIS_POOL);
  wm_redis_text(out, "1");
  for (size_t i = 0; i < s->held.size && put < held; i++) {
    if (!s->held.slots[i].ms && !s->held.slots[i].seq) continue;
    wm_redis_id_arg(out, s->held.slots[i]);
    put++;
  }
  if (s->lease)
    wm_redis_command(out, "EVAL", wm_redis_script_unlease, "1", s->lease, s->member, NULL);
  for (int i = 0; i < (s->lease ? 2 : 1); i++) {
    if (wm_redis_receive_tree(s->settler, &reply, deadline, &err) != WM_OK) return;
    freeReplyObject(reply);
  }
}

void wm_redis_unsubscribe(void *sub) {
  wm_redis_sub *s = sub;
  int64_t deadline = wm_now_ms() + LEAVE_MS;
  if (s->group) {
    end_read(s, deadline);
    leave_group(s, deadline);
  }
  free_sub(s);
}
