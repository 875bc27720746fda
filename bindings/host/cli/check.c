/*
 * check.c - wmlua check: loads scripts as a worker would, with a host that opens nothing and lets
 * nothing wait, and tells what a broker is. Main thread, with one worker thread at a time.
 */
#include <poll.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include "cli.h"
#include "clock.h"
#include "env_file.h"
#include "host.h"
#include "json_line.h"
#include "log_line.h"

enum { FORCE_MS = 2000 /* for a script that is unwound */ };

/* The host of one script that is checked. */
typedef struct check {
  wm_host host; /* first: what a worker's script leads to */
  wm_script script;
  wm_generation generation;
  wm_worker worker;
  const wm_cli_args *args;
  size_t problems; /* the worker's thread, then ours */
} check;

static check *check_of(void *worker) {
  return (check *)((wm_worker *)worker)->generation->script->host;
}

/* ---- results -------------------------------------------------------------------------------- */

/* text: "file:line: what", or "file: what". */
static void print_json(const char *file, const char *text) {
  size_t len = strlen(file);
  long line = 0;
  if (strncmp(text, file, len) == 0 && text[len] == ':') {
    char *end;
    line = strtol(text + len + 1, &end, 10);
    text = *end == ':' && line > 0 ? end + 1 : text + len + 1;
    text += strspn(text, " ");
  }
  json_t *object = json_pack("{so so}", "file", wm_json_text((wm_slice){file, strlen(file)}),
                             "text", wm_json_text((wm_slice){text, strlen(text)}));
  if (line > 0) json_object_set_new(object, "line", json_integer(line));
  char *out = object ? json_dumps(object, JSON_COMPACT) : NULL;
  if (out) wm_cli_putf("%s\n", out);
  free(out);
  json_decref(object);
}

/* The first line of text; the traceback below it is of our own making, mostly. */
static void report(check *c, const char *text) {
  char *first = strndup(text, strcspn(text, "\n"));
  c->problems++;
  if (!first) return;
  if (wm_cli_has(c->args, "json"))
    print_json(c->script.path, first);
  else
    wm_cli_putf("%s\n", wm_cli_has(c->args, "verbose") ? text : first);
  free(first);
}

/* ---- the host that opens nothing ------------------------------------------------------------ */

static int subscribe(void *arg, const char *url, const char *topic, const wm_options *opts,
                     const char *where, wm_consumer **con, wm_done_cb cb, void *cb_arg,
                     wm_error *err) {
  int code = wm_check(url, topic, opts, false, err);
  if (code != WM_OK) {
    char text[WM_ERROR_MAX + 256];
    snprintf(text, sizeof text, "%s: %s", where, err->text);
    report(check_of(arg), text);
    return code;
  }
  code = wm_consumer_open(con, NULL, err);
  if (code == WM_OK) cb(cb_arg, WM_OK, NULL);
  return code;
}

static void unsubscribe(void *arg, wm_consumer *con, int timeout_ms, wm_done_cb cb, void *cb_arg) {
  (void)arg;
  (void)con;
  (void)timeout_ms;
  if (cb) cb(cb_arg, WM_OK, NULL);
}

static bool waiting(void *arg) {
  (void)arg;
  return false;
}

static int configure(void *arg, const char *name, const char *value, wm_error *err) {
  check *c = check_of(arg);
  int code = wm_worker_configure(arg, name, value, err);
  if (code == WM_OK && wm_worker_is_fixed(arg, name))
    wm_cli_say(c->args, "%s: wm.configure sets %s, but a flag or variable of the environment wins",
               c->script.path, name);
  return code;
}

/* Script and module tell their own; what is wrong comes through subscribe or the end of the run. */
static void log_line(void *arg, wm_log_level level, const char *line) {
  if (wm_cli_has(check_of(arg)->args, "verbose")) wm_log_line_raw(level, line);
}

static void adapt(wm_lua_host *host) {
  host->subscribe = subscribe;
  host->unsubscribe = unsubscribe;
  host->waiting = waiting;
  host->configure = configure;
  host->log = log_line;
  host->watch = NULL;
}

/* ---- a script ------------------------------------------------------------------------------- */

static bool wait_ended(check *c, int64_t ms) {
  int64_t until = wm_now_ms() + ms;
  struct pollfd fd = {.fd = c->host.poke_fd, .events = POLLIN};
  while (!atomic_load(&c->worker.ended)) {
    int64_t left = until - wm_now_ms();
    if (left <= 0) return false;
    eventfd_t ignored;
    if (poll(&fd, 1, (int)left) > 0) eventfd_read(fd.fd, &ignored);
    atomic_store(&c->host.poked, false);
  }
  return true;
}

