/*
 * host.h - what wmlua run is made of: a host has scripts, a script has generations, a generation
 * has workers. The control thread (host.c) owns all of them; a worker's thread (worker.c) touches
 * its own worker, what has a lock or is atomic, and pokes the control thread when that should look
 * again.
 */
#ifndef WM_HOST_H
#define WM_HOST_H

#include <pthread.h>
#include <stdatomic.h>

#include "files.h"
#include "lua_limits.h"
#include "registry.h"
#include "watch.h"
#include "wm_lua.h"

typedef struct wm_host wm_host;
typedef struct wm_script wm_script;
typedef struct wm_generation wm_generation;
typedef struct wm_worker wm_worker;

/* What a flag or variable may say, and else the script by wm.configure. */
typedef struct wm_setting {
  atomic_int_fast64_t value;
  bool fixed; /* by flag or environment: the script is not asked */
} wm_setting;

/* What runs before the script's own chunk in each state: `-e CODE` or `-l MODULE`. */
typedef struct wm_prelude {
  bool is_module;
  const char *text;
} wm_prelude;

/* ---- workers -------------------------------------------------------------------------------- */

/* Plain data that one generation leaves to the next, by name. */
typedef struct wm_kept {
  char *name, *text;
  size_t len;
  struct wm_kept *next;
} wm_kept;

struct wm_worker {
  wm_generation *generation;
  int index; /* from 1 */
  char *name;
  pthread_t thread;
  wm_lua_host lua_host;
  wm_limits limits;

  /* Set by its thread, read by the control thread. */
  atomic_bool loaded; /* its chunk has returned or waits */
  char *refused;      /* before that: a subscription that it asked for and cannot have */
  atomic_bool keeps;  /* it uses wm.keep */
  atomic_int answers; /* to "start" and "keep" */
  atomic_bool ended;  /* its state is closed; what is below does not change any more */
  char *error;        /* why the script failed; NULL: it did not */
  wm_kept *leaves;    /* between "keep" and its answer */

  /* Set by the control thread before "start". */
  wm_kept *kept;

  pthread_mutex_t lock; /* of what other threads use to reach the state */
  wm_lua_mailbox *box;  /* NULL: not yet, or closed */
  const char *missed;   /* the last event from before there was one; NULL: none */
  int missed_value;
};

/* Starts the thread; WM_OK, WM_NOMEM. */
int wm_worker_start(wm_worker *w, wm_generation *g, int index);
/* Tells its state an event of wm_lua.h, when it has got so far as to hear it. */
void wm_worker_post(wm_worker *w, const char *event, int value);
/* Unwinds its state, whatever that does; C code goes on until it returns. */
void wm_worker_force(wm_worker *w);
void wm_worker_free(wm_worker *w); /* that has ended: joins its thread */
void wm_kept_free(wm_kept *list);

/* state.c: opens the state, runs the script, closes the state. On the worker's thread. Returns the
 * text of the error, to be freed, or NULL. */
char *wm_state_run(wm_worker *w);
/* The callbacks of a wm_lua_host whose arg is a wm_worker. */
void wm_worker_fill_host(wm_worker *w);

/* configure.c: wm.configure of what is the host's, from a state; as in wm_lua_host. */
int wm_worker_configure(void *worker, const char *name, const char *value, wm_error *err);
/* Whether a flag or a variable wins over it. */
bool wm_worker_is_fixed(const wm_worker *w, const char *name);

/* ---- generations ---------------------------------------------------------------------------- */

typedef enum wm_phase {
  WM_LOADING,  /* its chunks run for the first time */
  WM_OPENING,  /* what it wants that nobody had is being opened */
  WM_KEEPING,  /* the old one is asked for what it keeps */
  WM_STARTING, /* it takes that over */
  WM_LIVE,
  WM_RETIRING, /* replaced; finishes what it has in hand */
  WM_ENDING    /* closes all it has, then ends */
} wm_phase;

struct wm_generation {
  wm_script *script;
  unsigned number;
  wm_phase phase;
  int64_t deadline; /* of the phase; monotonic ms */
  int64_t since;    /* the phase began */
  int urgency;      /* of ending: 0 asked, 1 forced */
  int asked;        /* answers that each worker owes in all */
  wm_holder holder;
  wm_files *files;
  wm_worker *workers;
  int n_workers;
  wm_generation *next; /* among those of the script that end */
};

struct wm_script {
  wm_host *host;
  char *path;        /* NULL: only preludes */
  const char *title; /* as logs call it */
  unsigned numbers;  /* given so far */
  wm_generation *live, *next;
  wm_generation *old;    /* replaced, not ended yet */
  wm_generation *ending; /* a list: failed, or the script ends */
  wm_files
      *past;     /* of a generation that failed or ran to its end: what changes there counts, too */
  bool written;  /* a file of it was written, and closed */
  bool changed;  /* a generation is wanted */
  bool finished; /* it has run to its end, or failed at once */
  bool in_directory;  /* it was found in a directory that was given */
  int64_t gone_since; /* its file was not there any more, then; 0: it is there */
  wm_setting reload_grace, load_timeout;
  wm_script *next_script;
};

/* generation.c; the control thread. */
/* Moves the script on; returns the monotonic ms at which it wants to be called again, INT64_MAX:
 * when poked. */
int64_t wm_script_step(wm_script *s, int64_t now);
/* All its generations are to end within timeout_ms. */
void wm_script_stop(wm_script *s, int timeout_ms);
/* Nothing of it runs any more. */
bool wm_script_over(const wm_script *s);
bool wm_script_changed(const wm_script *s, bool replaced);
bool wm_script_fresh(const wm_script *s, int ms);
bool wm_script_happened(const wm_script *s, const char *dir, const char *name);
/* Adds its files to watch. */
void wm_script_watch(const wm_script *s, wm_watch *watch);
void wm_script_free(wm_script *s);

/* ---- the host ------------------------------------------------------------------------------- */

typedef struct wm_host_config {
  const char *broker; /* by flag or environment; NULL: neither */
  const char *name;   /* "" = none */
  int workers;
  bool reload;
  char **paths; /* files and directories */
  size_t n_paths;
  char **args;
  size_t n_args;
  const wm_prelude *preludes;
  size_t n_preludes;
  wm_log_level log_level;
  bool log_json;
  wm_setting log, burst_timeout, memory_limit, reload_grace, load_timeout;
} wm_host_config;

struct wm_host {
  const wm_host_config *config;
  void (*adapt)(wm_lua_host *host); /* changes what each state is told; NULL: nothing */
  wm_registry *registry;
  wm_watch *watch; /* NULL: files are not watched */
  wm_script *scripts;
  int poke_fd;
  int64_t check_at; /* files are looked at then; 0: nothing has happened */
  bool stopping;
  int64_t stop_until;
  int code;       /* exit code, as far as it is known */
  bool abandoned; /* a thread could not be ended: it goes with the process */

  atomic_bool poked;
  atomic_bool files_added;
  atomic_int exit_asked; /* by os.exit: 1 + its number; 0: it was not */
};

/* Runs until all is done; returns the exit code. */
int wm_host_run(const wm_host_config *config);

/* Any thread. */
void wm_host_poke(wm_host *h);
void wm_host_exit(wm_host *h, int code); /* os.exit */
/* The control thread: a script has failed with text, for a reason of libwm or WM_OK; the host
 * ends. */
void wm_host_failed(wm_host *h, const char *text, int reason);

#endif
