/*
 * wire.c - columns <-> messages: metadata as JSON, times as text. No file, no state: any thread, as long as
 * the statement that reads JSON belongs to it.
 */
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "sqlite.h"
#include "utf8.h"

/* ---- JSON to metadata ------------------------------------------------------------------------- */

/* What a number may need more as SQLite writes it. */
enum { NUMBER_ROOM = 24 };

/* SQLite ends a text at a NUL. Counts the pairs of an object; more where it is no flat one. */
static bool has_nul(wm_slice json, size_t *pairs) {
  bool in_text = false;
  *pairs = 0;
  for (size_t i = 0; i < json.len; i++) {
    char c = json.data[i];
    if (!c || (c == '\\' && json.len - i >= 6 && memcmp(json.data + i, "\\u0000", 6) == 0))
      return true;
    if (c == '\\')
      i++;
    else if (c == '"')
      in_text = !in_text;
    else if (c == ':' && !in_text)
      ++*pairs;
  }
  return false;
}

static wm_slice trimmed(wm_slice text) {
  static const char blanks[] = " \t\r\n";
  while (text.len && memchr(blanks, text.data[0], 4))
    text.data++, text.len--;
  while (text.len && memchr(blanks, text.data[text.len - 1], 4))
    text.len--;
  return text;
}

static bool is_empty(wm_slice json) {
  return json.len == 0 || (json.len == 2 && memcmp(json.data, "{}", 2) == 0) ||
         (json.len == 4 && memcmp(json.data, "null", 4) == 0);
}

static wm_slice column_slice(sqlite3_stmt *stmt, int i) {
  const char *text = (const char *)sqlite3_column_text(stmt, i);
  return (wm_slice){text ? text : "", text ? (size_t)sqlite3_column_bytes(stmt, i) : 0};
}

/* One pair; false: its value is no text, number, or the like. */
static bool add_pair(wm_message *msg, sqlite3_stmt *pair) {
  const char *type = (const char *)sqlite3_column_text(pair, 2);
  if (sqlite3_column_type(pair, 0) != SQLITE_TEXT || !type) return false;
  wm_slice key = column_slice(pair, 0), value = column_slice(pair, 1);
  if (strcmp(type, "array") == 0 || strcmp(type, "object") == 0) return false;
  if (strcmp(type, "true") == 0 || strcmp(type, "false") == 0)
    value = (wm_slice){type, strlen(type)};
  wm_message_add(msg, key.data, key.len, value.data, value.len);
  return true;
}

/* 1: all of it is in msg; 0: it is not what it should be; -1: out of memory. */
static int add_metadata(wm_message *msg, sqlite3_stmt *json, wm_slice text) {
  int rc, good = 1;
  if (text.data[0] != '{' || text.len > INT32_MAX) return 0;
  if (sqlite3_bind_text(json, 1, text.data, (int)text.len, SQLITE_STATIC) != SQLITE_OK) return -1;
  while (good && (rc = sqlite3_step(json)) != SQLITE_DONE)
    good = rc == SQLITE_ROW ? add_pair(msg, json) : rc == SQLITE_NOMEM ? -1 : 0;
  sqlite3_reset(json);
  sqlite3_clear_bindings(json);
  return good;
}

static void fill(wm_message *msg, const wm_sqlite_record *r) {
  msg->token[0] = (uint64_t)r->offset;
  msg->time = wm_sqlite_parse_time(r->created_at);
  snprintf(msg->position, sizeof msg->position, "%s%lld", WM_SQLITE_POSITION, (long long)r->offset);
  if (r->uuid.len)
    wm_message_set_uuid(msg, r->uuid.data, r->uuid.len);
  else
    wm_message_set_uuid(msg, msg->position + strlen(WM_SQLITE_POSITION),
                        strlen(msg->position) - strlen(WM_SQLITE_POSITION));
  wm_message_set_payload(msg, r->payload.data, r->payload.len);
}

/* What cannot be decoded keeps its payload, and its metadata as they are. */
static wm_message *raw_message(const wm_sqlite_record *r, size_t bytes) {
  static const char key[] = WM_SQLITE_RAW_METADATA;
  wm_message *msg = wm_message_alloc(1, bytes + r->metadata.len + sizeof key);
  if (!msg) return NULL;
  msg->undecodable = "its metadata is no JSON object of texts";
  wm_message_add(msg, key, sizeof key - 1, r->metadata.data, r->metadata.len);
  return msg;
}

wm_message *wm_sqlite_message(sqlite3_stmt *json, const wm_sqlite_record *r) {
  size_t pairs = 0, bytes = r->payload.len;
  bytes += r->uuid.len ? r->uuid.len : sizeof((wm_message *)0)->position;
  wm_slice text = trimmed(r->metadata);
  bool none = is_empty(text);
  int good = none || !has_nul(text, &pairs);
  wm_message *msg = NULL;
  if (good) {
    msg = wm_message_alloc(pairs, bytes + text.len + pairs * NUMBER_ROOM);
    if (msg && !none) good = add_metadata(msg, json, text);
    if (!msg) return NULL;
  }
  if (good < 1) {
    wm_message_release(msg);
    msg = good < 0 ? NULL : raw_message(r, bytes);
  }
  if (msg) fill(msg, r);
  return msg;
}

/* ---- metadata to JSON ------------------------------------------------------------------------- */

