local core = require "wm.core"
local support = require "lua.support"
local wm = require "wm"

local function error_of(fields)
  return support.error_of(function() wm.message(fields) end)
end

describe("wm.message", function()
  it("has a uuid of its own, payload, metadata and topic", function()
    local msg = wm.message{ payload = "p", metadata = { type = "T" }, topic = "t" }
    assert.equal("p", msg.payload)
    assert.equal("T", msg.metadata.type)
    assert.equal("t", msg.topic)
    assert.equal(36, #msg.uuid)
    assert.not_equal(msg.uuid, wm.message{ payload = "p" }.uuid)
    assert.equal("mine", wm.message{ payload = "", uuid = "mine" }.uuid)
  end)

  it("takes a number as its text, and any bytes", function()
    assert.equal("7", wm.message{ payload = 7 }.payload)
    assert.equal("a\0b\255", wm.message{ payload = "a\0b\255" }.payload)
  end)

  it("refuses, with the script's place, what it does not know", function()
    assert.matches("^%S+message_spec.lua:%d+: wm.message: unknown key 'paylod'; did you mean 'payload'%?$",
      error_of{ paylod = "x" })
    assert.matches("exactly one of payload and json", error_of{})
    assert.matches("exactly one of payload and json", error_of{ payload = "x", json = 1 })
    assert.matches("payload: a string expected, got a table; write json = t", error_of{ payload = {} })
    assert.matches("metadata.n: a string expected, got 1; write tostring",
      error_of{ payload = "", metadata = { n = 1 } })
    assert.matches("metadata: keys must be strings", error_of{ payload = "", metadata = { "x" } })
    assert.matches("uuid: a string expected", error_of{ payload = "", uuid = 1 })
    assert.matches("reserved", error_of{ payload = "", metadata = { _wm_x = "1" } })
    assert.matches("a table expected, got \"x\"", error_of "x")
  end)

  it("refuses delay and at by name, as no broker has them yet", function()
    assert.matches("wm.message: delay: wmlua %S+ does not have it yet", error_of{ payload = "", delay = 1 })
    assert.matches("wm.message: at: wmlua %S+ does not have it yet", error_of{ payload = "", at = 1 })
  end)
end)

describe("JSON", function()
  local json = require "wm.json"

  local function round(value) return wm.message{ json = { value } }:json()[1] end

  it("keeps integers integers, at any size", function()
    local numbers = { 0, 3, -3, 10 ^ 14 // 1 | 0, 123456789012345, 9007199254740993, math.maxinteger, math.mininteger }
    for _, n in ipairs(numbers) do
      assert.equal("integer", math.type(round(n)))
      assert.equal(n, round(n))
    end
    assert.equal("[9007199254740993]", wm.message{ json = { 9007199254740993 } }.payload)
    assert.equal("[1000000000000000]", wm.message{ json = { 1000000000000000 } }.payload)
  end)

  it("keeps all digits of floats", function()
    for _, n in ipairs{ 0.1, 1 / 3, 0.1 + 0.2, 1e300, -2.5, 5e-324 } do assert.equal(n, round(n)) end
  end)

  it("leaves digits in strings and keys alone", function()
    local text = [[{"12345678901234567890":"12345678901234567890","q\"1234567890123456789":1234567890123456789}]]
    local value = json.decode(text)
    assert.equal("12345678901234567890", value["12345678901234567890"])
    assert.equal(1234567890123456789, value["q\"1234567890123456789"])
  end)

  it("has null as wm.null", function()
    local value = wm.message{ payload = '{"a":null}' }:json()
    assert.equal(wm.null, value.a)
    assert.equal('{"a":null}', wm.message{ json = value }.payload)
  end)

  it("returns nil, err, code for what is none", function()
    local value, err, code = wm.message{ payload = "{" }:json()
    assert.is_nil(value)
    assert.is_string(err)
    assert.equal("BAD_INPUT", code)
    assert.is_nil((wm.message{ payload = "[NaN]" }:json()))
  end)

  it("is decoded once", function()
    local msg = wm.message{ payload = "{}" }
    assert.equal(msg:json(), msg:json())
  end)

  it("cannot be made of a function, and says so", function()
    assert.matches("wm.message: json: ", error_of{ json = { print } })
    assert.matches("wm.message: json: ", error_of{ json = { 0 / 0 } })
  end)

  it("says which package brings it where lua-cjson is missing", function()
    local result = support.run [[
      package.preload.cjson = function() error "not here" end
      local wm = require "wm"
      print(select(2, wm.message{ payload = "1" }:json()))
      print(pcall(wm.message, { json = 1 }))
      print(wm.null)
    ]]
    assert.matches("apt install lua%-cjson.*apt install lua%-cjson.*wm.null", (result.out:gsub("\nnull", "\nwm.null")))
  end)

  it("writes log lines of one JSON object without it", function()
    local line = json.line{ text = 'a "quoted"\nline', n = 1.5, i = 3, yes = true, bad = "\255" }
    assert.same({ text = 'a "quoted"\nline', n = 1.5, i = 3, yes = true, bad = "?" }, json.decode(line))
  end)
end)

describe("a received message", function()
  it("can be published again as it is", function()
    local url = support.memory()
    local pub = wm.publisher(url)
    local s = wm.subscriber(url, { group = "g" }):subscribe "a"
    local again = wm.subscriber(url, { group = "g" }):subscribe "b"
    assert(pub:publish("a", wm.message{ payload = "p", metadata = { k = "v" }, uuid = "u" }))
    local msg = s:next(10)
    assert(pub:publish("b", msg))
    msg:ack()
    assert(pub:publish("b", msg))
    for _ = 1, 2 do
      local copy = again:next(10)
      assert.same({ "u", "p", "v" }, { copy.uuid, copy.payload, copy.metadata.k })
      copy:ack()
    end
    s:close()
    again:close()
    pub:close()
  end)

  it("tells where it stands, and is read-only", function()
    local url = support.memory()
    local pub = wm.publisher(url)
    local s = wm.subscriber(url, { group = "g" }):subscribe "a"
    assert(pub:publish("a", "1"))
    local msg = s:next(10)
    assert.same({ "a", 1, nil }, { msg.topic, msg.attempt, msg.settled })
    assert.has_error(function() msg.metadata.x = "1" end)
    assert.has_error(function() msg.payload = "1" end)
    assert.is_true(msg:ack())
    assert.is_false(msg:nack())
    assert.equal("ack", msg.settled)
    assert.is_true(core.is_message(msg))
    s:close()
    pub:close()
  end)
end)
