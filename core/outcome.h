/* outcome.h - what became of a finished job, as a code and a text. */
#ifndef WM_OUTCOME_H
#define WM_OUTCOME_H

#include "sender.h"

/* WM_OK when every message is stored, else the worst code of wm_publish, and err says what happened, what is
 * stored, and whether publishing again is safe. */
int wm_job_outcome(const wm_job *job, wm_error *err);

#endif
