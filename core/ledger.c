/*
 * ledger.c - the ledger: what it holds, what it hands out, when, and how much more it would like.
 * Settling is in ledger_settle.c. Pure bookkeeping; the caller holds the subscription's lock.
 */
#include "ledger.h"

#include <assert.h>
#include <stdlib.h>
#include <string.h>

#include "ledger_heap.h"
#include "ledger_state.h"

/* Settled messages that the broker has not taken may amount to so many times the widest window
 * before fetching stops. */
#define SETTLED_BACKLOG 4

/* ---- places ------------------------------------------------------------------------------- */

void wm_ledger_tick(wm_ledger *l, int64_t now) {
  if (now > l->now)
    l->now = now;
}

void wm_ledger_set_state(wm_ledger *l, wm_message *msg, wm_entry_state state) {
  l->n[msg->entry.state]--;
  l->n[state]++;
  msg->entry.state = state;
}

/* Makes the heap of ready lanes and the totals agree with the lane. */
static void refresh_lane(wm_ledger *l, wm_ledger_lane *lane) {
  const wm_node *first = lane->blocked ? NULL : wm_queue_first(&lane->queue);
  if (lane->ready && (!first || first->order != lane->node.order)) {
    wm_heap_remove(&l->ready_lanes, &lane->node);
    lane->ready = false;
  }
  if (first && !lane->ready) {
    lane->node.order = first->order;
    wm_heap_push(&l->ready_lanes, &lane->node);
    lane->ready = true;
  }
  size_t n = first ? lane->queue.n : 0, eager = first ? lane->queue.eager : 0;
  l->lane_waiting += n - lane->counted;
  l->lane_eager += eager - lane->counted_eager;
  lane->counted = n;
  lane->counted_eager = eager;
}

void wm_ledger_block(wm_ledger *l, wm_message *msg, bool blocks) {
  wm_ledger_lane *lane = msg->entry.lane;
  if (!lane)
    return;
  if (blocks)
    lane->blocked++;
  else
    lane->blocked--;
  refresh_lane(l, lane);
}

void wm_ledger_wait(wm_ledger *l, wm_message *msg, bool came_back) {
  wm_ledger_lane *lane = msg->entry.lane;
  wm_queue_add(lane ? &lane->queue : &l->loose, msg, came_back);
  if (lane)
    refresh_lane(l, lane);
  wm_ledger_set_state(l, msg, WM_ENTRY_WAITING);
}

static void unwait(wm_ledger *l, wm_message *msg) {
  wm_ledger_lane *lane = msg->entry.lane;
  wm_queue_remove(lane ? &lane->queue : &l->loose, msg);
  if (lane)
    refresh_lane(l, lane);
}

static void take_in_hand(wm_ledger *l, wm_message *msg) {
  wm_node *node = &msg->entry.node;
  node->prev = l->hand_last;
  node->next = NULL;
  if (l->hand_last)
    l->hand_last->next = node;
  else
    l->hand_first = node;
  l->hand_last = node;
  wm_ledger_set_state(l, msg, WM_ENTRY_IN_HAND);
}

static void leave_hand(wm_ledger *l, wm_message *msg) {
  wm_entry *e = &msg->entry;
  if (e->node.prev)
    e->node.prev->next = e->node.next;
  else
    l->hand_first = e->node.next;
  if (e->node.next)
    e->node.next->prev = e->node.prev;
  else
    l->hand_last = e->node.prev;
  e->node.prev = e->node.next = NULL;
  if (e->mate_next == msg)
    l->units--;
  e->mate_prev->entry.mate_next = e->mate_next;
  e->mate_next->entry.mate_prev = e->mate_prev;
  e->mate_prev = e->mate_next = NULL;
  e->holder = NULL;
}

void wm_ledger_unplace(wm_ledger *l, wm_message *msg) {
  switch (msg->entry.state) {
  case WM_ENTRY_WAITING:
    unwait(l, msg);
    return;
  case WM_ENTRY_DELAYED:
    wm_heap_remove(&l->delayed, &msg->entry.node);
    break;
  case WM_ENTRY_IN_HAND:
    leave_hand(l, msg);
    break;
  case WM_ENTRY_DEAD:
    if (!msg->entry.taken)
      wm_heap_remove(&l->dying, &msg->entry.node);
    msg->entry.taken = false;
    break;
  default:
    assert(!"a place");
  }
  wm_ledger_block(l, msg, false);
}

