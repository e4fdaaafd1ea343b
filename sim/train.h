/* Learns from a part of a trace what plans leave to be learnt, and puts it into them as tables, so
 * that they say everything and run anywhere.
 *
 *   buffer.hot  hottest: of each scope the experts that most events needed, as many as fit its
 *               budget, hottest first; ties go to the lower layer, then the lower id
 */
#ifndef SIM_TRAIN_H
#define SIM_TRAIN_H

#include "policies/plan.h"
#include "traces/packed.h"

typedef struct Training Training;

/* Counts over TRACE, the training part, which must outlive it. */
Status training_new(const PackedTrace *trace, Training **training);
/* Accepts NULL. */
void training_free(Training *training);
/* The same plan with nothing left to learn; freed with plan_free(). Not thread-safe: what several
 * plans share is learnt once. */
Status training_plan(Training *training, const Plan *plan, Plan *learnt);

#endif
