/*
 * link.c - one socket to the server: connecting, greeting, writing, reading replies. Each link is
 * used by one thread at a time.
 *
 * The socket never blocks: all waiting is in poll, with a deadline and, where it has one, the
 * eventfd that ends it early. While commands are being written replies are read as well, so that
 * two full socket buffers cannot wait for each other. Any failure that leaves the order of replies
 * in doubt closes the socket.
 */
#include <errno.h>
#include <fcntl.h>
#include <netdb.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "clock.h"
#include "error.h"
#include "log.h"
#include "redis.h"

enum { CHUNK = 128 * 1024 };
/* The reader keeps an empty buffer of up to this size for the next reply. */
enum { READER_KEEPS = 1024 * 1024 };
/* An output buffer above this is given back when it is empty. */
enum { OUT_KEEPS = 1024 * 1024 };
/* A connection that was quiet for so long is looked at before it is used. */
enum { STALE_MS = 1000 };
/* What a call that is under way may still take once somebody is in a hurry. */
enum { HURRY_MS = 40 };

wm_redis_link *wm_redis_link_new(wm_redis *redis, int wake) {
  wm_redis_link *l = calloc(1, sizeof *l);
  if (!l) return NULL;
  *l = (wm_redis_link){.redis = redis, .fd = -1, .wake = wake, .chunk = malloc(CHUNK)};
  if (l->chunk) return l;
  free(l);
  return NULL;
}

static void clear_out(wm_redis_link *l) {
  if (l->out.cap > OUT_KEEPS) {
    free(l->out.data);
    l->out = (wm_redis_buf){0};
  }
  l->out.len = l->sent = 0;
  l->out.failed = false;
}

void wm_redis_link_down(wm_redis_link *l) {
  if (l->fd >= 0) close(l->fd);
  if (l->reader) redisReaderFree(l->reader);
  l->fd = -1;
  l->reader = NULL;
  l->id = 0;
  clear_out(l);
}

void wm_redis_link_free(wm_redis_link *l) {
  if (!l) return;
  wm_redis_link_down(l);
  free(l->out.data);
  free(l->chunk);
  free(l);
}

/* ---- errors --------------------------------------------------------------------------------- */

static bool starts(const char *text, const char *word) {
  size_t n = strlen(word);
  return strncmp(text, word, n) == 0 && (text[n] == ' ' || text[n] == '\0');
}

bool wm_redis_no_group(const char *text) {
  return strstr(text, "NOGROUP") || strstr(text, "no such key") || starts(text, "UNBLOCKED");
}

int wm_redis_code(const char *text, bool *down) {
  static const struct {
    const char *word;
    int code;
    bool down; /* another server may answer on a new connection, or this one will not let us in */
  } codes[] = {
      {"NOAUTH", WM_DENIED, true},           {"WRONGPASS", WM_DENIED, true},
      {"NOPERM", WM_DENIED, false},          {"WRONGTYPE", WM_REFUSED, false},
      {"MOVED", WM_UNSUPPORTED, false},      {"ASK", WM_UNSUPPORTED, false},
      {"CROSSSLOT", WM_UNSUPPORTED, false},  {"LOADING", WM_UNREACHABLE, true},
      {"MASTERDOWN", WM_UNREACHABLE, true},  {"READONLY", WM_UNREACHABLE, true},
      {"CLUSTERDOWN", WM_UNREACHABLE, true}, {"TRYAGAIN", WM_UNREACHABLE, false},
      {"OOM", WM_UNREACHABLE, false},        {"BUSY", WM_UNREACHABLE, false},
      {"MISCONF", WM_UNREACHABLE, false},    {"NOREPLICAS", WM_UNREACHABLE, false},
      {"NOGROUP", WM_NOT_FOUND, false},
  };
  if (down) *down = false;
  for (size_t i = 0; i < sizeof codes / sizeof *codes; i++) {
    if (!starts(text, codes[i].word)) continue;
    if (down) *down = codes[i].down;
    return codes[i].code;
  }
  if (strstr(text, "max number of clients")) {
    if (down) *down = true;
    return WM_UNREACHABLE;
  }
  if (strstr(text, "AUTH") || strstr(text, "invalid password")) return WM_DENIED;
  if (strstr(text, "unknown command") || strstr(text, "Unknown Redis command"))
    return WM_UNSUPPORTED;
  /* Older servers put an error of a script's command into the middle of their text. */
  static const char *const inner[] = {"NOGROUP", "WRONGTYPE", "OOM", "NOPERM", "READONLY"};
  for (size_t i = 0; i < sizeof inner / sizeof *inner; i++) {
    const char *at = strstr(text, inner[i]);
    if (at && at != text) return wm_redis_code(at, down);
  }
  return WM_REFUSED;
}

