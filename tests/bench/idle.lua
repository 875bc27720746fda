-- idle.lua: one subscription; says when the first message has come.
local wm = require "wm"

io.stdout:setvbuf("line")
wm.on("idle", { group = "bench" }, function() print("ready") end)
