/*
 * generation.c - how a script comes to a new generation: loads it beside the live one, takes over
 * what that keeps and its subscriptions, and lets it end. The control thread; each step looks at
 * what the workers have said so far and never waits.
 */
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "clock.h"
#include "host.h"
#include "log_line.h"

enum {
  OPEN_WAIT_MS =
      2000, /* for new subscriptions before a switch: a wrong one must not replace a right one */
  END_SLACK_MS = 1000, /* beyond the time that a generation was given to end */
  FORCE_MS = 2000      /* for one that was unwound */
};

/* ---- looking at workers --------------------------------------------------------------------- */

static bool ended(const wm_generation *g) {
  for (int i = 0; i < g->n_workers; i++)
    if (!atomic_load(&g->workers[i].ended)) return false;
  return true;
}

static bool all_loaded(const wm_generation *g) {
  for (int i = 0; i < g->n_workers; i++)
    if (!atomic_load(&g->workers[i].loaded) && !atomic_load(&g->workers[i].ended)) return false;
  return true;
}

static bool all_answered(const wm_generation *g) {
  for (int i = 0; i < g->n_workers; i++)
    if (atomic_load(&g->workers[i].answers) < g->asked && !atomic_load(&g->workers[i].ended))
      return false;
  return true;
}

static bool keeps(const wm_generation *g) {
  for (int i = 0; i < g->n_workers; i++)
    if (atomic_load(&g->workers[i].keeps) && !atomic_load(&g->workers[i].ended)) return true;
  return false;
}

/* Why one of them has failed; NULL: none has. */
static const char *error_of(const wm_generation *g) {
  for (int i = 0; i < g->n_workers; i++)
    if (atomic_load(&g->workers[i].ended) && g->workers[i].error) return g->workers[i].error;
  return NULL;
}

/* What one of them asked for and cannot have; NULL: nothing. After they have loaded. */
static const char *refused(const wm_generation *g) {
  for (int i = 0; i < g->n_workers; i++)
    if (g->workers[i].refused) return g->workers[i].refused;
  return NULL;
}

static void post(wm_generation *g, const char *event, int value) {
  for (int i = 0; i < g->n_workers; i++)
    wm_worker_post(&g->workers[i], event, value);
}

/* An event that each answers. */
static void ask(wm_generation *g, const char *event) {
  g->asked++;
  post(g, event, 0);
}

/* ---- coming and going ----------------------------------------------------------------------- */

static void enter(wm_generation *g, wm_phase phase, int64_t now, int64_t ms) {
  g->phase = phase;
  g->since = now;
  g->deadline = ms == INT64_MAX ? INT64_MAX : now + ms;
}

static void free_generation(wm_generation *g) {
  wm_registry_forget(g->script->host->registry, &g->holder);
  for (int i = 0; i < g->n_workers; i++)
    wm_worker_free(&g->workers[i]);
  free(g->workers);
  wm_files_release(g->files);
  free(g);
}

static wm_generation *new_generation(wm_script *s) {
  wm_generation *g = calloc(1, sizeof *g);
  int n = s->host->config->workers;
  if (!g) return NULL;
  g->script = s;
  g->holder.script = s;
  g->number = ++s->numbers;
  g->files = wm_files_new();
  g->workers = calloc((size_t)n, sizeof *g->workers);
  if (g->files && g->workers) {
    if (s->path) wm_files_add(g->files, s->path, NULL); /* also if it is not there yet */
    g->n_workers = n;
    return g;
  }
  wm_files_release(g->files);
  free(g->workers);
  free(g);
  return NULL;
}

/* Lets g end within timeout_ms; all: with it its whole script. */
static void end_generation(wm_generation *g, int timeout_ms, bool all, int64_t now) {
  wm_script *s = g->script;
  wm_registry *registry = s->host->registry;
  if (all)
    wm_registry_stop(registry, &g->holder);
  else
    wm_registry_retire(registry, &g->holder);
  post(g, "stop", timeout_ms);
  enter(g, WM_ENDING, now, (int64_t)timeout_ms + END_SLACK_MS);
  g->urgency = 0;
  g->next = s->ending;
  s->ending = g;
}

