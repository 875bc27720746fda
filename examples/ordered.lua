-- ordered.lua: 64 messages at a time, each customer's in order. Publishes its own input, ends when all is done.
local wm = require "wm"

local customers, scans_each = 20, 5
local total, tracked = customers * scans_each, 0

local pub = wm.publisher{ order_by = "customer_id" } -- the partition key where brokers have one

-- Stands for a service that takes a while to answer; meanwhile the other customers go on.
local function track(scan)
  wm.sleep(math.random() * 0.1)
  return scan .. ": tracked"
end

wm.on("scans", { group = "tracking", max_in_flight = 64, order_by = "customer_id" }, function(msg)
  local result, err = track(msg.payload)
  if not result then return nil, err end -- tried again; only this customer waits
  local customer = msg.metadata.customer_id
  return pub:publish("tracked", wm.message{ payload = result, metadata = { customer_id = customer } })
end)

wm.on("tracked", { group = "screen" }, function(msg)
  print(msg.payload)
  tracked = tracked + 1
end)

local function scans()
  local list = {}
  for scan = 1, scans_each do
    for customer = 1, customers do
      list[#list + 1] = wm.message{
        payload = ("customer %d, scan %d"):format(customer, scan),
        metadata = { customer_id = tostring(customer) },
      }
    end
  end
  return list
end

wm.spawn(function() -- a task: it waits while handlers go on
  assert(pub:publish("scans", scans()))
  while tracked < total do wm.sleep(0.05) end
  os.exit(0)
end)
