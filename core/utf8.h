/* utf8.h - what is UTF-8 and what is not. */
#ifndef WM_UTF8_H
#define WM_UTF8_H

#include <stddef.h>

/* The length of the UTF-8 character at p, which ends before `end`; 0: there is none. Neither overlong forms nor
 * surrogates are characters; NUL is one. */
size_t wm_utf8_character(const unsigned char *p, const unsigned char *end);

#endif