void wm_ledger_live_begin(wm_ledger *l, wm_message *msg, int64_t now) {
  l->live_bytes += msg->size;
  l->redelivered += msg->redelivered;
  wm_meter_work(&l->meter, true, now);
}

void wm_ledger_live_end(wm_ledger *l, wm_message *msg) {
  l->live_bytes -= msg->size;
  l->redelivered -= msg->redelivered;
  if (msg->entry.lane)
    wm_lanes_leave(&l->lanes, msg->entry.lane);
  msg->entry.lane = NULL;
}

void wm_ledger_all_append(wm_ledger *l, wm_message *msg) {
  msg->entry.all_prev = l->all_last;
  msg->entry.all_next = NULL;
  if (l->all_last)
    l->all_last->entry.all_next = msg;
  else
    l->all_first = msg;
  l->all_last = msg;
}

void wm_ledger_all_remove(wm_ledger *l, wm_message *msg) {
  wm_entry *e = &msg->entry;
  if (l->walk == msg)
    l->walk = e->all_next;
  if (e->all_prev)
    e->all_prev->entry.all_next = e->all_next;
  else
    l->all_first = e->all_next;
  if (e->all_next)
    e->all_next->entry.all_prev = e->all_prev;
  else
    l->all_last = e->all_prev;
}

void wm_ledger_all_replace(wm_ledger *l, wm_message *old, wm_message *copy) {
  wm_entry *e = &copy->entry;
  e->all_prev = old->entry.all_prev;
  e->all_next = old->entry.all_next;
  *(e->all_prev ? &e->all_prev->entry.all_next : &l->all_first) = copy;
  *(e->all_next ? &e->all_next->entry.all_prev : &l->all_last) = copy;
  if (l->walk == old)
    l->walk = copy;
}

/* ---- life --------------------------------------------------------------------------------- */

static int take_config(wm_ledger *l, const wm_ledger_config *config) {
  char *order_by = NULL;
  if (config->order_by && !(order_by = strdup(config->order_by)))
    return WM_NOMEM;
  free(l->order_by);
  l->order_by = order_by;
  l->config = *config;
  l->config.order_by = order_by;
  l->config.max_in_flight = config->max_in_flight ? config->max_in_flight : 1;
  l->config.batch = config->batch ? config->batch : 1;
  l->laned = config->ordered && order_by;
  l->sequential = config->ordered && !order_by && l->config.max_in_flight == 1;
  return WM_OK;
}

wm_ledger *wm_ledger_new(const wm_ledger_config *config) {
  wm_ledger *l = calloc(1, sizeof *l);
  if (!l)
    return NULL;
  l->now = l->looked = INT64_MIN;
  if (take_config(l, config) == WM_OK)
    return l;
  free(l);
  return NULL;
}

static void release_list(wm_message *msg) {
  while (msg) {
    wm_message *next = msg->entry.all_next;
    msg->entry.state = WM_ENTRY_DONE;
    msg->entry.lane = NULL;
    wm_message_release(msg);
    msg = next;
  }
}

void wm_ledger_free(wm_ledger *l) {
  if (!l)
    return;
  release_list(l->all_first);
  release_list(l->left);
  wm_lanes_clear(&l->lanes);
  free(l->order_by);
  free(l);
}

/* Sets *lane to that of the message under the rules of `l` (NULL: none). */
static int join_lane(const wm_ledger *l, wm_lanes *lanes, const wm_message *msg,
                     wm_ledger_lane **lane) {
  *lane = NULL;
  if (!l->laned)
    return WM_OK;
  wm_slice key = wm_message_metadata(msg, l->order_by);
  if (!key.data)
    return WM_OK;
  *lane = wm_lanes_join(lanes, key);
  return *lane ? WM_OK : WM_NOMEM;
}

/* Puts everything that waits into new queues, and what blocks into its new lane, in order of
 * arrival. */