static const char *way_out(const char *text) {
  if (starts(text, "NOAUTH"))
    return "; the server wants a password: redis://:password@host or redis://user:password@host";
  if (starts(text, "WRONGPASS") || strstr(text, "invalid password"))
    return "; check user and password of the URL";
  if (starts(text, "NOPERM")) return "; the ACL user needs this command and key";
  if (starts(text, "WRONGTYPE"))
    return "; the key of that name is no stream: take another topic, or remove the key";
  if (starts(text, "MOVED") || starts(text, "ASK") || starts(text, "CROSSSLOT"))
    return "; this is a Redis Cluster, which is not supported: name a single server or a proxy";
  if (starts(text, "OOM")) return "; the server's maxmemory is reached: raise it, or trim streams";
  if (starts(text, "READONLY")) return "; this is a replica: name the master";
  if (strstr(text, "nknown")) return "; Redis 6.2 or later is needed";
  return "";
}

int wm_redis_refused(wm_redis_link *l, const char *text, const char *what, wm_error *err) {
  bool down;
  int code = wm_redis_code(text, &down);
  if (down && l) wm_redis_link_down(l);
  return wm_fail_with(err, code, "%s: the server answered '%s'%s", what, text, way_out(text));
}

static int broken(wm_redis_link *l, wm_error *err, const char *what, const char *why) {
  wm_redis_link_down(l);
  return wm_fail_with(err, WM_UNREACHABLE, "%s %s:%d: %s", what, l->redis->host, l->redis->port,
                      why);
}

static int no_memory(wm_redis_link *l, wm_error *err) {
  wm_redis_link_down(l);
  return wm_fail_with(err, WM_NOMEM, "out of memory");
}

/* ---- waiting -------------------------------------------------------------------------------- */

/* WM_OK: one of the events; WM_TIMEOUT; WM_CANCELLED: woken (wake -1: never). */
static int wait_for(int fd, short events, int wake, int64_t deadline) {
  for (;;) {
    struct pollfd p[2] = {{.fd = fd, .events = events}, {.fd = wake, .events = POLLIN}};
    int64_t left = deadline - wm_now_ms();
    int timeout = left <= 0 ? 0 : left > 60000 ? 60000 : (int)left;
    int n = poll(p, wake >= 0 ? 2 : 1, timeout);
    if (n < 0 && errno != EINTR) return WM_UNREACHABLE;
    if (n > 0 && p[0].revents) return WM_OK;
    if (n > 0 && wake >= 0 && p[1].revents) return WM_CANCELLED;
    if (n == 0 && left <= timeout) return WM_TIMEOUT;
  }
}

/* ---- connecting ----------------------------------------------------------------------------- */

