/* Small traces whose routing a test chooses. */
#ifndef TESTS_ROUTED_TRACE_H
#define TESTS_ROUTED_TRACE_H

#include "base/status.h" /* before cmocka, which has a macro called fail */

#include "tests/support.h"
#include "traces/recorder.h"

enum { ROUTED_REQUESTS = 2, ROUTED_IDS = 64 };

typedef struct {
    const TraceRun *run;
    const TraceLayer *layers; /* [n_layers] of one stack */
    uint32_t n_layers;
    uint32_t steps;
    uint32_t requests; /* at most ROUTED_REQUESTS, with a token each in every step */
    Phase first;       /* phase of the first step */
    Phase phase;       /* ... and of the others */
    /* Writes the experts of a step, [n_layers][requests][top_k], at most ROUTED_IDS. */
    void (*route)(uint64_t *random, uint16_t *experts);
    uint64_t random;
} RoutedTrace;

/* Records TRACE to PATH. */
static inline void record_routed(const char *path, const RoutedTrace *trace)
{
    const RecorderOptions options = {.durability = DURABLE_NOT};
    uint64_t random = trace->random;
    Recorder *recorder;
    assert_true(trace->requests <= ROUTED_REQUESTS);
    assert_true(trace->n_layers * trace->requests * trace->layers[0].top_k <= ROUTED_IDS);
    assert_ok(recorder_open(path, trace->run, trace->layers, trace->n_layers, &options, &recorder));
    for (uint32_t i = 0; i < trace->steps; i++) {
        const uint32_t request[ROUTED_REQUESTS] = {0, 1};
        const uint32_t position[ROUTED_REQUESTS] = {i, i};
        uint16_t experts[ROUTED_IDS];
        trace->route(&random, experts);
        const TraceStep step = {.step = i,
                                .phase = i == 0 ? trace->first : trace->phase,
                                .stack = trace->layers[0].stack,
                                .tokens = trace->requests,
                                .request = request,
                                .position = position,
                                .experts = experts};
        assert_ok(recorder_step(recorder, &step, NULL, 0, NULL, 0));
    }
    assert_ok(recorder_close(recorder));
}

#endif
