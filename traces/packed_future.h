/* When each expert of a packed trace is needed next: what Belady needs.
 *
 * A number for every lookup would take more memory than the trace, and every replay of a sweep goes
 * through it from the beginning. So only at the ends of blocks of steps is it kept when every
 * expert is needed next; from there a reader works out, right to left, the block that it is in.
 * Both parts grow with the square root of the trace. */
#ifndef TRACES_PACKED_FUTURE_H
#define TRACES_PACKED_FUTURE_H

#include "traces/packed.h"

typedef struct PackedFuture PackedFuture; /* read-only, so threads may share it */

/* The future of TRACE, whose arrays must stay where they are. For a lookup it is the time of the
 * next lookup of the same (layer, expert), UINT32_MAX when there is none. Time is the lookup's
 * index under order serial (the rest of the same event counts as future), and the event's index
 * under order batch. Fails with ERR_INPUT above 2^32 - 2 lookups. */
Status packed_future_new(const PackedTrace *trace, bool serial, PackedFuture **future);
void packed_future_free(PackedFuture *future);
/* Heap bytes held. */
size_t packed_future_bytes(const PackedFuture *future);

typedef struct FutureReader FutureReader;
Status future_reader_new(const PackedFuture *future, FutureReader **reader);
void future_reader_free(FutureReader *reader);
/* The future of the lookups from LOOKUP on, as far as its block of steps; valid until the next
 * call. Going back to an earlier block starts from the beginning. */
const uint32_t *future_reader_at(FutureReader *reader, uint64_t lookup);
/* The step behind the block of STEP. Steps ascend, too. */
uint64_t future_reader_end(const FutureReader *reader, uint64_t step);
/* Heap bytes held. */
size_t future_reader_bytes(const FutureReader *reader);

/* All of it: [n_lookups], freed with mem_free. */
Status packed_next_use(const PackedTrace *trace, bool serial, uint32_t **next);

#endif
