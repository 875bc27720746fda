/*
 * checker.c - walks a history once, in order of time, with what each message, consumer and group is
 * at that moment. Single-threaded.
 */
#include "checker.h"

#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

#include "index.h"

#define MS INT64_C(1000000)
#define FOREVER INT64_MAX

enum { DEFAULT_FLUSHED_MS = 5000, DEFAULT_STUCK_MS = 10000, SCAN_MS = 500, EARLY_TOLERANCE_MS = 2 };

typedef enum fate { NEVER, IN_HAND, NACKED, ACKED, GIVEN_UP } fate; /* GIVEN_UP: its ack returned false */

typedef struct message {
  const char *uuid;
  uint32_t topic, publisher, seq, key;
  int64_t published, ended; /* ended: when the result came, FOREVER: never */
  uint32_t result;          /* H_CONFIRMED, H_FAILED, H_UNKNOWN, 0 */
} message;

/* A message in a group. */
typedef struct copy {
  fate fate;
  uint32_t holder, attempt, deliveries;
  int64_t delivered, settled; /* times of the last */
  int64_t due;                /* NACKED: not before */
} copy;

typedef struct group {
  bool known, oldest, fan_out;
  uint32_t topic;
  int64_t subscribing, subscribed; /* of its first member */
  int64_t progress, quiet_until;
  copy *copies; /* one a message */
} group;

typedef struct consumer {
  bool known, alive, paused;
  uint32_t group, in_hand, limit;
  int64_t flushed; /* acks before this are taken */
} consumer;

/* Something that excuses duplicates: of one consumer, or of all (consumer 0). */
typedef struct disturbance {
  int64_t from, to;
  uint32_t consumer, group;
  bool wiped;
} disturbance;

typedef struct lane {
  uint32_t outstanding; /* in hand, or nacked and to come again */
  int64_t last;         /* when something was handed out */
} lane;

typedef struct judge {
  const checker_rules *rules;
  checker_report *report;
  history_event *events;
  size_t n_events, n_messages, n_groups, n_consumers, n_disturbances;
  message *messages;
  group *groups;
  consumer *consumers;
  disturbance *disturbances;
  text_index *by_uuid;
  key_index *lanes; /* (consumer, key) -> lane */
  key_index *marks; /* (consumer or group, key, publisher) -> seq of the last first delivery */
  int64_t flushed, stuck, start, scanned;
  bool outage;
} judge;

static const char *const kind_names[] = {"lost",    "phantom", "corrupt", "duplicate", "reorder",
                                         "overlap", "attempt", "early",   "refused",   "stuck"};

const char *check_kind_name(check_kind kind) { return kind_names[kind]; }

__attribute__((format(printf, 4, 5))) static void found(judge *j, check_kind kind, int64_t time,
                                                        const char *format, ...) {
  checker_report *r = j->report;
  r->total++;
  /* One kind that comes in thousands must not hide the others. */
  if (r->count[kind]++ >= CHECKER_TEXTS / 4 || r->n_texts == CHECKER_TEXTS) return;
  char *text = r->text[r->n_texts++];
  int used = snprintf(text, sizeof r->text[0], "%s at %.3f s: ", kind_names[kind],
                      (double)(time - j->start) / 1e9);
  va_list args;
  va_start(args, format);
  vsnprintf(text + used, sizeof r->text[0] - (size_t)used, format, args);
  va_end(args);
}

/* ---- first pass: who is there ----------------------------------------------------------------- */

static bool is_outage(uint32_t kind) { return kind == H_OUTAGE; }

static bool disturbs(uint32_t kind) {
  return kind == H_KILLED || kind == H_PAUSED || kind == H_CLOSED || kind == H_OUTAGE || kind == H_WIPED;
}

/* Until when what began with event i lasts. */
static int64_t end_of(const judge *j, size_t i) {
  const history_event *e = &j->events[i];
  uint32_t end = e->kind == H_OUTAGE ? H_RESTORED : e->kind == H_PAUSED ? H_RESUMED : 0;
  if (!end) return e->time;
  for (size_t k = i + 1; k < j->n_events; k++)
    if (j->events[k].kind == end && (is_outage(e->kind) || j->events[k].consumer == e->consumer))
      return j->events[k].time;
  return FOREVER;
}

