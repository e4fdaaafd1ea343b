/* Tables of predictors, learnt from the training part. */
#ifndef SIM_TRAIN_PREDICTOR_H
#define SIM_TRAIN_PREDICTOR_H

#include "sim/train.h"

/* The table of PLAN's predictor, frequency or transition. */
Status train_predictor(const Training *training, const Plan *plan, PlanTable **table);

#endif