/* False: its thread could not be ended. */
static bool run(check *c) {
  char text[512];
  if (wm_worker_start(&c->worker, &c->generation, 1) != WM_OK) {
    report(c, "no thread could be started");
    return true;
  }
  bool in_time = wait_ended(c, c->host.config->load_timeout.value), ended = in_time;
  if (!in_time) {
    snprintf(text, sizeof text, "%s: has not loaded within load_timeout", c->script.path);
    report(c, text);
    wm_worker_force(&c->worker);
    ended = wait_ended(c, FORCE_MS);
  } else if (c->worker.error) {
    report(c, c->worker.error);
  }
  if (ended) wm_worker_free(&c->worker);
  return ended;
}

static bool check_script(const wm_cli_args *args, const wm_host_config *config, char *path,
                         int *code) {
  check *c = calloc(1, sizeof *c);
  if (!c) return false;
  c->args = args;
  c->host = (wm_host){
      .config = config, .adapt = adapt, .poke_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK)};
  c->script = (wm_script){.host = &c->host, .path = path, .title = path};
  c->generation =
      (wm_generation){.script = &c->script, .number = 1, .n_workers = 1, .files = wm_files_new()};
  bool ended = run(c);
  if (c->problems)
    *code = WM_EXIT_FAILED;
  else
    wm_cli_say(args, "%s: ok", path);
  if (!ended) return false;
  wm_files_release(c->generation.files);
  close(c->host.poke_fd);
  free(c);
  return true;
}

/* ---- a broker ------------------------------------------------------------------------------- */

static void tell(void *arg, const char *name, const char *text, bool warning) {
  if (wm_cli_has(arg, "json")) {
    json_t *object = json_pack("{ss so sb}", "name", name, "text",
                               wm_json_text((wm_slice){text, strlen(text)}), "warning", warning);
    char *out = object ? json_dumps(object, JSON_COMPACT) : NULL;
    if (out) wm_cli_putf("%s\n", out);
    free(out);
    json_decref(object);
    return;
  }
  wm_cli_putf("%-12s%s%s\n", name, warning ? "warning: " : "", text);
}

static int probe(wm_cli_args *args) {
  wm_error err;
  const char *url = wm_cli_broker(args);
  if (!url) return WM_EXIT_USAGE;
  return wm_probe(url, tell, args, &err) == WM_OK ? WM_EXIT_OK : wm_cli_fail(args, &err);
}

/* ---- the command ---------------------------------------------------------------------------- */

static bool read_config(const wm_cli_args *args, wm_host_config *config) {
  wm_option_value broker, load_timeout;
  if (!wm_cli_value(args, "broker", &broker) || !wm_cli_value(args, "load-timeout", &load_timeout))
    return false;
  config->broker = broker.set ? broker.text : NULL;
  config->name = "";
  config->workers = 1;
  config->log_level = WM_LOG_DEBUG;
  config->load_timeout.value = load_timeout.number;
  config->load_timeout.fixed = load_timeout.set;
  return true;
}

int wm_cli_check(wm_cli_args *args) {
  const char *env_file = wm_cli_text(args, "env-file");
  wm_host_config config = {0};
  wm_error err;
  if (env_file && wm_env_file_read(env_file, &err) != WM_OK) return wm_cli_fail(args, &err);
  if (!read_config(args, &config)) return WM_EXIT_USAGE;
  wm_cli_log(args);
  int code = WM_EXIT_OK;
  bool all_ended = true;
  if (args->n_operands && wm_watchdog_start() != 0) {
    wm_cli_say(args, "no thread could be started");
    return WM_EXIT_FAILED;
  }
  for (size_t i = 0; i < args->n_operands; i++) {
    if (access(args->operands[i], F_OK) != 0) {
      wm_cli_say(args, "%s: no such file", args->operands[i]);
      code = WM_EXIT_NOT_FOUND;
    } else if (!check_script(args, &config, args->operands[i], &code)) {
      all_ended = false;
    }
  }
  if (!args->n_operands || wm_cli_has(args, "broker")) {
    int probed = probe(args);
    if (code == WM_EXIT_OK) code = probed;
  }
  code = wm_cli_printed(args, code);
  if (!all_ended) _exit(code);
  wm_watchdog_stop();
  return code;
}
