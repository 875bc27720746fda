/*
 * pub.c - wmlua pub: publishes its arguments or its input, prints the uuid of each message once the
 * broker has confirmed it, in order. Streams: what is under way is bounded by the publisher's
 * queue_bytes and by SLOTS. The main thread reads and prints; results come from a thread of the
 * library.
 */
#include <errno.h>
#include <poll.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include "cli.h"
#include "error.h"
#include "json_line.h"
#include "lines.h"

enum { SLOTS = 8192, TURN = 256 /* lines read between looks at results */ };
enum { INPUT_TEXT, INPUT_LINES, INPUT_JSON };

struct publish;

/* A message that was handed to the publisher and is not printed yet. */
typedef struct slot {
  struct publish *owner;
  wm_message *msg;
  size_t line; /* of the input */
  bool ended;
  int code;
  char *text; /* why it failed; NULL: out of memory */
} slot;

typedef struct publish {
  wm_cli_args *args;
  const char *topic;
  int64_t input, repeat;
  bool json;
  const char *uuid;
  wm_pair *pairs;
  size_t n_pairs;
  wm_publisher *pub;
  wm_lines in;

  /* main thread */
  wm_message *current;  /* read, not yet handed over as often as wanted */
  int64_t left;         /* how often still */
  size_t next, printed; /* slots, counted without end */
  bool stopped;         /* nothing more is published */
  int code;             /* the exit code */

  pthread_mutex_t lock; /* of ended, code and text of slots, and of asleep */
  bool asleep;          /* the main thread waits for `wake` */
  int wake;             /* eventfd */
  slot slots[SLOTS];
} publish;

/* ---- results -------------------------------------------------------------------------------- */

static void published(void *arg, int code, const wm_result *results, size_t n,
                      const wm_error *err) {
  slot *s = arg;
  publish *p = s->owner;
  (void)results;
  (void)n;
  char *text = code == WM_OK ? NULL : strdup(err ? err->text : wm_code_name(code));
  pthread_mutex_lock(&p->lock);
  s->code = code;
  s->text = text;
  s->ended = true;
  if (p->asleep) eventfd_write(p->wake, 1);
  p->asleep = false;
  pthread_mutex_unlock(&p->lock);
}

/* "line 17: " where messages are lines. */
static void complain(publish *p, size_t line, const char *text) {
  if (p->input == INPUT_TEXT)
    wm_cli_say(p->args, "%s", text);
  else
    wm_cli_say(p->args, "line %zu: %s", line, text);
}

static void failed(publish *p, size_t line, int code, const char *text) {
  p->stopped = true;
  if (p->code != WM_EXIT_OK) return; /* the first says it */
  p->code = code;
  complain(p, line, text);
}

static void print(publish *p, const wm_message *msg) {
  const char *form = p->json ? "{\"uuid\":%s}\n" : "%s\n";
  json_t *text = p->json ? json_string(wm_message_uuid(msg).data) : NULL;
  char *quoted = text ? json_dumps(text, JSON_ENCODE_ANY) : NULL;
  wm_cli_putf(form, quoted ? quoted : wm_message_uuid(msg).data);
  free(quoted);
  json_decref(text);
}

/* Prints what has ended, in order. */
static void take_results(publish *p) {
  while (p->printed < p->next) {
    slot *s = &p->slots[p->printed % SLOTS];
    pthread_mutex_lock(&p->lock);
    bool ended = s->ended;
    pthread_mutex_unlock(&p->lock);
    if (!ended) return;
    if (s->code == WM_OK)
      print(p, s->msg);
    else
      failed(p, s->line, wm_cli_exit_of(s->code), s->text ? s->text : "out of memory");
    free(s->text);
    wm_message_release(s->msg);
    p->printed++;
  }
}

/* ---- input ---------------------------------------------------------------------------------- */

