/*
 * consume_bench.c - reading messages of 1 KiB and acking each: libwm in C and a Lua handler, one message at a
 * time as by default, beside the client library itself. Each run reads a topic that was filled before, as a new
 * group.
 */
#include "bench.h"

#include <stdlib.h>
#include <string.h>

enum { LIBRARY, LUA, RAW, LAX, SIDES, LOOP = LAX /* memory */ };
enum { WAIT_MS = 60000, NAME_ROOM = 64 };

typedef struct consuming {
  const bench_place *place;
  broker *broker;
  wm_publisher *pub;
  long count, raw_count; /* messages of a run */
  long raw_depth, lax_depth;
  bool by_processor; /* rates of a second of processor time, of all threads */
  bool one_topic;    /* all sides of a round read one topic: what one group has acked stays */
  char topic[NAME_ROOM];
  const char *group;
} consuming;

/* So that no broker grows. */
static void drop_topic(consuming *c) {
  char why[BROKER_WHY];
  if (!c->topic[0] || !c->place->kind->wipe) return;
  if (!c->place->kind->wipe(c->broker->url, c->topic, "", WIPE_TOPIC, why))
    bench_die("deleting topic '%s': %s", c->topic, why);
}

static void begin(consuming *c, const char *side, int round, long n) {
  char topic[NAME_ROOM];
  snprintf(topic, sizeof topic, "%s_%d", c->one_topic ? "round" : side, round);
  c->group = side;
  if (strcmp(topic, c->topic) == 0) return;
  drop_topic(c);
  memcpy(c->topic, topic, sizeof topic);
  bench_fill(c->pub, topic, n);
}

/* Reads every byte, as making a string of it does. */
static bool is_read(wm_slice payload) {
  return payload.len == BENCH_PAYLOAD && !memchr(payload.data, '\n', payload.len);
}

static long read_and_ack(wm_consumer *con, long n) {
  long payloads = 0;
  for (long i = 0; i < n; i++) {
    wm_message *msg;
    int rc = wm_next(con, &msg, 1, WAIT_MS);
    if (rc != 1) bench_die("wm_next: %s after %ld messages", wm_code_name(rc), i);
    payloads += is_read(wm_message_payload(msg));
    wm_ack(msg);
    wm_message_release(msg);
  }
  return payloads;
}

static double library(void *arg, int round) {
  consuming *c = arg;
  wm_options *opts = wm_options_new();
  wm_subscription *sub;
  wm_consumer *con;
  wm_error err;
  begin(c, "library", round, c->count);
  wm_options_set(opts, "group", c->group);
  double began = bench_now(), used = bench_processor();
  bench_check(wm_subscribe(&sub, c->broker->url, c->topic, opts, &err), &err, "subscribing");
  bench_check(wm_consumer_open(&con, sub, &err), &err, "opening a consumer");
  bench_counted(read_and_ack(con, c->count), c->count, "consume, C");
  bench_check(wm_flush(sub, WAIT_MS), NULL, "flushing");
  double seconds = c->by_processor ? bench_processor() - used : bench_now() - began;
  wm_consumer_close(con);
  wm_subscription_close(sub, -1);
  wm_options_free(opts);
  return (double)c->count / seconds;
}

static double raw_run(consuming *c, const raw_client *client, long n, long depth) {
  void *raw = client->open(c->broker->url);
  double began = bench_now();
  bench_counted(client->consume(raw, c->topic, c->group, n, depth), n, client->name);
  double seconds = bench_now() - began;
  client->close(raw);
  return (double)n / seconds;
}

static double raw(void *arg, int round) {
  consuming *c = arg;
  begin(c, "raw", round, c->raw_count);
  return raw_run(c, c->place->raw, c->raw_count, c->raw_depth);
}

static double lax(void *arg, int round) {
  consuming *c = arg;
  begin(c, "lax", round, c->count);
  return raw_run(c, c->place->lax, c->count, c->lax_depth);
}

static double script(consuming *c, const char *how) {
  char count[NAME_ROOM];
  snprintf(count, sizeof count, "%ld", c->count);
  bench_figures f = bench_script("consume.lua", c->broker->url,
                                 (const char *[]){how, c->topic, c->group, count, NULL}, c->count);
  return c->by_processor ? f.processor : f.rate;
}

static double lua_handler(void *arg, int round) {
  consuming *c = arg;
  begin(c, "lua", round, c->count);
  return script(c, "handler");
}

