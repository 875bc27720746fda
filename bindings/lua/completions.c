/*
 * completions.c - the mailbox of a state, and what comes through it: the ends of calls that were begun, and
 * the events of a host. Other threads only append, under the mailbox's lock; the thread of the state takes
 * the whole list at once. The wake fd is written when the list stops being empty, and emptied when the
 * state has been told everything. The mailbox is counted: what comes after its state is dropped.
 */
#include <errno.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include "binding.h"

struct wm_lua_mailbox {
  atomic_uint refs;
  int fd;

  pthread_mutex_t lock; /* guards what follows, and the fields of ops that say so */
  pthread_cond_t none_counted;
  wm_lua_op *first, **last;
  bool signalled; /* fd is readable */
  bool closed;    /* the state is gone */
  size_t counted; /* ops that have not ended and for which closing waits */
};

/* ---- mailbox -------------------------------------------------------------------------------------- */

wm_lua_mailbox *wm_lua_mailbox_new(void) {
  wm_lua_mailbox *box = calloc(1, sizeof *box);
  if (!box) return NULL;
  box->fd = eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC);
  if (box->fd < 0) {
    free(box);
    return NULL;
  }
  atomic_init(&box->refs, 1);
  box->last = &box->first;
  pthread_mutex_init(&box->lock, NULL);
  pthread_cond_init(&box->none_counted, NULL);
  return box;
}

wm_lua_mailbox *wm_lua_mailbox_retain(wm_lua_mailbox *box) {
  atomic_fetch_add_explicit(&box->refs, 1, memory_order_relaxed);
  return box;
}

void wm_lua_mailbox_release(wm_lua_mailbox *box) {
  if (atomic_fetch_sub_explicit(&box->refs, 1, memory_order_acq_rel) != 1) return;
  close(box->fd);
  pthread_cond_destroy(&box->none_counted);
  pthread_mutex_destroy(&box->lock);
  free(box);
}

static wm_lua_op *take_all(wm_lua_mailbox *box) {
  wm_lua_op *list = box->first;
  box->first = NULL;
  box->last = &box->first;
  return list;
}

static void free_list(wm_lua_op *list) {
  while (list) {
    wm_lua_op *op = list;
    list = op->next;
    wm_lua_op_free(op);
  }
}

void wm_lua_mailbox_close(wm_lua_state *st, bool wait) {
  wm_lua_mailbox *box = st->box;
  pthread_mutex_lock(&box->lock);
  while (wait && box->counted > 0)
    pthread_cond_wait(&box->none_counted, &box->lock);
  box->closed = true;
  wm_lua_op *list = take_all(box);
  pthread_mutex_unlock(&box->lock);
  free_list(list);
  free_list(st->ready);
  st->ready = NULL;
}

/* Under the lock; false: nobody will read it. */
static bool append(wm_lua_mailbox *box, wm_lua_op *op) {
  if (box->closed) return false;
  op->next = NULL;
  *box->last = op;
  box->last = &op->next;
  if (!box->signalled) {
    uint64_t one = 1;
    box->signalled = write(box->fd, &one, sizeof one) == (ssize_t)sizeof one;
  }
  return true;
}

int wm_lua_post(wm_lua_mailbox *box, const char *name, int value) {
  wm_lua_op *op = calloc(1, sizeof *op);
  if (!op) return WM_NOMEM;
  op->box = wm_lua_mailbox_retain(box);
  op->event = name;
  op->code = value;
  pthread_mutex_lock(&box->lock);
  bool told = append(box, op);
  pthread_mutex_unlock(&box->lock);
  if (told) return WM_OK;
  wm_lua_op_free(op);
  return WM_CLOSED;
}

/* ---- ops -------------------------------------------------------------------------------------------- */

static const char out_of_memory[] = "out of memory";

wm_lua_op *wm_lua_op_new(wm_lua_state *st, size_t parts, size_t results) {
  size_t size = sizeof(wm_lua_op) + parts * sizeof(wm_lua_part);
  wm_lua_op *op = calloc(1, size + results * sizeof(wm_result));
  if (!op) return NULL;
  op->box = wm_lua_mailbox_retain(st->box);
  op->id = ++st->last_id;
  op->n = results;
  op->results = (wm_result *)(op->parts + parts);
  for (size_t i = 0; i < parts; i++)
    op->parts[i].op = op;
  return op;
}

static void free_text(char *text) {
  if (text != out_of_memory) free(text);
}

void wm_lua_op_free(wm_lua_op *op) {
  if (!op) return;
  free_text(op->text);
  wm_lua_mailbox_release(op->box);
  free(op);
}

void wm_lua_op_silence(wm_lua_op *op) {
  pthread_mutex_lock(&op->box->lock);
  op->silent = true;
  pthread_mutex_unlock(&op->box->lock);
}

void wm_lua_op_count(wm_lua_op *op) {
  pthread_mutex_lock(&op->box->lock);
  op->counted = true;
  op->box->counted++;
  pthread_mutex_unlock(&op->box->lock);
}

void wm_lua_op_adopt(wm_lua_op *op, wm_consumer *con) {
  pthread_mutex_lock(&op->box->lock);
  bool ended = op->ended;
  if (!ended) {
    op->orphan = con;
    op->box->counted += !op->counted;
    op->counted = true;
  }
  pthread_mutex_unlock(&op->box->lock);
  if (ended) wm_consumer_close(con);
}

