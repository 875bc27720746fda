/*
 * run.c - wmlua run: flags, variables and the environment file become the configuration of a host.
 * Main thread, before there are others.
 */
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "cli.h"
#include "env_file.h"
#include "host.h"
#include "log_line.h"

static bool read_setting(const wm_cli_args *args, const char *name, wm_setting *out) {
  wm_option_value value;
  if (!wm_cli_value(args, name, &value)) return false;
  out->value = value.number;
  out->fixed = value.set;
  return true;
}

/* -q and -v are shorter ways to say --log. */
static bool read_log(const wm_cli_args *args, wm_host_config *config) {
  wm_option_value format;
  if (!read_setting(args, "log", &config->log) || !wm_cli_value(args, "log-format", &format))
    return false;
  bool quiet = wm_cli_has(args, "quiet"), verbose = wm_cli_has(args, "verbose");
  if (quiet || verbose) {
    config->log.value = verbose ? WM_LOG_DEBUG : WM_LOG_ERROR;
    config->log.fixed = true;
  }
  config->log_level = (wm_log_level)config->log.value;
  config->log_json = format.number;
  return true;
}

static bool read_config(const wm_cli_args *args, wm_host_config *config) {
  wm_option_value broker, workers, no_reload, name;
  if (!wm_cli_value(args, "broker", &broker) || !wm_cli_value(args, "workers", &workers) ||
      !wm_cli_value(args, "no-reload", &no_reload) || !wm_cli_value(args, "name", &name) ||
      !read_setting(args, "reload-grace", &config->reload_grace) ||
      !read_setting(args, "load-timeout", &config->load_timeout) ||
      !read_setting(args, "burst-timeout", &config->burst_timeout) ||
      !read_setting(args, "memory-limit", &config->memory_limit) || !read_log(args, config))
    return false;
  config->broker = broker.set ? broker.text : NULL;
  config->workers = (int)workers.number;
  config->reload = !no_reload.number;
  config->name = name.text;
  config->paths = args->operands;
  config->n_paths = args->n_operands;
  config->args = args->rest;
  config->n_args = args->n_rest;
  return true;
}

static wm_prelude *read_preludes(const wm_cli_args *args, size_t *n) {
  wm_prelude *list = calloc(args->n_given + 1, sizeof *list);
  *n = 0;
  for (size_t i = 0; list && i < args->n_given; i++) {
    char letter = args->given[i].flag->letter;
    if (letter == 'e' || letter == 'l')
      list[(*n)++] = (wm_prelude){letter == 'l', args->given[i].text};
  }
  return list;
}

static bool has_code(const wm_host_config *config) {
  for (size_t i = 0; i < config->n_preludes; i++)
    if (!config->preludes[i].is_module) return true;
  return false;
}

int wm_cli_run(wm_cli_args *args) {
  const char *env_file = wm_cli_text(args, "env-file");
  wm_host_config config = {0};
  wm_error err;
  if (env_file && wm_env_file_read(env_file, &err) != WM_OK) return wm_cli_fail(args, &err);
  if (!read_config(args, &config)) return WM_EXIT_USAGE;
  wm_prelude *preludes = read_preludes(args, &config.n_preludes);
  if (!preludes) {
    wm_cli_say(args, "out of memory");
    return WM_EXIT_FAILED;
  }
  config.preludes = preludes;
  int code;
  if (!config.n_paths && !has_code(&config)) {
    code = wm_cli_misuse(args, "%s expected; nothing was named to run", args->command->operands);
  } else {
    wm_log_line_open(config.log_level, config.log_json, wm_cli_colour(args, STDERR_FILENO));
    setvbuf(stdout, NULL, _IOLBF, BUFSIZ); /* what services print is looked at while they run */
    code = wm_host_run(&config);
  }
  free(preludes);
  return code;
}
