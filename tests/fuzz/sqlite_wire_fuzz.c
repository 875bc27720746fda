/*
 * sqlite_wire_fuzz.c - any bytes as the metadata and the time of a row: what could be decoded is the same after it
 * was written and read again. libFuzzer.
 */
#include <stdlib.h>
#include <string.h>

#include "backends/sqlite/sqlite.h"

static sqlite3_stmt *json(void) {
  static sqlite3 *db;
  static sqlite3_stmt *stmt;
  if (!stmt && (sqlite3_open(":memory:", &db) != SQLITE_OK ||
                sqlite3_prepare_v2(db, WM_SQLITE_JSON_SQL, -1, &stmt, NULL) != SQLITE_OK))
    abort();
  return stmt;
}

static bool same(wm_slice a, wm_slice b) {
  return a.len == b.len && memcmp(a.data, b.data, a.len) == 0;
}

/* What other software wrote need not be UTF-8, and then it is not what we would write. */
static void check_again(const wm_message *msg, wm_sqlite_record r) {
  wm_sqlite_buf buf = {0};
  if (!wm_sqlite_put_metadata(&buf, msg)) abort();
  r.metadata = (wm_slice){buf.data, buf.len};
  wm_message *again = wm_sqlite_message(json(), &r);
  if (!again || again->undecodable || again->pairs != msg->pairs) abort();
  for (size_t i = 0; i < msg->pairs; i++)
    if (!same(msg->meta[i].key, again->meta[i].key) ||
        !same(msg->meta[i].value, again->meta[i].value))
      abort();
  wm_message_release(again);
  free(buf.data);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
  wm_slice all = {(const char *)data, size};
  wm_sqlite_record r = {.offset = 1, .created_at = all, .payload = {"p", 1}, .metadata = all};
  wm_message *msg = wm_sqlite_message(json(), &r);
  if (!msg) return 0;
  bool text = !msg->undecodable;
  for (size_t i = 0; text && i < msg->pairs; i++)
    text = wm_sqlite_is_text(msg->meta[i].key) && wm_sqlite_is_text(msg->meta[i].value);
  if (text) check_again(msg, r);
  wm_message_release(msg);
  return 0;
}
