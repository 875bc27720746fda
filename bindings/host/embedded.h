/* embedded.h - the Lua files that the program carries, made at build time. */
#ifndef WM_EMBEDDED_H
#define WM_EMBEDDED_H

#include <stddef.h>

#define WM_EMBEDDED_CHUNK "@[wm]/"

typedef struct wm_embedded {
  const char *name;  /* as in require "wm.router" */
  const char *chunk; /* as in tracebacks, "@[wm]/router.lua": no script has such a path */
  const unsigned char *text;
  size_t len;
} wm_embedded;

extern const wm_embedded wm_embedded_scripts[]; /* name NULL ends it */

#endif
