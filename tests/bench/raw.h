/*
 * raw.h - the brokers' own client libraries, without libwm: what the bench compares with. As fast as ordinary
 * means go (pipelines, prepared statements), and with the same fields or columns that libwm writes. Each handle
 * is used by one thread; what goes wrong ends the program.
 */
#ifndef RAW_H
#define RAW_H

#include <stddef.h>

typedef struct raw_client {
  const char *name; /* "raw hiredis" */
  void *(*open)(const char *url);
  void (*close)(void *raw);
  /* Publishes n messages of bench_payload, `depth` a pipeline or transaction. */
  void (*publish)(void *raw, const char *topic, long n, long depth);
  /* Makes the group at the oldest message, then reads and acks n messages, `depth` a round trip or transaction.
   * Returns how many had a payload. */
  long (*consume)(void *raw, const char *topic, const char *group, long n, long depth);
} raw_client;

extern const raw_client raw_redis;
extern const raw_client raw_sqlite;        /* synchronous=FULL, SQLite's default */
extern const raw_client raw_sqlite_normal; /* synchronous=NORMAL */

/* A server's setting, as of CONFIG SET. */
void raw_redis_set(const char *url, const char *name, const char *value);

#endif
