/*
 * message.c - messages: one allocation each, counted references, getters. Being made, a message belongs
 * to one thread; afterwards it is constant but for what message.h says, and any thread may read it.
 *
 * The allocation: header, room for pairs, then bytes. The first byte is a NUL, which all texts that
 * are empty share; every other text is followed by one of its own.
 */
#include "message.h"

#include <stdlib.h>
#include <string.h>

#include "error.h"
#include "log.h"
#include "subscription.h"

enum { UUID_MAX = 255, SHOWN_KEY = 80 };

_Static_assert(sizeof(wm_message) == offsetof(wm_message, data),
               "data begins where a pair may stand");

static char *bytes_of(const wm_message *msg) { return (char *)msg + (msg->size - msg->room); }

static size_t pair_room(const wm_message *msg) {
  return (size_t)(bytes_of(msg) - msg->data) / sizeof(wm_pair);
}

/* Room for exactly so much; NULL when that is more than memory has. */
static wm_message *allocate(size_t pairs, size_t room) {
  size_t size = offsetof(wm_message, data);
  if (pairs > (SIZE_MAX / 2 - size) / sizeof(wm_pair)) return NULL;
  size += pairs * sizeof(wm_pair);
  if (room > SIZE_MAX / 2 - size) return NULL;
  size += room;
  /* The payload may be large: only the header is cleared. */
  wm_message *msg = malloc(size);
  if (!msg) return NULL;
  memset(msg, 0, offsetof(wm_message, data));
  msg->size = size;
  msg->room = room;
  msg->meta = (wm_pair *)msg->data;
  atomic_init(&msg->refs, 1);
  return msg;
}

wm_message *wm_message_alloc(size_t pairs, size_t bytes) {
  const size_t shared_nul = 1, fixed_texts = 3; /* uuid, payload, handle */
  size_t nuls = shared_nul + fixed_texts;
  if (pairs > (SIZE_MAX / 2 - nuls) / 2) return NULL;
  nuls += 2 * pairs;
  if (bytes > SIZE_MAX / 2 - nuls) return NULL;
  wm_message *msg = allocate(pairs, bytes + nuls);
  if (!msg) return NULL;
  char *empty = bytes_of(msg);
  *empty = 0;
  msg->used = shared_nul;
  msg->uuid = msg->payload = msg->handle = (wm_slice){empty, 0};
  return msg;
}

static char *reserve(wm_message *msg, size_t len) {
  if (len >= msg->room - msg->used)
    wm_defect("defect: a message was made with room for %zu bytes, more were put in", msg->room);
  char *at = bytes_of(msg) + msg->used;
  at[len] = 0;
  msg->used += len + 1;
  return at;
}

static wm_slice store(wm_message *msg, const void *data, size_t len) {
  if (!len) return (wm_slice){bytes_of(msg), 0};
  char *at = reserve(msg, len);
  memcpy(at, data, len);
  return (wm_slice){at, len};
}

void wm_message_set_uuid(wm_message *msg, const void *data, size_t len) {
  msg->uuid = store(msg, data, len);
}

void wm_message_set_payload(wm_message *msg, const void *data, size_t len) {
  msg->payload = store(msg, data, len);
}

void wm_message_set_handle(wm_message *msg, const void *data, size_t len) {
  msg->handle = store(msg, data, len);
}

char *wm_message_payload_room(wm_message *msg, size_t n) {
  char *at = reserve(msg, n);
  msg->payload = (wm_slice){at, n};
  return at;
}

static wm_pair *find(const wm_message *msg, const void *key, size_t len) {
  for (size_t i = 0; i < msg->pairs; i++) {
    wm_pair *p = &msg->meta[i];
    if (p->key.len == len && (!len || memcmp(p->key.data, key, len) == 0)) return p;
  }
  return NULL;
}

