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
-- A main chunk that waits (a for loop over a subscription) runs the loop meanwhile. A failure inside a coroutine
-- that the module runs never reaches main: it is logged, and settles the message by the rules of the router; that
-- includes a coroutine that dies of an error which the host raises from a hook.

local host = {}

---Runs a script in this state until nothing is left to do, or it was retired or stopped.
---@param chunk function  the loaded script
---@param ... any         its arguments
---@return true|nil, string|nil text  why it failed, with its traceback
function host.main(chunk, ...)
  local ok, err = xpcall(chunk, debug.traceback, ...)
  if not ok then return nil, err end
  return true
end

---What wm.on has been told, for `wmlua check` and `wmlua describe`: one entry a handler, in order.
---@return { name: string, topic: string, url: string, group: string|false, where: string, options: table }[]
function host.handlers() return {} end

return host
