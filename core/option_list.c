/*
 * option_list.c - every option of every part of this build, for help and the manual. Constant; any thread.
 */
#include "backend.h"
#include "options.h"

static const char *unit_name(const wm_option_def *def) {
  static const char *const names[] = {[WM_OPT_TEXT] = "text",
                                      [WM_OPT_BOOL] = "bool",
                                      [WM_OPT_COUNT] = "count",
                                      [WM_OPT_DURATION] = "duration",
                                      [WM_OPT_SIZE] = "size"};
  return def->type == WM_OPT_CHOICE ? def->choices : names[def->type];
}

/* The i-th of defs as info; false past its last, with i less by their number. */
static bool info_at(const wm_option_def *defs, const char *where, size_t *i, wm_option_info *out) {
  for (const wm_option_def *def = defs; def && def->name; def++)
    if ((*i)-- == 0) {
      *out = (wm_option_info){.name = def->name,
                              .value = def->value,
                              .unit = unit_name(def),
                              .help = def->help,
                              .where = where};
      return true;
    }
  return false;
}

bool wm_option_list(size_t i, wm_option_info *out) {
  if (info_at(wm_publisher_options, "publisher", &i, out)) return true;
  if (info_at(wm_subscription_options, "subscription", &i, out)) return true;
  const wm_backend_entry *entry;
  for (size_t k = 0; (entry = wm_backend_at(k)) != NULL; k++)
    if (entry->backend && info_at(entry->backend->options, entry->name, &i, out)) return true;
  return false;
}
