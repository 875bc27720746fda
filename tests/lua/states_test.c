/* states_test.c - Lua states with the module in them, as a host holds them: several of a process at once, ended
 * while things are under way, and with a host of their own. */
#include <lauxlib.h>
#include <lua.h>
#include <lualib.h>
#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "wm.h"
#include "wm_lua.h"

#define URL "memory:states_test"

static lua_State *new_state(const wm_lua_host *host) {
  lua_State *L = luaL_newstate();
  luaL_openlibs(L);
  if (host) wm_lua_set_host(L, host);
  luaL_requiref(L, "wm.core", luaopen_wm_core, 0);
  lua_setglobal(L, "core");
  lua_pushstring(L, URL);
  lua_setglobal(L, "URL");
  return L;
}

static void run(lua_State *L, const char *code) {
  if (luaL_dostring(L, code) != LUA_OK) {
    fprintf(stderr, "%s\n", lua_tostring(L, -1));
    abort();
  }
}

static const char helpers[] = "function finish(id)\n"
                              "  local deadline = core.clock() + 20\n"
                              "  while true do\n"
                              "    local ended, ok, err = core.completed()\n"
                              "    if ended == id then return ok, err end\n"
                              "    assert(core.clock() < deadline)\n"
                              "    if not ended then core.poll({ core.wake_fd() }, 1) end\n"
                              "  end\n"
                              "end\n";

/* ---- several at once ------------------------------------------------------------------------------- */

enum { THREADS = 4, MESSAGES = 500 };

/* Publishes to a topic of its own and reads it back, with all threads on one broker. */
static void *work(void *arg) {
  lua_State *L = new_state(NULL);
  lua_pushinteger(L, (lua_Integer)(intptr_t)arg);
  lua_setglobal(L, "number");
  lua_pushinteger(L, MESSAGES);
  lua_setglobal(L, "messages");
  run(L, helpers);
  run(L, "local topic = 'topic-' .. number\n"
         "local con, id = core.subscribe(URL, topic, { group = 'g', max_in_flight = 8 }, 'x')\n"
         "assert(con, id)\n"
         "assert(finish(id))\n"
         "local pub = core.publisher(URL)\n"
         "for i = 1, messages do\n"
         "  local msg = core.message(tostring(i), { number = tostring(number) })\n"
         "  assert(i % 2 == 0 and pub:send(topic, msg) or pub:publish_blocking(topic, msg))\n"
         "end\n"
         "for i = 1, messages do\n"
         "  local msg = assert(con:wait(20))\n"
         "  assert(msg.payload == tostring(i) and msg.metadata.number == tostring(number))\n"
         "  assert(i % 2 == 0 and msg:ack() or core.done(msg))\n"
         "end\n"
         "assert(finish(con:close(20)))\n");
  lua_close(L);
  return NULL;
}

static void several_states_work_at_once(void **state) {
  (void)state;
  pthread_t threads[THREADS];
  for (intptr_t i = 0; i < THREADS; i++)
    assert_int_equal(pthread_create(&threads[i], NULL, work, (void *)i), 0);
  for (int i = 0; i < THREADS; i++)
    pthread_join(threads[i], NULL);
}

/* ---- the end of a state ------------------------------------------------------------------------------ */

static void a_state_may_end_while_operations_are_under_way(void **state) {
  (void)state;
  for (int round = 0; round < 50; round++) {
    lua_State *L = new_state(NULL);
    run(L, helpers);
    run(L, "pub = core.publisher(URL)\n"
           "con = core.subscribe(URL, 'busy', { group = 'g', max_in_flight = 8 }, 'x')\n"
           "other = core.subscribe(URL, 'busy', { group = 'h' }, 'x')\n"
           "for i = 1, 20 do pub:send('busy', { 'a', 'b' }) end\n"
           "msg = con:wait(20)\n"
           "con:flush(20)\n"
           "other:close(20)\n"
           "core.publisher(URL):close(20)\n");
    wm_lua_mailbox *box = wm_lua_mailbox_of(L);
    lua_close(L);
    assert_int_equal(wm_lua_post(box, "retire", 0), WM_CLOSED);
    wm_lua_mailbox_release(box);
  }
}

