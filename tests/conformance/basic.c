/*
 * basic.c - what is published arrives, whole, once, where it belongs.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "harness.h"

enum { WAIT_MS = 20000 };

/* ---- publish_subscribe ---------------------------------------------------------------------------------------- */

static void publish_subscribe(test *t) {
  enum { N = 100 };
  topic topic = topic_new(t);
  group *g = group_new(t, &topic, NULL);
  member *m = member_open(g, t, NULL);
  source *s = source_open(t, NULL);
  source_publish(s, &topic, N, &(load){.keys = 3, .batch = 7});
  for (int i = 0; i < N; i++) {
    wm_message *msg = member_take(m); /* verifies uuid and payload */
    char key[16];
    snprintf(key, sizeof key, "k%d", i % 3 + 1);
    CHECK(t, wm_message_pairs(msg) == 3, "%zu pairs of metadata", wm_message_pairs(msg));
    CHECK(t, strcmp(wm_message_metadata(msg, "key").data, key) == 0, "got %s", wm_message_metadata(msg, "key").data);
    CHECK(t, wm_message_metadata(msg, "other").data == NULL, "a key that was never set has a value");
    CHECK(t, wm_message_attempt(msg) == 1, "attempt %u", wm_message_attempt(msg));
    member_ack(m, msg);
  }
  member_take_none(m, 100);
  source_close(s);
  member_start(m, NULL, NULL);
  CHECK(t, member_close(m, WAIT_MS) == WM_OK, "closing with nothing in flight"); /* and the thread ends */
}

/* ---- binary_payload --------------------------------------------------------------------------------------------- */

typedef struct sample {
  const char *data;
  size_t len;
  const char *key, *value;
} sample;

static void check_sample(test *t, member *m, const sample *s) {
  wm_message *msg;
  int rc = wm_next(m->con, &msg, 1, stretch(WAIT_MS));
  CHECK(t, rc == 1, "%s, for the payload of %zu bytes", wm_code_name(rc), s->len);
  wm_slice payload = wm_message_payload(msg), value = wm_message_metadata(msg, s->key);
  CHECK(t, payload.len == s->len, "%zu bytes, %zu were published", payload.len, s->len);
  CHECK(t, s->len == 0 || memcmp(payload.data, s->data, s->len) == 0, "of %zu bytes some have changed", s->len);
  CHECK(t, value.len == strlen(s->value) && (!value.len || memcmp(value.data, s->value, value.len) == 0),
        "metadata '%s' is '%.*s', '%s' was published", s->key, (int)value.len, value.data ? value.data : "", s->value);
  CHECK(t, wm_ack(msg), "ack");
  wm_message_release(msg);
}

static void publish_sample(test *t, source *s, const topic *topic, const sample *sample) {
  wm_message *msg;
  wm_error err;
  wm_pair pair = {{sample->key, strlen(sample->key)}, {sample->value, strlen(sample->value)}};
  CHECK_OK(t, wm_message_new(&msg, NULL, (wm_slice){sample->data, sample->len}, &pair, 1, &err), &err);
  CHECK_OK(t, wm_publish(s->pub, topic->name, &msg, 1, NULL, &err), &err);
  wm_message_release(msg);
}

static void binary_payload(test *t) {
  enum { MIB = 1 << 20, BYTES = 256 };
  char *large = malloc(MIB), every[BYTES];
  for (int i = 0; i < MIB; i++)
    large[i] = (char)(i * 7 + (i >> 8));
  for (int i = 0; i < BYTES; i++)
    every[i] = (char)i;
  const sample samples[] = {{NULL, 0, "empty", "payload"},
                            {large, MIB, "large", "1 MiB"},
                            {every, BYTES, "every", "byte"},
                            {"\0", 1, "one", "NUL"},
                            {"a\0b\r\n", 5, "line", "ends"},
                            {"x", 1, "Gr\xc3\xb6\xc3\x9f" "e", "\xe2\x82\xac 5 \xf0\x9f\x90\x87"},
                            {"y", 1, "nothing", ""}};
  topic topic = topic_new(t);
  group *g = group_new(t, &topic, NULL);
  member *m = member_open(g, t, NULL);
  source *s = source_open(t, NULL);
  enum { N = sizeof samples / sizeof *samples };
  for (int i = 0; i < N; i++)
    publish_sample(t, s, &topic, &samples[i]);
  for (int i = 0; i < N; i++)
    check_sample(t, m, &samples[i]);
  free(large);
  source_close(s);
  member_close(m, WAIT_MS);
}

