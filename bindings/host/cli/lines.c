/* lines.c - see lines.h */
#include "lines.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum { READ_AT_ONCE = 64 * 1024 };

int wm_lines_take(wm_lines *in, const char **line, size_t *len) {
  const char *from = in->data + in->begin;
  size_t have = in->end - in->begin;
  const char *newline = NULL;
  if (!in->whole && have > in->seen) newline = memchr(from + in->seen, '\n', have - in->seen);
  if (newline) {
    *len = (size_t)(newline - from);
    in->begin += *len + 1;
    if (*len && from[*len - 1] == '\r') --*len;
  } else if (!in->ended) {
    in->seen = have;
    return WM_LINES_NONE;
  } else if (!have && !(in->whole && in->number == 0)) {
    return WM_LINES_END; /* what is taken whole may be empty, a last line may not */
  } else {
    *len = have;
    in->begin = in->end;
  }
  in->seen = 0;
  in->number++;
  *line = from;
  return WM_LINES_TAKEN;
}

static bool make_room(wm_lines *in) {
  if (in->begin) {
    memmove(in->data, in->data + in->begin, in->end - in->begin);
    in->end -= in->begin;
    in->begin = 0;
  }
  if (in->room - in->end >= READ_AT_ONCE) return true;
  size_t room = 2 * in->room + READ_AT_ONCE;
  char *data = realloc(in->data, room);
  if (!data) return false;
  in->data = data;
  in->room = room;
  return true;
}

int wm_lines_read(wm_lines *in) {
  if (!make_room(in)) return ENOMEM;
  ssize_t n = read(in->fd, in->data + in->end, in->room - in->end);
  if (n < 0) return errno == EINTR || errno == EAGAIN ? 0 : errno;
  if (n == 0) in->ended = true;
  in->end += (size_t)n;
  return 0;
}

void wm_lines_free(wm_lines *in) { free(in->data); }
