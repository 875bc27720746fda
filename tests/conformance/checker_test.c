/*
 * checker_test.c - forged histories: each defect is found, each innocent explanation is accepted.
 *
 * A history is written as text, one event a word: `p1` publish message 1, `+1` confirmed, `x1` failed, `?1` unknown,
 * `d1` delivered, `a1` ack, `n1` nack, `r1` settling returned false, `c1` came corrupted; then what a consumer or
 * the broker does by name. `A:` `B:` choose the consumer, `@5000` sets the clock (ms), which goes on by 1 ms an event.
 * `d1*2` is attempt 2, `n1~300` a nack with a delay.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

#include "checker.h"

static checker_report report;

typedef struct forge {
  history *h;
  int64_t ms;
  uint32_t consumer, group, topic, publisher, key;
} forge;

static void add(forge *f, uint32_t kind, const char *id, uint32_t attempt, int64_t value) {
  history_event e = {.time = (1000000 + f->ms++) * 1000000, .kind = kind, .attempt = attempt, .value = value,
                     .topic = f->topic};
  if (kind == H_PUBLISH) {
    e.publisher = f->publisher;
    e.seq = (uint32_t)atoi(id);
    e.key = f->key;
  } else if (kind != H_CONFIRMED && kind != H_FAILED && kind != H_UNKNOWN && kind != H_OUTAGE &&
             kind != H_RESTORED && kind != H_WIPED && kind != H_END) {
    e.consumer = f->consumer;
    e.group = f->group;
  }
  if (id) snprintf(e.uuid, sizeof e.uuid, "m%d", atoi(id));
  history_add(f->h, &e);
}

static void by_name(forge *f, const char *word) {
  static const struct {
    const char *name;
    uint32_t kind;
    int64_t value;
  } names[] = {{"oldest", H_SUBSCRIBING, 1}, {"newest", H_SUBSCRIBING, 0}, {"fanout", H_SUBSCRIBING, 2},
               {"open", H_SUBSCRIBED, 0},    {"close", H_CLOSED, 0},       {"cut", H_CLOSED, 1},
               {"kill", H_KILLED, 0},        {"pause", H_PAUSED, 0},       {"resume", H_RESUMED, 0},
               {"down", H_OUTAGE, 0},        {"up", H_RESTORED, 0},        {"wipe", H_WIPED, 0},
               {"limit2", H_LIMIT, 2},       {"end", H_END, 0}};
  for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
    if (strcmp(names[i].name, word) != 0) continue;
    add(f, names[i].kind, NULL, 0, names[i].value);
    return;
  }
  if (strcmp(word, "flush") == 0)
    add(f, H_FLUSHED, NULL, 0, (1000000 + f->ms) * 1000000);
  else
    fail_msg("'%s' is no event", word);
}

static void word(forge *f, const char *w) {
  static const char letters[] = "p+x?danrc";
  static const uint32_t kinds[] = {H_PUBLISH, H_CONFIRMED, H_FAILED, H_UNKNOWN, H_DELIVERED,
                                   H_ACK,     H_NACK,      H_REJECTED, H_CORRUPT};
  const char *letter = strchr(letters, w[0]);
  const char *star = strchr(w, '*'), *delay = strchr(w, '~');
  if (w[0] == '@')
    f->ms = atoi(w + 1);
  else if (w[1] == ':')
    f->consumer = (uint32_t)(w[0] - 'A') + 1;
  else if (w[0] == 'g' && w[1] >= '0' && w[1] <= '9')
    f->group = (uint32_t)atoi(w + 1);
  else if (w[0] == 't' && w[1] >= '0' && w[1] <= '9')
    f->topic = (uint32_t)atoi(w + 1);
  else if (w[0] == 'k' && w[1] >= '0' && w[1] <= '9')
    f->key = (uint32_t)atoi(w + 1);
  else if (letter && w[1] >= '0' && w[1] <= '9')
    add(f, kinds[letter - letters], w + 1, star ? (uint32_t)atoi(star + 1) : 1, delay ? atoi(delay + 1) : 0);
  else
    by_name(f, w);
}

static bool judge(const checker_rules *rules, const char *text) {
  forge f = {.h = history_new(), .consumer = 1, .group = 1, .topic = 1, .publisher = 1};
  char *copy = strdup(text), *save = NULL;
  for (char *w = strtok_r(copy, " ", &save); w; w = strtok_r(NULL, " ", &save))
    word(&f, w);
  bool good = checker_run(f.h, rules, &report);
  free(copy);
  history_free(f.h);
  return good;
}

static const checker_rules by_topic = {.order = ORDER_TOPIC}, by_key = {.order = ORDER_KEY};

static void accept(const checker_rules *rules, const char *text) {
  if (!judge(rules, text)) fail_msg("'%s': %s", text, report.text[0]);
}

/* Exactly one finding, of this kind. */
static void find(const checker_rules *rules, check_kind kind, const char *text) {
  judge(rules, text);
  if (report.total != 1 || report.count[kind] != 1)
    fail_msg("'%s': 1 %s expected, got %zu findings: %s", text, check_kind_name(kind), report.total,
             report.n_texts ? report.text[0] : "");
}

