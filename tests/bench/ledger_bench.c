/* ledger_bench.c - what a message costs in the ledger: add, next, ack, take, settled; ns a message
 * for next + ack (with the caller's reference) and for everything. */
#include <stdio.h>
#include <stdlib.h>

#include "bench.h"
#include "ledger.h"

enum { BATCH = BENCH_BATCH, ROUNDS = 2000, TEXT = 64 };

static double now_ns(void) { return bench_now() * 1e9; }

static wm_message *message(unsigned key) {
  char text[16];
  wm_message *msg = wm_message_alloc(1, 128);
  if (!msg) abort();
  wm_message_add(msg, "key", 3, text, (size_t)snprintf(text, sizeof text, "%u", key));
  return msg;
}

static void hand_out_and_ack(wm_ledger *l, size_t at_once, int64_t now) {
  wm_message *out[64];
  size_t n;
  while ((n = wm_ledger_next(l, out, at_once, NULL, now)) > 0) {
    for (size_t i = 0; i < n; i++) {
      wm_ledger_ack(l, out[i], now);
      wm_message_release(out[i]);
    }
  }
}

static void run(const char *name, wm_ledger_config config, size_t at_once) {
  static wm_message *msgs[BATCH];
  static wm_settle_op ops[BATCH];
  double hand = 0, all = 0;
  long rounds = bench_count(ROUNDS);
  config.prefetch = BATCH;
  wm_ledger *l = wm_ledger_new(&config);
  if (!l) abort();
  for (long round = 0; round < rounds; round++) {
    for (unsigned i = 0; i < BATCH; i++)
      msgs[i] = message(i % 100);
    double begin = now_ns();
    if (wm_ledger_add(l, msgs, BATCH, round) != WM_OK) abort();
    double added = now_ns();
    hand_out_and_ack(l, at_once, round);
    double acked = now_ns();
    size_t n = wm_ledger_take_settled(l, ops, BATCH);
    n = wm_ledger_settled(l, ops, n, true, msgs, round);
    double settled = now_ns();
    hand += acked - added;
    all += settled - begin;
    if (n != BATCH) abort();
    for (size_t i = 0; i < n; i++)
      wm_message_release(msgs[i]);
  }
  wm_ledger_free(l);
  double messages = (double)BATCH * (double)rounds;
  char ours[TEXT], result[TEXT];
  snprintf(ours, sizeof ours, "next + ack: %.0f ns", hand / messages);
  snprintf(result, sizeof result, "all: %.0f ns a message", all / messages);
  bench_print(&(bench_row){.what = name, .where = "no broker", .ours = ours, .result = result});
}

static void ledger(const bench_place *place) {
  (void)place;
  run("ledger, one at a time", (wm_ledger_config){.max_in_flight = 1, .batch = 1, .ordered = true},
      1);
  run("ledger, 64 in flight", (wm_ledger_config){.max_in_flight = 64, .batch = 1, .ordered = true},
      64);
  run("ledger, batches of 64", (wm_ledger_config){.max_in_flight = 1, .batch = 64, .ordered = true},
      64);
  run("ledger, 64 in flight, 100 lanes",
      (wm_ledger_config){.max_in_flight = 64, .batch = 1, .ordered = true, .order_by = "key"}, 64);
}

int main(int argc, char **argv) {
  static const bench_place nowhere = {.name = "no broker"};
  static const bench_measure measures[] = {{"ledger", ledger, &nowhere}};
  return bench_main(argc, argv, measures, 1);
}
