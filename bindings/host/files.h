/*
 * files.h - the files that a script consists of: itself, what it required, what it asked to watch;
 * each with the mark of what was read. A wm_files is shared by the workers of a generation, which
 * add, and the control thread, which watches; it has a lock of its own.
 */
#ifndef WM_FILES_H
#define WM_FILES_H

#include <stdbool.h>
#include <stddef.h>
#include <sys/stat.h>

typedef struct wm_files wm_files;

wm_files *wm_files_new(void); /* with one reference; NULL: out of memory */
wm_files *wm_files_retain(wm_files *files);
void wm_files_release(wm_files *files); /* NULL: nothing */

/* Once a path; what was read first counts. st NULL: it is not there, or was not read (then what is
 * there now). */
void wm_files_add(wm_files *files, const char *path, const struct stat *st);
/* The i-th path, borrowed from files; NULL past the last. */
const char *wm_files_at(wm_files *files, size_t i);
/* Something has happened to `name` (NULL: to anything) in directory `dir`. Returns whether that
 * concerns them; when dir itself is one of them, it has changed. */
bool wm_files_happened(wm_files *files, const char *dir, const char *name);
/* Whether a file that is there is another than what was read; replaced: has another inode, too. A
 * file that is gone has not changed: it may be on its way to be replaced. */
bool wm_files_changed(wm_files *files, bool replaced);
/* Whether the last write was so short ago that something may still be writing. */
bool wm_files_fresh(wm_files *files, int ms);

#endif
