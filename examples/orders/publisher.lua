-- publisher.lua [COUNT [SECONDS]]: publishes COUNT orders to the topic "orders-placed", one every SECONDS.
local wm = require "wm"

local count, pause = math.tointeger(arg[1] or 10), tonumber(arg[2] or 0.5)
local pub = wm.publisher() -- $WM_BROKER, or the file wmlua.db in the current directory

for id = 1, count do
  local order = { id = id, customer = "customer-" .. id % 7, cents = 500 + id * 10 }
  -- true: the broker has stored it. Whoever handles orders may be down, or not written yet.
  assert(pub:publish("orders-placed", wm.message{ json = order }))
  print("placed order " .. id)
  wm.sleep(pause)
end
pub:close()
