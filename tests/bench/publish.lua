-- publish.lua TOPIC COUNT: publishes COUNT messages in lists of 1,000, then prints COUNT and the seconds that took.
local wm = require "wm"
local uv = require "luv"

local topic, total = arg[1], math.tointeger(arg[2])
local payload, batch_size = ("x"):rep(1024), 1000

local pub = wm.publisher()
assert(pub:publish(topic, payload)) -- what is opened at the first message is open

local began, stored = uv.hrtime(), 0
while stored < total do
  local batch = {}
  for i = 1, math.min(total - stored, batch_size) do batch[i] = wm.message{ payload = payload } end
  assert(pub:publish(topic, batch))
  stored = stored + #batch
end
local seconds = (uv.hrtime() - began) / 1e9
pub:close()
print(stored, seconds)
