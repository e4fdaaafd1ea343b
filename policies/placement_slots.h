/* A map of experts to ranks, turned round: the expert in each slot of each rank. */
#ifndef POLICIES_PLACEMENT_SLOTS_H
#define POLICIES_PLACEMENT_SLOTS_H

#include "policies/placement.h"
#include "traces/export_placement.h"

/* Rank by rank, on each the experts ascending. Fails with ERR_PLAN when ranks or layers have
 * different numbers of slots. *SLOTS holds one block, freed with placement_slots_free(). */
Status placement_slots(const PlanTable *map, uint32_t ranks, PlacementSlots *slots);
void placement_slots_free(PlacementSlots *slots);

#endif
