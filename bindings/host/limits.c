/*
 * limits.c - see lua_limits.h. The signal handler runs on the thread of its state, so that what it
 * shares with that needs no more than volatile; the watchdog meets atomics only.
 */
#include "lua_limits.h"

#include <errno.h>
#include <lauxlib.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "clock.h"
#include "embedded.h"
#include "log_line.h"
#include "thread.h"

enum { MS_PER_S = 1000, NS_PER_MS = 1000000 };
enum {
  LOOKS = 10 /* a burst_timeout */,
  LOOK_LEAST_MS = 10,
  LOOK_MOST_MS = 1000,
  TELL_AGAIN_MS = 1000
};

static _Thread_local wm_limits *current;

/* ---- memory --------------------------------------------------------------------------------- */

static void tell_memory(wm_limits *l, size_t limit) {
  int64_t now = wm_now_ms();
  if (l->told_memory && now - l->told_memory < TELL_AGAIN_MS) return;
  l->told_memory = now;
  wm_log_line(WM_LOG_WARN, "%s: memory_limit of %zu bytes is reached; what needs more fails",
              l->name, limit);
}

static void *allocate(void *arg, void *old, size_t old_size, size_t size) {
  wm_limits *l = arg;
  if (!old) old_size = 0; /* then it is the kind of object */
  size_t limit = (size_t)atomic_load_explicit(&l->memory_limit, memory_order_relaxed);
  if (!size) {
    wm_pool_free(&l->pool, old);
    l->used -= old_size;
    return NULL;
  }
  if (limit && size > old_size && l->used + (size - old_size) > limit) {
    tell_memory(l, limit);
    return NULL;
  }
  void *data = wm_pool_realloc(&l->pool, old, size);
  if (data) l->used += size - old_size;
  return data;
}

/* ---- bursts --------------------------------------------------------------------------------- */

static const char *text_of(int why) {
  return why == WM_INTERRUPT_BURST
             ? "computed for longer than burst_timeout without yielding; stopped"
             : "stopped, since its time was over";
}

/* After an error the module's own code leads back to the loop, or to the next message, where the
 * burst ends: it is let through, so that the error keeps the place in the script. */
static bool leads_out(const wm_limits *l, const lua_Debug *ar) {
  return l->interrupted != WM_INTERRUPT_FORCED &&
         strncmp(ar->source, WM_EMBEDDED_CHUNK, strlen(WM_EMBEDDED_CHUNK)) == 0;
}

static void hook(lua_State *L, lua_Debug *ar) {
  wm_limits *l = current;
  if (!l->interrupted) { /* left over from a burst that has ended */
    lua_sethook(L, NULL, 0, 0);
    return;
  }
  lua_getinfo(L, "Sl", ar);
  if (leads_out(l, ar)) return;
  if (ar->currentline > 0)
    lua_pushfstring(L, "%s:%d: %s", ar->short_src, ar->currentline, text_of(l->interrupted));
  else
    lua_pushstring(L, text_of(l->interrupted));
  lua_error(L);
}

static void arm(lua_State *L) { lua_sethook(L, hook, LUA_MASKCOUNT, 1); }

static void on_signal(int number) {
  (void)number;
  int saved = errno;
  wm_limits *l = current;
  int order = l ? atomic_load(&l->order) : WM_INTERRUPT_NONE;
  if (order == WM_INTERRUPT_FORCED || (order && atomic_load(&l->doomed) == atomic_load(&l->turn))) {
    l->interrupted = order;
    arm(l->running);
  }
  errno = saved;
}

static void next_turn(wm_limits *l) {
  unsigned turn = atomic_load_explicit(&l->turn, memory_order_relaxed); /* nobody else writes it */
  atomic_store_explicit(&l->turn, turn + 1, memory_order_relaxed);
  if (l->interrupted != WM_INTERRUPT_FORCED) l->interrupted = WM_INTERRUPT_NONE;
}

/* What was interrupted does not come as far as taking a message: the module has caught its
 * error. */
void wm_limits_turn(wm_limits *l) { next_turn(l); }

int wm_limits_call(lua_State *L, int nargs, int nresults, int handler) {
  wm_limits *l = current;
  lua_State *outer = l->running;
  int depth = l->depth;
  next_turn(l);
  l->depth = 0;
  l->running = L;
  if (l->interrupted) arm(L);
  int status = lua_pcall(L, nargs, nresults, handler);
  l->running = outer;
  l->depth = depth;
  next_turn(l);
  if (l->interrupted) arm(outer);
  return status;
}

