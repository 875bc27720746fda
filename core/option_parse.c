/*
 * option_parse.c - one option's text to its value: durations, sizes, ranges, choices, and what to say when
 * it is wrong. No state; any thread.
 */
#include <stdio.h>
#include <string.h>
#include <strings.h>

#include "error.h"
#include "options.h"

enum {
  EXPECTED_SIZE = 200, /* what an option expects, as text */
  SHOWN_VALUE = 60     /* bytes of a wrong value */
};

/* ---- numbers ------------------------------------------------------------------------------- */

static bool is_digit(char c) { return c >= '0' && c <= '9'; }

/* Reads digits; false when there are none or they are too many for an int64_t. */
static bool read_whole(const char **text, int64_t *out) {
  const char *p = *text;
  int64_t n = 0;
  if (!is_digit(*p)) return false;
  for (; is_digit(*p); p++)
    if (__builtin_mul_overflow(n, 10, &n) || __builtin_add_overflow(n, *p - '0', &n)) return false;
  *text = p;
  *out = n;
  return true;
}

typedef struct unit {
  const char *name;
  int64_t times;
} unit;

enum { SECOND = 1000, MINUTE = 60 * SECOND, HOUR = 60 * MINUTE, DAY = 24 * HOUR };
enum { KIB = 1024, MIB = 1024 * KIB, GIB = 1024 * MIB };

/* Largest first, for printing. */
static const unit durations[] = {{"d", DAY}, {"h", HOUR}, {"m", MINUTE}, {"s", SECOND}, {"ms", 1}};
static const unit sizes[] = {{"G", GIB}, {"M", MIB}, {"k", KIB}};

#define COUNT_OF(table) (sizeof(table) / sizeof *(table))

/* Digits after the point as a part of `times`, rounded up: what is not nothing stays so. */
static int64_t read_fraction(const char *text, int64_t times) {
  enum { EXACT_DIGITS = 9 };
  int64_t value = 0, scale = 1;
  bool more = false;
  for (int digits = 0; is_digit(*text); text++, digits++) {
    if (digits >= EXACT_DIGITS) {
      more |= *text != '0';
      continue;
    }
    value = value * 10 + (*text - '0');
    scale *= 10;
  }
  return ((value + more) * times + scale - 1) / scale;
}

static const unit *unit_of(const unit *units, size_t n, const char *text) {
  for (size_t i = 0; i < n; i++)
    if (strcasecmp(units[i].name, text) == 0) return &units[i];
  return NULL;
}

int wm_parse_duration(const char *text, int64_t *ms) {
  int64_t whole;
  if (!text || !read_whole(&text, &whole)) return WM_BAD_INPUT;
  const char *fraction = NULL;
  if (*text == '.') {
    fraction = ++text;
    if (!is_digit(*text)) return WM_BAD_INPUT;
    text += strspn(text, "0123456789");
  }
  const unit *u = unit_of(durations, COUNT_OF(durations), *text ? text : "s");
  if (!u || __builtin_mul_overflow(whole, u->times, &whole)) return WM_BAD_INPUT;
  int64_t part = fraction ? read_fraction(fraction, u->times) : 0;
  return __builtin_add_overflow(whole, part, ms) ? WM_BAD_INPUT : WM_OK;
}

int wm_parse_size(const char *text, int64_t *bytes) {
  int64_t whole;
  if (!text || !read_whole(&text, &whole)) return WM_BAD_INPUT;
  static const unit byte = {"", 1};
  const unit *u = *text ? unit_of(sizes, COUNT_OF(sizes), text) : &byte;
  if (!u) return WM_BAD_INPUT;
  return __builtin_mul_overflow(whole, u->times, bytes) ? WM_BAD_INPUT : WM_OK;
}

/* ---- what an option expects, as text ------------------------------------------------------- */

/* A number as a user would write it: "12h", "16M", "1000". */
static void print_number(wm_option_type type, int64_t number, char *out, size_t size) {
  const unit *units = type == WM_OPT_DURATION ? durations : sizes;
  size_t n = type == WM_OPT_DURATION ? COUNT_OF(durations)
             : type == WM_OPT_SIZE   ? COUNT_OF(sizes)
                                     : 0;
  for (size_t i = 0; number && i < n; i++)
    if (number % units[i].times == 0) {
      snprintf(out, size, "%lld%s", (long long)(number / units[i].times), units[i].name);
      return;
    }
  snprintf(out, size, "%lld", (long long)number);
}

