-- wmlua run: what a script finds, workers, limits, how it ends.

local support = require "host.support"
local json = require "cjson"

describe("wmlua run", function()
  local dir, script, broker

  before_each(function()
    dir = support.directory()
    script = dir .. "/script.lua"
    broker = "sqlite:" .. dir .. "/broker.db"
  end)
  after_each(support.clean)

  local function start(code, what)
    what = what or {}
    support.write(script, code)
    local p = support.start{ cwd = dir, env = what.env, "run", "--broker", broker, script, table.unpack(what) }
    return p
  end

  local function run(code, what)
    local p = start(code, what)
    local exit = p:wait()
    return exit, p.out, p.err
  end

  local function publish(topic, ...)
    local code, _, err = support.run{ "pub", "-q", "--broker", broker, topic, "--input", "lines",
      stdin = table.concat({ ... }, "\n") .. "\n" }
    assert.equal(0, code, err)
  end

  -- A group that is there before the host, so that nothing is missed.
  local function group(topic, name)
    assert.equal(0, (support.run{ "sub", "--broker", broker, topic, "--group", name, "--count", "0" }))
  end

  -- ---- a script as lua would run it ---------------------------------------------------------------------------

  it("gives arguments in arg and in ..., as lua does", function()
    local code, out = run([[print(arg[0]:match "[^/]*$", #arg, arg[1], arg[2], ...)]], { "--", "x", "-y" })
    assert.equal(0, code)
    assert.equal("script.lua\t2\tx\t-y\tx\t-y\n", out)
  end)

  it("runs a file named in the place of a command, whose flags are the script's", function()
    support.write(script, "#!/usr/bin/env wmlua\nprint(...)\nerror 'line 3'\n")
    local code, out, err = support.run{ script, "--workers", "9", "-h", cwd = dir }
    assert.equal(1, code)
    assert.equal("--workers\t9\t-h\n", out)
    assert.matches("script.lua:3: line 3", err, 1, true)
  end)

  it("shows the traceback of an error and ends with 1", function()
    local code, _, err = run "local function deep() error 'boom' end\nlocal function f() deep() end\nf()\n"
    assert.equal(1, code)
    assert.matches("wmlua: [^\n]*script.lua:1: boom\nstack traceback:\n.*script.lua:2: in", err)
  end)

  it("names file and line of a syntax error", function()
    local code, _, err = run "local x = 1\nlocal y = = 2\n"
    assert.equal(1, code)
    assert.matches("script.lua:2: unexpected symbol near '='", err, 1, true)
  end)

  it("loads text only, never bytecode", function()
    support.write(script, string.dump(function() print "bytecode ran" end))
    local code, out, err = support.run{ "run", script, cwd = dir }
    assert.equal(1, code)
    assert.equal("", out)
    assert.matches("attempt to load a binary chunk", err, 1, true)
  end)

  it("runs LUA_INIT, -l and -e before the script, and -e without one", function()
    support.write(dir .. "/words.lua", "return { hello = 'hi' }")
    local code, out = run("print(init, words.hello, x)", { "-l", "words", "-e", "x = 3",
      env = { LUA_INIT = "init = 'from LUA_INIT'" } })
    assert.equal(0, code)
    assert.equal("from LUA_INIT\thi\t3\n", out)
    code, out = support.run{ "run", "-e", "print(1 + 1)", cwd = dir }
    assert.equal(0, code)
    assert.equal("2\n", out)
  end)

  it("finds modules by LUA_PATH_5_4, and its own wherever it is started", function()
    assert(os.execute("mkdir '" .. dir .. "/lib'"))
    support.write(dir .. "/lib/words.lua", "return 'found'")
    support.write(script, "print(require 'words', require('wm').version)")
    local code, out = support.run{ "run", script, cwd = "/", env = { WM_BROKER = broker,
      LUA_PATH_5_4 = dir .. "/lib/?.lua;;" } }
    assert.equal(0, code)
    assert.matches("^found\t%d+%.%d+%.%d+\n$", out)
  end)

  it("reads an environment file; variables that are set win, flags win over them", function()
    support.write(dir .. "/env", '# a comment\nexport A="from file"\nB=2\nWM_LOG=error\n')
    local code, out, err = run("print(os.getenv 'A', os.getenv 'B')", { "--env-file", dir .. "/env",
      env = { B = "set before" } })
    assert.equal(0, code)
    assert.equal("from file\tset before\n", out)
    assert.equal("", err)
    code, out, err = run("-- nothing", { "--env-file", dir .. "/env", "--log", "info" })
    assert.equal(0, code, out)
    assert.matches("broker is", err, 1, true)
  end)

  it("names the absolute path of its broker", function()
    support.write(script, "-- nothing")
    local _, _, err = support.run{ "run", script, cwd = dir, env = { WM_BROKER = "sqlite:here.db" } }
    assert.matches("broker is sqlite:" .. dir .. "/here.db", err, 1, true)
    _, _, err = support.run{ "run", "--broker", "redis://app:secret@localhost:1/", script, cwd = dir }
    assert.matches("broker is redis://app:***@localhost:1/", err, 1, true)
  end)

  it("ends with 0 when nothing is left to do", function()
    local code, out = run [[
      local wm = require "wm"
      wm.spawn(function() wm.sleep(0.05) print "done" end)
      require("luv").new_timer():start(100, 0, function() print "timer" require("luv").stop() end)]]
    assert.equal(0, code)
    assert.equal("done\ntimer\n", out)
  end)

  it("refuses an empty file, which is no script yet", function()
    local code, _, err = run "\n  \n"
    assert.equal(1, code)
    assert.matches("script.lua: the file is empty", err, 1, true)
  end)

  it("writes JSON log lines on demand, the script's own too", function()
    local _, _, err = run([[
      local wm = require "wm"
      wm.log.warn("odd", { n = 1 })
      error "boom"]], { "--log-format", "json" })
    local levels = {}
    for line in err:gmatch "[^\n]+" do
      local object = json.decode(line)
      assert.is_string(object.time)
      levels[object.level] = object
    end
    assert.equal("odd", levels.warn.text)
    assert.equal(1, levels.warn.n)
    assert.matches("boom", levels.error.text, 1, true)
  end)

  -- ---- os.exit ------------------------------------------------------------------------------------------------

  for what, case in pairs{
    ["the main chunk"] = { "os.exit(7)", 7 },
    ["the main chunk, with true"] = { "os.exit(true)", 0 },
    ["the main chunk, with false"] = { "os.exit(false)", 1 },
    ["a task"] = { "local wm = require 'wm' wm.spawn(function() wm.sleep(0.01) os.exit(5) end)", 5 },
    ["a libuv callback"] = { "require('luv').new_timer():start(10, 1000, function() os.exit(6) end)", 6 },
  } do
    it("exits with the code that os.exit was given in " .. what, function()
      local code, out, err = run(case[1])
      assert.equal(case[2], code, err)
      assert.equal("", out)
    end)
  end

  it("hands a message out again in whose handler os.exit was called, and runs wm.on_unload", function()
    group("t", "g")
    publish("t", "a")
    local code, out, err = run [[
      local wm = require "wm"
      wm.on_unload(function() print "unload" end)
      wm.on("t", { group = "g" }, function(msg) print(msg.payload) os.exit(3) end)]]
    assert.equal(3, code, err)
    assert.equal("a\nunload\n", out)
    local _, again = support.run{ "sub", "--broker", broker, "t", "--group", "g", "--count", "1", "--timeout", "30",
      "--raw" }
    assert.equal("a\n", again)
  end)

  -- ---- workers ------------------------------------------------------------------------------------------------

  it("runs a script in N workers whose subscription is one: max_in_flight counts over all", function()
    group("t", "g")
    publish("t", "1", "2", "3", "4", "5", "6", "7", "8")
    local p = start([[
      local wm, uv = require "wm", require "luv"
      wm.on("t", { group = "g", max_in_flight = 2 }, function(msg)
        io.write(("begin\t%d\t%s\n"):format(wm.worker, msg.payload)) -- at once: several threads write
        local over = uv.hrtime() + 1e8 -- computes: a worker that only waits would take the next itself
        while uv.hrtime() < over do end
        io.write(("end\t%d\t%s\n"):format(wm.worker, msg.payload))
      end)]], { "--workers", "4" })
    support.wait("all handled", function() return p.lines.out == 16 end)
    p:kill "sigterm"
    assert.equal(0, p:wait(), p.err)
    local running, workers = 0, {}
    for what, worker in p.out:gmatch "(%a+)\t(%d)\t%d+\n" do
      running = running + (what == "begin" and 1 or -1)
      assert.is_true(running <= 2)
      workers[worker] = true
    end
    assert.is_not_nil(next(workers, next(workers)), "one worker got all")
  end)

  it("lets a worker leave a subscription gently, whose messages the others get", function()
    group("t", "g")
    local p = start([[
      local wm = require "wm"
      local h
      h = wm.on("t", { group = "g", max_in_flight = 2 }, function(msg)
        print("begin", wm.worker, msg.payload)
        if msg.payload == "first" then
          wm.spawn(function() h:close() print("left", wm.worker) end)
          wm.sleep(0.3)
        end
        print("end", wm.worker, msg.payload, msg.attempt)
      end)]], { "--workers", "2" })
    p:expect("err", "generation 1 is live")
    publish("t", "first")
    local worker = p:expect("out", "begin\t(%d)\tfirst\n")
    publish("t", "2", "3", "4", "5", "6")
    p:expect("out", ("end\t%s\tfirst\t1\nleft\t%s\n"):format(worker, worker))
    support.wait("the other gets the rest", function() return p.lines.out == 13 end)
    publish("t", "7")
    p:expect("out", ("end\t%d\t7\t1\n"):format(3 - worker))
    p:kill "sigterm"
    assert.equal(0, p:wait(), p.err)
    assert.equal(1, select(2, p.out:gsub("begin\t%d\tfirst", "")))
  end)

  it("gives each worker a copy without a group", function()
    local p = start([[
      local wm = require "wm"
      wm.on("t", { group = false, connect_timeout = 30 }, function(msg) print(wm.worker, msg.payload) end)
      wm.spawn(function() wm.sleep(0.2) print "ready" end)]], { "--workers", "3" })
    p:expect("out", "ready\nready\nready\n")
    publish("t", "x")
    for worker = 1, 3 do p:expect("out", ("%d\tx\n"):format(worker)) end
  end)

  it("refuses two subscriptions of one topic and group whose options differ", function()
    local code, _, err = run [[
      local wm = require "wm"
      wm.on("t", { group = "g" }, print)
      wm.on("t", { group = "g", name = "other", max_in_flight = 3 }, print)]]
    assert.equal(1, code)
    assert.matches("script.lua:3: .*is subscribed to at [^\n]*script.lua:2 with other options", err)
  end)

  it("goes on after an error in a libuv callback, which it shows with its traceback", function()
    local code, out, err = run [[
      local uv = require "luv"
      local n, timer = 0, uv.new_timer()
      timer:start(1, 1, function()
        n = n + 1
        if n == 3 then timer:close() print "third" end
        error("callback " .. n)
      end)]]
    assert.equal(0, code)
    assert.equal("third\n", out)
    assert.matches("error in a libuv callback: [^\n]*script.lua:6: callback 1\nstack traceback", err)
    assert.matches("callback 3", err, 1, true)
  end)

  it("lets programs that a script starts meet signals as usual", function()
    local code, out = run [[
      local p = io.popen("(sleep 100 & pid=$!; kill $pid; wait $pid; echo ended $?); yes | head -n 1", "r")
      io.write(p:read "a")]]
    assert.equal(0, code)
    assert.equal("ended 143\ny\n", out)
  end)

  -- The thread sanitizer holds signals back until a thread calls something that it knows, which Lua does not.
  local function interruptible()
    if support.sanitizer() ~= "thread" then return true end
    pending "signals are held back by the thread sanitizer"
  end

  -- ---- limits -------------------------------------------------------------------------------------------------

  local SPINNERS = {
    ["a loop"] = "while true do end",
    ["a loop of pcall"] = "while true do pcall(function() while true do end end) end",
    ["a nested coroutine"] = "coroutine.wrap(function() while true do end end)()",
    ["nested coroutines that are resumed again and again"] =
      "while true do coroutine.resume(coroutine.create(function() for i = 1, 1e3 do end end)) end",
    ["coroutines whose errors are caught"] =
      "while true do coroutine.resume(coroutine.create(function() while true do end end)) end",
  }

  for what, spin in pairs(SPINNERS) do
    it("stops a handler that computes for longer than burst_timeout: " .. what, function()
      if not interruptible() then return end
      group("t", "g")
      publish("t", "spin", "next")
      local p = start(([[
        local wm = require "wm"
        wm.on("t", { group = "g", ordered = false, retry = { 1000 } }, function(msg)
          if msg.payload == "spin" then %s end
          print("handled", msg.payload)
        end)]]):format(spin), { "--burst-timeout", "200ms" })
      p:expect("out", "handled\tnext\n")
      p:expect("err", "script.lua:%d+: computed for longer than burst_timeout without yielding")
      p:kill "sigterm"
      assert.equal(0, p:wait(), p.err)
      assert.not_matches("handled\tspin", p.out)
    end)
  end

  it("counts computing from one message to the next, and not what it waits", function()
    group("t", "g")
    publish("t", "1", "2", "3", "4", "5", "6")
    local p = start([[
      local wm = require "wm"
      local function compute(s) local till = os.clock() + s while os.clock() < till do end end
      wm.on("t", { group = "g" }, function(msg)
        compute(0.4)
        if msg.payload == "6" then wm.sleep(1.2) compute(0.4) end
        print("handled", msg.payload)
      end)]], { "--burst-timeout", "1s" })
    p:expect("out", "handled\t6\n")
    p:kill "sigterm"
    p:wait()
    assert.not_matches("burst_timeout", p.err)
  end)

  it("stops a main chunk that computes too long, and a callback", function()
    if not interruptible() then return end
    local code, _, err = run("while true do end", { "--burst-timeout", "200ms" })
    assert.equal(1, code)
    assert.matches("script.lua:1: computed for longer than burst_timeout", err, 1, true)
    code, _, err = run([[
      local uv = require "luv"
      local timer = uv.new_timer()
      timer:start(1, 0, function() timer:close() while true do pcall(error) end end)]], { "--burst-timeout", "200ms" })
    assert.equal(0, code)
    assert.matches("error in a libuv callback: [^\n]*script.lua:3: computed for longer", err)
  end)

  it("reports C code that computes too long, which cannot be stopped; other workers go on", function()
    if not interruptible() then return end
    group("t", "g")
    publish("t", "match", "next")
    local p = start([[
      local wm, uv = require "wm", require "luv"
      wm.on("t", { group = "g", max_in_flight = 2 }, function(msg)
        if msg.payload == "match" then
          local text = ("a"):rep(28)
          pcall(string.find, text, ("a?"):rep(28) .. ("a"):rep(28) .. "b")
          pcall(string.find, text, ("a-"):rep(12) .. "b")
        end
        print("handled", msg.payload)
      end)]], { "--burst-timeout", "100ms", "--workers", "2" })
    p:expect("err", "worker %d: has computed for [%d.]+ s; it is in one call of C code")
    p:expect("out", "handled\tnext\n")
  end)

  it("fails what needs more than memory_limit, as an error like any other", function()
    group("t", "g")
    publish("t", "big", "small")
    local p = start([[
      local wm = require "wm"
      wm.on("t", { group = "g", ordered = false, retry = { 1000 } }, function(msg)
        if msg.payload == "big" then local t = {} for i = 1, 1e8 do t[i] = ("x"):rep(1000) .. i end end
        print("handled", msg.payload)
      end)]], { "--memory-limit", "16M" })
    p:expect("out", "handled\tsmall\n")
    p:expect("err", "memory_limit of 16777216 bytes is reached")
    p:expect("err", "handler 't': not enough memory")
    p:kill "sigterm"
    assert.equal(0, p:wait(), p.err)
  end)

  it("takes settings from wm.configure, unless a flag or variable says otherwise", function()
    if not interruptible() then return end
    local code, _, err = run [[
      require("wm").configure{ burst_timeout = 0.2 }
      while true do end]]
    assert.equal(1, code)
    assert.matches("burst_timeout", err, 1, true)
    code, _, err = run([[
      require("wm").configure{ load_timeout = 0.2 }
      local till = os.clock() + 1
      while os.clock() < till do end]], { env = { WM_LOAD_TIMEOUT = "30s" } })
    assert.equal(0, code, err)
  end)

  it("fails a script that neither returns nor waits within load_timeout", function()
    if not interruptible() then return end
    local code, _, err = run("while true do end", { "--load-timeout", "200ms" })
    assert.equal(1, code)
    assert.matches("has not loaded within load_timeout", err, 1, true)
  end)

  it("is idle when there is nothing to do: little memory, no computing", function()
    local function idle(url)
      broker = url
      local p = start [[require("wm").on("t", { group = "g" }, print)]]
      p:expect("err", "generation 1 is live")
      if support.sanitizer() then return end
      support.let_pass(1)
      local before = support.cpu_ms(p.pid)
      support.let_pass(5)
      local spent, resident = support.cpu_ms(p.pid) - before, support.resident_kib(p.pid)
      assert.is_true(spent <= 50, ("%d ms of computing in 5 s"):format(spent))
      assert.is_true(resident < 20 * 1024, ("%d KiB resident"):format(resident))
    end
    idle(broker)
    local server = support.redis()
    if server then idle(server.url) end
  end)
end)
