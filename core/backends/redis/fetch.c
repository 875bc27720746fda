/*
 * fetch.c - where messages come from: what is left of the last read, the lease, own entries that
 * got lost on the way, other members' that died, and new ones. Fetching thread only.
 *
 * A read that waits in the server outlives the fetch that sent it: the next one takes its answer.
 * What an answer holds beyond what was asked for stays in s->batch, its claims are checked before
 * it is handed out late.
 */
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "clock.h"
#include "error.h"
#include "redis.h"

/* A read waits at most so long in the server: it is between two reads that dead members are looked
 * for. */
enum { BLOCK_MS = 1000 };
/* Asked for while the size of a message is unknown. */
enum { FIRST_COUNT = 16 };
/* Steps of a takeover scan in one fetch; each looks at ten times what it asks for. */
enum { SCAN_STEPS = 10 };
/* What an answer may need to get here. */
enum { ON_THE_WAY_MS = 20 };

static int64_t smaller(int64_t a, int64_t b) { return a < b ? a : b; }

static int64_t command_deadline(const wm_redis_sub *s) {
  return wm_now_ms() + s->redis->command_ms;
}

static int unanswered(wm_redis_sub *s, const char *what, wm_error *err) {
  wm_redis_link_down(s->reader);
  return wm_fail_with(err, WM_UNREACHABLE, "%s '%s': no answer from %s:%d", what, s->topic,
                      s->redis->host, s->redis->port);
}

/* One round trip into s->batch. An error reply to the group's absence makes it anew: *again. */
static int ask(wm_redis_sub *s, wm_redis_shape shape, const char *what, bool *again,
               wm_error *err) {
  wm_redis_batch_begin(&s->batch, shape);
  int rc = wm_redis_receive(s->reader, &s->batch, command_deadline(s), err);
  if (rc == WM_TIMEOUT) return unanswered(s, what, err);
  if (rc != WM_OK || !s->batch.error[0]) return rc;
  if (s->group && wm_redis_no_group(s->batch.error)) {
    if (again) *again = true;
    return wm_redis_make_group(s, s->reader, "0-0", command_deadline(s), err);
  }
  char about[300];
  snprintf(about, sizeof about, "%s '%.200s'", what, s->topic);
  return wm_redis_refused(s->reader, s->batch.error, about, err);
}

static void drop_batch(wm_redis_sub *s) {
  for (size_t i = s->next; i < s->batch.n; i++)
    wm_message_release(s->batch.msgs[i]);
  s->batch.n = s->next = 0;
}

/* ---- handing out ---------------------------------------------------------------------------- */

static void learn_size(wm_redis_sub *s) {
  size_t bytes = 0;
  for (size_t i = 0; i < s->batch.n; i++)
    bytes += s->batch.msgs[i]->size;
  double mean = (double)bytes / (double)s->batch.n;
  /* Quick to grow, slow to shrink: what is asked for next must not be far too much. */
  s->mean = mean > s->mean ? mean : (s->mean * 7 + mean) / 8;
}

static size_t count_for(const wm_redis_sub *s, size_t max, size_t bytes) {
  size_t n = s->mean > 0 ? (size_t)((double)bytes / s->mean) : FIRST_COUNT;
  if (n < 1) n = 1;
  return n < max ? n : max;
}

/* What was read is ours now. */
static int accept_batch(wm_redis_sub *s, wm_error *err) {
  wm_redis_batch *b = &s->batch;
  if (!b->n) return WM_OK;
  learn_size(s);
  if (!s->group) {
    s->last = wm_redis_id_of(b->msgs[b->n - 1]);
    return WM_OK;
  }
  if (wm_redis_held_add(&s->held, b->msgs, &b->n) == WM_OK) return WM_OK;
  drop_batch(s);
  s->recover = true;
  s->recovered = (wm_redis_id){0, 0};
  return wm_fail_with(err, WM_NOMEM, "out of memory");
}

/* What lay here for long may have been taken over. */
static int check_claims(wm_redis_sub *s, wm_error *err) {
  int64_t now = wm_now_ms();
  if (!s->group || now - s->kept < s->takeover_ms / 3) return WM_OK;
  int rc = wm_redis_link_up(s->reader, INT64_MAX, NULL, err);
  bool lost[WM_REDIS_PAGE];
  size_t kept = s->next;
  for (size_t i = s->next; i < s->batch.n && rc == WM_OK;) {
    size_t page = s->batch.n - i < WM_REDIS_PAGE ? s->batch.n - i : WM_REDIS_PAGE;
    rc = wm_redis_keep(s, s->reader, s->batch.msgs + i, page, lost, command_deadline(s), err);
    for (size_t j = 0; j < page; j++) {
      wm_message *msg = s->batch.msgs[i + j];
      if (rc == WM_OK && lost[j])
        wm_message_release(msg);
      else
        s->batch.msgs[kept++] = msg;
    }
    i += page;
    if (rc != WM_OK)
      while (i < s->batch.n)
        s->batch.msgs[kept++] = s->batch.msgs[i++];
  }
  if (rc == WM_OK || kept < s->batch.n) s->batch.n = kept;
  if (rc == WM_OK) s->kept = now;
  return rc;
}

