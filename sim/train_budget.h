/* Per-layer budgets learnt from the training part. */
#ifndef SIM_TRAIN_BUDGET_H
#define SIM_TRAIN_BUDGET_H

#include "sim/train.h"

/* Curves that were measured, by the plans they are of. Zero-initialise. */
typedef struct {
    struct KnownCurves *first;
} CurveCache;

void curve_cache_free(CurveCache *cache);
/* The slots of every layer under PLAN's budget, which is to be learnt, as a table. */
Status train_budget(Training *training, CurveCache *cache, const Plan *plan, PlanTable **table);

#endif
