/*
 * worker.c - a thread that runs a script in a Lua state of its own, and what other threads may do
 * with it. What runs in the state is state.c.
 */
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "host.h"
#include "thread.h"

void wm_kept_free(wm_kept *list) {
  while (list) {
    wm_kept *kept = list;
    list = kept->next;
    free(kept->name);
    free(kept->text);
    free(kept);
  }
}

static void *run(void *arg) {
  wm_worker *w = arg;
  /* What a script starts inherits the mask: io.popen's children are to end by signals as usual. */
  sigset_t none;
  sigemptyset(&none);
  pthread_sigmask(SIG_SETMASK, &none, NULL);
  w->error = wm_state_run(w);
  wm_host *host = w->generation->script->host;
  atomic_store(&w->ended, true);
  wm_host_poke(host); /* w may be gone by now */
  return NULL;
}

static char *name_of(const wm_generation *g, int index) {
  char *name;
  int n = g->n_workers > 1 ? asprintf(&name, "%s, worker %d", g->script->title, index)
                           : asprintf(&name, "%s", g->script->title);
  return n < 0 ? NULL : name;
}

int wm_worker_start(wm_worker *w, wm_generation *g, int index) {
  const wm_host_config *config = g->script->host->config;
  *w = (wm_worker){.generation = g, .index = index, .name = name_of(g, index)};
  if (!w->name) return WM_NOMEM;
  pthread_mutex_init(&w->lock, NULL);
  w->limits.name = w->name;
  w->limits.burst_ms = config->burst_timeout.value;
  w->limits.memory_limit = config->memory_limit.value;
  wm_worker_fill_host(w);
  if (wm_thread_start(&w->thread, "wm-worker", run, w) == WM_OK) return WM_OK;
  pthread_mutex_destroy(&w->lock);
  free(w->name);
  return WM_NOMEM;
}

void wm_worker_post(wm_worker *w, const char *event, int value) {
  pthread_mutex_lock(&w->lock);
  if (w->box) {
    wm_lua_post(w->box, event, value);
  } else {
    w->missed = event;
    w->missed_value = value;
  }
  pthread_mutex_unlock(&w->lock);
}

void wm_worker_force(wm_worker *w) {
  wm_limits_force(&w->limits);
  wm_worker_post(w, "stop", 0); /* wakes its loop */
}

void wm_worker_free(wm_worker *w) {
  pthread_join(w->thread, NULL);
  wm_kept_free(w->kept);
  wm_kept_free(w->leaves);
  pthread_mutex_destroy(&w->lock);
  free(w->refused);
  free(w->error);
  free(w->name);
}
