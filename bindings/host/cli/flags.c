/*
 * flags.c - the one table of flags, and reading a command line by it. Main thread only.
 */
#include <ctype.h>
#include <getopt.h>
#include <stdlib.h>
#include <string.h>

#include "cli.h"
#include "error.h"

enum { MAX_FLAGS = 48, VARIABLE_SIZE = 64 };
enum { MS = 1, SECOND = 1000 * MS, DAY = 86400 * SECOND };
enum { MAX_WORKERS = 256, LEAST_MEMORY = 1 << 20 };

#define BROKER_COMMANDS (WM_CMD_RUN | WM_CMD_PUB | WM_CMD_SUB | WM_CMD_CHECK)
#define JSON_COMMANDS (WM_CMD_PUB | WM_CMD_SUB | WM_CMD_CHECK | WM_CMD_VERSION)

const wm_cli_flag wm_cli_flags[] = {
    {.def = {"broker", WM_OPT_TEXT, WM_DEFAULT_BROKER, 0, 0, NULL,
             "the default broker: a URL like sqlite:FILE, redis://HOST, memory:"},
     .letter = 'b',
     .placeholder = "URL",
     .commands = BROKER_COMMANDS,
     .setting = true},

    {.def = {"workers", WM_OPT_COUNT, "1", 1, MAX_WORKERS, NULL,
             "threads, each with its own Lua state, that run each script"},
     .placeholder = "N",
     .commands = WM_CMD_RUN,
     .setting = true},
    {.def = {"no-reload", WM_OPT_BOOL, "false", 0, 0, NULL,
             "do not reload a script when a file that it loaded changes (SIGHUP still does)"},
     .commands = WM_CMD_RUN,
     .setting = true},
    {.def = {"reload-grace", WM_OPT_DURATION, "30s", 0, DAY, NULL,
             "how long a replaced generation may finish what it has in flight"},
     .placeholder = "TIME",
     .commands = WM_CMD_RUN,
     .setting = true},
    {.def = {"load-timeout", WM_OPT_DURATION, "10s", 1, DAY, NULL,
             "how long a script may take until it has loaded or first waits"},
     .placeholder = "TIME",
     .commands = WM_CMD_RUN | WM_CMD_CHECK,
     .setting = true},
    {.def = {"burst-timeout", WM_OPT_DURATION, "10s", 0, DAY, NULL,
             "how long a handler may compute without yielding before it is stopped; 0: no limit"},
     .placeholder = "TIME",
     .commands = WM_CMD_RUN,
     .setting = true},
    {.def = {"memory-limit", WM_OPT_SIZE, "0", 0, 0, NULL,
             "bytes that each Lua state may use; 0: no limit"},
     .placeholder = "SIZE",
     .commands = WM_CMD_RUN,
     .setting = true},
    {.def = {"log", WM_OPT_CHOICE, "info", 0, 0, "debug|info|warn|error",
             "the least level that is logged"},
     .placeholder = "LEVEL",
     .commands = WM_CMD_RUN,
     .setting = true},
    {.def = {"log-format", WM_OPT_CHOICE, "text", 0, 0, "text|json",
             "lines of text, or one JSON object a line"},
     .placeholder = "text|json",
     .commands = WM_CMD_RUN,
     .setting = true},
    {.def = {"name", WM_OPT_TEXT, "", 0, 0, NULL, "what this host is called in its log"},
     .placeholder = "NAME",
     .commands = WM_CMD_RUN,
     .setting = true},
    {.def = {"env-file", WM_OPT_TEXT, "", 0, 0, NULL,
             "set environment variables from lines NAME=VALUE; those that are set win"},
     .placeholder = "FILE",
     .commands = WM_CMD_RUN | WM_CMD_CHECK},
    {.def = {"execute", WM_OPT_TEXT, "", 0, 0, NULL,
             "run CODE before the script, or as the script"},
     .letter = 'e',
     .placeholder = "CODE",
     .commands = WM_CMD_RUN},
    {.def = {"require", WM_OPT_TEXT, "", 0, 0, NULL,
             "require module MOD before the script, into a global"},
     .letter = 'l',
     .placeholder = "MOD",
     .commands = WM_CMD_RUN},

    {.def = {"meta", WM_OPT_TEXT, "", 0, 0, NULL, "metadata of each message; may be repeated"},
     .letter = 'm',
     .placeholder = "KEY=VALUE",
     .commands = WM_CMD_PUB},
    {.def = {"uuid", WM_OPT_TEXT, "", 0, 0, NULL, "the message's uuid, instead of a random one"},
     .placeholder = "UUID",
     .commands = WM_CMD_PUB},
    {.def = {"repeat", WM_OPT_COUNT, "1", 1, 0, NULL, "publish each message N times"},
     .placeholder = "N",
     .commands = WM_CMD_PUB},
    {.def = {"input", WM_OPT_CHOICE, "text", 0, 0, "text|lines|json",
             "text: all of it is one message; lines: each line is; json: each line is an object "
             "{\"uuid\", \"payload\" or \"payload_base64\", \"metadata\"}"},
     .letter = 'i',
     .placeholder = "text|lines|json",
     .commands = WM_CMD_PUB},
    {.def = {"timeout", WM_OPT_DURATION, "10s", 1, DAY, NULL,
             "how long the broker may take to confirm a message"},
     .placeholder = "TIME",
     .commands = WM_CMD_PUB},

    {.def =
         {"group", WM_OPT_TEXT, "", 0, 0, NULL,
          "take messages as this group, and ack them once they are printed; without it only look"},
     .letter = 'g',
     .placeholder = "GROUP",
     .commands = WM_CMD_SUB},
    {.def =
         {"from", WM_OPT_TEXT, "", 0, 0, NULL,
          "where a new group begins: oldest, newest, epoch seconds, or a position of the broker"},
     .placeholder = "WHERE",
     .commands = WM_CMD_SUB},
    {.def = {"count", WM_OPT_COUNT, "", 0, 0, NULL, "end after N messages; 0 only makes the group"},
     .letter = 'n',
     .placeholder = "N",
     .commands = WM_CMD_SUB},
    {.def = {"timeout", WM_OPT_DURATION, "", 1, 365LL * DAY, NULL,
             "end after this time, with exit code 4 if --count was not reached"},
     .placeholder = "TIME",
     .commands = WM_CMD_SUB},
    {.def = {"raw", WM_OPT_BOOL, "false", 0, 0, NULL, "print payloads alone, as they are"},
     .commands = WM_CMD_SUB},

    {.def = {"json", WM_OPT_BOOL, "false", 0, 0, NULL, "print one JSON object a line"},
     .commands = JSON_COMMANDS},
    {.def = {"quiet", WM_OPT_BOOL, "false", 0, 0, NULL, "log errors only"},
     .letter = 'q',
     .commands = BROKER_COMMANDS},
    {.def = {"verbose", WM_OPT_BOOL, "false", 0, 0, NULL, "log everything"},
     .letter = 'v',
     .commands = BROKER_COMMANDS},
    {.def = {"color", WM_OPT_CHOICE, "auto", 0, 0, "auto|always|never",
             "colour: auto is where it goes to a terminal and NO_COLOR is not set"},
     .placeholder = "WHEN",
     .commands = BROKER_COMMANDS},
    {.def = {"help", WM_OPT_BOOL, "false", 0, 0, NULL, "explain the command"},
     .letter = 'h',
     .commands = WM_CMD_ALL},
    {.def = {.name = NULL}},
};

