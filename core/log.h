/* log.h - the library's log: one line a call, made only when its level is wanted. */
#ifndef WM_LOG_H
#define WM_LOG_H

#include "wm.h"

bool wm_log_wanted(wm_log_level level);
void wm_log(wm_log_level level, const char *fmt, ...) WM_PRINTF(2, 3);

/* Logs and aborts, in every kind of build: for what only a defect of the library itself can bring
 * about and what would corrupt memory or lose messages if it went on. */
_Noreturn void wm_defect(const char *fmt, ...) WM_PRINTF(1, 2);

#endif
