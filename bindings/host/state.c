/*
 * state.c - the Lua state of a worker from its opening to its closing: its libraries, its loop,
 * what the host replaces in it, and the script's run. The worker's thread, but for
 * wm_worker_fill_host.
 */
#include <lauxlib.h>
#include <limits.h>
#include <lualib.h>
#include <luv/luv.h>
#include <stdlib.h>
#include <string.h>

#include "host.h"
#include "loader.h"
#include "log_line.h"

static const char worker_key; /* its address is the key in the registry */

static wm_worker *worker_of(lua_State *L) {
  lua_rawgetp(L, LUA_REGISTRYINDEX, &worker_key);
  wm_worker *w = lua_touserdata(L, -1);
  lua_pop(L, 1);
  return w;
}

static wm_script *script_of(const wm_worker *w) { return w->generation->script; }

static wm_host *host_of(const wm_worker *w) { return script_of(w)->host; }

/* ---- what the module asks of its host ------------------------------------------------------- */

static int subscribe(void *arg, const char *url, const char *topic, const wm_options *opts,
                     const char *where, wm_consumer **con, wm_done_cb cb, void *cb_arg,
                     wm_error *err) {
  wm_worker *w = arg;
  int code = wm_registry_subscribe(host_of(w)->registry, &w->generation->holder, w->index, url,
                                   topic, opts, where, con, cb, cb_arg, err);
  /* A script that loads must get all that it asks for: it would seem to work without. */
  if (code != WM_OK && !atomic_load(&w->loaded) && !w->refused &&
      asprintf(&w->refused, "%s: %s", where, err->text) < 0)
    w->refused = NULL;
  return code;
}

static void unsubscribe(void *arg, wm_consumer *con, int timeout_ms, wm_done_cb cb, void *cb_arg) {
  wm_worker *w = arg;
  wm_registry_unsubscribe(host_of(w)->registry, con, timeout_ms, cb, cb_arg);
}

static void taking(void *arg) {
  wm_worker *w = arg;
  wm_limits_turn(&w->limits);
}

static bool waiting(void *arg) {
  wm_worker *w = arg;
  atomic_store(&w->loaded, true);
  wm_host_poke(host_of(w));
  return true;
}

static const char *kept(void *arg, const char *name, size_t *len) {
  wm_worker *w = arg;
  atomic_store(&w->keeps, true);
  for (const wm_kept *k = w->kept; k; k = k->next)
    if (strcmp(k->name, name) == 0) {
      *len = k->len;
      return k->text;
    }
  return NULL;
}

static void leave(wm_worker *w, const char *name, const char *text, size_t len) {
  wm_kept *k = calloc(1, sizeof *k);
  if (k && (k->name = strdup(name)) && (k->text = malloc(len + 1))) {
    memcpy(k->text, text, len);
    k->len = len;
    k->next = w->leaves;
    w->leaves = k;
    return;
  }
  wm_kept_free(k);
  wm_log_line(WM_LOG_ERROR,
              "%s: wm.keep '%s': out of memory; the next generation begins with its default",
              w->name, name);
}

static void keep(void *arg, const char *name, const char *text, size_t len) {
  wm_worker *w = arg;
  if (name) {
    leave(w, name, text, len);
    return;
  }
  atomic_fetch_add(&w->answers, 1);
  wm_host_poke(host_of(w));
}

static void watch(void *arg, const char *path) {
  wm_worker *w = arg;
  wm_files_add(w->generation->files, path, NULL);
  atomic_store(&host_of(w)->files_added, true);
  wm_host_poke(host_of(w));
}

static void log_line(void *arg, wm_log_level level, const char *line) {
  (void)arg;
  wm_log_line_raw(level, line);
}

void wm_worker_fill_host(wm_worker *w) {
  const wm_host_config *config = host_of(w)->config;
  w->lua_host = (wm_lua_host){
      .arg = w,
      .subscribe = subscribe,
      .unsubscribe = unsubscribe,
      .taking = taking,
      .waiting = waiting,
      .kept = kept,
      .keep = keep,
      .watch = watch,
      .configure = wm_worker_configure,
      .log = log_line,
      .log_level = config->log_level,
      .log_json = config->log_json,
      .broker = config->broker,
      .generation = (int)w->generation->number,
      .worker = w->index,
  };
  if (host_of(w)->adapt) host_of(w)->adapt(&w->lua_host);
}

/* ---- the loop ------------------------------------------------------------------------------- */

/* Was it raised on purpose, since the state ends? */
static bool is_end(lua_State *L, int error) {
  int top = lua_gettop(L);
  lua_getfield(L, LUA_REGISTRYINDEX, LUA_LOADED_TABLE);
  if (lua_getfield(L, -1, "wm.host") == LUA_TTABLE) lua_getfield(L, -1, "ENDED");
  bool same = lua_rawequal(L, -1, error);
  lua_settop(L, top);
  return same;
}

