/*
 * consumer.c - consumers as Lua sees them: a subscription, or in a host this state's part of one, and the
 * messages that it holds for their userdata. The thread of the Lua state.
 *
 * close() begins; until its end comes through the mailbox, messages in hand can still be settled. A consumer
 * that is collected, or left over when the state is closed, is closed with nobody asking for its end.
 */
#include <errno.h>
#include <limits.h>
#include <poll.h>
#include <stdlib.h>
#include <string.h>

#include "binding.h"
#include "clock.h"

static const wm_lua_kind kind = {"wm.consumer"};

#define NO_SLOT UINT32_MAX

/* A message in hand, or a free place. */
typedef struct held {
  wm_message *msg; /* NULL: free */
  uint32_t next;   /* free: the next free place */
} held;

struct wm_lua_consumer {
  const wm_lua_kind *kind; /* of the module; first */
  wm_lua_state *st;
  wm_consumer *con;     /* NULL: closed */
  wm_subscription *sub; /* its own; NULL in a host, or when its close has begun */
  wm_lua_op *end;       /* of its close; NULL once that has ended */
  bool close_begun;
  bool pause_wanted; /* before a host attached it */

  held *held;
  uint32_t room, free;

  /* What the last wm_next gave and Lua has not got yet: more than nothing only while it is handed over, and
   * when there was no memory for that. */
  wm_message **got;
  size_t got_room, got_next, got_end;

  wm_lua_consumer *next, **link; /* among those of the state */
};

/* ---- what it holds ----------------------------------------------------------------------------------- */

/* Makes sure that there is a free place. */
static bool make_room(wm_lua_consumer *con) {
  if (con->free != NO_SLOT) return true;
  uint32_t room = con->room ? con->room * 2 : 16;
  held *more = realloc(con->held, room * sizeof *more);
  if (!more) return false;
  for (uint32_t slot = con->room; slot < room; slot++)
    more[slot] = (held){.next = slot + 1 < room ? slot + 1 : NO_SLOT};
  con->free = con->room;
  con->held = more;
  con->room = room;
  return true;
}

bool wm_lua_consumer_holds(const wm_lua_consumer *con) { return con->con != NULL; }

void wm_lua_consumer_release(wm_lua_consumer *con, uint32_t slot) {
  held *place = &con->held[slot];
  wm_message_release(place->msg);
  *place = (held){.next = con->free};
  con->free = slot;
}

static void release_all(wm_lua_consumer *con) {
  for (uint32_t slot = 0; slot < con->room; slot++)
    wm_message_release(con->held[slot].msg);
  free(con->held);
  con->held = NULL;
  con->room = 0;
  con->free = NO_SLOT;
  while (con->got_next < con->got_end)
    wm_message_release(con->got[con->got_next++]);
  free(con->got);
  con->got = NULL;
  con->got_room = 0;
}

/* ---- taking messages ------------------------------------------------------------------------------------ */

static wm_lua_consumer *check_consumer(lua_State *L) { return wm_lua_check(L, 1, &kind); }

/* One that was not closed; raises. */
static wm_lua_consumer *check_open(lua_State *L) {
  wm_lua_consumer *con = check_consumer(L);
  luaL_argcheck(L, !con->close_begun, 1, "the subscription is closed");
  return con;
}

static wm_subscription *subscription(const wm_lua_consumer *con) {
  return con->con ? wm_consumer_subscription(con->con) : NULL;
}

/* A pause that came before there was a subscription. */
static void catch_up(wm_lua_consumer *con) {
  wm_subscription *sub = subscription(con);
  if (!sub) return;
  con->pause_wanted = false;
  wm_subscription_pause(sub);
}

/* Takes up to max messages, never waiting. Returns how many Lua has not got yet, or a code. */
static int fetch(wm_lua_consumer *con, size_t max) {
  const wm_lua_host *host = con->st->host;
  if (host->taking) host->taking(host->arg);
  if (con->got_next < con->got_end) return (int)(con->got_end - con->got_next);
  if (!con->con) return WM_CLOSED;
  if (con->pause_wanted) catch_up(con);
  if (max > con->got_room) {
    wm_message **more = realloc(con->got, max * sizeof *more);
    if (!more) return WM_NOMEM;
    con->got = more;
    con->got_room = max;
  }
  int n = wm_next(con->con, con->got, max, 0);
  con->got_next = 0;
  con->got_end = n > 0 ? (size_t)n : 0;
  return n;
}

/* Pushes the next message of what was taken. */
static void hand_over(lua_State *L, wm_lua_consumer *con) {
  if (!make_room(con)) luaL_error(L, "out of memory");
  uint32_t slot = con->free;
  wm_message *msg = con->got[con->got_next];
  wm_lua_push_received(L, 1, con, msg, slot);
  /* Nothing raises any more: the message is the userdata's. */
  con->free = con->held[slot].next;
  con->held[slot].msg = msg;
  con->got_next++;
}

