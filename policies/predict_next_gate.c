#include "policies/predictor.h"

static uint64_t next_gate_predict(Predictor *predictor, const BufferEvent *event, uint32_t target,
                                  const uint16_t *coming, uint32_t n_coming)
{
    const EventSignals *signals = event->signals;
    (void)target;
    (void)coming;
    (void)n_coming;
    for (uint32_t i = 0; i < signals->n_predicted; i++)
        predictor->score[signals->predicted[i]] = signals->predicted_weights[i];
    return signals->n_predicted;
}

/* What the target layer's router says to this layer's hidden state, under the target's norm:
 * Eliseev and Mazur 2023 (Fast inference of MoE language models with offloading, section 3.2);
 * AdapMoE (Zhong et al. 2024) and HOBBIT (Tang et al. 2024) load so over several layers. The
 * executor applies the router (exec/forward_ahead.c), the trace keeps what it said. Each token's
 * choice counts, in the order of the tokens' weights together. */
const PredictorRow PREDICT_NEXT_GATE = {
    .name = "next-gate", .is_whole = true, .needs_predictions = true, .predict = next_gate_predict};
