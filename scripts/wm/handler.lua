-- handler.lua - a handler that runs: its consumer, and the coroutines that its messages are handled in.
--
-- A worker is a coroutine that takes a message, handles and settles it, and takes the next, without leaving itself,
-- until there is none or the loop is due: then it rests and is used again. One that has ever yielded to code that is
-- not ours ends with its message: a late resume must meet a dead coroutine, never another message.

local core = require "wm.core"
local failure = require "wm.failure"
local fiber = require "wm.fiber"
local log = require "wm.log"
local loop = require "wm.loop"
local outcome = require "wm.outcome"
local publisher = require "wm.publisher"

local handler = {}

local consumer_next, consumer_take = core.methods.consumer.next, core.methods.consumer.take
local done, clock, traceback = core.done, core.clock, debug.traceback
local returned, raised = outcome.returned, outcome.raised
local BUDGET = loop.BUDGET

---@class wm.handler
---@field name string
---@field topic string
---@field url string
---@field where string          "file:line" of wm.on
---@field group string|false
---@field options table         as libwm takes them
---@field call fun(msg: any): any, any, any  the handler within its middleware
---@field policy wm.retry.policy
---@field dead_letter string|false
---@field publish_to string|nil
---@field publisher wm.publisher|nil
---@field timeout number|nil
---@field batch integer
---@field max integer           workers
---@field consumer wm.core.consumer|nil  nil: not begun
---@field idle wm.worker[]
---@field workers integer
---@field starved boolean       the consumer had something while no worker was free
---@field known boolean         how the subscribing has ended
---@field over boolean          no more messages
---@field finished boolean      and no worker at work
---@field problem { err: string, code: string }|nil  why it never worked
local Handler = { __name = "wm.handler" }
Handler.__index = Handler

---@class wm.worker : wm.fiber
---@field handler wm.handler
---@field msg any        in hand
---@field why string|nil   why it rests
---@field began number     when msg was taken, where there is a timeout
---@field overdue table|false  the timer of the timeout
local Worker = setmetatable({ __name = "wm.worker" }, { __index = fiber.Fiber })
Worker.__index = Worker

-- ---- workers --------------------------------------------------------------------------------------------------

local function forget_timeout(w)
  if w.overdue then
    loop.cancel(w.overdue)
    w.overdue = false
  end
end

-- Takes and handles messages until there is none, or the loop is due.
local function run(w)
  local h = w.handler
  local consumer, call, timeout = h.consumer, h.call, h.timeout
  local take, batch = consumer_next, nil
  if h.batch > 1 then take, batch = consumer_take, h.batch end
  for _ = 1, BUDGET do
    local msg, why = take(consumer, batch)
    if not msg then
      w.why = why
      return
    end
    if batch then setmetatable(msg, handler.Batch) end
    if timeout then w.began = clock() end
    w.msg = msg
    local value, err, code = call(msg)
    if value == nil and err == nil and not batch then done(msg) else returned(h, msg, value, err, code) end
    w.msg = nil
    h.handled = h.handled + 1
    if timeout then forget_timeout(w) end
    if w.foreign or h.over then break end
  end
  w.why = "BUDGET"
end

-- The message in hand has failed by an error. Back to the loop, where a host that has raised it calms down.
local function settle_raised(w, err)
  local h, msg = w.handler, w.msg
  local text, stack = failure.split(err)
  w.why = "BUDGET"
  if msg == nil then
    log.internal(("handler '%s': %s"):format(h.name, failure.text(err)))
    return
  end
  forget_timeout(w)
  raised(h, msg, text, stack)
  w.msg = nil
  h.handled = h.handled + 1
end

local function body(w)
  local h = w.handler
  while not w.foreign do
    w.why = nil
    local ok, err = xpcall(run, traceback, w)
    if not ok then settle_raised(w, err) end
    if not w.foreign then
      h:rested(w)
      fiber.rest(w)
    end
  end
  w.finished = true
  h:left()
end

