/*
 * core.c - the table wm.core of a Lua state: luaopen, the functions that need no handle, and what only a host
 * has. The thread of the Lua state; only wm_lua_mailbox_of may be called before others know the state.
 *
 * The state's own userdata is the first with a finalizer, so that the last finalizer of lua_close closes what
 * the program left open: outside a host lua_close waits until publishers have sent what they were given and
 * subscriptions have given back what they held, since the process may end right afterwards.
 */
#include <errno.h>
#include <limits.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "binding.h"
#include "clock.h"
#include "options.h"

/* Their addresses are keys of the registry. */
static const char host_key, state_key;

static const wm_lua_host no_host = {.log_level = WM_LOG_INFO, .generation = 1, .worker = 1};

wm_lua_state *wm_lua_state_of(lua_State *L) { return lua_touserdata(L, UPVALUE(UP_STATE)); }

wm_lua_state *wm_lua_open_state(lua_State *L) {
  wm_lua_state *st = wm_lua_state_of(L);
  if (st->closed) luaL_error(L, "the Lua state is being closed");
  return st;
}

void wm_lua_set_host(lua_State *L, const wm_lua_host *host) {
  lua_pushlightuserdata(L, (void *)host);
  lua_rawsetp(L, LUA_REGISTRYINDEX, &host_key);
}

wm_lua_mailbox *wm_lua_mailbox_of(lua_State *L) {
  lua_rawgetp(L, LUA_REGISTRYINDEX, &state_key);
  wm_lua_state *st = lua_touserdata(L, -1);
  lua_pop(L, 1);
  return st ? wm_lua_mailbox_retain(st->box) : NULL;
}

/* ---- pure functions ---------------------------------------------------------------------------------- */

static int core_uuid(lua_State *L) {
  char uuid[WM_UUID_SIZE];
  wm_uuid(uuid);
  lua_pushstring(L, uuid);
  return 1;
}

#define MS_PER_SECOND 1000.0

static int core_now(lua_State *L) {
  lua_pushnumber(L, (lua_Number)wm_epoch_ms() / MS_PER_SECOND);
  return 1;
}

static int core_clock(lua_State *L) {
  lua_pushnumber(L, (lua_Number)wm_now_ms() / MS_PER_SECOND);
  return 1;
}

static int core_mask(lua_State *L) {
  wm_lua_push_masked(L, wm_lua_text(L, 1));
  return 1;
}

/* The i-th string of the list at index 2. */
static const char *candidate(void *arg, size_t i) {
  lua_State *L = arg;
  const char *name = NULL;
  if (lua_rawgeti(L, 2, (lua_Integer)i + 1) == LUA_TSTRING) name = lua_tostring(L, -1);
  lua_pop(L, 1);
  return name;
}

static int core_nearest(lua_State *L) {
  const char *name = luaL_checkstring(L, 1);
  luaL_checktype(L, 2, LUA_TTABLE);
  lua_pushstring(L, wm_nearest(name, candidate, L));
  return 1;
}

static int core_duration(lua_State *L) {
  int64_t ms;
  if (wm_parse_duration(wm_lua_text(L, 1), &ms) != WM_OK)
    lua_pushnil(L);
  else if (ms % (int64_t)MS_PER_SECOND == 0)
    lua_pushinteger(L, ms / (int64_t)MS_PER_SECOND);
  else
    lua_pushnumber(L, (lua_Number)ms / MS_PER_SECOND);
  return 1;
}

static int core_size(lua_State *L) {
  int64_t bytes;
  if (wm_parse_size(wm_lua_text(L, 1), &bytes) == WM_OK)
    lua_pushinteger(L, bytes);
  else
    lua_pushnil(L);
  return 1;
}

static void set_text(lua_State *L, const char *name, const char *text) {
  lua_pushstring(L, text);
  lua_setfield(L, -2, name);
}

static int core_options(lua_State *L) {
  wm_option_info info;
  lua_newtable(L);
  for (size_t i = 0; wm_option_list(i, &info); i++) {
    lua_newtable(L);
    set_text(L, "name", info.name);
    set_text(L, "value", info.value);
    set_text(L, "unit", info.unit);
    set_text(L, "help", info.help);
    set_text(L, "where", info.where);
    lua_rawseti(L, -2, (lua_Integer)i + 1);
  }
  return 1;
}

static int core_backends(lua_State *L) {
  wm_backend_info info;
  lua_newtable(L);
  for (size_t i = 0; wm_backend_list(i, &info); i++) {
    lua_newtable(L);
    set_text(L, "name", info.name);
    set_text(L, "schemes", info.schemes);
    set_text(L, "library", info.library);
    set_text(L, "missing", info.missing);
    lua_rawseti(L, -2, (lua_Integer)i + 1);
  }
  return 1;
}

