-- fiber.lua - who waits: a coroutine of this module (task, handler), one that the program's luv or cqueues loop
-- resumes, or the main chunk, which runs the loop meanwhile. Owns the switch between them.
--
-- To wait:  f = fiber.here(doing, what); fiber.prepare(f, queue); ask somebody to call fiber.wake(f);
--           in_time = fiber.wait(f, timeout)
-- A wait may also end by its timeout, or because the fiber is stopped, which raises: whoever would wake it must not
-- find it any more then. So it waits in a queue or for an id, from which fiber.wait takes it, or its turn is compared.

local core = require "wm.core"
local failure = require "wm.failure"
local log = require "wm.log"
local loop = require "wm.loop"

local running, co_resume, yield, status = coroutine.running, coroutine.resume, coroutine.yield, coroutine.status

local fiber = {}

---@class wm.fiber
---@field co thread|nil       nil: the main chunk
---@field parked boolean      it waits in fiber.wait
---@field woken boolean       what it waits for has come
---@field late boolean        the time was over first
---@field stop any            to be raised where it waits, or will wait next
---@field stopped boolean      that is why it was woken
---@field foreign boolean     it has yielded to code that is not ours
---@field finished boolean    its body has returned
---@field timer table|nil
---@field queue wm.fiber[]|nil  the list that it waits in; its abandoned() is called when a wait there was given up
---@field id integer|nil      the call whose end it waits for
---@field turn integer        counts its waits
---@field ok any              of a completion, with err, code, results
---@field err string|nil
---@field code string|nil
---@field results string[]|nil
local Fiber = {}
Fiber.__index = Fiber

local by_co = setmetatable({}, { __mode = "k" })
local current -- the fiber that this module resumed last and that has not come back

local main = setmetatable({ parked = false, woken = false }, Fiber)

---What host.lua does before the main chunk waits.
function fiber.before_main_waits() end

-- ---- switching ----------------------------------------------------------------------------------------------

local resume

-- f has yielded or ended.
local function came_back(f, before, ok, ...)
  current = before
  if f.parked then
    if f.suspended then f:suspended() end
  elseif not ok then
    f:died(...)
  elseif not f.finished then
    f.foreign = true
    if f.suspended then f:suspended() end
    local poll = loop.backend().foreign
    if poll then poll(function(...) resume(f, ...) end, ...) end
  end
end

resume = function(f, ...)
  local before = current
  current = f
  return came_back(f, before, co_resume(f.co, ...))
end

local function resume_parked(f)
  if f.parked then resume(f) end
end

-- What foreign code resumes too early waits on.
local function park(f)
  f.parked = true
  while not f.woken do yield() end
  f.parked = false
end

local function park_main(f)
  f.parked = true
  while not f.woken do
    if not loop.turn() then
      f.parked = false
      fiber.leave(f)
      failure.raise("this would wait for ever: nothing is alive that could end it (no task, timer or subscription)")
    end
  end
  f.parked = false
end

---Ends the wait of f, now or, when another fiber runs, soon.
---@param f wm.fiber
local function wake(f)
  if f.woken then return end
  f.woken = true
  if f.unpark then
    f.unpark()
  elseif f.co and f.parked then
    if current then loop.soon(resume_parked, f) else resume_parked(f) end
  end
end
fiber.wake = wake

---The end of a call that f waits for.
function Fiber:complete(ok, err, code, results)
  self.id = nil
  self.ok, self.err, self.code, self.results = ok, err, code, results
  wake(self)
end

---Overridden where an error outside the body's own protection has to be handled.
function Fiber:died(err) log.internal(debug.traceback(self.co, tostring(err))) end

---Makes t a fiber whose coroutine runs body(...); fiber.resume starts it. The body sets t.finished.
---@param t table  its metatable's __index has Fiber's methods
---@param body function
---@return wm.fiber
function fiber.create(t, body)
  t.parked, t.woken, t.foreign, t.finished = false, false, false, false
  t.co = coroutine.create(body)
  by_co[t.co] = t
  return t
end

fiber.resume = resume
fiber.Fiber = Fiber

---Lets the running fiber f rest until fiber.resume(f); unlike a wait, nothing can cancel that.
---@param f wm.fiber
function fiber.rest(f)
  f.parked, f.woken = true, true
  yield()
  f.parked = false
end

---The fiber that runs, nil outside of one of this module.
---@return wm.fiber|nil
function fiber.running() return by_co[running()] end

-- ---- who may wait ---------------------------------------------------------------------------------------------