/* ---- looking up ----------------------------------------------------------------------------- */

static bool belongs(const wm_cli_flag *flag, const wm_cli_command *command) {
  return flag->commands & command->bit;
}

static const wm_cli_flag *flag_of(const wm_cli_command *command, const char *name) {
  for (const wm_cli_flag *f = wm_cli_flags; f->def.name; f++)
    if (belongs(f, command) && strcmp(f->def.name, name) == 0) return f;
  return NULL;
}

static const wm_cli_flag *flag_of_letter(const wm_cli_command *command, int letter) {
  for (const wm_cli_flag *f = wm_cli_flags; f->def.name; f++)
    if (belongs(f, command) && f->letter == letter) return f;
  return NULL;
}

static const char *next_name(void *arg, size_t i) {
  for (const wm_cli_flag *f = wm_cli_flags; f->def.name; f++)
    if (belongs(f, arg) && i-- == 0) return f->def.name;
  return NULL;
}

/* The last one given counts. */
static const wm_cli_given *last_given(const wm_cli_args *args, const char *name) {
  for (size_t i = args->n_given; i-- > 0;)
    if (strcmp(args->given[i].flag->def.name, name) == 0) return &args->given[i];
  return NULL;
}

/* ---- parsing -------------------------------------------------------------------------------- */

