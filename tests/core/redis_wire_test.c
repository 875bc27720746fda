/*
 * redis_wire_test.c - entries as Watermill (Go) writes them, and back: tests/fixtures/redis.json. No server.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "backends/redis/redis.h"

enum { MAX_FIELDS = 8, MAX_BYTES = 8192 };

/* ---- fixtures: as much JSON as they need ------------------------------------------------------ */

static char *text; /* the file */

static void load(void) {
  char path[1024];
  snprintf(path, sizeof path, "%s", __FILE__);
  strcpy(strrchr(path, '/') + 1, "../fixtures/redis.json");
  FILE *f = fopen(path, "r");
  assert_non_null(f);
  text = calloc(1, 1 << 20);
  assert_true(fread(text, 1, (1 << 20) - 1, f) > 0);
  fclose(f);
}

static const char *to(const char *p) {
  while (*p && strchr(" \t\r\n,:", *p))
    p++;
  return p;
}

/* Past one value. */
static const char *past(const char *p) {
  p = to(p);
  if (*p == '"') {
    for (p++; *p != '"'; p++)
      if (*p == '\\') p++;
    return p + 1;
  }
  if (*p != '{' && *p != '[') return p + strcspn(p, ",]} \r\n");
  char end = *p == '{' ? '}' : ']';
  for (p = to(p + 1); *p != end; p = to(p))
    p = past(p);
  return p + 1;
}

/* The text of a string at p. */
static size_t string_at(const char *p, char *out) {
  size_t n = 0;
  p = to(p);
  assert_int_equal(*p, '"');
  for (p++; *p != '"'; p++) {
    if (*p != '\\') {
      out[n++] = *p;
      continue;
    }
    p++;
    out[n++] = (char)(*p == 'n' ? '\n' : *p == 't' ? '\t' : *p == 'r' ? '\r' : *p);
    assert_true(*p != 'u');
  }
  out[n] = '\0';
  return n;
}

/* The value of a key of the object at p; NULL: none. */
static const char *member(const char *p, const char *key) {
  char name[MAX_BYTES];
  for (p = to(to(p) + 1); *p != '}'; p = to(past(past(p)))) {
    string_at(p, name);
    if (strcmp(name, key) == 0) return to(past(p));
  }
  return NULL;
}

static size_t hex_at(const char *p, char *out) {
  char hex[2 * MAX_BYTES];
  if (*to(p) == 'n') return 0;
  size_t n = string_at(p, hex) / 2;
  for (size_t i = 0; i < n; i++) {
    unsigned byte;
    assert_int_equal(sscanf(hex + 2 * i, "%2x", &byte), 1);
    out[i] = (char)byte;
  }
  return n;
}

typedef struct record {
  char uuid[256], payload[MAX_BYTES];
  size_t payload_len;
  const char *metadata; /* its object */
  wm_redis_id id;
  size_t n;
  wm_redis_field fields[MAX_FIELDS];
  char bytes[2 * MAX_FIELDS][MAX_BYTES];
} record;

/* False: it was refused when it was written. */
static bool read_record(const char *p, record *r) {
  char id[64];
  memset(r, 0, sizeof *r);
  const char *wire = member(p, "wire");
  if (!wire) return false;
  string_at(member(p, "uuid"), r->uuid);
  r->payload_len = hex_at(member(p, "payload_hex"), r->payload);
  r->metadata = member(p, "metadata");
  assert_true(wm_redis_id_parse(id, string_at(member(wire, "id"), id), &r->id));
  for (const char *f = to(member(wire, "fields") + 1); *f != ']'; f = to(past(f))) {
    wm_redis_field *field = &r->fields[r->n];
    const char *name = to(to(f) + 1);
    field->name = (wm_slice){r->bytes[2 * r->n], hex_at(name, r->bytes[2 * r->n])};
    field->value = (wm_slice){r->bytes[2 * r->n + 1], hex_at(past(name), r->bytes[2 * r->n + 1])};
    r->n++;
  }
  return true;
}

static size_t count_members(const char *p) {
  size_t n = 0;
  for (p = to(to(p) + 1); *p != '}'; p = to(past(past(p))))
    n++;
  return n;
}

static void assert_slice(wm_slice s, const char *data, size_t len) {
  assert_int_equal(s.len, len);
  if (len) assert_memory_equal(s.data, data, len);
}

static const wm_pair *pair_of(const wm_message *msg, const char *key) {
  for (size_t i = 0; i < msg->pairs; i++)
    if (msg->meta[i].key.len == strlen(key) && !memcmp(msg->meta[i].key.data, key, strlen(key)))
      return &msg->meta[i];
  return NULL;
}

