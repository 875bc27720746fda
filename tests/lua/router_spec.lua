local support = require "lua.support"
local wm = require "wm"

local error_of, eventually = support.error_of, support.eventually

describe("a handler", function()
  local url, r, pub, run, collector

  before_each(function()
    url = support.memory()
    r = wm.router{ broker = url, group = "g", dead_letter = "dead", retry = { 0.001, 0.001 } }
    pub = wm.publisher(url)
    collector = wm.subscriber(url, { group = "collect" })
  end)

  after_each(function()
    collector:close()
    r:close(0)
    if run then run:join() end
    run = nil
    pub:close()
  end)

  local function start() run = wm.spawn(r.run, r) end

  -- A handler on topic t that notes what it gets; `fn` says what it returns.
  local function on(opts, fn)
    local seen = {}
    local h = r:on("t", opts, function(msg)
      seen[#seen + 1] = msg.payload .. ":" .. msg.attempt
      return fn(msg)
    end)
    start()
    return seen, h
  end

  -- The messages that come to a topic from now on.
  local function collect(topic)
    local list = {}
    local s = collector:subscribe(topic)
    wm.spawn(function()
      for msg in s do
        list[#list + 1] = { payload = msg.payload, metadata = msg.metadata, uuid = msg.uuid }
        msg:ack()
      end
    end)
    return list
  end

  local function settled(h, n)
    eventually(function()
      local stats = h:stats()
      return stats.acked + stats.dead >= n and stats.in_flight == 0
    end)
  end

  it("acks when it returns nothing, nil or true", function()
    local seen, h = on({}, function(msg)
      if msg.payload == "1" then return end
      if msg.payload == "2" then return nil end
      return true
    end)
    assert(pub:publish("t", { "1", "2", "3" }))
    settled(h, 3)
    assert.same({ "1:1", "2:1", "3:1" }, seen)
    assert.equal(3, h:stats().handled)
  end)

  it("handles in the order of the topic, one at a time, also when it waits", function()
    local at_once, most = 0, 0
    local seen, h = on({}, function()
      at_once = at_once + 1
      most = math.max(most, at_once)
      wm.sleep(0.001)
      at_once = at_once - 1
    end)
    assert(pub:publish("t", { "1", "2", "3", "4" }))
    settled(h, 4)
    assert.same({ "1:1", "2:1", "3:1", "4:1" }, seen)
    assert.equal(1, most)
  end)

  it("handles max_in_flight at a time", function()
    local at_once, most = 0, 0
    local _, h = on({ max_in_flight = 8 }, function()
      at_once = at_once + 1
      most = math.max(most, at_once)
      wm.sleep(0.02)
      at_once = at_once - 1
    end)
    local list = {}
    for i = 1, 40 do list[i] = tostring(i) end
    assert(pub:publish("t", list))
    settled(h, 40)
    assert.equal(8, most)
  end)

  it("keeps the order of each key with order_by", function()
    local order = {}
    local _, h = on({ max_in_flight = 8, order_by = "key" }, function(msg)
      wm.sleep(0.002 * math.random())
      order[msg.metadata.key] = (order[msg.metadata.key] or "") .. msg.payload
    end)
    for i = 1, 5 do
      for _, key in ipairs{ "a", "b", "c" } do
        assert(pub:publish("t", wm.message{ payload = tostring(i), metadata = { key = key } }))
      end
    end
    settled(h, 15)
    assert.same({ a = "12345", b = "12345", c = "12345" }, order)
  end)

  it("is retried when it returns nil and an error, or false, then goes to the dead letter topic", function()
    local dead = collect "dead"
    local seen, h = on({}, function(msg)
      if msg.payload == "err" then return nil, "no luck" end
      return false
    end)
    assert(pub:publish("t", { "err", "false" }))
    eventually(function() return #dead == 2 end)
    assert.same({ "err:1", "err:2", "err:3", "false:1", "false:2", "false:3" }, seen)
    assert.same({ "no luck", "3" }, { dead[1].metadata._wm_dead_error, dead[1].metadata._wm_dead_attempts })
    assert.equal("the handler returned false", dead[2].metadata._wm_dead_error)
    eventually(function() return h:stats().failed == 6 end)
  end)

  it("is retried when it raises, and buried with the traceback", function()
    local dead = collect "dead"
    local seen = on({}, function() error "boo" end)
    assert(pub:publish("t", "x"))
    eventually(function() return #dead == 1 end)
    assert.same({ "x:1", "x:2", "x:3" }, seen)
    assert.matches("router_spec.lua:%d+: boo$", dead[1].metadata._wm_dead_error)
    assert.matches("stack traceback:.*router_spec.lua:%d+:", dead[1].metadata._wm_dead_traceback)
    assert.not_matches("scripts/wm", dead[1].metadata._wm_dead_traceback)
  end)

  it("raises objects, too", function()
    local dead = collect "dead"
    on({ retry = false }, function() error(setmetatable({}, { __tostring = function() return "an object" end })) end)
    assert(pub:publish("t", "x"))
    eventually(function() return #dead == 1 end)
    assert.equal("an object", dead[1].metadata._wm_dead_error)
  end)

  it("succeeds after failures", function()
    local dead = collect "dead"
    local seen, h = on({}, function(msg)
      if msg.attempt < 3 then error "not yet" end
    end)
    assert(pub:publish("t", { "a", "b" }))
    settled(h, 2)
    assert.same({ "a:1", "a:2", "a:3", "b:1", "b:2", "b:3" }, seen)
    assert.same({}, dead)
  end)

  it("retries for ever without a dead letter topic", function()
    local seen, h = on({ dead_letter = false }, function(msg)
      if msg.attempt < 20 then return nil, "boo" end
    end)
    assert(pub:publish("t", "x"))
    settled(h, 1)
    assert.equal(20, #seen)
  end)

  it("says what becomes of it by wm.retry, drop and dead, returned or raised from any depth", function()
    local dead = collect "dead"
    local seen, h = on({}, function(msg)
      local p = msg.payload
      if p == "retry" and msg.attempt < 6 then return wm.retry(0) end
      if p == "retry later" and msg.attempt < 2 then return wm.retry() end
      if p == "drop" then return wm.drop "unwanted" end
      if p == "dead" then (function() (function() error(wm.dead "hopeless") end)() end)() end
    end)
    assert(pub:publish("t", { "retry", "retry later", "drop", "dead" }))
    settled(h, 4)
    assert.same({ "retry:1", "retry:2", "retry:3", "retry:4", "retry:5", "retry:6", "retry later:1", "retry later:2",
      "drop:1", "dead:1" }, seen)
    eventually(function() return #dead == 1 end)
    assert.same({ "dead", "hopeless" }, { dead[1].payload, dead[1].metadata._wm_dead_error })
    local stats = h:stats()
    assert.same({ 0, 1, 1 }, { stats.failed, stats.dropped, stats.buried })
  end)

  it("cannot bury without a dead letter topic: wm.dead raises there", function()
    local text
    local _, h = on({ dead_letter = false }, function()
      text = error_of(function() return wm.dead "x" end)
    end)
    assert(pub:publish("t", "x"))
    settled(h, 1)
    assert.matches("wm.dead: handler 't' has dead_letter = false; name a topic there", text)
  end)

  it("publishes what it returns to publish_to, then acks", function()
    local out = collect "out"
    local other = collect "other"
    local _, h = on({ publish_to = "out" }, function(msg)
      if msg.payload == "string" then return "a string" end
      if msg.payload == "message" then return wm.message{ json = { 1 }, metadata = { k = "v" } } end
      if msg.payload == "list" then return { "1", wm.message{ payload = "2", topic = "other" }, "3" } end
      if msg.payload == "as it is" then return msg end
    end)
    assert(pub:publish("t", { "string", "message", "list", wm.message{ payload = "as it is", uuid = "u" }, "nothing" }))
    settled(h, 5)
    eventually(function() return #out == 5 and #other == 1 end)
    local payloads = {}
    for i, msg in ipairs(out) do payloads[i] = msg.payload end
    assert.same({ "a string", "[1]", "1", "3", "as it is" }, payloads)
    assert.equal("v", out[2].metadata.k)
    assert.equal("u", out[5].uuid)
    assert.equal("2", other[1].payload)
  end)

  it("publishes with the publisher that it is given", function()
    local other_url = support.memory()
    local s = wm.subscriber(other_url, { group = "g" }):subscribe "out"
    local other = wm.publisher(other_url)
    on({ publisher = other, publish_to = "out" }, function(msg) return msg.payload end)
    assert(pub:publish("t", "x"))
    assert.equal("x", s:next(20).payload)
    s:close(0)
    other:close()
  end)

  it("fails when it returns a string with nowhere to go, and says what may be returned", function()
    local dead = collect "dead"
    on({ retry = false }, function(msg)
      if msg.payload == "string" then return "x" end
      if msg.payload == "message" then return wm.message{ payload = "x" } end
      return msg
    end)
    assert(pub:publish("t", { "string", "message", "itself" }))
    eventually(function() return #dead == 3 end)
    assert.equal("returned a string, but has no publish_to; name a topic there, or return nothing, true, "
      .. "wm.retry/drop/dead(…), or nil and an error", dead[1].metadata._wm_dead_error)
    assert.matches("returned a message without a topic, but has no publish_to", dead[2].metadata._wm_dead_error)
    assert.matches("returned a message without a topic", dead[3].metadata._wm_dead_error)
  end)

  it("fails when it returns with publish_to what cannot be published", function()
    local dead = collect "dead"
    on({ retry = false, publish_to = "out" }, function() return { a = 1 } end)
    assert(pub:publish("t", "x"))
    eventually(function() return #dead == 1 end)
    assert.matches("returned a table, which cannot be published to 'out'", dead[1].metadata._wm_dead_error)
  end)

  it("acks any other value", function()
    local seen, h = on({}, function() return 5 end)
    assert(pub:publish("t", { "1", "2" }))
    settled(h, 2)
    assert.same({ "1:1", "2:1" }, seen)
  end)

  it("may settle by itself, which is final", function()
    local out = collect "out"
    local seen, h = on({ publish_to = "out" }, function(msg)
      if msg.payload == "ack" then
        assert(msg:ack())
        error "only logged"
      end
      if msg.payload == "nack" and msg.attempt == 1 then msg:nack{ delay = 0 } end
      return msg.payload .. msg.attempt
    end)
    assert(pub:publish("t", { "ack", "nack" }))
    settled(h, 2)
    assert.same({ "ack:1", "nack:1", "nack:2" }, seen)
    eventually(function() return #out == 2 end)
    assert.same({ "nack1", "nack2" }, { out[1].payload, out[2].payload })
  end)

  it("cannot read, after it was settled, what was never read", function()
    local kept = {}
    local h = r:on("t", {}, function(msg)
      kept[#kept + 1] = msg
      if #kept == 2 then return nil, msg.payload end
    end)
    start()
    assert(pub:publish("t", { "1", "2" }))
    settled(h, 2)
    assert.matches("it was not read before the message was settled", error_of(function() return kept[1].payload end))
    assert.equal("2", kept[2].payload)
    assert.equal(36, #kept[1].uuid)
  end)

  it("gets lists with batch, and settles each message of them", function()
    local dead = collect "dead"
    local sizes, got = {}, {}
    local h = r:on("t", { batch = 4, batch_wait = 0.05 }, function(msgs)
      sizes[#sizes + 1] = #msgs
      for _, msg in ipairs(msgs) do
        got[#got + 1] = msg.payload .. msg.attempt
        if msg.payload == "bad" then assert(msg:settle(wm.dead "bad one")) end
      end
      if #sizes == 1 then return nil, "all the others again" end
    end)
    start()
    assert(pub:publish("t", { "1", "bad", "3" }))
    settled(h, 3)
    assert.same({ 3, 2 }, sizes)
    assert.same({ "11", "bad1", "31", "12", "32" }, got)
    eventually(function() return #dead == 1 end)
    assert.equal("bad one", dead[1].metadata._wm_dead_error)
  end)

  it("with batch is told that a list has no payload", function()
    local dead = collect "dead"
    r:on("t", { batch = 4, retry = false }, function(msgs) return msgs.payload end)
    start()
    assert(pub:publish("t", "1"))
    eventually(function() return #dead == 1 end)
    assert.matches("a handler with batch = n gets a list of messages, which has no 'payload'",
      dead[1].metadata._wm_dead_error)
  end)

  it("publishes for a whole batch, then acks all", function()
    local out = collect "out"
    local h = r:on("t", { batch = 10, batch_wait = 0.05, publish_to = "out" }, function(msgs)
      local list = {}
      for i, msg in ipairs(msgs) do list[i] = msg.payload:upper() end
      return list
    end)
    start()
    assert(pub:publish("t", { "a", "b" }))
    settled(h, 2)
    eventually(function() return #out == 2 end)
    assert.same({ "A", "B" }, { out[1].payload, out[2].payload })
  end)

  it("fails when it exceeds its timeout, waiting in a call of ours", function()
    local dead = collect "dead"
    local ended
    local seen = on({ timeout = 0.02, retry = { 0.001 } }, function()
      local guard <close> = setmetatable({}, { __close = function() ended = true end })
      wm.sleep(60)
      return guard
    end)
    assert(pub:publish("t", "x"))
    eventually(function() return #dead == 1 end)
    assert.same({ "x:1", "x:2" }, seen)
    assert.is_true(ended)
    assert.matches("timed out: not done within 0.02 s", dead[1].metadata._wm_dead_error)
  end)

  it("fails when it exceeds its timeout in foreign code; a late resume meets a dead coroutine", function()
    local dead = collect "dead"
    local cos = {}
    on({ timeout = 0.02, retry = false }, function()
      cos[#cos + 1] = coroutine.running()
      coroutine.yield()
    end)
    assert(pub:publish("t", { "1", "2" }))
    eventually(function() return #dead == 2 end)
    assert.not_equal(cos[1], cos[2])
    assert.equal("dead", coroutine.status(cos[1]))
    assert.is_false(coroutine.resume(cos[1]))
  end)

  it("that has yielded to foreign code finishes there, and its coroutine is not used again", function()
    local cos, handled = {}, {}
    local _, h = on({ max_in_flight = 2 }, function(msg)
      cos[#cos + 1] = coroutine.running()
      if msg.payload == "1" then coroutine.yield() end
      handled[#handled + 1] = msg.payload
    end)
    assert(pub:publish("t", "1"))
    eventually(function() return #cos == 1 end)
    assert(pub:publish("t", { "2", "3" }))
    eventually(function() return #handled == 2 end)
    coroutine.resume(cos[1])
    settled(h, 3)
    assert.same({ "2", "3", "1" }, handled)
    assert.equal("dead", coroutine.status(cos[1]))
    assert(pub:publish("t", "4"))
    settled(h, 4)
    assert.not_equal(cos[1], cos[#cos])
  end)

  it("pauses the whole subscription by a rule", function()
    local seen, h = on({ retry = { initial_interval = 0.001, rules = { { match = "limited", pause = 0.05 } } },
      ordered = false }, function(msg)
      if msg.payload == "1" and msg.attempt == 1 then return nil, "rate limited" end
    end)
    local start_time = wm.now()
    assert(pub:publish("t", { "1", "2" }))
    settled(h, 2)
    assert.equal(3, #seen)
    assert.equal("1:1", seen[1])
    assert.is_true(wm.now() - start_time >= 0.045)
  end)

  it("hands out nothing while it is paused", function()
    local seen, h = on({}, function() end)
    h:pause()
    assert(pub:publish("t", "1"))
    wm.sleep(0.03)
    assert.same({}, seen)
    h:resume()
    settled(h, 1)
  end)

  it("can publish and sleep, and be joined by nobody", function()
    local out = collect "out"
    local _, h = on({ max_in_flight = 4 }, function(msg)
      assert(pub:publish("out", msg.payload))
      local t = wm.spawn(function() wm.sleep(0.001) return "joined" end)
      assert(t:join() == "joined")
    end)
    assert(pub:publish("t", { "1", "2", "3", "4", "5", "6" }))
    settled(h, 6)
    eventually(function() return #out == 6 end)
  end)

  it("lets the loop have its turn while there is always something", function()
    local ticks = 0
    local _, h = on({}, function(msg)
      if ticks < 2 then return wm.retry(0) end
      return msg and nil
    end)
    local ticker = wm.every(0.001, function() ticks = ticks + 1 end)
    assert(pub:publish("t", "endless"))
    settled(h, 1)
    ticker:close()
    assert.is_true(ticks >= 2)
  end)

  it("finishes what it has in hand when it is closed", function()
    local finished
    local _, h = on({}, function()
      wm.sleep(0.03)
      finished = true
    end)
    assert(pub:publish("t", "1"))
    eventually(function() return h:stats().at_work == 1 end)
    assert.is_true(h:close())
    assert.is_true(finished)
    assert.is_true(h:close())
    assert.is_true(run:join(10))
  end)

  it("tells who it is", function()
    local _, h = on({ name = "mine" }, print)
    assert.equal("mine", h.name)
    assert.equal("wm.handler: mine, topic t, group g", tostring(h))
  end)
end)

describe("a router", function()
  it("refuses two handlers of one name, naming both places", function()
    local r = wm.router{ group = "g", broker = support.memory() }
    r:on("t", {}, print)
    assert.matches("router_spec.lua:%d+: router.on \"t\": the name 't' is taken by the handler at %S+_spec.lua:%d+",
      error_of(function() r:on("t", {}, print) end))
    r:on("t", { name = "other" }, print)
  end)

  it("wants a topic, options and a function, in this order", function()
    local r = wm.router{ group = "g", broker = support.memory() }
    assert.matches("router.on: topic: a string without zero bytes expected, got nil",
      error_of(function() r:on(nil, {}, print) end))
    assert.matches("the handler's function expected after its options, got nil", error_of(function() r:on("t", {}) end))
    assert.matches("options: a table expected, got function", error_of(function() r:on("t", print, {}) end))
    assert.matches("topic: a string without zero bytes expected", error_of(function() r:on("a\0b", {}, print) end))
    r:on("t", {}, setmetatable({}, { __call = function() end }))
  end)

  it("puts middleware around handlers, the first outermost, the router's outside the handler's", function()
    local url = support.memory()
    local r = wm.router{ group = "g", broker = url, retry = false, dead_letter = "dead" }
    local trail = {}
    local function note(name)
      return function(msg, next)
        trail[#trail + 1] = name
        local value, err = next(msg)
        trail[#trail + 1] = name .. " " .. tostring(err)
        return value
      end
    end
    r:use(note "a", note "b")
    local h = r:on("t", { middleware = { note "c" } }, function() return nil, "boo" end)
    local run = wm.spawn(r.run, r)
    local pub = wm.publisher(url)
    assert(pub:publish("t", "x"))
    eventually(function() return h:stats().acked == 1 end)
    assert.same({ "a", "b", "c", "c boo", "b nil", "a nil" }, trail)
    r:close()
    run:join()
    pub:close()
  end)

  it("refuses middleware that comes later, or is an option here, by name", function()
    assert.matches("wm.middleware.throttle: wmlua %S+ does not have it yet",
      error_of(function() wm.middleware.throttle{ 1 } end))
    assert.matches("wm.middleware.retry: there is none; what does that is the option retry",
      error_of(function() wm.middleware.retry() end))
    assert.matches("there is no 'throtle'; did you mean 'throttle'", error_of(function() wm.middleware.throtle() end))
    for _, name in ipairs{ "cron", "cqrs", "forwarder", "requeuer", "fan_in", "fan_out" } do
      assert.matches(("wm.%s: wmlua %%S+ does not have it yet"):format(name), error_of(function() wm[name]{} end))
    end
    assert.matches("wm.test", error_of(require, "wm.test"))
  end)

  it("shares a topic among a group, and gives every fan-out handler a copy", function()
    local url = support.memory()
    local r = wm.router{ broker = url }
    local shared, copies = 0, 0
    for i = 1, 2 do
      r:on("t", { group = "g", name = "g" .. i }, function() shared = shared + 1 end)
      r:on("t", { group = false, name = "f" .. i }, function() copies = copies + 1 end)
    end
    local run = wm.spawn(r.run, r)
    local pub = wm.publisher(url)
    wm.sleep(0.05)
    for i = 1, 10 do assert(pub:publish("t", tostring(i))) end
    eventually(function() return shared == 10 and copies == 20 end)
    r:close()
    run:join()
    pub:close()
  end)

  it("ends its run, with the reason, when a handler can never work", function()
    local result = support.run([[
      local wm = require "wm"
      local path = os.tmpname()
      local file = io.open(path, "w")
      file:write "this is no database"
      file:close()
      wm.on("t", { group = "g", broker = "sqlite:" .. path }, print)
      print(wm.run())
      os.remove(path)
    ]], { name = "never.lua" })
    assert.matches("^nil\t.* is no SQLite database; .*\t%u+\n$", result.out)
    assert.matches('wm error: %S*never.lua:6: wm.on "t": .* is no SQLite database', result.err)
  end)

  it("says in the log what failed, where, and when it comes again", function()
    local result = support.run([[
local wm = require "wm"
wm.configure{ broker = "memory:x", group = "g", retry = { 0.001 } }
local h
h = wm.on("payments", {}, function(msg)
  wm.log.info("trying", { n = 1 })
  if msg.attempt == 1 then error "boo" end
  wm.spawn(h.close, h)
  return "a string"
end)
wm.spawn(function() wm.publish("payments", wm.message{ payload = "x", uuid = "U" }) end)
print(wm.run())
]], { name = "pay.lua" })
    assert.matches("wm info: trying handler=payments n=1 uuid=U\n", result.err)
    assert.matches("wm warn: %S*pay.lua:4: handler 'payments': %S*pay.lua:6: boo. Message U, attempt 1, "
      .. "again in 0.001 s\nstack traceback:", result.err)
    assert.matches("wm error: %S*pay.lua:4: handler 'payments' returned a string, but has no publish_to; .* Message U, "
      .. "attempt 2, to 'dead_letter'\n", result.err)
    assert.equal("true\n", result.out)
  end)
end)
