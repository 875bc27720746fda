/* env_file.c - see env_file.h */
#include "env_file.h"

#include <ctype.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "error.h"

static char *trim(char *text) {
  while (isspace((unsigned char)*text))
    text++;
  char *end = text + strlen(text);
  while (end > text && isspace((unsigned char)end[-1]))
    end--;
  *end = 0;
  return text;
}

static char *unquote(char *text) {
  size_t len = strlen(text);
  if (len < 2 || (*text != '"' && *text != '\'') || text[len - 1] != *text) return text;
  text[len - 1] = 0;
  return text + 1;
}

static bool is_name(const char *text) {
  if (!isalpha((unsigned char)*text) && *text != '_') return false;
  while (isalnum((unsigned char)*text) || *text == '_')
    text++;
  return !*text;
}

static bool take_line(char *line) {
  static const char export[] = "export ";
  char *name = trim(line);
  if (!*name || *name == '#') return true;
  if (strncmp(name, export, strlen(export)) == 0) name = trim(name + strlen(export));
  char *equals = strchr(name, '=');
  if (!equals) return false;
  *equals = 0;
  name = trim(name);
  return is_name(name) && setenv(name, unquote(trim(equals + 1)), 0) == 0;
}

int wm_env_file_read(const char *path, wm_error *err) {
  FILE *file = fopen(path, "re");
  if (!file)
    return wm_fail_with(err, errno == ENOENT ? WM_NOT_FOUND : WM_DENIED, "--env-file %s: %s", path,
                        strerror(errno));
  char *line = NULL;
  size_t room = 0, number = 0;
  int code = WM_OK;
  while (code == WM_OK && getline(&line, &room, file) >= 0) {
    number++;
    if (!take_line(line))
      code =
          wm_fail_with(err, WM_BAD_INPUT, "--env-file %s:%zu: NAME=VALUE expected", path, number);
  }
  free(line);
  fclose(file);
  return code;
}
