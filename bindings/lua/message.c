/*
 * message.c - messages as Lua sees them; the thread of the Lua state.
 *
 * A received message is a userdata without finalizer: its consumer holds the reference to the wm_message and
 * drops it as soon as the message is settled, or the consumer is closed. The userdata keeps its consumer alive
 * and carries the small fields itself. Payload and metadata become Lua values when they are first read.
 * A message made to be published owns its reference and has a finalizer: another metatable, same functions.
 */
#include <limits.h>
#include <string.h>

#include "binding.h"

static const wm_lua_kind received = {"wm.message"};
static const wm_lua_kind outgoing = {"wm.message"};

/* User values of a message. */
enum {
  VALUE_PAYLOAD = 1,
  VALUE_METADATA, /* a table; what Lua sees of it when `shown` */
  VALUE_OWNER,    /* received: the consumer; else the topic, or nil */
  VALUE_MEMO,     /* of the Lua half */
  VALUE_COUNT = VALUE_MEMO
};

struct wm_lua_message {
  const wm_lua_kind *kind; /* of the module; first */
  wm_message
      *msg; /* NULL: dropped. Received: the consumer's, while it holds what it was handed out */
  wm_lua_consumer *con; /* NULL: made to be published */
  int64_t time;
  uint32_t slot;
  unsigned attempt, failures;
  const char *undecodable; /* static */
  char settled;            /* 0, 'a'ck, 'n'ack: by this userdata */
  bool shown;              /* VALUE_METADATA is what Lua sees */
  size_t uuid_len;
  char data[]; /* uuid, NUL, position, NUL */
};

/* ---- making and finding --------------------------------------------------------------------------- */

static wm_lua_message *new_userdata(lua_State *L, const wm_lua_kind *kind, wm_slice uuid,
                                    wm_slice position) {
  size_t size = sizeof(wm_lua_message) + uuid.len + 1 + position.len + 1;
  wm_lua_message *ud = lua_newuserdatauv(L, size, VALUE_COUNT);
  *ud = (wm_lua_message){.kind = kind, .uuid_len = uuid.len};
  memcpy(ud->data, uuid.data, uuid.len);
  ud->data[uuid.len] = '\0';
  memcpy(ud->data + uuid.len + 1, position.data, position.len);
  ud->data[uuid.len + 1 + position.len] = '\0';
  lua_pushvalue(L, UPVALUE(kind == &received ? UP_RECEIVED : UP_OUTGOING));
  lua_setmetatable(L, -2);
  return ud;
}

void wm_lua_push_received(lua_State *L, int consumer, wm_lua_consumer *con, wm_message *msg,
                          uint32_t slot) {
  const char *position = wm_message_position(msg);
  wm_lua_message *ud =
      new_userdata(L, &received, wm_message_uuid(msg), (wm_slice){position, strlen(position)});
  ud->msg = msg;
  ud->con = con;
  ud->slot = slot;
  ud->attempt = wm_message_attempt(msg);
  ud->failures = wm_message_failures(msg);
  ud->time = wm_message_time(msg);
  ud->undecodable = wm_message_undecodable(msg);
  lua_pushvalue(L, consumer);
  lua_setiuservalue(L, -2, VALUE_OWNER);
}

wm_lua_message *wm_lua_to_message(lua_State *L, int index) {
  wm_lua_message *ud = wm_lua_to(L, index, &received);
  return ud ? ud : wm_lua_to(L, index, &outgoing);
}

static wm_lua_message *check_message(lua_State *L, int arg) {
  wm_lua_message *ud = wm_lua_to_message(L, arg);
  if (!ud) luaL_typeerror(L, arg, received.name);
  return ud;
}

/* The message behind ud; NULL: it has been dropped. */
static wm_message *held(const wm_lua_message *ud) {
  return ud->con && !wm_lua_consumer_holds(ud->con) ? NULL : ud->msg;
}

static void drop(wm_lua_message *ud) {
  if (!held(ud)) return;
  ud->msg = NULL;
  wm_lua_consumer_release(ud->con, ud->slot);
}

/* ---- payload and metadata --------------------------------------------------------------------------- */

static int raise_dropped(lua_State *L, const wm_lua_message *ud, const char *what) {
  return luaL_error(L,
                    "%s of message %s: it was not read before the message was settled, or its "
                    "subscription closed; read it in the handler",
                    what, ud->data);
}