static int try_address(wm_redis_link *l, const struct addrinfo *a, int64_t deadline, char *why,
                       size_t why_size) {
  int fd = socket(a->ai_family, a->ai_socktype | SOCK_NONBLOCK | SOCK_CLOEXEC, a->ai_protocol);
  int rc = WM_UNREACHABLE, error = 0, on = 1;
  if (fd < 0) {
    error = errno;
    goto fail;
  }
  if (connect(fd, a->ai_addr, a->ai_addrlen) < 0) {
    socklen_t len = sizeof error;
    error = errno;
    if (error != EINPROGRESS) goto fail;
    rc = wait_for(fd, POLLOUT, l->wake, deadline);
    if (rc == WM_TIMEOUT) {
      error = ETIMEDOUT;
      rc = WM_UNREACHABLE;
    }
    if (rc != WM_OK) goto fail;
    rc = WM_UNREACHABLE;
    if (getsockopt(fd, SOL_SOCKET, SO_ERROR, &error, &len) < 0) error = errno;
    if (error) goto fail;
  }
  setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
  setsockopt(fd, SOL_SOCKET, SO_KEEPALIVE, &on, sizeof on);
  l->fd = fd;
  return WM_OK;
fail:
  if (fd >= 0) close(fd);
  snprintf(why, why_size, "%s", error ? strerror(error) : "interrupted");
  return rc;
}

static int dial(wm_redis_link *l, int64_t deadline, wm_error *err) {
  char port[16], why[128] = "no address";
  struct addrinfo hints = {.ai_socktype = SOCK_STREAM}, *list = NULL;
  snprintf(port, sizeof port, "%d", l->redis->port);
  int n = getaddrinfo(l->redis->host, port, &hints, &list);
  if (n != 0)
    return wm_fail_with(err, WM_UNREACHABLE, "cannot resolve host '%s': %s", l->redis->host,
                        gai_strerror(n));
  int rc = WM_UNREACHABLE;
  for (struct addrinfo *a = list; a && rc == WM_UNREACHABLE; a = a->ai_next)
    rc = try_address(l, a, deadline, why, sizeof why);
  freeaddrinfo(list);
  if (rc == WM_UNREACHABLE) return broken(l, err, "cannot connect to", why);
  return rc;
}

/* Logs in, chooses the database, learns the connection's id. */
static int greet(wm_redis_link *l, int64_t deadline, wm_error *err) {
  const wm_redis *r = l->redis;
  char database[24];
  snprintf(database, sizeof database, "%ld", r->database);
  if (r->user)
    wm_redis_command(&l->out, "AUTH", r->user, r->password ? r->password : "", NULL);
  else if (r->password)
    wm_redis_command(&l->out, "AUTH", r->password, NULL);
  if (r->database) wm_redis_command(&l->out, "SELECT", database, NULL);
  wm_redis_command(&l->out, "CLIENT", "ID", NULL);
  wm_redis_command(&l->out, "PING", NULL);

  int rc = WM_OK;
  redisReply *reply;
  if (r->user || r->password) {
    rc = wm_redis_expect(l, &reply, deadline, "logging in", err);
    if (rc != WM_OK) {
      if (rc == WM_REFUSED) rc = wm_fail_with(err, WM_DENIED, "%s", err ? err->text : "");
      return rc;
    }
    freeReplyObject(reply);
  }
  if (r->database) {
    char what[64];
    snprintf(what, sizeof what, "choosing database %ld", r->database);
    if ((rc = wm_redis_expect(l, &reply, deadline, what, err)) != WM_OK) return rc;
    freeReplyObject(reply);
  }
  if ((rc = wm_redis_receive_tree(l, &reply, deadline, err)) != WM_OK) return rc;
  if (reply->type == REDIS_REPLY_INTEGER) l->id = reply->integer; /* an ACL may forbid it */
  freeReplyObject(reply);
  if ((rc = wm_redis_receive_tree(l, &reply, deadline, err)) != WM_OK) return rc;
  /* Only what makes the connection useless counts here: NOAUTH, LOADING, ... */
  bool down = false;
  if (reply->type == REDIS_REPLY_ERROR) wm_redis_code(reply->str, &down);
  if (down) rc = wm_redis_refused(l, reply->str, "connecting", err);
  freeReplyObject(reply);
  return rc;
}

