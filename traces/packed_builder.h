/* What a PackedTrace is made with. Only for traces/packed*.c. */
#ifndef TRACES_PACKED_BUILDER_H
#define TRACES_PACKED_BUILDER_H

#include "traces/active.h"
#include "traces/layers.h"
#include "traces/packed.h"
#include "traces/tally.h"

typedef struct PackedBuilder PackedBuilder;

struct PackedBuilder {
    StackSpan spans[2]; /* by Stack */
    uint64_t expected;  /* steps, as far as that is known */
    uint64_t steps;     /* room in the arrays, in elements */
    uint64_t events;
    uint64_t lookups;
    uint64_t counts;
    uint64_t touches;
    bool no_touches;
    bool no_experts;
    ActiveSet active;
    Tally tally;
    void *wide; /* u16 ids of a step that has them as bytes */
    size_t wide_bytes;
};

/* Room for the whole trace of READER at once, if its steps are of one token. */
Status packed_reserve(PackedTrace *trace, TraceReader *reader);
/* Room for a step of so many EVENTS and at most so many LOOKUPS, and bytes of TOUCHES. */
Status packed_make_room(PackedTrace *trace, uint64_t events, uint64_t lookups, uint64_t touches);
/* Gives back what a bound was too high. */
Status packed_trim(PackedTrace *trace);

/* Appends STEP, which has been checked; its ids as bytes where it has them so. */
Status packed_append_step(PackedTrace *trace, const TraceStep *step);

#endif
