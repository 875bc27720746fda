/*
 * wire.c - entry fields <-> messages, and the text of commands. No socket, no state: any thread.
 *
 * An entry holds the fields `_watermill_message_uuid`, `metadata` (a msgpack map of texts, or
 * empty) and `payload`, in any order. Fields are written in this order, so that the reader can copy
 * the payload straight from where it was read to.
 */
#include <inttypes.h>
#include <limits.h>
#include <msgpack.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "redis.h"

/* ---- ids ------------------------------------------------------------------------------------ */

static bool parse_u64(const char **p, const char *end, uint64_t *out) {
  const char *start = *p;
  uint64_t v = 0;
  for (; *p < end && **p >= '0' && **p <= '9'; (*p)++) {
    unsigned digit = (unsigned)(**p - '0');
    if (v > (UINT64_MAX - digit) / 10) return false;
    v = v * 10 + digit;
  }
  *out = v;
  return *p > start;
}

bool wm_redis_id_parse(const char *text, size_t len, wm_redis_id *out) {
  const char *p = text, *end = text + len;
  *out = (wm_redis_id){0, 0};
  if (!parse_u64(&p, end, &out->ms)) return false;
  if (p == end) return true;
  if (*p++ != '-') return false;
  return parse_u64(&p, end, &out->seq) && p == end;
}

static size_t print_u64(uint64_t v, char *out) {
  char digits[20];
  size_t n = 0, len = 0;
  do {
    digits[n++] = (char)('0' + v % 10);
    v /= 10;
  } while (v);
  while (n)
    out[len++] = digits[--n];
  return len;
}

size_t wm_redis_id_print(wm_redis_id id, char out[WM_REDIS_ID_SIZE]) {
  size_t n = print_u64(id.ms, out);
  out[n++] = '-';
  n += print_u64(id.seq, out + n);
  out[n] = '\0';
  return n;
}

int wm_redis_id_compare(wm_redis_id a, wm_redis_id b) {
  if (a.ms != b.ms) return a.ms < b.ms ? -1 : 1;
  return a.seq < b.seq ? -1 : a.seq > b.seq;
}

/* ---- commands ------------------------------------------------------------------------------- */

/* "$<20 digits>\r\n" and the "\r\n" behind the data. */
enum { BULK_OVERHEAD = 32 };

bool wm_redis_reserve(wm_redis_buf *b, size_t more) {
  if (b->failed) return false;
  if (b->cap - b->len >= more) return true;
  size_t cap = b->cap ? b->cap : 4096;
  while (cap - b->len < more) {
    if (cap > SIZE_MAX / 2) goto fail;
    cap *= 2;
  }
  char *data = realloc(b->data, cap);
  if (!data) goto fail;
  b->data = data;
  b->cap = cap;
  return true;
fail:
  b->failed = true;
  return false;
}

static char *put_head(char *p, char kind, uint64_t n) {
  *p++ = kind;
  p += print_u64(n, p);
  *p++ = '\r';
  *p++ = '\n';
  return p;
}

static char *put_bulk(char *p, const void *data, size_t len) {
  p = put_head(p, '$', len);
  if (len) memcpy(p, data, len);
  p += len;
  *p++ = '\r';
  *p++ = '\n';
  return p;
}

void wm_redis_begin(wm_redis_buf *b, size_t argc) {
  if (!wm_redis_reserve(b, BULK_OVERHEAD)) return;
  b->len = (size_t)(put_head(b->data + b->len, '*', argc) - b->data);
}

void wm_redis_arg(wm_redis_buf *b, const void *data, size_t len) {
  if (!wm_redis_reserve(b, len + BULK_OVERHEAD)) return;
  b->len = (size_t)(put_bulk(b->data + b->len, data, len) - b->data);
}

void wm_redis_text(wm_redis_buf *b, const char *text) { wm_redis_arg(b, text, strlen(text)); }

