/* How loads, and rows of experts on the host, share the link and the queue, in simulator and
 * executor alike. Decisions do not depend on it.
 *
 * Loads on demand go over the link one after the other as they come. Prefetches are held back where
 * they would stand in their way (small ones do not: those of an event are begun together, after its
 * loads on demand): a part of one is begun, in the order of the decisions, when nothing else is
 * under way. At the event of its layer a prefetch that is hit becomes a load on demand, with what
 * is left of it. One that has not begun then, and is not hit, is cancelled, and so is what is left
 * of one whose expert is evicted; but not where all experts have room, since it is wanted sooner or
 * later. A cancelled prefetch leaves the decisions as they are: the expert has its slot, but is
 * loaded, on demand, when it is next hit. */
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
    SHORT_LOADS_BYTES = 1 << 20,
    /* A prefetch that is held back goes over the link in equal parts of at most so many bytes, or
     * in so many of them: what a load on demand waits for at the most. */
    PREFETCH_PART_BYTES = 8 << 20,
    MOST_PREFETCH_PARTS = 64,
    /* Rows of an event that the host computes at a time at the most: results of the ones are
     * fetched while it computes the next. */
    HOST_ROWS_AT_ONCE = 2048
};

/* Whether an event computes its hits with the N_LOADED experts of EXPERT_BYTES that loads bring, in
 * one call after them, instead of beside them in one of its own. */
static inline bool link_joins_hits(uint32_t n_loaded, uint64_t expert_bytes, double throttle)
{
    return throttle <= 0 && n_loaded * expert_bytes <= SHORT_LOADS_BYTES;
}

/* Whether prefetches of experts of EXPERT_BYTES are held back. */
static inline bool link_holds_back(uint64_t expert_bytes, double throttle)
{
    return throttle > 0 || expert_bytes > LOADED_TOGETHER_BYTES;
}

/* In how many parts they are then loaded. */
static inline uint32_t link_parts(uint64_t expert_bytes)
{
    uint64_t parts = (expert_bytes + PREFETCH_PART_BYTES - 1) / PREFETCH_PART_BYTES;
    parts = parts > 0 ? parts : 1;
    return parts < MOST_PREFETCH_PARTS ? (uint32_t)parts : MOST_PREFETCH_PARTS;
}

#endif
