/*
 * retry.c - nacks, their delays, attempts, batches, dead letters.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "harness.h"

enum { WAIT_MS = 20000 };

static void resend_on_nack(test *t) {
  enum { N = 100 };
  topic topic = topic_new(t);
  group *g = group_new(t, &topic, NULL);
  publish(t, &topic, N);
  member *m = member_open(g, t, NULL);
  for (int nacked = 0; group_acked(g) < N;) {
    wm_message *msg = member_take(m);
    if (nacked < 2 && wm_message_attempt(msg) == 1) {
      member_nack(m, msg, nacked++ ? 0 : WM_BACKOFF); /* both kinds come again at once the first time */
      continue;
    }
    member_ack(m, msg);
  }
  CHECK(t, group_deliveries(g) == N + 2, "%zu deliveries, two of %d messages were nacked", group_deliveries(g), N);
  member_close(m, WAIT_MS);
}

static void nack_delay(test *t) {
  enum { DELAY = 300, AT_MOST = 2000 };
  topic topic = topic_new(t);
  member *m = member_open(group_new(t, &topic, NULL), t, NULL);
  publish(t, &topic, 1);
  member_nack(m, member_take(m), DELAY);
  int64_t nacked = now_ms();
  wm_message *msg = member_take(m); /* the checker finds one that comes early */
  CHECK(t, now_ms() - nacked <= stretch(AT_MOST), "it took %lld ms", (long long)(now_ms() - nacked));
  member_ack(m, msg);
  member_close(m, WAIT_MS);
}

static void attempt_count(test *t) {
  topic topic = topic_new(t);
  member *m = member_open(group_new(t, &topic, NULL), t, NULL);
  publish(t, &topic, 1);
  for (unsigned attempt = 1; attempt <= 4; attempt++) {
    wm_message *msg = member_take(m);
    CHECK(t, wm_message_attempt(msg) == attempt, "it is %u, %u was expected", wm_message_attempt(msg), attempt);
    if (attempt < 4) member_nack(m, msg, 0);
    else member_ack(m, msg);
  }
  member_close(m, WAIT_MS);
}

/* ---- settling is final --------------------------------------------------------------------------------------------- */

static void settle_once(test *t) {
  topic topic = topic_new(t);
  group *g = group_new(t, &topic, NULL);
  member *m = member_open(g, t, NULL);
  publish(t, &topic, 2);
  wm_message *first = wm_message_retain(member_take(m));
  member_ack(m, first);
  CHECK(t, !wm_ack(first), "a second ack returned true");
  CHECK(t, !wm_nack(first, 0), "a nack after the ack returned true");
  wm_message *second = wm_message_retain(member_take(m));
  member_nack(m, second, 0);
  CHECK(t, !wm_ack(second), "an ack after the nack returned true");
  member_ack(m, member_take(m));
  CHECK(t, !wm_ack(first), "an ack of what was settled long ago returned true");
  wm_message_release(first);
  wm_message_release(second);
  member_take_none(m, 100);
  member_close(m, WAIT_MS);
}

/* ---- batches ------------------------------------------------------------------------------------------------------- */

enum { BATCH = 100 };

static int take_batch(member *m, wm_message **msgs) {
  int n = member_next(m, msgs, BATCH, stretch(WAIT_MS));
  CHECK(m->t, n > 0, "%s", wm_code_name(n));
  return n;
}

/* Takes until n messages are acked; nacks one in the middle of the first batch, once. */
static void settle_batches(member *m, group *g, size_t n, bool nack_one) {
  wm_message *msgs[BATCH];
  char nacked[64] = "";
  while (group_acked(g) < n) {
    int got = take_batch(m, msgs);
    if (*nacked) {
      CHECK(m->t, strcmp(wm_message_uuid(msgs[0]).data, nacked) == 0,
            "message %s leads the next batch, the nacked one was %s", wm_message_uuid(msgs[0]).data, nacked);
      nacked[0] = 0;
    }
    for (int i = 0; i < got; i++) {
      if (nack_one && i == got / 2) {
        snprintf(nacked, sizeof nacked, "%s", wm_message_uuid(msgs[i]).data);
        member_nack(m, msgs[i], 0);
        nack_one = false;
      } else {
        member_ack(m, msgs[i]);
      }
    }
  }
}

