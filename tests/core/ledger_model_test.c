/*
 * ledger_model_test.c - random operations on a ledger and on a model of it: arrays and linear
 * scans, written to be obviously right. After each operation everything that can be seen of the two
 * must agree.
 *
 *   WM_SEED=n    runs that seed alone and tells each operation
 *   WM_SEEDS=n   runs so many, from 1
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "ledger.h"

enum { SEEDS = 3000, STEPS = 160, ITEMS = 64, HANDLES = 256, KEYS = 4, HOLDERS = 3 };

typedef struct op {
  wm_settle_kind kind;
  unsigned attempt;
  uint64_t id;
} op;

typedef struct item {
  uint64_t id; /* by arrival */
  wm_entry_state state;
  wm_message *msg;
  int key; /* -1: none */
  unsigned first, attempt, nacks, unit;
  bool redelivered, eager, handed, lost, taken, acked, visited;
  int64_t arrived, due;
  uint64_t hand; /* number of the hand-out: lower = longer in hand */
  int holder;
} item;

/* What a handler was given; `live`: not settled by it, not taken from it. */
typedef struct handle {
  wm_message *msg;
  uint64_t id;
  bool live;
} handle;

typedef struct world {
  wm_ledger *ledger;
  wm_ledger_config config;
  bool closing;
  int64_t now;
  uint64_t random, ids, hands;
  unsigned units;
  item items[ITEMS];
  size_t n;
  op ops[2 * ITEMS], out[ITEMS];
  size_t n_ops, n_out;
  wm_settle_op real_out[ITEMS];
  handle handles[HANDLES];
  size_t n_handles;
  uint64_t cursor, walk_until; /* a walk over the held ones that goes on between operations */
  unsigned lost_mask;
  uint64_t seed;
  int step;
} world;

static char holders[HOLDERS];

#define CHECK(w, cond)                                                                             \
  do {                                                                                             \
    if (!(cond)) {                                                                                 \
      print_error("%s:%d: %s\nstep %d; replay: WM_SEED=%llu\n", __FILE__, __LINE__, #cond,         \
                  (w)->step, (unsigned long long)(w)->seed);                                       \
      fail();                                                                                      \
    }                                                                                              \
  } while (0)

static uint64_t roll(world *w, uint64_t below) {
  w->random ^= w->random << 13;
  w->random ^= w->random >> 7;
  w->random ^= w->random << 17;
  return (w->random >> 11) % below;
}

static struct wm_consumer *holder(int i) {
  return i < 0 ? NULL : (struct wm_consumer *)(void *)&holders[i];
}

/* ---- the model ---------------------------------------------------------------------------- */

static bool laned(const world *w) {
  return w->config.ordered && w->config.order_by;
}

static bool sequential(const world *w) {
  return w->config.ordered && !w->config.order_by && w->config.max_in_flight == 1;
}

static item *find(world *w, uint64_t id) {
  for (size_t i = 0; i < w->n; i++)
    if (w->items[i].id == id)
      return &w->items[i];
  return NULL;
}

static void forget(world *w, item *it) {
  size_t i = (size_t)(it - w->items);
  memmove(it, it + 1, (--w->n - i) * sizeof *it);
}

static size_t in_state(const world *w, wm_entry_state state) {
  size_t n = 0;
  for (size_t i = 0; i < w->n; i++)
    n += w->items[i].state == state;
  return n;
}

static size_t open_units(const world *w) {
  size_t n = 0;
  for (size_t i = 0; i < w->n; i++) {
    bool first = w->items[i].state == WM_ENTRY_IN_HAND;
    for (size_t j = 0; j < i && first; j++)
      first = w->items[j].state != WM_ENTRY_IN_HAND || w->items[j].unit != w->items[i].unit;
    n += first;
  }
  return n;
}

static bool is_blocking(const item *it) {
  return it->state == WM_ENTRY_IN_HAND || it->state == WM_ENTRY_DELAYED ||
         it->state == WM_ENTRY_DEAD;
}

static size_t ready_items(const world *w, size_t *at) {
  size_t n = 0;
  for (size_t i = 0; i < w->n; i++) {
    bool ok = w->items[i].state == WM_ENTRY_WAITING;
    for (size_t j = 0; j < w->n && ok; j++)
      ok = !(laned(w) && w->items[i].key >= 0 && w->items[j].key == w->items[i].key &&
             is_blocking(&w->items[j]));
    if (ok)
      at[n++] = i;
  }
  return n;
}

