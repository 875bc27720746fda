/*
 * option_tables.c - the options of publishers and subscriptions, described once: defaults, bounds, help.
 * Constant. Backends describe theirs themselves.
 */
#include "options.h"

enum { SECOND = 1000, MINUTE = 60 * SECOND, HOUR = 60 * MINUTE, DAY = 24 * HOUR };
enum { COUNT_MOST = 1000000, BATCH_MOST = 100000, TAKEOVER_LEAST = 100 };
#define SIZE_MOST ((int64_t)1 << 40)

const wm_option_def wm_publisher_options[WM_PUB_OPTIONS + 1] = {
    [WM_PUB_TIMEOUT] = {.name = "timeout",
                        .type = WM_OPT_DURATION,
                        .value = "10s",
                        .min = 1,
                        .max = DAY,
                        .help = "how long a publish may take, repeats included, before it fails"},
    [WM_PUB_ORDER_BY] = {.name = "order_by",
                         .type = WM_OPT_TEXT,
                         .value = "",
                         .help = "metadata key whose value is the partition key, where the broker "
                                 "has partitions"},
    [WM_PUB_QUEUE_BYTES] = {.name = "queue_bytes",
                            .type = WM_OPT_SIZE,
                            .value = "64M",
                            .min = 1,
                            .max = SIZE_MOST,
                            .help =
                                "bytes queued, not yet confirmed, above which publishing waits"},
};

const wm_option_def wm_subscription_options[WM_SUB_OPTIONS + 1] = {
    [WM_SUB_GROUP] = {.name = "group",
                      .type = WM_OPT_TEXT,
                      .value = "",
                      .help = "name whose users share the messages; without it every subscription "
                              "gets every message from now on"},
    [WM_SUB_FROM] = {.name = "from",
                     .type = WM_OPT_TEXT,
                     .value = "",
                     .help = "where a new group begins: oldest, newest, epoch seconds, or a "
                             "position of the broker; without it the oldest that can be replayed"},
    [WM_SUB_MAX_IN_FLIGHT] = {.name = "max_in_flight",
                              .type = WM_OPT_COUNT,
                              .value = "1",
                              .min = 1,
                              .max = COUNT_MOST,
                              .help = "hand-outs not yet settled at a time; a batch is one"},
    [WM_SUB_ORDER_BY] = {.name = "order_by",
                         .type = WM_OPT_TEXT,
                         .value = "",
                         .help =
                             "metadata key; messages of equal value go one at a time, in order"},
    [WM_SUB_ORDERED] = {.name = "ordered",
                        .type = WM_OPT_BOOL,
                        .value = "true",
                        .help = "false: a message that waits to be retried holds up no other"},
    [WM_SUB_BATCH] = {.name = "batch",
                      .type = WM_OPT_COUNT,
                      .value = "1",
                      .min = 1,
                      .max = BATCH_MOST,
                      .help = "messages handed out together at most"},
    [WM_SUB_BATCH_WAIT] = {.name = "batch_wait",
                           .type = WM_OPT_DURATION,
                           .value = "0",
                           .max = HOUR,
                           .help = "how long a batch waits to be full, from its first message's "
                                   "arrival"},
    [WM_SUB_PREFETCH] = {.name = "prefetch",
                         .type = WM_OPT_COUNT,
                         .value = "1000",
                         .min = 1,
                         .max = COUNT_MOST,
                         .help = "messages held in memory at most"},
    [WM_SUB_PREFETCH_BYTES] = {.name = "prefetch_bytes",
                               .type = WM_OPT_SIZE,
                               .value = "16M",
                               .min = 1,
                               .max = SIZE_MOST,
                               .help = "bytes of messages held in memory, about; one message may "
                                       "be larger"},
    [WM_SUB_TAKEOVER] = {.name = "takeover",
                         .type = WM_OPT_DURATION,
                         .value = "30s",
                         .min = TAKEOVER_LEAST,
                         .max = 12 * HOUR,
                         .help = "silence after which a member counts as dead and its messages go "
                                 "to others"},
    [WM_SUB_EXCLUSIVE] = {.name = "exclusive",
                          .type = WM_OPT_BOOL,
                          .value = "false",
                          .help = "one member of the group at a time gets messages, the others "
                                  "stand by"},
    [WM_SUB_TX] = {.name = "tx",
                   .type = WM_OPT_BOOL,
                   .value = "false",
                   .help = "the ack commits with what the handler did in the broker's database"},
    [WM_SUB_HOLD_MAX] = {.name = "hold_max",
                         .type = WM_OPT_DURATION,
                         .value = "60s",
                         .max = 7 * DAY,
                         .help = "longest retry delay that an unordered message waits in memory, "
                                 "where the broker can delay it instead"},
    [WM_SUB_RELEASE_AFTER] = {.name = "release_after",
                              .type = WM_OPT_COUNT,
                              .value = "0",
                              .max = COUNT_MOST,
                              .help = "failures after which an unordered message goes back to the "
                                      "group; 0 = never"},
    [WM_SUB_MAX_ATTEMPTS] = {.name = "max_attempts",
                             .type = WM_OPT_COUNT,
                             .value = "0",
                             .max = COUNT_MOST,
                             .help = "attempts after which a message goes to dead_letter; 0 = no "
                                     "limit"},
    [WM_SUB_DEAD_LETTER] = {.name = "dead_letter",
                            .type = WM_OPT_TEXT,
                            .value = "",
                            .help = "topic for messages that are given up; without it none is"},
    [WM_SUB_ON_UNDECODABLE] = {.name = "on_undecodable",
                               .type = WM_OPT_CHOICE,
                               .value = "raw",
                               .choices = "raw|dead_letter|skip",
                               .help = "what becomes of a record that cannot be read: delivered "
                                       "with its raw bytes, moved to dead_letter, or acked"},
    [WM_SUB_STALL_WARNING] = {.name = "stall_warning",
                              .type = WM_OPT_DURATION,
                              .value = "30s",
                              .max = 7 * DAY,
                              .help =
                                  "a message in hand for longer is named in the log; 0 = never"},
    [WM_SUB_CONNECT_TIMEOUT] = {.name = "connect_timeout",
                                .type = WM_OPT_DURATION,
                                .value = "30s",
                                .min = 1,
                                .max = DAY,
                                .help = "how long subscribing waits for the broker"},
    [WM_SUB_CLOSE_TIMEOUT] = {.name = "close_timeout",
                              .type = WM_OPT_DURATION,
                              .value = "30s",
                              .max = DAY,
                              .help = "how long closing waits for what is in flight"},
};
