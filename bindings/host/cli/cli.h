/*
 * cli.h - what the commands of wmlua share: the one table of flags that parsing and help read, exit
 * codes, and how results and errors are written. Used by the main thread only.
 */
#ifndef WM_CLI_H
#define WM_CLI_H

#include <stdio.h>

#include "options.h"
#include "wm.h"

enum wm_exit {
  WM_EXIT_OK = 0,
  WM_EXIT_FAILED = 1, /* script, check or operation */
  WM_EXIT_USAGE = 2,
  WM_EXIT_UNREACHABLE = 3, /* or access denied */
  WM_EXIT_NOT_FOUND = 4,   /* or not within the time given */
  WM_EXIT_SIGNAL = 128     /* + its number */
};

#define WM_DEFAULT_BROKER "sqlite:wmlua.db"

/* ---- commands and flags --------------------------------------------------------------------- */

/* Which commands a flag belongs to. */
enum {
  WM_CMD_RUN = 1,
  WM_CMD_PUB = 2,
  WM_CMD_SUB = 4,
  WM_CMD_CHECK = 8,
  WM_CMD_VERSION = 16,
  WM_CMD_HELP = 32,
  WM_CMD_ALL = 63
};

typedef struct wm_cli_flag {
  wm_option_def def;       /* name without dashes; BOOL: takes no value */
  char letter;             /* 0: none */
  const char *placeholder; /* what help calls its value */
  unsigned commands;
  bool setting; /* also the environment variable WM_<NAME> */
} wm_cli_flag;

extern const wm_cli_flag wm_cli_flags[]; /* def.name NULL ends it */

/* What was given on the command line. Texts are borrowed from argv and the environment. */
typedef struct wm_cli_given {
  const wm_cli_flag *flag;
  const char *text; /* "" for BOOL */
} wm_cli_given;

typedef struct wm_cli_command wm_cli_command;

typedef struct wm_cli_args {
  const wm_cli_command *command;
  wm_cli_given *given; /* in order, as often as they were */
  size_t n_given;
  char **operands;
  size_t n_operands;
  char **rest; /* what followed "--" */
  size_t n_rest;
} wm_cli_args;

struct wm_cli_command {
  const char *name;
  const char *operands; /* as usage shows them */
  const char *summary;
  const char *details;           /* more paragraphs for help; NULL: none */
  unsigned bit;                  /* WM_CMD_... */
  bool own_rest;                 /* what follows "--" is not among the operands */
  size_t least, most;            /* operands */
  int (*run)(wm_cli_args *args); /* an exit code */
};

extern const wm_cli_command wm_cli_commands[]; /* name NULL ends it */
const wm_cli_command *wm_cli_command_find(const char *name);

int wm_cli_run(wm_cli_args *args);
int wm_cli_pub(wm_cli_args *args);
int wm_cli_sub(wm_cli_args *args);
int wm_cli_check(wm_cli_args *args);
int wm_cli_version(wm_cli_args *args);
int wm_cli_help(wm_cli_args *args);

/* Reads argv (without the command's name), says what is wrong with it. An exit code; -1: go on. */
int wm_cli_parse(wm_cli_args *args, const wm_cli_command *command, int argc, char **argv);
void wm_cli_args_free(wm_cli_args *args);

/* The value of a flag of this command: flag > environment > default. `set` is false for the
 * default. The environment is checked here: false, after saying so, when it cannot be. */
bool wm_cli_value(const wm_cli_args *args, const char *name, wm_option_value *out);
/* For what wm_cli_parse has checked and the environment cannot give. */
bool wm_cli_has(const wm_cli_args *args, const char *name);
const char *wm_cli_text(const wm_cli_args *args, const char *name); /* NULL: not given */
int64_t wm_cli_number(const wm_cli_args *args, const char *name);   /* or its default */

/* The broker's URL: flag > WM_BROKER > the default, which is named on stderr. NULL, after saying
 * so: wrong. */
const char *wm_cli_broker(const wm_cli_args *args);

/* The environment variable of a setting. */
void wm_cli_variable(const char *flag, char *out, size_t size);

/* ---- help ----------------------------------------------------------------------------------- */

void wm_cli_usage(FILE *out); /* all commands */
void wm_cli_usage_of(FILE *out, const wm_cli_command *command);

/* ---- results and errors --------------------------------------------------------------------- */

/* "wmlua COMMAND: text" on stderr; args NULL: "wmlua: text". */
void wm_cli_say(const wm_cli_args *args, const char *fmt, ...) WM_PRINTF(2, 3);
/* The same for wrong usage, with where to read on. Returns WM_EXIT_USAGE. */
int wm_cli_misuse(const wm_cli_args *args, const char *fmt, ...) WM_PRINTF(2, 3);
/* Says err; returns the exit code of its code. */
int wm_cli_fail(const wm_cli_args *args, const wm_error *err);
int wm_cli_exit_of(int code);

/* Whether stdout gets colour: --color, NO_COLOR, a terminal. */
bool wm_cli_colour(const wm_cli_args *args, int fd);
/* Results, gathered and written when they are many or wm_cli_flush is called. */
void wm_cli_put(const void *data, size_t len);
void wm_cli_putf(const char *fmt, ...) WM_PRINTF(1, 2);
/* True: all that was put is written. False, from then on always: it cannot be. */
bool wm_cli_flush(void);
/* Ends a command that printed: its exit code, or, when results could not be written, that of saying
 * so. A reader that went away is no failure. */
int wm_cli_printed(const wm_cli_args *args, int code);

/* Sends the library's log to stderr: warnings, or what -q and -v say. */
void wm_cli_log(const wm_cli_args *args);

/* Sets one option of a broker. False, after saying so: out of memory. */
bool wm_cli_option(const wm_cli_args *args, wm_options *opts, const char *name, const char *value);

#endif
