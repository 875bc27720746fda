/*
 * input.c - bad input is refused early by an error that names it; what cannot be decoded goes where it should.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "harness.h"

enum { WAIT_MS = 20000 };

/* ---- bad_input ------------------------------------------------------------------------------------------------------ */

typedef struct refusal {
  const char *options; /* of the subscription */
  int code;
  const char *named;   /* what the error must mention */
} refusal;

static void expect(test *t, const char *what, int code, int expected, const wm_error *err, const char *named) {
  CHECK(t, code == expected, "%s: %s, %s was expected (%s)", what, wm_code_name(code), wm_code_name(expected),
        code == WM_OK ? "" : err->text);
  CHECK(t, err->code == code, "%s: the error's code is %s, %s was returned", what, wm_code_name(err->code),
        wm_code_name(code));
  CHECK(t, strstr(err->text, named) != NULL, "%s: the error does not name '%s': %s", what, named, err->text);
}

static void refuse_options(test *t, const topic *topic) {
  char own_topic[96];
  snprintf(own_topic, sizeof own_topic, "group=g,dead_letter=%s", topic->name);
  const refusal refusals[] = {{"group=g,max_inflight=2", WM_BAD_INPUT, "max_in_flight"},
                              {"group=g,nonsense=1", WM_BAD_INPUT, "nonsense"},
                              {"group=g,max_in_flight=0", WM_BAD_INPUT, "max_in_flight"},
                              {"group=g,max_in_flight=many", WM_BAD_INPUT, "many"},
                              {"group=g,takeover=soon", WM_BAD_INPUT, "soon"},
                              {"group=g,takeover=5 parsecs", WM_BAD_INPUT, "takeover"},
                              {"group=g,prefetch_bytes=12q", WM_BAD_INPUT, "prefetch_bytes"},
                              {"group=g,ordered=perhaps", WM_BAD_INPUT, "ordered"},
                              {"group=g,on_undecodable=weep", WM_BAD_INPUT, "on_undecodable"},
                              {"group=g,order_by=key,ordered=false", WM_BAD_INPUT, "order_by"},
                              {"group=g,max_attempts=3", WM_BAD_INPUT, "dead_letter"},
                              {"group=g,on_undecodable=dead_letter", WM_BAD_INPUT, "dead_letter"},
                              {own_topic, WM_BAD_INPUT, "dead_letter"}};
  for (size_t i = 0; i < sizeof refusals / sizeof *refusals; i++) {
    const refusal *r = &refusals[i];
    wm_options *opts = options_parse(t, r->options);
    wm_subscription *sub = NULL;
    wm_error err = {0};
    expect(t, r->options, wm_subscribe(&sub, t->url, topic->name, opts, &err), r->code, &err, r->named);
    CHECK(t, sub == NULL, "%s: a subscription was returned", r->options);
    memset(&err, 0, sizeof err);
    expect(t, r->options, wm_check(t->url, topic->name, opts, false, &err), r->code, &err, r->named);
    wm_options_free(opts);
  }
}

static void refuse_features(test *t, const topic *topic) {
  static const struct {
    unsigned feature;
    const char *options, *named;
  } lacks[] = {{WM_F_TX, "group=g,tx=true", "tx"},
               {WM_F_EXCLUSIVE, "group=g,exclusive=true", "exclusive"},
               {WM_F_REPLAY, "group=g,from=oldest", "oldest"}};
  for (size_t i = 0; i < sizeof lacks / sizeof *lacks; i++) {
    if (t->features & lacks[i].feature) continue;
    wm_options *opts = options_parse(t, lacks[i].options);
    wm_error err = {0};
    expect(t, lacks[i].options, wm_check(t->url, topic->name, opts, false, &err), WM_UNSUPPORTED, &err,
           lacks[i].named);
    wm_options_free(opts);
  }
}

static void refuse_urls(test *t, const topic *topic) {
  char query[800];
  snprintf(query, sizeof query, "%s%cnonsense=1", t->url, strchr(t->url, '?') ? '&' : '?');
  const struct {
    const char *url;
    const char *named;
  } urls[] = {{"nosuch://localhost", "nosuch"}, {"", ""}, {"no scheme", "no scheme"}, {query, "nonsense"}};
  for (size_t i = 0; i < sizeof urls / sizeof *urls; i++) {
    wm_publisher *pub = NULL;
    wm_subscription *sub = NULL;
    wm_error err = {0};
    expect(t, urls[i].url, wm_publisher_open(&pub, urls[i].url, NULL, &err), WM_BAD_INPUT, &err, urls[i].named);
    memset(&err, 0, sizeof err);
    expect(t, urls[i].url, wm_subscribe(&sub, urls[i].url, topic->name, NULL, &err), WM_BAD_INPUT, &err,
           urls[i].named);
    CHECK(t, !pub && !sub, "a handle was returned for '%s'", urls[i].url);
  }
}

