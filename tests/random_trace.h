/* Random traces whose every step can be made again from (seed, index), for the tests of the store.
 */
#ifndef TESTS_RANDOM_TRACE_H
#define TESTS_RANDOM_TRACE_H

#include "base/status.h" /* before cmocka, which has a macro called fail */

#include <stdio.h>
#include <string.h>

#include "tests/support.h"
#include "traces/layers.h"
#include "traces/recorder.h"
#include "traces/reader.h"

enum { RANDOM_LAYERS = 6, RANDOM_TOKENS = 48, RANDOM_TOP_K = 8, RANDOM_RECORDS = 12 };
enum { RANDOM_DISTANCES = 3 };
enum { RANDOM_IDS = RANDOM_LAYERS * RANDOM_TOKENS * RANDOM_TOP_K };

/* What all steps of one trace have in common. */
typedef struct {
    uint64_t seed;
    uint32_t n_layers;
    TraceLayer layers[RANDOM_LAYERS];
    uint32_t max_tokens;
    bool weights;
    bool token;
    bool rank;
    bool scores;
    uint32_t distances; /* of predictions */
} RandomTrace;

typedef struct {
    TraceStep step;
    uint32_t request[RANDOM_TOKENS];
    uint32_t position[RANDOM_TOKENS];
    uint32_t token[RANDOM_TOKENS];
    uint8_t rank[RANDOM_TOKENS];
    uint16_t experts[RANDOM_IDS];
    float weights[RANDOM_IDS];
    uint16_t scores[64];
    uint16_t predicted[RANDOM_DISTANCES * RANDOM_IDS];
    float predicted_weights[RANDOM_DISTANCES * RANDOM_IDS];
    ResidencyRecord residency[RANDOM_RECORDS];
    size_t n_residency;
    TimingRecord timing[RANDOM_RECORDS];
    size_t n_timing;
} RandomStep;

static inline RandomTrace random_trace(uint64_t seed)
{
    RandomTrace trace = {.seed = seed};
    uint64_t state = seed * 7919 + 1;
    uint32_t number = random_below(&state, 3);
    bool wide = random_below(&state, 2) == 0;
    trace.n_layers = 1 + random_below(&state, RANDOM_LAYERS);
    uint32_t encoders = random_below(&state, 3) == 0 ? random_below(&state, trace.n_layers) : 0;
    for (uint32_t i = 0; i < trace.n_layers; i++) {
        TraceLayer *layer = &trace.layers[i];
        layer->layer = number;
        number += 1 + random_below(&state, 3);
        snprintf(layer->name, sizeof layer->name, "model.layers.%u", layer->layer);
        layer->stack = i < encoders ? STACK_ENCODER : STACK_DECODER;
        layer->experts = RANDOM_TOP_K + random_below(&state, wide ? 600 : 248);
        layer->top_k = 1 + random_below(&state, RANDOM_TOP_K);
        layer->expert_bytes = random_below(&state, 1u << 20);
        snprintf(layer->gate, sizeof layer->gate, "%s", i % 2 ? "{\"score\":\"softmax\"}" : "");
    }
    trace.max_tokens = 1 + random_below(&state, RANDOM_TOKENS);
    trace.weights = random_below(&state, 4) > 0;
    trace.token = random_below(&state, 2) == 0;
    trace.rank = random_below(&state, 2) == 0;
    trace.scores = random_below(&state, 4) == 0;
    trace.distances = random_below(&state, 2) ? random_below(&state, RANDOM_DISTANCES + 1) : 0;
    return trace;
}

static inline void random_routing(const RandomTrace *trace, StackSpan span, uint64_t *state,
                                  RandomStep *made)
{
    size_t at = 0;
    for (uint32_t i = span.first; i < span.first + span.count; i++)
        for (uint32_t n = 0; n < made->step.tokens * trace->layers[i].top_k; n++, at++) {
            bool dropped = random_below(state, 20) == 0;
            made->experts[at] =
                dropped ? EXPERT_DROPPED : (uint16_t)random_below(state, trace->layers[i].experts);
            made->weights[at] = dropped ? 0.0f : random_float(state);
        }
}

