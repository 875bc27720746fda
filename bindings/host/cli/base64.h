/* base64.h - RFC 4648 section 4, with padding. No state. */
#ifndef WM_BASE64_H
#define WM_BASE64_H

#include <stdbool.h>
#include <stddef.h>

/* NUL terminated, to be freed; NULL: out of memory. */
char *wm_base64_encode(const void *data, size_t len);
/* Sets *out (to be freed) and *out_len. False: not base64, or out of memory (then errno is
 * ENOMEM). */
bool wm_base64_decode(const char *text, size_t len, unsigned char **out, size_t *out_len);

#endif