static int unknown(const wm_cli_args *args, const char *text) {
  if (strncmp(text, "--", 2) != 0) return wm_cli_misuse(args, "unknown flag '%s'", text);
  char name[VARIABLE_SIZE];
  snprintf(name, sizeof name, "%.*s", (int)strcspn(text + 2, "="), text + 2);
  const wm_cli_flag *flag = flag_of(args->command, name);
  if (flag) return wm_cli_misuse(args, "'--%s' takes no value", name);
  const char *near = wm_nearest(name, next_name, (void *)args->command);
  if (near) return wm_cli_misuse(args, "unknown flag '--%s'; did you mean '--%s'?", name, near);
  return wm_cli_misuse(args, "unknown flag '--%s'", name);
}

/* Checks a value, whoever gave it. */
static bool parse_value(const wm_cli_args *args, const wm_cli_flag *flag, const char *shown,
                        const char *text, wm_option_value *out) {
  wm_option_def def = flag->def;
  wm_error err;
  def.name = shown;
  if (wm_option_parse(&def, text, out, &err) == WM_OK) return true;
  wm_cli_misuse(args, "%s", err.text);
  return false;
}

static bool takes_value(const wm_cli_flag *flag) { return flag->def.type != WM_OPT_BOOL; }

static int add_given(wm_cli_args *args, const wm_cli_flag *flag, const char *text) {
  if (takes_value(flag)) {
    char shown[VARIABLE_SIZE];
    wm_option_value ignored;
    snprintf(shown, sizeof shown, "--%s", flag->def.name);
    if (!parse_value(args, flag, shown, text, &ignored)) return WM_EXIT_USAGE;
  }
  args->given[args->n_given++] = (wm_cli_given){flag, takes_value(flag) ? text : ""};
  return -1;
}

/* getopt's own tables, from ours. The leading '-' makes it give operands as they come, so that what
 * follows "--" can be told from them. */
static void fill_getopt(const wm_cli_command *command, struct option *longs, char *shorts) {
  *shorts++ = '-';
  *shorts++ = ':';
  for (const wm_cli_flag *f = wm_cli_flags; f->def.name; f++) {
    if (!belongs(f, command)) continue;
    int argument = takes_value(f) ? required_argument : no_argument;
    *longs++ = (struct option){f->def.name, argument, NULL, 0};
    if (!f->letter) continue;
    *shorts++ = f->letter;
    if (takes_value(f)) *shorts++ = ':';
  }
  *longs = (struct option){NULL, 0, NULL, 0};
  *shorts = 0;
}

static int check_operands(const wm_cli_args *args) {
  const wm_cli_command *c = args->command;
  if (args->n_operands < c->least)
    return wm_cli_misuse(args, "%s expected, got %zu argument%s", c->operands, args->n_operands,
                         args->n_operands == 1 ? "" : "s");
  if (args->n_operands > c->most)
    return wm_cli_misuse(args, "one argument too many: '%s'", args->operands[c->most]);
  return -1;
}

