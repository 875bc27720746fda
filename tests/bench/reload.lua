-- reload.lua: a handler that works 0.1 ms a message and writes when it got it and in which generation.
local wm = require "wm"
local uv = require "luv"

local work = 100 * 1000 -- ns
io.stdout:setvbuf("line")

wm.on("reloaded", { group = "bench" }, function()
  local now = uv.hrtime()
  io.write(("%d %d\n"):format(now, wm.generation))
  while uv.hrtime() - now < work do end
end)
