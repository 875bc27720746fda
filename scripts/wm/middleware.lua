-- middleware.lua - what stands around handlers: functions (msg, next) that return the fate.

local failure = require "wm.failure"
local task = require "wm.task"

local middleware = {}

---fn within the functions of list, the first outermost.
---@param list function[]
---@param fn function
---@return function
function middleware.wrap(list, fn)
  local call = fn
  for i = #list, 1, -1 do
    local own, inner = list[i], call
    call = function(msg) return own(msg, inner) end
  end
  return call
end

---Raises unless every element of list can be called.
---@param what string
---@param list any[]
---@param n integer|nil
function middleware.check(what, list, n)
  for i = 1, n or #list do
    if not task.callable(list[i]) then
      failure.raise("%s: middleware %d: function(msg, next) expected, got %s", what, i, type(list[i]))
    end
  end
end

-- Watermill's names for what is an option here.
local OPTION = {
  retry = "the option retry = { max_retries = …, initial_interval = … }",
  poison_queue = 'the option dead_letter = "TOPIC"',
  timeout = "the option timeout = SECONDS",
  recoverer = "nothing: what a handler raises is always caught, logged and retried",
  delay_on_error = "the option retry = { initial_interval = …, multiplier = … }",
}

local LATER = { "correlation_id", "throttle", "circuit_breaker", "deduplicator", "ignore_errors", "instant_ack",
  "duplicator", "random_fail" }

-- wm.middleware
local public = {}
for name, option in pairs(OPTION) do
  public[name] = function() failure.raise("wm.middleware.%s: there is none; what does that is %s", name, option) end
end
for _, name in ipairs(LATER) do
  public[name] = function() failure.later("wm.middleware." .. name, "a function(msg, next) of your own can be used") end
end

middleware.public = setmetatable(public, { __index = function(_, name)
  local names = table.move(LATER, 1, #LATER, 1, {})
  failure.raise("wm.middleware: there is no '%s'%s", tostring(name), failure.suggest(name, names))
end })

return middleware
