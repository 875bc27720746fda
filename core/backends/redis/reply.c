/*
 * reply.c - hiredis' reader calls these functions as it parses a reply; entries become messages at
 * once, no reply tree is built. Used by the thread that reads the link.
 *
 * The reader's strings are borrowed until the function returns, and an entry may be parsed in
 * several goes. So the values of an entry are kept in a scratch buffer, but for the last one: with
 * it the message is made, straight from the reader's buffer. As payload is written last, it is
 * copied once.
 */
#include <limits.h>
#include <stdlib.h>
#include <string.h>

#include "redis.h"

/* What an array is, as its elements see it (task->parent->obj). */
static char root, claim, stream, entries, entry, fields, gone, counts, delivery, ignored;

static wm_redis_batch *batch_of(const redisReadTask *task) { return task->privdata; }

static void *parent_of(const redisReadTask *task) {
  return task->parent ? task->parent->obj : NULL;
}

static bool grow(void *array, size_t *cap, size_t n, size_t size) {
  if (n <= *cap) return true;
  size_t wanted = *cap ? *cap : 16;
  while (wanted < n)
    wanted *= 2;
  void *more = realloc(*(void **)array, wanted * size);
  if (!more) return false;
  memcpy(array, &more, sizeof more);
  *cap = wanted;
  return true;
}

/* Out of memory: NULL makes the reader fail, and the link with it. */
static void *out_of_memory(wm_redis_batch *b) {
  b->nomem = true;
  return NULL;
}

static bool keep(wm_redis_batch *b, const char *data, size_t len, size_t *at) {
  if (!grow(&b->scratch, &b->room, b->used + len + 1, 1)) return false;
  if (len) memcpy(b->scratch + b->used, data, len);
  *at = b->used;
  b->used += len;
  return true;
}

/* Makes the message; the last value is not in the scratch buffer. */
static bool finish_entry(wm_redis_batch *b, wm_slice last) {
  for (size_t i = 0; i < b->n_places; i++) {
    const wm_redis_place *p = &b->places[i];
    b->fields[i].name = (wm_slice){b->scratch + p->name, p->name_len};
    b->fields[i].value = (wm_slice){b->scratch + p->value, p->value_len};
  }
  if (b->n_places) b->fields[b->n_places - 1].value = last;
  if (!grow(&b->msgs, &b->cap, b->n + 1, sizeof *b->msgs)) return false;
  wm_message *msg = wm_redis_message(b->id, b->fields, b->n_places);
  if (!msg) return false;
  b->msgs[b->n++] = msg;
  return true;
}

static wm_redis_place *add_place(wm_redis_batch *b) {
  size_t cap = b->cap_places;
  if (!grow(&b->places, &cap, b->n_places + 1, sizeof *b->places)) return NULL;
  if (cap != b->cap_places) {
    wm_redis_field *more = realloc(b->fields, cap * sizeof *more);
    if (!more) return NULL;
    b->fields = more;
    b->cap_places = cap;
  }
  return &b->places[b->n_places++];
}

/* The place of the field that the element belongs to. A name or value that is no string is empty. */
static wm_redis_place *place_of(wm_redis_batch *b, const redisReadTask *task) {
  size_t nth = (size_t)task->idx / 2;
  while (b->n_places <= nth) {
    wm_redis_place *p = add_place(b);
    if (!p) return NULL;
    *p = (wm_redis_place){0};
    if (!keep(b, NULL, 0, &p->name)) return NULL;
  }
  return &b->places[nth];
}

static bool add_field(wm_redis_batch *b, const redisReadTask *task, const char *data, size_t len) {
  wm_redis_place *p = place_of(b, task);
  if (!p) return false;
  if (task->idx % 2 == 0) {
    p->name_len = len;
    return keep(b, data, len, &p->name);
  }
  if (task->idx == (int)task->parent->elements - 1) return finish_entry(b, (wm_slice){data, len});
  p->value_len = len;
  return keep(b, data, len, &p->value);
}

