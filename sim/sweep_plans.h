/* The plans of a sweep on their way to the other ranks, with their tables. */
#ifndef SIM_SWEEP_PLANS_H
#define SIM_SWEEP_PLANS_H

#include "policies/plan.h"
#include "sim/sweep_ranks.h"

/* Plans and their tables as two blocks of bytes. Packed, a plan has in the place of a table one
 * more than where it lies in TABLES; unpacked, its address there, which no plan owns. */
typedef struct {
    Plan *plans; /* [n_plans] */
    uint64_t n_plans;
    unsigned char *tables; /* [table_bytes] a table that several share lies there once */
    uint64_t table_bytes;
} SweepPlans;

/* A packed copy of PLANS[N]. Freed, as all of these, with sweep_plans_free(). */
Status sweep_plans_pack(const Plan *plans, size_t n, SweepPlans *packed);
/* Room for N_PLANS and TABLE_BYTES. */
Status sweep_plans_new(uint64_t n_plans, uint64_t table_bytes, SweepPlans *room);
/* Rank 0 shares what it packed; every other rank gives room for it. */
Status sweep_plans_share(SweepRanks *ranks, SweepPlans *packed);
void sweep_plans_unpack(SweepPlans *packed);
void sweep_plans_free(SweepPlans *plans);

#endif
