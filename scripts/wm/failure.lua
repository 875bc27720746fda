-- failure.lua - how this module raises: with the place in the script, and as values with a code.

local core = require "wm.core"

local failure = {}

local ours = debug.getinfo(1, "S").source:match "^(.*)failure%.lua$"
local getinfo = debug.getinfo

-- "file:line" of the function at `level` when it is the script's own.
local function place_at(level)
  local info = getinfo(level + 1, "Sl")
  if not info then return nil, true end
  if info.currentline < 0 or info.source:sub(1, #ours) == ours then return nil end
  local source = info.source
  return (source:sub(1, 1) == "@" and source:sub(2) or info.short_src) .. ":" .. info.currentline
end

---The "file:line" from which the script called this module, "?" when there is none.
---@return string
function failure.where()
  local level = 2
  while true do
    local place, last = place_at(level)
    if place then return place end
    if last then return "?" end
    level = level + 1
  end
end

---Raises text with the script's place before it.
---@param text string
---@param ... any  for string.format
function failure.raise(text, ...)
  if select("#", ...) > 0 then text = text:format(...) end
  error(failure.where() .. ": " .. text, 0)
end

---@class wm.error
---@field message string
---@field code string
local Error = { __name = "wm.error" }
Error.__index = Error
function Error:__tostring() return self.message end

---A value to raise that pcall's caller can tell from others by its code.
---@param code string
---@param message string
---@return wm.error
function failure.new(code, message)
  return setmetatable({ code = code, message = message }, Error)
end

---The code of a raised value, nil when it has none.
---@param value any
---@return string|nil
function failure.code_of(value)
  if getmetatable(value) == Error then return value.code end
end

-- What in a stack is this module's is left out.
local function own_frames(stack)
  local lines = {}
  for line in stack:gmatch "[^\n]+" do
    if not line:find(ours:sub(2), 1, true) and not line:find("in function 'xpcall'", 1, true) then
      lines[#lines + 1] = line
    end
  end
  return table.concat(lines, "\n")
end

---What debug.traceback has made of an error: the error as it was, and the script's part of the stack. Code that has to
---know both is protected by debug.traceback itself: a handler in Lua would meet the hook by which a host stops it.
---@param err any
---@return any err, string|nil stack
function failure.split(err)
  if type(err) ~= "string" then return err, nil end
  local text, stack = err:match "^(.*)\n(stack traceback:\n.*)$"
  if not text then return err, nil end
  return text, own_frames(stack)
end

---The text of such an error.
---@param err any
---@return string
function failure.text(err)
  local text, stack = failure.split(err)
  return stack and text .. "\n" .. stack or tostring(text)
end

---Raises for what a later version brings.
---@param what string
---@param instead string|nil  what to use meanwhile
function failure.later(what, instead)
  failure.raise("%s: wmlua %s does not have it yet%s", what, core.version, instead and "; " .. instead or "")
end

---"; did you mean 'x'?" when a name is near, else the list of those that there are.
---@param name any
---@param names string[]
---@return string
function failure.suggest(name, names)
  local near = type(name) == "string" and core.nearest(name, names)
  if near then return ("; did you mean '%s'?"):format(near) end
  local sorted = table.move(names, 1, #names, 1, {})
  table.sort(sorted)
  return "; there are: " .. table.concat(sorted, ", ")
end

return failure