static void good_histories_pass(void **state) {
  (void)state;
  accept(&by_topic, "oldest open p1 +1 p2 +2 d1 a1 d2 a2 end");
  accept(&by_topic, "p1 +1 oldest open d1 a1 end");
  accept(&by_topic, "oldest open p1 d1 a1 +1 end"); /* delivered before the publisher knows */
  accept(&by_topic, "oldest open p1 +1 d1 n1 d1*2 a1 end");
}

static void lost(void **state) {
  (void)state;
  find(&by_topic, CHECK_LOST, "oldest open p1 +1 p2 +2 d1 a1 end");
  find(&by_topic, CHECK_LOST, "oldest open p1 +1 d1 n1 end");
  find(&by_topic, CHECK_LOST, "oldest open p1 +1 d1 kill end");
  find(&by_topic, CHECK_LOST, "oldest open p1 +1 d1 cut end");
  find(&by_topic, CHECK_LOST, "p1 +1 oldest open end");
  /* each group is owed its own */
  find(&by_topic, CHECK_LOST, "oldest open g2 B: oldest open p1 +1 d1 a1 end");
}

static void not_lost(void **state) {
  (void)state;
  accept(&by_topic, "oldest open p1 x1 end");
  accept(&by_topic, "oldest open p1 ?1 end");
  accept(&by_topic, "oldest open p1 end");
  accept(&by_topic, "p1 +1 newest open end");
  accept(&by_topic, "oldest open p1 +1 d1 end"); /* still in hand */
  accept(&by_topic, "p1 +1 fanout open p2 +2 close end");
  accept(&by_topic, "oldest open p1 +1 wipe end");
  accept(&by_topic, "t2 p1 +1 t1 oldest open end");
  accept(&(checker_rules){.unfinished = true}, "oldest open p1 +1 end");
}

static void phantom(void **state) {
  (void)state;
  find(&by_topic, CHECK_PHANTOM, "oldest open d1 a1 end");
  find(&by_topic, CHECK_PHANTOM, "oldest open p1 x1 d1 a1 end");
  find(&by_topic, CHECK_PHANTOM, "oldest open t2 p1 +1 t1 d1 a1 end");
  find(&by_topic, CHECK_PHANTOM, "p1 +1 newest open d1 a1 end");
  accept(&by_topic, "p1 newest open +1 d1 a1 end"); /* under way when the group began */
  accept(&by_topic, "oldest open p1 ?1 d1 a1 end");
}

static void corrupt(void **state) {
  (void)state;
  find(&by_topic, CHECK_CORRUPT, "oldest open p1 +1 d1 c1 a1 end");
}

static void duplicate(void **state) {
  (void)state;
  find(&by_topic, CHECK_DUPLICATE, "oldest open p1 +1 d1 a1 d1 a1 end");
  find(&by_topic, CHECK_DUPLICATE, "oldest open B: oldest open p1 +1 A: d1 B: d1 a1 end");
  find(&by_topic, CHECK_DUPLICATE, "oldest open B: oldest open p1 +1 A: d1 n1 B: d1*2 a1 end");
  find(&by_topic, CHECK_DUPLICATE, "oldest open p1 +1 d1 a1 close B: oldest open d1 a1 end");
  find(&by_topic, CHECK_DUPLICATE, "oldest open p1 +1 d1 a1 flush kill B: oldest open d1 a1 end");
  /* an old ack counts as taken */
  find(&by_topic, CHECK_DUPLICATE, "oldest open p1 +1 d1 a1 @9000 kill B: oldest open d1 a1 end");
  find(&by_topic, CHECK_DUPLICATE, "oldest open p1 +1 d1 a1 @9000 down up d1 a1 end");
  /* somebody else's death is no excuse */
  find(&by_topic, CHECK_DUPLICATE, "oldest open B: oldest open p1 +1 d1 a1 A: kill B: d1 a1 end");
  /* before the outage all was done */
  find(&by_topic, CHECK_DUPLICATE, "oldest open p1 +1 d1 a1 d1 a1 down up end");
}

