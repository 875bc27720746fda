/*
 * db.c - the file: making it, opening it, its settings, our tables, transactions, errors. Used by whoever leads
 * the hub's turn, but for wm_sqlite_make_file.
 */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/vfs.h>
#include <time.h>
#include <unistd.h>

#include "clock.h"
#include "error.h"
#include "log.h"
#include "sqlite.h"

/* Another process's lock is asked for again after 0.2 to 1 ms, at random: with SQLite's own growing pauses the
 * one that has just released it gets it again nearly always. */
enum { PAUSE_LEAST_US = 200, PAUSE_MORE_US = 800 };
/* Who has had it for so long, with nobody else in between, leaves it alone for a moment if others wait. */
enum { SPENT_MOST_MS = 10, COURTESY_MS = 2 };
/* Pages in the write-ahead log before they are copied into the file. */
enum { CHECKPOINT_PAGES = 1000 };
/* What is left of a log that had grown, bytes. */
enum { LOG_LIMIT = 64 * 1024 * 1024 };
enum { FILE_MODE = 0644 };

static const char our_tables[] =
    "CREATE TABLE IF NOT EXISTS wm_group(id INTEGER PRIMARY KEY AUTOINCREMENT,"
    " topic TEXT NOT NULL, grp TEXT NOT NULL, next INTEGER NOT NULL, returned INTEGER NOT NULL "
    "DEFAULT 0,"
    " house_until INTEGER NOT NULL DEFAULT 0, leader INTEGER NOT NULL DEFAULT 0,"
    " leader_until INTEGER NOT NULL DEFAULT 0, UNIQUE(topic, grp));"
    "CREATE TABLE IF NOT EXISTS wm_held(grp_id INTEGER NOT NULL, \"offset\" INTEGER NOT NULL,"
    " member INTEGER NOT NULL, until INTEGER NOT NULL, attempt INTEGER NOT NULL,"
    " PRIMARY KEY(grp_id, \"offset\")) WITHOUT ROWID;"
    "CREATE TABLE IF NOT EXISTS wm_cursor(topic TEXT NOT NULL, member INTEGER NOT NULL,"
    " next INTEGER NOT NULL, slot INTEGER NOT NULL, PRIMARY KEY(topic, member)) WITHOUT ROWID";

/* ---- errors ----------------------------------------------------------------------------------- */

int wm_sqlite_fail_busy(const char *path, wm_error *err) {
  return wm_fail_with(
      err, WM_UNREACHABLE,
      "file '%s' has been locked by another program for too long; end its transaction, or "
      "raise busy_timeout",
      path);
}

static int fail_cantopen(const wm_sqlite_db *db, int error, wm_error *err) {
  struct stat st;
  if (error == EACCES || error == EPERM || error == EROFS || access(db->path, R_OK | W_OK) != 0)
    return wm_fail_with(
        err, WM_DENIED,
        "file '%s' or one beside it cannot be written (%s): this user needs the right to write "
        "the file, its -wal, -shm and -wm, and their directory",
        db->path, strerror(error ? error : errno));
  if (stat(db->path, &st) == 0 && error == 0)
    return wm_fail_with(
        err, WM_DENIED,
        "file '%s': its -wal or -shm cannot be made or opened beside it; this user needs the "
        "right to write the directory",
        db->path);
  return wm_fail_with(err, WM_UNREACHABLE, "file '%s' cannot be opened: %s", db->path,
                      error ? strerror(error) : "no reason was given");
}

