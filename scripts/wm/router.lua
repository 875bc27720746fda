-- router.lua - wm.router, and the default one behind wm.on, use, run and configure: handlers, checked when they are
-- given, subscribed to when the router runs.

local broker = require "wm.broker"
local core = require "wm.core"
local failure = require "wm.failure"
local fiber = require "wm.fiber"
local handler = require "wm.handler"
local log = require "wm.log"
local loop = require "wm.loop"
local middleware = require "wm.middleware"
local options = require "wm.options"
local publisher = require "wm.publisher"
local retry = require "wm.retry"
local task = require "wm.task"

local router = {}

---@class wm.router
---@field name string              "wm" or "router", for error texts
---@field defaults table
---@field around function[]        the middleware of all handlers
---@field handlers wm.handler[]
---@field names table<string, wm.handler>
---@field running boolean
local Router = { __name = "wm.router" }
Router.__index = Router

local DEFAULT_DEAD_LETTER = "dead_letter"

-- The handler's own options, as `wmlua help on` shows them.
router.own_options = {
  { name = "name", unit = "text", help = "what it is called in logs and errors; without it the topic" },
  { name = "broker", unit = "text", help = "URL of the broker of its topic; without it the default broker" },
  { name = "publish_to", unit = "text", help = "topic for the strings and messages without a topic that it returns" },
  { name = "publisher", unit = "any", help = "wm.publisher for what it returns; without it one on its own broker" },
  { name = "retry", unit = "any", help = "what follows a failure: a list of seconds, "
    .. "{ max_retries = 10, initial_interval = 0.5, multiplier = 2, max_interval = 60, intervals, rules }, "
    .. "a function(msg, err), or false" },
  { name = "dead_letter", unit = "topic_or_false", value = "dead_letter",
    help = "topic for messages that are given up; false: retried for ever" },
  { name = "timeout", unit = "duration",
    help = "how long one message may take, waiting included; without it no limit" },
  { name = "middleware", unit = "table", help = "functions around the handler, the first outermost: "
    .. "function(msg, next) return next(msg) end" },
  { name = "max_attempts", instead = "retry = { max_retries = n }" },
  { name = "tx", later = true }, { name = "reply", later = true }, { name = "reply_topic", later = true },
  { name = "headers", later = true },
}
local OWN = options.set(router.own_options)

-- What wm.configure also takes: the host's, given to it as text.
local HOST = options.set{
  { name = "log", unit = "debug|info|warn|error" }, { name = "burst_timeout", unit = "duration" },
  { name = "memory_limit", unit = "size" }, { name = "reload_grace", unit = "duration" },
  { name = "load_timeout", unit = "duration" },
}

-- ---- handlers -------------------------------------------------------------------------------------------------

local GROUP_MISSING = '%s: group is missing; group = "NAME" shares the messages among all who use that name, '
  .. "group = false gives every worker a copy of each new one"

local function merged(below, above)
  local all = {}
  for name, value in pairs(below) do all[name] = value end
  for name, value in pairs(above) do all[name] = value end
  return all
end

-- What cannot go together.
local function check_together(what, topic, all)
  if all.group == nil then failure.raise(GROUP_MISSING, what) end
  if all.order_by and all.ordered == false then
    failure.raise("%s: order_by with ordered = false: messages of one key are in order, or they are not", what)
  end
  if all.dead_letter == topic then
    failure.raise("%s: dead_letter is the handler's own topic '%s': what failed would come back for ever; name another "
      .. "topic, or dead_letter = false", what, topic)
  end
  if all.retry == false and all.dead_letter == false then
    failure.raise("%s: retry = false with dead_letter = false leaves nothing to do with a message that failed", what)
  end
  if all.publisher ~= nil and not publisher.is(all.publisher) then
    failure.raise("%s: publisher: what wm.publisher returns expected, got %s", what, log.quote(all.publisher))
  end
end

local function check_name(self, what, name)
  local other = self.names[name]
  if other then
    failure.raise("%s: the name '%s' is taken by the handler at %s; give one of them name = \"…\"", what, name,
      other.where)
  end
end

-- The handler that these options mean; raises.
local function make(self, what, topic, opts, fn)
  local url = opts.broker or self.defaults.broker or broker.default()
  local set = options.of_core("subscription", url)
  options.check(what, opts, "on", OWN, set)
  local all = merged(self.defaults, opts)
  if all.dead_letter == nil then all.dead_letter = DEFAULT_DEAD_LETTER end
  check_together(what, topic, all)
  local name = opts.name or topic
  check_name(self, what, name)
  local its_own = all.middleware or {}
  middleware.check(what, its_own)
  local for_core = options.for_core(all, set)
  if all.dead_letter == false then for_core.dead_letter = nil end
  local ok, err = core.check(url, topic, for_core, false)
  if not ok then failure.raise("%s: %s", what, err) end
  return handler.new{
    name = name, topic = topic, url = url, where = failure.where(), group = all.group, options = for_core,
    call = middleware.wrap(self.around, middleware.wrap(its_own, fn)),
    policy = retry.read(what .. ": retry", all.retry), dead_letter = all.dead_letter, publish_to = all.publish_to,
    publisher = all.publisher, timeout = all.timeout, batch = options.number(all, set, url, "batch"),
    max = options.number(all, set, url, "max_in_flight"), given = all,
  }