/* Pushes the payload of the message at index. */
static void push_payload(lua_State *L, int index, wm_lua_message *ud) {
  if (lua_getiuservalue(L, index, VALUE_PAYLOAD) != LUA_TNIL) return;
  lua_pop(L, 1);
  wm_message *msg = held(ud);
  if (!msg) raise_dropped(L, ud, "payload");
  wm_slice payload = wm_message_payload(msg);
  lua_pushlstring(L, payload.data ? payload.data : "", payload.len);
  lua_pushvalue(L, -1);
  lua_setiuservalue(L, index, VALUE_PAYLOAD);
}

/* Makes sure that VALUE_METADATA is set: to the shared empty metadata, or to a plain table. */
static void read_metadata(lua_State *L, int index, wm_lua_message *ud) {
  int type = lua_getiuservalue(L, index, VALUE_METADATA);
  lua_pop(L, 1);
  if (type != LUA_TNIL) return;
  wm_message *msg = held(ud);
  if (!msg) raise_dropped(L, ud, "metadata");
  size_t pairs = wm_message_pairs(msg);
  if (pairs == 0) {
    lua_getiuservalue(L, UPVALUE(UP_STATE), STATE_EMPTY_METADATA);
    ud->shown = true;
  } else {
    lua_createtable(L, 0, (int)pairs);
    for (size_t i = 0; i < pairs; i++) {
      wm_pair pair = wm_message_pair(msg, i);
      lua_pushlstring(L, pair.key.data, pair.key.len);
      lua_pushlstring(L, pair.value.data ? pair.value.data : "", pair.value.len);
      lua_rawset(L, -3);
    }
  }
  lua_setiuservalue(L, index, VALUE_METADATA);
}

/* In a table that Lua sees as metadata, the key of the table with its pairs. */
static const char pairs_key;

/* Pushes metadata as Lua sees it: read-only. */
static void push_metadata(lua_State *L, int index, wm_lua_message *ud) {
  read_metadata(L, index, ud);
  lua_getiuservalue(L, index, VALUE_METADATA);
  if (ud->shown) return;
  lua_createtable(L, 0, 1);
  lua_insert(L, -2);
  lua_rawsetp(L, -2, &pairs_key);
  lua_getiuservalue(L, UPVALUE(UP_STATE), STATE_METADATA);
  lua_setmetatable(L, -2);
  lua_pushvalue(L, -1);
  lua_setiuservalue(L, index, VALUE_METADATA);
  ud->shown = true;
}

/* What an explicit ack or nack keeps readable. */
static void keep(lua_State *L, int index, wm_lua_message *ud) {
  if (!held(ud)) return;
  push_payload(L, index, ud);
  lua_pop(L, 1);
  read_metadata(L, index, ud);
}

static int metadata_index(lua_State *L) {
  lua_rawgetp(L, 1, &pairs_key);
  lua_pushvalue(L, 2);
  lua_rawget(L, -2);
  return 1;
}

static int metadata_newindex(lua_State *L) {
  return luaL_error(L, "metadata of a message is read-only; make another with wm.message");
}

static int metadata_next(lua_State *L) {
  lua_settop(L, 2);
  return lua_next(L, 1) ? 2 : 0;
}

static int metadata_pairs(lua_State *L) {
  lua_pushvalue(L, UPVALUE(1));
  lua_rawgetp(L, 1, &pairs_key);
  return 2;
}

/* Leaves the two values of a state that all metadata share. */
static void make_metadata(lua_State *L, int state) {
  static const luaL_Reg functions[] = {
      {"__index", metadata_index}, {"__newindex", metadata_newindex}, {NULL, NULL}};
  luaL_newlib(L, functions);
  wm_lua_name(L, lua_gettop(L), "wm.metadata");
  lua_pushcfunction(L, metadata_next);
  lua_pushcclosure(L, metadata_pairs, 1);
  lua_setfield(L, -2, "__pairs");
  lua_newtable(L);
  lua_newtable(L);
  lua_rawsetp(L, -2, &pairs_key);
  lua_pushvalue(L, -2);
  lua_setmetatable(L, -2);
  lua_setiuservalue(L, state, STATE_EMPTY_METADATA);
  lua_setiuservalue(L, state, STATE_METADATA);
}

/* ---- fields ------------------------------------------------------------------------------------------- */

