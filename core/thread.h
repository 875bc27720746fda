/* thread.h - starting the library's own threads. */
#ifndef WM_THREAD_H
#define WM_THREAD_H

#include <pthread.h>

/* Starts a thread that gets no signals, which are the program's affair. `name` (at most 15 bytes) is what
 * top and debuggers show. out NULL: it is detached. WM_OK or WM_NOMEM. */
int wm_thread_start(pthread_t *out, const char *name, void *(*run)(void *arg), void *arg);

#endif
