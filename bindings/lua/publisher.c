/*
 * publisher.c - publishers as Lua sees them; the thread of the Lua state. Results come through the mailbox.
 *
 * One call may have messages of several topics (each its own): what stands side by side with one topic is one
 * part, given to libwm by itself, in order. All parts together are one op.
 */
#include <stdlib.h>
#include <string.h>

#include "binding.h"

static const wm_lua_kind kind = {"wm.publisher"};

struct wm_lua_publisher {
  const wm_lua_kind *kind; /* of the module; first */
  wm_lua_state *st;
  wm_publisher *pub;              /* NULL: closed */
  wm_lua_op *end;                 /* of its close, until that begins */
  wm_lua_publisher *next, **link; /* among those of the state */
};

/* The messages of one call: a userdata when there are several, so that nothing is lost when Lua raises. */
typedef struct batch {
  size_t n;            /* made so far */
  wm_message **msgs;   /* a reference each */
  const char **topics; /* borrowed from the arguments */
  wm_result *results;
} batch;

/* ---- gathering ---------------------------------------------------------------------------------------- */

static void release(batch *all) {
  while (all->n > 0)
    wm_message_release(all->msgs[--all->n]);
}

static int batch_gc(lua_State *L) {
  release(lua_touserdata(L, 1));
  return 0;
}

#define ARG_TOPIC 2
#define ARG_MESSAGES 3

/* Raises unless the value on top of the stack can be published. */
static void check_item(lua_State *L, const char *topic, size_t at) {
  int type = lua_type(L, -1);
  bool plain = type == LUA_TSTRING || type == LUA_TNUMBER;
  if (!plain && !wm_lua_to_message(L, -1)) {
    const char *got = luaL_typename(L, -1);
    const char *way_out = type == LUA_TTABLE ? "; write wm.message{ json = t }" : "";
    luaL_argerror(
        L, ARG_MESSAGES,
        lua_pushfstring(L, "string or message expected, #%d is a %s%s", (int)at + 1, got, way_out));
  }
  if (!topic && (plain || !wm_lua_message_own_topic(L, lua_gettop(L))))
    luaL_argerror(
        L, ARG_TOPIC,
        lua_pushfstring(L, "topic expected: message #%d has none of its own", (int)at + 1));
}

/* Adds the value on top of the stack. */
static int add(lua_State *L, batch *all, const char *topic, wm_error *err) {
  int index = lua_gettop(L);
  wm_lua_message *ud = wm_lua_to_message(L, index);
  wm_message *msg = NULL;
  if (ud) {
    msg = wm_lua_publishable(L, index, ud, err);
  } else {
    wm_slice payload;
    payload.data = lua_tolstring(L, index, &payload.len);
    wm_message_new(&msg, NULL, payload, NULL, 0, err);
  }
  if (!msg) return err->code;
  all->topics[all->n] = topic ? topic : wm_lua_message_own_topic(L, index);
  all->msgs[all->n++] = msg;
  return WM_OK;
}

static batch *new_batch(lua_State *L, size_t n) {
  size_t each = sizeof(wm_message *) + sizeof(char *) + sizeof(wm_result);
  batch *all = lua_newuserdatauv(L, sizeof *all + n * each, 0);
  all->n = 0;
  all->msgs = (wm_message **)(all + 1);
  all->topics = (const char **)(all->msgs + n);
  all->results = (wm_result *)(all->topics + n);
  lua_pushvalue(L, UPVALUE(UP_BATCH));
  lua_setmetatable(L, -2);
  return all;
}

static int gather_list(lua_State *L, batch **out, const char *topic, wm_error *err) {
  size_t n = lua_rawlen(L, ARG_MESSAGES);
  lua_pushnil(L);
  if (n == 0 && lua_next(L, ARG_MESSAGES))
    return luaL_argerror(L, ARG_MESSAGES,
                         "string, message or list of them expected, got another table; write "
                         "wm.message{ json = t }");
  lua_settop(L, ARG_MESSAGES);
  for (size_t i = 0; i < n; i++, lua_pop(L, 1)) {
    lua_rawgeti(L, ARG_MESSAGES, (lua_Integer)i + 1);
    check_item(L, topic, i);
  }
  batch *all = *out = new_batch(L, n);
  int rc = WM_OK;
  while (rc == WM_OK && all->n < n) {
    lua_rawgeti(L, ARG_MESSAGES, (lua_Integer)all->n + 1);
    rc = add(L, all, topic, err);
    lua_pop(L, 1);
  }
  return rc;
}

/* The only message of a call, in the place of a batch on the stack. */
typedef struct lone {
  batch all;
  wm_message *msg;
  const char *topic;
  wm_result result;
} lone;

