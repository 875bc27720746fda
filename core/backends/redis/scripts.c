/*
 * scripts.c - what must happen in one step inside the server. Constant texts.
 *
 * A plain XCLAIM takes an entry from whoever has it, so each script first asks whether it is still
 * this member's. KEYS[1] is the stream; the lease scripts' is the lease. ARGV[1] is the group,
 * ARGV[2] this member.
 *
 * Counting deliveries: the server's counter is 1 after XREADGROUP and grows by one with XAUTOCLAIM;
 * RETRYCOUNT n sets it to n, and JUSTID leaves it alone. After RETRYCOUNT n the next taker
 * therefore sees n + 1. So the counter is always "the attempt that was begun last": a fetched
 * message has first_attempt = counter, a NOTE writes the attempt that begins, a RELEASE the number
 * of hand-outs there were. Only what was prefetched, not handed out and not given back before a
 * crash counts one too many.
 */
#include "redis.h"

/* ARGV[3], ARGV[4]: lowest and highest id; then ids. Returns the 0-based places of those that are
 * lost. */
const char wm_redis_script_keep[] =
    "local want = {}\n"
    "for i = 5, #ARGV do want[ARGV[i]] = true end\n"
    "local from, n = ARGV[3], 0\n"
    "repeat\n"
    "  local own = redis.call('XPENDING', KEYS[1], ARGV[1], from, ARGV[4], 2000, ARGV[2])\n"
    "  local a = {'XCLAIM', KEYS[1], ARGV[1], ARGV[2], '0'}\n"
    "  n = #own\n"
    "  for _, e in ipairs(own) do\n"
    "    if want[e[1]] then want[e[1]] = false; a[#a + 1] = e[1] end\n"
    "    from = '(' .. e[1]\n"
    "  end\n"
    "  if #a > 5 then\n"
    "    a[#a + 1] = 'IDLE'; a[#a + 1] = '0'; a[#a + 1] = 'JUSTID'\n"
    "    redis.call(unpack(a))\n"
    "  end\n"
    "until n < 2000\n"
    "local lost = {}\n"
    "for i = 5, #ARGV do if want[ARGV[i]] then lost[#lost + 1] = i - 5 end end\n"
    "return lost\n";

/* ARGV[3]: the pool; then triples: 'r' (release) or 'n' (note), id, deliveries. Returns the places
 * of the lost. */
const char wm_redis_script_settle[] =
    "local lost = {}\n"
    "for i = 4, #ARGV, 3 do\n"
    "  local id, count = ARGV[i + 1], ARGV[i + 2]\n"
    "  if #redis.call('XPENDING', KEYS[1], ARGV[1], id, id, 1, ARGV[2]) == 0 then\n"
    "    lost[#lost + 1] = (i - 4) / 3\n"
    "  elseif ARGV[i] == 'r' then\n"
    "    redis.call('XCLAIM', KEYS[1], ARGV[1], ARGV[3], '0', id,\n"
    "      'IDLE', '" WM_REDIS_RELEASED_IDLE_MS "', 'RETRYCOUNT', count, 'JUSTID')\n"
    "  else\n"
    "    redis.call('XCLAIM', KEYS[1], ARGV[1], ARGV[2], '0', id, 'RETRYCOUNT', count, 'JUSTID')\n"
    "  end\n"
    "end\n"
    "return lost\n";

/* ARGV[3..5]: min-idle, cursor, count. Returns cursor, ids that no longer exist, {id, deliveries},
 * entries. */
const char wm_redis_script_claim[] =
    "local r = redis.call('XAUTOCLAIM', KEYS[1], ARGV[1], ARGV[2], ARGV[3], ARGV[4], 'COUNT', "
    "ARGV[5])\n"
    "local counts = {}\n"
    "for _, e in ipairs(r[2]) do\n"
    "  if e then\n"
    "    local p = redis.call('XPENDING', KEYS[1], ARGV[1], e[1], e[1], 1)\n"
    "    if p[1] then counts[#counts + 1] = {p[1][1], p[1][4]} end\n"
    "  end\n"
    "end\n"
    "return {r[1], r[3] or {}, counts, r[2]}\n";