static bool is_blocked(const world *w) {
  return w->closing || open_units(w) >= w->config.max_in_flight ||
         (sequential(w) && in_state(w, WM_ENTRY_DELAYED) + in_state(w, WM_ENTRY_DEAD) > 0);
}

/* INT64_MIN: at once; INT64_MAX: not before something else happens. */
static int64_t ready_at(const world *w) {
  size_t at[ITEMS], n = ready_items(w, at);
  if (is_blocked(w) || !n)
    return INT64_MAX;
  if (w->config.batch == 1 || w->config.batch_wait == 0 || n >= w->config.batch)
    return INT64_MIN;
  for (size_t i = 0; i < n; i++)
    if (w->items[at[i]].eager)
      return INT64_MIN;
  return w->items[at[0]].arrived + w->config.batch_wait;
}

static void wake(world *w) {
  for (size_t i = 0; i < w->n; i++)
    if (w->items[i].state == WM_ENTRY_DELAYED && w->items[i].due <= w->now)
      w->items[i].state = WM_ENTRY_WAITING;
}

static size_t op_of(const world *w, uint64_t id) {
  size_t i = 0;
  while (i < w->n_ops && w->ops[i].id != id)
    i++;
  return i;
}

static void drop_op(world *w, uint64_t id) {
  size_t i = op_of(w, id);
  if (i == w->n_ops)
    return;
  memmove(&w->ops[i], &w->ops[i + 1], (--w->n_ops - i) * sizeof *w->ops);
}

static void put_op(world *w, size_t at, wm_settle_kind kind, uint64_t id, unsigned attempt) {
  drop_op(w, id);
  if (at > w->n_ops)
    at = w->n_ops;
  memmove(&w->ops[at + 1], &w->ops[at], (w->n_ops++ - at) * sizeof *w->ops);
  w->ops[at] = (op){kind, attempt, id};
}

static void finish(world *w, item *it, wm_settle_kind kind, unsigned attempt) {
  it->state = WM_ENTRY_SETTLED;
  put_op(w, SIZE_MAX, kind, it->id, attempt);
}

static bool object_out(const world *w, const wm_message *msg) {
  for (size_t i = 0; i < w->n_out; i++)
    if (w->real_out[i].msg == msg)
      return true;
  return false;
}

static void vanish(world *w, item *it) {
  drop_op(w, it->id);
  forget(w, it);
}

static void again(world *w, item *it, int64_t delay) {
  if (w->closing) {
    finish(w, it, WM_SETTLE_RELEASE, it->attempt);
    return;
  }
  it->attempt++;
  it->eager = true;
  size_t at = op_of(w, it->id);
  put_op(w, at, WM_SETTLE_NOTE, it->id, it->attempt);
  it->state = delay ? WM_ENTRY_DELAYED : WM_ENTRY_WAITING;
  it->due = w->now + delay;
}

static size_t references(const world *w, const wm_message *msg) {
  size_t n = 0;
  for (size_t i = 0; i < w->n_handles; i++)
    n += w->handles[i].msg == msg;
  return n;
}

/* ---- the comparison ----------------------------------------------------------------------- */

static void check_counts(world *w) {
  wm_ledger_counts c;
  size_t bytes = 0, redelivered = 0;
  for (size_t i = 0; i < w->n; i++) {
    bytes += w->items[i].msg->size;
    redelivered += w->items[i].redelivered && w->items[i].state != WM_ENTRY_SETTLED;
  }
  wm_ledger_count(w->ledger, &c);
  CHECK(w, c.waiting == in_state(w, WM_ENTRY_WAITING));
  CHECK(w, c.delayed == in_state(w, WM_ENTRY_DELAYED));
  CHECK(w, c.in_hand == in_state(w, WM_ENTRY_IN_HAND));
  CHECK(w, c.dead == in_state(w, WM_ENTRY_DEAD));
  CHECK(w, c.settled == in_state(w, WM_ENTRY_SETTLED));
  CHECK(w, c.units == open_units(w));
  CHECK(w, c.held == w->n);
  CHECK(w, c.bytes == bytes);
  CHECK(w, c.redelivered == redelivered);
  CHECK(w, wm_ledger_unsettled(w->ledger) == w->n_ops + w->n_out);
}

