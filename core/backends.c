/*
 * backends.c - the one table of brokers, and finding one by its URL's scheme. Any thread; what was registered is behind
 * what was built in, and only grows.
 */
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <string.h>

#include "backend.h"
#include "error.h"
#include "log.h"

/* backends.cmake defines WM_WITH_<NAME> or WM_WITHOUT_<NAME> (why) for each backend that it builds. */
#define NOT_IN_SOURCES "it is not in the sources of this build"
#define NOT_WRITTEN "it is not written yet"

#ifdef WM_WITH_MEMORY
extern const wm_backend wm_backend_memory;
#define MEMORY &wm_backend_memory, NULL
#elif defined WM_WITHOUT_MEMORY
#define MEMORY NULL, WM_WITHOUT_MEMORY
#else
#define MEMORY NULL, NOT_IN_SOURCES
#endif

#ifdef WM_WITH_SQLITE
extern const wm_backend wm_backend_sqlite;
#define SQLITE &wm_backend_sqlite, NULL
#elif defined WM_WITHOUT_SQLITE
#define SQLITE NULL, WM_WITHOUT_SQLITE
#else
#define SQLITE NULL, NOT_IN_SOURCES
#endif

#ifdef WM_WITH_REDIS
extern const wm_backend wm_backend_redis;
#define REDIS &wm_backend_redis, NULL
#elif defined WM_WITHOUT_REDIS
#define REDIS NULL, WM_WITHOUT_REDIS
#else
#define REDIS NULL, NOT_IN_SOURCES
#endif

static const struct {
  wm_backend_entry entry;
  const char *title; /* as errors call it */
} table[] = {
    {{"memory", "memory", MEMORY}, "in-memory"},
    {{"sqlite", "sqlite", SQLITE}, "SQLite"},
    {{"redis", "redis rediss", REDIS}, "Redis"},
    {{"nats", "nats", NULL, NOT_WRITTEN}, "NATS"},
    {{"kafka", "kafka", NULL, NOT_WRITTEN}, "Kafka"},
    {{"amqp", "amqp amqps", NULL, NOT_WRITTEN}, "RabbitMQ"},
    {{"postgres", "postgres postgresql", NULL, NOT_WRITTEN}, "PostgreSQL"},
    {{"sqs", "sqs", NULL, NOT_WRITTEN}, "Amazon SQS"},
    {{"google", "google", NULL, NOT_WRITTEN}, "Google Cloud Pub/Sub"},
    {{"http", "http https", NULL, NOT_WRITTEN}, "HTTP"},
};

enum {
  BACKENDS = sizeof table / sizeof *table,
  REGISTERED_MOST = 16,
  SCHEME_SIZE = 32,
  KNOWN_SIZE = 400
};

static struct {
  pthread_mutex_t lock; /* guards adding */
  atomic_size_t n;
  wm_backend_entry entries[REGISTERED_MOST]; /* the first n are constant */
} registered = {.lock = PTHREAD_MUTEX_INITIALIZER};

const wm_backend_entry *wm_backend_at(size_t i) {
  if (i < BACKENDS) return &table[i].entry;
  return i - BACKENDS < atomic_load(&registered.n) ? &registered.entries[i - BACKENDS] : NULL;
}

void wm_backend_verify(const wm_backend *b) {
  if (!b->name || !b->schemes) wm_defect("defect: a backend has no name or no schemes");
  const struct {
    const char *name;
    bool there;
  } members[] = {
      {"library", b->library}, {"open", b->open},           {"close", b->close},
      {"publish", b->publish}, {"subscribe", b->subscribe}, {"fetch", b->fetch},
      {"settle", b->settle},   {"interrupt", b->interrupt}, {"unsubscribe", b->unsubscribe}};
  for (size_t i = 0; i < sizeof members / sizeof *members; i++)
    if (!members[i].there) wm_defect("defect: backend %s has no %s", b->name, members[i].name);
  for (const wm_option_def *def = b->options; def && def->name; def++) {
    wm_option_value value;
    wm_error err;
    if (!def->value || !def->help)
      wm_defect("defect: backend %s: option '%s' has no default or no help", b->name, def->name);
    if (wm_option_parse(def, def->value, &value, &err) != WM_OK)
      wm_defect("defect: backend %s: its default: %s", b->name, err.text);
  }
}

