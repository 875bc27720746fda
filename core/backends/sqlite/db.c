/*
 * db.c - the file: opening it, its settings, our tables, statements, errors, and the bell beside it. Used by
 * whoever leads the hub's turn, but for wm_sqlite_make_file.
 *
 * <file>-wm is the bell: one byte is written to it after what others wait for, which they notice by inotify.
 * Each process keeps one byte of it locked, far beyond its end: the lock goes with the process, so that others
 * can tell whether it lives.
 */
#include <errno.h>
#include <fcntl.h>
#include <stdarg.h>
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
/* Pages in the write-ahead log before they are copied into the file. */
enum { CHECKPOINT_PAGES = 1000 };
/* What is left of a log that had grown, bytes. */
enum { LOG_LIMIT = 64 * 1024 * 1024 };
enum { SLOT_TRIES = 16 };
enum { FILE_MODE = 0644 };

static const char *const texts[Q_COUNT] = {
    [Q_BEGIN] = "BEGIN IMMEDIATE",
    [Q_COMMIT] = "COMMIT",
    [Q_ROLLBACK] = "ROLLBACK",
    [Q_SCHEMA_VERSION] = "PRAGMA schema_version",
    [Q_DATA_VERSION] = "PRAGMA data_version",
    [Q_JSON] = WM_SQLITE_JSON_SQL,
    [Q_TABLE_NAME] = "SELECT name FROM sqlite_master WHERE type='table' AND name=?1 COLLATE NOCASE",
    [Q_SEQUENCE] = "SELECT seq FROM sqlite_sequence WHERE name=?1",
    [Q_SEQUENCE_MAKE] = "INSERT INTO sqlite_sequence(name, seq) VALUES(?1, ?2)",
    [Q_GROUP_MAKE] = "INSERT INTO wm_group(topic, grp, next) VALUES(?1, ?2, ?3)",
    [Q_GROUP_SAVE] =
        "UPDATE wm_group SET next=?2, returned=?3, house_until=?4, leader=?5, leader_until=?6"
        " WHERE id=?1",
    [Q_GROUP_HIGHEST] = "SELECT max(n) FROM (SELECT max(next) AS n FROM wm_group WHERE topic=?1"
                        " UNION ALL SELECT max(next) FROM wm_cursor WHERE topic=?1)",
    [Q_GROUP_FORGET] = "DELETE FROM wm_group WHERE topic=?1",
    [Q_HELD_ANY] = "SELECT 1 FROM wm_held WHERE grp_id=?1 AND until<?2 AND member<>?3 LIMIT 1",
    [Q_HELD_OWN] = "SELECT 1 FROM wm_held WHERE grp_id=?1 AND member=?2 LIMIT 1",
    [Q_HELD_LOWEST] = "SELECT min(\"offset\") FROM wm_held WHERE grp_id=?1",
    [Q_HELD_COUNT] = "SELECT count(*) FROM wm_held WHERE grp_id=?1 AND \"offset\" BETWEEN ?2 AND "
                     "?3 AND member=?4",
    [Q_HELD_ACK] =
        "DELETE FROM wm_held WHERE grp_id=?1 AND \"offset\" BETWEEN ?2 AND ?3 AND member=?4",
    [Q_HELD_RELEASE] = "UPDATE wm_held SET member=0, until=0, attempt=?5"
                       " WHERE grp_id=?1 AND \"offset\" BETWEEN ?2 AND ?3 AND member=?4",
    [Q_HELD_NOTE] = "UPDATE wm_held SET attempt=?5"
                    " WHERE grp_id=?1 AND \"offset\" BETWEEN ?2 AND ?3 AND member=?4",
    [Q_HELD_TOUCH] = "UPDATE wm_held SET until=?5"
                     " WHERE grp_id=?1 AND \"offset\" BETWEEN ?2 AND ?3 AND member=?4",
    [Q_HELD_TAKE] = "UPDATE wm_held SET member=?3, until=?4, attempt=attempt+1 WHERE grp_id=?1 AND "
                    "\"offset\"=?2",
    [Q_HELD_DROP] = "DELETE FROM wm_held WHERE grp_id=?1 AND \"offset\"=?2",
    [Q_HELD_LEAVE] = "UPDATE wm_held SET member=0, until=0 WHERE grp_id=?1 AND member=?2",
    [Q_HELD_ORPHANS] = "DELETE FROM wm_held WHERE grp_id NOT IN (SELECT id FROM wm_group)",
    [Q_CURSOR_SAVE] = "INSERT INTO wm_cursor(topic, member, next, slot) VALUES(?1, ?2, ?3, ?4)"
                      " ON CONFLICT DO UPDATE SET next=excluded.next, slot=excluded.slot",
    [Q_CURSOR_DROP] = "DELETE FROM wm_cursor WHERE topic=?1 AND member=?2",
    [Q_CURSOR_RESTART] = "UPDATE wm_cursor SET next=0 WHERE topic=?1",
    [Q_CURSOR_ALL] = "SELECT member, next, slot FROM wm_cursor WHERE topic=?1",
};

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

