-- core_spec.lua - what wm.core promises that belongs to no handle: loading, pure functions, options, ends.
local core = require "wm.core"
local fixture = require "lua.core_fixture"

local URL, PATIENCE = fixture.URL, fixture.PATIENCE
local new_topic, finish, publisher = fixture.new_topic, fixture.finish, fixture.publisher
local subscribe, receive, run = fixture.subscribe, fixture.receive, fixture.run

after_each(fixture.close_all)

describe("the module", function()
  it("is the same when it is loaded again in one state", function()
    local pub = publisher()
    package.loaded["wm.core"] = nil
    local again = require "wm.core"
    package.loaded["wm.core"] = core
    assert.equal(core, again)
    assert.is_true(again.is_message(core.message "x"))
    assert.is_true(pub:publish_blocking(new_topic(), again.message "x"))
  end)

  it("tells what it is outside a host", function()
    assert.matches("^%d+%.%d+%.%d+$", core.version)
    assert.is_nil(core.broker)
    assert.same({ 1, 1, 1, false, false },
      { core.generation, core.worker, core.log_level, core.log_json, core.hosted })
    assert.is_true(core.waiting())
    assert.is_nil(core.kept "x")
    assert.is_true(core.configure("log", "debug"))
  end)

  it("hides its metatables", function()
    for _, value in ipairs { core.message "x", publisher(), subscribe(new_topic()) } do
      assert.is_string(getmetatable(value))
    end
  end)
end)

describe("pure functions", function()
  it("make uuids and tell the time", function()
    assert.matches("^%x+%-%x+%-4%x+%-%x+%-%x+$", core.uuid())
    assert.not_equal(core.uuid(), core.uuid())
    assert.is_true(math.abs(core.now() - os.time()) < PATIENCE)
    local before = core.clock()
    assert.is_true(core.clock() >= before)
  end)

  it("read durations and sizes", function()
    assert.same({ 30, 0.25, 300, 7 * 86400 },
      { core.duration "30", core.duration "250ms", core.duration "5m", core.duration "7d" })
    assert.equal("integer", math.type(core.duration "30s"))
    assert.is_nil(core.duration "soon")
    assert.same({ 65536, 4194304 }, { core.size "64k", core.size "4M" })
    assert.is_nil(core.size "large")
  end)

  it("mask passwords and find the nearest name", function()
    assert.equal("redis://app:***@cache:6379", core.mask "redis://app:secret@cache:6379")
    assert.equal("max_in_flight", core.nearest("max_inflight", { "group", "max_in_flight" }))
    assert.is_nil(core.nearest("zzzzzz", { "group", "max_in_flight" }))
  end)

  it("list options and brokers", function()
    local where = {}
    for _, option in ipairs(core.options()) do where[option.name] = option.where end
    assert.equal("subscription", where.max_in_flight)
    assert.equal("publisher", where.queue_bytes)
    local memory
    for _, broker in ipairs(core.backends()) do memory = broker.name == "memory" and broker or memory end
    assert.is_table(memory)
    assert.is_nil(memory.missing)
  end)

  it("check without network, with the text that opening would give", function()
    assert.is_true(core.check(URL, "orders", { group = "g", max_in_flight = 2 }, false))
    local ok, err, code = core.check(URL, "orders", { max_inflight = 2 }, false)
    assert.is_nil(ok)
    assert.matches("max_in_flight", err)
    assert.equal("BAD_INPUT", code)
    local _, opening, opening_code = core.subscribe(URL, "orders", { max_inflight = 2 }, "x.lua:1")
    assert.same({ err, code }, { opening, opening_code })
  end)
end)

describe("options", function()
  local function refused(opts)
    local con, err, code = core.subscribe(URL, new_topic(), opts, "x.lua:1")
    assert.is_nil(con)
    assert.equal("BAD_INPUT", code)
    return err
  end

  it("become text without losing anything", function()
    local function text_of(value)
      return refused({ on_undecodable = value }):match "got '(.-)'"
    end
    assert.equal("9007199254740993", text_of(1 << 53 | 1))
    assert.equal("-9223372036854775808", text_of(math.mininteger))
    assert.equal("30", text_of(30.0))
    assert.equal("0.1", text_of(0.1))
    assert.equal("0.30000000000000004", text_of(0.1 + 0.2))
    assert.equal("1717171717.123456", text_of(1717171717.123456))
    assert.equal("10000000000000000000000", text_of(1e22))
    assert.equal(0.00001, tonumber(text_of(0.00001)))
    assert.equal("true", text_of(true))
    assert.equal("half", text_of "half")
  end)

  it("have a point in every locale", function()
    local before = os.setlocale(nil, "numeric")
    for _, locale in ipairs { "de_DE.UTF-8", "fr_FR.UTF-8", "C" } do
      if os.setlocale(locale, "numeric") then
        assert.matches("got '0%.25'", refused { on_undecodable = 0.25 })
      end
    end
    os.setlocale(before, "numeric")
  end)

  it("of wrong types raise and name the key", function()
    local function raises(pattern, opts)
      assert.error_matches(function() core.publisher(URL, opts) end, pattern)
    end
    raises("option 'retry': string, number or boolean", { retry = {} })
    raises("option 'retry': .* got function", { retry = print })
    raises("option 'timeout': a finite number", { timeout = 0 / 0 })
    raises("option 'timeout': a finite number", { timeout = math.huge })
    raises("option 'order_by': contains a zero", { order_by = "a\0b" })
    raises("names of options must be strings", { "timeout" })
    raises("#2 .*table expected", "timeout")
  end)

  it("that nobody knows fail and suggest the nearest", function()
    assert.matches("max_in_flight", refused { max_inflight = 1 })
    local pub, err, code = core.publisher(URL, { timout = 1 })
    assert.is_nil(pub)
    assert.matches("'timout'.*timeout", err)
    assert.equal("BAD_INPUT", code)
  end)
end)

