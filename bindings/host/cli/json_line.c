/* json_line.c - see json_line.h */
#include "json_line.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "base64.h"
#include "error.h"
#include "options.h"

/* ---- reading -------------------------------------------------------------------------------- */

/* The parts of a message, borrowed from the object or decoded. */
typedef struct parts {
  wm_slice payload;
  wm_pair *pairs;
  size_t n_pairs;
  unsigned char **decoded; /* to be freed */
  size_t n_decoded;
} parts;

/* Also what `sub --json` writes besides, which says nothing about the message to publish. */
static const char *const known[] = {
    "uuid", "payload", "payload_base64", "metadata", "metadata_base64", "topic", "attempt", "time"};
enum { N_KNOWN = sizeof known / sizeof *known };

static const char *next_known(void *arg, size_t i) {
  (void)arg;
  return i < N_KNOWN ? known[i] : NULL;
}

static int check_names(json_t *object, wm_error *err) {
  const char *name;
  json_t *value;
  json_object_foreach(object, name, value) {
    size_t i = 0;
    while (i < N_KNOWN && strcmp(known[i], name) != 0)
      i++;
    if (i < N_KNOWN) continue;
    const char *near = wm_nearest(name, next_known, NULL);
    return wm_fail_with(err, WM_BAD_INPUT, "unknown field '%.60s'%s%s%s", name,
                        near ? "; did you mean '" : "", near ? near : "", near ? "'?" : "");
  }
  return WM_OK;
}

static wm_slice slice_of(const json_t *string) {
  return (wm_slice){json_string_value(string), json_string_length(string)};
}

static int decode(parts *p, const char *name, const json_t *value, wm_slice *out, wm_error *err) {
  unsigned char *data;
  size_t len;
  if (!json_is_string(value)) return wm_fail_with(err, WM_BAD_INPUT, "'%s' is not a string", name);
  if (!wm_base64_decode(json_string_value(value), json_string_length(value), &data, &len)) {
    if (errno == ENOMEM) return wm_fail_with(err, WM_NOMEM, "out of memory");
    return wm_fail_with(err, WM_BAD_INPUT, "'%s' is not base64", name);
  }
  p->decoded[p->n_decoded++] = data;
  *out = (wm_slice){(char *)data, len};
  return WM_OK;
}

static int read_payload(parts *p, json_t *object, wm_error *err) {
  json_t *plain = json_object_get(object, "payload");
  json_t *coded = json_object_get(object, "payload_base64");
  if (!plain == !coded)
    return wm_fail_with(err, WM_BAD_INPUT, "%s 'payload' %s 'payload_base64'; a message has one",
                        plain ? "both" : "neither", plain ? "and" : "nor");
  if (coded) return decode(p, "payload_base64", coded, &p->payload, err);
  if (!json_is_string(plain)) return wm_fail_with(err, WM_BAD_INPUT, "'payload' is not a string");
  p->payload = slice_of(plain);
  return WM_OK;
}

static bool has_key(const parts *p, wm_slice key) {
  for (size_t i = 0; i < p->n_pairs; i++)
    if (p->pairs[i].key.len == key.len && memcmp(p->pairs[i].key.data, key.data, key.len) == 0)
      return true;
  return false;
}

static int read_metadata(parts *p, json_t *object, const char *field, bool coded, wm_error *err) {
  json_t *metadata = json_object_get(object, field), *value;
  const char *key;
  if (!metadata || json_is_null(metadata)) return WM_OK;
  if (!json_is_object(metadata))
    return wm_fail_with(err, WM_BAD_INPUT, "'%s' is not an object", field);
  json_object_foreach(metadata, key, value) {
    wm_pair *pair = &p->pairs[p->n_pairs];
    pair->key = (wm_slice){key, strlen(key)};
    if (has_key(p, pair->key))
      return wm_fail_with(err, WM_BAD_INPUT, "metadata has '%.60s' twice", key);
    if (coded) {
      int code = decode(p, field, value, &pair->value, err);
      if (code != WM_OK) return code;
    } else if (!json_is_string(value)) {
      return wm_fail_with(err, WM_BAD_INPUT, "metadata '%.60s' is not a string", key);
    } else {
      pair->value = slice_of(value);
    }
    p->n_pairs++;
  }
  return WM_OK;
}

static int read_parts(parts *p, json_t *object, const wm_pair *pairs, size_t n_pairs,
                      wm_error *err) {
  size_t coded = json_object_size(json_object_get(object, "metadata_base64"));
  size_t plain = json_object_size(json_object_get(object, "metadata"));
  p->pairs = calloc(plain + coded + n_pairs + 1, sizeof *p->pairs);
  p->decoded = calloc(coded + 1, sizeof *p->decoded);
  if (!p->pairs || !p->decoded) return wm_fail_with(err, WM_NOMEM, "out of memory");
  int code = read_payload(p, object, err);
  if (code == WM_OK) code = read_metadata(p, object, "metadata", false, err);
  if (code == WM_OK) code = read_metadata(p, object, "metadata_base64", true, err);
  for (size_t i = 0; code == WM_OK && i < n_pairs; i++)
    if (!has_key(p, pairs[i].key)) p->pairs[p->n_pairs++] = pairs[i];
  return code;
}

