-- subscriber.lua - wm.subscriber and its subscriptions: iterators over a consumer of the C half.

local broker = require "wm.broker"
local core = require "wm.core"
local failure = require "wm.failure"
local fiber = require "wm.fiber"
local log = require "wm.log"
local loop = require "wm.loop"
local options = require "wm.options"
local task = require "wm.task"

local subscriber = {}

local methods = core.methods.consumer
local consumer_next, consumer_take, consumer_wait = methods.next, methods.take, methods.wait

-- ---- subscriptions --------------------------------------------------------------------------------------------

---@class wm.subscription
---@field closed boolean
---@field topic string
---@field group string|false
---@field consumer wm.core.consumer
---@field batch integer        messages a hand-out
---@field in_flight integer    max_in_flight
---@field last any             what was handed out last
---@field budget integer       hand-outs until the loop gets its turn
---@field waiters wm.fiber[]   and what to do when the last of them has given up
---@field watch table|nil
local Subscription = { __name = "wm.subscription" }
Subscription.__index = Subscription

local open = setmetatable({}, { __mode = "k" })

local NEXT = { what = "subscription to '%s': next()", task = 'wm.spawn(function() for msg in s do … end end)' }
local FLUSH = { what = "subscription to '%s': flush()", task = "wm.spawn(s.flush, s)" }
local CLOSE = { what = "subscription to '%s': close()", task = "wm.spawn(s.close, s)" }

-- A signal's hook runs when the C half returns.
local WAIT_SLICE = 1

-- cqueues must not find a closed descriptor among those that it polls.
local function leave_cqueues(consumer)
  local cqueues = package.loaded.cqueues
  if not cqueues then return end
  local ok, fd = pcall(consumer.fd, consumer)
  if ok then cqueues.cancel(fd) end
end

local function ended(self)
  self.closed = true
  leave_cqueues(self.consumer)
  open[self] = nil
  if self.watch then
    self.watch:close()
    self.watch = nil
  end
  for i = #self.waiters, 1, -1 do fiber.wake(self.waiters[i]) end
end

local function stop_watch_without_waiters(self)
  if #self.waiters == 0 and self.watch then self.watch:stop() end
end

local function readable(self)
  local first = self.waiters[1]
  if first then fiber.wake(first) end
  stop_watch_without_waiters(self)
end

-- One hand-out, or nil and why there is none.
local function take(self)
  if self.batch > 1 then return consumer_take(self.consumer, self.batch) end
  return consumer_next(self.consumer)
end

-- The loop gets its turn: a handler that never has to wait must not starve the others.
local function yield_turn(self)
  self.budget = loop.BUDGET
  local f = fiber.running()
  if f then
    fiber.prepare(f)
    loop.soon(fiber.wake, f)
    fiber.wait(f)
  elseif not fiber.alone() and not loop.inside() then
    local f_main = fiber.here(NEXT, self.topic)
    fiber.prepare(f_main)
    loop.soon(fiber.wake, f_main)
    fiber.wait(f_main)
  end
end

local function handed_out(self, msg)
  self.last = msg
  local budget = self.budget - 1
  self.budget = budget
  if budget <= 0 then yield_turn(self) end
  return msg
end

-- Stops the thread until there is something, or until `deadline`.
local function wait_alone(self, deadline)
  while true do
    local slice = deadline and math.min(WAIT_SLICE, math.max(0, deadline - core.clock())) or WAIT_SLICE
    local msg, why = consumer_wait(self.consumer, slice)
    if msg or why ~= "TIMEOUT" then return msg, why end
    if deadline and core.clock() >= deadline then return nil, why end
  end
end

-- Waits in the loop for something, or until `deadline`.
local function wait_in_loop(self, deadline)
  local f = fiber.here(NEXT, self.topic)
  if not self.watch then self.watch = loop.watch(self.consumer:fd(), readable) end
  while true do
    fiber.prepare(f, self.waiters)
    self.watch:start(self)
    local in_time = fiber.wait(f, deadline and math.max(0, deadline - core.clock()))
    if self.closed then return nil, "CLOSED" end
    local msg, why = take(self)
    if msg or why ~= "TIMEOUT" then return msg, why end
    if not in_time then return nil, why end
  end
