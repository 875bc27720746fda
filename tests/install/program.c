/* program.c - what a user's first program may look like: it uses libwm and nothing else. */
#include <stdio.h>
#include <wm.h>

int main(void) {
  char uuid[WM_UUID_SIZE];
  wm_uuid(uuid);
  wm_message *msg = NULL;
  wm_slice payload = {.data = "hello", .len = 5};
  if (wm_message_new(&msg, uuid, payload, NULL, 0, NULL) != WM_OK)
    return 1;
  printf("%s %s %s\n", WM_VERSION, wm_message_payload(msg).data, wm_code_name(WM_TIMEOUT));
  wm_message_release(msg);
  return 0;
}
