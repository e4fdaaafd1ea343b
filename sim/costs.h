/* Looking costs up in a hardware profile.
 *
 * What was measured comes back exactly; between neighbours costs are linear on each axis, the inner
 * axis first, on each of the two neighbouring lines; a line that ends before the point,
 * or begins far behind it, is passed over where others reach it on both sides. Beyond the largest
 * place of an axis the utilisation is held: times and bytes grow in proportion to the axis (factors
 * stay, and so does what is no work that grows: what is left of a step, and what the host needs to
 * queue); below the smallest its cost is held. (AIConfigurator, arXiv 2601.06288: interpolates
 * latency, extrapolates utilisation.) */
#ifndef SIM_COSTS_H
#define SIM_COSTS_H

#include "policies/hardware.h"

/* How a cost was found, the worst of its axes. */
typedef enum {
    COST_OK,           /* measured */
    COST_INTERPOLATED, /* between measured places */
    COST_EXTRAPOLATED, /* outside them */
    COST_MISSING,      /* there is no table */
    COST_STATUSES
} CostStatus;

/* "interpolated" */
const char *cost_status_name(CostStatus status);

/* How often each happened, of one table or of all. */
typedef struct {
    uint64_t n[COST_STATUSES];
} CostUse;

/* An index over a profile's tables. Threads may share it. */
typedef struct Costs Costs;

#define COSTS_NONE UINT32_MAX

/* HARDWARE must outlive it. */
Status costs_new(const Hardware *hardware, Costs **costs);
void costs_free(Costs *costs);
/* The number of a table, which is its place in HARDWARE->tables; COSTS_NONE: there is none. Slow:
 * ask once. */
uint32_t costs_find(const Costs *costs, const char *name, const char *shape);
/* The cost at AT [n_axes], counted in USE. 0 and COST_MISSING of COSTS_NONE. Allocates nothing;
 * tens of nanoseconds. */
double costs_at(const Costs *costs, uint32_t table, const double *at, CostUse *use);

/* Adds MORE to SUM. */
void cost_use_add(CostUse *sum, const CostUse *more);

/* The measured point that is nearest to AT by ratios, its place in NEAREST [n_axes]; TABLE is not
 * COSTS_NONE. */
double costs_nearest(const Costs *costs, uint32_t table, const double *at, double *nearest);

#endif
