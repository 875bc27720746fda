/*
 * loader.h - reads Lua files for a state: as text only, never taking a file that is empty or is
 * being written for a script, and noting each in the files to watch. The thread of the state.
 */
#ifndef WM_LOADER_H
#define WM_LOADER_H

#include <lua.h>

#include "files.h"

/* Makes require find the module wm and what else the program carries, and replaces the searcher for
 * Lua files, loadfile and dofile. files is borrowed until the state is closed. */
void wm_loader_open(lua_State *L, wm_files *files);

/* As luaL_loadfile: pushes the chunk, or the text of the error. */
int wm_loader_load(lua_State *L, wm_files *files, const char *path);

#endif
