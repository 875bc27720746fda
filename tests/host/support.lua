-- support.lua - what the specs of the host share: directories of their own, programs that run beside the test, a
-- private redis-server, and waiting for conditions. Uses luv; one thread.

local uv = require "luv"

local support = {}

local WMLUA = assert(os.getenv "WMLUA", "WMLUA must name the program to test")

-- Beyond what any step takes on a loaded machine, sanitizers included.
local DEADLINE = 60

support.short = os.getenv "WM_TEST_SHORT" == "1"

-- ---- waiting --------------------------------------------------------------------------------------------------

---Runs the loop until condition() is true; fails when that takes too long.
---@param what string
---@param condition fun(): any
---@param seconds number|nil
---@return any  what condition returned
function support.wait(what, condition, seconds)
  local tick = uv.new_timer()
  tick:start(5, 5, function() end)
  local deadline = uv.hrtime() + (seconds or DEADLINE) * 1e9
  local result = condition()
  while not result and uv.hrtime() < deadline do
    uv.run "once"
    result = condition()
  end
  tick:close()
  if not result then error(("not within %d s: %s"):format(seconds or DEADLINE, what), 2) end
  return result
end

---Lets the loop run for that long: for what must not happen.
---@param seconds number
function support.let_pass(seconds)
  local over = false
  local timer = uv.new_timer()
  timer:start(math.ceil(seconds * 1000), 0, function() over = true end)
  while not over do uv.run "once" end
  timer:close()
end

-- ---- files ----------------------------------------------------------------------------------------------------

local directories = {}

