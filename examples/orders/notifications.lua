-- notifications.lua: tells each customer of the order. Start it twice: members of a group share its messages.
local wm = require "wm"

io.stdout:setvbuf("line")
wm.on("orders-placed", { group = "notifications" }, function(msg)
  local order = assert(msg:json())
  print(("to %s: we have got your order %d"):format(order.customer, order.id))
end)