static bool reserve(wm_sqlite_buf *b, size_t more) {
  if (b->cap - b->len >= more) return true;
  size_t cap = b->cap ? b->cap : 1024;
  while (cap - b->len < more)
    cap *= 2;
  char *data = realloc(b->data, cap);
  if (!data) return false;
  b->data = data;
  b->cap = cap;
  return true;
}

/* A character takes at most six: \u001f. */
static bool put_text(wm_sqlite_buf *b, wm_slice text) {
  static const char hex[] = "0123456789abcdef";
  if (!reserve(b, 6 * text.len + 2)) return false;
  char *out = b->data + b->len;
  *out++ = '"';
  for (size_t i = 0; i < text.len; i++) {
    unsigned char c = (unsigned char)text.data[i];
    if (c == '"' || c == '\\') {
      *out++ = '\\';
      *out++ = (char)c;
    } else if (c < 0x20) {
      memcpy(out, "\\u00", 4);
      out[4] = hex[c >> 4];
      out[5] = hex[c & 15];
      out += 6;
    } else {
      *out++ = (char)c;
    }
  }
  *out++ = '"';
  b->len = (size_t)(out - b->data);
  return true;
}

static bool put_char(wm_sqlite_buf *b, char c) {
  if (!reserve(b, 1)) return false;
  b->data[b->len++] = c;
  return true;
}

bool wm_sqlite_put_metadata(wm_sqlite_buf *b, const wm_message *msg) {
  b->len = 0;
  bool good = put_char(b, '{');
  for (size_t i = 0; i < msg->pairs && good; i++)
    good = (!i || put_char(b, ',')) && put_text(b, msg->meta[i].key) && put_char(b, ':') &&
           put_text(b, msg->meta[i].value);
  return good && put_char(b, '}');
}

bool wm_sqlite_is_text(wm_slice text) {
  const unsigned char *p = (const unsigned char *)text.data, *end = p + text.len;
  size_t len = 1;
  for (; p < end && len; p += len)
    len = *p ? wm_utf8_character(p, end) : 0;
  return len > 0;
}

/* ---- times ------------------------------------------------------------------------------------ */

void wm_sqlite_print_time(int64_t epoch_ms, char out[WM_SQLITE_TIME_SIZE]) {
  time_t seconds = (time_t)(epoch_ms / 1000);
  struct tm tm;
  gmtime_r(&seconds, &tm);
  size_t n = strftime(out, WM_SQLITE_TIME_SIZE, "%Y-%m-%dT%H:%M:%S", &tm);
  snprintf(out + n, WM_SQLITE_TIME_SIZE - n, ".%03dZ", (int)(epoch_ms % 1000));
}

/* n digits at *p, then the character `after` (0: anything); -1: something else is there. */
static int digits(const char **p, const char *end, int n, char after) {
  int value = 0;
  if (end - *p < n + (after != 0)) return -1;
  for (int i = 0; i < n; i++, (*p)++) {
    if (**p < '0' || **p > '9') return -1;
    value = value * 10 + (**p - '0');
  }
  if (!after) return value;
  return *(*p)++ == after ? value : -1;
}

/* Days since 1970 in the Gregorian calendar: years begin in March, so that a leap day is the last. */
static int64_t days_of(int year, int month, int day) {
  year -= month <= 2;
  int era = year / 400, of_era = year - era * 400;
  int of_year = (153 * (month + (month > 2 ? -3 : 9)) + 2) / 5 + day - 1;
  return (int64_t)era * 146097 + of_era * 365 + of_era / 4 - of_era / 100 + of_year - 719468;
}

/* "Z", "+02:00", or nothing, to seconds; INT_MIN-like INT32_MIN: something else. */
static int32_t zone_of(const char *p, const char *end) {
  if (p == end || (end - p == 1 && (*p == 'Z' || *p == 'z'))) return 0;
  if (*p != '+' && *p != '-') return INT32_MIN;
  int sign = *p++ == '-' ? -1 : 1;
  int hours = digits(&p, end, 2, ':'), minutes = hours < 0 ? -1 : digits(&p, end, 2, 0);
  return minutes < 0 || p != end ? INT32_MIN : sign * (hours * 3600 + minutes * 60);
}

int64_t wm_sqlite_parse_time(wm_slice text) {
  const char *p = text.data, *end = p + text.len;
  int year, month, day, hour, minute, second, ms = 0;
  if (!text.len || (year = digits(&p, end, 4, '-')) < 0 || (month = digits(&p, end, 2, '-')) < 0 ||
      (day = digits(&p, end, 2, 0)) < 0 || p == end || (*p != 'T' && *p != 't' && *p != ' '))
    return 0;
  p++;
  if ((hour = digits(&p, end, 2, ':')) < 0 || (minute = digits(&p, end, 2, ':')) < 0 ||
      (second = digits(&p, end, 2, 0)) < 0 || month < 1 || month > 12)
    return 0;
  if (p < end && *p == '.') {
    int scale = 100;
    for (p++; p < end && *p >= '0' && *p <= '9'; p++, scale /= 10)
      ms += (*p - '0') * scale;
  }
  int32_t zone = zone_of(p, end);
  if (zone == INT32_MIN) return 0;
  return ((days_of(year, month, day) * 24 + hour) * 60 + minute) * 60000 + second * 1000LL + ms -
         zone * 1000LL;
}
