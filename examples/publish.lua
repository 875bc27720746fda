-- publish.lua [URL]: publishes three orders. Runs under wmlua, or in plain lua5.4 where the module is installed.
local wm = require "wm"

local pub = wm.publisher(arg[1] or "sqlite:wmlua.db")
assert(pub:publish("orders", "order-42")) -- true = the broker has confirmed it
assert(pub:publish("orders", { -- a list: one call, one broker batch
  wm.message{ payload = "order-43", metadata = { type = "OrderPlaced" } },
  wm.message{ json = { id = 44, total = 9.5 }, metadata = { type = "OrderPlaced" } },
}))
pub:close()
print "published 3 orders"
