/*
 * json_line.h - messages as JSON objects, one a line: what `pub --input json` reads and `sub
 * --json` writes. No state; any thread.
 *
 *   {"uuid": "...", "payload": "...", "metadata": {"key": "value"}}
 *
 * Text that is not UTF-8 travels as "payload_base64", and in "metadata_base64" where it is a value
 * there.
 */
#ifndef WM_JSON_LINE_H
#define WM_JSON_LINE_H

#include <jansson.h>

#include "wm.h"

/* Adds `pairs` to the metadata that the line has, unless it has the key itself. uuid NULL: the
 * line's, or a random one. WM_BAD_INPUT says what is wrong with the line, WM_NOMEM. */
int wm_json_line_read(wm_message **out, const char *line, size_t len, const char *uuid,
                      const wm_pair *pairs, size_t n_pairs, wm_error *err);

/* The object of a received message, with "topic", "attempt" and "time" besides; NULL: out of
 * memory. */
json_t *wm_json_line_of(const wm_message *msg);

/* A string for what has no other form: what is not ASCII becomes '?' where it is not UTF-8. NULL:
 * out of memory. */
json_t *wm_json_text(wm_slice s);

/* ms since the epoch as RFC 3339, "" for 0. */
enum { WM_RFC3339_SIZE = 32 };
void wm_rfc3339(int64_t ms, char out[WM_RFC3339_SIZE]);

#endif
