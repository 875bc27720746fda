/*
 * redis_wire_fuzz.c - any bytes as the reply to XREADGROUP, as a claim, and as the metadata of an entry. libFuzzer.
 */
#include <stdlib.h>

#include "backends/redis/redis.h"

static void reply_of(wm_redis_shape shape, const uint8_t *data, size_t size, size_t step) {
  wm_redis_batch batch = {0};
  wm_redis_batch_begin(&batch, shape);
  redisReader *reader = redisReaderCreateWithFunctions(&wm_redis_batch_functions);
  if (!reader) return;
  reader->privdata = &batch;
  for (size_t at = 0; at < size; at += step) {
    void *reply;
    redisReaderFeed(reader, (const char *)data + at, size - at < step ? size - at : step);
    if (redisReaderGetReply(reader, &reply) != REDIS_OK || reply) break;
  }
  redisReaderFree(reader);
  wm_redis_batch_free(&batch);
}

static void metadata_of(const uint8_t *data, size_t size) {
  wm_redis_field fields[] = {{{"payload", 7}, {"p", 1}},
                             {{"metadata", 8}, {(const char *)data, size}}};
  wm_message *msg = wm_redis_message((wm_redis_id){1, 2}, fields, 2);
  if (!msg) return;
  wm_redis_buf out = {0};
  wm_redis_xadd(&out, "topic", 0, msg);
  free(out.data);
  wm_message_release(msg);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
  if (size < 2) return 0;
  size_t step = data[1] ? data[1] : size;
  switch (data[0] % 4) {
  case 0:
    reply_of(WM_REDIS_READ, data + 2, size - 2, step);
    break;
  case 1:
    reply_of(WM_REDIS_CLAIM, data + 2, size - 2, step);
    break;
  case 2:
    reply_of(WM_REDIS_RANGE, data + 2, size - 2, step);
    break;
  default:
    metadata_of(data + 2, size - 2);
  }
  return 0;
}
