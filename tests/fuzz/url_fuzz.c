/*
 * url_fuzz.c - any text as a URL, as its mask, as a duration and a size. libFuzzer.
 */
#include <stdlib.h>
#include <string.h>

#include "options.h"
#include "url.h"

static void require(int holds) {
  if (!holds) abort();
}

/* A URL that parses is whole, and shows its password nowhere but in one field. */
static void check(const wm_url *url, const char *text) {
  require(*url->scheme && url->query && url->masked);
  require(url->user && url->password && url->path);
  require(!*url->password || url->has_password);
  for (size_t i = 0; i < url->n_hosts; i++)
    require(url->hosts[i].name && url->hosts[i].port >= 0 && url->hosts[i].port <= 65535);
  const char *end = text + strlen(text);
  if (!url->has_password) return;
  /* As written it stands between the first ':' of the user's part and the last '@' of it. */
  const char *from = strchr(strstr(text, "//") + 2, ':') + 1;
  const char *host = from + strcspn(from, "/?");
  while (*--host != '@')
    require(host > text && host < end);
  require(strncmp(url->masked + (from - text), "***", 3) == 0);
}

static void mask(const char *text) {
  char small[16], large[4096 * 4 + 16];
  size_t len = wm_url_masked(text, NULL, 0);
  require(wm_url_masked(text, large, sizeof large) == len);
  require(len >= sizeof large || strlen(large) == len);
  wm_url_mask(text, small, sizeof small);
  require(strlen(small) < sizeof small);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
  char *text = malloc(size + 1);
  if (!text) return 0;
  memcpy(text, data, size);
  text[size] = 0;
  wm_url *url;
  wm_error err = {0};
  int rc = wm_url_parse(&url, text, &err);
  require(rc == WM_OK ? !!url : rc == err.code && *err.text && !url);
  if (rc == WM_OK) check(url, text);
  wm_url_free(url);
  mask(text);
  int64_t n;
  require(wm_parse_duration(text, &n) != WM_OK || n >= 0);
  require(wm_parse_size(text, &n) != WM_OK || n >= 0);
  free(text);
  return 0;
}