static void excused_duplicates(void **state) {
  (void)state;
  accept(&by_topic, "oldest open p1 +1 d1 kill B: oldest open d1*2 a1 end");
  accept(&by_topic, "oldest open p1 +1 d1 a1 kill B: oldest open d1*2 a1 end");
  accept(&by_topic, "oldest open p1 +1 d1 cut B: oldest open d1*2 a1 end");
  accept(&by_topic, "oldest open p1 +1 d1 flush a1 kill B: oldest open d1*2 a1 end");
  accept(&by_topic, "oldest open B: oldest open p1 +1 A: d1 pause B: d1 a1 A: resume a1 r1 end");
  accept(&by_topic, "oldest open p1 +1 d1 a1 down up d1*2 a1 end");
  accept(&by_topic, "oldest open p1 down up +1 d1 a1 d1 a1 end"); /* stored twice */
  accept(&by_topic, "oldest open p1 ?1 d1 a1 d1 a1 end");
  accept(&by_topic, "oldest open p1 +1 d1 a1 wipe d1 a1 end");
  accept(&(checker_rules){.order = ORDER_TOPIC, .duplicates = true}, "oldest open p1 +1 d1 a1 d1 a1 end");
}

static void reorder(void **state) {
  (void)state;
  find(&by_topic, CHECK_REORDER, "oldest open p1 +1 p2 +2 d2 a2 d1 a1 end");
  find(&by_key, CHECK_REORDER, "oldest open k1 p1 +1 k2 p2 +2 k1 p3 +3 d3 a3 d2 a2 d1 a1 end");
  find(&(checker_rules){.order = ORDER_TOPIC, .across_members = true}, CHECK_REORDER,
       "oldest open B: oldest open p1 +1 p2 +2 A: d2 a2 B: d1 a1 end");
  /* an outage does not excuse it */
  find(&by_topic, CHECK_REORDER, "oldest open p1 +1 p2 +2 down up d2 a2 d1 a1 end");
}

static void excused_reorder(void **state) {
  (void)state;
  accept(&(checker_rules){0}, "oldest open p1 +1 p2 +2 d2 a2 d1 a1 end");
  accept(&by_key, "oldest open k1 p1 +1 k2 p2 +2 d2 a2 d1 a1 end");
  accept(&by_key, "oldest open p1 +1 p2 +2 d2 a2 d1 a1 end"); /* no key: no order */
  accept(&by_topic, "oldest open B: oldest open p1 +1 p2 +2 A: d2 a2 B: d1 a1 end");
  /* a dead member had it prefetched */
  accept(&by_topic, "oldest open B: oldest open p1 +1 p2 +2 A: kill B: d2 a2 d1 a1 end");
  accept(&by_topic, "oldest open p1 +1 p2 +2 close B: oldest open d2 a2 d1 a1 end");
  /* unconfirmed ones may come when they like */
  accept(&by_topic, "oldest open p1 ?1 p2 +2 d2 a2 d1 a1 end");
}

static void overlap(void **state) {
  (void)state;
  find(&by_topic, CHECK_OVERLAP, "oldest open p1 +1 p2 +2 d1 n1 d2 a2 d1*2 a1 end");
  find(&by_key, CHECK_OVERLAP, "oldest open limit2 k1 p1 +1 p2 +2 d1 d2 a1 a2 end");
  find(&(checker_rules){0}, CHECK_OVERLAP, "oldest open p1 +1 p2 +2 d1 d2 a1 a2 end");
  find(&(checker_rules){0}, CHECK_OVERLAP, "oldest open limit2 p1 +1 p2 +2 p3 +3 d1 d2 d3 a1 a2 a3 end");
  accept(&(checker_rules){0}, "oldest open limit2 p1 +1 p2 +2 d1 d2 a1 a2 end");
  accept(&by_key, "oldest open limit2 k1 p1 +1 k2 p2 +2 d1 d2 a1 a2 end");
  accept(&by_key, "oldest open limit2 k1 p1 +1 k2 p2 +2 d1 n1 d2 a2 d1*2 a1 end");
  accept(&(checker_rules){.order = ORDER_TOPIC, .batch = true}, "oldest open limit2 p1 +1 p2 +2 d1 d2 a1 a2 end");
}

static void attempt(void **state) {
  (void)state;
  find(&by_topic, CHECK_ATTEMPT, "oldest open p1 +1 d1 n1 d1*1 a1 end");
  find(&by_topic, CHECK_ATTEMPT, "oldest open p1 +1 d1 n1 d1*2 n1 d1*2 a1 end");
  find(&by_topic, CHECK_ATTEMPT, "oldest open p1 +1 d1*0 a1 end");
  find(&by_topic, CHECK_ATTEMPT, "oldest open p1 +1 d1*3 a1 end");
  accept(&by_topic, "oldest open p1 +1 kill B: oldest open d1*2 a1 end"); /* an upper bound */
  accept(&by_topic, "oldest open p1 +1 d1 n1 kill B: oldest open d1*1 a1 end");
}

static void early(void **state) {
  (void)state;
  find(&by_topic, CHECK_EARLY, "oldest open p1 +1 d1 n1~300 @200 d1*2 a1 end");
  accept(&by_topic, "oldest open p1 +1 d1 n1~300 @400 d1*2 a1 end");
}

