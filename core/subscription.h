/* subscription.h - what the core knows of a subscription beyond wm.h: its counted references. */
#ifndef WM_SUBSCRIPTION_H
#define WM_SUBSCRIPTION_H

#include "wm.h"

/* Any thread. The last unref frees it. */
void wm_subscription_ref(struct wm_subscription *sub);
void wm_subscription_unref(struct wm_subscription *sub);

#endif
