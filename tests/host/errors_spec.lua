-- What goes wrong is named, with the way out, and the exit code is not 0.

local support = require "host.support"
local uv = require "luv"

local run = support.run

describe("errors", function()
  local dir

  before_each(function() dir = support.directory() end)
  after_each(support.clean)

  local function fails(code, pattern, what)
    what.cwd = what.cwd or dir
    local exit, out, err = run(what)
    assert.equal(code, exit, out .. err)
    assert.matches(pattern, err, 1, true)
    return err
  end

  -- ---- usage --------------------------------------------------------------------------------------------------

  it("suggests the nearest command, flag, option and word of help", function()
    fails(2, "'pbu' is neither a command nor a file; did you mean 'pub'?", { "pbu", "x" })
    fails(2, "unknown flag '--metta'; did you mean '--meta'?", { "pub", "--metta", "a=b", "t" })
    fails(2, "did you mean 'max_in_flight'", { "sub", "t", "--broker", "memory:?max_inflight=3" })
    fails(2, "nothing is called 'timeot'; did you mean 'timeout'?", { "help", "timeot" })
  end)

  it("names what is missing, too much or wrong on the command line", function()
    fails(2, "TOPIC [PAYLOAD|-] expected, got 0 arguments", { "pub" })
    fails(2, "one argument too many: 'c'", { "pub", "a", "b", "c" })
    fails(2, "'--count' needs a value", { "sub", "t", "--count" })
    fails(2, "--count': a whole number expected, got 'many'", { "sub", "t", "--count", "many" })
    fails(2, "'--json' takes no value", { "sub", "t", "--json=yes" })
    fails(2, "unknown flag '-z'", { "sub", "t", "-z" })
    fails(2, "KEY=VALUE expected, got 'x'", { "pub", "t", "p", "--meta", "x" })
    fails(2, "--json and --raw exclude each other", { "sub", "t", "--json", "--raw" })
    fails(2, "nothing was named to run", { "run" })
    fails(2, "option 'WM_WORKERS': a whole number from 1 to 256 expected, got 'x'",
      { "run", "-e", "", env = { WM_WORKERS = "x" } })
    fails(2, "usage: wmlua COMMAND", {})
  end)

  it("explains commands, flags, options, groups of options, codes and exit codes", function()
    for word, text in pairs{
      pub = "usage: wmlua pub TOPIC", workers = "--workers N", max_in_flight = "max_in_flight (subscription)",
      redis = "command_timeout", on = "takeover", retry = "what follows a failure",
      TIMEOUT = "not within the time given", ["3"] = "denies access",
      ["143"] = "signal 15",
    } do
      local code, out = run{ "help", word }
      assert.equal(0, code)
      assert.matches(text, out, 1, true)
    end
    local _, out = run{ "help" }
    for _, command in ipairs{ "run", "pub", "sub", "check", "version", "help" } do
      assert.matches("\n  " .. command .. " +%S", out)
      local _, own = run{ command, "--help" }
      assert.matches("usage: wmlua " .. command, own, 1, true)
    end
  end)

  -- ---- brokers ------------------------------------------------------------------------------------------------

  it("names an unknown scheme, and one that this build lacks", function()
    fails(2, "reddis://", { "pub", "--broker", "reddis://localhost", "t", "x" })
    local err = fails(1, "kafka://broker", { "pub", "--broker", "kafka://broker", "t", "x" })
    assert.matches("wmlua version", err, 1, true)
  end)

  it("names a bad topic and an unknown option of the URL", function()
    fails(2, "topic", { "pub", "--broker", "sqlite:x.db", "", "x" })
    fails(2, "journal", { "pub", "--broker", "sqlite:x.db?journal=x", "t", "x" })
  end)

  it("names a server that is not there, password masked", function()
    local url, masked = "redis://app:secret@127.0.0.1:1", "redis://app:***@127.0.0.1:1"
    fails(3, masked, { "pub", "--broker", url, "--timeout", "200ms", "t", "x" })
    fails(3, masked, { "sub", "--broker", url, "--timeout", "200ms", "t", "--group", "g", "--count", "1" })
  end)

  it("names a password that the server refuses", function()
    local server, why = support.redis()
    if not server then return pending(why) end
    local url = ("redis://nobody:secret@127.0.0.1:%d"):format(server.port)
    fails(3, "redis://nobody:***@", { "pub", "--broker", url, "--timeout", "1s", "t", "x" })
    fails(3, "redis://nobody:***@", { "sub", "--broker", url, "--timeout", "1s", "t", "--group", "g" })
    support.write(dir .. "/s.lua", 'require("wm").on("t", { group = "g" }, print)')
    fails(3, "redis://nobody:***@", { "run", "--broker", url, "s.lua" })
  end)

  it("goes on trying while a server is away, and works once it is there", function()
    local server, why = support.redis()
    if not server then return pending(why) end
    server.process:kill "sigkill"
    server.process:wait()
    support.write(dir .. "/s.lua", 'require("wm").on("t", { group = "g" }, function(msg) print(msg.payload) end)')
    local p = support.start{ cwd = dir, "run", "--broker", server.url, "s.lua" }
    p:expect("err", "redis://127.0.0.1:" .. server.port)
    p:expect("err", "onnection refused")
    assert.is_nil(p.code)
    local again = support.start{ program = "redis-server", env = { LD_PRELOAD = false },
      "--port", tostring(server.port), "--bind", "127.0.0.1", "--save", "", "--dir", dir }
    again:expect("out", "Ready to accept connections")
    assert.equal(0, (run{ "pub", "--broker", server.url, "t", "hello" }))
    p:expect("out", "hello\n")
  end)

  -- ---- files --------------------------------------------------------------------------------------------------

  it("names a script or directory that is not there, or has none", function()
    fails(4, "nope.lua: No such file or directory", { "run", "nope.lua" })
    fails(4, "nope.lua: No such file or directory", { "nope.lua" })
    fails(4, "there is no *.lua file in this directory", { "run", dir })
    fails(4, "--env-file nope: No such file", { "run", "--env-file", "nope", "-e", "" })
    support.write(dir .. "/env", "A=1\nwhat is this\n")
    fails(2, "--env-file env:2: NAME=VALUE expected", { "run", "--env-file", "env", "-e", "" })
  end)

  it("names a directory that cannot be written to", function()
    if uv.getuid() == 0 then return pending "root may write anywhere" end
    local closed = dir .. "/closed"
    assert(uv.fs_mkdir(closed, tonumber("555", 8)))
    local file = closed .. "/broker.db"
    fails(3, file, { "pub", "--broker", "sqlite:" .. file, "--timeout", "500ms", "t", "x" })
    fails(3, file, { "sub", "--broker", "sqlite:" .. file, "--timeout", "500ms", "t", "--group", "g" })
    uv.fs_chmod(closed, tonumber("755", 8))
  end)

  it("names a disk that is full; what was confirmed before stays, and it works again once there is room", function()
    local broker = "sqlite:" .. dir .. "/broker.db"
    assert.equal(0, (run{ "sub", "--broker", broker, "t", "--group", "g", "--count", "0" }))
    assert.equal(0, (run{ "pub", "--broker", broker, "t", "before" }))
    -- No file may grow beyond this, which is as good as a full disk, without rights to make one.
    local code, out, err = run{ program = "/bin/sh", cwd = dir, "-c",
      'trap "" XFSZ; ulimit -f 256; exec "$WMLUA" pub --broker "$1" --timeout 1s t --input lines', "sh", broker,
      stdin = ("x"):rep(1000):rep(2000, "\n"), env = { WMLUA = os.getenv "WMLUA" } }
    assert.is_true(code ~= 0, err)
    assert.matches("broker.db", err, 1, true)
    local _, confirmed = out:gsub("\n", "")
    assert.equal(0, (run{ "pub", "--broker", broker, "t", "after" }))
    local _, received = run{ "sub", "--broker", broker, "t", "--group", "g", "--raw", "--timeout", "2" }
    assert.matches("^before\n", received)
    assert.matches("after\n$", received)
    assert.is_true(select(2, received:gsub("\n", "")) >= confirmed + 2)
  end)

  -- ---- scripts ------------------------------------------------------------------------------------------------

  it("names message, handler and time of a forgotten ack", function()
    local broker = "sqlite:" .. dir .. "/broker.db"
    assert.equal(0, (run{ "sub", "--broker", broker, "t", "--group", "g", "--count", "0" }))
    assert.equal(0, (run{ "pub", "--broker", broker, "t", "x", "--uuid", "forgotten-1" }))
    support.write(dir .. "/s.lua", [[
      local wm = require "wm"
      local sub = wm.subscriber(nil, { group = "g", stall_warning = 0.2, takeover = 1 })
      for msg in sub:subscribe "t" do print(msg.payload) end]])
    local p = support.start{ cwd = dir, "run", "--broker", broker, "s.lua" }
    p:expect("err", "forgotten%-1")
    p:kill "sigkill"
    p:wait()
    local _, out = run{ "sub", "--broker", broker .. "?takeover=1s", "t", "--group", "g", "--raw", "--count", "1",
      "--timeout", "30" }
    assert.equal("x\n", out)
  end)

  it("loses no message to a handler's error, which it shows with file and line", function()
    local broker = "sqlite:" .. dir .. "/broker.db"
    assert.equal(0, (run{ "sub", "--broker", broker, "t", "--group", "g", "--count", "0" }))
    assert.equal(0, (run{ "pub", "--broker", broker, "t", "x" }))
    support.write(dir .. "/s.lua", [[
      local wm = require "wm"
      wm.on("t", { group = "g", retry = { 0.01 } }, function(msg)
        if msg.attempt == 1 then error "not yet" end
        print(msg.payload, msg.attempt)
      end)]])
    local p = support.start{ cwd = dir, "run", "--broker", broker, "s.lua" }
    p:expect("out", "x\t2\n")
    assert.matches("s.lua:3: not yet", p.err, 1, true)
  end)
end)
