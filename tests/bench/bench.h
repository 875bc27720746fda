/*
 * bench.h - what the bench programs share: counts from the environment, private brokers, measuring in rounds,
 * children, rows. Used by one thread.
 *
 * The machine is shared and noisy, so the sides of a comparison take turns, round by round, and what is told
 * is the median of the rounds' ratios. Environment: WM_BENCH_SCALE (a factor for every count, default 1),
 * WM_BENCH_ROUNDS (default 7), WM_BENCH_DIR (where brokers put their files, default the current directory).
 */
#ifndef BENCH_H
#define BENCH_H

#include <stdbool.h>
#include <stddef.h>
#include <stdio.h>
#include <sys/types.h>

#include "brokers.h"
#include "raw.h"
#include "wm.h"

enum { BENCH_PAYLOAD = 1024, BENCH_BATCH = 1000, BENCH_SIDES = 4, BENCH_MAX_ROUNDS = 99 };

/* ---- brokers ------------------------------------------------------------------------------------- */

/* A broker as it is measured. */
typedef struct bench_place {
  const char *name; /* as the table shows it, with its durability */
  const broker_kind *kind;
  const raw_client *raw;   /* NULL: there is none (memory), or its library was not found */
  const raw_client *lax;   /* the same, less durable; mostly NULL */
  const char *appendfsync; /* Redis only */
  long messages;           /* that fast runs take, at least a few tenths of a second */
} bench_place;

extern const bench_place bench_memory, bench_sqlite, bench_redis_always, bench_redis_everysec;

/* A fresh broker of this kind. NULL when it is not installed or not built in: a row then says so. */
broker *bench_open(const bench_place *place, const char *what);

/* ---- measuring ----------------------------------------------------------------------------------- */

long bench_count(long full);       /* times the scale, at least 1 */
double bench_seconds(double full); /* likewise */
int bench_rounds(void);
double bench_now(void);       /* seconds, monotonic */
double bench_processor(void); /* seconds of processor time of this process, all threads */
_Noreturn void bench_die(const char *format, ...) WM_PRINTF(1, 2);
/* Ends the program unless rc is WM_OK. */
void bench_check(int rc, const wm_error *err, const char *what);
/* Ends the program unless as many messages were counted as there were. */
void bench_counted(long got, long wanted, const char *what);

/* One side of a comparison: does its work once, returns messages a second. round counts from 0. */
typedef double (*bench_side)(void *arg, int round);

typedef struct bench_result {
  double rate[BENCH_SIDES][BENCH_MAX_ROUNDS];
  int rounds;
} bench_result;

/* Runs the sides in turns; a NULL side is left out. */
void bench_run(bench_result *out, const bench_side *sides, size_t n, void *arg);
double bench_median_rate(const bench_result *r, size_t side);
/* The median over the rounds of rate[a] / rate[b]. */
double bench_ratio(const bench_result *r, size_t a, size_t b);
/* The median over the rounds of how many microseconds a message takes more on side a than on b. */
double bench_extra_us(const bench_result *r, size_t a, size_t b);

/* ---- messages ------------------------------------------------------------------------------------ */

extern char bench_payload[BENCH_PAYLOAD];
/* A message of BENCH_PAYLOAD bytes with a uuid of its own. */
wm_message *bench_message(void);
wm_publisher *bench_publisher(const char *url);
/* Publishes n messages in lists of BENCH_BATCH. */
void bench_fill(wm_publisher *pub, const char *topic, long n);

/* ---- children ------------------------------------------------------------------------------------ */

/* Can Lua scripts be run? Else a row says that this build has no host. */
bool bench_has_host(const bench_place *place, const char *what);

typedef struct bench_child {
  pid_t pid;
  FILE *out; /* its standard output */
} bench_child;

/* Starts `wmlua run SCRIPT --broker URL -- ARGS...`; a SCRIPT without a slash is one of tests/bench. args end
 * with NULL. It dies with this program. */
bench_child bench_spawn(const char *script, const char *url, const char *const *args);
/* Waits for its end; anything but exit status 0 ends the program. */
void bench_wait(bench_child *child);
void bench_stop(bench_child *child); /* SIGTERM, then waits */
typedef struct bench_figures {
  double rate;      /* messages a second */
  double processor; /* messages a second of processor time; 0 where it is not measured */
} bench_figures;

/* Runs a script whose only line is "<messages> <seconds> [<seconds of processor time>]". */
bench_figures bench_script(const char *script, const char *url, const char *const *args,
                           long wanted);

/* ---- rows ---------------------------------------------------------------------------------------- */

/* Text of a rate: "312,000/s", or below 1000 a second "842/s". */
const char *bench_rate_text(double rate, char *out, size_t room);

typedef enum bench_met { BENCH_NO_GOAL, BENCH_MET, BENCH_MISSED } bench_met;

typedef struct bench_row {
  const char *what;                          /* "consume with ack, C" */
  const char *where;                         /* bench_place.name */
  const char *ours, *beside, *result, *goal; /* NULL: nothing */
  bench_met met;
} bench_row;

void bench_print(const bench_row *row);

void bench_print_skipped(const bench_place *place, const char *what, const char *why);

/* What a row of a ratio tells; beside NULL: of a rate alone. */
typedef struct bench_compare {
  const char *what, *beside; /* what the other side is, "raw hiredis ..." */
  size_t ours, other;        /* sides */
  double least;              /* the goal; 0: none */
  bool as_percent;           /* "93 %" rather than "0.9x" */
} bench_compare;

void bench_print_ratio(const bench_place *place, const bench_result *r, const bench_compare *c);

/* ---- a program's main ---------------------------------------------------------------------------- */

typedef struct bench_measure {
  const char *name; /* what a filter is compared with, together with place->name */
  void (*run)(const bench_place *place);
  const bench_place *place;
} bench_measure;

/* Runs those that the filter (argv[1], part of "name place"; none: all) names. */
int bench_main(int argc, char **argv, const bench_measure *measures, size_t n);

#endif