/* nil and the name of the code. */
static int nothing(lua_State *L, int code) {
  lua_pushnil(L);
  lua_pushstring(L, wm_code_name(code));
  return 2;
}

static int next(lua_State *L) {
  wm_lua_consumer *con = check_consumer(L);
  int n = fetch(con, 1);
  if (n < 0) return nothing(L, n);
  hand_over(L, con);
  return 1;
}

#define TAKE_MAX (1 << 20)

static int take(lua_State *L) {
  wm_lua_consumer *con = check_consumer(L);
  lua_Integer max = luaL_checkinteger(L, 2);
  luaL_argcheck(L, max >= 1 && max <= TAKE_MAX, 2, "a number of messages from 1 expected");
  int n = fetch(con, (size_t)max);
  if (n < 0) return nothing(L, n);
  lua_createtable(L, n, 0);
  for (int i = 1; i <= n; i++) {
    hand_over(L, con);
    lua_rawseti(L, -2, i);
  }
  return 1;
}

/* Waits in poll(2), which a signal ends, rather than in wm_next, so that Ctrl-C reaches the program. */
static int wait_next(lua_State *L) {
  wm_lua_consumer *con = check_consumer(L);
  int ms = wm_lua_ms(L, 2);
  int64_t deadline = ms < 0 ? INT64_MAX : wm_now_ms() + ms;
  for (;;) {
    int n = fetch(con, 1);
    int64_t left = n == WM_TIMEOUT ? deadline - wm_now_ms() : 0;
    if (n > 0) break;
    if (left <= 0) return nothing(L, n);
    struct pollfd fd = {.fd = wm_consumer_fd(con->con), .events = POLLIN};
    if (poll(&fd, 1, left < INT_MAX ? (int)left : -1) < 0 && errno == EINTR)
      return nothing(L, WM_TIMEOUT);
  }
  hand_over(L, con);
  return 1;
}

/* ---- closing ---------------------------------------------------------------------------------------------- */

static void unlink_consumer(wm_lua_consumer *con) {
  if (!con->link) return;
  *con->link = con->next;
  if (con->next) con->next->link = con->link;
  con->link = NULL;
}

void wm_lua_consumer_ended(wm_lua_consumer *con) {
  unlink_consumer(con);
  con->end = NULL;
  release_all(con);
  wm_consumer_close(con->con);
  con->con = NULL;
}

static void begin_close(wm_lua_consumer *con, int timeout_ms) {
  const wm_lua_host *host = con->st->host;
  con->close_begun = true;
  if (!con->sub)
    host->unsubscribe(host->arg, con->con, timeout_ms, wm_lua_op_done, con->end);
  else
    wm_subscription_close_async(con->sub, timeout_ms, wm_lua_op_done, con->end);
  con->sub = NULL;
}

void wm_lua_consumer_drop(wm_lua_consumer *con) {
  if (!con->con) return;
  /* What it has in hand nobody can settle any more: no need to wait for it. */
  wm_consumer_reclaim(con->con);
  wm_lua_op *end = con->end;
  wm_consumer *orphan = con->con;
  end->closes = NULL;
  wm_lua_op_silence(end);
  if (!con->close_begun) begin_close(con, -1);
  unlink_consumer(con);
  release_all(con);
  con->con = NULL;
  con->end = NULL;
  wm_lua_op_adopt(end, orphan);
}

static int consumer_gc(lua_State *L) {
  wm_lua_consumer_drop(check_consumer(L));
  return 0;
}

/* Begins to close it; it stays alive until the end, which completed() meets. */
static void close_consumer(lua_State *L, wm_lua_consumer *con, int timeout_ms) {
  lua_getiuservalue(L, UPVALUE(UP_STATE), STATE_CLOSING);
  lua_pushvalue(L, 1);
  lua_rawseti(L, -2, con->end->id);
  lua_pop(L, 1);
  con->end->closes = con;
  begin_close(con, timeout_ms);
}

static int consumer_close(lua_State *L) {
  wm_lua_consumer *con = check_consumer(L);
  int timeout_ms = wm_lua_ms(L, 2);
  wm_lua_op *end = con->end;
  if (!con->close_begun) {
    close_consumer(L, con, timeout_ms);
  } else if (!end) {
    end = wm_lua_op_new(wm_lua_open_state(L), 0, 0);
    if (!end) return luaL_error(L, "out of memory");
    wm_lua_op_done(end, WM_OK, NULL);
  }
  lua_pushinteger(L, end->id);
  return 1;
}

