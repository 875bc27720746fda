/*
 * sqlite_backend_test.c - the backend contract against real files, each test in a directory of its own. Other
 * members are other processes where that matters: this program, started again with a role.
 *
 * The functions of the sink are this test's own: fetch.c is compiled into it with other names for them.
 */
#define wm_sink_put test_sink_put
#define wm_sink_lost test_sink_lost
#define wm_sink_gone test_sink_gone
#include "backends/sqlite/fetch.c"

#include <fcntl.h>
#include <ftw.h>
#include <poll.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmocka.h>

extern const wm_backend wm_backend_sqlite;
#define B wm_backend_sqlite

enum { WAIT_MS = 20000, MAX_MSGS = 30000, LONG_MS = 60000 };

static wm_error err;
static char dir[64], file[128];

#define OK(call)                                                                                   \
  do {                                                                                             \
    int rc_ = (call);                                                                              \
    if (rc_ != WM_OK) fail_msg("%s: %s: %s", #call, wm_code_name(rc_), err.text);                  \
  } while (0)

/* ---- the sink --------------------------------------------------------------------------------- */

struct wm_sink {
  wm_message **msgs;
  size_t n, lost, gone;
};

void test_sink_put(wm_sink *sink, wm_message *msg) {
  assert_true(sink->n < MAX_MSGS);
  sink->msgs[sink->n++] = msg;
}

void test_sink_lost(wm_sink *sink, wm_lost_fn match, void *arg) {
  for (size_t i = 0; i < sink->n; i++)
    sink->lost += match(sink->msgs[i], arg);
}

void test_sink_gone(wm_sink *sink, size_t n, const char *why) {
  assert_non_null(why);
  sink->gone += n;
}

static wm_sink *new_sink(void) {
  wm_sink *sink = calloc(1, sizeof *sink);
  sink->msgs = calloc(MAX_MSGS, sizeof *sink->msgs);
  return sink;
}

static void empty(wm_sink *sink) {
  for (size_t i = 0; i < sink->n; i++)
    wm_message_release(sink->msgs[i]);
  sink->n = 0;
}

static void free_sink(wm_sink *sink) {
  empty(sink);
  free(sink->msgs);
  free(sink);
}

/* ---- behind the library's back ----------------------------------------------------------------- */

static sqlite3 *admin_open(void) {
  sqlite3 *db;
  assert_int_equal(sqlite3_open_v2(file, &db, SQLITE_OPEN_READWRITE, NULL), SQLITE_OK);
  sqlite3_busy_timeout(db, WAIT_MS);
  return db;
}

static void run_on(sqlite3 *db, const char *sql) {
  char *why = NULL;
  if (sqlite3_exec(db, sql, NULL, NULL, &why) != SQLITE_OK) fail_msg("%s: %s", sql, why);
}

static void run_sql(const char *sql) {
  sqlite3 *db = admin_open();
  run_on(db, sql);
  sqlite3_close(db);
}

static long long number_on(sqlite3 *db, const char *sql) {
  sqlite3_stmt *stmt;
  if (sqlite3_prepare_v2(db, sql, -1, &stmt, NULL) != SQLITE_OK)
    fail_msg("%s: %s", sql, sqlite3_errmsg(db));
  long long n = sqlite3_step(stmt) == SQLITE_ROW ? sqlite3_column_int64(stmt, 0) : -1;
  sqlite3_finalize(stmt);
  return n;
}

static long long number_of(const char *sql) {
  sqlite3 *db = admin_open();
  long long n = number_on(db, sql);
  sqlite3_close(db);
  return n;
}

static long long held(void) { return number_of("SELECT count(*) FROM wm_held"); }

/* ---- helpers ---------------------------------------------------------------------------------- */

static void pause_a_little(void) { poll(NULL, 0, 5); }

static int try_open(const char *path, const char *retain, int busy_ms, void **conn) {
  wm_url url = {.scheme = "sqlite", .user = "", .password = "", .path = path};
  wm_option_value values[2] = {{.text = retain}, {.number = busy_ms}};
  assert_string_equal(B.options[0].name, "retain");
  assert_string_equal(B.options[1].name, "busy_timeout");
  return B.open(&url, values, conn, &err);
}

static void *open_as(const char *retain, int busy_ms) {
  void *conn = NULL;
  OK(try_open(file, retain, busy_ms, &conn));
  return conn;
}

static void *open_conn(void) { return open_as("acked", WAIT_MS); }

static void close_conn(void *conn) {
  if (B.publish_close) B.publish_close(conn);
  B.close(conn);
}

static void *sub_with(void *conn, const char *topic, const char *group, const char *from,
                      int takeover_ms, bool exclusive) {
  wm_sub_spec spec = {.topic = topic,
                      .group = group,
                      .from = from,
                      .takeover_ms = takeover_ms,
                      .exclusive = exclusive,
                      .member = "host-1-00000000"};
  void *sub = NULL;
  OK(B.subscribe(conn, &spec, &sub, &err));
  return sub;
}

static void *sub_to(void *conn, const char *topic, int takeover_ms) {
  return sub_with(conn, topic, "g", NULL, takeover_ms, false);
}

static wm_message *message(const char *uuid, const void *data, size_t len) {
  wm_pair pairs[] = {{{"key", 3}, {"value", 5}}, {{"\"\\\n", 3}, {"\xc3\xa4\x01", 3}}};
  wm_message *msg;
  OK(wm_message_make(&msg, uuid, (wm_slice){data, len}, pairs, 2, &err));
  return msg;
}

static int try_publish(void *conn, const char *topic, size_t n, size_t size, int timeout_ms,
                       wm_result *results) {
  char *data = calloc(1, size + 1), uuid[32];
  wm_outgoing *out = calloc(n, sizeof *out);
  for (size_t i = 0; i < n; i++) {
    snprintf(uuid, sizeof uuid, "m%zu", i);
    memset(data, 'a' + (int)(i % 26), size);
    out[i] = (wm_outgoing){.topic = topic, .msg = message(uuid, data, size)};
  }
  memset(&err, 0, sizeof err);
  int rc = B.publish(conn, out, n, timeout_ms, results, &err);
  for (size_t i = 0; i < n; i++)
    wm_message_release((wm_message *)out[i].msg);
  free(out);
  free(data);
  return rc;
}

static void publish(void *conn, const char *topic, size_t n, size_t size) {
  wm_result *results = calloc(n, sizeof *results);
  OK(try_publish(conn, topic, n, size, WAIT_MS, results));
  for (size_t i = 0; i < n; i++)
    assert_int_equal(results[i], WM_STORED);
  free(results);
}

/* Fetches until n are there. */
static void fetch_all(void *sub, wm_sink *sink, size_t n) {
  for (int64_t until = wm_now_ms() + WAIT_MS; sink->n < n;) {
    OK(B.fetch(sub, n - sink->n, 64 << 20, 200, sink, &err));
    if (wm_now_ms() > until) fail_msg("only %zu of %zu came", sink->n, n);
  }
}

static void assert_silent(void *sub, wm_sink *sink, int ms) {
  size_t before = sink->n;
  for (int64_t until = wm_now_ms() + ms; wm_now_ms() < until;)
    OK(B.fetch(sub, 100, 1 << 20, 50, sink, &err));
  assert_int_equal(sink->n, before);
}

static size_t settle(void *sub, wm_sink *sink, size_t from, size_t n, wm_settle_kind kind,
                     unsigned attempt) {
  wm_settle_op *ops = calloc(n, sizeof *ops);
  size_t lost = 0;
  for (size_t i = 0; i < n; i++)
    ops[i] = (wm_settle_op){.kind = kind, .attempt = attempt, .msg = sink->msgs[from + i]};
  OK(B.settle(sub, ops, n, &err));
  for (size_t i = 0; i < n; i++)
    lost += ops[i].lost;
  free(ops);
  return lost;
}

static void ack_all(void *sub, wm_sink *sink) {
  assert_int_equal(settle(sub, sink, 0, sink->n, WM_SETTLE_ACK, 0), 0);
  empty(sink);
}

static void assert_uuids(const wm_sink *sink, size_t n) {
  char uuid[32];
  assert_int_equal(sink->n, n);
  for (size_t i = 0; i < n; i++) {
    snprintf(uuid, sizeof uuid, "m%zu", i);
    assert_string_equal(sink->msgs[i]->uuid.data, uuid);
  }
}

static wm_slice value_of(const wm_message *msg, const char *key) {
  for (size_t i = 0; i < msg->pairs; i++)
    if (strcmp(msg->meta[i].key.data, key) == 0) return msg->meta[i].value;
  return (wm_slice){NULL, 0};
}

/* ---- other processes --------------------------------------------------------------------------- */

typedef struct child {
  pid_t pid;
  int from; /* it writes a byte when it is where it should be */
} child;

static child start(const char *role, const char *arg) {
  int ends[2];
  char fd[16];
  child c = {.pid = -1};
  assert_int_equal(pipe(ends), 0);
  snprintf(fd, sizeof fd, "%d", ends[1]);
  c.from = ends[0];
  c.pid = fork();
  if (c.pid == 0) {
    prctl(PR_SET_PDEATHSIG, SIGKILL); /* a test that crashes leaves nothing behind */
    close(ends[0]);
    execl("/proc/self/exe", "sqlite_backend_test", role, fd, file, arg, (char *)NULL);
    _exit(127);
  }
  close(ends[1]);
  return c;
}

static void await(child *c) {
  char byte;
  assert_int_equal(read(c->from, &byte, 1), 1);
}

static void end(child *c, int signal) {
  if (signal) kill(c->pid, signal);
  waitpid(c->pid, NULL, 0);
  close(c->from);
}

static void tell(int fd) {
  if (write(fd, "x", 1) != 1) _exit(1);
}

/* What the roles do; their failures end them, which the test notices. */
_Noreturn static void play(const char *role, int fd, const char *arg) {
  void *conn = open_conn();
  wm_sink *sink = new_sink();
  if (strcmp(role, "hold") == 0) { /* takes 10, acks 3, stays */
    void *sub = sub_to(conn, "t", atoi(arg));
    fetch_all(sub, sink, 10);
    settle(sub, sink, 0, 3, WM_SETTLE_ACK, 0);
  } else if (strcmp(role, "publish") == 0) { /* opens, then publishes for as long as it lives */
    tell(fd);
    for (;;) {
      publish(conn, "t", (size_t)atoi(arg), 10);
      pause_a_little();
    }
  } else if (strcmp(role, "look") == 0) { /* a subscription without a group that reads nothing */
    sub_with(conn, "t", NULL, "oldest", LONG_MS, false);
  }
  tell(fd);
  for (;;)
    pause();
}

/* ---- storing and reading ------------------------------------------------------------------------- */

static void stored_messages_come_in_order_and_acks_end_them(void **state) {
  (void)state;
  void *conn = open_conn();
  wm_sink *sink = new_sink();
  int64_t before = wm_epoch_ms();
  publish(conn, "t", 1000, 100);
  void *sub = sub_to(conn, "t", 30000);
  fetch_all(sub, sink, 1000);
  assert_uuids(sink, 1000);
  const wm_message *msg = sink->msgs[1];
  assert_int_equal(msg->payload.len, 100);
  assert_int_equal(msg->payload.data[99], 'b');
  assert_int_equal(msg->pairs, 2);
  assert_string_equal(value_of(msg, "key").data, "value");
  assert_string_equal(value_of(msg, "\"\\\n").data, "\xc3\xa4\x01");
  assert_int_equal(msg->first_attempt, 1);
  assert_false(msg->redelivered);
  assert_string_equal(msg->position, "offset:2");
  assert_true(msg->time >= before && msg->time <= wm_epoch_ms());
  assert_int_equal(held(), 1000);
  assert_int_equal(settle(sub, sink, 0, 1000, WM_SETTLE_ACK, 0), 0);
  assert_int_equal(held(), 0);
  empty(sink);
  assert_silent(sub, sink, 100);
  B.unsubscribe(sub);
  free_sink(sink);
  close_conn(conn);
}

static void tables_are_those_that_watermill_makes(void **state) {
  (void)state;
  void *conn = open_conn();
  wm_message *msg;
  wm_result result;
  OK(wm_message_make(&msg, "u", (wm_slice){"a\0b", 3}, NULL, 0, &err));
  wm_outgoing out = {.topic = "some.topic", .msg = msg};
  OK(B.publish(conn, &out, 1, WAIT_MS, &result, &err));
  wm_message_release(msg);
  void *sub = sub_to(conn, "some.topic", 30000);
  assert_int_equal(
      number_of("SELECT count(*) FROM \"watermill_some.topic\" WHERE \"offset\"=1 AND uuid='u'"
                " AND typeof(payload)='blob' AND payload=x'610062'"
                " AND typeof(metadata)='blob' AND metadata=CAST('{}' AS BLOB)"
                " AND created_at GLOB '20[0-9][0-9]-[01][0-9]-[0-3][0-9]T[0-2]*:*:*Z'"),
      1);
  assert_int_equal(
      number_of("SELECT count(*) FROM \"watermill_offsets_some.topic\" WHERE consumer_group='g'"
                " AND offset_acked=0 AND locked_until=0"),
      1);
  B.unsubscribe(sub);
  close_conn(conn);
}

static void fetch_keeps_to_max_and_about_bytes(void **state) {
  (void)state;
  void *conn = open_conn();
  wm_sink *sink = new_sink();
  publish(conn, "t", 100, 10000);
  void *sub = sub_to(conn, "t", 30000);
  OK(B.fetch(sub, 3, 1 << 20, 1000, sink, &err));
  assert_int_equal(sink->n, 3);
  OK(B.fetch(sub, 100, 31000, 1000, sink, &err));
  assert_int_equal(sink->n, 6);
  OK(B.fetch(sub, 100, 10, 1000, sink, &err));
  assert_int_equal(sink->n, 7);
  B.unsubscribe(sub);
  free_sink(sink);
  close_conn(conn);
}

static void large_payloads_come_back_as_they_went(void **state) {
  (void)state;
  void *conn = open_conn();
  wm_sink *sink = new_sink();
  publish(conn, "t", 20, 1 << 20);
  void *sub = sub_to(conn, "t", 30000);
  fetch_all(sub, sink, 20);
  assert_uuids(sink, 20);
  for (size_t i = 0; i < 20; i++) {
    assert_int_equal(sink->msgs[i]->payload.len, 1 << 20);
    assert_int_equal(sink->msgs[i]->payload.data[(1 << 20) - 1], 'a' + (int)i);
  }
  ack_all(sub, sink);
  B.unsubscribe(sub);
  free_sink(sink);
  close_conn(conn);
}

static void foreign_rows_are_delivered(void **state) {
  (void)state;
  void *conn = open_conn();
  wm_sink *sink = new_sink();
  void *sub = sub_to(conn, "t", 30000);
  run_sql("INSERT INTO watermill_t(uuid, created_at, payload, metadata) VALUES"
          "('', '2026-01-01T02:00:00+02:00', x'32312e35', 'no object'),"
          "('u', 'yesterday', NULL, 'null'),"
          "('v', '2026-01-01 00:00:00', 'text', CAST(' {\"n\": 1, \"t\": true} ' AS BLOB)),"
          "(7, 8, 9, '[]')");
  fetch_all(sub, sink, 4);
  assert_non_null(sink->msgs[0]->undecodable);
  assert_string_equal(sink->msgs[0]->uuid.data, "1");
  assert_string_equal(sink->msgs[0]->payload.data, "21.5");
  assert_string_equal(value_of(sink->msgs[0], WM_SQLITE_RAW_METADATA).data, "no object");
  assert_int_equal(sink->msgs[0]->time, 1767225600000);
  assert_null(sink->msgs[1]->undecodable);
  assert_int_equal(sink->msgs[1]->payload.len, 0);
  assert_int_equal(sink->msgs[1]->pairs, 0);
  assert_int_equal(sink->msgs[1]->time, 0);
  assert_string_equal(sink->msgs[2]->payload.data, "text");
  assert_string_equal(value_of(sink->msgs[2], "n").data, "1");
  assert_string_equal(value_of(sink->msgs[2], "t").data, "true");
  assert_int_equal(sink->msgs[2]->time, 1767225600000);
  assert_non_null(sink->msgs[3]->undecodable);
  assert_string_equal(sink->msgs[3]->uuid.data, "7");
  ack_all(sub, sink);
  B.unsubscribe(sub);
  free_sink(sink);
  close_conn(conn);
}

static void any_topic_that_the_core_allows_is_quoted(void **state) {
  (void)state;
  static const char *const topics[] = {"a\"b",         "a'b",      "a;--",  "a b.c/d",
                                       "\xc3\xa4%w%s", "sqlite_x", "offset"};
  void *conn = open_conn();
  wm_sink *sink = new_sink();
  for (size_t i = 0; i < sizeof topics / sizeof *topics; i++) {
    OK(B.check(conn, topics[i], "g", NULL, &err));
    publish(conn, topics[i], i + 1, 10);
    void *sub = sub_with(conn, topics[i], "g'\"", NULL, 30000, false);
    fetch_all(sub, sink, i + 1);
    assert_silent(sub, sink, 10);
    ack_all(sub, sink);
    B.unsubscribe(sub);
  }
  free_sink(sink);
  close_conn(conn);
}

static void topics_that_would_share_a_table_are_refused(void **state) {
  (void)state;
  void *conn = open_conn(), *sub;
  wm_result results[2];
  char longest[202] = "";
  memset(longest, 'x', 201);
  assert_int_equal(B.check(conn, longest, NULL, NULL, &err), WM_BAD_INPUT);
  assert_int_equal(B.check(conn, longest + 1, NULL, NULL, &err), WM_OK);
  assert_int_equal(B.check(conn, "Offsets_t", NULL, NULL, &err), WM_BAD_INPUT);
  publish(conn, "Orders", 1, 10);
  OK(try_publish(conn, "orders", 2, 10, WAIT_MS, results));
  assert_int_equal(results[0], WM_RESULT_REFUSED);
  assert_int_equal(results[1], WM_RESULT_REFUSED);
  assert_int_equal(err.code, WM_BAD_INPUT);
  assert_non_null(strstr(err.text, "'Orders'"));
  wm_sub_spec spec = {.topic = "orders", .group = "g", .takeover_ms = 1000, .member = "m"};
  assert_int_equal(B.subscribe(conn, &spec, &sub, &err), WM_BAD_INPUT);
  assert_non_null(strstr(err.text, "'Orders'"));
  publish(conn, "Orders", 1, 10);
  close_conn(conn);
}

static void metadata_that_json_cannot_carry_is_refused(void **state) {
  (void)state;
  void *conn = open_conn();
  static const wm_slice bad[] = {
      {"\0", 1},      {"\xff", 1}, {"\xc0\x80", 2}, {"\xed\xa0\x80", 3}, {"\xf4\x90\x80\x80", 4},
      {"\xe2\x82", 2}};
  for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
    wm_pair pair = {{"k", 1}, bad[i]};
    wm_message *msg;
    OK(wm_message_make(&msg, "u", (wm_slice){"", 0}, &pair, 1, &err));
    assert_int_equal(B.check(conn, NULL, NULL, msg, &err), WM_BAD_INPUT);
    assert_non_null(strstr(err.text, "'k'"));
    wm_message_release(msg);
  }
  close_conn(conn);
}

