/*
 * subscription.c - subscribing, settling, unsubscribing.
 */
#include <stdlib.h>

#include "clock.h"
#include "error.h"
#include "memory.h"

/* ---- subscribing ---------------------------------------------------------------------------- */

int wm_memory_subscribe(void *conn, const wm_sub_spec *spec, void **sub, wm_error *err) {
  wm_memory_start start;
  const char *name = spec->group && *spec->group ? spec->group : NULL;
  if (spec->tx)
    return wm_fail_with(err, WM_UNSUPPORTED,
                        "option 'tx': the memory broker has no transactions to join");
  int rc = wm_memory_start_parse(spec->from, name ? "oldest" : "newest", &start, err);
  if (rc != WM_OK) return rc;
  wm_memory_sub *s = calloc(1, sizeof *s);
  wm_memory_topic *t = s ? wm_memory_topic_of(conn, spec->topic) : NULL;
  if (!t) goto fail;
  s->topic = t;
  s->exclusive = spec->exclusive && name;
  wm_cond_init(&s->wake);

  wm_memory_topic_lock(t);
  s->group = name ? wm_memory_group_find(t, name) : NULL;
  bool is_new = !s->group;
  if (is_new) s->group = wm_memory_group_add(t, name, &start);
  if (s->group) wm_memory_group_join(s->group, s);
  /* The first group ends the time in which everything is kept. */
  if (s->group && is_new) wm_memory_sweep(t);
  pthread_mutex_unlock(&t->lock);
  if (s->group) {
    *sub = s;
    return WM_OK;
  }
  pthread_cond_destroy(&s->wake);
fail:
  free(s);
  return wm_fail_with(err, WM_NOMEM, "out of memory");
}

void wm_memory_interrupt(void *sub) {
  wm_memory_sub *s = sub;
  pthread_mutex_lock(&s->topic->lock);
  s->interrupted = true;
  pthread_cond_signal(&s->wake);
  pthread_mutex_unlock(&s->topic->lock);
}

void wm_memory_unsubscribe(void *sub) {
  wm_memory_sub *s = sub;
  wm_memory_topic *t = s->topic;
  pthread_mutex_lock(&t->lock);
  wm_memory_group_leave(s);
  pthread_mutex_unlock(&t->lock);
  if (!s->group->name) wm_memory_group_remove(t, s->group);
  pthread_cond_destroy(&s->wake);
  free(s);
}

/* ---- settling ------------------------------------------------------------------------------- */

/* What was given away is in the ledger that gives it back; the next one must get another object. */
static void renew(wm_memory_slot *slot, wm_message **fresh, wm_memory_trash *trash) {
  if (!slot || !slot->given || !*fresh) return; /* without a new one the next delivery is a copy */
  trash->msgs[trash->n++] = slot->msg;
  slot->msg = *fresh;
  slot->given = false;
  *fresh = NULL;
}

static wm_message *fresh_copy(const wm_message *msg) {
  wm_message *copy = wm_memory_copy(msg);
  if (copy) wm_memory_place(copy, msg->token[0], msg->time);
  return copy;
}

static void settle_page(wm_memory_sub *s, const wm_settle_op *ops, size_t n) {
  wm_message *fresh[WM_MEMORY_PAGE];
  wm_memory_trash trash = {.n = 0};
  wm_memory_topic *t = s->topic;
  size_t released = 0;
  for (size_t i = 0; i < n; i++)
    fresh[i] = ops[i].kind == WM_SETTLE_RELEASE ? fresh_copy(ops[i].msg) : NULL;

  pthread_mutex_lock(&t->lock);
  for (size_t i = 0; i < n; i++) {
    uint64_t at = ops[i].msg->token[0];
    wm_memory_entry *e = wm_memory_group_held(s, at);
    if (!e) continue; /* settled before */
    if (ops[i].kind == WM_SETTLE_ACK) {
      wm_memory_group_ack(s, at, &trash);
    } else if (ops[i].kind == WM_SETTLE_RELEASE) {
      e->attempt = ops[i].attempt;
      renew(wm_memory_slot_at(t, at), &fresh[i], &trash);
      wm_memory_group_release(s, e, at);
      released++;
    }
  }
  wm_memory_group_wake(s->group, released);
  pthread_mutex_unlock(&t->lock);

  wm_memory_trash_empty(&trash);
  for (size_t i = 0; i < n; i++)
    wm_message_release(fresh[i]);
}

int wm_memory_settle(void *sub, wm_settle_op *ops, size_t n, wm_error *err) {
  (void)err;
  for (size_t i = 0; i < n; i += WM_MEMORY_PAGE)
    settle_page(sub, ops + i, n - i < WM_MEMORY_PAGE ? n - i : WM_MEMORY_PAGE);
  return WM_OK;
}