static void assert_is_record(const wm_message *msg, const record *r) {
  char id[WM_REDIS_ID_SIZE], key[MAX_BYTES], value[MAX_BYTES];
  wm_redis_id_print(r->id, id);
  assert_null(msg->undecodable);
  assert_string_equal(msg->position, id);
  assert_int_equal(msg->time, r->id.ms);
  assert_int_equal(msg->first_attempt, 1);
  if (r->uuid[0])
    assert_slice(msg->uuid, r->uuid, strlen(r->uuid));
  else
    assert_slice(msg->uuid, id, strlen(id)); /* an empty uuid names nothing */
  assert_slice(msg->payload, r->payload, r->payload_len);
  assert_int_equal(msg->pairs, count_members(r->metadata));
  for (const char *p = to(to(r->metadata) + 1); *p != '}'; p = to(past(past(p)))) {
    string_at(p, key);
    size_t len = string_at(past(p), value);
    const wm_pair *pair = pair_of(msg, key);
    assert_non_null(pair);
    assert_slice(pair->value, value, len);
  }
}

static size_t for_each_record(void (*check)(record *r)) {
  static record r;
  size_t n = 0;
  static const char *const lists[] = {"messages", "edge"};
  for (size_t i = 0; i < 2; i++)
    for (const char *p = to(member(text, lists[i]) + 1); *p != ']'; p = to(past(p)))
      if (read_record(p, &r)) {
        check(&r);
        n++;
      }
  return n;
}

/* ---- reading ---------------------------------------------------------------------------------- */

static void check_any_order(record *r) {
  static const int orders[6][3] = {{0, 1, 2}, {0, 2, 1}, {1, 0, 2},
                                   {1, 2, 0}, {2, 0, 1}, {2, 1, 0}};
  assert_int_equal(r->n, 3);
  for (size_t i = 0; i < 6; i++) {
    wm_redis_field fields[3];
    for (size_t j = 0; j < 3; j++)
      fields[j] = r->fields[orders[i][j]];
    wm_message *msg = wm_redis_message(r->id, fields, 3);
    assert_non_null(msg);
    assert_is_record(msg, r);
    wm_message_release(msg);
  }
}

static void reads_what_watermill_writes_in_any_field_order(void **state) {
  (void)state;
  assert_true(for_each_record(check_any_order) >= 10);
}

/* A reply to XREADGROUP that holds one entry. */
static size_t reply_of(char *out, const record *r) {
  char id[WM_REDIS_ID_SIZE];
  size_t id_len = wm_redis_id_print(r->id, id);
  wm_redis_buf b = {0};
  wm_redis_begin(&b, 1);
  wm_redis_begin(&b, 2);
  wm_redis_text(&b, "topic");
  wm_redis_begin(&b, 1);
  wm_redis_begin(&b, 2);
  wm_redis_arg(&b, id, id_len);
  wm_redis_begin(&b, 2 * r->n);
  for (size_t i = 0; i < r->n; i++) {
    wm_redis_arg(&b, r->fields[i].name.data, r->fields[i].name.len);
    wm_redis_arg(&b, r->fields[i].value.data, r->fields[i].value.len);
  }
  size_t n = b.len;
  memcpy(out, b.data, n);
  free(b.data);
  return n;
}

/* However it arrives, even byte by byte: the reader's buffer moves meanwhile. */
static void check_reply(record *r) {
  static char bytes[4 * MAX_BYTES];
  size_t len = reply_of(bytes, r);
  static const size_t steps[] = {1, 7, 1500, sizeof bytes};
  for (size_t i = 0; i < sizeof steps / sizeof *steps; i++) {
    wm_redis_batch batch = {0};
    wm_redis_batch_begin(&batch, WM_REDIS_READ);
    redisReader *reader = redisReaderCreateWithFunctions(&wm_redis_batch_functions);
    reader->privdata = &batch;
    void *reply = NULL;
    for (size_t at = 0; at < len; at += steps[i]) {
      assert_null(reply);
      redisReaderFeed(reader, bytes + at, len - at < steps[i] ? len - at : steps[i]);
      assert_int_equal(redisReaderGetReply(reader, &reply), REDIS_OK);
    }
    assert_non_null(reply);
    assert_int_equal(batch.n, 1);
    assert_is_record(batch.msgs[0], r);
    wm_redis_batch_free(&batch);
    redisReaderFree(reader);
  }
}

static void decodes_replies_however_they_arrive(void **state) {
  (void)state;
  for_each_record(check_reply);
}

#define FIELD(name_, bytes)                                                                        \
  {                                                                                                \
    .name = {name_, sizeof name_ - 1}, .value = { bytes, sizeof bytes - 1 }                        \
  }

