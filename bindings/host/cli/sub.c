/*
 * sub.c - wmlua sub: prints messages as they come. With a group it takes them, and acks each once
 * it is printed: what could not be written stays with the group. Main thread only; libwm fetches
 * beside it.
 */
#include <errno.h>
#include <limits.h>
#include <poll.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/signalfd.h>
#include <unistd.h>

#include "cli.h"
#include "clock.h"
#include "json_line.h"

enum { TOGETHER = 100 /* messages printed, then acked, at a time */ };

typedef struct subscribe {
  wm_cli_args *args;
  bool json, raw, colour;
  bool counted;     /* --count was given */
  int64_t left;     /* messages still wanted */
  int64_t deadline; /* monotonic ms; -1: none */
  int signals;      /* signalfd */
  int got_signal;
  wm_subscription *sub;
  wm_consumer *con;
} subscribe;

/* ---- printing ------------------------------------------------------------------------------- */

/* On one line, whatever it is made of: control characters as C writes them. */
static void put_plain(wm_slice text) {
  static const char named[] = "\a\b\t\n\v\f\r", letters[] = "abtnvfr";
  size_t from = 0;
  for (size_t i = 0; i < text.len; i++) {
    unsigned char c = (unsigned char)text.data[i];
    if (c >= ' ' && c != 0x7f) continue;
    const char *at = c ? strchr(named, c) : NULL;
    wm_cli_put(text.data + from, i - from);
    if (at)
      wm_cli_putf("\\%c", letters[at - named]);
    else
      wm_cli_putf("\\x%02x", c);
    from = i + 1;
  }
  wm_cli_put(text.data + from, text.len - from);
}

static void print_columns(const subscribe *s, const wm_message *msg) {
  const char *dim = s->colour ? "\033[2m" : "", *normal = s->colour ? "\033[0m" : "";
  char time[WM_RFC3339_SIZE];
  wm_rfc3339(wm_message_time(msg), time);
  wm_cli_putf("%s%s\t", dim, *time ? time : "-");
  put_plain(wm_message_uuid(msg));
  wm_cli_putf("%s\t", normal);
  size_t n = wm_message_pairs(msg);
  if (!n) wm_cli_putf("-");
  for (size_t i = 0; i < n; i++) {
    wm_pair pair = wm_message_pair(msg, i);
    if (i) wm_cli_putf(" ");
    put_plain(pair.key);
    wm_cli_putf("=");
    put_plain(pair.value);
  }
  wm_cli_putf("\t");
  put_plain(wm_message_payload(msg));
  wm_cli_putf("\n");
}

static bool print_json(const subscribe *s, const wm_message *msg) {
  json_t *object = wm_json_line_of(msg);
  char *line = object ? json_dumps(object, JSON_COMPACT) : NULL;
  json_decref(object);
  if (!line) {
    wm_cli_say(s->args, "out of memory");
    return false;
  }
  wm_cli_put(line, strlen(line));
  wm_cli_put("\n", 1);
  free(line);
  return true;
}

static bool print(const subscribe *s, const wm_message *msg) {
  if (s->json) return print_json(s, msg);
  if (s->raw) {
    wm_slice payload = wm_message_payload(msg);
    wm_cli_put(payload.data, payload.len);
    wm_cli_put("\n", 1);
  } else {
    print_columns(s, msg);
  }
  return true;
}

/* Prints n messages, acks those if all are written. Takes over the references. */
static bool take(subscribe *s, wm_message **msgs, size_t n) {
  bool good = true;
  for (size_t i = 0; good && i < n; i++)
    good = print(s, msgs[i]);
  good = wm_cli_flush() && good;
  for (size_t i = 0; i < n; i++) {
    if (good) wm_ack(msgs[i]);
    wm_message_release(msgs[i]);
  }
  return good;
}

/* ---- waiting -------------------------------------------------------------------------------- */

static int remaining(const subscribe *s) {
  if (s->deadline < 0) return -1;
  int64_t ms = s->deadline - wm_now_ms();
  return ms < 0 ? 0 : ms > INT_MAX ? INT_MAX : (int)ms;
}

/* False: the time is over, a signal came, or nobody reads any more. */
static bool wait_for_more(subscribe *s) {
  /* A reader that goes away is noticed while nothing comes, too. */
  struct pollfd fds[] = {{.fd = wm_consumer_fd(s->con), .events = POLLIN},
                         {.fd = s->signals, .events = POLLIN},
                         {.fd = STDOUT_FILENO, .events = 0}};
  int ready = poll(fds, 3, remaining(s));
  if (ready < 0) return errno == EINTR;
  struct signalfd_siginfo info;
  if (fds[1].revents && read(s->signals, &info, sizeof info) == sizeof info)
    s->got_signal = (int)info.ssi_signo;
  return ready > 0 && !s->got_signal && !(fds[2].revents & POLLERR);
}