static void append(wm_message *msg, const void *key, size_t key_len, const void *value,
                   size_t value_len) {
  if (msg->pairs >= pair_room(msg))
    wm_defect("defect: a message was made with room for %zu pairs, more were put in",
              pair_room(msg));
  wm_pair *p = &msg->meta[msg->pairs++];
  p->key = store(msg, key, key_len);
  p->value = store(msg, value, value_len);
}

void wm_message_add(wm_message *msg, const void *key, size_t key_len, const void *value,
                    size_t value_len) {
  wm_pair *before = find(msg, key, key_len);
  if (before)
    before->value = store(msg, value, value_len);
  else
    append(msg, key, key_len, value, value_len);
}

/* ---- making what is to be published -------------------------------------------------------- */

static bool begins_with(wm_slice text, const char *prefix) {
  size_t len = strlen(prefix);
  return text.len >= len && memcmp(text.data, prefix, len) == 0;
}

static int shown(wm_slice key) {
  return (int)(key.len <= SHOWN_KEY ? key.len : wm_cut_utf8(key.data, SHOWN_KEY));
}

static int check_reserved(const wm_pair *metadata, size_t pairs, wm_error *err) {
  static const char *const reserved[] = {"_watermill_", "_wm_"};
  for (size_t i = 0; i < pairs; i++)
    for (size_t k = 0; k < sizeof reserved / sizeof *reserved; k++)
      if (begins_with(metadata[i].key, reserved[k]))
        return wm_fail_with(err, WM_BAD_INPUT,
                            "metadata key '%.*s' is reserved: keys that begin with '%s' are the "
                            "library's own; use another name",
                            shown(metadata[i].key), metadata[i].key.data, reserved[k]);
  return WM_OK;
}

static int add_all(wm_message *msg, const wm_pair *metadata, size_t pairs, wm_error *err) {
  for (size_t i = 0; i < pairs; i++) {
    wm_slice key = metadata[i].key, value = metadata[i].value;
    if (!key.len)
      return wm_fail_with(err, WM_BAD_INPUT, "metadata key %zu of %zu is empty; give it a name",
                          i + 1, pairs);
    if (find(msg, key.data, key.len))
      return wm_fail_with(err, WM_BAD_INPUT,
                          "metadata key '%.*s' is given twice; a key has one value", shown(key),
                          key.data);
    append(msg, key.data, key.len, value.data, value.len);
  }
  return WM_OK;
}

static bool add_size(size_t *sum, size_t n) {
  if (n > SIZE_MAX / 2 - *sum) return false;
  *sum += n;
  return true;
}

/* The bytes of all texts; false when no memory can hold them. */
static bool measure(size_t uuid_len, wm_slice payload, const wm_pair *metadata, size_t pairs,
                    size_t *bytes) {
  *bytes = uuid_len;
  if (!add_size(bytes, payload.len)) return false;
  for (size_t i = 0; i < pairs; i++)
    if (!add_size(bytes, metadata[i].key.len) || !add_size(bytes, metadata[i].value.len))
      return false;
  return true;
}

int wm_message_make(wm_message **out, const char *uuid, wm_slice payload, const wm_pair *metadata,
                    size_t pairs, wm_error *err) {
  char fresh[WM_UUID_SIZE];
  *out = NULL;
  if (!uuid || !*uuid) {
    wm_uuid(fresh);
    uuid = fresh;
  }
  size_t uuid_len = strlen(uuid), bytes;
  if (uuid_len > UUID_MAX)
    return wm_fail_with(err, WM_BAD_INPUT, "the uuid is %zu bytes long, at most %d are allowed",
                        uuid_len, UUID_MAX);
  wm_message *msg = NULL;
  if (measure(uuid_len, payload, metadata, pairs, &bytes)) msg = wm_message_alloc(pairs, bytes);
  if (!msg)
    return wm_fail_with(err, WM_NOMEM, "out of memory for a message with a payload of %zu bytes",
                        payload.len);
  wm_message_set_uuid(msg, uuid, uuid_len);
  int rc = add_all(msg, metadata, pairs, err);
  if (rc != WM_OK) {
    wm_message_release(msg);
    return rc;
  }
  wm_message_set_payload(msg, payload.data, payload.len);
  *out = msg;
  return WM_OK;
}

