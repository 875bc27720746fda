-- core_publisher_spec.lua - publishers of wm.core.
local core = require "wm.core"
local fixture = require "lua.core_fixture"

local URL, PATIENCE = fixture.URL, fixture.PATIENCE
local new_topic, finish, publisher = fixture.new_topic, fixture.finish, fixture.publisher
local subscribe, receive = fixture.subscribe, fixture.receive

after_each(fixture.close_all)

describe("publishing", function()
  it("that blocks returns true when the broker has it", function()
    local topic = new_topic()
    local con, pub = subscribe(topic, { group = "g", max_in_flight = 10 }), publisher()
    assert.is_true(pub:publish_blocking(topic, "one"))
    assert.is_true(pub:publish_blocking(topic, { core.message("two", { n = "2" }), "three", 4 }))
    assert.is_true(pub:publish_blocking(topic, {}))
    local got = {}
    for i = 1, 4 do got[i] = receive(con).payload end
    assert.same({ "one", "two", "three", "4" }, got)
    assert.equal(4, pub:stats().stored)
  end)

  it("without waiting tells its end later", function()
    local topic = new_topic()
    local con, pub = subscribe(topic, { group = "g", max_in_flight = 10 }), publisher()
    local first, second = pub:send(topic, "one"), pub:send(topic, { "two", "three" })
    assert.not_equal(first, second)
    assert.is_true(finish(second))
    assert.is_true(finish(first))
    assert.is_true(finish(pub:send(topic, {})))
    local got = {}
    for i = 1, 3 do got[i] = receive(con).payload end
    assert.same({ "one", "two", "three" }, got)
  end)

  it("goes to each message's own topic when none is named", function()
    local a, b = new_topic(), new_topic()
    local from_a, from_b = subscribe(a, { group = "g", max_in_flight = 10 }), subscribe(b)
    local pub = publisher()
    local function own(topic, payload) return core.message(payload, nil, nil, topic) end
    assert.is_true(pub:publish_blocking(nil, { own(a, "1"), own(a, "2"), own(b, "3"), own(a, "4") }))
    assert.is_true(finish(pub:send(nil, { own(a, "5") })))
    local got = {}
    for i = 1, 4 do got[i] = receive(from_a).payload end
    assert.same({ "1", "2", "4", "5" }, got)
    assert.equal("3", receive(from_b).payload)
    assert.is_true(finish(pub:send(nil, { own(b, "6"), own(a, "7"), own(b, "8") })))
    assert.equal("7", receive(from_a).payload)
  end)

  it("of a topic that cannot be tells what became of each message", function()
    local pub, good = publisher(), new_topic()
    for _, publish in ipairs {
      function(m) return pub:publish_blocking(nil, m) end,
      function(m) return finish(pub:send(nil, m)) end,
    } do
      local ok, err, code, results = publish {
        core.message("1", nil, nil, good), core.message("2", nil, nil, "a\nb"), core.message("3", nil, nil, good),
      }
      assert.is_nil(ok)
      assert.is_string(err)
      assert.equal("BAD_INPUT", code)
      assert.equal("STORED", results[1])
      assert.not_equal("STORED", results[2])
      assert.equal("NOT_SENT", results[3])
    end
    local id, err, code = pub:send("a\nb", "x")
    assert.is_nil(id)
    assert.is_string(err)
    assert.equal("BAD_INPUT", code)
  end)

  it("over queue_bytes takes nothing", function()
    local pub = publisher { queue_bytes = 1000 }
    local topic, big, refused = new_topic(), ("x"):rep(2000), nil
    local ids = {}
    for _ = 1, 10000 do
      local id, _, code = pub:send(topic, big)
      if not id then
        refused = code
        break
      end
      ids[#ids + 1] = id
    end
    for _, id in ipairs(ids) do assert.is_true(finish(id)) end
    assert.is_truthy(refused == nil or refused == "TIMEOUT" or refused == "TOO_LARGE")
    assert.equal(#ids, pub:stats().stored)
  end)

  it("refuses what is no message, and names it", function()
    local pub, topic = publisher(), new_topic()
    for _, method in ipairs { "publish_blocking", "send" } do
      local function refused(pattern, t, m)
        assert.error_matches(function() pub[method](pub, t, m) end, pattern)
      end
      refused("write wm%.message{ json = t }", topic, { { id = 1 } })
      refused("write wm%.message{ json = t }", topic, { id = 1 })
      refused("#2 is a boolean", topic, { "x", true })
      refused("#1 is a function", topic, print)
      refused("topic expected: message #1 has none", nil, "x")
      refused("topic expected: message #2 has none",
        nil, { core.message("x", nil, nil, topic), core.message "y" })
      refused("zero byte", "a\0b", "x")
    end
  end)

  it("with a closed publisher raises; closing again does nothing", function()
    local pub = core.publisher(URL)
    assert.is_true(finish(pub:close(PATIENCE)))
    assert.is_true(finish(pub:close(PATIENCE)))
    for _, method in ipairs { "publish_blocking", "send", "stats" } do
      assert.error_matches(function() pub[method](pub, new_topic(), "x") end, "the publisher is closed")
    end
    assert.equal("wm.publisher: " .. URL .. " (closed)", tostring(pub))
  end)

  it("is finished by close", function()
    local topic = new_topic()
    local con = subscribe(topic, { group = "g", max_in_flight = 1000 })
    local pub, ids = core.publisher(URL), {}
    for i = 1, 100 do ids[i] = pub:send(topic, tostring(i)) end
    assert.is_true(finish(pub:close(PATIENCE)))
    for i = 1, 100 do assert.is_true(finish(ids[i])) end
    for i = 1, 100 do assert.equal(tostring(i), receive(con).payload) end
  end)

  it("with a publisher that nobody can be, fails", function()
    local pub, err, code = core.publisher "nosuch://broker"
    assert.is_nil(pub)
    assert.matches("nosuch", err)
    assert.equal("BAD_INPUT", code)
    assert.error_matches(function() core.publisher() end, "#1 .*string expected")
    assert.error_matches(function() core.publisher "a\0b" end, "#1 .*zero byte")
  end)
end)