static void refuse_topics(test *t) {
  const char *const topics[] = {"", t->row->bad_topic};
  source *s = source_open(t, NULL);
  history_event event;
  topic fine = topic_new(t);
  wm_message *msg = message_new(t, &fine, s->id, 0, NULL, &event);
  for (size_t i = 0; i < 2 && topics[i]; i++) {
    wm_error err = {0};
    wm_options *opts = options_parse(t, "group=g");
    expect(t, "subscribe to a bad topic", wm_check(t->url, topics[i], opts, false, &err), WM_BAD_INPUT, &err,
           "topic");
    memset(&err, 0, sizeof err);
    expect(t, "publish to a bad topic", wm_publish(s->pub, topics[i], &msg, 1, NULL, &err), WM_BAD_INPUT, &err,
           "topic");
    wm_options_free(opts);
  }
  wm_message_release(msg);
  source_close(s);
}

static wm_pair pair(const char *key) { return (wm_pair){{key, strlen(key)}, {"value", 5}}; }

static void refuse_messages(test *t) {
  static char long_uuid[300];
  memset(long_uuid, 'u', sizeof long_uuid - 1);
  const struct {
    const char *uuid;
    wm_pair pairs[2];
    size_t n;
    const char *named;
  } messages[] = {{NULL, {pair("")}, 1, "metadata"},
                  {NULL, {pair("twice"), pair("twice")}, 2, "twice"},
                  {NULL, {pair("_watermill_message_uuid")}, 1, "_watermill_message_uuid"},
                  {NULL, {pair("_wm_attempt")}, 1, "_wm_attempt"},
                  {long_uuid, {pair("a")}, 1, "uuid"}};
  for (size_t i = 0; i < sizeof messages / sizeof *messages; i++) {
    wm_message *msg = NULL;
    wm_error err = {0};
    expect(t, "a bad message",
           wm_message_new(&msg, messages[i].uuid, (wm_slice){"x", 1}, messages[i].pairs, messages[i].n, &err),
           WM_BAD_INPUT, &err, messages[i].named);
    CHECK(t, msg == NULL, "a message was returned");
  }
}

static void bad_input(test *t) {
  topic topic = topic_new(t);
  refuse_urls(t, &topic);
  refuse_options(t, &topic);
  refuse_features(t, &topic);
  refuse_topics(t);
  refuse_messages(t);
}

/* ---- undecodable -------------------------------------------------------------------------------------------------------- */

static void write_foreign(test *t, const topic *topic) {
  char why[BROKER_WHY];
  CHECK(t, broker_kind_find(t->row->name)->write_foreign(t->broker_url, topic->name, why), "%s", why);
}

/* Not one of ours: past the history. */
static void take_foreign(test *t, member *m) {
  wm_message *msg;
  int rc = wm_next(m->con, &msg, 1, stretch(WAIT_MS));
  CHECK(t, rc == 1, "%s", wm_code_name(rc));
  CHECK(t, wm_message_uuid(msg).len > 0, "it has no uuid");
  CHECK(t, message_number(msg) == SIZE_MAX, "the foreign record was expected, not message %zu", message_number(msg));
  CHECK(t, wm_message_payload(msg).len > 0, "it has no payload: its raw bytes are lost");
  CHECK(t, wm_ack(msg), "ack");
  wm_message_release(msg);
}

static void undecodable_as(test *t, const char *mode) {
  topic topic = topic_new(t), dead = topic_new(t);
  group *g = group_new(t, &topic, NULL), *graves = group_new(t, &dead, NULL);
  char options[160];
  snprintf(options, sizeof options, "on_undecodable=%s,dead_letter=%s", mode, dead.name);
  member *m = member_open(g, t, options), *grave = member_open(graves, t, NULL);
  publish(t, &topic, 1);
  member_ack(m, member_take(m));
  write_foreign(t, &topic);
  publish(t, &topic, 1);
  if (strcmp(mode, "raw") == 0) take_foreign(t, m);
  member_ack(m, member_take(m)); /* what is behind it still arrives */
  if (strcmp(mode, "dead_letter") == 0) take_foreign(t, grave);
  wm_subscription_stats stats;
  wm_subscription_get_stats(m->sub, &stats);
  CHECK(t, stats.undecodable == 1, "%llu were counted, with on_undecodable = %s",
        (unsigned long long)stats.undecodable, mode);
  member_take_none(m, 100);
  member_close(m, WAIT_MS);
  /* It is settled: nobody else gets it. */
  m = member_open(g, t, options);
  member_take_none(m, 200);
  member_close(m, WAIT_MS);
  member_close(grave, WAIT_MS);
}

static void undecodable(test *t) {
  undecodable_as(t, "raw");
  undecodable_as(t, "skip");
  undecodable_as(t, "dead_letter");
}

const test_def input_tests[] = {{"bad_input", bad_input, 0, 0, 0},
                                {"undecodable", undecodable, WM_F_GROUPS, FOREIGN, 0},
                                {0}};
