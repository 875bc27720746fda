-- wmlua pub and wmlua sub, on SQLite (the broker without a server) unless said otherwise.

local support = require "host.support"
local uv = require "luv"

local run = support.run

local function lines_of(text)
  local lines = {}
  for line in text:gmatch "([^\n]*)\n" do lines[#lines + 1] = line end
  return lines
end

describe("wmlua pub and sub", function()
  local dir, broker

  before_each(function()
    dir = support.directory()
    broker = "sqlite:" .. dir .. "/broker.db"
  end)
  after_each(support.clean)

  local function pub(what)
    table.insert(what, 1, "pub")
    what.env = { WM_BROKER = broker }
    local code, out, err = run(what)
    return code, out, err
  end

  local function sub(what)
    table.insert(what, 1, "sub")
    what.env = { WM_BROKER = broker }
    return run(what)
  end

  local function group(topic, name) assert.equal(0, (sub{ topic, "--group", name, "--count", "0" })) end

  it("prints the uuid of what it has published", function()
    group("t", "g")
    local code, out = pub{ "t", "hello" }
    assert.equal(0, code)
    local uuid = out:match "^(%x+%-%x+%-4%x+%-%x+%-%x+)\n$"
    assert.is_string(uuid)
    local _, received = sub{ "t", "--group", "g", "--count", "1", "--timeout", "30", "--json" }
    assert.matches('"uuid":"' .. uuid .. '","payload":"hello"', received, 1, true)
  end)

  it("takes uuid and metadata from flags", function()
    group("t", "g")
    assert.equal(0, (pub{ "t", "x", "--uuid", "order-1", "--meta", "type=Order", "-m", "note=a=b" }))
    local _, out = sub{ "t", "--group", "g", "--count", "1", "--timeout", "30" }
    assert.matches("^%S+\torder%-1\t[^\t]*type=Order[^\t]*\tx\n$", out)
    assert.matches("note=a=b", out, 1, true)
  end)

  it("publishes standard input whole, newlines and all", function()
    group("t", "g")
    assert.equal(0, (pub{ "t", stdin = "a\nb\n" }))
    local _, out = sub{ "t", "--group", "g", "--count", "1", "--timeout", "30", "--raw" }
    assert.equal("a\nb\n\n", out)
  end)

  it("publishes a message a line, in order", function()
    group("t", "g")
    local code, out = pub{ "t", "--input", "lines", stdin = "1\n2\r\n\n4" }
    assert.equal(0, code)
    assert.equal(4, #lines_of(out))
    local _, received = sub{ "t", "--group", "g", "--count", "4", "--timeout", "30", "--raw" }
    assert.equal("1\n2\n\n4\n", received)
  end)

  it("repeats a message with a uuid for each", function()
    local _, out = pub{ "t", "x", "--repeat", "3" }
    local seen = {}
    for _, uuid in ipairs(lines_of(out)) do seen[uuid] = true end
    assert.equal(3, #lines_of(out))
    assert.equal(nil, next(seen, next(seen, next(seen, next(seen)))))
  end)

  it("reads the lines that sub --json writes, bytes that are not UTF-8 included", function()
    group("t", "g")
    group("copy", "g")
    assert.equal(0, (pub{ "t", stdin = "\xff\0\x80 end", "--meta", "k=v", "--uuid", "u-1" }))
    local _, json = sub{ "t", "--group", "g", "--count", "1", "--timeout", "30", "--json" }
    assert.matches('"uuid":"u-1","payload_base64":"/wCAIGVuZA==","metadata":{"k":"v"}', json, 1, true)
    local code, out = pub{ "copy", "--input", "json", stdin = json }
    assert.equal(0, code)
    assert.equal("u-1\n", out)
    local _, again = sub{ "copy", "--group", "g", "--count", "1", "--timeout", "30", "--json" }
    assert.equal(json:match '"uuid".-"metadata":{[^}]*}', again:match '"uuid".-"metadata":{[^}]*}')
  end)

  it("names the line that is wrong; what came before it stays published", function()
    group("t", "g")
    local code, out, err = pub{ "t", "--input", "json",
      stdin = '{"payload":"1"}\n\n{"payload":"2"}\n{"paylod":"3"}\n{"payload":"4"}\n' }
    assert.equal(1, code)
    assert.equal(2, #lines_of(out))
    assert.matches("line 4: unknown field 'paylod'; did you mean 'payload'", err, 1, true)
    local _, received = sub{ "t", "--group", "g", "--timeout", "1", "--raw" }
    assert.equal("1\n2\n", received)
  end)

  for what, line in pairs{
    ["no JSON"] = "hello",
    ["a list"] = "[1]",
    ["two payloads"] = '{"payload":"","payload_base64":""}',
    ["no payload"] = '{"uuid":"x"}',
    ["a number as payload"] = '{"payload":1}',
    ["bad base64"] = '{"payload_base64":"a?=="}',
    ["a number in metadata"] = '{"payload":"","metadata":{"k":1}}',
    ["reserved metadata"] = '{"payload":"","metadata":{"_wm_x":"1"}}',
  } do
    it("refuses a line with " .. what, function()
      local code, out, err = pub{ "t", "--input", "json", stdin = line .. "\n" }
      assert.equal(1, code)
      assert.equal("", out)
      assert.matches("^wmlua pub: line 1: ", err:gsub("^[^\n]*broker is[^\n]*\n", ""))
    end)
  end

  it("makes only the group with --count 0", function()
    group("t", "late")
    assert.equal(0, (pub{ "t", "after" }))
    local code, out = sub{ "t", "--group", "late", "--count", "1", "--timeout", "30", "--raw" }
    assert.equal(0, code)
    assert.equal("after\n", out)
    assert.equal(2, (sub{ "t", "--count", "0" }))
  end)

  it("ends with 4 when fewer than --count came in time, having printed those", function()
    group("t", "g")
    pub{ "t", "only" }
    local code, out = sub{ "t", "--group", "g", "--count", "2", "--timeout", "500ms", "--raw" }
    assert.equal(4, code)
    assert.equal("only\n", out)
  end)

  it("takes no more than --count: others in the group get the rest", function()
    group("t", "g")
    pub{ "t", "--input", "lines", stdin = "1\n2\n3\n4\n5\n" }
    local _, first = sub{ "t", "--group", "g", "--count", "2", "--timeout", "30", "--raw" }
    local _, second = sub{ "t", "--group", "g", "--count", "3", "--timeout", "30", "--raw" }
    assert.equal("1\n2\n", first)
    assert.equal("3\n4\n5\n", second)
  end)

  it("only looks without a group, from now on", function()
    pub{ "t", "before" }
    local p = support.start{ "sub", "t", "--count", "1", "--raw", env = { WM_BROKER = broker } }
    -- It says nothing when it is ready: messages are sent until one is seen.
    support.wait("a message seen", function()
      if p.code then return true end
      pub{ "t", "after" }
      return p.code
    end)
    assert.equal(0, p:wait())
    assert.equal("after\n", p.out)
  end)

  it("acks nothing that it could not write", function()
    group("t", "g")
    pub{ "t", "--input", "lines", stdin = "1\n2\n3\n" }
    local full = uv.fs_open("/dev/full", "w", 0)
    if not full then return pending "/dev/full is not there" end
    local p = support.start{ "sub", "t", "--group", "g", "--count", "3", "--timeout", "30", stdout = full,
      env = { WM_BROKER = broker } }
    assert.equal(1, p:wait())
    assert.matches("standard output: No space left on device", p.err, 1, true)
    uv.fs_close(full)
    local _, out = sub{ "t", "--group", "g", "--count", "3", "--timeout", "30", "--raw" }
    assert.equal("1\n2\n3\n", out)
  end)

  it("ends gracefully when its reader goes away, and acks only what was written", function()
    group("t", "g")
    local out = uv.pipe()
    uv.fs_close(out.read)
    local p = support.start{ "sub", "t", "--group", "g", stdout = out.write, env = { WM_BROKER = broker } }
    uv.fs_close(out.write)
    pub{ "t", "1" }
    assert.equal(0, p:wait())
    local _, received = sub{ "t", "--group", "g", "--count", "1", "--timeout", "30", "--raw" }
    assert.equal("1\n", received)
  end)

  it("closes gently on SIGTERM, exit code 143", function()
    local p = support.start{ "sub", "t", "--group", "g", "--raw", env = { WM_BROKER = broker } }
    pub{ "t", "1" }
    p:expect("out", "1\n")
    p:kill "sigterm"
    assert.equal(143, p:wait())
  end)

  it("streams: many lines need no more memory than few", function()
    local count = support.short and 20000 or 200000
    group("t", "g")
    -- A quarter of a kilobyte each; all of them would be well above the limit.
    local line = ("x"):rep(256) .. "\n"
    -- KiB of data segment beyond which allocation fails; sanitizers take more than that for themselves.
    local limit = support.sanitizer() and "unlimited" or 64 * 1024
    local p = support.start{ program = "/bin/sh", "-c",
      ("ulimit -d %s; exec \"$WMLUA\" pub t --input lines >/dev/null"):format(limit),
      env = { WM_BROKER = broker .. "?queue_bytes=1M", WMLUA = os.getenv "WMLUA" }, keep_stdin = true }
    local chunk = line:rep(1000)
    for _ = 1, count // 1000 do p:write(chunk) end
    p:end_input()
    assert.equal(0, p:wait(300))
    local file = dir .. "/out"
    local q = support.start{ program = "/bin/sh", "-c",
      ("ulimit -d %s; exec \"$WMLUA\" sub t --group g --count %d --timeout 300 --json >%s"):format(limit, count, file),
      env = { WM_BROKER = broker, WMLUA = os.getenv "WMLUA" } }
    assert.equal(0, q:wait(300))
    local _, n = support.read(file):gsub("\n", "")
    assert.equal(count, n)
  end)

  it("speaks to Redis as to SQLite, metadata that is not UTF-8 included", function()
    local server, why = support.redis()
    if not server then return pending(why) end
    broker = server.url
    group("t", "g")
    local line = '{"uuid":"u","payload":"p","metadata":{"k":"v"},"metadata_base64":{"odd":"/w=="}}\n'
    assert.equal(0, (pub{ "t", "--input", "json", stdin = line }))
    local code, out = sub{ "t", "--group", "g", "--count", "1", "--timeout", "30", "--json" }
    assert.equal(0, code)
    assert.equal(line:sub(1, -3), out:sub(1, #line - 2))
  end)
end)
