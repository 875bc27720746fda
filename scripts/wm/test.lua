-- test.lua - `require "wm.test"` comes with a later version, and says so.

require("wm.failure").later('require "wm.test"')
