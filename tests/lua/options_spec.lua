local core = require "wm.core"
local options = require "wm.options"
local support = require "lua.support"
local wm = require "wm"

local function on(opts)
  local r <close> = wm.router()
  return r:on("orders", opts, print)
end

local function error_of(opts)
  return support.error_of(function() on(opts) end)
end

describe("the options of a handler", function()
  it("name the nearest when one is unknown", function()
    assert.matches("options_spec.lua:%d+: router.on \"orders\": unknown option 'max_inflight'; "
      .. "did you mean 'max_in_flight'%? %(wmlua help on%)", error_of{ group = "g", max_inflight = 1 })
    assert.matches("unknown option 'zzzzzzzzzz'; there are: .*batch, batch_wait, ",
      error_of{ group = "g", zzzzzzzzzz = 1 })
    assert.matches("unknown option '1'", error_of{ "x", group = "g" })
  end)

  it("require a group", function()
    assert.matches('group is missing; group = "NAME" shares the messages among all who use that name, group = false '
      .. "gives every worker a copy of each new one", error_of{})
    assert.matches("group: a name or false expected, got \"\"", error_of{ group = "" })
    assert.is_table(on{ group = false })
  end)

  it("want numbers of seconds, bytes and counts, and tell what to write", function()
    assert.matches('timeout: seconds as a number expected, got "30s"; write 30',
      error_of{ group = "g", timeout = "30s" })
    assert.matches('takeover: seconds as a number expected, got "250ms"; write 0.25',
      error_of{ group = "g", takeover = "250ms" })
    assert.matches('prefetch_bytes: bytes as a whole number expected, got "16M"; write 16777216',
      error_of{ group = "g", prefetch_bytes = "16M" })
    assert.matches('batch: a whole number expected, got "5"; write 5', error_of{ group = "g", batch = "5" })
    assert.matches('ordered: true or false expected, got "false"; write false',
      error_of{ group = "g", ordered = "false" })
    assert.matches("timeout: seconds as a number expected, got a table$", error_of{ group = "g", timeout = {} })
    assert.matches("batch: a whole number expected, got 1.5", error_of{ group = "g", batch = 1.5 })
    assert.matches("timeout: seconds as a number expected, got %-?nan", error_of{ group = "g", timeout = 0 / 0 })
  end)

  it("take whole numbers that are floats, and times that are fractions", function()
    assert.equal(3.0, on{ group = "g", batch = 3.0 }.batch)
    assert.equal(0.25, on{ group = "g", timeout = 0.25 }.timeout)
  end)

  it("refuse what cannot go together", function()
    assert.matches("order_by with ordered = false", error_of{ group = "g", order_by = "k", ordered = false })
    assert.matches("dead_letter is the handler's own topic", error_of{ group = "g", dead_letter = "orders" })
    assert.matches("retry = false with dead_letter = false",
      error_of{ group = "g", retry = false, dead_letter = false })
    assert.matches("publisher: what wm.publisher returns expected, got \"x\"",
      error_of{ group = "g", publisher = "x" })
    assert.matches("middleware 1: function%(msg, next%) expected, got number",
      error_of{ group = "g", middleware = { 7 } })
  end)

  it("refuse by name what comes later, and what is written otherwise", function()
    for _, name in ipairs{ "tx", "reply", "reply_topic", "headers" } do
      assert.matches(("option '%s': wmlua %%S+ does not have it yet"):format(name),
        error_of{ group = "g", [name] = true })
    end
    assert.is_table(on{ group = "g", tx = false, reply = false })
    assert.matches("option 'max_attempts' is not one here; write retry = { max_retries = n }",
      error_of{ group = "g", max_attempts = 3 })
  end)

  it("are those of the handler's broker, too", function()
    local redis
    for _, info in ipairs(core.options()) do
      if info.where == "redis" and info.unit == "count" then redis = info.name end
    end
    assert.is_table(on{ group = "g", broker = "redis://localhost", [redis] = 5 })
    assert.matches(("unknown option '%s'"):format(redis), error_of{ group = "g", broker = "memory:x", [redis] = 5 })
  end)

  it("are checked by libwm without a broker", function()
    assert.matches("options_spec.lua:%d+: router.on \"orders\": ", error_of{ group = "g", batch = 0 })
    assert.matches("nosuch", error_of{ group = "g", broker = "nosuch:x" })
  end)
end)

describe("wm.configure", function()
  it("gives defaults that the handler's own options win over", function()
    local r = wm.router{ group = "mine", batch = 7, broker = "memory:conf" }
    local a = r:on("a", {}, print)
    local b = r:on("b", { group = "other", batch = 2 }, print)
    assert.same({ "mine", 7, "memory:conf" }, { a.group, a.batch, a.url })
    assert.same({ "other", 2 }, { b.group, b.batch })
  end)

  it("wins over the URL's query, which wins over what is built in", function()
    local r = wm.router{ broker = "memory:x?batch=9&max_in_flight=4" }
    assert.same({ 9, 4 }, { r:on("a", { group = "g" }, print).batch, r:on("b", { group = "g" }, print).max })
    local s = wm.router{ broker = "memory:x?batch=9", batch = 2 }
    assert.equal(2, s:on("a", { group = "g" }, print).batch)
  end)

  it("raises after the first handler, as use does", function()
    local r = wm.router()
    r:on("a", { group = "g" }, print)
    local text = support.error_of(function() r:configure{ batch = 2 } end)
    assert.matches("router.configure: the first handler stands at %S+options_spec.lua:%d+; defaults have to come", text)
    assert.matches("router.use: the first handler stands at", support.error_of(function() r:use(print) end))
  end)

  it("checks what it gets", function()
    local text = support.error_of(function() wm.router{ bach = 2 } end)
    assert.matches("options_spec.lua:%d+: router.configure: unknown option 'bach'; did you mean 'batch'", text)
    assert.matches("burst_timeout", support.error_of(function() wm.router{ burst_timeout = 2 } end))
  end)

  it("gives the host what is the host's, as text", function()
    local result = support.run [[
      local core = require "wm.core"
      local got = {}
      core.configure = function(name, value) got[#got + 1] = name .. "=" .. value return true end
      require("wm").configure{ log = "debug", burst_timeout = 2.5, memory_limit = 1 << 20, reload_grace = 30 }
      table.sort(got)
      print(table.concat(got, " "))
    ]]
    assert.equal("burst_timeout=2.5 log=debug memory_limit=1048576 reload_grace=30\n", result.out, result.err)
  end)
end)

describe("wm.configure{ log = … }", function()
  it("says which lines are written", function()
    local result = support.run [[
      local wm = require "wm"
      wm.log.debug "one"
      wm.configure{ log = "debug" }
      wm.log.debug("two", { a = "x y", n = 1, q = 'say "hi"\n' })
    ]]
    assert.equal('wm debug: two a="x y" n=1 q="say \\"hi\\"\\x0a"\n', result.err)
  end)
end)

describe("a number after all layers", function()
  local set = options.of_core("subscription", "memory:x")

  it("is the given one, the query's, or the default", function()
    assert.equal(5, options.number({ connect_timeout = 5 }, set, "memory:x?connect_timeout=7", "connect_timeout"))
    assert.equal(0.25, options.number({}, set, "memory:x?a=b&connect_timeout=250ms", "connect_timeout"))
    assert.equal(30, options.number({}, set, "memory:x", "connect_timeout"))
  end)
end)
