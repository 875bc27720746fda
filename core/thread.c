/*
 * thread.c - starting threads. No state; any thread.
 */
#include "thread.h"

#include <signal.h>

#include "wm.h"

int wm_thread_start(pthread_t *out, const char *name, void *(*run)(void *arg), void *arg) {
  pthread_attr_t attr;
  if (pthread_attr_init(&attr) != 0) return WM_NOMEM;
  if (!out) pthread_attr_setdetachstate(&attr, PTHREAD_CREATE_DETACHED);
  sigset_t all, before;
  sigfillset(&all);
  pthread_sigmask(SIG_SETMASK, &all, &before);
  pthread_t thread;
  int rc = pthread_create(&thread, &attr, run, arg);
  pthread_sigmask(SIG_SETMASK, &before, NULL);
  pthread_attr_destroy(&attr);
  if (rc != 0) return WM_NOMEM;
  /* A detached one may be gone by now. */
  if (out) {
    pthread_setname_np(thread, name);
    *out = thread;
  }
  return WM_OK;
}
