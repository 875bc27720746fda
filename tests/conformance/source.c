/*
 * source.c - publishing with a record of each step; making messages that can be verified.
 *
 * A payload is its uuid followed by a pattern that depends on the message's number, which travels in
 * the metadata as `n`.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "harness.h"
#include "payload.h"

enum { DEFAULT_SIZE = 64, DEFAULT_BATCH = 100, MAX_BATCH = 1000 };

wm_options *options_parse(test *t, const char *options) {
  wm_options *opts = wm_options_new();
  char copy[512], *save = NULL;
  snprintf(copy, sizeof copy, "%s", options ? options : "");
  for (char *item = strtok_r(copy, ",", &save); item; item = strtok_r(NULL, ",", &save)) {
    char *value = strchr(item, '='), ms[32];
    if (value) *value++ = 0;
    if (!value && strcmp(item, "takeover") == 0) {
      snprintf(ms, sizeof ms, "%dms", stretch(t->row->takeover_ms));
      value = ms;
    }
    if (!value || wm_options_set(opts, item, value) != WM_OK) abort();
  }
  return opts;
}

/* ---- messages ------------------------------------------------------------------------------------------------ */

size_t payload_fill(char *out, size_t size, const char *uuid, size_t number) {
  size_t head = strlen(uuid) < size ? strlen(uuid) : size;
  memcpy(out, uuid, head);
  for (size_t i = head; i < size; i++)
    out[i] = (char)(i * 31 + number);
  return size;
}

bool payload_matches(wm_slice payload, const char *uuid, size_t number) {
  size_t head = strlen(uuid) < payload.len ? strlen(uuid) : payload.len;
  if (head && memcmp(payload.data, uuid, head) != 0) return false;
  for (size_t i = head; i < payload.len; i++)
    if (payload.data[i] != (char)(i * 31 + number)) return false;
  return true;
}

size_t message_number(const wm_message *msg) {
  wm_slice n = wm_message_metadata(msg, "n");
  return n.len ? (size_t)strtoull(n.data, NULL, 10) : SIZE_MAX;
}

static wm_pair pair(const char *key, const char *value) {
  return (wm_pair){{key, strlen(key)}, {value, strlen(value)}};
}

wm_message *message_new(test *t, const topic *topic, uint32_t source, uint32_t seq, const load *load,
                        history_event *event) {
  size_t number = atomic_fetch_add(&t->messages, 1), size = load && load->size ? load->size : DEFAULT_SIZE;
  char uuid[WM_UUID_SIZE], n[24], bytes[24], key[24];
  wm_uuid(uuid);
  snprintf(n, sizeof n, "%zu", number);
  snprintf(bytes, sizeof bytes, "%zu", size);
  *event = (history_event){.kind = H_PUBLISH, .topic = topic->id, .publisher = source, .seq = seq};
  snprintf(event->uuid, sizeof event->uuid, "%s", uuid);
  if (load && load->keys) event->key = seq % load->keys + 1;
  snprintf(key, sizeof key, "k%u", event->key);
  wm_pair pairs[] = {pair("n", n), pair("bytes", bytes), pair("key", key)};
  char *payload = malloc(size + 1);
  if (!payload) abort();
  payload_fill(payload, size, uuid, number);
  wm_message *msg;
  wm_error err;
  CHECK_OK(t, wm_message_new(&msg, uuid, (wm_slice){payload, size}, pairs, event->key ? 3 : 2, &err), &err);
  free(payload);
  return msg;
}

static uint32_t kind_of(wm_result result) {
  return result == WM_STORED ? H_CONFIRMED : result == WM_RESULT_UNKNOWN ? H_UNKNOWN : H_FAILED;
}

void record_result(test *t, const history_event *event, wm_result result, size_t number) {
  history_event e = *event;
  e.time = 0;
  e.kind = kind_of(result);
  history_add(t->h, &e);
  e.seq = (uint32_t)number;
  if (t->watch) group_note(t->watch, &e);
}

/* ---- sources ------------------------------------------------------------------------------------------------- */

source *source_open(test *t, const char *options) {
  source *s = calloc(1, sizeof *s);
  wm_options *opts = options_parse(t, options);
  wm_error err;
  s->t = t;
  s->id = atomic_fetch_add(&t->sources, 1) + 1;
  CHECK_OK(t, wm_publisher_open(&s->pub, t->url, opts, &err), &err);
  wm_options_free(opts);
  return s;
}

static size_t publish_batch(source *s, const topic *topic, size_t n, const load *load) {
  test *t = s->t;
  wm_message *msgs[MAX_BATCH];
  history_event events[MAX_BATCH];
  wm_result results[MAX_BATCH];
  wm_error err = {0};
  for (size_t i = 0; i < n; i++)
    msgs[i] = message_new(t, topic, s->id, s->seq++, load, &events[i]);
  history_add_all(t->h, events, n);
  int rc = wm_publish(s->pub, topic->name, msgs, n, results, &err);
  if (rc != WM_OK && !(load && load->may_fail))
    test_fail(t, "publishing %zu messages to %s: %s: %s", n, topic->name, wm_code_name(rc), err.text);
  size_t stored = 0;
  for (size_t i = 0; i < n; i++) {
    wm_result result = rc == WM_OK ? WM_STORED : results[i];
    if (rc == WM_OK && results[i] != WM_STORED)
      test_fail(t, "wm_publish returned WM_OK, but its result %zu is %d", i, (int)results[i]);
    stored += result == WM_STORED;
    record_result(t, &events[i], result, message_number(msgs[i]));
    wm_message_release(msgs[i]);
  }
  return stored;
}

size_t source_publish(source *s, const topic *topic, size_t n, const load *load) {
  size_t batch = load && load->batch ? load->batch : DEFAULT_BATCH, stored = 0;
  while (n > 0) {
    size_t now = n < batch ? n : batch;
    stored += publish_batch(s, topic, now, load);
    n -= now;
  }
  return stored;
}

void source_close(source *s) {
  int rc = wm_publisher_close(s->pub, stretch(10000));
  if (rc != WM_OK) test_fail(s->t, "wm_publisher_close: %s", wm_code_name(rc));
  free(s);
}

void publish(test *t, const topic *topic, size_t n) {
  source *s = source_open(t, NULL);
  source_publish(s, topic, n, NULL);
  source_close(s);
}
