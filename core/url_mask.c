/*
 * url_mask.c - a URL as it may be shown: without its password, and without values of options that look
 * like secrets. It works on the text, so that a URL that cannot be parsed gives nothing away either;
 * where it cannot be sure it hides too much. No state; any thread.
 */
#include <ctype.h>
#include <string.h>

#include "error.h"
#include "options.h"
#include "url.h"

enum { NAME_SIZE = 64 };

static const char mask[] = "***";

/* Writes what fits, counts all. */
typedef struct writer {
  char *out;
  size_t room, len;
} writer;

static void put(writer *w, const char *text, size_t len) {
  for (size_t i = 0; i < len; i++, w->len++)
    if (w->len + 1 < w->room) w->out[w->len] = text[i];
}

static const char *last(const char *from, const char *to, char c) {
  while (to > from)
    if (*--to == c) return to;
  return NULL;
}

/* Is what follows the first colon of the authority no port, or does the query begin like no query? Then it
 * is a password with a character that should have been written %XX. */
static bool is_torn(const char *start) {
  const char *authority_end = start + strcspn(start, "/?#");
  if (*start == '[') start += strcspn(start, "]"); /* [::1]:6379 */
  if (start > authority_end) start = authority_end;
  const char *colon = memchr(start, ':', (size_t)(authority_end - start));
  if (colon) {
    const char *p = colon + 1 + strspn(colon + 1, "0123456789");
    if (p != authority_end && *p != ',') return true;
  }
  const char *query = strpbrk(start, "?#");
  return query && (*query == '#' || query[strcspn(query, "@=&")] == '@');
}

/* The part that is the password, of what follows the scheme (and its slashes). */
static bool find_password(const char *start, bool slashes, const char **from, const char **to) {
  if (*start == '/' || (!slashes && *start == '.')) return false; /* a path */
  const char *end = start + strcspn(start, "?#");
  const char *at = last(start, end, '@');
  if (!at && is_torn(start)) at = last(start, start + strlen(start), '@');
  if (!at) return false;
  const char *colon = memchr(start, ':', (size_t)(at - start));
  /* Without slashes it is "user:password@host" taken for scheme and rest. */
  if (!colon && slashes) return false;
  *from = colon ? colon + 1 : start;
  *to = at;
  return true;
}

static int hex(char c) {
  return isdigit((unsigned char)c) ? c - '0' : (tolower((unsigned char)c) - 'a') + 10;
}

/* The name decoded, as far as it is decodable and fits. */
static bool is_secret(const char *name, size_t len) {
  char text[NAME_SIZE];
  size_t n = 0;
  for (size_t i = 0; i < len && n + 1 < sizeof text; i++) {
    char c = name[i];
    if (c == '%' && i + 2 < len && isxdigit((unsigned char)name[i + 1]) &&
        isxdigit((unsigned char)name[i + 2])) {
      c = (char)(hex(name[i + 1]) * 16 + hex(name[i + 2]));
      i += 2;
    }
    text[n++] = c;
  }
  text[n] = 0;
  return wm_option_is_secret(text);
}

static void put_query(writer *w, const char *query) {
  while (*query) {
    size_t len = strcspn(query, "&"), name = strcspn(query, "=&");
    if (name < len && is_secret(query, name)) {
      put(w, query, name + 1);
      put(w, mask, sizeof mask - 1);
    } else {
      put(w, query, len);
    }
    query += len;
    if (*query) put(w, query++, 1);
  }
}

size_t wm_url_masked(const char *url, char *out, size_t n) {
  writer w = {out, n, 0};
  const char *text = url ? url : "", *from, *to;
  size_t scheme = strspn(text, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789+.-");
  const char *rest = text[scheme] == ':' ? text + scheme + 1 : text;
  bool slashes = strncmp(rest, "//", 2) == 0;
  if (find_password(slashes ? rest + 2 : rest, slashes, &from, &to)) {
    put(&w, text, (size_t)(from - text));
    put(&w, mask, sizeof mask - 1);
    text = to;
  }
  size_t query = strcspn(text, "?");
  if (text[query]) query++;
  put(&w, text, query);
  put_query(&w, text + query);
  if (n) out[w.len < n ? w.len : n - 1] = 0;
  return w.len;
}

void wm_url_mask(const char *url, char *out, size_t n) {
  static const char more[] = "...";
  if (wm_url_masked(url, out, n) < n || n <= sizeof more) return;
  memcpy(out + wm_cut_utf8(out, n - sizeof more), more, sizeof more);
}
