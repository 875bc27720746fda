/*
 * outcome.c - see outcome.h. No state; any thread.
 */
#include "outcome.h"

#include <stdio.h>
#include <string.h>

#include "error.h"

enum { CAUSE_SHOWN = 600 };

typedef struct tally {
  size_t n[WM_RESULT_UNKNOWN + 1]; /* messages, by result */
} tally;

static int code_of(const wm_job *job, const tally *t) {
  if (t->n[WM_RESULT_REFUSED]) return WM_REFUSED;
  if (job->end == WM_JOB_HALTED && t->n[WM_RESULT_NOT_SENT]) return WM_DENIED;
  if (t->n[WM_RESULT_UNKNOWN]) return WM_UNKNOWN;
  return job->end == WM_JOB_CUT ? WM_CLOSED : WM_NOT_SENT;
}

/* How many bytes of the broker's words are shown. */
static int shown(const char *text) {
  size_t len = strlen(text);
  return (int)(len > CAUSE_SHOWN ? wm_cut_utf8(text, CAUSE_SHOWN) : len);
}

static void say_why(const wm_job *job, const tally *t, char *out, size_t size) {
  const char *cause = job->cause ? job->cause->text : "";
  if (t->n[WM_RESULT_REFUSED] || job->end == WM_JOB_HALTED) {
    if (!*cause) cause = "the broker gave no reason";
    bool denied = code_of(job, t) == WM_DENIED;
    snprintf(out, size, "%s: %.*s", denied ? "denied" : "refused", shown(cause), cause);
    return;
  }
  char what[80] = "no confirmation";
  if (job->end == WM_JOB_LATE)
    snprintf(what, sizeof what, "no confirmation within %g s",
             (double)job->feed->timeout_ms / 1000);
  else if (job->end == WM_JOB_CUT)
    snprintf(what, sizeof what, "the publisher was closed before it was confirmed");
  snprintf(out, size, "%s%s%.*s%s", what, *cause ? " (" : "", shown(cause), cause,
           *cause ? ")" : "");
}

/* "; of 5 messages 2 are stored, 3 may be (UNKNOWN)" */
static void say_parts(const wm_job *job, const tally *t, char *out, size_t size) {
  static const char *const words[] = {[WM_STORED] = "stored",
                                      [WM_RESULT_REFUSED] = "refused (REFUSED)",
                                      [WM_RESULT_NOT_SENT] = "not sent (NOT_SENT)"};
  size_t used = (size_t)snprintf(out, size, "; of %zu messages", job->n);
  const char *between = " ";
  for (size_t r = 0; r < sizeof words / sizeof *words; r++) {
    if (!t->n[r]) continue;
    used += (size_t)snprintf(out + used, size - used, "%s%zu %s %s", between, t->n[r],
                             t->n[r] == 1 ? "is" : "are", words[r]);
    between = ", ";
  }
  if (!t->n[WM_RESULT_UNKNOWN]) return;
  snprintf(out + used, size - used, "%s%zu may be%s (UNKNOWN)", between, t->n[WM_RESULT_UNKNOWN],
           t->n[WM_STORED] ? "" : " stored");
}

static const char *way_out(const wm_job *job, const tally *t) {
  bool one = job->n == 1;
  if (t->n[WM_RESULT_UNKNOWN])
    return one ? "; it may be stored (UNKNOWN), publishing it again may double it; or raise timeout"
               : "; publishing those again may double them; or raise timeout";
  if (t->n[WM_RESULT_NOT_SENT])
    return one ? "; it was not sent, publishing it again is safe"
               : "; publishing what was not sent again is safe";
  return "";
}

int wm_job_outcome(const wm_job *job, wm_error *err) {
  tally t = {{0}};
  for (size_t i = 0; i < job->n; i++)
    t.n[job->results[i]]++;
  if (t.n[WM_STORED] == job->n) return WM_OK;
  char why[700], parts[256] = "";
  say_why(job, &t, why, sizeof why);
  if (job->n > 1) say_parts(job, &t, parts, sizeof parts);
  return wm_fail_with(err, code_of(job, &t), "publish to '%s' on %s: %s%s%s", job->topic,
                      job->feed->url, why, parts, way_out(job, &t));
}
