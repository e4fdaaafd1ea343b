#include "policies/predictor.h"

static uint64_t oracle_predict(Predictor *predictor, const BufferEvent *event, uint32_t target,
                               const uint16_t *coming, uint32_t n_coming)
{
    (void)event;
    (void)target;
    for (uint32_t i = 0; i < n_coming; i++)
        predictor->score[coming[i]] = 1;
    return n_coming;
}

/* What a router that runs one layer early decides (Hwang et al. 2023, Pre-gated MoE): the model is
 * trained so that its choice is the routing, hence exact. */
const PredictorRow PREDICT_PRE_GATE = {.name = "pre-gate",
                                       .is_whole = true,
                                       .needs_coming = true,
                                       .distance = 1,
                                       .predict = oracle_predict};

/* The routing itself, so many layers ahead: the bound of every predictor at that distance. */
const PredictorRow PREDICT_ORACLE = {.name = "oracle",
                                     .is_whole = true,
                                     .needs_coming = true,
                                     .has_distance = true,
                                     .predict = oracle_predict};