/* ---- schemes ------------------------------------------------------------------------------- */

/* The i-th word of a list separated by blanks, its length in *len; NULL past the last. */
static const char *word_at(const char *list, size_t i, size_t *len) {
  for (;; list += *len) {
    list += strspn(list, " ");
    *len = strcspn(list, " ");
    if (!*len) return NULL;
    if (i-- == 0) return list;
  }
}

static bool has_word(const char *list, const char *word) {
  const char *at;
  size_t len, wanted = strlen(word);
  for (size_t i = 0; (at = word_at(list, i, &len)) != NULL; i++)
    if (len == wanted && memcmp(at, word, len) == 0) return true;
  return false;
}

static const char *first_name(void *arg, size_t i) {
  (void)arg;
  const wm_backend_entry *e = wm_backend_at(i);
  return e ? e->name : NULL;
}

static int unknown_scheme(const char *scheme, wm_error *err) {
  const char *near = wm_nearest(scheme, first_name, NULL);
  if (near)
    return wm_fail_with(err, WM_BAD_INPUT, "'%.*s' is no broker's URL scheme; did you mean '%s'?",
                        SCHEME_SIZE, scheme, near);
  char known[KNOWN_SIZE] = "";
  size_t used = 0;
  const wm_backend_entry *e;
  for (size_t i = 0; (e = wm_backend_at(i)) != NULL && used < sizeof known; i++)
    if (e->backend)
      used +=
          (size_t)snprintf(known + used, sizeof known - used, "%s%s:", used ? ", " : "", e->name);
  return wm_fail_with(err, WM_BAD_INPUT, "'%.*s' is no broker's URL scheme; this build has %s",
                      SCHEME_SIZE, scheme, used ? known : "no broker at all");
}

/* The place of the entry for a scheme, of those that are there if there are several; SIZE_MAX: none. */
static size_t place_of(const char *scheme) {
  const wm_backend_entry *e;
  size_t missing = SIZE_MAX;
  for (size_t i = 0; (e = wm_backend_at(i)) != NULL; i++) {
    if (!has_word(e->schemes, scheme)) continue;
    if (e->backend) return i;
    if (missing == SIZE_MAX) missing = i;
  }
  return missing;
}

const wm_backend *wm_backend_find(const char *scheme, wm_error *err) {
  size_t at = place_of(scheme);
  if (at == SIZE_MAX) {
    unknown_scheme(scheme, err);
    return NULL;
  }
  const wm_backend_entry *e = wm_backend_at(at);
  if (e->backend) {
    wm_backend_verify(e->backend);
    return e->backend;
  }
  wm_fail_with(err, WM_UNSUPPORTED,
               "this build has no %s support (%s); 'wmlua version' lists what it has",
               table[at].title, e->missing);
  return NULL;
}

static bool is_taken(const wm_backend *b) {
  char scheme[SCHEME_SIZE];
  const char *at;
  size_t len;
  for (size_t i = 0; (at = word_at(b->schemes, i, &len)) != NULL; i++) {
    snprintf(scheme, sizeof scheme, "%.*s", (int)len, at);
    size_t place = place_of(scheme);
    if (place != SIZE_MAX && wm_backend_at(place)->backend) return true;
  }
  return false;
}

int wm_backend_register(const wm_backend *b) {
  wm_backend_verify(b);
  pthread_mutex_lock(&registered.lock);
  size_t n = atomic_load(&registered.n);
  int rc = is_taken(b) ? WM_BAD_INPUT : n == REGISTERED_MOST ? WM_NOMEM : WM_OK;
  if (rc == WM_OK) {
    registered.entries[n] = (wm_backend_entry){b->name, b->schemes, b, NULL};
    atomic_store(&registered.n, n + 1);
  }
  pthread_mutex_unlock(&registered.lock);
  return rc;
}

bool wm_backend_list(size_t i, wm_backend_info *out) {
  const wm_backend_entry *e = wm_backend_at(i);
  if (!e) return false;
  *out = (wm_backend_info){.name = e->name,
                           .schemes = e->schemes,
                           .library = e->backend ? e->backend->library() : "",
                           .missing = e->missing};
  return true;
}