static void collect(judge *j) {
  for (size_t i = 0; i < j->n_events; i++) {
    const history_event *e = &j->events[i];
    if (e->group >= j->n_groups) j->n_groups = e->group + 1;
    if (e->consumer >= j->n_consumers) j->n_consumers = e->consumer + 1;
    j->n_messages += e->kind == H_PUBLISH;
    j->n_disturbances += disturbs(e->kind);
  }
  j->messages = calloc(j->n_messages + 1, sizeof *j->messages);
  j->groups = calloc(j->n_groups + 1, sizeof *j->groups);
  j->consumers = calloc(j->n_consumers + 1, sizeof *j->consumers);
  j->disturbances = calloc(j->n_disturbances + 1, sizeof *j->disturbances);
  j->by_uuid = text_index_new(j->n_messages);
  j->lanes = key_index_new();
  j->marks = key_index_new();
  j->n_messages = j->n_disturbances = 0;
  for (size_t i = 0; i < j->n_events; i++) {
    const history_event *e = &j->events[i];
    if (e->kind == H_PUBLISH) {
      if (text_index_find(j->by_uuid, e->uuid) != INDEX_NONE) continue; /* published again: the first counts */
      j->messages[j->n_messages] = (message){.uuid = e->uuid, .topic = e->topic, .publisher = e->publisher,
                                             .seq = e->seq, .key = e->key, .published = e->time,
                                             .ended = FOREVER};
      text_index_add(j->by_uuid, e->uuid, j->n_messages++);
    } else if (e->kind == H_CONFIRMED || e->kind == H_FAILED || e->kind == H_UNKNOWN) {
      size_t m = text_index_find(j->by_uuid, e->uuid);
      if (m == INDEX_NONE) continue;
      j->messages[m].result = e->kind;
      j->messages[m].ended = e->time;
    }
    if (disturbs(e->kind))
      j->disturbances[j->n_disturbances++] =
          (disturbance){e->time, end_of(j, i), e->consumer, e->group, e->kind == H_WIPED};
  }
  for (size_t g = 0; g < j->n_groups; g++)
    j->groups[g].copies = calloc(j->n_messages + 1, sizeof(copy));
}

static void dismiss(judge *j) {
  for (size_t g = 0; g < j->n_groups; g++)
    free(j->groups[g].copies);
  free(j->messages);
  free(j->groups);
  free(j->consumers);
  free(j->disturbances);
  free(j->events);
  text_index_free(j->by_uuid);
  key_index_free(j->lanes);
  key_index_free(j->marks);
}

/* ---- excuses ------------------------------------------------------------------------------------ */

/* Was consumer c (or the broker) disturbed between these times? */
static bool disturbed(const judge *j, uint32_t c, int64_t from, int64_t to) {
  for (size_t i = 0; i < j->n_disturbances; i++) {
    const disturbance *d = &j->disturbances[i];
    if (d->from <= to && d->to >= from && (d->consumer == c || d->consumer == 0)) return true;
  }
  return false;
}

static bool broker_disturbed(const judge *j, int64_t from, int64_t to) {
  for (size_t i = 0; i < j->n_disturbances; i++) {
    const disturbance *d = &j->disturbances[i];
    if (d->consumer == 0 && d->from <= to && d->to >= from) return true;
  }
  return false;
}

/* Could what was published before `time` have been in the hands of a disturbed member of the group, other
 * than c, and come back later? */
static bool may_come_late(const judge *j, uint32_t g, uint32_t c, int64_t time, int64_t now) {
  for (size_t i = 0; i < j->n_disturbances; i++) {
    const disturbance *d = &j->disturbances[i];
    if (d->from > now || d->to < time) continue;
    if (d->wiped || (d->consumer && d->consumer != c && d->group == g)) return true;
  }
  return false;
}

static bool wiped_since(const judge *j, int64_t time, int64_t now) {
  for (size_t i = 0; i < j->n_disturbances; i++)
    if (j->disturbances[i].wiped && j->disturbances[i].from >= time && j->disturbances[i].from <= now)
      return true;
  return false;
}

/* The ack at `settled` was given, but the broker may not have taken it. */
static bool ack_may_be_gone(const judge *j, const copy *x, int64_t now) {
  const consumer *holder = &j->consumers[x->holder];
  for (size_t i = 0; i < j->n_disturbances; i++) {
    const disturbance *d = &j->disturbances[i];
    if (d->consumer != x->holder && d->consumer != 0) continue;
    if (d->from > now || d->to < x->delivered || d->from > x->settled + j->flushed) continue;
    if (holder->flushed >= x->settled && !d->wiped && d->from > x->settled) continue;
    return true;
  }
  return false;
}

/* Stored twice because its publish was repeated over an outage. */
static bool published_twice(const judge *j, const message *m) {
  return m->result == H_UNKNOWN || broker_disturbed(j, m->published, m->ended);
}