/* ---- statements ------------------------------------------------------------------------------- */

sqlite3_stmt *wm_sqlite_prepare(wm_sqlite_db *db, const char *sql) {
  sqlite3_stmt *stmt = NULL;
  int rc = sqlite3_prepare_v3(db->handle, sql, -1, SQLITE_PREPARE_PERSISTENT, &stmt, NULL);
  if (rc != SQLITE_OK) db->code = rc;
  return stmt;
}

sqlite3_stmt *wm_sqlite_stmt(wm_sqlite_db *db, enum wm_sqlite_statement q) {
  if (!db->stmts[q]) db->stmts[q] = wm_sqlite_prepare(db, texts[q]);
  return db->stmts[q];
}

static int bind_slice(sqlite3_stmt *stmt, int i, wm_slice s, bool text) {
  const char *data = s.len ? s.data : "";
  if (text) return sqlite3_bind_text64(stmt, i, data, s.len, SQLITE_STATIC, SQLITE_UTF8);
  return sqlite3_bind_blob64(stmt, i, data, s.len, SQLITE_STATIC);
}

static int bind_all(sqlite3_stmt *stmt, const char *types, va_list args) {
  int rc = SQLITE_OK;
  for (int i = 0; types[i] && rc == SQLITE_OK; i++) {
    if (types[i] == 'i')
      rc = sqlite3_bind_int64(stmt, i + 1, va_arg(args, int64_t));
    else if (types[i] == 't')
      rc = sqlite3_bind_text(stmt, i + 1, va_arg(args, const char *), -1, SQLITE_STATIC);
    else
      rc = bind_slice(stmt, i + 1, va_arg(args, wm_slice), types[i] == 's');
  }
  return rc;
}

/* The error's text is that of the connection: it must be read before the reset, which may change it. */
static int step(wm_sqlite_db *db, sqlite3_stmt *stmt, wm_error *err) {
  int rc = sqlite3_step(stmt);
  if (rc == SQLITE_ROW) return 1;
  int code = rc == SQLITE_DONE ? 0 : wm_sqlite_fail(db, rc, err);
  sqlite3_reset(stmt);
  return code;
}

static int first(wm_sqlite_db *db, sqlite3_stmt *stmt, wm_error *err, const char *types,
                 va_list args) {
  if (!stmt) return wm_sqlite_fail(db, db->code, err);
  int rc = bind_all(stmt, types, args);
  if (rc != SQLITE_OK) return wm_sqlite_fail(db, rc, err);
  return step(db, stmt, err);
}

int wm_sqlite_first(wm_sqlite_db *db, sqlite3_stmt *stmt, wm_error *err, const char *types, ...) {
  va_list args;
  va_start(args, types);
  int rc = first(db, stmt, err, types, args);
  va_end(args);
  return rc;
}

