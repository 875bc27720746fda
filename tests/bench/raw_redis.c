/*
 * raw_redis.c - Redis through hiredis, with pipelines.
 */
#include "bench.h"

#include <hiredis/hiredis.h>
#include <stdlib.h>
#include <string.h>

enum { ENTRY_ARGS = 9, ACK_ARGS = 3 };

static void *open_redis(const char *url) {
  const char *colon = strrchr(url, ':');
  redisContext *c = redisConnect("127.0.0.1", colon ? atoi(colon + 1) : 0);
  if (!c || c->err) bench_die("hiredis: %s: %s", url, c ? c->errstr : "out of memory");
  return c;
}

static void close_redis(void *raw) { redisFree(raw); }

static redisReply *reply_of(redisContext *c) {
  redisReply *reply;
  if (redisGetReply(c, (void **)&reply) != REDIS_OK) bench_die("hiredis: %s", c->errstr);
  if (reply->type == REDIS_REPLY_ERROR) bench_die("hiredis: %s", reply->str);
  return reply;
}

static void expect(redisContext *c, int type) {
  redisReply *reply = reply_of(c);
  if (reply->type != type) bench_die("hiredis: a reply of type %d, not %d", reply->type, type);
  freeReplyObject(reply);
}

void raw_redis_set(const char *url, const char *name, const char *value) {
  redisContext *c = open_redis(url);
  redisAppendCommand(c, "CONFIG SET %s %s", name, value);
  expect(c, REDIS_REPLY_STATUS);
  close_redis(c);
}

/* The entry that libwm writes: uuid, metadata, payload. */
static void append_entry(redisContext *c, const char *topic, long number) {
  char uuid[WM_UUID_SIZE];
  snprintf(uuid, sizeof uuid, "00000000-0000-4000-8000-%012ld", number);
  const char *argv[ENTRY_ARGS] = {"XADD",       topic,      "*", "_watermill_message_uuid",
                                  uuid,         "metadata", "",  "payload",
                                  bench_payload};
  size_t lengths[ENTRY_ARGS] = {4, strlen(topic), 1, 23, sizeof uuid - 1, 8, 0, 7, BENCH_PAYLOAD};
  redisAppendCommandArgv(c, ENTRY_ARGS, argv, lengths);
}

static void publish(void *raw, const char *topic, long n, long depth) {
  for (long sent = 0; sent < n; sent += depth) {
    long some = n - sent < depth ? n - sent : depth;
    for (long i = 0; i < some; i++)
      append_entry(raw, topic, sent + i);
    for (long i = 0; i < some; i++)
      expect(raw, REDIS_REPLY_STRING);
  }
}

/* Appends the XACK of a read's entries; returns how many of them had a payload. */
static long append_ack(redisContext *c, const redisReply *entries, const char *topic,
                       const char *group) {
  const char *argv[ACK_ARGS + BENCH_BATCH] = {"XACK", topic, group};
  size_t lengths[ACK_ARGS + BENCH_BATCH] = {4, strlen(topic), strlen(group)};
  long payloads = 0;
  for (size_t i = 0; i < entries->elements; i++) {
    const redisReply *entry = entries->element[i], *fields = entry->element[1];
    argv[ACK_ARGS + i] = entry->element[0]->str;
    lengths[ACK_ARGS + i] = entry->element[0]->len;
    for (size_t f = 0; f + 1 < fields->elements; f += 2)
      if (strcmp(fields->element[f]->str, "payload") == 0)
        payloads += fields->element[f + 1]->len == BENCH_PAYLOAD;
  }
  redisAppendCommandArgv(c, ACK_ARGS + (int)entries->elements, argv, lengths);
  return payloads;
}

/* An XACK goes out together with the next XREADGROUP: one round trip for both. */
static long consume(void *raw, const char *topic, const char *group, long n, long depth) {
  static const char *const read = "XREADGROUP GROUP %s raw COUNT %d STREAMS %s >";
  long payloads = 0;
  redisAppendCommand(raw, "XGROUP CREATE %s %s 0", topic, group);
  expect(raw, REDIS_REPLY_STATUS);
  redisAppendCommand(raw, read, group, (int)depth, topic);
  for (long left = n; left > 0;) {
    redisReply *reply = reply_of(raw);
    if (reply->type != REDIS_REPLY_ARRAY) bench_die("hiredis: %ld messages are missing", left);
    const redisReply *entries = reply->element[0]->element[1];
    payloads += append_ack(raw, entries, topic, group);
    left -= (long)entries->elements;
    if (left > 0) redisAppendCommand(raw, read, group, (int)depth, topic);
    freeReplyObject(reply);
    expect(raw, REDIS_REPLY_INTEGER);
  }
  return payloads;
}

const raw_client raw_redis = {"raw hiredis", open_redis, close_redis, publish, consume};
