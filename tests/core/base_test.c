/*
 * base_test.c - errors, log, uuids, clock, random bits, the table of brokers.
 */
#include <errno.h>
#include <poll.h>
#include <pthread.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmocka.h>

#include "backend.h"
#include "clock.h"
#include "error.h"
#include "log.h"

static wm_error err;

/* ---- errors -------------------------------------------------------------------------------- */

static void every_code_has_a_name(void **state) {
  (void)state;
  assert_string_equal(wm_code_name(WM_OK), "OK");
  assert_string_equal(wm_code_name(WM_TIMEOUT), "TIMEOUT");
  assert_string_equal(wm_code_name(WM_NOT_SENT), "NOT_SENT");
  assert_string_equal(wm_code_name(WM_UNREACHABLE), "UNREACHABLE");
  for (int code = WM_UNREACHABLE; code <= 0; code++)
    assert_string_not_equal(wm_code_name(code), "ERROR");
  assert_string_equal(wm_code_name(1), "ERROR");
  assert_string_equal(wm_code_name(WM_UNREACHABLE - 1), "ERROR");
  assert_string_equal(wm_code_name(INT32_MIN), "ERROR");
}

static void an_error_keeps_its_code_under_a_prefix(void **state) {
  (void)state;
  assert_int_equal(wm_fail_with(&err, WM_DENIED, "user '%s'", "ann"), WM_DENIED);
  assert_int_equal(err.code, WM_DENIED);
  assert_string_equal(err.text, "user 'ann'");
  wm_error_prefix(&err, "%s", "redis://h");
  assert_string_equal(err.text, "redis://h: user 'ann'");
  assert_int_equal(err.code, WM_DENIED);
  assert_int_equal(wm_fail_with(&err, WM_TIMEOUT, "again: %s", err.text), WM_TIMEOUT);
  assert_string_equal(err.text, "again: redis://h: user 'ann'");
  assert_int_equal(wm_fail_with(NULL, WM_DENIED, "%d", 1), WM_DENIED);
  wm_error_prefix(NULL, "%d", 1);
}

static void an_error_is_one_line_that_fits(void **state) {
  (void)state;
  wm_fail_with(&err, WM_REFUSED, "a\nb\tc\x7f");
  assert_string_equal(err.text, "a b c ");
  char text[2 * WM_ERROR_MAX + 1];
  for (size_t i = 0; i < sizeof text - 1; i++)
    text[i] = "\xe2\x82\xac"[i % 3];
  text[sizeof text - 1] = 0;
  wm_fail_with(&err, WM_REFUSED, "%s", text);
  size_t len = strlen(err.text);
  assert_true(len > WM_ERROR_MAX - 8 && len < WM_ERROR_MAX);
  assert_string_equal(err.text + len - 3, "...");
  assert_int_equal((len - 3) % 3, 0); /* whole characters only */
  wm_error_prefix(&err, "prefix");
  assert_memory_equal(err.text, "prefix: \xe2\x82\xac", 11);
  assert_string_equal(err.text + strlen(err.text) - 3, "...");
}

static void cutting_tears_no_character(void **state) {
  (void)state;
  assert_int_equal(wm_cut_utf8("abc", 2), 2);
  assert_int_equal(wm_cut_utf8("a\xc3\xb6", 2), 1);
  assert_int_equal(wm_cut_utf8("a\xc3\xb6z", 3), 3);
  assert_int_equal(wm_cut_utf8("\xf0\x9f\x98\x80z", 3), 0);
  assert_int_equal(wm_cut_utf8("\x80\x80\x80\x80\x80\x80", 5), 5); /* no UTF-8 */
}

/* ---- log ----------------------------------------------------------------------------------- */

typedef struct lines {
  int n;
  wm_log_level level;
  char text[4096];
} lines;