-- It has yielded while it has a message: from now on its time is measured.
function Worker:suspended()
  local timeout = self.handler.timeout
  if not timeout or self.msg == nil or self.overdue then return end
  self.overdue = loop.after(timeout - (clock() - self.began), self.timed_out, self)
end

function Worker:timed_out()
  self.overdue = false
  local h, msg = self.handler, self.msg
  local err = failure.new("TIMEOUT", ("timed out: not done within %s s (option timeout)"):format(h.timeout))
  if self.parked then
    fiber.stop(self, err)
    -- The handler has caught that and goes on: without its message.
    if self.msg == msg then outcome.failed(h, msg, err) end
  elseif coroutine.status(self.co) == "suspended" then
    coroutine.close(self.co)
    self.finished = true
    self.msg = nil
    outcome.failed(h, msg, err)
    h:left()
  end
end

-- An error outside of its own protection, as a host raises from a hook.
function Worker:died(err)
  self.finished = true
  settle_raised(self, type(err) == "string" and traceback(self.co, err) or err)
  self.handler:left()
end

local function new_worker(h)
  h.workers = h.workers + 1
  return fiber.create(setmetatable({ handler = h, overdue = false }, Worker), body)
end

---The running worker never comes back; what it has in hand goes back.
---@param w wm.worker
function handler.abandon(w)
  outcome.give_back(w.msg)
  w.msg = nil
  w.finished = true
  forget_timeout(w)
  w.handler:left()
end

-- ---- handing out ----------------------------------------------------------------------------------------------

local function no_more(h)
  if h.over then return end
  h.over = true
  if h.watch then h.watch:close() end
end

---Takes no more messages, though its subscription is still open.
function Handler:halt() no_more(self) end

local function check_finished(h)
  if not h.over or not h.known or h.finished or h.workers > #h.idle then return end
  h.finished = true
  for i = #h.waiters, 1, -1 do fiber.wake(h.waiters[i]) end
end

local function find_work_again(h)
  if h.starved and not h.over then
    h.starved = false
    h.watch:start(h)
  end
end

