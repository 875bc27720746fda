/*
 * proxy.c - one thread polls the listener, a wake-up pipe, and both ends of each connection.
 */
#include "proxy.h"

#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <pthread.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

enum { MAX_LINKS = 256, BUFFER = 64 << 10, TICK_MS = 5, UP = 0, DOWN = 1 };

/* One direction: bytes that were read from one end and are to be written to the other. */
typedef struct flow {
  char data[BUFFER];
  size_t n;
  int64_t ready; /* ms: not to be written before */
  bool ended;    /* the reading end is at its end */
} flow;

typedef struct conduit {
  int fd[2]; /* client, server; -1: closed */
  flow flow[2];
  int64_t cut; /* bytes from the server until it is cut, -1: never */
  bool swallowed;
} conduit;

struct proxy {
  int listener, wake, target, port;
  pthread_t thread;
  pthread_mutex_t lock; /* guards all below; the thread holds it while it is not in poll */
  conduit *links[MAX_LINKS];
  proxy_mode mode;
  int value;
  size_t count;
  bool stop;
};

static int64_t now_ms(void) {
  struct timespec ts;
  clock_gettime(CLOCK_MONOTONIC, &ts);
  return ts.tv_sec * INT64_C(1000) + ts.tv_nsec / 1000000;
}

static struct sockaddr_in local(int port) {
  return (struct sockaddr_in){.sin_family = AF_INET, .sin_port = htons((uint16_t)port),
                              .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
}

/* ---- connections ---------------------------------------------------------------------------------------------------- */

static void close_end(conduit *c, int end, bool reset) {
  if (c->fd[end] < 0) return;
  struct linger at_once = {.l_onoff = 1, .l_linger = 0};
  if (reset) setsockopt(c->fd[end], SOL_SOCKET, SO_LINGER, &at_once, sizeof at_once);
  close(c->fd[end]);
  c->fd[end] = -1;
}

static void drop(proxy *p, size_t i, bool reset) {
  for (int end = 0; end < 2; end++)
    close_end(p->links[i], end, reset);
  free(p->links[i]);
  p->links[i] = NULL;
}

static void set_up(int fd) {
  int on = 1;
  fcntl(fd, F_SETFL, O_NONBLOCK);
  setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
}

static void take(proxy *p) {
  int client = accept4(p->listener, NULL, NULL, SOCK_CLOEXEC);
  size_t i = 0;
  if (client < 0) return;
  while (i < MAX_LINKS && p->links[i])
    i++;
  conduit *c = i < MAX_LINKS ? calloc(1, sizeof *c) : NULL;
  int server = c ? socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0) : -1;
  struct sockaddr_in address = local(p->target);
  if (server < 0 || connect(server, (struct sockaddr *)&address, sizeof address) != 0) {
    if (server >= 0) close(server);
    close(client);
    free(c);
    return;
  }
  set_up(client);
  set_up(server);
  *c = (conduit){.fd = {client, server}, .cut = -1};
  p->links[i] = c;
  p->count++;
}

/* ---- moving bytes ----------------------------------------------------------------------------------------------------- */

static bool stalls(const proxy *p, int way) {
  return (p->mode == PROXY_STALL_UP && way == UP) || (p->mode == PROXY_STALL_DOWN && way == DOWN);
}

static void read_some(proxy *p, conduit *c, int way) {
  flow *f = &c->flow[way];
  if (f->ended || f->n == BUFFER || c->fd[way] < 0) return;
  ssize_t n = recv(c->fd[way], f->data + f->n, BUFFER - f->n, 0);
  if (n < 0 && (errno == EAGAIN || errno == EINTR)) return;
  if (n <= 0) {
    f->ended = true;
    return;
  }
  if (p->mode == PROXY_BLACK_HOLE) {
    c->swallowed = true;
    return;
  }
  if (f->n == 0) f->ready = p->mode == PROXY_DELAY ? now_ms() + p->value : 0;
  f->n += (size_t)n;
}

/* False: the connection is to be dropped. */
static bool write_some(proxy *p, conduit *c, int way) {
  flow *f = &c->flow[way];
  int to = c->fd[!way];
  while (f->n > 0 && to >= 0 && !stalls(p, way) && p->mode != PROXY_BLACK_HOLE && now_ms() >= f->ready) {
    size_t most = p->mode == PROXY_SLICE ? 1 : f->n;
    if (way == DOWN && c->cut >= 0 && (int64_t)most > c->cut) most = (size_t)c->cut;
    if (most == 0) return false;
    ssize_t n = send(to, f->data, most, MSG_NOSIGNAL);
    if (n < 0 && (errno == EAGAIN || errno == EINTR)) return true;
    if (n <= 0) return false;
    f->n -= (size_t)n;
    memmove(f->data, f->data + n, f->n);
    if (way == DOWN && c->cut >= 0) c->cut -= n;
  }
  return !(f->ended && f->n == 0 && p->mode != PROXY_BLACK_HOLE && !stalls(p, way) && to >= 0);
}

