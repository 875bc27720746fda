/* files.c - see files.h */
#include "files.h"

#include <pthread.h>
#include <stdatomic.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "clock.h"

typedef struct file {
  char *path;
  bool there;
  bool touched; /* a directory: something in it has changed */
  struct stat st;
} file;

struct wm_files {
  atomic_uint refs;
  pthread_mutex_t lock; /* of all below */
  file **list;          /* each lives as long as the whole */
  size_t n, room;
};

wm_files *wm_files_new(void) {
  wm_files *files = calloc(1, sizeof *files);
  if (!files) return NULL;
  atomic_init(&files->refs, 1);
  pthread_mutex_init(&files->lock, NULL);
  return files;
}

wm_files *wm_files_retain(wm_files *files) {
  atomic_fetch_add(&files->refs, 1);
  return files;
}

void wm_files_release(wm_files *files) {
  if (!files || atomic_fetch_sub(&files->refs, 1) > 1) return;
  for (size_t i = 0; i < files->n; i++) {
    free(files->list[i]->path);
    free(files->list[i]);
  }
  free(files->list);
  pthread_mutex_destroy(&files->lock);
  free(files);
}

static file *find(const wm_files *files, const char *path) {
  for (size_t i = 0; i < files->n; i++)
    if (strcmp(files->list[i]->path, path) == 0) return files->list[i];
  return NULL;
}

static file *append(wm_files *files, const char *path) {
  if (files->n == files->room) {
    size_t room = 2 * files->room + 8;
    file **list = realloc(files->list, room * sizeof(file *));
    if (!list) return NULL;
    files->list = list;
    files->room = room;
  }
  file *f = calloc(1, sizeof *f);
  if (f && !(f->path = strdup(path))) {
    free(f);
    f = NULL;
  }
  if (f) files->list[files->n++] = f;
  return f;
}

void wm_files_add(wm_files *files, const char *path, const struct stat *st) {
  struct stat now;
  if (!st && stat(path, &now) == 0) st = &now;
  pthread_mutex_lock(&files->lock);
  if (!find(files, path)) {
    file *f = append(files, path); /* without memory it is not watched */
    if (f && st) {
      f->there = true;
      f->st = *st;
    }
  }
  pthread_mutex_unlock(&files->lock);
}

const char *wm_files_at(wm_files *files, size_t i) {
  pthread_mutex_lock(&files->lock);
  const char *path = i < files->n ? files->list[i]->path : NULL;
  pthread_mutex_unlock(&files->lock);
  return path;
}

static bool concerns(const file *f, const char *name) {
  const char *slash = strrchr(f->path, '/');
  return !name || strcmp(slash ? slash + 1 : f->path, name) == 0;
}

bool wm_files_happened(wm_files *files, const char *dir, const char *name) {
  bool found = false;
  pthread_mutex_lock(&files->lock);
  for (size_t i = 0; i < files->n; i++) {
    file *f = files->list[i];
    if (strcmp(f->path, dir) == 0) f->touched = true;
    found = found || f->touched || concerns(f, name);
  }
  pthread_mutex_unlock(&files->lock);
  return found;
}

static bool same_inode(const struct stat *a, const struct stat *b) {
  return a->st_dev == b->st_dev && a->st_ino == b->st_ino;
}

static bool same_content(const struct stat *a, const struct stat *b) {
  return a->st_size == b->st_size && a->st_mtim.tv_sec == b->st_mtim.tv_sec &&
         a->st_mtim.tv_nsec == b->st_mtim.tv_nsec;
}

static bool is_changed(const file *f, bool replaced) {
  struct stat now;
  if (f->touched) return true;
  if (stat(f->path, &now) != 0) return false;
  if (!f->there || !same_inode(&now, &f->st)) return true;
  return !replaced && !same_content(&now, &f->st);
}

bool wm_files_changed(wm_files *files, bool replaced) {
  bool found = false;
  pthread_mutex_lock(&files->lock);
  for (size_t i = 0; !found && i < files->n; i++)
    found = is_changed(files->list[i], replaced);
  pthread_mutex_unlock(&files->lock);
  return found;
}

static bool is_fresh(const file *f, int64_t now, int ms) {
  struct stat st;
  if (stat(f->path, &st) != 0) return false;
  int64_t written = (int64_t)st.st_mtim.tv_sec * 1000 + st.st_mtim.tv_nsec / 1000000;
  return written <= now && now - written < ms;
}

bool wm_files_fresh(wm_files *files, int ms) {
  bool found = false;
  int64_t now = wm_epoch_ms();
  pthread_mutex_lock(&files->lock);
  for (size_t i = 0; !found && i < files->n; i++)
    found = is_fresh(files->list[i], now, ms);
  pthread_mutex_unlock(&files->lock);
  return found;
}