static int with_traceback(lua_State *L) {
  if (is_end(L, 1)) return 0;
  const char *text = luaL_tolstring(L, 1, NULL);
  luaL_traceback(L, L, text, 1);
  return 1;
}

/* How luv calls into Lua: an error in a callback is told, and the loop goes on. */
static int call_back(lua_State *L, int nargs, int nresults, int flags) {
  int base = lua_gettop(L) - nargs;
  lua_pushcfunction(L, with_traceback);
  lua_insert(L, base);
  int status = wm_limits_call(L, nargs, nresults, base);
  lua_remove(L, base);
  if (wm_limits_unwinds()) uv_stop(luv_loop(L));
  if (status == LUA_OK) return nresults == LUA_MULTRET ? lua_gettop(L) - base + 1 : nresults;
  if (!(flags & LUVF_CALLBACK_NOERRMSG) && lua_isstring(L, -1) && !wm_limits_unwinds())
    wm_log_line(WM_LOG_ERROR, "%s: error in a libuv callback: %s", worker_of(L)->name,
                lua_tostring(L, -1));
  lua_pop(L, 1);
  return -status;
}

static void open_loop(lua_State *L) {
  luv_set_callback(L, call_back);
  luaL_requiref(L, "luv", luaopen_luv, 0);
  lua_pop(L, 1);
}

static int close_handle(lua_State *L) {
  lua_getfield(L, 1, "is_closing");
  lua_pushvalue(L, 1);
  lua_call(L, 1, 1);
  if (lua_toboolean(L, -1)) return 0;
  lua_getfield(L, 1, "close");
  lua_pushvalue(L, 1);
  lua_call(L, 1, 0);
  return 0;
}

/* Closes all handles and lets the loop see to it. lua_close alone frees those at once that are
 * being closed, while libuv still has them. */
static int close_loop(lua_State *L) {
  enum { ROUNDS = 10 /* a callback of the closing may make new ones */ };
  lua_getfield(L, LUA_REGISTRYINDEX, LUA_LOADED_TABLE);
  if (lua_getfield(L, -1, "luv") != LUA_TTABLE) return 0;
  for (int i = 0; i == 0 || (i < ROUNDS && uv_loop_alive(luv_loop(L))); i++) {
    lua_getfield(L, -1, "walk");
    lua_pushcfunction(L, close_handle);
    lua_call(L, 1, 0);
    uv_run(luv_loop(L), UV_RUN_DEFAULT);
  }
  return 0;
}

/* ---- what the script finds ------------------------------------------------------------------ */

static int after_exit(lua_State *L, int status, lua_KContext context) {
  (void)status;
  (void)context;
  return lua_error(L); /* wm.host.exit does not come back */
}

/* os.exit([code]): the host closes gently, this state at once as far as the caller sees. */
static int os_exit(lua_State *L) {
  int code = EXIT_SUCCESS;
  if (lua_isboolean(L, 1))
    code = lua_toboolean(L, 1) ? EXIT_SUCCESS : EXIT_FAILURE;
  else
    code = (int)luaL_optinteger(L, 1, EXIT_SUCCESS);
  wm_host_exit(host_of(worker_of(L)), code);
  lua_settop(L, 0);
  lua_getglobal(L, "require");
  lua_pushliteral(L, "wm.host");
  lua_call(L, 1, 1);
  lua_getfield(L, -1, "exit");
  lua_callk(L, 0, 0, 0, after_exit);
  return after_exit(L, LUA_OK, 0);
}

static void set_arg(lua_State *L, const wm_worker *w) {
  const wm_host_config *config = host_of(w)->config;
  lua_newtable(L);
  lua_pushliteral(L, "wmlua");
  lua_rawseti(L, -2, -1);
  lua_pushstring(L, script_of(w)->path);
  lua_rawseti(L, -2, 0);
  for (size_t i = 0; i < config->n_args; i++) {
    lua_pushstring(L, config->args[i]);
    lua_rawseti(L, -2, (lua_Integer)i + 1);
  }
  lua_setglobal(L, "arg");
}

static void open_libraries(lua_State *L, wm_worker *w) {
  lua_pushlightuserdata(L, w);
  lua_rawsetp(L, LUA_REGISTRYINDEX, &worker_key);
  luaL_openlibs(L);
  wm_limits_open(&w->limits, L);
  wm_lua_set_host(L, &w->lua_host);
  wm_loader_open(L, w->generation->files);
  open_loop(L);
  lua_getglobal(L, "os");
  lua_pushcfunction(L, os_exit);
  lua_setfield(L, -2, "exit");
  lua_pop(L, 1);
  set_arg(L, w);
}

/* ---- the main chunk ------------------------------------------------------------------------- */

static void run_text(lua_State *L, const char *text, const char *name) {
  if (luaL_loadbufferx(L, text, strlen(text), name, "t") != LUA_OK) lua_error(L);
  lua_call(L, 0, 0);
}