int wm_json_line_read(wm_message **out, const char *line, size_t len, const char *uuid,
                      const wm_pair *pairs, size_t n_pairs, wm_error *err) {
  json_error_t why;
  parts p = {0};
  json_t *object = json_loadb(line, len, JSON_ALLOW_NUL | JSON_REJECT_DUPLICATES, &why);
  if (!object)
    return wm_fail_with(err, WM_BAD_INPUT, "not JSON: %s (column %d)", why.text, why.column);
  int code = WM_OK;
  json_t *own = json_object_get(object, "uuid");
  if (!json_is_object(object))
    code = wm_fail_with(err, WM_BAD_INPUT, "not a JSON object");
  else if (own && !json_is_null(own) && !json_is_string(own))
    code = wm_fail_with(err, WM_BAD_INPUT, "'uuid' is not a string");
  else if (own && json_is_string(own) && strlen(json_string_value(own)) != json_string_length(own))
    code = wm_fail_with(err, WM_BAD_INPUT, "'uuid' has a zero byte");
  if (code == WM_OK) code = check_names(object, err);
  if (code == WM_OK) code = read_parts(&p, object, pairs, n_pairs, err);
  if (code == WM_OK)
    code = wm_message_new(out, uuid ? uuid : json_string_value(own), p.payload, p.pairs, p.n_pairs,
                          err);
  for (size_t i = 0; i < p.n_decoded; i++)
    free(p.decoded[i]);
  free(p.decoded);
  free(p.pairs);
  json_decref(object);
  return code;
}

/* ---- writing -------------------------------------------------------------------------------- */

void wm_rfc3339(int64_t ms, char out[WM_RFC3339_SIZE]) {
  time_t seconds = (time_t)(ms / 1000);
  struct tm when;
  *out = 0;
  if (ms <= 0 || !gmtime_r(&seconds, &when)) return;
  size_t n = strftime(out, WM_RFC3339_SIZE, "%Y-%m-%dT%H:%M:%S", &when);
  snprintf(out + n, WM_RFC3339_SIZE - n, ".%03dZ", (int)(ms % 1000));
}

/* NULL: not UTF-8. */
static json_t *text_of(wm_slice s) { return json_stringn(s.data ? s.data : "", s.len); }

json_t *wm_json_text(wm_slice s) {
  json_t *text = text_of(s);
  if (text) return text;
  char *copy = malloc(s.len + 1);
  for (size_t i = 0; copy && i < s.len; i++)
    copy[i] = (unsigned char)s.data[i] < 0x80 ? s.data[i] : '?';
  if (copy) text = json_stringn(copy, s.len);
  free(copy);
  return text;
}

static json_t *coded_of(wm_slice s) {
  char *text = wm_base64_encode(s.data, s.len);
  json_t *value = text ? json_string(text) : NULL;
  free(text);
  return value;
}

static bool add_pair(json_t *object, wm_slice key, json_t *value) {
  json_t *name = wm_json_text(key);
  bool good = name && json_object_setn_new(object, json_string_value(name),
                                           json_string_length(name), json_incref(value)) == 0;
  json_decref(value);
  json_decref(name);
  return good;
}

static bool add_metadata(json_t *object, const wm_message *msg) {
  json_t *plain = json_object(), *coded = NULL;
  bool good = json_object_set_new(object, "metadata", plain) == 0;
  for (size_t i = 0, n = wm_message_pairs(msg); good && i < n; i++) {
    wm_pair pair = wm_message_pair(msg, i);
    json_t *value = text_of(pair.value);
    if (value) {
      good = add_pair(plain, pair.key, value);
      continue;
    }
    if (!coded) {
      coded = json_object();
      good = json_object_set_new(object, "metadata_base64", coded) == 0;
    }
    good = good && add_pair(coded, pair.key, coded_of(pair.value));
  }
  return good;
}

json_t *wm_json_line_of(const wm_message *msg) {
  json_t *object = json_object();
  json_t *payload = text_of(wm_message_payload(msg));
  bool good = json_object_set_new(object, "uuid", wm_json_text(wm_message_uuid(msg))) == 0;
  good = good && (payload ? json_object_set_new(object, "payload", payload)
                          : json_object_set_new(object, "payload_base64",
                                                coded_of(wm_message_payload(msg)))) == 0;
  good = good && add_metadata(object, msg);
  good = good && json_object_set_new(object, "topic", json_string(wm_message_topic(msg))) == 0;
  good = good && json_object_set_new(object, "attempt", json_integer(wm_message_attempt(msg))) == 0;
  char time[WM_RFC3339_SIZE];
  wm_rfc3339(wm_message_time(msg), time);
  if (*time) good = good && json_object_set_new(object, "time", json_string(time)) == 0;
  if (good) return object;
  json_decref(object);
  return NULL;
}