bool wm_limits_unwinds(void) { return current && current->interrupted == WM_INTERRUPT_FORCED; }

/* ---- coroutine.resume and wrap -------------------------------------------------------------- */

/* Moves n arguments from L to co, resumes it, moves what it gives back. Returns how many those are,
 * or -1: the error is on top of L. */
static int resume(lua_State *L, lua_State *co, int n) {
  wm_limits *l = current;
  int status, results;
  if (!lua_checkstack(co, n)) {
    lua_pushliteral(L, "too many arguments to resume");
    return -1;
  }
  lua_xmove(L, co, n);
  if (l->depth++ == 0) next_turn(l);
  lua_State *outer = l->running;
  l->running = co;
  if (l->interrupted) arm(co);
  status = lua_resume(co, L, n, &results);
  l->running = outer;
  if (--l->depth == 0) next_turn(l);
  if (l->interrupted) arm(outer);
  if (status != LUA_OK && status != LUA_YIELD) {
    lua_xmove(co, L, 1);
    return -1;
  }
  if (!lua_checkstack(L, results + 1)) {
    lua_pop(co, results);
    lua_pushliteral(L, "too many results to resume");
    return -1;
  }
  lua_xmove(co, L, results);
  return results;
}

static lua_State *check_coroutine(lua_State *L) {
  lua_State *co = lua_tothread(L, 1);
  luaL_argexpected(L, co, 1, "coroutine");
  return co;
}

static int co_resume(lua_State *L) {
  lua_State *co = check_coroutine(L);
  int n = resume(L, co, lua_gettop(L) - 1);
  lua_pushboolean(L, n >= 0);
  if (n < 0) {
    lua_insert(L, -2);
    return 2;
  }
  lua_insert(L, -(n + 1));
  return n + 1;
}

#if LUA_VERSION_RELEASE_NUM >= 50406
#define close_coroutine(co, L) lua_closethread(co, L)
#else
#define close_coroutine(co, L) lua_resetthread(co)
#endif

static int wrapped(lua_State *L) {
  lua_State *co = lua_tothread(L, lua_upvalueindex(1));
  int n = resume(L, co, lua_gettop(L));
  if (n >= 0) return n;
  int status = lua_status(co);
  if (status != LUA_OK && status != LUA_YIELD) { /* died of it: closes what it had to close */
    close_coroutine(co, L);
    lua_xmove(co, L, 1);
  }
  if (status != LUA_ERRMEM && lua_type(L, -1) == LUA_TSTRING) {
    luaL_where(L, 1);
    lua_insert(L, -2);
    lua_concat(L, 2);
  }
  return lua_error(L);
}

static int co_wrap(lua_State *L) {
  luaL_checktype(L, 1, LUA_TFUNCTION);
  lua_State *co = lua_newthread(L);
  lua_pushvalue(L, 1);
  lua_xmove(L, co, 1);
  lua_pushcclosure(L, wrapped, 1);
  return 1;
}

static void replace_coroutines(lua_State *L) {
  static const luaL_Reg functions[] = {{"resume", co_resume}, {"wrap", co_wrap}, {NULL, NULL}};
  lua_getglobal(L, "coroutine");
  luaL_setfuncs(L, functions, 0);
  lua_pop(L, 1);
}

/* ---- watchdog ------------------------------------------------------------------------------- */

static struct {
  pthread_mutex_t lock; /* of all below, and of what wm_limits says */
  pthread_cond_t changed;
  pthread_t thread;
  bool running, stopping;
  wm_limits *first;
} watchdog = {.lock = PTHREAD_MUTEX_INITIALIZER};

static int signal_number(void) { return SIGRTMIN + 1; }

static int64_t cpu_ms(const wm_limits *l) {
  struct timespec t;
  if (clock_gettime(l->cpu, &t) != 0) return 0;
  return (int64_t)t.tv_sec * MS_PER_S + t.tv_nsec / NS_PER_MS;
}

static void interrupt(wm_limits *l, unsigned turn, int why) {
  atomic_store(&l->order, why);
  atomic_store(&l->doomed, turn);
  pthread_kill(l->thread, signal_number());
}