enum {
  FIELD_NONE,
  FIELD_PAYLOAD,
  FIELD_METADATA,
  FIELD_UUID,
  FIELD_TOPIC,
  FIELD_ATTEMPT,
  FIELD_FAILURES,
  FIELD_TIME,
  FIELD_POSITION,
  FIELD_SETTLED,
  FIELD_UNDECODABLE
};
static const char *const field_names[] = {
    [FIELD_PAYLOAD] = "payload", [FIELD_METADATA] = "metadata",
    [FIELD_UUID] = "uuid",       [FIELD_TOPIC] = "topic",
    [FIELD_ATTEMPT] = "attempt", [FIELD_FAILURES] = "failures",
    [FIELD_TIME] = "time",       [FIELD_POSITION] = "position",
    [FIELD_SETTLED] = "settled", [FIELD_UNDECODABLE] = "undecodable",
};
enum { FIELD_COUNT = sizeof field_names / sizeof *field_names };

static void push_topic(lua_State *L, int index, const wm_lua_message *ud) {
  lua_getiuservalue(L, index, VALUE_OWNER);
  if (ud->con) {
    lua_getiuservalue(L, -1, CONSUMER_TOPIC);
    lua_remove(L, -2);
  }
}

static void push_settled(lua_State *L, const wm_lua_message *ud) {
  if (ud->settled)
    lua_pushstring(L, ud->settled == 'a' ? "ack" : "nack");
  else
    lua_pushnil(L);
}

#define MS_PER_SECOND 1000.0

static int push_field(lua_State *L, wm_lua_message *ud, int field) {
  const char *position = ud->data + ud->uuid_len + 1;
  switch (field) {
  case FIELD_PAYLOAD:
    push_payload(L, 1, ud);
    break;
  case FIELD_METADATA:
    push_metadata(L, 1, ud);
    break;
  case FIELD_UUID:
    lua_pushlstring(L, ud->data, ud->uuid_len);
    break;
  case FIELD_TOPIC:
    push_topic(L, 1, ud);
    break;
  case FIELD_ATTEMPT:
    lua_pushinteger(L, ud->attempt);
    break;
  case FIELD_FAILURES:
    lua_pushinteger(L, ud->failures);
    break;
  case FIELD_TIME:
    if (ud->time == 0) return 0;
    lua_pushnumber(L, (lua_Number)ud->time / MS_PER_SECOND);
    break;
  case FIELD_POSITION:
    if (!*position) return 0;
    lua_pushstring(L, position);
    break;
  case FIELD_SETTLED:
    push_settled(L, ud);
    break;
  case FIELD_UNDECODABLE:
    lua_pushstring(L, ud->undecodable);
    break;
  }
  return 1;
}

/* Upvalues after the common ones. */
enum { UP_FIELDS = UP_COUNT + 1, UP_METHODS };

static int message_index(lua_State *L) {
  wm_lua_message *ud = check_message(L, 1);
  lua_pushvalue(L, 2);
  lua_rawget(L, UPVALUE(UP_FIELDS));
  int field = (int)lua_tointeger(L, -1);
  if (field != FIELD_NONE) return push_field(L, ud, field);
  lua_pushvalue(L, 2);
  lua_rawget(L, UPVALUE(UP_METHODS));
  return 1;
}

static int message_tostring(lua_State *L) {
  wm_lua_message *ud = check_message(L, 1);
  push_topic(L, 1, ud);
  const char *topic = lua_tostring(L, -1);
  lua_pushfstring(L, "%s: %s%s%s", received.name, topic ? topic : "", topic ? "/" : "", ud->data);
  if (ud->con) {
    lua_pushfstring(L, " attempt %d", (int)ud->attempt);
    lua_concat(L, 2);
  }
  return 1;
}

/* ---- settling ----------------------------------------------------------------------------------------- */

/* What settling returned: the first one drops the message. */
static int settled(lua_State *L, wm_lua_message *ud, bool first, char as) {
  if (first) ud->settled = as;
  drop(ud);
  lua_pushboolean(L, first);
  return 1;
}

/* A message of the router's that it settles; raises for one that was not received. */
static wm_lua_message *check_received(lua_State *L) {
  wm_lua_message *ud = wm_lua_to(L, 1, &received);
  if (ud) return ud;
  luaL_argcheck(L, !wm_lua_to(L, 1, &outgoing), 1,
                "only a received message can be settled; this one was made to be published");
  return wm_lua_check(L, 1, &received);
}

static int ack(lua_State *L) {
  wm_lua_message *ud = check_received(L);
  keep(L, 1, ud);
  wm_message *msg = held(ud);
  return settled(L, ud, msg && wm_ack(msg), 'a');
}

static int done(lua_State *L) {
  wm_lua_message *ud = check_received(L);
  wm_message *msg = held(ud);
  return settled(L, ud, msg && wm_ack(msg), 'a');
}