static const wm_redis_id some_id = {1700000000123, 4};

static wm_message *with_metadata(const char *data, size_t len) {
  wm_redis_field fields[] = {FIELD("payload", "p"),
                             FIELD("_watermill_message_uuid", "u"),
                             {.name = {"metadata", 8}, .value = {data, len}}};
  wm_message *msg = wm_redis_message(some_id, fields, 3);
  assert_non_null(msg);
  return msg;
}

#define WITH_METADATA(bytes) with_metadata(bytes, sizeof bytes - 1)

static void foreign_metadata_values_become_text(void **state) {
  (void)state;
  wm_message *msg = WITH_METADATA("\x86\xa1"
                                  "a\x2a\xa1"
                                  "b\xd3\xff\xff\xff\xff\xff\xff\xff\xfe\xa1"
                                  "c\xcb\x3f\xf8\x00\x00\x00\x00\x00\x00\xa1"
                                  "d\xc3\xa1"
                                  "e\xc0\x05\xcf\xff\xff\xff\xff\xff\xff\xff\xff");
  assert_null(msg->undecodable);
  assert_slice(pair_of(msg, "a")->value, "42", 2);
  assert_slice(pair_of(msg, "b")->value, "-2", 2);
  assert_slice(pair_of(msg, "c")->value, "1.5", 3);
  assert_slice(pair_of(msg, "d")->value, "true", 4);
  assert_slice(pair_of(msg, "e")->value, "", 0);
  assert_slice(pair_of(msg, "5")->value, "18446744073709551615", 20);
  wm_message_release(msg);
}

static void the_last_of_equal_keys_wins(void **state) {
  (void)state;
  wm_message *msg = WITH_METADATA("\x82\xa1k\xa1"
                                  "1\xa1k\xa1"
                                  "2");
  assert_int_equal(msg->pairs, 1);
  assert_slice(pair_of(msg, "k")->value, "2", 1);
  wm_message_release(msg);
}

static void bad_metadata_keeps_the_payload_and_its_own_bytes(void **state) {
  (void)state;
  static const struct {
    const char *data;
    size_t len;
  } bad[] = {{"garbage", 7},
             {"\x81", 1},
             {"\x81\xa1k", 3},
             {"\x81\xa1k\x91\x01", 5},
             /* a list */ {"\xdf\xff\xff\xff\xff", 5},
             {"\x81\xa1k\xa1v!", 6},
             {"\x93\x01\x02\x03", 4},
             {"\x81\xa1k\xd4\x01\x02", 6},
             {"\x00", 1}};
  for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
    wm_message *msg = with_metadata(bad[i].data, bad[i].len);
    assert_non_null(msg->undecodable);
    assert_slice(msg->payload, "p", 1);
    assert_slice(msg->uuid, "u", 1);
    assert_int_equal(msg->pairs, 1);
    assert_slice(pair_of(msg, WM_REDIS_RAW_METADATA)->value, bad[i].data, bad[i].len);
    wm_message_release(msg);
  }
}

static void an_entry_without_payload_is_given_whole(void **state) {
  (void)state;
  wm_redis_field fields[] = {FIELD("name", "value"), FIELD("n", "1")};
  wm_message *msg = wm_redis_message(some_id, fields, 2);
  assert_non_null(msg->undecodable);
  assert_slice(msg->uuid, "1700000000123-4", 15);
  assert_slice(msg->payload,
               "\x82\xa4name\xa5value\xa1n\xa1"
               "1",
               16);
  wm_message_release(msg);
}

static void a_payload_alone_is_a_message(void **state) {
  (void)state;
  wm_redis_field fields[] = {FIELD("payload", "\0x"), FIELD("extra", "e")};
  wm_message *msg = wm_redis_message(some_id, fields, 2);
  assert_null(msg->undecodable);
  assert_slice(msg->uuid, "1700000000123-4", 15);
  assert_slice(msg->payload, "\0x", 2);
  assert_int_equal(msg->pairs, 0);
  wm_message_release(msg);
}

/* ---- writing ---------------------------------------------------------------------------------- */

static void *keep_string(const redisReadTask *task, char *data, size_t len) {
  wm_slice *args = task->privdata;
  args[task->idx] = (wm_slice){data, len};
  return args;
}

