/* pool.c - see pool.h. */
#include "pool.h"

#include <malloc.h>
#include <stdlib.h>
#include <string.h>

enum { STEP = 16, KEPT_MOST = 8 << 20 };

/* A sanitizer is to see each block go. */
#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
enum { POOLED = 0 };
#else
enum { POOLED = 1 };
#endif

/* malloc's blocks hold a multiple of STEP and a pointer. */
static size_t class_for(size_t size) {
  return size <= sizeof(void *) ? 1 : (size - sizeof(void *) + STEP - 1) / STEP;
}

static size_t class_of(void *block) { return (malloc_usable_size(block) - sizeof(void *)) / STEP; }

static void *take(wm_pool *pool, size_t size) {
  size_t class = class_for(size);
  if (class >= WM_POOL_CLASSES || !pool->free[class]) return malloc(size);
  void *block = pool->free[class];
  memcpy(&pool->free[class], block, sizeof(void *));
  pool->kept -= class * STEP;
  return block;
}

void wm_pool_free(wm_pool *pool, void *block) {
  if (!block) return;
  size_t class = class_of(block);
  if (!POOLED || class >= WM_POOL_CLASSES || pool->kept >= KEPT_MOST) {
    free(block);
    return;
  }
  memcpy(block, &pool->free[class], sizeof(void *));
  pool->free[class] = block;
  pool->kept += class * STEP;
}

void *wm_pool_realloc(wm_pool *pool, void *old, size_t size) {
  if (!old) return take(pool, size);
  size_t room = malloc_usable_size(old);
  if (!POOLED || (room >= WM_POOL_CLASSES * STEP && size >= WM_POOL_CLASSES * STEP))
    return realloc(old, size);
  if (class_for(size) == class_of(old)) return old;
  void *block = take(pool, size);
  if (!block) return size <= room ? old : NULL;
  memcpy(block, old, size < room ? size : room);
  wm_pool_free(pool, old);
  return block;
}

void wm_pool_clear(wm_pool *pool) {
  for (size_t class = 0; class < WM_POOL_CLASSES; class ++)
    while (pool->free[class]) {
      void *block = pool->free[class];
      memcpy(&pool->free[class], block, sizeof(void *));
      free(block);
    }
  pool->kept = 0;
}