/* True when something was put. */
static int hand_out(wm_redis_sub *s, size_t max, wm_sink *sink, bool *some, wm_error *err) {
  int rc = s->next < s->batch.n ? check_claims(s, err) : WM_OK;
  if (rc != WM_OK) return rc;
  *some = s->next < s->batch.n;
  while (s->next < s->batch.n && max-- > 0)
    wm_sink_put(sink, s->batch.msgs[s->next++]);
  if (s->next == s->batch.n) s->next = s->batch.n = 0;
  return WM_OK;
}

/* ---- the lease ------------------------------------------------------------------------------ */

static bool any(const wm_message *msg, void *arg) {
  (void)msg;
  (void)arg;
  return true;
}

static int renew_lease(wm_redis_sub *s, wm_sink *sink, wm_error *err) {
  redisReply *reply;
  char ms[24];
  if (wm_now_ms() < s->lease_at) return WM_OK;
  snprintf(ms, sizeof ms, "%lld", (long long)s->takeover_ms);
  wm_redis_command(&s->reader->out, "EVAL", wm_redis_script_lease, "1", s->lease, s->member, ms,
                   NULL);
  int rc = wm_redis_expect(s->reader, &reply, command_deadline(s), "asking for the lease", err);
  if (rc != WM_OK) return rc;
  bool leads = reply->integer > 0;
  freeReplyObject(reply);
  if (leads && !s->leader) {
    s->sweep = true;
    s->cursor = (wm_redis_id){0, 0};
  } else if (!leads && s->leader) {
    drop_batch(s);
    wm_redis_held_clear(&s->held);
    wm_sink_lost(sink, any, NULL);
  }
  s->leader = leads;
  s->lease_at =
      wm_now_ms() + smaller(leads ? s->takeover_ms / 4 : s->takeover_ms / 10, leads ? 10000 : 1000);
  return WM_OK;
}

/* ---- what got lost on the way --------------------------------------------------------------- */

/* Asks for those ids of a page of own pending entries that the core does not hold; sets their
 * counters. */
static size_t put_claims(wm_redis_sub *s, const redisReply *page, wm_redis_delivery *wanted,
                         size_t *commands) {
  size_t n = 0;
  *commands = 0;
  for (size_t i = 0; i < page->elements; i++) {
    const redisReply *e = page->element[i];
    if (e->type != REDIS_REPLY_ARRAY || e->elements < 4 || !e->element[0]->str) continue;
    wm_redis_id id;
    if (!wm_redis_id_parse(e->element[0]->str, (size_t)e->element[0]->len, &id)) continue;
    s->recovered = id;
    if (wm_redis_held_has(&s->held, id)) continue;
    /* A reply that was lost was no delivery; what an earlier process of this name had may have been
     * one. */
    long long count = e->element[3]->integer + (s->was_mine ? 1 : 0);
    wanted[n++] = (wm_redis_delivery){id, count < 1 ? 1 : (unsigned)count};
  }
  for (size_t i = 0, run; i < n; i += run) {
    for (run = 1; i + run < n && wanted[i + run].count == wanted[i].count;)
      run++;
    wm_redis_buf *out = &s->reader->out;
    wm_redis_begin(out, 7 + run);
    wm_redis_text(out, "XCLAIM");
    wm_redis_text(out, s->topic);
    wm_redis_text(out, s->group);
    wm_redis_text(out, s->member);
    wm_redis_text(out, "0");
    for (size_t j = 0; j < run; j++)
      wm_redis_id_arg(out, wanted[i + j].id);
    wm_redis_text(out, "RETRYCOUNT");
    wm_redis_number(out, wanted[i].count);
    ++*commands;
  }
  return n;
}

/* Both are in the order of ids asked for; some messages may be missing. */
static void set_attempts(wm_redis_batch *b, const wm_redis_delivery *d, size_t n) {
  for (size_t i = 0, j = 0; i < b->n; i++) {
    wm_redis_id id = wm_redis_id_of(b->msgs[i]);
    for (size_t k = j; k < n; k++) {
      if (wm_redis_id_compare(d[k].id, id) != 0) continue;
      b->msgs[i]->first_attempt = d[k].count ? d[k].count : 1;
      j = k + 1;
      break;
    }
    b->msgs[i]->redelivered = b->msgs[i]->first_attempt > 1;
  }
}

