-- Two hosts on one group of a broker that several processes use.

local support = require "host.support"

local TAKEOVER = 2 -- seconds

describe("two hosts on one group", function()
  local dir

  before_each(function() dir = support.directory() end)
  after_each(support.clean)

  local function script(name, code)
    support.write(dir .. "/" .. name, ([[
      local wm = require "wm"
      wm.on("t", { group = "g", takeover = %d, prefetch = 10, max_in_flight = 4, from = "oldest" }, function(msg)
        %s
      end)]]):format(TAKEOVER, code))
    return name
  end

  local function start(broker, name)
    local p = support.start{ cwd = dir, "run", "--broker", broker, name }
    p:expect("err", "generation 1 is live")
    return p
  end

  local function publish(broker, from, to)
    local lines = {}
    for i = from, to do lines[#lines + 1] = i end
    assert.equal(0, (support.run{ "pub", "-q", "--broker", broker, "t", "--input", "lines",
      stdin = table.concat(lines, "\n") .. "\n" }))
  end

  local function count(...)
    local seen = {}
    for _, p in ipairs{ ... } do
      for payload in p.out:gmatch "done (%d+)\n" do seen[payload] = (seen[payload] or 0) + 1 end
    end
    return seen
  end

  for name, make in pairs(support.brokers) do
    it("share its messages, and one takes over what the other had when that is killed: " .. name, function()
      local broker, why = make(dir)
      if not broker then return pending(why) end
      local work = script("work.lua", 'wm.sleep(0.02) print("done " .. msg.payload)')
      local a, b = start(broker, work), start(broker, work)
      publish(broker, 1, 200)
      support.wait("both have got some", function() return a.lines.out > 10 and b.lines.out > 10 end)
      a:kill "sigkill"
      a:wait()
      publish(broker, 201, 220)
      local total = 220
      support.wait("all are handled", function()
        local n = 0
        for _ in pairs(count(a, b)) do n = n + 1 end
        return n == total
      end)
      -- What was in the dead one's hands, or acked and not yet told, may come twice; no more than that.
      local twice = 0
      for _, times in pairs(count(a, b)) do
        assert.is_true(times <= 2)
        if times == 2 then twice = twice + 1 end
      end
      assert.is_true(twice <= 20, twice .. " came twice")
      b:kill "sigterm"
      assert.equal(0, b:wait(), b.err)
    end)

    it("never take over what a slow handler that lives has in hand: " .. name, function()
      local broker, why = make(dir)
      if not broker then return pending(why) end
      local slow = start(broker, script("slow.lua",
        ('print("begin " .. msg.payload) wm.sleep(%d) print("done " .. msg.payload)'):format(3 * TAKEOVER)))
      publish(broker, 1, 4)
      support.wait("all are in hand", function() return slow.lines.out == 4 end)
      local quick = start(broker, script("quick.lua", 'print("done " .. msg.payload)'))
      publish(broker, 5, 8)
      support.wait("the slow ones are done", function()
        local seen = count(slow)
        return seen["1"] and seen["2"] and seen["3"] and seen["4"]
      end)
      for payload = 1, 4 do assert.equal(1, count(slow, quick)[tostring(payload)]) end
      for _, p in ipairs{ slow, quick } do p:kill "sigkill" end
    end)
  end
end)
