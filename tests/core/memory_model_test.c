/*
 * memory_model_test.c - the memory broker under random operations, beside a model that is an array: whatever
 * members do, a fetch brings the oldest messages that their group has neither acked nor given to a member, and
 * what some group has not acked is kept, nothing else.
 */
#define wm_sink_put test_sink_put
#define wm_sink_gone test_sink_gone
#include "backends/memory/fetch.c"

#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

extern const wm_backend wm_backend_memory;
#define B wm_backend_memory

enum { SEEDS = 40, STEPS = 600, BURST = 200, GROUPS = 3, MEMBERS = 2, NEW = 0, ACKED = -1 };
enum { MESSAGES = STEPS * BURST };

struct wm_sink {
  wm_message *msgs[BURST];
  size_t n;
};

void test_sink_put(wm_sink *sink, wm_message *msg) { sink->msgs[sink->n++] = msg; }

void test_sink_gone(wm_sink *sink, size_t n, const char *why) {
  (void)sink;
  fail_msg("%zu are gone: %s", n, why);
}

typedef struct held {
  wm_message *msgs[MESSAGES];
  size_t n;
} held;

static struct {
  unsigned seed;
  void *conn, *subs[GROUPS][MEMBERS];
  held *held[GROUPS][MEMBERS];
  signed char state[GROUPS][MESSAGES]; /* NEW, ACKED, or the member that has it, from 1 */
  unsigned attempts[GROUPS][MESSAGES];
  size_t end;
} m;

static unsigned below(unsigned n) { return (unsigned)rand_r(&m.seed) % n; }

static void *subscribe(unsigned g) {
  const char name[] = {(char)('a' + g), 0};
  wm_sub_spec spec = {.topic = "t", .group = name, .member = "m"};
  void *sub = NULL;
  assert_int_equal(B.subscribe(m.conn, &spec, &sub, NULL), WM_OK);
  return sub;
}

static void publish(void) {
  wm_message *msg;
  wm_outgoing out[BURST];
  wm_result results[BURST];
  size_t n = 1 + below(BURST);
  assert_int_equal(wm_message_make(&msg, NULL, (wm_slice){"x", 1}, NULL, 0, NULL), WM_OK);
  for (size_t i = 0; i < n; i++)
    out[i] = (wm_outgoing){.topic = "t", .msg = msg};
  assert_int_equal(B.publish(m.conn, out, n, 0, results, NULL), WM_OK);
  wm_message_release(msg);
  m.end += n;
}

static void fetch(unsigned g, unsigned i) {
  wm_sink sink = {.n = 0};
  held *h = m.held[g][i];
  size_t max = 1 + below(BURST), at = 0;
  assert_int_equal(B.fetch(m.subs[g][i], max, SIZE_MAX, 0, &sink, NULL), WM_OK);
  for (size_t k = 0; k < sink.n; k++, at++) {
    while (at < m.end && m.state[g][at] != NEW)
      at++;
    assert_int_equal(sink.msgs[k]->token[0], at);
    assert_int_equal(sink.msgs[k]->first_attempt, m.attempts[g][at] + 1);
    m.state[g][at] = (signed char)(i + 1);
    h->msgs[h->n++] = sink.msgs[k];
  }
  while (sink.n < max && at < m.end)
    assert_int_not_equal(m.state[g][at++], NEW); /* fewer than asked for: there were no more */
}

/* Some of what it holds, in any order. */
static void settle(unsigned g, unsigned i) {
  wm_settle_op ops[BURST];
  held *h = m.held[g][i];
  size_t n = 0;
  for (; n < BURST && h->n && below(20); n++) {
    size_t k = below((unsigned)h->n);
    ops[n] = (wm_settle_op){.kind = below(5) ? WM_SETTLE_ACK : WM_SETTLE_RELEASE,
                            .attempt = below(4),
                            .msg = h->msgs[k]};
    h->msgs[k] = h->msgs[--h->n];
    size_t at = ops[n].msg->token[0];
    bool acks = ops[n].kind == WM_SETTLE_ACK;
    m.state[g][at] = acks ? ACKED : NEW;
    if (!acks) m.attempts[g][at] = ops[n].attempt;
  }
  assert_int_equal(B.settle(m.subs[g][i], ops, n, NULL), WM_OK);
  for (size_t k = 0; k < n; k++)
    wm_message_release(ops[k].msg);
}

static void leave(unsigned g, unsigned i) {
  held *h = m.held[g][i];
  for (; h->n; wm_message_release(h->msgs[--h->n]))
    m.state[g][h->msgs[h->n - 1]->token[0]] = NEW;
  B.unsubscribe(m.subs[g][i]);
}

static void take_kept(void *arg, const char *name, const char *text, bool warning) {
  (void)warning;
  if (strcmp(name, "kept") == 0) *(size_t *)arg = (size_t)atoll(text);
}

static void check_kept(void) {
  size_t wanted = 0, kept = 0;
  for (size_t at = 0; at < m.end; at++) {
    bool all_acked = true;
    for (unsigned g = 0; g < GROUPS; g++)
      all_acked &= m.state[g][at] == ACKED;
    wanted += !all_acked;
  }
  assert_int_equal(B.probe(m.conn, take_kept, &kept, NULL), WM_OK);
  assert_int_equal(kept, wanted);
}

static void run_seed(unsigned seed) {
  wm_url url = {.scheme = "memory", .user = "", .password = "", .path = ""};
  wm_option_value values[2] = {{.text = "acked"}, {.number = 0}};
  m.seed = seed;
  m.end = 0;
  memset(m.state, 0, sizeof m.state);
  memset(m.attempts, 0, sizeof m.attempts);
  assert_int_equal(B.open(&url, values, &m.conn, NULL), WM_OK);
  for (unsigned k = 0; k < GROUPS * MEMBERS; k++)
    m.subs[k / MEMBERS][k % MEMBERS] = subscribe(k / MEMBERS);
  /* One member may sleep for long: holes grow behind what it holds. */
  unsigned sleeper = below(2 * GROUPS * MEMBERS);
  for (int step = 0; step < STEPS; step++) {
    unsigned k = below(GROUPS * MEMBERS), g = k / MEMBERS, i = k % MEMBERS, what = below(10);
    if (what == 0) publish();
    if (what >= 1 && what < 5) fetch(g, i);
    if (what >= 5 && (k != sleeper || !below(50))) settle(g, i);
    if (what == 9 && !below(20)) {
      leave(g, i);
      m.subs[g][i] = subscribe(g);
    }
    if (step % 50 == 0) check_kept();
  }
  check_kept();
  for (unsigned k = 0; k < GROUPS * MEMBERS; k++)
    leave(k / MEMBERS, k % MEMBERS);
  B.close(m.conn);
}

static void a_fetch_brings_the_oldest_that_are_free(void **state) {
  (void)state;
  for (unsigned k = 0; k < GROUPS * MEMBERS; k++)
    m.held[k / MEMBERS][k % MEMBERS] = calloc(1, sizeof(held));
  for (unsigned seed = 1; seed <= SEEDS; seed++) {
    if (getenv("WM_SEED")) seed = (unsigned)atoi(getenv("WM_SEED"));
    print_message("seed %u\n", seed);
    run_seed(seed);
    if (getenv("WM_SEED")) break;
  }
  for (unsigned k = 0; k < GROUPS * MEMBERS; k++)
    free(m.held[k / MEMBERS][k % MEMBERS]);
}

int main(void) {
  const struct CMUnitTest tests[] = {cmocka_unit_test(a_fetch_brings_the_oldest_that_are_free)};
  return cmocka_run_group_tests(tests, NULL, NULL);
}