/* At the end of the scope of a `local c <close>`. */
static int consumer_leave(lua_State *L) {
  wm_lua_consumer *con = check_consumer(L);
  if (con->close_begun) return 0;
  wm_lua_op_silence(con->end);
  close_consumer(L, con, -1);
  return 0;
}

/* ---- the rest of its methods ------------------------------------------------------------------------------- */

static int consumer_fd(lua_State *L) {
  wm_lua_consumer *con = check_consumer(L);
  luaL_argcheck(L, con->con, 1, "the subscription is closed");
  lua_pushinteger(L, wm_consumer_fd(con->con));
  return 1;
}

static int consumer_pause(lua_State *L) {
  wm_lua_consumer *con = check_open(L);
  con->pause_wanted = true;
  catch_up(con);
  return 0;
}

static int consumer_resume(lua_State *L) {
  wm_lua_consumer *con = check_open(L);
  con->pause_wanted = false;
  if (subscription(con)) wm_subscription_resume(subscription(con));
  return 0;
}

static int consumer_flush(lua_State *L) {
  wm_lua_consumer *con = check_open(L);
  int timeout_ms = wm_lua_ms(L, 2);
  wm_lua_op *op = wm_lua_op_new(wm_lua_open_state(L), 0, 0);
  if (!op) return luaL_error(L, "out of memory");
  lua_pushinteger(L, op->id);
  if (subscription(con))
    wm_flush_async(subscription(con), timeout_ms, wm_lua_op_done, op);
  else
    wm_lua_op_done(op, WM_OK, NULL);
  return 1;
}

static int consumer_stats(lua_State *L) {
  wm_lua_consumer *con = check_consumer(L);
  wm_subscription_stats stats = {0};
  if (subscription(con)) wm_subscription_get_stats(subscription(con), &stats);
  lua_newtable(L);
  wm_lua_set_count(L, "fetched", stats.fetched);
  wm_lua_set_count(L, "handed_out", stats.handed_out);
  wm_lua_set_count(L, "acked", stats.acked);
  wm_lua_set_count(L, "nacked", stats.nacked);
  wm_lua_set_count(L, "dead", stats.dead);
  wm_lua_set_count(L, "released", stats.released);
  wm_lua_set_count(L, "lost", stats.lost);
  wm_lua_set_count(L, "undecodable", stats.undecodable);
  wm_lua_set_count(L, "waiting", stats.waiting);
  wm_lua_set_count(L, "in_flight", stats.in_flight);
  wm_lua_set_count(L, "delayed", stats.delayed);
  wm_lua_set_count(L, "unsettled", stats.unsettled);
  wm_lua_set_count(L, "bytes", stats.bytes);
  wm_lua_set_count(L, "window", stats.window);
  wm_lua_set_count(L, "fetches", stats.fetches);
  wm_lua_set_count(L, "settles", stats.settles);
  wm_lua_set_count(L, "retries", stats.retries);
  wm_lua_set_count(L, "switches", stats.switches);
  lua_pushboolean(L, stats.connected);
  lua_setfield(L, -2, "connected");
  return 1;
}

/* The group as the subscription has it; before there is one, as its options said. */
static void push_group(lua_State *L, const wm_lua_consumer *con) {
  if (subscription(con))
    lua_pushstring(L, wm_subscription_group(subscription(con)));
  else
    lua_getiuservalue(L, 1, CONSUMER_GROUP);
}

static int consumer_index(lua_State *L) {
  wm_lua_consumer *con = check_consumer(L);
  lua_pushvalue(L, 2);
  if (lua_rawget(L, UPVALUE(UP_COUNT + 1)) != LUA_TNIL) return 1;
  const char *name = lua_type(L, 2) == LUA_TSTRING ? lua_tostring(L, 2) : "";
  if (strcmp(name, "topic") == 0)
    lua_getiuservalue(L, 1, CONSUMER_TOPIC);
  else if (strcmp(name, "group") == 0)
    push_group(L, con);
  return 1;
}

static int consumer_tostring(lua_State *L) {
  wm_lua_consumer *con = check_consumer(L);
  lua_getiuservalue(L, 1, CONSUMER_TOPIC);
  push_group(L, con);
  const char *group = lua_tostring(L, -1);
  lua_pushfstring(L, "%s: %s%s%s%s", kind.name, lua_tostring(L, -2), *group ? ", group " : "",
                  group, con->close_begun ? " (closed)" : "");
  return 1;
}

/* ---- opening -------------------------------------------------------------------------------------------------- */