/* ---- many at once ------------------------------------------------------------------------------------------------- */

typedef struct publishing {
  test *t;
  const topic *topic;
  size_t n;
  load load;
  pthread_t thread;
} publishing;

static void *publish_in_thread(void *arg) {
  publishing *p = arg;
  source *s = source_open(p->t, NULL);
  source_publish(s, p->topic, p->n, &p->load);
  source_close(s);
  return NULL;
}

static void concurrent_subscribe(test *t) {
  enum { PUBLISHERS = 50, SUBSCRIBERS = 50 };
  size_t each = short_count(5000, 500) / PUBLISHERS;
  topic topic = topic_new(t);
  group *g = group_new(t, &topic, NULL);
  member *members[SUBSCRIBERS];
  publishing publishers[PUBLISHERS];
  for (int i = 0; i < SUBSCRIBERS; i++) {
    members[i] = member_open(g, t, NULL);
    member_start(members[i], NULL, NULL);
  }
  for (int i = 0; i < PUBLISHERS; i++) {
    publishers[i] = (publishing){.t = t, .topic = &topic, .n = each, .load = {.batch = 10}};
    pthread_create(&publishers[i].thread, NULL, publish_in_thread, &publishers[i]);
  }
  for (int i = 0; i < PUBLISHERS; i++)
    pthread_join(publishers[i].thread, NULL);
  group_wait_acked(g, t, each * PUBLISHERS, WAIT_MS);
  for (int i = 0; i < SUBSCRIBERS; i++)
    member_close(members[i], WAIT_MS);
  if (!t->rules.duplicates)
    CHECK(t, group_deliveries(g) == each * PUBLISHERS, "%zu deliveries of %zu messages", group_deliveries(g),
          each * PUBLISHERS);
}

static void multiple_topics(test *t) {
  enum { TOPICS = 50, EACH = 50 };
  topic topics[TOPICS];
  group *groups[TOPICS];
  member *members[TOPICS];
  publishing publishers[TOPICS];
  for (int i = 0; i < TOPICS; i++) {
    topics[i] = topic_new(t);
    groups[i] = group_new(t, &topics[i], NULL);
    members[i] = member_open(groups[i], t, NULL);
    member_start(members[i], NULL, NULL);
  }
  for (int i = 0; i < TOPICS; i++) {
    publishers[i] = (publishing){.t = t, .topic = &topics[i], .n = EACH, .load = {.batch = 10}};
    pthread_create(&publishers[i].thread, NULL, publish_in_thread, &publishers[i]);
  }
  for (int i = 0; i < TOPICS; i++)
    pthread_join(publishers[i].thread, NULL);
  for (int i = 0; i < TOPICS; i++)
    group_wait_acked(groups[i], t, EACH, WAIT_MS);
  for (int i = 0; i < TOPICS; i++)
    member_close(members[i], WAIT_MS);
}

static void topic_isolation(test *t) {
  topic topics[2] = {topic_new(t), topic_new(t)};
  member *members[2];
  for (int i = 0; i < 2; i++)
    members[i] = member_open(group_new(t, &topics[i], NULL), t, NULL);
  for (int i = 0; i < 2; i++)
    publish(t, &topics[i], 1);
  for (int i = 0; i < 2; i++)
    member_ack(members[i], member_take(members[i])); /* the checker knows to which topic it belongs */
  for (int i = 0; i < 2; i++)
    member_take_none(members[i], 100);
  for (int i = 0; i < 2; i++)
    member_close(members[i], WAIT_MS);
}

const test_def basic_tests[] = {{"publish_subscribe", publish_subscribe, 0, 0, 0},
                                {"binary_payload", binary_payload, 0, 0, 0},
                                {"concurrent_subscribe", concurrent_subscribe, WM_F_GROUPS, 0, 120},
                                {"multiple_topics", multiple_topics, 0, 0, 120},
                                {"topic_isolation", topic_isolation, 0, 0, 0},
                                {0}};