/* ---- claims ------------------------------------------------------------------------------------- */

static void a_killed_member_is_taken_over(void **state) {
  (void)state;
  void *conn = open_conn();
  publish(conn, "t", 10, 10);
  child c = start("hold", "500");
  await(&c);
  end(&c, SIGKILL);
  wm_sink *sink = new_sink();
  void *sub = sub_to(conn, "t", 500);
  fetch_all(sub, sink, 7);
  assert_string_equal(sink->msgs[0]->uuid.data, "m3");
  for (size_t i = 0; i < 7; i++) {
    assert_true(sink->msgs[i]->redelivered);
    assert_int_equal(sink->msgs[i]->first_attempt, 2);
  }
  ack_all(sub, sink);
  assert_int_equal(held(), 0);
  B.unsubscribe(sub);
  free_sink(sink);
  close_conn(conn);
}

static void released_messages_come_at_once_with_their_count(void **state) {
  (void)state;
  void *conn = open_conn();
  wm_sink *a = new_sink(), *b = new_sink();
  publish(conn, "t", 6, 10);
  void *one = sub_to(conn, "t", LONG_MS), *two = sub_to(conn, "t", LONG_MS);
  fetch_all(one, a, 6);
  settle(one, a, 0, 2, WM_SETTLE_RELEASE, 0);
  settle(one, a, 2, 2, WM_SETTLE_RELEASE, 3);
  settle(one, a, 4, 2, WM_SETTLE_ACK, 0);
  OK(B.fetch(two, 100, 1 << 20, WAIT_MS, b, &err));
  assert_uuids(b, 4);
  assert_int_equal(b->msgs[0]->first_attempt, 1);
  assert_false(b->msgs[0]->redelivered);
  assert_int_equal(b->msgs[3]->first_attempt, 4);
  assert_true(b->msgs[3]->redelivered);
  /* The one who gave them back may get them, too. */
  settle(two, b, 0, 4, WM_SETTLE_RELEASE, 1);
  empty(a);
  OK(B.fetch(one, 100, 1 << 20, WAIT_MS, a, &err));
  assert_uuids(a, 4);
  B.unsubscribe(one);
  B.unsubscribe(two);
  free_sink(a);
  free_sink(b);
  close_conn(conn);
}

