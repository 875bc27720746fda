-- What scripts/wm/host.lua promises to hosts, with a host in Lua: the functions that a host sets are replaced in the
-- table of the C half, and its events are handed over by timers.

local support = require "lua.support"

local HOST = [[
local core = require "wm.core"
core.hosted, core.generation = true, 2
local told, kept = {}, {}
local function tell(...)
  local parts = table.pack(...)
  for i = 1, parts.n do parts[i] = tostring(parts[i]) end
  print(table.concat(parts, " "))
  io.stdout:flush()
end
function core.waiting() tell "waiting" return true end
function core.kept(name) return kept[name] end
function core.keep(name, text) tell("keep", name, text) end
local host = require "wm.host"
local loop = require "wm.loop"
local uv = require "luv"
-- Posts events, one after the other, each that many ms after the last one.
local function post(...)
  local events, at = table.pack(...), 0
  for i = 1, events.n, 3 do
    at = at + events[i]
    local timer = uv.new_timer()
    timer:start(at, 0, function()
      timer:close()
      tell("event", events[i + 1])
      loop.on_event(events[i + 1], events[i + 2])
    end)
  end
end
local function main(chunk, ...) tell("main", host.main(chunk, ...)) end
local wm = require "wm"
wm.configure{ broker = "memory:host" }
]]

local function run(text, name) return support.run(HOST .. text, { name = name }) end

