/*
 * host.c - the control thread of wmlua run: signals, changed files, what the workers say, and the
 * end. It waits in one poll and does all else in short steps.
 */
#include "host.h"

#include <dirent.h>
#include <errno.h>
#include <limits.h>
#include <poll.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/stat.h>
#include <unistd.h>

#include "cli/cli.h"
#include "clock.h"
#include "log_line.h"
#include "options.h"
#include "signals.h"

enum {
  SETTLE_MS = 50,        /* files are loaded that long after the last write */
  WATCH_AGAIN_MS = 1000, /* between tries to watch a directory that has gone */
  GONE_MS = 1000,        /* a file that is away for longer is not just being replaced */
  LAST_MS = 5000         /* for the broker to take the last acks, when all else has ended */
};

/* ---- from other threads --------------------------------------------------------------------- */

void wm_host_poke(wm_host *h) {
  if (!atomic_exchange(&h->poked, true)) eventfd_write(h->poke_fd, 1);
}

static void poke(void *host) { wm_host_poke(host); }

void wm_host_exit(wm_host *h, int code) {
  int none = 0;
  atomic_compare_exchange_strong(&h->exit_asked, &none, 1 + (code & 0xff));
  wm_host_poke(h);
}

/* ---- scripts -------------------------------------------------------------------------------- */

static bool has_script(const wm_host *h, const char *path) {
  for (const wm_script *s = h->scripts; s; s = s->next_script)
    if (s->path && strcmp(s->path, path) == 0) return true;
  return false;
}

/* path NULL: only what -e and -l say. Put last, so that scripts begin in the order that was
 * given. */
static bool add_script(wm_host *h, const char *path, bool in_directory) {
  const wm_host_config *config = h->config;
  wm_script *s = calloc(1, sizeof *s);
  if (!s || (path && !(s->path = strdup(path)))) {
    free(s);
    return false;
  }
  s->host = h;
  s->title = path ? s->path : "(command line)";
  s->in_directory = in_directory;
  s->changed = true;
  atomic_store(&s->reload_grace.value, config->reload_grace.value);
  atomic_store(&s->load_timeout.value, config->load_timeout.value);
  wm_script **at = &h->scripts;
  while (*at)
    at = &(*at)->next_script;
  *at = s;
  return true;
}

static int is_lua(const struct dirent *entry) {
  size_t len = strlen(entry->d_name);
  return entry->d_name[0] != '.' && len > 4 && strcmp(entry->d_name + len - 4, ".lua") == 0;
}

/* Adds the scripts of a directory that are not known yet. The number of all there, -1: errno says
 * why. */
static int add_directory(wm_host *h, const char *dir) {
  struct dirent **entries;
  int n = scandir(dir, &entries, is_lua, alphasort);
  for (int i = 0; i < n; i++) {
    char path[PATH_MAX];
    const char *slash = dir[strlen(dir) - 1] == '/' ? "" : "/";
    snprintf(path, sizeof path, "%s%s%s", dir, slash, entries[i]->d_name);
    if (!has_script(h, path)) add_script(h, path, true);
    free(entries[i]);
  }
  if (n >= 0) free(entries);
  return n;
}

/* Exit code; -1: go on. */
static int add_path(wm_host *h, const char *path) {
  struct stat st;
  if (stat(path, &st) != 0) {
    wm_cli_say(NULL, "%s: %s; name a Lua file, or a directory of them", path, strerror(errno));
    return errno == ENOENT || errno == ENOTDIR ? WM_EXIT_NOT_FOUND : WM_EXIT_FAILED;
  }
  if (!S_ISDIR(st.st_mode)) return add_script(h, path, false) ? -1 : WM_EXIT_FAILED;
  int n = add_directory(h, path);
  if (n > 0) return -1;
  wm_cli_say(NULL, "%s: %s", path,
             n < 0 ? strerror(errno) : "there is no *.lua file in this directory");
  return n < 0 ? WM_EXIT_FAILED : WM_EXIT_NOT_FOUND;
}

static int close_timeout(void) {
  int64_t ms = 0;
  wm_parse_duration(wm_subscription_options[WM_SUB_CLOSE_TIMEOUT].value, &ms);
  return (int)ms;
}

/* ---- files ---------------------------------------------------------------------------------- */

static bool is_given_directory(const wm_host *h, const char *dir) {
  for (size_t i = 0; i < h->config->n_paths; i++) {
    size_t len = strlen(h->config->paths[i]);
    while (len > 1 && h->config->paths[i][len - 1] == '/')
      len--;
    if (strlen(dir) == len && memcmp(dir, h->config->paths[i], len) == 0) return true;
  }
  return false;
}

