/* signals.c - see signals.h. The handler runs on any thread. */
#include "signals.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdatomic.h>
#include <stddef.h>
#include <unistd.h>

#include "cli/cli.h"

static int pipe_fds[2];
static atomic_int endings;

static void on_signal(int number) {
  int saved = errno;
  if (number != SIGHUP && atomic_fetch_add(&endings, 1) > 0) _exit(WM_EXIT_SIGNAL + number);
  unsigned char byte = (unsigned char)number;
  ssize_t ignored = write(pipe_fds[1], &byte, 1); /* full: enough of them wait */
  (void)ignored;
  errno = saved;
}

int wm_signals_open(void) {
  static const int numbers[] = {SIGHUP, SIGTERM, SIGINT};
  struct sigaction action = {.sa_handler = on_signal, .sa_flags = SA_RESTART};
  sigemptyset(&action.sa_mask);
  if (pipe2(pipe_fds, O_CLOEXEC | O_NONBLOCK) != 0) return -1;
  for (size_t i = 0; i < sizeof numbers / sizeof *numbers; i++) {
    struct sigaction was;
    sigaction(numbers[i], NULL, &was);
    /* nohup, and shells that start something in the background, have it ignored. */
    if (was.sa_handler != SIG_IGN) sigaction(numbers[i], &action, NULL);
  }
  return pipe_fds[0];
}

int wm_signals_next(int fd) {
  unsigned char byte;
  return read(fd, &byte, 1) == 1 ? byte : 0;
}