static void a_note_survives_the_death_of_its_member_and_the_thief_is_seen(void **state) {
  (void)state;
  void *conn = open_conn();
  wm_sink *a = new_sink(), *b = new_sink();
  publish(conn, "t", 2, 10);
  void *silent = sub_to(conn, "t", 300), *heir = sub_to(conn, "t", LONG_MS);
  bool lost[2] = {true, true};
  fetch_all(silent, a, 2);
  OK(B.touch(silent, a->msgs, 2, lost, &err));
  assert_false(lost[0] || lost[1]);
  assert_int_equal(settle(silent, a, 0, 1, WM_SETTLE_NOTE, 5), 0);
  fetch_all(heir, b, 2);
  assert_int_equal(b->msgs[0]->first_attempt, 6);
  assert_int_equal(b->msgs[1]->first_attempt, 2);
  OK(B.touch(silent, a->msgs, 2, lost, &err));
  assert_true(lost[0] && lost[1]);
  /* What is no longer its own it neither notes, nor gives back, nor acks. */
  assert_int_equal(settle(silent, a, 0, 1, WM_SETTLE_NOTE, 9), 1);
  assert_int_equal(settle(silent, a, 0, 2, WM_SETTLE_RELEASE, 1), 2);
  assert_int_equal(settle(silent, a, 0, 2, WM_SETTLE_ACK, 1), 2);
  OK(B.touch(heir, b->msgs, 2, lost, &err));
  assert_false(lost[0] || lost[1]);
  assert_int_equal(settle(heir, b, 0, 2, WM_SETTLE_ACK, 1), 0);
  /* Acks may come again when their answer was lost. */
  assert_int_equal(settle(heir, b, 0, 2, WM_SETTLE_ACK, 1), 2);
  B.unsubscribe(silent);
  B.unsubscribe(heir);
  free_sink(a);
  free_sink(b);
  close_conn(conn);
}

static void every_takeover_counts(void **state) {
  (void)state;
  void *conn = open_conn(), *subs[4];
  wm_sink *sink = new_sink();
  publish(conn, "t", 1, 10);
  for (unsigned i = 0; i < 4; i++) {
    subs[i] = sub_to(conn, "t", i < 3 ? 50 : LONG_MS);
    empty(sink);
    fetch_all(subs[i], sink, 1);
    assert_int_equal(sink->msgs[0]->first_attempt, i + 1);
  }
  for (size_t i = 0; i < 4; i++)
    B.unsubscribe(subs[i]);
  assert_int_equal(number_of("SELECT attempt FROM wm_held WHERE member=0"), 4);
  free_sink(sink);
  close_conn(conn);
}