static void place_anew(wm_ledger *l, wm_lanes *lanes, wm_ledger_lane *const *lane) {
  wm_lanes_clear(&l->lanes);
  l->lanes = *lanes;
  l->loose = (wm_queue){0};
  l->ready_lanes = NULL;
  l->lane_waiting = l->lane_eager = 0;
  for (wm_message *msg = l->all_first; msg; msg = msg->entry.all_next) {
    if (msg->entry.state == WM_ENTRY_SETTLED)
      continue;
    msg->entry.lane = *lane++;
    if (msg->entry.state == WM_ENTRY_WAITING)
      wm_ledger_wait(l, msg, false);
    else
      wm_ledger_block(l, msg, true);
  }
}

int wm_ledger_configure(wm_ledger *l, const wm_ledger_config *config) {
  wm_ledger next = {0};
  wm_lanes lanes = {0};
  size_t n = 0;
  wm_ledger_lane **lane = malloc((wm_ledger_live(l) + 1) * sizeof(wm_ledger_lane *));
  if (!lane || take_config(&next, config) != WM_OK)
    goto fail;
  for (const wm_message *msg = l->all_first; msg; msg = msg->entry.all_next)
    if (msg->entry.state != WM_ENTRY_SETTLED && join_lane(&next, &lanes, msg, &lane[n++]) != WM_OK)
      goto fail;
  free(l->order_by);
  l->order_by = next.order_by;
  l->config = next.config;
  l->laned = next.laned;
  l->sequential = next.sequential;
  place_anew(l, &lanes, lane);
  free(lane);
  return WM_OK;
fail:
  wm_lanes_clear(&lanes);
  free(next.order_by);
  free(lane);
  return WM_NOMEM;
}

/* ---- in ----------------------------------------------------------------------------------- */

int wm_ledger_add(wm_ledger *l, wm_message *const *msgs, size_t n, int64_t now) {
  wm_ledger_tick(l, now);
  for (size_t i = 0; i < n; i++) {
    msgs[i]->entry = (wm_entry){.failures = msgs[i]->entry.failures};
    if (join_lane(l, &l->lanes, msgs[i], &msgs[i]->entry.lane) == WM_OK)
      continue;
    while (i--)
      if (msgs[i]->entry.lane)
        wm_lanes_leave(&l->lanes, msgs[i]->entry.lane);
    return WM_NOMEM;
  }
  for (size_t i = 0; i < n; i++) {
    wm_message *msg = msgs[i];
    wm_entry *e = &msg->entry;
    e->node.order = ++l->order;
    e->arrived = now;
    e->eager = msg->redelivered;
    atomic_store_explicit(&msg->attempt, msg->first_attempt, memory_order_relaxed);
    wm_ledger_all_append(l, msg);
    l->held++;
    l->bytes += msg->size;
    l->n[WM_ENTRY_NONE]++;
    wm_ledger_live_begin(l, msg, now);
    if (l->closing)
      wm_ledger_release(l, msg, msg->first_attempt - 1);
    else
      wm_ledger_wait(l, msg, false);
  }
  return WM_OK;
}

/* ---- out ---------------------------------------------------------------------------------- */

/* What was delayed long enough waits again. */
static void wake_delayed(wm_ledger *l, int64_t now) {
  wm_ledger_tick(l, now);
  l->looked = l->now;
  while (l->delayed && l->delayed->due <= now) {
    wm_message *msg = wm_node_message(l->delayed);
    wm_heap_remove(&l->delayed, &msg->entry.node);
    wm_ledger_wait(l, msg, true); /* before its lane is free: the lane then shows it as its first */
    wm_ledger_block(l, msg, false);
  }
}

static size_t ready_count(const wm_ledger *l) {
  return l->loose.n + l->lane_waiting;
}

static bool blocked(const wm_ledger *l) {
  return l->closing || l->units >= l->config.max_in_flight ||
         (l->sequential && (l->n[WM_ENTRY_DELAYED] || l->n[WM_ENTRY_DEAD]));
}

/* The first message by arrival of those that may go. */
static wm_message *first_ready(const wm_ledger *l) {
  wm_node *node = wm_queue_first(&l->loose);
  if (l->ready_lanes && (!node || l->ready_lanes->order < node->order)) {
    wm_ledger_lane *lane = (wm_ledger_lane *)(void *)l->ready_lanes; /* its first member */
    node = wm_queue_first(&lane->queue);
  }
  return node ? wm_node_message(node) : NULL;
}