int wm_sqlite_fail(wm_sqlite_db *db, int code, wm_error *err) {
  db->code = code;
  int error = db->handle ? sqlite3_system_errno(db->handle) : 0;
  const char *text = db->handle ? sqlite3_errmsg(db->handle) : sqlite3_errstr(code);
  switch (code & 0xff) {
  case SQLITE_BUSY:
  case SQLITE_LOCKED:
    return wm_sqlite_fail_busy(db->path, err);
  case SQLITE_FULL:
    return wm_fail_with(
        err, WM_UNREACHABLE,
        "the disk of file '%s' is full, or a quota is; free some space, it is tried again",
        db->path);
  case SQLITE_IOERR:
    return wm_fail_with(
        err, WM_UNREACHABLE,
        "file '%s': %s (%s%s%d); look at the disk and the system's log, it is tried again",
        db->path, text, error ? strerror(error) : "", error ? ", SQLite error " : "SQLite error ",
        code);
  case SQLITE_NOMEM:
    return wm_fail_with(err, WM_NOMEM, "out of memory");
  case SQLITE_READONLY:
  case SQLITE_PERM:
  case SQLITE_AUTH:
    return wm_fail_with(
        err, WM_DENIED,
        "file '%s' cannot be written (%s): this user needs the right to write the file, its "
        "-wal, -shm and -wm, and their directory",
        db->path, text);
  case SQLITE_CANTOPEN:
    return fail_cantopen(db, error, err);
  case SQLITE_NOTADB:
    return wm_fail_with(err, WM_REFUSED, "file '%s' is no SQLite database; name another one",
                        db->path);
  case SQLITE_CORRUPT:
    return wm_fail_with(
        err, WM_REFUSED,
        "file '%s' is damaged (%s); stop all that use it and try: sqlite3 '%s' .recover", db->path,
        text, db->path);
  case SQLITE_TOOBIG:
    return wm_fail_with(err, WM_TOO_LARGE, "over SQLite's limit for a row, 1000000000 bytes");
  case SQLITE_PROTOCOL:
    return wm_fail_with(err, WM_UNREACHABLE,
                        "file '%s': its locks do not work (%s); SQLite needs a local file system",
                        db->path, text);
  default:
    return wm_fail_with(err, WM_REFUSED, "file '%s': %s (SQLite error %d)", db->path, text, code);
  }
}

bool wm_sqlite_db_broken(const wm_sqlite_db *db) {
  switch (db->code & 0xff) {
  case SQLITE_IOERR:
  case SQLITE_READONLY:
  case SQLITE_CANTOPEN:
  case SQLITE_NOTADB:
  case SQLITE_CORRUPT:
  case SQLITE_PROTOCOL:
    return true;
  default:
    return false;
  }
}

/* ---- waiting for other processes -------------------------------------------------------------- */

static bool may_wait(const wm_sqlite_db *db) {
  return wm_now_ms() < db->give_up && !(db->stop && atomic_load(db->stop));
}

static void pause_a_little(void) {
  long us = PAUSE_LEAST_US + (long)(wm_random() % PAUSE_MORE_US);
  nanosleep(&(struct timespec){.tv_nsec = us * 1000}, NULL);
}

/* Runs SQL that SQLite may refuse for a lock without asking on_busy. */
static int exec(wm_sqlite_db *db, const char *sql, wm_error *err) {
  int rc;
  while ((rc = sqlite3_exec(db->handle, sql, NULL, NULL, NULL)) != SQLITE_OK) {
    bool locked = (rc & 0xff) == SQLITE_BUSY || (rc & 0xff) == SQLITE_LOCKED;
    if (!locked || !may_wait(db)) return wm_sqlite_fail(db, rc, err);
    pause_a_little();
  }
  return WM_OK;
}

/* ---- transactions ----------------------------------------------------------------------------- */

static int set_durable(wm_sqlite_db *db, bool full, wm_error *err) {
  if (db->full == full) return WM_OK;
  int rc = exec(db, full ? "PRAGMA synchronous=FULL" : "PRAGMA synchronous=NORMAL", err);
  if (rc == WM_OK) db->full = full;
  return rc;
}

static int on_busy(void *arg, int tries) {
  wm_sqlite_db *db = arg;
  (void)tries;
  if (!may_wait(db)) return 0;
  wm_sqlite_bell_wait(db, true);
  db->spent = 0;
  pause_a_little();
  return 1;
}

