/* loader.c - see loader.h */
#include "loader.h"

#include <ctype.h>
#include <errno.h>
#include <fcntl.h>
#include <lauxlib.h>
#include <lualib.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "embedded.h"
#include "wm_lua.h"

enum { READ_TRIES = 10, READ_PAUSE_MS = 50, READ_AT_ONCE = 64 * 1024 };

/* ---- reading -------------------------------------------------------------------------------- */

typedef struct content {
  char *data;
  size_t len;
  struct stat st;
} content;

static int read_all(int fd, content *c) {
  size_t room = 0;
  c->len = 0;
  for (;;) {
    if (room - c->len < READ_AT_ONCE) {
      room = 2 * room + READ_AT_ONCE;
      char *data = realloc(c->data, room);
      if (!data) return ENOMEM;
      c->data = data;
    }
    ssize_t n = read(fd, c->data + c->len, room - c->len);
    if (n < 0 && errno != EINTR) return errno;
    if (n == 0) return 0;
    if (n > 0) c->len += (size_t)n;
  }
}

static bool unchanged(const struct stat *a, const struct stat *b) {
  return a->st_size == b->st_size && a->st_mtim.tv_sec == b->st_mtim.tv_sec &&
         a->st_mtim.tv_nsec == b->st_mtim.tv_nsec;
}

/* Once. 0, an errno, or EAGAIN: it changed meanwhile. */
static int read_once(const char *path, content *c) {
  struct stat after;
  int fd = open(path, O_RDONLY | O_CLOEXEC);
  if (fd < 0) return errno;
  int code = fstat(fd, &c->st) != 0 ? errno : 0;
  if (!code && S_ISDIR(c->st.st_mode)) code = EISDIR;
  if (!code) code = read_all(fd, c);
  if (!code && fstat(fd, &after) != 0) code = errno;
  if (!code && !unchanged(&c->st, &after)) code = EAGAIN;
  close(fd);
  return code;
}

static int read_file(const char *path, content *c) {
  int code = EAGAIN;
  for (int i = 0; i < READ_TRIES && code == EAGAIN; i++) {
    const struct timespec pause = {.tv_nsec = READ_PAUSE_MS * 1000000L};
    if (i) nanosleep(&pause, NULL);
    code = read_once(path, c);
  }
  return code;
}

static bool is_blank(const content *c) {
  for (size_t i = 0; i < c->len; i++)
    if (!isspace((unsigned char)c->data[i])) return false;
  return true;
}

/* A byte order mark is nothing, a first line that begins with # only that line. */
static size_t skipped(const content *c) {
  size_t n = c->len >= 3 && memcmp(c->data, "\xef\xbb\xbf", 3) == 0 ? 3 : 0;
  if (n < c->len && c->data[n] == '#')
    while (n < c->len && c->data[n] != '\n')
      n++;
  return n;
}

int wm_loader_load(lua_State *L, wm_files *files, const char *path) {
  content c = {0};
  int code = read_file(path, &c), status = LUA_ERRFILE;
  wm_files_add(files, path, code ? NULL : &c.st);
  if (code == EAGAIN) {
    lua_pushfstring(L, "%s: something is writing to it all the time", path);
  } else if (code) {
    lua_pushfstring(L, "%s: %s", path, strerror(code));
  } else if (is_blank(&c)) {
    lua_pushfstring(L, "%s: the file is empty; a script that wants nothing has at least a comment",
                    path);
  } else {
    size_t from = skipped(&c);
    const char *chunk = lua_pushfstring(L, "@%s", path);
    status = luaL_loadbufferx(L, c.data + from, c.len - from, chunk, "t");
    lua_remove(L, -2);
  }
  free(c.data);
  return status;
}

/* ---- what Lua sees -------------------------------------------------------------------------- */

static wm_files *files_of(lua_State *L) { return lua_touserdata(L, lua_upvalueindex(1)); }