---w has nothing to do.
function Handler:rested(w)
  self.idle[#self.idle + 1] = w
  if w.why == "CLOSED" or w.why == "RETIRED" then no_more(self) end
  if self.over then check_finished(self) elseif self.starved then find_work_again(self) end
end

---One worker has ended.
function Handler:left()
  self.workers = self.workers - 1
  if self.over then check_finished(self) elseif self.starved then find_work_again(self) end
end

-- The consumer has something to say.
local function hand_out(h)
  local idle = h.idle
  if #idle == 0 and h.workers >= h.max then
    h.starved = true
    h.watch:stop()
    return
  end
  while not h.over do
    local w = idle[#idle]
    if w then
      idle[#idle] = nil
    elseif h.workers < h.max then
      w = new_worker(h)
    else
      return
    end
    fiber.resume(w, w)
    if w.why then return end -- it rests: there is nothing more, or the loop is due
  end
end

-- ---- life -----------------------------------------------------------------------------------------------------

---@param h table  the fields that it needs to run
---@return wm.handler
function handler.new(h)
  h.idle, h.workers, h.starved, h.waiters = {}, 0, false, {}
  h.known, h.over, h.finished = false, false, false
  h.handled, h.failed, h.dropped, h.dead = 0, 0, 0, 0
  return setmetatable(h, Handler)
end

-- The group exists, or will never.
function Handler:complete(ok, err, code)
  self.known = true
  if ok or code == "CLOSED" then
    check_finished(self)
    return
  end
  self.problem = { err = err, code = code }
  log.own("error", ("%s: wm.on \"%s\": %s"):format(self.where, self.topic, err), { handler = self.name })
  self.consumer:close(0)
  no_more(self)
  check_finished(self)
end

---Subscribes; messages come when the loop turns.
function Handler:start()
  if self.consumer or self.over then return end
  local consumer, id, code = core.subscribe(self.url, self.topic, self.options, self.where)
  if not consumer then
    self.problem = { err = id, code = code }
    log.own("error", ("%s: wm.on \"%s\": %s"):format(self.where, self.topic, id), { handler = self.name })
    self.over, self.finished = true, true
    return
  end
  self.consumer = consumer
  self.watch = loop.watch(consumer:fd(), hand_out)
  self.watch:start(self)
  loop.expect(id, self)
end

---The publisher of what it returns.
---@return wm.publisher
function Handler:get_publisher()
  if not self.publisher then self.publisher = publisher.shared(self.url) end
  return self.publisher
end

local function resume_after_pause(h)
  h.pause_timer = nil
  if not h.paused and not h.over then h.consumer:resume() end
end

---Hands out nothing for that long, because of a rule with `pause`.
---@param seconds number
function Handler:pause_for(seconds)
  if self.over then return end
  local at = clock() + seconds
  if self.pause_timer then
    if self.pause_timer.at >= at then return end
    loop.cancel(self.pause_timer)
  end
  self.consumer:pause()
  self.pause_timer = loop.after(seconds, resume_after_pause, self)
end

---Hands out nothing until resume().
function Handler:pause()
  self.paused = true
  if self.consumer and not self.over then self.consumer:pause() end
end

function Handler:resume()
  self.paused = false
  if self.consumer and not self.over and not self.pause_timer then self.consumer:resume() end
end

local CLOSE = { what = "handler '%s': close()", task = "wm.spawn(h.close, h)" }
local WAIT = { what = "waiting for handler '%s'", task = "wm.spawn(wm.run)" }

---No more messages; waits until those in hand are handled.
---@param timeout number|nil  seconds; the option close_timeout
---@return true|nil ok, string|nil err, string|nil code
function Handler:close(timeout)
  if not self.consumer then
    self.over, self.finished = true, true
    return true
  end
  if self.closing then return true end
  local f = fiber.here(CLOSE, self.name)
  self.closing = true
  if self.pause_timer then
    loop.cancel(self.pause_timer)
    self.pause_timer = nil
  end
  local id = self.consumer:close(timeout or -1)
  no_more(self)
  local ok, err, code = fiber.await(f, id)
  check_finished(self)
  if ok then return true end
  return nil, err, code
end

---Waits until it gets no more messages and none is in hand.
---@param timeout number|nil
---@return boolean
function Handler:wait(timeout)
  if self.finished then return true end
  local f = fiber.here(WAIT, self.name)
  fiber.prepare(f, self.waiters)
  return fiber.wait(f, timeout)
end

---@return table<string, integer|boolean>
function Handler:stats()
  local stats = self.consumer and self.consumer:stats() or {}
  stats.handled, stats.failed, stats.dropped, stats.buried = self.handled, self.failed, self.dropped, self.dead
  stats.at_work = self.workers - #self.idle
  return stats
end

function Handler:__tostring()
  local group = self.group and ("group %s"):format(self.group) or "fan-out"
  return ("wm.handler: %s, topic %s, %s%s"):format(self.name, self.topic, group, self.over and " (closed)" or "")
end

-- ---- within a handler -----------------------------------------------------------------------------------------

local FIELDS = { payload = true, metadata = true, uuid = true, attempt = true, json = true, ack = true, nack = true,
  settle = true }

---The list of messages that a batch handler gets.
handler.Batch = { __name = "wm.batch", __index = function(_, key)
  if FIELDS[key] then
    failure.raise("a handler with batch = n gets a list of messages, which has no '%s': its elements have", key)
  end
end }

---Does to this message what returning these values would do; in handlers only.
---@param ... any
---@return boolean  false: it was settled before
function core.methods.message.settle(msg, ...)
  local w = fiber.running()
  if not w or not w.handler or w.msg == nil then
    failure.raise "msg:settle: only in a handler (and not in a task of its own); elsewhere use msg:ack() or msg:nack{…}"
  end
  if msg.settled then return false end
  returned(w.handler, msg, ...)
  return true
end

function log.context()
  local w = fiber.running()
  if not w or not w.handler then return nil end
  local msg = w.msg
  return { handler = w.handler.name, uuid = msg ~= nil and type(msg) ~= "table" and msg.uuid or nil }
end

return handler
