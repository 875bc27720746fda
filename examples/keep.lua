-- keep.lua: state that outlives a reload. Start it with `wmlua run keep.lua`, publish a few times with
-- `wmlua pub clicks click --meta page=/home`, then change this file and save it: the counts go on.
local wm = require "wm"

io.stdout:setvbuf("line")
local hits = wm.keep("hits", {}) -- per worker; filled at the switch, before the first message

wm.on("clicks", { group = "stats" }, function(msg)
  local page = msg.metadata.page or "?"
  hits[page] = (hits[page] or 0) + 1
  print(("generation %d: %s has %d hits"):format(wm.generation, page, hits[page]))
end)

wm.every(10, function() wm.publish("hits", wm.message{ json = hits }) end) -- ends with its generation
wm.on_unload(function() wm.log.info("generation ends", { generation = wm.generation }) end)
