/* error.h - filling wm_error. Both functions return code, and do nothing else when err is NULL. */
#ifndef WM_ERROR_H
#define WM_ERROR_H

#include "wm.h"

int wm_fail_with(wm_error *err, int code, const char *fmt, ...) WM_PRINTF(3, 4);
/* Puts "prefix: " before the text there is; keeps the code. */
int wm_error_prefix(wm_error *err, const char *fmt, ...) WM_PRINTF(2, 3);

#endif
