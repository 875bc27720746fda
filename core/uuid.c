/*
 * uuid.c - random uuids (version 4). Any thread.
 */
#include <string.h>

#include "clock.h"
#include "wm.h"

void wm_uuid(char out[WM_UUID_SIZE]) {
  static const char hex[] = "0123456789abcdef";
  static const char shape[WM_UUID_SIZE] = "xxxxxxxx-xxxx-4xxx-yxxx-xxxxxxxxxxxx";
  uint64_t bits = wm_random();
  for (int i = 0; i < WM_UUID_SIZE - 1; i++) {
    if (i == WM_UUID_SIZE / 2) bits = wm_random();
    if (shape[i] == 'x')
      out[i] = hex[bits & 15];
    else if (shape[i] == 'y')
      out[i] = hex[8 | (bits & 3)]; /* the variant */
    else
      out[i] = shape[i];
    if (shape[i] != '-') bits >>= 4;
  }
  out[WM_UUID_SIZE - 1] = 0;
}
