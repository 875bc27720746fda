local support = require "lua.support"

-- The programs of the manual, as they stand there (but for the brokers' URLs).
local PROGRAM = {
  service = [[
wm.on("orders", { group = "notifications" }, function(msg)
  print("order:", msg.payload)
end)
]],
  publisher = [[
local wm = require "wm"
local pub = wm.publisher "sqlite:BROKER.db"
assert(pub:publish("orders", "order-42"))                       -- true = the broker has confirmed it
assert(pub:publish("orders", {                                  -- a list: one call, one broker batch
  wm.message{ payload = "order-43", metadata = { type = "OrderPlaced" } },
  wm.message{ json = { id = 44, total = 9.5 }, metadata = { type = "OrderPlaced" } },
}))
pub:close()
]],
  subscriber = [[
local sub = wm.subscriber("sqlite:BROKER.db", { group = "notifications" })
for msg in sub:subscribe "orders" do                            -- ends when closed; `break` closes it
  if save(msg.payload) then msg:ack()
  else msg:nack{ delay = 5 } end                                -- nack() = soon, backing off by itself
end
]],
  policy = [[
wm.on("payments", { group = "billing", timeout = 30, dead_letter = "payments_dead",
  retry = { max_retries = 8, initial_interval = 0.5, multiplier = 2, max_interval = 300,
    rules = {                                                   -- first match wins, else the line above
      { match = "^invalid", dead = true },
      { match = "timed out", intervals = { 1, 5, 30 } },
      { match = "rate limited", pause = 60, max_retries = 100 } -- the whole subscription waits
    } } }, function(msg)
  local order, err = msg:json()
  if not order then return nil, "invalid JSON: " .. err end
  return charge(order)                                          -- true, or nil and an error
end)
]],
  concurrent = [[
local pub = wm.publisher{ order_by = "customer_id" }            -- the partition key where brokers have one
wm.on("scans", { group = "tracking", max_in_flight = 64, order_by = "customer_id" }, function(msg)
  local res, err = post("/track", msg.payload)                  -- waits; the other customers go on
  if not res then return nil, err end                           -- retried; only this customer waits
  return pub:publish("tracked", wm.message{ json = res, metadata = { customer_id = msg.metadata.customer_id } })
end)
]],
  batches = [[
wm.on("clicks", { group = "warehouse", batch = 500, batch_wait = 0.2 }, function(msgs)
  local rows = {}
  for _, msg in ipairs(msgs) do
    local click, err = msg:json()
    if click then rows[#rows + 1] = click
    else msg:settle(wm.dead("bad JSON: " .. err)) end           -- this one only
  end
  return copy_into("clicks", rows)                              -- the fate of all not yet settled
end)
]],
  chat = [[
local uv, pub = require "luv", wm.publisher "memory:chat"
wm.spawn(function()
  for msg in wm.subscriber("memory:chat", { group = false }):subscribe "chat" do
    io.write(msg.payload) msg:ack()
  end
end)
uv.new_tty(0, true):read_start(function(_, line)                -- a callback cannot wait: a task can
  if line then wm.spawn(pub.publish, pub, "chat", line) end
end)
uv.run()
]],
  cqueues = [[
local cqueues = require "cqueues"
local orders = wm.subscriber("memory:cq", { group = "cq" }):subscribe "orders"
local cq = cqueues.new()
cq:wrap(function()
  while not orders.closed do
    local msg = orders:next(0)                                  -- never waits
    if msg then handle(msg.payload) msg:ack() else cqueues.poll{ pollfd = orders:fd(), events = "r" } end
  end
end)
assert(cq:loop())
]],
  kept = [[
local hits = wm.keep("hits", {})                                -- per worker; filled at the switch
wm.on("clicks", { group = "stats" }, function(msg)
  local page = msg.metadata.page or "?"
  hits[page] = (hits[page] or 0) + 1
end)
wm.every(10, function() wm.publish("hits", wm.message{ json = hits }) end)  -- ends with its generation
wm.on_unload(function() wm.log.info("generation ends", { generation = wm.generation }) end)
]],
}

local LOOPS = {
  { name = "plain", start = "" },
  { name = "luv", start = 'require "luv"\n' },
  { name = "cqueues", start = 'require("wm").loop "cqueues"\n' },
}

-- The leak sanitizer cannot look at a process whose threads are at work.
local ENDS_BY_EXIT = "ASAN_OPTIONS=detect_leaks=0"

-- The program between what it needs from the user and what feeds it.
local function run(loop, before, program, after)
  local text = table.concat{ loop.start, 'local wm = require "wm"\n', before, "\n", program, "\n", after, "\n" }
  return support.run(text, { env = "env WM_BROKER=memory:programs " .. ENDS_BY_EXIT })
end

-- Runs the handlers; feeder() is a task, and its end that of the program.
local FEED = "wm.spawn(function() local ok, err = pcall(feeder) if not ok then print(err) end os.exit(0) end) wm.run()"

for _, loop in ipairs(LOOPS) do
  describe("on the loop " .. loop.name, function()
    local missing = loop.name ~= "plain" and not support.has(loop.name)
    local test = missing and pending or it

    test("a service handles what comes", function()
      local result = run(loop, "", PROGRAM.service, [[
        function feeder()
          assert(wm.publish("orders", { "1", "2" }))
          wm.sleep(0.1)
        end
      ]] .. FEED)
      assert.equal("order:\t1\norder:\t2\n", result.out, result.err)
      assert.is_true(result.ok)
    end)

    test("a publisher and a subscriber in two processes meet in a file", function()
      local file = support.name "meet"
      local function with_file(text) return (text:gsub("BROKER", file)) end
      local published = support.run(loop.start .. with_file(PROGRAM.publisher))
      assert.is_true(published.ok, published.err)
      local result = run(loop, [[
        local n = 0
        local function save(payload)
          n = n + 1
          print(payload)
          if n == 3 then wm.spawn(function() wm.sleep(0.05) os.exit(0) end) end
          return true
        end
      ]], with_file(PROGRAM.subscriber), "")
      local lines = {}
      for line in result.out:gmatch "[^\n]+" do lines[#lines + 1] = line end
      assert.same({ "order-42", "order-43" }, { lines[1], lines[2] })
      assert.same({ id = 44, total = 9.5 }, require("cjson").decode(lines[3] or "null"), result.err)
      assert.is_true(result.ok)
    end)

    test("a retry policy with rules is followed", function()
      local result = run(loop, [[
        local calls = 0
        local function charge(order)
          calls = calls + 1
          if order.fails and calls == 1 then return nil, "boo" end
          print("charged", order.id, calls)
          return true
        end
        wm.on("payments_dead", { group = "g", dead_letter = false }, function(msg)
          print("dead", msg.payload, msg.metadata._wm_dead_attempts)
        end)
      ]], PROGRAM.policy, [[
        function feeder()
          assert(wm.publish("payments", { "{", '{"id":7,"fails":true}' }))
          wm.sleep(1)
        end
      ]] .. FEED)
      local lines = {}
      for line in result.out:gmatch "[^\n]+" do lines[#lines + 1] = line end
      table.sort(lines)
      assert.same({ "charged\t7\t2", "dead\t{\t1" }, lines, result.err)
    end)

    test("64 are handled at a time, each customer in order", function()
      local result = run(loop, [[
        local at_once, most = 0, 0
        local function post(path, payload)
          at_once = at_once + 1
          most = math.max(most, at_once)
          wm.sleep(0.01)
          at_once = at_once - 1
          return { path = path, n = tonumber(payload) }
        end
      ]], PROGRAM.concurrent, [[
        function feeder()
          local s = wm.subscriber{ group = "g" }:subscribe "tracked"
          local list = {}
          for i = 1, 200 do
            list[i] = wm.message{ payload = i, metadata = { customer_id = tostring(i % 20) } }
          end
          assert(wm.publish("scans", list))
          local last = {}
          for _ = 1, 200 do
            local msg = s:next(20)
            local customer, n = msg.metadata.customer_id, msg:json().n
            assert(n > (last[customer] or 0))
            last[customer] = n
            msg:ack()
          end
          print("in order", most)
        end
      ]] .. FEED)
      assert.equal("in order\t20\n", result.out, result.err)
    end)

    test("batches are handled", function()
      local result = run(loop, [[
        local function copy_into(name, rows)
          print(name, #rows, rows[1].page)
          return true
        end
      ]], PROGRAM.batches, [[
        function feeder()
          local dead = wm.subscriber{ group = "g" }:subscribe "dead_letter"
          assert(wm.publish("clicks", { '{"page":"/"}', "{", '{"page":"/b"}' }))
          local msg = dead:next(20)
          print(msg.payload, msg.metadata._wm_dead_error:match "^bad JSON: ")
          wm.sleep(0.1)
        end
      ]] .. FEED)
      local lines = {}
      for line in result.out:gmatch "[^\n]+" do lines[#lines + 1] = line end
      table.sort(lines)
      assert.same({ "clicks\t2\t/", "{\tbad JSON: " }, lines, result.err)
    end)

    test("kept state begins with its default, and on_unload runs at exit", function()
      local result = run(loop, "", PROGRAM.kept, [[
        local t = wm.spawn(wm.run)
        wm.spawn(function()
          assert(wm.publish("clicks", wm.message{ payload = "", metadata = { page = "/" } }))
          assert(wm.publish("clicks", "x"))
          wm.sleep(0.1)
          print(hits["/"], hits["?"])
          t:cancel()
        end):join()
      ]])
      assert.equal("1\t1\n", result.out, result.err)
      assert.matches("wm info: generation ends generation=1\n$", result.err)
    end)
  end)
end

describe("in a luv program", function()
  local has_luv = support.has "luv"
  local test = has_luv and it or pending

  test("the user's uv.run runs ours, too: a chat in the terminal", function()
    if not os.execute "script --version >/dev/null 2>&1" then pending "script(1) was not found" return end
    local input = support.directory() .. "/" .. support.name "input"
    assert(os.execute("mkfifo " .. input))
    assert(os.execute(("(sleep 0.5; echo hello; sleep 30) >%s & echo $! >%s.pid"):format(input, input)))
    local text = 'local wm = require "wm"\nlocal write = io.write\n'
      .. "io.write = function(line) write('got ' .. line) io.stdout:flush() os.exit(0) end\n" .. PROGRAM.chat
    local path = support.directory() .. "/chat.lua"
    local file = io.open(path, "w")
    file:write(text)
    file:close()
    local command = ("%s timeout 60 script -qec '%s %s' /dev/null <%s"):format(ENDS_BY_EXIT, support.lua(), path, input)
    local pipe = io.popen(command)
    local out = pipe:read "a"
    pipe:close()
    os.execute(("kill $(cat %s.pid)"):format(input))
    assert.matches("got hello", out)
  end)

  test("a call that would wait inside a bare callback raises, and says what to write", function()
    local result = support.run([[
local wm = require "wm"
local uv, pub = require "luv", wm.publisher "memory:chat"
local timer = uv.new_timer()
timer:start(1, 0, function()
  print(pcall(function() pub:publish("chat", "x") end))
  timer:close()
end)
uv.run()
]], { name = "callback.lua" })
    assert.matches("false\t%S*callback.lua:5: publish to 'chat' would wait inside a libuv callback; run it in a task: "
      .. 'wm.spawn%(pub.publish, pub, "chat", …%)\n', result.out)
  end)

  test("uv.run ends when nothing of ours is alive", function()
    local result = support.run [[
      local wm = require "wm"
      local uv, pub = require "luv", wm.publisher "memory:x"
      wm.spawn(function()
        assert(pub:publish("t", "x"))
        local s = wm.subscriber("memory:x", { group = "g" }):subscribe "t"
        s:next():ack()
        print(s:next(0.01))
        wm.sleep(0.01)
        s:close()
        print "done"
      end)
      uv.run()
      print "ended"
    ]]
    assert.equal("nil\tsubscription to 't': nothing within 0.01 s\tTIMEOUT\ndone\nended\n", result.out, result.err)
  end)

  test("coroutines that the loop resumes wait by yielding", function()
    local result = support.run [[
      local wm = require "wm"
      local uv, pub = require "luv", wm.publisher "memory:x"
      local timer = uv.new_timer()
      local co = coroutine.create(function()
        coroutine.yield()
        print(pub:publish("t", "x"), wm.sleep(0.01))
      end)
      coroutine.resume(co)
      timer:start(1, 0, function() coroutine.resume(co) timer:close() end)
      uv.run()
      print(coroutine.status(co))
    ]]
    assert.equal("true\ttrue\ndead\n", result.out, result.err)
  end)

  test("wm.await makes a call of any callback API, also in a handler", function()
    local result = support.run [[
      local wm = require "wm"
      local uv = require "luv"
      wm.configure{ broker = "memory:x" }
      local h
      h = wm.on("t", { group = "g" }, function(msg)
        local code = wm.await(function(done) uv.spawn("true", {}, done) end)
        print(msg.payload, code)
        wm.spawn(h.close, h)
      end)
      wm.spawn(function() wm.publish("t", "x") end)
      print(wm.run())
    ]]
    assert.equal("x\t0\ntrue\n", result.out, result.err)
  end)

  test("the main chunk runs the loop while it waits", function()
    local result = support.run [[
      local uv = require "luv"
      local wm = require "wm"
      local ticks = 0
      local timer = uv.new_timer()
      timer:start(1, 1, function() ticks = ticks + 1 end)
      wm.sleep(0.1)
      print(wm.loop(), ticks > 3)
    ]]
    assert.equal("luv\ttrue\n", result.out, result.err)
  end)
end)

describe("in a cqueues program", function()
  local test = support.has "cqueues" and it or pending

  test("a subscription is read by its descriptor", function()
    local result = support.run([[
      local wm = require "wm"
      local n = 0
      local function handle(payload)
        n = n + 1
        print(payload)
        if n == 3 then os.exit(0) end
      end
      local feeder = wm.publisher "memory:cq"
      feeder:publish("orders", { "1", "2", "3" })
    ]] .. PROGRAM.cqueues, { env = "env " .. ENDS_BY_EXIT })
    assert.equal("1\n2\n3\n", result.out, result.err)
  end)

  test("with wm.loop 'cqueues' its coroutines wait in our calls, and ours in its", function()
    local result = support.run [[
      local wm = require "wm"
      wm.loop "cqueues"
      local cqueues = require "cqueues"
      local pub, ticks = wm.publisher "memory:cq", 0
      local s = wm.subscriber("memory:cq", { group = "g" }):subscribe "t"
      local h = wm.on("h", { broker = "memory:cq", group = "g" }, function(msg)
        cqueues.sleep(0.01)
        wm.sleep(0.01)
        print("handled", msg.payload)
      end)
      wm.spawn(wm.run)
      local cq = cqueues.new()
      cq:wrap(function()
        for i = 1, 3 do
          wm.sleep(0.02)
          assert(pub:publish("t", tostring(i)))
        end
      end)
      cq:wrap(function()
        while ticks < 20 do
          cqueues.sleep(0.005)
          ticks = ticks + 1
        end
      end)
      cq:wrap(function()
        for msg in s do
          msg:ack()
          if msg.payload == "3" then s:close() end
        end
        print("loop ended", ticks > 1)
        assert(pub:publish("h", "x"))
        wm.sleep(0.1)
        print(h:close())
      end)
      assert(cq:loop())
      print(ticks)
    ]]
    assert.equal("loop ended\ttrue\nhandled\tx\ntrue\n20\n", result.out, result.err)
  end)
end)

describe("wm.loop", function()
  it("tells the loop, and can be set until something has waited", function()
    local result = support.run [[
      local wm = require "wm"
      print(wm.loop())
      print(wm.loop "plain")
      wm.sleep(0)
      print(wm.loop "plain")
      print(pcall(wm.loop, "luv"))
      print(pcall(wm.loop, "libev"))
    ]]
    assert.matches("^plain\nplain\nplain\nfalse\t.*wm.loop: this program runs on plain already; choose before the "
      .. 'first call that waits\nfalse\t.*wm.loop: "luv", "plain" or "cqueues" expected, got "libev"\n$', result.out)
  end)

  it("is chosen by what is loaded", function()
    if not support.has "luv" then pending "luv was not found" return end
    assert.equal("luv\n", support.run('require "luv" print(require("wm").loop())').out)
  end)
end)

describe("a plain program", function()
  it("may wait in an iterator of its own", function()
    local result = support.run [[
      local wm = require "wm"
      for i in coroutine.wrap(function()
        for i = 1, 3 do
          wm.sleep(0.001)
          coroutine.yield(i)
        end
      end) do io.write(i, " ") end
    ]]
    assert.equal("1 2 3 ", result.out, result.err)
  end)

  it("ends by Ctrl-C while it waits for a message", function()
    local result = support.run([[
      local wm = require "wm"
      local s = wm.subscriber("memory:x", { group = "g" }):subscribe "t"
      local file = io.open("/proc/self/stat")
      local pid = file:read "n"
      file:close()
      os.execute(("(sleep 0.2; kill -INT %d) &"):format(pid))
      for msg in s do msg:ack() end
    ]])
    assert.is_false(result.ok)
    assert.matches("interrupted!", result.err)
  end)
end)