static char *text_of(const wm_error *err) {
  char *text = strdup(err ? err->text : "");
  return text ? text : (char *)out_of_memory;
}

/* All of it is over. Any thread. */
static void end(wm_lua_op *op) {
  wm_lua_mailbox *box = wm_lua_mailbox_retain(op->box);
  pthread_mutex_lock(&box->lock);
  op->ended = true;
  bool counted = op->counted;
  wm_consumer *orphan = op->orphan;
  bool told = append(box, op);
  pthread_mutex_unlock(&box->lock);
  /* From here on op is the state's, which may have freed it. */
  if (!told) wm_lua_op_free(op);
  if (orphan) wm_consumer_close(orphan);
  if (counted) {
    pthread_mutex_lock(&box->lock);
    if (--box->counted == 0) pthread_cond_broadcast(&box->none_counted);
    pthread_mutex_unlock(&box->lock);
  }
  wm_lua_mailbox_release(box);
}

void wm_lua_op_done(void *arg, int code, const wm_error *err) {
  wm_lua_op *op = arg;
  op->code = code;
  if (code != WM_OK) op->text = text_of(err);
  end(op);
}

int wm_lua_worse(int a, int b) {
  static const int worst_first[] = {WM_BAD_INPUT, WM_TOO_LARGE, WM_REFUSED, WM_DENIED,
                                    WM_UNKNOWN,   WM_NOT_SENT,  WM_CLOSED};
  if (a == WM_OK || b == WM_OK) return a == WM_OK ? b : a;
  for (size_t i = 0; i < sizeof worst_first / sizeof *worst_first; i++)
    if (a == worst_first[i] || b == worst_first[i]) return worst_first[i];
  return a;
}

void wm_lua_part_done(void *arg, int code, const wm_result *results, size_t n,
                      const wm_error *err) {
  wm_lua_part *part = arg;
  wm_lua_op *op = part->op;
  char *text = code == WM_OK ? NULL : text_of(err);
  pthread_mutex_lock(&op->box->lock);
  for (size_t i = 0; i < n; i++)
    op->results[part->at + i] = results ? results[i] : WM_RESULT_NOT_SENT;
  if (wm_lua_worse(op->code, code) != op->code) {
    op->code = code;
    char *other = op->text;
    op->text = text;
    text = other;
  }
  bool last = --op->parts_left == 0;
  pthread_mutex_unlock(&op->box->lock);
  free_text(text);
  if (last) end(op);
}

/* ---- for Lua ------------------------------------------------------------------------------------------ */

void wm_lua_push_results(lua_State *L, const wm_result *results, size_t n) {
  static const char *const names[] = {"STORED", "REFUSED", "NOT_SENT", "UNKNOWN"};
  lua_createtable(L, (int)n, 0);
  for (size_t i = 0; i < n; i++) {
    lua_pushstring(L, names[results[i]]);
    lua_rawseti(L, -2, (lua_Integer)i + 1);
  }
}

/* What has come first and was not told, NULL when there is nothing: then the fd is not readable either. */
static wm_lua_op *next_op(wm_lua_state *st) {
  if (!st->ready) {
    wm_lua_mailbox *box = st->box;
    pthread_mutex_lock(&box->lock);
    st->ready = take_all(box);
    if (!st->ready && box->signalled) {
      uint64_t count;
      box->signalled = read(box->fd, &count, sizeof count) < 0 && errno != EAGAIN;
    }
    pthread_mutex_unlock(&box->lock);
  }
  return st->ready;
}

/* What completed() returns of op. */
static int push_op(lua_State *L, const wm_lua_op *op) {
  if (op->event) {
    lua_pushstring(L, op->event);
    lua_pushinteger(L, op->code);
    return 2;
  }
  lua_pushinteger(L, op->id);
  if (op->code == WM_OK) {
    lua_pushboolean(L, true);
    return 2;
  }
  int results = wm_lua_fail(L, op->code, op->text);
  if (op->n > 0) {
    wm_lua_push_results(L, op->results, op->n);
    results++;
  }
  return 1 + results;
}

/* The consumer whose close has ended is closed, and need not be kept any more. */
static void end_consumer(lua_State *L, wm_lua_op *op) {
  if (!op->closes) return;
  wm_lua_consumer_ended(op->closes);
  op->closes = NULL;
  lua_getiuservalue(L, UPVALUE(UP_STATE), STATE_CLOSING);
  lua_pushnil(L);
  lua_rawseti(L, -2, op->id);
  lua_pop(L, 1);
}

static int completed(lua_State *L) {
  wm_lua_state *st = wm_lua_state_of(L);
  if (st->closed) return 0;
  int results = 0;
  wm_lua_op *op;
  while (results == 0 && (op = next_op(st))) {
    end_consumer(L, op);
    /* It stays the next one until nothing can raise any more. */
    if (!op->silent) results = push_op(L, op);
    st->ready = op->next;
    wm_lua_op_free(op);
  }
  return results;
}

static int wake_fd(lua_State *L) {
  lua_pushinteger(L, wm_lua_open_state(L)->box->fd);
  return 1;
}

void wm_lua_completions_open(lua_State *L, int core, int up) {
  static const luaL_Reg functions[] = {
      {"completed", completed}, {"wake_fd", wake_fd}, {NULL, NULL}};
  wm_lua_functions(L, core, functions, up, 0);
}
