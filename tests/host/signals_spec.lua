-- How wmlua run ends by signals.

local support = require "host.support"

describe("signals", function()
  local dir, script, broker

  before_each(function()
    dir = support.directory()
    script = dir .. "/script.lua"
    broker = "sqlite:" .. dir .. "/broker.db"
    assert.equal(0, (support.run{ "sub", "--broker", broker, "t", "--group", "g", "--count", "0" }))
  end)
  after_each(support.clean)

  local function start(code, ...)
    support.write(script, code)
    local p = support.start{ cwd = dir, "run", "--broker", broker, script, ... }
    p:expect("err", "generation 1 is live")
    return p
  end

  local function publish(...)
    local code, _, err = support.run{ "pub", "-q", "--broker", broker, "t", "--input", "lines",
      stdin = table.concat({ ... }, "\n") .. "\n" }
    assert.equal(0, code, err)
  end

  local function left()
    local _, out = support.run{ "sub", "--broker", broker, "t", "--group", "g", "--raw", "--timeout", "1" }
    return out
  end

  local SLOW = [[
    local wm = require "wm"
    wm.on_unload(function() print "unload" end)
    wm.on("t", { group = "g" }, function(msg)
      print("begin", msg.payload)
      wm.sleep(0.5)
      print("end", msg.payload)
    end)]]

  for _, signal in ipairs{ "sigterm", "sigint" } do
    it("finishes what is in hand, gives back the rest and ends with 0 on " .. signal, function()
      local p = start(SLOW)
      publish("1", "2", "3")
      p:expect("out", "begin\t1\n")
      p:kill(signal)
      assert.equal(0, p:wait(), p.err)
      assert.equal("begin\t1\nend\t1\nunload\n", p.out)
      assert.equal("2\n3\n", left())
    end)
  end

  it("ends at once on a second signal, with 128 + its number", function()
    local p = start((SLOW:gsub("0%.5", "1000")))
    publish "1"
    p:expect("out", "begin\t1\n")
    p:kill "sigterm"
    p:expect("err", "SIGTERM: closing; once more ends at once")
    p:kill "sigterm"
    assert.equal(143, p:wait())
    assert.not_matches("end", p.out)
  end)

  it("ends with 0 while a script only waits, in its main chunk or in tasks", function()
    local p = start [[
      local wm = require "wm"
      wm.spawn(function() wm.sleep(1000) end)
      require("luv").new_timer():start(1000000, 0, function() end)
      for msg in wm.subscriber(nil, { group = "h" }):subscribe "t" do msg:ack() end
      print "the loop has ended"]]
    p:kill "sigterm"
    assert.equal(0, p:wait(), p.err)
  end)

  it("ends while a script is still loading", function()
    support.write(script, "print 'loading' while true do end")
    local p = support.start{ cwd = dir, "run", "--broker", broker, script }
    p:expect("out", "loading\n")
    p:kill "sigterm"
    p:wait()
    assert.is_true(p.code == 0 or p.code == 1)
  end)

  it("closes gently with several workers and scripts", function()
    support.write(dir .. "/other.lua", 'require("wm").on("other", { group = "g" }, print)')
    local p = start(SLOW, dir .. "/other.lua", "--workers", "3")
    p:expect("err", "other.lua: generation 1 is live")
    publish "1"
    p:expect("out", "begin\t1\n")
    p:kill "sigterm"
    assert.equal(0, p:wait(), p.err)
    assert.matches("end\t1\n", p.out, 1, true)
    assert.equal("", left())
  end)

  it("leaves SIGHUP alone that its parent has it ignore, as nohup does", function()
    support.write(script, SLOW)
    local p = support.start{ program = "/bin/sh", cwd = dir, env = { WMLUA = os.getenv "WMLUA" },
      "-c", 'trap "" HUP; exec "$WMLUA" run --broker "$1" "$2"', "sh", broker, script }
    p:expect("err", "generation 1 is live")
    p:kill "sighup"
    support.let_pass(0.3)
    assert.not_matches("generation 2", p.err)
    p:kill "sigterm"
    assert.equal(0, p:wait(), p.err)
  end)
end)
