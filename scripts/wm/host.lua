-- host.lua - what a host of scripts (wmlua) calls in a Lua state, and what it tells it.
--
-- A host does this with each state, on the state's thread:
--   1. wm_lua_set_host(L, host); put what it replaces in place (coroutine.resume and wrap, os.exit, arg); open luv
--      on the state's own loop and set package.loaded.luv; make "wm.core" loadable. All before the first require
--      of "wm", since the modules keep what they find then.
--   2. host = require "wm.host", then host.main(chunk, ...) once. It runs chunk(...) as the main chunk, begins the
--      subscriptions of wm.on, and runs the luv loop until nothing is left to do, or it was retired or stopped.
--      It returns
--        true             the state may be closed
--        nil, text        the chunk raised (text has its traceback), or a subscription will never work. Before
--                         waiting() was called the script never got as far as being loaded.
--      Before it returns, handlers have finished, on_unload has run and what publishers had queued is sent.
--   3. close the state.
--
-- What main asks of the host, in this order:
--   subscribe()          for what the chunk subscribes to; and, just before waiting(), for each wm.on
--   waiting()            once: the chunk has returned, or waits for the first time. The script is loaded. False: it
--                        is only being checked; main returns true without waiting.
--   subscribe()          for what is subscribed to later
--
-- What the host posts, with wm_lua_post:
--   "start"              this generation is live: its turn, in every state and also for the first generation, once
--                        host.kept() would give what the last generation left. The state fills the tables of
--                        wm.keep, then calls core.keep(nil): host->keep(arg, NULL, NULL, 0). Only then may its
--                        consumers be switched to: a message must not reach a handler before.
--   "keep"               (to the old generation, once its consumers have been retired; what it has in flight may still
--                        be running) one host->keep() a name, then the one with NULL. Exactly one NULL answers each
--                        "start" and each "keep".
--   "retire"             (after "keep") another generation has taken over: runs on_unload, ends timers and loops over
--                        subscriptions, lets handlers finish, cancels tasks that only wait, sends what publishers
--                        have queued; then main returns.
--   "stop" (ms)          the same, and its subscriptions are closed gently (unsubscribe()), all within ms.
-- They are handled when the loop turns; a state that computes answers late.
--
--   "stop" may follow "retire", to end it sooner: 0 gives up what handlers still do.
--
-- Where a script calls os.exit, the host notes the number, posts "stop" to itself, and calls host.exit(), which does
-- not return: what the caller had in hand goes back to its group.
--
-- core.broker is what the host was told by flag or environment; it wins over wm.configure{ broker = URL }, which a
-- host may note in configure(), too.
--
-- A main chunk that waits (a for loop over a subscription, uv.run) runs the loop meanwhile. A failure inside a
-- coroutine that the module runs never reaches main: it is logged, and settles the message by the rules of the
-- router. That includes an error which the host raises from a hook: the hook lets the module's own code through, on any
-- coroutine, since after an error that leads back to the loop before it calls the script again.

local core = require "wm.core"
local failure = require "wm.failure"
local fiber = require "wm.fiber"
local handler = require "wm.handler"
local keep = require "wm.keep"
local log = require "wm.log"
local loop = require "wm.loop"
local publisher = require "wm.publisher"
local router = require "wm.router"
local subscriber = require "wm.subscriber"
local task = require "wm.task"
local timer = require "wm.timer"
local unload = require "wm.unload"

local host = {}

-- How long what is left may take when the host has not said it.
local END_TIMEOUT = 30
-- How often the end looks whether it has become urgent.
local END_POLL = 0.05

local NOT_TO_WAIT = failure.new("CANCELLED", "the script is only being checked: its main chunk does not wait")
local ENDED = failure.new("CANCELLED", "the script's generation has ended")
host.ENDED = ENDED -- raised on purpose: nothing to be told

local asked, loaded = false, false -- the host, whether it is loaded; its answer
local ending -- { deadline, close }: the end has begun
local over = false -- and is done

-- ---- beginning ------------------------------------------------------------------------------------------------

-- The chunk is loaded as far as it goes.
local function announce()
  if asked then return loaded end
  asked = true
  router.default:start()
  loaded = core.waiting()
  return loaded
end

function fiber.before_main_waits()
  if over then error(ENDED, 0) end
  if core.hosted and not announce() then error(NOT_TO_WAIT, 0) end
end

-- A chunk that runs luv's loop itself is loaded, too.
local function watch_uv_run()
  local uv = package.loaded.luv
  if not uv then return end
  local run = uv.run
  function uv.run(...)
    if not loop.inside() then fiber.before_main_waits() end
    return run(...)
  end
end

-- ---- ending ---------------------------------------------------------------------------------------------------

local function left() return math.max(0, ending.deadline - core.clock()) end

-- Waits with wait(seconds) until it says true, or the time is over.
local function until_done(wait)
  repeat
    if wait(math.min(END_POLL, left())) then return end
  until left() == 0
end

