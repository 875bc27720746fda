-- task.lua - wm.spawn, sleep, await: tasks and what they wait for besides brokers.

local failure = require "wm.failure"
local fiber = require "wm.fiber"
local log = require "wm.log"
local loop = require "wm.loop"

local task = {}

---@class wm.task : wm.fiber
---@field done boolean
---@field failed any|nil     what it raised
---@field trace string|nil   where
---@field joined boolean     somebody has asked how it ends
---@field joiners wm.fiber[]
local Task = setmetatable({ __name = "wm.task" }, { __index = fiber.Fiber })
Task.__index = Task

local alive = setmetatable({}, { __mode = "k" })
local unreported = {} -- failed ones that nobody has joined, until the loop turns

local JOIN = { what = "task:join()", task = "wm.spawn(function() … end)" }
local SLEEP = { what = "wm.sleep(%s)", task = "wm.spawn(function() wm.sleep(%s) … end)" }
local AWAIT = { what = "wm.await()", task = "wm.spawn(function() … end)" }

-- ---- ends ------------------------------------------------------------------------------------------------------

local function report(t)
  if not unreported[t] then return end
  unreported[t] = nil
  if t.joined then return end
  log.own("error", ("a task failed, and nobody joined it: %s"):format(tostring(t.failed)), nil,
    t.trace)
end

-- What has failed as the last thing before the program ends is told, too.
task.at_exit = setmetatable({}, { __gc = function()
  for t in pairs(unreported) do report(t) end
end })

local function wake_joiners(t)
  local joiners = t.joiners
  for i = #joiners, 1, -1 do fiber.wake(joiners[i]) end
end

local function fail(t, err)
  t.failed, t.trace = failure.split(err)
  if failure.code_of(err) ~= "CANCELLED" and #t.joiners == 0 then
    unreported[t] = true
    loop.soon(report, t)
  end
end

local function finish(t, ok, ...)
  alive[t] = nil
  t.done, t.finished = true, true
  if ok then t.values = table.pack(...) else fail(t, (...)) end
  wake_joiners(t)
end

-- An error outside of the task's own protection, as a host raises from a hook.
function Task:died(err)
  finish(self, false, type(err) == "string" and debug.traceback(self.co, err) or err)
end

local function body(t, fn, ...) finish(t, xpcall(fn, debug.traceback, ...)) end

-- ---- public ----------------------------------------------------------------------------------------------------

local function callable(value)
  if type(value) == "function" then return true end
  local meta = getmetatable(value)
  return type(meta) == "table" and meta.__call ~= nil
end
task.callable = callable

---Runs fn(...) at once until it first waits, then beside the others.
---@param fn function
---@param ... any
---@return wm.task
function task.spawn(fn, ...)
  if not callable(fn) then failure.raise("wm.spawn: function expected, got %s", type(fn)) end
  local t = fiber.create(setmetatable({ done = false, joined = false, joiners = {} }, Task), body)
  alive[t] = true
  fiber.resume(t, t, fn, ...)
  return t
end

---Waits for its end: fn's results, or nil, err, code.
---@param timeout number|nil  seconds
---@return any ...
function Task:join(timeout)
  self.joined = true
  if not self.done then
    local f = fiber.here(JOIN)
    if f == self then failure.raise "task:join: a task cannot wait for its own end" end
    fiber.prepare(f, self.joiners)
    if not fiber.wait(f, timeout) then
      self.joined = false
      return nil, ("the task has not ended within %s s"):format(timeout), "TIMEOUT"
    end
  end
  local err = self.failed
  if err == nil then return table.unpack(self.values, 1, self.values.n) end
  local code = failure.code_of(err)
  return nil, code and err.message or err, code
end

---The wm call that it waits in, or waits in next, raises CANCELLED.
---@return boolean  false: it has ended
function Task:cancel()
  if self.done then return false end
  fiber.stop(self, failure.new("CANCELLED", "the task was cancelled"))
  return true
end

function Task:__tostring()
  local state = not self.done and "running" or self.failed ~= nil and "failed" or "done"
  return ("wm.task: %s"):format(state)
end

---@param seconds number
---@return true
function task.sleep(seconds)
  if type(seconds) ~= "number" or seconds ~= seconds then
    failure.raise("wm.sleep: seconds as a number expected, got %s", log.quote(seconds))
  end
  local f = fiber.here(SLEEP, seconds)
  fiber.prepare(f)
  fiber.wait(f, math.max(seconds, 0))
  return true
end

---Waits until done(...) is called, which start is given: makes a function of any callback API.
---@param start fun(done: fun(...: any))
---@param timeout number|nil  seconds
---@return any ...  what done got, or nil, err, "TIMEOUT"
function task.await(start, timeout)
  if not callable(start) then failure.raise("wm.await: function expected, got %s", type(start)) end
  local f = fiber.here(AWAIT)
  fiber.prepare(f)
  local turn, values = f.turn, nil
  start(function(...)
    if values or f.turn ~= turn then return end
    values = table.pack(...)
    fiber.wake(f)
  end)
  if f.turn ~= turn then failure.raise "wm.await: its start function must not wait" end
  if not fiber.wait(f, timeout) then
    return nil, ("nothing called done() within %s s"):format(timeout), "TIMEOUT"
  end
  return table.unpack(values, 1, values.n)
end

---The running task never comes back; whoever joins it hears that it was cancelled.
---@param t wm.task
function task.abandon(t) finish(t, false, failure.new("CANCELLED", "the program ends")) end

---Stops those that are alive and that only() takes.
---@param err any
---@param only fun(t: wm.task): boolean
function task.stop_all(err, only)
  for t in pairs(alive) do
    if only(t) then fiber.stop(t, err) end
  end
end

---@return boolean  whether one of them is alive that only() takes
---@param only fun(t: wm.task): boolean
function task.any(only)
  for t in pairs(alive) do
    if only(t) then return true end
  end
  return false
end

return task
