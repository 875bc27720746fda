/*
 * memory.c - the broker in the test's own process: there is nothing to start.
 */
#include "brokers.h"

#include <stdio.h>

static bool start(broker *b, char *why) {
  (void)why;
  snprintf(b->url, sizeof b->url, "memory:");
  return true;
}

const broker_kind broker_memory = {.name = "memory", .start = start};