static void check_room(world *w) {
  wm_ledger_counts c;
  size_t live = w->n - in_state(w, WM_ENTRY_SETTLED), at[ITEMS], bytes;
  size_t live_bytes = 0, settled_bytes = 0;
  wm_ledger_count(w->ledger, &c);
  for (size_t i = 0; i < w->n; i++)
    *(w->items[i].state == WM_ENTRY_SETTLED ? &settled_bytes : &live_bytes) += w->items[i].msg->size;
  size_t room = wm_ledger_room(w->ledger, &bytes, w->now), most = w->config.prefetch_bytes;
  bool hungry = !is_blocked(w) && ready_items(w, at) < w->config.batch;
  bool enough = live > c.window / 2 || (live && live_bytes > most / 2);
  size_t widest = w->config.max_in_flight * w->config.batch;
  if (widest < w->config.prefetch)
    widest = w->config.prefetch;
  bool behind = in_state(w, WM_ENTRY_SETTLED) >= 4 * widest || settled_bytes >= most;
  if (behind || w->closing || live >= c.window || (!hungry && enough) || (live && live_bytes >= most))
    CHECK(w, room == 0 && bytes == 0);
  else
    CHECK(w, room == c.window - live && bytes > 0 && bytes <= most);
  if (c.redelivered)
    CHECK(w, c.window == 1);
}

static void check_messages(world *w) {
  const item *oldest = NULL;
  for (size_t i = 0; i < w->n; i++) {
    item *it = &w->items[i];
    CHECK(w, it->msg->token[0] == it->id);
    CHECK(w, it->msg->entry.state == it->state);
    CHECK(w, wm_message_attempt(it->msg) == it->attempt);
    CHECK(w, atomic_load(&it->msg->refs) == 1 + references(w, it->msg));
    if (it->state == WM_ENTRY_IN_HAND && (!oldest || it->hand < oldest->hand))
      oldest = it;
  }
  CHECK(w, wm_ledger_oldest_in_hand(w->ledger) == (oldest ? oldest->msg : NULL));
}

static void check_all(world *w) {
  wake(w);
  int64_t at = ready_at(w), deadline = INT64_MAX;
  CHECK(w, wm_ledger_ready(w->ledger, w->now) == (at <= w->now));
  if (at > w->now)
    deadline = at;
  for (size_t i = 0; i < w->n; i++) {
    const item *it = &w->items[i];
    if (it->state == WM_ENTRY_DELAYED && it->due < deadline)
      deadline = it->due;
  }
  CHECK(w, wm_ledger_deadline(w->ledger) == deadline);
  check_counts(w);
  check_room(w);
  check_messages(w);
}

/* ---- the operations ----------------------------------------------------------------------- */

static wm_message *make_message(world *w, item *it) {
  char key[16], payload[32] = "x";
  wm_message *msg = wm_message_alloc(2, 128);
  assert_non_null(msg);
  wm_message_add(msg, "color", 5, "red", 3);
  if (it->key >= 0)
    wm_message_add(msg, "key", 3, key, (size_t)snprintf(key, sizeof key, "k%d", it->key));
  wm_message_set_payload(msg, payload, roll(w, sizeof payload));
  msg->token[0] = it->id;
  msg->first_attempt = it->first;
  msg->redelivered = it->redelivered;
  return msg;
}

static void do_add(world *w) {
  wm_message *msgs[8];
  size_t n = roll(w, 8) + 1;
  if (w->n + n > ITEMS)
    return;
  for (size_t i = 0; i < n; i++) {
    item *it = &w->items[w->n + i];
    *it = (item){.id = ++w->ids, .state = WM_ENTRY_WAITING, .arrived = w->now};
    it->key = (int)roll(w, KEYS + 1) - 1;
    it->redelivered = it->eager = roll(w, 20) == 0;
    it->first = it->attempt = roll(w, 6) ? 1 : 1 + (unsigned)roll(w, 3);
    it->msg = msgs[i] = make_message(w, it);
  }
  assert_int_equal(wm_ledger_add(w->ledger, msgs, n, w->now), WM_OK);
  w->n += n;
  for (size_t i = w->n - n; i < w->n && w->closing; i++)
    finish(w, &w->items[i], WM_SETTLE_RELEASE, w->items[i].first - 1);
  if (roll(w, 2))
    wm_ledger_fetched(w->ledger, n, n, w->now);
}

