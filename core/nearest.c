/*
 * nearest.c - which known name a mistyped one may have meant. No state; any thread.
 */
#include <ctype.h>
#include <string.h>

#include "options.h"

enum { NAME_MAX_LEN = 48 /* longer names are near nothing */, BYTES_PER_ERROR = 3 };

/* How names are compared: case and the kind of dash are no difference. */
static unsigned char plain(char c) {
  return c == '-' ? '_' : (unsigned char)tolower((unsigned char)c);
}

static unsigned least(unsigned a, unsigned b) { return a < b ? a : b; }

/* Insertions, deletions, replacements and swaps of neighbours that make b of a. */
static unsigned distance(const char *a, const char *b) {
  unsigned rows[3][NAME_MAX_LEN + 1], *before = rows[0], *last = rows[1], *now = rows[2];
  size_t len = strlen(b);
  for (unsigned k = 0; k <= len; k++)
    last[k] = k;
  for (unsigned i = 1; a[i - 1]; i++) {
    now[0] = i;
    for (unsigned k = 1; k <= len; k++) {
      bool same = plain(a[i - 1]) == plain(b[k - 1]);
      now[k] = least(last[k - 1] + !same, least(last[k], now[k - 1]) + 1);
      if (i > 1 && k > 1 && plain(a[i - 1]) == plain(b[k - 2]) &&
          plain(a[i - 2]) == plain(b[k - 1]))
        now[k] = least(now[k], before[k - 2] + 1);
    }
    unsigned *free_row = before;
    before = last;
    last = now;
    now = free_row;
  }
  return last[len];
}

const char *wm_nearest(const char *name, const char *(*next)(void *arg, size_t i), void *arg) {
  size_t len = strlen(name);
  if (!len || len > NAME_MAX_LEN) return NULL;
  const char *candidate, *best = NULL;
  unsigned best_distance = (unsigned)(len + BYTES_PER_ERROR - 1) / BYTES_PER_ERROR + 1;
  for (size_t i = 0; (candidate = next(arg, i)) != NULL; i++) {
    if (strlen(candidate) > NAME_MAX_LEN) continue;
    unsigned d = distance(name, candidate);
    if (d >= best_distance) continue;
    best = candidate;
    best_distance = d;
  }
  return best;
}
