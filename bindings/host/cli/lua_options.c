/* lua_options.c - asks the module itself, in a Lua state that is opened for the first question. */
#include "lua_options.h"

#include <lauxlib.h>
#include <lualib.h>

#include "loader.h"

static lua_State *state; /* its only value is the list; NULL: not open */

static int load_list(lua_State *L) {
  luaL_openlibs(L);
  wm_loader_open(L, NULL);
  lua_getglobal(L, "require");
  lua_pushliteral(L, "wm.host");
  lua_call(L, 1, 1);
  lua_getfield(L, -1, "options");
  lua_call(L, 0, 1);
  return 1;
}

static bool open_state(void) {
  if (state) return true;
  state = luaL_newstate();
  if (!state) return false;
  lua_pushcfunction(state, load_list);
  if (lua_pcall(state, 0, 1, 0) == LUA_OK) return true;
  wm_lua_options_close();
  return false;
}

/* The text stays where it is: the list keeps it. */
static const char *text(const char *name) {
  lua_getfield(state, -1, name);
  const char *value = lua_tostring(state, -1);
  lua_pop(state, 1);
  return value ? value : "";
}

bool wm_lua_option_list(size_t i, wm_option_info *out) {
  if (!open_state()) return false;
  bool found = lua_rawgeti(state, 1, (lua_Integer)i + 1) == LUA_TTABLE;
  if (found)
    *out = (wm_option_info){.name = text("name"),
                            .value = text("value"),
                            .unit = text("unit"),
                            .help = text("help"),
                            .where = text("where")};
  lua_settop(state, 1);
  return found;
}

void wm_lua_options_close(void) {
  if (state) lua_close(state);
  state = NULL;
}
