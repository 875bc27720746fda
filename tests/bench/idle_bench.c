/*
 * idle_bench.c - what `wmlua run` takes while its one subscription has nothing to do: processor time and
 * resident memory of its process.
 */
#include "bench.h"

#include <poll.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

enum { WATCH_SECONDS = 10, SETTLE_MS = 1000, MOST_PERCENT = 1, MOST_MB = 20, TEXT = 64 };

static double processor_seconds(pid_t pid) {
  clockid_t clock;
  struct timespec t;
  if (clock_getcpuclockid(pid, &clock) != 0 || clock_gettime(clock, &t) != 0)
    bench_die("no processor time of process %d", (int)pid);
  return (double)t.tv_sec + (double)t.tv_nsec / 1e9;
}

static double resident_mb(pid_t pid) {
  char path[TEXT], line[TEXT * 2];
  long kb = -1;
  snprintf(path, sizeof path, "/proc/%d/status", (int)pid);
  FILE *f = fopen(path, "r");
  while (f && fgets(line, sizeof line, f))
    sscanf(line, "VmRSS: %ld kB", &kb);
  if (f) fclose(f);
  if (kb < 0) bench_die("%s has no VmRSS", path);
  return (double)kb / 1024;
}

static void print(const bench_place *place, const char *what, const char *value, const char *goal,
                  bool met) {
  bench_print(&(bench_row){.what = what,
                           .where = place->name,
                           .ours = value,
                           .result = value,
                           .goal = goal,
                           .met = met ? BENCH_MET : BENCH_MISSED});
}

static void idle(const bench_place *place) {
  static const char what[] = "idle, wmlua run with one subscription";
  char line[TEXT], processor[TEXT], memory[TEXT];
  broker *b = bench_open(place, what);
  if (!b) return;
  if (bench_has_host(place, what)) {
    wm_publisher *pub = bench_publisher(b->url);
    bench_child child = bench_spawn("idle.lua", b->url, (const char *[]){NULL});
    bench_fill(pub, "idle", 1);
    wm_publisher_close(pub, -1);
    if (!fgets(line, sizeof line, child.out)) bench_die("idle.lua ended");
    poll(NULL, 0, (int)bench_seconds(SETTLE_MS));

    double used = processor_seconds(child.pid), began = bench_now();
    poll(NULL, 0, (int)bench_seconds(WATCH_SECONDS * 1000));
    double seconds = bench_now() - began;
    double percent = (processor_seconds(child.pid) - used) / seconds * 100;
    double mb = resident_mb(child.pid);
    bench_stop(&child);

    snprintf(processor, sizeof processor, "%.2f %% of a core", percent);
    snprintf(memory, sizeof memory, "%.1f MB", mb);
    print(place, "idle, wmlua run with one subscription", processor, "< 1 %",
          percent < MOST_PERCENT);
    print(place, "resident memory of the same", memory, "< 20 MB", mb < MOST_MB);
  }
  broker_stop(b);
}

int main(int argc, char **argv) {
  static const bench_measure measures[] = {
      {"idle", idle, &bench_sqlite},
      {"idle", idle, &bench_redis_everysec},
  };
  return bench_main(argc, argv, measures, sizeof measures / sizeof *measures);
}
