/*
 * memory_backend_test.c - the backend contract against the memory broker, through its vtable.
 *
 * The functions of the sink are this test's own: fetch.c is compiled into it with other names for them.
 */
#define wm_sink_put test_sink_put
#define wm_sink_gone test_sink_gone
#define wm_memory_copy test_copy
#include "backends/memory/fetch.c"
#undef wm_memory_copy
wm_message *wm_memory_copy(const wm_message *msg);

#include <poll.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

extern const wm_backend wm_backend_memory;
#define B wm_backend_memory

enum { WAIT_MS = 10000, MAX_MSGS = 20000, PLENTY = 1 << 30 };

struct wm_sink {
  wm_message *msgs[MAX_MSGS];
  size_t n, gone;
};

void test_sink_put(wm_sink *sink, wm_message *msg) {
  assert_true(sink->n < MAX_MSGS);
  sink->msgs[sink->n++] = msg;
}

void test_sink_gone(wm_sink *sink, size_t n, const char *why) {
  assert_non_null(strstr(why, "'retain'"));
  sink->gone += n;
}

static atomic_size_t copies = SIZE_MAX; /* for which there is memory */

wm_message *test_copy(const wm_message *msg) {
  return copies && copies-- ? wm_memory_copy(msg) : NULL;
}

/* ---- helpers ---------------------------------------------------------------------------------- */

static wm_error err;
static void *conn;
static wm_sink sink; /* of the main thread */