/* Why a repeated delivery is in order; NULL when it is not. */
static const char *excuse(const judge *j, const message *m, const copy *x, const history_event *e) {
  if (j->rules->duplicates) return "the broker may repeat";
  if (published_twice(j, m)) return "published over an outage";
  if (wiped_since(j, m->published, e->time)) return "the broker was wiped";
  bool gone = disturbed(j, x->holder, x->delivered, e->time);
  switch (x->fate) {
  case NEVER: return "first";
  case GIVEN_UP: return "its claim was lost";
  case NACKED: return x->holder == e->consumer ? "nacked" : gone ? "its holder is gone" : NULL;
  case IN_HAND: return gone ? "its holder is gone" : NULL;
  case ACKED: return ack_may_be_gone(j, x, e->time) ? "its ack was under way" : NULL;
  }
  return NULL;
}

/* ---- deliveries ----------------------------------------------------------------------------------- */

static uint32_t lane_of(const judge *j, const message *m) {
  return j->rules->order == ORDER_KEY ? m->key : 0;
}

static bool in_a_lane(const judge *j, const message *m) {
  return j->rules->order == ORDER_TOPIC || (j->rules->order == ORDER_KEY && m->key);
}

static lane *lane_at(judge *j, uint32_t c, const message *m) {
  return key_index_at(j->lanes, c, lane_of(j, m), 0, sizeof(lane));
}

/* What `holder` had of this copy, it has no longer. */
static void let_go(judge *j, copy *x, const message *m) {
  if (x->fate != IN_HAND && x->fate != NACKED) return;
  if (x->fate == IN_HAND && j->consumers[x->holder].in_hand) j->consumers[x->holder].in_hand--;
  if (!in_a_lane(j, m)) return;
  lane *l = lane_at(j, x->holder, m);
  if (l->outstanding) l->outstanding--;
}

static void check_attempt(judge *j, const message *m, const copy *x, const history_event *e) {
  if (e->attempt == 0) found(j, CHECK_ATTEMPT, e->time, "%s: attempt 0; it starts at 1", m->uuid);
  bool calm = !published_twice(j, m) && !j->rules->duplicates;
  if (x->fate == NEVER && e->attempt > 1 && calm) {
    for (size_t i = 0; i < j->n_disturbances; i++)
      if (j->disturbances[i].from <= e->time) return;
    found(j, CHECK_ATTEMPT, e->time, "%s: attempt %u at its first delivery, nothing had failed", m->uuid,
          e->attempt);
  }
  if (x->fate == NACKED && x->holder == e->consumer && calm && e->attempt <= x->attempt &&
      !disturbed(j, e->consumer, x->delivered, e->time))
    found(j, CHECK_ATTEMPT, e->time, "%s: attempt %u after a nack of attempt %u", m->uuid, e->attempt,
          x->attempt);
}

static void check_order_of(judge *j, const message *m, const history_event *e) {
  uint32_t who = j->rules->across_members ? e->group : e->consumer;
  int64_t *mark = key_index_at(j->marks, who, lane_of(j, m), m->publisher, sizeof *mark);
  if (m->result == H_CONFIRMED && (int64_t)m->seq < *mark &&
      (j->rules->across_members || !may_come_late(j, e->group, e->consumer, m->published, e->time)))
    found(j, CHECK_REORDER, e->time, "%s: publisher %u's message %u came to consumer %u after its message %lld%s",
          m->uuid, m->publisher, m->seq, e->consumer, (long long)*mark, m->key ? ", of the same key" : "");
  if ((int64_t)m->seq > *mark) *mark = m->seq;
}

static void check_lane(judge *j, const message *m, const history_event *e) {
  consumer *c = &j->consumers[e->consumer];
  if (c->in_hand > (c->limit ? c->limit : 1))
    found(j, CHECK_OVERLAP, e->time, "%s: consumer %u has %u messages in hand, its limit is %u", m->uuid,
          e->consumer, c->in_hand, c->limit ? c->limit : 1);
  if (!in_a_lane(j, m)) return;
  lane *l = lane_at(j, e->consumer, m);
  if (l->outstanding > 0 && !j->rules->batch) {
    if (!broker_disturbed(j, l->last, e->time) && !disturbed(j, e->consumer, l->last, e->time))
      found(j, CHECK_OVERLAP, e->time, "%s: came to consumer %u while another %s was not settled", m->uuid,
            e->consumer, m->key && j->rules->order == ORDER_KEY ? "of its key" : "message");
    l->outstanding = 0;
  }
  l->outstanding++;
  l->last = e->time;
}