static void batch_delivery(test *t) {
  enum { N = 1000 };
  topic topic = topic_new(t);
  group *g = group_new(t, &topic, NULL);
  t->rules.batch = true;
  publish(t, &topic, N);
  member *m = member_open(g, t, "batch=100,batch_wait=200ms");
  wm_message *msgs[BATCH];
  int n = take_batch(m, msgs);
  CHECK(t, n == BATCH, "%d came together, %d were there", n, N);
  member_take_none(m, 100); /* a batch counts as one in flight */
  for (int i = 0; i + 1 < n; i++)
    member_ack(m, msgs[i]);
  member_take_none(m, 100);
  member_ack(m, msgs[n - 1]);
  settle_batches(m, g, N / 2, true);
  settle_batches(m, g, N, false);
  CHECK(t, member_close(m, WAIT_MS) == WM_OK, "close");
}

/* ---- dead_letter ----------------------------------------------------------------------------------------------------- */

static void dead_letter(test *t) {
  enum { ATTEMPTS = 3 };
  topic topic = topic_new(t), dead = topic_new(t);
  group *g = group_new(t, &topic, NULL), *graves = group_new(t, &dead, NULL);
  char options[160];
  snprintf(options, sizeof options, "max_attempts=%d,dead_letter=%s", ATTEMPTS, dead.name);
  member *grave = member_open(graves, t, NULL);
  member *m = member_open(g, t, options);
  publish(t, &topic, 2);
  wm_message *msg = NULL, *letter;
  for (unsigned i = 1; i <= ATTEMPTS; i++) {
    msg = member_take(m);
    CHECK(t, wm_message_attempt(msg) == i, "it is %u", wm_message_attempt(msg));
    if (i < ATTEMPTS) member_nack(m, msg, 0);
  }
  CHECK(t, wm_fail(msg, 0, "no such customer", "traceback"), "wm_fail");
  int rc = wm_next(grave->con, &letter, 1, stretch(WAIT_MS));
  CHECK(t, rc == 1, "no dead letter: %s", wm_code_name(rc));
  CHECK(t, strcmp(wm_message_uuid(letter).data, wm_message_uuid(msg).data) == 0, "the letter is %s",
        wm_message_uuid(letter).data);
  wm_slice reason = wm_message_metadata(letter, "reason_poisoned");
  wm_slice attempts = wm_message_metadata(letter, "_wm_dead_attempts");
  CHECK(t, reason.len && strstr(reason.data, "no such customer"), "reason_poisoned is '%s'", reason.data);
  CHECK(t, attempts.len && atoi(attempts.data) == ATTEMPTS, "_wm_dead_attempts is '%s'", attempts.data);
  CHECK(t, strcmp(wm_message_metadata(letter, "topic_poisoned").data, topic.name) == 0, "topic_poisoned");
  CHECK(t, wm_message_metadata(letter, "n").len, "the message's own metadata is gone");
  CHECK(t, wm_ack(letter), "ack");
  wm_message_release(letter);
  /* What is given up is settled: record it as such, for the checker. */
  history_event e = {.kind = H_ACK, .group = g->id, .consumer = m->id, .topic = topic.id};
  snprintf(e.uuid, sizeof e.uuid, "%s", wm_message_uuid(msg).data);
  history_add(t->h, &e);
  wm_message_release(msg);
  member_ack(m, member_take(m)); /* what is behind it goes on */
  member_close(m, WAIT_MS);
  member_close(grave, WAIT_MS);
}

const test_def retry_tests[] = {{"resend_on_nack", resend_on_nack, 0, 0, 0},
                                {"nack_delay", nack_delay, 0, 0, 0},
                                {"attempt_count", attempt_count, 0, 0, 0},
                                {"settle_once", settle_once, 0, 0, 0},
                                {"batch_delivery", batch_delivery, 0, 0, 0},
                                {"dead_letter", dead_letter, 0, 0, 0},
                                {0}};