---A new directory, gone with support.clean.
---@return string
function support.directory()
  local dir = assert(uv.fs_mkdtemp((os.getenv "TMPDIR" or "/tmp") .. "/wmlua-host.XXXXXX"))
  directories[#directories + 1] = dir
  return dir
end

---@param path string
---@param text string
function support.write(path, text)
  local file = assert(io.open(path, "w"))
  assert(file:write(text))
  assert(file:close())
end

---As many editors do: beside it, then put in its place.
---@param path string
---@param text string
function support.replace(path, text)
  support.write(path .. ".new", text)
  assert(os.rename(path .. ".new", path))
end

---@param path string
---@return string|nil
function support.read(path)
  local file = io.open(path, "rb")
  if not file then return nil end
  local text = file:read "a"
  file:close()
  return text
end

-- ---- programs -------------------------------------------------------------------------------------------------

---@class support.process
---@field out string   what it has written so far
---@field err string
---@field code integer|nil   once it has ended
---@field signal integer|nil
---@field lines { out: integer, err: integer }  how many that were
---@field pid integer
local Process = {}
Process.__index = Process

local processes = {}

local function environment(changes)
  local env = {}
  for name, value in pairs(uv.os_environ()) do
    if not name:find "^WM_" or name:find "^WM_TEST" then env[name] = value end
  end
  env.LUA_PATH_5_4, env.LUA_CPATH_5_4, env.LUA_INIT = nil, nil, nil
  for name, value in pairs(changes or {}) do env[name] = value or nil end
  local list = {}
  for name, value in pairs(env) do list[#list + 1] = name .. "=" .. value end
  return list
end

local function gather(self, name, pipe)
  local parts, joined = {}, ""
  self.lines[name] = 0
  self.streams[name] = function()
    if #parts > 0 then
      joined = joined .. table.concat(parts)
      parts = {}
    end
    return joined
  end
  self.open = self.open + 1
  pipe:read_start(function(_, data)
    if data then
      parts[#parts + 1] = data
      self.lines[name] = self.lines[name] + select(2, data:gsub("\n", ""))
      return
    end
    pipe:close()
    self.open = self.open - 1
  end)
end

Process.__index = function(self, name)
  local stream = rawget(self, "streams")[name]
  if stream then return stream() end
  return Process[name]
end

-- Writing to a program that has ended is no reason for the test to end.
local sigpipe

local function survive_sigpipe()
  if sigpipe and not sigpipe:is_closing() then return end
  sigpipe = uv.new_signal()
  sigpipe:start "sigpipe"
  sigpipe:unref()
end

---Starts a program: start{ "run", "x.lua", cwd =, env =, stdin = text, program =, keep_stdin = true }.
---@param what table
---@return support.process
function support.start(what)
  local program = what.program or WMLUA
  survive_sigpipe()
  local stdin, out, err = uv.new_pipe(false), uv.new_pipe(false), uv.new_pipe(false)
  local self = setmetatable({ streams = {}, lines = {}, open = 0, stdin = stdin }, Process)
  local stdio = { stdin, out, err }
  if what.stdout then stdio[2] = what.stdout end
  local handle, pid = uv.spawn(program, {
    args = table.move(what, 1, #what, 1, {}), cwd = what.cwd, env = environment(what.env), stdio = stdio,
  }, function(code, signal)
    self.code, self.signal = code, signal
    self.handle:close()
  end)
  if not handle then error(("%s: %s"):format(program, pid)) end
  self.handle, self.pid = handle, pid
  gather(self, "err", err)
  if what.stdout then out:close() else gather(self, "out", out) end
  if what.stdin then stdin:write(what.stdin) end
  if not what.keep_stdin then self:end_input() end
  processes[#processes + 1] = self
  return self
end

function Process:write(text) self.stdin:write(text) end

function Process:end_input()
  local stdin = self.stdin
  stdin:shutdown(function() stdin:close() end)
end

---@param signal string  "sigterm"
function Process:kill(signal)
  if not self.code then assert(uv.kill(self.pid, signal)) end
end

---Waits for its end; returns its exit code, 128 + signal when a signal ended it.
---@param seconds number|nil
---@return integer
function Process:wait(seconds)
  support.wait("end of process " .. self.pid .. "\n" .. self.err, function()
    return self.code and self.open == 0
  end, seconds)
  return self.signal ~= 0 and 128 + self.signal or self.code
end

---Waits until it has written something that matches.
---@param stream "out"|"err"
---@param pattern string
---@param seconds number|nil
---@return string  the captures
function Process:expect(stream, pattern, seconds)
  local found
  local ok = pcall(support.wait, pattern, function()
    found = table.pack(self[stream]:match(pattern))
    return found[1] or self.code and self.open == 0
  end, seconds)
  if ok and found[1] then return table.unpack(found) end
  error(("%s does not match '%s'; exit code %s; stderr:\n%s\nstdout:\n%s"):format(stream, pattern,
    tostring(self.code), self.err:sub(-4000), self.streams.out and self.out:sub(-2000) or "(elsewhere)"), 2)
end

---Runs a program to its end: exit code, stdout, stderr.
---@param what table  as support.start
---@return integer code, string out, string err
function support.run(what)
  local p = support.start(what)
  local code = p:wait()
  return code, p.out, p.err
end

---The sanitizer that the program was built with, nil: none. It takes more of everything.
---@return "address"|"thread"|nil
function support.sanitizer() return WMLUA:match "/build%-(%a+)/" end

local TICKS = tonumber(io.popen("getconf CLK_TCK"):read "a")

---What a process has computed so far.
---@param pid integer
---@return number
function support.cpu_ms(pid)
  local fields = {}
  for field in assert(support.read("/proc/" .. pid .. "/stat")):match("%) (.*)"):gmatch "%S+" do
    fields[#fields + 1] = tonumber(field) or field
  end
  return (fields[12] + fields[13]) * 1000 // TICKS -- proc(5): utime, stime
end

---@param pid integer
---@return integer
function support.resident_kib(pid)
  return tonumber(assert(support.read("/proc/" .. pid .. "/status")):match "VmRSS:%s*(%d+) kB")
end

-- ---- redis ----------------------------------------------------------------------------------------------------

local function free_port()
  local socket = uv.new_tcp()
  assert(socket:bind("127.0.0.1", 0))
  local port = socket:getsockname().port
  socket:close()
  return port
end

local function has_program(name)
  for dir in os.getenv("PATH"):gmatch "[^:]+" do
    if uv.fs_access(dir .. "/" .. name, "X") then return dir .. "/" .. name end
  end
end

---A redis-server of our own: { url =, port =, process = }; nil and why.
---@return table|nil, string|nil
function support.redis()
  local program = has_program "redis-server"
  if not program then
    assert(not (os.getenv "WM_TEST_REQUIRE" or ""):find "redis", "redis-server was not found")
    return nil, "redis-server was not found (package redis-server)"
  end
  for _ = 1, 5 do -- somebody may take the port before the server does
    local port = free_port()
    local dir = support.directory()
    local process = support.start{ program = program, "--port", tostring(port), "--bind", "127.0.0.1", "--dir", dir,
      "--save", "", env = { LD_PRELOAD = false } }
    local ok = pcall(Process.expect, process, "out", "Ready to accept connections")
    if ok then return { url = "redis://127.0.0.1:" .. port, port = port, process = process } end
  end
  error "redis-server did not start"
end

---Brokers that last: name -> what makes a URL in a directory, or nil and why not.
support.brokers = {
  sqlite = function(dir) return "sqlite:" .. dir .. "/broker.db" end,
  redis = function()
    local server, why = support.redis()
    return server and server.url, why
  end,
}

---Ends what runs and removes what was made since the last time.
function support.clean()
  for _, p in ipairs(processes) do
    if not p.code then uv.kill(p.pid, "sigkill") end
  end
  for _, p in ipairs(processes) do
    pcall(support.wait, "end", function() return p.code and p.open == 0 end, 10)
  end
  processes = {}
  uv.walk(function(handle)
    if not handle:is_closing() then handle:close() end
  end)
  uv.run()
  for _, dir in ipairs(directories) do os.execute("rm -rf '" .. dir .. "'") end
  directories = {}
end

return support
