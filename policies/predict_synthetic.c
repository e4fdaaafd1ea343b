#include "base/splitmix64.h"
#include "policies/predictor.h"

/* A random rank: who is cut off by a limit does not depend on whether it is right. */
static uint64_t draw_rank(Predictor *predictor)
{
    return splitmix64_next(&predictor->random) | 1;
}

/* Adds N experts that were not scored, drawn uniformly, while there are any. */
static void add_wrong(Predictor *predictor, uint32_t n, const uint16_t *coming, uint32_t n_coming,
                      uint32_t n_experts)
{
    uint32_t left = n_experts - n_coming;
    uint32_t next = 0;
    for (uint32_t e = 0; e < n_experts && n > 0; e++) {
        if (next < n_coming && coming[next] == e) {
            next++;
            continue;
        }
        if (splitmix64_share(&predictor->random) * left-- < n) {
            predictor->score[e] = draw_rank(predictor);
            n--;
        }
    }
}

static uint64_t synthetic_predict(Predictor *predictor, const BufferEvent *event, uint32_t target,
                                  const uint16_t *coming, uint32_t n_coming)
{
    uint32_t right = 0;
    (void)event;
    for (uint32_t i = 0; i < n_coming; i++) {
        if (splitmix64_share(&predictor->random) >= predictor->choice.recall)
            continue;
        predictor->score[coming[i]] = draw_rank(predictor);
        right++;
    }
    double precision = predictor->choice.precision;
    double wrong = right * (1 - precision) / precision;
    uint32_t n_wrong = wrong < UINT32_MAX - 1 ? (uint32_t)wrong : UINT32_MAX - 1;
    n_wrong += splitmix64_share(&predictor->random) < wrong - n_wrong;
    add_wrong(predictor, n_wrong, coming, n_coming, predictor->layers[target].experts);
    return n_coming;
}

/* A predictor of a given accuracy, to ask which would be needed: each expert that will be needed is
 * predicted with probability RECALL, and so many others besides, drawn uniformly, that on average
 * PRECISION of the prediction is right (less only where the layer has not so many others). Drawn
 * anew for every event, from the plan's seed. */
const PredictorRow PREDICT_SYNTHETIC = {.name = "synthetic",
                                        .is_whole = true,
                                        .needs_coming = true,
                                        .has_accuracy = true,
                                        .predict = synthetic_predict};
