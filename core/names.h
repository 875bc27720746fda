/* names.h - what every broker demands of the name of a topic or group. */
#ifndef WM_NAMES_H
#define WM_NAMES_H

#include "wm.h"

#define WM_NAME_MAX 255 /* bytes */

/* Not empty, valid UTF-8, no control character, not too long. `what` is "topic" or "group". WM_OK, or
 * WM_BAD_INPUT with a text that can be shown, whatever the name is made of. */
int wm_name_check(const char *what, const char *name, wm_error *err);

#endif