local function close_subscriptions()
  local closing = subscriber.close_all(left())
  for _, r in ipairs(router.all()) do table.move(r:close_all(left()), 1, #closing, #closing + 1, closing) end
  for _, t in ipairs(closing) do
    until_done(function(seconds)
      local _, _, code = t:join(seconds)
      return code ~= "TIMEOUT" or t.done
    end)
  end
end

local function wait_for_handlers()
  for _, r in ipairs(router.all()) do
    for _, h in ipairs(r.handlers) do
      if h.consumer then until_done(function(seconds) return h:wait(seconds) end) end
    end
  end
end

-- Tasks, and the main chunk, that only wait are cancelled; those that a broker has to answer get its answer.
local function stop_tasks(me)
  local main = fiber.main()
  task.stop_all(ENDED, function(t) return t ~= me and not t.id end)
  if main.parked and not main.id then fiber.stop(main, ENDED) end
  task.sleep(0) -- they unwind
  until_done(function(seconds)
    if not main.id and not task.any(function(t) return t ~= me and t.id end) then return true end
    task.sleep(seconds)
  end)
end

local function finish()
  local me = fiber.running()
  timer.close_all()
  if ending.close then close_subscriptions() end
  wait_for_handlers()
  if ending.close then close_subscriptions() end -- it may have become a stop meanwhile
  unload.run()
  stop_tasks(me)
  publisher.close_all(me, left())
end

local function end_all()
  local ok, err = xpcall(finish, debug.traceback)
  if not ok then log.internal(err) end
  over = true
  local main = fiber.main()
  if main.parked then fiber.stop(main, ENDED) end
  loop.backend().stop()
end

-- close: the subscriptions, too; else they have been taken over.
local function begin_end(timeout, close)
  local deadline = timeout and core.clock() + timeout or math.huge
  if ending then
    ending.deadline = math.min(ending.deadline, deadline)
    ending.close = ending.close or close
    return
  end
  ending = { deadline = deadline, close = close }
  task.spawn(end_all)
end

local EVENTS = {
  start = function()
    keep.start()
    core.keep(nil)
  end,
  keep = function()
    keep.give()
    core.keep(nil)
  end,
  retire = function() begin_end(nil, false) end,
  stop = function(ms) begin_end(ms / 1000, true) end,
}

function loop.on_event(name, value)
  local event = EVENTS[name]
  if not event then
    log.own("warn", ("the host has said '%s', which is unknown here"):format(name))
    return
  end
  event(value)
end

-- ---- the host's functions ---------------------------------------------------------------------------------------

local function run_until_over()
  while not over and loop.turn() do end -- luacheck: ignore 542
end

local function problem_of_handlers()
  for _, h in ipairs(router.default.handlers) do
    if h.problem then return ('%s: wm.on "%s": %s'):format(h.where, h.topic, h.problem.err) end
  end
end

---Runs a script in this state until nothing is left to do, or it was retired or stopped.
---@param chunk function  the loaded script
---@param ... any         its arguments
---@return true|nil, string|nil text  why it failed, with its traceback
function host.main(chunk, ...)
  watch_uv_run()
  local ok, err = xpcall(chunk, debug.traceback, ...)
  if not ok and err == ENDED then ok = true end
  if err == NOT_TO_WAIT then return true end
  if not ok then err = failure.text(err) end
  if not ok and not loaded then return nil, err end
  if ok and not announce() then return true end
  if ok then run_until_over() end
  if not over then
    begin_end(END_TIMEOUT, true)
    run_until_over()
  end
  if not ok then return nil, err end
  local problem = problem_of_handlers()
  if problem then return nil, problem end
  return true
end

---Does not return; what runs in this state ends. For os.exit, after "stop" has been posted.
function host.exit()
  for _, r in ipairs(router.all()) do
    for _, h in ipairs(r.handlers) do h:halt() end -- or it would get again what it gives back
  end
  local f = fiber.running()
  if f then
    if f.handler then handler.abandon(f) else task.abandon(f) end
    coroutine.yield()
  end
  -- Not within a callback: luv frees the handles that close meanwhile, and the callback's own may be one of them.
  if not loop.inside() then run_until_over() end
  error(ENDED, 0)
end

---What wm.on has been told, for `wmlua check` and `wmlua describe`: one entry a handler, in order.
---@return { name: string, topic: string, url: string, group: string|false, where: string, options: table }[]
function host.handlers()
  local list = {}
  for _, r in ipairs(router.all()) do
    for _, h in ipairs(r.handlers) do
      list[#list + 1] = { name = h.name, topic = h.topic, url = core.mask(h.url), group = h.group, where = h.where,
        options = h.given }
    end
  end
  return list
end

-- How help calls the kinds of values that only Lua has.
local SHOWN = { any = "", topic_or_false = "topic or false", table = "list" }

---The options of wm.on that libwm does not know, for `wmlua help`, in the form of core.options().
---@return { name: string, value: string, unit: string, help: string, where: string }[]
function host.options()
  local list = {}
  for _, def in ipairs(router.own_options) do
    if def.help then
      list[#list + 1] = { name = def.name, value = def.value or "", unit = SHOWN[def.unit] or def.unit, help = def.help,
        where = "handler" }
    end
  end
  return list
end

return host