/* Something has happened to dir/name. */
static void seen(void *arg, const char *dir, const char *name, bool written) {
  wm_host *h = arg;
  bool concerns = name && is_given_directory(h, dir);
  for (wm_script *s = h->scripts; s; s = s->next_script)
    if (wm_script_happened(s, dir, name)) {
      concerns = true;
      if (written) s->written = true;
    }
  int64_t at = wm_now_ms() + SETTLE_MS;
  /* What does not concern us must not put it off for ever; a link may still lead elsewhere now. */
  if (concerns || !h->check_at) h->check_at = at;
}

static void watch_all(wm_host *h) {
  if (!h->watch) return;
  for (wm_script *s = h->scripts; s; s = s->next_script)
    wm_script_watch(s, h->watch);
  for (size_t i = 0; i < h->config->n_paths; i++)
    wm_watch_add(h->watch, h->config->paths[i]);
}

static void add_new_scripts(wm_host *h) {
  for (size_t i = 0; i < h->config->n_paths; i++) {
    struct stat st;
    if (stat(h->config->paths[i], &st) == 0 && S_ISDIR(st.st_mode))
      add_directory(h, h->config->paths[i]);
  }
}

static void sooner(int64_t *at, int64_t other) {
  if (other < *at) *at = other;
}

/* A script of a directory ends when its file is taken away. */
static void check_gone(wm_host *h, wm_script *s, int64_t now) {
  if (!s->in_directory || h->stopping || wm_script_over(s)) return;
  if (access(s->path, F_OK) == 0) {
    s->gone_since = 0;
    return;
  }
  if (!s->gone_since) s->gone_since = now;
  if (now - s->gone_since < GONE_MS) {
    if (!h->check_at) h->check_at = INT64_MAX;
    sooner(&h->check_at, s->gone_since + GONE_MS);
    return;
  }
  wm_log_line(WM_LOG_INFO, "%s: has been taken away, and ends", s->title);
  s->changed = false;
  wm_script_stop(s, close_timeout());
}

/* Those that have ended: their file may come again, as another script. */
static void drop_gone(wm_host *h) {
  for (wm_script **at = &h->scripts; *at;) {
    wm_script *s = *at;
    if (!s->gone_since || !wm_script_over(s)) {
      at = &s->next_script;
      continue;
    }
    *at = s->next_script;
    wm_script_free(s);
  }
}

static void check_files(wm_host *h, int64_t now) {
  h->check_at = 0;
  watch_all(h);
  for (wm_script *s = h->scripts; s; s = s->next_script) {
    /* What is being written is not yet to be read: its writer will close it. */
    bool changed = wm_script_changed(s, !s->written);
    if (changed && wm_script_fresh(s, SETTLE_MS)) {
      h->check_at = now + SETTLE_MS;
      continue;
    }
    s->written = false;
    if (changed) s->changed = true;
  }
  for (wm_script *s = h->scripts; s; s = s->next_script)
    check_gone(h, s, now);
  add_new_scripts(h);
}

static void reload_all(wm_host *h) {
  wm_log_line(WM_LOG_INFO, "SIGHUP: loading all scripts again");
  for (wm_script *s = h->scripts; s; s = s->next_script)
    s->changed = true;
}

/* ---- the end -------------------------------------------------------------------------------- */

static void stop(wm_host *h, int code) {
  if (h->stopping) return;
  int timeout = close_timeout();
  h->stopping = true;
  h->code = code;
  h->stop_until = wm_now_ms() + timeout + LAST_MS;
  for (wm_script *s = h->scripts; s; s = s->next_script)
    wm_script_stop(s, timeout);
}

void wm_host_failed(wm_host *h, const char *text, int reason) {
  if (h->config->log_json)
    wm_log_line_text(WM_LOG_ERROR, text);
  else
    fprintf(stderr, "wmlua: %s\n", text);
  stop(h, reason == WM_DENIED ? WM_EXIT_UNREACHABLE : WM_EXIT_FAILED);
}

static void take_signals(wm_host *h, int fd) {
  for (int number; (number = wm_signals_next(fd)) != 0;) {
    if (number == SIGHUP) {
      reload_all(h);
      continue;
    }
    if (!h->stopping)
      wm_log_line(WM_LOG_INFO, "SIG%s: closing; once more ends at once", sigabbrev_np(number));
    stop(h, WM_EXIT_OK);
  }
}

/* All scripts have come to their end, or were stopped. */
static bool all_over(const wm_host *h) {
  for (const wm_script *s = h->scripts; s; s = s->next_script)
    if (!wm_script_over(s) || (s->changed && !h->stopping)) return false;
  return true;
}

/* ---- the loop ------------------------------------------------------------------------------- */