/* What it has read is still looked at, though it is gone. */
static void keep_files(wm_script *s, wm_generation *g) {
  wm_files_release(s->past);
  s->past = wm_files_retain(g->files);
}

/* ---- failing -------------------------------------------------------------------------------- */

static void tell_failure(const wm_script *s, const wm_generation *g, const char *text) {
  int first = (int)strcspn(text, "\n");
  if (s->live)
    wm_log_line(
        WM_LOG_ERROR,
        "reload: generation %u failed, generation %u goes on: %.*s; correct and save the file%s",
        g->number, s->live->number, first, text, text + first);
  else
    wm_log_line(WM_LOG_ERROR, "reload: generation %u failed: %.*s; correct and save the file%s",
                g->number, first, text, text + first);
}

static void fail_next(wm_script *s, const char *text, int64_t now) {
  wm_generation *g = s->next;
  s->next = NULL;
  keep_files(s, g);
  if (g->number == 1) {
    s->finished = true;
    wm_host_failed(s->host, text, g->holder.failure);
  } else {
    tell_failure(s, g, text);
  }
  if (s->live) wm_registry_resume(s->host->registry, &s->live->holder);
  end_generation(g, 0, false, now);
}

static void fail_late(wm_script *s, const char *what, int64_t now) {
  char text[256];
  snprintf(text, sizeof text, "%s: %s", s->title, what);
  fail_next(s, text, now);
}

/* ---- the next generation -------------------------------------------------------------------- */

static void begin(wm_script *s, int64_t now) {
  s->changed = false;
  s->finished = false;
  wm_generation *g = new_generation(s);
  if (!g) {
    wm_log_line(WM_LOG_ERROR, "%s: out of memory for a new generation", s->title);
    return;
  }
  s->next = g;
  enter(g, WM_LOADING, now, atomic_load(&s->load_timeout.value));
  wm_log_line(WM_LOG_DEBUG, "%s: loading generation %u", s->title, g->number);
  for (int i = 0; i < g->n_workers; i++) {
    if (wm_worker_start(&g->workers[i], g, i + 1) == WM_OK) continue;
    g->n_workers = i;
    fail_late(s, "no thread could be started; raise the limit (ulimit -u)", now);
    return;
  }
}

static void load(wm_script *s, wm_generation *g, int64_t now) {
  if (all_loaded(g) && refused(g)) {
    fail_next(s, refused(g), now);
  } else if (all_loaded(g)) {
    wm_registry_open(s->host->registry, &g->holder);
    enter(g, WM_OPENING, now, s->live ? OPEN_WAIT_MS : 0);
  } else if (now >= g->deadline) {
    fail_late(s,
              "has not loaded within load_timeout: its main chunk neither returned nor waits in a "
              "call of wm",
              now);
  }
}

static void open_subscriptions(wm_script *s, wm_generation *g, int64_t now) {
  wm_error err;
  int code = wm_registry_opened(s->host->registry, &g->holder, &err);
  if (code == WM_TIMEOUT && now < g->deadline) return;
  if (code != WM_OK && code != WM_TIMEOUT && s->live) {
    fail_next(s, err.text, now);
    return;
  }
  bool asks = s->live && keeps(s->live);
  if (asks) {
    wm_registry_pause(s->host->registry, &s->live->holder);
    ask(s->live, "keep");
  }
  enter(g, WM_KEEPING, now, asks ? atomic_load(&s->reload_grace.value) : 0);
}

