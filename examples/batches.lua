-- batches.lua: up to 500 messages a call, each with a fate of its own. Publishes its own input (one click of it is
-- no JSON), writes clicks.csv, ends when all is done.
local wm = require "wm"

local total, written, buried = 1200, 0, 0

wm.on("clicks", { group = "warehouse", batch = 500, batch_wait = 0.2, dead_letter = "clicks_dead" }, function(msgs)
  local rows = {}
  for _, msg in ipairs(msgs) do
    local click, err = msg:json()
    if click then
      rows[#rows + 1] = ("%d,%s\n"):format(click.id, click.page)
    else
      msg:settle(wm.dead("bad JSON: " .. err)) -- this one only
    end
  end
  local file = assert(io.open("clicks.csv", "a"))
  file:write(table.concat(rows))
  assert(file:close())
  written = written + #rows
  print(("%d clicks, %d rows"):format(#msgs, #rows))
end) -- returns nothing: all that are not settled yet are done

wm.on("clicks_dead", { group = "screen" }, function(msg)
  print("dead letter: " .. msg.payload)
  buried = buried + 1
end)

local function clicks()
  local list = {}
  for id = 1, total - 1 do list[id] = wm.message{ json = { id = id, page = "/page/" .. id % 10 } } end
  list[total] = "{ no JSON"
  return list
end

wm.spawn(function() -- a task: it waits while handlers go on
  assert(wm.publish("clicks", clicks()))
  while written + buried < total do wm.sleep(0.05) end
  os.exit(0)
end)