static int make(publish *p, wm_slice line, wm_error *err) {
  if (p->input == INPUT_JSON)
    return wm_json_line_read(&p->current, line.data, line.len, p->uuid, p->pairs, p->n_pairs, err);
  return wm_message_new(&p->current, p->uuid, line, p->pairs, p->n_pairs, err);
}

/* The next message in `current`. False: there is none now. */
static bool read_message(publish *p) {
  wm_slice line;
  wm_error err = {0};
  if (p->current || p->stopped) return p->current != NULL;
  do {
    int got = wm_lines_take(&p->in, &line.data, &line.len);
    if (got == WM_LINES_END) p->stopped = true;
    if (got != WM_LINES_TAKEN) return false;
  } while (p->input == INPUT_JSON && line.len == 0);
  if (make(p, line, &err) != WM_OK) {
    failed(p, p->in.number, p->input == INPUT_TEXT ? wm_cli_exit_of(err.code) : WM_EXIT_FAILED,
           err.text);
    return false;
  }
  p->left = p->repeat;
  return true;
}

/* A copy with a uuid of its own. */
static int again(publish *p, wm_error *err) {
  size_t n = wm_message_pairs(p->current);
  wm_pair *pairs = calloc(n + 1, sizeof *pairs);
  if (!pairs) return wm_fail_with(err, WM_NOMEM, "out of memory");
  for (size_t i = 0; i < n; i++)
    pairs[i] = wm_message_pair(p->current, i);
  wm_message *copy;
  int code = wm_message_new(&copy, NULL, wm_message_payload(p->current), pairs, n, err);
  free(pairs);
  if (code != WM_OK) return code;
  wm_message_release(p->current);
  p->current = copy;
  return WM_OK;
}

/* ---- publishing ----------------------------------------------------------------------------- */

/* Hands `current` over once. False: not now, or it failed. */
static bool hand_over(publish *p) {
  if (p->next - p->printed == SLOTS) return false;
  slot *s = &p->slots[p->next % SLOTS];
  *s = (slot){.owner = p, .msg = p->current, .line = p->in.number};
  wm_error err = {0};
  int code = wm_publish_async(p->pub, p->topic, &p->current, 1, published, s, &err);
  if (code == WM_TIMEOUT) return false; /* the queue is full */
  if (code != WM_OK) {
    failed(p, s->line, wm_cli_exit_of(code), err.text);
    return false;
  }
  wm_message_retain(s->msg);
  p->next++;
  if (--p->left > 0) {
    code = again(p, &err);
    if (code != WM_OK) failed(p, s->line, wm_cli_exit_of(code), err.text);
    return code == WM_OK;
  }
  wm_message_release(p->current);
  p->current = NULL;
  return true;
}

/* Some messages. False: something must be waited for. */
static bool turn(publish *p) {
  take_results(p);
  for (int i = 0; i < TURN; i++)
    if (!read_message(p) || !hand_over(p)) return false;
  return true;
}

/* True when there is nothing to wait for after all. */
static bool fall_asleep(publish *p) {
  pthread_mutex_lock(&p->lock);
  bool ready = p->printed < p->next && p->slots[p->printed % SLOTS].ended;
  p->asleep = !ready;
  pthread_mutex_unlock(&p->lock);
  return ready;
}

static void wait_for_more(publish *p) {
  if (fall_asleep(p)) return;
  wm_cli_flush(); /* that nobody reads the uuids is no reason to publish less */
  bool reads = !p->stopped && !p->current && !p->in.ended;
  struct pollfd fds[] = {{.fd = p->wake, .events = POLLIN},
                         {.fd = reads ? p->in.fd : -1, .events = POLLIN}};
  if (poll(fds, 2, -1) < 0) return;
  eventfd_t ignored;
  if (fds[0].revents) eventfd_read(p->wake, &ignored);
  if (!fds[1].revents) return;
  int code = wm_lines_read(&p->in);
  if (code) failed(p, p->in.number + 1, WM_EXIT_FAILED, strerror(code));
}