static void deliver(judge *j, const history_event *e) {
  group *g = &j->groups[e->group];
  size_t index = text_index_find(j->by_uuid, e->uuid);
  j->report->delivered++;
  g->progress = e->time;
  if (index == INDEX_NONE || j->messages[index].topic != e->topic || j->messages[index].published > e->time) {
    found(j, CHECK_PHANTOM, e->time, "%s: delivered to consumer %u, never published to topic %u", e->uuid,
          e->consumer, e->topic);
    return;
  }
  const message *m = &j->messages[index];
  copy *x = &g->copies[index];
  if (m->result == H_FAILED)
    found(j, CHECK_PHANTOM, e->time, "%s: delivered to consumer %u, but its publish failed for sure", m->uuid,
          e->consumer);
  if (!g->oldest && m->ended < g->subscribing)
    found(j, CHECK_PHANTOM, e->time, "%s: delivered to group %u, which starts with newer messages", m->uuid,
          e->group);
  if (x->fate == NACKED && x->holder == e->consumer && e->time < x->due - EARLY_TOLERANCE_MS * MS)
    found(j, CHECK_EARLY, e->time, "%s: came again %.1f ms before its delay was over", m->uuid,
          (double)(x->due - e->time) / 1e6);
  if (x->deliveries) {
    j->report->repeated++;
    if (!excuse(j, m, x, e))
      found(j, CHECK_DUPLICATE, e->time, "%s: delivered to consumer %u at attempt %u; consumer %u %s it %.3f s before",
            m->uuid, e->consumer, e->attempt, x->holder,
            x->fate == ACKED    ? "acked"
            : x->fate == NACKED ? "nacked, and still holds,"
                                : "got and still holds",
            (double)(e->time - (x->fate == IN_HAND ? x->delivered : x->settled)) / 1e9);
  }
  check_attempt(j, m, x, e);
  if (!x->deliveries && in_a_lane(j, m)) check_order_of(j, m, e);
  let_go(j, x, m);
  j->consumers[e->consumer].in_hand++;
  check_lane(j, m, e);
  x->fate = IN_HAND;
  x->holder = e->consumer;
  x->attempt = e->attempt;
  x->delivered = e->time;
  x->deliveries++;
}

static void settle(judge *j, const history_event *e) {
  size_t index = text_index_find(j->by_uuid, e->uuid);
  if (index == INDEX_NONE) return;
  group *g = &j->groups[e->group];
  copy *x = &g->copies[index];
  g->progress = e->time;
  if (x->holder != e->consumer) return;
  if (e->kind == H_REJECTED) {
    if (x->settled && !disturbed(j, e->consumer, x->delivered, e->time))
      found(j, CHECK_REFUSED, e->time, "%s: consumer %u had it in hand, but settling it returned false", e->uuid,
            e->consumer);
    if (x->fate == ACKED || x->fate == NACKED) x->fate = GIVEN_UP;
    return;
  }
  if (x->fate != IN_HAND) return;
  x->settled = e->time;
  if (e->kind == H_ACK) {
    let_go(j, x, &j->messages[index]);
    x->fate = ACKED;
    return;
  }
  if (j->consumers[e->consumer].in_hand) j->consumers[e->consumer].in_hand--;
  x->fate = NACKED;
  x->due = e->time + e->value * MS;
  if (x->due > g->quiet_until) g->quiet_until = x->due;
}

/* ---- is anything stuck, was anything lost ------------------------------------------------------------ */

static bool owes(const judge *j, const group *g, const message *m) {
  if (!g->known || !g->subscribed || m->topic != g->topic || m->result != H_CONFIRMED) return false;
  (void)j;
  return g->oldest || m->published > g->subscribed;
}

static bool lives(const judge *j, uint32_t c) { return j->consumers[c].alive && !j->consumers[c].paused; }

/* Is there something that has been waiting for long? */
static bool has_backlog(const judge *j, const group *g, int64_t now) {
  for (size_t i = 0; i < j->n_messages; i++) {
    const copy *x = &g->copies[i];
    if (!owes(j, g, &j->messages[i]) || j->messages[i].ended > now - j->stuck || x->fate == ACKED) continue;
    if (x->fate == IN_HAND && lives(j, x->holder)) continue;
    if (wiped_since(j, j->messages[i].published, now)) continue;
    return true;
  }
  return false;
}

static bool has_taker(const judge *j, uint32_t g) {
  for (size_t c = 0; c < j->n_consumers; c++) {
    const consumer *x = &j->consumers[c];
    if (x->known && x->group == g && lives(j, (uint32_t)c) && x->in_hand < (x->limit ? x->limit : 1)) return true;
  }
  return false;
}