static void refused(void **state) {
  (void)state;
  find(&by_topic, CHECK_REFUSED, "oldest open p1 +1 d1 a1 r1 d1 a1 end");
  accept(&by_topic, "oldest open p1 +1 d1 cut a1 r1 B: oldest open d1 a1 end");
}

static void stuck(void **state) {
  (void)state;
  find(&by_topic, CHECK_STUCK, "oldest open p1 +1 p2 +2 d1 a1 @15000 d2 a2 end");
  find(&by_topic, CHECK_STUCK, "oldest open p1 +1 down up @15000 d1 a1 end");
  find(&by_topic, CHECK_STUCK, "oldest open p1 +1 B: oldest open A: d1 kill @15000 B: d1*2 a1 end");
  find(&by_topic, CHECK_STUCK, "oldest open p1 +1 d1 n1~100 @15000 d1*2 a1 end");
  find(&(checker_rules){.order = ORDER_TOPIC, .unfinished = true}, CHECK_STUCK, "oldest open p1 +1 @15000 end");
}

static void not_stuck(void **state) {
  (void)state;
  accept(&by_topic, "oldest open p1 +1 d1 @15000 a1 end");                 /* a slow handler */
  accept(&by_topic, "oldest open @15000 p1 +1 d1 a1 end");                 /* nothing to do */
  accept(&by_topic, "oldest open p1 +1 down @15000 up d1 a1 end");         /* no broker */
  accept(&by_topic, "oldest open p1 +1 d1 n1~14000 @15000 d1*2 a1 end");   /* delayed */
  accept(&by_topic, "oldest open p1 +1 close @15000 B: oldest open d1 a1 end"); /* nobody there */
  accept(&by_topic, "oldest open p1 +1 pause @15000 resume d1 a1 end");
  accept(&(checker_rules){.order = ORDER_TOPIC, .stuck_ms = 20000}, "oldest open p1 +1 @15000 d1 a1 end");
}

/* Many findings of one kind leave room for others. */
static void floods_are_cut(void **state) {
  (void)state;
  char text[16384] = "oldest open p9999 +9999 d9999 a9999 d9999 a9999";
  for (int i = 1; i <= 500; i++)
    sprintf(text + strlen(text), " p%d +%d", i, i);
  judge(&by_topic, text);
  assert_int_equal(report.count[CHECK_LOST], 500);
  assert_int_equal(report.count[CHECK_DUPLICATE], 1);
  assert_true(report.n_texts < 10);
}

/* What a child appends to a file comes out in order of time among the parent's own. */
static void merged_by_time(void **state) {
  (void)state;
  char path[] = "/tmp/wm-history-XXXXXX";
  int fd = mkstemp(path);
  assert_true(fd >= 0);
  history *child = history_open(path), *h = history_new();
  history_event e = {.kind = H_PUBLISH, .uuid = "m1", .topic = 1};
  int64_t offset = 0;
  history_add(child, &e);
  e = (history_event){.kind = H_CONFIRMED, .uuid = "m1", .topic = 1};
  history_add(h, &e);
  e = (history_event){.kind = H_SUBSCRIBING, .group = 1, .consumer = 1, .topic = 1, .value = 1};
  history_add(child, &e);
  assert_int_equal(history_merge(h, path, &offset, NULL, NULL), 2);
  assert_int_equal(history_merge(h, path, &offset, NULL, NULL), 0);
  e.kind = H_SUBSCRIBED;
  history_add(child, &e);
  assert_int_equal(write(fd, "torn", 4), 4); /* half a record is not read */
  assert_int_equal(history_merge(h, path, &offset, NULL, NULL), 1);
  size_t n;
  history_event *all = history_take(h, &n);
  assert_int_equal(n, 4);
  static const uint32_t kinds[] = {H_PUBLISH, H_CONFIRMED, H_SUBSCRIBING, H_SUBSCRIBED};
  for (size_t i = 0; i < n; i++)
    assert_int_equal(all[i].kind, kinds[i]);
  free(all);
  history_free(child);
  history_free(h);
  close(fd);
  unlink(path);
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(good_histories_pass), cmocka_unit_test(lost),      cmocka_unit_test(not_lost),
      cmocka_unit_test(phantom),             cmocka_unit_test(corrupt),   cmocka_unit_test(duplicate),
      cmocka_unit_test(excused_duplicates),  cmocka_unit_test(reorder),   cmocka_unit_test(excused_reorder),
      cmocka_unit_test(overlap),             cmocka_unit_test(attempt),   cmocka_unit_test(early),
      cmocka_unit_test(refused),             cmocka_unit_test(stuck),     cmocka_unit_test(not_stuck),
      cmocka_unit_test(floods_are_cut),      cmocka_unit_test(merged_by_time),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
