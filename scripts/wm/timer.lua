-- timer.lua - wm.every: what runs again and again, each time as a task.

local failure = require "wm.failure"
local log = require "wm.log"
local loop = require "wm.loop"
local task = require "wm.task"
local core = require "wm.core"

local timer = {}

---@class wm.timer
---@field interval number
---@field fn function
---@field at number         when it runs next, monotonic
---@field entry table|nil
---@field run wm.task|nil   the last run
local Timer = { __name = "wm.timer" }
Timer.__index = Timer

local open = {}

-- The next time that is still ahead, on the grid of the first one.
local function arm(self)
  local now = core.clock()
  local missed = math.max(0, (now - self.at) // self.interval)
  self.at = self.at + (missed + 1) * self.interval
  self.entry = loop.after(self.at - now, self.fire, self)
end

function Timer:fire()
  arm(self)
  if self.run and not self.run.done then return end -- runs never overlap
  self.run = task.spawn(self.fn)
end

---No more runs; one that is under way goes on.
function Timer:close()
  if not open[self] then return end
  open[self] = nil
  loop.cancel(self.entry)
end
Timer.__close = Timer.close

function Timer:__tostring()
  return ("wm.timer: every %s s%s"):format(self.interval, open[self] and "" or " (closed)")
end

---Runs fn every so many seconds, the first time after that many.
---@param seconds number
---@param fn function
---@return wm.timer
function timer.every(seconds, fn)
  if type(seconds) ~= "number" or seconds ~= seconds or seconds <= 0 then
    failure.raise("wm.every: seconds as a number above 0 expected, got %s", log.quote(seconds))
  end
  if not task.callable(fn) then failure.raise("wm.every: function expected, got %s", type(fn)) end
  local self = setmetatable({ interval = seconds, fn = fn, at = core.clock() }, Timer)
  open[self] = true
  self.entry = loop.after(seconds, self.fire, self)
  self.at = self.at + seconds
  return self
end

function timer.close_all()
  for t in pairs(open) do t:close() end
end

return timer
