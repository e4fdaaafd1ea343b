/* Replays many events at once: a block of steps, layer by layer where each layer has a scope of its
 * own, so that a policy decides thousands of events of one scope in one call. */
#ifndef SIM_REPLAY_BLOCKS_H
#define SIM_REPLAY_BLOCKS_H

#include "sim/replay.h"

/* Decides the events from CURSOR, which stands between steps, to the end of its trace by BUFFER,
 * for which buffer_takes_runs() holds, and counts assignments and phases in RESULT, which has its
 * layers. FUTURE is of the trace, or NULL. OBSERVER, unless NULL, is told of each event. After
 * success CURSOR stands at the end. */
Status replay_blocks(PackedCursor *cursor, ExpertBuffer *buffer, FutureReader *future,
                     HitObserver observer, void *argument, ReplayResult *result);

/* The same with the buffer off: nothing is decided. */
Status replay_resident(PackedCursor *cursor, ExpertBuffer *buffer, ReplayResult *result);

/* The tokens of an event's lookups, of which COUNTS has as many as EVENT has, and of those lookups
 * that HIT; returns the end of its counts. */
const uint8_t *replay_count_assignments(const uint8_t *counts, const uint8_t *hit, uint32_t n,
                                        ReplayLayer *layer, ReplayPhase *phase);

#endif