/* When a batch that begins with `first` may go; INT64_MIN: now. */
static int64_t batch_time(const wm_ledger *l, const wm_message *first) {
  if (l->config.batch == 1 || l->config.batch_wait <= 0 || l->loose.eager + l->lane_eager ||
      ready_count(l) >= l->config.batch)
    return INT64_MIN;
  return first->entry.arrived + l->config.batch_wait;
}

bool wm_ledger_ready(wm_ledger *l, int64_t now) {
  wake_delayed(l, now);
  if (blocked(l))
    return false;
  const wm_message *first = first_ready(l);
  return first && batch_time(l, first) <= now;
}

/* Hands out one message as the next of the unit that begins with *first (NULL: it begins one). */
static wm_message *hand_out(wm_ledger *l, wm_message *msg, wm_message **first,
                            struct wm_consumer *holder, int64_t now) {
  unwait(l, msg);
  /* Somebody may still hold the last hand-out: settling that once more must not settle this one. */
  if (msg->entry.handed && atomic_load_explicit(&msg->refs, memory_order_relaxed) > 1) {
    wm_message *copy = wm_message_copy(msg);
    if (copy)
      wm_ledger_replace(l, msg, copy);
    msg = copy ? copy : msg;
  }
  wm_entry *e = &msg->entry;
  e->handed = e->eager = true;
  e->settled_as = 0;
  e->holder = holder;
  e->since = now;
  if (*first) {
    e->mate_prev = (*first)->entry.mate_prev;
    e->mate_next = *first;
    e->mate_prev->entry.mate_next = msg;
    (*first)->entry.mate_prev = msg;
  } else {
    e->mate_prev = e->mate_next = *first = msg;
    l->units++;
  }
  take_in_hand(l, msg);
  return wm_message_retain(msg);
}

size_t wm_ledger_next(wm_ledger *l, wm_message **out, size_t max, struct wm_consumer *holder,
                      int64_t now) {
  size_t n = 0;
  wm_message *msg, *unit = NULL;
  wake_delayed(l, now);
  if (l->config.batch == 1) {
    for (; n < max && !blocked(l) && (msg = first_ready(l)); unit = NULL) {
      wm_ledger_block(l, msg, true);
      out[n++] = hand_out(l, msg, &unit, holder, now);
    }
    return n;
  }
  if (max > l->config.batch)
    max = l->config.batch;
  if (blocked(l) || !(msg = first_ready(l)) || batch_time(l, msg) > now)
    return 0;
  for (; n < max && (msg = first_ready(l)); n++)
    out[n] = hand_out(l, msg, &unit, holder, now);
  for (size_t i = 0; i < n; i++) /* only now, so that several of a lane could stand together */
    wm_ledger_block(l, out[i], true);
  return n;
}

int64_t wm_ledger_deadline(const wm_ledger *l) {
  int64_t at = l->delayed ? l->delayed->due : INT64_MAX;
  const wm_message *first = blocked(l) ? NULL : first_ready(l);
  if (first) {
    int64_t go = batch_time(l, first);
    if (go > l->looked && go < at)
      at = go;
  }
  return at;
}

void wm_ledger_replace(wm_ledger *l, wm_message *old, wm_message *copy) {
  wm_entry *e = &old->entry;
  copy->entry = *e;
  copy->entry.out = false;
  copy->dead_reason = old->dead_reason;
  copy->dead_detail = old->dead_detail;
  old->dead_reason = old->dead_detail = NULL;
  wm_ledger_all_replace(l, old, copy);
  l->bytes += copy->size - old->size;
  l->live_bytes += copy->size - old->size;
  if (e->op != OP_NONE) {
    *(e->op_prev ? &e->op_prev->entry.op_next : &l->op_first) = copy;
    *(e->op_next ? &e->op_next->entry.op_prev : &l->op_last) = copy;
  }
  e->op = OP_NONE;
  e->lane = NULL;
  e->state = WM_ENTRY_DONE;
  if (!e->out) {
    wm_message_release(old);
    return;
  }
  wm_ledger_keep_left(l, old);
  /* Should the broker not take the NOTE of the old one, nothing would repeat it. */
  if (copy->entry.op == OP_NONE)
    wm_ledger_op(l, copy, OP_NOTE, atomic_load_explicit(&copy->attempt, memory_order_relaxed));
}

