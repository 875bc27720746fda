-- handlers.lua COUNT: counts packages by section and raises alerts; ends when COUNT packages went through both.
local wm = require "wm"

local total = math.tointeger(arg[1]) or 0
local big_kb = 40 * 1024

local counted, checked, raised, shown = 0, 0, 0, 0
local sections = {}

-- Groups are independent: "statistics" and "checks" each get every package.
wm.on("packages", { group = "statistics", name = "statistics" }, function(msg)
  local section = msg.metadata.section
  sections[section] = (sections[section] or 0) + 1
  counted = counted + 1
end) -- returns nothing: the message is done (acked)

-- What a handler returns is published to publish_to, and only then is its own message done.
wm.on("packages", { group = "checks", name = "checks", publish_to = "alerts" }, function(msg)
  local package = assert(msg:json()) -- an error would mean: try again later, then to the topic "dead_letter"
  checked = checked + 1
  local why
  if package.status ~= "install ok installed" then
    why = "is not whole: " .. package.status
  elseif (package.size_kb or 0) > big_kb then
    why = ("is big: %d MB"):format(package.size_kb // 1024)
  end
  if not why then return end
  raised = raised + 1
  return package.package .. " " .. why
end)

-- A third handler gets what the second one published.
wm.on("alerts", { group = "console" }, function(msg)
  print("ALERT " .. msg.payload)
  shown = shown + 1
end)

local function print_summary()
  local names = {}
  for name in pairs(sections) do names[#names + 1] = name end
  table.sort(names, function(a, b)
    if sections[a] ~= sections[b] then return sections[a] > sections[b] end
    return a < b
  end)
  print("\nsection          packages")
  for i = 1, math.min(10, #names) do print(("%-16s %8d"):format(names[i], sections[names[i]])) end
  print(("\n%d packages in %d sections, %d alerts"):format(counted, #names, shown))
end

-- A service would end here and run until it is stopped. This example has an end.
wm.spawn(function()
  while counted < total or checked < total or shown < raised do wm.sleep(0.05) end
  print_summary()
  os.exit(0) -- gently: what is in hand is finished first
end)
