/*
 * harness.h - what the tests are written with: topics, groups, sources that publish and members that
 * consume, all of which write the history; children that are killed; waiting for a condition.
 *
 * Each test runs in a process of its own, so a failure simply ends it: test_fail may be called from any
 * thread. At the end the checker judges the history.
 */
#ifndef HARNESS_H
#define HARNESS_H

#include <pthread.h>
#include <stdatomic.h>
#include <sys/types.h>

#include "backend.h"
#include "brokers.h"
#include "checker.h"
#include "wm.h"

typedef struct test test;

/* ---- the table of backends ---------------------------------------------------------------------------- */

/* What the suite must know of a backend beside its features. */
typedef struct row {
  const char *name;    /* of its starter, and its URL scheme */
  const char *options; /* for its URL's query */
  const char *fault_options; /* besides, where the network fails: shorter times to notice */
  bool in_process;     /* ends with the test's process: nothing can be killed, nobody else can join */
  bool duplicates;     /* may repeat though nothing failed */
  bool foreign;        /* has records that cannot be decoded */
  int takeover_ms;     /* the option `takeover` where a test waits for it */
  int restart_ms;      /* until the broker answers again after kill -9 */
  int settle_ms;       /* until a group of several has sorted itself out after a member came or went */
  const char *bad_topic; /* a topic that this broker cannot have; NULL: takes every name */
} row;

extern const row rows[];
const row *row_find(const char *name);

/* ---- a test ------------------------------------------------------------------------------------------- */

enum test_flag {
  OWN_BROKER = 1 << 0, /* kills it, or stops a process that may have it locked: it has one of its own */
  PROCESSES = 1 << 1,  /* several processes share the broker */
  FOREIGN = 1 << 2,    /* needs broker_kind.write_foreign */
  WIPE = 1 << 3        /* needs broker_kind.wipe */
};

typedef struct test_def {
  const char *name;
  void (*run)(test *t);
  unsigned needs; /* wm_feature */
  unsigned flags; /* test_flag */
  int seconds;    /* limit for the whole test; 0: 60 */
} test_def;

extern const test_def *const families[]; /* each ends with a NULL name; NULL ends the list */

struct test {
  const test_def *def;
  const row *row;
  unsigned features;
  char url[640]; /* with the row's options */
  const char *broker_url;
  const char *dir; /* for files of the test */
  broker *own;     /* with OWN_BROKER */
  wm_publisher *keeper; /* of a broker in the process: keeps it there */
  history *h;
  checker_rules rules;
  uint64_t seed;
  atomic_uint topics, groups, consumers, sources, messages;
  pthread_mutex_t lock; /* guards children */
  struct child *children;
  struct group *all_groups;
  struct group *watch; /* NULL, or who is to get all that is confirmed: see group_wait_confirmed */
};

_Noreturn void test_fail(test *t, const char *format, ...) __attribute__((format(printf, 2, 3)));
_Noreturn void test_skip(test *t, const char *format, ...) __attribute__((format(printf, 2, 3)));

_Noreturn void test_fail_at(test *t, const char *file, int line, const char *expression, const char *format, ...)
    __attribute__((format(printf, 5, 6)));

