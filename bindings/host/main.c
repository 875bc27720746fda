/*
 * main.c - wmlua: finds the command and runs it. A file in the place of a command is run with all
 * that follows as its arguments, so that scripts may begin with `#!/usr/bin/env wmlua`.
 */
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "cli/cli.h"

static const char *next_command(void *arg, size_t i) {
  (void)arg;
  return wm_cli_commands[i].name;
}

static bool is_script(const char *word) {
  size_t len = strlen(word);
  return strchr(word, '/') || (len > 4 && strcmp(word + len - 4, ".lua") == 0) ||
         access(word, F_OK) == 0;
}

static int unknown(const char *word) {
  const wm_cli_args none = {0};
  const char *near = wm_nearest(word, next_command, NULL);
  return wm_cli_misuse(&none, "'%s' is neither a command nor a file%s%s%s", word,
                       near ? "; did you mean '" : "", near ? near : "", near ? "'?" : "");
}

/* `wmlua FILE ARGS...` as `wmlua run FILE -- ARGS...`. */
static int run_script(int argc, char **argv) {
  char **longer = calloc((size_t)argc + 2, sizeof *longer), run[] = "run", end[] = "--";
  wm_cli_args args = {0};
  if (!longer) {
    wm_cli_say(&args, "out of memory");
    return WM_EXIT_FAILED;
  }
  longer[0] = run;
  longer[1] = argv[1];
  longer[2] = end;
  memcpy(longer + 3, argv + 2, (size_t)(argc - 2) * sizeof *longer);
  const wm_cli_command *command = wm_cli_command_find("run");
  int code = wm_cli_parse(&args, command, argc + 1, longer);
  if (code < 0) code = command->run(&args);
  wm_cli_args_free(&args);
  free(longer);
  return code;
}

static int run_command(const wm_cli_command *command, int argc, char **argv) {
  wm_cli_args args;
  int code = wm_cli_parse(&args, command, argc, argv);
  if (code < 0 && wm_cli_has(&args, "help")) {
    wm_cli_usage_of(stdout, command);
    code = WM_EXIT_OK;
  }
  if (code < 0) code = command->run(&args);
  wm_cli_args_free(&args);
  return code;
}

int main(int argc, char **argv) {
  signal(SIGPIPE, SIG_IGN); /* writing says EPIPE */
  if (argc < 2) {
    wm_cli_usage(stderr);
    return WM_EXIT_USAGE;
  }
  const char *word = argv[1];
  if (strcmp(word, "-h") == 0 || strcmp(word, "--help") == 0) word = "help";
  if (strcmp(word, "--version") == 0 || strcmp(word, "-V") == 0) word = "version";
  const wm_cli_command *command = wm_cli_command_find(word);
  if (command) return run_command(command, argc - 1, argv + 1);
  return is_script(word) ? run_script(argc, argv) : unknown(word);
}