static void touching_keeps_and_never_steals_back(void **state) {
  (void)state;
  enum { N = 2500, TAKEOVER_MS = 600 };
  void *conn = open_conn();
  wm_sink *a = new_sink(), *b = new_sink();
  publish(conn, "t", N, 10);
  void *slow = sub_to(conn, "t", TAKEOVER_MS), *other = sub_to(conn, "t", TAKEOVER_MS);
  bool *lost = calloc(N, sizeof *lost);
  fetch_all(slow, a, N);
  settle(slow, a, 7, 1, WM_SETTLE_ACK, 0); /* a hole */
  for (int64_t until = wm_now_ms() + 3 * TAKEOVER_MS; wm_now_ms() < until;) {
    OK(B.touch(slow, a->msgs, 7, lost, &err));
    OK(B.touch(slow, a->msgs + 8, N - 8, lost + 8, &err));
    assert_silent(other, b, 50);
  }
  for (size_t i = 0; i < N; i++)
    assert_false(lost[i]);
  OK(B.touch(slow, a->msgs, N, lost, &err));
  for (size_t i = 0; i < N; i++)
    assert_int_equal(lost[i], i == 7);
  assert_int_equal(settle(slow, a, 0, N, WM_SETTLE_ACK, 0), 1);
  B.unsubscribe(slow);
  B.unsubscribe(other);
  free(lost);
  free_sink(a);
  free_sink(b);
  close_conn(conn);
}

static void a_late_member_does_not_get_its_own_messages_twice(void **state) {
  (void)state;
  void *conn = open_conn();
  wm_sink *sink = new_sink();
  publish(conn, "t", 3, 10);
  void *sub = sub_to(conn, "t", 50);
  fetch_all(sub, sink, 3);
  assert_silent(sub, sink, 300); /* its claims have ended, nobody took them */
  ack_all(sub, sink);
  B.unsubscribe(sub);
  free_sink(sink);
  close_conn(conn);
}

static void acks_out_of_order_leave_neighbours_alone(void **state) {
  (void)state;
  enum { N = 200 };
  void *conn = open_conn();
  wm_sink *a = new_sink(), *b = new_sink();
  wm_settle_op ops[N];
  size_t n = 0;
  publish(conn, "t", N, 10);
  void *sub = sub_to(conn, "t", LONG_MS), *other = sub_to(conn, "t", LONG_MS);
  fetch_all(sub, a, N);
  for (size_t i = N; i-- > 0;)
    if (i % 10 != 3) ops[n++] = (wm_settle_op){.kind = WM_SETTLE_ACK, .msg = a->msgs[i]};
  OK(B.settle(sub, ops, n, &err));
  assert_int_equal(held(), N / 10);
  assert_int_equal(number_of("SELECT offset_acked FROM watermill_offsets_t"), 3);
  assert_true(number_of("SELECT locked_until > unixepoch() FROM watermill_offsets_t"));
  B.unsubscribe(sub); /* gives back what is left */
  fetch_all(other, b, N / 10);
  for (size_t i = 0; i < N / 10; i++)
    assert_int_equal(wm_sqlite_offset_of(b->msgs[i]), (int64_t)i * 10 + 4);
  ack_all(other, b);
  assert_int_equal(number_of("SELECT offset_acked FROM watermill_offsets_t"), N);
  assert_int_equal(number_of("SELECT locked_until FROM watermill_offsets_t"), 0);
  B.unsubscribe(other);
  free_sink(a);
  free_sink(b);
  close_conn(conn);
}

static void members_share_and_groups_do_not(void **state) {
  (void)state;
  void *conn = open_conn();
  wm_sink *a = new_sink(), *b = new_sink(), *c = new_sink();
  publish(conn, "t", 20, 10);
  void *one = sub_to(conn, "t", LONG_MS), *two = sub_to(conn, "t", LONG_MS);
  void *all = sub_with(conn, "t", "other", NULL, LONG_MS, false);
  fetch_all(one, a, 8);
  OK(B.fetch(two, 100, 1 << 20, WAIT_MS, b, &err));
  assert_int_equal(b->n, 12);
  assert_string_equal(b->msgs[0]->uuid.data, "m8");
  fetch_all(all, c, 20);
  assert_uuids(c, 20);
  B.unsubscribe(one);
  B.unsubscribe(two);
  B.unsubscribe(all);
  free_sink(a);
  free_sink(b);
  free_sink(c);
  close_conn(conn);
}

static void exclusive_members_take_turns(void **state) {
  (void)state;
  void *conn = open_conn();
  wm_sink *a = new_sink(), *b = new_sink();
  publish(conn, "t", 20, 10);
  void *first = sub_with(conn, "t", "g", NULL, LONG_MS, true);
  void *second = sub_with(conn, "t", "g", NULL, LONG_MS, true);
  fetch_all(first, a, 5);
  assert_silent(second, b, 100);
  ack_all(first, a);
  assert_silent(second, b, 100); /* it holds nothing, but its turn goes on */
  fetch_all(first, a, 5);
  B.unsubscribe(first);
  OK(B.fetch(second, 100, 1 << 20, WAIT_MS, b,
             &err)); /* in order, what was given back before the new */
  assert_int_equal(b->n, 15);
  for (size_t i = 0; i < 15; i++)
    assert_int_equal(wm_sqlite_offset_of(b->msgs[i]), (int64_t)i + 6);
  B.unsubscribe(second);
  free_sink(a);
  free_sink(b);
  close_conn(conn);
}

static void a_silent_leader_is_replaced_and_learns_of_it(void **state) {
  (void)state;
  void *conn = open_conn();
  wm_sink *a = new_sink(), *b = new_sink();
  publish(conn, "t", 20, 10);
  void *silent = sub_with(conn, "t", "g", NULL, 200, true);
  void *heir = sub_with(conn, "t", "g", NULL, LONG_MS, true);
  fetch_all(silent, a, 5);
  fetch_all(heir, b, 20);
  for (size_t i = 0; i < 20; i++)
    assert_int_equal(wm_sqlite_offset_of(b->msgs[i]), (int64_t)i + 1);
  OK(B.fetch(silent, 10, 1 << 20, 20, a, &err));
  assert_int_equal(a->n, 5);
  assert_int_equal(a->lost, 5);
  B.unsubscribe(silent);
  B.unsubscribe(heir);
  free_sink(a);
  free_sink(b);
  close_conn(conn);
}

/* ---- where to begin ------------------------------------------------------------------------------ */

static void without_a_group_all_from_now_on_comes(void **state) {
  (void)state;
  void *conn = open_conn();
  wm_sink *a = new_sink(), *b = new_sink(), *c = new_sink();
  void *early = sub_with(conn, "t", NULL, NULL, 30000, false); /* no such table yet */
  publish(conn, "t", 3, 10);
  void *late = sub_with(conn, "t", NULL, NULL, 30000, false);
  void *all = sub_with(conn, "t", NULL, "oldest", 30000, false);
  publish(conn, "t", 5, 10);
  fetch_all(early, a, 8);
  fetch_all(late, b, 5);
  assert_uuids(b, 5);
  fetch_all(all, c, 8);
  settle(early, a, 0, 8, WM_SETTLE_ACK, 0);
  assert_silent(early, a, 20);
  B.unsubscribe(early);
  B.unsubscribe(late);
  B.unsubscribe(all);
  assert_int_equal(number_of("SELECT count(*) FROM wm_cursor"), 0);
  free_sink(a);
  free_sink(b);
  free_sink(c);
  close_conn(conn);
}

static void first_of(void *conn, const char *group, const char *from, int64_t offset) {
  wm_sink *sink = new_sink();
  void *sub = sub_with(conn, "t", group, from, 30000, false);
  if (offset) {
    fetch_all(sub, sink, 1);
    if (wm_sqlite_offset_of(sink->msgs[0]) != offset)
      fail_msg("from %s: offset %lld", from, (long long)wm_sqlite_offset_of(sink->msgs[0]));
  } else {
    assert_silent(sub, sink, 20);
  }
  B.unsubscribe(sub);
  free_sink(sink);
}

