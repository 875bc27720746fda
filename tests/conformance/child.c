/*
 * child.c - the test program, executed again, as a process that will be killed: what it does it appends to a
 * file, which the parent merges into the test's history.
 */
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include "harness.h"

enum { ROLE = 2, BACKEND, URL, TOPIC, TOPIC_ID, GROUP, GROUP_ID, ID, OPTIONS, WORK, COUNT, FILE_NAME, ARGS };

/* ---- the parent's side ------------------------------------------------------------------------------------------ */

static void execute(child *c, const char *role, const topic *topic, const char *options, int work_ms, size_t count) {
  char topic_id[16], group_id[16], id[16], work[16], number[24], log[320];
  snprintf(topic_id, sizeof topic_id, "%u", topic->id);
  snprintf(group_id, sizeof group_id, "%u", c->group ? c->group->id : 0);
  snprintf(id, sizeof id, "%u", c->id);
  snprintf(work, sizeof work, "%d", work_ms);
  snprintf(number, sizeof number, "%zu", count);
  snprintf(log, sizeof log, "%s.log", c->file);
  const char *argv[] = {"conformance", "--child", role, c->t->row->name, c->t->url, topic->name, topic_id,
                        c->group ? c->group->name : "", group_id, id, options ? options : "", work, number,
                        c->file, NULL};
  int in = open("/dev/null", O_RDONLY), out = open(log, O_WRONLY | O_CREAT | O_APPEND, 0600);
  dup2(in, 0);
  dup2(out, 1);
  dup2(out, 2);
  execv("/proc/self/exe", (char *const *)argv);
  _exit(127);
}

child *child_start(test *t, const char *role, const topic *topic, group *g, const char *options, int work_ms,
                   size_t count) {
  child *c = calloc(1, sizeof *c);
  if (!c) abort();
  c->t = t;
  c->group = g;
  c->id = atomic_fetch_add(g ? &t->consumers : &t->sources, 1) + 1;
  snprintf(c->file, sizeof c->file, "%s/%s-%u", t->dir, role, c->id);
  pid_t parent = getpid();
  c->pid = fork();
  if (c->pid == 0) {
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    if (getppid() != parent) _exit(127);
    execute(c, role, topic, options, work_ms, count);
  }
  if (c->pid < 0) test_fail(t, "fork: %s", strerror(errno));
  pthread_mutex_lock(&t->lock);
  c->next = t->children;
  t->children = c;
  pthread_mutex_unlock(&t->lock);
  return c;
}

static void note(void *arg, const history_event *event) {
  child *c = arg;
  c->delivered += event->kind == H_DELIVERED;
  c->flushed |= event->kind == H_FLUSHED;
  if (c->group) {
    group_note(c->group, event);
  } else if (event->kind == H_CONFIRMED && c->t->watch) {
    history_event e = *event;
    e.seq += c->id * CHILD_NUMBERS;
    group_note(c->t->watch, &e);
  }
}

static void merge(child *c) { history_merge(c->t->h, c->file, &c->offset, note, c); }

static void report_end(child *c, int status) {
  char log[320], text[1024] = "";
  snprintf(log, sizeof log, "%s.log", c->file);
  FILE *f = fopen(log, "r");
  size_t n = f ? fread(text, 1, sizeof text - 1, f) : 0;
  text[n] = 0;
  if (f) fclose(f);
  c->pid = 0;
  test_fail(c->t, "child %s ended by itself (%s %d): %s", c->file, WIFSIGNALED(status) ? "signal" : "exit",
            WIFSIGNALED(status) ? WTERMSIG(status) : WEXITSTATUS(status), text);
}

void child_poll(child *c) {
  if (!c->pid) return;
  merge(c);
  int status;
  if (waitpid(c->pid, &status, WNOHANG) == c->pid) report_end(c, status);
}

void children_poll(test *t) {
  for (child *c = t->children; c; c = c->next)
    child_poll(c);
}

static void record(child *c, uint32_t kind) {
  if (!c->group) return; /* what a dead publisher had under way has no result, and needs no other word */
  history_add(c->t->h, &(history_event){.kind = kind, .group = c->group->id, .consumer = c->id,
                                        .topic = c->group->topic.id});
}

static void end(child *c) {
  kill(c->pid, SIGKILL);
  waitpid(c->pid, NULL, 0);
  c->pid = 0;
}

void child_kill(child *c) {
  child_poll(c);
  end(c);
  record(c, H_KILLED);
  merge(c);
}

void child_pause(child *c) {
  record(c, H_PAUSED);
  kill(c->pid, SIGSTOP);
  int status;
  if (waitpid(c->pid, &status, WUNTRACED) != c->pid || !WIFSTOPPED(status)) report_end(c, status);
  merge(c);
}

void child_resume(child *c) {
  kill(c->pid, SIGCONT);
  record(c, H_RESUMED);
}

void children_stop(test *t) {
  while (t->children) {
    child *c = t->children;
    t->children = c->next;
    if (c->pid) {
      end(c);
      record(c, H_KILLED);
      merge(c);
    }
    free(c);
  }
}

/* ---- the child's side --------------------------------------------------------------------------------------------- */

static void work_and_ack(member *m, wm_message **msgs, int n, void *arg) {
  for (int i = 0; i < n; i++) {
    if (*(int *)arg) sleep_ms(*(int *)arg);
    member_ack(m, msgs[i]);
  }
}

static void consume(test *t, group *g, const char *options, int work_ms) {
  member *m = member_open(g, t, options);
  member_start(m, work_and_ack, &work_ms);
  for (;;)
    pause();
}

static void ack_and_flush(test *t, group *g, const char *options, size_t count) {
  member *m = member_open(g, t, options);
  while (count--)
    member_ack(m, member_take(m));
  member_flush(m);
  for (;;)
    pause();
}

static void publish_for_ever(test *t, const topic *topic, const char *options, size_t count) {
  source *s = source_open(t, options);
  for (;;)
    source_publish(s, topic, count, &(load){.batch = count});
}

int child_main(int argc, char **argv) {
  if (argc != ARGS) return 2;
  static const test_def def = {.name = "child"};
  static test t = {.def = &def, .lock = PTHREAD_MUTEX_INITIALIZER};
  wm_error err;
  t.row = row_find(argv[BACKEND]);
  const wm_backend *backend = wm_backend_find(argv[BACKEND], &err);
  t.features = backend ? backend->features : 0;
  snprintf(t.url, sizeof t.url, "%s", argv[URL]);
  t.h = history_open(argv[FILE_NAME]);
  unsigned id = (unsigned)atoi(argv[ID]);
  t.consumers = id - 1;
  t.sources = id - 1;
  t.messages = id * CHILD_NUMBERS;
  topic topic = {.id = (uint32_t)atoi(argv[TOPIC_ID])};
  snprintf(topic.name, sizeof topic.name, "%s", argv[TOPIC]);
  group g = {.id = (uint32_t)atoi(argv[GROUP_ID]), .topic = topic, .lock = PTHREAD_MUTEX_INITIALIZER};
  snprintf(g.name, sizeof g.name, "%s", argv[GROUP]);
  size_t count = (size_t)atoll(argv[COUNT]);
  if (!t.row || !t.h) return 2;
  if (strcmp(argv[ROLE], "consumer") == 0) consume(&t, &g, argv[OPTIONS], atoi(argv[WORK]));
  if (strcmp(argv[ROLE], "flusher") == 0) ack_and_flush(&t, &g, argv[OPTIONS], count);
  if (strcmp(argv[ROLE], "publisher") == 0) publish_for_ever(&t, &topic, argv[OPTIONS], count);
  return 2;
}
