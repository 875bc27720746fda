-- fate.lua - wm.retry, drop, dead: what a handler returns, or raises, to say what becomes of its message.

local failure = require "wm.failure"
local fiber = require "wm.fiber"
local log = require "wm.log"

local fate = {}

---@class wm.fate
---@field kind "retry"|"drop"|"dead"
---@field delay number|nil
---@field reason string|nil
local Fate = { __name = "wm.fate" }
Fate.__index = Fate

function Fate:__tostring() return ("wm.%s(%s)"):format(self.kind, self.delay or self.reason or "") end

local AGAIN = setmetatable({ kind = "retry" }, Fate)

---Again after that many seconds, or after the policy's interval; no failure, without limit.
---@param seconds number|nil
---@return wm.fate
function fate.retry(seconds)
  if seconds == nil then return AGAIN end
  if type(seconds) ~= "number" or seconds ~= seconds or seconds < 0 then
    failure.raise("wm.retry: seconds as a number expected, got %s", log.quote(seconds))
  end
  return setmetatable({ kind = "retry", delay = seconds }, Fate)
end

local function check_reason(what, reason)
  if reason == nil or type(reason) == "string" or type(reason) == "number" then return end
  failure.raise("%s: a reason as a string expected, got %s", what, log.quote(reason))
end

---Thrown away: acked, logged and counted.
---@param reason string|nil
---@return wm.fate
function fate.drop(reason)
  check_reason("wm.drop", reason)
  return setmetatable({ kind = "drop", reason = reason and tostring(reason) }, Fate)
end

---To the dead letter topic, without further retries.
---@param reason string|nil
---@return wm.fate
function fate.dead(reason)
  check_reason("wm.dead", reason)
  local worker = fiber.running()
  local handler = worker and worker.handler
  if handler and not handler.dead_letter then
    failure.raise("wm.dead: handler '%s' has dead_letter = false; name a topic there", handler.name)
  end
  return setmetatable({ kind = "dead", reason = reason and tostring(reason) }, Fate)
end

---@param value any
---@return boolean
function fate.is(value) return getmetatable(value) == Fate end

return fate
