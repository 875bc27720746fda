local keep = require "wm.keep"
local support = require "lua.support"
local wm = require "wm"

local function round(value) return keep.from_text("x", keep.to_text("x", value)) end

local function refused(value)
  return support.error_of(keep.to_text, "hits", value)
end

describe("kept data", function()
  it("comes back exactly: integers, floats, strings, booleans, nested tables", function()
    local value = {
      1, 2.5, "three", true, false, { nested = { deep = { 1 } } },
      [10] = "sparse", [-1] = "negative", [1.5] = "float key", [true] = "boolean key",
      ["not a name"] = 1, ["end"] = 2, [""] = 3, bytes = "a\0b\r\n\"\\\255",
      min = math.mininteger, max = math.maxinteger, third = 1 / 3, huge = math.huge, whole = 3.0,
    }
    local back = round(value)
    assert.same(value, back)
    assert.equal("integer", math.type(back[1]))
    assert.equal("float", math.type(back.whole))
    assert.equal(1 / 3, back.third)
    assert.not_equal(value[6], back[6])
  end)

  it("holds null of JSON, and NaN", function()
    assert.equal(wm.null, round{ a = wm.null }.a)
    local nan = round{ 0 / 0 }[1]
    assert.is_true(nan ~= nan)
  end)

  it("may be large and long", function()
    local value = {}
    for i = 1, 100000 do value[i] = i end
    for i = 1, 10000 do value["key" .. i] = { n = i } end
    assert.same(value, round(value))
  end)

  it("may hold one table twice, which becomes two", function()
    local shared = { 1 }
    local back = round{ shared, shared }
    assert.same({ { 1 }, { 1 } }, back)
  end)

  it("refuses by path what is no plain data", function()
    assert.equal("hits.a.fn: a function cannot be kept, only plain data: strings, numbers, booleans and tables of them",
      refused{ a = { fn = print } })
    assert.matches("^hits%[1%]%[2%]: a userdata cannot be kept", refused{ { 0, io.stdout } })
    assert.matches('^hits%["a key"%]: a thread cannot be kept', refused{ ["a key"] = coroutine.create(print) })
    assert.matches("^hits: a key: a table cannot be kept", refused{ [{}] = 1 })
    assert.matches("^hits.a: a table with a metatable cannot be kept", refused{ a = setmetatable({}, {}) })
    local cycle = {}
    cycle.b = { cycle }
    assert.matches("^hits.b%[1%]: a table that holds itself cannot be kept", refused(cycle))
    local deep = {}
    local inner = deep
    for _ = 1, 300 do
      inner.d = {}
      inner = inner.d
    end
    assert.matches("nested deeper than %d+ tables", refused(deep))
  end)

  it("has a limit in bytes", function()
    local most = keep.MAX_BYTES
    keep.MAX_BYTES = 1000
    local text = refused{ ("x"):rep(1000) }
    keep.MAX_BYTES = most
    assert.matches("^hits: %d+ bytes as text are over the limit of 1000", text)
  end)
end)

describe("wm.keep", function()
  it("returns its default outside of a host", function()
    local default = { 1 }
    assert.equal(default, wm.keep(support.name "keep", default))
  end)

  it("raises on misuse with the script's place", function()
    local function error_of(...)
      local args = table.pack(...)
      return support.error_of(function() wm.keep(table.unpack(args, 1, args.n)) end)
    end
    local name = support.name "keep"
    wm.keep(name, {})
    assert.matches("keep_spec.lua:%d+: wm.keep '%S+': that name is taken at %S+keep_spec.lua:%d+", error_of(name, {}))
    assert.matches("wm.keep: hits.fn: a function cannot be kept", error_of("hits", { fn = print }))
    assert.matches("a table as default expected, got nil", error_of "hits")
    assert.matches("a name expected, got 1", error_of(1, {}))
    assert.matches("fixup: a function expected", error_of("hits", {}, 1))
  end)
end)
