/* Drawn traces with all that policies and predictors read beyond which experts were needed. */
#ifndef TESTS_SIGNALLED_TRACE_H
#define TESTS_SIGNALLED_TRACE_H

#include "tests/reference_prefetch.h"
#include "traces/f16.h"

enum { SIGNALLED_DISTANCES = 3 };

/* A reference trace with all signals. */
typedef struct {
    RefTrace ref;
    uint32_t request[REF_EVENTS][REF_TOKENS];
    /* Of each event, what was predicted at each distance of the layer so far ahead. */
    uint16_t predicted[REF_EVENTS][SIGNALLED_DISTANCES][REF_TOKENS * REF_TOP_K];
    uint16_t weights[REF_EVENTS][SIGNALLED_DISTANCES][REF_TOKENS * REF_TOP_K];
    uint16_t scores[REF_EVENTS][REF_TOKENS][REF_EXPERTS];
    bool has_scores;
} Signalled;

static inline uint32_t tokens_of(const RefTrace *trace, const RefEvent *event)
{
    return event->n_touches / trace->layers[event->layer].top_k;
}

/* The experts that EVENT's tokens need, or others. */
static inline void predict_event(Signalled *it, uint32_t event, uint32_t distance, uint64_t *seed)
{
    const RefTrace *ref = &it->ref;
    uint32_t target = ref->events[event].layer + distance;
    if (target >= ref->n_layers)
        return;
    const RefEvent *coming = &ref->events[event + distance];
    for (uint32_t i = 0; i < coming->n_touches; i++) {
        uint16_t other = (uint16_t)random_below(seed, ref->layers[target].experts);
        it->predicted[event][distance - 1][i] = random_below(seed, 3) ? coming->touches[i] : other;
        it->weights[event][distance - 1][i] = (uint16_t)random_below(seed, 0x4000);
    }
}

static inline void signalled_make(Signalled *it, uint64_t seed, uint32_t max_steps)
{
    ref_trace_make(&it->ref, seed, max_steps);
    it->has_scores = random_below(&seed, 2) == 0;
    for (uint32_t e = 0; e < it->ref.n_events; e++) {
        bool first = it->ref.events[e].layer == 0;
        for (uint32_t t = 0; t < REF_TOKENS; t++) {
            it->request[e][t] = first ? random_below(&seed, 6) : it->request[e - 1][t];
            for (uint32_t i = 0; i < REF_EXPERTS; i++)
                it->scores[e][t][i] = (uint16_t)random_below(&seed, 0x4000);
        }
        for (uint32_t d = 1; d <= SIGNALLED_DISTANCES; d++)
            predict_event(it, e, d, &seed);
    }
}

/* A step in the trace's own layout. */
typedef struct {
    uint16_t experts[REF_LAYERS * REF_TOKENS * REF_TOP_K];
    float weights[REF_LAYERS * REF_TOKENS * REF_TOP_K];
    uint16_t scores[REF_LAYERS * REF_TOKENS * REF_EXPERTS];
    uint16_t predicted[REF_LAYERS * REF_TOKENS * REF_TOP_K];
    uint16_t predicted_weights[REF_LAYERS * REF_TOKENS * REF_TOP_K];
} Laid;

static inline void lay_out_step(const Signalled *it, uint32_t first, uint32_t distance, Laid *laid,
                                TraceStep *step)
{
    const RefTrace *ref = &it->ref;
    size_t routed = 0;
    size_t scored = 0;
    size_t predicted = 0;
    uint32_t tokens = tokens_of(ref, &ref->events[first]);
    for (uint32_t l = 0; l < ref->n_layers; l++) {
        const RefEvent *event = &ref->events[first + l];
        for (uint32_t i = 0; i < event->n_touches; i++, routed++) {
            laid->experts[routed] = event->touches[i];
            laid->weights[routed] =
                f32_from_f16(it->scores[first + l][i / ref->layers[l].top_k][event->touches[i]]);
        }
        for (uint32_t t = 0; t < tokens; t++)
            for (uint32_t e = 0; e < ref->layers[l].experts; e++)
                laid->scores[scored++] = it->scores[first + l][t][e];
        if (distance == 0 || l < distance)
            continue;
        for (uint32_t i = 0; i < event->n_touches; i++, predicted++) {
            laid->predicted[predicted] = it->predicted[first + l - distance][distance - 1][i];
            laid->predicted_weights[predicted] = it->weights[first + l - distance][distance - 1][i];
        }
    }
    *step = (TraceStep){.tokens = tokens,
                        .request = it->request[first],
                        .experts = laid->experts,
                        .weights = laid->weights,
                        .scores = it->has_scores ? laid->scores : NULL,
                        .score_count = it->has_scores ? scored : 0};
}

static inline TraceSignals *signals_of(const Signalled *it, const SignalNeeds *needs)
{
    TraceSignals *signals;
    const RefTrace *ref = &it->ref;
    assert_ok(trace_signals_new(ref->layers, ref->n_layers, needs, 1, &signals));
    for (uint32_t first = 0; first < ref->n_events; first += ref->n_layers) {
        Laid laid;
        TraceStep step;
        lay_out_step(it, first, needs->distance, &laid, &step);
        assert_ok(trace_signals_add_step(signals, "test", &step));
        if (needs->distance > 0)
            assert_ok(trace_signals_add_predictions(signals, "test", &step, 0, laid.predicted,
                                                    laid.predicted_weights));
    }
    return signals;
}

/* In multiples of 2^-24; no number and less than 0 are 0, infinity is the largest. */
static inline double plain_value(uint16_t half)
{
    double value = ldexp((double)f32_from_f16(half), 24);
    if (isnan(value) || value < 0)
        return 0;
    return isinf(value) ? ldexp(65504, 24) : value;
}

#endif