end

local function wait_for_next(self, timeout)
  local deadline = timeout and core.clock() + timeout
  if self.batch <= 1 and fiber.alone() then return wait_alone(self, deadline) end
  return wait_in_loop(self, deadline)
end

---The next message, or list of them with `batch`; waits for it.
---@param timeout number|nil  seconds; 0: never waits
---@return wm.message|wm.message[]|nil msg  nil alone: closed
---@return string|nil err, string|nil code  TIMEOUT
function Subscription:next(timeout)
  if self.closed then return nil end
  if timeout ~= nil and (type(timeout) ~= "number" or timeout < 0) then
    failure.raise("subscription to '%s': next: seconds as a number expected, got %s", self.topic, log.quote(timeout))
  end
  local msg, why = take(self)
  if not msg and why == "TIMEOUT" then
    if timeout ~= 0 then msg, why = wait_for_next(self, timeout) end
    if not msg and why == "TIMEOUT" then
      return nil, ("subscription to '%s': nothing within %s s"):format(self.topic, timeout), "TIMEOUT"
    end
  end
  if msg then return handed_out(self, msg) end
  ended(self)
  return nil
end

-- for msg in s do
function Subscription:__call()
  if self.batch == 1 and not self.closed then
    local msg = consumer_next(self.consumer)
    if msg then
      self.last = msg
      local budget = self.budget - 1
      self.budget = budget
      if budget <= 0 then yield_turn(self) end
      return msg
    end
  end
  return self:next()
end

---Waits until the broker has taken all acks given so far.
---@param timeout number|nil  seconds; without it for ever
---@return true|nil ok, string|nil err, string|nil code
function Subscription:flush(timeout)
  if self.closed then return nil, ("subscription to '%s': it is closed"):format(self.topic), "CLOSED" end
  local f = fiber.here(FLUSH, self.topic)
  local ok, err, code = fiber.await(f, self.consumer:flush(timeout or -1))
  if ok then return true end
  return nil, err, code
end

---Ends the hand-out, waits for what is in flight, gives the rest back to the group.
---@param timeout number|nil  seconds; the option close_timeout
---@return true|nil ok, string|nil err, string|nil code
function Subscription:close(timeout)
  if self.closed then return true end
  local f = fiber.here(CLOSE, self.topic)
  local id = self.consumer:close(timeout or -1)
  ended(self)
  local ok, err, code = fiber.await(f, id)
  if ok then return true end
  return nil, err, code
end

-- The loop was left by break or an error: nobody will settle what it had in hand, unless several may be in flight.
local function give_back(self)
  if self.in_flight ~= 1 or not self.last then return end
  for _, msg in ipairs(self.batch > 1 and self.last or { self.last }) do msg:nack{ delay = 0 } end
end

function Subscription:__close()
  if self.closed then return end
  give_back(self)
  local can_wait, f = pcall(fiber.here, CLOSE, self.topic)
  local id = self.consumer:close(-1)
  ended(self)
  if can_wait then fiber.await(f, id) end
end

function Subscription:__gc()
  if self.watch then self.watch:close() end
end

---A descriptor that is readable while next(0) has something to say.
---@return integer
function Subscription:fd()
  if self.closed then failure.raise("subscription to '%s': fd: it is closed", self.topic) end
  return self.consumer:fd()
end

---No hand-outs until resume().
function Subscription:pause()
  if not self.closed then self.consumer:pause() end
end

function Subscription:resume()
  if not self.closed then self.consumer:resume() end
end

---@return table<string, integer|boolean>
function Subscription:stats() return self.consumer:stats() end

function Subscription:__tostring()
  return ("wm.subscription: %s%s%s"):format(self.topic, self.group and ", group " .. self.group or "",
    self.closed and " (closed)" or "")
end

-- ---- subscribers ----------------------------------------------------------------------------------------------

---@class wm.subscriber
---@field url string      its password as ***
---@field closed boolean
---@field target string   the URL
---@field opts table
---@field subs table<wm.subscription, true>
local Subscriber = { __name = "wm.subscriber" }
Subscriber.__index = Subscriber

local SUBSCRIBE = { what = "subscribe to '%s'", task = 'wm.spawn(function() local s = sub:subscribe "%s" … end)' }
local CLOSE_ALL = { what = "sub:close()", task = "wm.spawn(sub.close, sub)" }