bool wm_ledger_busy(const wm_ledger *l) {
  return l->hand_first || ready_count(l);
}

void wm_ledger_forget_holder(wm_ledger *l, const struct wm_consumer *holder) {
  for (wm_node *node = l->hand_first; node; node = node->next)
    if (wm_node_message(node)->entry.holder == holder)
      wm_node_message(node)->entry.holder = NULL;
}

/* ---- looking ------------------------------------------------------------------------------ */

const wm_message *wm_ledger_oldest_in_hand(const wm_ledger *l) {
  return l->hand_first ? wm_node_message(l->hand_first) : NULL;
}

static bool claimed(const wm_message *msg) {
  return msg->entry.state != WM_ENTRY_SETTLED && !msg->entry.lost;
}

size_t wm_ledger_held(wm_ledger *l, wm_message **out, size_t max, uint64_t *cursor) {
  wm_message *msg = l->all_first;
  size_t n = 0;
  if (*cursor && *cursor == l->walk_cursor)
    msg = l->walk;
  else
    while (msg && msg->entry.node.order <= *cursor)
      msg = msg->entry.all_next;
  for (; msg && n < max; msg = msg->entry.all_next) {
    *cursor = msg->entry.node.order;
    if (claimed(msg))
      out[n++] = wm_message_retain(msg);
  }
  l->walk = msg;
  /* At the end nothing is remembered: what arrives later is found from the cursor. */
  l->walk_cursor = msg ? *cursor : 0;
  return n;
}

static size_t least_window(const wm_ledger *l) {
  size_t flight = l->config.max_in_flight, batch = l->config.batch;
  return flight > SIZE_MAX / batch ? SIZE_MAX : flight * batch;
}

static size_t window_now(const wm_ledger *l, int64_t now) {
  wm_window_input in = {
    .last = l->last,
    .known = l->meter.known,
    .rate = wm_meter_rate(&l->meter, now),
    .redelivered = l->redelivered > 0,
    .least = least_window(l),
    .most = l->config.prefetch,
  };
  return wm_window(&in);
}

size_t wm_ledger_room(const wm_ledger *l, size_t *bytes, int64_t now) {
  size_t live = wm_ledger_live(l), window = window_now(l, now);
  size_t settled = l->n[WM_ENTRY_SETTLED], most = l->config.prefetch_bytes;
  *bytes = 0;
  size_t widest = least_window(l) > l->config.prefetch ? least_window(l) : l->config.prefetch;
  bool behind = settled / SETTLED_BACKLOG >= widest || (most && l->bytes - l->live_bytes >= most);
  if (l->closing || live >= window || behind)
    return 0;
  /* Who could work and has too little to work on does not wait until half is gone. */
  bool hungry = !blocked(l) && ready_count(l) < l->config.batch;
  if (!hungry && (live > window / 2 || (most && live && l->live_bytes > most / 2)))
    return 0;
  if (most && live && l->live_bytes >= most)
    return 0;
  *bytes = !most ? SIZE_MAX : l->live_bytes < most ? most - l->live_bytes : most;
  return window - live;
}

void wm_ledger_fetched(wm_ledger *l, size_t asked, size_t got, int64_t now) {
  (void)asked;
  wm_ledger_tick(l, now);
  if (got)
    l->last = l->redelivered ? 1 : got; /* after redelivered ones it grows from 1 again */
}

void wm_ledger_count(const wm_ledger *l, wm_ledger_counts *out) {
  *out = (wm_ledger_counts){
    .waiting = l->n[WM_ENTRY_WAITING],
    .delayed = l->n[WM_ENTRY_DELAYED],
    .in_hand = l->n[WM_ENTRY_IN_HAND],
    .dead = l->n[WM_ENTRY_DEAD],
    .settled = l->n[WM_ENTRY_SETTLED],
    .units = l->units,
    .held = l->held,
    .bytes = l->bytes,
    .redelivered = l->redelivered,
    .window = window_now(l, l->now),
  };
}