int wm_message_new(wm_message **out, const char *uuid, wm_slice payload, const wm_pair *metadata,
                   size_t pairs, wm_error *err) {
  *out = NULL;
  int rc = check_reserved(metadata, pairs, err);
  return rc == WM_OK ? wm_message_make(out, uuid, payload, metadata, pairs, err) : rc;
}

/* ---- references ---------------------------------------------------------------------------- */

/* The same text in the copy, whose layout is the same. */
static wm_slice moved(wm_slice text, const wm_message *from, const wm_message *to) {
  return (wm_slice){(const char *)to + (text.data - (const char *)from), text.len};
}

wm_message *wm_message_copy(const wm_message *msg) {
  wm_message *copy = allocate(pair_room(msg), msg->room);
  if (!copy) return NULL;
  memcpy(bytes_of(copy), bytes_of(msg), msg->used);
  copy->used = msg->used;
  copy->uuid = moved(msg->uuid, msg, copy);
  copy->payload = moved(msg->payload, msg, copy);
  copy->handle = moved(msg->handle, msg, copy);
  for (size_t i = 0; i < msg->pairs; i++) {
    copy->meta[i].key = moved(msg->meta[i].key, msg, copy);
    copy->meta[i].value = moved(msg->meta[i].value, msg, copy);
  }
  copy->pairs = msg->pairs;
  memcpy(copy->token, msg->token, sizeof copy->token);
  copy->time = msg->time;
  copy->first_attempt = msg->first_attempt;
  copy->redelivered = msg->redelivered;
  copy->undecodable = msg->undecodable;
  memcpy(copy->position, msg->position, sizeof copy->position);
  atomic_init(&copy->attempt, atomic_load_explicit(&msg->attempt, memory_order_relaxed));
  copy->sub = msg->sub;
  if (copy->sub) wm_subscription_ref(copy->sub);
  return copy;
}

wm_message *wm_message_retain(wm_message *msg) {
  atomic_fetch_add_explicit(&msg->refs, 1, memory_order_relaxed);
  return msg;
}

void wm_message_release(wm_message *msg) {
  if (!msg || atomic_fetch_sub_explicit(&msg->refs, 1, memory_order_acq_rel) != 1) return;
  free(msg->dead_reason);
  free(msg->dead_detail);
  if (msg->sub) wm_subscription_unref(msg->sub);
  free(msg);
}

/* ---- getters ------------------------------------------------------------------------------- */

wm_slice wm_message_uuid(const wm_message *msg) { return msg->uuid; }

wm_slice wm_message_payload(const wm_message *msg) { return msg->payload; }

size_t wm_message_pairs(const wm_message *msg) { return msg->pairs; }

wm_pair wm_message_pair(const wm_message *msg, size_t i) { return msg->meta[i]; }

wm_slice wm_message_metadata(const wm_message *msg, const char *key) {
  const wm_pair *p = find(msg, key, strlen(key));
  return p ? p->value : (wm_slice){NULL, 0};
}

const char *wm_message_topic(const wm_message *msg) {
  return msg->sub ? wm_subscription_topic(msg->sub) : "";
}

unsigned wm_message_attempt(const wm_message *msg) {
  return atomic_load_explicit(&msg->attempt, memory_order_relaxed);
}

unsigned wm_message_failures(const wm_message *msg) {
  return atomic_load_explicit(&msg->entry.failures, memory_order_relaxed);
}

int64_t wm_message_time(const wm_message *msg) { return msg->time; }

const char *wm_message_position(const wm_message *msg) { return msg->position; }

const char *wm_message_undecodable(const wm_message *msg) { return msg->undecodable; }
