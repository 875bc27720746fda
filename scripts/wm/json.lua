-- json.lua - JSON by lua-cjson where it is installed, with what it lacks on Lua 5.4: integers stay integers, numbers
-- keep all their digits, NaN is refused both ways.

local json = {}

local found, cjson = pcall(require, "cjson")
local engine
if found then
  engine = cjson.new()
  engine.decode_invalid_numbers(false)
  engine.encode_invalid_numbers(false)
end

local MISSING = "JSON needs lua-cjson, which was not found: apt install lua-cjson, or luarocks install lua-cjson"

-- A number that lua-cjson would change travels as a string with this mark, which no text holds by accident.
local MARK
do
  local parts = { "wm-number" }
  for i = 2, 4 do parts[i] = ("%x"):format(math.random(0)) end
  MARK = table.concat(parts, "-") .. ":"
end
local MARKED_STRING = '"' .. MARK:gsub("%-", "%%-") .. '([^"]*)"'

---Stands for JSON's null.
json.null = found and cjson.null or setmetatable({}, { __name = "wm.null", __tostring = function() return "null" end })

-- lua-cjson reads numbers as floats and writes 14 digits.
local READS_INTEGERS = found and math.type(engine.decode("[1]")[1]) == "integer"
local EXACT_DIGITS = 14
local EXACT_FORMAT = "%." .. EXACT_DIGITS .. "g"
-- A double holds every integer of this many digits.
local SAFE_DIGITS = 15
local LONG_NUMBER = ("%d"):rep(SAFE_DIGITS + 1)

-- ---- writing --------------------------------------------------------------------------------------------------

local MAX_EXACT = 10 ^ EXACT_DIGITS // 1 | 0

local function is_exact(number)
  if math.type(number) == "integer" then return number < MAX_EXACT and number > -MAX_EXACT end
  if number ~= number or number == math.huge or number == -math.huge then return true end -- refused by lua-cjson
  return tonumber(EXACT_FORMAT:format(number)) == number
end

-- Whether lua-cjson would change a number in value.
local function has_inexact(value, depth)
  local kind = type(value)
  if kind == "number" then return not is_exact(value) end
  if kind ~= "table" or depth == 0 then return false end
  for key, item in next, value do
    if type(key) == "number" and not is_exact(key) then return true end
    if type(item) ~= "string" and has_inexact(item, depth - 1) then return true end
  end
  return false
end

local function digits(number)
  return math.type(number) == "integer" and ("%d"):format(number) or ("%.17g"):format(number)
end

local function marked(value)
  local kind = type(value)
  if kind == "number" then return is_exact(value) and value or MARK .. digits(value) end
  if kind ~= "table" then return value end
  local copy = {}
  for key, item in next, value do
    if type(key) == "number" and not is_exact(key) then key = digits(key) end
    copy[key] = marked(item)
  end
  return copy
end

local MAX_DEPTH = 1000 -- lua-cjson's own

---JSON of a value.
---@param value any
---@return string|nil, string|nil err, string|nil code
function json.encode(value)
  if not engine then return nil, MISSING, "UNSUPPORTED" end
  local ok, text
  if has_inexact(value, MAX_DEPTH) then
    ok, text = pcall(function() return (engine.encode(marked(value)):gsub(MARKED_STRING, "%1")) end)
  else
    ok, text = pcall(engine.encode, value)
  end
  if not ok then return nil, text, "BAD_INPUT" end
  return text
end

-- ---- reading --------------------------------------------------------------------------------------------------

-- Puts the mark around each long integer that stands outside of strings.
local function mark_long(text)
  local parts, at = {}, 1
  while true do
    local first = text:find('["%d%-]', at)
    if not first then break end
    local last
    if text:byte(first) == 34 then
      last = first
      repeat
        last = text:find('["\\]', last + 1)
        if not last then return text end -- an open string: lua-cjson says so
        local escaped = text:byte(last) == 92
        if escaped then last = last + 1 end
      until not escaped
      parts[#parts + 1] = text:sub(at, last)
    else
      local _, stop = text:find("^[%d%.%-+eE]+", first)
      last = stop
      local number = text:sub(first, last)
      parts[#parts + 1] = text:sub(at, first - 1)
      local long = #number > SAFE_DIGITS and number:find "^%-?[1-9]%d*$" and math.type(tonumber(number)) == "integer"
      parts[#parts + 1] = long and '"' .. MARK .. number .. '"' or number
    end
    at = last + 1
  end
  parts[#parts + 1] = text:sub(at)
  return table.concat(parts)
end

local tointeger, math_type = math.tointeger, math.type

-- Whole floats become integers; in place. A small enough stack of C is not needed: lua-cjson bounds the depth.
local function integers(value, with_marks)
  for key, item in next, value do
    local kind = type(item)
    if kind == "table" then
      integers(item, with_marks)
    elseif kind == "number" then
      if math_type(item) == "float" then value[key] = tointeger(item) or item end
    elseif with_marks and kind == "string" and item:sub(1, #MARK) == MARK then
      value[key] = tointeger(tonumber(item:sub(#MARK + 1)))
    end
  end
end

---The value of a JSON text; null is json.null.
---@param text string
---@return any value, string|nil err, string|nil code
function json.decode(text)
  if not engine then return nil, MISSING, "UNSUPPORTED" end
  local with_marks = false
  if not READS_INTEGERS and text:find(LONG_NUMBER) then
    local with = mark_long(text)
    with_marks = with ~= text
    text = with
  end
  local ok, value = pcall(engine.decode, text)
  if not ok then return nil, value, "BAD_INPUT" end
  if not READS_INTEGERS then
    local box = { value }
    integers(box, with_marks)
    value = box[1]
  end
  return value
end

local function quoted(text)
  if not utf8.len(text) then text = text:gsub("[\128-\255]", "?") end
  return '"' .. text:gsub('[%c"\\]', function(c) return ("\\u%04x"):format(c:byte()) end) .. '"'
end

local function scalar(value)
  local kind = type(value)
  if kind == "number" then return value - value == 0 and digits(value) or quoted(tostring(value)) end
  if kind == "boolean" then return tostring(value) end
  return quoted(value)
end

---A flat table of strings, numbers and booleans in one line, also where lua-cjson is missing.
---@param fields table<string, string|number|boolean>
---@return string
function json.line(fields)
  local keys, parts = {}, {}
  for key in pairs(fields) do keys[#keys + 1] = key end
  table.sort(keys)
  for i, key in ipairs(keys) do parts[i] = quoted(key) .. ":" .. scalar(fields[key]) end
  return "{" .. table.concat(parts, ",") .. "}"
end

return json
