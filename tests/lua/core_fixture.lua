-- core_fixture.lua - what the specs of the C half share: handles on the memory broker, closed after each test.
local core = require "wm.core"

local fixture = {
  URL = "memory:core_spec",
  PATIENCE = 20, -- seconds until something that must happen counts as not happening
}

local open = {} -- [handle] = true: of the running test
local topics = 0

function fixture.new_topic()
  topics = topics + 1
  return "topic-" .. topics
end

-- Waits for the end of id; returns what completed() told of it.
local told = {}
function fixture.finish(id)
  assert(math.type(id) == "integer", id)
  local deadline = core.clock() + fixture.PATIENCE
  while not told[id] do
    local ended = table.pack(core.completed())
    if ended[1] then
      told[ended[1]] = ended
    else
      assert(core.clock() < deadline, "nothing told the end in time")
      core.poll({ core.wake_fd() }, deadline - core.clock())
    end
  end
  local ended = told[id]
  told[id] = nil
  return table.unpack(ended, 2, ended.n)
end

function fixture.publisher(opts)
  local pub = assert(core.publisher(fixture.URL, opts))
  open[pub] = true
  return pub
end

function fixture.subscribe(topic, opts)
  local con, id = core.subscribe(fixture.URL, topic, opts or { group = "readers" }, "core_spec.lua:1")
  assert(con, id)
  open[con] = true
  assert(fixture.finish(id))
  return con
end

-- The next message, waited for.
function fixture.receive(con)
  local msg, why = con:wait(fixture.PATIENCE)
  return assert(msg, why)
end

-- A message that was received with this payload and metadata, its consumer, and what was published.
function fixture.one_message(payload, metadata, opts)
  local topic = fixture.new_topic()
  local con = fixture.subscribe(topic, opts)
  local sent = assert(core.message(payload or "hello", metadata))
  assert(fixture.publisher():publish_blocking(topic, sent))
  return fixture.receive(con), con, sent
end

-- The fixture holds the handle no more.
function fixture.forget(handle) open[handle] = nil end

-- To be called after each test.
function fixture.close_all()
  local handles = open
  open = {}
  for handle in pairs(handles) do fixture.finish(handle:close(0)) end -- what is in hand stays so
  for id in pairs(told) do told[id] = nil end
end

-- Runs code in a Lua of its own, to its end; returns what it printed and whether it ended well.
function fixture.run(code, ...)
  local path = os.tmpname()
  local file = assert(io.open(path, "w"))
  file:write(code)
  file:close()
  local arguments = table.concat({ ... }, " ")
  local command = ("timeout %d %s %s %s 2>&1"):format(3 * fixture.PATIENCE, arg[-1], path, arguments)
  local pipe = assert(io.popen(command))
  local printed = pipe:read "a"
  local ok = pipe:close()
  os.remove(path)
  return printed, ok
end

return fixture