#define OK(call)                                                                                   \
  do {                                                                                             \
    int rc_ = (call);                                                                              \
    if (rc_ != WM_OK) fail_msg("%s: %s: %s", #call, wm_code_name(rc_), err.text);                  \
  } while (0)

static int try_open(const char *retain, int64_t capacity) {
  static wm_url url = {.scheme = "memory", .user = "", .password = "", .path = ""};
  wm_option_value values[2] = {{.text = retain}, {.number = capacity}};
  return B.open(&url, values, &conn, &err);
}

static void empty(void) {
  for (size_t i = 0; i < sink.n; i++)
    wm_message_release(sink.msgs[i]);
  sink.n = 0;
}

static int publish_within(const char *topic, size_t n, size_t size, int ms, wm_result *results) {
  static unsigned number;
  char *data = calloc(1, size + 1), uuid[16];
  wm_outgoing *out = calloc(n, sizeof *out);
  wm_pair pair = {{"key", 3}, {"value", 5}};
  for (size_t i = 0; i < n; i++) {
    wm_message *msg;
    snprintf(uuid, sizeof uuid, "m%u", number++);
    OK(wm_message_make(&msg, uuid, (wm_slice){data, size}, &pair, 1, &err));
    out[i] = (wm_outgoing){.topic = topic, .msg = msg};
  }
  int rc = B.publish(conn, out, n, ms, results, &err);
  for (size_t i = 0; i < n; i++)
    wm_message_release((wm_message *)out[i].msg);
  free(out);
  free(data);
  return rc;
}

static void publish(const char *topic, size_t n) {
  wm_result results[1000] = {WM_RESULT_UNKNOWN};
  for (size_t left = n, some; left; left -= some) {
    some = left < 1000 ? left : 1000;
    OK(publish_within(topic, some, 10, 0, results));
    for (size_t i = 0; i < some; i++)
      assert_int_equal(results[i], WM_STORED);
  }
}

static void *subscribe_as(const char *topic, const char *group, const char *from, bool exclusive) {
  wm_sub_spec spec = {.topic = topic,
                      .group = group,
                      .from = from,
                      .takeover_ms = 30000,
                      .exclusive = exclusive,
                      .member = "host-1-0000cafe"};
  void *sub = NULL;
  OK(B.subscribe(conn, &spec, &sub, &err));
  return sub;
}

static void *subscribe(const char *group) { return subscribe_as("t", group, NULL, false); }

/* What is there now, up to max. */
static size_t fetch(void *sub, size_t max) {
  size_t before = sink.n;
  OK(B.fetch(sub, max, PLENTY, 0, &sink, &err));
  return sink.n - before;
}

static void settle(void *sub, size_t from, size_t n, wm_settle_kind kind, unsigned attempt) {
  wm_settle_op ops[1000];
  for (size_t i = 0; i < n; i++)
    ops[i] = (wm_settle_op){.kind = kind, .attempt = attempt, .msg = sink.msgs[from + i]};
  OK(B.settle(sub, ops, n, &err));
}

static unsigned offset_of(const wm_message *msg) {
  unsigned offset;
  assert_int_equal(sscanf(wm_message_position(msg), "offset:%u", &offset), 1);
  return offset;
}

static void take_kept(void *arg, const char *name, const char *text, bool warning) {
  assert_false(warning);
  if (strcmp(name, "kept") == 0) *(size_t *)arg = (size_t)atoll(text);
}

static size_t kept(void) {
  size_t n = 0;
  OK(B.probe(conn, take_kept, &n, &err));
  return n;
}

/* ---- order, groups, settling ------------------------------------------------------------------ */

static void stored_messages_come_whole_and_in_order(void) {
  int64_t before = wm_epoch_ms();
  void *sub = subscribe("g");
  publish("t", 600);
  publish("other", 5);
  assert_int_equal(fetch(sub, 1000), 600);
  for (unsigned i = 0; i < 600; i++) {
    const wm_message *msg = sink.msgs[i];
    assert_int_equal(offset_of(msg), i);
    assert_int_equal(msg->uuid.data[0], 'm');
    assert_int_equal(msg->payload.len, 10);
    assert_string_equal(wm_message_metadata(msg, "key").data, "value");
    assert_int_equal(msg->first_attempt, 1);
    assert_false(msg->redelivered);
    assert_true(msg->time >= before && msg->time <= wm_epoch_ms());
  }
  assert_int_equal(fetch(sub, 1), 0);
  B.unsubscribe(sub);
}

static void fetch_keeps_to_max_and_to_bytes(void) {
  wm_result results[10];
  void *sub = subscribe("g");
  OK(publish_within("t", 10, 1000, 0, results));
  assert_int_equal(fetch(sub, 3), 3);
  size_t size = sink.msgs[0]->size - sizeof(wm_message);
  OK(B.fetch(sub, 10, 2 * size, 0, &sink, &err));
  assert_int_equal(sink.n, 5);
  OK(B.fetch(sub, 10, 1, 0, &sink, &err)); /* one, however large */
  assert_int_equal(sink.n, 6);
  settle(sub, 0, 6, WM_SETTLE_RELEASE, 0);
  OK(B.fetch(sub, 10, 2 * size, 0, &sink, &err)); /* nor do those that came back count less */
  assert_int_equal(sink.n, 8);
  B.unsubscribe(sub);
}

static void every_group_gets_all_and_its_members_share(void) {
  void *a = subscribe("a"), *b = subscribe("a"), *c = subscribe("c");
  publish("t", 10);
  assert_int_equal(fetch(a, 4) + fetch(b, 4) + fetch(a, 4), 10);
  for (unsigned i = 0; i < 10; i++)
    assert_int_equal(offset_of(sink.msgs[i]), i);
  assert_int_equal(fetch(c, 100), 10);
  assert_int_equal(offset_of(sink.msgs[10]), 0);
  assert_ptr_not_equal(sink.msgs[10], sink.msgs[0]);
  B.unsubscribe(a);
  B.unsubscribe(b);
  B.unsubscribe(c);
}

static void settling_again_changes_nothing(void) {
  void *a = subscribe("a"), *b = subscribe("b");
  publish("t", 2);
  fetch(a, 2);
  for (int i = 0; i < 3; i++)
    settle(a, 0, 1, WM_SETTLE_ACK, 0);
  settle(a, 0, 1, WM_SETTLE_RELEASE, 1);
  for (int i = 0; i < 3; i++)
    settle(a, 1, 1, WM_SETTLE_RELEASE, 1);
  settle(a, 1, 1, WM_SETTLE_ACK, 0);
  settle(a, 1, 1, WM_SETTLE_NOTE, 7);
  assert_int_equal(fetch(b, 10), 2);
  assert_int_equal(fetch(a, 10), 1);
  assert_int_equal(sink.msgs[4]->first_attempt, 2);
  B.unsubscribe(a);
  B.unsubscribe(b);
}

static void what_is_given_back_comes_first_at_its_place_with_its_count(void) {
  void *a = subscribe("g"), *b = subscribe("g");
  publish("t", 8);
  fetch(a, 6);
  wm_message *handed_out = wm_message_retain(sink.msgs[2]);
  wm_message *unsettled = wm_message_retain(sink.msgs[0]);
  settle(a, 4, 1, WM_SETTLE_RELEASE, 3);
  settle(a, 2, 1, WM_SETTLE_RELEASE, 0);
  settle(a, 3, 1, WM_SETTLE_ACK, 0);
  empty();
  assert_int_equal(fetch(b, 100), 4);
  static const unsigned offsets[] = {2, 4, 6, 7}, attempts[] = {1, 4, 1, 1};
  for (int i = 0; i < 4; i++) {
    assert_int_equal(offset_of(sink.msgs[i]), offsets[i]);
    assert_int_equal(sink.msgs[i]->first_attempt, attempts[i]);
    assert_int_equal(sink.msgs[i]->redelivered, attempts[i] > 1);
    assert_string_equal(wm_message_metadata(sink.msgs[i], "key").data, "value");
    assert_ptr_not_equal(sink.msgs[i], handed_out); /* that one is somebody's still */
  }
  assert_int_equal(wm_message_uuid(handed_out).len, sink.msgs[0]->uuid.len);
  assert_int_equal(handed_out->refs, 1); /* alone */
  wm_message_release(handed_out);
  B.unsubscribe(a); /* holds 0, 1 and 5 */
  assert_int_equal(fetch(b, 100), 3);
  assert_int_equal(offset_of(sink.msgs[4]), 0);
  assert_int_equal(offset_of(sink.msgs[6]), 5);
  assert_ptr_not_equal(sink.msgs[4], unsettled);
  wm_message_release(unsettled);
  B.unsubscribe(b);
  void *c = subscribe("g"); /* the group lives on without members */
  assert_int_equal(fetch(c, 100), 7);
  B.unsubscribe(c);
}

static void what_cannot_be_copied_stays_in_the_group(void) {
  void *a = subscribe("a"), *b = subscribe("b");
  publish("t", 5);
  copies = 2;
  assert_int_equal(B.fetch(a, 10, PLENTY, 0, &sink, &err), WM_NOMEM);
  copies = SIZE_MAX;
  assert_int_equal(sink.n, 2);
  assert_int_equal(fetch(a, 10), 3);
  for (unsigned i = 0; i < 5; i++) {
    assert_int_equal(offset_of(sink.msgs[i]), i);
    assert_int_equal(sink.msgs[i]->first_attempt, 1);
  }
  B.unsubscribe(a);
  B.unsubscribe(b);
}

static void exclusive_members_take_turns(void) {
  void *a = subscribe_as("t", "g", NULL, true), *b = subscribe_as("t", "g", NULL, true);
  publish("t", 4);
  assert_int_equal(fetch(b, 10), 0);
  assert_int_equal(fetch(a, 2), 2);
  settle(a, 1, 1, WM_SETTLE_RELEASE, 1);
  assert_int_equal(fetch(b, 10), 0);
  B.unsubscribe(a);
  empty();
  assert_int_equal(fetch(b, 10), 4);
  for (unsigned i = 0; i < 4; i++)
    assert_int_equal(offset_of(sink.msgs[i]), i);
  B.unsubscribe(b);
}

static void without_a_group_all_from_now_on_comes(void) {
  publish("t", 3);
  void *a = subscribe(NULL), *b = subscribe(""), *old = subscribe_as("t", NULL, "oldest", true);
  publish("t", 2);
  assert_int_equal(fetch(a, 10), 2);
  assert_int_equal(fetch(b, 10), 2);
  assert_int_equal(offset_of(sink.msgs[2]), 3);
  assert_int_equal(fetch(old, 10), 5);
  B.unsubscribe(a);
  B.unsubscribe(b);
  B.unsubscribe(old);
}

static void a_new_group_starts_where_it_is_told(void) {
  char from[32];
  publish("t", 5);
  struct {
    const char *from;
    size_t n;
  } starts[] = {{NULL, 5},        {"oldest", 5}, {"newest", 0}, {"offset:3", 2},
                {"offset:99", 0}, {"1.5", 5},    {from, 0}};
  snprintf(from, sizeof from, "%lld", (long long)wm_epoch_ms() / 1000 + 3600);
  for (size_t i = 0; i < sizeof starts / sizeof *starts; i++) {
    char group[2] = {(char)('a' + i), 0};
    void *sub = subscribe_as("t", group, starts[i].from, false);
    assert_int_equal(fetch(sub, 100), starts[i].n);
    B.unsubscribe(sub);
    sub = subscribe_as("t", group, "newest", false); /* not new any more */
    assert_int_equal(fetch(sub, 100), starts[i].n);
    B.unsubscribe(sub);
  }
  static const char *const wrong[] = {"latest", "offset:", "offset:-1", "offset:1x", "-5", "nan"};
  for (size_t i = 0; i < sizeof wrong / sizeof *wrong; i++) {
    wm_sub_spec spec = {.topic = "t", .group = "w", .from = wrong[i], .member = "m"};
    void *sub;
    assert_int_equal(B.subscribe(conn, &spec, &sub, &err), WM_BAD_INPUT);
    assert_non_null(strstr(err.text, wrong[i]));
  }
  wm_sub_spec spec = {.topic = "t", .group = "w", .tx = true, .member = "m"};
  void *sub;
  assert_int_equal(B.subscribe(conn, &spec, &sub, &err), WM_UNSUPPORTED);
}

/* ---- what is kept ----------------------------------------------------------------------------- */

static void what_every_group_has_acked_is_dropped(void) {
  void *fan_out = subscribe(NULL);
  publish("t", 1000);
  fetch(fan_out, 1000);
  settle(fan_out, 0, 1000, WM_SETTLE_ACK, 0);
  assert_int_equal(kept(), 1000); /* for the first group */
  void *a = subscribe_as("t", "a", "offset:100", false);
  assert_int_equal(kept(), 900);
  void *b = subscribe_as("t", "b", "newest", false);
  publish("t", 1);
  empty();
  assert_int_equal(fetch(a, 1000), 901);
  /* The first is held for long; it does not keep what is behind it. */
  settle(a, 1, 900, WM_SETTLE_ACK, 0);
  assert_int_equal(kept(), 2);
  B.unsubscribe(fan_out);
  assert_int_equal(kept(), 2);
  assert_int_equal(fetch(b, 1000), 1);
  settle(b, 901, 1, WM_SETTLE_ACK, 0);
  assert_int_equal(kept(), 1);
  void *late = subscribe("late");
  assert_int_equal(fetch(late, 10), 1);
  settle(a, 0, 1, WM_SETTLE_ACK, 0);
  settle(late, 902, 1, WM_SETTLE_ACK, 0);
  assert_int_equal(kept(), 0);
  B.unsubscribe(a);
  B.unsubscribe(b);
  B.unsubscribe(late);
}

static void open_again(const char *retain, int64_t capacity) {
  B.close(conn);
  OK(try_open(retain, capacity));
}

static void retain_keeps_what_is_acked(void) {
  static const char *const retains[] = {"all", "1h"};
  for (int i = 0; i < 2; i++) {
    open_again(retains[i], 0);
    publish("t", 10);
    void *a = subscribe("a");
    publish("t", 10);
    assert_int_equal(fetch(a, 20), 20);
    settle(a, 0, 20, WM_SETTLE_ACK, 0);
    void *b = subscribe("b");
    assert_int_equal(fetch(b, 100), 20);
    assert_int_equal(kept(), 20);
    B.unsubscribe(a);
    B.unsubscribe(b);
    empty();
  }
}

/* As if `retain` had passed. */
static void let_time_pass(void) {
  wm_memory_topic *t = wm_memory_topic_of(conn, "t");
  int64_t keep_ms = t->keep_ms;
  t->keep_ms = 0;
  assert_int_equal(kept(), 0);
  t->keep_ms = keep_ms;
}

static void what_is_older_than_retain_goes_and_is_told(void) {
  open_again("1h", 0);
  void *a = subscribe("a"), *b = subscribe("b");
  publish("t", 10);
  assert_int_equal(fetch(a, 6), 6);
  settle(a, 0, 2, WM_SETTLE_RELEASE, 1);
  settle(a, 2, 1, WM_SETTLE_ACK, 0);
  let_time_pass();
  publish("t", 1);
  settle(a, 3, 1, WM_SETTLE_RELEASE, 1); /* in hand it stayed whole; now it has nowhere to go */
  settle(a, 4, 1, WM_SETTLE_ACK, 0);
  assert_int_equal(fetch(a, 10), 1);
  assert_int_equal(offset_of(sink.msgs[6]), 10);
  assert_int_equal(sink.gone, 2 + 4 + 1);
  B.unsubscribe(a); /* holds one that is gone */
  a = subscribe("a");
  assert_int_equal(fetch(a, 10), 1);
  assert_int_equal(sink.gone, 2 + 4 + 1 + 1);
  assert_int_equal(fetch(b, 10), 1);
  assert_int_equal(sink.gone, 2 + 4 + 1 + 1 + 10);
  B.unsubscribe(a);
  B.unsubscribe(b);
}

static void a_full_topic_refuses_for_now_and_keeps_the_order(void) {
  wm_result results[8];
  open_again("acked", 4096);
  void *sub = subscribe("g");
  assert_int_equal(publish_within("t", 8, 1000, 20, results), WM_UNREACHABLE);
  assert_non_null(strstr(err.text, "'t' is full"));
  assert_non_null(strstr(err.text, "capacity"));
  size_t stored = fetch(sub, 10);
  assert_in_range(stored, 2, 3);
  for (size_t i = 0; i < 8; i++)
    assert_int_equal(results[i], i < stored ? WM_STORED : WM_RESULT_NOT_SENT);
  settle(sub, 0, stored, WM_SETTLE_ACK, 0);
  OK(publish_within("t", 1, 100000, 0, results)); /* larger than all, but alone */
  assert_int_equal(fetch(sub, 10), 1);
  B.unsubscribe(sub);
}

static void a_strip_needs_room_for_what_is_in_use_alone(void) {
  enum { LONG = 1000000, BEHIND = 1000 };
  wm_memory_strip strip = {.n = 0};
  for (uint64_t at = 0; at < LONG; at++) {
    wm_memory_item *item = wm_memory_strip_add(&strip, at);
    assert_int_equal(item->entry.attempt, 0);
    item->entry.attempt = (unsigned)at;
    if (at < BEHIND) continue;
    assert_int_equal(wm_memory_strip_at(&strip, at - BEHIND)->entry.attempt, at - BEHIND);
    wm_memory_strip_remove(&strip, at - BEHIND);
  }
  assert_true(strip.room * sizeof *strip.chunks < BEHIND);
  wm_memory_strip_free(&strip);
}

/* ---- threads ---------------------------------------------------------------------------------- */

static void *publish_ten(void *arg) {
  static wm_result results[10];
  (void)arg;
  return publish_within("t", 10, 1000, WAIT_MS, results) == WM_OK ? results : NULL;
}

static void publishing_goes_on_as_soon_as_there_is_room(void) {
  pthread_t thread;
  void *done;
  open_again("acked", 4096);
  void *sub = subscribe("g");
  pthread_create(&thread, NULL, publish_ten, NULL);
  for (size_t n = 0; n < 10;) {
    size_t before = sink.n;
    OK(B.fetch(sub, 10, PLENTY, WAIT_MS, &sink, &err)); /* woken though the batch is not all in */
    assert_true(sink.n > before);
    settle(sub, before, sink.n - before, WM_SETTLE_ACK, 0);
    n = sink.n;
  }
  pthread_join(thread, &done);
  assert_non_null(done);
  B.unsubscribe(sub);
}

typedef struct waiting {
  void *sub;
  wm_sink *sink;
  int64_t began, ended;
} waiting;

static void *wait_for_some(void *arg) {
  waiting *w = arg;
  wm_error e;
  w->began = wm_now_ms();
  if (B.fetch(w->sub, 10, PLENTY, WAIT_MS, w->sink, &e) != WM_OK) return NULL;
  w->ended = wm_now_ms();
  return w;
}

static bool is_waiting(wm_memory_sub *s) {
  pthread_mutex_lock(&s->topic->lock);
  bool waiting = s->waiting || wm_memory_group_stands_by(s);
  pthread_mutex_unlock(&s->topic->lock);
  return waiting;
}

static void a_wait_ends(void *sub, void (*by)(void *arg), void *arg, size_t messages) {
  pthread_t thread;
  void *done;
  waiting w = {.sub = sub, .sink = calloc(1, sizeof *w.sink)};
  pthread_create(&thread, NULL, wait_for_some, &w);
  for (int64_t until = wm_now_ms() + WAIT_MS; !is_waiting(sub); poll(NULL, 0, 1))
    assert_true(wm_now_ms() < until);
  by(arg);
  pthread_join(thread, &done);
  assert_non_null(done);
  assert_true(w.ended - w.began < WAIT_MS / 2);
  assert_int_equal(w.sink->n, messages);
  for (size_t i = 0; i < w.sink->n; i++)
    wm_message_release(w.sink->msgs[i]);
  free(w.sink);
}

static void by_publishing(void *arg) { publish(arg, 1); }

static void by_releasing(void *arg) { settle(arg, 0, 1, WM_SETTLE_RELEASE, 1); }

static void a_waiting_fetch_goes_on_at_once(void) {
  void *a = subscribe("g"), *b = subscribe("g"), *lone = subscribe(NULL);
  a_wait_ends(a, B.interrupt, a, 0);
  a_wait_ends(a, by_publishing, "t", 1);
  publish("t", 2);
  assert_int_equal(fetch(a, 2), 2);
  a_wait_ends(b, by_releasing, a, 1);
  a_wait_ends(b, B.unsubscribe, a, 2); /* what was not settled */
  assert_int_equal(fetch(lone, 10), 3);
  a_wait_ends(lone, by_publishing, "t", 1);
  void *first = subscribe_as("t", "x", "newest", true), *next = subscribe_as("t", "x", NULL, true);
  publish("t", 1);
  a_wait_ends(next, B.unsubscribe, first, 1);
  int64_t began = wm_now_ms();
  B.interrupt(next); /* and so does one that has not begun */
  OK(B.fetch(next, 10, PLENTY, WAIT_MS, &sink, &err));
  assert_true(wm_now_ms() - began < WAIT_MS / 2);
  B.unsubscribe(next);
  B.unsubscribe(b);
  B.unsubscribe(lone);
}

enum { MEMBERS = 4, PUBLISHED = 10000 };

typedef struct crowd {
  atomic_size_t settled;
  atomic_uchar seen[2][PUBLISHED]; /* acks, by group */
} crowd;

typedef struct worker {
  crowd *c;
  int group;
} worker;

/* Comes and goes; releases some of what it gets, acks the rest. */
static void *work(void *arg) {
  worker *w = arg;
  wm_error e;
  wm_sink *mine = calloc(1, sizeof *mine);
  wm_settle_op ops[100];
  while (w->c->settled < 2 * PUBLISHED) {
    wm_sub_spec spec = {.topic = "t", .group = w->group ? "b" : "a", .member = "m"};
    void *sub;
    if (B.subscribe(conn, &spec, &sub, &e) != WM_OK) abort();
    for (int round = 0; round < 20; round++) {
      if (B.fetch(sub, 100, PLENTY, 5, mine, &e) != WM_OK) abort();
      size_t acked = 0;
      for (size_t i = 0; i < mine->n; i++) {
        bool ack = wm_random() % 8;
        ops[i] =
            (wm_settle_op){.kind = ack ? WM_SETTLE_ACK : WM_SETTLE_RELEASE, .msg = mine->msgs[i]};
        if (ack) w->c->seen[w->group][mine->msgs[i]->token[0]]++;
        acked += ack;
      }
      if (round < 19 && B.settle(sub, ops, mine->n, &e) != WM_OK) abort();
      for (size_t i = 0; i < mine->n; i++) {
        if (round == 19 && ops[i].kind == WM_SETTLE_ACK)
          w->c->seen[w->group][mine->msgs[i]->token[0]]--; /* held when the member closes */
        wm_message_release(mine->msgs[i]);
      }
      if (round < 19) w->c->settled += acked;
      mine->n = 0;
    }
    B.unsubscribe(sub);
  }
  free(mine);
  return NULL;
}

static void many_threads_lose_and_double_nothing(void) {
  crowd *c = calloc(1, sizeof *c);
  worker workers[MEMBERS];
  pthread_t threads[MEMBERS];
  B.unsubscribe(subscribe("a"));
  B.unsubscribe(subscribe("b"));
  for (int i = 0; i < MEMBERS; i++) {
    workers[i] = (worker){c, i % 2};
    pthread_create(&threads[i], NULL, work, &workers[i]);
  }
  for (int i = 0; i < PUBLISHED / 100; i++)
    publish("t", 100);
  for (int i = 0; i < MEMBERS; i++)
    pthread_join(threads[i], NULL);
  for (int i = 0; i < 2 * PUBLISHED; i++)
    assert_int_equal(c->seen[i / PUBLISHED][i % PUBLISHED], 1);
  assert_int_equal(kept(), 0);
  free(c);
}

/* ---- opening ---------------------------------------------------------------------------------- */

static void what_cannot_be_opened_is_refused_by_name(void) {
  wm_host hosts[1] = {{"localhost", 0}};
  wm_url url = {
      .scheme = "memory", .user = "", .password = "", .path = "x", .hosts = hosts, .n_hosts = 1};
  wm_option_value values[2] = {{.text = "acked"}, {.number = 0}};
  void *other;
  assert_int_equal(B.open(&url, values, &other, &err), WM_BAD_INPUT);
  assert_non_null(strstr(err.text, "memory:NAME"));
  hosts[0].name = "";
  OK(B.open(&url, values, &other, &err));
  B.close(other);
  static const char *const wrong[] = {"none", "5 parsecs", "-1", "0"};
  for (int i = 0; i < 4; i++) {
    values[0].text = wrong[i];
    assert_int_equal(B.open(&url, values, &other, &err), WM_BAD_INPUT);
    assert_non_null(strstr(err.text, "'retain'"));
  }
}

static void run(void **state) {
  OK(try_open("acked", 0));
  sink.gone = 0;
  (*(void (**)(void)) * state)();
  empty();
  B.close(conn);
}

int main(void) {
#define TEST(f)                                                                                    \
  {                                                                                                \
#f, run, NULL, NULL, &(void (*)(void)) { f }                                                   \
  }
  const struct CMUnitTest tests[] = {
      TEST(stored_messages_come_whole_and_in_order),
      TEST(fetch_keeps_to_max_and_to_bytes),
      TEST(every_group_gets_all_and_its_members_share),
      TEST(settling_again_changes_nothing),
      TEST(what_is_given_back_comes_first_at_its_place_with_its_count),
      TEST(what_cannot_be_copied_stays_in_the_group),
      TEST(exclusive_members_take_turns),
      TEST(without_a_group_all_from_now_on_comes),
      TEST(a_new_group_starts_where_it_is_told),
      TEST(what_every_group_has_acked_is_dropped),
      TEST(retain_keeps_what_is_acked),
      TEST(what_is_older_than_retain_goes_and_is_told),
      TEST(a_full_topic_refuses_for_now_and_keeps_the_order),
      TEST(a_strip_needs_room_for_what_is_in_use_alone),
      TEST(publishing_goes_on_as_soon_as_there_is_room),
      TEST(a_waiting_fetch_goes_on_at_once),
      TEST(many_threads_lose_and_double_nothing),
      TEST(what_cannot_be_opened_is_refused_by_name),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