/* The delay in a table of options that may have nothing else. */
static int nack_delay(lua_State *L, int arg) {
  if (lua_isnoneornil(L, arg)) return WM_BACKOFF;
  luaL_checktype(L, arg, LUA_TTABLE);
  for (lua_pushnil(L); lua_next(L, arg); lua_pop(L, 1)) {
    const char *name = lua_type(L, -2) == LUA_TSTRING ? lua_tostring(L, -2) : NULL;
    if (!name || strcmp(name, "delay") != 0)
      luaL_argerror(L, arg,
                    lua_pushfstring(L, "unknown option '%s'; there is only 'delay'",
                                    name ? name : luaL_tolstring(L, -2, NULL)));
    if (lua_type(L, -1) != LUA_TNUMBER || !(lua_tonumber(L, -1) >= 0))
      luaL_argerror(L, arg, "option 'delay': seconds from now expected");
  }
  lua_getfield(L, arg, "delay");
  return wm_lua_delay(L, lua_gettop(L), WM_BACKOFF);
}

static int nack(lua_State *L) {
  wm_lua_message *ud = check_received(L);
  int delay = nack_delay(L, 2);
  keep(L, 1, ud);
  wm_message *msg = held(ud);
  return settled(L, ud, msg && wm_nack(msg, delay), 'n');
}

static int again(lua_State *L) {
  wm_lua_message *ud = check_received(L);
  int delay = wm_lua_delay(L, 2, WM_BACKOFF);
  wm_message *msg = held(ud);
  return settled(L, ud, msg && wm_nack(msg, delay), 'n');
}

static int fail(lua_State *L) {
  wm_lua_message *ud = check_received(L);
  int delay = wm_lua_delay(L, 2, WM_BACKOFF);
  const char *error = luaL_optstring(L, 3, NULL);
  const char *detail = luaL_optstring(L, 4, NULL);
  wm_message *msg = held(ud);
  return settled(L, ud, msg && wm_fail(msg, delay, error, detail), 'n');
}

/* Does not drop the message when it is refused: without a dead_letter topic it is still to be settled. */
static int dead(lua_State *L) {
  wm_lua_message *ud = check_received(L);
  const char *reason = luaL_optstring(L, 2, NULL);
  const char *detail = luaL_optstring(L, 3, NULL);
  wm_message *msg = held(ud);
  if (msg && wm_dead(msg, reason, detail)) return settled(L, ud, true, 'a');
  lua_pushboolean(L, false);
  return 1;
}

/* ---- messages to publish -------------------------------------------------------------------------------- */

static int message_gc(lua_State *L) {
  wm_lua_message *ud = wm_lua_check(L, 1, &outgoing);
  wm_message_release(ud->msg);
  ud->msg = NULL;
  return 0;
}

/* Raises unless the table at index maps strings to strings; returns how many. */
static size_t check_pairs(lua_State *L, int index, int arg) {
  size_t n = 0;
  for (lua_pushnil(L); lua_next(L, index); lua_pop(L, 1)) {
    if (lua_type(L, -2) != LUA_TSTRING)
      luaL_argerror(
          L, arg,
          lua_pushfstring(L, "metadata: keys must be strings, got %s", luaL_typename(L, -2)));
    if (lua_type(L, -1) != LUA_TSTRING)
      luaL_argerror(L, arg,
                    lua_pushfstring(L, "metadata '%s': string expected, got %s",
                                    lua_tostring(L, -2), luaL_typename(L, -1)));
    n++;
  }
  return n;
}

static wm_slice to_slice(lua_State *L, int index) {
  wm_slice slice;
  slice.data = lua_tolstring(L, index, &slice.len);
  return slice;
}

/* The pairs of a table of strings, in memory that is left on the stack; they borrow from the table. */
static wm_pair *pairs_of(lua_State *L, int index, size_t n) {
  wm_pair *pairs = lua_newuserdatauv(L, n * sizeof *pairs, 0);
  wm_pair *pair = pairs;
  for (lua_pushnil(L); lua_next(L, index); lua_pop(L, 1)) {
    pair->key = to_slice(L, -2);
    pair->value = to_slice(L, -1);
    pair++;
  }
  return pairs;
}

/* The plain table behind metadata that Lua sees, in its place on the stack. */
static void unwrap_metadata(lua_State *L, int index) {
  if (lua_rawgetp(L, index, &pairs_key) == LUA_TTABLE)
    lua_replace(L, index);
  else
    lua_pop(L, 1);
}