void wm_redis_number(wm_redis_buf *b, long long n) {
  char text[24];
  int len = snprintf(text, sizeof text, "%lld", n);
  wm_redis_arg(b, text, (size_t)len);
}

void wm_redis_id_arg(wm_redis_buf *b, wm_redis_id id) {
  char text[WM_REDIS_ID_SIZE];
  wm_redis_arg(b, text, wm_redis_id_print(id, text));
}

void wm_redis_command(wm_redis_buf *b, ...) {
  size_t argc = 0;
  va_list args;
  va_start(args, b);
  while (va_arg(args, const char *))
    argc++;
  va_end(args);
  wm_redis_begin(b, argc);
  va_start(args, b);
  for (const char *text; (text = va_arg(args, const char *));)
    wm_redis_text(b, text);
  va_end(args);
}

/* ---- writing -------------------------------------------------------------------------------- */

static int pack_write(void *arg, const char *data, size_t len) {
  wm_redis_buf *b = arg;
  if (!wm_redis_reserve(b, len)) return -1;
  memcpy(b->data + b->len, data, len);
  b->len += len;
  return 0;
}

static void pack_text(msgpack_packer *pk, wm_slice s) {
  msgpack_pack_str(pk, s.len);
  msgpack_pack_str_body(pk, s.data, s.len);
}

/* The length of a text's head in msgpack. */
static size_t text_head(size_t len) { return len < 32 ? 1 : len < 256 ? 2 : len < 65536 ? 3 : 5; }

/* A map's size is known before it is packed, so that it goes straight into the output. */
static size_t map_size(const wm_message *msg) {
  size_t n = msg->pairs < 16 ? 1 : msg->pairs < 65536 ? 3 : 5;
  for (size_t i = 0; i < msg->pairs; i++) {
    const wm_pair *pair = &msg->meta[i];
    n += text_head(pair->key.len) + pair->key.len + text_head(pair->value.len) + pair->value.len;
  }
  return n;
}

static void put_map(wm_redis_buf *out, const wm_message *msg) {
  out->len = (size_t)(put_head(out->data + out->len, '$', map_size(msg)) - out->data);
  msgpack_packer pk;
  msgpack_packer_init(&pk, out, pack_write);
  msgpack_pack_map(&pk, msg->pairs);
  for (size_t i = 0; i < msg->pairs; i++) {
    pack_text(&pk, msg->meta[i].key);
    pack_text(&pk, msg->meta[i].value);
  }
  memcpy(out->data + out->len, "\r\n", 2);
  out->len += 2;
}

#define LITERAL(p, text) (memcpy(p, text, sizeof text - 1), (p) + sizeof text - 1)

void wm_redis_xadd(wm_redis_buf *out, const char *topic, int64_t maxlen, const wm_message *msg) {
  static const char empty[] = "$0\r\n\r\n";
  size_t topic_len = strlen(topic);
  size_t meta = msg->pairs ? map_size(msg) : 0;
  if (!wm_redis_reserve(out, topic_len + msg->uuid.len + meta + msg->payload.len +
                                 12 * BULK_OVERHEAD + 64))
    return;
  char *p = put_head(out->data + out->len, '*', maxlen ? 12 : 9);
  p = LITERAL(p, "$4\r\nXADD\r\n");
  p = put_bulk(p, topic, topic_len);
  if (maxlen) {
    char digits[20];
    p = LITERAL(p, "$6\r\nMAXLEN\r\n$1\r\n~\r\n");
    p = put_bulk(p, digits, print_u64((uint64_t)maxlen, digits));
  }
  p = LITERAL(p, "$1\r\n*\r\n$23\r\n" WM_REDIS_UUID "\r\n");
  p = put_bulk(p, msg->uuid.data, msg->uuid.len);
  p = LITERAL(p, "$8\r\n" WM_REDIS_METADATA "\r\n");
  if (!msg->pairs) p = LITERAL(p, empty);
  out->len = (size_t)(p - out->data);
  if (msg->pairs) put_map(out, msg);
  p = LITERAL(out->data + out->len, "$7\r\n" WM_REDIS_PAYLOAD "\r\n");
  out->len = (size_t)(put_bulk(p, msg->payload.data, msg->payload.len) - out->data);
}

