/* payload.h - what is in a payload, so that every consumer can tell whether it is whole. */
#ifndef PAYLOAD_H
#define PAYLOAD_H

#include "wm.h"

size_t payload_fill(char *out, size_t size, const char *uuid, size_t number);
bool payload_matches(wm_slice payload, const char *uuid, size_t number);

#endif
