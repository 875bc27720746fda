-- consume.lua HOW TOPIC GROUP COUNT: handles and acks COUNT messages, then prints how many had a payload, the seconds
-- that took, and those of processor time. HOW: handler (wm.on); handler-on-memory or loop-on-memory, which publish to
-- themselves before.
local wm = require "wm"
local uv = require "luv"

local how, topic, group, total = arg[1], arg[2], arg[3], math.tointeger(arg[4])
local payload_size, batch_size = 1024, 1000
local seen, payloads, began, used = 0, 0, nil, nil

local function see(msg)
  seen = seen + 1
  if #msg.payload == payload_size then payloads = payloads + 1 end
end

local function begin()
  began, used = uv.hrtime(), os.clock()
end

local function finish()
  print(payloads, (uv.hrtime() - began) / 1e9, os.clock() - used)
  os.exit(0)
end

local function fill()
  local payload, left = ("x"):rep(payload_size), total
  while left > 0 do
    local batch = {}
    for i = 1, math.min(left, batch_size) do batch[i] = wm.message{ payload = payload } end
    assert(wm.publish(topic, batch))
    left = left - #batch
  end
  collectgarbage() -- of this, which is not measured
end

local function handle()
  local handler
  begin()
  handler = wm.on(topic, { group = group }, function(msg)
    see(msg)
    if seen == total then wm.spawn(handler.close, handler) end
  end)
  wm.run() -- until its only handler is closed
  finish()
end

local function loop()
  begin()
  local messages = wm.subscriber{ group = group }:subscribe(topic)
  for msg in messages do
    see(msg)
    msg:ack()
    if seen == total then break end
  end
  finish()
end

if how ~= "handler" then fill() end
if how == "loop-on-memory" then loop() else handle() end