static void what_was_sent_is_stored_when_the_state_has_ended(void **state) {
  (void)state;
  lua_State *reader = new_state(NULL);
  run(reader, helpers);
  run(reader, "con, id = core.subscribe(URL, 'last', { group = 'g' }, 'x') assert(finish(id))");
  lua_State *L = new_state(NULL);
  run(L, "local pub = core.publisher(URL) for i = 1, 200 do assert(pub:send('last', tostring(i))) "
         "end");
  lua_close(L);
  run(reader, "for i = 1, 200 do\n"
              "  local msg = assert(con:wait(20))\n"
              "  assert(msg.payload == tostring(i))\n"
              "  core.done(msg)\n"
              "end\n");
  lua_close(reader);
}

static void what_was_held_is_given_back_when_the_state_has_ended(void **state) {
  (void)state;
  lua_State *keeper = new_state(NULL); /* the memory broker lives as long as somebody uses it */
  run(keeper,
      "assert(core.publisher(URL):publish_blocking('held', 'x')) pub = core.publisher(URL)");
  for (int round = 0; round < 3; round++) {
    lua_State *L = new_state(NULL);
    run(L, "con = core.subscribe(URL, 'held', { group = 'g' }, 'x')\n"
           "msg = assert(con:wait(20))\n"
           "assert(msg.payload == 'x')");
    lua_close(L);
  }
  lua_close(keeper);
}

/* ---- no memory --------------------------------------------------------------------------------------- */

/* Allocations up to the first that fails; 0: none does. */
static size_t until_failure;

static void *failing_allocator(void *arg, void *block, size_t old_size, size_t size) {
  (void)arg;
  (void)old_size;
  if (size == 0) {
    free(block);
    return NULL;
  }
  if (until_failure > 0 && --until_failure == 0) {
    until_failure = 1; /* so do all after it */
    return NULL;
  }
  return realloc(block, size);
}

/* One after the other, each allocation of a program fails. The message that it reads is still there for the next
 * one; what leaks the sanitizer tells. */
static void want_of_memory_loses_no_message(void **state) {
  (void)state;
  lua_State *keeper = new_state(NULL);
  run(keeper, helpers);
  run(keeper, "con, id = core.subscribe(URL, 'tight', { group = 'g' }, 'x') assert(finish(id))\n"
              "finish(con:close(0))\n"
              "pub = core.publisher(URL)\n"
              "assert(pub:publish_blocking('tight', core.message('x', { a = '1' })))");
  int status = LUA_ERRMEM;
  for (size_t nth = 1; status != LUA_OK; nth++) {
    lua_State *L = lua_newstate(failing_allocator, NULL);
    luaL_openlibs(L);
    luaL_requiref(L, "wm.core", luaopen_wm_core, 0);
    lua_setglobal(L, "core");
    lua_pushstring(L, URL);
    lua_setglobal(L, "URL");
    assert_int_equal(
        luaL_loadstring(L, "local pub = core.publisher(URL)\n"
                           "pub:publish_blocking('out', { 'x', core.message('y'), 1 })\n"
                           "pub:send('out', { 'x', core.message('y', { b = '2' }) })\n"
                           "local con = core.subscribe(URL, 'tight', { group = 'g' }, 'x')\n"
                           "local msg = con:wait(20)\n"
                           "assert(msg.payload == 'x' and msg.metadata.a == '1')\n"
                           "local first = msg:nack{ delay = 0 }\n"
                           "assert(first)\n"
                           "msg = con:wait(20)\n"
                           "pub:publish_blocking('out', { msg })\n"
                           "con:close(0)\n"
                           "pub:close(20)\n"
                           "while core.completed() do end\n"),
        LUA_OK);
    until_failure = nth;
    status = lua_pcall(L, 0, 0, 0);
    until_failure = 0;
    if (status != LUA_OK) assert_non_null(strstr(lua_tostring(L, -1), "memory"));
    lua_close(L);
  }
  run(keeper, "con = core.subscribe(URL, 'tight', { group = 'g' }, 'x')\n"
              "assert(con:wait(20).payload == 'x')\n");
  lua_close(keeper);
}