/* A new userdata with its names, but without a consumer; its options stand at index opts. */
static wm_lua_consumer *new_userdata(lua_State *L, wm_lua_state *st, int topic, int opts) {
  wm_lua_consumer *con = lua_newuserdatauv(L, sizeof *con, CONSUMER_GROUP);
  *con = (wm_lua_consumer){.kind = &kind, .st = st, .free = NO_SLOT};
  lua_pushvalue(L, topic);
  lua_setiuservalue(L, -2, CONSUMER_TOPIC);
  if (!lua_istable(L, opts) || lua_getfield(L, opts, "group") != LUA_TSTRING)
    lua_pushliteral(L, "");
  lua_setiuservalue(L, opts + 2, CONSUMER_GROUP);
  lua_settop(L, opts + 2);
  lua_pushvalue(L, UPVALUE(UP_CONSUMER));
  lua_setmetatable(L, -2);
  return con;
}

/* Its own subscription and consumer. *begun is NULL afterwards when libwm has taken it. */
static int open_own(wm_lua_consumer *con, const char *url, const char *topic,
                    const wm_options *opts, wm_lua_op **begun, wm_error *err) {
  int rc = wm_subscribe_async(&con->sub, url, topic, opts, wm_lua_op_done, *begun, err);
  if (rc != WM_OK) return rc;
  wm_lua_op *taken = *begun;
  *begun = NULL;
  rc = wm_consumer_open(&con->con, con->sub, err);
  if (rc == WM_OK) return rc;
  wm_lua_op_silence(taken);
  wm_subscription_close_async(con->sub, 0, NULL, NULL);
  con->sub = NULL;
  return rc;
}

static int open_in_host(wm_lua_consumer *con, const char *url, const char *topic,
                        const wm_options *opts, const char *where, wm_lua_op **begun,
                        wm_error *err) {
  const wm_lua_host *host = con->st->host;
  int rc =
      host->subscribe(host->arg, url, topic, opts, where, &con->con, wm_lua_op_done, *begun, err);
  if (rc == WM_OK) *begun = NULL;
  return rc;
}

static int subscribe(lua_State *L) {
  wm_lua_state *st = wm_lua_open_state(L);
  const char *url = wm_lua_text(L, 1);
  const char *topic = wm_lua_text(L, 2);
  const char *where = wm_lua_text(L, 4);
  lua_settop(L, 4);
  wm_lua_consumer *con = new_userdata(L, st, 2, 3);
  wm_options *opts;
  wm_error err;
  int rc = wm_lua_options(L, 3, &opts);
  wm_lua_op *begun = wm_lua_op_new(st, 0, 0);
  con->end = wm_lua_op_new(st, 0, 0);
  lua_Integer id = begun ? begun->id : 0;
  if (rc != WM_OK || !begun || !con->end)
    rc = wm_lua_out_of_memory(&err);
  else if (st->host->subscribe)
    rc = open_in_host(con, url, topic, opts, where, &begun, &err);
  else
    rc = open_own(con, url, topic, opts, &begun, &err);
  wm_options_free(opts);
  if (rc != WM_OK) {
    wm_lua_op_free(begun);
    wm_lua_op_free(con->end);
    return wm_lua_fail_error(L, &err);
  }
  con->next = st->consumers;
  con->link = &st->consumers;
  if (con->next) con->next->link = &con->next;
  st->consumers = con;
  lua_pushinteger(L, id);
  return 2;
}

void wm_lua_consumer_open(lua_State *L, int core, int up) {
  static const luaL_Reg functions[] = {{"subscribe", subscribe}, {NULL, NULL}};
  static const luaL_Reg methods[] = {{"next", next},
                                     {"take", take},
                                     {"wait", wait_next},
                                     {"fd", consumer_fd},
                                     {"pause", consumer_pause},
                                     {"resume", consumer_resume},
                                     {"flush", consumer_flush},
                                     {"close", consumer_close},
                                     {"stats", consumer_stats},
                                     {NULL, NULL}};
  static const luaL_Reg meta_functions[] = {{"__gc", consumer_gc},
                                            {"__close", consumer_leave},
                                            {"__tostring", consumer_tostring},
                                            {NULL, NULL}};
  static const luaL_Reg index[] = {{"__index", consumer_index}, {NULL, NULL}};
  int meta = up + UP_CONSUMER - UP_STATE;
  wm_lua_name(L, meta, kind.name);
  wm_lua_functions(L, core, functions, up, 0);
  wm_lua_functions(L, meta, meta_functions, up, 0);
  lua_getfield(L, core, "methods");
  lua_newtable(L);
  wm_lua_functions(L, lua_gettop(L), methods, up, 0);
  lua_pushvalue(L, -1);
  wm_lua_functions(L, meta, index, up, 1);
  lua_setfield(L, -2, "consumer");
  lua_pop(L, 1);
}
