-- core_consumer_spec.lua - consumers of wm.core.
local core = require "wm.core"
local fixture = require "lua.core_fixture"

local URL, PATIENCE = fixture.URL, fixture.PATIENCE
local new_topic, finish, publisher = fixture.new_topic, fixture.finish, fixture.publisher
local subscribe, receive, one_message = fixture.subscribe, fixture.receive, fixture.one_message

after_each(fixture.close_all)

describe("a consumer", function()
  it("hands out one at a time", function()
    local topic = new_topic()
    local con = subscribe(topic)
    assert.is_true(publisher():publish_blocking(topic, { "1", "2" }))
    local first = receive(con)
    assert.same({ nil, "TIMEOUT" }, { con:next() })
    assert.is_true(core.done(first))
    assert.equal("2", receive(con).payload)
  end)

  it("takes several at once", function()
    local topic = new_topic()
    local con = subscribe(topic, { group = "g", batch = 100, batch_wait = 1 })
    local list = {}
    for i = 1, 100 do list[i] = tostring(i) end
    assert.is_true(publisher():publish_blocking(topic, list))
    local got = {}
    repeat
      core.poll({ con:fd() }, PATIENCE)
      local batch = con:take(100)
      for _, msg in ipairs(batch or {}) do
        got[#got + 1] = msg.payload
        assert.is_true(core.done(msg))
      end
    until #got == 100
    assert.same(list, got)
    assert.same({ nil, "TIMEOUT" }, { con:take(100) })
    assert.error_matches(function() con:take(0) end, "number of messages")
  end)

  it("has a descriptor that is readable while it has something to say", function()
    local topic = new_topic()
    local con = subscribe(topic)
    assert.same({ nil, "TIMEOUT" }, { con:next() })
    assert.same({}, core.poll({ con:fd() }, 0))
    assert.is_true(publisher():publish_blocking(topic, "x"))
    assert.same({ con:fd() }, core.poll({ con:fd() }, PATIENCE))
    assert.equal("x", con:next().payload)
  end)

  it("waits no longer than told", function()
    local con = subscribe(new_topic())
    assert.same({ nil, "TIMEOUT" }, { con:wait(0) })
    assert.same({ nil, "TIMEOUT" }, { con:wait(0.01) })
    assert.error_matches(function() con:wait "soon" end, "number expected")
    assert.error_matches(function() con:wait(0 / 0) end, "nan")
  end)

  it("pauses and resumes", function()
    local topic = new_topic()
    local con = subscribe(topic)
    con:pause()
    assert.is_true(publisher():publish_blocking(topic, "x"))
    assert.same({ nil, "TIMEOUT" }, { con:wait(0.05) })
    con:resume()
    assert.equal("x", receive(con).payload)
  end)

  it("tells its topic, group and figures", function()
    local topic = new_topic()
    local con = subscribe(topic, { group = "readers" })
    assert.same({ topic, "readers" }, { con.topic, con.group })
    assert.equal("wm.consumer: " .. topic .. ", group readers", tostring(con))
    local stats = con:stats()
    assert.same({ 0, 0, "boolean" }, { stats.acked, stats.in_flight, type(stats.connected) })
    assert.is_nil(con.no_such_field)
  end)

  it("closes gently: what is in hand can be settled meanwhile", function()
    local msg, con = one_message()
    local id = con:close(PATIENCE)
    assert.same({ nil, "CLOSED" }, { con:wait(PATIENCE) })
    assert.equal("hello", msg.payload)
    assert.is_true(msg:ack())
    assert.is_true(finish(id))
    assert.same({ nil, "CLOSED" }, { con:next() })
    assert.same({ nil, "CLOSED" }, { con:take(1) })
    assert.same({ nil, "CLOSED" }, { con:wait(-1) })
    assert.is_true(finish(con:close(PATIENCE)))
    for _, method in ipairs { "flush", "pause", "resume", "fd" } do
      assert.error_matches(function() con[method](con, 1) end, "the subscription is closed")
    end
  end)

  it("gives back what is in hand when its time to close is over", function()
    local topic = new_topic()
    local con = subscribe(topic)
    local pub = publisher()
    assert.is_true(pub:publish_blocking(topic, "hello"))
    local msg = receive(con)
    local ok, err, code = finish(con:close(0))
    assert.is_nil(ok)
    assert.is_string(err)
    assert.equal("TIMEOUT", code)
    assert.is_false(msg:ack())
    assert.is_nil(msg.settled)
    assert.error_matches(function() return msg.payload end, "subscription closed")
    local other = subscribe(topic)
    assert.equal("hello", receive(other).payload)
  end)

  it("that is forgotten gives back what it holds", function()
    local topic = new_topic()
    local pub = publisher()
    local function read_one()
      local con = subscribe(topic)
      fixture.forget(con)
      assert.is_true(pub:publish_blocking(topic, { "1", "2" }))
      assert.is_true(core.done(receive(con)))
      assert.is_true(finish(con:flush(PATIENCE)))
      assert.equal("2", receive(con).payload)
    end
    read_one()
    collectgarbage()
    collectgarbage()
    assert.equal("2", receive(subscribe(topic)).payload)
  end)

  it("is closed at the end of its scope", function()
    local topic = new_topic()
    local con = subscribe(topic)
    fixture.forget(con)
    do local scoped <close> = con assert(scoped) end
    assert.same({ nil, "CLOSED" }, { con:wait(PATIENCE) })
  end)

  it("needs the thing itself, and names what is missing", function()
    for _, method in pairs(core.methods.consumer) do
      assert.error_matches(function() method "x" end, "wm%.consumer expected, got string")
    end
    assert.error_matches(function() core.subscribe(URL) end, "#2 .*string expected")
    assert.error_matches(function() core.subscribe(URL, "x", {}) end, "#4 .*string expected")
    local con, err, code = core.subscribe(URL, "", { group = "g" }, "x.lua:1")
    assert.is_nil(con)
    assert.matches("topic", err)
    assert.equal("BAD_INPUT", code)
  end)
end)