-- Stands for the topics to come while URL and options are checked.
local ANY_TOPIC = "topic"

local LATER = options.set{ { name = "tx", later = true } }

---A subscriber: a URL and options for its subscriptions. No network I/O.
---@param url string|table|nil  nil: the default broker
---@param opts table|nil  subscription options; group: a name, or false = every subscription gets every message
---@return wm.subscriber
function subscriber.new(url, opts)
  url, opts = broker.arguments("wm.subscriber", url, opts)
  local masked = core.mask(url)
  local what = ('wm.subscriber "%s"'):format(masked)
  local set = options.of_core("subscription", url)
  options.check(what, opts, "subscriber", LATER, set)
  local ok, err = core.check(url, ANY_TOPIC, options.for_core(opts, set), false)
  if not ok then failure.raise("%s: %s", what, err) end
  return setmetatable({ url = masked, closed = false, target = url, opts = opts, subs = setmetatable({},
    { __mode = "k" }) }, Subscriber)
end

local function merged(below, above)
  local all = {}
  for name, value in pairs(below) do all[name] = value end
  for name, value in pairs(above or {}) do all[name] = value end
  return all
end

-- Waits until the group exists.
local function wait_for_group(f, what, consumer, id, timeout)
  fiber.prepare(f)
  f.id = id
  loop.expect(id, f)
  if not fiber.wait(f, timeout) then
    consumer:close(0)
    failure.raise("%s: the broker could not be reached within %s s (connect_timeout)", what, timeout)
  end
  local ok, err = f.ok, f.err
  if ok then return end
  consumer:close(0)
  failure.raise("%s: %s", what, err)
end

---Subscribes; waits until the group exists, raises if it cannot be made. `for msg in sub:subscribe "topic"` closes
---the subscription when the loop is left.
---@param topic string
---@param opts table|nil  subscription options
---@return wm.subscription, nil, nil, wm.subscription
function Subscriber:subscribe(topic, opts)
  options.check_topic("sub:subscribe", topic)
  local what = ('sub:subscribe "%s"'):format(topic)
  if self.closed then failure.raise("%s: the subscriber is closed", what) end
  local set = options.of_core("subscription", self.target)
  options.check(what, opts, "subscribe", LATER, set)
  local all = merged(self.opts, opts)
  local f = fiber.place(SUBSCRIBE, topic)
  local consumer, id, code = core.subscribe(self.target, topic, options.for_core(all, set), failure.where())
  if not consumer then failure.raise("%s: %s", what, id, code) end
  wait_for_group(f, what, consumer, id, options.number(all, set, self.target, "connect_timeout"))
  local s = setmetatable({
    closed = false, topic = topic, group = all.group or false, consumer = consumer,
    batch = options.number(all, set, self.target, "batch"), budget = loop.BUDGET,
    in_flight = options.number(all, set, self.target, "max_in_flight"),
  }, Subscription)
  s.waiters = { abandoned = function() stop_watch_without_waiters(s) end }
  open[s], self.subs[s] = true, true
  return s, nil, nil, s
end

---Closes all its subscriptions.
---@param timeout number|nil  seconds; the option close_timeout
---@return true|nil ok, string|nil err, string|nil code
function Subscriber:close(timeout)
  self.closed = true
  local closing = {}
  fiber.here(CLOSE_ALL)
  for s in pairs(self.subs) do
    if not s.closed then closing[#closing + 1] = task.spawn(s.close, s, timeout) end
  end
  local ok, err, code = true, nil, nil
  for _, t in ipairs(closing) do
    local this, why, its = t:join()
    if not this then ok, err, code = nil, why, its end
  end
  return ok, err, code
end

function Subscriber:__close() self:close() end

function Subscriber:__tostring() return ("wm.subscriber: %s%s"):format(self.url, self.closed and " (closed)" or "") end

---Begins to close all subscriptions that are open.
---@param timeout number
---@return wm.task[]
function subscriber.close_all(timeout)
  local closing = {}
  for s in pairs(open) do closing[#closing + 1] = task.spawn(s.close, s, timeout) end
  return closing
end

return subscriber
