/*
 * member.c - a subscription with one consumer that records and verifies all that it gets.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "harness.h"
#include "payload.h"

enum { MAX_TAKE = 1000, TAKE_MS = 20000 };

static void record(member *m, uint32_t kind, int64_t value) {
  history_add(m->t->h, &(history_event){.kind = kind, .group = m->group->id, .consumer = m->id,
                                        .topic = m->group->topic.id, .value = value});
}

static int64_t number_option(const wm_options *opts, const char *name) {
  const char *value = NULL, *at;
  for (size_t i = 0; (at = wm_options_at(opts, i, &value)) != NULL; i++)
    if (strcmp(at, name) == 0) return atoll(value);
  return 1;
}

static void subscribe(member *m, const char *options) {
  test *t = m->t;
  group *g = m->group;
  wm_options *opts = options_parse(t, options);
  wm_error err;
  bool oldest = g->name[0] && !g->from && (t->features & WM_F_REPLAY);
  if (g->name[0]) wm_options_set(opts, "group", g->name);
  if (g->from) wm_options_set(opts, "from", g->from);
  record(m, H_SUBSCRIBING, !g->name[0] ? 2 : oldest || (g->from && strcmp(g->from, "oldest") == 0));
  int64_t limit = number_option(opts, "max_in_flight") * number_option(opts, "batch");
  if (limit > 1) record(m, H_LIMIT, limit);
  CHECK_OK(t, wm_subscribe(&m->sub, t->url, g->topic.name, opts, &err), &err);
  CHECK_OK(t, wm_consumer_open(&m->con, m->sub, &err), &err);
  wm_options_free(opts);
  record(m, H_SUBSCRIBED, 0);
}

member *member_open(group *g, test *t, const char *options) {
  member *m = calloc(1, sizeof *m);
  if (!m) abort();
  m->t = t;
  m->group = g;
  m->id = atomic_fetch_add(&t->consumers, 1) + 1;
  subscribe(m, options);
  return m;
}

/* ---- messages ------------------------------------------------------------------------------------------------- */

static history_event event_of(const member *m, const wm_message *msg, uint32_t kind) {
  history_event e = {.kind = kind, .group = m->group->id, .consumer = m->id, .topic = m->group->topic.id,
                     .attempt = wm_message_attempt(msg)};
  wm_slice uuid = wm_message_uuid(msg);
  snprintf(e.uuid, sizeof e.uuid, "%.*s", (int)uuid.len, uuid.data ? uuid.data : "");
  size_t number = message_number(msg);
  e.seq = number == SIZE_MAX ? 0 : (uint32_t)number;
  return e;
}

static bool is_whole(const member *m, const wm_message *msg) {
  size_t number = message_number(msg);
  wm_slice bytes = wm_message_metadata(msg, "bytes"), payload = wm_message_payload(msg);
  return number != SIZE_MAX && bytes.len && strtoull(bytes.data, NULL, 10) == payload.len &&
         strcmp(wm_message_topic(msg), m->group->topic.name) == 0 &&
         payload_matches(payload, wm_message_uuid(msg).data, number);
}

int member_next(member *m, wm_message **out, size_t max, int timeout_ms) {
  int n = wm_next(m->con, out, max, timeout_ms);
  if (n <= 0) return n;
  history_event events[MAX_TAKE];
  size_t count = 0;
  for (int i = 0; i < n; i++) {
    events[count++] = event_of(m, out[i], H_DELIVERED);
    if (count == MAX_TAKE) {
      history_add_all(m->t->h, events, count);
      count = 0;
    }
  }
  history_add_all(m->t->h, events, count);
  for (int i = 0; i < n; i++) {
    history_event e = event_of(m, out[i], H_DELIVERED);
    group_note(m->group, &e);
    if (is_whole(m, out[i])) continue;
    e.kind = H_CORRUPT;
    history_add(m->t->h, &e);
  }
  return n;
}

wm_message *member_take(member *m) {
  wm_message *msg;
  int rc = member_next(m, &msg, 1, stretch(TAKE_MS));
  if (rc != 1)
    test_fail(m->t, "consumer %u of group %u: a message was expected, wm_next returned %s after up to %d ms", m->id,
              m->group->id, wm_code_name(rc), stretch(TAKE_MS));
  return msg;
}

void member_take_none(member *m, int ms) {
  wm_message *msg;
  int rc = member_next(m, &msg, 1, ms);
  if (rc == WM_TIMEOUT) return;
  if (rc != 1) test_fail(m->t, "consumer %u: wm_next returned %s", m->id, wm_code_name(rc));
  test_fail(m->t, "consumer %u got message %s at attempt %u, nothing was expected", m->id,
            wm_message_uuid(msg).data, wm_message_attempt(msg));
}

/* The record comes first: a kill between the two must not hide an ack. */
void member_ack(member *m, wm_message *msg) {
  history_event e = event_of(m, msg, H_ACK);
  history_add(m->t->h, &e);
  if (wm_ack(msg)) {
    group_note(m->group, &e);
  } else {
    e.kind = H_REJECTED;
    history_add(m->t->h, &e);
  }
  wm_message_release(msg);
}

void member_nack(member *m, wm_message *msg, int delay_ms) {
  history_event e = event_of(m, msg, H_NACK);
  e.value = delay_ms > 0 ? delay_ms : 0;
  history_add(m->t->h, &e);
  if (!wm_nack(msg, delay_ms)) {
    e.kind = H_REJECTED;
    history_add(m->t->h, &e);
  }
  wm_message_release(msg);
}

void member_ack_all(member *m, wm_message **msgs, int n, void *arg) {
  (void)arg;
  for (int i = 0; i < n; i++)
    member_ack(m, msgs[i]);
}

/* ---- threads -------------------------------------------------------------------------------------------------- */

static void *run(void *arg) {
  member *m = arg;
  wm_message *msgs[MAX_TAKE];
  int n;
  while ((n = member_next(m, msgs, MAX_TAKE, -1)) > 0)
    m->fn(m, msgs, n, m->arg);
  if (n != WM_CLOSED)
    test_fail(m->t, "consumer %u: wm_next without a time limit returned %s", m->id, wm_code_name(n));
  return NULL;
}

void member_start(member *m, member_fn fn, void *arg) {
  m->fn = fn ? fn : member_ack_all;
  m->arg = arg;
  m->running = true;
  if (pthread_create(&m->thread, NULL, run, m) != 0) abort();
}

void member_flush(member *m) {
  int64_t before = history_now();
  int rc = wm_flush(m->sub, stretch(20000));
  if (rc != WM_OK) test_fail(m->t, "consumer %u: wm_flush: %s", m->id, wm_code_name(rc));
  record(m, H_FLUSHED, before);
}

int member_close(member *m, int timeout_ms) {
  int rc = wm_subscription_close(m->sub, timeout_ms < 0 ? -1 : stretch(timeout_ms));
  record(m, H_CLOSED, rc);
  if (rc != WM_OK && rc != WM_TIMEOUT)
    test_fail(m->t, "consumer %u: wm_subscription_close: %s", m->id, wm_code_name(rc));
  if (m->running) pthread_join(m->thread, NULL);
  wm_consumer_close(m->con);
  free(m);
  return rc;
}
