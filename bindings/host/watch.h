/*
 * watch.h - tells when something happens in the directories of files: a file written and closed, or
 * put in place by a rename. The control thread only.
 */
#ifndef WM_WATCH_H
#define WM_WATCH_H

#include <stdbool.h>

typedef struct wm_watch wm_watch;

wm_watch *wm_watch_new(void); /* NULL: errno says why */
void wm_watch_free(wm_watch *w);
int wm_watch_fd(const wm_watch *w);

/* Watches the directory that path lies in, the one that its target lies in when it is a link, and
 * path itself when it is a directory. Again: nothing, unless that directory has been replaced. */
void wm_watch_add(wm_watch *w, const char *path);

/* Calls seen(arg, dir, name, written) for all that has happened; name NULL: anything may have.
 * written: name was written and closed, or moved there; else something else about it, as a
 * directory entry, has changed. */
void wm_watch_read(wm_watch *w,
                   void (*seen)(void *arg, const char *dir, const char *name, bool written),
                   void *arg);
/* Whether a watched directory has gone: wm_watch_add should be tried again, from time to time. */
bool wm_watch_lost(const wm_watch *w);

#endif
