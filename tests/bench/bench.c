/*
 * bench.c - rounds, medians, rows, and the main of each program.
 */
#include "bench.h"

#include <math.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

enum { DEFAULT_ROUNDS = 7, TEXT = 128 };

char bench_payload[BENCH_PAYLOAD];

/* ---- environment ----------------------------------------------------------------------------------- */

static double scale(void) {
  const char *text = getenv("WM_BENCH_SCALE");
  double value = text ? atof(text) : 1;
  if (value <= 0) bench_die("WM_BENCH_SCALE is '%s'; write a factor, as 0.1", text);
  return value;
}

long bench_count(long full) {
  long n = lround((double)full * scale());
  return n > 0 ? n : 1;
}

double bench_seconds(double full) { return full * scale(); }

int bench_rounds(void) {
  const char *text = getenv("WM_BENCH_ROUNDS");
  int n = text ? atoi(text) : DEFAULT_ROUNDS;
  if (n < 1 || n > BENCH_MAX_ROUNDS)
    bench_die("WM_BENCH_ROUNDS is '%s'; write 1 to %d", text, BENCH_MAX_ROUNDS);
  return n;
}

double bench_now(void) {
  struct timespec t;
  clock_gettime(CLOCK_MONOTONIC, &t);
  return (double)t.tv_sec + (double)t.tv_nsec / 1e9;
}

double bench_processor(void) { return (double)clock() / CLOCKS_PER_SEC; }

/* ---- failures -------------------------------------------------------------------------------------- */

void bench_die(const char *format, ...) {
  va_list args;
  va_start(args, format);
  fputs("bench: ", stderr);
  vfprintf(stderr, format, args);
  fputc('\n', stderr);
  va_end(args);
  exit(1);
}

void bench_check(int rc, const wm_error *err, const char *what) {
  if (rc != WM_OK) bench_die("%s: %s: %s", what, wm_code_name(rc), err ? err->text : "");
}

void bench_counted(long got, long wanted, const char *what) {
  if (got != wanted) bench_die("%s: %ld messages were counted, there were %ld", what, got, wanted);
}

/* ---- measuring ------------------------------------------------------------------------------------- */

void bench_run(bench_result *out, const bench_side *sides, size_t n, void *arg) {
  *out = (bench_result){.rounds = bench_rounds()};
  for (int round = 0; round < out->rounds; round++)
    for (size_t side = 0; side < n; side++)
      if (sides[side]) out->rate[side][round] = sides[side](arg, round);
}

static int compare(const void *a, const void *b) {
  double x = *(const double *)a, y = *(const double *)b;
  return x < y ? -1 : x > y;
}

static double median(double *values, int n) {
  qsort(values, (size_t)n, sizeof *values, compare);
  return n % 2 ? values[n / 2] : (values[n / 2 - 1] + values[n / 2]) / 2;
}

double bench_median_rate(const bench_result *r, size_t side) {
  double values[BENCH_MAX_ROUNDS];
  memcpy(values, r->rate[side], (size_t)r->rounds * sizeof *values);
  return median(values, r->rounds);
}

double bench_ratio(const bench_result *r, size_t a, size_t b) {
  double values[BENCH_MAX_ROUNDS];
  for (int i = 0; i < r->rounds; i++)
    values[i] = r->rate[a][i] / r->rate[b][i];
  return median(values, r->rounds);
}

double bench_extra_us(const bench_result *r, size_t a, size_t b) {
  double values[BENCH_MAX_ROUNDS];
  for (int i = 0; i < r->rounds; i++)
    values[i] = 1e6 / r->rate[a][i] - 1e6 / r->rate[b][i];
  return median(values, r->rounds);
}

/* ---- messages -------------------------------------------------------------------------------------- */

wm_message *bench_message(void) {
  wm_message *msg;
  wm_error err;
  wm_slice payload = {bench_payload, BENCH_PAYLOAD};
  bench_check(wm_message_new(&msg, NULL, payload, NULL, 0, &err), &err, "making a message");
  return msg;
}

wm_publisher *bench_publisher(const char *url) {
  wm_publisher *pub;
  wm_error err;
  bench_check(wm_publisher_open(&pub, url, NULL, &err), &err, "opening a publisher");
  return pub;
}