/* ARGV[3]: the pool; ARGV[4]: by how much to lower the counter of what the core never saw; then the
 * ids that it did see. Gives everything back and removes the consumer, which drops nothing as
 * nothing is left. */
const char wm_redis_script_leave[] =
    "local seen = {}\n"
    "for i = 5, #ARGV do seen[ARGV[i]] = true end\n"
    "local given, n = 0, 0\n"
    "repeat\n"
    "  local own = redis.call('XPENDING', KEYS[1], ARGV[1], '-', '+', 1000, ARGV[2])\n"
    "  n = #own\n"
    "  for _, e in ipairs(own) do\n"
    "    local count = e[4]\n"
    "    if not seen[e[1]] then count = math.max(0, count - tonumber(ARGV[4])) end\n"
    "    redis.call('XCLAIM', KEYS[1], ARGV[1], ARGV[3], '0', e[1],\n"
    "      'IDLE', '" WM_REDIS_RELEASED_IDLE_MS "', 'RETRYCOUNT', count, 'JUSTID')\n"
    "    given = given + 1\n"
    "  end\n"
    "until n < 1000 or given >= 20000\n"
    "if #redis.call('XPENDING', KEYS[1], ARGV[1], '-', '+', 1, ARGV[2]) == 0 then\n"
    "  redis.call('XGROUP', 'DELCONSUMER', KEYS[1], ARGV[1], ARGV[2])\n"
    "end\n"
    "return given\n";

/* Removes the names of members that died long ago and own nothing. They would come back by
 * themselves. */
const char wm_redis_script_sweep[] =
    "for _, c in ipairs(redis.call('XINFO', 'CONSUMERS', KEYS[1], ARGV[1])) do\n"
    "  local name, pending, idle = c[2], c[4], c[6]\n"
    "  if pending == 0 and idle > 3600000 and name ~= ARGV[2]\n"
    "      and string.match(name, '%-%d+%-%x%x%x%x%x%x%x%x$') then\n"
    "    redis.call('XGROUP', 'DELCONSUMER', KEYS[1], ARGV[1], name)\n"
    "  end\n"
    "end\n"
    "return 0\n";

/* ARGV[1]: this member; ARGV[2]: ms. 1 = it has the lease, 2 = it has got it anew, 0 = another
 * member has. */
const char wm_redis_script_lease[] = "local owner = redis.call('GET', KEYS[1])\n"
                                     "if owner and owner ~= ARGV[1] then return 0 end\n"
                                     "redis.call('SET', KEYS[1], ARGV[1], 'PX', ARGV[2])\n"
                                     "return owner and 1 or 2\n";

const char wm_redis_script_unlease[] =
    "if redis.call('GET', KEYS[1]) == ARGV[1] then return redis.call('DEL', KEYS[1]) end\n"
    "return 0\n";

/* Trims what every group has acked: below the lowest of each group's first pending or last
 * delivered id. */
const char wm_redis_script_trim[] =
    "local low\n"
    "local function below(a, b)\n"
    "  local am, as = string.match(a, '(%d+)-(%d+)')\n"
    "  local bm, bs = string.match(b, '(%d+)-(%d+)')\n"
    "  if am ~= bm then return #am < #bm or (#am == #bm and am < bm) end\n"
    "  return #as < #bs or (#as == #bs and as < bs)\n"
    "end\n"
    "for _, g in ipairs(redis.call('XINFO', 'GROUPS', KEYS[1])) do\n"
    "  local name, last\n"
    "  for i = 1, #g, 2 do\n"
    "    if g[i] == 'name' then name = g[i + 1] end\n"
    "    if g[i] == 'last-delivered-id' then last = g[i + 1] end\n"
    "  end\n"
    "  local p = redis.call('XPENDING', KEYS[1], name, '-', '+', 1)\n"
    "  local id = p[1] and p[1][1] or last\n"
    "  if not low or below(id, low) then low = id end\n"
    "end\n"
    "if not low then return 0 end\n"
    "return redis.call('XTRIM', KEYS[1], 'MINID', '~', low)\n";