static void collect(void *arg, wm_log_level level, const char *text) {
  lines *l = arg;
  errno = EINTR; /* as a sink may leave it */
  l->n++;
  l->level = level;
  snprintf(l->text, sizeof l->text, "%s", text);
}

static void the_sink_gets_what_is_wanted(void **state) {
  (void)state;
  lines l = {0};
  wm_log_set(collect, &l, WM_LOG_WARN);
  assert_false(wm_log_wanted(WM_LOG_INFO));
  assert_true(wm_log_wanted(WM_LOG_WARN));
  wm_log(WM_LOG_INFO, "not this");
  assert_int_equal(l.n, 0);
  errno = EBADF;
  wm_log(WM_LOG_ERROR, "%s\n%d", "one line", 7);
  assert_int_equal(errno, EBADF);
  assert_int_equal(l.n, 1);
  assert_int_equal(l.level, WM_LOG_ERROR);
  assert_string_equal(l.text, "one line 7");
  char text[3000];
  memset(text, 'x', sizeof text - 1);
  text[sizeof text - 1] = 0;
  wm_log(WM_LOG_WARN, "%s", text);
  assert_string_equal(l.text, text);
  wm_log_set(NULL, NULL, WM_LOG_INFO);
  assert_true(wm_log_wanted(WM_LOG_INFO));
  assert_false(wm_log_wanted(WM_LOG_DEBUG));
}

enum { LOGGERS = 4, LOG_LINES = 200, LONG_LINE = 2000 };

static void *log_many(void *arg) {
  char text[LONG_LINE + 1];
  memset(text, 'a' + *(int *)arg, LONG_LINE);
  text[LONG_LINE] = 0;
  for (int i = 0; i < LOG_LINES; i++)
    wm_log(WM_LOG_WARN, "%.*s", i % 2 ? LONG_LINE : LONG_LINE / 2 - 1 - i, text);
  return NULL;
}

/* What four threads log at once, where stderr is this file. */
static void log_to(FILE *f) {
  int saved = dup(STDERR_FILENO), names[LOGGERS];
  pthread_t threads[LOGGERS];
  assert_true(saved >= 0 && dup2(fileno(f), STDERR_FILENO) >= 0);
  for (int i = 0; i < LOGGERS; i++) {
    names[i] = i;
    assert_int_equal(pthread_create(&threads[i], NULL, log_many, &names[i]), 0);
  }
  for (int i = 0; i < LOGGERS; i++)
    pthread_join(threads[i], NULL);
  dup2(saved, STDERR_FILENO);
  close(saved);
}

static void lines_of_several_threads_do_not_mix(void **state) {
  (void)state;
  static const char prefix[] = "libwm warn: ";
  FILE *f = tmpfile();
  assert_non_null(f);
  log_to(f);
  rewind(f);
  static char line[2 * LONG_LINE];
  int n = 0;
  for (; fgets(line, sizeof line, f); n++) {
    assert_memory_equal(line, prefix, sizeof prefix - 1);
    const char *text = line + sizeof prefix - 1, set[] = {*text, 0};
    assert_string_equal(text + strspn(text, set), "\n");
  }
  assert_int_equal(n, LOGGERS * LOG_LINES);
  fclose(f);
}

/* ---- uuids, random bits ---------------------------------------------------------------------- */

static void a_uuid_has_its_shape(void **state) {
  (void)state;
  unsigned variants = 0;
  for (int i = 0; i < 1000; i++) {
    char uuid[WM_UUID_SIZE];
    memset(uuid, 'x', sizeof uuid);
    wm_uuid(uuid);
    assert_int_equal(strlen(uuid), WM_UUID_SIZE - 1);
    for (int k = 0; k < WM_UUID_SIZE - 1; k++)
      if (k == 8 || k == 13 || k == 18 || k == 23)
        assert_int_equal(uuid[k], '-');
      else
        assert_non_null(strchr("0123456789abcdef", uuid[k]));
    assert_int_equal(uuid[14], '4');
    static const char variant[] = "89ab";
    const char *at = strchr(variant, uuid[19]);
    assert_non_null(at);
    variants |= 1u << (at - variant);
  }
  assert_int_equal(variants, 15);
}

