/*
 * print.c - how commands write: errors on stderr, results on stdout, colour where somebody looks.
 * Main thread only.
 */
#include <errno.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "cli.h"
#include "log_line.h"

/* ---- errors --------------------------------------------------------------------------------- */

static void say(const wm_cli_args *args, const char *fmt, va_list list) {
  char text[WM_ERROR_MAX + 128];
  vsnprintf(text, sizeof text, fmt, list);
  bool named = args && args->command;
  fprintf(stderr, "wmlua%s%s: %s\n", named ? " " : "", named ? args->command->name : "", text);
}

void wm_cli_say(const wm_cli_args *args, const char *fmt, ...) {
  va_list list;
  va_start(list, fmt);
  say(args, fmt, list);
  va_end(list);
}

int wm_cli_misuse(const wm_cli_args *args, const char *fmt, ...) {
  va_list list;
  va_start(list, fmt);
  say(args, fmt, list);
  va_end(list);
  const char *name = args->command ? args->command->name : "";
  fprintf(stderr, "Read 'wmlua help%s%s'.\n", *name ? " " : "", name);
  return WM_EXIT_USAGE;
}

int wm_cli_exit_of(int code) {
  switch (code) {
  case WM_OK:
    return WM_EXIT_OK;
  case WM_BAD_INPUT:
    return WM_EXIT_USAGE;
  case WM_UNREACHABLE:
  case WM_NOT_SENT:
  case WM_DENIED:
    return WM_EXIT_UNREACHABLE;
  case WM_NOT_FOUND:
  case WM_TIMEOUT:
    return WM_EXIT_NOT_FOUND;
  default:
    return WM_EXIT_FAILED;
  }
}

int wm_cli_fail(const wm_cli_args *args, const wm_error *err) {
  wm_cli_say(args, "%s", err->text);
  return wm_cli_exit_of(err->code);
}

/* ---- results -------------------------------------------------------------------------------- */

bool wm_cli_colour(const wm_cli_args *args, int fd) {
  enum { AUTO, ALWAYS, NEVER };
  int64_t when = wm_cli_number(args, "color");
  if (when != AUTO) return when == ALWAYS;
  const char *no = getenv("NO_COLOR");
  return !(no && *no) && isatty(fd);
}

enum { FLUSH_AT = 64 * 1024 };

static struct {
  char *data;
  size_t len, room;
  int error; /* an errno: nothing is written any more */
} out;

static bool reserve(size_t more) {
  if (out.room - out.len >= more) return true;
  size_t room = out.len + more + FLUSH_AT;
  char *data = realloc(out.data, room);
  if (!data) {
    out.error = ENOMEM;
    return false;
  }
  out.data = data;
  out.room = room;
  return true;
}

void wm_cli_put(const void *data, size_t len) {
  if (out.error || !reserve(len)) return;
  if (len) memcpy(out.data + out.len, data, len);
  out.len += len;
  if (out.len >= FLUSH_AT) wm_cli_flush();
}

void wm_cli_putf(const char *fmt, ...) {
  va_list list, again;
  va_start(list, fmt);
  va_copy(again, list);
  int n = vsnprintf(NULL, 0, fmt, list);
  if (!out.error && n >= 0 && reserve((size_t)n + 1))
    out.len += (size_t)vsnprintf(out.data + out.len, (size_t)n + 1, fmt, again);
  va_end(again);
  va_end(list);
  if (out.len >= FLUSH_AT) wm_cli_flush();
}

bool wm_cli_flush(void) {
  size_t done = 0;
  while (!out.error && done < out.len) {
    ssize_t n = write(STDOUT_FILENO, out.data + done, out.len - done);
    if (n >= 0)
      done += (size_t)n;
    else if (errno != EINTR)
      out.error = errno;
  }
  out.len = 0;
  return !out.error;
}

int wm_cli_printed(const wm_cli_args *args, int code) {
  bool written = wm_cli_flush();
  free(out.data);
  out.data = NULL;
  out.room = 0;
  if (written || out.error == EPIPE) return code;
  wm_cli_say(args, "standard output: %s", strerror(out.error));
  return code ? code : WM_EXIT_FAILED;
}

void wm_cli_log(const wm_cli_args *args) {
  wm_log_level least = WM_LOG_WARN;
  if (wm_cli_has(args, "quiet")) least = WM_LOG_ERROR;
  if (wm_cli_has(args, "verbose")) least = WM_LOG_DEBUG;
  wm_log_line_open(least, false, wm_cli_colour(args, STDERR_FILENO));
}

bool wm_cli_option(const wm_cli_args *args, wm_options *opts, const char *name, const char *value) {
  if (opts && wm_options_set(opts, name, value) == WM_OK) return true;
  wm_cli_say(args, "out of memory");
  return false;
}
