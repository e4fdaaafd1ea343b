/* How many events a second the simulator's engine handles, on one core. */
#include "cli/bench.h"

#include <stdio.h>

#include "base/clock.h"
#include "sim/engine.h"

enum { ROUNDS = 5, EVENTS = 2000000, LAYER_TASKS = 12, COPIES = 3 };

enum { HOST, COMPUTE, LINK, BENCH_RESOURCES };

/* The tasks of one MoE layer: the host queues what the GPU computes, the link copies beside it, and
 * the last operation waits for both. */
static Status add_layer(Engine *engine, EngineTask *last, uint64_t *n)
{
    EngineTask queued = *last;
    EngineTask copied[COPIES + 1];
    for (uint32_t i = 0; i < COPIES; i++)
        TRY(engine_add(engine, &(EngineSpec){.resource = LINK, .priority = i, .duration_ns = 170},
                       last, 1, &copied[i]));
    for (uint32_t i = COPIES; i + 2 < LAYER_TASKS; i += 2) {
        TRY(engine_add(engine, &(EngineSpec){.resource = HOST, .duration_ns = 4}, &queued, 1,
                       &queued));
        TRY(engine_add(engine, &(EngineSpec){.resource = COMPUTE, .duration_ns = 9}, &queued, 1,
                       &copied[COPIES]));
        *n += 2;
    }
    *n += COPIES + 1;
    return engine_add(engine, &(EngineSpec){.resource = COMPUTE, .duration_ns = 30}, copied,
                      COPIES + 1, last);
}

/* Keeps some layers under way until all events have happened. */
static Status run(Engine *engine, double *events_per_s)
{
    EngineEvent event;
    EngineTask last = 0;
    uint64_t added = 0;
    uint64_t happened = 0;
    uint64_t start_ns = clock_ns();
    while (happened < EVENTS) {
        while (engine_pending(engine) < 48 * LAYER_TASKS)
            TRY(add_layer(engine, &last, &added));
        for (uint32_t i = 0; i < LAYER_TASKS; i++)
            happened += engine_next(engine, &event);
    }
    *events_per_s = 1e9 * (double)happened / (double)(clock_ns() - start_ns);
    return OK;
}

Status bench_engine(const BenchOptions *options, BenchReport *report)
{
    static const EngineResource RESOURCES[BENCH_RESOURCES] = {
        [HOST] = {ENGINE_STREAM, 1}, [COMPUTE] = {ENGINE_STREAM, 1}, [LINK] = {ENGINE_PRIORITY, 1}};
    BenchFigure figure = {.bench = "engine", .unit = "events/s", .wanted = 5e6};
    (void)options;
    snprintf(figure.name, sizeof figure.name, "events of layers with loads, one core");
    for (int i = 0; i < ROUNDS; i++) {
        double rate = 0;
        Engine *engine;
        TRY(engine_new(RESOURCES, BENCH_RESOURCES, &engine));
        Status status = run(engine, &rate);
        engine_free(engine);
        TRY(status);
        figure.value = rate > figure.value ? rate : figure.value;
    }
    return bench_report_add(report, &figure);
}
