/* The measurements of `moebius bench`. Each prints its own table, or one JSON document. */
#ifndef CLI_BENCH_H
#define CLI_BENCH_H

#include <stdbool.h>

#include "base/status.h"

/* Replays made-up routing (24 layers x 128 experts and 58 x 256, top-8, zipf with stickiness, about
 * 20 million lookups) through every eviction policy, one core, the trace packed in memory; each
 * figure is the best of three. */
Status bench_replay(bool json);

#endif
