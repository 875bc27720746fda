-- message.lua - wm.message, and what messages have besides what the C half gives them.

local core = require "wm.core"
local failure = require "wm.failure"
local json = require "wm.json"
local log = require "wm.log"

local message = {}

local methods = core.methods.message
local memo = core.memo

local KEYS = { "payload", "json", "metadata", "uuid", "topic" }
local KNOWN = {}
for _, key in ipairs(KEYS) do KNOWN[key] = true end
local LATER = { delay = true, at = true }

-- ---- to publish -----------------------------------------------------------------------------------------------

local function check_text(fields, key)
  local value = fields[key]
  if value ~= nil and type(value) ~= "string" then
    failure.raise("wm.message: %s: a string expected, got %s", key, log.quote(value))
  end
end

local function check_metadata(metadata)
  if metadata == nil then return end
  local kind = type(metadata)
  if kind ~= "table" then failure.raise("wm.message: metadata: a table expected, got %s", log.quote(metadata)) end
  for key, value in pairs(metadata) do
    if type(key) ~= "string" then
      failure.raise("wm.message: metadata: keys must be strings, got %s", log.quote(key))
    end
    if type(value) ~= "string" then
      failure.raise("wm.message: metadata.%s: a string expected, got %s; write tostring(…)", key, log.quote(value))
    end
  end
end

local function check_keys(fields)
  for key in pairs(fields) do
    if LATER[key] then
      failure.later(("wm.message: %s"):format(key), "no broker of this version can delay a message at publish")
    end
    if not KNOWN[key] then
      failure.raise("wm.message: unknown key '%s'%s", tostring(key), failure.suggest(key, KEYS))
    end
  end
end

local function payload_of(fields)
  local payload = fields.payload
  if (payload == nil) == (fields.json == nil) then
    failure.raise "wm.message: exactly one of payload and json expected"
  end
  if payload == nil then
    local text, err = json.encode(fields.json)
    if not text then failure.raise("wm.message: json: %s", err) end
    return text
  end
  if type(payload) == "number" then return tostring(payload) end
  if type(payload) == "string" then return payload end
  failure.raise("wm.message: payload: a string expected, got %s%s", log.quote(payload),
    type(payload) == "table" and "; write json = t" or "")
end

---Makes a message to publish.
---@param fields { payload: string|number|nil, json: any, metadata: table<string, string>|nil, uuid: string|nil,
---topic: string|nil }  exactly one of payload and json
---@return wm.message
function message.new(fields)
  if type(fields) ~= "table" then
    failure.raise("wm.message: a table expected, got %s; write wm.message{ payload = … }", log.quote(fields))
  end
  check_keys(fields)
  check_text(fields, "uuid")
  check_text(fields, "topic")
  check_metadata(fields.metadata)
  local msg, err = core.message(payload_of(fields), fields.metadata, fields.uuid, fields.topic)
  if not msg then failure.raise("wm.message: %s", err) end
  return msg
end

-- ---- received -------------------------------------------------------------------------------------------------

---@class wm.message
local Message = methods

---The payload as JSON, decoded once; null is wm.null.
---@return any value, string|nil err, string|nil code
function Message:json()
  local decoded = memo(self)
  if decoded then return decoded[1], decoded[2], decoded[3] end
  decoded = { json.decode(self.payload) }
  memo(self, decoded)
  return decoded[1], decoded[2], decoded[3]
end

-- ---- what may be published ------------------------------------------------------------------------------------

local is_message = core.is_message

local function publishable(value)
  local kind = type(value)
  return kind == "string" or kind == "number" or kind == "userdata" and is_message(value)
end
message.publishable = publishable

local function describe(value)
  local text = type(value) == "userdata" and tostring(value) or "a " .. type(value)
  return type(value) == "table" and text .. "; write wm.message{ json = t }" or text
end

---Raises unless m can be published: a string, number, message, or list of them.
---@param what string
---@param topic string|nil
---@param m any
function message.check(what, topic, m)
  if topic ~= nil and type(topic) ~= "string" then
    failure.raise("%s: topic: a string expected, got %s", what, log.quote(topic))
  end
  local list = m
  if publishable(m) then
    list = { m }
  elseif type(m) ~= "table" or #m == 0 and next(m) ~= nil then
    failure.raise("%s: string, message or list of them expected, got %s", what, describe(m))
  end
  for i = 1, #list do
    local item = list[i]
    if not publishable(item) then
      failure.raise("%s: string or message expected, element %d is %s", what, i, describe(item))
    end
    if topic == nil and (type(item) ~= "userdata" or not item.topic) then
      failure.raise("%s: topic is missing: nil is allowed when every message has its own, element %d has none", what, i)
    end
  end
end

return message