/* What getopt_long has found; -1: go on. */
static int take(wm_cli_args *args, int found, const char *long_name, const char *text) {
  if (found == ':') return wm_cli_misuse(args, "'%s' needs a value", text);
  if (found == '?' && optopt && !flag_of_letter(args->command, optopt))
    return wm_cli_misuse(args, "unknown flag '-%c'", optopt);
  if (found == '?') return unknown(args, text);
  if (found == 0) return add_given(args, flag_of(args->command, long_name), optarg);
  if (found != 1) return add_given(args, flag_of_letter(args->command, found), optarg);
  args->operands[args->n_operands++] = optarg;
  return -1;
}

int wm_cli_parse(wm_cli_args *args, const wm_cli_command *command, int argc, char **argv) {
  struct option longs[MAX_FLAGS];
  char shorts[2 * MAX_FLAGS];
  size_t room = (size_t)argc + 1;
  *args = (wm_cli_args){.command = command};
  args->given = calloc(room, sizeof *args->given);
  args->operands = calloc(room, sizeof *args->operands);
  if (!args->given || !args->operands) {
    wm_cli_say(args, "out of memory");
    return WM_EXIT_FAILED;
  }
  fill_getopt(command, longs, shorts);
  optind = 0; /* glibc: starts afresh */
  opterr = 0;
  int found, at = 0;
  while ((found = getopt_long(argc, argv, shorts, longs, &at)) != -1) {
    int code = take(args, found, longs[at].name, argv[optind - 1]);
    if (code >= 0) return code;
  }
  if (wm_cli_has(args, "help")) return -1;
  args->rest = argv + optind;
  args->n_rest = (size_t)(argc - optind);
  if (!command->own_rest)
    for (; args->n_rest; args->n_rest--)
      args->operands[args->n_operands++] = *args->rest++;
  return check_operands(args);
}

void wm_cli_args_free(wm_cli_args *args) {
  free(args->given);
  free(args->operands);
  *args = (wm_cli_args){0};
}

/* ---- values --------------------------------------------------------------------------------- */

void wm_cli_variable(const char *flag, char *out, size_t size) {
  size_t n = (size_t)snprintf(out, size, "WM_%s", flag);
  for (size_t i = 0; i < n && i < size; i++)
    out[i] = out[i] == '-' ? '_' : (char)toupper((unsigned char)out[i]);
}

bool wm_cli_value(const wm_cli_args *args, const char *name, wm_option_value *out) {
  const wm_cli_flag *flag = flag_of(args->command, name);
  const wm_cli_given *given = last_given(args, name);
  if (given) return parse_value(args, flag, name, takes_value(flag) ? given->text : "true", out);
  if (flag->setting) {
    char variable[VARIABLE_SIZE];
    wm_cli_variable(name, variable, sizeof variable);
    const char *text = getenv(variable);
    if (text && *text) return parse_value(args, flag, variable, text, out);
  }
  *out = (wm_option_value){.text = flag->def.value};
  if (*flag->def.value) wm_option_parse(&flag->def, flag->def.value, out, NULL);
  out->set = false;
  return true;
}

bool wm_cli_has(const wm_cli_args *args, const char *name) {
  return last_given(args, name) != NULL;
}

const char *wm_cli_text(const wm_cli_args *args, const char *name) {
  const wm_cli_given *given = last_given(args, name);
  return given ? given->text : NULL;
}

int64_t wm_cli_number(const wm_cli_args *args, const char *name) {
  wm_option_value value = {0};
  wm_cli_value(args, name, &value);
  return value.number;
}

const char *wm_cli_broker(const wm_cli_args *args) {
  wm_option_value value;
  if (!wm_cli_value(args, "broker", &value)) return NULL;
  if (!value.set) wm_cli_say(args, "broker is %s (--broker or WM_BROKER name another)", value.text);
  return value.text;
}
