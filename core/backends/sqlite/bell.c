/*
 * bell.c - the file beside the file, <file>-wm: how processes that share a database see each other. Used by
 * whoever leads the hub's turn.
 *
 * It is rung (one byte is written) after what others wait for, which they notice by inotify. The rest are locks
 * on single bytes far beyond its end, which go with the process that has them: each process keeps one of its own,
 * so that others can tell whether it lives; and all that wait for the database share one, so that whoever has
 * just had it lets them come first.
 */
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "clock.h"
#include "error.h"
#include "log.h"
#include "sqlite.h"

enum { SLOT_TRIES = 16 };

/* Those of an open file, not of a process, where the system has them. */
#ifdef F_OFD_SETLK
enum { SET_LOCK = F_OFD_SETLK, GET_LOCK = F_OFD_GETLK };
#else
enum { SET_LOCK = F_SETLK, GET_LOCK = F_GETLK };
#endif

/* The byte that those keep locked who wait for the file; slots are below it. */
static const int64_t WAITING_BYTE = (int64_t)1 << 62;

static struct flock byte_lock(int64_t byte, short type) {
  return (struct flock){.l_type = type, .l_whence = SEEK_SET, .l_start = (off_t)byte, .l_len = 1};
}

static void take_slot(wm_sqlite_db *db) {
  for (int i = 0; i < SLOT_TRIES; i++) {
    db->slot = (int64_t)(wm_random() >> 2) | 1;
    struct flock lock = byte_lock(db->slot, F_WRLCK);
    if (fcntl(db->bell, SET_LOCK, &lock) == 0) return;
  }
  wm_log(WM_LOG_WARN,
         "sqlite: file '%s-wm' cannot be locked (%s): what subscriptions without a group have not "
         "read may be "
         "deleted by other processes",
         db->path, strerror(errno));
}

bool wm_sqlite_bell_lives(const wm_sqlite_db *db, int64_t slot) {
  if (slot == db->slot) return true;
  struct flock lock = byte_lock(slot, F_WRLCK);
  return fcntl(db->bell, GET_LOCK, &lock) != 0 || lock.l_type != F_UNLCK;
}

int wm_sqlite_bell_open(wm_sqlite_db *db, const struct stat *file, wm_error *err) {
  char name[PATH_MAX + sizeof "-wm"];
  snprintf(name, sizeof name, "%s-wm", db->path);
  db->bell = open(name, O_RDWR | O_CLOEXEC);
  if (db->bell < 0 && errno == ENOENT) {
    db->bell = open(name, O_RDWR | O_CREAT | O_CLOEXEC, file->st_mode & 0777);
    /* Who may use the file may use this, whatever the umask is. */
    if (db->bell >= 0 && fchmod(db->bell, file->st_mode & 0777) == 0 && geteuid() == 0 &&
        fchown(db->bell, file->st_uid, file->st_gid) != 0)
      wm_log(WM_LOG_DEBUG, "sqlite: file '%s' keeps its owner: %s", name, strerror(errno));
  }
  if (db->bell < 0)
    return wm_fail_with(
        err, errno == EACCES || errno == EPERM || errno == EROFS ? WM_DENIED : WM_UNREACHABLE,
        "file '%s' cannot be opened: %s; it must be as writable as the one it belongs to", name,
        strerror(errno));
  take_slot(db);
  return WM_OK;
}

void wm_sqlite_bell_ring(wm_sqlite_db *db) {
  /* Without it the others find out a little later. */
  if (pwrite(db->bell, "!", 1, 0) < 0)
    wm_log(WM_LOG_DEBUG, "sqlite: file '%s-wm': %s", db->path, strerror(errno));
}

/* Whoever waits says so, for those who would take the lock again at once: they alone find it free. */
void wm_sqlite_bell_wait(wm_sqlite_db *db, bool waits) {
  if (db->bell < 0 || db->waits == waits) return;
  struct flock lock = byte_lock(WAITING_BYTE, waits ? F_RDLCK : F_UNLCK);
  db->waits = waits;
  fcntl(db->bell, SET_LOCK, &lock);
}

bool wm_sqlite_bell_others_wait(const wm_sqlite_db *db) {
  struct flock lock = byte_lock(WAITING_BYTE, F_WRLCK);
  return fcntl(db->bell, GET_LOCK, &lock) == 0 && lock.l_type != F_UNLCK;
}
