/* outage.c - see outage.h. */
#include "outage.h"

#include "clock.h"
#include "log.h"

#define TELL_MS 5000

int wm_outage_failed(wm_outage *o, const char *url, const char *what, const wm_error *err) {
  int64_t now = wm_now_ms();
  int next = wm_backoff_ms(o->tries);
  if (!o->tries++) o->since = now;
  if (o->tries == 1 || now - o->told >= TELL_MS) {
    wm_log(WM_LOG_WARN, "%s: %s, try %u, next in %.1f s; waiting: %s", url, err->text, o->tries,
           next / 1000.0, what);
    o->told = now;
  }
  return next;
}

void wm_outage_over(wm_outage *o, const char *url, const char *what) {
  if (!o->tries) return;
  wm_log(WM_LOG_INFO, "%s: is there again after %.1f s and %u tries: %s", url,
         (double)(wm_now_ms() - o->since) / 1000.0, o->tries, what);
  *o = (wm_outage){0};
}
