-- retry.lua - retry policies: checked when they are given, asked after each failure. No message is touched here.

local failure = require "wm.failure"
local fate = require "wm.fate"
local log = require "wm.log"
local options = require "wm.options"

local retry = {}

-- Watermill's names; four minutes in all.
local DEFAULTS = { max_retries = 10, initial_interval = 0.5, multiplier = 2, max_interval = 60 }
-- Computed intervals are lengthened by up to this part, so that those who failed together come back apart.
retry.jitter = 0.2

---@class wm.retry.policy
---@field max_retries number
---@field initial_interval number
---@field multiplier number
---@field max_interval number
---@field intervals number[]|nil
---@field rules wm.retry.rule[]
---@field decide function|nil

---@class wm.retry.rule : wm.retry.policy
---@field match string|nil
---@field code string|nil
---@field dead boolean|nil
---@field drop boolean|nil
---@field pause number|nil

-- ---- checking -------------------------------------------------------------------------------------------------

local FIELDS = options.set{
  { name = "max_retries", unit = "count" }, { name = "initial_interval", unit = "duration" },
  { name = "multiplier", unit = "multiplier" }, { name = "max_interval", unit = "duration" },
  { name = "intervals", unit = "table" },
}
local POLICY_FIELDS = options.set{ { name = "rules", unit = "table" } }
local RULE_FIELDS = options.set{
  { name = "match", unit = "text" }, { name = "code", unit = "text" }, { name = "dead", unit = "bool" },
  { name = "drop", unit = "bool" }, { name = "pause", unit = "duration" },
}

local function check_intervals(what, list)
  if list == nil then return end
  local n = 0
  for key, value in pairs(list) do
    if math.type(key) ~= "integer" then failure.raise("%s: a list of seconds has no key '%s'", what, tostring(key)) end
    options.check_value(what, { name = ("[%d]"):format(key), unit = "duration" }, value)
    n = n + 1
  end
  if n == 0 or n ~= #list then failure.raise("%s: a list of seconds expected", what) end
end

-- Its own fields, then those of the policy; a list of intervals is also how many there are.
local function inherit(given, below)
  local p = {}
  for name in pairs(FIELDS) do
    p[name] = given[name]
    if p[name] == nil then p[name] = below[name] end
  end
  if given.intervals and given.max_retries == nil then p.max_retries = #given.intervals end
  if not given.intervals and (given.initial_interval or given.multiplier or given.max_interval) then
    p.intervals = nil
  end
  return p
end

local function read_rule(what, given, policy)
  options.check(what, given, "on", FIELDS, RULE_FIELDS)
  check_intervals(what .. ": intervals", given.intervals)
  if given.match == nil and given.code == nil then
    failure.raise("%s: match (a Lua pattern on the error) or code is missing", what)
  end
  if given.match then
    local ok, err = pcall(string.find, "", given.match)
    if not ok then failure.raise("%s: match: %s", what, tostring(err)) end
  end
  local ends = (given.dead and 1 or 0) + (given.drop and 1 or 0) + (given.pause and 1 or 0)
  if ends > 1 then failure.raise("%s: only one of dead, drop and pause", what) end
  local rule = inherit(given, policy)
  rule.match, rule.code, rule.dead, rule.drop, rule.pause = given.match, given.code, given.dead, given.drop, given.pause
  return rule
end

local function read_policy(what, given)
  if given[1] ~= nil then
    check_intervals(what, given)
    given = { intervals = given }
  end
  options.check(what, given, "on", FIELDS, POLICY_FIELDS)
  check_intervals(what .. ": intervals", given.intervals)
  local policy = inherit(given, DEFAULTS)
  policy.rules = {}
  for i, rule in ipairs(given.rules or {}) do
    local its = ("%s: rules[%d]"):format(what, i)
    if type(rule) ~= "table" then failure.raise("%s: a table expected, got %s", its, log.quote(rule)) end
    policy.rules[i] = read_rule(its, rule, policy)
  end
  return policy
end

---The policy that an option `retry` means; raises.
---@param what string  e.g. 'wm.on "orders": retry'
---@param given nil|false|table|function
---@return wm.retry.policy
function retry.read(what, given)
  if given == nil then return read_policy(what, {}) end
  if given == false then return read_policy(what, { max_retries = 0 }) end
  if type(given) == "table" then return read_policy(what, given) end
  if type(given) ~= "function" then
    failure.raise("%s: a list of seconds, a table, a function or false expected, got %s", what, log.quote(given))
  end
  local policy = read_policy(what, {})
  policy.decide = given
  return policy
end

-- ---- asking ---------------------------------------------------------------------------------------------------

---The n-th interval.
---@param p wm.retry.policy
---@param n integer  from 1
---@return number seconds
function retry.interval(p, n)
  local list = p.intervals
  if list then return list[math.min(n, #list)] end
  local plain = math.min(p.initial_interval * p.multiplier ^ (n - 1), p.max_interval)
  return plain * (1 + retry.jitter * math.random())
end

-- What error() has put before a text.
local function without_place(text)
  return text:match "^%S+%.lua:%d+: (.*)$" or text:match '^%[string "[^\n]-"%]:%d+: (.*)$' or text
end

local function applies(rule, text, code)
  return (not rule.code or rule.code == code) and (not rule.match or text:find(rule.match) ~= nil)
end

-- By the numbers, and the rules.
local function by_rules(policy, failures, text, code, forever)
  local p = policy
  local bare = without_place(text)
  for _, rule in ipairs(policy.rules) do
    if applies(rule, bare, code) then
      p = rule
      break
    end
  end
  if p.drop then return "drop" end
  if p.dead or failures > p.max_retries and not forever then return "dead" end
  if p.pause then return "pause", p.pause end
  return "retry", retry.interval(p, failures)
end

local function by_function(policy, msg, err)
  local ok, said = xpcall(policy.decide, debug.traceback, msg, err)
  if not ok then
    log.own("error", ("retry function failed, the default policy decides: %s"):format(failure.text(said)))
  elseif fate.is(said) then
    return said.kind, said.delay or retry.interval(policy, msg.failures + 1), said.reason
  elseif said ~= nil then
    log.own("warn", ("retry function returned %s; a fate or nil expected, the default policy decides"):format(
      log.quote(said)))
  end
end

---What becomes of a message that has failed once more.
---@param policy wm.retry.policy
---@param msg wm.message
---@param text string  the error
---@param code string|nil
---@param forever boolean  there is no dead letter topic: retries do not end
---@return "retry"|"pause"|"drop"|"dead" kind, number|nil seconds, string|nil reason
function retry.decide(policy, msg, text, code, forever)
  if policy.decide then
    local kind, seconds, reason = by_function(policy, msg, text)
    if kind then return kind, seconds, reason end
  end
  return by_rules(policy, msg.failures + 1, text, code, forever)
end

return retry
