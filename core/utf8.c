/*
 * utf8.c - what is UTF-8 and what is not. No state; any thread.
 */
#include "utf8.h"

size_t wm_utf8_character(const unsigned char *p, const unsigned char *end) {
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
