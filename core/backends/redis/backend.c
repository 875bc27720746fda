/*
 * backend.c - Redis Streams: the contract's struct, options, opening and probing. A topic is a
 * stream key, a group is a consumer group, a member a consumer in it. redis.h says what lies where.
 *
 * Connections: one for publishing, and two a subscription: one reads, waiting in the server, while
 * the other settles and keeps claims alive.
 */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "clock.h"
#include "error.h"
#include "redis.h"

enum { OPT_CONSUMER, OPT_MAXLEN, OPT_TRIM, OPT_DIAL, OPT_COMMAND };

static const wm_option_def options[] = {
    [OPT_CONSUMER] = {.name = "consumer",
                      .type = WM_OPT_TEXT,
                      .value = "",
                      .help = "a lasting consumer name, unique in its group: after a restart its "
                              "messages come first, at once"},
    [OPT_MAXLEN] = {.name = "maxlen",
                    .type = WM_OPT_COUNT,
                    .value = "0",
                    .max = INT64_MAX,
                    .help = "entries that a publish leaves in the stream, about, unread ones are "
                            "deleted too; 0 = all"},
    [OPT_TRIM] = {.name = "trim",
                  .type = WM_OPT_CHOICE,
                  .value = "none",
                  .choices = "none|acked",
                  .help = "acked: now and then delete what every group of the stream has acked"},
    [OPT_DIAL] = {.name = "dial_timeout",
                  .type = WM_OPT_DURATION,
                  .value = "5s",
                  .min = 1,
                  .max = 600000,
                  .help = "how long one attempt to connect to the server may take"},
    [OPT_COMMAND] = {.name = "command_timeout",
                     .type = WM_OPT_DURATION,
                     .value = "5s",
                     .min = 1,
                     .max = 600000,
                     .help = "how long the server may take to answer before it counts as lost"},
    {0}};

#define TEXT_OF(number) #number
#define VERSION_OF(major, minor, patch) TEXT_OF(major) "." TEXT_OF(minor) "." TEXT_OF(patch)

static const char *library(void) {
  return "hiredis " VERSION_OF(HIREDIS_MAJOR, HIREDIS_MINOR, HIREDIS_PATCH);
}

static int parse_database(const char *path, long *out, wm_error *err) {
  char *end;
  *out = 0;
  if (!*path) return WM_OK;
  errno = 0;
  *out = strtol(path, &end, 10);
  if (errno || *end || *out < 0 || path[0] < '0' || path[0] > '9')
    return wm_fail_with(err, WM_BAD_INPUT,
                        "the path of a redis URL is a database number, redis://host/2, got '%s'",
                        path);
  return WM_OK;
}

static int open_redis(const wm_url *url, const wm_option_value *values, void **conn,
                      wm_error *err) {
  long database;
  if (strcmp(url->scheme, "rediss") == 0)
    return wm_fail_with(
        err, WM_UNSUPPORTED,
        "rediss: this build has no TLS for Redis; use redis:// through a TLS tunnel (stunnel)");
  if (url->n_hosts > 1)
    return wm_fail_with(
        err, WM_UNSUPPORTED,
        "redis: one host expected, got %zu; clusters and sentinels are not supported",
        url->n_hosts);
  int rc = parse_database(url->path, &database, err);
  if (rc != WM_OK) return rc;
  wm_redis *r = calloc(1, sizeof *r);
  if (!r) return wm_fail_with(err, WM_NOMEM, "out of memory");
  const wm_host *host = url->n_hosts ? &url->hosts[0] : NULL;
  r->host = host && *host->name ? host->name : "127.0.0.1";
  r->port = host && host->port ? host->port : WM_REDIS_PORT;
  r->user = url->has_user && *url->user ? url->user : NULL;
  r->password = url->has_password && *url->password ? url->password : NULL;
  r->database = database;
  r->consumer =
      values[OPT_CONSUMER].text && *values[OPT_CONSUMER].text ? values[OPT_CONSUMER].text : NULL;
  r->maxlen = values[OPT_MAXLEN].number;
  r->trim_acked = values[OPT_TRIM].number == 1;
  r->dial_ms = (int)values[OPT_DIAL].number;
  r->command_ms = (int)values[OPT_COMMAND].number;
  atomic_flag_clear(&r->told);
  *conn = r;
  return WM_OK;
}