enum { UUID_THREADS = 4, UUIDS = 20000 };

static char uuids[UUID_THREADS * UUIDS][WM_UUID_SIZE];

static void *make_uuids(void *arg) {
  char(*out)[WM_UUID_SIZE] = arg;
  for (int i = 0; i < UUIDS; i++)
    wm_uuid(out[i]);
  return NULL;
}

static int by_text(const void *a, const void *b) { return strcmp(a, b); }

static void uuids_of_all_threads_differ(void **state) {
  (void)state;
  pthread_t threads[UUID_THREADS];
  for (int i = 0; i < UUID_THREADS; i++)
    assert_int_equal(pthread_create(&threads[i], NULL, make_uuids, uuids[i * UUIDS]), 0);
  for (int i = 0; i < UUID_THREADS; i++)
    pthread_join(threads[i], NULL);
  qsort(uuids, UUID_THREADS * UUIDS, WM_UUID_SIZE, by_text);
  for (int i = 1; i < UUID_THREADS * UUIDS; i++)
    assert_string_not_equal(uuids[i - 1], uuids[i]);
}

static void random_bits_are_even(void **state) {
  (void)state;
  enum { ROUNDS = 10000, TOLERANCE = 400 /* eight deviations */ };
  int ones[64] = {0};
  for (int i = 0; i < ROUNDS; i++) {
    uint64_t bits = wm_random();
    for (int k = 0; k < 64; k++)
      ones[k] += bits >> k & 1;
  }
  for (int k = 0; k < 64; k++)
    assert_in_range(ones[k], ROUNDS / 2 - TOLERANCE, ROUNDS / 2 + TOLERANCE);
}

/* ---- clock --------------------------------------------------------------------------------- */

static void backoff_doubles_to_its_most_and_jitter_lengthens(void **state) {
  (void)state;
  static const int least[] = {50, 100, 200, 400, 800, 1600, 3200, 5000, 5000};
  for (int round = 0; round < 200; round++)
    for (unsigned i = 0; i < sizeof least / sizeof *least; i++)
      assert_in_range(wm_backoff_ms(i), least[i], least[i] + least[i] / 4);
  assert_in_range(wm_backoff_ms(UINT32_MAX), 5000, 6250);
  int first = wm_backoff_ms(7), others = 0;
  for (int i = 0; i < 100; i++)
    others += wm_backoff_ms(7) != first;
  assert_true(others > 0);
}

static void clocks_go_forward(void **state) {
  (void)state;
  int64_t before = wm_now_ms();
  poll(NULL, 0, 20);
  assert_true(wm_now_ms() - before >= 19);
  assert_true(wm_epoch_ms() > (int64_t)1700000000 * 1000);
}

typedef struct meeting {
  pthread_mutex_t lock; /* guards `here` */
  pthread_cond_t cond;
  bool here;
} meeting;

static void *arrive(void *arg) {
  meeting *m = arg;
  pthread_mutex_lock(&m->lock);
  m->here = true;
  pthread_cond_signal(&m->cond);
  pthread_mutex_unlock(&m->lock);
  return NULL;
}

