-- subscribe.lua [URL]: prints orders until it is stopped. Start it twice, the group shares the messages.
local wm = require "wm"

io.stdout:setvbuf("line")
local sub = wm.subscriber(arg[1] or "sqlite:wmlua.db", { group = "printers" })

for msg in sub:subscribe "orders" do -- ends when closed; `break` closes it
  if io.write(msg.uuid, " ", msg.payload, "\n") then
    msg:ack()
  else
    msg:nack{ delay = 5 } -- nack() = soon, backing off by itself
  end
end