/* Takes the place of the second of package.searchers; upvalues: files, package. */
static int search(lua_State *L) {
  const char *name = luaL_checkstring(L, 1);
  lua_getfield(L, lua_upvalueindex(2), "searchpath");
  lua_pushvalue(L, 1);
  if (lua_getfield(L, lua_upvalueindex(2), "path") != LUA_TSTRING)
    return luaL_error(L, "'package.path' must be a string");
  lua_call(L, 2, 2);
  if (lua_isnil(L, -2)) return 1;
  const char *path = lua_tostring(L, -2);
  if (wm_loader_load(L, files_of(L), path) != LUA_OK)
    return luaL_error(L, "error loading module '%s' from file '%s':\n\t%s", name, path,
                      lua_tostring(L, -1));
  lua_pushstring(L, path);
  return 2;
}

/* loadfile and dofile without a name read standard input: those are left to Lua's own, upvalue
 * 2. */
static int own(lua_State *L) {
  lua_pushvalue(L, lua_upvalueindex(2));
  lua_insert(L, 1);
  lua_call(L, lua_gettop(L) - 1, LUA_MULTRET);
  return lua_gettop(L);
}

static int load_file(lua_State *L) {
  bool has_env = lua_gettop(L) >= 3;
  if (lua_isnoneornil(L, 1)) return own(L);
  if (wm_loader_load(L, files_of(L), luaL_checkstring(L, 1)) != LUA_OK) {
    luaL_pushfail(L);
    lua_insert(L, -2);
    return 2;
  }
  if (has_env) {
    lua_pushvalue(L, 3);
    if (!lua_setupvalue(L, -2, 1)) lua_pop(L, 1);
  }
  return 1;
}

static int ran(lua_State *L, int status, lua_KContext base) {
  (void)status;
  return lua_gettop(L) - (int)base;
}

static int do_file(lua_State *L) {
  if (lua_isnoneornil(L, 1)) return own(L);
  lua_settop(L, 1);
  if (wm_loader_load(L, files_of(L), luaL_checkstring(L, 1)) != LUA_OK) return lua_error(L);
  lua_callk(L, 0, LUA_MULTRET, 1, ran);
  return ran(L, LUA_OK, 1);
}

/* Sets the global `name` to fn with files and the old value as upvalues. */
static void replace(lua_State *L, const char *name, lua_CFunction fn, wm_files *files) {
  lua_pushlightuserdata(L, files);
  lua_getglobal(L, name);
  lua_pushcclosure(L, fn, 2);
  lua_setglobal(L, name);
}

static int load_embedded(lua_State *L) {
  const wm_embedded *e = lua_touserdata(L, lua_upvalueindex(1));
  if (luaL_loadbufferx(L, (const char *)e->text, e->len, e->chunk, "t") != LUA_OK)
    return lua_error(L);
  lua_insert(L, 1);
  lua_call(L, lua_gettop(L) - 1, 1);
  return 1;
}

static void preload(lua_State *L) {
  luaL_getsubtable(L, LUA_REGISTRYINDEX, LUA_PRELOAD_TABLE);
  for (const wm_embedded *e = wm_embedded_scripts; e->name; e++) {
    lua_pushlightuserdata(L, (void *)e);
    lua_pushcclosure(L, load_embedded, 1);
    lua_setfield(L, -2, e->name);
  }
  lua_pushcfunction(L, luaopen_wm_core);
  lua_setfield(L, -2, "wm.core");
  lua_pop(L, 1);
}

void wm_loader_open(lua_State *L, wm_files *files) {
  preload(L);
  replace(L, "loadfile", load_file, files);
  replace(L, "dofile", do_file, files);
  lua_getglobal(L, "package");
  lua_getfield(L, -1, "searchers");
  lua_pushlightuserdata(L, files);
  lua_pushvalue(L, -3);
  lua_pushcclosure(L, search, 2);
  lua_rawseti(L, -2, 2);
  lua_pop(L, 2);
}
