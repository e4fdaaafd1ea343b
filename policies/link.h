/* How an event's loads share the link and the queue, in simulator and executor alike. Decisions do
 * not depend on it. */
#ifndef POLICIES_LINK_H
#define POLICIES_LINK_H

#include <stdbool.h>
#include <stdint.h>

enum {
    /* Experts of at most so many bytes that are loaded one after the other may be copied together:
     * for each by itself, beginning would take longer than copying. */
    LOADED_TOGETHER_BYTES = 256 << 10,
    /* Loads of at most so many bytes are over before a call for the hits would have been queued
     * and run. */
    SHORT_LOADS_BYTES = 1 << 20
};

/* Whether an event computes its hits with the N_LOADED experts of EXPERT_BYTES that loads bring, in
 * one call after them, instead of beside them in one of its own. */
static inline bool link_joins_hits(uint32_t n_loaded, uint64_t expert_bytes, double throttle)
{
    return throttle <= 0 && n_loaded * expert_bytes <= SHORT_LOADS_BYTES;
}

#endif
