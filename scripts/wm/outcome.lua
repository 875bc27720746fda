-- outcome.lua - what becomes of a message, or a batch of them, by what its handler returned or raised: the table of
-- fates. The plain case, nothing returned, is the handler's own fast path.

local core = require "wm.core"
local failure = require "wm.failure"
local fate = require "wm.fate"
local log = require "wm.log"
local retry = require "wm.retry"

local outcome = {}

local is_message, done = core.is_message, core.done

local MAY_RETURN = "nothing, true, wm.retry/drop/dead(…), or nil and an error"

-- msgs: one message, or the list of a batch.
local function each(msgs, fn, ...)
  if type(msgs) ~= "table" then return fn(msgs, ...) end
  for i = 1, #msgs do fn(msgs[i], ...) end
end

---Acks what is not settled yet.
---@param msgs wm.message|wm.message[]
function outcome.ack(msgs) each(msgs, done) end

---Hands out again at once what is not settled yet.
---@param msgs wm.message|wm.message[]
function outcome.give_back(msgs) each(msgs, core.again, 0) end

-- ---- failures -------------------------------------------------------------------------------------------------

local function seconds(s)
  if s >= 10 then return ("%.0f s"):format(s) end
  return (s < 0.1 and "%.3g s" or "%.1f s"):format(s)
end

local function tell(h, level, msg, text, what_then, trace)
  log.own(level, ("%s: handler '%s'%s. Message %s, attempt %d, %s"):format(h.where, h.name, text, msg.uuid, msg.attempt,
    what_then), { handler = h.name, topic = h.topic, uuid = msg.uuid, attempt = msg.attempt }, trace)
end

local function bury(msg, h, reason, detail, text, trace)
  local attempt_text = ("to '%s'"):format(tostring(h.dead_letter))
  if h.dead_letter and core.dead(msg, reason, detail) then
    h.dead = h.dead + 1
    tell(h, "error", msg, text, attempt_text, trace)
  elseif not msg.settled then
    local delay = retry.interval(h.policy, msg.failures + 1)
    core.fail(msg, delay, reason, detail)
    tell(h, "error", msg, text, ("it cannot go to a dead letter topic, again in %s"):format(seconds(delay)), trace)
  end
end

local function fail_one(msg, h, text, code, said, trace)
  if msg.settled then
    if msg.settled == "ack" then tell(h, "warn", msg, said, "it had been settled before", trace) end
    return
  end
  h.failed = h.failed + 1
  local kind, delay, reason = retry.decide(h.policy, msg, text, code, not h.dead_letter)
  if kind == "dead" then
    bury(msg, h, reason or text, trace, said, trace)
  elseif kind == "drop" then
    done(msg)
    h.dropped = h.dropped + 1
    tell(h, "warn", msg, said, "dropped", trace)
  else
    core.fail(msg, delay, text, trace)
    if kind == "pause" then h:pause_for(delay) end
    tell(h, "warn", msg, said, ("%sagain in %s"):format(kind == "pause" and "all wait, " or "", seconds(delay)), trace)
  end
end

---A failure: retried by the policy, then to the dead letter topic.
---@param h wm.handler
---@param msgs wm.message|wm.message[]
---@param err any
---@param code string|nil
---@param trace string|nil
function outcome.failed(h, msgs, err, code, trace)
  local text = tostring(err)
  each(msgs, fail_one, h, text, code or failure.code_of(err), ": " .. text, trace)
end

-- The handler has returned what it may not.
local function misused(h, msgs, text)
  text = "returned " .. text
  each(msgs, fail_one, h, text, "BAD_INPUT", " " .. text)
end

-- ---- fates ----------------------------------------------------------------------------------------------------

local function again_one(msg, h, f) core.again(msg, f.delay or retry.interval(h.policy, msg.attempt)) end

local function drop_one(msg, h, f)
  if not done(msg) then return end
  h.dropped = h.dropped + 1
  tell(h, "info", msg, ": wm.drop" .. (f.reason and ": " .. f.reason or ""), "dropped")
end

local function dead_one(msg, h, f)
  if msg.settled then return end
  bury(msg, h, f.reason or "wm.dead", nil, ": wm.dead" .. (f.reason and ": " .. f.reason or ""))
end

local BY_KIND = { retry = again_one, drop = drop_one, dead = dead_one }

local function apply(h, msgs, f) each(msgs, BY_KIND[f.kind], h, f) end

---The handler has raised.
---@param h wm.handler
---@param msgs wm.message|wm.message[]
---@param err any
---@param trace string|nil
function outcome.raised(h, msgs, err, trace)
  if fate.is(err) then return apply(h, msgs, err) end
  outcome.failed(h, msgs, err, nil, trace)
end

-- ---- what is published ----------------------------------------------------------------------------------------

-- A received message that is passed on goes to publish_to, not back to where it came from.
local function topic_of(h, item)
  local own = type(item) == "userdata" and item.attempt == 0 and item.topic
  return own or h.publish_to
end

-- Runs of one topic, in order; nil and why when one has none.
local function publish_list(h, list)
  local from = 1
  while from <= #list do
    local topic = topic_of(h, list[from])
    local to = from
    while to < #list and topic_of(h, list[to + 1]) == topic do to = to + 1 end
    local ok, err, code = h:get_publisher():publish(topic, table.move(list, from, to, 1, {}))
    if not ok then return nil, err, code end
    from = to + 1
  end
  return true
end

local function publish(h, msgs, list)
  for i, item in ipairs(list) do
    if not topic_of(h, item) then
      local what = type(item) == "string" and "a string" or "a message without a topic"
      if #list > 1 then what = ("%s (#%d of %d)"):format(what, i, #list) end
      return misused(h, msgs, ("%s, but has no publish_to; name a topic there, or return %s"):format(what, MAY_RETURN))
    end
  end
  local ok, err, code = publish_list(h, list)
  if not ok then return outcome.failed(h, msgs, err, code) end
  outcome.ack(msgs)
end

-- What is to be published of a returned value; nil: it is none of that.
local function list_of(h, value)
  if type(value) == "string" or is_message(value) then return { value } end
  if type(value) ~= "table" or #value == 0 then return nil end
  for i = 1, #value do
    if not is_message(value[i]) and (type(value[i]) ~= "string" or not h.publish_to) then return nil end
  end
  return value
end

local function warn_once(h, value)
  if h.warned then return end
  h.warned = true
  local text = "%s: handler '%s' returned a %s, which means the same as nothing: the message is acked; return %s"
  log.own("warn", text:format(h.where, h.name, type(value), MAY_RETURN), { handler = h.name, topic = h.topic })
end

---What the handler has returned.
---@param h wm.handler
---@param msgs wm.message|wm.message[]
---@param value any
---@param err any
---@param code string|nil
function outcome.returned(h, msgs, value, err, code)
  if value == true or value == nil and err == nil then return outcome.ack(msgs) end
  if not value then return outcome.failed(h, msgs, err == nil and "the handler returned false" or err, code) end
  if fate.is(value) then return apply(h, msgs, value) end
  local list = list_of(h, value)
  if list then return publish(h, msgs, list) end
  if h.publish_to then
    return misused(h, msgs, ("a %s, which cannot be published to '%s'; return a string, messages, %s"):format(
      type(value), h.publish_to, MAY_RETURN))
  end
  warn_once(h, value)
  outcome.ack(msgs)
end

return outcome
