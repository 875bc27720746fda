-- timers.lua - what is to be called when, as a binary heap by time; each loop asks it for its next deadline.

local timers = {}

---@class wm.timers.entry
---@field at number  monotonic
---@field fn function
---@field arg any
---@field slot integer|nil  its place in the heap, nil when it is not waiting

local heap, count = {}, 0

local function up(entry, i)
  while i > 1 do
    local parent = i // 2
    local above = heap[parent]
    if above.at <= entry.at then break end
    heap[i], above.slot = above, i
    i = parent
  end
  heap[i], entry.slot = entry, i
end

local function down(entry, i)
  while true do
    local child = 2 * i
    if child > count then break end
    if child < count and heap[child + 1].at < heap[child].at then child = child + 1 end
    local below = heap[child]
    if entry.at <= below.at then break end
    heap[i], below.slot = below, i
    i = child
  end
  heap[i], entry.slot = entry, i
end

---@param at number  monotonic, as core.clock()
---@param fn fun(arg: any)
---@param arg any
---@return wm.timers.entry
function timers.add(at, fn, arg)
  local entry = { at = at, fn = fn, arg = arg }
  count = count + 1
  up(entry, count)
  return entry
end

---Takes an entry out, if it still waits.
---@param entry wm.timers.entry
function timers.remove(entry)
  local i = entry.slot
  if not i then return end
  entry.slot = nil
  local last = heap[count]
  heap[count] = nil
  count = count - 1
  if last == entry then return end
  if i > 1 and last.at < heap[i // 2].at then up(last, i) else down(last, i) end
end

---The time of the first entry, nil when there is none.
---@return number|nil
function timers.next()
  local first = heap[1]
  return first and first.at
end

---Takes out the first entry if its time has come.
---@param now number
---@return wm.timers.entry|nil
function timers.due(now)
  local first = heap[1]
  if not first or first.at > now then return nil end
  timers.remove(first)
  return first
end

---@return integer
function timers.count() return count end

return timers