/* Everything that is due; returns when the next is. */
static int64_t step(wm_host *h) {
  int64_t now = wm_now_ms(), at = INT64_MAX;
  int asked = atomic_load(&h->exit_asked);
  if (asked) stop(h, asked - 1);
  if (h->check_at && now >= h->check_at) check_files(h, now);
  for (wm_script *s = h->scripts; s; s = s->next_script)
    sooner(&at, wm_script_step(s, now));
  drop_gone(h);
  if (atomic_exchange(&h->files_added, false)) watch_all(h);
  int ms = wm_registry_tick(h->registry);
  if (ms >= 0) sooner(&at, now + ms);
  if (h->check_at) sooner(&at, h->check_at);
  if (h->watch && wm_watch_lost(h->watch) && !h->check_at) {
    h->check_at = now + WATCH_AGAIN_MS;
    sooner(&at, h->check_at);
  }
  if (!h->stop_until && all_over(h)) h->stop_until = now + close_timeout() + LAST_MS;
  if (h->stop_until) sooner(&at, h->stop_until);
  return at;
}

static bool done(wm_host *h) {
  if (!all_over(h)) return false;
  if (wm_registry_idle(h->registry)) return true;
  if (wm_now_ms() < h->stop_until) return false;
  wm_log_line(
      WM_LOG_WARN,
      "a broker could not be told of everything in time; what was not acked there comes again");
  h->abandoned = true;
  return true;
}

static void wait_for_more(wm_host *h, int signal_fd, int64_t at) {
  struct pollfd fds[] = {{.fd = h->poke_fd, .events = POLLIN},
                         {.fd = signal_fd, .events = POLLIN},
                         {.fd = h->watch ? wm_watch_fd(h->watch) : -1, .events = POLLIN}};
  int64_t ms = at == INT64_MAX ? -1 : at - wm_now_ms();
  if (at != INT64_MAX && ms < 0) ms = 0;
  poll(fds, 3, ms > INT_MAX ? INT_MAX : (int)ms);
  eventfd_t ignored;
  if (fds[0].revents) {
    eventfd_read(h->poke_fd, &ignored);
    atomic_store(&h->poked, false);
  }
  if (fds[1].revents) take_signals(h, signal_fd);
  if (fds[2].revents) wm_watch_read(h->watch, seen, h);
}

/* ---- beginning ------------------------------------------------------------------------------ */

static void tell_broker(const wm_host_config *config) {
  char masked[WM_ERROR_MAX], where[PATH_MAX] = "";
  wm_url_mask(config->broker ? config->broker : WM_DEFAULT_BROKER, masked, sizeof masked);
  static const char file[] = "sqlite:";
  const char *path = masked + strlen(file);
  bool relative = strncmp(masked, file, strlen(file)) == 0 && *path != '/' && *path != ':' &&
                  getcwd(where, sizeof where);
  wm_log_line(WM_LOG_INFO, "wmlua %s%s%s: broker is %s%s%s%s", WM_VERSION,
              *config->name ? ", " : "", config->name, relative ? file : masked,
              relative ? where : "", relative ? "/" : "", relative ? path : "");
}

static int open_host(wm_host *h, int *signal_fd) {
  h->poke_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
  h->registry = wm_registry_new(poke, h);
  *signal_fd = wm_signals_open();
  int code = wm_watchdog_start();
  if (h->poke_fd < 0 || !h->registry || *signal_fd < 0 || code) {
    wm_cli_say(NULL, "cannot start: %s", strerror(code ? code : errno));
    return WM_EXIT_FAILED;
  }
  if (h->config->reload && !(h->watch = wm_watch_new()))
    wm_log_line(WM_LOG_WARN, "files are not watched: %s; SIGHUP loads changed ones",
                strerror(errno));
  for (size_t i = 0; i < h->config->n_paths; i++) {
    code = add_path(h, h->config->paths[i]);
    if (code >= 0) return code;
  }
  if (!h->config->n_paths && !add_script(h, NULL, false)) return WM_EXIT_FAILED;
  return -1;
}

static void close_host(wm_host *h) {
  wm_watchdog_stop();
  wm_watch_free(h->watch);
  while (h->scripts) {
    wm_script *s = h->scripts;
    h->scripts = s->next_script;
    wm_script_free(s);
  }
}

int wm_host_run(const wm_host_config *config) {
  static wm_host host; /* pokes may come until the process ends */
  wm_host *h = &host;
  int signal_fd;
  h->config = config;
  h->code = open_host(h, &signal_fd);
  if (h->code < 0) {
    h->code = WM_EXIT_OK;
    tell_broker(config);
    watch_all(h);
    for (int64_t at = step(h); !done(h); at = step(h))
      wait_for_more(h, signal_fd, at);
  }
  int code = h->code;
  if (h->abandoned) { /* threads that still run use what would be freed */
    fflush(NULL);
    _exit(code);
  }
  close_host(h);
  return code;
}
