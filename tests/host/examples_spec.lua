-- The examples run to their end as they stand, on a broker of their own: the default one, a file in the current
-- directory, or Redis.

local support = require "host.support"

local wmlua = assert(os.getenv "WMLUA", "WMLUA must name the program to test")
local examples = assert(os.getenv "WM_SOURCE_DIR", "WM_SOURCE_DIR must name the sources") .. "/examples/"

describe("examples:", function()
  local dir, env

  before_each(function()
    dir = support.directory()
    env = { PATH = wmlua:match "^(.*)/" .. ":" .. os.getenv "PATH" }
  end)
  after_each(support.clean)

  local function start(what)
    what.cwd, what.env = dir, env
    return support.start(what)
  end

  -- Runs a program to its end; returns what it wrote.
  local function run(what)
    local process = start(what)
    assert.equal(0, process:wait(), process.err)
    return process.out
  end

  local function stop(process)
    process:kill "sigterm"
    assert.equal(0, process:wait(), process.err)
    return process.out
  end

  -- The same promise on the default broker and on Redis.
  local function on_both(promise, test)
    it(promise .. " (default broker)", test)
    it(promise .. " (Redis)", function()
      local server, why = support.redis()
      if not server then return pending(why) end
      env.WM_BROKER = server.url
      test()
    end)
  end

  -- All the numbers that a pattern finds in these texts, sorted.
  local function numbers(pattern, ...)
    local all = {}
    for _, text in ipairs{ ... } do
      for number in text:gmatch(pattern) do all[#all + 1] = math.tointeger(number) end
    end
    table.sort(all)
    return all
  end

  local status = [[
Package: whole
Status: install ok installed
Section: libs
Installed-Size: 100
Version: 1.0
Description: two
 lines

Package: large
Status: install ok installed
Section: libs
Installed-Size: 102400
Version: 2.0

Package: halfway
Status: install ok half-installed
Section: web
Installed-Size: 1
Version: 3.0
]]

  on_both("packages counts every package, alerts, and ends", function()
    support.write(dir .. "/status", status)
    local out = run{ program = "/bin/sh", examples .. "packages/run", dir .. "/status" }
    assert.matches("published: 3 packages\n", out, 1, true)
    assert.matches("ALERT large is big: 100 MB\n", out, 1, true)
    assert.matches("ALERT halfway is not whole: install ok half-installed\n", out, 1, true)
    assert.matches("\nlibs%s+2\nweb%s+1\n", out)
    assert.matches("\n3 packages in 2 sections, 2 alerts\n", out, 1, true)
  end)

  it("packages handles all of this machine", function()
    local _, count = ("\n" .. (support.read "/var/lib/dpkg/status" or "")):gsub("\nPackage:", "")
    if count == 0 then return pending "there is no /var/lib/dpkg/status" end
    local out = run{ program = "/bin/sh", examples .. "packages/run" }
    assert.matches(("published: %d packages\n"):format(count), out, 1, true)
    assert.matches(("\n%d packages in "):format(count), out, 1, true)
  end)

  on_both("orders: each group gets all of them, two members of a group share", function()
    local each, most_rounds = 20, 50
    local orders, csv = examples .. "orders/", dir .. "/orders.csv"
    for _, group in ipairs{ "notifications", "spreadsheets" } do
      run{ "sub", "orders-placed", "--group", group, "--count", "0" } -- so that both are there before the first order
    end
    local first = start{ "run", orders .. "notifications.lua" }
    local second = start{ "run", orders .. "notifications.lua" }
    local spreadsheets = start{ "run", orders .. "spreadsheets.lua" }
    local wanted, rounds = {}, 0
    repeat -- who has time gets the next one: as long as more come, both get some
      rounds = rounds + 1
      run{ "run", orders .. "publisher.lua", "--", tostring(each), "0.01" }
      for id = 1, each do wanted[#wanted + 1] = id end
    until (first.lines.out > 0 and second.lines.out > 0) or rounds == most_rounds
    table.sort(wanted)
    local function notified() return numbers("order (%d+)\n", first.out, second.out) end
    local function in_table() return numbers("(%d+),[^\n]*\n", support.read(csv) or "") end
    local all = pcall(support.wait, "all", function() return #notified() >= #wanted and #in_table() >= #wanted end)
    if not all then
      error(("of %d orders %d were notified, %d are in the table\n%s\n%s\n%s"):format(#wanted, #notified(), #in_table(),
        first.err, second.err, spreadsheets.err))
    end
    for _, service in ipairs{ first, second, spreadsheets } do stop(service) end
    assert.is_true(first.lines.out > 0 and second.lines.out > 0)
    assert.same(wanted, notified())
    assert.same(wanted, in_table())
  end)

  it("service.lua prints what is published", function()
    local service = start{ "run", "-e", "io.stdout:setvbuf 'line'", examples .. "service.lua" }
    run{ "pub", "orders", "order-42" }
    service:expect("out", "(order:\torder%-42\n)")
    stop(service)
  end)

  it("subscribe.lua prints what publish.lua has published", function()
    assert.equal("published 3 orders\n", run{ "run", examples .. "publish.lua" })
    local subscriber = start{ "run", examples .. "subscribe.lua" }
    support.wait("three orders", function() return subscriber.lines.out == 3 end)
    assert.matches("^%S+ order%-42\n%S+ order%-43\n%S+ {[^\n]*}\n$", stop(subscriber))
  end)

  it("ordered.lua keeps the order of each customer", function()
    local last, count = {}, 0
    for customer, scan in run{ "run", examples .. "ordered.lua" }:gmatch "customer (%d+), scan (%d+): tracked" do
      assert.equal((last[customer] or 0) + 1, math.tointeger(scan))
      last[customer] = math.tointeger(scan)
      count = count + 1
    end
    assert.equal(100, count)
  end)

  it("batches.lua writes each click once and buries what is no JSON", function()
    local out = run{ "run", examples .. "batches.lua" }
    local ids = numbers("(%d+),[^\n]*\n", support.read(dir .. "/clicks.csv"))
    assert.equal(1199, #ids)
    for i, id in ipairs(ids) do assert.equal(i, id) end
    assert.matches("dead letter: { no JSON\n", out, 1, true)
  end)

  it("keep.lua goes on counting after a reload", function()
    local source, script = support.read(examples .. "keep.lua"), dir .. "/keep.lua"
    support.write(script, source)
    local keep = start{ "run", script }
    local hits, most = 0, 200
    local function hit()
      hits = hits + 1
      run{ "pub", "clicks", "click", "--meta", "page=/home" }
      support.wait("hit " .. hits, function() return keep.lines.out == hits end)
    end
    hit()
    support.write(script, source .. "\n-- changed\n")
    repeat hit() until keep.out:find("generation 2", 1, true) or hits == most
    assert.matches(("generation 2: /home has %d hits\n$"):format(hits), keep.out)
    stop(keep)
  end)
end)