static void move(proxy *p, size_t i) {
  conduit *c = p->links[i];
  for (int way = 0; way < 2; way++)
    read_some(p, c, way);
  for (int way = 0; way < 2; way++)
    if (!write_some(p, c, way)) {
      drop(p, i, false);
      return;
    }
  if (c->fd[1] < 0 && c->flow[UP].ended) drop(p, i, false); /* half open, and the client gave up */
}

static size_t list_fds(proxy *p, struct pollfd *fds) {
  size_t n = 0;
  fds[n++] = (struct pollfd){.fd = p->listener, .events = POLLIN};
  fds[n++] = (struct pollfd){.fd = p->wake, .events = POLLIN};
  for (size_t i = 0; i < MAX_LINKS; i++)
    for (int end = 0; p->links[i] && end < 2; end++) {
      const flow *in = &p->links[i]->flow[end];
      if (p->links[i]->fd[end] >= 0 && !in->ended && in->n < BUFFER)
        fds[n++] = (struct pollfd){.fd = p->links[i]->fd[end], .events = POLLIN};
    }
  return n;
}

/* Something waits that no event announces: a delay, or room to write. */
static bool has_pending(const proxy *p) {
  for (size_t i = 0; i < MAX_LINKS; i++)
    if (p->links[i] && (p->links[i]->flow[UP].n || p->links[i]->flow[DOWN].n)) return true;
  return false;
}

static void *run(void *arg) {
  proxy *p = arg;
  struct pollfd fds[2 + 2 * MAX_LINKS];
  pthread_mutex_lock(&p->lock);
  while (!p->stop) {
    size_t n = list_fds(p, fds);
    int timeout = has_pending(p) ? TICK_MS : -1;
    pthread_mutex_unlock(&p->lock);
    poll(fds, n, timeout);
    pthread_mutex_lock(&p->lock);
    uint64_t count;
    if (fds[1].revents && read(p->wake, &count, sizeof count) < 0) continue;
    if (fds[0].revents) take(p);
    for (size_t i = 0; i < MAX_LINKS; i++)
      if (p->links[i]) move(p, i);
  }
  for (size_t i = 0; i < MAX_LINKS; i++)
    if (p->links[i]) drop(p, i, false);
  pthread_mutex_unlock(&p->lock);
  return NULL;
}

/* ---- for the tests ---------------------------------------------------------------------------------------------------- */

static void wake(proxy *p) {
  uint64_t one = 1;
  if (write(p->wake, &one, sizeof one) < 0) abort();
}

proxy *proxy_open(int target) {
  struct sockaddr_in address = local(0);
  socklen_t len = sizeof address;
  proxy *p = calloc(1, sizeof *p);
  if (!p) abort();
  p->target = target;
  p->wake = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
  p->listener = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
  pthread_mutex_init(&p->lock, NULL);
  if (bind(p->listener, (struct sockaddr *)&address, len) != 0 || listen(p->listener, MAX_LINKS) != 0 ||
      getsockname(p->listener, (struct sockaddr *)&address, &len) != 0 ||
      pthread_create(&p->thread, NULL, run, p) != 0) {
    close(p->listener);
    close(p->wake);
    free(p);
    return NULL;
  }
  p->port = ntohs(address.sin_port);
  return p;
}

int proxy_port(const proxy *p) { return p->port; }

void proxy_set(proxy *p, proxy_mode mode, int value) {
  pthread_mutex_lock(&p->lock);
  p->mode = mode;
  p->value = value;
  for (size_t i = 0; i < MAX_LINKS; i++)
    if (p->links[i] && p->links[i]->swallowed && mode != PROXY_BLACK_HOLE) drop(p, i, true);
  pthread_mutex_unlock(&p->lock);
  wake(p);
}

void proxy_hit(proxy *p, proxy_fault fault, int value) {
  pthread_mutex_lock(&p->lock);
  for (size_t i = 0; i < MAX_LINKS; i++) {
    if (!p->links[i]) continue;
    if (fault == PROXY_CUT) p->links[i]->cut = value;
    if (fault == PROXY_RESET) drop(p, i, true);
    if (fault == PROXY_HALF_OPEN) close_end(p->links[i], 1, false);
  }
  pthread_mutex_unlock(&p->lock);
  wake(p);
}

size_t proxy_count(proxy *p) {
  pthread_mutex_lock(&p->lock);
  size_t n = p->count;
  pthread_mutex_unlock(&p->lock);
  return n;
}

void proxy_close(proxy *p) {
  pthread_mutex_lock(&p->lock);
  p->stop = true;
  pthread_mutex_unlock(&p->lock);
  wake(p);
  pthread_join(p->thread, NULL);
  close(p->listener);
  close(p->wake);
  free(p);
}
