/*
 * check.c - what can be said of a subscription or a publisher without asking the broker, and what a broker tells when
 * it is asked. No state; any thread.
 */
#include "check.h"

#include <stdio.h>
#include <string.h>

#include "error.h"

/* ---- subscriptions -------------------------------------------------------------------------- */

/* A subscription as it is asked for. */
typedef struct wish {
  wm_connection *conn;
  const wm_backend *backend;
  const char *topic, *group; /* group NULL: none */
  const wm_option_value *values;
} wish;

static const char *text_of(const wish *w, int option) {
  const char *text = w->values[option].text;
  return text && *text ? text : NULL;
}

static bool is_on(const wish *w, int option) { return w->values[option].number != 0; }

static bool has(const wish *w, enum wm_feature feature) {
  return (w->backend->features & feature) != 0;
}

static int check_group(const wish *w, wm_error *err) {
  if (!w->group && !has(w, WM_F_FANOUT))
    return wm_fail_with(err, WM_UNSUPPORTED,
                        "%s has no subscriptions without a group; name one: group = NAME",
                        w->backend->name);
  if (!is_on(w, WM_SUB_EXCLUSIVE)) return WM_OK;
  if (!w->group)
    return wm_fail_with(err, WM_BAD_INPUT,
                        "exclusive = true is about the members of a group; name one: group = NAME");
  if (!has(w, WM_F_EXCLUSIVE))
    return wm_fail_with(
        err, WM_UNSUPPORTED,
        "exclusive = true is impossible, %s cannot keep members standing by; leave it out",
        w->backend->name);
  return WM_OK;
}

static int check_from(const wish *w, wm_error *err) {
  const char *from = text_of(w, WM_SUB_FROM);
  if (!from || strcmp(from, "newest") == 0 || has(w, WM_F_REPLAY)) return WM_OK;
  if (!w->group)
    return wm_fail_with(err, WM_UNSUPPORTED,
                        "from = \"%s\" is impossible, %s keeps no history; leave it out", from,
                        w->backend->name);
  return wm_fail_with(
      err, WM_UNSUPPORTED,
      "from = \"%s\" is impossible, %s keeps no history; leave it out, or create the group "
      "ahead: wmlua groups create %s %s",
      from, w->backend->name, w->topic, w->group);
}

static int check_order(const wish *w, wm_error *err) {
  if (text_of(w, WM_SUB_ORDER_BY) && !is_on(w, WM_SUB_ORDERED))
    return wm_fail_with(err, WM_BAD_INPUT,
                        "order_by = \"%s\" and ordered = false exclude each other; leave one out",
                        text_of(w, WM_SUB_ORDER_BY));
  if (w->values[WM_SUB_RELEASE_AFTER].number)
    return wm_fail_with(err, WM_UNSUPPORTED,
                        "release_after is not supported yet: the member that failed tries again "
                        "itself; leave it out");
  if (!is_on(w, WM_SUB_TX)) return WM_OK;
  if (!has(w, WM_F_TX))
    return wm_fail_with(
        err, WM_UNSUPPORTED,
        "tx = true is impossible, %s has no transactions that a handler could share; leave it out",
        w->backend->name);
  if (w->values[WM_SUB_MAX_IN_FLIGHT].number > 1)
    return wm_fail_with(err, WM_BAD_INPUT,
                        "tx = true takes one message at a time; leave max_in_flight = %lld out",
                        (long long)w->values[WM_SUB_MAX_IN_FLIGHT].number);
  return WM_OK;
}

static int check_dead_letter(const wish *w, wm_error *err) {
  const char *dead = text_of(w, WM_SUB_DEAD_LETTER);
  if (!dead) {
    if (w->values[WM_SUB_MAX_ATTEMPTS].number)
      return wm_fail_with(err, WM_BAD_INPUT,
                          "max_attempts needs a topic to move messages to: dead_letter = TOPIC");
    if (w->values[WM_SUB_ON_UNDECODABLE].number != WM_UNDECODABLE_DEAD_LETTER) return WM_OK;
    return wm_fail_with(
        err, WM_BAD_INPUT,
        "on_undecodable = \"dead_letter\" needs a topic to move to: dead_letter = TOPIC");
  }
  if (strcmp(dead, w->topic) == 0)
    return wm_fail_with(
        err, WM_BAD_INPUT,
        "dead_letter is the topic itself, so what is given up would come back for ever; "
        "name another topic");
  int rc = wm_connection_check(w->conn, dead, NULL, NULL, err);
  if (rc != WM_OK) wm_error_prefix(err, "dead_letter");
  return rc;
}