/* ---- a host -------------------------------------------------------------------------------------------- */

typedef struct host {
  wm_lua_host fn;
  wm_subscription *sub;
  wm_consumer *con; /* the state's, not attached yet */
  char heard[512];  /* what it was told, in order */
} host;

static void hear(host *h, const char *fmt, ...) {
  va_list args;
  size_t used = strlen(h->heard);
  va_start(args, fmt);
  vsnprintf(h->heard + used, sizeof h->heard - used, fmt, args);
  va_end(args);
}

/* Gives a consumer that gets nothing until it is switched to. */
static int host_subscribe(void *arg, const char *url, const char *topic, const wm_options *opts,
                          const char *where, wm_consumer **con, wm_done_cb cb, void *cb_arg,
                          wm_error *err) {
  host *h = arg;
  hear(h, "subscribe %s %s;", topic, where);
  int rc = wm_subscribe(&h->sub, url, topic, opts, err);
  if (rc == WM_OK) rc = wm_consumer_open(con, NULL, err);
  if (rc != WM_OK) return rc;
  h->con = *con;
  cb(cb_arg, WM_OK, NULL);
  return rc;
}

static void host_unsubscribe(void *arg, wm_consumer *con, int timeout_ms, wm_done_cb cb,
                             void *cb_arg) {
  host *h = arg;
  hear(h, "unsubscribe %d %d;", con != NULL, timeout_ms);
  wm_subscription_close_async(h->sub, timeout_ms, cb, cb_arg);
  h->sub = NULL;
}

static bool host_waiting(void *arg) {
  hear(arg, "waiting;");
  return false;
}

static const char *host_kept(void *arg, const char *name, size_t *len) {
  hear(arg, "kept %s;", name);
  *len = 3;
  return strcmp(name, "hits") == 0 ? "a\0b" : NULL;
}

static void host_keep(void *arg, const char *name, const char *text, size_t len) {
  hear(arg, "keep %s %.*s;", name ? name : "-", (int)len, text ? text : "");
}

static void host_watch(void *arg, const char *path) { hear(arg, "watch %s;", path); }

static int host_configure(void *arg, const char *name, const char *value, wm_error *err) {
  hear(arg, "configure %s=%s;", name, value);
  if (strcmp(name, "log") == 0) return WM_OK;
  err->code = WM_BAD_INPUT;
  snprintf(err->text, sizeof err->text, "no setting '%s'", name);
  return WM_BAD_INPUT;
}

static void host_log(void *arg, wm_log_level level, const char *line) {
  hear(arg, "log %d %s;", level, line);
}

static host new_host(void) {
  return (host){.fn = {.subscribe = host_subscribe,
                       .unsubscribe = host_unsubscribe,
                       .waiting = host_waiting,
                       .kept = host_kept,
                       .keep = host_keep,
                       .watch = host_watch,
                       .configure = host_configure,
                       .log = host_log,
                       .log_level = WM_LOG_DEBUG,
                       .log_json = true,
                       .broker = URL,
                       .generation = 7,
                       .worker = 2}};
}

static void a_host_is_asked_and_told(void **state) {
  (void)state;
  host h = new_host();
  h.fn.arg = &h;
  lua_State *L = new_state(&h.fn);
  run(L,
      "assert(core.hosted and core.broker == URL and core.generation == 7 and core.worker == 2)\n"
      "assert(core.log_level == 0 and core.log_json)\n"
      "assert(core.waiting() == false)\n"
      "assert(core.kept('hits') == 'a\\0b' and core.kept('others') == nil)\n"
      "core.keep('hits', 'one') core.keep(nil)\n"
      "core.watch('data.json')\n"
      "assert(core.configure('log', 'warn'))\n"
      "local ok, err, code = core.configure('size', '1')\n"
      "assert(ok == nil and err == \"no setting 'size'\" and code == 'BAD_INPUT')\n"
      "core.log(2, 'careful')\n");
  assert_string_equal(h.heard,
                      "waiting;kept hits;kept others;keep hits one;keep - ;watch data.json;"
                      "configure log=warn;configure size=1;log 2 careful;");
  lua_close(L);
}