static int recover_page(wm_redis_sub *s, size_t count, bool *done, wm_error *err) {
  redisReply *page;
  wm_redis_delivery *wanted = NULL;
  char from[WM_REDIS_ID_SIZE + 1] = "(", number[24];
  wm_redis_id_print(s->recovered, from + 1);
  snprintf(number, sizeof number, "%zu", count);
  bool at_start = !s->recovered.ms && !s->recovered.seq;
  wm_redis_command(&s->reader->out, "XPENDING", s->topic, s->group, at_start ? "-" : from, "+",
                   number, s->member, NULL);
  int rc = wm_redis_receive_tree(s->reader, &page, command_deadline(s), err);
  if (rc == WM_TIMEOUT) return unanswered(s, "recovering from", err);
  if (rc != WM_OK) return rc;
  *done = page->type != REDIS_REPLY_ARRAY || page->elements == 0;
  if (page->type == REDIS_REPLY_ERROR && !wm_redis_no_group(page->str))
    rc = wm_redis_refused(s->reader, page->str, "recovering what was pending", err);
  if (rc == WM_OK && !*done && !(wanted = malloc(page->elements * sizeof *wanted)))
    rc = wm_fail_with(err, WM_NOMEM, "out of memory");
  size_t commands = 0, n = rc == WM_OK && !*done ? put_claims(s, page, wanted, &commands) : 0;
  for (size_t i = 0; i < commands && rc == WM_OK; i++)
    rc = ask(s, WM_REDIS_RANGE, "recovering from", NULL, err);
  if (rc == WM_OK)
    set_attempts(&s->batch, wanted, n);
  else
    drop_batch(s);
  freeReplyObject(page);
  free(wanted);
  return rc;
}

static int recover(wm_redis_sub *s, size_t count, wm_error *err) {
  while (s->recover && !s->batch.n) {
    bool done = false;
    int rc = recover_page(s, count, &done, err);
    if (rc == WM_OK) rc = accept_batch(s, err);
    if (rc != WM_OK) return rc;
    if (done) s->recover = s->was_mine = false;
  }
  s->kept = wm_now_ms();
  return WM_OK;
}

/* ---- what dead members left ----------------------------------------------------------------- */

static int take_over(wm_redis_sub *s, size_t count, wm_sink *sink, wm_error *err) {
  int64_t every = smaller(s->takeover_ms / 10, 1000);
  if (!s->sweep && wm_now_ms() < s->scan_at) return WM_OK;
  for (int step = 0; (s->sweep || step < SCAN_STEPS) && !s->batch.n; step++) {
    char idle[24], number[24], cursor[WM_REDIS_ID_SIZE];
    /* Who has got the lease takes everything: nobody else may work on it. */
    snprintf(idle, sizeof idle, "%lld", s->sweep ? 0LL : (long long)s->takeover_ms);
    snprintf(number, sizeof number, "%zu", count);
    wm_redis_id_print(s->cursor, cursor);
    wm_redis_command(&s->reader->out, "EVAL", wm_redis_script_claim, "1", s->topic, s->group,
                     s->member, idle, cursor, number, NULL);
    bool again = false;
    int rc = ask(s, WM_REDIS_CLAIM, "taking over from", &again, err);
    if (rc != WM_OK) {
      drop_batch(s);
      return rc;
    }
    if (again) break;
    if (s->batch.gone) wm_sink_gone(sink, s->batch.gone, "trimmed while it was pending");
    set_attempts(&s->batch, s->batch.deliveries, s->batch.n_deliveries);
    s->cursor = s->batch.cursor;
    s->kept = wm_now_ms();
    if ((rc = accept_batch(s, err)) != WM_OK) return rc;
    if (s->cursor.ms || s->cursor.seq) continue;
    s->sweep = false;
    s->scan_at = wm_now_ms() + every;
    return WM_OK;
  }
  s->scan_at = wm_now_ms() + (s->batch.n ? 0 : smaller(every, 50));
  return WM_OK;
}

/* ---- new ones ------------------------------------------------------------------------------- */

static void put_read(wm_redis_sub *s, size_t count, int64_t block) {
  wm_redis_buf *out = &s->reader->out;
  wm_redis_begin(out, (s->group ? 4 : 1) + 2 + (block > 0 ? 2 : 0) + 3);
  if (s->group) {
    wm_redis_text(out, "XREADGROUP");
    wm_redis_text(out, "GROUP");
    wm_redis_text(out, s->group);
    wm_redis_text(out, s->member);
  } else {
    wm_redis_text(out, "XREAD");
  }
  wm_redis_text(out, "COUNT");
  wm_redis_number(out, (long long)count);
  if (block > 0) {
    wm_redis_text(out, "BLOCK");
    wm_redis_number(out, block);
  }
  wm_redis_text(out, "STREAMS");
  wm_redis_text(out, s->topic);
  if (s->group)
    wm_redis_text(out, ">");
  else
    wm_redis_id_arg(out, s->last);
}

