/* The memory of scopes, and how they begin. Inside policies/ only. */
#ifndef POLICIES_SCOPE_LAYOUT_H
#define POLICIES_SCOPE_LAYOUT_H

#include "policies/eviction.h"

/* Gives SCOPES[n], whose numbers are set, the arrays that POLICY needs, as one block. WIDEST: the
 * most experts of a layer. */
Status scopes_make(const EvictionPolicy *policy, Scope *scopes, uint32_t n, uint32_t widest);
/* Gives the block back, if there is one. */
void scopes_free(Scope *scopes);
/* Empty, and with nothing remembered. SEED is of its random numbers. */
void scope_reset(const EvictionPolicy *policy, Scope *scope, uint64_t seed);

#endif