void bench_fill(wm_publisher *pub, const char *topic, long n) {
  wm_message *msgs[BENCH_BATCH];
  wm_error err;
  while (n > 0) {
    size_t some = n < BENCH_BATCH ? (size_t)n : BENCH_BATCH;
    for (size_t i = 0; i < some; i++)
      msgs[i] = bench_message();
    bench_check(wm_publish(pub, topic, msgs, some, NULL, &err), &err, "publishing");
    for (size_t i = 0; i < some; i++)
      wm_message_release(msgs[i]);
    n -= (long)some;
  }
}

/* ---- rows ------------------------------------------------------------------------------------------ */

const char *bench_rate_text(double rate, char *out, size_t room) {
  long n = lround(rate);
  if (n < 1000)
    snprintf(out, room, "%ld/s", n);
  else if (n < 1000000)
    snprintf(out, room, "%ld,%03ld/s", n / 1000, n % 1000);
  else
    snprintf(out, room, "%ld,%03ld,%03ld/s", n / 1000000, n / 1000 % 1000, n % 1000);
  return out;
}

static const char *or_nothing(const char *text) { return text ? text : ""; }

void bench_print(const bench_row *row) {
  static const char *const met[] = {"", "met", "MISSED"};
  printf("row\t%s\t%s\t%s\t%s\t%s\t%s\t%s\n", row->what, row->where, or_nothing(row->ours),
         or_nothing(row->beside), or_nothing(row->result), or_nothing(row->goal), met[row->met]);
  fflush(stdout);
}

void bench_print_skipped(const bench_place *place, const char *what, const char *why) {
  char result[TEXT * 2];
  snprintf(result, sizeof result, "skipped: %s", why);
  bench_print(&(bench_row){.what = what, .where = place->name, .result = result});
}

void bench_print_ratio(const bench_place *place, const bench_result *r, const bench_compare *c) {
  char ours[TEXT], rate[TEXT], beside[TEXT * 2], result[TEXT], goal[TEXT] = "";
  if (!c->beside) {
    bench_rate_text(bench_median_rate(r, c->ours), ours, sizeof ours);
    bench_print(&(bench_row){.what = c->what, .where = place->name, .ours = ours, .result = ours});
    return;
  }
  double ratio = bench_ratio(r, c->ours, c->other);
  const char *format = c->as_percent ? "%.0f %%" : "%.1fx";
  double factor = c->as_percent ? 100 : 1;
  bench_rate_text(bench_median_rate(r, c->ours), ours, sizeof ours);
  bench_rate_text(bench_median_rate(r, c->other), rate, sizeof rate);
  snprintf(beside, sizeof beside, "%s: %s", c->beside, rate);
  snprintf(result, sizeof result, format, ratio * factor);
  if (c->least > 0)
    snprintf(goal, sizeof goal, c->as_percent ? ">= %.0f %%" : ">= %.0fx", c->least * factor);
  bench_print(&(bench_row){.what = c->what,
                           .where = place->name,
                           .ours = ours,
                           .beside = beside,
                           .result = result,
                           .goal = goal,
                           .met = c->least <= 0       ? BENCH_NO_GOAL
                                  : ratio >= c->least ? BENCH_MET
                                                      : BENCH_MISSED});
}

/* ---- main ------------------------------------------------------------------------------------------ */

/* Warnings are of interest (a broker that is not durable says so), but not in the table. */
static void quiet(void *arg, wm_log_level level, const char *text) {
  (void)arg;
  if (level >= WM_LOG_ERROR) fprintf(stderr, "bench: %s\n", text);
}

int bench_main(int argc, char **argv, const bench_measure *measures, size_t n) {
  const char *filter = argc > 1 ? argv[1] : "";
  memset(bench_payload, 'x', sizeof bench_payload);
  wm_log_set(quiet, NULL, WM_LOG_ERROR);
  for (size_t i = 0; i < n; i++) {
    char name[TEXT * 2];
    snprintf(name, sizeof name, "%s %s", measures[i].name, measures[i].place->name);
    if (strcasestr(name, filter)) measures[i].run(measures[i].place);
  }
  return 0;
}