local function raise_cannot(why, doing, what)
  failure.raise("%s would wait inside %s; run it in a task: %s", doing.what:format(what), why,
    doing.task:format(what))
end

-- Whether a fiber of this module has resumed, directly or not, what runs now.
local function nested()
  for co in pairs(by_co) do
    if status(co) == "normal" then return true end
  end
  return false
end

local function native_fiber(backend)
  local parking = backend.parking()
  local f = setmetatable({ parked = false, woken = false, unpark = parking.unpark }, Fiber)
  f.park = function(self)
    self.parked = true
    while not self.woken do parking.park() end
    self.parked = false
  end
  return f
end

-- Not in a coroutine of ours.
local function other(co, is_main, doing, what)
  local backend = loop.backend()
  if not is_main then
    if nested() then raise_cannot("a coroutine that a task runs (an iterator?)", doing, what) end
    if backend.native and backend.native() then return native_fiber(backend) end
    if backend.name == "luv" then
      if not loop.inside() then raise_cannot("a coroutine that the loop has not resumed", doing, what) end
      return setmetatable({ co = co, parked = false, woken = false }, Fiber)
    end
  end
  if main.parked or loop.inside() then
    raise_cannot(backend.name == "luv" and "a libuv callback" or "a callback of the loop", doing, what)
  end
  return main
end

---The fiber that could wait now; raises where nothing can.
---@param doing { what: string, task: string }  for the error's text, with %s for what
---@param what any
---@return wm.fiber
function fiber.place(doing, what)
  local co, is_main = running()
  return by_co[co] or other(co, is_main, doing, what)
end

---The fiber that is about to do what it will have to wait for; raises where nothing can.
---@param doing { what: string, task: string }
---@param what any
---@return wm.fiber
function fiber.here(doing, what)
  local f = fiber.place(doing, what)
  if f == main then fiber.before_main_waits() end
  return f
end

---Whether code runs in the main chunk, where nothing else could run: the thread may be stopped.
---@return boolean
function fiber.alone()
  local _, is_main = running()
  return is_main and not core.hosted and not main.parked and loop.idle()
end

-- ---- waiting --------------------------------------------------------------------------------------------------

local function timed_out(f)
  f.timer = nil
  if f.woken then return end
  f.late = true
  wake(f)
end

local function raise_stop(f)
  local stop = f.stop
  f.stop, f.stopped = nil, false
  error(stop, 0)
end

---Call it before anybody can wake f.
---@param f wm.fiber
---@param queue wm.fiber[]|nil  f is added to it, and taken out again when the wait ends
function fiber.prepare(f, queue)
  if f.stop then raise_stop(f) end
  if f == main then fiber.before_main_waits() end
  f.woken, f.late = false, false
  f.turn = (f.turn or 0) + 1
  if queue then
    f.queue = queue
    queue[#queue + 1] = f
  end
end

---Nobody finds f any more.
---@param f wm.fiber
function fiber.leave(f)
  if f.timer then
    loop.cancel(f.timer)
    f.timer = nil
  end
  if f.id then
    loop.forget(f.id)
    f.id = nil
  end
  local queue = f.queue
  if not queue then return end
  f.queue = nil
  for i = 1, #queue do
    if queue[i] == f then
      table.remove(queue, i)
      break
    end
  end
  if queue.abandoned and (f.late or f.stopped) then queue.abandoned() end
end

---Waits until somebody wakes f. Raises what stops it.
---@param f wm.fiber
---@param timeout number|nil  seconds
---@return boolean in_time
function fiber.wait(f, timeout)
  if timeout then f.timer = loop.after(timeout, timed_out, f) end
  if f.park then
    f:park()
  elseif f == main then
    park_main(f)
  else
    park(f)
  end
  fiber.leave(f)
  if f.stopped then raise_stop(f) end
  return not f.late
end

---Waits for the end of a call that the C half has begun.
---@param f wm.fiber
---@param id integer
---@return any ok, string|nil err, string|nil code, string[]|nil results
function fiber.await(f, id)
  fiber.prepare(f)
  f.id = id
  loop.expect(id, f)
  fiber.wait(f)
  local ok, err, code, results = f.ok, f.err, f.code, f.results
  f.ok, f.err, f.code, f.results = nil, nil, nil, nil
  return ok, err, code, results
end

---Raises `err` where f waits, or will wait next: also when what it waits for has come already.
---@param f wm.fiber
---@param err any
function fiber.stop(f, err)
  f.stop = err
  if f.parked and not f.woken then
    f.stopped = true
    wake(f)
  end
end

---The main chunk, as far as it waits.
---@return wm.fiber
function fiber.main() return main end

return fiber