/* Takes from the front of what is ready as the rules say, one unit. */
static size_t model_unit(world *w, size_t max, size_t *unit) {
  size_t at[ITEMS], n = ready_items(w, at);
  if (ready_at(w) > w->now)
    return 0;
  if (max > w->config.batch)
    max = w->config.batch;
  if (n > max)
    n = max;
  memcpy(unit, at, n * sizeof *at);
  w->units++;
  return n;
}

static void check_hand_out(world *w, item *it, wm_message *msg, int who) {
  CHECK(w, msg->token[0] == it->id);
  CHECK(w, (msg == it->msg) == !(it->handed && references(w, it->msg)));
  if (msg != it->msg && object_out(w, it->msg) && op_of(w, it->id) == w->n_ops)
    put_op(w, SIZE_MAX, WM_SETTLE_NOTE, it->id, it->attempt);
  it->msg = msg;
  it->state = WM_ENTRY_IN_HAND;
  it->handed = it->eager = true;
  it->unit = w->units;
  it->hand = ++w->hands;
  it->holder = who;
  w->handles[w->n_handles++] = (handle){msg, it->id, true};
}

static void do_next(world *w) {
  wm_message *out[16];
  size_t max = roll(w, 5) ? roll(w, 8) + 1 : 1, unit[ITEMS], n, k = 0;
  int who = (int)roll(w, HOLDERS);
  if (w->n_handles + max > HANDLES)
    return;
  size_t got = wm_ledger_next(w->ledger, out, max, holder(who), w->now);
  wake(w);
  while (k < max && (n = model_unit(w, max - k, unit))) {
    CHECK(w, k + n <= got);
    for (size_t i = 0; i < n; i++)
      check_hand_out(w, &w->items[unit[i]], out[k++], who);
    if (w->config.batch > 1)
      break;
  }
  CHECK(w, got == k);
}

static void bury(world *w, item *it, int64_t at) {
  it->state = WM_ENTRY_DEAD;
  it->taken = false;
  it->due = at;
  (void)w;
}

static void model_settle(world *w, item *it, int how, int64_t delay) {
  unsigned most = w->config.can_bury ? w->config.max_attempts : 0;
  if (it->lost)
    vanish(w, it);
  else if (how == 'a')
    finish(w, it, WM_SETTLE_ACK, 0);
  else if (how == 'b' || (most && it->attempt >= most))
    bury(w, it, w->now);
  else {
    it->nacks++;
    again(w, it, delay);
  }
}

/* The real delay of a backoff is looked up, and must be in its bounds. */
static int64_t backoff_taken(world *w, const item *it) {
  int64_t base = it->nacks ? 100 : 0;
  for (unsigned i = 1; i < it->nacks && base < 5000; i++)
    base = base * 2 > 5000 ? 5000 : base * 2;
  if (!base || it->msg->entry.state != WM_ENTRY_DELAYED)
    return 0;
  int64_t real = it->msg->entry.node.due - w->now;
  CHECK(w, real >= base && real <= base + base / 4);
  return real;
}

static void do_settle(world *w) {
  if (!w->n_handles)
    return;
  handle *h = &w->handles[roll(w, w->n_handles)];
  int how = "aaaannnnnb"[roll(w, 10)];
  static const int64_t delays[] = {0, 0, 5, 30, 200, WM_BACKOFF};
  int64_t delay = delays[roll(w, 6)];
  item *it = h->live ? find(w, h->id) : NULL;
  if (h->live)
    CHECK(w, it && it->state == WM_ENTRY_IN_HAND && it->msg == h->msg);
  bool can = h->live && (how != 'b' || w->config.can_bury);
  bool did = how == 'a'   ? wm_ledger_ack(w->ledger, h->msg, w->now)
             : how == 'n' ? wm_ledger_nack(w->ledger, h->msg, delay, roll(w, UINT64_MAX), w->now)
                          : wm_ledger_bury(w->ledger, h->msg, w->now);
  CHECK(w, did == can);
  if (!can)
    return;
  h->live = false;
  if (how == 'n' && delay < 0)
    delay = it->lost ? 0 : backoff_taken(w, it);
  model_settle(w, it, how, delay);
}

