/*
 * subscription_key.h - what makes two subscriptions of a script the same: URL, topic, group, and
 * those options that cannot be changed while one is open. No state; any thread.
 */
#ifndef WM_SUBSCRIPTION_KEY_H
#define WM_SUBSCRIPTION_KEY_H

#include "wm.h"

typedef struct wm_subscription_key {
  char *url, *topic, *group, *fixed; /* group "": none */
} wm_subscription_key;

/* opts may be NULL; the group may also stand in the URL. WM_OK, WM_NOMEM, or what is wrong with the
 * URL. */
int wm_subscription_key_make(wm_subscription_key *key, const char *url, const char *topic,
                             const wm_options *opts, wm_error *err);
int wm_subscription_key_copy(wm_subscription_key *to, const wm_subscription_key *from);
bool wm_subscription_key_same(const wm_subscription_key *a, const wm_subscription_key *b);
void wm_subscription_key_clear(wm_subscription_key *key);

/* NULL in: none; NULL out: out of memory. */
wm_options *wm_options_copy(const wm_options *opts);
bool wm_options_same(const wm_options *a, const wm_options *b);

#endif
