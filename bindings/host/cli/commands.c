/* commands.c - the one table of commands. */
#include <stdint.h>
#include <string.h>

#include "cli.h"

const wm_cli_command wm_cli_commands[] = {
    {.name = "run",
     .operands = "FILE|DIR... [-- ARGS...]",
     .summary = "run scripts, reload them as they change",
     .details = "A DIR stands for its *.lua files. ARGS are the scripts' arg. SIGHUP reloads, "
                "SIGTERM and SIGINT close\n"
                "gently (a second one at once).",
     .bit = WM_CMD_RUN,
     .own_rest = true,
     .most = SIZE_MAX,
     .run = wm_cli_run},
    {.name = "pub",
     .operands = "TOPIC [PAYLOAD|-]",
     .summary = "publish messages, print their uuids",
     .details = "Without PAYLOAD, or with -, it is read from standard input.",
     .bit = WM_CMD_PUB,
     .least = 1,
     .most = 2,
     .run = wm_cli_pub},
    {.name = "sub",
     .operands = "TOPIC",
     .summary = "print messages: time, uuid, metadata, payload",
     .bit = WM_CMD_SUB,
     .least = 1,
     .most = 1,
     .run = wm_cli_sub},
    {.name = "check",
     .operands = "[FILE...]",
     .summary = "check scripts without a broker, or a broker",
     .details = "Loads each FILE without running its handlers and checks topics and options; with "
                "--broker it also\n"
                "connects and tells what the broker is. Without FILE only that.",
     .bit = WM_CMD_CHECK,
     .most = SIZE_MAX,
     .run = wm_cli_check},
    {.name = "version",
     .operands = "",
     .summary = "print versions, and which brokers are built in",
     .bit = WM_CMD_VERSION,
     .run = wm_cli_version},
    {.name = "help",
     .operands = "[COMMAND|OPTION|CODE]",
     .summary = "explain a command, an option or a code",
     .bit = WM_CMD_HELP,
     .most = 1,
     .run = wm_cli_help},
    {.name = NULL},
};

const wm_cli_command *wm_cli_command_find(const char *name) {
  for (const wm_cli_command *c = wm_cli_commands; c->name; c++)
    if (strcmp(c->name, name) == 0) return c;
  return NULL;
}