static int core_check(lua_State *L) {
  const char *url = wm_lua_text(L, 1);
  const char *topic = wm_lua_opt_text(L, 2);
  bool publisher = lua_toboolean(L, 4);
  wm_options *opts;
  wm_error err;
  int rc = wm_lua_options(L, 3, &opts);
  if (rc == WM_OK)
    rc = wm_check(url, topic, opts, publisher, &err);
  else
    wm_lua_out_of_memory(&err);
  wm_options_free(opts);
  if (rc != WM_OK) return wm_lua_fail_error(L, &err);
  lua_pushboolean(L, true);
  return 1;
}

static wm_log_level check_level(lua_State *L, int arg) {
  lua_Integer level = luaL_checkinteger(L, arg);
  luaL_argcheck(L, level >= WM_LOG_DEBUG && level <= WM_LOG_ERROR, arg,
                "level from 0 to 3 expected");
  return (wm_log_level)level;
}

static int core_log(lua_State *L) {
  const wm_lua_host *host = wm_lua_state_of(L)->host;
  wm_log_level level = check_level(L, 1);
  const char *line = luaL_checkstring(L, 2);
  if (host->log)
    host->log(host->arg, level, line);
  else
    fprintf(stderr, "%s\n", line);
  return 0;
}

/* Puts the descriptors of the list at index 1 into fds; raises when one is none. */
static void read_fds(lua_State *L, struct pollfd *fds, size_t n) {
  for (size_t i = 0; i < n; i++) {
    int is_integer;
    lua_rawgeti(L, 1, (lua_Integer)i + 1);
    lua_Integer fd = lua_tointegerx(L, -1, &is_integer);
    luaL_argcheck(L, is_integer && fd >= 0 && fd <= INT_MAX, 1, "a list of descriptors expected");
    fds[i] = (struct pollfd){.fd = (int)fd, .events = POLLIN};
    lua_pop(L, 1);
  }
}

static int core_poll(lua_State *L) {
  luaL_checktype(L, 1, LUA_TTABLE);
  int timeout_ms = wm_lua_ms(L, 2);
  size_t n = lua_rawlen(L, 1);
  struct pollfd *fds = lua_newuserdatauv(L, n * sizeof *fds, 0);
  read_fds(L, fds, n);
  int left = poll(fds, (nfds_t)n, timeout_ms);
  if (left < 0 && errno != EINTR) return luaL_error(L, "poll: %s", strerror(errno));
  lua_newtable(L);
  lua_Integer ready = 0;
  for (size_t i = 0; left > 0 && i < n; i++) {
    if (!fds[i].revents) continue;
    lua_pushinteger(L, fds[i].fd);
    lua_rawseti(L, -2, ++ready);
    left--;
  }
  return 1;
}

/* ---- for what only a host has ------------------------------------------------------------------------- */

static int core_waiting(lua_State *L) {
  const wm_lua_host *host = wm_lua_state_of(L)->host;
  lua_pushboolean(L, host->waiting ? host->waiting(host->arg) : true);
  return 1;
}

static int core_kept(lua_State *L) {
  const wm_lua_host *host = wm_lua_state_of(L)->host;
  const char *name = wm_lua_text(L, 1);
  size_t len = 0;
  const char *text = host->kept ? host->kept(host->arg, name, &len) : NULL;
  if (!text) return 0;
  lua_pushlstring(L, text, len);
  return 1;
}

static int core_keep(lua_State *L) {
  const wm_lua_host *host = wm_lua_state_of(L)->host;
  const char *name = wm_lua_opt_text(L, 1);
  size_t len = 0;
  const char *text = name ? luaL_checklstring(L, 2, &len) : NULL;
  if (host->keep) host->keep(host->arg, name, text, len);
  return 0;
}

static int core_watch(lua_State *L) {
  const wm_lua_host *host = wm_lua_state_of(L)->host;
  const char *path = wm_lua_text(L, 1);
  if (host->watch) host->watch(host->arg, path);
  return 0;
}

static int core_configure(lua_State *L) {
  const wm_lua_host *host = wm_lua_state_of(L)->host;
  const char *name = wm_lua_text(L, 1);
  const char *value = wm_lua_text(L, 2);
  wm_error err;
  if (host->configure && host->configure(host->arg, name, value, &err) != WM_OK)
    return wm_lua_fail_error(L, &err);
  lua_pushboolean(L, true);
  return 1;
}

/* ---- opening -------------------------------------------------------------------------------------------- */

