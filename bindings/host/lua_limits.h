/*
 * lua_limits.h - what a Lua state may use: memory, and computing time between two points where it
 * lets the loop go on. A wm_limits belongs to one state and its thread; one watchdog thread looks
 * at all of them.
 *
 * A burst begins when the loop calls a callback, when a coroutine is resumed by code that is in no
 * coroutine itself, when either returns, and when the next message is taken. The watchdog compares
 * the CPU time of the thread since it first saw the burst. What exceeds it is interrupted: a signal
 * to the thread arms a hook on the coroutine that runs, which raises, and raises again as long as
 * the burst lasts, so that no pcall goes on. A nested coroutine that ends hands the hook to the one
 * that resumed it. C code inside one call cannot be stopped, only reported.
 */
#ifndef WM_LUA_LIMITS_H
#define WM_LUA_LIMITS_H

#include <lua.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

#include "pool.h"

enum { WM_INTERRUPT_NONE, WM_INTERRUPT_BURST, WM_INTERRUPT_FORCED };

typedef struct wm_limits {
  const char *name; /* of the script and worker, for reports; outlives it */

  /* Any thread. */
  atomic_int_fast64_t burst_ms;     /* 0: no limit */
  atomic_int_fast64_t memory_limit; /* 0: no limit */
  atomic_uint turn;                 /* counts bursts */
  atomic_uint doomed;               /* the turn that a signal is meant for */
  atomic_int order;                 /* what it is to do: WM_INTERRUPT_... */

  /* The state's thread, and its signal handler. */
  lua_State *main;
  lua_State *volatile running; /* the coroutine that runs */
  volatile int depth;          /* of resumes since the loop called */
  volatile int interrupted;    /* WM_INTERRUPT_...: raise, and again */

  /* The state's thread. */
  size_t used;
  wm_pool pool;
  int64_t told_memory; /* monotonic ms of the last report */

  /* The watchdog, under its lock. */
  pthread_t thread;
  clockid_t cpu;
  unsigned seen_turn;
  int64_t seen_cpu; /* ms; when that turn was first seen */
  bool reported;
  struct wm_limits *next;
} wm_limits;

/* On the thread that will run L, which must be fresh: memory is counted from now on;
 * coroutine.resume and wrap are replaced. */
void wm_limits_open(wm_limits *l, lua_State *L);
/* After L was closed. */
void wm_limits_close(wm_limits *l);
/* On the same thread: the watchdog looks at it; until wm_limits_leave, before L is closed. */
void wm_limits_enter(wm_limits *l);
void wm_limits_leave(wm_limits *l);

/* Calls a function as lua_pcall with nothing on the other side of it but the loop: a burst of its
 * own. */
int wm_limits_call(lua_State *L, int nargs, int nresults, int handler);

/* On the state's thread: what computed so far has come to its end. */
void wm_limits_turn(wm_limits *l);

/* On a state's thread: whether it is being unwound as a whole. */
bool wm_limits_unwinds(void);
/* From another thread, while between enter and leave: unwinds the whole state. */
void wm_limits_force(wm_limits *l);

/* Starts and ends the watchdog. 0 or an errno. */
int wm_watchdog_start(void);
void wm_watchdog_stop(void);

#endif
