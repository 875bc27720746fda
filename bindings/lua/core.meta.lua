---@meta wm.core
-- What the C half of the module gives to its Lua half (scripts/wm): handles, and nothing that waits for a
-- coroutine. Not for programs. Times are seconds; as a timeout, negative = no limit. "fails" = returns nil, message,
-- code; misuse raises and names the argument. Calls that need time return a number, the `id` under which
-- core.completed() tells their end. Handles that are collected, or left over at the end of the state, are closed
-- gently with nobody told; at the end of a state outside a host lua_close waits for that.

---@class wm.core
---@field version string
---@field broker string|nil    the host's default broker
---@field generation integer   1 outside a host
---@field worker integer       1 outside a host
---@field log_level integer    0 debug, 1 info, 2 warn, 3 error: what is wanted
---@field log_json boolean     a log line is a JSON object
---@field hosted boolean       a host has been set
---@field methods table<string, table>  __index tables of "message", "publisher", "consumer": the Lua half adds to them
local core = {}

---@return string
function core.uuid() end
---@return number  epoch
function core.now() end
---@return number  monotonic
function core.clock() end
---@param url string
---@return string  the password as ***
function core.mask(url) end
---The nearest of names to name, nil when none is near.
---@param name string
---@param names string[]
---@return string|nil
function core.nearest(name, names) end
---"250ms", "30s", "2h", "7d", a bare number = seconds.
---@param text string
---@return number|nil seconds
function core.duration(text) end
---"64k", "4M".
---@param text string
---@return integer|nil bytes
function core.size(text) end
---@return { name: string, value: string, unit: string, help: string, where: string }[]
function core.options() end
---@return { name: string, schemes: string, library: string, missing: string|nil }[]
function core.backends() end
---Checks without network; fails with the text that opening would give.
---@param url string
---@param topic string|nil
---@param opts table<string, string|number|boolean>|nil
---@param publisher boolean
---@return true|nil, string|nil, string|nil
function core.check(url, topic, opts, publisher) end
---Writes one line to the log.
---@param level integer
---@param line string
function core.log(level, line) end

---Waits in poll(2) for the first of these descriptors to be readable; for the loop of plain programs.
---@param fds integer[]
---@param timeout number  seconds, negative = for ever
---@return integer[] ready  those of fds that are; empty: the time was over or a signal came
function core.poll(fds, timeout) end

-- ---- completions ----------------------------------------------------------------------------------------

---@return integer fd  one a state; readable while core.completed() has something
function core.wake_fd() end
---The next end of a call that was begun, or event of the host; nil when there is none: call it until then. For events
---(wm_lua.h) id is the name and ok the number. results: of a send that failed, one a message: "STORED", "REFUSED",
---"NOT_SENT" or "UNKNOWN".
---@return integer|string|nil id, true|integer|nil ok, string|nil err, string|nil code, string[]|nil results
function core.completed() end

-- ---- messages -------------------------------------------------------------------------------------------

---@class wm.message : userdata
---A received one keeps its consumer alive. Its consumer holds what was received until the message is settled or the
---consumer is closed; payload and metadata become Lua values when first read. An explicit ack or nack of a message that
---was not read reads it first; core.done, fail, again and dead do not: reading afterwards raises.
---@field uuid string
---@field payload string
---@field metadata table<string, string>  read-only; read it by key and by pairs()
---@field topic string|nil         made to be published: its own, if any
---@field attempt integer          from 1; 0 when it was not received
---@field failures integer         how often core.fail was called for it in this process
---@field time number|nil          epoch
---@field position string|nil
---@field settled "ack"|"nack"|nil
---@field undecodable string|nil   why its record could not be read; payload is then the raw bytes
local message = {}
---@return boolean first
function message:ack() end
---@param opts { delay: number|nil }|nil  nothing: the core's backoff
---@return boolean first
function message:nack(opts) end

