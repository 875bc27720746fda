local support = require "lua.support"
local wm = require "wm"

local error_of = support.error_of

describe("a task", function()
  it("runs at once until it first waits", function()
    local order = {}
    local t = wm.spawn(function(a, b)
      order[#order + 1] = a .. b
      wm.sleep(0)
      order[#order + 1] = "later"
    end, "a", "b")
    order[#order + 1] = "main"
    t:join()
    assert.same({ "ab", "main", "later" }, order)
  end)

  it("gives its results to join, also nils among them", function()
    assert.same({ n = 3, 1, nil, 3 }, table.pack(wm.spawn(function() return 1, nil, 3 end):join()))
    assert.equal(0, select("#", wm.spawn(function() wm.sleep(0) end):join()))
  end)

  it("gives its error to join", function()
    local value, err = wm.spawn(function()
      wm.sleep(0)
      error "boo"
    end):join()
    assert.is_nil(value)
    assert.matches("task_spec.lua:%d+: boo$", err)
    local object = {}
    assert.equal(object, select(2, wm.spawn(function() error(object) end):join()))
  end)

  it("is joined for a time only, when that is asked", function()
    local t = wm.spawn(wm.sleep, 60)
    assert.equal("TIMEOUT", select(3, t:join(0.01)))
    t:cancel()
    assert.equal("CANCELLED", select(3, t:join()))
  end)

  it("is cancelled where it waits", function()
    local caught
    local t = wm.spawn(function()
      local ok, err = pcall(wm.sleep, 60)
      caught = { ok, err.code, tostring(err) }
      return "cleaned up"
    end)
    assert.is_true(t:cancel())
    assert.equal("cleaned up", t:join())
    assert.same({ false, "CANCELLED", "the task was cancelled" }, caught)
    assert.is_false(t:cancel())
  end)

  it("is cancelled in its next wait when it does not wait in one of ours", function()
    local co
    local t = wm.spawn(function()
      co = coroutine.running()
      coroutine.yield()
      wm.sleep(0)
      return "not reached"
    end)
    t:cancel()
    coroutine.resume(co)
    assert.equal("CANCELLED", select(3, t:join(1)))
  end)

  it("can be resumed by foreign code, which a wait of ours survives", function()
    local co
    local t = wm.spawn(function()
      co = coroutine.running()
      local got = coroutine.yield()
      wm.sleep(0.01)
      return got
    end)
    coroutine.resume(co, "from outside")
    coroutine.resume(co, "too early")
    assert.equal("from outside", t:join(10))
  end)

  it("cannot join itself", function()
    local t
    t = wm.spawn(function()
      wm.sleep(0)
      t:join()
    end)
    assert.matches("cannot wait for its own end", select(2, t:join()))
  end)

  it("can be one of very many that wake each other in a row", function()
    local t = wm.spawn(wm.sleep, 0)
    for _ = 1, 1000 do
      local before = t
      t = wm.spawn(function() return before:join() end)
    end
    assert.is_true(t:join(30))
  end)

  it("whose error nobody asks for is logged with its traceback", function()
    local result = support.run([[
      local wm = require "wm"
      wm.spawn(function() wm.sleep(0) error "boo one" end)
      wm.spawn(function() wm.sleep(0) error "asked for" end):join()
      wm.sleep(0.01)
      wm.spawn(function() error "boo two" end)
    ]], { name = "unjoined.lua" })
    assert.is_true(result.ok, result.err)
    assert.matches("a task failed, and nobody joined it: .*unjoined.lua:2: boo one\nstack traceback:", result.err)
    assert.matches("unjoined.lua:5: boo two", result.err)
    assert.not_matches("asked for", result.err)
    assert.not_matches("scripts/wm", result.err)
  end)
end)

describe("wm.await", function()
  it("returns what done gets, at once or later", function()
    assert.same({ 1, 2 }, { wm.await(function(done) done(1, 2) end) })
    local later
    wm.spawn(function()
      wm.sleep(0.001)
      later "here"
    end)
    assert.equal("here", wm.await(function(done) later = done end))
  end)

  it("ignores a second done, and one that comes too late", function()
    local late
    assert.equal("TIMEOUT", select(3, wm.await(function(done) late = done end, 0.01)))
    late "too late"
    assert.equal(1, wm.await(function(done)
      done(1)
      done(2)
    end))
    late "even later"
    assert.is_true(wm.sleep(0.001))
  end)

  it("says so when nothing could ever call it", function()
    local result = support.run [[print(pcall(require("wm").await, function() end))]]
    assert.matches("would wait for ever", result.out)
  end)
end)

describe("wm.sleep", function()
  it("sleeps at least that long, beside others", function()
    local start = wm.now()
    local tasks = {}
    for i = 1, 20 do tasks[i] = wm.spawn(wm.sleep, 0.05) end
    for _, t in ipairs(tasks) do assert.is_true(t:join()) end
    assert.is_true(wm.now() - start >= 0.049)
    assert.is_true(wm.now() - start < 20 * 0.05 or wm.now() - start > 30)
  end)

  it("wants seconds", function()
    assert.matches("wm.sleep: seconds as a number expected, got \"1s\"", error_of(function() wm.sleep "1s" end))
  end)
end)

describe("wm.every", function()
  it("runs again and again, until it is closed", function()
    local runs = 0
    local timer = wm.every(0.005, function() runs = runs + 1 end)
    support.eventually(function() return runs >= 3 end)
    timer:close()
    local then_ = runs
    wm.sleep(0.03)
    assert.equal(then_, runs)
    timer:close()
  end)

  it("never overlaps its runs, and goes on after one that fails", function()
    local at_once, most, runs = 0, 0, 0
    local timer <close> = wm.every(0.002, function()
      at_once = at_once + 1
      most = math.max(most, at_once)
      wm.sleep(0.01)
      at_once = at_once - 1
      runs = runs + 1
    end)
    support.eventually(function() return runs >= 3 end)
    assert.equal(1, most)
    assert.is_table(timer)
  end)

  it("wants seconds above 0 and a function", function()
    assert.matches("wm.every: seconds", error_of(function() wm.every(0, print) end))
    assert.matches("wm.every: function expected", error_of(function() wm.every(1) end))
  end)
end)

describe("a wait", function()
  it("within a coroutine that a task runs says where to wait", function()
    local t = wm.spawn(function()
      local co = coroutine.wrap(function() wm.sleep(0.01) end)
      co()
    end)
    local _, err = t:join()
    assert.matches("task_spec.lua:%d+: wm.sleep%(0.01%) would wait inside a coroutine that a task runs", err)
  end)
end)
