/*
 * wm_lua.h - the C half of the Lua module, as its host sees it.
 *
 * luaopen_wm_core makes the table `wm.core` (core.meta.lua describes it); scripts/wm (Lua) puts coroutines,
 * options and the router on top. The module knows no host. A host that wants to own subscriptions (to keep
 * them while Lua states come and go) sets a wm_lua_host before the module is loaded in a state.
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

  /* Opens or joins a subscription and gives a consumer of this state's own, which may get its first message
   * much later. Default: wm_subscribe_async, then wm_consumer_open. `where` is the script's "file:line". cb is
   * called once, from any thread, as in wm_subscribe_async; the consumer may be read before. */
  int (*subscribe)(void *arg, const char *url, const char *topic, const wm_options *opts, const char *where,
                   wm_consumer **con, wm_done_cb cb, void *cb_arg, wm_error *err);

  /* The state wants no more messages from it. Default: wm_subscription_close_async of its subscription. The
   * binding closes con after cb. */
  void (*unsubscribe)(void *arg, wm_consumer *con, int timeout_ms, wm_done_cb cb, void *cb_arg);

  /* next() or take() of a consumer is called: what ran before has come to its end. Default: nothing. */
  void (*taking)(void *arg);

  /* The main chunk is about to wait in a wm call for the first time: it is loaded as far as it goes. False:
   * it must not wait (the script is only being checked); the call raises. Default: true. */
  bool (*waiting)(void *arg);

  /* wm.keep(name): the text that the last generation left under it, borrowed until the next call; NULL: none.
   * Called at the switch, before the first message. Default: none. */
  const char *(*kept)(void *arg, const char *name, size_t *len);
  /* The answer to the event "keep": one call a name with its text, then one with name NULL. */
  void (*keep)(void *arg, const char *name, const char *text, size_t len);

  /* wm.watch(path). Default: nothing. */
  void (*watch)(void *arg, const char *path);

  /* wm.configure of what is the host's: "log", "burst_timeout", "memory_limit", "reload_grace", "load_timeout"
   * and "broker", as text. Default: nothing. */
  int (*configure)(void *arg, const char *name, const char *value, wm_error *err);

  /* One line of wm.log, made as log_format says. Default: to stderr. */
  void (*log)(void *arg, wm_log_level level, const char *line);
  wm_log_level log_level; /* of what is made at all */
  bool log_json;          /* one JSON object a line */

  const char *broker;  /* the default broker's URL; NULL: WM_BROKER, then sqlite:wmlua.db */
  int generation, worker; /* from 1 */
} wm_lua_host;

/* Before luaopen_wm_core runs in L; host is borrowed until the state is closed. */
void wm_lua_set_host(lua_State *L, const wm_lua_host *host);

/* What other threads use to speak to a state: events, which core.completed() returns there. A mailbox outlives
 * its state as long as somebody holds it. */
typedef struct wm_lua_mailbox wm_lua_mailbox;

wm_lua_mailbox *wm_lua_mailbox_of(lua_State *L); /* retained; after luaopen_wm_core */
void wm_lua_mailbox_release(wm_lua_mailbox *box);
/* Any thread. name is static; events are told in order. The Lua half knows:
 *   "keep"           give what wm.keep holds to host.keep, now
 *   "retire"         this generation has been replaced: run on_unload, end timers and loops over
 *                    subscriptions, finish what is in flight, then let the loop end
 *   "stop" (ms)      close everything gently within that time, then let the loop end
 * WM_OK, WM_NOMEM, WM_CLOSED (the state is gone). */
int wm_lua_post(wm_lua_mailbox *box, const char *name, int value);

#endif
