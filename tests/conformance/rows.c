/*
 * rows.c - the table of backends: one row each.
 */
#include <string.h>

#include "harness.h"

const row rows[] = {
    {.name = "memory", .in_process = true, .takeover_ms = 500, .settle_ms = 200},
    {.name = "sqlite", .foreign = true, .takeover_ms = 2000, .settle_ms = 1000},
    {.name = "redis", .fault_options = "dial_timeout=1s&command_timeout=1s", .foreign = true, .takeover_ms = 2000, .restart_ms = 5000, .settle_ms = 1500},
    {0}};

const row *row_find(const char *name) {
  for (const row *r = rows; r->name; r++)
    if (strcmp(r->name, name) == 0) return r;
  return NULL;
}