/* As lua does: code, or @file. */
static void run_init(lua_State *L) {
  const char *name = "=LUA_INIT_5_4", *init = getenv("LUA_INIT_5_4");
  if (!init) {
    name = "=LUA_INIT";
    init = getenv("LUA_INIT");
  }
  if (!init) return;
  if (*init != '@') {
    run_text(L, init, name);
    return;
  }
  lua_getglobal(L, "dofile");
  lua_pushstring(L, init + 1);
  lua_call(L, 1, 0);
}

static void run_prelude(lua_State *L, const wm_prelude *p) {
  if (!p->is_module) {
    run_text(L, p->text, "=(command line)");
    return;
  }
  const char *equals = strchr(p->text, '=');
  lua_getglobal(L, "require");
  lua_pushstring(L, equals ? equals + 1 : p->text);
  lua_call(L, 1, 1);
  lua_pushlstring(L, p->text, equals ? (size_t)(equals - p->text) : strlen(p->text));
  lua_insert(L, -2);
  lua_pushglobaltable(L);
  lua_insert(L, -3);
  lua_settable(L, -3);
  lua_pop(L, 1);
}

/* What is given to wm.host.main: all that lua would run, the script (upvalue 1, or nil) last. */
static int main_chunk(lua_State *L) {
  const wm_host_config *config = host_of(worker_of(L))->config;
  int n = lua_gettop(L);
  run_init(L);
  for (size_t i = 0; i < config->n_preludes; i++)
    run_prelude(L, &config->preludes[i]);
  if (lua_isnil(L, lua_upvalueindex(1))) return 0;
  lua_pushvalue(L, lua_upvalueindex(1));
  lua_insert(L, 1);
  lua_call(L, n, 0);
  return 0;
}

/* Pushes the main chunk. */
static void push_chunk(lua_State *L, const wm_worker *w) {
  const wm_host_config *config = host_of(w)->config;
  const char *path = script_of(w)->path;
  if (path) {
    if (wm_loader_load(L, w->generation->files, path) != LUA_OK) lua_error(L);
  } else {
    lua_pushnil(L);
  }
  if (path && !config->n_preludes && !getenv("LUA_INIT") && !getenv("LUA_INIT_5_4")) return;
  lua_pushcclosure(L, main_chunk, 1);
}

static void open_mailbox(lua_State *L, wm_worker *w) {
  pthread_mutex_lock(&w->lock);
  w->box = wm_lua_mailbox_of(L);
  if (w->missed) wm_lua_post(w->box, w->missed, w->missed_value);
  pthread_mutex_unlock(&w->lock);
}

/* Under protection: nil, or the text of the error. */
static int run_all(lua_State *L) {
  wm_worker *w = lua_touserdata(L, 1);
  const wm_host_config *config = host_of(w)->config;
  lua_settop(L, 0);
  open_libraries(L, w);
  wm_limits_enter(&w->limits);
  push_chunk(L, w);
  lua_getglobal(L, "require");
  lua_pushliteral(L, "wm.host");
  lua_call(L, 1, 1);
  open_mailbox(L, w);
  lua_getfield(L, -1, "main");
  lua_insert(L, 1);
  lua_pop(L, 1);
  luaL_checkstack(L, (int)config->n_args, "too many arguments");
  for (size_t i = 0; i < config->n_args; i++)
    lua_pushstring(L, config->args[i]);
  lua_call(L, 1 + (int)config->n_args, 2);
  if (lua_toboolean(L, -2)) lua_pushnil(L);
  return 1;
}

static char *text_of(lua_State *L) {
  const char *text = luaL_tolstring(L, -1, NULL);
  char *copy = strdup(text);
  lua_pop(L, 1);
  return copy ? copy : strdup("out of memory");
}

/* Nobody reaches the state any more. */
static void shut(wm_worker *w) {
  pthread_mutex_lock(&w->lock);
  wm_lua_mailbox *box = w->box;
  w->box = NULL;
  pthread_mutex_unlock(&w->lock);
  if (box) wm_lua_mailbox_release(box);
  wm_limits_leave(&w->limits);
}

char *wm_state_run(wm_worker *w) {
  lua_State *L = luaL_newstate();
  char *error = NULL;
  if (!L) return strdup("out of memory for a Lua state");
  /* What a handler makes dies with its message, and scripts with their modules live long. */
  lua_gc(L, LUA_GCGEN, 0, 0);
  w->limits.main = L;
  lua_pushcfunction(L, run_all);
  lua_pushlightuserdata(L, w);
  int status = lua_pcall(L, 1, 1, 0);
  if (status != LUA_OK || !lua_isnil(L, -1)) error = text_of(L);
  shut(w);
  lua_settop(L, 0);
  lua_pushcfunction(L, close_loop);
  lua_pcall(L, 0, 0, 0);
  lua_close(L);
  wm_limits_close(&w->limits);
  return error;
}
