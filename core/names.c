/*
 * names.c - checking the names of topics and groups. No state; any thread.
 */
#include "names.h"

#include <stdio.h>
#include <string.h>

#include "error.h"
#include "utf8.h"

static bool is_control(unsigned char c) { return c < ' ' || c == 0x7f; }

/* Writes the name so that it can be shown: what is not printable ASCII or whole UTF-8 as \xHH. */
static void show(const char *name, size_t len, char *out, size_t size) {
  enum { LONGEST = 4, DOTS = 4 };
  const unsigned char *p = (const unsigned char *)name, *end = p + len;
  size_t used = 0;
  while (p < end && used + LONGEST + DOTS <= size) {
    size_t n = wm_utf8_character(p, end);
    if (n && !is_control(*p)) {
      memcpy(out + used, p, n);
      used += n;
    } else {
      n = 1;
      used += (size_t)snprintf(out + used, size - used, "\\x%02x", *p);
    }
    p += n;
  }
  snprintf(out + used, size - used, "%s", p < end ? "..." : "");
}

int wm_name_check(const char *what, const char *name, wm_error *err) {
  if (!name || !*name)
    return wm_fail_with(err, WM_BAD_INPUT, "the %s is empty; give it a name", what);
  size_t len = strlen(name);
  const unsigned char *begin = (const unsigned char *)name, *end = begin + len;
  char shown[100];
  if (len > WM_NAME_MAX) {
    show(name, len, shown, sizeof shown);
    return wm_fail_with(err, WM_BAD_INPUT, "the %s '%s' has %zu bytes; at most %d are allowed",
                        what, shown, len, WM_NAME_MAX);
  }
  size_t n;
  for (const unsigned char *p = begin; p < end; p += n) {
    n = wm_utf8_character(p, end);
    if (n && !is_control(*p)) continue;
    show(name, len, shown, sizeof shown);
    return wm_fail_with(err, WM_BAD_INPUT, "the %s '%s' has %s at byte %zu; choose another name",
                        what, shown, n ? "a control character" : "invalid UTF-8",
                        (size_t)(p - begin) + 1);
  }
  return WM_OK;
}
