-- publish.lua [FILE]: reads the packages that dpkg knows and publishes each to the topic "packages"; prints how many.
local wm = require "wm"

local pub = wm.publisher() -- the default broker: $WM_BROKER, or the file wmlua.db

-- A package is a paragraph of lines "Name: value"; lines that begin with a blank continue the one before.
local function parse(paragraph)
  local fields = {}
  for name, value in paragraph:gmatch("([%w-]+):[ \t]*([^\n]*)\n") do
    fields[name] = fields[name] or value
  end
  return fields
end

local function message(fields)
  return wm.message{
    json = { -- becomes the payload
      package = fields.Package,
      version = fields.Version,
      status = fields.Status,
      section = fields.Section,
      size_kb = tonumber(fields["Installed-Size"]),
    },
    metadata = { section = fields.Section or "none", status = fields.Status or "none" },
  }
end

local file = assert(io.open(arg[1] or "/var/lib/dpkg/status"))
local text = file:read("a")
file:close()

local messages = {}
for paragraph in (text .. "\n\n"):gmatch("(.-\n)\n+") do
  local fields = parse(paragraph)
  if fields.Package then messages[#messages + 1] = message(fields) end
end

-- One call for all of them: true means that the broker has stored every one.
if #messages > 0 then assert(pub:publish("packages", messages)) end
pub:close()
print(#messages)
