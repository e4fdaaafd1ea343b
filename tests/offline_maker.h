/* A small trace and a study, and what the program says of them. */
#ifndef TESTS_OFFLINE_MAKER_H
#define TESTS_OFFLINE_MAKER_H

#include "base/status.h" /* before cmocka, which has a macro called fail */

#include <stdio.h>
#include <string.h>

#include "base/files.h"
#include "tests/cli_run.h"
#include "traces/recorder.h"

enum { LAYERS = 2, EXPERTS = 8, TOP_K = 2, STEPS = 40, MAX_ARGUMENTS = 16 };

static char trace_path[256];
static char study_path[256];

static inline CliRun run_list(const char *const *arguments)
{
    CliRun run;
    cli_run(arguments, &run);
    return run;
}

#define RUN_OF(...) run_list((const char *const[]){__VA_ARGS__, NULL})

static inline void record_steps(Recorder *recorder)
{
    uint64_t state = 5;
    for (uint32_t i = 0; i < STEPS; i++) {
        uint32_t tokens = i == 0 ? 4 : 1;
        uint32_t request[4] = {0};
        uint32_t position[4] = {0};
        uint16_t experts[LAYERS * 4 * TOP_K];
        for (uint32_t j = 0; j < tokens; j++)
            position[j] = i == 0 ? j : 3 + i;
        for (uint32_t j = 0; j < LAYERS * tokens; j++) {
            experts[TOP_K * j] = (uint16_t)random_below(&state, EXPERTS);
            experts[TOP_K * j + 1] =
                (uint16_t)((experts[TOP_K * j] + 1 + random_below(&state, EXPERTS - 1)) % EXPERTS);
        }
        TraceStep step = {.step = i,
                          .phase = i == 0 ? PHASE_PREFILL : PHASE_DECODE,
                          .tokens = tokens,
                          .request = request,
                          .position = position,
                          .experts = experts};
        assert_ok(recorder_step(recorder, &step, NULL, 0, NULL, 0));
    }
}

static inline void record_trace(const char *path)
{
    const TraceRun run = {
        .tool = "test", .source = "made up", .model = "small\x1b[31m", .device = "none"};
    const TraceRequest request = {.request = 0, .label = "only", .prompt_tokens = 4};
    TraceLayer layers[LAYERS];
    Recorder *recorder;
    memset(layers, 0, sizeof layers);
    for (uint32_t i = 0; i < LAYERS; i++) {
        layers[i].layer = i;
        layers[i].experts = EXPERTS;
        layers[i].top_k = TOP_K;
        layers[i].d_model = 16;
        layers[i].d_ff = 32;
        layers[i].expert_bytes = 3 * 16 * 32 * 2;
        snprintf(layers[i].name, sizeof layers[i].name, "model.layers.%u.mlp", i);
    }
    assert_ok(recorder_open(path, &run, layers, LAYERS, NULL, &recorder));
    assert_ok(recorder_request(recorder, &request));
    record_steps(recorder);
    assert_ok(recorder_close(recorder));
}

static inline int make_files(void **unused)
{
    (void)unused;
    snprintf(trace_path, sizeof trace_path, "%s", scratch_path("trace.db"));
    snprintf(study_path, sizeof study_path, "%s", scratch_path("study.json"));
    record_trace(trace_path);
    static const char study[] =
        "{\"moebius_study\": 1, \"name\": \"small\", \"grid\": {\"buffer.evict\": [\"lru\","
        " \"lifo-inactive-first\"], \"buffer.slots\": [2, 4, 8]}}";
    assert_ok(file_write_all(study_path, study, strlen(study)));
    return 0;
}

#endif
