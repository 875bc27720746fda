-- core_message_spec.lua - messages as wm.core makes and receives them.
local core = require "wm.core"
local fixture = require "lua.core_fixture"

local PATIENCE = fixture.PATIENCE
local new_topic, finish, publisher = fixture.new_topic, fixture.finish, fixture.publisher
local subscribe, receive, one_message = fixture.subscribe, fixture.receive, fixture.one_message

after_each(fixture.close_all)

describe("a message to publish", function()
  it("has what it was made of", function()
    local msg = core.message("hello", { type = "Greeting", lang = "en" }, "uuid-1", "greetings")
    assert.same({ "hello", "uuid-1", "greetings" }, { msg.payload, msg.uuid, msg.topic })
    assert.equal("Greeting", msg.metadata.type)
    assert.same({ nil, 0, nil, nil }, { msg.settled, msg.attempt, msg.time, msg.position })
    assert.is_nil(msg.no_such_field)
  end)

  it("gets a uuid, and an empty payload and metadata", function()
    local msg = core.message ""
    assert.matches("^%x+%-%x+%-4", msg.uuid)
    assert.equal("", msg.payload)
    assert.is_nil(msg.metadata.x)
    assert.is_nil(msg.topic)
    for key in pairs(msg.metadata) do error(key) end
  end)

  it("keeps every byte", function()
    local all = {}
    for byte = 0, 255 do all[#all + 1] = string.char(byte) end
    local bytes = table.concat(all)
    local msg = core.message(bytes, { key = bytes })
    assert.equal(bytes, msg.payload)
    assert.equal(bytes, msg.metadata.key)
  end)

  it("takes another's metadata", function()
    local msg = core.message("x", core.message("y", { a = "1", b = "2" }).metadata)
    assert.same({ "1", "2" }, { msg.metadata.a, msg.metadata.b })
    assert.is_nil(core.message("x", core.message("y").metadata).metadata.a)
  end)

  it("is checked", function()
    local msg, err, code = core.message("x", { _wm_dead_reason = "y" })
    assert.is_nil(msg)
    assert.matches("_wm_dead_reason", err)
    assert.equal("BAD_INPUT", code)
    assert.error_matches(function() core.message() end, "#1 .*string expected")
    assert.error_matches(function() core.message("x", { n = 1 }) end, "metadata 'n': string expected, got number")
    assert.error_matches(function() core.message("x", { "a" }) end, "metadata: keys must be strings, got number")
    assert.error_matches(function() core.message("x", nil, "a\0b") end, "#3 .*zero byte")
  end)

  it("cannot be settled", function()
    local msg = core.message "x"
    for _, settle in ipairs { msg.ack, msg.nack, core.done, core.again, core.fail, core.dead } do
      assert.error_matches(function() settle(msg) end, "only a received message can be settled")
    end
  end)

  it("is known and named", function()
    assert.is_true(core.is_message(core.message "x"))
    for _, value in ipairs { "x", 1, {}, io.stdout, print } do assert.is_false(core.is_message(value)) end
    assert.equal("wm.message: orders/u-1", tostring(core.message("x", nil, "u-1", "orders")))
    assert.equal("wm.message: u-1", tostring(core.message("x", nil, "u-1")))
  end)

  it("has a place for the Lua half", function()
    local msg = core.message "x"
    assert.is_nil(core.memo(msg))
    core.memo(msg, { 1 })
    assert.same({ 1 }, core.memo(msg))
    core.methods.message.twice = function(self) return self.payload .. self.payload end
    assert.equal("xx", msg:twice())
    core.methods.message.twice = nil
  end)
end)

describe("metadata", function()
  local metadata = core.message("x", { a = "1", b = "2" }).metadata

  it("is read-only", function()
    assert.error_matches(function() metadata.a = "3" end, "read%-only")
    assert.error_matches(function() metadata.c = "3" end, "read%-only")
    assert.error_matches(function() core.message("x").metadata.c = "3" end, "read%-only")
    assert.equal("1", metadata.a)
  end)

  it("can be walked through", function()
    local seen = {}
    for key, value in pairs(metadata) do seen[key] = value end
    assert.same({ a = "1", b = "2" }, seen)
  end)
end)

describe("a received message", function()
  it("has what was published", function()
    local msg, con, sent = one_message("hello", { type = "Greeting" })
    assert.same({ "hello", sent.uuid, con.topic, 1, 0 },
      { msg.payload, msg.uuid, msg.topic, msg.attempt, msg.failures })
    assert.equal("Greeting", msg.metadata.type)
    assert.is_nil(msg.settled)
    assert.is_nil(msg.undecodable)
    assert.equal(("wm.message: %s/%s attempt 1"):format(con.topic, sent.uuid), tostring(msg))
    assert.is_true(core.is_message(msg))
  end)

  it("is acked once", function()
    local msg, con = one_message()
    assert.is_true(msg:ack())
    assert.equal("ack", msg.settled)
    assert.is_false(msg:ack())
    assert.is_false(msg:nack())
    assert.is_false(core.done(msg))
    assert.is_true(finish(con:flush(PATIENCE)))
    assert.equal(1, con:stats().acked)
    assert.same({ nil, "TIMEOUT" }, { con:next() })
  end)

  it("comes again after a nack, as another", function()
    local msg, con, sent = one_message("hello", { a = "1" })
    assert.is_true(msg:nack { delay = 0 })
    assert.equal("nack", msg.settled)
    assert.is_false(msg:ack())
    local again = receive(con)
    assert.same({ sent.uuid, "hello", 2 }, { again.uuid, again.payload, again.attempt })
    assert.equal(1, msg.attempt)
    assert.is_true(again:nack())
    assert.is_true(receive(con):ack())
  end)

  it("is refused a delay that is none", function()
    local msg = one_message()
    assert.error_matches(function() msg:nack { dely = 5 } end, "unknown option 'dely'")
    assert.error_matches(function() msg:nack { delay = "5s" } end, "option 'delay': seconds")
    assert.error_matches(function() msg:nack { delay = -1 } end, "option 'delay': seconds")
    assert.error_matches(function() msg:nack(5) end, "table expected")
    assert.error_matches(function() core.again(msg, -1) end, "seconds from now")
    assert.is_true(msg:ack())
  end)

  it("stays readable after an explicit ack or nack, though nobody had read it", function()
    for _, settle in ipairs { "ack", "nack" } do
      local msg, con, sent = one_message("hello", { a = "1" })
      msg[settle](msg)
      assert.same({ "hello", sent.uuid, con.topic }, { msg.payload, msg.uuid, msg.topic })
      assert.equal("1", msg.metadata.a)
    end
  end)

  it("that the router settled cannot be read afterwards, and says so", function()
    local metadata = { a = "1" }
    local msg, _, sent = one_message("hello", metadata)
    assert.is_true(core.done(msg))
    assert.equal(sent.uuid, msg.uuid)
    assert.error_matches(function() return msg.payload end, "payload of message .*not read before .*settled")
    assert.error_matches(function() return msg.metadata end, "metadata of message .*not read before .*settled")
    assert.error_matches(function() publisher():send(new_topic(), msg) end, "not read before")

    local read = one_message("hello", metadata)
    assert.same({ "hello", "1" }, { read.payload, read.metadata.a })
    assert.is_true(core.done(read))
    assert.same({ "hello", "1" }, { read.payload, read.metadata.a })
  end)

  it("can be failed, sent again and given up by the router", function()
    local dead_topic = new_topic()
    local graveyard = subscribe(dead_topic)
    local msg, con = one_message("hello", nil, { group = "g", dead_letter = dead_topic })
    assert.is_true(core.fail(msg, 0, "orders.lua:3: no", "traceback"))
    assert.equal("nack", msg.settled)
    msg = receive(con)
    assert.same({ 2, 1 }, { msg.attempt, msg.failures })
    assert.is_true(core.again(msg, 0))
    msg = receive(con)
    assert.same({ 3, 1 }, { msg.attempt, msg.failures })
    assert.is_true(core.dead(msg, "gives up"))
    assert.equal("ack", msg.settled)
    local dead = receive(graveyard)
    assert.equal("hello", dead.payload)
    assert.equal("gives up", dead.metadata.reason_poisoned)
    assert.is_true(publisher():publish_blocking(new_topic(), dead)) -- reserved keys and all
  end)

  it("without a dead letter topic is not given up", function()
    local msg = one_message()
    assert.is_false(core.dead(msg, "gives up"))
    assert.is_nil(msg.settled)
    assert.equal("hello", msg.payload)
    assert.is_true(msg:ack())
  end)

  it("can be published as it is, before it is settled and after", function()
    local msg, _, sent = one_message("hello", { a = "1" })
    local topic = new_topic()
    local con, pub = subscribe(topic, { group = "g", max_in_flight = 2 }), publisher()
    assert.is_true(pub:publish_blocking(topic, msg))
    msg:ack()
    assert.is_true(pub:publish_blocking(topic, { msg }))
    for _ = 1, 2 do
      local copy = receive(con)
      assert.same({ sent.uuid, "hello", "1" }, { copy.uuid, copy.payload, copy.metadata.a })
    end
  end)

  it("keeps its subscription alive", function()
    local msg, con = one_message()
    fixture.forget(con)
    con = nil -- luacheck: ignore
    collectgarbage()
    collectgarbage()
    assert.equal("hello", msg.payload)
    assert.is_true(msg:ack())
  end)

  it("needs the thing itself", function()
    for _, call in ipairs { core.methods.message.ack, core.done, core.fail, core.memo } do
      assert.error_matches(function() call "x" end, "wm%.message expected, got string")
    end
  end)
end)

describe("collecting garbage", function()
  it("frees messages, whatever became of them", function()
    local topic = new_topic()
    local con = subscribe(topic, { group = "g", max_in_flight = 1000 })
    local pub = publisher()
    for round = 1, 20 do
      local list = {}
      for i = 1, 100 do list[i] = core.message(("x"):rep(round * i), { round = tostring(round) }) end
      assert.is_true(pub:publish_blocking(topic, list))
      for i = 1, 100 do
        local msg = receive(con)
        if i % 2 == 0 then assert(msg.metadata.round) end
        if i % 3 == 0 then msg:ack() else core.done(msg) end
      end
      collectgarbage()
    end
    assert.is_true(finish(con:flush(PATIENCE)))
    assert.equal(2000, con:stats().acked)
  end)
end)