static void close_redis(void *conn) {
  wm_redis *r = conn;
  wm_redis_link_free(r->pub);
  free(r);
}

static int check(void *conn, const char *topic, const char *group, const wm_message *msg,
                 wm_error *err) {
  (void)conn;
  (void)group;
  (void)msg;
  if (topic && !*topic)
    return wm_fail_with(err, WM_BAD_INPUT, "redis: the topic is empty; it names the stream's key");
  return WM_OK;
}

/* ---- probing -------------------------------------------------------------------------------- */

typedef struct prober {
  wm_redis_link *link;
  wm_probe_fn fn;
  void *arg;
  int64_t deadline;
} prober;

/* The answer to a command; NULL when there was none. An error reply counts as an answer. */
static redisReply *ask(prober *p, wm_error *err) {
  redisReply *reply;
  int rc = wm_redis_receive_tree(p->link, &reply, p->deadline, err);
  if (rc == WM_OK) return reply;
  if (rc == WM_TIMEOUT) wm_fail_with(err, WM_UNREACHABLE, "no answer in time");
  return NULL;
}

static void tell_latency(prober *p) {
  wm_error err;
  struct timespec a, b;
  long best = -1;
  for (int i = 0; i < 5; i++) {
    clock_gettime(CLOCK_MONOTONIC, &a);
    wm_redis_command(&p->link->out, "PING", NULL);
    redisReply *reply = ask(p, &err);
    if (!reply) return;
    freeReplyObject(reply);
    clock_gettime(CLOCK_MONOTONIC, &b);
    long us = (b.tv_sec - a.tv_sec) * 1000000L + (b.tv_nsec - a.tv_nsec) / 1000;
    if (best < 0 || us < best) best = us;
  }
  char text[64];
  snprintf(text, sizeof text, "%ld us a round trip", best);
  p->fn(p->arg, "latency", text, false);
}

static void tell_server(prober *p) {
  wm_error err;
  wm_redis_command(&p->link->out, "INFO", "server", NULL);
  redisReply *reply = ask(p, &err);
  const char *at =
      reply && reply->type == REDIS_REPLY_STRING ? strstr(reply->str, "redis_version:") : NULL;
  if (at) {
    char text[80];
    int major = 0, minor = 0;
    at += strlen("redis_version:");
    sscanf(at, "%d.%d", &major, &minor);
    bool old = major < 6 || (major == 6 && minor < 2);
    snprintf(text, sizeof text, "Redis %.*s%s",
             (int)strcspn(at, "\r\n") > 30 ? 30 : (int)strcspn(at, "\r\n"), at,
             old ? "; 6.2 or later is needed" : "");
    p->fn(p->arg, "server", text, old);
  } else {
    p->fn(p->arg, "server", "Redis, version not told (INFO is forbidden)", false);
  }
  if (reply) freeReplyObject(reply);
}

static bool get_setting(prober *p, const char *name, char *out, size_t size) {
  wm_error err;
  wm_redis_command(&p->link->out, "CONFIG", "GET", name, NULL);
  redisReply *reply = ask(p, &err);
  bool told =
      reply && reply->type == REDIS_REPLY_ARRAY && reply->elements == 2 && reply->element[1]->str;
  if (told) snprintf(out, size, "%s", reply->element[1]->str);
  if (reply) freeReplyObject(reply);
  return told;
}

static void tell_durability(prober *p) {
  char aof[32], fsync[32], policy[32], text[128];
  if (!get_setting(p, "appendonly", aof, sizeof aof) ||
      !get_setting(p, "appendfsync", fsync, sizeof fsync)) {
    p->fn(p->arg, "durability", "not told (CONFIG is forbidden)", false);
    return;
  }
  bool on = strcmp(aof, "yes") == 0, always = on && strcmp(fsync, "always") == 0;
  if (always)
    snprintf(text, sizeof text, "every confirmed message is on disk (appendfsync always)");
  else if (on)
    snprintf(text, sizeof text, "a crash of the machine loses a second or more (appendfsync %s)",
             fsync);
  else
    snprintf(text, sizeof text, "a crash loses what was not saved, minutes (appendonly %s)", aof);
  p->fn(p->arg, "durability", text, !always);
  if (!get_setting(p, "maxmemory-policy", policy, sizeof policy)) return;
  bool evicts = strncmp(policy, "allkeys", 7) == 0;
  snprintf(text, sizeof text, "maxmemory-policy %s%s", policy,
           evicts ? ": deletes streams when memory is short" : "");
  p->fn(p->arg, "limit", text, evicts);
}

