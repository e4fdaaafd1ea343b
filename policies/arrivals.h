/* When the requests of a run arrive. */
#ifndef POLICIES_ARRIVALS_H
#define POLICIES_ARRIVALS_H

#include <stdint.h>

#include "base/status.h"

typedef enum {
    ARRIVALS_AT_ONCE, /* all at 0 */
    ARRIVALS_TRACE,   /* as recorded, the first at 0 */
    ARRIVALS_FIXED,   /* request i at i / rate */
    ARRIVALS_POISSON /* the first at 0, then exponential gaps of mean 1 / rate, drawn by the seed */
} ArrivalsKind;

typedef struct {
    ArrivalsKind kind;
    double requests_per_s; /* FIXED, POISSON: above 0 */
    uint64_t seed;
    double stretch; /* each comes at so many times its time; 0: at its time */
} Arrivals;

/* Fills ARRIVAL_NS[n], by the number of the request; TRACE reads there when each was recorded, and
 * moves the first to 0. Fails with ERR_PLAN where a rate is so low that the last arrival is past
 * the clock's range. */
Status arrivals_fill(const Arrivals *arrivals, uint32_t n, uint64_t *arrival_ns);

#endif