/* Topics of the memory broker live in their process: these scripts fill them themselves. */
static double memory_handler(void *arg, int round) {
  (void)round;
  return script(arg, "handler-on-memory");
}

static double memory_loop(void *arg, int round) {
  (void)round;
  return script(arg, "loop-on-memory");
}

static bool open_all(consuming *c, const char *what) {
  c->broker = bench_open(c->place, what);
  if (!c->broker) return false;
  c->pub = bench_publisher(c->broker->url);
  return true;
}

static void close_all(consuming *c) {
  drop_topic(c);
  wm_publisher_close(c->pub, -1);
  broker_stop(c->broker);
}

static void redis(const bench_place *place) {
  consuming c = {
      .place = place, .count = bench_count(place->messages), .raw_depth = 100, .one_topic = true};
  bench_result r;
  c.raw_count = c.count;
  if (!open_all(&c, "consume with ack")) return;
  bool host = bench_has_host(place, "consume with ack, Lua handler");
  bench_run(&r, (bench_side[]){library, host ? lua_handler : NULL, raw}, RAW + 1, &c);
  bench_compare compare = {.what = "consume with ack, C",
                           .beside = "raw hiredis, XREADGROUP + XACK, COUNT 100",
                           .other = RAW,
                           .least = 0.8,
                           .as_percent = true};
  bench_print_ratio(place, &r, &compare);
  compare.what = "consume with ack, Lua handler";
  compare.ours = LUA;
  compare.least = 0.6;
  if (host) bench_print_ratio(place, &r, &compare);
  close_all(&c);
}

static void sqlite(const bench_place *place) {
  consuming c = {.place = place,
                 .count = bench_count(place->messages),
                 .raw_count = bench_count(500),
                 .raw_depth = 1,
                 .lax_depth = BENCH_BATCH};
  bench_result r;
  if (!open_all(&c, "consume with ack")) return;
  bool host = bench_has_host(place, "consume with ack, Lua handler");
  bench_run(&r, (bench_side[]){library, host ? lua_handler : NULL, raw, lax}, SIDES, &c);
  bench_compare compare = {.what = "consume with ack, C",
                           .beside = "raw, one message a transaction",
                           .other = RAW,
                           .least = 20};
  bench_print_ratio(place, &r, &compare);
  compare.what = "consume with ack, Lua handler";
  compare.ours = LUA;
  if (host) bench_print_ratio(place, &r, &compare);
  bench_print_ratio(place, &r,
                    &(bench_compare){.what = "consume with ack, C",
                                     .beside = "raw at synchronous=NORMAL, 1,000 a transaction",
                                     .other = LAX,
                                     .as_percent = true});
  close_all(&c);
}

static void print_overhead(const bench_place *place, const bench_result *r, size_t side,
                           const char *what) {
  enum { MOST_US = 1 };
  char ours[NAME_ROOM], beside[NAME_ROOM], result[NAME_ROOM];
  double extra = bench_extra_us(r, side, LIBRARY);
  snprintf(ours, sizeof ours, "%.2f us of processor time", 1e6 / bench_median_rate(r, side));
  snprintf(beside, sizeof beside, "the same loop in C: %.2f us",
           1e6 / bench_median_rate(r, LIBRARY));
  snprintf(result, sizeof result, "+%.2f us a message", extra);
  bench_print(&(bench_row){.what = what,
                           .where = place->name,
                           .ours = ours,
                           .beside = beside,
                           .result = result,
                           .goal = "<= 1 us",
                           .met = extra <= MOST_US ? BENCH_MET : BENCH_MISSED});
}

/* What Lua adds is so little that on a busy machine only processor time can tell it. */
static void memory(const bench_place *place) {
  static const char *const what = "consume with ack, Lua handler, payload read";
  consuming c = {.place = place, .count = bench_count(place->messages), .by_processor = true};
  bench_result r;
  if (!open_all(&c, what)) return;
  if (bench_has_host(place, what)) {
    bench_run(&r, (bench_side[]){library, memory_handler, NULL, memory_loop}, SIDES, &c);
    print_overhead(place, &r, LUA, what);
    print_overhead(place, &r, LOOP, "consume with ack, Lua for loop, payload read");
  }
  close_all(&c);
}

int main(int argc, char **argv) {
  static const bench_measure measures[] = {
      {"consume", redis, &bench_redis_everysec},
      {"consume", redis, &bench_redis_always},
      {"consume", sqlite, &bench_sqlite},
      {"consume", memory, &bench_memory},
  };
  return bench_main(argc, argv, measures, sizeof measures / sizeof *measures);
}