#if HIREDIS_MAJOR >= 1
static void *keep_array(const redisReadTask *task, size_t n) {
#else
static void *keep_array(const redisReadTask *task, int n) {
#endif
  (void)n;
  return task->privdata;
}

static void keep_all(void *obj) { (void)obj; }

/* The arguments of a command; valid until the reader goes. */
static redisReader *parse_command(const wm_redis_buf *b, wm_slice *args) {
  static redisReplyObjectFunctions functions = {
      .createString = keep_string, .createArray = keep_array, .freeObject = keep_all};
  redisReader *reader = redisReaderCreateWithFunctions(&functions);
  reader->privdata = args;
  void *reply = NULL;
  /* Less than 1 KiB would stay where it is; so does all of a whole command until the next call. */
  redisReaderFeed(reader, b->data, b->len);
  assert_int_equal(redisReaderGetReply(reader, &reply), REDIS_OK);
  assert_non_null(reply);
  return reader;
}

static void check_round_trip(record *r) {
  wm_message *first = wm_redis_message(r->id, r->fields, r->n);
  wm_redis_buf out = {0};
  wm_redis_xadd(&out, "topic", 0, first);
  assert_false(out.failed);

  /* As a server gives back what it was given: the arguments after `XADD topic *`. */
  redisReader *probe = redisReaderCreate();
  redisReply *command = NULL;
  redisReaderFeed(probe, out.data, out.len);
  assert_int_equal(redisReaderGetReply(probe, (void **)&command), REDIS_OK);
  assert_non_null(command);
  assert_int_equal(command->elements, 9);
  assert_string_equal(command->element[0]->str, "XADD");
  assert_string_equal(command->element[1]->str, "topic");
  assert_string_equal(command->element[2]->str, "*");
  assert_string_equal(command->element[3]->str, "_watermill_message_uuid");
  assert_string_equal(command->element[5]->str, "metadata");
  assert_string_equal(command->element[7]->str, "payload");
  wm_redis_field fields[3];
  for (size_t i = 0; i < 3; i++) {
    redisReply *name = command->element[3 + 2 * i], *value = command->element[4 + 2 * i];
    fields[i] = (wm_redis_field){{name->str, (size_t)name->len}, {value->str, (size_t)value->len}};
  }
  wm_message *second = wm_redis_message(r->id, fields, 3);
  assert_is_record(second, r);
  /* Bytes are those of Go's writer, but for the order of a map. */
  for (size_t i = 0; i < r->n; i++)
    for (size_t j = 0; j < 3; j++)
      if (r->fields[i].name.len == fields[j].name.len &&
          !memcmp(r->fields[i].name.data, fields[j].name.data, fields[j].name.len)) {
        bool map = fields[j].name.len == 8 && first->pairs > 1,
             uuid = fields[j].name.len == 23 && !r->uuid[0];
        if (map)
          assert_int_equal(fields[j].value.len, r->fields[i].value.len);
        else if (!uuid)
          assert_slice(fields[j].value, r->fields[i].value.data, r->fields[i].value.len);
      }
  freeReplyObject(command);
  redisReaderFree(probe);
  wm_message_release(first);
  wm_message_release(second);
  free(out.data);
}

static void writes_what_watermill_writes(void **state) {
  (void)state;
  for_each_record(check_round_trip);
}

static void trims_only_when_asked(void **state) {
  (void)state;
  wm_redis_field fields[] = {FIELD("payload", "p"), FIELD("_watermill_message_uuid", "u")};
  wm_message *msg = wm_redis_message(some_id, fields, 2);
  wm_redis_buf out = {0};
  wm_slice args[16];
  wm_redis_xadd(&out, "t", 1234, msg);
  redisReader *reader = parse_command(&out, args);
  assert_slice(args[2], "MAXLEN", 6);
  assert_slice(args[3], "~", 1);
  assert_slice(args[4], "1234", 4);
  assert_slice(args[5], "*", 1);
  redisReaderFree(reader);
  wm_message_release(msg);
  free(out.data);
}

/* ---- ids and held ids ------------------------------------------------------------------------- */

static void ids_are_read_and_written(void **state) {
  (void)state;
  char text_id[WM_REDIS_ID_SIZE];
  wm_redis_id id;
  assert_true(wm_redis_id_parse("18446744073709551615-18446744073709551615", 41, &id));
  assert_int_equal(wm_redis_id_print(id, text_id), 41);
  assert_string_equal(text_id, "18446744073709551615-18446744073709551615");
  assert_true(wm_redis_id_parse("7", 1, &id));
  assert_int_equal(id.seq, 0);
  static const char *const bad[] = {
      "", "-", "1-", "-1", "1-2-3", "a-1", "18446744073709551616-0", "1 -2"};
  for (size_t i = 0; i < sizeof bad / sizeof *bad; i++)
    assert_false(wm_redis_id_parse(bad[i], strlen(bad[i]), &id));
  assert_true(wm_redis_id_compare((wm_redis_id){1, 9}, (wm_redis_id){2, 0}) < 0);
}

static wm_message *numbered(uint64_t n) {
  wm_redis_field fields[] = {FIELD("payload", "p")};
  return wm_redis_message((wm_redis_id){1700000000000 + n / 3, n % 3}, fields, 1);
}

static void held_ids_come_once(void **state) {
  (void)state;
  enum { N = 5000 };
  wm_redis_held held;
  wm_redis_held_init(&held);
  wm_message *msgs[N];
  for (size_t round = 0; round < 3; round++) {
    size_t n = N;
    for (size_t i = 0; i < N; i++)
      msgs[i] = numbered(i);
    assert_int_equal(wm_redis_held_add(&held, msgs, &n), WM_OK);
    assert_int_equal(n, N);
    wm_message *again[] = {numbered(1), numbered(N), numbered(N - 1)};
    size_t three = 3;
    assert_int_equal(wm_redis_held_add(&held, again, &three), WM_OK);
    assert_int_equal(three, 1);
    assert_int_equal(again[0]->token[0], 1700000000000 + N / 3);
    for (size_t i = 0; i < N; i += 2) {
      wm_redis_id id = wm_redis_id_of(msgs[i]);
      wm_redis_held_remove(&held, &id, 1);
    }
    for (size_t i = 0; i < N; i++)
      assert_int_equal(wm_redis_held_has(&held, wm_redis_id_of(msgs[i])), i % 2);
    wm_redis_id last = wm_redis_id_of(again[0]);
    wm_redis_held_remove(&held, &last, 1);
    for (size_t i = 0; i < N; i++) {
      wm_redis_id id = wm_redis_id_of(msgs[i]);
      wm_redis_held_remove(&held, &id, 1);
      wm_message_release(msgs[i]);
    }
    wm_message_release(again[0]);
    assert_int_equal(held.n, 0);
  }
  wm_redis_held_free(&held);
}

static void error_replies_have_their_codes(void **state) {
  (void)state;
  bool down;
  assert_int_equal(wm_redis_code("NOAUTH Authentication required.", &down), WM_DENIED);
  assert_int_equal(
      wm_redis_code("WRONGPASS invalid username-password pair or user is disabled.", &down),
      WM_DENIED);
  assert_int_equal(wm_redis_code("NOPERM this user has no permissions", &down), WM_DENIED);
  assert_int_equal(wm_redis_code("WRONGTYPE Operation against a key", &down), WM_REFUSED);
  assert_int_equal(wm_redis_code("MOVED 3999 127.0.0.1:6381", &down), WM_UNSUPPORTED);
  assert_int_equal(wm_redis_code("ASK 3999 127.0.0.1:6381", &down), WM_UNSUPPORTED);
  assert_int_equal(wm_redis_code("OOM command not allowed when used memory > 'maxmemory'.", &down),
                   WM_UNREACHABLE);
  assert_false(down);
  assert_int_equal(wm_redis_code("LOADING Redis is loading the dataset in memory", &down),
                   WM_UNREACHABLE);
  assert_true(down);
  assert_int_equal(wm_redis_code("READONLY You can't write against a read only replica.", &down),
                   WM_UNREACHABLE);
  assert_int_equal(wm_redis_code("MASTERDOWN Link with MASTER is down", &down), WM_UNREACHABLE);
  assert_int_equal(wm_redis_code("CLUSTERDOWN The cluster is down", &down), WM_UNREACHABLE);
  assert_int_equal(
      wm_redis_code("ERR Error running script: @user_script:1: WRONGTYPE Operation", &down),
      WM_REFUSED);
}

static int setup(void **state) {
  (void)state;
  load();
  return 0;
}

static int teardown(void **state) {
  (void)state;
  free(text);
  return 0;
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(reads_what_watermill_writes_in_any_field_order),
      cmocka_unit_test(decodes_replies_however_they_arrive),
      cmocka_unit_test(foreign_metadata_values_become_text),
      cmocka_unit_test(the_last_of_equal_keys_wins),
      cmocka_unit_test(bad_metadata_keeps_the_payload_and_its_own_bytes),
      cmocka_unit_test(an_entry_without_payload_is_given_whole),
      cmocka_unit_test(a_payload_alone_is_a_message),
      cmocka_unit_test(writes_what_watermill_writes),
      cmocka_unit_test(trims_only_when_asked),
      cmocka_unit_test(ids_are_read_and_written),
      cmocka_unit_test(held_ids_come_once),
      cmocka_unit_test(error_replies_have_their_codes),
  };
  return cmocka_run_group_tests(tests, setup, teardown);
}
