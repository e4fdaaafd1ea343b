#include "policies/arrivals.h"

#include <math.h>

#include "base/splitmix64.h"

/* Above 0, at most 1. */
static double draw_share(uint64_t *state)
{
    return ((double)(splitmix64_next(state) >> 11) + 1) * 0x1p-53;
}

static void fill_trace(uint32_t n, uint64_t *arrival_ns)
{
    uint64_t first = UINT64_MAX;
    for (uint32_t i = 0; i < n; i++)
        first = arrival_ns[i] < first ? arrival_ns[i] : first;
    for (uint32_t i = 0; i < n; i++)
        arrival_ns[i] -= first;
}

static Status fill_rate(const Arrivals *arrivals, uint32_t n, uint64_t *arrival_ns)
{
    const double gap_ns = 1e9 / arrivals->requests_per_s;
    uint64_t state = arrivals->seed;
    double at_ns = 0;
    for (uint32_t i = 0; i < n; i++) {
        if (arrivals->kind == ARRIVALS_FIXED)
            at_ns = i * gap_ns;
        else if (i > 0)
            at_ns -= log(draw_share(&state)) * gap_ns;
        if (at_ns > 0x1p62)
            return fail(ERR_PLAN,
                        "batching.requests_per_s: %g: request %u would come in %.0f "
                        "years",
                        arrivals->requests_per_s, i, at_ns / 3.156e16);
        arrival_ns[i] = (uint64_t)llround(at_ns);
    }
    return OK;
}

static Status fill(const Arrivals *arrivals, uint32_t n, uint64_t *arrival_ns)
{
    switch (arrivals->kind) {
    case ARRIVALS_AT_ONCE:
        for (uint32_t i = 0; i < n; i++)
            arrival_ns[i] = 0;
        return OK;
    case ARRIVALS_TRACE:
        fill_trace(n, arrival_ns);
        return OK;
    case ARRIVALS_FIXED:
    case ARRIVALS_POISSON:
        break;
    }
    return fill_rate(arrivals, n, arrival_ns);
}

Status arrivals_fill(const Arrivals *arrivals, uint32_t n, uint64_t *arrival_ns)
{
    TRY(fill(arrivals, n, arrival_ns));
    for (uint32_t i = 0; i < n && arrivals->stretch > 0; i++)
        arrival_ns[i] = (uint64_t)llround((double)arrival_ns[i] * arrivals->stretch);
    return OK;
}
