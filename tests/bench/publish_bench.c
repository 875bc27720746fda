/*
 * publish_bench.c - publishing messages of 1 KiB: 1,000 outstanding through wm_publish_async, lists through Lua,
 * 50 blocking callers beside one, and a lone one. Callbacks come from a thread of libwm; callers are threads.
 */
#include "bench.h"

#include <pthread.h>
#include <stdatomic.h>
#include <stdlib.h>

enum {
  OUTSTANDING = 1000,
  REFILL = OUTSTANDING / 2,
  CALLERS = 50,
  TIMEOUT_MS = 60000,
  NAME_ROOM = 64
};

typedef struct publishing {
  const bench_place *place;
  broker *broker;
  long count, few; /* messages of a run; of one that waits for each */
} publishing;

static const char topic[] = "published";

/* So that no broker grows. Topics of the memory broker end with their last publisher. */
static void clear(publishing *p) {
  char why[BROKER_WHY];
  if (!p->place->kind->wipe) return;
  if (!p->place->kind->wipe(p->broker->url, topic, "", WIPE_TOPIC, why))
    bench_die("deleting topic '%s': %s", topic, why);
}

/* The topic is there, and what is opened at the first message is open. */
static wm_publisher *warm(publishing *p) {
  wm_publisher *pub = bench_publisher(p->broker->url);
  bench_fill(pub, topic, 1);
  return pub;
}

/* ---- many outstanding ------------------------------------------------------------------------------ */

typedef struct flow {
  pthread_mutex_t lock; /* for `low_enough` alone */
  pthread_cond_t low_enough;
  atomic_long outstanding, refill, stored;
} flow;

static void stored(void *arg, int code, const wm_result *results, size_t n, const wm_error *err) {
  (void)results;
  flow *f = arg;
  if (code != WM_OK) bench_die("wm_publish_async: %s", err->text);
  atomic_fetch_add(&f->stored, (long)n);
  if (atomic_fetch_sub(&f->outstanding, 1) - 1 != atomic_load(&f->refill)) return;
  pthread_mutex_lock(&f->lock);
  pthread_cond_signal(&f->low_enough);
  pthread_mutex_unlock(&f->lock);
}

/* Waits until no more than n are outstanding. */
static void wait_for(flow *f, long n) {
  pthread_mutex_lock(&f->lock);
  atomic_store(&f->refill, n);
  while (atomic_load(&f->outstanding) > n)
    pthread_cond_wait(&f->low_enough, &f->lock);
  pthread_mutex_unlock(&f->lock);
}

static double library(void *arg, int round) {
  (void)round;
  publishing *p = arg;
  flow f = {.lock = PTHREAD_MUTEX_INITIALIZER, .low_enough = PTHREAD_COND_INITIALIZER};
  wm_publisher *pub = warm(p);
  wm_error err;
  double began = bench_now();
  for (long i = 0; i < p->count; i++) {
    if (atomic_load(&f.outstanding) == OUTSTANDING) wait_for(&f, REFILL);
    wm_message *msg = bench_message();
    atomic_fetch_add(&f.outstanding, 1);
    bench_check(wm_publish_async(pub, topic, &msg, 1, stored, &f, &err), &err, "wm_publish_async");
    wm_message_release(msg);
  }
  wait_for(&f, 0);
  double seconds = bench_now() - began;
  wm_publisher_close(pub, TIMEOUT_MS);
  bench_counted(atomic_load(&f.stored), p->count, "publish, C");
  clear(p);
  return (double)p->count / seconds;
}

static double lua_lists(void *arg, int round) {
  (void)round;
  publishing *p = arg;
  char count[NAME_ROOM];
  snprintf(count, sizeof count, "%ld", p->count);
  bench_figures f =
      bench_script("publish.lua", p->broker->url, (const char *[]){topic, count, NULL}, p->count);
  clear(p);
  return f.rate;
}

static double raw_run(publishing *p, long n, long depth) {
  wm_publisher_close(warm(p), TIMEOUT_MS);
  void *raw = p->place->raw->open(p->broker->url);
  p->place->raw->publish(raw, topic, 1, 1);
  double began = bench_now();
  p->place->raw->publish(raw, topic, n, depth);
  double seconds = bench_now() - began;
  p->place->raw->close(raw);
  clear(p);
  return (double)n / seconds;
}

static double raw(void *arg, int round) {
  (void)round;
  publishing *p = arg;
  return raw_run(p, p->count, OUTSTANDING);
}

static void outstanding(const bench_place *place, double least, const char *beside) {
  enum { LIBRARY, LUA, RAW, SIDES };
  publishing p = {.place = place, .count = bench_count(place->messages)};
  bench_compare compare = {.what = "publish, 1,000 outstanding, C",
                           .beside = beside,
                           .other = beside ? RAW : LIBRARY,
                           .least = least,
                           .as_percent = true};
  bench_result r;
  p.broker = bench_open(place, compare.what);
  if (!p.broker) return;
  bool host = bench_has_host(place, "publish, lists of 1,000, Lua");
  bench_run(&r, (bench_side[]){library, host ? lua_lists : NULL, beside ? raw : NULL}, SIDES, &p);
  bench_print_ratio(place, &r, &compare);
  compare.what = "publish, lists of 1,000, Lua";
  compare.ours = LUA;
  compare.least = 0;
  if (!beside) compare.beside = "1,000 outstanding, C";
  if (host) bench_print_ratio(place, &r, &compare);
  broker_stop(p.broker);
}