end

---A handler for the messages of a topic. Raises what is wrong with its options.
---@param topic string
---@param opts table  subscription options and handler options; group is required
---@param fn fun(msg: wm.message): any, any, any  with `batch`: a list of messages
---@return wm.handler
function Router:on(topic, opts, fn)
  local what = ('%s.on "%s"'):format(self.name, tostring(topic))
  if fn == nil and task.callable(opts) then opts, fn = {}, opts end
  options.check_topic(self.name .. ".on", topic)
  if opts ~= nil and type(opts) ~= "table" then
    failure.raise("%s: options: a table expected, got %s", what, type(opts))
  end
  if not task.callable(fn) then
    failure.raise("%s: the handler's function expected after its options, got %s", what, type(fn))
  end
  local h = make(self, what, topic, opts or {}, fn)
  self.handlers[#self.handlers + 1], self.names[h.name] = h, h
  if self.running then h:start() end
  return h
end

---Puts functions (msg, next) around all handlers that follow, the first outermost.
---@param ... fun(msg: wm.message, next: function): any, any, any
function Router:use(...)
  local what = self.name .. ".use"
  if #self.handlers > 0 then
    failure.raise("%s: the first handler stands at %s; middleware of all has to come before it", what,
      self.handlers[1].where)
  end
  middleware.check(what, { ... }, select("#", ...))
  for _, own in ipairs{ ... } do self.around[#self.around + 1] = own end
end

local function configure_host(what, opts)
  for name in pairs(HOST) do
    if opts[name] ~= nil then
      local ok, err = core.configure(name, options.text(opts[name]))
      if not ok then failure.raise("%s: %s", what, err) end
    end
  end
  if opts.log then log.configure(opts.log) end
end

---Defaults for the options of all handlers that follow.
---@param opts table
function Router:configure(opts)
  local what = self.name .. ".configure"
  if #self.handlers > 0 then
    failure.raise("%s: the first handler stands at %s; defaults have to come before it", what, self.handlers[1].where)
  end
  if type(opts) ~= "table" then failure.raise("%s: a table expected, got %s", what, log.quote(opts)) end
  local is_default = self == router.default
  local set = options.of_core("subscription", opts.broker or broker.default())
  options.check(what, opts, "configure", OWN, set, is_default and HOST or {})
  retry.read(what .. ": retry", opts.retry)
  if is_default then
    configure_host(what, opts)
    if opts.broker then broker.configure(opts.broker) end
  end
  for name, value in pairs(opts) do
    if not HOST[name] and not (is_default and name == "broker") then self.defaults[name] = value end
  end
end

-- ---- life -----------------------------------------------------------------------------------------------------

---Subscribes all handlers, without waiting.
function Router:start()
  self.running = true
  for _, h in ipairs(self.handlers) do h:start() end
end

local RUN = { what = "%s.run()", task = "wm.spawn(wm.run)" }

-- Without handlers: as long as anything is alive, from the main chunk.
local function run_the_rest()
  while loop.turn() do end -- luacheck: ignore 542
end

---Runs the handlers; waits until the last one has been closed.
---@return true|nil ok, string|nil err, string|nil code  why a handler could never work
function Router:run()
  local f = fiber.here(RUN, self.name)
  self:start()
  if #self.handlers == 0 and f == fiber.main() then run_the_rest() end
  local i = 1
  while self.handlers[i] do
    self.handlers[i]:wait()
    i = i + 1
  end
  for _, h in ipairs(self.handlers) do
    if h.problem then return nil, h.problem.err, h.problem.code end
  end
  return true
end

local CLOSE = { what = "%s.close()", task = "wm.spawn(r.close, r)" }

---Begins to close all handlers.
---@param timeout number|nil
---@return wm.task[]
function Router:close_all(timeout)
  local closing = {}
  for _, h in ipairs(self.handlers) do closing[#closing + 1] = task.spawn(h.close, h, timeout) end
  return closing
end

---No more messages for all its handlers; waits until those in hand are handled.
---@param timeout number|nil  seconds; the option close_timeout of each
---@return true|nil ok, string|nil err, string|nil code
function Router:close(timeout)
  fiber.here(CLOSE, self.name)
  local ok, err, code = true, nil, nil
  for _, t in ipairs(self:close_all(timeout)) do
    local this, why, its = t:join()
    if not this then ok, err, code = nil, why, its end
  end
  return ok, err, code
end

function Router:__close() self:close() end

function Router:__tostring() return ("wm.router: %d handlers"):format(#self.handlers) end

local all = {}

local function new(name)
  local self = setmetatable({ name = name, defaults = {}, around = {}, handlers = {}, names = {}, running = false },
    Router)
  all[#all + 1] = self
  return self
end

---A router of its own, beside the default one of wm.on.
---@param opts table|nil  as wm.configure
---@return wm.router
function router.new(opts)
  local self = new "router"
  if opts ~= nil then self:configure(opts) end
  return self
end

---The router of wm.on, use, run and configure.
router.default = new "wm"

---All routers there are.
---@return wm.router[]
function router.all() return all end

return router
