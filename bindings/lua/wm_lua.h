/*
 * wm_lua.h - the C half of the Lua module, as its host sees it.
 *
 * luaopen_wm_core makes the table `wm.core`; scripts/wm (Lua) puts coroutines, options and the router on top.
 * The module knows no host. A host that wants to own subscriptions (to keep them while Lua states come and go)
 * sets a wm_lua_host before the module is loaded in a state.
 */
#ifndef WM_LUA_H
#define WM_LUA_H

#include <lua.h>

#include "wm.h"

#if defined(__GNUC__)
__attribute__((visibility("default")))
#endif
int luaopen_wm_core(lua_State *L);

/* All members are called on the thread of the Lua state, with `arg`. A NULL member means the default. */
typedef struct wm_lua_host {
  void *arg;

  /* Opens or joins a subscription and gives a consumer of this state's own. Default: wm_subscribe_async, then
   * wm_consumer_open. `where` is the script's "file:line". cb is called once, from any thread, as in
   * wm_subscribe_async; the consumer may be read before. */
  int (*subscribe)(void *arg, const char *url, const char *topic, const wm_options *opts, const char *where,
                   wm_consumer **con, wm_subscription **sub, wm_done_cb cb, void *cb_arg, wm_error *err);

  /* The state wants no more messages from it. Default: wm_subscription_close_async; con is closed by the
   * binding after cb, sub is not touched again. */
  void (*unsubscribe)(void *arg, wm_consumer *con, wm_subscription *sub, int timeout_ms, wm_done_cb cb, void *cb_arg);

  /* The main chunk is about to wait in a wm call for the first time. Default: nothing. */
  void (*waiting)(void *arg);

  /* wm.keep(name): the plain-data value that the last generation left under it, pushed on the stack; false (nothing
   * pushed): none. Called at the switch, before the first message. Default: none. */
  bool (*kept)(void *arg, lua_State *L, const char *name);

  /* wm.watch(path). Default: nothing. */
  void (*watch)(void *arg, const char *path);

  const char *broker;  /* the default broker's URL; NULL: WM_BROKER, then sqlite:wmlua.db */
  int generation, worker; /* from 1 */
} wm_lua_host;

/* Before luaopen_wm_core runs in L; host is borrowed until the state is closed. */
void wm_lua_set_host(lua_State *L, const wm_lua_host *host);

#endif
