local support = require "lua.support"
local wm = require "wm"

local error_of = support.error_of

describe("wm.publisher", function()
  it("publishes a string, a number, a message and lists of them, in order", function()
    local url = support.memory()
    local s = wm.subscriber(url, { group = "g", max_in_flight = 10 }):subscribe "t"
    local pub = wm.publisher(url)
    assert.is_true(pub:publish("t", "1"))
    assert.is_true(pub:publish("t", 2))
    assert.is_true(pub:publish("t", wm.message{ payload = "3" }))
    assert.is_true(pub:publish("t", { "4", 5, wm.message{ payload = "6" } }))
    assert.is_true(pub:publish("t", {}))
    for i = 1, 6 do assert.equal(tostring(i), s:next(10).payload) end
    s:close(0)
    assert.is_true(pub:close())
  end)

  it("publishes to the topics of the messages when it gets none", function()
    local url = support.memory()
    local sub, pub = wm.subscriber(url, { group = "g" }), wm.publisher(url)
    local a, b = sub:subscribe "a", sub:subscribe "b"
    assert(pub:publish(nil, { wm.message{ payload = "1", topic = "a" }, wm.message{ payload = "2", topic = "b" } }))
    assert.equal("1", a:next(10).payload)
    assert.equal("2", b:next(10).payload)
    assert.matches("topic is missing.*element 2 has none",
      error_of(pub.publish, pub, nil, { wm.message{ payload = "1", topic = "a" }, "x" }))
    sub:close(0)
    pub:close()
  end)

  it("raises on misuse, with the script's place", function()
    local pub = wm.publisher(support.memory())
    assert.matches("publisher_spec.lua:%d+: publish to 't': string, message or list .* got a table; write wm.message",
      error_of(function() pub:publish("t", { a = 1 }) end))
    assert.matches("publish to 't': string or message expected, element 2 is a boolean",
      error_of(function() pub:publish("t", { "x", true }) end))
    assert.matches("topic: a string expected", error_of(function() pub:publish(1, "x") end))
    assert.matches("with a colon", error_of(function() pub.publish("t", "x") end))
    assert.is_true(pub:close())
    assert.is_true(pub:close())
    assert.matches("publish to 't': the publisher of memory:%S+ is closed",
      error_of(function() pub:publish("t", "x") end))
    assert.matches("closed", tostring(pub))
  end)

  it("refuses an unknown URL, option or type at once", function()
    assert.matches("publisher_spec.lua:%d+: wm.publisher \"memory:x\": unknown option 'timout'; did you mean 'timeout'",
      error_of(function() wm.publisher("memory:x", { timout = 1 }) end))
    assert.matches('timeout: seconds as a number expected, got "30s"; write 30',
      error_of(function() wm.publisher("memory:x", { timeout = "30s" }) end))
    assert.matches("'nosuch' is no broker's URL scheme", error_of(function() wm.publisher "nosuch://x" end))
    assert.matches("this build has no Kafka support", error_of(function() wm.publisher "kafka://x" end))
    local text = error_of(function() wm.publisher("redis://u:secret@h", { x = 1 }) end)
    assert.matches("%*%*%*", text)
    assert.not_matches("secret", text)
  end)

  it("waits in a task while others run", function()
    local url = support.memory()
    local pub = wm.publisher(url)
    local done = 0
    local tasks = {}
    for i = 1, 50 do
      tasks[i] = wm.spawn(function()
        assert(pub:publish("t", tostring(i)))
        done = done + 1
      end)
    end
    for _, t in ipairs(tasks) do assert(select("#", t:join()) == 0) end
    assert.equal(50, done)
    assert.equal(50, pub:stats().stored)
    pub:close()
  end)

  it("waits when more than queue_bytes are queued, and loses nothing", function()
    local path = support.directory() .. "/" .. support.name "room" .. ".db"
    local pub = wm.publisher("sqlite:" .. path, { queue_bytes = 4096 })
    local payload = ("x"):rep(1000)
    local tasks = {}
    for i = 1, 200 do tasks[i] = wm.spawn(function() return pub:publish("t", payload) end) end
    for _, t in ipairs(tasks) do assert.is_true(t:join()) end
    assert.equal(200, pub:stats().stored)
    pub:close()
  end)

  it("returns nil, err, code, results when the broker refuses", function()
    local result = support.run([[
      local wm = require "wm"
      local pub = wm.publisher("sqlite:/nowhere/at/all.db", { timeout = 0.2 })
      local function try() return pub:publish("t", { "a", "b" }) end
      for _, call in ipairs{ try, function() return wm.spawn(try):join() end } do
        local ok, err, code, results = call()
        print(ok, code, results and table.concat(results, ","), err:find("/nowhere/at/all.db", 1, true) ~= nil)
      end
    ]])
    assert.is_true(result.ok, result.err)
    local first, second = result.out:match "^([^\n]+)\n([^\n]+)\n$"
    assert.equal(first, second)
    assert.matches("^nil\t%u[%u_]+\t[%u_]+,[%u_]+\ttrue$", first)
  end)

  it("sends what is queued before it closes, also at the end of its scope", function()
    local url = support.memory()
    local s = wm.subscriber(url, { group = "g" }):subscribe "t"
    do
      local pub <close> = wm.publisher(url)
      wm.spawn(pub.publish, pub, "t", "x")
    end
    assert.equal("x", s:next(10).payload)
    s:close(0)
  end)

  it("knows the default broker: WM_BROKER, then wm.configure, then a file", function()
    local program = [[
      local wm = require "wm"
      if arg[1] then wm.configure{ broker = arg[1] } end
      print(wm.publisher().url)
      assert(wm.publish("t", "x"))
    ]]
    assert.equal("memory:env\n", support.run(program, { env = "WM_BROKER=memory:env", args = "memory:conf" }).out)
    assert.equal("memory:conf\n", support.run(program, { env = "env -u WM_BROKER", args = "memory:conf" }).out)
    assert.equal("sqlite:wmlua.db\n", support.run(program, { env = "env -u WM_BROKER" }).out)
  end)

  it("refuses request and tx by name", function()
    local pub = wm.publisher(support.memory())
    assert.matches("pub:request: wmlua %S+ does not have it yet", error_of(function() pub:request("t", "x") end))
    assert.matches("pub:tx: wmlua %S+ does not have it yet", error_of(function() pub:tx(print) end))
    assert.matches("wm.request: wmlua", error_of(function() wm.request("t", "x") end))
    pub:close()
  end)
end)