/* ---- reading -------------------------------------------------------------------------------- */

static bool name_is(wm_slice s, const char *name, size_t len) {
  return s.len == len && memcmp(s.data, name, len) == 0;
}

#define NAME_IS(s, name) name_is(s, name, sizeof name - 1)

/* Room for any number as text. */
enum { NUMBER_SIZE = 40 };

typedef struct map_reader {
  const char *data;
  size_t len, at;
  size_t pairs;
} map_reader;

/* The head of a map. Its count is believed only as far as the bytes that are there could hold it.
 */
static bool map_open(map_reader *r) {
  const unsigned char *p = (const unsigned char *)r->data;
  if (r->len >= 1 && (p[0] & 0xf0) == 0x80) {
    r->pairs = p[0] & 0x0f;
    r->at = 1;
  } else if (r->len >= 3 && p[0] == 0xde) {
    r->pairs = (size_t)p[1] << 8 | p[2];
    r->at = 3;
  } else if (r->len >= 5 && p[0] == 0xdf) {
    r->pairs = (size_t)p[1] << 24 | (size_t)p[2] << 16 | (size_t)p[3] << 8 | p[4];
    r->at = 5;
  } else {
    return false;
  }
  return r->pairs <= (r->len - r->at) / 2;
}

static bool is_container(unsigned char c) {
  return (c >= 0x80 && c <= 0x9f) || (c >= 0xdc && c <= 0xdf);
}

static bool text_of(const msgpack_object *o, wm_slice *out, char number[NUMBER_SIZE]) {
  int len;
  switch (o->type) {
  case MSGPACK_OBJECT_STR:
    *out = (wm_slice){o->via.str.ptr, o->via.str.size};
    return true;
  case MSGPACK_OBJECT_BIN:
    *out = (wm_slice){o->via.bin.ptr, o->via.bin.size};
    return true;
  case MSGPACK_OBJECT_NIL:
    *out = (wm_slice){number, 0};
    return true;
  case MSGPACK_OBJECT_BOOLEAN:
    *out = o->via.boolean ? (wm_slice){"true", 4} : (wm_slice){"false", 5};
    return true;
  case MSGPACK_OBJECT_POSITIVE_INTEGER:
    len = snprintf(number, NUMBER_SIZE, "%" PRIu64, o->via.u64);
    break;
  case MSGPACK_OBJECT_NEGATIVE_INTEGER:
    len = snprintf(number, NUMBER_SIZE, "%" PRId64, o->via.i64);
    break;
  case MSGPACK_OBJECT_FLOAT32:
  case MSGPACK_OBJECT_FLOAT64:
    len = snprintf(number, NUMBER_SIZE, "%.15g", o->via.f64);
    if (strtod(number, NULL) != o->via.f64)
      len = snprintf(number, NUMBER_SIZE, "%.17g", o->via.f64);
    break;
  default:
    return false;
  }
  *out = (wm_slice){number, (size_t)len};
  return true;
}

/* The next key or value as text. No container is let through to the library, so that it allocates
 * nothing. */
static bool map_next(map_reader *r, wm_slice *out, char number[NUMBER_SIZE]) {
  if (r->at >= r->len || is_container((unsigned char)r->data[r->at])) return false;
  msgpack_object o;
  msgpack_zone none;
  memset(&none, 0, sizeof none);
  msgpack_unpack_return rc = msgpack_unpack(r->data, r->len, &r->at, &none, &o);
  return (rc == MSGPACK_UNPACK_SUCCESS || rc == MSGPACK_UNPACK_EXTRA_BYTES) &&
         text_of(&o, out, number);
}