static void waiting_ends_at_its_time_or_by_a_signal(void **state) {
  (void)state;
  meeting m = {.lock = PTHREAD_MUTEX_INITIALIZER};
  assert_int_equal(wm_cond_init(&m.cond), WM_OK);
  pthread_mutex_lock(&m.lock);
  int64_t until = wm_now_ms() + 30;
  while (wm_cond_wait_until(&m.cond, &m.lock, until))
    continue; /* woken for nothing */
  assert_true(wm_now_ms() >= until);
  assert_false(wm_cond_wait_until(&m.cond, &m.lock, -5)); /* over at once */
  assert_false(wm_cond_wait_until(&m.cond, &m.lock, INT64_MIN));
  static const int64_t untils[] = {INT64_MAX, INT64_MAX - 1};
  for (int i = 0; i < 2; i++) {
    pthread_t thread;
    m.here = false;
    assert_int_equal(pthread_create(&thread, NULL, arrive, &m), 0);
    while (!m.here)
      assert_true(wm_cond_wait_until(&m.cond, &m.lock, untils[i]));
    pthread_mutex_unlock(&m.lock);
    pthread_join(thread, NULL);
    pthread_mutex_lock(&m.lock);
  }
  pthread_mutex_unlock(&m.lock);
  pthread_cond_destroy(&m.cond);
}

/* ---- brokers ------------------------------------------------------------------------------- */

static void every_known_broker_is_listed(void **state) {
  (void)state;
  static const char *const names[] = {"memory", "sqlite",   "redis", "nats",   "kafka",
                                      "amqp",   "postgres", "sqs",   "google", "http"};
  wm_backend_info info;
  size_t n = 0;
  for (; wm_backend_list(n, &info); n++) {
    assert_true(n < sizeof names / sizeof *names);
    assert_string_equal(info.name, names[n]);
    assert_non_null(strstr(info.schemes, info.name));
    assert_non_null(info.library);
    const wm_backend_entry *entry = wm_backend_at(n);
    assert_true((info.missing == NULL) == (entry->backend != NULL));
    if (!entry->backend) continue;
    assert_string_equal(entry->backend->name, info.name);
    assert_string_equal(entry->backend->schemes, info.schemes);
    wm_backend_verify(entry->backend);
  }
  assert_int_equal(n, sizeof names / sizeof *names);
  assert_null(wm_backend_at(n));
}

static void a_broker_is_found_by_each_of_its_schemes(void **state) {
  (void)state;
  wm_backend_info info;
  for (size_t i = 0; wm_backend_list(i, &info); i++) {
    char schemes[64], *save = NULL;
    snprintf(schemes, sizeof schemes, "%s", info.schemes);
    for (char *s = strtok_r(schemes, " ", &save); s; s = strtok_r(NULL, " ", &save)) {
      err = (wm_error){0};
      const wm_backend *b = wm_backend_find(s, &err);
      assert_ptr_equal(b, wm_backend_at(i)->backend);
      if (b) continue;
      assert_int_equal(err.code, WM_UNSUPPORTED);
      assert_non_null(strstr(err.text, info.missing));
    }
  }
  assert_null(wm_backend_find("kafka", NULL));
}

static void what_is_not_built_says_so(void **state) {
  (void)state;
  assert_null(wm_backend_find("kafka", &err));
  assert_string_equal(err.text, "this build has no Kafka support (it is not written yet); 'wmlua "
                                "version' lists what it has");
}

static void unknown_schemes_get_the_nearest_or_all(void **state) {
  (void)state;
  assert_null(wm_backend_find("kafak", &err));
  assert_int_equal(err.code, WM_BAD_INPUT);
  assert_string_equal(err.text, "'kafak' is no broker's URL scheme; did you mean 'kafka'?");
  assert_null(wm_backend_find("sqlite3", &err));
  assert_non_null(strstr(err.text, "did you mean 'sqlite'?"));
  static const char *const odd[] = {"nosuch", "", "localhost", "redis rediss", " ", "redi s"};
  for (size_t i = 0; i < sizeof odd / sizeof *odd; i++) {
    err = (wm_error){0};
    assert_null(wm_backend_find(odd[i], &err));
    assert_int_equal(err.code, WM_BAD_INPUT);
    assert_non_null(strstr(err.text, odd[i]));
  }
  assert_null(wm_backend_find("nosuch", &err));
  assert_non_null(strstr(err.text, "this build has "));
}

static const char *no_library(void) { return ""; }

