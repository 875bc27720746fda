/*
 * binding.h - what the files of the Lua module share. All of it runs on the thread of its Lua state; only
 * completions.c is met by other threads. There is one wm_lua_state a Lua state and no other mutable data, so
 * that several states of a process live side by side.
 *
 * Every C function that Lua sees has the same upvalues, so that no call looks for them by name.
 */
#ifndef WM_LUA_BINDING_H
#define WM_LUA_BINDING_H

#include <lauxlib.h>
#include <lua.h>

#include "wm.h"
#include "wm_lua.h"

enum {
  UP_STATE = 1, /* the wm_lua_state */
  UP_RECEIVED,  /* metatables: of received messages, */
  UP_OUTGOING,  /* of messages made to be published, */
  UP_PUBLISHER, /* of the handles */
  UP_CONSUMER,
  UP_BATCH, /* of the messages of one publish call */
  UP_COUNT = UP_BATCH
};
#define UPVALUE(n) lua_upvalueindex(n)

typedef struct wm_lua_state wm_lua_state;
typedef struct wm_lua_op wm_lua_op;
typedef struct wm_lua_publisher wm_lua_publisher;
typedef struct wm_lua_consumer wm_lua_consumer;

/* ---- core.c: a state ------------------------------------------------------------------------ */

/* User values of a wm_lua_state. */
enum {
  STATE_CORE = 1,      /* the module's table */
  STATE_CLOSING,       /* [id] = a consumer that is being closed */
  STATE_METADATA,      /* the metatable of metadata */
  STATE_EMPTY_METADATA /* shared by all messages that have none */
};

struct wm_lua_state {
  const wm_lua_host *host; /* never NULL */
  bool hosted;
  bool closed; /* lua_close has come here */
  lua_Integer last_id;
  wm_lua_mailbox *box;
  wm_lua_op *ready;             /* taken out of the mailbox, not told yet */
  wm_lua_publisher *publishers; /* all that are open */
  wm_lua_consumer *consumers;
};

wm_lua_state *wm_lua_state_of(lua_State *L); /* in a C function of the module */
/* Raises when the state is being closed, as finalizers of a program may find it. */
wm_lua_state *wm_lua_open_state(lua_State *L);

/* Gives the functions of list, with the common upvalues that stand from index `up` on and `more` upvalues on
 * top of the stack (popped), to the table at index `to`. */
void wm_lua_functions(lua_State *L, int to, const luaL_Reg *list, int up, int more);
/* The metatable at `meta` gets __name and a __metatable that hides it. */
void wm_lua_name(lua_State *L, int meta, const char *name);

/* Add to the module's table at `core` and fill the metatables. */
void wm_lua_message_open(lua_State *L, int core, int up);
void wm_lua_publisher_open(lua_State *L, int core, int up);
void wm_lua_consumer_open(lua_State *L, int core, int up);
void wm_lua_completions_open(lua_State *L, int core, int up);

/* ---- convert.c: arguments and results --------------------------------------------------------- */

/* nil, text, name of the code. */
int wm_lua_fail(lua_State *L, int code, const char *text);
int wm_lua_fail_error(lua_State *L, const wm_error *err);
int wm_lua_out_of_memory(wm_error *err); /* fills it; WM_NOMEM */
void wm_lua_push_masked(lua_State *L, const char *url);
/* A string without zero bytes; raises. */
const char *wm_lua_text(lua_State *L, int arg);
const char *wm_lua_opt_text(lua_State *L, int arg); /* NULL: none */
/* Seconds to milliseconds, rounded up; negative, or more than an int holds: -1; raises. */
int wm_lua_ms(lua_State *L, int arg);
/* The same for a point of time ahead: raises when it is negative; nil: absent. */
int wm_lua_delay(lua_State *L, int arg, int absent);
/* A table of options; none: *out is NULL. Raises on what cannot be text, else WM_OK or WM_NOMEM. */
int wm_lua_options(lua_State *L, int arg, wm_options **out);
/* A kind of userdata, known by its address. Each of the module's begins with a pointer to its own: quicker to
 * see than its metatable. */