/* Those who wait find the file free only by luck while we take it again and again. */
static void be_courteous(wm_sqlite_db *db) {
  if (db->spent < SPENT_MOST_MS) return;
  db->spent = 0;
  if (wm_sqlite_bell_others_wait(db))
    nanosleep(&(struct timespec){.tv_nsec = COURTESY_MS * 1000000L}, NULL);
}

int wm_sqlite_db_begin(wm_sqlite_db *db, bool full, wm_error *err) {
  be_courteous(db);
  int rc = set_durable(db, full, err);
  if (rc == WM_OK) rc = wm_sqlite_do(db, wm_sqlite_stmt(db, Q_BEGIN), err, "");
  wm_sqlite_bell_wait(db, false);
  db->began = wm_now_ms();
  return rc;
}

int wm_sqlite_db_commit(wm_sqlite_db *db, wm_error *err) {
  int rc = wm_sqlite_do(db, wm_sqlite_stmt(db, Q_COMMIT), err, "");
  db->spent += wm_now_ms() - db->began;
  return rc;
}

/* ---- the file and what lies beside it ---------------------------------------------------------- */

int wm_sqlite_make_file(const char *path, wm_error *err) {
  struct stat st;
  /* Not to be opened without need: closing any descriptor of it ends this process's locks on it. */
  if (stat(path, &st) == 0) {
    if (S_ISREG(st.st_mode)) return WM_OK;
    return wm_fail_with(err, WM_BAD_INPUT, "'%s' is %s, not a file", path,
                        S_ISDIR(st.st_mode) ? "a directory" : "a device or the like");
  }
  int fd = errno == ENOENT ? open(path, O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC, FILE_MODE) : -1;
  if (fd >= 0) {
    close(fd);
    return WM_OK;
  }
  switch (errno) {
  case EEXIST:
    return WM_OK;
  case ENOENT:
    return wm_fail_with(err, WM_NOT_FOUND, "file '%s': its directory does not exist; make it",
                        path);
  case ENOTDIR:
    return wm_fail_with(err, WM_BAD_INPUT, "file '%s': a part of its path is no directory", path);
  case EACCES:
  case EPERM:
  case EROFS:
    return wm_fail_with(
        err, WM_DENIED,
        "file '%s' cannot be made or reached (%s): this user needs the right to write its "
        "directory",
        path, strerror(errno));
  case ENAMETOOLONG:
    return wm_fail_with(err, WM_BAD_INPUT, "file '%s': the name is too long", path);
  default:
    return wm_fail_with(err, WM_UNREACHABLE, "file '%s' cannot be made: %s", path, strerror(errno));
  }
}

bool wm_sqlite_db_moved(const wm_sqlite_db *db) {
  struct stat st;
  return stat(db->path, &st) != 0 || st.st_ino != db->inode || st.st_dev != db->device;
}

static void warn_of_network(const char *path) {
  static const unsigned long remote[] = {0x6969 /* NFS */, 0x517b /* SMB */, 0xff534d42 /* CIFS */,
                                         0xfe534d42 /* SMB2 */, 0x01021997 /* 9P */};
  struct statfs fs;
  if (statfs(path, &fs) != 0) return;
  for (size_t i = 0; i < sizeof remote / sizeof *remote; i++)
    if ((unsigned long)fs.f_type == remote[i])
      wm_log(WM_LOG_WARN,
             "sqlite: file '%s' is on a network file system; used from two machines it will be "
             "damaged",
             path);
}

/* ---- opening ---------------------------------------------------------------------------------- */

