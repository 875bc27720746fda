-- plain.lua - the loop of programs without one: poll(2), run by the main chunk while it waits.

local core = require "wm.core"

local clock, poll = core.clock, core.poll

local plain = { name = "plain" }

local loop -- what loop/init.lua gave
local by_fd = {}
local fds = {} -- fds[1] is the descriptor of completions
local at -- the next deadline
local held, turning = false, false

---@class wm.loop.plain.watch
local Watch = {}
Watch.__index = Watch

function Watch:start(arg)
  self.arg = arg
  if self.slot then return end
  self.slot = #fds + 1
  fds[self.slot] = self.fd
  by_fd[self.fd] = self
end

function Watch:stop()
  local slot, last = self.slot, #fds
  if not slot then return end
  fds[slot] = fds[last]
  by_fd[fds[slot]].slot = slot
  fds[last] = nil
  by_fd[self.fd] = nil
  self.slot, self.arg = nil, nil
end

Watch.close = Watch.stop

function plain.open(given)
  loop = given
  plain.watch(loop.wake_fd, loop.complete):start()
end

function plain.watch(fd, fn) return setmetatable({ fd = fd, fn = fn }, Watch) end

function plain.rearm(time) at = time end

function plain.hold(hold) held = hold end

function plain.inside() return turning end

function plain.idle() return #fds == 1 end

function plain.stop() end

function plain.turn()
  if #fds == 1 and not at and not held and not core.hosted then return false end
  turning = true
  local timeout = at and math.max(at - clock(), 0) or -1
  local ready = poll(fds, timeout)
  for i = 1, #ready do
    local watch = by_fd[ready[i]]
    if watch then loop.enter(watch.fn, watch.arg) end
  end
  if at and at <= clock() then
    at = nil
    loop.enter(loop.due)
  end
  turning = false
  return true
end

return plain
