/* error.h - filling wm_error. Neither function does anything to an err that is NULL. */
#ifndef WM_ERROR_H
#define WM_ERROR_H

#include "wm.h"

/* Returns code. What does not fit is cut; control characters become blanks: the text is one line. */
int wm_fail_with(wm_error *err, int code, const char *fmt, ...) WM_PRINTF(3, 4);
/* Puts "prefix: " before the text there is; keeps the code. */
void wm_error_prefix(wm_error *err, const char *fmt, ...) WM_PRINTF(2, 3);

/* Control characters become blanks. */
void wm_one_line(char *text);
/* Where to cut a text longer than `len` bytes so that no UTF-8 character is torn; <= len. */
size_t wm_cut_utf8(const char *text, size_t len);

#endif