static inline void random_records(const RandomTrace *trace, uint64_t *state, RandomStep *made)
{
    made->n_residency = random_below(state, 3) ? random_below(state, RANDOM_RECORDS) : 0;
    made->n_timing = random_below(state, 3) ? random_below(state, RANDOM_RECORDS) : 0;
    for (size_t i = 0; i < made->n_residency; i++) {
        const TraceLayer *layer = &trace->layers[random_below(state, trace->n_layers)];
        made->residency[i] = (ResidencyRecord){
            .layer = layer->layer,
            .expert = random_below(state, layer->experts),
            .kind = random_below(state, RESIDENCY_KINDS),
            .slot = random_below(state, 9),
            .bytes = random_next(state),
            .start_ns = random_next(state),
        };
    }
    for (size_t i = 0; i < made->n_timing; i++)
        made->timing[i] = (TimingRecord){.op = (uint32_t)i, .start_ns = random_next(state)};
}

/* The layers of SPAN but the first DISTANCE. */
static inline StackSpan random_ahead(const RandomTrace *trace, StackSpan span, uint32_t distance)
{
    StackSpan ahead = {.first = span.first + distance};
    for (uint32_t i = distance; i < span.count; i++, ahead.count++)
        ahead.top_k += trace->layers[span.first + i].top_k;
    return ahead;
}

static inline void random_predictions(const RandomTrace *trace, uint64_t *state, RandomStep *made)
{
    const TraceStep *step = &made->step;
    StackSpan span = layers_span(trace->layers, trace->n_layers, step->stack);
    for (uint32_t d = 1; d <= step->n_distances; d++) {
        StackSpan ahead = random_ahead(trace, span, d);
        size_t at = (d - 1) * step->tokens * span.top_k;
        for (uint32_t i = ahead.first; i < ahead.first + ahead.count; i++)
            for (uint32_t n = 0; n < step->tokens * trace->layers[i].top_k; n++, at++) {
                made->predicted[at] = (uint16_t)random_below(state, trace->layers[i].experts);
                made->predicted_weights[at] = random_float(state);
            }
    }
}

/* Step INDEX of TRACE, always the same. */
static inline void random_step(const RandomTrace *trace, uint32_t index, RandomStep *made)
{
    uint64_t state = trace->seed * 1000003 + index;
    StackSpan encoder = layers_span(trace->layers, trace->n_layers, STACK_ENCODER);
    static const Phase phases[] = {PHASE_PREFILL, PHASE_DECODE, PHASE_MIXED};
    bool encode = encoder.count > 0 && random_below(&state, 3) == 0;
    TraceStep *step = &made->step;
    *step = (TraceStep){
        .step = 2 * index + (uint32_t)(trace->seed % 3),
        .phase = encode ? PHASE_ENCODE : phases[random_below(&state, 3)],
        .stack = encode ? STACK_ENCODER : STACK_DECODER,
        .start_ns = random_next(&state) >> 1,
        .duration_ns = random_below(&state, 1000000),
        .tokens = 1 + random_below(&state, trace->max_tokens),
        .request = made->request,
        .position = made->position,
        .token = trace->token ? made->token : NULL,
        .rank = trace->rank ? made->rank : NULL,
        .experts = made->experts,
        .weights = trace->weights ? made->weights : NULL,
        .scores = trace->scores ? made->scores : NULL,
        .score_count = trace->scores ? 64 : 0,
        .n_distances = trace->distances,
        .predicted = made->predicted,
        .predicted_weights = made->predicted_weights,
    };
    for (uint32_t i = 0; i < step->tokens; i++) {
        made->request[i] = random_below(&state, 5);
        made->position[i] = (uint32_t)random_next(&state);
        made->token[i] = (uint32_t)random_next(&state);
        made->rank[i] = (uint8_t)random_below(&state, 4);
    }
    for (size_t i = 0; i < 64; i++)
        made->scores[i] = (uint16_t)random_next(&state);
    random_routing(trace, layers_span(trace->layers, trace->n_layers, step->stack), &state, made);
    random_records(trace, &state, made);
    random_predictions(trace, &state, made);
}

static inline size_t random_step_ids(const RandomTrace *trace, const TraceStep *step)
{
    return step->tokens * layers_span(trace->layers, trace->n_layers, step->stack).top_k;
}

static inline Status record_random_step(Recorder *recorder, const RandomStep *made)
{
    return recorder_step(recorder, &made->step, made->residency, made->n_residency, made->timing,
                         made->n_timing);
}