/* A server that restarted meanwhile is noticed before anything is sent to it. */
static bool is_stale(wm_redis_link *l) {
  if (wm_now_ms() - l->used < STALE_MS) return false;
  struct pollfd p = {.fd = l->fd, .events = POLLIN};
  char c;
  return poll(&p, 1, 0) > 0 && recv(l->fd, &c, 1, MSG_PEEK | MSG_DONTWAIT) <= 0;
}

int wm_redis_link_up(wm_redis_link *l, int64_t deadline, bool *fresh, wm_error *err) {
  if (fresh) *fresh = false;
  if (l->fd >= 0 && is_stale(l)) wm_redis_link_down(l);
  if (l->fd >= 0) return WM_OK;
  int64_t latest = wm_now_ms() + l->redis->dial_ms;
  if (latest < deadline) deadline = latest;
  int rc = dial(l, deadline, err);
  if (rc != WM_OK) return rc;
  l->reader = redisReaderCreate();
  if (!l->reader) return no_memory(l, err);
  l->reader->maxbuf = READER_KEEPS;
  l->tree = l->reader->fn;
  l->used = wm_now_ms();
  rc = greet(l, deadline, err);
  if (rc == WM_TIMEOUT) return broken(l, err, "connecting to", "no answer in time");
  if (rc != WM_OK) {
    wm_redis_link_down(l);
    return rc;
  }
  if (fresh) *fresh = true;
  return WM_OK;
}

/* ---- moving bytes --------------------------------------------------------------------------- */

/* Writes what the socket takes. */
static int write_some(wm_redis_link *l, wm_error *err) {
  if (l->out.failed) return no_memory(l, err);
  while (l->sent < l->out.len) {
    ssize_t n = send(l->fd, l->out.data + l->sent, l->out.len - l->sent, MSG_NOSIGNAL);
    if (n > 0) {
      l->sent += (size_t)n;
      l->written += (uint64_t)n;
    }
    if (n > 0 || (n < 0 && errno == EINTR)) continue;
    if (n < 0 && (errno == EAGAIN || errno == EWOULDBLOCK)) return WM_OK;
    return broken(l, err, "lost the connection to", strerror(errno));
  }
  clear_out(l);
  return WM_OK;
}

/* Reads what is there into the reader. WM_TIMEOUT: nothing is. */
static int read_some(wm_redis_link *l, wm_error *err) {
  ssize_t n;
  do
    n = recv(l->fd, l->chunk, CHUNK, 0);
  while (n < 0 && errno == EINTR);
  if (n < 0 && (errno == EAGAIN || errno == EWOULDBLOCK)) return WM_TIMEOUT;
  if (n < 0) return broken(l, err, "lost the connection to", strerror(errno));
  if (n == 0) return broken(l, err, "lost the connection to", "the server closed it");
  l->used = wm_now_ms();
  if (redisReaderFeed(l->reader, l->chunk, (size_t)n) != REDIS_OK) return no_memory(l, err);
  return WM_OK;
}

/* Reads one reply with the functions that the reader has now. */
static int receive(wm_redis_link *l, void **reply, int64_t deadline, wm_error *err) {
  int wake = l->wake;
  *reply = NULL;
  if (l->fd < 0) return wm_fail_with(err, WM_UNREACHABLE, "not connected");
  for (;;) {
    int rc = write_some(l, err);
    if (rc != WM_OK) return rc;
    if (redisReaderGetReply(l->reader, reply) != REDIS_OK) {
      if (l->reader->err == REDIS_ERR_OOM) return no_memory(l, err);
      char why[200];
      snprintf(why, sizeof why, "what it sends is not Redis' protocol (%s)", l->reader->errstr);
      return broken(l, err, "gave up the connection to", why);
    }
    if (*reply) return WM_OK;
    short events = POLLIN | (l->sent < l->out.len ? POLLOUT : 0);
    rc = wait_for(l->fd, events, wake, deadline);
    if (rc == WM_CANCELLED && !l->listens) {
      int64_t soon = wm_now_ms() + HURRY_MS;
      if (soon < deadline) deadline = soon;
      wake = -1;
      continue;
    }
    if (rc != WM_OK) {
      if (rc == WM_UNREACHABLE) return broken(l, err, "lost the connection to", strerror(errno));
      return rc;
    }
    rc = read_some(l, err);
    if (rc != WM_OK && rc != WM_TIMEOUT) return rc;
  }
}