static void scan(judge *j, int64_t now) {
  if (now - j->scanned < SCAN_MS * MS) return;
  j->scanned = now;
  for (size_t i = 0; i < j->n_groups; i++) {
    group *g = &j->groups[i];
    int64_t since = g->progress > g->quiet_until ? g->progress : g->quiet_until;
    if (!g->known || j->outage || now - since <= j->stuck) continue;
    if (!has_taker(j, (uint32_t)i) || !has_backlog(j, g, now)) continue;
    found(j, CHECK_STUCK, now, "group %zu: nothing moved for %.1f s, with a backlog and a living consumer", i,
          (double)(now - since) / 1e9);
    g->progress = now;
  }
}

static void check_lost(judge *j, int64_t now) {
  for (size_t i = 0; i < j->n_groups; i++) {
    const group *g = &j->groups[i];
    for (size_t k = 0; g->known && k < j->n_messages; k++) {
      const message *m = &j->messages[k];
      const copy *x = &g->copies[k];
      if (!owes(j, g, m) || x->fate == ACKED || wiped_since(j, m->published, now)) continue;
      if (x->fate == IN_HAND && lives(j, x->holder)) continue;
      if (g->fan_out && !has_taker(j, (uint32_t)i)) continue;
      if (x->fate == NEVER)
        found(j, CHECK_LOST, now, "%s: publisher %u's message %u was confirmed, but group %zu never got it", m->uuid,
              m->publisher, m->seq, i);
      else
        found(j, CHECK_LOST, now, "%s: consumer %u of group %zu got it at attempt %u and did not ack it; it never came again",
              m->uuid, x->holder, i, x->attempt);
    }
  }
}

/* ---- the walk ---------------------------------------------------------------------------------------- */

/* A moment from which on something may be expected again. */
static void all_progress(judge *j, int64_t now) {
  for (size_t i = 0; i < j->n_groups; i++)
    j->groups[i].progress = now;
}

static void member(judge *j, const history_event *e) {
  consumer *c = &j->consumers[e->consumer];
  group *g = &j->groups[e->group];
  if (e->kind != H_FLUSHED) g->progress = e->time;
  switch (e->kind) {
  case H_SUBSCRIBING:
    if (!g->known) {
      *g = (group){.known = true, .oldest = e->value == 1, .fan_out = e->value == 2, .topic = e->topic,
                   .subscribing = e->time, .progress = e->time, .copies = g->copies};
    }
    c->known = true;
    c->group = e->group;
    break;
  case H_SUBSCRIBED:
    c->alive = true;
    if (!g->subscribed) g->subscribed = e->time;
    break;
  case H_LIMIT: c->limit = (uint32_t)e->value; break;
  case H_FLUSHED:
    if (e->value > c->flushed) c->flushed = e->value;
    break;
  case H_CLOSED:
    if (e->value == 0) c->flushed = e->time;
    c->alive = false;
    break;
  case H_KILLED: c->alive = false; break;
  case H_PAUSED: c->paused = true; break;
  case H_RESUMED: c->paused = false; break;
  default: break;
  }
}

static void step(judge *j, const history_event *e) {
  scan(j, e->time);
  switch (e->kind) {
  case H_PUBLISH: j->report->published++; break;
  case H_CONFIRMED: j->report->confirmed++; break;
  case H_DELIVERED: deliver(j, e); break;
  case H_ACK:
  case H_NACK:
  case H_REJECTED: settle(j, e); break;
  case H_CORRUPT:
    found(j, CHECK_CORRUPT, e->time, "%s: consumer %u did not get what was published", e->uuid, e->consumer);
    break;
  case H_OUTAGE: j->outage = true; break;
  case H_RESTORED: j->outage = false; /* fall through */
  case H_WIPED: all_progress(j, e->time); break;
  case H_FAILED:
  case H_UNKNOWN:
  case H_END: break;
  default: member(j, e);
  }
}

bool checker_run(history *h, const checker_rules *rules, checker_report *report) {
  judge j = {.rules = rules, .report = report};
  memset(report, 0, sizeof *report);
  j.flushed = (rules->flushed_ms ? rules->flushed_ms : DEFAULT_FLUSHED_MS) * MS;
  j.stuck = (rules->stuck_ms ? rules->stuck_ms : DEFAULT_STUCK_MS) * MS;
  j.events = history_take(h, &j.n_events);
  j.start = j.n_events ? j.events[0].time : 0;
  collect(&j);
  for (size_t i = 0; i < j.n_events; i++)
    step(&j, &j.events[i]);
  if (!rules->unfinished) check_lost(&j, j.n_events ? j.events[j.n_events - 1].time : 0);
  dismiss(&j);
  return report->total == 0;
}