static void a_new_group_starts_where_it_is_told(void **state) {
  (void)state;
  void *conn = open_as("all", WAIT_MS), *sub;
  char from[32];
  publish(conn, "t", 20, 10);
  int64_t between = wm_epoch_ms() + 1;
  while (wm_epoch_ms() <= between)
    pause_a_little();
  publish(conn, "t", 20, 10);
  run_sql("DELETE FROM watermill_t WHERE \"offset\" IN (1, 2, 10, 19, 20, 21)");
  first_of(conn, "a", NULL, 3);
  first_of(conn, "b", "oldest", 3);
  first_of(conn, "c", "newest", 0);
  first_of(conn, "d", "offset:9", 9);
  first_of(conn, "e", "offset:10", 11);
  first_of(conn, "f", "offset:1000", 0);
  snprintf(from, sizeof from, "%lld.%03d", (long long)between / 1000, (int)(between % 1000));
  first_of(conn, "g", from, 22);
  first_of(conn, "h", "1000", 3);
  first_of(conn, "i", "99999999999", 0);
  first_of(conn, NULL, from, 22);
  first_of(conn, "d", "newest", 9); /* it was there: only what it has not acked counts */
  publish(conn, "t", 1, 10);
  first_of(conn, "c", "oldest", 41);
  static const char *const bad[] = {"offset:", "offset:x", "offset:-1", "x", "-1", "1x", "nan"};
  for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
    wm_sub_spec spec = {
        .topic = "t", .group = "z", .from = bad[i], .takeover_ms = 1000, .member = "m"};
    assert_int_equal(B.subscribe(conn, &spec, &sub, &err), WM_BAD_INPUT);
    assert_non_null(strstr(err.text, bad[i]));
  }
  close_conn(conn);
}

static void transactions_are_refused_by_name(void **state) {
  (void)state;
  void *conn = open_conn(), *sub;
  wm_sub_spec spec = {.topic = "t", .group = "z", .takeover_ms = 1000, .member = "m", .tx = true};
  assert_int_equal(B.subscribe(conn, &spec, &sub, &err), WM_UNSUPPORTED);
  assert_non_null(strstr(err.text, "'tx'"));
  close_conn(conn);
}

/* ---- waiting ------------------------------------------------------------------------------------- */

static void *interrupt_later(void *sub) {
  poll(NULL, 0, 50);
  B.interrupt(sub);
  return NULL;
}

static void an_interrupt_ends_a_wait(void **state) {
  (void)state;
  void *conn = open_conn();
  wm_sink *sink = new_sink();
  void *sub = sub_to(conn, "t", 30000);
  int64_t since = wm_now_ms();
  for (int i = 0; i < 3; i++) {
    pthread_t thread;
    pthread_create(&thread, NULL, interrupt_later, sub);
    OK(B.fetch(sub, 100, 1 << 20, LONG_MS, sink, &err));
    pthread_join(thread, NULL);
    assert_int_equal(sink->n, 0);
  }
  B.interrupt(sub); /* the next one to begin */
  OK(B.fetch(sub, 100, 1 << 20, LONG_MS, sink, &err));
  assert_true(wm_now_ms() - since < LONG_MS / 2);
  publish(conn, "t", 5, 10);
  fetch_all(sub, sink, 5);
  B.unsubscribe(sub);
  free_sink(sink);
  close_conn(conn);
}

static void an_interrupt_ends_a_wait_for_the_lock(void **state) {
  (void)state;
  void *conn = open_as("acked", LONG_MS);
  wm_sink *sink = new_sink();
  void *sub = sub_to(conn, "t", 30000);
  publish(conn, "t", 1, 10);
  sqlite3 *other = admin_open();
  run_on(other, "BEGIN IMMEDIATE");
  pthread_t thread;
  int64_t since = wm_now_ms();
  pthread_create(&thread, NULL, interrupt_later, sub);
  OK(B.fetch(sub, 100, 1 << 20, LONG_MS, sink, &err));
  pthread_join(thread, NULL);
  assert_true(wm_now_ms() - since < LONG_MS / 2);
  assert_int_equal(sink->n, 0);
  run_on(other, "COMMIT");
  sqlite3_close(other);
  fetch_all(sub, sink, 1);
  B.unsubscribe(sub);
  free_sink(sink);
  close_conn(conn);
}

static void waiting_writes_nothing(void **state) {
  (void)state;
  void *conn = open_conn();
  wm_sink *sink = new_sink();
  void *subs[] = {sub_to(conn, "t", 300), sub_with(conn, "t", NULL, NULL, 300, false),
                  sub_with(conn, "u", "g", NULL, 300, true)};
  publish(conn, "t", 1, 10);
  publish(conn, "u", 1, 10);
  for (size_t i = 0; i < 3; i++) {
    fetch_all(subs[i], sink, 1);
    settle(subs[i], sink, 0, 1, WM_SETTLE_ACK, 0);
    empty(sink);
  }
  sqlite3 *other = admin_open();
  long long before = number_on(other, "PRAGMA data_version");
  for (int i = 0; i < 5; i++)
    for (size_t j = 0; j < 3; j++)
      OK(B.fetch(subs[j], 100, 1 << 20, 50, sink, &err));
  assert_int_equal(number_on(other, "PRAGMA data_version"), before);
  sqlite3_close(other);
  for (size_t i = 0; i < 3; i++)
    B.unsubscribe(subs[i]);
  free_sink(sink);
  close_conn(conn);
}

static void what_others_publish_ends_a_wait(void **state) {
  (void)state;
  void *conn = open_conn();
  wm_sink *sink = new_sink();
  void *sub = sub_to(conn, "t", LONG_MS), *all = sub_with(conn, "t", NULL, NULL, LONG_MS, false);
  /* Software that does not know of the bell. */
  run_sql("INSERT INTO watermill_t(uuid, created_at, payload, metadata) VALUES('a', '', '', '{}')");
  OK(B.fetch(sub, 1, 1 << 20, WAIT_MS, sink, &err));
  assert_int_equal(sink->n, 1);
  OK(B.fetch(all, 1, 1 << 20, WAIT_MS, sink, &err));
  assert_int_equal(sink->n, 2);
  child c = start("publish", "10");
  await(&c);
  fetch_all(sub, sink, 100);
  end(&c, SIGKILL);
  B.unsubscribe(sub);
  B.unsubscribe(all);
  free_sink(sink);
  close_conn(conn);
}

/* ---- what may go wrong ---------------------------------------------------------------------------- */

static void a_table_or_group_that_vanishes_is_made_again(void **state) {
  (void)state;
  void *conn = open_as("all", WAIT_MS);
  wm_sink *sink = new_sink(), *fan = new_sink();
  void *sub = sub_to(conn, "t", 30000), *all = sub_with(conn, "t", NULL, NULL, 30000, false);
  publish(conn, "t", 2, 10);
  fetch_all(sub, sink, 2);
  fetch_all(all, fan, 2);
  run_sql("DROP TABLE watermill_t");
  bool lost[2];
  OK(B.fetch(sub, 10, 1 << 20, 20, sink, &err));
  publish(conn, "t", 3, 10);
  OK(B.touch(sub, sink->msgs, 2, lost, &err));
  assert_int_equal(settle(sub, sink, 0, 2, WM_SETTLE_ACK, 0), 0);
  empty(sink);
  fetch_all(sub, sink, 3); /* none is taken for one that there was */
  assert_uuids(sink, 3);
  fetch_all(all, fan, 5);
  /* The group, as the test of all brokers does it: all that is there comes again. */
  run_sql("BEGIN IMMEDIATE; DELETE FROM wm_group WHERE topic='t' AND grp='g';"
          "DELETE FROM watermill_offsets_t WHERE consumer_group='g'; COMMIT");
  OK(B.touch(sub, sink->msgs, 2, lost, &err));
  assert_true(lost[0] && lost[1]);
  assert_int_equal(settle(sub, sink, 0, 3, WM_SETTLE_ACK, 0), 3);
  OK(B.fetch(sub, 10, 1 << 20, WAIT_MS, sink, &err));
  assert_int_equal(sink->lost, 3);
  assert_int_equal(sink->n, 6);
  assert_int_equal(held(), 3);
  B.unsubscribe(sub);
  B.unsubscribe(all);
  free_sink(sink);
  free_sink(fan);
  close_conn(conn);
}

