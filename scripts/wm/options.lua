-- options.lua - options as tables: names and types in one place. What libwm understands it describes itself; what the
-- Lua half adds stands with its component, as definitions of the same form.

local core = require "wm.core"
local failure = require "wm.failure"
local log = require "wm.log"

local options = {}

---@class wm.option
---@field name string
---@field unit string|nil  "duration" "size" "count" "bool" "text" "a|b|c", or one of the kinds below
---@field later boolean|nil  known, but not there yet
---@field instead string|nil  known, but not here: what to write instead

---@class wm.options.set : table<string, wm.option>

-- ---- types ----------------------------------------------------------------------------------------------------

local function is_text(value) return type(value) == "string" and not value:find("\0", 1, true) end

local function is_number(value) return type(value) == "number" and value == value and value ~= math.huge end

-- unit -> what is expected, whether a value is that, and what to write in place of a text.
local UNITS = {
  duration = { "seconds as a number", function(v) return is_number(v) and v >= 0 end, core.duration },
  size = { "bytes as a whole number", function(v) return math.type(v) == "integer" and v >= 0 end, core.size },
  count = { "a whole number", function(v) return is_number(v) and v >= 0 and v % 1 == 0 end,
    function(text) return math.tointeger(tonumber(text)) end },
  bool = { "true or false", function(v) return type(v) == "boolean" end,
    function(text) return ({ ["true"] = "true", ["false"] = "false" })[text] end },
  text = { "a string without zero bytes", is_text },
  multiplier = { "a number from 1", function(v) return is_number(v) and v >= 1 end },
  table = { "a table", function(v) return type(v) == "table" end },
  position = { '"oldest", "newest", an epoch or a position',
    function(v) return is_text(v) or is_number(v) end },
  group = { "a name or false", function(v) return v == false or is_text(v) and v ~= "" end },
  topic_or_false = { "a topic or false", function(v) return v == false or is_text(v) and v ~= "" end },
  any = { "a value", function() return true end },
}

local function choice(unit)
  local allowed, shown = {}, {}
  for name in unit:gmatch "[^|]+" do
    allowed[name] = true
    shown[#shown + 1] = '"' .. name .. '"'
  end
  return { "one of " .. table.concat(shown, ", "), function(v) return allowed[v] == true end }
end

local function rule_of(unit)
  if not UNITS[unit] then UNITS[unit] = choice(unit) end
  return UNITS[unit]
end

-- ---- what libwm understands -----------------------------------------------------------------------------------

-- Options of the core that have a richer type in Lua.
local LUA_UNITS = { from = "position", group = "group" }

local by_where -- where -> set

local function load_core()
  by_where = {}
  for _, info in ipairs(core.options()) do
    local set = by_where[info.where] or {}
    by_where[info.where] = set
    set[info.name] = { name = info.name, unit = LUA_UNITS[info.name] or info.unit, value = info.value }
  end
end

local function backend_of(url)
  local scheme = url:match "^([%a][%w+.-]*):"
  if not scheme then return nil end
  scheme = scheme:lower()
  for _, backend in ipairs(core.backends()) do
    for name in backend.schemes:gmatch "%S+" do
      if name == scheme then return backend.name end
    end
  end
end

---The options of libwm for a "publisher" or "subscription" on url.
---@param where "publisher"|"subscription"
---@param url string
---@return wm.options.set
function options.of_core(where, url)
  if not by_where then load_core() end
  local set = {}
  for _, part in ipairs{ where, backend_of(url) } do
    for name, def in pairs(by_where[part] or {}) do set[name] = def end
  end
  return set
end

---@param defs wm.option[]
---@return wm.options.set
function options.set(defs)
  local set = {}
  for _, def in ipairs(defs) do set[def.name] = def end
  return set
end

-- ---- checking -------------------------------------------------------------------------------------------------

local function names_of(sets)
  local names = {}
  for _, set in ipairs(sets) do
    for name, def in pairs(set) do
      if not def.later and not def.instead then names[#names + 1] = name end
    end
  end
  return names
end

local function find(sets, name)
  for _, set in ipairs(sets) do
    if set[name] then return set[name] end
  end
end

---Raises unless value is of the type that def asks for.
---@param what string  whose option it is
---@param def wm.option
---@param value any
function options.check_value(what, def, value)
  local rule = rule_of(def.unit)
  if rule[2](value) then return end
  local suggestion = type(value) == "string" and rule[3] and rule[3](value)
  failure.raise("%s: %s: %s expected, got %s%s", what, def.name, rule[1], log.quote(value),
    suggestion and "; write " .. tostring(suggestion) or "")
end

---Raises for an unknown key, a wrong type, and what is not there yet.
---@param what string  e.g. 'wm.on "orders"'
---@param given table|nil
---@param help string  the subject of `wmlua help`
---@param ... wm.options.set
function options.check(what, given, help, ...)
  if given == nil then return end
  if type(given) ~= "table" then failure.raise("%s: options: a table expected, got %s", what, log.quote(given)) end
  local sets = { ... }
  for name, value in pairs(given) do
    local def = find(sets, name)
    if not def then
      failure.raise("%s: unknown option '%s'%s (wmlua help %s)", what, tostring(name),
        failure.suggest(name, names_of(sets)), help)
    end
    if def.later and value then failure.later(("%s: option '%s'"):format(what, name)) end
    if def.instead then failure.raise("%s: option '%s' is not one here; write %s", what, name, def.instead) end
    if not def.later then options.check_value(what, def, value) end
  end
end

---Raises unless topic is text; what its broker allows libwm says.
---@param what string
---@param topic any
function options.check_topic(what, topic) options.check_value(what, { name = "topic", unit = "text" }, topic) end

---Those of given that libwm understands, as it takes them.
---@param given table
---@param set wm.options.set
---@return table<string, string|number|boolean>
function options.for_core(given, set)
  local out = {}
  for name, value in pairs(given) do
    if set[name] and not (name == "group" and value == false) then out[name] = value end
  end
  return out
end

-- ---- values ---------------------------------------------------------------------------------------------------

-- What the query of the URL says.
local function in_query(url, name)
  local query = url:match "%?([^#]*)"
  return query and ("&" .. query):match("&" .. name .. "=([^&]*)")
end

local PARSE = { duration = core.duration, count = function(text) return math.tointeger(tonumber(text)) end,
  size = core.size }

---The value that a number has after all layers: given, the URL's query, libwm's default.
---@param given table
---@param set wm.options.set
---@param url string
---@param name string
---@return number
function options.number(given, set, url, name)
  if given[name] ~= nil then return given[name] end
  local def = set[name]
  local parse = PARSE[def.unit]
  local text = in_query(url, name)
  return text and parse(text) or parse(def.value)
end

-- ---- text for the host -------------------------------------------------------------------------------------------

---A value of wm.configure as libwm's text.
---@param value any
---@return string
function options.text(value)
  if math.type(value) == "float" then return ("%.9g"):format(value) end
  return tostring(value)
end

return options
