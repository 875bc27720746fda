-- support.lua - what the specs of the Lua module share: names of their own, and programs in processes of their own.

local support = {}

local count = 0
local start = ("%d-%d"):format(os.time(), math.random(1 << 30))

---A name that nobody else uses.
---@param what string
---@return string
function support.name(what)
  count = count + 1
  return ("%s-%s-%d"):format(what, start, count)
end

---A broker in this process, of its own.
---@return string url
function support.memory() return "memory:" .. support.name "broker" end

local directory

---A directory that is removed at the end.
---@return string
function support.directory()
  if directory then return directory end
  directory = os.tmpname()
  os.remove(directory)
  assert(os.execute("mkdir " .. directory))
  support.remover = setmetatable({}, { __gc = function() os.execute("rm -rf " .. directory) end })
  return directory
end

---The Lua that runs this.
---@return string
function support.lua()
  local i = 0
  while arg[i - 1] do i = i - 1 end
  return arg[i]
end

local function write(path, text)
  local file = assert(io.open(path, "w"))
  file:write(text)
  file:close()
end

-- How long a program may take on a busy machine.
local TIMEOUT = 60

---@class support.result
---@field ok boolean
---@field status integer
---@field out string
---@field err string

---Runs a program, in a file of its own, to its end.
---@param text string
---@param opts { name: string|nil, env: string|nil, command: string|nil, args: string|nil, stdin: string|nil }|nil
---@return support.result
function support.run(text, opts)
  opts = opts or {}
  local base = support.directory() .. "/" .. support.name "program"
  local path = opts.name and support.directory() .. "/" .. opts.name or base .. ".lua"
  write(path, text)
  local command = ("%s timeout -k 5 %d %s %s %s >%s.out 2>%s.err <%s"):format(opts.env or "", TIMEOUT,
    opts.command or support.lua(), path, opts.args or "", base, base, opts.stdin or "/dev/null")
  local ok, how, status = os.execute("cd " .. support.directory() .. " && " .. command)
  local function read(name)
    local file = assert(io.open(name))
    local content = file:read "a"
    file:close()
    return content
  end
  return { ok = ok == true and how == "exit", status = status, out = read(base .. ".out"), err = read(base .. ".err") }
end

---Whether a module can be loaded, in a process of its own: loading it here would change the loop.
---@param name string
---@return boolean
function support.has(name)
  return os.execute(("%s -e 'require \"%s\"' >/dev/null 2>&1"):format(support.lua(), name)) == true
end

---Waits, letting the loop run, until fn returns something true; fails after a generous time.
---@param fn fun(): any
---@return any
function support.eventually(fn)
  local wm = require "wm"
  local deadline = wm.now() + TIMEOUT
  repeat
    local value = fn()
    if value then return value end
    wm.sleep(0.005)
  until wm.now() > deadline
  error("this did not come about within " .. TIMEOUT .. " s", 2)
end

---The text that fn raises.
---@param fn function
---@param ... any
---@return string
function support.error_of(fn, ...)
  local ok, err = pcall(fn, ...)
  assert(not ok, "an error was expected")
  return tostring(err)
end

return support