/* Returns until when this fetch waits: the answer to a wait that ends with the fetch is worth the
 * way it takes. */
static int64_t send_read(wm_redis_sub *s, size_t count, int64_t deadline) {
  int64_t now = wm_now_ms();
  int64_t block = smaller(deadline - now, BLOCK_MS);
  if (s->group) block = smaller(block, s->scan_at > now ? s->scan_at - now : 1);
  if (s->lease) block = smaller(block, s->lease_at > now ? s->lease_at - now : 1);
  if (block < 0) block = 0;
  put_read(s, count, block);
  wm_redis_batch_begin(&s->batch, WM_REDIS_READ);
  s->waiting = true;
  s->asked = s->kept = now;
  s->answer_by = now + block + s->redis->command_ms;
  return now + block + ON_THE_WAY_MS > deadline ? now + block + ON_THE_WAY_MS : deadline;
}

static int read_answer(wm_redis_sub *s, int64_t deadline, wm_error *err) {
  s->reader->listens = true;
  int rc = wm_redis_receive(s->reader, &s->batch, smaller(deadline, s->answer_by), err);
  s->reader->listens = false;
  if (rc == WM_TIMEOUT && wm_now_ms() >= s->answer_by) rc = unanswered(s, "reading from", err);
  if (rc == WM_TIMEOUT || rc == WM_CANCELLED) return rc;
  s->waiting = false;
  if (rc != WM_OK) {
    drop_batch(s); /* those of a group are found again */
    return rc;
  }
  if (!s->batch.error[0]) return accept_batch(s, err);
  if (s->group && wm_redis_no_group(s->batch.error))
    return wm_redis_make_group(s, s->reader, "0-0", command_deadline(s), err);
  if (strncmp(s->batch.error, "UNBLOCKED", 9) == 0) return WM_OK;
  char what[300];
  snprintf(what, sizeof what, "reading from stream '%.200s'", s->topic);
  return wm_redis_refused(s->reader, s->batch.error, what, err);
}

/* ---- all of it ------------------------------------------------------------------------------ */

/* True when it was rung since it was last asked. */
static bool drain_wake(wm_redis_sub *s) {
  uint64_t n;
  return read(s->wake, &n, sizeof n) > 0;
}

/* Everything before a read for new messages; s->batch has something, or `stand_by` says that
 * nothing may be read. */
static int prepare(wm_redis_sub *s, size_t count, wm_sink *sink, bool *stand_by, wm_error *err) {
  bool fresh;
  int rc = wm_redis_link_up(s->reader, INT64_MAX, &fresh, err);
  if (rc != WM_OK || !s->group) return rc;
  if (fresh) {
    s->recover = true;
    s->recovered = (wm_redis_id){0, 0};
  }
  if (s->lease && (rc = renew_lease(s, sink, err)) != WM_OK) return rc;
  *stand_by = s->lease && !s->leader;
  if (*stand_by) return WM_OK;
  if ((rc = recover(s, count, err)) != WM_OK || s->batch.n) return rc;
  return take_over(s, count, sink, err);
}

int wm_redis_fetch(void *sub, size_t max, size_t bytes, int timeout_ms, wm_sink *sink,
                   wm_error *err) {
  wm_redis_sub *s = sub;
  int64_t deadline = wm_now_ms() + (timeout_ms < 0 ? INT32_MAX : timeout_ms), until = deadline;
  bool some = false, stand_by = false;
  if (!max) return WM_OK;
  for (;;) {
    int rc = WM_OK;
    if (!s->waiting) {
      if ((rc = hand_out(s, max, sink, &some, err)) != WM_OK || some) return rc;
      size_t count = count_for(s, max, bytes);
      rc = prepare(s, count, sink, &stand_by, err);
      if (rc == WM_OK && s->batch.n) continue;
      if (rc == WM_OK && !stand_by) until = send_read(s, count, deadline);
    }
    if (rc == WM_OK && stand_by) {
      struct pollfd p = {.fd = s->wake, .events = POLLIN};
      int64_t wait = smaller(deadline, s->lease_at) - wm_now_ms();
      if (wait > 0) poll(&p, 1, (int)smaller(wait, INT32_MAX));
      if (drain_wake(s)) return WM_OK;
    } else if (rc == WM_OK) {
      rc = read_answer(s, until, err);
    }
    if (rc == WM_CANCELLED) {
      drain_wake(s);
      return WM_OK;
    }
    if (rc == WM_TIMEOUT) return WM_OK;
    if (rc != WM_OK) return rc;
    if (!s->batch.n && wm_now_ms() >= deadline) return WM_OK;
  }
}
