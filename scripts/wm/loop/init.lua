-- loop/init.lua - what is the same on every loop: timers, what runs next, and the ends of calls that the C half has
-- begun. loop/luv.lua, plain.lua and cqueues.lua bring what differs:
--   watch(fd, fn)       a handle with start(arg), stop() and close(), idempotent: enter(fn, arg) is called while fd is
--                       readable, from start to stop. Only so long the loop holds arg.
--   rearm(at)           calls enter(loop.due) at that time; nil: not at all
--   hold(bool)          whether the descriptor of completions keeps the loop alive; it is watched in any case
--   turn()              from the main chunk: runs callbacks, waiting for the first; false: nothing could ever come
--   stop()              whoever runs the loop gets it back after this turn, where that can be
--   inside()            whether code runs in a callback of the loop
--   idle()              whether nothing but the calling main chunk is alive

local core = require "wm.core"
local failure = require "wm.failure"
local log = require "wm.log"
local timers = require "wm.loop.timers"

local clock, completed = core.clock, core.completed

local loop = {}

-- How many completions, timers or messages are handled before the loop gets its turn.
loop.BUDGET = 1000

local backend
local entered = 0 -- depth of enter()
local armed -- the time that the backend was told
local waiting, pending, held = {}, 0, false
local ready_fn, ready_arg, ready_count = {}, {}, 0

local loaded = package.loaded
local KNOWN = { luv = true, plain = true, cqueues = true }

-- ---- what runs next -----------------------------------------------------------------------------------------

-- Tells the backend the next deadline, when it is earlier than the one it has, or there is none any more.
local function sync()
  local at
  if ready_count > 0 then at = 0 else at = timers.next() end
  if at == armed then return end
  if at and armed and armed < at then return end
  armed = at
  backend.rearm(at)
end

-- What these make ready runs in the next turn, after what has come in meanwhile.
local function run_ready()
  local n, fns, args = ready_count, ready_fn, ready_arg
  ready_fn, ready_arg, ready_count = {}, {}, 0
  for i = 1, n do
    local ok, err = xpcall(fns[i], debug.traceback, args[i])
    if not ok then log.internal(err) end
  end
end

---Every callback of a backend runs in this.
---@param fn fun(arg: any)
---@param arg any
local function enter(fn, arg)
  entered = entered + 1
  local ok, err = xpcall(fn, debug.traceback, arg)
  if not ok then log.internal(err) end
  if ready_count > 0 then run_ready() end
  if pending == 0 and held then
    held = false
    backend.hold(false)
  end
  sync()
  entered = entered - 1
end

-- What has come due. The backend's timer has fired: it has none now.
local function due()
  armed = nil
  local now = clock()
  for _ = 1, loop.BUDGET do
    local entry = timers.due(now)
    if not entry then return end
    entry.fn(entry.arg)
  end
end

-- The ends of calls, and what the host has to say.
local function complete()
  for _ = 1, loop.BUDGET do
    local id, ok, err, code, results = completed()
    if id == nil then return end
    local entry = waiting[id]
    if entry then
      waiting[id] = nil
      pending = pending - 1
      entry:complete(ok, err, code, results)
    elseif type(id) == "string" then
      loop.on_event(id, ok)
    end
  end
end

-- ---- which loop ---------------------------------------------------------------------------------------------

local function default_name() return loaded.luv and "luv" or "plain" end

local function choose(name)
  local made = require("wm.loop." .. name)
  made.open{ enter = enter, due = due, complete = complete, wake_fd = core.wake_fd() }
  backend = made
end

local function chosen()
  if not backend then choose(default_name()) end
  return backend
end

---The name of the loop; with a name: makes it the one, before the first call that waits.
---@param name "luv"|"plain"|"cqueues"|nil
---@return string
function loop.select(name)
  if name == nil then return backend and backend.name or default_name() end
  if not KNOWN[name] then
    failure.raise('wm.loop: "luv", "plain" or "cqueues" expected, got %s', log.quote(name))
  end
  if backend then
    if backend.name == name then return name end
    failure.raise("wm.loop: this program runs on %s already; choose before the first call that waits", backend.name)
  end
  if core.hosted and name ~= "luv" then failure.raise("wm.loop: the host runs on luv, not on %s", name) end
  choose(name)
  return name
end

-- ---- for the rest of the module -------------------------------------------------------------------------------

---Calls fn(arg) while fd is readable, from start(arg) to stop().
---@param fd integer
---@param fn fun(arg: any)
---@return { start: fun(self, arg: any), stop: fun(self), close: fun(self) }
function loop.watch(fd, fn) return chosen().watch(fd, fn) end

---Calls fn(arg) in that many seconds.
---@param seconds number
---@param fn fun(arg: any)
---@param arg any
---@return wm.timers.entry
function loop.after(seconds, fn, arg)
  chosen()
  local entry = timers.add(clock() + seconds, fn, arg)
  if entered == 0 then sync() end
  return entry
end

---@param entry wm.timers.entry
function loop.cancel(entry)
  timers.remove(entry)
  if entered == 0 then sync() end
end

---Calls fn(arg) when what runs now has returned to the loop.
---@param fn fun(arg: any)
---@param arg any
function loop.soon(fn, arg)
  chosen()
  local n = ready_count + 1
  ready_fn[n], ready_arg[n], ready_count = fn, arg, n
  if entered == 0 then sync() end
end

---Calls entry:complete(ok, err, code, results) at the end of the call that has this id.
---@param id integer
---@param entry { complete: fun(self, ok: any, err: string|nil, code: string|nil, results: string[]|nil) }
function loop.expect(id, entry)
  local b = backend or chosen()
  waiting[id] = entry
  pending = pending + 1
  if not held then
    held = true
    b.hold(true)
  end
end

---Nobody waits for id any more.
---@param id integer
function loop.forget(id)
  if not waiting[id] then return end
  waiting[id] = nil
  pending = pending - 1
end

---One turn, from the main chunk. False: nothing is alive that could end a wait.
---@return boolean
function loop.turn() return chosen().turn() end

---@return boolean  whether code runs in a callback of the loop
function loop.inside() return entered > 0 or chosen().inside() end

---Whether the main chunk may stop the thread, since nothing else could run.
---@return boolean
function loop.idle()
  return not core.hosted and pending == 0 and ready_count == 0 and timers.count() == 0 and entered == 0
    and chosen().idle()
end

---@return table  the backend
function loop.backend() return chosen() end

---What to do with an event of the host; host.lua replaces it.
---@param name string
---@param value integer
function loop.on_event(name, value) end -- luacheck: no unused args

return loop
