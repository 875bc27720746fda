/*
 * options.h - options as tables: one definition each, used by parsing, by errors that suggest the nearest
 * name, by help and by the manual.
 */
#ifndef WM_OPTIONS_H
#define WM_OPTIONS_H

#include "wm.h"

typedef enum wm_option_type {
  WM_OPT_TEXT,     /* text; "" = not set */
  WM_OPT_BOOL,     /* true false yes no on off 1 0 */
  WM_OPT_COUNT,    /* a whole number, min..max */
  WM_OPT_DURATION, /* to milliseconds, min..max */
  WM_OPT_SIZE,     /* to bytes, min..max */
  WM_OPT_CHOICE    /* one of `choices`, "a|b|c"; .number is its index */
} wm_option_type;

typedef struct wm_option_def {
  const char *name; /* NULL ends a table */
  wm_option_type type;
  const char *value; /* the default, as text */
  int64_t min, max;  /* of COUNT, DURATION (ms), SIZE (bytes); max 0 = no limit */
  const char *choices;
  const char *help; /* one sentence, no full stop */
} wm_option_def;

typedef struct wm_option_value {
  bool set;          /* given by the user, not the default */
  int64_t number;    /* BOOL 0/1, COUNT, DURATION, SIZE, CHOICE */
  const char *text;  /* as given: borrowed from the options or, if not set, from the table */
} wm_option_value;

/* The i-th pair; NULL past the last. opts may be NULL. */
const char *wm_options_at(const wm_options *opts, size_t i, const char **value);
const char *wm_options_get(const wm_options *opts, const char *name); /* NULL: not set */

/* Parses `text` for one option. WM_BAD_INPUT with "option 'x': ..., got 'y'". */
int wm_option_parse(const wm_option_def *def, const char *text, wm_option_value *out, wm_error *err);

/* Fills values (one a definition) from defaults, then from opts. Names that defs does not have are
 * left alone: wm_options_unknown finds those that no table has. */
int wm_options_resolve(const wm_option_def *defs, const wm_options *opts, wm_option_value *values, wm_error *err);

/* WM_BAD_INPUT, naming the first name of opts that none of the n tables has, with the nearest known one. */
int wm_options_unknown(const wm_options *opts, const wm_option_def *const *tables, size_t n, wm_error *err);

/* The nearest of the candidates to name by edit distance, NULL when none is near. `next(arg, i)` gives the
 * i-th candidate, NULL past the last. */
const char *wm_nearest(const char *name, const char *(*next)(void *arg, size_t i), void *arg);

/* Does the name look like that of a password or key? Then its value is never shown. */
bool wm_option_is_secret(const char *name);

/* ---- the core's own tables (option_tables.c), indexed by these ------------------------------- */

enum { WM_PUB_TIMEOUT, WM_PUB_ORDER_BY, WM_PUB_QUEUE_BYTES, WM_PUB_OPTIONS };

enum {
  WM_SUB_GROUP,
  WM_SUB_FROM,
  WM_SUB_MAX_IN_FLIGHT,
  WM_SUB_ORDER_BY,
  WM_SUB_ORDERED,
  WM_SUB_BATCH,
  WM_SUB_BATCH_WAIT,
  WM_SUB_PREFETCH,
  WM_SUB_PREFETCH_BYTES,
  WM_SUB_TAKEOVER,
  WM_SUB_EXCLUSIVE,
  WM_SUB_TX,
  WM_SUB_HOLD_MAX,
  WM_SUB_RELEASE_AFTER,
  WM_SUB_MAX_ATTEMPTS,
  WM_SUB_DEAD_LETTER,
  WM_SUB_ON_UNDECODABLE,
  WM_SUB_STALL_WARNING,
  WM_SUB_CONNECT_TIMEOUT,
  WM_SUB_CLOSE_TIMEOUT,
  WM_SUB_OPTIONS
};

/* .number of WM_SUB_ON_UNDECODABLE */
enum { WM_UNDECODABLE_RAW, WM_UNDECODABLE_DEAD_LETTER, WM_UNDECODABLE_SKIP };

extern const wm_option_def wm_publisher_options[WM_PUB_OPTIONS + 1];
extern const wm_option_def wm_subscription_options[WM_SUB_OPTIONS + 1];

#endif
