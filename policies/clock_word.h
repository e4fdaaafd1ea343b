/* The clock of a scope with at most 64 slots in one machine word. Inside policies/ only. */
#ifndef POLICIES_CLOCK_WORD_H
#define POLICIES_CLOCK_WORD_H

#include "policies/event_loop.h"

/* Decides the events of RUN from number FROM on, as the rules of clock do, for as long as it can:
 * quiet, with all slots taken, and no event larger than the scope. Serial or else in batches.
 * Returns the number of the first that is left, which may be all. */
uint32_t clock_word_run(Scope *scope, ScopeEvent *events, const BufferRun *run, uint32_t from,
                        bool serial);

#endif
