/* window.c - see window.h. Pure; the caller holds what guards the meter. */
#include "window.h"

#define METER_MS 1000

static void add_up(wm_meter *m, int64_t now) {
  if (m->working && now > m->since)
    m->worked += now - m->since;
  if (now > m->since)
    m->since = now;
  if (m->worked < METER_MS)
    return;
  m->before = (double)m->settled * METER_MS / (double)m->worked;
  m->has_before = true;
  m->settled = 0;
  m->worked = 0;
}

void wm_meter_work(wm_meter *m, bool working, int64_t now) {
  if (m->working == working)
    return;
  add_up(m, now);
  m->working = working;
}

void wm_meter_settled(wm_meter *m, size_t n, int64_t now) {
  m->settled += n;
  m->known = true;
  add_up(m, now);
}

double wm_meter_rate(const wm_meter *m, int64_t now) {
  int64_t worked = m->worked;
  if (m->working && now > m->since)
    worked += now - m->since;
  if (worked >= METER_MS || !m->has_before) /* under a millisecond counts as one */
    return (double)m->settled * METER_MS / (double)(worked > 0 ? worked : 1);
  return (double)m->settled + m->before * (double)(METER_MS - worked) / METER_MS;
}

size_t wm_window(const wm_window_input *in) {
  if (in->redelivered)
    return 1;
  double grown = in->last ? (double)in->last * WM_WINDOW_GROWTH : WM_WINDOW_START;
  double second = in->known ? in->rate + 0.5 : WM_WINDOW_START;
  double window = grown < second ? grown : second;
  size_t n = window < (double)in->most ? (size_t)window : in->most;
  return n > in->least ? n : in->least;
}
