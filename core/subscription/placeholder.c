/* placeholder.c - stands in for the subscription where none is built: nothing has one. */
#include "subscription.h"

void wm_subscription_ref(struct wm_subscription *sub) { (void)sub; }

void wm_subscription_unref(struct wm_subscription *sub) { (void)sub; }

const char *wm_subscription_topic(const wm_subscription *sub) {
  (void)sub;
  return "";
}