static void events_of_a_host_are_told_in_order(void **state) {
  (void)state;
  host h = new_host();
  h.fn.arg = &h;
  lua_State *L = new_state(&h.fn);
  wm_lua_mailbox *box = wm_lua_mailbox_of(L);
  assert_int_equal(wm_lua_post(box, "start", 0), WM_OK);
  assert_int_equal(wm_lua_post(box, "stop", 1500), WM_OK);
  run(L, "assert(#core.poll({ core.wake_fd() }, 0) == 1)\n"
         "local name, value = core.completed() assert(name == 'start' and value == 0)\n"
         "name, value = core.completed() assert(name == 'stop' and value == 1500)\n"
         "assert(core.completed() == nil and #core.poll({ core.wake_fd() }, 0) == 0)\n");
  assert_int_equal(wm_lua_post(box, "stop", 1), WM_OK); /* never read */
  lua_close(L);
  assert_int_equal(wm_lua_post(box, "stop", 2), WM_CLOSED);
  wm_lua_mailbox_release(box);
}

static void a_host_owns_the_subscriptions(void **state) {
  (void)state;
  host h = new_host();
  h.fn.arg = &h;
  lua_State *L = new_state(&h.fn);
  run(L, helpers);
  run(L, "con, id = core.subscribe(URL, 'hosted', { group = 'g' }, 'a.lua:7') assert(con, id)\n"
         "assert(finish(id))\n"
         "assert(con.topic == 'hosted' and con.group == 'g')\n"
         "assert(core.publisher(URL):publish_blocking('hosted', { '1', '2' }))\n"
         "assert(con:stats().fetched == 0)\n"
         "assert(finish(con:flush(20)))\n"
         "local msg, why = con:next() assert(not msg and why == 'TIMEOUT')\n"
         "con:pause()\n");
  wm_error err;
  assert_int_equal(wm_subscription_switch(h.sub, &h.con, 1, &err), WM_OK);
  run(L, "local msg, why = con:wait(0.05) assert(not msg and why == 'TIMEOUT')\n"
         "con:resume()\n"
         "held = assert(con:wait(20))\n"
         "assert(held.payload == '1')\n");
  assert_int_equal(wm_subscription_switch(h.sub, NULL, 0, &err), WM_OK);
  run(L, "local msg, why = con:wait(20) assert(not msg and why == 'RETIRED')\n"
         "assert(held:ack())\n"
         "assert(finish(con:close(1.5)))\n");
  assert_string_equal(h.heard, "subscribe hosted a.lua:7;unsubscribe 1 1500;");
  lua_close(L);
}

static void a_state_that_ends_leaves_what_it_had_of_a_host(void **state) {
  (void)state;
  host h = new_host();
  h.fn.arg = &h;
  lua_State *L = new_state(&h.fn);
  run(L, helpers);
  run(L, "con = core.subscribe(URL, 'left', { group = 'g' }, 'a.lua:7')\n"
         "assert(core.publisher(URL):publish_blocking('left', '1'))\n");
  wm_error err;
  assert_int_equal(wm_subscription_switch(h.sub, &h.con, 1, &err), WM_OK);
  run(L, "held = assert(con:wait(20))");
  lua_close(L);
  assert_string_equal(h.heard, "subscribe left a.lua:7;unsubscribe 1 -1;");
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(several_states_work_at_once),
      cmocka_unit_test(a_state_may_end_while_operations_are_under_way),
      cmocka_unit_test(what_was_sent_is_stored_when_the_state_has_ended),
      cmocka_unit_test(what_was_held_is_given_back_when_the_state_has_ended),
      cmocka_unit_test(want_of_memory_loses_no_message),
      cmocka_unit_test(a_host_is_asked_and_told),
      cmocka_unit_test(events_of_a_host_are_told_in_order),
      cmocka_unit_test(a_host_owns_the_subscriptions),
      cmocka_unit_test(a_state_that_ends_leaves_what_it_had_of_a_host),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
