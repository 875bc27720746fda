-- spreadsheets.lua [FILE]: adds each order to a table (default orders.csv). A group of its own: it gets every order,
-- whatever other groups do.
local wm = require "wm"

local path = arg[1] or "orders.csv"

-- Up to 100 orders that came within a second are one write.
wm.on("orders-placed", { group = "spreadsheets", batch = 100, batch_wait = 1 }, function(msgs)
  local rows = {}
  for i, msg in ipairs(msgs) do
    local order = assert(msg:json())
    rows[i] = ("%d,%s,%.2f\n"):format(order.id, order.customer, order.cents / 100)
  end
  local file = assert(io.open(path, "a"))
  file:write(table.concat(rows))
  assert(file:close()) -- an error: all of them come again
  print(("%d rows to %s"):format(#rows, path))
end)
