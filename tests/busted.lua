-- busted.lua - starts busted under the Lua that runs this file, whatever Lua its own command uses.
require "busted.runner"{ standalone = false }
