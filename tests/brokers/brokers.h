/*
 * brokers.h - private brokers for tests: each on a free port of 127.0.0.1 (or in a file), in a directory of
 * its own, stopped by its pid. One starter a broker; used by one thread at a time.
 *
 * The thread that starts a broker must outlive it: the server dies with it (PR_SET_PDEATHSIG), so that a test
 * that crashes leaves nothing behind.
 */
#ifndef BROKERS_H
#define BROKERS_H

#include <stdbool.h>
#include <stddef.h>
#include <sys/types.h>

enum { BROKER_WHY = 512, BROKER_START_MS = 60000 };

typedef struct broker broker;

typedef enum broker_wipe { WIPE_GROUP, WIPE_TOPIC } broker_wipe;

typedef struct broker_kind {
  const char *name; /* as in the table of backends */
  /* Starts it on what b->dir holds, fills b->url, and b->pid where there is a server. False: `why` says
   * why not; b->missing is set when a program or library is not there. */
  bool (*start)(broker *b, char *why);
  /* Asks the server to end; NULL: it is killed. */
  void (*quit)(broker *b);
  /* Deletes a group or a topic behind the library's back; NULL: cannot be done. */
  bool (*wipe)(const char *url, const char *topic, const char *group, broker_wipe what, char *why);
  /* Writes a record as a foreign program would that knows nothing of our fields; NULL: every record of this
   * broker can be decoded. */
  bool (*write_foreign)(const char *url, const char *topic, char *why);
} broker_kind;

struct broker {
  const broker_kind *kind;
  char dir[256]; /* made by broker_start, removed by broker_stop */
  char url[512];
  int port;      /* kept over a restart; 0: none */
  pid_t pid;     /* 0: not running, or no server */
  bool missing;
};

extern const broker_kind broker_memory, broker_sqlite, broker_redis;
/* NULL: no starter of that name. */
const broker_kind *broker_kind_find(const char *name);
/* Does WM_TEST_REQUIRE (a list with commas) name it: must a missing server be a failure? */
bool broker_required(const char *name);

/* A fresh one below `parent`. NULL: why says why, *missing whether only because something is not installed. */
broker *broker_start(const broker_kind *kind, const char *parent, char *why, bool *missing);
void broker_kill(broker *b);               /* kill -9, and waits until it is gone */
bool broker_restart(broker *b, char *why); /* on its data, on its port */
void broker_stop(broker *b);               /* and removes its directory; NULL: nothing */

/* ---- for starters --------------------------------------------------------------------------------- */

/* A port that nobody uses, outside the range that the system takes for clients: a client that tries again and
 * again while the server is away could else be connected to itself. */
int broker_free_port(void);
/* Starts a program with stdin from /dev/null and both outputs to <dir>/log. 0: `why` says why not. */
pid_t broker_spawn(broker *b, char *const argv[], char *why);
/* Has the child ended? Then reaps it. */
bool broker_has_ended(broker *b);
/* A TCP connection, or -1. */
int broker_connect(int port);
bool broker_has_program(const char *name);
void broker_pause_a_little(void);
long long broker_now_ms(void);

#endif
