/* base64.c - see base64.h */
#include "base64.h"

#include <errno.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

static const char digits[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";

char *wm_base64_encode(const void *data, size_t len) {
  const unsigned char *in = data;
  char *text = malloc((len + 2) / 3 * 4 + 1), *out = text;
  if (!text) return NULL;
  for (size_t i = 0; i < len; i += 3) {
    size_t have = len - i < 3 ? len - i : 3;
    uint32_t group = 0;
    for (size_t k = 0; k < 3; k++)
      group = group << 8 | (k < have ? in[i + k] : 0);
    for (size_t k = 0; k < 4; k++)
      *out++ = k <= have ? digits[group >> (18 - 6 * k) & 63] : '=';
  }
  *out = 0;
  return text;
}

static int value_of(char c) {
  const char *at = c ? strchr(digits, c) : NULL;
  return at ? (int)(at - digits) : -1;
}

bool wm_base64_decode(const char *text, size_t len, unsigned char **out, size_t *out_len) {
  errno = 0;
  if (len % 4) return false;
  size_t padding = 0;
  while (padding < 2 && padding < len && text[len - 1 - padding] == '=')
    padding++;
  unsigned char *data = malloc(len / 4 * 3 + 1);
  if (!data) return false;
  size_t n = 0;
  for (size_t i = 0; i < len; i += 4) {
    uint32_t group = 0;
    for (size_t k = 0; k < 4; k++) {
      bool padded = i + k >= len - padding;
      int value = padded ? 0 : value_of(text[i + k]);
      if (value < 0) {
        free(data);
        return false;
      }
      group = group << 6 | (uint32_t)value;
    }
    for (size_t k = 0; k < 3; k++)
      data[n++] = (unsigned char)(group >> (16 - 8 * k));
  }
  *out = data;
  *out_len = n - padding;
  return true;
}
