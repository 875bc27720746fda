/*
 * error.c - filling wm_error, and the names of the codes. No state; any thread.
 */
#include "error.h"

#include <stdarg.h>
#include <stdio.h>
#include <string.h>

static const char *const code_names[] = {
    [-WM_OK] = "OK",
    [-WM_TIMEOUT] = "TIMEOUT",
    [-WM_CLOSED] = "CLOSED",
    [-WM_CANCELLED] = "CANCELLED",
    [-WM_NOT_SENT] = "NOT_SENT",
    [-WM_UNKNOWN] = "UNKNOWN",
    [-WM_REFUSED] = "REFUSED",
    [-WM_DENIED] = "DENIED",
    [-WM_NOT_FOUND] = "NOT_FOUND",
    [-WM_TOO_LARGE] = "TOO_LARGE",
    [-WM_UNSUPPORTED] = "UNSUPPORTED",
    [-WM_BAD_INPUT] = "BAD_INPUT",
    [-WM_REPLY_ERROR] = "REPLY_ERROR",
    [-WM_NOMEM] = "NOMEM",
    [-WM_RETIRED] = "RETIRED",
    [-WM_UNREACHABLE] = "UNREACHABLE",
};

const char *wm_code_name(int code) {
  const int known = sizeof code_names / sizeof *code_names;
  return code <= 0 && code > -known ? code_names[-code] : "ERROR";
}

void wm_one_line(char *text) {
  for (unsigned char *p = (unsigned char *)text; *p; p++)
    if (*p < ' ' || *p == 0x7f) *p = ' ';
}

size_t wm_cut_utf8(const char *text, size_t len) {
  size_t start = len;
  while (start > 0 && len - start < 3 && ((unsigned char)text[start] & 0xc0) == 0x80)
    start--;
  /* Three bytes that go on and nothing that begins: no UTF-8, cut anywhere. */
  return ((unsigned char)text[start] & 0xc0) == 0x80 ? len : start;
}

/* Puts what is already in err->text, of `wanted` bytes had there been room, into shape. */
static void finish(wm_error *err, size_t wanted) {
  static const char more[] = "...";
  if (wanted >= sizeof err->text)
    memcpy(err->text + wm_cut_utf8(err->text, sizeof err->text - sizeof more), more, sizeof more);
  wm_one_line(err->text);
}

int wm_fail_with(wm_error *err, int code, const char *fmt, ...) {
  if (!err) return code;
  char text[sizeof err->text]; /* the arguments may point into err->text */
  va_list args;
  va_start(args, fmt);
  int wanted = vsnprintf(text, sizeof text, fmt, args);
  va_end(args);
  if (wanted < 0) text[0] = 0;
  err->code = code;
  memcpy(err->text, text, sizeof text);
  finish(err, wanted < 0 ? 0 : (size_t)wanted);
  return code;
}

void wm_error_prefix(wm_error *err, const char *fmt, ...) {
  if (!err) return;
  char text[sizeof err->text];
  va_list args;
  va_start(args, fmt);
  int wanted = vsnprintf(text, sizeof text, fmt, args);
  va_end(args);
  if (wanted < 0) return;
  wm_fail_with(err, err->code, "%s: %s", text, err->text);
}
