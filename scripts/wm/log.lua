-- log.lua - wm.log, and the lines that this module writes itself. A line goes to the host, which puts time and level
-- before it as before those of libwm; without a host, to stderr. With log_json it is a whole JSON object. A line may
-- go on in the next ones, with a traceback.

local core = require "wm.core"
local json = require "wm.json"

local log = {}

local LEVELS = { debug = 0, info = 1, warn = 2, error = 3 }
local names = {}
for name, level in pairs(LEVELS) do names[level] = name end

---wm.configure{ log = name }; a host that was told otherwise leaves out what is below its own level.
---@param name "debug"|"info"|"warn"|"error"
function log.configure(name)
  core.log_level = core.hosted and math.min(core.log_level, LEVELS[name]) or LEVELS[name]
end

---What stands in each line: fields of the handler that runs; router.lua sets it.
---@return table<string, any>|nil
function log.context() end

---A value as an error text shows it.
---@param value any
---@return string
function log.quote(value)
  if type(value) == "string" then return '"' .. value:gsub("%c", "?") .. '"' end
  if type(value) == "table" or type(value) == "function" then return "a " .. type(value) end
  return tostring(value)
end

-- Values with blanks, quotes or control characters are quoted.
local function plain(value)
  local text = tostring(value)
  if text:find '[%s"=%c]' or text == "" then
    return '"' .. text:gsub('["\\]', "\\%0"):gsub("%c", function(c) return ("\\x%02x"):format(c:byte()) end) .. '"'
  end
  return text
end

local function add_fields(parts, fields)
  local keys = {}
  for key in pairs(fields) do keys[#keys + 1] = tostring(key) end
  table.sort(keys)
  for _, key in ipairs(keys) do parts[#parts + 1] = key .. "=" .. plain(fields[key]) end
end

local function text_line(level, text, fields)
  local parts = { text }
  add_fields(parts, fields)
  local line = table.concat(parts, " ")
  return core.hosted and line or ("wm %s: %s"):format(names[level], line)
end

local function json_line(level, text, fields)
  local now = core.now()
  local line = {}
  for key, value in pairs(fields) do
    local kind = type(value)
    line[tostring(key)] = (kind == "number" or kind == "boolean") and value or tostring(value)
  end
  line.time = os.date("!%Y-%m-%dT%H:%M:%S", now // 1 | 0) .. (".%03dZ"):format((now % 1) * 1000 // 1 | 0)
  line.level, line.text = names[level], text
  return json.line(line)
end

-- What the handler that runs adds to a line of the script.
local function with_context(fields)
  local all = log.context() or {}
  if core.hosted then all.generation = core.generation end
  for key, value in pairs(fields or {}) do all[key] = value end
  return all
end

local function write(level, text, fields)
  if level < core.log_level then return end
  local make = core.log_json and json_line or text_line
  core.log(level, make(level, tostring(text), with_context(fields)))
end

---A line of this module's own, whose text names what it is about; as JSON also the fields do.
---@param level "debug"|"info"|"warn"|"error"
---@param text string
---@param fields table<string, any>|nil  only in JSON
---@param trace string|nil
function log.own(level, text, fields, trace)
  level = LEVELS[level]
  if level < core.log_level then return end
  if core.log_json then
    fields = with_context(fields)
    fields.traceback = trace
    core.log(level, json_line(level, text, fields))
  else
    core.log(level, text_line(level, trace and text .. "\n" .. trace or text, {}))
  end
end

for name, level in pairs(LEVELS) do
  log[name] = function(text, fields) write(level, text, fields) end
end

---A failure that no caller hears of.
---@param text string  with its traceback
function log.internal(text) log.own("error", text) end

---@class wm.log
---@field debug fun(text: string, fields: table<string, any>|nil)
---@field info fun(text: string, fields: table<string, any>|nil)
---@field warn fun(text: string, fields: table<string, any>|nil)
---@field error fun(text: string, fields: table<string, any>|nil)

---The part that scripts see.
---@type wm.log
log.public = { debug = log.debug, info = log.info, warn = log.warn, error = log.error }

return log