describe("the mailbox", function()
  it("has a descriptor that is readable while something can be told", function()
    assert.is_nil(core.completed())
    assert.same({}, core.poll({ core.wake_fd() }, 0))
    local id = publisher():send(new_topic(), "x")
    assert.same({ core.wake_fd() }, core.poll({ core.wake_fd() }, PATIENCE))
    assert.same({ id, true }, { core.completed() })
    assert.is_nil(core.completed())
    assert.same({}, core.poll({ core.wake_fd() }, 0))
  end)

  it("tells every end once", function()
    local pub, topic, open, count = publisher(), new_topic(), {}, 1000
    for _ = 1, count do open[pub:send(topic, "x")] = true end
    for _ = 1, count do
      local id, ok = core.completed()
      while not id do
        assert.same({ core.wake_fd() }, core.poll({ core.wake_fd() }, PATIENCE))
        id, ok = core.completed()
      end
      assert.is_true(ok)
      assert.is_true(open[id])
      open[id] = nil
    end
    assert.is_nil(next(open))
  end)
end)

describe("poll", function()
  it("tells which descriptors are readable", function()
    local topic = new_topic()
    local quiet, busy = subscribe(new_topic()), subscribe(topic)
    assert.is_nil(quiet:next())
    assert.is_true(publisher():publish_blocking(topic, "x"))
    assert.same({ busy:fd() }, core.poll({ quiet:fd(), busy:fd() }, PATIENCE))
    assert.same({}, core.poll({ quiet:fd() }, 0.01))
    assert.same({}, core.poll({}, 0))
    assert.error_matches(function() core.poll({ "x" }, 0) end, "list of descriptors")
    assert.error_matches(function() core.poll(1, 0) end, "table expected")
  end)
end)

describe("the end of a program", function()
  it("waits for what publishers were given, and gives back what was held", function()
    local directory = os.tmpname()
    os.remove(directory)
    local url = "sqlite:" .. directory .. ".db"
    local has_sqlite
    for _, broker in ipairs(core.backends()) do
      has_sqlite = has_sqlite or broker.name == "sqlite" and not broker.missing
    end
    if not has_sqlite then return pending("this build has no SQLite") end
    local printed, ok = run([[
      local core = require "wm.core"
      local pub = assert(core.publisher(arg[1]))
      local con = assert(core.subscribe(arg[1], "t", { group = "g" }, "x.lua:1"))
      for i = 1, 1000 do assert(pub:send("t", tostring(i))) end
      local msg = assert(con:wait(20))
      assert(msg.payload == "1")
      print "held"
    ]], url)
    assert.equal("held\n", printed)
    assert.is_true(ok)
    local con, id = core.subscribe(url, "t", { group = "g", max_in_flight = 1000 }, "x.lua:1")
    assert(con, id)
    for i = 1, 1000 do
      local msg = receive(con)
      assert.equal(tostring(i), msg.payload)
      core.done(msg)
    end
    assert.is_true(finish(con:close(PATIENCE)))
    for _, suffix in ipairs { "", "-wal", "-shm" } do os.remove(directory .. ".db" .. suffix) end
  end)

  it("is quiet, in whatever order things are collected", function()
    local printed, ok = run [[
      local late = setmetatable({}, { __gc = function(t)
        local ok, err = pcall(t.pub.send, t.pub, "t", "x")
        print(ok, err)
        print(pcall(t.core.publisher, "memory:x"))
        print(t.core.completed())
      end })
      local core = require "wm.core"
      late.core, late.pub = core, core.publisher "memory:x"
      global_con = core.subscribe("memory:x", "t", { group = "g", max_in_flight = 10 }, "x.lua:1")
      late.pub:publish_blocking("t", { "1", "2", "3" })
      global_msg = assert(global_con:wait(20))
      global_con:close(20)
      core.subscribe("memory:x", "t", { group = "h" }, "x.lua:1")
    ]]
    assert.is_true(ok)
    assert.matches("^false\t.*closed.*\nfalse\t.*closed.*\n\n$", printed)
  end)
end)