static void publish_all(publish *p) {
  while (!p->stopped || p->printed < p->next)
    if (!turn(p) && !(p->stopped && p->printed == p->next)) wait_for_more(p);
  if (p->current) wm_message_release(p->current);
}

/* ---- arguments ------------------------------------------------------------------------------ */

static int read_pairs(publish *p) {
  p->pairs = calloc(p->args->n_given + 1, sizeof *p->pairs);
  if (!p->pairs) {
    wm_cli_say(p->args, "out of memory");
    return WM_EXIT_FAILED;
  }
  for (size_t i = 0; i < p->args->n_given; i++) {
    const char *text = p->args->given[i].text, *equals = strchr(text, '=');
    if (strcmp(p->args->given[i].flag->def.name, "meta") != 0) continue;
    if (!equals || equals == text)
      return wm_cli_misuse(p->args, "--meta: KEY=VALUE expected, got '%s'", text);
    wm_pair *pair = &p->pairs[p->n_pairs++];
    pair->key = (wm_slice){text, (size_t)(equals - text)};
    pair->value = (wm_slice){equals + 1, strlen(equals + 1)};
  }
  return WM_EXIT_OK;
}

static int read_arguments(publish *p) {
  wm_cli_args *args = p->args;
  p->topic = args->operands[0];
  p->input = wm_cli_number(args, "input");
  p->repeat = wm_cli_number(args, "repeat");
  p->json = wm_cli_has(args, "json");
  p->uuid = wm_cli_text(args, "uuid");
  if (p->uuid && (p->input != INPUT_TEXT || p->repeat > 1))
    return wm_cli_misuse(
        args, "--uuid names one message; leave it out with --input lines or json and with "
              "--repeat");
  const char *payload = args->n_operands > 1 ? args->operands[1] : "-";
  p->in = (wm_lines){.fd = STDIN_FILENO, .whole = p->input == INPUT_TEXT};
  if (strcmp(payload, "-") != 0) {
    p->in.fd = -1;
    p->in.data = strdup(payload);
    p->in.end = strlen(payload);
    p->in.ended = true;
    if (!p->in.data) {
      wm_cli_say(args, "out of memory");
      return WM_EXIT_FAILED;
    }
  } else if (isatty(STDIN_FILENO)) {
    wm_cli_say(args, "reading the payload from the terminal; end it with Ctrl-D");
  }
  return read_pairs(p);
}

static int open_publisher(publish *p) {
  const char *url = wm_cli_broker(p->args), *timeout = wm_cli_text(p->args, "timeout");
  if (!url) return WM_EXIT_USAGE;
  wm_options *opts = wm_options_new();
  wm_error err = {0};
  int code = WM_EXIT_FAILED;
  if (timeout && !wm_cli_option(p->args, opts, "timeout", timeout)) goto done;
  code = WM_EXIT_OK;
  if (wm_publisher_open(&p->pub, url, opts, &err) != WM_OK) code = wm_cli_fail(p->args, &err);
done:
  wm_options_free(opts);
  return code;
}

int wm_cli_pub(wm_cli_args *args) {
  publish *p = calloc(1, sizeof *p);
  if (!p) {
    wm_cli_say(args, "out of memory");
    return WM_EXIT_FAILED;
  }
  p->args = args;
  pthread_mutex_init(&p->lock, NULL);
  wm_cli_log(args);
  p->wake = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
  p->code = read_arguments(p);
  if (p->code == WM_EXIT_OK) p->code = open_publisher(p);
  if (p->code == WM_EXIT_OK) publish_all(p);
  if (p->pub) wm_publisher_close(p->pub, -1);
  int code = wm_cli_printed(args, p->code);
  close(p->wake);
  wm_lines_free(&p->in);
  free(p->pairs);
  pthread_mutex_destroy(&p->lock);
  free(p);
  return code;
}
