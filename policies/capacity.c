#include "policies/capacity.h"

#include <math.h>

uint32_t gating_share(double fraction, uint32_t tokens)
{
    double share = ceil(fraction * tokens);
    if (share < 1)
        return 1;
    return share < tokens ? (uint32_t)share : tokens;
}

/* No expert can get more rows than there are tokens. */
uint32_t gating_capacity(const Plan *plan, uint32_t tokens)
{
    return plan->gating.mode == GATING_DYNAMIC ? 0
                                               : gating_share(plan->gating.capacity_factor, tokens);
}
