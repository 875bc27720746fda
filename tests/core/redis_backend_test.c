/*
 * redis_backend_test.c - the backend contract against a real redis-server, which the test starts on a free port of
 * 127.0.0.1 and kills by its pid. Skipped where there is none.
 *
 * The functions of the sink are this test's own: fetch.c is compiled into it with other names for them.
 */
#define wm_sink_put test_sink_put
#define wm_sink_lost test_sink_lost
#define wm_sink_gone test_sink_gone
#include "backends/redis/fetch.c"

#include <arpa/inet.h>
#include <fcntl.h>
#include <ftw.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/wait.h>

#include <cmocka.h>

extern const wm_backend wm_backend_redis;
#define B wm_backend_redis

enum { WAIT_MS = 10000, MAX_MSGS = 30000 };

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
  if (!sink->n) sink->lost++;
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

/* ---- the server ------------------------------------------------------------------------------- */

static pid_t server;
static int port;
static char dir[64];
static redisContext *admin;

static int free_port(void) {
  struct sockaddr_in a = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
  socklen_t len = sizeof a;
  int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
  bind(fd, (struct sockaddr *)&a, len);
  getsockname(fd, (struct sockaddr *)&a, &len);
  close(fd);
  return ntohs(a.sin_port);
}

static void pause_a_little(void) { poll(NULL, 0, 10); }

static bool start_server(void) {
  char number[16];
  snprintf(number, sizeof number, "%d", port);
  server = fork();
  if (server == 0) {
    int null = open("/dev/null", O_RDWR);
    prctl(PR_SET_PDEATHSIG, SIGKILL); /* a test that crashes leaves no server behind */
    for (int i = 0; i < 3; i++)
      dup2(null, i);
    execlp("redis-server", "redis-server", "--port", number, "--bind", "127.0.0.1", "--dir", dir,
           "--appendonly", "yes", "--appendfsync", "always", "--save", "", "--enable-debug-command",
           "yes", (char *)NULL);
    _exit(127);
  }
  for (int64_t until = wm_now_ms() + WAIT_MS; wm_now_ms() < until; pause_a_little()) {
    int status;
    if (waitpid(server, &status, WNOHANG) == server) break;
    if (admin) redisFree(admin);
    admin = redisConnect("127.0.0.1", port);
    redisReply *reply = admin && !admin->err ? redisCommand(admin, "PING") : NULL;
    bool up = reply && reply->type == REDIS_REPLY_STATUS;
    if (reply) freeReplyObject(reply);
    if (up) return true;
  }
  return false;
}

static void kill_server(void) {
  kill(server, SIGKILL);
  waitpid(server, NULL, 0);
}

__attribute__((format(printf, 1, 2))) static redisReply *command(const char *format, ...) {
  va_list args;
  va_start(args, format);
  redisReply *reply = redisvCommand(admin, format, args);
  va_end(args);
  assert_non_null(reply);
  return reply;
}

__attribute__((format(printf, 1, 2))) static long long number_of(const char *format, ...) {
  va_list args;
  va_start(args, format);
  redisReply *reply = redisvCommand(admin, format, args);
  va_end(args);
  assert_non_null(reply);
  if (reply->type == REDIS_REPLY_ERROR) fail_msg("%s: %s", format, reply->str);
  long long n = reply->type == REDIS_REPLY_ARRAY ? (long long)reply->elements : reply->integer;
  freeReplyObject(reply);
  return n;
}

/* ---- helpers ---------------------------------------------------------------------------------- */

static wm_error err;

