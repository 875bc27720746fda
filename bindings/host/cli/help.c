/*
 * help.c - wmlua help: commands and flags from the table of flags, options from libwm's own list,
 * codes and exit codes. Main thread only.
 */
#include <stdlib.h>
#include <string.h>
#include <strings.h>

#include "cli.h"
#include "lua_options.h"

enum { FLAG_WIDTH = 26, WRAP = 96, NAME_SIZE = 96 };

/* ---- commands ------------------------------------------------------------------------------- */

void wm_cli_usage(FILE *out) {
  fputs("usage: wmlua COMMAND ...\n"
        "       wmlua FILE.lua [ARGS...]   the same as: wmlua run FILE.lua -- ARGS...\n\n",
        out);
  for (const wm_cli_command *c = wm_cli_commands; c->name; c++)
    fprintf(out, "  %-9s%-34s%s\n", c->name, c->operands, c->summary);
  fputs("\n'wmlua help COMMAND' lists its flags. 'wmlua help NAME' explains an option of brokers, "
        "publishers or\n"
        "subscriptions (max_in_flight), a group of them (redis, on, publisher), or a code "
        "(TIMEOUT).\n"
        "Exit codes: 0 done, 1 failed, 2 wrong usage, 3 broker unreachable or access denied, 4 not "
        "found or\n"
        "not in time, 128 + signal.\n",
        out);
}

/* Words of text from column `at` on, indented after the first line. */
static void wrap(FILE *out, const char *text, int indent, int at) {
  while (*text) {
    int len = (int)strcspn(text, " ");
    bool first = at == indent;
    if (!first && at + 1 + len > WRAP) {
      fprintf(out, "\n%*s", indent, "");
      at = indent;
      first = true;
    }
    at += fprintf(out, "%s%.*s", first ? "" : " ", len, text);
    text += len;
    text += *text == ' ';
  }
  fputc('\n', out);
}

static void print_flag(FILE *out, const wm_cli_flag *f) {
  char name[NAME_SIZE], text[4 * NAME_SIZE], variable[NAME_SIZE] = "";
  int n = f->letter ? snprintf(name, sizeof name, "-%c, ", f->letter)
                    : snprintf(name, sizeof name, "    ");
  snprintf(name + n, sizeof name - (size_t)n, "--%s%s%s", f->def.name, f->placeholder ? " " : "",
           f->placeholder ? f->placeholder : "");
  if (f->setting) wm_cli_variable(f->def.name, variable, sizeof variable);
  bool shows = f->placeholder && *f->def.value;
  snprintf(text, sizeof text, "%s%s%s%s%s%s%s", f->def.help, shows ? " (default " : "",
           shows ? f->def.value : "", shows ? ")" : "", f->setting ? " [" : "", variable,
           f->setting ? "]" : "");
  int at = fprintf(out, "  %-*s", FLAG_WIDTH - 1, name);
  fprintf(out, at < FLAG_WIDTH + 2 ? " " : "\n%*s", FLAG_WIDTH + 2, "");
  wrap(out, text, FLAG_WIDTH + 2, FLAG_WIDTH + 2);
}

void wm_cli_usage_of(FILE *out, const wm_cli_command *command) {
  fprintf(out, "usage: wmlua %s %s\n\n%s\n\n", command->name, command->operands, command->summary);
  for (const wm_cli_flag *f = wm_cli_flags; f->def.name; f++)
    if (f->commands & command->bit) print_flag(out, f);
  if (command->details) fprintf(out, "\n%s\n", command->details);
}

/* ---- options -------------------------------------------------------------------------------- */

static void print_option(FILE *out, const wm_option_info *o, bool with_where) {
  char head[NAME_SIZE];
  snprintf(head, sizeof head, "%s%s%s%s", o->name, with_where ? " (" : "",
           with_where ? o->where : "", with_where ? ")" : "");
  fprintf(out, "%s\n    ", head);
  char text[8 * NAME_SIZE];
  snprintf(text, sizeof text, "%s%s%s%s%s", o->help, *o->unit ? "; " : "", o->unit,
           *o->value ? ", default " : "", o->value);
  wrap(out, text, 4, 4);
}

/* Which groups of options a word asks for. */
static bool asks_for(const char *word, const char *where) {
  static const char *const groups[][2] = {{"on", "handler"},
                                          {"on", "subscription"},
                                          {"subscriber", "subscription"},
                                          {"subscribe", "subscription"}};
  if (strcmp(word, where) == 0) return true;
  for (size_t i = 0; i < sizeof groups / sizeof *groups; i++)
    if (strcmp(groups[i][0], word) == 0 && strcmp(groups[i][1], where) == 0) return true;
  return false;
}

/* libwm's options, then those that only Lua knows. */
static bool option_at(size_t i, wm_option_info *out) {
  size_t n = 0;
  while (n < i && wm_option_list(n, out))
    n++;
  return wm_option_list(i, out) || wm_lua_option_list(i - n, out);
}

