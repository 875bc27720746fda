-- run.lua DIR [--markdown] [FILTER]: runs the bench programs in DIR, one after another, and prints one table of
-- what they measured. FILTER: part of a measure's name ("consume", "redis", "lone"; its broker counts as part of it).
-- Exit status 1 when a program failed; a goal that is missed is no failure.

local programs = { "consume", "publish", "idle", "reload", "ledger" }
local columns = { "measured", "broker", "libwm", "beside", "result", "goal", "" }

local function usage()
  io.stderr:write("usage: run.lua DIR [--markdown] [FILTER]\n")
  os.exit(2)
end

local dir, markdown, filter = arg[1], false, ""
if not dir then usage() end
for i = 2, #arg do
  if arg[i] == "--markdown" then markdown = true
  elseif arg[i]:sub(1, 1) == "-" then usage()
  else filter = arg[i] end
end

local function quote(text) return "'" .. text:gsub("'", "'\\''") .. "'" end

---@param line string
---@return string[]
local function split(line)
  local fields = {}
  for field in (line .. "\t"):gmatch("([^\t]*)\t") do fields[#fields + 1] = field end
  return fields
end

---The rows of one program; false as second value when it failed.
local function run(program)
  local rows = {}
  io.stderr:write("bench: ", program, " ...\n")
  local pipe = assert(io.popen(quote(dir .. "/" .. program .. "_bench") .. " " .. quote(filter)))
  for line in pipe:lines() do
    local row = line:match("^row\t(.*)")
    if row then rows[#rows + 1] = split(row) end
  end
  return rows, pipe:close() == true
end

local function first_line(command)
  local pipe = assert(io.popen(command .. " 2>/dev/null"))
  local line = pipe:read("l")
  pipe:close()
  return line
end

---What the figures depend on.
local function machine()
  local cores = first_line("nproc") or "?"
  local model = first_line("sed -n 's/^model name[^:]*: *//p' /proc/cpuinfo") or "?"
  local files = first_line("stat -f -c %T " .. quote(os.getenv "WM_BENCH_DIR" or ".")) or "?"
  local redis = first_line("redis-server --version") or ""
  local scale = os.getenv "WM_BENCH_SCALE"
  return ("%s cores (%s), files on %s, Redis %s; payloads of 1 KiB; medians of rounds in turns%s"):format(cores, model,
    files, redis:match("v=(%S+)") or "not found", scale and "; counts times " .. scale or "")
end

local function width(text) return utf8.len(text) or #text end

local function print_plain(rows)
  local widths = {}
  for _, row in ipairs(rows) do
    for i, field in ipairs(row) do widths[i] = math.max(widths[i] or 0, width(field)) end
  end
  for _, row in ipairs(rows) do
    local fields = {}
    for i, field in ipairs(row) do fields[i] = field .. (" "):rep(widths[i] - width(field)) end
    print((table.concat(fields, "  "):gsub("%s+$", "")))
  end
end

local function print_markdown(rows)
  for n, row in ipairs(rows) do
    print("| " .. table.concat(row, " | ") .. " |")
    if n == 1 then print("|" .. (" --- |"):rep(#columns)) end
  end
end

local rows, failed, goals, met = { columns }, {}, 0, 0
for _, program in ipairs(programs) do
  local more, good = run(program)
  if not good then failed[#failed + 1] = program end
  for _, row in ipairs(more) do
    rows[#rows + 1] = row
    if row[#columns] ~= "" then goals = goals + 1 end
    if row[#columns] == "met" then met = met + 1 end
  end
end

print(machine())
print()
if markdown then print_markdown(rows) else print_plain(rows) end
print()
print(("%d of %d goals met"):format(met, goals))
if #failed > 0 then
  io.stderr:write("bench: failed: ", table.concat(failed, ", "), "\n")
  os.exit(1)
end