/* Records steps 0 to STEPS - 1 and two requests. */
static inline Status record_random(const char *path, const RandomTrace *trace, uint32_t steps,
                                   const RecorderOptions *options)
{
    const TraceRun run = {.tool = "test", .model = "random", .notes = "{\"seed\":1}"};
    Recorder *recorder;
    TRY(recorder_open(path, &run, trace->layers, trace->n_layers, options, &recorder));
    Status status = OK;
    for (uint32_t i = 0; i < 3 && status == OK; i++)
        status = recorder_request(recorder, &(TraceRequest){.request = i % 2,
                                                            .label = "a",
                                                            .arrival_ns = i,
                                                            .prompt_tokens = 7,
                                                            .output_tokens = i});
    for (uint32_t i = 0; i < steps && status == OK; i++) {
        RandomStep made;
        random_step(trace, i, &made);
        status = record_random_step(recorder, &made);
    }
    if (status == OK)
        return recorder_close(recorder);
    recorder_abandon(recorder);
    return status;
}

static inline void assert_same_step(const RandomTrace *trace, const RandomStep *made,
                                    const TraceStep *read)
{
    const TraceStep *step = &made->step;
    size_t words = 4 * (size_t)step->tokens;
    size_t ids = random_step_ids(trace, step);
    assert_int_equal(read->step, step->step);
    assert_int_equal(read->phase, step->phase);
    assert_int_equal(read->stack, step->stack);
    assert_true(read->start_ns == step->start_ns && read->duration_ns == step->duration_ns);
    assert_int_equal(read->tokens, step->tokens);
    assert_memory_equal(read->request, step->request, words);
    assert_memory_equal(read->position, step->position, words);
    assert_int_equal(read->token == NULL, step->token == NULL);
    if (step->token != NULL)
        assert_memory_equal(read->token, step->token, words);
    assert_int_equal(read->rank == NULL, step->rank == NULL);
    if (step->rank != NULL)
        assert_memory_equal(read->rank, step->rank, step->tokens);
    assert_memory_equal(read->experts, step->experts, 2 * ids);
    assert_int_equal(read->weights == NULL, step->weights == NULL);
    for (size_t i = 0; step->weights != NULL && i < ids; i++)
        assert_true(read->weights[i] == f32_from_f16(f16_from_f32(step->weights[i])));
    assert_int_equal(read->score_count, step->score_count);
    if (step->scores != NULL)
        assert_memory_equal(read->scores, step->scores, 2 * step->score_count);
}

static inline void assert_same_records(TraceReader *reader, const RandomStep *made)
{
    const ResidencyRecord *residency;
    const TimingRecord *timing;
    size_t count;
    assert_ok(trace_reader_residency(reader, made->step.step, 0, &residency, &count));
    assert_int_equal(count, made->n_residency);
    if (count > 0)
        assert_memory_equal(residency, made->residency, count * sizeof *residency);
    assert_ok(trace_reader_timing(reader, made->step.step, 0, &timing, &count));
    assert_int_equal(count, made->n_timing);
    if (count > 0)
        assert_memory_equal(timing, made->timing, count * sizeof *timing);
}

static inline void assert_same_predictions(TraceReader *reader, const RandomTrace *trace,
                                           const RandomStep *made)
{
    const TraceStep *step = &made->step;
    StackSpan span = layers_span(trace->layers, trace->n_layers, step->stack);
    for (uint32_t d = 1; d <= RANDOM_DISTANCES + 1; d++) {
        const uint16_t *experts;
        const uint16_t *scores;
        size_t ids = step->tokens * random_ahead(trace, span, d).top_k;
        size_t first = (d - 1) * step->tokens * span.top_k;
        assert_ok(trace_reader_prediction(reader, d, &experts, &scores));
        assert_int_equal(experts != NULL, d <= step->n_distances && d < span.count);
        if (experts == NULL)
            continue;
        assert_memory_equal(experts, step->predicted + first, 2 * ids);
        for (size_t i = 0; i < ids; i++)
            assert_int_equal(scores[i], f16_from_f32(step->predicted_weights[first + i]));
    }
}

/* The file at PATH holds exactly steps 0 to n - 1, n at least LEAST; returns n. */
static inline uint32_t assert_reads_back(const char *path, const RandomTrace *trace, uint32_t least)
{
    TraceReader *reader;
    assert_ok(trace_reader_open(path, &reader));
    uint32_t n = 0;
    for (;;) {
        TraceStep step;
        RandomStep made;
        Status status = trace_reader_next_step(reader, &step);
        if (status == STATUS_END)
            break;
        assert_ok(status);
        random_step(trace, n++, &made);
        assert_same_step(trace, &made, &step);
        assert_same_records(reader, &made);
        assert_same_predictions(reader, trace, &made);
    }
    assert_true(n == trace_reader_steps(reader));
    assert_true(n >= least);
    trace_reader_close(reader);
    return n;
}

#endif
