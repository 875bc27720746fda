/*
 * url.c - parsing broker URLs. No state; a wm_url is constant once made.
 */
#include "url.h"

#include <arpa/inet.h>
#include <ctype.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "error.h"
#include "options.h"

enum { PORT_MAX = 65535 };

typedef struct parser {
  const char *text; /* the whole URL */
  wm_url *url;
  char *pool; /* where the next decoded text goes; there is room for all */
  wm_error *err;
} parser;

/* A part of the text, and what errors call it. */
typedef struct part {
  const char *from, *to;
  const char *name;
} part;

static const char example[] = "as in redis://localhost:6379 or sqlite:file.db";

static int fault(parser *p, const char *at, const char *what) {
  size_t n = 1;
  for (const char *c = p->text; c < at; c++)
    n += ((unsigned char)*c & 0xc0) != 0x80;
  return wm_fail_with(p->err, WM_BAD_INPUT, "bad URL at character %zu: %s", n, what);
}

static int fault_in(parser *p, const char *at, const part *where, const char *what) {
  char text[200];
  snprintf(text, sizeof text, "in the %s: %s", where->name, what);
  return fault(p, at, text);
}

static int no_memory(parser *p) { return wm_fail_with(p->err, WM_NOMEM, "out of memory"); }

/* ---- texts --------------------------------------------------------------------------------- */

static int hex(char c) {
  if (c >= '0' && c <= '9') return c - '0';
  c = (char)tolower((unsigned char)c);
  return c >= 'a' && c <= 'f' ? c - 'a' + 10 : -1;
}

/* Percent-decodes a part into the pool. */
static int decode(parser *p, part src, const char **out) {
  char *to = p->pool;
  *out = "";
  for (const char *c = src.from; c < src.to; c++) {
    if (*c != '%') {
      *to++ = *c;
      continue;
    }
    int high = src.to - c > 2 ? hex(c[1]) : -1, low = high < 0 ? -1 : hex(c[2]);
    if (low < 0) return fault_in(p, c, &src, "% without two hex digits; a % itself is written %25");
    if (!high && !low) return fault_in(p, c, &src, "%00, a NUL byte, is possible nowhere");
    *to++ = (char)(high * 16 + low);
    c += 2;
  }
  if (to == p->pool) return WM_OK;
  *to++ = 0;
  *out = p->pool;
  p->pool = to;
  return WM_OK;
}

static const char *find(const char *from, const char *to, char c) {
  const char *at = from < to ? memchr(from, c, (size_t)(to - from)) : NULL;
  return at;
}

static const char *find_last(const char *from, const char *to, char c) {
  return from < to ? memrchr(from, c, (size_t)(to - from)) : NULL;
}

/* ---- scheme -------------------------------------------------------------------------------- */

static int parse_scheme(parser *p, const char **rest) {
  const char *c = p->text;
  char what[120];
  if (!*c)
    return wm_fail_with(p->err, WM_BAD_INPUT, "the URL is empty; it begins with a scheme, %s",
                        example);
  while (isalnum((unsigned char)*c) || (c > p->text && *c && strchr("+-.", *c)))
    c++;
  if (*c != ':' || c == p->text || !isalpha((unsigned char)*p->text)) {
    snprintf(what, sizeof what, "a scheme and ':' expected in front, %s", example);
    return fault(p, p->text, what);
  }
  char *to = p->pool;
  p->url->scheme = to;
  for (const char *s = p->text; s < c; s++)
    *to++ = (char)tolower((unsigned char)*s);
  *to++ = 0;
  p->pool = to;
  *rest = c + 1;
  return WM_OK;
}

/* Its URLs name a file, and no server. */
static bool is_file(const wm_url *url) { return strcmp(url->scheme, "sqlite") == 0; }

/* ---- hosts --------------------------------------------------------------------------------- */

static int parse_port(parser *p, const char *from, const char *to, int *port) {
  int n = 0;
  const char *c = from;
  for (; c < to && isdigit((unsigned char)*c) && n <= PORT_MAX; c++)
    n = n * 10 + (*c - '0');
  if (c != to || n < 1 || n > PORT_MAX) /* It may be a piece of a password: never shown. */
    return fault(
        p, from,
        find(to, to + strlen(to), '@')
            ? "a port from 1 to 65535 expected; in a password / ? # are written %2F %3F %23"
            : "a port from 1 to 65535 expected");
  *port = n;
  return WM_OK;
}

/* An address in brackets: [::1], [fe80::1%25eth0]. `end` is where the brackets do. */
static int parse_bracketed(parser *p, const char *from, const char *to, const char **end,
                           wm_host *out) {
  part host = {from + 1, find(from, to, ']'), "host"};
  if (!host.to) return fault(p, from, "'[' without ']'");
  int rc = decode(p, host, &out->name);
  if (rc != WM_OK) return rc;
  char address[INET6_ADDRSTRLEN];
  struct in6_addr binary;
  size_t len = strcspn(out->name, "%"); /* a zone may follow */
  snprintf(address, sizeof address, "%.*s", (int)(len < sizeof address ? len : 0), out->name);
  if (inet_pton(AF_INET6, address, &binary) != 1)
    return fault(p, from, "an IPv6 address expected in the brackets, as [::1]");
  *end = host.to + 1;
  return WM_OK;
}

static int parse_name(parser *p, part host, wm_host *out) {
  int rc = decode(p, host, &out->name);
  if (rc != WM_OK) return rc;
  for (const char *c = out->name; *c; c++)
    if ((unsigned char)*c <= ' ' || *c == 0x7f)
      return fault(p, host.from, "a host name without blanks and control characters expected");
  return WM_OK;
}

