/*
 * main.c - the program `conformance`: starts a broker, runs each test in a process of its own against it, prints one
 * line a test. A test that crashes, hangs or leaks fails alone.
 *
 *   conformance --backend NAME [--test NAME]... [--jobs N] [--stress N] [--url URL] [--seed N] | --list
 */
#include <errno.h>
#include <fcntl.h>
#include <ftw.h>
#include <getopt.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "harness.h"

enum { EXIT_OK = 0, EXIT_FAILED = 1, EXIT_USAGE = 2, EXIT_SKIPPED = 77 };
enum { MAX_CHOSEN = 64, MAX_JOBS = 64, DEFAULT_JOBS = 4, DEFAULT_SECONDS = 60, ABORT_SECONDS = 10, LOG_LINES = 40 };

typedef struct arguments {
  const row *row;
  const char *url, *dir;
  const char *chosen[MAX_CHOSEN];
  size_t n_chosen;
  int jobs, stress;
  uint64_t seed;
} arguments;

/* ---- in the test's process ---------------------------------------------------------------------------------------- */

static const test_def *find_test(const char *name) {
  for (size_t f = 0; families[f]; f++)
    for (const test_def *d = families[f]; d->name; d++)
      if (strcmp(d->name, name) == 0) return d;
  return NULL;
}

static void set_url(test *t, const char *url) {
  t->broker_url = url;
  snprintf(t->url, sizeof t->url, "%s%s%s", url, t->row->options ? "?" : "", t->row->options ? t->row->options : "");
}

static void check_needs(test *t) {
  static const struct {
    unsigned feature;
    const char *what;
  } needs[] = {{WM_F_GROUPS, "groups"},        {WM_F_ORDERED, "order"},     {WM_F_PERSISTENT, "persistence"},
               {WM_F_REPLAY, "replay"},        {WM_F_FANOUT, "subscriptions without a group"},
               {WM_F_EXCLUSIVE, "exclusive"},  {WM_F_SERVER, "a server that could go away"}};
  const broker_kind *kind = broker_kind_find(t->row->name);
  for (size_t i = 0; i < sizeof needs / sizeof *needs; i++)
    if (t->def->needs & needs[i].feature && !(t->features & needs[i].feature))
      test_skip(t, "%s does not have: %s", t->row->name, needs[i].what);
  if (t->def->flags & PROCESSES && t->row->in_process)
    test_skip(t, "%s lives in one process, which cannot be killed apart from the test", t->row->name);
  if (t->def->flags & FOREIGN && !(t->row->foreign && kind->write_foreign))
    test_skip(t, "every record of %s can be decoded", t->row->name);
  if (t->def->flags & WIPE && !kind->wipe)
    test_skip(t, "nothing of %s can be deleted behind its back", t->row->name);
}

static void start_own(test *t) {
  char why[BROKER_WHY];
  bool missing = false;
  t->own = broker_start(broker_kind_find(t->row->name), t->dir, why, &missing);
  if (!t->own && missing) test_skip(t, "%s", why);
  if (!t->own) test_fail(t, "%s", why);
  set_url(t, t->own->url);
}

/* The history is kept for the reader of a failure; a passed test's is removed with its directory. */
static void save_history(test *t) {
  char path[512];
  snprintf(path, sizeof path, "%s/history", t->dir);
  history_save(t->h, path);
}

static test *running;

static void save_at_exit(void) {
  if (running) save_history(running);
}

static int judge(test *t) {
  checker_report report;
  children_stop(t);
  history_add(t->h, &(history_event){.kind = H_END});
  bool good = checker_run(t->h, &t->rules, &report);
  if (!good) {
    printf("failed: %zu findings of the checker\n", report.total);
    for (size_t i = 0; i < report.n_texts; i++)
      printf("  %s\n", report.text[i]);
    save_history(t);
  }
  return good ? EXIT_OK : EXIT_FAILED;
}

static void dismiss(test *t) {
  if (t->keeper) wm_publisher_close(t->keeper, 0);
  while (t->all_groups) {
    group *g = t->all_groups;
    t->all_groups = g->next;
    pthread_mutex_destroy(&g->lock);
    free(g->bits);
    free(g);
  }
  broker_stop(t->own);
  history_free(t->h);
}