static bool has_max(const wm_option_def *def) { return def->max != 0 && def->max != INT64_MAX; }

static void print_range(const wm_option_def *def, char *out, size_t size) {
  char least[32], most[32];
  print_number(def->type, def->min, least, sizeof least);
  print_number(def->type, def->max, most, sizeof most);
  if (has_max(def))
    snprintf(out, size, " from %s to %s", least, most);
  else if (def->min)
    snprintf(out, size, " of at least %s", least);
  else
    *out = 0;
}

/* "a|b|c" as "a, b or c". */
static void print_choices(const char *choices, char *out, size_t size) {
  size_t used = 0;
  for (const char *p = choices; *p && used + 1 < size; p++) {
    const char *between = strchr(p + 1, '|') ? ", " : " or ";
    int n = *p == '|' ? snprintf(out + used, size - used, "%s", between)
                      : snprintf(out + used, size - used, "%c", *p);
    used += (size_t)n;
  }
}

static void print_expected(const wm_option_def *def, char *out, size_t size) {
  char range[80];
  print_range(def, range, sizeof range);
  switch (def->type) {
  case WM_OPT_BOOL:
    snprintf(out, size, "true or false");
    break;
  case WM_OPT_COUNT:
    snprintf(out, size, "a whole number%s", range);
    break;
  case WM_OPT_DURATION:
    snprintf(out, size, "a duration%s (30 or 30s, 250ms, 5m, 2h, 7d)", range);
    break;
  case WM_OPT_SIZE:
    snprintf(out, size, "a size%s in bytes (65536 or 64k, 4M, 1G)", range);
    break;
  case WM_OPT_CHOICE:
    print_choices(def->choices, out, size);
    break;
  default:
    snprintf(out, size, "text");
  }
}

/* ---- parsing ------------------------------------------------------------------------------- */

static int wrong(const wm_option_def *def, const char *text, wm_error *err) {
  char expected[EXPECTED_SIZE];
  print_expected(def, expected, sizeof expected);
  if (wm_option_is_secret(def->name)) text = "***";
  bool cut = strlen(text) > SHOWN_VALUE;
  return wm_fail_with(err, WM_BAD_INPUT, "option '%s': %s expected, got '%.*s%s'", def->name,
                      expected, (int)(cut ? wm_cut_utf8(text, SHOWN_VALUE) : strlen(text)), text,
                      cut ? "..." : "");
}

static bool parse_bool(const char *text, int64_t *out) {
  static const char *const words[] = {"false", "true", "no", "yes", "off", "on", "0", "1"};
  for (size_t i = 0; i < COUNT_OF(words); i++)
    if (strcasecmp(text, words[i]) == 0) {
      *out = (int64_t)(i % 2);
      return true;
    }
  return false;
}

static bool parse_choice(const char *choices, const char *text, int64_t *out) {
  size_t len = strlen(text);
  *out = 0;
  for (const char *p = choices;; p++, ++*out) {
    size_t n = strcspn(p, "|");
    if (n == len && memcmp(p, text, n) == 0) return true;
    p += n;
    if (!*p) return false;
  }
}

static bool in_range(const wm_option_def *def, int64_t number) {
  return number >= def->min && (!has_max(def) || number <= def->max);
}

static bool parse_number(const wm_option_def *def, const char *text, int64_t *out) {
  switch (def->type) {
  case WM_OPT_BOOL:
    return parse_bool(text, out);
  case WM_OPT_CHOICE:
    return parse_choice(def->choices, text, out);
  case WM_OPT_COUNT:
    return read_whole(&text, out) && !*text && in_range(def, *out);
  case WM_OPT_DURATION:
    return wm_parse_duration(text, out) == WM_OK && in_range(def, *out);
  case WM_OPT_SIZE:
    return wm_parse_size(text, out) == WM_OK && in_range(def, *out);
  default:
    *out = 0;
    return true;
  }
}

int wm_option_parse(const wm_option_def *def, const char *text, wm_option_value *out,
                    wm_error *err) {
  int64_t number;
  if (!parse_number(def, text, &number)) return wrong(def, text, err);
  *out = (wm_option_value){.set = true, .number = number, .text = text};
  return WM_OK;
}