/* A handler lets go of a hand-out that was settled. */
static void do_release_handle(world *w) {
  for (size_t i = w->n_handles; i--;) {
    if (w->handles[i].live || !roll(w, 3))
      continue;
    wm_message_release(w->handles[i].msg);
    w->handles[i] = w->handles[--w->n_handles];
  }
}

static void do_take_dead(world *w) {
  item *first = NULL;
  for (size_t i = 0; i < w->n; i++) {
    item *it = &w->items[i];
    bool may = it->state == WM_ENTRY_DEAD && !it->taken && it->due <= w->now;
    if (may && (!first || it->due < first->due))
      first = it;
  }
  CHECK(w, wm_ledger_take_dead(w->ledger, w->now) == (first ? first->msg : NULL));
  if (first)
    first->taken = true;
}

static void do_dead_done(world *w) {
  for (size_t i = 0; i < w->n; i++) {
    item *it = &w->items[i];
    if (it->state != WM_ENTRY_DEAD || !it->taken)
      continue;
    bool done = roll(w, 2);
    int64_t retry_at = w->now + (int64_t)roll(w, 50);
    wm_ledger_dead_done(w->ledger, it->msg, done, retry_at, w->now);
    if (it->lost)
      vanish(w, it);
    else if (done)
      finish(w, it, WM_SETTLE_ACK, 0);
    else if (w->closing)
      finish(w, it, WM_SETTLE_RELEASE, it->attempt);
    else
      bury(w, it, retry_at);
    return;
  }
}

static wm_message *object_now(world *w, uint64_t id) {
  wm_message *held[ITEMS], *msg = NULL;
  uint64_t cursor = 0;
  size_t n = wm_ledger_held(w->ledger, held, ITEMS, &cursor);
  for (size_t i = 0; i < n; i++) {
    if (held[i]->token[0] == id)
      msg = held[i];
    wm_message_release(held[i]);
  }
  return msg;
}

static void do_reclaim(world *w) {
  int who = (int)roll(w, HOLDERS + 1) - 1;
  size_t expected = 0, order[ITEMS];
  for (size_t i = 0; i < w->n; i++) { /* in the order of their hand-outs */
    if (w->items[i].state != WM_ENTRY_IN_HAND || (who >= 0 && w->items[i].holder != who))
      continue;
    size_t at = expected++;
    for (; at && w->items[order[at - 1]].hand > w->items[i].hand; at--)
      order[at] = order[at - 1];
    order[at] = i;
  }
  uint64_t ids[ITEMS];
  for (size_t i = 0; i < expected; i++)
    ids[i] = w->items[order[i]].id;
  CHECK(w, wm_ledger_reclaim(w->ledger, holder(who), w->now) == expected);
  for (size_t i = 0; i < expected; i++) {
    item *it = find(w, ids[i]);
    for (size_t j = 0; j < w->n_handles; j++)
      if (w->handles[j].id == it->id)
        w->handles[j].live = false;
    if (it->lost) {
      vanish(w, it);
      continue;
    }
    if (!w->closing) {
      wm_message *copy = object_now(w, it->id);
      CHECK(w, copy && copy != it->msg);
      it->msg = copy;
    }
    again(w, it, 0);
  }
}

static void do_take_settled(world *w) {
  wm_settle_op ops[ITEMS];
  size_t max = roll(w, 4) ? roll(w, 6) + 1 : ITEMS;
  bool was_out = w->n_out > 0;
  size_t n = wm_ledger_take_settled(w->ledger, ops, max);
  if (was_out) {
    CHECK(w, n == 0);
    return;
  }
  CHECK(w, n == (w->n_ops < max ? w->n_ops : max));
  for (size_t i = 0; i < n; i++) {
    CHECK(w, ops[i].kind == w->ops[i].kind);
    CHECK(w, ops[i].msg->token[0] == w->ops[i].id);
    CHECK(w, ops[i].kind == WM_SETTLE_ACK || ops[i].attempt == w->ops[i].attempt);
  }
  memcpy(w->out, w->ops, n * sizeof *w->ops);
  memcpy(w->real_out, ops, n * sizeof *ops);
  memmove(w->ops, w->ops + n, (w->n_ops -= n) * sizeof *w->ops);
  w->n_out = n;
}

