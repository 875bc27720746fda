std = "lua54"
max_line_length = 120
exclude_files = { "build*/", ".luarocks/", "**/*.meta.lua" }
self = false -- methods need not use self

files["tests/**/*_spec.lua"] = { std = "+busted" }
files["**/spec/**/*_spec.lua"] = { std = "+busted" }