static int signal_of(const wm_backend *b) {
  pid_t pid = fork();
  assert_true(pid >= 0);
  if (pid == 0) {
    setrlimit(RLIMIT_CORE, &(struct rlimit){0, 0});
    signal(SIGABRT, SIG_DFL);
    if (!freopen("/dev/null", "w", stderr)) _exit(1);
    wm_backend_verify(b);
    _exit(0);
  }
  int status;
  assert_int_equal(waitpid(pid, &status, 0), pid);
  return WIFSIGNALED(status) ? WTERMSIG(status) : 0;
}

static int open_none(const wm_url *url, const wm_option_value *values, void **conn, wm_error *e) {
  (void)url, (void)values, (void)conn;
  return wm_fail_with(e, WM_UNSUPPORTED, "none");
}
static void close_none(void *p) { (void)p; }
static int publish_none(void *conn, const wm_outgoing *out, size_t n, int ms, wm_result *results,
                        wm_error *e) {
  (void)conn, (void)out, (void)n, (void)ms, (void)results;
  return wm_fail_with(e, WM_UNSUPPORTED, "none");
}
static int subscribe_none(void *conn, const wm_sub_spec *spec, void **sub, wm_error *e) {
  (void)conn, (void)spec, (void)sub;
  return wm_fail_with(e, WM_UNSUPPORTED, "none");
}
static int fetch_none(void *sub, size_t max, size_t bytes, int ms, wm_sink *sink, wm_error *e) {
  (void)sub, (void)max, (void)bytes, (void)ms, (void)sink;
  return wm_fail_with(e, WM_UNSUPPORTED, "none");
}
static int settle_none(void *sub, wm_settle_op *ops, size_t n, wm_error *e) {
  (void)sub, (void)ops, (void)n;
  return wm_fail_with(e, WM_UNSUPPORTED, "none");
}

static void a_broken_backend_is_a_defect(void **state) {
  (void)state;
  const wm_backend whole = {.name = "x",
                            .schemes = "x",
                            .library = no_library,
                            .open = open_none,
                            .close = close_none,
                            .publish = publish_none,
                            .subscribe = subscribe_none,
                            .fetch = fetch_none,
                            .settle = settle_none,
                            .interrupt = close_none,
                            .unsubscribe = close_none};
  assert_int_equal(signal_of(&whole), 0);
  wm_backend broken = whole;
  broken.settle = NULL;
  assert_int_equal(signal_of(&broken), SIGABRT);
  broken = whole;
  broken.name = NULL;
  assert_int_equal(signal_of(&broken), SIGABRT);
  const wm_option_def bad[] = {{"x", WM_OPT_COUNT, "many", 0, 0, NULL, "help"}, {0}};
  broken = whole;
  broken.options = bad;
  assert_int_equal(signal_of(&broken), SIGABRT);
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(every_code_has_a_name),
      cmocka_unit_test(an_error_keeps_its_code_under_a_prefix),
      cmocka_unit_test(an_error_is_one_line_that_fits),
      cmocka_unit_test(cutting_tears_no_character),
      cmocka_unit_test(the_sink_gets_what_is_wanted),
      cmocka_unit_test(lines_of_several_threads_do_not_mix),
      cmocka_unit_test(a_uuid_has_its_shape),
      cmocka_unit_test(uuids_of_all_threads_differ),
      cmocka_unit_test(random_bits_are_even),
      cmocka_unit_test(backoff_doubles_to_its_most_and_jitter_lengthens),
      cmocka_unit_test(clocks_go_forward),
      cmocka_unit_test(waiting_ends_at_its_time_or_by_a_signal),
      cmocka_unit_test(every_known_broker_is_listed),
      cmocka_unit_test(a_broker_is_found_by_each_of_its_schemes),
      cmocka_unit_test(what_is_not_built_says_so),
      cmocka_unit_test(unknown_schemes_get_the_nearest_or_all),
      cmocka_unit_test(a_broken_backend_is_a_defect),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
