local support = require "lua.support"
local wm = require "wm"

local error_of = support.error_of

describe("a subscription", function()
  local url, pub, sub

  before_each(function()
    url = support.memory()
    pub, sub = wm.publisher(url), wm.subscriber(url, { group = "g" })
  end)

  after_each(function()
    sub:close(0)
    pub:close()
  end)

  local function fill(topic, n)
    sub:subscribe(topic):close()
    local list = {}
    for i = 1, n do list[i] = tostring(i) end
    assert(pub:publish(topic, list))
  end

  it("hands out one at a time, in order, by for", function()
    fill("t", 5)
    local got = {}
    for msg in sub:subscribe "t" do
      got[#got + 1] = msg.payload
      msg:ack()
      if #got == 5 then break end
    end
    assert.same({ "1", "2", "3", "4", "5" }, got)
  end)

  it("is closed by break, and gives back what the loop had in hand", function()
    fill("t", 3)
    local s = sub:subscribe "t"
    local got
    for msg in s, nil, nil, s do
      got = msg.payload
      if got then break end
    end
    assert.equal("1", got)
    assert.is_true(s.closed)
    assert.equal("1", sub:subscribe("t"):next(10).payload)
  end)

  it("is closed by an error in the loop", function()
    fill("t", 1)
    assert.matches("boo", error_of(function()
      for msg in sub:subscribe "t" do error("boo " .. msg.payload) end
    end))
    assert.equal("1", sub:subscribe("t"):next(10).payload)
  end)

  it("ends its loop when it is closed elsewhere", function()
    local s = sub:subscribe "t"
    local t = wm.spawn(function()
      for msg in s do msg:ack() end
      return "ended"
    end)
    assert.is_true(s:close())
    assert.equal("ended", t:join(10))
    assert.is_nil(s:next())
    assert.is_true(s:close())
  end)

  it("says TIMEOUT when there is nothing, at once with 0", function()
    local s = sub:subscribe "t"
    local msg, err, code = s:next(0)
    assert.same({ nil, "TIMEOUT" }, { msg, code })
    assert.matches("subscription to 't': nothing within 0 s", err)
    assert.equal("TIMEOUT", select(3, s:next(0.01)))
    assert.equal("TIMEOUT", select(3, wm.spawn(function() return s:next(0.01) end):join()))
    assert.matches("seconds as a number expected", error_of(function() s:next(-1) end))
  end)

  it("gives a nacked message again, with its attempt", function()
    fill("t", 1)
    local s = sub:subscribe "t"
    for attempt = 1, 3 do
      local msg = s:next(10)
      assert.equal(attempt, msg.attempt)
      if attempt < 3 then msg:nack{ delay = 0 } else msg:ack() end
    end
  end)

  it("hands out lists with batch", function()
    fill("t", 7)
    local s = sub:subscribe("t", { batch = 3, batch_wait = 0.05 })
    local sizes, payloads = {}, {}
    while #payloads < 7 do
      local msgs = s:next(10)
      sizes[#sizes + 1] = #msgs
      for _, msg in ipairs(msgs) do
        payloads[#payloads + 1] = msg.payload
        msg:ack()
      end
    end
    assert.same({ "1", "2", "3", "4", "5", "6", "7" }, payloads)
    for _, size in ipairs(sizes) do assert.is_true(size <= 3) end
  end)

  it("is shared by tasks that wait in it", function()
    local s = sub:subscribe("t", { max_in_flight = 4 })
    local got, tasks = {}, {}
    for i = 1, 4 do
      tasks[i] = wm.spawn(function()
        local msg = s:next()
        got[#got + 1] = msg.payload
        msg:ack()
      end)
    end
    assert(pub:publish("t", { "a", "b", "c", "d" }))
    for _, t in ipairs(tasks) do t:join(20) end
    table.sort(got)
    assert.same({ "a", "b", "c", "d" }, got)
  end)

  it("takes its acks to the broker with flush", function()
    fill("t", 2)
    local s = sub:subscribe("t", { max_in_flight = 2 })
    s:next(10):ack()
    assert.is_true(s:flush())
    assert.is_true(s:flush(10))
    assert.equal(1, s:stats().acked)
  end)

  it("hands out nothing while it is paused", function()
    fill("t", 1)
    local s = sub:subscribe "t"
    s:pause()
    assert.equal("TIMEOUT", select(3, s:next(0.05)))
    s:resume()
    assert.equal("1", s:next(10).payload)
  end)

  it("has a descriptor that is readable when next(0) has something", function()
    local core = require "wm.core"
    local s = sub:subscribe "t"
    s:next(0)
    assert.same({}, core.poll({ s:fd() }, 0))
    assert(pub:publish("t", "x"))
    assert.same({ s:fd() }, core.poll({ s:fd() }, 20))
    assert.equal("x", s:next(0).payload)
  end)

  it("tells its topic and group", function()
    local s = sub:subscribe "t"
    assert.same({ "t", "g", false }, { s.topic, s.group, s.closed })
    assert.matches("wm.subscription: t, group g", tostring(s))
    assert.is_false(wm.subscriber(url):subscribe("t").group)
  end)

  it("lets the others have their turn while there is always something", function()
    local s = sub:subscribe "endless"
    assert(pub:publish("endless", "x"))
    local ticks, handled = 0, 0
    local reader = wm.spawn(function()
      for msg in s do
        handled = handled + 1
        msg:nack{ delay = 0 }
        if ticks >= 3 then break end
      end
    end)
    local ticker = wm.spawn(function()
      for _ = 1, 3 do
        wm.sleep(0.001)
        ticks = ticks + 1
      end
    end)
    ticker:join(30)
    reader:join(30)
    assert.equal(3, ticks)
    assert.is_true(handled > 1)
  end)

  it("raises what is wrong with its options, with the script's place", function()
    assert.matches("sub:subscribe \"t\": unknown option 'batchwait'; did you mean 'batch_wait'",
      error_of(function() sub:subscribe("t", { batchwait = 1 }) end))
    assert.matches("subscriber_spec.lua:%d+: wm.subscriber \"memory:x\": group: a name or false expected, got 7",
      error_of(function() wm.subscriber("memory:x", { group = 7 }) end))
    assert.matches('on_undecodable: one of "raw", "dead_letter", "skip" expected, got "drop"',
      error_of(function() wm.subscriber("memory:x", { on_undecodable = "drop" }) end))
    assert.matches("max_in_flight", error_of(function() wm.subscriber("memory:x", { max_in_flight = 0 }) end))
    assert.matches("option 'tx': wmlua %S+ does not have it yet",
      error_of(function() wm.subscriber("memory:x", { tx = true }) end))
    assert.matches("topic: a string without zero bytes expected, got nil", error_of(function() sub:subscribe(nil) end))
    sub:close()
    assert.matches("the subscriber is closed", error_of(function() sub:subscribe "t" end))
  end)

  it("raises when the broker cannot be reached within connect_timeout", function()
    local far = wm.subscriber("redis://127.0.0.1:1/?connect_timeout=250ms", { group = "g" })
    local text = error_of(function() far:subscribe "t" end)
    assert.matches("subscriber_spec.lua:%d+: sub:subscribe \"t\": .*0.25 s", text)
  end)
end)
