/*
 * signals.h - SIGHUP, SIGTERM and SIGINT as bytes of a pipe. They are caught, not blocked, so that
 * programs that a script starts meet them as usual. A second SIGTERM or SIGINT ends the process at
 * once.
 */
#ifndef WM_SIGNALS_H
#define WM_SIGNALS_H

/* The descriptor to poll and to give to wm_signals_next; -1: errno says why. */
int wm_signals_open(void);
/* The number of a signal that has come, 0: none. */
int wm_signals_next(int fd);

#endif
