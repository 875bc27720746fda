/* convert.c - Lua arguments to what libwm takes, and its errors to Lua's. The thread of the Lua state. */
#include <limits.h>
#include <locale.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "binding.h"

int wm_lua_fail(lua_State *L, int code, const char *text) {
  lua_pushnil(L);
  lua_pushstring(L, text);
  lua_pushstring(L, wm_code_name(code));
  return 3;
}

int wm_lua_fail_error(lua_State *L, const wm_error *err) {
  return wm_lua_fail(L, err->code, err->text);
}

int wm_lua_out_of_memory(wm_error *err) {
  err->code = WM_NOMEM;
  snprintf(err->text, sizeof err->text, "out of memory");
  return err->code;
}

void wm_lua_push_masked(lua_State *L, const char *url) {
  char masked[WM_ERROR_MAX];
  wm_url_mask(url, masked, sizeof masked);
  lua_pushstring(L, masked);
}

const char *wm_lua_text(lua_State *L, int arg) {
  size_t len;
  const char *text = luaL_checklstring(L, arg, &len);
  luaL_argcheck(L, strlen(text) == len, arg, "contains a zero byte");
  return text;
}

const char *wm_lua_opt_text(lua_State *L, int arg) {
  return lua_isnoneornil(L, arg) ? NULL : wm_lua_text(L, arg);
}

#define MS_PER_SECOND 1000.0

int wm_lua_ms(lua_State *L, int arg) {
  lua_Number seconds = luaL_checknumber(L, arg);
  luaL_argcheck(L, !isnan(seconds), arg, "seconds expected, got nan");
  if (seconds < 0 || seconds > INT_MAX / MS_PER_SECOND) return -1;
  return (int)ceil(seconds * MS_PER_SECOND);
}

int wm_lua_delay(lua_State *L, int arg, int absent) {
  if (lua_isnoneornil(L, arg)) return absent;
  luaL_argcheck(L, luaL_checknumber(L, arg) >= 0, arg, "seconds from now expected");
  int ms = wm_lua_ms(L, arg);
  return ms < 0 ? INT_MAX : ms;
}

void *wm_lua_to(lua_State *L, int index, const wm_lua_kind *kind) {
  const wm_lua_kind **ud = lua_touserdata(L, index);
  /* A light userdata has no length. */
  return ud && lua_rawlen(L, index) >= sizeof *ud && *ud == kind ? ud : NULL;
}

void *wm_lua_check(lua_State *L, int arg, const wm_lua_kind *kind) {
  void *ud = wm_lua_to(L, arg, kind);
  if (!ud) luaL_typeerror(L, arg, kind->name);
  return ud;
}

void wm_lua_set_count(lua_State *L, const char *name, uint64_t value) {
  lua_pushinteger(L, (lua_Integer)value);
  lua_setfield(L, -2, name);
}

/* ---- options ---------------------------------------------------------------------------------- */

#define NUMBER_ROOM 400 /* the longest double in plain notation, with its fraction */

/* The shortest text that is read back as the same number, in plain notation with a point. */
static void format_float(lua_Number value, char *out) {
  if (value == floor(value) || fabs(value) < 1e-4) {
    snprintf(out, NUMBER_ROOM, value == floor(value) ? "%.0f" : "%.20f", value);
  } else {
    for (int digits = 15; digits <= 17; digits++) {
      snprintf(out, NUMBER_ROOM, "%.*g", digits, value);
      if (strtod(out, NULL) == value) break;
    }
  }
  char *point = strchr(out, localeconv()->decimal_point[0]);
  if (point) *point = '.';
}

/* The option's value, on top of the stack, as text that lives in room or in the string itself. */
static const char *option_text(lua_State *L, char *room) {
  switch (lua_type(L, -1)) {
  case LUA_TBOOLEAN:
    return lua_toboolean(L, -1) ? "true" : "false";
  case LUA_TNUMBER:
    if (lua_isinteger(L, -1))
      snprintf(room, NUMBER_ROOM, LUA_INTEGER_FMT, (LUAI_UACINT)lua_tointeger(L, -1));
    else
      format_float(lua_tonumber(L, -1), room);
    return room;
  default:
    return lua_tostring(L, -1);
  }
}

/* Raises unless name and value, on top of the stack, can be text. */
static void check_option(lua_State *L, int arg) {
  if (lua_type(L, -2) != LUA_TSTRING)
    luaL_argerror(L, arg, "names of options must be strings; this is no list");
  size_t len;
  const char *name = lua_tolstring(L, -2, &len);
  const char *wrong = NULL;
  switch (lua_type(L, -1)) {
  case LUA_TBOOLEAN:
    break;
  case LUA_TNUMBER:
    if (!isfinite(lua_tonumber(L, -1))) wrong = "a finite number expected";
    break;
  case LUA_TSTRING:
    if (strlen(lua_tostring(L, -1)) != lua_rawlen(L, -1)) wrong = "contains a zero byte";
    break;
  default:
    wrong = lua_pushfstring(L, "string, number or boolean expected, got %s", luaL_typename(L, -1));
  }
  if (strlen(name) != len) wrong = "its name contains a zero byte";
  if (wrong) luaL_argerror(L, arg, lua_pushfstring(L, "option '%s': %s", name, wrong));
}

int wm_lua_options(lua_State *L, int arg, wm_options **out) {
  *out = NULL;
  if (lua_isnoneornil(L, arg)) return WM_OK;
  luaL_checktype(L, arg, LUA_TTABLE);
  /* Nothing raises once there is something to free. */
  for (lua_pushnil(L); lua_next(L, arg); lua_pop(L, 1))
    check_option(L, arg);
  wm_options *opts = wm_options_new();
  int rc = opts ? WM_OK : WM_NOMEM;
  char room[NUMBER_ROOM];
  for (lua_pushnil(L); lua_next(L, arg); lua_pop(L, 1))
    if (rc == WM_OK) rc = wm_options_set(opts, lua_tostring(L, -2), option_text(L, room));
  if (rc == WM_OK)
    *out = opts;
  else
    wm_options_free(opts);
  return rc;
}
