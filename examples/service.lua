-- service.lua: four lines are a service. Start it with `wmlua run service.lua`, then in another terminal, in the
-- same directory: wmlua pub orders order-42
local wm = require "wm"

wm.on("orders", { group = "notifications" }, function(msg)
  print("order:", msg.payload)
end)
