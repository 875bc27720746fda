/* lua_options.h - the options that only the Lua half of the module knows, for help. The main
 * thread. */
#ifndef WM_LUA_OPTIONS_H
#define WM_LUA_OPTIONS_H

#include "wm.h"

/* As wm_option_list; what it gives lives until wm_lua_options_close. */
bool wm_lua_option_list(size_t i, wm_option_info *out);
void wm_lua_options_close(void);

#endif
