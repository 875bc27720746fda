/*
 * process.c - what all starters share: directories, ports, child processes.
 */
#include "brokers.h"

#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <ftw.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

/* Below the ports for clients (32768 and up), above those of well-known servers. */
enum { FIRST_PORT = 18000, PORTS = 14000 };

static const broker_kind *const kinds[] = {&broker_memory, &broker_sqlite, &broker_redis};

const broker_kind *broker_kind_find(const char *name) {
  for (size_t i = 0; i < sizeof kinds / sizeof *kinds; i++)
    if (strcmp(kinds[i]->name, name) == 0) return kinds[i];
  return NULL;
}

bool broker_required(const char *name) {
  const char *list = getenv("WM_TEST_REQUIRE");
  size_t len = strlen(name);
  while (list && *list) {
    size_t item = strcspn(list, ",");
    if (item == len && strncmp(list, name, len) == 0) return true;
    list += item + (list[item] == ',');
  }
  return false;
}

long long broker_now_ms(void) {
  struct timespec ts;
  clock_gettime(CLOCK_MONOTONIC, &ts);
  return ts.tv_sec * 1000LL + ts.tv_nsec / 1000000;
}

void broker_pause_a_little(void) { poll(NULL, 0, 10); }

static struct sockaddr_in local(int port) {
  return (struct sockaddr_in){.sin_family = AF_INET, .sin_port = htons((uint16_t)port),
                              .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
}

int broker_free_port(void) {
  struct timespec ts;
  clock_gettime(CLOCK_MONOTONIC, &ts);
  unsigned seed = (unsigned)(ts.tv_nsec ^ (getpid() << 12));
  for (int tries = 0; tries < 1000; tries++) {
    int port = FIRST_PORT + rand_r(&seed) % PORTS, on = 1;
    struct sockaddr_in address = local(port);
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &on, sizeof on);
    bool ours = bind(fd, (struct sockaddr *)&address, sizeof address) == 0;
    close(fd);
    if (ours) return port;
  }
  return 0;
}

int broker_connect(int port) {
  struct sockaddr_in address = local(port);
  int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
  if (connect(fd, (struct sockaddr *)&address, sizeof address) == 0) return fd;
  close(fd);
  return -1;
}

bool broker_has_program(const char *name) {
  const char *path = getenv("PATH");
  char file[1024];
  while (path && *path) {
    size_t len = strcspn(path, ":");
    snprintf(file, sizeof file, "%.*s/%s", (int)len, path, name);
    if (access(file, X_OK) == 0) return true;
    path += len + (path[len] == ':');
  }
  return false;
}

pid_t broker_spawn(broker *b, char *const argv[], char *why) {
  char log[300];
  snprintf(log, sizeof log, "%s/log", b->dir);
  int in = open("/dev/null", O_RDONLY | O_CLOEXEC);
  int out = open(log, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0600);
  pid_t parent = getpid(), pid = in >= 0 && out >= 0 ? fork() : -1;
  if (pid == 0) {
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    if (getppid() != parent) _exit(127);
    dup2(in, 0);
    dup2(out, 1);
    dup2(out, 2);
    execvp(argv[0], argv);
    _exit(127);
  }
  if (pid < 0) snprintf(why, BROKER_WHY, "%s: %s", argv[0], strerror(errno));
  close(in);
  close(out);
  b->pid = pid > 0 ? pid : 0;
  return b->pid;
}

bool broker_has_ended(broker *b) {
  if (b->pid && waitpid(b->pid, NULL, WNOHANG) == b->pid) b->pid = 0;
  return b->pid == 0;
}

broker *broker_start(const broker_kind *kind, const char *parent, char *why, bool *missing) {
  broker *b = calloc(1, sizeof *b);
  if (!b) abort();
  b->kind = kind;
  snprintf(b->dir, sizeof b->dir, "%s/%s-XXXXXX", parent, kind->name);
  bool up = mkdtemp(b->dir) != NULL;
  if (!up) snprintf(why, BROKER_WHY, "%s: %s", b->dir, strerror(errno));
  if (up) up = kind->start(b, why);
  if (up) return b;
  *missing = b->missing;
  broker_stop(b);
  return NULL;
}

void broker_kill(broker *b) {
  if (!b->pid) return;
  kill(b->pid, SIGKILL);
  waitpid(b->pid, NULL, 0);
  b->pid = 0;
}

bool broker_restart(broker *b, char *why) { return b->kind->start(b, why); }

static int remove_one(const char *path, const struct stat *st, int type, struct FTW *ftw) {
  (void)st, (void)type, (void)ftw;
  return remove(path);
}

void broker_stop(broker *b) {
  if (!b) return;
  if (b->pid && b->kind->quit) b->kind->quit(b);
  broker_kill(b);
  if (!getenv("WM_TEST_KEEP")) nftw(b->dir, remove_one, 8, FTW_DEPTH | FTW_PHYS);
  free(b);
}
