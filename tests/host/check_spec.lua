-- wmlua check: what is wrong with a script, without a broker; what a broker is.

local support = require "host.support"
local json = require "cjson"

describe("wmlua check", function()
  local dir

  before_each(function() dir = support.directory() end)
  after_each(support.clean)

  local function check(code, ...)
    support.write(dir .. "/s.lua", code)
    return support.run{ cwd = dir, env = { WM_BROKER = "redis://127.0.0.1:1" }, "check", "s.lua", ... }
  end

  for what, case in pairs{
    ["a syntax error"] = { "local x = 1\ny = = 2", "s.lua:2: unexpected symbol near '='" },
    ["an error at load"] = { "\n\nerror 'boom'", "s.lua:3: boom" },
    ["an unknown option"] = { 'local wm = require "wm"\nwm.on("t", { group = "g", max_inflight = 1 }, print)',
      "s.lua:2: wm.on \"t\": unknown option 'max_inflight'; did you mean 'max_in_flight'?" },
    ["a missing group"] = { 'require("wm").on("t", {}, print)', "s.lua:1: wm.on \"t\": group is missing" },
    ["a bad topic"] = { 'require("wm").on("", { group = "g" }, print)', "s.lua:1: .*topic" },
    ["an unknown scheme"] = { 'require("wm").publisher "rediss2://x"', "s.lua:1: .*rediss2" },
    ["a module that is not there"] = { "require 'no.such'", "s.lua:1: module 'no.such' not found" },
    ["an empty file"] = { " \n", "s.lua: the file is empty" },
  } do
    it("names file and line of " .. what, function()
      local code, out = check(case[1])
      assert.equal(1, code)
      assert.matches("^" .. case[2]:gsub("[%[%]?()]", "%%%0"), out)
      assert.equal(1, select(2, out:gsub("\n", "")), "more than a line: " .. out)
    end)
  end

  it("finds nothing wrong with a good script, and runs none of its handlers, tasks or timers", function()
    local code, out, err = check [[
      local wm = require "wm"
      wm.on("t", { group = "g" }, function() error "handled" end)
      wm.every(0.001, function() error "timer" end)
      wm.on_unload(function() error "unload" end)
      for msg in wm.subscriber(nil, { group = "g" }):subscribe "t" do error "looped" end
      error "went on"]]
    assert.equal(0, code, out .. err)
    assert.equal("", out)
    assert.matches("s.lua: ok", err, 1, true)
  end)

  it("prints an object a finding with --json", function()
    local code, out = check('require("wm").on("t", {}, print)', "--json")
    assert.equal(1, code)
    local object = json.decode(out)
    assert.equal("s.lua", object.file)
    assert.equal(1, object.line)
    assert.matches('^wm.on "t": group is missing', object.text)
  end)

  it("says where a flag or variable wins over wm.configure", function()
    support.write(dir .. "/s.lua", 'require("wm").configure{ load_timeout = 5, burst_timeout = 1 }')
    local code, _, err = support.run{ cwd = dir, env = { WM_LOAD_TIMEOUT = "3s" }, "check", "s.lua" }
    assert.equal(0, code)
    assert.matches("s.lua: wm.configure sets load_timeout, but", err, 1, true)
    assert.not_matches("burst_timeout", err)
  end)

  it("ends a script that neither returns nor waits", function()
    local code, out = check("while true do end", "--load-timeout", "200ms")
    assert.equal(1, code)
    assert.matches("s.lua", out, 1, true)
  end)

  it("checks several files, and says which is not there", function()
    support.write(dir .. "/a.lua", "-- fine")
    support.write(dir .. "/b.lua", "x = = 1")
    local code, out, err = support.run{ cwd = dir, "check", "a.lua", "b.lua", "c.lua" }
    assert.equal(4, code)
    assert.matches("^b.lua:1: ", out)
    assert.matches("a.lua: ok", err, 1, true)
    assert.matches("c.lua: no such file", err, 1, true)
  end)

  it("tells what a broker is with --broker, and without a file", function()
    local code, out = support.run{ cwd = dir, "check", "--broker", "sqlite:x.db" }
    assert.equal(0, code)
    for _, name in ipairs{ "server", "durability", "limit", "rights" } do
      assert.matches("\n" .. name .. " +%S", "\n" .. out)
    end
    code, out = support.run{ cwd = dir, "check", "--broker", "sqlite:x.db", "--json" }
    assert.equal(0, code)
    for line in out:gmatch "[^\n]+" do assert.is_string(json.decode(line).name) end
  end)

  it("ends with 3 when the broker cannot be reached", function()
    local code, _, err = support.run{ cwd = dir, "check", "--broker", "redis://app:secret@127.0.0.1:1" }
    assert.equal(3, code)
    assert.matches("redis://app:***@127.0.0.1:1", err, 1, true)
  end)
end)