static void *on_string(const redisReadTask *task, char *data, size_t len) {
  wm_redis_batch *b = batch_of(task);
  void *in = parent_of(task);
  if (in == &fields) return add_field(b, task, data, len) ? &ignored : out_of_memory(b);
  if (task->type == REDIS_REPLY_ERROR) {
    size_t n = len < sizeof b->error - 1 ? len : sizeof b->error - 1;
    memcpy(b->error, data, n);
    b->error[n] = '\0';
  } else if (in == &entry && task->idx == 0) {
    wm_redis_id_parse(data, len, &b->id);
  } else if (in == &claim && task->idx == 0) {
    wm_redis_id_parse(data, len, &b->cursor);
  } else if (in == &gone) {
    b->gone++;
  } else if (in == &delivery) {
    wm_redis_id_parse(data, len, &b->deliveries[b->n_deliveries - 1].id);
  }
  return &ignored;
}

static void *array_in(wm_redis_batch *b, const redisReadTask *task) {
  void *in = parent_of(task);
  if (!in)
    return b->shape == WM_REDIS_READ    ? &root
           : b->shape == WM_REDIS_CLAIM ? &claim
           : b->shape == WM_REDIS_RANGE ? &entries
                                        : &ignored;
  if (in == &root) return &stream;
  if (in == &stream && task->idx == 1) return &entries;
  if (in == &claim)
    return task->idx == 1 ? &gone : task->idx == 2 ? &counts : task->idx == 3 ? &entries : &ignored;
  if (in == &entries) return &entry;
  if (in == &entry && task->idx == 1) return &fields;
  if (in == &counts) return &delivery;
  return &ignored;
}

static void *make_array(const redisReadTask *task, size_t elements) {
  wm_redis_batch *b = batch_of(task);
  void *kind = array_in(b, task);
  if (kind == &fields) {
    b->used = b->n_places = 0;
    if (elements == 0 && !finish_entry(b, (wm_slice){NULL, 0})) return out_of_memory(b);
  } else if (kind == &delivery) {
    if (!grow(&b->deliveries, &b->cap_deliveries, b->n_deliveries + 1, sizeof *b->deliveries))
      return out_of_memory(b);
    b->deliveries[b->n_deliveries++] = (wm_redis_delivery){0};
  }
  return kind;
}

#if HIREDIS_MAJOR >= 1
static void *on_array(const redisReadTask *task, size_t elements) {
  return make_array(task, elements);
}
#else
static void *on_array(const redisReadTask *task, int elements) {
  return make_array(task, (size_t)elements);
}
#endif

static void *on_integer(const redisReadTask *task, long long n) {
  wm_redis_batch *b = batch_of(task);
  if (parent_of(task) == &delivery && n > 0)
    b->deliveries[b->n_deliveries - 1].count = n < UINT_MAX ? (unsigned)n : UINT_MAX;
  return &ignored;
}

/* Nothing came; or, among entries, one that was trimmed while it was pending. */
static void *on_nil(const redisReadTask *task) {
  wm_redis_batch *b = batch_of(task);
  void *in = parent_of(task);
  if (!in)
    b->nil = true;
  else if (in == &entries || in == &entry)
    b->gone++;
  return &ignored;
}

static void on_free(void *obj) { (void)obj; }

redisReplyObjectFunctions wm_redis_batch_functions = {
    .createString = on_string,
    .createArray = on_array,
    .createInteger = on_integer,
    .createNil = on_nil,
    .freeObject = on_free,
};

void wm_redis_batch_begin(wm_redis_batch *b, wm_redis_shape shape) {
  b->shape = shape;
  b->n_deliveries = b->gone = b->used = b->n_places = 0;
  b->cursor = b->id = (wm_redis_id){0, 0};
  b->nil = b->nomem = false;
  b->error[0] = '\0';
}

void wm_redis_batch_free(wm_redis_batch *b) {
  for (size_t i = 0; i < b->n; i++)
    wm_message_release(b->msgs[i]);
  free(b->msgs);
  free(b->deliveries);
  free(b->scratch);
  free(b->places);
  free(b->fields);
  *b = (wm_redis_batch){0};
}