static void outstanding_redis(const bench_place *place) {
  outstanding(place, 0.8, "raw hiredis, pipelines of 1,000");
}

static void outstanding_sqlite(const bench_place *place) {
  outstanding(place, 0.6, "raw, transactions of 1,000");
}

static void outstanding_memory(const bench_place *place) { outstanding(place, 0, NULL); }

/* ---- callers that wait ----------------------------------------------------------------------------- */

typedef struct caller {
  wm_publisher *pub;
  long count;
} caller;

static void *publish_each(void *arg) {
  caller *c = arg;
  wm_error err;
  for (long i = 0; i < c->count; i++) {
    wm_message *msg = bench_message();
    bench_check(wm_publish(c->pub, topic, &msg, 1, NULL, &err), &err, "wm_publish");
    wm_message_release(msg);
  }
  return NULL;
}

static double callers_run(publishing *p, size_t callers) {
  pthread_t threads[CALLERS];
  caller c = {.pub = warm(p), .count = p->few};
  double began = bench_now();
  for (size_t i = 0; i < callers; i++)
    if (pthread_create(&threads[i], NULL, publish_each, &c) != 0) bench_die("too many threads");
  for (size_t i = 0; i < callers; i++)
    pthread_join(threads[i], NULL);
  double seconds = bench_now() - began;
  wm_publisher_stats stats;
  wm_publisher_get_stats(c.pub, &stats);
  bench_counted((long)stats.stored, 1 + (long)callers * p->few, "publish, blocking");
  wm_publisher_close(c.pub, TIMEOUT_MS);
  clear(p);
  return (double)callers * (double)p->few / seconds;
}

static double one_caller(void *arg, int round) {
  (void)round;
  return callers_run(arg, 1);
}

static double many_callers(void *arg, int round) {
  (void)round;
  return callers_run(arg, CALLERS);
}

static void callers(const bench_place *place, double least) {
  publishing p = {.place = place, .few = bench_count(place->messages / 80)};
  bench_compare compare = {.what = "publish, 50 blocking callers, C",
                           .beside = "one caller",
                           .other = 1,
                           .least = least};
  bench_result r;
  p.broker = bench_open(place, compare.what);
  if (!p.broker) return;
  bench_run(&r, (bench_side[]){many_callers, one_caller}, 2, &p);
  bench_print_ratio(place, &r, &compare);
  broker_stop(p.broker);
}

static void callers_redis(const bench_place *place) { callers(place, 4); }
static void callers_sqlite(const bench_place *place) { callers(place, 10); }

/* ---- a lone one ------------------------------------------------------------------------------------ */

enum { BLOCK = 50 };

/* A single message is so short that the sides take turns within a round, too. */
static void lone_round(publishing *p, double *library, double *raw) {
  wm_publisher *pub = warm(p);
  const raw_client *client = p->place->raw;
  void *connection = client->open(p->broker->url);
  caller c = {.pub = pub, .count = BLOCK};
  double ours = 0, theirs = 0;
  long blocks = p->few / BLOCK + 1;
  client->publish(connection, topic, 1, 1);
  for (long i = 0; i < blocks; i++) {
    double began = bench_now();
    publish_each(&c);
    double between = bench_now();
    client->publish(connection, topic, BLOCK, 1);
    ours += between - began;
    theirs += bench_now() - between;
  }
  *library = (double)(blocks * BLOCK) / ours;
  *raw = (double)(blocks * BLOCK) / theirs;
  client->close(connection);
  wm_publisher_close(pub, TIMEOUT_MS);
  clear(p);
}

static void lone(const bench_place *place) {
  enum { LIBRARY, RAW };
  static const char what[] = "publish, a lone blocking one, C";
  const double most = 1.2;
  publishing p = {.place = place, .few = bench_count(place->messages / 40)};
  bench_result r = {.rounds = bench_rounds()};
  char ours[NAME_ROOM], beside[NAME_ROOM], result[NAME_ROOM];
  p.broker = bench_open(place, what);
  if (!p.broker) return;
  for (int round = 0; round < r.rounds; round++)
    lone_round(&p, &r.rate[LIBRARY][round], &r.rate[RAW][round]);
  double ratio = bench_ratio(&r, RAW, LIBRARY);
  snprintf(ours, sizeof ours, "%.0f us", 1e6 / bench_median_rate(&r, LIBRARY));
  snprintf(beside, sizeof beside, "one raw XADD: %.0f us", 1e6 / bench_median_rate(&r, RAW));
  snprintf(result, sizeof result, "%.2fx", ratio);
  bench_print(&(bench_row){.what = what,
                           .where = place->name,
                           .ours = ours,
                           .beside = beside,
                           .result = result,
                           .goal = "<= 1.2x",
                           .met = ratio <= most ? BENCH_MET : BENCH_MISSED});
  broker_stop(p.broker);
}

int main(int argc, char **argv) {
  static const bench_measure measures[] = {
      {"publish outstanding", outstanding_redis, &bench_redis_everysec},
      {"publish outstanding", outstanding_redis, &bench_redis_always},
      {"publish outstanding", outstanding_sqlite, &bench_sqlite},
      {"publish outstanding", outstanding_memory, &bench_memory},
      {"publish callers", callers_redis, &bench_redis_everysec},
      {"publish callers", callers_redis, &bench_redis_always},
      {"publish callers", callers_sqlite, &bench_sqlite},
      {"publish lone", lone, &bench_redis_everysec},
      {"publish lone", lone, &bench_redis_always},
  };
  return bench_main(argc, argv, measures, sizeof measures / sizeof *measures);
}