/* What an op that is over means; true: the object it named is gone. */
static bool model_settled(world *w, const op *o, const wm_message *msg, bool ok) {
  item *it = find(w, o->id);
  bool note = o->kind == WM_SETTLE_NOTE;
  if (!it || it->msg != msg) /* has left, or has been replaced by another object */
    return true;
  if (!note && (ok || it->lost)) {
    vanish(w, it);
    return true;
  }
  if (ok || it->lost || (note && it->state == WM_ENTRY_SETTLED))
    return false;
  put_op(w, 0, o->kind, o->id, note ? it->attempt : o->attempt);
  return false;
}

static void do_settled(world *w) {
  wm_message *gone[ITEMS];
  if (!w->n_out)
    return;
  bool ok = roll(w, 3) > 0;
  op out[ITEMS];
  size_t n = w->n_out, expected = 0;
  memcpy(out, w->out, sizeof out);
  size_t got = wm_ledger_settled(w->ledger, w->real_out, n, ok, gone, w->now);
  w->n_out = 0;
  for (size_t i = n; i--;)
    expected += model_settled(w, &out[i], w->real_out[i].msg, ok);
  CHECK(w, got == expected);
  while (got--)
    wm_message_release(gone[got]);
}

static bool is_lost(const wm_message *msg, void *arg) {
  const world *w = arg;
  return w->lost_mask >> (msg->token[0] % 16) & 1;
}

static void do_lost(world *w) {
  wm_message *gone[ITEMS];
  uint64_t expected[ITEMS];
  size_t n = 0;
  w->lost_mask = 1u << roll(w, 16);
  size_t got = wm_ledger_lost(w->ledger, is_lost, w, gone, w->now);
  for (size_t i = 0; i < w->n;) {
    item *it = &w->items[i];
    if (it->lost || !is_lost(it->msg, w)) {
      i++;
      continue;
    }
    bool out = object_out(w, it->msg);
    it->lost = true;
    if (it->state == WM_ENTRY_IN_HAND || (it->state == WM_ENTRY_DEAD && it->taken) ||
        (it->state == WM_ENTRY_SETTLED && out && op_of(w, it->id) == w->n_ops)) {
      drop_op(w, it->id);
      i++;
      continue;
    }
    if (!out)
      expected[n++] = it->id;
    vanish(w, it);
  }
  CHECK(w, got == n);
  for (size_t i = 0; i < n; i++) {
    CHECK(w, gone[i]->token[0] == expected[i]);
    wm_message_release(gone[i]);
  }
}

/* Every message that is there from the start of a walk to its end is met once, whatever happens
 * between. */
static void do_walk(world *w) {
  wm_message *held[ITEMS];
  if (!w->cursor) {
    w->walk_until = w->ids;
    for (size_t i = 0; i < w->n; i++)
      w->items[i].visited = false;
  }
  size_t max = roll(w, 5) + 1, n = wm_ledger_held(w->ledger, held, max, &w->cursor);
  for (size_t i = 0; i < n; i++) {
    item *it = find(w, held[i]->token[0]);
    CHECK(w, it && it->msg == held[i] && !it->visited);
    CHECK(w, !it->lost && it->state != WM_ENTRY_SETTLED);
    it->visited = true;
    wm_message_release(held[i]);
  }
  if (n == max)
    return;
  w->cursor = 0;
  for (size_t i = 0; i < w->n; i++) {
    const item *it = &w->items[i];
    if (it->id <= w->walk_until && !it->lost && it->state != WM_ENTRY_SETTLED)
      CHECK(w, it->visited);
  }
}

static void random_config(world *w, wm_ledger_config *c) {
  static const size_t flights[] = {1, 1, 2, 5}, batches[] = {1, 1, 2, 4}, prefetches[] = {1, 8, 40};
  static const unsigned attempts[] = {0, 1, 3};
  *c = (wm_ledger_config){
    .max_in_flight = flights[roll(w, 4)],
    .batch = batches[roll(w, 4)],
    .batch_wait = roll(w, 2) ? 25 : 0,
    .ordered = roll(w, 5) > 0,
    .order_by = roll(w, 2) ? "key" : NULL,
    .max_attempts = attempts[roll(w, 3)],
    .can_bury = roll(w, 2),
    .prefetch = prefetches[roll(w, 3)],
    .prefetch_bytes = roll(w, 2) ? 5000 : 1000000,
  };
}