static int run_one(const arguments *args) {
  static test t = {.lock = PTHREAD_MUTEX_INITIALIZER};
  wm_error err = {0};
  setvbuf(stdout, NULL, _IOLBF, 0);
  t.def = find_test(args->chosen[0]);
  t.row = args->row;
  t.dir = args->dir;
  t.seed = args->seed ? args->seed : 1;
  t.h = history_new();
  t.rules.duplicates = args->row->duplicates;
  const wm_backend *backend = wm_backend_find(args->row->name, &err);
  if (!backend) test_skip(&t, "%s", err.text);
  t.features = backend->features;
  t.rules.order = t.features & WM_F_ORDERED ? ORDER_TOPIC : ORDER_NONE;
  t.rules.flushed_ms = stretch(5000);
  t.rules.stuck_ms = stretch(10000 + t.row->takeover_ms);
  set_url(&t, args->url);
  check_needs(&t);
  if (t.def->flags & OWN_BROKER) start_own(&t);
  /* A broker in the process ends with its last handle: a test may close its own. */
  if (t.row->in_process) CHECK_OK(&t, wm_publisher_open(&t.keeper, t.url, NULL, &err), &err);
  running = &t;
  atexit(save_at_exit);
  t.def->run(&t);
  int code = judge(&t);
  running = NULL;
  dismiss(&t);
  return code;
}

/* ---- the runner ----------------------------------------------------------------------------------------------------- */

typedef struct job {
  const test_def *def;
  int copy;
  pid_t pid; /* 0: slot is free */
  int64_t started, deadline;
  bool aborted;
  uint64_t seed;
  char dir[300];
} job;

typedef struct totals {
  size_t passed, failed, skipped;
} totals;

static int remove_one(const char *path, const struct stat *st, int type, struct FTW *ftw) {
  (void)st, (void)type, (void)ftw;
  return remove(path);
}

static void remove_dir(const char *dir) { nftw(dir, remove_one, 16, FTW_DEPTH | FTW_PHYS); }

static void start_job(job *j, const arguments *args) {
  char log[320], seed[32];
  snprintf(j->dir, sizeof j->dir, "%s/%s.%d", args->dir, j->def->name, j->copy);
  mkdir(j->dir, 0700);
  snprintf(log, sizeof log, "%s/output", j->dir);
  snprintf(seed, sizeof seed, "%llu", (unsigned long long)j->seed);
  const char *argv[] = {"conformance", "--one", j->def->name, "--backend", args->row->name, "--url", args->url,
                        "--dir", j->dir, "--seed", seed, NULL};
  int seconds = j->def->seconds ? j->def->seconds : DEFAULT_SECONDS;
  j->started = now_ms();
  j->deadline = j->started + stretch(seconds * 1000) * (int64_t)(args->stress > 1 ? 4 : 1);
  j->aborted = false;
  j->pid = fork();
  if (j->pid == 0) {
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    int in = open("/dev/null", O_RDONLY), out = open(log, O_WRONLY | O_CREAT | O_APPEND, 0600);
    dup2(in, 0);
    dup2(out, 1);
    dup2(out, 2);
    execv("/proc/self/exe", (char *const *)argv);
    _exit(127);
  }
}

static void read_log(const job *j, char *text, size_t room) {
  char path[320];
  snprintf(path, sizeof path, "%s/output", j->dir);
  FILE *f = fopen(path, "r");
  size_t n = f ? fread(text, 1, room - 1, f) : 0;
  text[n] = 0;
  if (f) fclose(f);
}

/* What follows `word` at the start of a line. */
static const char *line_of(const char *text, const char *word, int *len) {
  for (const char *at = text; at; at = strchr(at, '\n') ? strchr(at, '\n') + 1 : NULL) {
    if (strncmp(at, word, strlen(word)) != 0) continue;
    at += strlen(word);
    *len = (int)strcspn(at, "\n");
    return at;
  }
  *len = 0;
  return "";
}