static int new_message(lua_State *L) {
  luaL_checkstring(L, 1);
  bool has_metadata = !lua_isnoneornil(L, 2);
  const char *uuid = wm_lua_opt_text(L, 3);
  const char *topic = wm_lua_opt_text(L, 4);
  lua_settop(L, 4);
  size_t n = 0;
  wm_pair *pairs = NULL;
  if (has_metadata) {
    luaL_checktype(L, 2, LUA_TTABLE);
    unwrap_metadata(L, 2);
    n = check_pairs(L, 2, 2);
    pairs = pairs_of(L, 2, n);
  }
  char made[WM_UUID_SIZE];
  if (!uuid || !*uuid) {
    wm_uuid(made);
    uuid = made;
  }
  wm_lua_message *ud =
      new_userdata(L, &outgoing, (wm_slice){uuid, strlen(uuid)}, (wm_slice){"", 0});
  if (topic) {
    lua_pushvalue(L, 4);
    lua_setiuservalue(L, -2, VALUE_OWNER);
  }
  wm_error err;
  if (wm_message_new(&ud->msg, uuid, to_slice(L, 1), pairs, n, &err) != WM_OK)
    return wm_lua_fail_error(L, &err);
  return 1;
}

/* A new wm_message of what was kept of a settled one. */
static wm_message *make_again(lua_State *L, int index, wm_lua_message *ud, wm_error *err) {
  push_payload(L, index, ud);
  wm_slice payload = to_slice(L, -1);
  read_metadata(L, index, ud);
  lua_getiuservalue(L, index, VALUE_METADATA);
  int table = lua_gettop(L);
  if (ud->shown) unwrap_metadata(L, table);
  size_t n = check_pairs(L, table, index);
  wm_pair *pairs = pairs_of(L, table, n);
  wm_message *msg = NULL;
  wm_message_new(&msg, ud->data, payload, pairs, n, err);
  lua_settop(L, table - 2);
  return msg;
}

wm_message *wm_lua_publishable(lua_State *L, int index, wm_lua_message *ud, wm_error *err) {
  wm_message *msg = held(ud);
  return msg ? wm_message_retain(msg) : make_again(L, index, ud, err);
}

const char *wm_lua_message_own_topic(lua_State *L, int index) {
  wm_lua_message *ud = lua_touserdata(L, index);
  push_topic(L, index, ud);
  const char *topic = lua_tostring(L, -1);
  lua_pop(L, 1);
  return topic;
}

/* ---- opening ------------------------------------------------------------------------------------------- */

static int is_message(lua_State *L) {
  lua_pushboolean(L, wm_lua_to_message(L, 1) != NULL);
  return 1;
}

/* memo(msg): the value that memo(msg, value) left. */
static int memo(lua_State *L) {
  check_message(L, 1);
  if (lua_isnone(L, 2)) {
    lua_getiuservalue(L, 1, VALUE_MEMO);
    return 1;
  }
  lua_settop(L, 2);
  lua_setiuservalue(L, 1, VALUE_MEMO);
  return 0;
}

static void push_fields(lua_State *L) {
  lua_createtable(L, 0, FIELD_COUNT);
  for (int field = FIELD_NONE + 1; field < FIELD_COUNT; field++) {
    lua_pushinteger(L, field);
    lua_setfield(L, -2, field_names[field]);
  }
}

void wm_lua_message_open(lua_State *L, int core, int up) {
  static const luaL_Reg functions[] = {{"message", new_message}, {"is_message", is_message},
                                       {"memo", memo},           {"done", done},
                                       {"again", again},         {"fail", fail},
                                       {"dead", dead},           {NULL, NULL}};
  static const luaL_Reg methods[] = {{"ack", ack}, {"nack", nack}, {NULL, NULL}};
  static const luaL_Reg index[] = {{"__index", message_index}, {NULL, NULL}};
  static const luaL_Reg both[] = {{"__tostring", message_tostring}, {NULL, NULL}};
  static const luaL_Reg finalizer[] = {{"__gc", message_gc}, {NULL, NULL}};

  make_metadata(L, up);
  wm_lua_functions(L, core, functions, up, 0);
  lua_getfield(L, core, "methods");
  lua_newtable(L);
  int table = lua_gettop(L);
  wm_lua_functions(L, table, methods, up, 0);
  for (int kind = UP_RECEIVED; kind <= UP_OUTGOING; kind++) {
    int meta = up + kind - UP_STATE;
    wm_lua_name(L, meta, received.name);
    wm_lua_functions(L, meta, both, up, 0);
    push_fields(L);
    lua_pushvalue(L, table);
    wm_lua_functions(L, meta, index, up, 2);
  }
  wm_lua_functions(L, up + UP_OUTGOING - UP_STATE, finalizer, up, 0);
  lua_setfield(L, -2, "message");
  lua_pop(L, 1);
}
