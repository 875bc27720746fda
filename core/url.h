/*
 * url.h - broker URLs: scheme://user:password@host:port,host:port/path?option=value
 * Percent-decoding everywhere; `sqlite:file.db`, `memory:`, `sqlite:/a/b.db?x=1` are fine too.
 */
#ifndef WM_URL_H
#define WM_URL_H

#include "wm.h"

typedef struct wm_host {
  const char *name; /* without brackets; "" = the default */
  int port;         /* 0 = the default */
} wm_host;

/* All strings are decoded, owned by the URL, and "" (never NULL) where absent. */
typedef struct wm_url {
  const char *scheme;         /* lower case */
  const char *user, *password;
  bool has_user, has_password;
  wm_host *hosts;
  size_t n_hosts;             /* at least 1, where the scheme is followed by // */
  const char *path;           /* after the host, without the leading slash; for `sqlite:` all after the colon: as
                                 SQLite's own URIs, sqlite:///abs and sqlite:/abs are absolute */
  wm_options *query;
  const char *masked;         /* the whole URL as given, password and values of secret-looking options as *** */
} wm_url;

/* WM_OK, WM_BAD_INPUT with the place of the fault (the caller adds the URL, masked), WM_NOMEM. */
int wm_url_parse(wm_url **out, const char *text, wm_error *err);
void wm_url_free(wm_url *url);

/* As wm_url_mask, but returns the whole length, as snprintf does, and cuts without a sign. */
size_t wm_url_masked(const char *url, char *out, size_t n);

#endif