int wm_redis_receive(wm_redis_link *l, wm_redis_batch *batch, int64_t deadline, wm_error *err) {
  void *reply;
  if (l->fd >= 0) {
    l->reader->fn = &wm_redis_batch_functions;
    l->reader->privdata = batch;
  }
  int rc = receive(l, &reply, deadline, err);
  return rc == WM_OK && batch->nomem ? no_memory(l, err) : rc;
}

int wm_redis_receive_tree(wm_redis_link *l, redisReply **reply, int64_t deadline, wm_error *err) {
  void *tree;
  if (l->fd >= 0) l->reader->fn = l->tree;
  int rc = receive(l, &tree, deadline, err);
  *reply = tree;
  return rc;
}

int wm_redis_expect(wm_redis_link *l, redisReply **reply, int64_t deadline, const char *what,
                    wm_error *err) {
  int rc = wm_redis_receive_tree(l, reply, deadline, err);
  if (rc == WM_TIMEOUT) return broken(l, err, what, "no answer in time");
  if (rc != WM_OK || (*reply)->type != REDIS_REPLY_ERROR) return rc;
  rc = wm_redis_refused(l, (*reply)->str, what, err);
  freeReplyObject(*reply);
  *reply = NULL;
  return rc;
}

/* ---- durability ----------------------------------------------------------------------------- */

/* The value of a CONFIG GET, NULL when it is not told. */
static const char *setting(const redisReply *r) {
  return r && r->type == REDIS_REPLY_ARRAY && r->elements == 2 && r->element[1]->str
             ? r->element[1]->str
             : NULL;
}

void wm_redis_tell_durability(wm_redis_link *l) {
  static const char *const names[] = {"appendonly", "appendfsync", "maxmemory-policy"};
  redisReply *replies[3] = {NULL, NULL, NULL};
  wm_error err;
  if (atomic_flag_test_and_set(&l->redis->told)) return;
  int64_t deadline = wm_now_ms() + l->redis->command_ms;
  for (size_t i = 0; i < 3; i++)
    wm_redis_command(&l->out, "CONFIG", "GET", names[i], NULL);
  for (size_t i = 0; i < 3; i++) {
    int rc = wm_redis_receive_tree(l, &replies[i], deadline, &err);
    if (rc == WM_OK) continue;
    wm_redis_link_down(l); /* the next call finds out what is wrong */
    break;
  }
  const char *aof = setting(replies[0]), *fsync = setting(replies[1]),
             *policy = setting(replies[2]);
  const char *host = l->redis->host;
  int port = l->redis->port;
  if (aof && strcmp(aof, "yes") != 0)
    wm_log(WM_LOG_WARN,
           "redis at %s:%d: appendonly is '%s': a crash of the server loses what it has not saved, "
           "minutes "
           "of confirmed messages; set appendonly yes",
           host, port, aof);
  else if (aof && fsync && strcmp(fsync, "always") != 0)
    wm_log(WM_LOG_WARN,
           "redis at %s:%d: appendfsync is '%s': a crash of its machine loses a second or more of "
           "confirmed "
           "messages; set appendfsync always",
           host, port, fsync);
  if (policy && strncmp(policy, "allkeys", 7) == 0)
    wm_log(WM_LOG_WARN,
           "redis at %s:%d: maxmemory-policy is '%s': when memory is short the server deletes "
           "streams; set "
           "noeviction",
           host, port, policy);
  for (size_t i = 0; i < 3; i++)
    if (replies[i]) freeReplyObject(replies[i]);
}
