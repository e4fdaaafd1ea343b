#include "policies/predictor.h"

static uint64_t frequency_predict(Predictor *predictor, const BufferEvent *event, uint32_t target,
                                  const uint16_t *coming, uint32_t n_coming)
{
    const uint64_t *events = predictor->events + predictor->first_object[target];
    uint32_t n_experts = predictor->layers[target].experts;
    (void)event;
    (void)coming;
    (void)n_coming;
    for (uint32_t e = 0; e < n_experts; e++)
        predictor->score[e] = events[e];
    return n_experts;
}

/* The experts that most events of the layer have needed so far: popularity, as static placements
 * rank it, kept up to date; or, where the plan brings a table, as the training part left it. */
const PredictorRow PREDICT_FREQUENCY = {.name = "frequency",
                                        .needs_events = true,
                                        .predict = frequency_predict,
                                        .predict_learnt = predict_learnt_frequency,
                                        .check_learnt = predict_learnt_check_frequency};