describe("a host's main", function()
  local test = support.has "luv" and it or pending

  test("runs the chunk, tells that it is loaded, and ends when nothing is left", function()
    local result = run [[
      main(function(...)
        tell("chunk", ...)
        wm.spawn(function() wm.sleep(0.01) tell "task" end)
      end, 1, "two")
    ]]
    assert.equal("chunk 1 two\nwaiting\ntask\nmain true\n", result.out, result.err)
  end)

  test("subscribes what wm.on was told just before it tells that", function()
    local result = run [[
      local subscribe = core.subscribe
      core.subscribe = function(url, topic, ...) tell("subscribe", topic) return subscribe(url, topic, ...) end
      main(function()
        local h = wm.on("a", { group = "g" }, print)
        tell "chunk waits"
        wm.sleep(0)
        tell "chunk goes on"
        wm.on("b", { group = "g" }, print)
        wm.spawn(function() wm.sleep(0.02) h:close() wm.spawn(os.exit, 0) end)
      end)
    ]]
    assert.equal("chunk waits\nsubscribe a\nwaiting\nchunk goes on\nsubscribe b\n", result.out, result.err)
  end)

  test("subscribes for a chunk that loops over a subscription before it tells that it is loaded", function()
    local result = run [[
      local subscribe = core.subscribe
      core.subscribe = function(url, topic, ...) tell("subscribe", topic) return subscribe(url, topic, ...) end
      main(function()
        local s = wm.subscriber("memory:host", { group = "g" }):subscribe "t"
        tell "subscribed"
        s:close()
      end)
    ]]
    assert.equal("subscribe t\nwaiting\nsubscribed\nmain true\n", result.out, result.err)
  end)

  test("publishes nothing in a script that is only checked", function()
    local result = run [[
      core.waiting = function() return false end
      local pub = wm.publisher "memory:host"
      main(function() pub:publish("t", "x") end)
      tell(pub:stats().stored)
    ]]
    assert.equal("main true\n0\n", result.out, result.err)
  end)

  test("does not wait in a script that is only checked", function()
    local result = run [[
      core.waiting = function() tell "waiting" return false end
      main(function()
        wm.on("a", { group = "g" }, print)
        wm.sleep(60)
        tell "not reached"
      end)
      for _, h in ipairs(host.handlers()) do
        tell(h.name, h.topic, h.url, h.group, h.where:match "host_check.lua:%d+$", h.options.group)
      end
    ]]
    assert.matches("^waiting\nmain true\na a memory:host g nil g\n$", result.out, result.err)
  end)

  test("returns what the chunk raised, with its traceback", function()
    local result = run([[
      main(function() error "boo" end)
    ]], "raises.lua")
    assert.matches("^main nil %S*raises.lua:%d+: boo\nstack traceback:", result.out)
  end)

  test("ends gently when the chunk raises after it has waited", function()
    local result = run [[
      main(function()
        wm.on_unload(function() tell "unload" end)
        wm.spawn(function() tell("task", pcall(wm.sleep, 60)) end)
        wm.sleep(0.01)
        error "late"
      end)
    ]]
    assert.matches("^waiting\nunload\ntask false the script's generation has ended\nmain nil .*: late\n", result.out)
  end)

  test("returns why a handler can never work", function()
    local result = run [[
      main(function() wm.on("t", { group = "g", broker = "sqlite:/nowhere/at/all.db" }, print) end)
    ]]
    assert.matches('^waiting\nmain nil .*wm.on "t": .*/nowhere/at/all.db', result.out)
  end)

  test("fills what is kept at the start, before the first message, and gives it when asked", function()
    local result = run [[
      kept.hits = "return {a=3,[1]=1.5,}"
      kept.old = "return {1,2,}"
      main(function()
        local hits = wm.keep("hits", { b = 1 })
        local new = wm.keep("new", { "default" })
        local old = wm.keep("old", {}, function(list) return { n = #list } end)
        local function show(when) tell(when, hits.a, hits.b, hits[1], new[1], old.n) end
        show "loading"
        wm.spawn(function()
          wm.sleep(0.05)
          show "later"
          hits.fn = print
        end)
        post(10, "start", 0, 60, "keep", 0, 10, "retire", 0)
        wm.spawn(function() wm.sleep(60) end)
      end)
    ]]
    local lines = {}
    for line in result.out:gmatch "[^\n]+" do lines[#lines + 1] = line end
    assert.same({ "loading nil 1 nil default nil", "waiting", "event start", "keep nil nil",
      "later 3 nil 1.5 default 2", "event keep", 'keep new return {"default",}', 'keep old return {["n"]=2,}',
      "keep nil nil", "event retire", "main true" }, lines, result.err)
    assert.matches("wm.keep: hits.fn: a function cannot be kept.*the next generation begins with its default",
      result.err)
  end)

  test("logs a fixup that fails, and keeps the default", function()
    local result = run [[
      kept.a, kept.b = "return {1,}", "return {1,}"
      main(function()
        local a = wm.keep("a", { "default" }, function() error "no" end)
        local b = wm.keep("b", { "default" }, function() return 1 end)
        post(1, "start", 0)
        wm.spawn(function() wm.sleep(0.05) tell(a[1], b[1]) end)
      end)
    ]]
    assert.matches("default default", result.out)
    assert.matches("wm.keep 'a' begins anew: what was kept could not be used: .*: no\n", result.err)
    assert.matches("wm.keep 'b' begins anew: .*: fixup returned a number, a table is expected", result.err)
  end)

  test("when retired finishes handlers, ends timers, cancels tasks that only wait, then unloads", function()
    local result = run [[
      local ticks, at_unload = 0, nil
      main(function()
        wm.on("t", { group = "g" }, function(msg)
          tell("handler begins", msg.payload)
          wm.sleep(0.05)
          tell "handler ends"
        end)
        wm.every(0.001, function() ticks = ticks + 1 end)
        wm.spawn(function() tell("task", pcall(wm.sleep, 60)) end)
        wm.on_unload(function() at_unload = ticks wm.sleep(0.02) tell "unload 1" end)
        wm.on_unload(function() tell "unload 2" error "in unload" end)
        assert(wm.publish("t", "x"))
        wm.sleep(0.02)
        post(0, "retire", 0)
        wm.spawn(function() -- as a host does by switching its subscriptions
          wm.sleep(0.005)
          for _, h in ipairs(require("wm.router").default.handlers) do h:close() end
        end)
      end)
      tell(ticks > 0, ticks == at_unload)
    ]]
    assert.equal("waiting\nhandler begins x\nevent retire\nhandler ends\nunload 2\nunload 1\n"
      .. "task false the script's generation has ended\nmain true\ntrue true\n", result.out, result.err)
    assert.matches("wm.on_unload: .*in unload", result.err)
  end)

  test("when stopped closes its subscriptions gently, also under a main chunk that loops over one", function()
    local result = run [[
      main(function()
        local pub = wm.publisher "memory:host"
        local s = wm.subscriber("memory:host", { group = "g" }):subscribe "t"
        wm.on("u", { group = "g" }, function() wm.sleep(0.03) tell "handled" end)
        assert(pub:publish("t", { "1", "2" }))
        assert(pub:publish("u", "x"))
        post(10, "stop", 10000)
        for msg in s do
          tell("got", msg.payload)
          msg:ack()
        end
        tell "after the loop"
      end)
    ]]
    assert.matches("^waiting\ngot 1\ngot 2\nevent stop\n", result.out, result.err)
    assert.matches("handled\n", result.out)
    assert.matches("after the loop\n", result.out)
    assert.matches("main true\n$", result.out)
  end)

  test("when stopped gives up what takes longer than it may", function()
    local result = run [[
      main(function()
        wm.on("u", { group = "g" }, function()
          tell "begins"
          wm.await(function() end)
        end)
        assert(wm.publish("u", "x"))
        post(30, "retire", 0, 20, "stop", 0)
        wm.on_unload(function() tell "unload" end)
      end)
    ]]
    assert.matches("^waiting\nbegins\nevent retire\nevent stop\nunload\nmain true\n$", result.out, result.err)
  end)

  test("ends a chunk that runs luv's loop itself", function()
    local result = run [[
      main(function()
        local timer = uv.new_timer()
        timer:start(60000, 0, print)
        post(10, "stop", 1000)
        uv.run()
        tell "chunk ends"
      end)
    ]]
    assert.equal("waiting\nevent stop\nchunk ends\nmain true\n", result.out, result.err)
  end)

  test("os.exit in a handler gives back what it had in hand, and takes no more", function()
    local result = run [[
      main(function()
        wm.on("t", { group = "g" }, function(msg)
          tell("handler", msg.attempt)
          post(20, "stop", 1000)
          host.exit()
        end)
        assert(wm.publish("t", { "x", "y" }))
      end)
    ]]
    assert.equal("waiting\nhandler 1\nevent stop\nmain true\n", result.out, result.err)
  end)

  test("os.exit in a task cancels it, in the main chunk ends it", function()
    local result = run [[
      main(function()
        local t = wm.spawn(function() host.exit() end)
        tell(select(3, t:join()))
        post(20, "stop", 1000)
        host.exit()
        tell "not reached"
      end)
    ]]
    assert.equal("CANCELLED\nevent stop\nmain true\n", (result.out:gsub("waiting\n", "")), result.err)
  end)

  test("warns of an event that it does not know", function()
    local result = run [[
      main(function()
        post(1, "dance", 0)
        wm.sleep(0.05)
      end)
    ]]
    assert.matches("the host has said 'dance', which is unknown here", result.err)
    assert.matches("main true", result.out)
  end)
end)
