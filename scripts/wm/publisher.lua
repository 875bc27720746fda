-- publisher.lua - wm.publisher: waits where the C half begins.

local broker = require "wm.broker"
local core = require "wm.core"
local failure = require "wm.failure"
local fiber = require "wm.fiber"
local loop = require "wm.loop"
local message = require "wm.message"
local options = require "wm.options"

local publisher = {}

---@class wm.publisher
---@field url string      its password as ***
---@field closed boolean
---@field handle wm.core.publisher
---@field room wm.fiber[]   those that wait until something queued has left
local Publisher = { __name = "wm.publisher" }
Publisher.__index = Publisher

local methods = core.methods.publisher
local publishable = message.publishable
local send, publish_blocking = methods.send, methods.publish_blocking

local PUBLISH = { what = "publish to '%s'", task = 'wm.spawn(pub.publish, pub, "%s", …)' }
local CLOSE = { what = "pub:close()", task = "wm.spawn(pub.close, pub)" }

-- How long a close sends what is queued, unless it is told.
local CLOSE_TIMEOUT = 30
-- A full queue has room again when something has been confirmed; looked at again after this time in any case.
local ROOM_POLL = 0.1

local open = setmetatable({}, { __mode = "k" })

---A publisher. No network I/O: a broker that is down is an outage like any later one.
---@param url string|table|nil  nil: the default broker
---@param opts { timeout: number|nil, order_by: string|nil, queue_bytes: integer|nil }|nil
---@return wm.publisher
function publisher.new(url, opts)
  url, opts = broker.arguments("wm.publisher", url, opts)
  local masked = core.mask(url)
  local what = ('wm.publisher "%s"'):format(masked)
  local set = options.of_core("publisher", url)
  options.check(what, opts, "publisher", set)
  local handle, err = core.publisher(url, options.for_core(opts, set))
  if not handle then failure.raise("%s: %s", what, err) end
  local self = setmetatable({ url = masked, closed = false, handle = handle, room = {} }, Publisher)
  open[self] = true
  return self
end

local function checked(self, topic, m)
  if getmetatable(self) ~= Publisher then
    failure.raise("pub:publish: a publisher expected, got %s; write pub:publish(…), with a colon", type(self))
  end
  if self.closed then failure.raise("publish to '%s': the publisher of %s is closed", tostring(topic), self.url) end
  if type(topic) == "string" and publishable(m) then return end
  message.check(("publish to '%s'"):format(tostring(topic)), topic, m)
end

local function freed(self)
  local first = self.room[1]
  if first then fiber.wake(first) end
end

-- Waits until something that was queued has left.
local function wait_for_room(self, f)
  fiber.prepare(f, self.room)
  fiber.wait(f, ROOM_POLL)
end

---Publishes and waits until the broker has confirmed all.
---@param topic string|nil  nil: each message's own
---@param m string|number|wm.message|(string|number|wm.message)[]
---@return true|nil ok, string|nil err, string|nil code
---@return string[]|nil results  "STORED", "REFUSED", "NOT_SENT" or "UNKNOWN" for each
function Publisher:publish(topic, m)
  checked(self, topic, m)
  local handle = self.handle
  if fiber.alone() then return publish_blocking(handle, topic, m) end
  local f = fiber.here(PUBLISH, topic)
  local id, err, code = send(handle, topic, m)
  while not id do
    if code ~= "TIMEOUT" then return nil, err, code end
    wait_for_room(self, f)
    if self.closed then return nil, ("publish to '%s': the publisher was closed"):format(topic), "CLOSED" end
    id, err, code = send(handle, topic, m)
  end
  local ok, results
  ok, err, code, results = fiber.await(f, id)
  if self.room[1] then freed(self) end
  if ok then return true end
  return nil, err, code, results
end

---Request and reply come with a later version.
function Publisher:request() failure.later "pub:request" end

---Transactions come with a later version.
function Publisher:tx() failure.later "pub:tx" end

-- Begins the close; nil when it was closed before.
local function begin_close(self, timeout)
  if self.closed then return nil end
  self.closed = true
  open[self] = nil
  for i = #self.room, 1, -1 do fiber.wake(self.room[i]) end
  return self.handle:close(timeout or CLOSE_TIMEOUT)
end

---Sends what is queued, then closes.
---@param timeout number|nil  seconds, 30
---@return true|nil ok, string|nil err, string|nil code
function Publisher:close(timeout)
  if self.closed then return true end
  local f = fiber.here(CLOSE)
  local ok, err, code = fiber.await(f, begin_close(self, timeout))
  if ok then return true end
  return nil, err, code
end

-- Where nothing can wait, it closes by itself.
function Publisher:__close()
  local id = begin_close(self)
  local can_wait, f = pcall(fiber.here, CLOSE)
  if id and can_wait then fiber.await(f, id) end
end

---@return table<string, integer>
function Publisher:stats()
  if self.closed then failure.raise("pub:stats: the publisher of %s is closed", self.url) end
  return self.handle:stats()
end

function Publisher:__tostring()
  return ("wm.publisher: %s%s"):format(self.url, self.closed and " (closed)" or "")
end

---@param value any
---@return boolean
function publisher.is(value) return getmetatable(value) == Publisher end

-- ---- shared ones ----------------------------------------------------------------------------------------------

local shared = {}

---The publisher that all share who publish to a URL without options of their own.
---@param url string
---@return wm.publisher
function publisher.shared(url)
  local pub = shared[url]
  if not pub or pub.closed then
    pub = publisher.new(url)
    shared[url] = pub
  end
  return pub
end

---Publishes on the default broker.
---@param topic string|nil
---@param m string|number|wm.message|(string|number|wm.message)[]
---@return true|nil ok, string|nil err, string|nil code, string[]|nil results
function publisher.publish(topic, m) return publisher.shared(broker.default()):publish(topic, m) end

---Begins to close all that are open, and waits for them.
---@param f wm.fiber
---@param timeout number
function publisher.close_all(f, timeout)
  local ids = {}
  for pub in pairs(open) do ids[#ids + 1] = begin_close(pub, timeout) end
  if #ids == 0 then return end
  local left = #ids
  local all = {}
  function all:complete()
    left = left - 1
    if left == 0 then fiber.wake(f) end
  end
  fiber.prepare(f)
  for _, id in ipairs(ids) do loop.expect(id, all) end
  fiber.wait(f)
end

return publisher