static int check_wish(const wish *w, wm_error *err) {
  int rc = wm_connection_check(w->conn, w->topic, w->group, NULL, err);
  if (rc == WM_OK) rc = check_group(w, err);
  if (rc == WM_OK) rc = check_from(w, err);
  if (rc == WM_OK) rc = check_order(w, err);
  if (rc == WM_OK) rc = check_dead_letter(w, err);
  return rc;
}

int wm_check_subscription(wm_connection *conn, const char *topic, const wm_settings *settings,
                          wm_error *err) {
  wish w = {.conn = conn,
            .backend = conn->backend,
            .topic = topic ? topic : "",
            .values = settings->values};
  w.group = text_of(&w, WM_SUB_GROUP);
  int rc = check_wish(&w, err);
  if (rc == WM_OK) return rc;
  if (w.group)
    wm_error_prefix(err, "%s, topic '%s', group '%s'", conn->masked, w.topic, w.group);
  else
    wm_error_prefix(err, "%s, topic '%s'", conn->masked, w.topic);
  return rc;
}

int wm_check_publish(wm_connection *conn, const char *topic, wm_error *err) {
  int rc = wm_connection_check(conn, topic ? topic : "", NULL, NULL, err);
  if (rc != WM_OK) wm_error_prefix(err, "publish on %s", conn->masked);
  return rc;
}

/* ---- URLs ----------------------------------------------------------------------------------- */

int wm_check(const char *url, const char *topic, const wm_options *opts, bool publisher,
             wm_error *err) {
  wm_connection *conn;
  wm_settings settings;
  const wm_option_def *defs = publisher ? wm_publisher_options : wm_subscription_options;
  int rc = wm_connection_open(&conn, url, opts, defs, &settings, err);
  if (rc != WM_OK) return rc;
  if (!publisher)
    rc = wm_check_subscription(conn, topic, &settings, err);
  else if (topic)
    rc = wm_check_publish(conn, topic, err);
  wm_settings_clear(&settings);
  wm_connection_release(conn);
  return rc;
}

/* ---- probing -------------------------------------------------------------------------------- */

static void tell_features(const wm_backend *b, wm_probe_fn fn, void *arg) {
  static const struct {
    enum wm_feature feature;
    const char *name;
  } words[] = {{WM_F_GROUPS, "groups"},
               {WM_F_FANOUT, "fan-out"},
               {WM_F_ORDERED, "ordered"},
               {WM_F_PERSISTENT, "persistent"},
               {WM_F_REPLAY, "replay"},
               {WM_F_EXCLUSIVE, "exclusive"},
               {WM_F_NATIVE_DELAY, "delays"},
               {WM_F_TX, "transactions"},
               {WM_F_DUPLICATES, "may deliver twice though nothing failed"}};
  char text[256] = "";
  size_t used = 0;
  for (size_t i = 0; i < sizeof words / sizeof *words; i++)
    if (b->features & words[i].feature)
      used += (size_t)snprintf(text + used, sizeof text - used, "%s%s", used ? ", " : "",
                               words[i].name);
  fn(arg, "features", used ? text : "none", false);
}

static void tell_redelivery(const wm_backend *b, wm_probe_fn fn, void *arg) {
  static const char *const attempts[] = {
      [WM_ATTEMPT_NONE] = "after a crash attempts are counted from 1 again",
      [WM_ATTEMPT_UPPER] = "after a crash attempts may be counted too high",
      [WM_ATTEMPT_EXACT] = "after a crash attempts are counted on exactly"};
  static const char *const gives_back[] = {
      [WM_GIVE_BACK_AT_ONCE] = "what a closing member has not handled goes to others at once",
      [WM_GIVE_BACK_SOON] =
          "what a closing member has not handled goes to others within about a second",
      [WM_GIVE_BACK_REBALANCE] =
          "what a closing member has not handled goes to others with a rebalance"};
  char text[256];
  snprintf(text, sizeof text, "%s; %s", attempts[b->attempt], gives_back[b->give_back]);
  fn(arg, "redelivery", text, false);
}

int wm_probe(const char *url, wm_probe_fn fn, void *arg, wm_error *err) {
  wm_connection *conn;
  wm_settings settings;
  int rc = wm_connection_open(&conn, url, NULL, wm_publisher_options, &settings, err);
  if (rc != WM_OK) return rc;
  const wm_backend *b = conn->backend;
  tell_features(b, fn, arg);
  tell_redelivery(b, fn, arg);
  if (b->max_payload) {
    char text[64];
    snprintf(text, sizeof text, "a payload has at most %zu bytes", b->max_payload);
    fn(arg, "limit", text, false);
  }
  if (b->probe) rc = b->probe(conn->handle, fn, arg, err);
  if (rc != WM_OK) wm_error_prefix(err, "%s", conn->masked);
  wm_settings_clear(&settings);
  wm_connection_release(conn);
  return rc;
}