/* An exit code. */
static int receive(subscribe *s) {
  wm_message *msgs[TOGETHER];
  while (!s->counted || s->left > 0) {
    size_t most = s->counted && s->left < TOGETHER ? (size_t)s->left : TOGETHER;
    int n = wm_next(s->con, msgs, most, 0);
    if (n > 0) {
      s->left -= n;
      if (!take(s, msgs, (size_t)n)) return WM_EXIT_OK; /* wm_cli_printed knows why */
    } else if (n != WM_TIMEOUT) {
      wm_cli_say(s->args, "the subscription has ended: %s", wm_code_name(n));
      return WM_EXIT_FAILED;
    }
    if (n > 0 && remaining(s) != 0) continue;
    if (s->counted && s->left <= 0) break;
    if (wait_for_more(s)) continue;
    if (s->got_signal) return WM_EXIT_SIGNAL + s->got_signal;
    return remaining(s) == 0 ? WM_EXIT_NOT_FOUND : WM_EXIT_OK;
  }
  return WM_EXIT_OK;
}

/* ---- subscribing ---------------------------------------------------------------------------- */

/* What the flags say, and what printing together asks for. */
static bool set_options(const subscribe *s, wm_options *opts) {
  static const char *const passed[] = {"group", "from"};
  char number[32];
  for (size_t i = 0; i < sizeof passed / sizeof *passed; i++) {
    const char *text = wm_cli_text(s->args, passed[i]);
    if (text && !wm_cli_option(s->args, opts, passed[i], text)) return false;
  }
  const char *timeout = wm_cli_text(s->args, "timeout");
  if (timeout && !wm_cli_option(s->args, opts, "connect_timeout", timeout)) return false;
  int64_t together = s->counted && s->left < TOGETHER ? s->left : TOGETHER;
  snprintf(number, sizeof number, "%lld", (long long)(together ? together : 1));
  if (!wm_cli_option(s->args, opts, "max_in_flight", number)) return false;
  /* What is not printed would only have to be given back. */
  return !s->counted || s->left >= TOGETHER || wm_cli_option(s->args, opts, "prefetch", number);
}

static int open_subscription(subscribe *s) {
  const char *url = wm_cli_broker(s->args);
  if (!url) return WM_EXIT_USAGE;
  wm_options *opts = wm_options_new();
  wm_error err = {0};
  int code = WM_EXIT_FAILED;
  if (!set_options(s, opts)) goto done;
  code = WM_EXIT_OK;
  if (wm_subscribe(&s->sub, url, s->args->operands[0], opts, &err) != WM_OK ||
      wm_consumer_open(&s->con, s->sub, &err) != WM_OK)
    code = wm_cli_fail(s->args, &err);
done:
  wm_options_free(opts);
  return code;
}

static int open_signals(void) {
  sigset_t set;
  sigemptyset(&set);
  sigaddset(&set, SIGINT);
  sigaddset(&set, SIGTERM);
  sigprocmask(SIG_BLOCK, &set, NULL);
  return signalfd(-1, &set, SFD_CLOEXEC | SFD_NONBLOCK);
}

int wm_cli_sub(wm_cli_args *args) {
  subscribe s = {.args = args,
                 .json = wm_cli_has(args, "json"),
                 .raw = wm_cli_has(args, "raw"),
                 .counted = wm_cli_has(args, "count"),
                 .deadline = -1};
  if (s.json && s.raw) return wm_cli_misuse(args, "--json and --raw exclude each other");
  s.left = wm_cli_number(args, "count");
  if (s.counted && s.left == 0 && !wm_cli_has(args, "group"))
    return wm_cli_misuse(args, "--count 0 makes a group; name it with --group");
  if (wm_cli_has(args, "timeout")) s.deadline = wm_now_ms() + wm_cli_number(args, "timeout");
  s.colour = wm_cli_colour(args, STDOUT_FILENO);
  wm_cli_log(args);
  int code = open_subscription(&s);
  /* From here on a signal closes gently; before, there is nothing to close. */
  s.signals = code == WM_EXIT_OK ? open_signals() : -1;
  if (code == WM_EXIT_OK) code = receive(&s);
  code = wm_cli_printed(args, code);
  /* What could not be printed is in hand and stays so: it goes back at once. */
  if (s.sub) wm_subscription_close(s.sub, wm_cli_flush() ? -1 : 0);
  if (s.con) wm_consumer_close(s.con);
  if (s.signals >= 0) close(s.signals);
  return code;
}
