-- unload.lua - wm.on_unload: what runs when the script's generation ends, outside of a host when the program does.

local core = require "wm.core"
local failure = require "wm.failure"
local log = require "wm.log"
local task = require "wm.task"

local unload = {}

local functions = {}
local sentinel -- collected when the state is closed

local function protected(fn)
  local ok, err = xpcall(fn, debug.traceback)
  if not ok then log.own("error", "wm.on_unload: " .. failure.text(err)) end
end

---Runs all, the last one first, and forgets them. Outside of a task they must not wait.
function unload.run()
  while #functions > 0 do protected(table.remove(functions)) end
end

---Runs fn when this generation ends, after its handlers.
---@param fn function
function unload.on_unload(fn)
  if not task.callable(fn) then failure.raise("wm.on_unload: function expected, got %s", type(fn)) end
  functions[#functions + 1] = fn
  if not core.hosted and not sentinel then sentinel = setmetatable({}, { __gc = unload.run }) end
end

return unload
