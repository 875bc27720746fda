-- Hot reload: a script is rewritten while messages flow; each message is handled once, by one generation or the other.

local support = require "host.support"

-- Writes what it handles, a line each: generation, payload. `extra` is more of its code.
local function handler(extra)
  return ([[
local wm = require "wm"
local h = wm.on("numbers", { group = "g" }, function(msg)
  io.write(wm.generation, " ", msg.payload, "\n")
end)
wm.on("report", { group = "g" }, function()
  local s = h:stats()
  io.write("stats handed_out=", s.handed_out, " acked=", s.acked, " released=", s.released, " lost=", s.lost,
    " switches=", s.switches, "\n")
  io.flush()
end)
%s
]]):format(extra or "")
end

-- The ways in which a file gets new content.
local WRITERS = { in_place = support.write, by_rename = support.replace }

-- What is no script; each must leave the old generation in place, and name its fault.
local BROKEN = {
  { "", "the file is empty" },
  { "local wm = require 'wm'\nx = = 1\n", "numbers.lua:2: unexpected symbol near '='" },
  { "error 'at load'\n", "numbers.lua:1: at load" },
  { "require 'no.such.module'\n", "module 'no.such.module' not found" },
  { "\n \n\t\n", "the file is empty" },
}

describe("reload", function()
  local dir, script, host

  local function start(broker, ...)
    host = support.start{ cwd = dir, "run", "--broker", broker, script, ... }
    host:expect("err", "generation 1 is live")
  end

  local function publish(broker, topic, payload)
    local code, _, err = support.run{ "pub", "-q", "--broker", broker, topic, payload }
    assert.equal(0, code, err)
  end

  local function switched_to(number)
    host:expect("err", ("generation %d is live"):format(number))
  end

  before_each(function()
    dir = support.directory()
    script = dir .. "/numbers.lua"
  end)
  after_each(support.clean)

  -- How often each payload was handled, and by which generations.
  local function tally(out)
    local seen, generations, n = {}, {}, 0
    for generation, payload in out:gmatch "(%d+) (%d+)\n" do
      seen[payload] = (seen[payload] or 0) + 1
      generations[generation] = true
      n = n + 1
    end
    return seen, generations, n
  end

  for name, make in pairs(support.brokers) do
    it("handles each message once across 20 rewrites, some of them broken: " .. name, function()
      local broker, why = make(dir)
      if not broker then return pending(why) end
      local total, rewrites = support.short and 10000 or 100000, 20
      support.write(script, handler())
      start(broker, "--workers", "2")
      local pub = support.start{ "pub", "-q", "--broker", broker, "numbers", "--input", "lines", keep_stdin = true }
      local published, generation, live = 0, 1, 1
      local function publish_until(n)
        local lines = {}
        while published < n do
          published = published + 1
          lines[#lines + 1] = published
        end
        pub:write(table.concat(lines, "\n") .. "\n")
      end
      for i = 1, rewrites do
        publish_until(total * i // (rewrites + 1))
        local write = i % 2 == 0 and WRITERS.in_place or WRITERS.by_rename
        local broken = i % 4 == 3 and BROKEN[(i + 1) // 4]
        write(script, broken and broken[1] or handler("-- version " .. i))
        generation = generation + 1
        if broken then
          local text = host:expect("err", ("reload: generation %d failed, generation %d goes on: ([^\n]*)"):format(
            generation, live))
          assert.matches(broken[2], text, 1, true)
          assert.matches("; correct and save the file", text, 1, true)
        else
          switched_to(generation)
          live = generation
        end
      end
      publish_until(total)
      pub:end_input()
      assert.equal(0, pub:wait(), pub.err)
      local switches = generation - #BROKEN
      support.wait("all are handled", function() return host.lines.out >= total end, 300)
      publish(broker, "report", "now")
      local stats = host:expect("out", "stats ([^\n]*)\n")
      host:kill "sigterm"
      assert.equal(0, host:wait(), host.err)
      local seen, generations, n = tally(host.out)
      for payload = 1, total do
        if seen[tostring(payload)] ~= 1 then
          error(("%d was handled %d times"):format(payload, seen[tostring(payload)] or 0))
        end
      end
      assert.equal(total, n)
      assert.is_true(next(generations, next(generations)) ~= nil, "only one generation got messages")
      -- One subscription from the first generation to the last, that gave nothing back.
      assert.equal(("handed_out=%d acked=%d released=0 lost=0 switches=%d"):format(total, total, switches), stats)
    end)
  end

  it("takes an empty file for no script, and what is written into it later for one", function()
    local broker = support.brokers.sqlite(dir)
    support.write(script, handler())
    start(broker)
    local file = io.open(script, "w") -- truncated, still open
    support.let_pass(0.3)
    assert.not_matches("generation 2", host.err)
    file:write(handler "-- the first half")
    file:flush()
    support.let_pass(0.3)
    assert.not_matches("generation 2", host.err)
    file:write "\n-- and the second\n"
    file:close()
    switched_to(2)
  end)

  it("loads a script again when a module that it required changes", function()
    local broker = support.brokers.sqlite(dir)
    support.write(dir .. "/words.lua", 'return "one"')
    support.write(script, [[
      local words = require "words"
      io.write("loaded ", words, "\n") io.flush()
      require("wm").on("t", { group = "g" }, function() end)]])
    start(broker)
    host:expect("out", "loaded one")
    support.replace(dir .. "/words.lua", 'return "two"')
    host:expect("out", "loaded two")
    switched_to(2)
  end)

  it("loads a script again when a path changes that it watches, a directory too", function()
    local broker = support.brokers.sqlite(dir)
    local data = dir .. "/data"
    assert(os.execute("mkdir '" .. data .. "'"))
    support.write(script, ('local wm = require "wm" wm.watch %q wm.on("t", { group = "g" }, print)'):format(data))
    start(broker)
    support.write(data .. "/new.txt", "x")
    switched_to(2)
    support.write(data .. "/new.txt", "y")
    switched_to(3)
  end)

  it("follows a link that is put elsewhere", function()
    local broker = support.brokers.sqlite(dir)
    assert(os.execute(("mkdir '%s/a' '%s/b'"):format(dir, dir)))
    support.write(dir .. "/a/s.lua", handler())
    support.write(dir .. "/b/s.lua", handler "-- b")
    assert(os.execute(("ln -s a '%s/now' && ln -s now/s.lua '%s'"):format(dir, script)))
    start(broker)
    assert(os.execute(("ln -s b '%s/next' && mv -T '%s/next' '%s/now'"):format(dir, dir, dir)))
    switched_to(2)
  end)

  it("loads again on SIGHUP, also with --no-reload, which watches nothing", function()
    local broker = support.brokers.sqlite(dir)
    support.write(script, handler())
    start(broker, "--no-reload")
    support.write(script, handler "-- changed")
    support.let_pass(0.3)
    assert.not_matches("generation 2", host.err)
    host:kill "sighup"
    switched_to(2)
  end)

  it("hands what wm.keep holds to the next generation before its first message", function()
    local broker = support.brokers.sqlite(dir)
    local code = [[
      local wm = require "wm"
      local hits = wm.keep("hits", { n = 0 })
      wm.on("numbers", { group = "g" }, function() hits.n = hits.n + 1 io.write("n=", hits.n, "\n") io.flush() end)]]
    support.write(script, code)
    start(broker)
    publish(broker, "numbers", "a")
    host:expect("out", "n=1\n")
    for generation = 2, 4 do
      support.write(script, code .. "\n-- " .. generation)
      switched_to(generation)
      publish(broker, "numbers", "a")
      host:expect("out", ("n=%d\n"):format(generation))
    end
  end)

  it("runs wm.on_unload of the old generation after its handlers are done", function()
    local broker = support.brokers.sqlite(dir)
    local code = [[
      local wm = require "wm"
      wm.on("numbers", { group = "g" }, function(msg)
        io.write("begin ", wm.generation, "\n") io.flush()
        wm.sleep(0.5)
        io.write("end ", wm.generation, "\n") io.flush()
      end)
      wm.on_unload(function() io.write("unload ", wm.generation, "\n") io.flush() end)]]
    support.write(script, code)
    start(broker)
    publish(broker, "numbers", "a")
    host:expect("out", "begin 1\n")
    support.write(script, code .. " ")
    switched_to(2)
    host:expect("out", "begin 1\nend 1\nunload 1\n")
  end)

  it("hands out again what the old generation still has in hand after reload_grace", function()
    local broker = support.brokers.sqlite(dir)
    local code = [[
      local wm = require "wm"
      wm.on("numbers", { group = "g" }, function(msg)
        io.write("begin ", wm.generation, " attempt ", msg.attempt, "\n") io.flush()
        if wm.generation == 1 then wm.sleep(1000) end
      end)]]
    support.write(script, code)
    start(broker, "--reload-grace", "200ms")
    publish(broker, "numbers", "a")
    host:expect("out", "begin 1 attempt 1\n")
    support.write(script, code .. " ")
    switched_to(2)
    host:expect("err", "generation 1 is not done within reload_grace; 1 message it had in hand is handed out again")
    host:expect("out", "begin 2 attempt 2\n")
  end)

  for what, never in pairs{ ["waits for ever"] = "wm.sleep(1e6)", ["computes for ever"] = "while true do end" } do
    it("ends an old generation that " .. what .. ", and goes on", function()
      if what:find "computes" and support.sanitizer() == "thread" then
        return pending "signals are held back by the thread sanitizer"
      end
      local broker = support.brokers.sqlite(dir)
      local code = ([[
        local wm = require "wm"
        wm.on("numbers", { group = "g" }, function(msg) print(wm.generation, msg.payload) end)
        if wm.generation == 1 then wm.on_unload(function() %s end) end]]):format(never)
      support.write(script, code)
      start(broker, "--reload-grace", "100ms", "--burst-timeout", "0")
      support.write(script, code .. " ")
      switched_to(2)
      host:expect("err", "generation 1 is not done within reload_grace")
      support.write(script, code .. "  ")
      switched_to(3) -- at most one old one is alive
      publish(broker, "numbers", "a")
      host:expect("out", "3\ta\n")
      host:kill "sigterm"
      assert.equal(0, host:wait(), host.err)
    end)
  end

  it("opens what a new generation wants, closes what it does not, changes options in place", function()
    local broker = support.brokers.sqlite(dir)
    local function code(topic, options)
      return ([[
        local wm = require "wm"
        wm.on("same", { group = "g", %s }, function(msg)
          io.write(wm.generation, " same ", msg.payload, "\n") io.flush() wm.sleep(0.2)
        end)
        wm.on("%s", { group = "g" }, function(msg) io.write(wm.generation, " %s\n") io.flush() end)]]):format(options,
        topic, topic)
    end
    support.write(script, code("first", ""))
    start(broker)
    publish(broker, "first", "x")
    host:expect("out", "1 first\n")
    support.write(script, code("second", "max_in_flight = 4"))
    switched_to(2)
    publish(broker, "second", "x")
    host:expect("out", "2 second\n")
    for i = 1, 3 do publish(broker, "same", tostring(i)) end
    host:expect("out", "2 same 3\n")
    -- What nobody wants any more is left to the group, for whoever comes.
    publish(broker, "first", "later")
    local code_, out = support.run{ "sub", "--broker", broker, "first", "--group", "g", "--raw", "--count", "1",
      "--timeout", "30" }
    assert.equal(0, code_)
    assert.equal("later\n", out)
  end)

  it("keeps the old generation when a new subscription can never work", function()
    local server, why = support.redis()
    if not server then return pending(why) end
    local code = 'local wm = require "wm" wm.on("t", { group = "g" }, function() print "handled" io.flush() end)'
    support.write(script, code)
    start(server.url)
    support.run{ program = "/bin/sh", "-c", "redis-cli -p " .. server.port .. " set taken x" }
    support.write(script, code .. ' wm.on("taken", { group = "g" }, print)')
    local text = host:expect("err", "reload: generation 2 failed, generation 1 goes on: ([^\n]*)")
    assert.matches("taken", text, 1, true)
    publish(server.url, "t", "x")
    host:expect("out", "handled\n")
  end)

  it("adds a script that appears in a directory that is run, ends one that is taken away", function()
    local broker = support.brokers.sqlite(dir)
    local scripts = dir .. "/scripts"
    assert(os.execute("mkdir '" .. scripts .. "'"))
    local code = 'require("wm").on("%s", { group = "g" }, function() print "%s" io.flush() end)'
    support.write(scripts .. "/a.lua", code:format("a", "of a"))
    host = support.start{ "run", "--broker", broker, scripts, cwd = dir }
    host:expect("err", "a.lua: generation 1 is live")
    support.write(scripts .. "/b.lua", code:format("b", "of b"))
    host:expect("err", "b.lua: generation 1 is live")
    publish(broker, "b", "x")
    host:expect("out", "of b\n")
    os.remove(scripts .. "/a.lua")
    host:expect("err", "a.lua: has been taken away, and ends")
    support.write(scripts .. "/a.lua", code:format("a", "of a again"))
    publish(broker, "a", "x")
    host:expect("out", "of a again\n")
  end)
end)
