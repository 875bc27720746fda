/*
 * redis.c - a private redis-server that syncs every write, and a client of a few lines.
 */
#include "brokers.h"

#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

enum { REPLY_MS = 5000, TRIES = 5, MAX_ARGS = 16 };

/* Reads one line of a reply, without its end. */
static bool read_line(int fd, char *line, size_t room) {
  size_t n = 0;
  struct pollfd p = {.fd = fd, .events = POLLIN};
  while (n + 1 < room) {
    if (poll(&p, 1, REPLY_MS) != 1 || read(fd, line + n, 1) != 1) return false;
    if (line[n] == '\n') break;
    n++;
  }
  while (n > 0 && line[n - 1] == '\r')
    n--;
  line[n] = 0;
  return true;
}

/* One command; the first line of its reply is left in `line`. False: no answer. */
static bool command(int port, int argc, const char *const *argv, char *line, size_t room) {
  char text[4096];
  int n = snprintf(text, sizeof text, "*%d\r\n", argc);
  for (int i = 0; i < argc; i++)
    n += snprintf(text + n, sizeof text - (size_t)n, "$%zu\r\n%s\r\n", strlen(argv[i]), argv[i]);
  int fd = broker_connect(port);
  if (fd < 0) return false;
  bool good = send(fd, text, (size_t)n, MSG_NOSIGNAL) == n && read_line(fd, line, room);
  close(fd);
  return good;
}

#define COMMAND(port, line, ...)                                                                   \
  command(port, (int)(sizeof((const char *[]){__VA_ARGS__}) / sizeof(char *)),                    \
          (const char *[]){__VA_ARGS__}, line, sizeof line)

static bool answers(broker *b) {
  char line[256];
  return COMMAND(b->port, line, "PING") && strcmp(line, "+PONG") == 0;
}

static bool start_once(broker *b, char *why) {
  char port[16];
  snprintf(port, sizeof port, "%d", b->port);
  char *argv[] = {"redis-server", "--port", port, "--bind", "127.0.0.1", "--dir", b->dir,
                  "--appendonly", "yes", "--appendfsync", "always", "--save", "", NULL};
  if (!broker_spawn(b, argv, why)) return false;
  long long until = broker_now_ms() + BROKER_START_MS;
  while (!broker_has_ended(b) && broker_now_ms() < until) {
    if (answers(b)) return true;
    broker_pause_a_little();
  }
  snprintf(why, BROKER_WHY, "redis-server on port %d did not answer, see %s/log", b->port, b->dir);
  broker_kill(b);
  return false;
}

static bool start(broker *b, char *why) {
  if (!broker_has_program("redis-server")) {
    b->missing = true;
    snprintf(why, BROKER_WHY, "redis-server was not found (package redis-server)");
    return false;
  }
  bool fresh = b->port == 0;
  for (int i = 0; i < TRIES; i++) {
    if (fresh) b->port = broker_free_port(); /* somebody may take it before the server does */
    if (!start_once(b, why)) continue;
    snprintf(b->url, sizeof b->url, "redis://127.0.0.1:%d", b->port);
    return true;
  }
  return false;
}

static int port_of(const char *url) {
  const char *colon = strrchr(url, ':');
  return colon ? atoi(colon + 1) : 0;
}

static bool wipe(const char *url, const char *topic, const char *group, broker_wipe what, char *why) {
  char line[256] = "no answer";
  bool good = what == WIPE_TOPIC ? COMMAND(port_of(url), line, "DEL", topic)
                                 : COMMAND(port_of(url), line, "XGROUP", "DESTROY", topic, group);
  if (good && strcmp(line, ":1") == 0) return true;
  snprintf(why, BROKER_WHY, "nothing was deleted: %s", line);
  return false;
}

static bool write_foreign(const char *url, const char *topic, char *why) {
  char line[256] = "no answer";
  if (COMMAND(port_of(url), line, "XADD", topic, "*", "temperature", "21.5") && line[0] == '$') return true;
  snprintf(why, BROKER_WHY, "XADD: %s", line);
  return false;
}

const broker_kind broker_redis = {
    .name = "redis", .start = start, .wipe = wipe, .write_foreign = write_foreign};