static void a_table_that_other_software_made_anew_is_read_from_its_start(void **state) {
  (void)state;
  void *conn = open_as("all", WAIT_MS);
  wm_sink *sink = new_sink(), *fan = new_sink();
  void *sub = sub_to(conn, "t", 30000), *all = sub_with(conn, "t", NULL, NULL, 30000, false);
  publish(conn, "t", 20, 10);
  fetch_all(sub, sink, 20);
  fetch_all(all, fan, 20);
  empty(fan);
  run_sql("BEGIN; DROP TABLE watermill_t; CREATE TABLE watermill_t(\"offset\" INTEGER PRIMARY KEY "
          "AUTOINCREMENT,"
          " uuid TEXT NOT NULL, created_at TEXT NOT NULL, payload BLOB, metadata JSON NOT NULL);"
          "INSERT INTO watermill_t(uuid, created_at, payload, metadata) VALUES('new', '', '', "
          "'{}'); COMMIT");
  fetch_all(sub, sink, 21);
  assert_string_equal(sink->msgs[20]->uuid.data, "new");
  assert_int_equal(sink->lost, 20);
  assert_int_equal(settle(sub, sink, 0, 20, WM_SETTLE_ACK, 0), 20);
  assert_int_equal(held(), 1);
  fetch_all(all, fan, 1);
  B.unsubscribe(sub);
  B.unsubscribe(all);
  free_sink(sink);
  free_sink(fan);
  close_conn(conn);
}

static void a_file_that_vanishes_is_made_again(void **state) {
  (void)state;
  void *conn = open_conn();
  wm_sink *sink = new_sink(), *fan = new_sink();
  void *sub = sub_to(conn, "t", 30000), *all = sub_with(conn, "t", NULL, NULL, 30000, false);
  publish(conn, "t", 5, 10);
  fetch_all(sub, sink, 5);
  fetch_all(all, fan, 5);
  empty(sink);
  unlink(file);
  publish(conn, "t", 3, 10);
  assert_int_equal(access(file, F_OK), 0);
  fetch_all(sub, sink, 3);
  fetch_all(all, fan, 8);
  assert_uuids(sink, 3);
  B.unsubscribe(sub);
  B.unsubscribe(all);
  free_sink(sink);
  free_sink(fan);
  close_conn(conn);
}

static void one_refused_row_leaves_its_neighbours_alone(void **state) {
  (void)state;
  void *conn = open_conn();
  wm_result results[10];
  publish(conn, "t", 1, 10);
  run_sql("CREATE TRIGGER no BEFORE INSERT ON watermill_t WHEN NEW.uuid IN ('m3', 'm5')"
          " BEGIN SELECT RAISE(ABORT, 'not this one'); END");
  OK(try_publish(conn, "t", 10, 10, WAIT_MS, results));
  for (int i = 0; i < 10; i++)
    assert_int_equal(results[i], i == 3 || i == 5 ? WM_RESULT_REFUSED : WM_STORED);
  assert_non_null(strstr(err.text, "not this one"));
  assert_int_equal(number_of("SELECT count(*) FROM watermill_t"), 9);
  close_conn(conn);
}

static void a_full_disk_is_named_and_tried_again(void **state) {
  (void)state;
  void *conn = open_conn();
  wm_result results[3];
  wm_sink *sink = new_sink();
  publish(conn, "t", 3, 10);
  wm_sqlite_sub *sub = sub_to(conn, "t", 30000);
  fetch_all(sub, sink, 2);
  sqlite3 *handle = sub->hub->db.handle;
  char limit[64];
  snprintf(limit, sizeof limit, "PRAGMA max_page_count=%lld",
           number_on(handle, "PRAGMA page_count"));
  run_on(handle, limit);
  int rc = try_publish(conn, "t", 3, 100000, WAIT_MS, results);
  assert_int_equal(rc, WM_UNREACHABLE);
  for (int i = 0; i < 3; i++)
    assert_int_equal(results[i], WM_RESULT_NOT_SENT);
  assert_non_null(strstr(err.text, file));
  assert_non_null(strstr(err.text, "full"));
  assert_int_equal(settle(sub, sink, 0, 2, WM_SETTLE_ACK, 0), 0); /* acks need no space */
  run_on(handle, "PRAGMA max_page_count=1000000");
  publish(conn, "t", 3, 100000);
  fetch_all(sub, sink, 6);
  B.unsubscribe(sub);
  free_sink(sink);
  close_conn(conn);
}

static void a_lock_that_lasts_is_an_outage(void **state) {
  (void)state;
  void *conn = open_as("acked", 50);
  wm_sink *sink = new_sink();
  wm_result results[3];
  publish(conn, "t", 3, 10);
  void *sub = sub_to(conn, "t", 30000);
  OK(B.fetch(sub, 1, 1 << 20, WAIT_MS, sink, &err));
  sqlite3 *other = admin_open();
  run_on(other, "BEGIN IMMEDIATE");
  assert_int_equal(try_publish(conn, "t", 3, 10, WAIT_MS, results), WM_UNREACHABLE);
  assert_int_equal(results[0], WM_RESULT_NOT_SENT);
  assert_non_null(strstr(err.text, file));
  assert_non_null(strstr(err.text, "busy_timeout"));
  assert_int_equal(B.fetch(sub, 10, 1 << 20, WAIT_MS, sink, &err), WM_UNREACHABLE);
  wm_settle_op op = {.kind = WM_SETTLE_ACK, .msg = sink->msgs[0]};
  assert_int_equal(B.settle(sub, &op, 1, &err), WM_UNREACHABLE);
  run_on(other, "COMMIT");
  sqlite3_close(other);
  OK(B.settle(sub, &op, 1, &err));
  assert_false(op.lost);
  fetch_all(sub, sink, 3);
  B.unsubscribe(sub);
  free_sink(sink);
  close_conn(conn);
}

typedef struct locker {
  wm_sqlite_hub *hub;
  sqlite3 *db;
} locker;

/* Ends its transaction some time after somebody has begun to wait for it. */
static void *unlock_later(void *arg) {
  locker *l = arg;
  for (bool led = false; !led; pause_a_little()) {
    pthread_mutex_lock(&l->hub->lock);
    led = l->hub->led;
    pthread_mutex_unlock(&l->hub->lock);
  }
  poll(NULL, 0, 500);
  run_on(l->db, "COMMIT");
  return NULL;
}

static void nobody_is_taken_over_for_a_lock_that_was_not_his(void **state) {
  (void)state;
  void *conn = open_conn();
  wm_sink *a = new_sink(), *b = new_sink();
  bool lost[2];
  publish(conn, "t", 2, 10);
  wm_sqlite_sub *alive = sub_to(conn, "t", 100);
  void *heir = sub_to(conn, "t", LONG_MS);
  fetch_all(alive, a, 2);
  locker l = {alive->hub, admin_open()};
  run_on(l.db, "BEGIN IMMEDIATE");
  int64_t ends = wm_epoch_ms() + 150;
  while (wm_epoch_ms() < ends) /* it could not keep its claims alive */
    pause_a_little();
  pthread_t thread;
  pthread_create(&thread, NULL, unlock_later, &l);
  OK(B.fetch(heir, 10, 1 << 20, 0, b, &err));
  pthread_join(thread, NULL);
  sqlite3_close(l.db);
  assert_int_equal(b->n, 0);
  OK(B.touch(alive, a->msgs, 2, lost, &err));
  assert_false(lost[0] || lost[1]);
  B.unsubscribe(alive);
  B.unsubscribe(heir);
  free_sink(a);
  free_sink(b);
  close_conn(conn);
}

static void assert_subscribe_fails(const char *path, int code, const char *text) {
  void *conn, *sub;
  wm_sub_spec spec = {.topic = "t", .group = "g", .takeover_ms = 1000, .member = "m"};
  OK(try_open(path, "acked", 100, &conn));
  int rc = B.subscribe(conn, &spec, &sub, &err);
  if (rc != code) fail_msg("%s: %s: %s", path, wm_code_name(rc), err.text);
  if (!strstr(err.text, text)) fail_msg("%s: %s", path, err.text);
  wm_result results[1];
  rc = try_publish(conn, "t", 1, 10, WAIT_MS, results);
  if (rc != code) fail_msg("%s: %s: %s", path, wm_code_name(rc), err.text);
  assert_int_equal(results[0], WM_RESULT_NOT_SENT);
  close_conn(conn);
}

static void write_file(const char *path, const char *text, mode_t mode) {
  int fd = open(path, O_WRONLY | O_CREAT | O_TRUNC, mode);
  assert_true(fd >= 0 && write(fd, text, strlen(text)) == (ssize_t)strlen(text));
  close(fd);
}