static void look_at(wm_limits *l) {
  if (atomic_load(&l->order) == WM_INTERRUPT_FORCED) return;
  int64_t burst = atomic_load(&l->burst_ms);
  unsigned turn = atomic_load(&l->turn);
  if (turn != l->seen_turn) {
    l->seen_turn = turn;
    l->seen_cpu = cpu_ms(l);
    l->reported = false;
    return;
  }
  int64_t spent = cpu_ms(l) - l->seen_cpu;
  if (!burst || spent < burst) return;
  interrupt(l, turn, WM_INTERRUPT_BURST);
  if (spent < 2 * burst || l->reported) return;
  l->reported = true;
  wm_log_line(WM_LOG_ERROR,
              "%s: has computed for %.1f s; it is in one call of C code (a pattern match, a C "
              "module), which "
              "cannot be stopped",
              l->name, (double)spent / MS_PER_S);
}

/* How long until the next look: -1 when there is nothing to look at. */
static int64_t pause_ms(void) {
  int64_t least = -1;
  for (const wm_limits *l = watchdog.first; l; l = l->next) {
    int64_t burst = atomic_load(&l->burst_ms);
    if (burst && (least < 0 || burst < least)) least = burst;
  }
  if (least < 0) return -1;
  int64_t ms = least / LOOKS;
  return ms < LOOK_LEAST_MS ? LOOK_LEAST_MS : ms > LOOK_MOST_MS ? LOOK_MOST_MS : ms;
}

static void *watch(void *arg) {
  (void)arg;
  pthread_mutex_lock(&watchdog.lock);
  while (!watchdog.stopping) {
    int64_t ms = pause_ms();
    wm_cond_wait_until(&watchdog.changed, &watchdog.lock, ms < 0 ? INT64_MAX : wm_now_ms() + ms);
    for (wm_limits *l = watchdog.first; l; l = l->next)
      look_at(l);
  }
  pthread_mutex_unlock(&watchdog.lock);
  return NULL;
}

int wm_watchdog_start(void) {
  struct sigaction action = {.sa_handler = on_signal, .sa_flags = SA_RESTART};
  sigemptyset(&action.sa_mask);
  if (sigaction(signal_number(), &action, NULL) != 0) return errno;
  if (wm_cond_init(&watchdog.changed) != WM_OK) return ENOMEM;
  if (wm_thread_start(&watchdog.thread, "wm-watchdog", watch, NULL) != WM_OK) return EAGAIN;
  watchdog.running = true;
  return 0;
}

void wm_watchdog_stop(void) {
  if (!watchdog.running) return;
  pthread_mutex_lock(&watchdog.lock);
  watchdog.stopping = true;
  pthread_cond_signal(&watchdog.changed);
  pthread_mutex_unlock(&watchdog.lock);
  pthread_join(watchdog.thread, NULL);
  watchdog.running = false;
}

/* ---- a state's life ------------------------------------------------------------------------- */

void wm_limits_open(wm_limits *l, lua_State *L) {
  current = l;
  l->main = L;
  l->running = L;
  l->used = (size_t)lua_gc(L, LUA_GCCOUNT) * 1024 + (size_t)lua_gc(L, LUA_GCCOUNTB);
  lua_setallocf(L, allocate, l);
  replace_coroutines(L);
}

void wm_limits_close(wm_limits *l) { wm_pool_clear(&l->pool); }

void wm_limits_enter(wm_limits *l) {
  l->thread = pthread_self();
  pthread_getcpuclockid(l->thread, &l->cpu);
  pthread_mutex_lock(&watchdog.lock);
  l->seen_turn = atomic_load(&l->turn);
  l->seen_cpu = cpu_ms(l);
  l->next = watchdog.first;
  watchdog.first = l;
  pthread_cond_signal(&watchdog.changed);
  pthread_mutex_unlock(&watchdog.lock);
}

void wm_limits_leave(wm_limits *l) {
  pthread_mutex_lock(&watchdog.lock);
  wm_limits **link = &watchdog.first;
  while (*link && *link != l)
    link = &(*link)->next;
  if (*link) *link = l->next;
  pthread_mutex_unlock(&watchdog.lock);
  /* A signal that was sent before may still come: it finds nothing to do. */
  atomic_store(&l->order, WM_INTERRUPT_NONE);
  atomic_store(&l->memory_limit, 0);
  l->interrupted = WM_INTERRUPT_NONE;
  lua_sethook(l->main, NULL, 0, 0);
}

void wm_limits_force(wm_limits *l) {
  pthread_mutex_lock(&watchdog.lock);
  wm_limits *at = watchdog.first;
  while (at && at != l)
    at = at->next;
  if (at) interrupt(l, atomic_load(&l->turn), WM_INTERRUPT_FORCED);
  pthread_mutex_unlock(&watchdog.lock);
}