int wm_sqlite_next(wm_sqlite_db *db, sqlite3_stmt *stmt, wm_error *err) {
  return step(db, stmt, err);
}

int wm_sqlite_do(wm_sqlite_db *db, sqlite3_stmt *stmt, wm_error *err, const char *types, ...) {
  va_list args;
  va_start(args, types);
  int rc = first(db, stmt, err, types, args);
  va_end(args);
  while (rc == 1)
    rc = step(db, stmt, err);
  return rc;
}

int wm_sqlite_number(wm_sqlite_db *db, sqlite3_stmt *stmt, int64_t otherwise, int64_t *out,
                     wm_error *err, const char *types, ...) {
  va_list args;
  *out = otherwise;
  va_start(args, types);
  int rc = first(db, stmt, err, types, args);
  va_end(args);
  if (rc != 1) return rc;
  if (sqlite3_column_type(stmt, 0) != SQLITE_NULL) *out = sqlite3_column_int64(stmt, 0);
  sqlite3_reset(stmt);
  return WM_OK;
}

/* ---- waiting for other processes -------------------------------------------------------------- */

static bool may_wait(const wm_sqlite_db *db) {
  return wm_now_ms() < db->give_up && !(db->stop && atomic_load(db->stop));
}

static void pause_a_little(void) {
  long us = PAUSE_LEAST_US + (long)(wm_random() % PAUSE_MORE_US);
  nanosleep(&(struct timespec){.tv_nsec = us * 1000}, NULL);
}

static int on_busy(void *arg, int tries) {
  (void)tries;
  if (!may_wait(arg)) return 0;
  pause_a_little();
  return 1;
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

#ifdef F_OFD_SETLK
enum { SET_LOCK = F_OFD_SETLK, GET_LOCK = F_OFD_GETLK };
#else
enum { SET_LOCK = F_SETLK, GET_LOCK = F_GETLK };
#endif

static struct flock byte_lock(int64_t slot) {
  return (struct flock){
      .l_type = F_WRLCK, .l_whence = SEEK_SET, .l_start = (off_t)slot, .l_len = 1};
}

static void take_slot(wm_sqlite_db *db) {
  for (int i = 0; i < SLOT_TRIES; i++) {
    db->slot = (int64_t)(wm_random() >> 2) | 1;
    struct flock lock = byte_lock(db->slot);
    if (fcntl(db->bell, SET_LOCK, &lock) == 0) return;
  }
  wm_log(WM_LOG_WARN,
         "sqlite: file '%s-wm' cannot be locked (%s): what subscriptions without a group have not "
         "read may be "
         "deleted by other processes",
         db->path, strerror(errno));
}

bool wm_sqlite_db_lives(const wm_sqlite_db *db, int64_t slot) {
  if (slot == db->slot) return true;
  struct flock lock = byte_lock(slot);
  return fcntl(db->bell, GET_LOCK, &lock) != 0 || lock.l_type != F_UNLCK;
}

static int open_bell(wm_sqlite_db *db, const struct stat *file, wm_error *err) {
  char name[4096];
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

void wm_sqlite_db_ring(wm_sqlite_db *db) {
  /* Without it the others find out a little later. */
  if (pwrite(db->bell, "!", 1, 0) < 0)
    wm_log(WM_LOG_DEBUG, "sqlite: file '%s-wm': %s", db->path, strerror(errno));
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
  if ((rc = open_bell(db, &st, err)) != WM_OK) goto fail;
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

int wm_sqlite_db_durable(wm_sqlite_db *db, bool full, wm_error *err) {
  if (db->full == full) return WM_OK;
  int rc = exec(db, full ? "PRAGMA synchronous=FULL" : "PRAGMA synchronous=NORMAL", err);
  if (rc == WM_OK) db->full = full;
  return rc;
}