/* All that a call shall publish: *out is in `one`, or stands on the stack. */
static int gather(lua_State *L, lone *one, batch **out, wm_error *err) {
  const char *topic = wm_lua_opt_text(L, ARG_TOPIC);
  luaL_checkany(L, ARG_MESSAGES);
  lua_settop(L, ARG_MESSAGES);
  if (lua_istable(L, ARG_MESSAGES)) return gather_list(L, out, topic, err);
  check_item(L, topic, 0);
  one->all = (batch){.msgs = &one->msg, .topics = &one->topic, .results = &one->result};
  *out = &one->all;
  return add(L, *out, topic, err);
}

/* The end of the part that begins at i. */
static size_t part_end(const batch *all, size_t i) {
  size_t end = i + 1;
  while (end < all->n &&
         (all->topics[end] == all->topics[i] || strcmp(all->topics[end], all->topics[i]) == 0))
    end++;
  return end;
}

static size_t count_parts(const batch *all) {
  size_t parts = 0;
  for (size_t i = 0; i < all->n; i = part_end(all, i))
    parts++;
  return parts;
}

/* ---- publishing ----------------------------------------------------------------------------------------- */

static wm_lua_publisher *check_publisher(lua_State *L) { return wm_lua_check(L, 1, &kind); }

/* One that was not closed; raises. */
static wm_lua_publisher *check_open(lua_State *L) {
  wm_lua_publisher *pub = check_publisher(L);
  luaL_argcheck(L, pub->pub, 1, "the publisher is closed");
  return pub;
}

/* Publishes part after part; what follows one that failed is not sent. */
static int publish_parts(wm_publisher *pub, batch *all, wm_error *err) {
  int rc = WM_OK;
  for (size_t i = 0, end; i < all->n; i = end) {
    end = part_end(all, i);
    if (rc == WM_OK)
      rc = wm_publish(pub, all->topics[i], all->msgs + i, end - i, all->results + i, err);
    else
      for (size_t j = i; j < end; j++)
        all->results[j] = WM_RESULT_NOT_SENT;
  }
  return rc;
}

static int publish_blocking(lua_State *L) {
  wm_lua_publisher *pub = check_open(L);
  lone one;
  batch *all;
  wm_error err;
  int rc = gather(L, &one, &all, &err);
  if (rc != WM_OK) {
    release(all);
    return wm_lua_fail_error(L, &err);
  }
  rc = publish_parts(pub->pub, all, &err);
  size_t n = all->n;
  release(all);
  if (rc == WM_OK) {
    lua_pushboolean(L, true);
    return 1;
  }
  wm_lua_fail_error(L, &err);
  wm_lua_push_results(L, all->results, n);
  return 4;
}

/* Begins to publish all, as op. Not WM_OK: nothing was taken and op is still the caller's. A later part that is
 * not taken is told with the end of op. */
static int send_parts(wm_publisher *pub, const batch *all, wm_lua_op *op, wm_error *err) {
  op->parts_left = count_parts(all);
  int rc = WM_OK;
  wm_lua_part *part = op->parts;
  for (size_t i = 0, end; i < all->n; i = end, part++) {
    end = part_end(all, i);
    part->at = i;
    if (rc == WM_OK) {
      rc = wm_publish_async(pub, all->topics[i], all->msgs + i, end - i, wm_lua_part_done, part,
                            err);
      if (rc != WM_OK && i == 0) return rc;
    }
    if (rc != WM_OK) wm_lua_part_done(part, rc, NULL, end - i, err);
  }
  return WM_OK;
}

static int send(lua_State *L) {
  wm_lua_state *st = wm_lua_open_state(L);
  wm_lua_publisher *pub = check_open(L);
  lone one;
  batch *all;
  wm_error err;
  int rc = gather(L, &one, &all, &err);
  if (rc != WM_OK) {
    release(all);
    return wm_lua_fail_error(L, &err);
  }
  wm_lua_op *op = wm_lua_op_new(st, count_parts(all), all->n);
  if (!op) {
    release(all);
    return luaL_error(L, "out of memory");
  }
  lua_Integer id = op->id;
  if (all->n == 0) {
    wm_lua_op_done(op, WM_OK, NULL);
  } else if ((rc = send_parts(pub->pub, all, op, &err)) != WM_OK) {
    wm_lua_op_free(op);
    op = NULL;
  }
  release(all);
  if (!op) return wm_lua_fail_error(L, &err);
  lua_pushinteger(L, id);
  return 1;
}

/* ---- the rest --------------------------------------------------------------------------------------------- */

/* Begins to close it and returns the id of its end. */
static lua_Integer begin_close(wm_lua_publisher *pub, int timeout_ms) {
  *pub->link = pub->next;
  if (pub->next) pub->next->link = pub->link;
  wm_lua_op *end = pub->end;
  wm_publisher *closing = pub->pub;
  lua_Integer id = end->id;
  pub->end = NULL;
  pub->pub = NULL;
  wm_lua_op_count(end);
  wm_publisher_close_async(closing, timeout_ms, wm_lua_op_done, end);
  return id;
}