void wm_lua_functions(lua_State *L, int to, const luaL_Reg *list, int up, int more) {
  int top = lua_gettop(L);
  luaL_checkstack(L, UP_COUNT + more + 2, "functions of wm.core");
  lua_pushvalue(L, to);
  for (int i = 0; i < UP_COUNT; i++)
    lua_pushvalue(L, up + i);
  for (int i = more - 1; i >= 0; i--)
    lua_pushvalue(L, top - i);
  luaL_setfuncs(L, list, UP_COUNT + more);
  lua_settop(L, top - more);
}

void wm_lua_name(lua_State *L, int meta, const char *name) {
  lua_pushstring(L, name);
  lua_setfield(L, meta, "__name");
  lua_pushstring(L, name);
  lua_setfield(L, meta, "__metatable");
}

static int state_gc(lua_State *L) {
  wm_lua_state *st = lua_touserdata(L, 1);
  if (st->closed) return 0;
  st->closed = true;
  while (st->consumers)
    wm_lua_consumer_drop(st->consumers);
  while (st->publishers)
    wm_lua_publisher_drop(st->publishers);
  wm_lua_mailbox_close(st, !st->hosted);
  wm_lua_mailbox_release(st->box);
  return 0;
}

/* Pushes the userdata of this state. */
static void new_state(lua_State *L) {
  wm_lua_state *st = lua_newuserdatauv(L, sizeof *st, STATE_EMPTY_METADATA);
  lua_rawgetp(L, LUA_REGISTRYINDEX, &host_key);
  const wm_lua_host *host = lua_touserdata(L, -1);
  lua_pop(L, 1);
  *st = (wm_lua_state){.host = host ? host : &no_host, .hosted = host != NULL, .closed = true};
  lua_newtable(L);
  lua_pushcfunction(L, state_gc);
  lua_setfield(L, -2, "__gc");
  wm_lua_name(L, lua_gettop(L), "wm.state");
  lua_setmetatable(L, -2);
  st->box = wm_lua_mailbox_new();
  if (!st->box) luaL_error(L, "wm.core: no mailbox for this Lua state: %s", strerror(errno));
  st->closed = false;
  lua_newtable(L);
  lua_setiuservalue(L, -2, STATE_CLOSING);
}

static void set_fields(lua_State *L, const wm_lua_state *st, int core) {
  const wm_lua_host *host = st->host;
  lua_pushvalue(L, core);
  set_text(L, "version", WM_VERSION);
  set_text(L, "broker", host->broker);
  wm_lua_set_count(L, "generation", (uint64_t)host->generation);
  wm_lua_set_count(L, "worker", (uint64_t)host->worker);
  wm_lua_set_count(L, "log_level", (uint64_t)host->log_level);
  lua_pushboolean(L, host->log_json);
  lua_setfield(L, -2, "log_json");
  lua_pushboolean(L, st->hosted);
  lua_setfield(L, -2, "hosted");
  lua_newtable(L);
  lua_setfield(L, -2, "methods");
  lua_pop(L, 1);
}

static const luaL_Reg functions[] = {{"uuid", core_uuid},
                                     {"now", core_now},
                                     {"clock", core_clock},
                                     {"mask", core_mask},
                                     {"nearest", core_nearest},
                                     {"duration", core_duration},
                                     {"size", core_size},
                                     {"options", core_options},
                                     {"backends", core_backends},
                                     {"check", core_check},
                                     {"log", core_log},
                                     {"poll", core_poll},
                                     {"waiting", core_waiting},
                                     {"kept", core_kept},
                                     {"keep", core_keep},
                                     {"watch", core_watch},
                                     {"configure", core_configure},
                                     {NULL, NULL}};

/* Loaded again in the same state it gives the same table: handles of both are of the same types. */
int luaopen_wm_core(lua_State *L) {
  luaL_checkversion(L);
  if (lua_rawgetp(L, LUA_REGISTRYINDEX, &state_key) == LUA_TUSERDATA) {
    lua_getiuservalue(L, -1, STATE_CORE);
    return 1;
  }
  lua_settop(L, 0);
  luaL_checkstack(L, 2 * UP_COUNT + LUA_MINSTACK, "wm.core");
  lua_newtable(L);
  int core = lua_gettop(L);
  int up = core + UP_STATE;
  new_state(L);
  for (int i = UP_STATE + 1; i <= UP_COUNT; i++)
    lua_newtable(L);
  set_fields(L, lua_touserdata(L, up), core);
  wm_lua_functions(L, core, functions, up, 0);
  wm_lua_completions_open(L, core, up);
  wm_lua_message_open(L, core, up);
  wm_lua_publisher_open(L, core, up);
  wm_lua_consumer_open(L, core, up);
  lua_pushvalue(L, core);
  lua_setiuservalue(L, up, STATE_CORE);
  lua_pushvalue(L, up);
  lua_rawsetp(L, LUA_REGISTRYINDEX, &state_key);
  lua_pushvalue(L, core);
  return 1;
}