static int parse_host(parser *p, const char *from, const char *to, wm_host *out) {
  const char *end = to;
  int rc;
  if (*from == '[' && from < to) {
    rc = parse_bracketed(p, from, to, &end, out);
  } else {
    const char *colon = find(from, to, ':');
    end = colon ? colon : to;
    if (colon && find(colon + 1, to, ':'))
      return fault(p, from, "one port expected; an IPv6 address stands in brackets, as [::1]:6379");
    rc = parse_name(p, (part){from, end, "host"}, out);
  }
  if (rc != WM_OK || end == to) return rc;
  if (*end != ':') return fault(p, end, "':' and a port expected after ']'");
  return parse_port(p, end + 1, to, &out->port);
}

static int parse_hosts(parser *p, const char *from, const char *to) {
  wm_url *url = p->url;
  size_t n = 1;
  for (const char *c = from; (c = find(c, to, ',')) != NULL; c++)
    n++;
  url->hosts = calloc(n, sizeof *url->hosts);
  if (!url->hosts) return no_memory(p);
  for (size_t i = 0; i < n; i++)
    url->hosts[i].name = "";
  url->n_hosts = n;
  for (size_t i = 0; i < n; i++) {
    const char *comma = find(from, to, ','), *end = comma ? comma : to;
    if (n > 1 && from == end) return fault(p, from, "a host expected between commas");
    int rc = parse_host(p, from, end, &url->hosts[i]);
    if (rc != WM_OK) return rc;
    from = end + 1;
  }
  return WM_OK;
}

static int parse_user(parser *p, const char *from, const char *to) {
  wm_url *url = p->url;
  const char *colon = find(from, to, ':');
  int rc = decode(p, (part){from, colon ? colon : to, "user"}, &url->user);
  url->has_user = *url->user != 0;
  if (rc != WM_OK || !colon) return rc;
  url->has_password = true;
  return decode(p, (part){colon + 1, to, "password"}, &url->password);
}

static int parse_authority(parser *p, const char *from, const char *to) {
  static const char local[] = "localhost";
  size_t len = (size_t)(to - from);
  if (is_file(p->url) && len && (len != sizeof local - 1 || memcmp(from, local, len) != 0))
    return fault(p, from,
                 "what follows // is a server, and a file has none; write sqlite:file.db, or "
                 "sqlite:/path/file.db with the whole path");
  const char *at = find_last(from, to, '@');
  int rc = at ? parse_user(p, from, at) : WM_OK;
  return rc == WM_OK ? parse_hosts(p, at ? at + 1 : from, to) : rc;
}

/* ---- query --------------------------------------------------------------------------------- */

static int parse_option(parser *p, const char *from, const char *to) {
  const char *equals = find(from, to, '='), *name, *value;
  if (from == to) return WM_OK;
  if (equals == from) return fault(p, from, "the name of an option expected before '='");
  if (!equals) return fault(p, from, "an option is written name=value, several separated by '&'");
  int rc = decode(p, (part){from, equals, "option's name"}, &name);
  if (rc == WM_OK) rc = decode(p, (part){equals + 1, to, "option's value"}, &value);
  if (rc != WM_OK) return rc;
  if (wm_options_get(p->url->query, name)) return fault(p, from, "this option is given twice");
  return wm_options_set(p->url->query, name, value) == WM_OK ? WM_OK : no_memory(p);
}

static int parse_query(parser *p, const char *from) {
  for (;;) {
    const char *to = from + strcspn(from, "&");
    int rc = parse_option(p, from, to);
    if (rc != WM_OK || !*to) return rc;
    from = to + 1;
  }
}

/* ---- the whole ----------------------------------------------------------------------------- */

static int parse(parser *p) {
  const char *rest = p->text;
  int rc = parse_scheme(p, &rest);
  if (rc != WM_OK) return rc;
  for (const char *c = rest; *c; c++) {
    if ((unsigned char)*c < ' ' || *c == 0x7f)
      return fault(p, c, "a control character; it is written %XX");
    if (*c == '#') return fault(p, c, "'#' is possible nowhere as it is; it is written %23");
  }
  if (strncmp(rest, "//", 2) == 0) {
    const char *end = rest + 2 + strcspn(rest + 2, "/?");
    if ((rc = parse_authority(p, rest + 2, end)) != WM_OK) return rc;
    rest = *end == '/' && !is_file(p->url) ? end + 1 : end;
  }
  const char *query = rest + strcspn(rest, "?");
  rc = decode(p, (part){rest, query, "path"}, &p->url->path);
  return rc == WM_OK && *query ? parse_query(p, query + 1) : rc;
}

int wm_url_parse(wm_url **out, const char *text, wm_error *err) {
  *out = NULL;
  if (!text) text = "";
  /* A decoded text with its NUL is at most twice as long as what it was made of; an empty one takes nothing. */
  size_t pool = 2 * strlen(text) + 1, masked = wm_url_masked(text, NULL, 0) + 1;
  wm_url *url = malloc(sizeof *url + pool + masked);
  parser p = {text, url, (char *)(url + 1), err};
  if (!url) return no_memory(&p);
  char *shown = p.pool + pool;
  wm_url_masked(text, shown, masked);
  *url = (wm_url){.scheme = "", .user = "", .password = "", .path = "", .masked = shown};
  url->query = wm_options_new();
  int rc = url->query ? parse(&p) : no_memory(&p);
  if (rc != WM_OK)
    wm_url_free(url);
  else
    *out = url;
  return rc;
}

void wm_url_free(wm_url *url) {
  if (!url) return;
  wm_options_free(url->query);
  free(url->hosts);
  free(url);
}