/* How much the texts of a map take; false when it is none, or holds what is no text. */
static bool map_measure(wm_slice data, size_t *pairs, size_t *bytes) {
  map_reader r = {.data = data.data, .len = data.len};
  char number[NUMBER_SIZE];
  wm_slice s;
  *pairs = *bytes = 0;
  if (!data.len) return true;
  if (!map_open(&r)) return false;
  for (size_t i = 0; i < 2 * r.pairs; i++) {
    if (!map_next(&r, &s, number)) return false;
    *bytes += s.len;
  }
  *pairs = r.pairs;
  return r.at == r.len;
}

static void map_add(wm_message *msg, wm_slice data) {
  map_reader r = {.data = data.data, .len = data.len};
  char key_number[NUMBER_SIZE], value_number[NUMBER_SIZE];
  wm_slice key, value;
  if (!data.len || !map_open(&r)) return;
  for (size_t i = 0; i < r.pairs; i++) {
    if (!map_next(&r, &key, key_number) || !map_next(&r, &value, value_number)) return;
    wm_message_add(msg, key.data, key.len, value.data, value.len);
  }
}

/* The whole entry as a msgpack map, for an entry that is none of ours. */
static bool pack_entry(wm_redis_buf *out, const wm_redis_field *fields, size_t n) {
  msgpack_packer pk;
  msgpack_packer_init(&pk, out, pack_write);
  msgpack_pack_map(&pk, n);
  for (size_t i = 0; i < n; i++) {
    pack_text(&pk, fields[i].name);
    pack_text(&pk, fields[i].value);
  }
  return !out->failed;
}

wm_message *wm_redis_message(wm_redis_id id, const wm_redis_field *fields, size_t n) {
  const wm_slice *uuid = NULL, *metadata = NULL, *payload = NULL;
  for (size_t i = 0; i < n; i++) {
    if (NAME_IS(fields[i].name, WM_REDIS_UUID))
      uuid = &fields[i].value;
    else if (NAME_IS(fields[i].name, WM_REDIS_PAYLOAD))
      payload = &fields[i].value;
    else if (NAME_IS(fields[i].name, WM_REDIS_METADATA))
      metadata = &fields[i].value;
  }
  wm_redis_buf raw = {0};
  wm_slice body = payload ? *payload : (wm_slice){NULL, 0};
  if (!payload) {
    if (!pack_entry(&raw, fields, n)) {
      free(raw.data);
      return NULL;
    }
    body = (wm_slice){raw.data, raw.len};
  }
  wm_slice map = metadata ? *metadata : (wm_slice){NULL, 0};
  size_t pairs, bytes;
  bool readable = map_measure(map, &pairs, &bytes);
  if (!readable) {
    pairs = 1;
    bytes = sizeof WM_REDIS_RAW_METADATA + map.len;
  }
  char position[WM_REDIS_ID_SIZE];
  size_t position_len = wm_redis_id_print(id, position);
  wm_slice name = uuid && uuid->len ? *uuid : (wm_slice){position, position_len};

  wm_message *msg = wm_message_alloc(pairs, bytes + name.len + body.len);
  if (msg) {
    wm_message_set_uuid(msg, name.data, name.len);
    if (readable)
      map_add(msg, map);
    else
      wm_message_add(msg, WM_REDIS_RAW_METADATA, sizeof WM_REDIS_RAW_METADATA - 1, map.data,
                     map.len);
    wm_message_set_payload(msg, body.data, body.len);
    memcpy(msg->position, position, position_len + 1);
    msg->token[0] = id.ms;
    msg->token[1] = id.seq;
    msg->time = id.ms <= INT64_MAX ? (int64_t)id.ms : 0;
    msg->first_attempt = 1;
    if (!payload)
      msg->undecodable = "the entry has no payload field; its fields are given as a msgpack map";
    else if (!readable)
      msg->undecodable =
          "the metadata field is no msgpack map of texts; its bytes are in " WM_REDIS_RAW_METADATA;
  }
  free(raw.data);
  return msg;
}