void wm_lua_publisher_drop(wm_lua_publisher *pub) {
  if (!pub->pub) return;
  wm_lua_op_silence(pub->end);
  begin_close(pub, -1); /* no limit but its messages' own, the option timeout */
}

static int publisher_gc(lua_State *L) {
  wm_lua_publisher_drop(check_publisher(L));
  return 0;
}

static int publisher_close(lua_State *L) {
  wm_lua_publisher *pub = check_publisher(L);
  int timeout_ms = wm_lua_ms(L, 2);
  if (pub->pub) {
    lua_pushinteger(L, begin_close(pub, timeout_ms));
    return 1;
  }
  wm_lua_op *op = wm_lua_op_new(wm_lua_open_state(L), 0, 0);
  if (!op) return luaL_error(L, "out of memory");
  lua_pushinteger(L, op->id);
  wm_lua_op_done(op, WM_OK, NULL);
  return 1;
}

static int publisher_stats(lua_State *L) {
  wm_lua_publisher *pub = check_open(L);
  wm_publisher_stats stats;
  wm_publisher_get_stats(pub->pub, &stats);
  lua_newtable(L);
  wm_lua_set_count(L, "stored", stats.stored);
  wm_lua_set_count(L, "refused", stats.refused);
  wm_lua_set_count(L, "not_sent", stats.not_sent);
  wm_lua_set_count(L, "unknown", stats.unknown);
  wm_lua_set_count(L, "batches", stats.batches);
  wm_lua_set_count(L, "queued", stats.queued);
  wm_lua_set_count(L, "queued_bytes", stats.queued_bytes);
  return 1;
}

enum { PUBLISHER_URL = 1 }; /* user value: the masked URL */

static int publisher_tostring(lua_State *L) {
  wm_lua_publisher *pub = check_publisher(L);
  lua_getiuservalue(L, 1, PUBLISHER_URL);
  lua_pushfstring(L, "%s: %s%s", kind.name, lua_tostring(L, -1), pub->pub ? "" : " (closed)");
  return 1;
}

/* ---- opening ------------------------------------------------------------------------------------------------ */

static int new_publisher(lua_State *L) {
  wm_lua_state *st = wm_lua_open_state(L);
  const char *url = wm_lua_text(L, 1);
  lua_settop(L, 2);
  wm_lua_publisher *pub = lua_newuserdatauv(L, sizeof *pub, PUBLISHER_URL);
  *pub = (wm_lua_publisher){.kind = &kind, .st = st};
  wm_lua_push_masked(L, url);
  lua_setiuservalue(L, -2, PUBLISHER_URL);
  lua_pushvalue(L, UPVALUE(UP_PUBLISHER));
  lua_setmetatable(L, -2);
  wm_options *opts;
  wm_error err;
  int rc = wm_lua_options(L, 2, &opts);
  pub->end = wm_lua_op_new(st, 0, 0);
  if (rc != WM_OK || !pub->end)
    rc = wm_lua_out_of_memory(&err);
  else
    rc = wm_publisher_open(&pub->pub, url, opts, &err);
  wm_options_free(opts);
  if (rc != WM_OK) {
    wm_lua_op_free(pub->end);
    return wm_lua_fail_error(L, &err);
  }
  pub->next = st->publishers;
  pub->link = &st->publishers;
  if (pub->next) pub->next->link = &pub->next;
  st->publishers = pub;
  return 1;
}

void wm_lua_publisher_open(lua_State *L, int core, int up) {
  static const luaL_Reg functions[] = {{"publisher", new_publisher}, {NULL, NULL}};
  static const luaL_Reg methods[] = {{"publish_blocking", publish_blocking},
                                     {"send", send},
                                     {"close", publisher_close},
                                     {"stats", publisher_stats},
                                     {NULL, NULL}};
  static const luaL_Reg meta_functions[] = {{"__gc", publisher_gc},
                                            {"__close", publisher_gc},
                                            {"__tostring", publisher_tostring},
                                            {NULL, NULL}};
  static const luaL_Reg batch_functions[] = {{"__gc", batch_gc}, {NULL, NULL}};
  int meta = up + UP_PUBLISHER - UP_STATE;
  wm_lua_name(L, meta, kind.name);
  wm_lua_functions(L, core, functions, up, 0);
  wm_lua_functions(L, meta, meta_functions, up, 0);
  wm_lua_functions(L, up + UP_BATCH - UP_STATE, batch_functions, up, 0);
  lua_getfield(L, core, "methods");
  lua_newtable(L);
  wm_lua_functions(L, lua_gettop(L), methods, up, 0);
  lua_pushvalue(L, -1);
  lua_setfield(L, meta, "__index");
  lua_setfield(L, -2, "publisher");
  lua_pop(L, 1);
}