static void what_is_no_broker_is_named(void **state) {
  (void)state;
  char path[160], text[600] = "no database";
  snprintf(path, sizeof path, "%s/missing/x.db", dir);
  assert_subscribe_fails(path, WM_NOT_FOUND, "directory");
  assert_subscribe_fails(dir, WM_BAD_INPUT, "a directory");
  snprintf(path, sizeof path, "%s/text", dir);
  memset(text, 'x', sizeof text - 1);
  write_file(path, text, 0644);
  assert_subscribe_fails(path, WM_REFUSED, "no SQLite database");
  char below[200];
  snprintf(below, sizeof below, "%s/x.db", path);
  assert_subscribe_fails(below, WM_BAD_INPUT, "no directory");
  void *conn;
  assert_int_equal(try_open("", "acked", 1, &conn), WM_BAD_INPUT);
  assert_int_equal(try_open(":memory:", "acked", 1, &conn), WM_BAD_INPUT);
  assert_int_equal(try_open(file, "never", 1, &conn), WM_BAD_INPUT);
  assert_non_null(strstr(err.text, "'retain'"));
}

static void missing_rights_are_named(void **state) {
  (void)state;
  char path[160], bell[170];
  if (geteuid() == 0) {
    fprintf(stderr, "SKIPPED: root may write anywhere\n");
    skip();
  }
  void *conn = open_conn();
  publish(conn, "t", 1, 10);
  close_conn(conn);
  chmod(file, 0444);
  assert_subscribe_fails(file, WM_DENIED, file);
  chmod(file, 0644);
  snprintf(bell, sizeof bell, "%s-wm", file);
  chmod(bell, 0);
  assert_subscribe_fails(file, WM_DENIED, bell);
  chmod(bell, 0644);
  chmod(dir, 0555);
  assert_subscribe_fails(file, WM_DENIED, "directory");
  snprintf(path, sizeof path, "%s/new.db", dir);
  assert_subscribe_fails(path, WM_DENIED, "directory");
  chmod(dir, 0755);
  conn = open_conn();
  publish(conn, "t", 1, 10);
  close_conn(conn);
}

static void one_file_by_two_names_is_one_hub(void **state) {
  (void)state;
  char path[160];
  void *a = open_conn(), *b;
  snprintf(path, sizeof path, "%s/link.db", dir);
  assert_int_equal(symlink(file, path), 0);
  OK(try_open(path, "acked", WAIT_MS, &b));
  publish(a, "t", 1, 10);
  publish(b, "t", 1, 10);
  assert_ptr_equal(((wm_sqlite *)a)->hub, ((wm_sqlite *)b)->hub);
  close_conn(a);
  publish(b, "t", 1, 10);
  close_conn(b);
  assert_int_equal(number_of("SELECT count(*) FROM watermill_t"), 3);
}

/* ---- Watermill's own members ----------------------------------------------------------------------- */

static void a_member_of_other_software_and_ours_wait_for_each_other(void **state) {
  (void)state;
  void *conn = open_as("all", WAIT_MS);
  wm_sink *sink = new_sink();
  publish(conn, "t", 10, 10);
  /* It has made the group, acked up to 2, and works on a batch. */
  run_sql("INSERT INTO watermill_offsets_t VALUES('g', 2, unixepoch() + 1000)");
  void *sub = sub_to(conn, "t", 30000);
  assert_silent(sub, sink, 100);
  run_sql("UPDATE watermill_offsets_t SET offset_acked=4, locked_until=0 WHERE consumer_group='g'");
  fetch_all(sub, sink, 2);
  assert_int_equal(wm_sqlite_offset_of(sink->msgs[0]), 5);
  /* While ours holds messages, the other one may not lock the group; afterwards it may. */
  assert_int_equal(number_of("SELECT locked_until > unixepoch() FROM watermill_offsets_t"), 1);
  assert_int_equal(number_of("SELECT offset_acked FROM watermill_offsets_t"), 4);
  ack_all(sub, sink);
  assert_int_equal(number_of("SELECT locked_until FROM watermill_offsets_t"), 0);
  assert_int_equal(number_of("SELECT offset_acked FROM watermill_offsets_t"), 6);
  B.unsubscribe(sub);
  free_sink(sink);
  close_conn(conn);
}

/* ---- retention -------------------------------------------------------------------------------------- */

static long long stored(void) { return number_of("SELECT count(*) FROM watermill_t"); }

/* Fetches and acks, one message after the other, until so many messages are stored. */
static void consume_until(void *conn, void *sub, wm_sink *sink, long long least, long long most) {
  for (int64_t until = wm_now_ms() + WAIT_MS;; pause_a_little()) {
    publish(conn, "t", 1, 10);
    OK(B.fetch(sub, 1000, 1 << 20, 10, sink, &err));
    ack_all(sub, sink);
    long long n = stored();
    if (n >= least && n <= most) return;
    if (wm_now_ms() > until) fail_msg("%lld are stored", n);
  }
}

static void what_all_groups_have_acked_is_deleted(void **state) {
  (void)state;
  void *conn = open_conn();
  wm_sink *a = new_sink(), *b = new_sink(), *c = new_sink();
  publish(conn, "t", 500, 10);
  void *one = sub_to(conn, "t", 30000), *two = sub_with(conn, "t", "slow", NULL, 30000, false);
  void *fan = sub_with(conn, "t", NULL, "oldest", 30000, false);
  fetch_all(one, a, 500);
  ack_all(one, a);
  assert_int_equal(stored(), 500);
  fetch_all(two, b, 300);
  ack_all(two, b);
  consume_until(conn, one, a, 500, 10000); /* whoever has no group has read none */
  assert_int_equal(number_of("SELECT min(\"offset\") FROM watermill_t"), 1);
  fetch_all(fan, c, 400);
  OK(B.fetch(fan, 1, 1 << 20, 1, c, &err));
  for (int64_t until = wm_now_ms() + WAIT_MS;
       number_of("SELECT min(\"offset\") FROM watermill_t") != 301;) {
    if (wm_now_ms() > until) fail_msg("%lld are stored", stored());
    OK(B.fetch(fan, 1, 1 << 20, 1, c, &err));
    consume_until(conn, one, a, 0, 100000);
  }
  B.unsubscribe(one);
  B.unsubscribe(two);
  B.unsubscribe(fan);
  free_sink(a);
  free_sink(b);
  free_sink(c);
  close_conn(conn);
}

static void a_dead_process_without_a_group_keeps_nothing(void **state) {
  (void)state;
  void *conn = open_conn();
  wm_sink *sink = new_sink();
  publish(conn, "t", 100, 10);
  child c = start("look", "");
  await(&c);
  void *sub = sub_to(conn, "t", 30000);
  fetch_all(sub, sink, 100);
  ack_all(sub, sink);
  consume_until(conn, sub, sink, 101, 10000);
  assert_int_equal(number_of("SELECT min(\"offset\") FROM watermill_t"), 1);
  end(&c, SIGKILL);
  consume_until(conn, sub, sink, 0, 50);
  assert_int_equal(number_of("SELECT count(*) FROM wm_cursor"), 0);
  B.unsubscribe(sub);
  free_sink(sink);
  close_conn(conn);
}

static void retention_can_be_all_or_a_time(void **state) {
  (void)state;
  void *conn = open_as("all", WAIT_MS);
  wm_sink *sink = new_sink();
  publish(conn, "t", 100, 10);
  void *sub = sub_to(conn, "t", 30000);
  fetch_all(sub, sink, 100);
  ack_all(sub, sink);
  B.unsubscribe(sub);
  publish(conn, "t", 5, 10);
  close_conn(conn);
  assert_int_equal(stored(), 105);

  run_sql("UPDATE watermill_t SET created_at='2020-01-01T00:00:00Z' WHERE \"offset\"<=103");
  conn = open_as("7d", WAIT_MS);
  sub = sub_to(conn, "t", 30000);
  publish(conn, "t", 1, 10);
  assert_int_equal(stored(), 3);
  fetch_all(sub, sink, 3);
  assert_int_equal(sink->gone, 3); /* nobody had those three */
  B.unsubscribe(sub);
  free_sink(sink);
  close_conn(conn);
}

/* ---- the rest --------------------------------------------------------------------------------------- */

