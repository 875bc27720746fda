-- keep.lua - wm.keep: plain data that the next generation of a script gets a copy of, as Lua text.

local core = require "wm.core"
local failure = require "wm.failure"
local json = require "wm.json"
local log = require "wm.log"

local keep = {}

-- What one name may hold, as text.
keep.MAX_BYTES = 64 * 1024 * 1024
-- Lua reads constructors that are nested less than 200 deep.
local MAX_DEPTH = 180

---@class wm.keep.entry
---@field name string
---@field value table     the table that wm.keep returned
---@field fixup function|nil
---@field where string

local entries, by_name = {}, {}
local started = false

-- ---- to text and back -----------------------------------------------------------------------------------------

local NAME = "^[%a_][%w_]*$"

local function at(path, key)
  if type(key) == "string" and key:find(NAME) then return path .. "." .. key end
  return ("%s[%s]"):format(path, log.quote(key))
end

local function refuse(path, why) error(failure.new("BAD_INPUT", path .. ": " .. why), 0) end

local write

local function scalar(value, path)
  local kind = type(value)
  if value == json.null then return "null" end
  if kind == "string" or kind == "number" then return ("%q"):format(value) end
  if kind == "boolean" then return tostring(value) end
  refuse(path, ("a %s cannot be kept, only plain data: strings, numbers, booleans and tables of them"):format(kind))
end

local function write_table(out, value, path, above, depth)
  if above[value] then refuse(path, "a table that holds itself cannot be kept") end
  if depth > MAX_DEPTH then refuse(path, ("nested deeper than %d tables"):format(MAX_DEPTH)) end
  if getmetatable(value) ~= nil then refuse(path, "a table with a metatable cannot be kept") end
  above[value] = true
  out[#out + 1] = "{"
  local n = rawlen(value)
  for i = 1, n do
    write(out, value[i], path, i, above, depth)
    out[#out + 1] = ","
  end
  for key, item in next, value do
    if not (math.type(key) == "integer" and key >= 1 and key <= n) then
      out[#out + 1] = "[" .. scalar(key, path .. ": a key") .. "]="
      write(out, item, path, key, above, depth)
      out[#out + 1] = ","
    end
  end
  out[#out + 1] = "}"
  above[value] = nil
end

write = function(out, value, path, key, above, depth)
  if value == nil then
    out[#out + 1] = "nil"
  elseif type(value) == "table" and value ~= json.null then
    write_table(out, value, at(path, key), above, depth + 1)
  else
    out[#out + 1] = scalar(value, at(path, key))
  end
end

---The Lua text of plain data; raises a wm.error that names the path of what is not.
---@param name string
---@param value table
---@return string
function keep.to_text(name, value)
  local out = { "return " }
  write_table(out, value, name, {}, 1)
  local text = table.concat(out)
  if #text > keep.MAX_BYTES then
    refuse(name, ("%d bytes as text are over the limit of %d for what is kept"):format(#text, keep.MAX_BYTES))
  end
  return text
end

---@param name string
---@param text string
---@return table
function keep.from_text(name, text)
  return assert(load(text, "=wm.keep " .. name, "t", { null = json.null }))()
end

-- ---- the script's side ----------------------------------------------------------------------------------------

local function replace_content(target, source)
  for key in next, target do target[key] = nil end
  for key, value in next, source do target[key] = value end
end

local function fill(entry)
  local text = core.kept(entry.name)
  if not text then return end
  local value = keep.from_text(entry.name, text)
  if entry.fixup then
    value = entry.fixup(value)
    if type(value) ~= "table" then
      error(("%s: fixup returned a %s, a table is expected"):format(entry.where, type(value)), 0)
    end
  end
  replace_content(entry.value, value)
end

local function fill_or_log(entry)
  local ok, err = xpcall(fill, debug.traceback, entry)
  if ok then return end
  log.own("error", ("wm.keep '%s' begins anew: what was kept could not be used: %s"):format(entry.name,
    failure.text(err)))
end

---A table whose content the next generation gets a copy of: filled at the switch, before the first message.
---@param name string
---@param default table
---@param fixup (fun(old: table): table)|nil  makes what this generation wants of what the last one left
---@return table  default itself
function keep.keep(name, default, fixup)
  if type(name) ~= "string" or name == "" or name:find "%z" then
    failure.raise("wm.keep: a name expected, got %s", log.quote(name))
  end
  local what = ("wm.keep '%s'"):format(name)
  if type(default) ~= "table" then failure.raise("%s: a table as default expected, got %s", what, type(default)) end
  if fixup ~= nil and type(fixup) ~= "function" then
    failure.raise("%s: fixup: a function expected, got %s", what, type(fixup))
  end
  if by_name[name] then failure.raise("%s: that name is taken at %s", what, by_name[name].where) end
  local ok, err = pcall(keep.to_text, name, default)
  if not ok then failure.raise("wm.keep: %s", tostring(err)) end
  local entry = { name = name, value = default, fixup = fixup, where = failure.where() }
  entries[#entries + 1], by_name[name] = entry, entry
  if started then fill_or_log(entry) end
  return default
end

-- ---- the host's side ------------------------------------------------------------------------------------------

---This generation is live: fills what was asked for so far.
function keep.start()
  started = true
  for _, entry in ipairs(entries) do fill_or_log(entry) end
end

---Gives the host what there is.
function keep.give()
  for _, entry in ipairs(entries) do
    local ok, text = pcall(keep.to_text, entry.name, entry.value)
    if ok then
      core.keep(entry.name, text)
    else
      log.own("error", ("wm.keep: %s; the next generation begins with its default (kept at %s)"):format(tostring(text),
        entry.where))
    end
  end
end

return keep
