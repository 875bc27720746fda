/* check.h - what can be said of a subscription or a publish before the broker is asked. */
#ifndef WM_CHECK_H
#define WM_CHECK_H

#include "connection.h"

/* Would this broker take a subscription to topic with these settings (of wm_subscription_options)? Topic, group, and
 * what goes together. No network, any thread. WM_OK, WM_BAD_INPUT, WM_UNSUPPORTED; the text begins with URL, topic
 * and group. */
int wm_check_subscription(wm_connection *conn, const char *topic, const wm_settings *settings,
                          wm_error *err);
/* Would it take messages for this topic? The text says that a publish failed, and where. */
int wm_check_publish(wm_connection *conn, const char *topic, wm_error *err);

#endif
