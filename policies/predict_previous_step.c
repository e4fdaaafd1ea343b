#include "policies/predictor.h"

static uint64_t previous_predict(Predictor *predictor, const BufferEvent *event, uint32_t target,
                                 const uint16_t *coming, uint32_t n_coming)
{
    const uint16_t *last = predictor->last + predictor->first_object[target];
    uint32_t n = predictor->n_last[target];
    (void)event;
    (void)coming;
    (void)n_coming;
    for (uint32_t i = 0; i < n; i++)
        predictor->score[last[i]] = 1;
    return n;
}

/* What the layer needed in the step before: the locality between consecutive tokens (Eliseev and
 * Mazur 2023, Fast inference of MoE language models with offloading, section 3.1). All count
 * alike. */
const PredictorRow PREDICT_PREVIOUS_STEP = {
    .name = "previous-step", .is_whole = true, .needs_last = true, .predict = previous_predict};