static void show_failure(const job *j, int status, const char *text) {
  if (WIFSIGNALED(status))
    printf("  ended by signal %d (%s)%s\n", WTERMSIG(status), strsignal(WTERMSIG(status)),
           j->aborted ? ": its time was over" : "");
  else if (WEXITSTATUS(status) != EXIT_FAILED)
    printf("  ended with exit code %d\n", WEXITSTATUS(status));
  int lines = 0;
  for (const char *at = text; *at && lines < LOG_LINES; lines++) {
    int len = (int)strcspn(at, "\n");
    printf("  | %.*s\n", len, at);
    at += len + (at[len] == '\n');
  }
  printf("  seed %llu; history and output: %s\n", (unsigned long long)j->seed, j->dir);
}

static void finish_job(job *j, const arguments *args, int status, totals *sum) {
  static char text[65536];
  char name[128];
  double seconds = (double)(now_ms() - j->started) / 1000;
  int len;
  read_log(j, text, sizeof text);
  if (args->stress > 1) snprintf(name, sizeof name, "%s.%s/%d", args->row->name, j->def->name, j->copy);
  else snprintf(name, sizeof name, "%s.%s", args->row->name, j->def->name);
  const char *reason = line_of(text, "skipped: ", &len);
  if (WIFEXITED(status) && WEXITSTATUS(status) == EXIT_OK) {
    sum->passed++;
    printf("ok %s (%.2f s)\n", name, seconds);
  } else if (WIFEXITED(status) && WEXITSTATUS(status) == EXIT_SKIPPED) {
    sum->skipped++;
    printf("skipped %s (%.*s)\n", name, len, reason);
  } else {
    sum->failed++;
    printf("FAILED %s (%.2f s)\n", name, seconds);
    show_failure(j, status, text);
    j->pid = 0;
    fflush(stdout);
    return;
  }
  fflush(stdout);
  remove_dir(j->dir);
  j->pid = 0;
}

/* A test over its time is asked for a core first, so that a sanitizer or debugger shows where it hangs. */
static void check_time(job *j) {
  int64_t now = now_ms();
  if (now < j->deadline) return;
  kill(j->pid, j->aborted ? SIGKILL : SIGABRT);
  j->aborted = true;
  j->deadline = now + ABORT_SECONDS * 1000;
}

static bool is_chosen(const arguments *args, const char *name) {
  for (size_t i = 0; i < args->n_chosen; i++)
    if (strcmp(args->chosen[i], name) == 0) return true;
  return args->n_chosen == 0;
}

static size_t list_jobs(const arguments *args, job **out) {
  size_t n = 0;
  job *list = calloc(1, sizeof *list);
  for (int copy = 1; copy <= args->stress; copy++)
    for (size_t f = 0; families[f]; f++)
      for (const test_def *d = families[f]; d->name; d++) {
        if (!is_chosen(args, d->name)) continue;
        list = realloc(list, (n + 1) * sizeof *list);
        list[n] = (job){.def = d, .copy = copy, .seed = args->seed + n};
        n++;
      }
  *out = list;
  return n;
}

static void run_jobs(const arguments *args, totals *sum) {
  job *list, *slots[MAX_JOBS] = {0};
  size_t n = list_jobs(args, &list), next = 0, busy = 0;
  while (next < n || busy > 0) {
    for (int s = 0; s < args->jobs && next < n; s++) {
      if (slots[s]) continue;
      slots[s] = &list[next++];
      start_job(slots[s], args);
      busy++;
    }
    for (int s = 0; s < args->jobs; s++) {
      int status;
      if (!slots[s]) continue;
      if (waitpid(slots[s]->pid, &status, WNOHANG) == slots[s]->pid) {
        finish_job(slots[s], args, status, sum);
        slots[s] = NULL;
        busy--;
      } else {
        check_time(slots[s]);
      }
    }
    broker_pause_a_little();
  }
  free(list);
}

static int finish(const totals *sum) {
  printf("%zu passed, %zu failed, %zu skipped\n", sum->passed, sum->failed, sum->skipped);
  return sum->failed ? EXIT_FAILED : EXIT_OK;
}

/* A build or machine without the broker: one line says so, and whether that is a failure. */
static int without_broker(const arguments *args, const char *why) {
  bool required = broker_required(args->row->name);
  if (required) printf("FAILED %s (%s; WM_TEST_REQUIRE names it)\n", args->row->name, why);
  else printf("skipped %s (%s)\n", args->row->name, why);
  return finish(&(totals){.failed = required, .skipped = !required});
}

