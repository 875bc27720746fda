/*
 * pool.h - memory of one Lua state, used by its thread alone: blocks that were freed are kept by
 * size, as a handler frees with each message what it needs again for the next, and malloc keeps few
 * of those that are as large as a payload.
 */
#ifndef WM_POOL_H
#define WM_POOL_H

#include <stddef.h>

enum { WM_POOL_CLASSES = 256 }; /* steps of 16 bytes: up to 4 KiB */

typedef struct wm_pool {
  void *free[WM_POOL_CLASSES]; /* each begins with a pointer to the next */
  size_t kept;                 /* bytes in them */
} wm_pool;

/* As realloc and free; `old` may come from malloc. The pool itself needs no initialising beyond
 * zeros. */
void *wm_pool_realloc(wm_pool *pool, void *old, size_t size);
void wm_pool_free(wm_pool *pool, void *block);
/* Gives everything that it keeps back to malloc. */
void wm_pool_clear(wm_pool *pool);

#endif