static int use_wal(wm_sqlite_db *db, wm_error *err) {
  sqlite3_stmt *stmt;
  for (;;) {
    int rc = sqlite3_prepare_v2(db->handle, "PRAGMA journal_mode=WAL", -1, &stmt, NULL);
    if (rc != SQLITE_OK) return wm_sqlite_fail(db, rc, err);
    rc = sqlite3_step(stmt);
    const char *mode = rc == SQLITE_ROW ? (const char *)sqlite3_column_text(stmt, 0) : NULL;
    bool done = mode && sqlite3_stricmp(mode, "wal") == 0;
    if (!done && (rc & 0xff) != SQLITE_BUSY) {
      rc = mode ? wm_fail_with(
                      err, WM_REFUSED,
                      "file '%s' stays in journal mode %s: a write-ahead log is not possible there",
                      db->path, mode)
                : wm_sqlite_fail(db, rc, err);
      sqlite3_finalize(stmt);
      return rc;
    }
    sqlite3_finalize(stmt);
    if (done) return WM_OK;
    if (!may_wait(db)) return wm_sqlite_fail(db, SQLITE_BUSY, err);
    pause_a_little();
  }
}

/* Writes only where something is missing. */
static int make_tables(wm_sqlite_db *db, wm_error *err) {
  sqlite3_stmt *stmt = wm_sqlite_prepare(
      db, "SELECT count(*) FROM sqlite_master WHERE name IN ('wm_group', 'wm_held', 'wm_cursor')");
  int64_t there;
  int rc = wm_sqlite_number(db, stmt, 0, &there, err, "");
  sqlite3_finalize(stmt);
  if (rc != WM_OK || there == 3) return rc;
  if ((rc = exec(db, "BEGIN IMMEDIATE", err)) != WM_OK) return rc;
  if ((rc = exec(db, our_tables, err)) == WM_OK) rc = exec(db, "COMMIT", err);
  if (rc != WM_OK) sqlite3_exec(db->handle, "ROLLBACK", NULL, NULL, NULL);
  return rc;
}

int wm_sqlite_db_open(wm_sqlite_db *db, wm_error *err) {
  char settings[200];
  struct stat st;
  int rc = wm_sqlite_make_file(db->path, err);
  if (rc != WM_OK) return rc;
  db->bell = -1;
  db->code = SQLITE_OK;
  rc = sqlite3_open_v2(db->path, &db->handle, SQLITE_OPEN_READWRITE | SQLITE_OPEN_NOMUTEX, NULL);
  if (rc != SQLITE_OK) {
    rc = wm_sqlite_fail(db, rc, err);
    goto fail;
  }
  sqlite3_extended_result_codes(db->handle, 1);
  sqlite3_busy_handler(db->handle, on_busy, db);
  if (stat(db->path, &st) != 0) {
    rc = wm_fail_with(err, WM_UNREACHABLE, "file '%s' has gone while it was opened", db->path);
    goto fail;
  }
  db->device = st.st_dev;
  db->inode = st.st_ino;
  if (sqlite3_db_readonly(db->handle, "main") == 1) {
    rc = wm_sqlite_fail(db, SQLITE_READONLY, err);
    goto fail;
  }
  if ((rc = use_wal(db, err)) != WM_OK) goto fail;
  snprintf(settings, sizeof settings,
           "PRAGMA synchronous=NORMAL; PRAGMA wal_autocheckpoint=%d; PRAGMA journal_size_limit=%d;"
           " PRAGMA secure_delete=OFF; PRAGMA foreign_keys=OFF; PRAGMA recursive_triggers=OFF",
           CHECKPOINT_PAGES, LOG_LIMIT);
  if ((rc = exec(db, settings, err)) != WM_OK) goto fail;
  db->full = false;
  if ((rc = make_tables(db, err)) != WM_OK) goto fail;
  if ((rc = wm_sqlite_bell_open(db, &st, err)) != WM_OK) goto fail;
  warn_of_network(db->path);
  return WM_OK;
fail:
  wm_sqlite_db_close(db);
  return rc;
}

void wm_sqlite_db_close(wm_sqlite_db *db) {
  for (size_t i = 0; i < Q_COUNT; i++) {
    sqlite3_finalize(db->stmts[i]);
    db->stmts[i] = NULL;
  }
  if (db->handle) {
    sqlite3_close(db->handle);
    if (db->bell >= 0) close(db->bell);
  }
  db->handle = NULL;
  db->bell = -1;
}
