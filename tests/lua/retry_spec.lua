local retry = require "wm.retry"
local support = require "lua.support"
local wm = require "wm"

local WHAT = 'wm.on "t": retry'

local function read(given) return retry.read(WHAT, given) end

local function error_of(given)
  return support.error_of(function() read(given) end)
end

-- What happens to a message that has failed n times before.
local function decide(policy, n, text, code, forever)
  return retry.decide(policy, { failures = n, uuid = "u" }, text or "boo", code, forever or false)
end

describe("a retry policy", function()
  local jitter
  before_each(function()
    jitter = retry.jitter
    retry.jitter = 0
  end)
  after_each(function() retry.jitter = jitter end)

  it("retries ten times in about four minutes by default, then buries", function()
    local policy = read(nil)
    local sum = 0
    for n = 0, 9 do
      local kind, delay = decide(policy, n)
      assert.equal("retry", kind)
      sum = sum + delay
    end
    assert.equal(0.5 + 1 + 2 + 4 + 8 + 16 + 32 + 60 + 60 + 60, sum)
    assert.equal("dead", (decide(policy, 10)))
  end)

  it("lengthens by jitter, never shortens", function()
    retry.jitter = jitter
    local policy = read(nil)
    for _ = 1, 200 do
      local _, delay = decide(policy, 0)
      assert.is_true(delay >= 0.5 and delay <= 0.5 * 1.2)
    end
  end)

  it("may be a list of seconds", function()
    local policy = read{ 1, 5, 30 }
    for n, delay in ipairs{ 1, 5, 30 } do assert.same({ "retry", delay }, { decide(policy, n - 1) }) end
    assert.equal("dead", (decide(policy, 3)))
  end)

  it("may be Watermill's names", function()
    local policy = read{ max_retries = 2, initial_interval = 1, multiplier = 3, max_interval = 2 }
    assert.equal(1, select(2, decide(policy, 0)))
    assert.equal(2, select(2, decide(policy, 1)))
    assert.equal("dead", (decide(policy, 2)))
  end)

  it("may be false: the first failure is the last", function() assert.equal("dead", (decide(read(false), 0))) end)

  it("goes on for ever where there is no dead letter topic", function()
    assert.same({ "retry", 60 }, { decide(read(nil), 1000, nil, nil, true) })
    assert.same({ "retry", 30 }, { decide(read{ 1, 5, 30 }, 1000, nil, nil, true) })
  end)

  it("has rules, of which the first that matches decides", function()
    local policy = read{
      max_retries = 8, initial_interval = 0.5, multiplier = 2, max_interval = 300,
      rules = {
        { match = "^invalid", dead = true },
        { match = "timed out", intervals = { 1, 5, 30 } },
        { match = "rate limited", pause = 60, max_retries = 100 },
        { code = "TIMEOUT", drop = true },
        { match = "later", initial_interval = 7 },
      },
    }
    assert.equal("dead", (decide(policy, 0, "invalid JSON")))
    assert.same({ "retry", 5 }, { decide(policy, 1, "it timed out") })
    assert.equal("dead", (decide(policy, 3, "it timed out")))
    assert.same({ "pause", 60 }, { decide(policy, 99, "rate limited") })
    assert.equal("dead", (decide(policy, 100, "rate limited")))
    assert.equal("drop", (decide(policy, 0, "x", "TIMEOUT")))
    assert.same({ "retry", 14 }, { decide(policy, 1, "later") })
    assert.same({ "retry", 2 }, { decide(policy, 2, "anything else") })
  end)

  it("matches the error without the place that error() adds", function()
    local policy = read{ rules = { { match = "^invalid", drop = true } } }
    assert.equal("drop", (decide(policy, 0, "a/b.lua:12: invalid JSON")))
    assert.equal("drop", (decide(policy, 0, '[string "x y"]:1: invalid JSON')))
    assert.equal("retry", (decide(policy, 0, "host:80: invalid JSON")))
  end)

  it("may be a function that returns a fate, or nil for the default", function()
    local policy = read(function(msg, err)
      if err == "give up" then return wm.dead("given up after " .. msg.failures) end
      if err == "wait" then return wm.retry(7) end
      if err == "skip" then return wm.drop "skipped" end
    end)
    local kind, _, reason = decide(policy, 3, "give up")
    assert.same({ "dead", "given up after 3" }, { kind, reason })
    assert.same({ "retry", 7 }, { decide(policy, 0, "wait") })
    assert.equal("drop", (decide(policy, 0, "skip")))
    assert.same({ "retry", 0.5 }, { decide(policy, 0, "boo") })
  end)

  it("is checked when it is given", function()
    assert.matches("retry_spec.lua:%d+: wm.on \"t\": retry: unknown option 'max_retry'; did you mean 'max_retries'",
      error_of{ max_retry = 1 })
    assert.matches("retry: initial_interval: seconds as a number expected, got \"1s\"; write 1",
      error_of{ initial_interval = "1s" })
    assert.matches("retry: multiplier: a number from 1 expected, got 0", error_of{ multiplier = 0 })
    assert.matches("retry: %[2%]: seconds as a number expected", error_of{ 1, "2" })
    assert.matches("retry: a list of seconds has no key 'x'", error_of{ 1, x = 2 })
    assert.matches("retry: intervals: a list of seconds expected", error_of{ intervals = {} })
    assert.matches("rules%[1%]: unknown option 'mach'; did you mean 'match'", error_of{ rules = { { mach = "x" } } })
    assert.matches("rules%[1%]: match %(a Lua pattern on the error%) or code is missing", error_of{ rules = { {} } })
    assert.matches("rules%[1%]: match: malformed pattern", error_of{ rules = { { match = "[" } } })
    assert.matches("rules%[2%]: only one of dead, drop and pause",
      error_of{ rules = { { match = "x" }, { match = "y", dead = true, drop = true } } })
    assert.matches("rules%[1%]: a table expected", error_of{ rules = { "x" } })
    assert.matches("a list of seconds, a table, a function or false expected, got 3", error_of(3))
  end)
end)