typedef struct wm_lua_kind {
  const char *name;
} wm_lua_kind;
/* The userdata at index; NULL when it is not of this kind. */
void *wm_lua_to(lua_State *L, int index, const wm_lua_kind *kind);
/* The same; raises. */
void *wm_lua_check(lua_State *L, int arg, const wm_lua_kind *kind);
void wm_lua_set_count(lua_State *L, const char *name, uint64_t value);

/* ---- completions.c: what ends later ------------------------------------------------------------ */

/* Part of a publish call: one topic's messages. */
typedef struct wm_lua_part {
  wm_lua_op *op;
  size_t at; /* its first message among those of the op */
} wm_lua_part;

/* Something that was begun, whose end core.completed() tells. */
struct wm_lua_op {
  wm_lua_op *next;
  wm_lua_mailbox *box; /* one reference */
  lua_Integer id;
  const char *event; /* an event of the host instead, static; its number is in code */
  int code;
  char *text;         /* what went wrong; static when out_of_memory */
  size_t n;           /* publish: messages */
  wm_result *results; /* with n > 1 part under the mailbox's lock until the end */

  /* under the mailbox's lock */
  bool silent;  /* nobody asks for its end */
  bool counted; /* the closing state waits for it */
  bool ended;
  size_t parts_left;
  wm_consumer *orphan; /* closed at the end: its userdata is gone */

  wm_lua_consumer *closes; /* the thread of the state: gone with the end */
  wm_lua_part parts[];
};

wm_lua_mailbox *wm_lua_mailbox_new(void); /* NULL: errno says why */
wm_lua_mailbox *wm_lua_mailbox_retain(wm_lua_mailbox *box);
/* The state is gone: later ends are dropped. wait: first waits for those that are counted. */
void wm_lua_mailbox_close(wm_lua_state *st, bool wait);

/* NULL: out of memory. */
wm_lua_op *wm_lua_op_new(wm_lua_state *st, size_t parts, size_t results);
void wm_lua_op_free(wm_lua_op *op);    /* that has not begun */
void wm_lua_op_silence(wm_lua_op *op); /* begun, but nobody will know its id */
void wm_lua_op_count(wm_lua_op *op);   /* before it begins */
/* con is closed when op ends, for which the closing state waits; at once if it has ended. */
void wm_lua_op_adopt(wm_lua_op *op, wm_consumer *con);
/* Any thread. arg: a wm_lua_op, a wm_lua_part. */
void wm_lua_op_done(void *arg, int code, const wm_error *err);
/* results NULL: NOT_SENT. */
void wm_lua_part_done(void *arg, int code, const wm_result *results, size_t n, const wm_error *err);
/* A list of the names of results. */
void wm_lua_push_results(lua_State *L, const wm_result *results, size_t n);
/* Of two codes the one that says more about a publish of several parts. */
int wm_lua_worse(int a, int b);

/* ---- message.c ----------------------------------------------------------------------------------- */

typedef struct wm_lua_message wm_lua_message;

/* Pushes the userdata of a message that con holds in slot. */
void wm_lua_push_received(lua_State *L, int consumer, wm_lua_consumer *con, wm_message *msg,
                          uint32_t slot);
/* The message at index, NULL when it is none. */
wm_lua_message *wm_lua_to_message(lua_State *L, int index);
/* A reference to what can be published of the message at index; raises when it cannot be read any more. NULL:
 * err says why. */
wm_message *wm_lua_publishable(lua_State *L, int index, wm_lua_message *ud, wm_error *err);
/* Its own topic, NULL: none. Borrowed from it. */
const char *wm_lua_message_own_topic(lua_State *L, int index);

/* ---- publisher.c ---------------------------------------------------------------------------------- */

void wm_lua_publisher_drop(wm_lua_publisher *pub); /* closes it gently, nobody asks for its end */

/* ---- consumer.c ----------------------------------------------------------------------------------- */

/* User values of a wm_lua_consumer. */
enum { CONSUMER_TOPIC = 1, CONSUMER_GROUP };

void wm_lua_consumer_drop(wm_lua_consumer *con); /* as wm_lua_publisher_drop */
/* Its close has come to its end. */
void wm_lua_consumer_ended(wm_lua_consumer *con);
bool wm_lua_consumer_holds(
    const wm_lua_consumer *con); /* false: what it held has been given back */
/* Drops the reference to the message in slot. */
void wm_lua_consumer_release(wm_lua_consumer *con, uint32_t slot);

#endif
