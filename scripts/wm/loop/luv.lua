-- luv.lua - the loop of luv programs and of the host: whoever calls uv.run() runs us, too.

local core = require "wm.core"
local uv = require "luv"

local clock = core.clock

local luv = { name = "luv" }

local loop -- what loop/init.lua gave
local timer, wake

---@class wm.loop.luv.watch
local Watch = {}
Watch.__index = Watch

function Watch:start(arg)
  self.arg = arg
  if self.active or not self.poll then return end
  self.active = true
  self.poll:start("r", self.call)
end

function Watch:stop()
  if not self.active then return end
  self.active, self.arg = false, nil
  self.poll:stop()
end

function Watch:close()
  if not self.poll then return end
  self.active, self.arg = false, nil
  self.poll:close()
  self.poll = nil
end

function luv.open(given)
  loop = given
  timer = uv.new_timer()
  wake = luv.watch(loop.wake_fd, loop.complete)
  wake:start()
  wake.poll:unref()
end

function luv.watch(fd, fn)
  local enter = loop.enter
  local self = setmetatable({ poll = assert(uv.new_poll(fd)), active = false }, Watch)
  self.call = function() enter(fn, self.arg) end
  return self
end

local function fired() loop.enter(loop.due) end

function luv.rearm(at)
  if not at then
    timer:stop()
    return
  end
  uv.update_time()
  timer:start(math.max(0, math.ceil((at - clock()) * 1000)), 0, fired)
end

function luv.hold(hold)
  if hold then wake.poll:ref() else wake.poll:unref() end
end

function luv.inside() return uv.loop_mode() ~= nil end

function luv.idle() return false end

function luv.stop() uv.stop() end

function luv.turn()
  if not uv.loop_alive() then return false end
  uv.run "once"
  return true
end

return luv