/* Fails the test, naming the place and the expression, with more to say. */
#define CHECK(t, condition, ...)                                                                   \
  do {                                                                                             \
    if (!(condition)) test_fail_at(t, __FILE__, __LINE__, #condition, __VA_ARGS__);                \
  } while (0)
#define CHECK_OK(t, call, err)                                                                     \
  do {                                                                                             \
    int code_ = (call);                                                                            \
    if (code_ != WM_OK)                                                                            \
      test_fail_at(t, __FILE__, __LINE__, #call, "%s: %s", wm_code_name(code_), (err)->text);      \
  } while (0)

/* A tenth with WM_TEST_SHORT=1, where that leaves at least `least`. */
size_t short_count(size_t n, size_t least);
/* Times of the suite, stretched where the machine is slow: sanitizers, WM_TEST_SLOW=<factor>. */
int stretch(int ms);
int64_t now_ms(void);
void sleep_ms(int ms); /* for handlers that take time; never to wait for something */
unsigned test_random(test *t, unsigned below);

/* Waits until the condition holds; fails the test with `what` after ms (which it stretches). */
void wait_until(test *t, int ms, bool (*condition)(void *arg), void *arg, const char *what);

/* ---- topics and groups ---------------------------------------------------------------------------------- */

typedef struct topic {
  char name[48];
  uint32_t id;
} topic;

topic topic_new(test *t);

/* What became of the messages of a topic in a group, by their numbers. */
typedef struct group {
  char name[48]; /* "" : no group */
  uint32_t id;
  topic topic;
  const char *from; /* NULL: the oldest that the broker has, "newest" */
  pthread_mutex_t lock; /* guards all below */
  size_t room, deliveries, delivered, acked; /* the last two: different messages */
  size_t confirmed, owed; /* of a watched group: confirmed messages; those of them that are not acked */
  unsigned char *bits;
  int64_t last; /* when something was delivered, ms */
  struct group *next;
} group;

group *group_new(test *t, const topic *topic, const char *from);
group *group_none(test *t, const topic *topic);
size_t group_acked(group *g);
size_t group_delivered(group *g);
size_t group_deliveries(group *g);
/* Waits until that many different messages are acked; the time starts anew with each delivery. */
void group_wait_acked(group *g, test *t, size_t n, int ms);
void group_wait_delivered(group *g, test *t, size_t n, int ms);
/* Waits until every message that was confirmed is acked, of t->watch. */
void group_wait_confirmed(group *g, test *t, int ms);
/* `event->seq` is the message's number. */
void group_note(group *g, const history_event *event);

/* ---- publishing ------------------------------------------------------------------------------------------- */

typedef struct load {
  unsigned keys; /* metadata `key` = 1..keys in turn; 0: none */
  size_t size;   /* of the payload; 0: 64 */
  size_t batch;  /* messages a call; 0: 100 */
  bool may_fail; /* what was not confirmed is recorded as such; else it fails the test */
} load;

typedef struct source {
  test *t;
  wm_publisher *pub;
  uint32_t id, seq;
} source;

source *source_open(test *t, const char *options);
/* Returns how many were confirmed. */
size_t source_publish(source *s, const topic *topic, size_t n, const load *load);
void source_close(source *s);
/* One source, one call, all confirmed. */
void publish(test *t, const topic *topic, size_t n);

/* A message that members can verify, with its record in *event. */
wm_message *message_new(test *t, const topic *topic, uint32_t source, uint32_t seq, const load *load,
                        history_event *event);
/* Records what became of it; `number` is the message's. */
void record_result(test *t, const history_event *event, wm_result result, size_t number);

/* ---- consuming ---------------------------------------------------------------------------------------------- */

typedef struct member member;
/* Must settle (or keep) and release every message. */
typedef void (*member_fn)(member *m, wm_message **msgs, int n, void *arg);

struct member {
  test *t;
  group *group;
  uint32_t id;
  wm_subscription *sub;
  wm_consumer *con;
  pthread_t thread;
  bool running;
  member_fn fn;
  void *arg;
};

/* options: "name=value,name=value"; `takeover` alone stands for the row's. */
member *member_open(group *g, test *t, const char *options);
/* Up to max messages: their number, or a WM code. Records and verifies. */
int member_next(member *m, wm_message **out, size_t max, int timeout_ms);
/* One message, within the usual time; fails the test. */
wm_message *member_take(member *m);
/* Fails the test when a message comes within ms. */
void member_take_none(member *m, int ms);
/* Record, settle, release. */
void member_ack(member *m, wm_message *msg);
void member_nack(member *m, wm_message *msg, int delay_ms);
/* A thread that takes and gives to fn (NULL: acks) until the subscription is closed. */
void member_start(member *m, member_fn fn, void *arg);
void member_flush(member *m);
/* Closes, waits for the thread, frees. Returns what wm_subscription_close did. */
int member_close(member *m, int timeout_ms);
void member_ack_all(member *m, wm_message **msgs, int n, void *arg);
/* The number of a message of ours in its test, SIZE_MAX: not one. */
size_t message_number(const wm_message *msg);
wm_options *options_parse(test *t, const char *options);

/* ---- children: processes that are killed ---------------------------------------------------------------------- */

typedef struct child {
  test *t;
  group *group;  /* of consumers, else NULL */
  uint32_t id;   /* consumer or publisher */
  pid_t pid;     /* 0: gone */
  size_t delivered; /* as far as child_poll has read */
  bool flushed;
  char file[300];
  int64_t offset;
  struct child *next;
} child;

/* role: "consumer" acks all after work_ms each, "flusher" acks `count` messages, flushes, and waits,
 * "publisher" publishes batches of `count` to topic for ever. */
enum { CHILD_NUMBERS = 1000000 }; /* numbers of messages that one publishing child has for itself */
child *child_start(test *t, const char *role, const topic *topic, group *g, const char *options, int work_ms,
                   size_t count);
/* Reads what it has recorded meanwhile; fails the test when it has ended by itself. */
void child_poll(child *c);
void children_poll(test *t);
void child_kill(child *c); /* -9 */
void child_pause(child *c);
void child_resume(child *c);
void children_stop(test *t);
int child_main(int argc, char **argv); /* of the process itself */

/* ---- the broker of the test ------------------------------------------------------------------------------------- */

/* Kills the test's own broker, starts it again on its data, records both. */
void broker_outage(test *t);

#endif
