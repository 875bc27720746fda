/*
 * reload_bench.c - the longest gap in hand-out while a script is rewritten again and again, beside the longest
 * gap of the same run without. The handler always has a backlog, so a gap is time in which none was handed out.
 */
#include "bench.h"

#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum { RELOADS = 10, ROUNDS = 3, BACKLOG = 2000, TEXT = 128, PATH_ROOM = 512, SOURCE_ROOM = 8192 };

/* A script runs this long before it is written again. */
static const double between_seconds = 0.15;
/* One that is not replaced within this time never will be. */
static const double reload_seconds = 60;

typedef struct reloading {
  const bench_place *place;
  broker *broker;
  wm_publisher *pub;
  char script[PATH_ROOM];
  int version;
} reloading;

typedef struct reload_run {
  double gap; /* seconds, the longest */
  long published, handled;
  long wanted; /* messages; 0: as many as the reloads take */
  int reloads, wanted_reloads;
  int generation;
  double since;   /* when that began */
  double written; /* when the script of the next one was; 0: not yet */
} reload_run;

/* Writes the script, with a last line of its own, by rename and in place in turns, as editors do. */
static void write_script(reloading *r) {
  char source[SOURCE_ROOM], path[PATH_ROOM + sizeof ".new"];
  FILE *in = fopen(WM_BENCH_SCRIPTS "/reload.lua", "r");
  size_t len = in ? fread(source, 1, sizeof source, in) : 0;
  if (len == 0) bench_die("%s cannot be read", WM_BENCH_SCRIPTS "/reload.lua");
  fclose(in);
  bool by_rename = r->version % 2 == 1;
  snprintf(path, sizeof path, "%s%s", r->script, by_rename ? ".new" : "");
  FILE *out = fopen(path, "w");
  if (!out) bench_die("%s cannot be written", path);
  fwrite(source, 1, len, out);
  fprintf(out, "-- version %d\n", ++r->version);
  fclose(out);
  if (by_rename && rename(path, r->script) != 0) bench_die("%s cannot be renamed", path);
}

/* Keeps a backlog as long as messages are wanted. */
static void refill(reloading *r, reload_run *run) {
  bool more = run->wanted ? run->published < run->wanted : run->reloads < run->wanted_reloads;
  while (more && run->published - run->handled < BACKLOG) {
    bench_fill(r->pub, "reloaded", BENCH_BATCH);
    run->published += BENCH_BATCH;
  }
}

static void note(reload_run *run, double seconds_since_last, int generation) {
  run->handled++;
  if (seconds_since_last > run->gap) run->gap = seconds_since_last;
  if (generation == run->generation) return;
  run->reloads += run->generation != 0;
  run->generation = generation;
  run->since = bench_now();
  run->written = 0;
}

static void rewrite_when_due(reloading *r, reload_run *run) {
  double now = bench_now();
  if (run->written && now - run->written > reload_seconds)
    bench_die("generation %d goes on although its script was rewritten", run->generation);
  if (run->written || run->reloads == run->wanted_reloads) return;
  if (now - run->since < between_seconds) return;
  write_script(r);
  run->written = now;
}

static void run_script(reloading *r, reload_run *run) {
  char line[TEXT];
  long long last = 0, at;
  int generation;
  write_script(r);
  refill(r, run);
  bench_child child = bench_spawn(r->script, r->broker->url, (const char *[]){NULL});
  while (run->handled < run->published && fgets(line, sizeof line, child.out)) {
    if (sscanf(line, "%lld %d", &at, &generation) != 2) bench_die("reload.lua: %s", line);
    note(run, last ? (double)(at - last) / 1e9 : 0, generation);
    last = at;
    rewrite_when_due(r, run);
    refill(r, run);
  }
  bench_counted(run->handled, run->published, "reload");
  bench_stop(&child);
}

static void reload(const bench_place *place) {
  static const char what[] = "longest gap in hand-out, script rewritten under load";
  reloading r = {.place = place};
  double with = 0, without = 0;
  int reloads = 0, rounds = bench_rounds() < ROUNDS ? bench_rounds() : ROUNDS;
  char ours[TEXT], beside[TEXT], result[TEXT];
  if (!(r.broker = bench_open(place, what))) return;
  if (bench_has_host(place, what)) {
    snprintf(r.script, sizeof r.script, "%s/reload.lua", r.broker->dir);
    r.pub = bench_publisher(r.broker->url);
    for (int i = 0; i < rounds; i++) {
      reload_run run = {.wanted_reloads = (int)bench_count(RELOADS)};
      run_script(&r, &run);
      reload_run plain = {.wanted = run.handled};
      run_script(&r, &plain);
      reloads += run.reloads;
      if (run.gap > with) with = run.gap;
      if (plain.gap > without) without = plain.gap;
    }
    wm_publisher_close(r.pub, -1);
    snprintf(ours, sizeof ours, "%.1f ms (%d reloads)", with * 1e3, reloads);
    snprintf(beside, sizeof beside, "the same without any: %.1f ms", without * 1e3);
    snprintf(result, sizeof result, "%+.1f ms", (with - without) * 1e3);
    bench_print(&(bench_row){
        .what = what, .where = place->name, .ours = ours, .beside = beside, .result = result});
  }
  broker_stop(r.broker);
}

int main(int argc, char **argv) {
  static const bench_measure measures[] = {
      {"reload", reload, &bench_sqlite},
      {"reload", reload, &bench_redis_everysec},
  };
  return bench_main(argc, argv, measures, sizeof measures / sizeof *measures);
}
