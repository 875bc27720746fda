/*
 * names.c - checking the names of topics and groups. No state; any thread.
 */
#include "names.h"

#include <stdio.h>
#include <string.h>

#include "error.h"

/* The length of the UTF-8 character at p, which ends before `end`; 0: there is none. */
static size_t character(const unsigned char *p, const unsigned char *end) {
  static const struct {
    unsigned char least, most; /* of the first byte */
    unsigned char from, to;    /* of the second */
    size_t len;
  } forms[] = {
      {0x00, 0x7f, 0, 0, 1},       {0xc2, 0xdf, 0x80, 0xbf, 2}, {0xe0, 0xe0, 0xa0, 0xbf, 3},
      {0xe1, 0xec, 0x80, 0xbf, 3}, {0xed, 0xed, 0x80, 0x9f, 3}, {0xee, 0xef, 0x80, 0xbf, 3},
      {0xf0, 0xf0, 0x90, 0xbf, 4}, {0xf1, 0xf3, 0x80, 0xbf, 4}, {0xf4, 0xf4, 0x80, 0x8f, 4}};
  for (size_t i = 0; i < sizeof forms / sizeof *forms; i++) {
    if (*p < forms[i].least || *p > forms[i].most) continue;
    size_t len = forms[i].len;
    if ((size_t)(end - p) < len) return 0;
    if (len > 1 && (p[1] < forms[i].from || p[1] > forms[i].to)) return 0;
    for (size_t k = 2; k < len; k++)
      if ((p[k] & 0xc0) != 0x80) return 0;
    return len;
  }
  return 0;
}

static bool is_control(unsigned char c) { return c < ' ' || c == 0x7f; }

/* Writes the name so that it can be shown: what is not printable ASCII or whole UTF-8 as \xHH. */
static void show(const char *name, size_t len, char *out, size_t size) {
  enum { LONGEST = 4, DOTS = 4 };
  const unsigned char *p = (const unsigned char *)name, *end = p + len;
  size_t used = 0;
  while (p < end && used + LONGEST + DOTS <= size) {
    size_t n = character(p, end);
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
    n = character(p, end);
    if (n && !is_control(*p)) continue;
    show(name, len, shown, sizeof shown);
    return wm_fail_with(err, WM_BAD_INPUT, "the %s '%s' has %s at byte %zu; choose another name",
                        what, shown, n ? "a control character" : "invalid UTF-8",
                        (size_t)(p - begin) + 1);
  }
  return WM_OK;
}
