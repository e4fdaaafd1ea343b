/* A machine whose processors others disturb when a test says so; time passes in its loops, and
 * where the test lets it. */
#ifndef TESTS_DISTURBED_MACHINE_H
#define TESTS_DISTURBED_MACHINE_H

#include "base/quiet_processor.h"

enum { PROCESSORS = 4, LOOP_NS = 30000, DISTURBED_LOOP_NS = 55000, MOST_SPELLS = 8 };

/* From loop FIRST to before END, or where TIMED between these times, PROCESSOR takes LOOP_NS; -1:
 * each does. */
typedef struct {
    int processor;
    uint64_t first;
    uint64_t end;
    uint64_t loop_ns; /* 0: DISTURBED_LOOP_NS */
    bool timed;
} Spell;

typedef struct {
    uint64_t now_ns;
    uint64_t loops;
    Spell spells[MOST_SPELLS]; /* zero-terminated by their ends */
    QuietMachine machine;
} DisturbedMachine;

static inline uint64_t disturbed_loop(void *argument, int processor)
{
    DisturbedMachine *all = argument;
    uint64_t ns = LOOP_NS;
    for (const Spell *spell = all->spells; spell < all->spells + MOST_SPELLS; spell++) {
        uint64_t at = spell->timed ? all->now_ns : all->loops;
        if ((spell->processor == processor || spell->processor == -1) && at >= spell->first &&
            at < spell->end)
            ns = spell->loop_ns > 0 ? spell->loop_ns : DISTURBED_LOOP_NS;
    }
    all->now_ns += ns;
    all->loops++;
    return ns;
}

static inline uint64_t disturbed_now(void *argument)
{
    return ((DisturbedMachine *)argument)->now_ns;
}

/* QUIET then is on it. */
static inline void disturbed_machine_begin(DisturbedMachine *all, QuietProcessor *quiet)
{
    all->machine = (QuietMachine){PROCESSORS, disturbed_loop, disturbed_now, all};
    *quiet = (QuietProcessor){.machine = &all->machine};
}

#endif
