/* watch.c - see watch.h; by inotify. */
#include "watch.h"

#include <errno.h>
#include <limits.h>
#include <stdlib.h>
#include <string.h>
#include <sys/inotify.h>
#include <sys/stat.h>
#include <unistd.h>

enum {
  WRITTEN = IN_CLOSE_WRITE | IN_MOVED_TO,
  ENTRIES = IN_CREATE | IN_DELETE | IN_MOVED_FROM,
  GONE = IN_DELETE_SELF | IN_MOVE_SELF | IN_UNMOUNT,
  READ_AT_ONCE = 16 * 1024
};

typedef struct directory {
  int wd; /* -1: it is gone */
  char *path;
} directory;

struct wm_watch {
  int fd;
  directory *list;
  size_t n, room;
};

wm_watch *wm_watch_new(void) {
  wm_watch *w = calloc(1, sizeof *w);
  if (!w) return NULL;
  w->fd = inotify_init1(IN_NONBLOCK | IN_CLOEXEC);
  if (w->fd >= 0) return w;
  free(w);
  return NULL;
}

void wm_watch_free(wm_watch *w) {
  if (!w) return;
  for (size_t i = 0; i < w->n; i++)
    free(w->list[i].path);
  free(w->list);
  close(w->fd);
  free(w);
}

int wm_watch_fd(const wm_watch *w) { return w->fd; }

static directory *find(wm_watch *w, const char *path) {
  for (size_t i = 0; i < w->n; i++)
    if (strcmp(w->list[i].path, path) == 0) return &w->list[i];
  return NULL;
}

static directory *append(wm_watch *w, const char *path) {
  if (w->n == w->room) {
    size_t room = 2 * w->room + 8;
    directory *list = realloc(w->list, room * sizeof *list);
    if (!list) return NULL;
    w->list = list;
    w->room = room;
  }
  char *copy = strdup(path);
  if (!copy) return NULL;
  w->list[w->n] = (directory){-1, copy};
  return &w->list[w->n++];
}

static void add_directory(wm_watch *w, const char *path) {
  directory *d = find(w, path);
  if (!d && !(d = append(w, path))) return;
  d->wd = inotify_add_watch(w->fd, path, WRITTEN | ENTRIES | GONE | IN_ONLYDIR);
}

static void add_parent(wm_watch *w, const char *path) {
  char parent[PATH_MAX];
  const char *slash = strrchr(path, '/');
  size_t len = slash ? (size_t)(slash - path) : 0;
  if (len >= sizeof parent) return;
  if (!slash) {
    add_directory(w, ".");
    return;
  }
  memcpy(parent, path, len);
  parent[len] = 0;
  add_directory(w, len ? parent : "/");
}

void wm_watch_add(wm_watch *w, const char *path) {
  char target[PATH_MAX];
  struct stat st;
  add_parent(w, path);
  if (lstat(path, &st) == 0 && S_ISLNK(st.st_mode) && realpath(path, target)) add_parent(w, target);
  if (stat(path, &st) == 0 && S_ISDIR(st.st_mode)) add_directory(w, path);
}

static directory *find_wd(wm_watch *w, int wd) {
  for (size_t i = 0; i < w->n; i++)
    if (w->list[i].wd == wd) return &w->list[i];
  return NULL;
}

void wm_watch_read(wm_watch *w,
                   void (*seen)(void *arg, const char *dir, const char *name, bool written),
                   void *arg) {
  _Alignas(struct inotify_event) char buf[READ_AT_ONCE];
  for (;;) {
    ssize_t n = read(w->fd, buf, sizeof buf);
    if (n <= 0) return;
    for (ssize_t at = 0; at < n;) {
      const struct inotify_event *event = (const void *)(buf + at);
      at += (ssize_t)(sizeof *event + event->len);
      if (event->mask & IN_Q_OVERFLOW) {
        seen(arg, "", NULL, true);
        continue;
      }
      directory *d = find_wd(w, event->wd);
      if (!d) continue;
      if (event->mask & (GONE | IN_IGNORED)) d->wd = -1;
      const char *name = event->len ? event->name : NULL;
      if (name) seen(arg, d->path, name, event->mask & WRITTEN);
    }
  }
}

bool wm_watch_lost(const wm_watch *w) {
  for (size_t i = 0; i < w->n; i++)
    if (w->list[i].wd < 0) return true;
  return false;
}