static bool print_options(FILE *out, const char *word) {
  wm_option_info o;
  bool found = false;
  for (size_t i = 0; option_at(i, &o); i++) {
    bool by_name = strcmp(o.name, word) == 0;
    if (!by_name && !asks_for(word, o.where)) continue;
    print_option(out, &o, by_name);
    found = true;
  }
  return found;
}

static bool print_flags(FILE *out, const char *word) {
  bool found = false;
  while (*word == '-')
    word++;
  for (const wm_cli_flag *f = wm_cli_flags; f->def.name; f++) {
    if (strcmp(f->def.name, word) != 0) continue;
    fputs("flag of", out);
    for (const wm_cli_command *c = wm_cli_commands; c->name; c++)
      if (f->commands & c->bit) fprintf(out, " %s", c->name);
    fputs(":\n", out);
    print_flag(out, f);
    found = true;
  }
  return found;
}

/* ---- codes ---------------------------------------------------------------------------------- */

static const struct {
  int code;
  const char *text;
} codes[] = {
    {WM_TIMEOUT,
     "not within the time given; nothing else is wrong. Try again, or raise the timeout."},
    {WM_CLOSED, "the handle is closed, or was closed meanwhile."},
    {WM_CANCELLED, "the task that waited was cancelled by task:cancel()."},
    {WM_NOT_SENT, "the message did not reach the broker. Publishing it again is safe."},
    {WM_UNKNOWN, "the message was sent, but no answer came: it may be stored. Publishing it again "
                 "may double it."},
    {WM_REFUSED, "the broker said no, and will say so again: the text has its reason."},
    {WM_DENIED, "wrong credentials, or missing rights, as the broker's own text says."},
    {WM_NOT_FOUND, "there is no such topic, group or file."},
    {WM_TOO_LARGE, "over a limit of the broker, which the text names."},
    {WM_UNSUPPORTED,
     "this broker, or this build, cannot do that. 'wmlua version' lists what is in this build."},
    {WM_BAD_INPUT, "an argument, option or URL is wrong; the text names it."},
    {WM_REPLY_ERROR, "the other side of a request answered with an error."},
    {WM_NOMEM, "out of memory."},
    {WM_RETIRED, "another consumer has taken over the subscription: the script was reloaded."},
    {WM_UNREACHABLE, "the broker cannot be reached now; it may come back. The text has the cause."},
};

static const char *const exits[] = {
    "done",
    "a script, check or operation failed; the text on stderr names it",
    "wrong usage; 'wmlua help COMMAND' lists the flags",
    "the broker cannot be reached, or denies access ('run' waits for one that cannot be reached)",
    "not found, or not within --timeout",
};

static bool print_code(FILE *out, const char *word) {
  for (size_t i = 0; i < sizeof codes / sizeof *codes; i++)
    if (strcasecmp(wm_code_name(codes[i].code), word) == 0) {
      fprintf(out, "%s\n    ", wm_code_name(codes[i].code));
      wrap(out, codes[i].text, 4, 4);
      return true;
    }
  char *end;
  unsigned long number = strtoul(word, &end, 10);
  if (end == word || *end || number > WM_EXIT_SIGNAL + 64) return false;
  if (number < sizeof exits / sizeof *exits)
    fprintf(out, "exit code %lu: %s\n", number, exits[number]);
  else if (number > WM_EXIT_SIGNAL)
    fprintf(out, "exit code %lu: ended by signal %lu\n", number, number - WM_EXIT_SIGNAL);
  else
    return false;
  return true;
}

/* ---- the command ---------------------------------------------------------------------------- */

/* All words that help knows: commands, then options, then codes. */
static const char *next_word(void *arg, size_t i) {
  (void)arg;
  wm_option_info o;
  for (const wm_cli_command *c = wm_cli_commands; c->name; c++)
    if (i-- == 0) return c->name;
  size_t n = 0;
  for (; option_at(n, &o); n++)
    if (n == i) return o.name;
  i -= n;
  return i < sizeof codes / sizeof *codes ? wm_code_name(codes[i].code) : NULL;
}

static bool explain(FILE *out, const char *word) {
  const wm_cli_command *command = wm_cli_command_find(word);
  if (command) {
    wm_cli_usage_of(out, command);
    return true;
  }
  bool options = print_options(out, word), flags = print_flags(out, word);
  return print_code(out, word) || options || flags;
}

int wm_cli_help(wm_cli_args *args) {
  char *text = NULL;
  size_t len = 0;
  FILE *out = open_memstream(&text, &len);
  int code = WM_EXIT_OK;
  const char *word = args->n_operands ? args->operands[0] : NULL;
  if (!out) {
    wm_cli_say(args, "out of memory");
    return WM_EXIT_FAILED;
  }
  if (!word) {
    wm_cli_usage(out);
  } else if (!explain(out, word)) {
    const char *near = wm_nearest(word, next_word, NULL);
    wm_cli_say(args, "nothing is called '%s'%s%s%s", word, near ? "; did you mean '" : "",
               near ? near : "", near ? "'?" : "");
    code = WM_EXIT_USAGE;
  }
  fclose(out);
  wm_cli_put(text, len);
  free(text);
  wm_lua_options_close();
  return wm_cli_printed(args, code);
}
