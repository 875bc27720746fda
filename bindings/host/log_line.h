/*
 * log_line.h - the host's log on stderr: one write a line, from any thread, so that lines of
 * several threads do not mix. Set up once, before other threads start.
 */
#ifndef WM_LOG_LINE_H
#define WM_LOG_LINE_H

#include "wm.h"

/* Also sends libwm's own log here. */
void wm_log_line_open(wm_log_level least, bool json, bool colour);
void wm_log_line_least(wm_log_level least); /* any thread; what libwm says stays as it is */
bool wm_log_line_wanted(wm_log_level level);
/* The text of the host itself, or of libwm: gets time and level as the format has them. */
void wm_log_line(wm_log_level level, const char *fmt, ...) WM_PRINTF(2, 3);
/* The same for text of any length, of several lines too. */
void wm_log_line_text(wm_log_level level, const char *text);
/* A line that is made already, as scripts' own are. */
void wm_log_line_raw(wm_log_level level, const char *line);

#endif