static void collect(void *arg, const char *what, const char *text, bool warning) {
  char *all = arg;
  size_t used = strlen(all);
  snprintf(all + used, 2000 - used, "%s%s: %s\n", warning ? "! " : "", what, text);
}

static void probing_tells_what_counts(void **state) {
  (void)state;
  char all[2000] = "";
  void *conn = open_conn();
  OK(B.probe(conn, collect, all, &err));
  assert_non_null(strstr(all, "server: SQLite 3."));
  assert_non_null(strstr(all, file));
  assert_non_null(strstr(all, "durability: every confirmed message is on disk (journal_mode wal"));
  assert_non_null(strstr(all, "limit: "));
  assert_non_null(strstr(all, "rights: "));
  close_conn(conn);
}

typedef struct crowd {
  void *sub, *conn;
  pthread_mutex_t lock; /* guards the rest */
  wm_sink *held;        /* fetched, not settled */
  size_t settled, wanted, published;
} crowd;

static bool is_done(crowd *c) {
  pthread_mutex_lock(&c->lock);
  bool done = c->settled >= c->wanted;
  pthread_mutex_unlock(&c->lock);
  return done;
}

static void *fetcher(void *arg) {
  crowd *c = arg;
  wm_error e;
  wm_sink *sink = new_sink();
  while (!is_done(c)) {
    if (B.fetch(c->sub, 300, 4 << 20, 200, sink, &e) != WM_OK) pause_a_little();
    pthread_mutex_lock(&c->lock);
    for (size_t i = 0; i < sink->n; i++)
      test_sink_put(c->held, sink->msgs[i]);
    pthread_mutex_unlock(&c->lock);
    sink->n = 0;
  }
  free_sink(sink);
  return NULL;
}

static void *settler(void *arg) {
  crowd *c = arg;
  wm_error e;
  wm_settle_op ops[100];
  bool lost[100];
  while (!is_done(c)) {
    wm_message *msgs[100];
    pthread_mutex_lock(&c->lock);
    size_t n = c->held->n < 100 ? c->held->n : 100;
    for (size_t i = 0; i < n; i++) {
      ops[i] = (wm_settle_op){.kind = WM_SETTLE_ACK, .msg = c->held->msgs[i]};
      msgs[i] = ops[i].msg;
    }
    pthread_mutex_unlock(&c->lock);
    if (!n || B.touch(c->sub, msgs, n, lost, &e) != WM_OK ||
        B.settle(c->sub, ops, n, &e) != WM_OK) {
      pause_a_little();
      continue;
    }
    pthread_mutex_lock(&c->lock);
    for (size_t i = 0; i < n; i++)
      wm_message_release(msgs[i]);
    c->held->n -= n;
    memmove(c->held->msgs, c->held->msgs + n, c->held->n * sizeof *c->held->msgs);
    c->settled += n;
    pthread_mutex_unlock(&c->lock);
  }
  return NULL;
}

static void *publisher(void *arg) {
  crowd *c = arg;
  for (size_t i = 0; i < c->published / 100; i++)
    publish(c->conn, "t", 100, 200);
  return NULL;
}

static void fetching_settling_and_publishing_go_on_at_once(void **state) {
  (void)state;
  enum { CROWDS = 4, EACH = 3000 };
  crowd crowds[CROWDS];
  pthread_t threads[CROWDS][3];
  char group[8];
  for (int i = 0; i < CROWDS; i++) {
    crowds[i] = (crowd){
        .conn = open_conn(), .held = new_sink(), .wanted = CROWDS * EACH, .published = EACH};
    pthread_mutex_init(&crowds[i].lock, NULL);
    snprintf(group, sizeof group, "g%d", i);
    crowds[i].sub = sub_with(crowds[i].conn, "t", group, NULL, LONG_MS, false);
  }
  for (int i = 0; i < CROWDS; i++) {
    pthread_create(&threads[i][0], NULL, fetcher, &crowds[i]);
    pthread_create(&threads[i][1], NULL, settler, &crowds[i]);
    pthread_create(&threads[i][2], NULL, publisher, &crowds[i]);
  }
  for (int i = 0; i < CROWDS; i++)
    for (int64_t until = wm_now_ms() + 6 * WAIT_MS; !is_done(&crowds[i]); pause_a_little()) {
      B.interrupt(crowds[i].sub);
      if (wm_now_ms() > until) fail_msg("stuck");
    }
  for (int i = 0; i < CROWDS; i++) {
    for (int j = 0; j < 3; j++)
      pthread_join(threads[i][j], NULL);
    B.unsubscribe(crowds[i].sub);
    assert_int_equal(crowds[i].held->n, 0);
    free_sink(crowds[i].held);
    close_conn(crowds[i].conn);
    pthread_mutex_destroy(&crowds[i].lock);
  }
  assert_int_equal(held(), 0);
}

/* ---- main ------------------------------------------------------------------------------------------- */

static int remove_one(const char *path, const struct stat *st, int kind, struct FTW *at) {
  (void)st;
  (void)kind;
  (void)at;
  return remove(path);
}

static int setup(void **state) {
  (void)state;
  const char *parent = getenv("TMPDIR");
  snprintf(dir, sizeof dir, "%s/wm-sqlite-XXXXXX", parent && strlen(parent) < 40 ? parent : "/tmp");
  if (!mkdtemp(dir)) return -1;
  snprintf(file, sizeof file, "%s/broker.db", dir);
  return 0;
}

static int teardown(void **state) {
  (void)state;
  chmod(dir, 0755);
  return nftw(dir, remove_one, 8, FTW_DEPTH | FTW_PHYS);
}

int main(int argc, char **argv) {
  if (argc == 5) {
    snprintf(file, sizeof file, "%s", argv[3]);
    play(argv[1], atoi(argv[2]), argv[4]);
  }
#define TEST(f) cmocka_unit_test_setup_teardown(f, setup, teardown)
  const struct CMUnitTest tests[] = {
      TEST(stored_messages_come_in_order_and_acks_end_them),
      TEST(tables_are_those_that_watermill_makes),
      TEST(fetch_keeps_to_max_and_about_bytes),
      TEST(large_payloads_come_back_as_they_went),
      TEST(foreign_rows_are_delivered),
      TEST(any_topic_that_the_core_allows_is_quoted),
      TEST(topics_that_would_share_a_table_are_refused),
      TEST(metadata_that_json_cannot_carry_is_refused),
      TEST(a_killed_member_is_taken_over),
      TEST(released_messages_come_at_once_with_their_count),
      TEST(a_note_survives_the_death_of_its_member_and_the_thief_is_seen),
      TEST(every_takeover_counts),
      TEST(touching_keeps_and_never_steals_back),
      TEST(a_late_member_does_not_get_its_own_messages_twice),
      TEST(acks_out_of_order_leave_neighbours_alone),
      TEST(members_share_and_groups_do_not),
      TEST(exclusive_members_take_turns),
      TEST(a_silent_leader_is_replaced_and_learns_of_it),
      TEST(without_a_group_all_from_now_on_comes),
      TEST(a_new_group_starts_where_it_is_told),
      TEST(transactions_are_refused_by_name),
      TEST(an_interrupt_ends_a_wait),
      TEST(an_interrupt_ends_a_wait_for_the_lock),
      TEST(waiting_writes_nothing),
      TEST(what_others_publish_ends_a_wait),
      TEST(a_table_or_group_that_vanishes_is_made_again),
      TEST(a_table_that_other_software_made_anew_is_read_from_its_start),
      TEST(a_file_that_vanishes_is_made_again),
      TEST(one_refused_row_leaves_its_neighbours_alone),
      TEST(a_full_disk_is_named_and_tried_again),
      TEST(a_lock_that_lasts_is_an_outage),
      TEST(nobody_is_taken_over_for_a_lock_that_was_not_his),
      TEST(what_is_no_broker_is_named),
      TEST(missing_rights_are_named),
      TEST(one_file_by_two_names_is_one_hub),
      TEST(a_member_of_other_software_and_ours_wait_for_each_other),
      TEST(what_all_groups_have_acked_is_deleted),
      TEST(a_dead_process_without_a_group_keeps_nothing),
      TEST(retention_can_be_all_or_a_time),
      TEST(probing_tells_what_counts),
      TEST(fetching_settling_and_publishing_go_on_at_once),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
