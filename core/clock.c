/*
 * clock.c - time, waiting with a deadline, random bits. Any thread; a random generator is a thread's own.
 */
#include "clock.h"

#include <errno.h>
#include <stdbool.h>
#include <stddef.h>
#include <string.h>
#include <sys/random.h>
#include <time.h>
#include <unistd.h>

#include "wm.h"

enum { MS = 1000, NS_OF_MS = 1000000 };
enum { BACKOFF_FIRST_MS = 50, BACKOFF_MOST_MS = 5000, BACKOFF_DOUBLINGS = 7 };

static int64_t ms_of(clockid_t clock) {
  struct timespec t;
  clock_gettime(clock, &t);
  return (int64_t)t.tv_sec * MS + t.tv_nsec / NS_OF_MS;
}

int64_t wm_now_ms(void) { return ms_of(CLOCK_MONOTONIC); }

int64_t wm_epoch_ms(void) { return ms_of(CLOCK_REALTIME); }

int wm_cond_init(pthread_cond_t *cond) {
  pthread_condattr_t attr;
  if (pthread_condattr_init(&attr) != 0) return WM_NOMEM;
  int rc = pthread_condattr_setclock(&attr, CLOCK_MONOTONIC);
  if (rc == 0) rc = pthread_cond_init(cond, &attr);
  pthread_condattr_destroy(&attr);
  return rc == 0 ? WM_OK : WM_NOMEM;
}

static struct timespec timespec_of(int64_t ms) {
  if (ms < 0) ms = 0;
  return (struct timespec){.tv_sec = ms / MS, .tv_nsec = ms % MS * NS_OF_MS};
}

bool wm_cond_wait_until(pthread_cond_t *cond, pthread_mutex_t *lock, int64_t until_ms) {
  if (until_ms == INT64_MAX) return pthread_cond_wait(cond, lock) == 0;
  struct timespec t = timespec_of(until_ms);
  return pthread_cond_timedwait(cond, lock, &t) == 0;
}

bool wm_sem_wait_until(sem_t *sem, int64_t until_ms) {
  struct timespec t = timespec_of(until_ms);
  int rc;
  do
    rc = until_ms == INT64_MAX ? sem_wait(sem) : sem_clockwait(sem, CLOCK_MONOTONIC, &t);
  while (rc != 0 && errno == EINTR);
  return rc == 0;
}

/* ---- random bits: xoshiro256** by Blackman and Vigna ---------------------------------------- */

static _Thread_local struct {
  bool seeded;
  uint64_t state[4];
} generator;

static uint64_t rotate(uint64_t x, int by) { return x << by | x >> (64 - by); }

/* splitmix64: spreads a poor seed. */
static uint64_t spread(uint64_t *x) {
  uint64_t z = *x += 0x9e3779b97f4a7c15u;
  z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9u;
  z = (z ^ z >> 27) * 0x94d049bb133111ebu;
  return z ^ z >> 31;
}

static void seed(void) {
  uint64_t s[4];
  ssize_t n;
  do
    n = getrandom(s, sizeof s, 0);
  while (n < 0 && errno == EINTR);
  if (n !=
      sizeof s) { /* a kernel that forbids the call: what differs between threads and processes */
    struct timespec t;
    clock_gettime(CLOCK_REALTIME, &t);
    uint64_t x = (uint64_t)t.tv_sec * 1000 * NS_OF_MS + (uint64_t)t.tv_nsec;
    x ^= (uint64_t)getpid() << 40 ^ (uint64_t)(uintptr_t)&generator;
    for (size_t i = 0; i < 4; i++)
      s[i] = spread(&x);
  }
  memcpy(generator.state, s, sizeof s);
  generator.state[0] |= 1; /* never all zero */
  generator.seeded = true;
}

uint64_t wm_random(void) {
  if (!generator.seeded) seed();
  uint64_t *s = generator.state, result = rotate(s[1] * 5, 7) * 9, t = s[1] << 17;
  s[2] ^= s[0];
  s[3] ^= s[1];
  s[1] ^= s[2];
  s[0] ^= s[3];
  s[2] ^= t;
  s[3] = rotate(s[3], 45);
  return result;
}

int wm_backoff_ms(unsigned tries) {
  int ms = BACKOFF_MOST_MS;
  if (tries < BACKOFF_DOUBLINGS) ms = BACKOFF_FIRST_MS << tries;
  return ms + (int)(wm_random() % ((uint64_t)ms / 4 + 1));
}