static int run_all(arguments *args) {
  static char dir[256];
  const char *tmp = getenv("TMPDIR");
  char why[BROKER_WHY];
  wm_error err = {0};
  bool missing = false;
  broker *b = NULL;
  totals sum = {0};
  if (!wm_backend_find(args->row->name, &err)) return without_broker(args, err.text);
  snprintf(dir, sizeof dir, "%s/wm-conformance-XXXXXX", tmp ? tmp : "/tmp");
  if (!mkdtemp(dir)) {
    fprintf(stderr, "%s: %s\n", dir, strerror(errno));
    return EXIT_FAILED;
  }
  args->dir = dir;
  if (!args->url) {
    b = broker_start(broker_kind_find(args->row->name), dir, why, &missing);
    if (!b) remove_dir(dir);
    if (!b && missing) return without_broker(args, why);
    if (!b) {
      printf("FAILED %s (%s)\n", args->row->name, why);
      return finish(&(totals){.failed = 1});
    }
    args->url = b->url;
  }
  run_jobs(args, &sum);
  broker_stop(b);
  if (!sum.failed && !getenv("WM_TEST_KEEP")) remove_dir(dir);
  return finish(&sum);
}

static int list_all(void) {
  for (size_t f = 0; families[f]; f++)
    for (const test_def *d = families[f]; d->name; d++)
      printf("%s\n", d->name);
  return EXIT_OK;
}

static int usage(void) {
  fprintf(stderr, "usage: conformance --backend NAME [--test NAME]... [--jobs N] [--stress N] [--url URL] [--seed N]\n"
                  "       conformance --list\nbackends:");
  for (const row *r = rows; r->name; r++)
    fprintf(stderr, " %s", r->name);
  fprintf(stderr, "\n");
  return EXIT_USAGE;
}

static int limit(const char *text, int most) {
  int n = atoi(text);
  return n < 1 ? 1 : n > most ? most : n;
}

int main(int argc, char **argv) {
  enum { BACKEND = 1, TEST, ONE, LIST, STRESS, JOBS, URL, DIR, SEED };
  static const struct option options[] = {{"backend", 1, NULL, BACKEND}, {"test", 1, NULL, TEST},
                                          {"one", 1, NULL, ONE},         {"list", 0, NULL, LIST},
                                          {"stress", 1, NULL, STRESS},   {"jobs", 1, NULL, JOBS},
                                          {"url", 1, NULL, URL},         {"dir", 1, NULL, DIR},
                                          {"seed", 1, NULL, SEED},       {0}};
  arguments args = {.jobs = 0, .stress = 1, .dir = "/tmp", .seed = (uint64_t)history_now() ^ (uint64_t)getpid()};
  bool one = false;
  if (argc > 1 && strcmp(argv[1], "--child") == 0) return child_main(argc, argv);
  for (int c; (c = getopt_long(argc, argv, "", options, NULL)) != -1;) {
    switch (c) {
    case BACKEND: args.row = row_find(optarg); break;
    case ONE: one = true; /* fall through */
    case TEST:
      if (!find_test(optarg)) {
        fprintf(stderr, "conformance: no test '%s'; see --list\n", optarg);
        return EXIT_USAGE;
      }
      if (args.n_chosen < MAX_CHOSEN) args.chosen[args.n_chosen++] = optarg;
      break;
    case LIST: return list_all();
    case STRESS: args.stress = limit(optarg, 1000); break;
    case JOBS: args.jobs = limit(optarg, MAX_JOBS); break;
    case URL: args.url = optarg; break;
    case DIR: args.dir = optarg; break;
    case SEED: args.seed = strtoull(optarg, NULL, 10); break;
    default: return usage();
    }
  }
  if (!args.row || optind < argc) return usage();
  if (!args.jobs) args.jobs = args.stress > 1 ? limit("20", MAX_JOBS) : DEFAULT_JOBS;
  if (args.stress > 1 && args.jobs > MAX_JOBS) args.jobs = MAX_JOBS;
  return one ? run_one(&args) : run_all(&args);
}
