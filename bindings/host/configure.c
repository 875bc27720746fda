/*
 * configure.c - wm.configure of what is the host's: settings that a script may give where no flag
 * or variable of the environment does. The worker's thread; what it sets is atomic.
 */
#include <string.h>

#include "error.h"
#include "host.h"
#include "log_line.h"
#include "options.h"

/* A setting as it is for one worker. */
typedef struct place {
  wm_option_def def;
  const wm_setting *outer;     /* the host's own */
  atomic_int_fast64_t *target; /* NULL: the level of the log, which is the process's */
} place;

static bool find(const wm_worker *w, const char *name, place *out) {
  wm_script *s = w->generation->script;
  wm_worker *own = (wm_worker *)w;
  const wm_host_config *config = s->host->config;
  const place places[] = {
      {{.name = "reload_grace", .type = WM_OPT_DURATION},
       &config->reload_grace,
       &s->reload_grace.value},
      {{.name = "load_timeout", .type = WM_OPT_DURATION},
       &config->load_timeout,
       &s->load_timeout.value},
      {{.name = "burst_timeout", .type = WM_OPT_DURATION},
       &config->burst_timeout,
       &own->limits.burst_ms},
      {{.name = "memory_limit", .type = WM_OPT_SIZE},
       &config->memory_limit,
       &own->limits.memory_limit},
      {{.name = "log", .type = WM_OPT_CHOICE, .choices = "debug|info|warn|error"},
       &config->log,
       NULL},
  };
  for (size_t i = 0; i < sizeof places / sizeof *places; i++)
    if (strcmp(places[i].def.name, name) == 0) {
      *out = places[i];
      return true;
    }
  return false;
}

static const char broker_name[] = "broker";

bool wm_worker_is_fixed(const wm_worker *w, const char *name) {
  place p;
  if (strcmp(name, broker_name) == 0) return w->generation->script->host->config->broker != NULL;
  return find(w, name, &p) && p.outer->fixed;
}

/* The module itself uses it. */
static void tell_broker(const wm_worker *w, const char *url) {
  char masked[WM_ERROR_MAX];
  if (wm_worker_is_fixed(w, broker_name) || w->index != 1) return;
  wm_url_mask(url, masked, sizeof masked);
  wm_log_line(WM_LOG_INFO, "%s: broker is %s", w->name, masked);
}

int wm_worker_configure(void *worker, const char *name, const char *value, wm_error *err) {
  const wm_worker *w = worker;
  wm_option_value parsed;
  place p;
  if (strcmp(name, broker_name) == 0) {
    tell_broker(w, value);
    return WM_OK;
  }
  if (!find(w, name, &p)) return wm_fail_with(err, WM_BAD_INPUT, "unknown setting '%s'", name);
  int code = wm_option_parse(&p.def, value, &parsed, err);
  if (code != WM_OK || p.outer->fixed) return code;
  if (p.target)
    atomic_store(p.target, parsed.number);
  else
    wm_log_line_least((wm_log_level)parsed.number);
  return WM_OK;
}