static void take_kept(wm_script *s, wm_generation *g, int64_t now) {
  wm_generation *old = s->live;
  if (old && !all_answered(old) && now < g->deadline) return;
  for (int i = 0; old && i < g->n_workers; i++) {
    wm_worker *from = &old->workers[i], *to = &g->workers[i];
    if (atomic_load(&from->answers) < old->asked) {
      if (!atomic_load(&from->ended))
        wm_log_line(
            WM_LOG_WARN,
            "%s: computes on and does not give what wm.keep holds; generation %u begins without",
            from->name, g->number);
      continue;
    }
    to->kept = from->leaves;
    from->leaves = NULL;
  }
  ask(g, "start");
  enter(g, WM_STARTING, now, atomic_load(&s->load_timeout.value));
}

static void tell_switch(const wm_script *s, const wm_generation *g, const wm_generation *old,
                        int64_t now) {
  if (old)
    wm_log_line(
        WM_LOG_INFO,
        "%s: generation %u is live, generation %u finishes what it has in hand (switch: %lld ms)",
        s->title, g->number, old->number, (long long)(now - g->since));
  else
    wm_log_line(WM_LOG_INFO, "%s: generation %u is live (%d worker%s)", s->title, g->number,
                g->n_workers, g->n_workers == 1 ? "" : "s");
}

static void start(wm_script *s, wm_generation *g, int64_t now) {
  if (!all_answered(g)) {
    if (now >= g->deadline)
      fail_late(s, "did not take over within load_timeout: its main chunk computes on", now);
    return;
  }
  wm_generation *old = s->live;
  wm_registry_switch(s->host->registry, &g->holder);
  tell_switch(s, g, old, wm_now_ms());
  s->live = g;
  s->next = NULL;
  enter(g, WM_LIVE, now, INT64_MAX);
  wm_files_release(s->past);
  s->past = NULL;
  if (!old) return;
  wm_registry_retire(s->host->registry, &old->holder);
  post(old, "retire", 0);
  s->old = old;
  enter(old, WM_RETIRING, now, atomic_load(&s->reload_grace.value));
}

static void step_next(wm_script *s, int64_t now) {
  static void (*const steps[])(wm_script * s, wm_generation * g,
                               int64_t now) = {[WM_LOADING] = load,
                                               [WM_OPENING] = open_subscriptions,
                                               [WM_KEEPING] = take_kept,
                                               [WM_STARTING] = start};
  wm_phase before;
  do {
    wm_generation *g = s->next;
    const char *error = error_of(g);
    if (error) {
      fail_next(s, error, now);
      return;
    }
    before = g->phase;
    steps[before](s, g, now);
  } while (s->next && s->next->phase != before);
}

/* ---- the others ----------------------------------------------------------------------------- */

/* A live one whose workers have all come to their end, or one of them to a bad one. */
static void step_live(wm_script *s) {
  wm_generation *g = s->live;
  const char *error = error_of(g);
  if (!error && !ended(g)) return;
  if (error) {
    wm_host_failed(s->host, error, g->holder.failure); /* which ends this one with all others */
    return;
  }
  if (s->next) return; /* which will take its place */
  s->live = NULL;
  s->finished = true;
  keep_files(s, g);
  free_generation(g);
}

static void step_old(wm_script *s, int64_t now) {
  wm_generation *g = s->old;
  const char *error = error_of(g);
  if (error && !g->urgency) {
    g->urgency = 1;
    wm_log_line(WM_LOG_ERROR, "%s: generation %u ended badly: %s", s->title, g->number, error);
  }
  if (ended(g)) {
    wm_log_line(WM_LOG_DEBUG, "%s: generation %u has ended", s->title, g->number);
    s->old = NULL;
    free_generation(g);
  } else if (now >= g->deadline) {
    size_t n = wm_registry_reclaim(s->host->registry, &g->holder);
    wm_log_line(WM_LOG_WARN,
                "%s: generation %u is not done within reload_grace; %zu message%s it had in hand "
                "%s handed out again",
                s->title, g->number, n, n == 1 ? "" : "s", n == 1 ? "is" : "are");
    s->old = NULL;
    end_generation(g, 0, false, now);
  }
}

