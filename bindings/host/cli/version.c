/* version.c - wmlua version: this program, its libraries, its brokers. Main thread only. */
#include <jansson.h>
#include <lua.h>
#include <stdlib.h>
#include <string.h>
#include <uv.h>

#include "cli.h"

typedef struct library {
  const char *name, *version;
} library;

static size_t libraries(library *out) {
  out[0] = (library){"Lua", LUA_VERSION_MAJOR "." LUA_VERSION_MINOR "." LUA_VERSION_RELEASE};
  out[1] = (library){"luv", WM_LUV_VERSION};
  out[2] = (library){"libuv", uv_version_string()};
  out[3] = (library){"jansson", jansson_version_str()};
  return 4;
}

static void print_text(const library *libs, size_t n) {
  wm_cli_putf("wmlua %s\n\nlibraries\n", WM_VERSION);
  for (size_t i = 0; i < n; i++)
    wm_cli_putf("  %-10s%s\n", libs[i].name, libs[i].version);
  wm_cli_putf("\nbrokers\n");
  wm_backend_info b;
  for (size_t i = 0; wm_backend_list(i, &b); i++) {
    char schemes[80] = "";
    snprintf(schemes, sizeof schemes, "%s", b.schemes);
    wm_cli_putf("  %-10s", b.name);
    if (b.missing)
      wm_cli_putf("not in this build: %s\n", b.missing);
    else
      wm_cli_putf("%s%s%s%s\n", schemes, *b.library ? " (" : "", b.library, *b.library ? ")" : "");
  }
}

static json_t *describe(const library *libs, size_t n) {
  json_t *libraries = json_object(), *brokers = json_array();
  for (size_t i = 0; i < n; i++)
    json_object_set_new(libraries, libs[i].name, json_string(libs[i].version));
  wm_backend_info b;
  for (size_t i = 0; wm_backend_list(i, &b); i++)
    json_array_append_new(brokers, json_pack("{ss ss ss sb ss?}", "name", b.name, "schemes",
                                             b.schemes, "library", b.missing ? "" : b.library,
                                             "built", !b.missing, "missing", b.missing));
  return json_pack("{ss so so}", "version", WM_VERSION, "libraries", libraries, "brokers", brokers);
}

int wm_cli_version(wm_cli_args *args) {
  library libs[8];
  size_t n = libraries(libs);
  if (!wm_cli_has(args, "json")) {
    print_text(libs, n);
    return wm_cli_printed(args, WM_EXIT_OK);
  }
  json_t *object = describe(libs, n);
  char *text = object ? json_dumps(object, JSON_COMPACT) : NULL;
  if (text) wm_cli_putf("%s\n", text);
  free(text);
  json_decref(object);
  if (text) return wm_cli_printed(args, WM_EXIT_OK);
  wm_cli_say(args, "out of memory");
  return WM_EXIT_FAILED;
}
