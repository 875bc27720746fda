/* env_file.h - variables from a file, into the environment. The main thread, before there are
 * others. */
#ifndef WM_ENV_FILE_H
#define WM_ENV_FILE_H

#include "wm.h"

/* Lines NAME=VALUE; blank ones, and those that begin with #, are nothing; `export ` before a name
 * and quotes around a value are taken away. A variable that is set stays. WM_OK, WM_NOT_FOUND,
 * WM_BAD_INPUT with the line. */
int wm_env_file_read(const char *path, wm_error *err);

#endif
