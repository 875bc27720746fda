/*
 * options.c - sets of options and the tables that say what may be in them. No state but the sets, which
 * their owners guard.
 */
#include "options.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

#include "error.h"

enum {
  GROWTH = 8,      /* pairs */
  SHOWN_NAME = 60, /* bytes of an unknown name */
  KNOWN_SIZE = 800 /* the names there are, as text */
};

/* ---- sets ---------------------------------------------------------------------------------- */

typedef struct pair {
  char *name, *value;
} pair;

struct wm_options {
  pair *pairs;
  size_t n, room;
};

wm_options *wm_options_new(void) { return calloc(1, sizeof(wm_options)); }

void wm_options_free(wm_options *opts) {
  if (!opts) return;
  for (size_t i = 0; i < opts->n; i++) {
    free(opts->pairs[i].name);
    free(opts->pairs[i].value);
  }
  free(opts->pairs);
  free(opts);
}

static pair *find(const wm_options *opts, const char *name) {
  for (size_t i = 0; opts && i < opts->n; i++)
    if (strcmp(opts->pairs[i].name, name) == 0) return &opts->pairs[i];
  return NULL;
}

static bool has_room(wm_options *opts) {
  if (opts->n < opts->room) return true;
  pair *more = realloc(opts->pairs, (opts->room + GROWTH) * sizeof *more);
  if (!more) return false;
  opts->pairs = more;
  opts->room += GROWTH;
  return true;
}

int wm_options_set(wm_options *opts, const char *name, const char *value) {
  char *copy = strdup(value);
  if (!copy) return WM_NOMEM;
  pair *old = find(opts, name);
  if (old) {
    free(old->value);
    old->value = copy;
    return WM_OK;
  }
  char *key = strdup(name);
  if (!key || !has_room(opts)) {
    free(key);
    free(copy);
    return WM_NOMEM;
  }
  opts->pairs[opts->n++] = (pair){key, copy};
  return WM_OK;
}

const char *wm_options_at(const wm_options *opts, size_t i, const char **value) {
  if (!opts || i >= opts->n) return NULL;
  if (value) *value = opts->pairs[i].value;
  return opts->pairs[i].name;
}

const char *wm_options_get(const wm_options *opts, const char *name) {
  const pair *p = find(opts, name);
  return p ? p->value : NULL;
}

bool wm_option_is_secret(const char *name) {
  static const char *const inside[] = {"password", "passwd", "token", "secret"};
  static const char *const whole[] = {"pass", "key"};
  static const char suffix[] = "_key";
  for (size_t i = 0; i < sizeof inside / sizeof *inside; i++)
    if (strcasestr(name, inside[i])) return true;
  for (size_t i = 0; i < sizeof whole / sizeof *whole; i++)
    if (strcasecmp(name, whole[i]) == 0) return true;
  size_t len = strlen(name), tail = sizeof suffix - 1;
  return len > tail && strcasecmp(name + len - tail, suffix) == 0;
}

/* ---- by tables ----------------------------------------------------------------------------- */

int wm_options_resolve(const wm_option_def *defs, const wm_options *opts, wm_option_value *values,
                       wm_error *err) {
  for (size_t i = 0; defs[i].name; i++) {
    const char *given = wm_options_get(opts, defs[i].name);
    int rc = wm_option_parse(&defs[i], given ? given : defs[i].value, &values[i], err);
    if (rc != WM_OK) return rc;
    values[i].set = given != NULL;
  }
  return WM_OK;
}

typedef struct tables {
  const wm_option_def *const *of;
  size_t n;
} tables;

static const char *name_at(void *arg, size_t i) {
  const tables *t = arg;
  for (size_t k = 0; k < t->n; k++)
    for (const wm_option_def *def = t->of[k]; def->name; def++)
      if (i-- == 0) return def->name;
  return NULL;
}

static bool has_name(tables *t, const char *name) {
  const char *known;
  for (size_t i = 0; (known = name_at(t, i)) != NULL; i++)
    if (strcmp(known, name) == 0) return true;
  return false;
}

static int unknown(tables *t, const char *name, wm_error *err) {
  int shown = (int)(strlen(name) > SHOWN_NAME ? wm_cut_utf8(name, SHOWN_NAME) : strlen(name));
  const char *near = wm_nearest(name, name_at, t);
  if (near)
    return wm_fail_with(err, WM_BAD_INPUT, "unknown option '%.*s'; did you mean '%s'?", shown, name,
                        near);
  char known[KNOWN_SIZE] = "none";
  size_t used = 0;
  for (size_t i = 0; used < sizeof known && (near = name_at(t, i)) != NULL; i++)
    used += (size_t)snprintf(known + used, sizeof known - used, "%s%s", i ? ", " : "", near);
  return wm_fail_with(err, WM_BAD_INPUT, "unknown option '%.*s'; known are: %s", shown, name,
                      known);
}

int wm_options_unknown(const wm_options *opts, const wm_option_def *const *of, size_t n,
                       wm_error *err) {
  tables t = {of, n};
  const char *name;
  for (size_t i = 0; (name = wm_options_at(opts, i, NULL)) != NULL; i++)
    if (!has_name(&t, name)) return unknown(&t, name, err);
  return WM_OK;
}
