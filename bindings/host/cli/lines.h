/*
 * lines.h - a file descriptor as lines, without stopping: what is there is read, lines are taken as
 * they are complete. Memory grows to the longest line. Main thread only.
 */
#ifndef WM_LINES_H
#define WM_LINES_H

#include <stdbool.h>
#include <stddef.h>

typedef struct wm_lines {
  int fd;     /* -1: all is there from the start */
  bool whole; /* all of it is one line, newlines and all */
  char *data;
  size_t begin, end, room;
  size_t seen;   /* bytes after begin that have no newline */
  size_t number; /* of the last line taken, from 1 */
  bool ended;    /* nothing more comes */
} wm_lines;

enum { WM_LINES_NONE = 0, WM_LINES_TAKEN = 1, WM_LINES_END = 2 };

/* Takes the next line without its newline (nor a carriage return before it), borrowed until the
 * next call of these. The last one needs no newline. NONE: read first. */
int wm_lines_take(wm_lines *in, const char **line, size_t *len);
/* Reads once; stops until something is there unless poll said so. 0, or an errno. */
int wm_lines_read(wm_lines *in);
void wm_lines_free(wm_lines *in);

#endif
