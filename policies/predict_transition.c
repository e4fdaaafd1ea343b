#include "policies/predictor.h"
#include "policies/shares.h"

static uint64_t transition_predict(Predictor *predictor, const BufferEvent *event, uint32_t target,
                                   const uint16_t *coming, uint32_t n_coming)
{
    const uint64_t *events = predictor->events + predictor->first_object[event->layer_index];
    uint32_t n_experts = predictor->layers[target].experts;
    uint64_t reads = 0;
    (void)coming;
    (void)n_coming;
    for (uint32_t i = 0; i < event->n; i++) {
        uint32_t from = event->experts[i];
        const uint32_t *pairs = predictor->pairs[event->layer_index] + (size_t)from * n_experts;
        shares_add(pairs, n_experts, events[from], predictor->score);
        reads += n_experts;
    }
    return reads;
}

/* For each expert that runs now, the share of its steps that needed an expert of the target layer,
 * summed: the activation paths of EdgeMoE (Yi et al. 2023, section 3.3) over one layer before, as
 * Lina's popularity by path (Li et al. 2023). The table is learnt as the trace goes: it holds the
 * steps before this one. This event counts among those that needed an expert, so nothing is divided
 * by zero. A table that the plan brings has for each expert those that follow it most, and their
 * shares. */
const PredictorRow PREDICT_TRANSITION = {.name = "transition",
                                         .needs_events = true,
                                         .needs_pairs = true,
                                         .predict = transition_predict,
                                         .predict_learnt = predict_learnt_transition,
                                         .check_learnt = predict_learnt_check_transition};
