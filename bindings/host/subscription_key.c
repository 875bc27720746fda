/* subscription_key.c - see subscription_key.h */
#include "subscription_key.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "error.h"
#include "options.h"
#include "url.h"

/* ---- options -------------------------------------------------------------------------------- */

wm_options *wm_options_copy(const wm_options *opts) {
  wm_options *copy = wm_options_new();
  const char *name, *value;
  for (size_t i = 0; copy && (name = wm_options_at(opts, i, &value)); i++)
    if (wm_options_set(copy, name, value) != WM_OK) {
      wm_options_free(copy);
      copy = NULL;
    }
  return copy;
}

static bool contains(const wm_options *all, const wm_options *some) {
  const char *name, *value;
  for (size_t i = 0; (name = wm_options_at(some, i, &value)); i++) {
    const char *other = wm_options_get(all, name);
    if (!other || strcmp(other, value) != 0) return false;
  }
  return true;
}

bool wm_options_same(const wm_options *a, const wm_options *b) {
  return contains(a, b) && contains(b, a);
}

/* As wm_subscription_configure has it; a backend's own options are fixed, too. */
static bool is_fixed(const char *name) {
  static const int fixed[] = {WM_SUB_EXCLUSIVE, WM_SUB_TAKEOVER, WM_SUB_TX};
  for (size_t i = 0; i < sizeof fixed / sizeof *fixed; i++)
    if (strcmp(wm_subscription_options[fixed[i]].name, name) == 0) return true;
  for (const wm_option_def *def = wm_subscription_options; def->name; def++)
    if (strcmp(def->name, name) == 0) return false;
  return true;
}

static int compare_texts(const void *a, const void *b) {
  return strcmp(*(char *const *)a, *(char *const *)b);
}

/* "name=value" of the fixed ones, sorted, a line each. */
static char *fixed_of(const wm_options *opts) {
  char *lines[64], *text = NULL;
  size_t n = 0, len = 0;
  bool failed = false;
  const char *name, *value;
  for (size_t i = 0; n < sizeof lines / sizeof *lines && (name = wm_options_at(opts, i, &value));
       i++) {
    if (!is_fixed(name)) continue;
    int size = asprintf(&lines[n], "%s=%s\n", name, value);
    if (size < 0) {
      failed = true;
      break;
    }
    len += (size_t)size;
    n++;
  }
  qsort(lines, n, sizeof *lines, compare_texts);
  if (!failed) text = calloc(1, len + 1);
  for (size_t i = 0; i < n; i++) {
    if (text) strcat(text, lines[i]);
    free(lines[i]);
  }
  return text;
}

/* ---- keys ----------------------------------------------------------------------------------- */

int wm_subscription_key_make(wm_subscription_key *key, const char *url, const char *topic,
                             const wm_options *opts, wm_error *err) {
  wm_url *parsed;
  int code = wm_url_parse(&parsed, url, err);
  if (code != WM_OK) return code;
  const char *name = wm_subscription_options[WM_SUB_GROUP].name;
  const char *group = wm_options_get(opts, name);
  if (!group) group = wm_options_get(parsed->query, name);
  key->url = strdup(url);
  key->topic = strdup(topic);
  key->group = strdup(group ? group : "");
  key->fixed = fixed_of(opts);
  wm_url_free(parsed);
  if (key->url && key->topic && key->group && key->fixed) return WM_OK;
  wm_subscription_key_clear(key);
  return wm_fail_with(err, WM_NOMEM, "out of memory");
}

int wm_subscription_key_copy(wm_subscription_key *to, const wm_subscription_key *from) {
  *to = (wm_subscription_key){strdup(from->url), strdup(from->topic), strdup(from->group),
                              strdup(from->fixed)};
  if (to->url && to->topic && to->group && to->fixed) return WM_OK;
  wm_subscription_key_clear(to);
  return WM_NOMEM;
}

bool wm_subscription_key_same(const wm_subscription_key *a, const wm_subscription_key *b) {
  return !strcmp(a->topic, b->topic) && !strcmp(a->group, b->group) && !strcmp(a->url, b->url) &&
         !strcmp(a->fixed, b->fixed);
}

void wm_subscription_key_clear(wm_subscription_key *key) {
  free(key->url);
  free(key->topic);
  free(key->group);
  free(key->fixed);
  *key = (wm_subscription_key){0};
}
