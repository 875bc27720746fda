/* log_line.c - see log_line.h. What is set by wm_log_line_open does not change afterwards. */
#include "log_line.h"

#include <stdarg.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "cli/json_line.h"
#include "clock.h"

static struct {
  atomic_int least;
  bool json, colour;
} format = {.least = WM_LOG_WARN};

static const char *const names[] = {"debug", "info", "warn", "error"};
static const char *const colours[] = {"\033[2m", "", "\033[33m", "\033[31m"};

static void write_all(const char *text, size_t len) {
  while (len) {
    ssize_t n = write(STDERR_FILENO, text, len);
    if (n <= 0) return; /* there is nowhere to say so */
    text += n;
    len -= (size_t)n;
  }
}

static void write_text(wm_log_level level, const char *time, const char *text) {
  const char *colour = format.colour ? colours[level] : "", *normal = *colour ? "\033[0m" : "";
  char *line = NULL;
  int n = asprintf(&line, "%s %s%-5s%s %s\n", time, colour, names[level], normal, text);
  if (n > 0) write_all(line, (size_t)n);
  if (n >= 0) free(line);
}

static void write_json(wm_log_level level, const char *time, const char *text) {
  json_t *object = json_pack("{ss ss so}", "time", time, "level", names[level], "text",
                             wm_json_text((wm_slice){text, strlen(text)}));
  char *line = object ? json_dumps(object, JSON_COMPACT) : NULL;
  if (line) wm_log_line_raw(level, line);
  free(line);
  json_decref(object);
}

void wm_log_line_text(wm_log_level level, const char *text) {
  char time[WM_RFC3339_SIZE];
  if (!wm_log_line_wanted(level)) return;
  wm_rfc3339(wm_epoch_ms(), time);
  (format.json ? write_json : write_text)(level, time, text);
}

void wm_log_line(wm_log_level level, const char *fmt, ...) {
  if (!wm_log_line_wanted(level)) return;
  char *text = NULL;
  va_list list;
  va_start(list, fmt);
  int n = vasprintf(&text, fmt, list);
  va_end(list);
  if (n < 0) return;
  wm_log_line_text(level, text);
  free(text);
}

void wm_log_line_raw(wm_log_level level, const char *line) {
  if (!wm_log_line_wanted(level)) return;
  if (!format.json) {
    wm_log_line_text(level, line);
    return;
  }
  char *copy = NULL;
  int n = asprintf(&copy, "%s\n", line);
  if (n > 0) write_all(copy, (size_t)n);
  if (n >= 0) free(copy);
}

bool wm_log_line_wanted(wm_log_level level) { return (int)level >= format.least; }

void wm_log_line_least(wm_log_level least) { format.least = (int)least; }

static void from_library(void *arg, wm_log_level level, const char *text) {
  (void)arg;
  wm_log_line_text(level, text);
}

void wm_log_line_open(wm_log_level least, bool json, bool colour) {
  format.least = least;
  format.json = json;
  format.colour = colour;
  wm_log_set(from_library, NULL, least);
}