static void tell_rights(prober *p) {
  static const char *const needed[][6] = {
      {"XADD", "wm-probe", "*", "f", "v", NULL},
      {"XREADGROUP", "GROUP", "g", "c", "STREAMS", NULL}, /* the rest is added */
      {"XACK", "wm-probe", "g", "1-0", NULL},
      {"XGROUP", "CREATE", "wm-probe", "g", "0", NULL},
      {"EVAL", "return 0", "1", "wm-probe", NULL}};
  wm_error err;
  char user[128] = "", text[320], missing[128] = "";
  wm_redis_command(&p->link->out, "ACL", "WHOAMI", NULL);
  redisReply *reply = ask(p, &err);
  if (reply && reply->type == REDIS_REPLY_STRING) snprintf(user, sizeof user, "%s", reply->str);
  if (reply) freeReplyObject(reply);
  if (!user[0]) {
    p->fn(p->arg, "rights", "not told (ACL is forbidden or unknown)", false);
    return;
  }
  bool known = true;
  for (size_t i = 0; i < sizeof needed / sizeof *needed && known; i++) {
    size_t n = 0;
    while (needed[i][n])
      n++;
    bool read = strcmp(needed[i][0], "XREADGROUP") == 0;
    wm_redis_begin(&p->link->out, 3 + n + (read ? 2 : 0));
    wm_redis_text(&p->link->out, "ACL");
    wm_redis_text(&p->link->out, "DRYRUN");
    wm_redis_text(&p->link->out, user);
    for (size_t j = 0; j < n; j++)
      wm_redis_text(&p->link->out, needed[i][j]);
    if (read) {
      wm_redis_text(&p->link->out, "wm-probe");
      wm_redis_text(&p->link->out, ">");
    }
    if (!(reply = ask(p, &err))) return;
    known = reply->type != REDIS_REPLY_ERROR;
    /* About a key it depends on the topic; about a command it does not. */
    if (known && reply->str && strstr(reply->str, "command")) {
      size_t used = strlen(missing);
      snprintf(missing + used, sizeof missing - used, " %s", needed[i][0]);
    }
    freeReplyObject(reply);
  }
  if (!known)
    snprintf(text, sizeof text, "user '%s' (what it may do cannot be asked)", user);
  else if (missing[0])
    snprintf(text, sizeof text, "user '%s' may not run:%s", user, missing);
  else
    snprintf(text, sizeof text, "user '%s' may run all that is needed", user);
  p->fn(p->arg, "rights", text, missing[0] != '\0');
}

static int probe(void *conn, wm_probe_fn fn, void *arg, wm_error *err) {
  wm_redis *r = conn;
  prober p = {.link = wm_redis_link_new(r, -1), .fn = fn, .arg = arg};
  if (!p.link) return wm_fail_with(err, WM_NOMEM, "out of memory");
  p.deadline = wm_now_ms() + r->dial_ms + r->command_ms;
  int rc = wm_redis_link_up(p.link, p.deadline, NULL, err);
  if (rc == WM_OK) {
    tell_server(&p);
    tell_durability(&p);
    tell_rights(&p);
    tell_latency(&p);
  }
  wm_redis_link_free(p.link);
  return rc;
}

const wm_backend wm_backend_redis = {
    .name = "redis",
    .schemes = "redis rediss",
    .features = WM_F_GROUPS | WM_F_ORDERED | WM_F_PERSISTENT | WM_F_REPLAY | WM_F_FANOUT |
                WM_F_EXCLUSIVE | WM_F_SERVER,
    .attempt = WM_ATTEMPT_EXACT,
    .give_back = WM_GIVE_BACK_SOON,
    .options = options,
    .max_payload = 512u * 1024 * 1024,
    .library = library,
    .check = check,
    .open = open_redis,
    .close = close_redis,
    .probe = probe,
    .publish = wm_redis_publish,
    .publish_close = wm_redis_publish_close,
    .subscribe = wm_redis_subscribe,
    .fetch = wm_redis_fetch,
    .settle = wm_redis_settle,
    .touch = wm_redis_touch,
    .interrupt = wm_redis_interrupt,
    .unsubscribe = wm_redis_unsubscribe,
};