---A message to publish. metadata may be that of another message. Fails with BAD_INPUT.
---@param payload string
---@param metadata table<string, string>|nil
---@param uuid string|nil
---@param topic string|nil
---@return wm.message|nil, string|nil, string|nil
function core.message(payload, metadata, uuid, topic) end
---@param value any
---@return boolean
function core.is_message(value) end
---A value that the Lua half keeps with a message: core.memo(msg) tells what core.memo(msg, value) left.
---@param msg wm.message
---@param value any
---@return any
function core.memo(msg, value) end
---Acks for the router: what was not read cannot be read any more.
---@param msg wm.message
---@return boolean first
function core.done(msg) end
---A nack for a failure (wm_fail): delay in seconds, nil = the core's backoff.
---@param msg wm.message
---@param delay number|nil
---@param err string|nil
---@param detail string|nil
---@return boolean first
function core.fail(msg, delay, err, detail) end
---A nack that is no failure (wm.retry, msg:nack), for the router.
---@param msg wm.message
---@param delay number|nil
---@return boolean first
function core.again(msg, delay) end
---To the dead letter topic (wm_dead). False: it has none, or the claim is lost; msg is as before.
---@param msg wm.message
---@param reason string|nil
---@param detail string|nil
---@return boolean first
function core.dead(msg, reason, detail) end

-- ---- publishing -----------------------------------------------------------------------------------------

---@class wm.core.publisher : userdata
local publisher = {}
---No network. Fails with BAD_INPUT, UNSUPPORTED.
---@param url string
---@param opts table<string, string|number|boolean>|nil
---@return wm.core.publisher|nil, string|nil, string|nil
function core.publisher(url, opts) end
---Stops the thread until the broker has confirmed: only where nothing else could run.
---m: a string, number, message, or list of them; topic nil: each message's own. A received message is published as it
---is: same uuid, payload, metadata. Messages of several topics are one call a topic, in order; none is sent after one
---that failed.
---@param topic string|nil
---@param m string|number|wm.message|(string|number|wm.message)[]
---@return true|nil, string|nil, string|nil, string[]|nil results
function publisher:publish_blocking(topic, m) end
---The same without waiting. Fails with TIMEOUT while more than `queue_bytes` are queued: then nothing was taken; again
---when something of what was sent has ended.
---@param topic string|nil
---@param m string|number|wm.message|(string|number|wm.message)[]
---@return integer|nil id, string|nil, string|nil
function publisher:send(topic, m) end
---Sends what is queued first. Afterwards all but close raises.
---@param timeout number
---@return integer id
function publisher:close(timeout) end
---@return table<string, integer>
function publisher:stats() end

-- ---- subscribing ----------------------------------------------------------------------------------------

---@class wm.core.consumer : userdata
---@field topic string
---@field group string  "" = none
local consumer = {}
---The end of id tells that the group exists. where: "file:line" of the script.
---@param url string
---@param topic string
---@param opts table<string, string|number|boolean>|nil
---@param where string
---@return wm.core.consumer|nil, integer|string|nil id, string|nil
function core.subscribe(url, topic, opts, where) end
---Never waits. nil: "TIMEOUT" = nothing now, "RETIRED", "CLOSED" (also after close).
---@return wm.message|nil, string|nil why
function consumer:next() end
---One hand-out: with `batch` all that come together; without it up to max single ones.
---@param max integer
---@return wm.message[]|nil, string|nil why
function consumer:take(max) end
---As next, but stops the thread for up to timeout seconds: only where nothing else could run. A signal ends it
---early, with "TIMEOUT", so that Ctrl-C reaches the program.
---@param timeout number
---@return wm.message|nil, string|nil why
function consumer:wait(timeout) end
---@return integer fd  readable while next() or take() has something to say
function consumer:fd() end
function consumer:pause() end
function consumer:resume() end
---@param timeout number
---@return integer id
function consumer:flush(timeout) end
---Closes the subscription gently (or, in a host, leaves it): until the end of id is told, messages in hand can be
---settled; what remains then is given back and its later ack returns false. Once more: the same id, or at once.
---Afterwards flush, pause, resume raise, and fd too after the end.
---@param timeout number  negative: the option close_timeout
---@return integer id
function consumer:close(timeout) end
---@return table<string, integer|boolean>
function consumer:stats() end

-- ---- for what only a host has ---------------------------------------------------------------------------

---The main chunk is about to wait. False: it must not.
---@return boolean
function core.waiting() end
---What the last generation left under this name.
---@param name string
---@return string|nil
function core.kept(name) end
---One call a name, then one with nil: the answer to the event "keep".
---@param name string|nil
---@param text string|nil
function core.keep(name, text) end
---@param path string
function core.watch(path) end
---A setting of the host; fails with BAD_INPUT.
---@param name string
---@param value string
---@return true|nil, string|nil, string|nil
function core.configure(name, value) end

return core
