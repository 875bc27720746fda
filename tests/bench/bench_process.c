/*
 * bench_process.c - private brokers and children of the bench programs.
 */
#include "bench.h"

#include <errno.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

enum { MAX_ARGS = 16, PATH_ROOM = 512 };

#ifdef WM_WITH_SQLITE
#define RAW_SQLITE &raw_sqlite
#define LAX_SQLITE &raw_sqlite_normal
#else
#define RAW_SQLITE NULL
#define LAX_SQLITE NULL
#endif
#ifdef WM_WITH_REDIS
#define RAW_REDIS &raw_redis
#else
#define RAW_REDIS NULL
#endif

const bench_place bench_memory = {.name = "memory", .kind = &broker_memory, .messages = 50000};
const bench_place bench_sqlite = {.name = "SQLite, synchronous=FULL",
                                  .kind = &broker_sqlite,
                                  .raw = RAW_SQLITE,
                                  .lax = LAX_SQLITE,
                                  .messages = 20000};
const bench_place bench_redis_always = {.name = "Redis, appendfsync always",
                                        .kind = &broker_redis,
                                        .raw = RAW_REDIS,
                                        .appendfsync = "always",
                                        .messages = 20000};
const bench_place bench_redis_everysec = {.name = "Redis, appendfsync everysec",
                                          .kind = &broker_redis,
                                          .raw = RAW_REDIS,
                                          .appendfsync = "everysec",
                                          .messages = 40000};

/* Is the backend in this build? Else why not. */
static const char *not_built(const char *name) {
  wm_backend_info info;
  for (size_t i = 0; wm_backend_list(i, &info); i++)
    if (strcmp(info.name, name) == 0) return info.missing;
  return "this build knows no such broker";
}

broker *bench_open(const bench_place *place, const char *what) {
  const char *parent = getenv("WM_BENCH_DIR"), *missing = not_built(place->kind->name);
  char why[BROKER_WHY];
  bool absent = false;
  if (missing) {
    bench_print_skipped(place, what, missing);
    return NULL;
  }
  broker *b = broker_start(place->kind, parent ? parent : ".", why, &absent);
  if (!b && !absent) bench_die("%s: %s", place->name, why);
  if (!b) bench_print_skipped(place, what, why);
#ifdef WM_WITH_REDIS
  if (b && place->appendfsync) {
    raw_redis_set(b->url, "appendfsync", place->appendfsync);
    /* A rewrite of the log takes a core for seconds, from whichever side is measured then. */
    raw_redis_set(b->url, "auto-aof-rewrite-percentage", "0");
  }
#endif
  return b;
}

/* ---- children -------------------------------------------------------------------------------------- */

bool bench_has_host(const bench_place *place, const char *what) {
  if (access(WM_BENCH_WMLUA, X_OK) == 0) return true;
  bench_print_skipped(place, what, "this build has no host");
  return false;
}

bench_child bench_spawn(const char *script, const char *url, const char *const *args) {
  char path[PATH_ROOM];
  snprintf(path, sizeof path, "%s%s", strchr(script, '/') ? "" : WM_BENCH_SCRIPTS "/", script);
  char *argv[MAX_ARGS] = {WM_BENCH_WMLUA, "run", path, "--broker", (char *)url, "--"};
  size_t n = 6;
  for (; *args && n < MAX_ARGS - 1; args++)
    argv[n++] = (char *)*args;

  int ends[2];
  pid_t parent = getpid();
  if (pipe(ends) != 0) bench_die("pipe: %s", strerror(errno));
  pid_t pid = fork();
  if (pid < 0) bench_die("%s: %s", WM_BENCH_WMLUA, strerror(errno));
  if (pid == 0) {
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    if (getppid() != parent) _exit(127);
    dup2(ends[1], 1);
    close(ends[0]);
    close(ends[1]);
    execv(argv[0], argv);
    _exit(127);
  }
  close(ends[1]);
  return (bench_child){.pid = pid, .out = fdopen(ends[0], "r")};
}

void bench_wait(bench_child *child) {
  int status;
  fclose(child->out);
  if (waitpid(child->pid, &status, 0) != child->pid) bench_die("waitpid: %s", strerror(errno));
  if (status != 0)
    bench_die("a script of wmlua ended with %s %d", WIFEXITED(status) ? "exit status" : "signal",
              WIFEXITED(status) ? WEXITSTATUS(status) : WTERMSIG(status));
}

void bench_stop(bench_child *child) {
  kill(child->pid, SIGTERM);
  bench_wait(child);
}

bench_figures bench_script(const char *script, const char *url, const char *const *args,
                           long wanted) {
  bench_child child = bench_spawn(script, url, args);
  char line[256];
  long messages = 0;
  double seconds = 0, processor = 0;
  while (fgets(line, sizeof line, child.out))
    if (sscanf(line, "%ld %lf %lf", &messages, &seconds, &processor) < 2)
      bench_die("%s: %s", script, line);
  bench_wait(&child);
  bench_counted(messages, wanted, script);
  return (bench_figures){.rate = (double)messages / seconds,
                         .processor = processor > 0 ? (double)messages / processor : 0};
}
