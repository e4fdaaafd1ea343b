/* The capacity of static gating. */
#ifndef POLICIES_CAPACITY_H
#define POLICIES_CAPACITY_H

#include "policies/plan.h"

/* Rows per expert under PLAN's static gating for a step of TOKENS; 0: no limit (dynamic). */
uint32_t gating_capacity(const Plan *plan, uint32_t tokens);
/* ceil(FRACTION * TOKENS), at least 1 and at most TOKENS. */
uint32_t gating_share(double fraction, uint32_t tokens);

#endif