static void do_configure(world *w) {
  random_config(w, &w->config);
  assert_int_equal(wm_ledger_configure(w->ledger, &w->config), WM_OK);
}

static void do_close(world *w, bool all) {
  if (all)
    wm_ledger_release_all(w->ledger);
  else
    wm_ledger_release_waiting(w->ledger);
  w->closing = true;
  for (size_t i = 0; i < w->n;) {
    item *it = &w->items[i];
    bool hand = it->state == WM_ENTRY_IN_HAND && !all;
    bool publishing = it->state == WM_ENTRY_DEAD && it->taken;
    if (it->state == WM_ENTRY_SETTLED || hand || publishing) {
      i++;
      continue;
    }
    for (size_t j = 0; j < w->n_handles; j++)
      if (w->handles[j].id == it->id)
        w->handles[j].live = false;
    if (it->lost) {
      vanish(w, it);
      continue;
    }
    bool to_come = it->state == WM_ENTRY_WAITING || it->state == WM_ENTRY_DELAYED;
    finish(w, it, WM_SETTLE_RELEASE, it->attempt - to_come);
    i++;
  }
}

static const char *step(world *w) {
  static const int64_t jumps[] = {1, 3, 10, 30, 300};
  uint64_t r = roll(w, 200);
  if (r < 30)
    return do_add(w), "add";
  if (r < 80)
    return do_next(w), "next";
  if (r < 135)
    return do_settle(w), "settle";
  if (r < 145)
    return do_release_handle(w), "release handles";
  if (r < 160)
    return do_take_settled(w), "take settled";
  if (r < 173)
    return do_settled(w), "settled";
  if (r < 179)
    return do_take_dead(w), "take dead";
  if (r < 183)
    return do_dead_done(w), "dead done";
  if (r < 185)
    return do_reclaim(w), "reclaim";
  if (r < 187)
    return do_lost(w), "lost";
  if (r < 188)
    return do_configure(w), "configure";
  if (r < 191)
    return do_walk(w), "walk";
  if (w->step > STEPS / 2 && r < 192)
    return do_close(w, roll(w, 2)), "close";
  w->now += jumps[roll(w, 5)];
  return "time";
}

/* What a gentle close does: everything is settled, nothing remains. */
static void settle_rest(world *w) {
  do_close(w, true);
  for (;;) {
    size_t taken = in_state(w, WM_ENTRY_DEAD);
    if (!taken && !w->n_out && !w->n_ops)
      break;
    do_dead_done(w);
    do_take_settled(w);
    do_settled(w);
    check_all(w);
  }
  CHECK(w, w->n == 0);
}

static void run_seed(uint64_t seed, bool loud) {
  world *w = calloc(1, sizeof *w);
  assert_non_null(w);
  w->seed = seed;
  w->random = seed * 0x9e3779b97f4a7c15u | 1;
  w->now = 1000;
  for (int i = 0; i < 8; i++)
    roll(w, 2);
  random_config(w, &w->config);
  w->ledger = wm_ledger_new(&w->config);
  assert_non_null(w->ledger);
  for (; w->step < STEPS; w->step++) {
    const char *what = step(w);
    if (loud)
      print_message("%d %s: held %zu, in hand %zu, ops %zu\n", w->step, what, w->n,
                    in_state(w, WM_ENTRY_IN_HAND), w->n_ops);
    check_all(w);
  }
  if (roll(w, 2))
    settle_rest(w);
  wm_ledger_free(w->ledger); /* the sanitizer sees what is freed twice or never */
  for (size_t i = 0; i < w->n_handles; i++)
    wm_message_release(w->handles[i].msg);
  free(w);
}

static void the_ledger_does_what_its_model_does(void **state) {
  (void)state;
  const char *one = getenv("WM_SEED"), *many = getenv("WM_SEEDS");
  if (one) {
    run_seed(strtoull(one, NULL, 10), true);
    return;
  }
  uint64_t n = many ? strtoull(many, NULL, 10) : SEEDS;
  for (uint64_t seed = 1; seed <= n; seed++)
    run_seed(seed, false);
}

int main(void) {
  const struct CMUnitTest tests[] = {cmocka_unit_test(the_ledger_does_what_its_model_does)};
  return cmocka_run_group_tests(tests, NULL, NULL);
}
