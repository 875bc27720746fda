/*
 * watch.c - noticing what other processes do: one thread a hub, while it has subscriptions.
 *
 * Others ring the bell (<file>-wm) after a commit that somebody may wait for. Software that does not know of it,
 * and a process that was killed between commit and bell, are noticed by SQLite's data version, which is asked for
 * now and then; soon again where such a writer has just been seen. Nothing is asked while no subscription waits.
 */
#include <errno.h>
#include <limits.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/inotify.h>
#include <unistd.h>

#include "clock.h"
#include "error.h"
#include "log.h"
#include "sqlite.h"
#include "thread.h"

/* Pauses between questions for the data version. */
enum { ASK_LEAST_MS = 1, ASK_MOST_MS = 50 };
enum { GIVE_UP_MS = 1000 };

typedef struct asking {
  wm_sqlite_job job;
  bool changed;
} asking;

static bool ask(wm_sqlite_hub *h, wm_sqlite_job *job) {
  int64_t version;
  if (wm_sqlite_number(&h->db, wm_sqlite_stmt(&h->db, Q_DATA_VERSION), 0, &version, NULL, "") !=
      WM_OK)
    return false;
  if (version == h->data) return false;
  h->data = version;
  ((asking *)job)->changed = true;
  wm_sqlite_check_schema(h, NULL);
  return false;
}

static bool has_changed(wm_sqlite_hub *h) {
  pthread_cond_t cond;
  asking a = {.job = {.look = ask, .cond = &cond, .give_up = wm_now_ms() + GIVE_UP_MS}};
  wm_cond_init(&cond);
  wm_sqlite_submit(h, &a.job, NULL); /* what is wrong, the fetches find out */
  pthread_cond_destroy(&cond);
  return a.changed;
}

static bool somebody_waits(wm_sqlite_hub *h) {
  pthread_mutex_lock(&h->lock);
  bool waits = h->waiting > 0;
  pthread_mutex_unlock(&h->lock);
  return waits;
}

static void wake_all(wm_sqlite_hub *h) {
  pthread_mutex_lock(&h->lock);
  h->foreign++;
  for (wm_sqlite_sub *s = h->subs; s; s = s->next)
    pthread_cond_signal(&s->cond);
  pthread_mutex_unlock(&h->lock);
}

/* *watched: the bell is. It is made anew when somebody deletes it and the file is opened again. */
static void listen_to_bell(const wm_sqlite_hub *h, int fd, bool *watched) {
  char name[PATH_MAX + 8];
  if (fd < 0 || *watched) return;
  snprintf(name, sizeof name, "%s-wm", h->path);
  *watched = inotify_add_watch(fd, name, IN_MODIFY | IN_DELETE_SELF) >= 0;
}

static bool was_rung(int fd, bool *watched) {
  _Alignas(struct inotify_event) char buffer[4096];
  bool rung = false;
  ssize_t n;
  while ((n = read(fd, buffer, sizeof buffer)) > 0) {
    rung = true;
    for (char *p = buffer; p < buffer + n;
         p += sizeof(struct inotify_event) + ((struct inotify_event *)p)->len)
      if (((struct inotify_event *)p)->mask & IN_IGNORED) *watched = false;
  }
  return rung;
}

static void *watch(void *arg) {
  wm_sqlite_hub *h = arg;
  int pause = ASK_MOST_MS, fd = inotify_init1(IN_NONBLOCK | IN_CLOEXEC);
  bool watched = false;
  if (fd < 0)
    wm_log(
        WM_LOG_INFO,
        "sqlite: no inotify (%s): what other processes publish to '%s' is seen after up to %d ms",
        strerror(errno), h->path, ASK_MOST_MS);
  for (;;) {
    listen_to_bell(h, fd, &watched);
    struct pollfd fds[2] = {{.fd = h->watch_stop, .events = POLLIN}, {.fd = fd, .events = POLLIN}};
    poll(fds, 2, pause);
    if (fds[0].revents) break;
    bool rung = fd >= 0 && was_rung(fd, &watched);
    if (!somebody_waits(h)) {
      pause = ASK_MOST_MS;
    } else if (has_changed(h)) {
      wake_all(h);
      pause = rung ? ASK_MOST_MS : ASK_LEAST_MS;
    } else {
      pause = pause * 2 < ASK_MOST_MS ? pause * 2 : ASK_MOST_MS;
    }
  }
  if (fd >= 0) close(fd);
  return NULL;
}

int wm_sqlite_watch(wm_sqlite_hub *h, wm_error *err) {
  pthread_mutex_lock(&h->watch_lock);
  int rc = h->watchers ? WM_OK : wm_thread_start(&h->watcher, "wm-sqlite", watch, h);
  if (rc == WM_OK) h->watchers++;
  pthread_mutex_unlock(&h->watch_lock);
  if (rc == WM_OK) return WM_OK;
  return wm_fail_with(
      err, rc, "there is no thread to watch file '%s'; memory or a limit of threads is short",
      h->path);
}

void wm_sqlite_unwatch(wm_sqlite_hub *h) {
  uint64_t one = 1;
  pthread_mutex_lock(&h->watch_lock);
  if (--h->watchers == 0) {
    while (write(h->watch_stop, &one, sizeof one) < 0 && errno == EINTR)
      ;
    pthread_join(h->watcher, NULL);
    while (read(h->watch_stop, &one, sizeof one) < 0 && errno == EINTR)
      ;
  }
  pthread_mutex_unlock(&h->watch_lock);
}