/* True: it stays in the list. */
static bool step_ending(wm_script *s, wm_generation *g, int64_t now) {
  if (ended(g)) {
    free_generation(g);
    return false;
  }
  if (now < g->deadline) return true;
  if (!g->urgency) {
    for (int i = 0; i < g->n_workers; i++)
      if (!atomic_load(&g->workers[i].ended)) wm_worker_force(&g->workers[i]);
    g->urgency = 1;
    g->deadline = now + FORCE_MS;
    return true;
  }
  wm_log_line(WM_LOG_ERROR,
              "%s: generation %u cannot be ended, it is in a call of C code; it is left alone",
              s->title, g->number);
  wm_registry_forget(s->host->registry, &g->holder);
  s->host->abandoned = true;
  return false;
}

static void step_endings(wm_script *s, int64_t now) {
  for (wm_generation **at = &s->ending; *at;) {
    wm_generation *g = *at, *next = g->next;
    if (step_ending(s, g, now))
      at = &g->next;
    else
      *at = next;
  }
}

static int64_t sooner(int64_t at, const wm_generation *g) {
  return g && g->deadline < at ? g->deadline : at;
}

int64_t wm_script_step(wm_script *s, int64_t now) {
  if (s->next) step_next(s, now);
  if (s->live) step_live(s);
  if (s->old) step_old(s, now);
  step_endings(s, now);
  if (s->changed && !s->next && !s->old && !s->ending && !s->host->stopping) begin(s, now);
  int64_t at = sooner(sooner(sooner(INT64_MAX, s->next), s->live), s->old);
  for (const wm_generation *g = s->ending; g; g = g->next)
    at = sooner(at, g);
  return at;
}

/* ---- for the host --------------------------------------------------------------------------- */

void wm_script_stop(wm_script *s, int timeout_ms) {
  wm_generation **all[] = {&s->next, &s->old, &s->live};
  int64_t now = wm_now_ms();
  for (size_t i = 0; i < sizeof all / sizeof *all; i++) {
    wm_generation *g = *all[i];
    *all[i] = NULL;
    /* What only loads has nothing in hand. */
    if (g) end_generation(g, g->phase < WM_LIVE ? 0 : timeout_ms, true, now);
  }
}

bool wm_script_over(const wm_script *s) { return !s->live && !s->next && !s->old && !s->ending; }

/* Whose files count: of what is live or loads, and of what failed last. */
#define EACH_FILES(s, files)                                                                       \
  for (wm_files * list[] = {(s)->live ? (s)->live->files : NULL,                                   \
                            (s)->next ? (s)->next->files : NULL, (s)->past},                       \
                  **at = list, *files = *at;                                                       \
       at < list + 3; files = ++at < list + 3 ? *at : NULL)

bool wm_script_happened(const wm_script *s, const char *dir, const char *name) {
  bool concerns = false;
  EACH_FILES(s, files) {
    if (files && wm_files_happened(files, dir, name)) concerns = true;
  }
  return concerns;
}

/* Compared with what was read last. */
bool wm_script_changed(const wm_script *s, bool replaced) {
  wm_files *latest = s->next ? s->next->files : s->past ? s->past : s->live ? s->live->files : NULL;
  return latest && wm_files_changed(latest, replaced);
}

bool wm_script_fresh(const wm_script *s, int ms) {
  EACH_FILES(s, files) {
    if (files && wm_files_fresh(files, ms)) return true;
  }
  return false;
}

void wm_script_watch(const wm_script *s, wm_watch *watch) {
  const char *path;
  EACH_FILES(s, files) {
    for (size_t i = 0; files && (path = wm_files_at(files, i)); i++)
      wm_watch_add(watch, path);
  }
}

void wm_script_free(wm_script *s) {
  wm_files_release(s->past);
  free(s->path);
  free(s);
}