#define OK(call)                                                                                   \
  do {                                                                                             \
    int rc_ = (call);                                                                              \
    if (rc_ != WM_OK) fail_msg("%s: %s: %s", #call, wm_code_name(rc_), err.text);                  \
  } while (0)

static void *open_as(const char *user, const char *password, const char *path, const char *option,
                     const char *text) {
  static wm_host hosts[1];
  hosts[0] = (wm_host){"127.0.0.1", port};
  wm_url *url = calloc(1, sizeof *url);
  *url = (wm_url){.scheme = "redis",
                  .user = user ? user : "",
                  .password = password ? password : "",
                  .has_user = user,
                  .has_password = password,
                  .hosts = hosts,
                  .n_hosts = 1,
                  .path = path};
  wm_option_value values[16] = {{0}};
  for (size_t i = 0; B.options[i].name; i++) {
    const wm_option_def *def = &B.options[i];
    values[i].text = def->value;
    values[i].number = def->type == WM_OPT_DURATION ? 5000 : 0;
    if (!option || strcmp(def->name, option) != 0) continue;
    values[i].text = text;
    values[i].number = def->type == WM_OPT_CHOICE ? 1 : atoll(text);
  }
  void *conn = NULL;
  OK(B.open(url, values, &conn, &err));
  free(url); /* its texts are static */
  return conn;
}

static void *open_conn(void) { return open_as(NULL, NULL, "", NULL, NULL); }

static void close_conn(void *conn) {
  B.publish_close(conn);
  B.close(conn);
}

static const char *name(void) {
  static unsigned n;
  static char names[16][40];
  char *out = names[n % 16];
  snprintf(out, sizeof names[0], "host-%d-%08x", (int)getpid(), n++);
  return out;
}

static void *sub_with(void *conn, const char *topic, const char *group, const char *from,
                      int takeover_ms, bool exclusive) {
  wm_sub_spec spec = {.topic = topic,
                      .group = group,
                      .from = from,
                      .takeover_ms = takeover_ms,
                      .exclusive = exclusive,
                      .member = name()};
  void *sub = NULL;
  OK(B.subscribe(conn, &spec, &sub, &err));
  return sub;
}

static void *sub_to(void *conn, const char *topic, int takeover_ms) {
  return sub_with(conn, topic, "g", NULL, takeover_ms, false);
}

static wm_message *message(const char *uuid, const void *data, size_t len) {
  wm_pair pair = {{"key", 3}, {"value", 5}};
  wm_message *msg;
  OK(wm_message_make(&msg, uuid, (wm_slice){data, len}, &pair, 1, &err));
  return msg;
}

static int try_publish(void *conn, const char *topic, size_t n, size_t size, wm_result *results) {
  char *data = calloc(1, size + 1), uuid[32];
  wm_outgoing *out = calloc(n, sizeof *out);
  for (size_t i = 0; i < n; i++) {
    snprintf(uuid, sizeof uuid, "m%zu", i);
    memset(data, 'a' + (int)(i % 26), size);
    out[i] = (wm_outgoing){.topic = topic, .msg = message(uuid, data, size)};
  }
  int rc = B.publish(conn, out, n, WAIT_MS, results, &err);
  for (size_t i = 0; i < n; i++)
    wm_message_release((wm_message *)out[i].msg);
  free(out);
  free(data);
  return rc;
}

static void publish(void *conn, const char *topic, size_t n, size_t size) {
  wm_result *results = calloc(n, sizeof *results);
  OK(try_publish(conn, topic, n, size, results));
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

/* Through outages, as the core does. */
static void fetch_stubbornly(void *sub, wm_sink *sink, size_t n) {
  for (int64_t until = wm_now_ms() + WAIT_MS; sink->n < n;) {
    int rc = B.fetch(sub, n - sink->n, 64 << 20, 200, sink, &err);
    if (rc != WM_OK) assert_int_equal(rc, WM_UNREACHABLE);
    if (rc != WM_OK) pause_a_little();
    if (wm_now_ms() > until) fail_msg("only %zu of %zu came: %s", sink->n, n, err.text);
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

static void assert_uuids(const wm_sink *sink, size_t n) {
  char uuid[32];
  assert_int_equal(sink->n, n);
  for (size_t i = 0; i < n; i++) {
    snprintf(uuid, sizeof uuid, "m%zu", i);
    assert_string_equal(sink->msgs[i]->uuid.data, uuid);
  }
}

static long long pending(const char *topic) {
  redisReply *reply = command("XPENDING %s g", topic);
  assert_int_equal(reply->type, REDIS_REPLY_ARRAY);
  long long n = reply->element[0]->integer;
  freeReplyObject(reply);
  return n;
}

typedef struct body {
  void (*run)(void **state);
} body;

/* Each test, on an empty server. */
static void run(void **state) {
  if (server <= 0) skip();
  freeReplyObject(command("FLUSHALL"));
  const body *test = *state;
  test->run(state);
}

/* ---- the tests -------------------------------------------------------------------------------- */

static void stored_messages_come_in_order_and_acks_end_them(void **state) {
  (void)state;
  void *conn = open_conn();
  wm_sink *sink = new_sink();
  publish(conn, "t", 1000, 100);
  void *sub = sub_to(conn, "t", 30000);
  fetch_all(sub, sink, 1000);
  assert_uuids(sink, 1000);
  assert_int_equal(sink->msgs[1]->payload.len, 100);
  assert_int_equal(sink->msgs[1]->payload.data[99], 'b');
  assert_int_equal(sink->msgs[1]->pairs, 1);
  assert_int_equal(sink->msgs[1]->first_attempt, 1);
  assert_false(sink->msgs[1]->redelivered);
  assert_int_equal(pending("t"), 1000);
  assert_int_equal(settle(sub, sink, 0, 1000, WM_SETTLE_ACK, 0), 0);
  assert_int_equal(pending("t"), 0);
  B.unsubscribe(sub);
  assert_int_equal(number_of("XINFO CONSUMERS t g"), 0);
  free_sink(sink);
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
  OK(B.fetch(sub, 100, 30000, 1000, sink, &err));
  assert_true(sink->n >= 4 && sink->n <= 6);
  size_t before = sink->n;
  OK(B.fetch(sub, 100, 10, 1000, sink, &err));
  assert_int_equal(sink->n, before + 1);
  B.unsubscribe(sub);
  free_sink(sink);
  close_conn(conn);
}

static void a_killed_member_is_taken_over(void **state) {
  (void)state;
  int ready[2];
  char c;
  assert_int_equal(pipe(ready), 0);
  void *conn = open_conn();
  publish(conn, "t", 10, 10);
  pid_t child = fork();
  if (child == 0) {
    void *own = open_conn();
    wm_sink *sink = new_sink();
    void *sub = sub_to(own, "t", 500);
    fetch_all(sub, sink, 10);
    settle(sub, sink, 0, 3, WM_SETTLE_ACK, 0);
    if (write(ready[1], "x", 1) != 1) _exit(1);
    for (;;)
      pause();
  }
  close(ready[1]);
  assert_int_equal(read(ready[0], &c, 1), 1);
  close(ready[0]);
  kill(child, SIGKILL);
  waitpid(child, NULL, 0);
  wm_sink *sink = new_sink();
  void *sub = sub_to(conn, "t", 500);
  int64_t since = wm_now_ms();
  fetch_all(sub, sink, 7);
  assert_true(wm_now_ms() - since < 2000);
  assert_string_equal(sink->msgs[0]->uuid.data, "m3");
  for (size_t i = 0; i < 7; i++) {
    assert_true(sink->msgs[i]->redelivered);
    assert_int_equal(sink->msgs[i]->first_attempt, 2);
  }
  B.unsubscribe(sub);
  free_sink(sink);
  close_conn(conn);
}

static void released_messages_come_at_once_with_their_count(void **state) {
  (void)state;
  void *conn = open_conn();
  wm_sink *a = new_sink(), *b = new_sink();
  publish(conn, "t", 6, 10);
  void *one = sub_to(conn, "t", 30000), *two = sub_to(conn, "t", 30000);
  fetch_all(one, a, 6);
  settle(one, a, 0, 2, WM_SETTLE_RELEASE, 0);
  settle(one, a, 2, 2, WM_SETTLE_RELEASE, 3);
  settle(one, a, 4, 2, WM_SETTLE_ACK, 0);
  int64_t since = wm_now_ms();
  fetch_all(two, b, 4);
  assert_true(wm_now_ms() - since < 2000);
  assert_uuids(b, 4);
  assert_int_equal(b->msgs[0]->first_attempt, 1);
  assert_false(b->msgs[0]->redelivered);
  assert_int_equal(b->msgs[3]->first_attempt, 4);
  assert_true(b->msgs[3]->redelivered);
  /* The one who gave them back may get them, too. */
  settle(two, b, 0, 4, WM_SETTLE_RELEASE, 1);
  empty(a);
  fetch_all(one, a, 4);
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
  void *silent = sub_to(conn, "t", 300), *heir = sub_to(conn, "t", 300);
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
  /* What is no longer its own it neither notes nor gives back. */
  assert_int_equal(settle(silent, a, 0, 1, WM_SETTLE_NOTE, 9), 1);
  assert_int_equal(settle(silent, a, 0, 2, WM_SETTLE_RELEASE, 1), 2);
  OK(B.touch(heir, b->msgs, 2, lost, &err));
  assert_false(lost[0] || lost[1]);
  B.unsubscribe(silent);
  B.unsubscribe(heir);
  free_sink(a);
  free_sink(b);
  close_conn(conn);
}

static void touching_keeps_and_never_steals_back(void **state) {
  (void)state;
  void *conn = open_conn();
  wm_sink *a = new_sink(), *b = new_sink();
  enum { N = 2500 };
  publish(conn, "t", N, 10);
  void *slow = sub_to(conn, "t", 600), *other = sub_to(conn, "t", 600);
  bool *lost = calloc(N, 1);
  fetch_all(slow, a, N);
  for (int64_t until = wm_now_ms() + 2000; wm_now_ms() < until;) {
    OK(B.touch(slow, a->msgs, N, lost, &err));
    assert_silent(other, b, 100);
  }
  for (size_t i = 0; i < N; i++)
    assert_false(lost[i]);
  assert_int_equal(settle(slow, a, 0, N, WM_SETTLE_ACK, 0), 0);
  B.unsubscribe(slow);
  B.unsubscribe(other);
  free(lost);
  free_sink(a);
  free_sink(b);
  close_conn(conn);
}

static void *interrupt_later(void *sub) {
  poll(NULL, 0, 100);
  B.interrupt(sub);
  return NULL;
}

static void an_interrupted_read_is_taken_up_by_the_next_fetch(void **state) {
  (void)state;
  void *conn = open_conn();
  wm_sink *sink = new_sink();
  void *sub = sub_to(conn, "t", 30000);
  for (int i = 0; i < 3; i++) {
    pthread_t thread;
    int64_t since = wm_now_ms();
    pthread_create(&thread, NULL, interrupt_later, sub);
    OK(B.fetch(sub, 100, 1 << 20, 8000, sink, &err));
    assert_true(wm_now_ms() - since < 160);
    pthread_join(thread, NULL);
    assert_int_equal(sink->n, 0);
    publish(conn, "t", 5, 10);
    /* Two of the five; the rest stays for later. */
    OK(B.fetch(sub, 2, 1 << 20, 2000, sink, &err));
    fetch_all(sub, sink, 5);
    assert_uuids(sink, 5);
    settle(sub, sink, 0, 5, WM_SETTLE_ACK, 0);
    empty(sink);
  }
  B.interrupt(sub); /* the next one to begin */
  int64_t since = wm_now_ms();
  OK(B.fetch(sub, 100, 1 << 20, 5000, sink, &err));
  assert_true(wm_now_ms() - since < 60);
  B.unsubscribe(sub);
  assert_int_equal(number_of("XINFO CONSUMERS t g"), 0);
  free_sink(sink);
  close_conn(conn);
}

static void what_the_core_never_saw_is_given_back(void **state) {
  (void)state;
  void *conn = open_conn();
  wm_sink *a = new_sink(), *b = new_sink();
  void *leaver = sub_to(conn, "t", 30000), *stayer = sub_to(conn, "t", 30000);
  B.interrupt(leaver);
  OK(B.fetch(leaver, 100, 1 << 20, 5000, a, &err)); /* its read waits in the server */
  publish(conn, "t", 3, 10);
  B.unsubscribe(leaver);
  int64_t since = wm_now_ms();
  fetch_all(stayer, b, 3);
  assert_true(wm_now_ms() - since < 2000);
  for (size_t i = 0; i < 3; i++)
    assert_int_equal(b->msgs[i]->first_attempt, 1);
  B.unsubscribe(stayer);
  free_sink(a);
  free_sink(b);
  close_conn(conn);
}

static void a_reply_that_is_lost_on_the_way_is_recovered(void **state) {
  (void)state;
  void *conn = open_conn();
  wm_sink *sink = new_sink();
  publish(conn, "t", 10, 10);
  wm_redis_sub *sub = sub_to(conn, "t", 30000);
  fetch_all(sub, sink, 10);
  settle(sub, sink, 0, 2, WM_SETTLE_ACK, 0); /* eight are held */
  B.interrupt(sub);
  OK(B.fetch(sub, 100, 1 << 20, 5000, sink, &err));
  publish(conn, "t", 5, 10);
  for (int64_t until = wm_now_ms() + WAIT_MS; pending("t") < 13 && wm_now_ms() < until;)
    pause_a_little();
  wm_redis_link_down(sub->reader);
  int rc = B.fetch(sub, 100, 1 << 20, 5000, sink, &err);
  if (rc != WM_OK) assert_int_equal(rc, WM_UNREACHABLE);
  fetch_stubbornly(sub, sink, 15);
  assert_string_equal(sink->msgs[10]->uuid.data, "m0");
  assert_string_equal(sink->msgs[14]->uuid.data, "m4");
  assert_int_equal(sink->msgs[14]->first_attempt, 1);
  assert_silent(sub, sink, 100);
  B.unsubscribe(sub);
  free_sink(sink);
  close_conn(conn);
}

static void a_server_that_is_killed_and_started_again_loses_nothing(void **state) {
  (void)state;
  void *conn = open_conn();
  wm_sink *sink = new_sink();
  publish(conn, "t", 100, 100);
  void *sub = sub_to(conn, "t", 30000);
  fetch_all(sub, sink, 50);
  kill_server();
  wm_result results[5];
  assert_int_equal(try_publish(conn, "t", 5, 10, results), WM_UNREACHABLE);
  for (size_t i = 0; i < 5; i++)
    assert_int_not_equal(results[i], WM_STORED);
  assert_int_equal(try_publish(conn, "t", 5, 10, results), WM_UNREACHABLE);
  for (size_t i = 0; i < 5; i++)
    assert_int_equal(results[i], WM_RESULT_NOT_SENT);
  assert_int_equal(B.fetch(sub, 10, 1 << 20, 100, sink, &err), WM_UNREACHABLE);
  wm_settle_op op = {.kind = WM_SETTLE_ACK, .msg = sink->msgs[0]};
  int rc = B.settle(sub, &op, 1, &err);
  assert_int_equal(rc, WM_UNREACHABLE);
  assert_non_null(strstr(err.text, "127.0.0.1"));
  assert_true(start_server());
  fetch_stubbornly(sub, sink, 100);
  assert_uuids(sink, 100);
  settle(sub, sink, 0, 100, WM_SETTLE_ACK, 0);
  assert_int_equal(pending("t"), 0);
  publish(conn, "t", 1, 10);
  B.unsubscribe(sub);
  free_sink(sink);
  close_conn(conn);
}

static void a_server_that_does_not_answer_leaves_it_unknown(void **state) {
  (void)state;
  void *conn = open_conn();
  publish(conn, "t", 1, 10);
  wm_message *msg = message("u", "p", 1);
  wm_outgoing out = {.topic = "t", .msg = msg};
  wm_result result;
  kill(server, SIGSTOP);
  int64_t since = wm_now_ms();
  int rc = B.publish(conn, &out, 1, 300, &result, &err);
  kill(server, SIGCONT);
  assert_int_equal(rc, WM_UNREACHABLE);
  assert_int_equal(result, WM_RESULT_UNKNOWN);
  assert_true(wm_now_ms() - since < 1000);
  publish(conn, "t", 1, 10);
  wm_message_release(msg);
  close_conn(conn);
}

static void large_batches_do_not_lock_up(void **state) {
  (void)state;
  void *conn = open_conn();
  wm_sink *sink = new_sink();
  publish(conn, "t", 1000, 65536);
  void *sub = sub_to(conn, "t", 30000);
  while (sink->n < 1000) {
    size_t before = sink->n;
    OK(B.fetch(sub, 1000, 16 << 20, 1000, sink, &err));
    assert_true(sink->n > before && sink->n - before <= 260);
  }
  assert_uuids(sink, 1000);
  for (size_t i = 0; i < 1000; i++) {
    assert_int_equal(sink->msgs[i]->payload.len, 65536);
    assert_int_equal(sink->msgs[i]->payload.data[65535], 'a' + (int)(i % 26));
  }
  B.unsubscribe(sub);
  free_sink(sink);
  close_conn(conn);
}

static void without_a_group_all_from_now_on_comes(void **state) {
  (void)state;
  void *conn = open_conn();
  wm_sink *a = new_sink(), *b = new_sink(), *c = new_sink();
  void *early = sub_with(conn, "t", NULL, NULL, 30000, false); /* no such key yet */
  publish(conn, "t", 3, 10);
  wm_redis_sub *late = sub_with(conn, "t", NULL, NULL, 30000, false);
  void *all = sub_with(conn, "t", NULL, "oldest", 30000, false);
  publish(conn, "t", 5, 10);
  fetch_all(early, a, 8);
  fetch_all(late, b, 2);
  wm_redis_link_down(late->reader); /* goes on where it was */
  fetch_stubbornly(late, b, 5);
  assert_uuids(b, 5);
  fetch_all(all, c, 8);
  assert_int_equal(settle(late, b, 0, 5, WM_SETTLE_ACK, 0), 0);
  bool lost[5];
  OK(B.touch(late, b->msgs, 5, lost, &err));
  assert_silent(late, b, 100);
  B.unsubscribe(early);
  B.unsubscribe(late);
  B.unsubscribe(all);
  free_sink(a);
  free_sink(b);
  free_sink(c);
  close_conn(conn);
}

static void a_new_group_starts_where_it_is_told(void **state) {
  (void)state;
  void *conn = open_conn();
  wm_sink *sink = new_sink();
  publish(conn, "t", 10, 10);
  void *newest = sub_with(conn, "t", "newest", "newest", 30000, false);
  void *oldest = sub_with(conn, "t", "oldest", "oldest", 30000, false);
  fetch_all(oldest, sink, 10);
  void *at = sub_with(conn, "t", "at", sink->msgs[4]->position, 30000, false);
  wm_sink *rest = new_sink();
  fetch_all(at, rest, 6);
  assert_string_equal(rest->msgs[0]->uuid.data, "m4");
  void *again = sub_with(conn, "t", "at", "oldest", 30000, false); /* the group is not new */
  assert_silent(again, rest, 100);
  assert_silent(newest, rest, 100);
  char epoch[32];
  snprintf(epoch, sizeof epoch, "%lld", (long long)(sink->msgs[0]->time / 1000));
  void *since = sub_with(conn, "t", "since", epoch, 30000, false);
  empty(rest);
  fetch_all(since, rest, 10);
  wm_sub_spec bad = {
      .topic = "t", .group = "bad", .from = "yesterday", .takeover_ms = 1000, .member = "m"};
  void *none;
  assert_int_equal(B.subscribe(conn, &bad, &none, &err), WM_BAD_INPUT);
  B.unsubscribe(newest);
  B.unsubscribe(oldest);
  B.unsubscribe(at);
  B.unsubscribe(again);
  B.unsubscribe(since);
  free_sink(sink);
  free_sink(rest);
  close_conn(conn);
}

static void exclusive_members_take_turns(void **state) {
  (void)state;
  void *conn = open_conn();
  wm_sink *a = new_sink(), *b = new_sink(), *c = new_sink();
  publish(conn, "t", 10, 10);
  void *one = sub_with(conn, "t", "g", NULL, 500, true),
       *two = sub_with(conn, "t", "g", NULL, 500, true);
  fetch_all(one, a, 4);
  settle(one, a, 0, 1, WM_SETTLE_ACK, 0);
  for (int64_t until = wm_now_ms() + 1500; wm_now_ms() < until;) {
    bool lost[3];
    OK(B.touch(one, a->msgs + 1, 3, lost, &err));
    assert_silent(two, b, 100);
  }
  /* One falls silent: two gets all that is not acked, in order. */
  fetch_all(two, b, 9);
  assert_string_equal(b->msgs[0]->uuid.data, "m1");
  assert_string_equal(b->msgs[8]->uuid.data, "m9");
  OK(B.fetch(one, 10, 1 << 20, 50, a, &err));
  assert_int_equal(a->n, 4);
  assert_true(a->lost > 0);
  /* Who leaves makes way at once. */
  settle(two, b, 0, 9, WM_SETTLE_RELEASE, 1);
  B.unsubscribe(two);
  int64_t since = wm_now_ms();
  fetch_all(one, c, 9);
  assert_true(wm_now_ms() - since < 1000);
  B.unsubscribe(one);
  free_sink(a);
  free_sink(b);
  free_sink(c);
  close_conn(conn);
}

static void a_lasting_consumer_name_reads_its_history_first(void **state) {
  (void)state;
  void *conn = open_as(NULL, NULL, "", "consumer", "worker-1");
  wm_sink *a = new_sink(), *b = new_sink();
  publish(conn, "t", 6, 10);
  wm_redis_sub *dead = sub_to(conn, "t", 60000);
  fetch_all(dead, a, 4);
  settle(dead, a, 0, 1, WM_SETTLE_ACK, 0);
  wm_redis_link_down(dead->reader);
  wm_redis_link_down(dead->settler);
  void *sub = sub_to(conn, "t", 60000);
  int64_t since = wm_now_ms();
  fetch_all(sub, b, 5);
  assert_true(wm_now_ms() - since < 1000);
  assert_string_equal(b->msgs[0]->uuid.data, "m1");
  assert_int_equal(b->msgs[0]->first_attempt, 2);
  assert_string_equal(b->msgs[4]->uuid.data, "m5");
  assert_int_equal(b->msgs[4]->first_attempt, 1);
  settle(sub, b, 0, 5, WM_SETTLE_ACK, 0);
  B.unsubscribe(sub);
  B.unsubscribe(dead);
  free_sink(a);
  free_sink(b);
  close_conn(conn);
}

static void a_stream_or_group_that_vanishes_is_made_again(void **state) {
  (void)state;
  void *conn = open_conn();
  wm_sink *sink = new_sink();
  void *sub = sub_to(conn, "t", 30000);
  publish(conn, "t", 2, 10);
  fetch_all(sub, sink, 2);
  freeReplyObject(command("DEL t"));
  bool lost[2];
  OK(B.touch(sub, sink->msgs, 2, lost, &err));
  assert_true(lost[0] && lost[1]);
  settle(sub, sink, 0, 2, WM_SETTLE_ACK, 0);
  settle(sub, sink, 0, 2, WM_SETTLE_RELEASE, 1);
  empty(sink);
  OK(B.fetch(sub, 10, 1 << 20, 50, sink, &err));
  publish(conn, "t", 3, 10);
  fetch_all(sub, sink, 3);
  settle(sub, sink, 0, 3, WM_SETTLE_ACK, 0);
  empty(sink);
  /* While a read waits. */
  B.interrupt(sub);
  OK(B.fetch(sub, 10, 1 << 20, 5000, sink, &err));
  freeReplyObject(command("DEL t"));
  OK(B.fetch(sub, 10, 1 << 20, 300, sink, &err));
  publish(conn, "t", 4, 10);
  fetch_all(sub, sink, 4);
  settle(sub, sink, 0, 4, WM_SETTLE_ACK, 0);
  empty(sink);
  freeReplyObject(command("XGROUP DESTROY t g"));
  fetch_all(sub, sink, 4); /* a group made anew begins at the oldest */
  B.unsubscribe(sub);
  free_sink(sink);
  close_conn(conn);
}

static void a_key_of_another_type_is_named(void **state) {
  (void)state;
  void *conn = open_conn(), *sub;
  wm_result results[3];
  freeReplyObject(command("SET t text"));
  memset(&err, 0, sizeof err);
  OK(try_publish(conn, "t", 3, 10, results));
  for (size_t i = 0; i < 3; i++)
    assert_int_equal(results[i], WM_RESULT_REFUSED);
  assert_non_null(strstr(err.text, "'t'"));
  wm_sub_spec spec = {.topic = "t", .group = "g", .takeover_ms = 1000, .member = "m"};
  assert_int_equal(B.subscribe(conn, &spec, &sub, &err), WM_REFUSED);
  assert_non_null(strstr(err.text, "'t'"));
  spec.group = NULL;
  assert_int_equal(B.subscribe(conn, &spec, &sub, &err), WM_REFUSED);
  close_conn(conn);
}

static void credentials_and_rights_count(void **state) {
  (void)state;
  void *sub;
  wm_sub_spec spec = {.topic = "allowed:t", .group = "g", .takeover_ms = 1000, .member = "m"};
  wm_result results[2];
  freeReplyObject(
      command("ACL SETUSER app on >secret ~allowed:* ~wm:* +@all -config -acl -client"));
  void *wrong = open_as("app", "guess", "", NULL, NULL);
  assert_int_equal(B.subscribe(wrong, &spec, &sub, &err), WM_DENIED);
  assert_int_equal(try_publish(wrong, "allowed:t", 2, 10, results), WM_DENIED);
  assert_int_equal(results[0], WM_RESULT_NOT_SENT);
  assert_null(strstr(err.text, "guess"));
  close_conn(wrong);

  void *app = open_as("app", "secret", "", NULL, NULL);
  wm_sink *sink = new_sink();
  publish(app, "allowed:t", 3, 10);
  sub = sub_with(app, "allowed:t", "g", NULL, 1000, false);
  fetch_all(sub, sink, 3);
  settle(sub, sink, 0, 1, WM_SETTLE_ACK, 0);
  B.interrupt(sub);
  OK(B.fetch(sub, 10, 1 << 20, 5000, sink, &err));
  int64_t since = wm_now_ms();
  B.unsubscribe(sub); /* CLIENT UNBLOCK is forbidden */
  assert_true(wm_now_ms() - since < 1000);
  assert_int_equal(number_of("XINFO CONSUMERS allowed:t g"), 1); /* the pool */
  assert_int_equal(try_publish(app, "other", 2, 10, results), WM_DENIED);
  spec.topic = "other";
  assert_int_equal(B.subscribe(app, &spec, &sub, &err), WM_DENIED);
  close_conn(app);

  freeReplyObject(command("CONFIG SET requirepass master"));
  void *none = open_conn();
  spec.topic = "t";
  assert_int_equal(B.subscribe(none, &spec, &sub, &err), WM_DENIED);
  assert_non_null(strstr(err.text, "password"));
  close_conn(none);
  void *password = open_as(NULL, "master", "", NULL, NULL);
  publish(password, "t", 1, 10);
  close_conn(password);
  void *bad = open_as(NULL, "slave", "", NULL, NULL);
  assert_int_equal(try_publish(bad, "t", 1, 10, results), WM_DENIED);
  close_conn(bad);
  freeReplyObject(command("CONFIG SET requirepass %s", ""));
  freeReplyObject(command("ACL DELUSER app"));
  free_sink(sink);
}

static void the_path_is_the_database(void **state) {
  (void)state;
  void *conn = open_as(NULL, NULL, "3", NULL, NULL), *sub;
  publish(conn, "t", 1, 10);
  assert_int_equal(number_of("EXISTS t"), 0);
  freeReplyObject(command("SELECT 3"));
  assert_int_equal(number_of("XLEN t"), 1);
  freeReplyObject(command("SELECT 0"));
  close_conn(conn);
  void *far = open_as(NULL, NULL, "9999", NULL, NULL);
  wm_sub_spec spec = {.topic = "t", .group = "g", .takeover_ms = 1000, .member = "m"};
  assert_int_equal(B.subscribe(far, &spec, &sub, &err), WM_REFUSED);
  assert_non_null(strstr(err.text, "9999"));
  close_conn(far);
}

static void out_of_memory_is_tried_again(void **state) {
  (void)state;
  void *conn = open_conn();
  wm_result results[2];
  publish(conn, "t", 1, 10);
  freeReplyObject(command("CONFIG SET maxmemory 1"));
  int rc = try_publish(conn, "t", 2, 10, results);
  freeReplyObject(command("CONFIG SET maxmemory 0"));
  assert_int_equal(rc, WM_UNREACHABLE);
  assert_int_equal(results[0], WM_RESULT_NOT_SENT);
  assert_non_null(strstr(err.text, "maxmemory"));
  publish(conn, "t", 2, 10);
  close_conn(conn);
}

static void foreign_entries_are_delivered_undecoded(void **state) {
  (void)state;
  void *conn = open_conn();
  wm_sink *sink = new_sink();
  freeReplyObject(command("XADD t 1-5 name value"));
  freeReplyObject(command("XADD t 2-0 payload p metadata garbage"));
  publish(conn, "t", 1, 10);
  void *sub = sub_to(conn, "t", 30000);
  fetch_all(sub, sink, 3);
  assert_non_null(sink->msgs[0]->undecodable);
  assert_string_equal(sink->msgs[0]->uuid.data, "1-5");
  assert_non_null(sink->msgs[1]->undecodable);
  assert_string_equal(sink->msgs[1]->payload.data, "p");
  assert_null(sink->msgs[2]->undecodable);
  B.unsubscribe(sub);
  free_sink(sink);
  close_conn(conn);
}

static void what_was_trimmed_while_pending_is_told(void **state) {
  (void)state;
  void *conn = open_conn();
  wm_sink *a = new_sink(), *b = new_sink();
  publish(conn, "t", 5, 10);
  void *silent = sub_to(conn, "t", 200), *heir = sub_to(conn, "t", 200);
  fetch_all(silent, a, 5);
  freeReplyObject(command("XTRIM t MAXLEN 2"));
  fetch_all(heir, b, 2);
  for (int64_t until = wm_now_ms() + WAIT_MS; b->gone < 3 && wm_now_ms() < until;)
    OK(B.fetch(heir, 10, 1 << 20, 50, b, &err));
  assert_int_equal(b->gone, 3);
  B.unsubscribe(silent);
  B.unsubscribe(heir);
  free_sink(a);
  free_sink(b);
  close_conn(conn);
}

static void trimming_is_opt_in(void **state) {
  (void)state;
  void *conn = open_as(NULL, NULL, "", "trim", "acked");
  wm_sink *sink = new_sink();
  publish(conn, "t", 1000, 10);
  void *other = sub_with(conn, "t", "slow", NULL, 30000, false);
  void *sub = sub_to(conn, "t", 30000);
  fetch_all(sub, sink, 1000);
  fetch_all(other, sink, 1500);
  settle(sub, sink, 0, 1000, WM_SETTLE_ACK, 0);
  assert_int_equal(number_of("XLEN t"), 1000); /* the other group has not acked */
  settle(other, sink, 1000, 500, WM_SETTLE_ACK, 0);
  long long left = number_of("XLEN t");
  assert_true(left >= 500 && left <= 700);
  B.unsubscribe(sub);
  B.unsubscribe(other);
  free_sink(sink);
  close_conn(conn);

  void *bounded = open_as(NULL, NULL, "", "maxlen", "100");
  publish(bounded, "b", 1000, 10);
  left = number_of("XLEN b");
  assert_true(left >= 100 && left < 300);
  close_conn(bounded);
}

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
  assert_non_null(strstr(all, "server: Redis "));
  assert_non_null(strstr(all, "durability: every confirmed message is on disk"));
  assert_non_null(strstr(all, "limit: maxmemory-policy noeviction"));
  assert_non_null(strstr(all, "latency: "));
  assert_non_null(strstr(all, "rights: user 'default' may run all"));
  close_conn(conn);
}

static void what_cannot_be_opened_is_refused_by_name(void **state) {
  (void)state;
  wm_host hosts[2] = {{"a", 1}, {"b", 2}};
  wm_url url = {
      .scheme = "rediss", .user = "", .password = "", .hosts = hosts, .n_hosts = 1, .path = ""};
  wm_option_value values[16] = {{0}};
  void *conn;
  assert_int_equal(B.open(&url, values, &conn, &err), WM_UNSUPPORTED);
  assert_non_null(strstr(err.text, "rediss"));
  url.scheme = "redis";
  url.n_hosts = 2;
  assert_int_equal(B.open(&url, values, &conn, &err), WM_UNSUPPORTED);
  url.n_hosts = 1;
  static const char *const paths[] = {"x", "-1", "1x", " 1", "99999999999999999999"};
  for (size_t i = 0; i < sizeof paths / sizeof *paths; i++) {
    url.path = paths[i];
    assert_int_equal(B.open(&url, values, &conn, &err), WM_BAD_INPUT);
  }
  url.path = "";
  OK(B.open(&url, values, &conn, &err));
  assert_int_equal(B.check(conn, "", NULL, NULL, &err), WM_BAD_INPUT);
  assert_int_equal(B.check(conn, "a:b {c} \xff", "g", NULL, &err), WM_OK);
  B.close(conn);
}

/* ---- all threads at once ---------------------------------------------------------------------- */

typedef struct crowd {
  void *sub, *conn;
  pthread_mutex_t lock; /* guards the rest */
  wm_sink *held;        /* fetched, not settled */
  size_t settled, wanted;
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
    if (B.fetch(c->sub, 300, 4 << 20, 200, sink, &e) != WM_OK) poll(NULL, 0, 10);
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
    pthread_mutex_lock(&c->lock);
    size_t n = c->held->n < 100 ? c->held->n : 100;
    for (size_t i = 0; i < n; i++)
      ops[i] = (wm_settle_op){.kind = WM_SETTLE_ACK, .msg = c->held->msgs[i]};
    pthread_mutex_unlock(&c->lock);
    if (!n) {
      poll(NULL, 0, 1);
      continue;
    }
    wm_message *msgs[100];
    for (size_t i = 0; i < n; i++)
      msgs[i] = ops[i].msg;
    if (B.touch(c->sub, msgs, n, lost, &e) != WM_OK || B.settle(c->sub, ops, n, &e) != WM_OK) {
      poll(NULL, 0, 10);
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
  for (size_t i = 0; i < c->wanted / 100; i++)
    publish(c->conn, "t", 100, 200);
  return NULL;
}

static void fetching_settling_and_publishing_go_on_at_once(void **state) {
  (void)state;
  crowd c = {.conn = open_conn(), .held = new_sink(), .wanted = 10000};
  pthread_mutex_init(&c.lock, NULL);
  c.sub = sub_to(c.conn, "t", 1000);
  pthread_t threads[3];
  pthread_create(&threads[0], NULL, fetcher, &c);
  pthread_create(&threads[1], NULL, settler, &c);
  pthread_create(&threads[2], NULL, publisher, &c);
  for (int64_t until = wm_now_ms() + 6 * WAIT_MS; !is_done(&c); pause_a_little()) {
    B.interrupt(c.sub);
    if (wm_now_ms() > until) fail_msg("stuck");
  }
  for (int i = 0; i < 3; i++)
    pthread_join(threads[i], NULL);
  assert_int_equal(c.settled, c.wanted);
  assert_int_equal(pending("t"), 0);
  B.unsubscribe(c.sub);
  free_sink(c.held);
  close_conn(c.conn);
  pthread_mutex_destroy(&c.lock);
}

/* ---- main ------------------------------------------------------------------------------------- */

static int setup(void **state) {
  (void)state;
  strcpy(dir, "/tmp/wm-redis-XXXXXX");
  if (!mkdtemp(dir)) return -1;
  port = free_port();
  if (start_server()) return 0;
  server = -1;
  const char *required = getenv("WM_TEST_REQUIRE");
  bool must = required && strstr(required, "redis");
  fprintf(stderr, "%s: redis-server was not found or did not start\n", must ? "FAILED" : "SKIPPED");
  return must ? -1 : 0;
}

static int remove_one(const char *path, const struct stat *st, int kind, struct FTW *at) {
  (void)st;
  (void)kind;
  (void)at;
  return remove(path);
}

static int teardown(void **state) {
  (void)state;
  if (server > 0) kill_server();
  if (admin) redisFree(admin);
  return nftw(dir, remove_one, 8, FTW_DEPTH | FTW_PHYS);
}

int main(void) {
#define TEST(f)                                                                                    \
  {                                                                                                \
#f, run, NULL, NULL, &(body) { f }                                                             \
  }
  const struct CMUnitTest tests[] = {
      TEST(stored_messages_come_in_order_and_acks_end_them),
      TEST(fetch_keeps_to_max_and_about_bytes),
      TEST(a_killed_member_is_taken_over),
      TEST(released_messages_come_at_once_with_their_count),
      TEST(a_note_survives_the_death_of_its_member_and_the_thief_is_seen),
      TEST(touching_keeps_and_never_steals_back),
      TEST(an_interrupted_read_is_taken_up_by_the_next_fetch),
      TEST(what_the_core_never_saw_is_given_back),
      TEST(a_reply_that_is_lost_on_the_way_is_recovered),
      TEST(a_server_that_is_killed_and_started_again_loses_nothing),
      TEST(a_server_that_does_not_answer_leaves_it_unknown),
      TEST(large_batches_do_not_lock_up),
      TEST(without_a_group_all_from_now_on_comes),
      TEST(a_new_group_starts_where_it_is_told),
      TEST(exclusive_members_take_turns),
      TEST(a_lasting_consumer_name_reads_its_history_first),
      TEST(a_stream_or_group_that_vanishes_is_made_again),
      TEST(a_key_of_another_type_is_named),
      TEST(credentials_and_rights_count),
      TEST(the_path_is_the_database),
      TEST(out_of_memory_is_tried_again),
      TEST(foreign_entries_are_delivered_undecoded),
      TEST(what_was_trimmed_while_pending_is_told),
      TEST(trimming_is_opt_in),
      TEST(probing_tells_what_counts),
      TEST(what_cannot_be_opened_is_refused_by_name),
      TEST(fetching_settling_and_publishing_go_on_at_once),
  };
  return cmocka_run_group_tests(tests, setup, teardown);
}
