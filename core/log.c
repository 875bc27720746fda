/*
 * log.c - where the library's log goes. The sink is set before other threads log, and constant then;
 * logging is safe from any thread and keeps errno.
 */
#include "log.h"

#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "error.h"

enum { SHORT_LINE = 1024, PREFIX = 16 };

static void to_stderr(void *arg, wm_log_level level, const char *text);

static wm_log_fn sink = to_stderr;
static void *sink_arg;
static wm_log_level wanted = WM_LOG_INFO;

void wm_log_set(wm_log_fn fn, void *arg, wm_log_level least) {
  sink = fn ? fn : to_stderr;
  sink_arg = arg;
  wanted = least;
}

bool wm_log_wanted(wm_log_level level) { return level >= wanted; }

/* One write a line, so that lines of several threads do not mix. */
static void write_all(const char *data, size_t len) {
  while (len) {
    ssize_t n = write(STDERR_FILENO, data, len);
    if (n < 0 && errno == EINTR) continue;
    if (n <= 0) return;
    data += n;
    len -= (size_t)n;
  }
}

static void to_stderr(void *arg, wm_log_level level, const char *text) {
  static const char *const names[] = {"debug", "info", "warn", "error"};
  (void)arg;
  size_t len = strlen(text), room = PREFIX + len + 1;
  char line[PREFIX + SHORT_LINE + 1];
  char *at = room <= sizeof line ? line : malloc(room);
  if (!at) {
    at = line;
    len = SHORT_LINE;
  }
  size_t used = (size_t)snprintf(at, PREFIX, "libwm %s: ", names[level]);
  memcpy(at + used, text, len);
  used += len;
  at[used++] = '\n';
  write_all(at, used);
  if (at != line) free(at);
}

static void log_args(wm_log_level level, const char *fmt, va_list args) {
  char line[SHORT_LINE], *text = line;
  va_list again;
  va_copy(again, args);
  int len = vsnprintf(line, sizeof line, fmt, args);
  if (len >= (int)sizeof line) {
    char *whole = malloc((size_t)len + 1);
    if (whole) {
      vsnprintf(whole, (size_t)len + 1, fmt, again);
      text = whole;
    }
  }
  va_end(again);
  if (len >= 0) {
    wm_one_line(text);
    sink(sink_arg, level, text);
  }
  if (text != line) free(text);
}

void wm_log(wm_log_level level, const char *fmt, ...) {
  if (!wm_log_wanted(level)) return;
  int saved = errno;
  va_list args;
  va_start(args, fmt);
  log_args(level, fmt, args);
  va_end(args);
  errno = saved;
}

void wm_defect(const char *fmt, ...) {
  va_list args;
  va_start(args, fmt);
  log_args(WM_LOG_ERROR, fmt, args);
  va_end(args);
  abort();
}
