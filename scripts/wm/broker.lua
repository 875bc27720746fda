-- broker.lua - which broker is meant where no URL is given.

local core = require "wm.core"
local options = require "wm.options"

local broker = {}

local BUILT_IN = "sqlite:wmlua.db"

local configured

---wm.configure{ broker = url }: what --broker and WM_BROKER win over.
---@param url string
function broker.configure(url) configured = url end

---The URL of the default broker.
---@return string
function broker.default()
  if core.broker then return core.broker end
  local env = os.getenv "WM_BROKER"
  if env and env ~= "" then return env end
  return configured or BUILT_IN
end

---The arguments ([url,] [opts]) of a constructor.
---@param what string
---@param url string|table|nil
---@param opts table|nil
---@return string url, table opts
function broker.arguments(what, url, opts)
  if type(url) == "table" and opts == nil then url, opts = nil, url end
  if url ~= nil then options.check_value(what, { name = "URL", unit = "text" }, url) end
  return url or broker.default(), opts or {}
end

return broker
