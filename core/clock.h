/* clock.h - time and randomness. */
#ifndef WM_CLOCK_H
#define WM_CLOCK_H

#include <pthread.h>
#include <semaphore.h>
#include <stdbool.h>
#include <stdint.h>

int64_t wm_now_ms(void);   /* monotonic */
int64_t wm_epoch_ms(void); /* since 1970, UTC */
/* A condition variable that waits on the monotonic clock. WM_OK or WM_NOMEM. */
int wm_cond_init(pthread_cond_t *cond);
/* Waits until signalled or until the monotonic time `until_ms` (INT64_MAX: for ever). False: time is over. */
bool wm_cond_wait_until(pthread_cond_t *cond, pthread_mutex_t *lock, int64_t until_ms);
/* The same for a semaphore. */
bool wm_sem_wait_until(sem_t *sem, int64_t until_ms);
/* Random bits from the system, seeded once a thread; not for secrets. */
uint64_t wm_random(void);
/* 50 ms, doubling to 5 s with the number of the try (from 0), plus up to a quarter of jitter. */
int wm_backoff_ms(unsigned tries);

#endif
