-- init.lua - the module wm: handlers in Lua for the messages of any broker.

local broker_publisher = require "wm.publisher"
local core = require "wm.core"
local failure = require "wm.failure"
local fate = require "wm.fate"
local json = require "wm.json"
local keep = require "wm.keep"
local log = require "wm.log"
local loop = require "wm.loop"
local message = require "wm.message"
local middleware = require "wm.middleware"
local router = require "wm.router"
local subscriber = require "wm.subscriber"
local task = require "wm.task"
local timer = require "wm.timer"
local unload = require "wm.unload"

---@class wm
local wm = {
  version = core.version,
  ---From 1; outside of a host always 1.
  generation = core.generation,
  ---From 1; outside of a host always 1.
  worker = core.worker,
  ---Stands for JSON's null.
  null = json.null,
  message = message.new,
  publisher = broker_publisher.new,
  publish = broker_publisher.publish,
  subscriber = subscriber.new,
  router = router.new,
  retry = fate.retry,
  drop = fate.drop,
  dead = fate.dead,
  spawn = task.spawn,
  sleep = task.sleep,
  await = task.await,
  every = timer.every,
  now = core.now,
  log = log.public,
  keep = keep.keep,
  on_unload = unload.on_unload,
  middleware = middleware.public,
  loop = loop.select,
}

local default = router.default

---A handler of the default router.
---@param topic string
---@param opts table  subscription options and handler options; group is required
---@param fn fun(msg: wm.message): any, any, any  with `batch`: a list of messages
---@return wm.handler
function wm.on(topic, opts, fn) return default:on(topic, opts, fn) end

---Puts functions (msg, next) around all handlers that follow, the first outermost.
---@param ... fun(msg: wm.message, next: function): any, any, any
function wm.use(...) default:use(...) end

---Defaults for all handlers that follow, and settings of the host.
---@param opts table
function wm.configure(opts) default:configure(opts) end

---Runs the handlers; waits until the last one has been closed. In the host it is needless, and harmless.
---@return true|nil ok, string|nil err, string|nil code
function wm.run() return default:run() end

---The host reloads the script also when this file changes.
---@param path string
function wm.watch(path)
  if type(path) ~= "string" then failure.raise("wm.watch: a path as a string expected, got %s", log.quote(path)) end
  core.watch(path)
end

---The brokers that this build knows; `missing` says what would bring one that is left out.
---@return { name: string, schemes: string, library: string, missing: string|nil }[]
function wm.backends() return core.backends() end

-- What a later version brings is refused by name.
for _, name in ipairs{ "request", "cron", "cqrs", "forwarder", "requeuer", "fan_in", "fan_out" } do
  wm[name] = function() failure.later("wm." .. name) end
end

return wm
