-- For `luarocks make`: the Lua module wm with libwm inside. Needs a C compiler, cmake and pkg-config; brokers whose
-- client library is missing are left out, and named at the end of configuring.
rockspec_format = "3.0"
package = "wmlua"
version = "scm-1"
source = {
  url = "file://.", -- built where it lies
}
description = {
  summary = "Publishers, subscribers and consumer groups over many message brokers",
  detailed = [[
    Event handlers written in Lua, run durably on any message broker: coroutines, a router with retries and dead
    letters, and one small API over an embedded broker (memory, SQLite), Redis and others.
  ]],
  labels = { "messaging", "pubsub", "queue", "redis", "sqlite" },
  license = "MIT",
}
dependencies = {
  "lua >= 5.4, < 5.5",
}
supported_platforms = { "unix" }
build = {
  type = "command",
  build_command = [["$(CMAKE)" -S . -B build.luarocks -DCMAKE_BUILD_TYPE=Release -DWM_LUA=ON -DWM_HOST=OFF -DWM_TESTS=OFF ]]
      .. [["-DLUA_INCLUDE_DIR=$(LUA_INCDIR)" "-DWM_LUA_CMODDIR=$(LIBDIR)" "-DWM_LUA_LMODDIR=$(LUADIR)" ]]
      .. [[&& "$(CMAKE)" --build build.luarocks --target wm_lua_module]],
  install_command = [["$(CMAKE)" --install build.luarocks --component lua]],
}
