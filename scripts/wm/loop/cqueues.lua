-- cqueues.lua - the loop of cqueues programs: a controller of our own, stepped by the main chunk while it waits, and
-- run inside the program's controllers while they run. Chosen by wm.loop "cqueues".

local core = require "wm.core"
local cqueues = require "cqueues"
local condition = require "cqueues.condition"

local clock, running = core.clock, cqueues.running

local cq = { name = "cqueues" }

local loop -- what loop/init.lua gave
local own = cqueues.new()
local poke = condition.new() -- the pump has to look again
local watches = {} -- those started, each with the fields that cqueues.poll reads
local at
local held, pumping = false, false
local attached = setmetatable({}, { __mode = "k" }) -- the controllers that run ours now

---@class wm.loop.cqueues.watch
local Watch = { events = "r" }
Watch.__index = Watch

local function alive() return #watches > 1 or at ~= nil or held end

local function call(found)
  if getmetatable(found) == Watch and found.slot then loop.enter(found.fn, found.arg) end
end

local function pump()
  while alive() do
    local list = table.move(watches, 1, #watches, 1, {})
    list[#list + 1] = poke
    if at then list[#list + 1] = math.max(0, at - clock()) end
    local found = table.pack(cqueues.poll(table.unpack(list)))
    for i = 1, found.n do call(found[i]) end
    if at and at <= clock() then
      at = nil
      loop.enter(loop.due)
    end
  end
  pumping = false
end

-- Something is alive: our controller gets its pump, and the controller that runs now gets ours.
local function look()
  if not alive() then return end
  if not pumping then
    pumping = true
    own:wrap(pump)
  else
    poke:signal()
  end
  local outer = running()
  if outer and outer ~= own and not attached[outer] then
    attached[outer] = true
    outer:wrap(function()
      local ok, err = own:loop()
      attached[outer] = nil
      if not ok then error(err, 0) end
    end)
  end
end

function Watch:start(arg)
  self.arg = arg
  if self.slot then return end
  self.slot = #watches + 1
  watches[self.slot] = self
  look()
end

function Watch:stop()
  local slot, last = self.slot, #watches
  if not slot then return end
  watches[slot] = watches[last]
  watches[slot].slot = slot
  watches[last] = nil
  self.slot, self.arg = nil, nil
  cqueues.cancel(self.pollfd)
  if pumping then poke:signal() end
end

Watch.close = Watch.stop

function cq.open(given)
  loop = given
  cq.watch(loop.wake_fd, loop.complete):start()
end

function cq.watch(fd, fn) return setmetatable({ pollfd = fd, fn = fn }, Watch) end

function cq.rearm(time)
  at = time
  look()
end

function cq.hold(hold)
  held = hold
  look()
end

function cq.inside() return running() == own end

function cq.idle() return false end

function cq.stop() end

function cq.turn()
  if not alive() then return false end
  look()
  assert(own:step())
  return true
end

-- ---- coroutines of cqueues ------------------------------------------------------------------------------------

---Whether the running coroutine is one that a controller resumes.
---@return boolean
function cq.native()
  local controller, direct = running()
  return controller ~= nil and direct
end

---@return { park: fun(), unpark: fun() }  lets a coroutine of a controller wait
function cq.parking()
  local woken = condition.new()
  return { park = function()
    look()
    woken:wait()
  end, unpark = function() woken:signal() end }
end

---A coroutine of this module has yielded what cqueues.poll yields: polls for it, then resumes it.
---@param resume fun(...)
---@return boolean  false: that was none of cqueues' yields
function cq.foreign(resume, magic, ...)
  if magic ~= cqueues._POLL then return false end
  local wanted = table.pack(...)
  own:wrap(function() resume(cqueues.poll(table.unpack(wanted, 1, wanted.n))) end)
  return true
end

return cq
