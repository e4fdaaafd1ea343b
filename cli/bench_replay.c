#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "base/memory.h"
#include "cli/bench.h"
#include "cli/bench_trace.h"
#include "sim/curve.h"
#include "sim/sweep_learn.h"

enum { ROUNDS = 3, LOOKUPS = 20000000, ENOUGH_NS = 1000000000 };

/* Lookups a second that are asked for. */
static double wanted_rate(const char *evict)
{
    static const struct {
        const char *evict;
        double rate;
    } asked[] = {
        {"fifo", 150e6},  {"lifo", 150e6},        {"lifo-inactive-first", 150e6},
        {"lru", 150e6},   {"mru", 150e6},         {"clock", 150e6},
        {"sieve", 150e6}, {"lfu", 40e6},          {"lfu-resident", 40e6},
        {"belady", 40e6}, {"belady-admit", 40e6},
    };
    for (size_t i = 0; i < sizeof asked / sizeof asked[0]; i++)
        if (strcmp(asked[i].evict, evict) == 0)
            return asked[i].rate;
    return 60e6;
}

static Status add_figure(const BenchShape *shape, const Plan *plan, const BufferCounts *counts,
                         uint64_t best_ns, BenchReport *report)
{
    uint64_t lookups = counts->hits + counts->misses;
    BenchFigure figure = {.bench = "replay",
                          .value = (double)lookups * 1e9 / (double)best_ns,
                          .unit = "lookups/s",
                          .wanted = wanted_rate(plan->buffer.evict)};
    snprintf(figure.name, sizeof figure.name, "%s, %s, %s, %" PRIu32 "/%s, miss ratio %.4f",
             shape->name, plan->buffer.evict, plan_order_name(plan->buffer.order),
             plan->buffer.slots, plan_scope_name(plan->buffer.scope),
             (double)counts->misses / (double)lookups);
    return bench_report_add(report, &figure);
}

/* The best of ROUNDS, or of as many as begin within ENOUGH_NS: policies that look at every slot are
 * slow, and a second does to say so. */
static Status measure(const PackedTrace *trace, const BenchShape *shape, const Plan *plan,
                      ReplayFuture *future, BenchReport *report)
{
    BufferCounts counts = {0};
    uint64_t best_ns = UINT64_MAX;
    TRY(replay_prepare(trace, plan, future));
    uint64_t spent_ns = 0;
    for (int round = 0; round < ROUNDS && spent_ns < ENOUGH_NS; round++) {
        ReplayResult result;
        TRY(replay_run(trace, plan, future, NULL, NULL, &result));
        counts = result.total.counts;
        spent_ns += result.replay_ns;
        best_ns = result.replay_ns < best_ns ? result.replay_ns : best_ns;
        replay_result_free(&result);
    }
    return add_figure(shape, plan, &counts, best_ns, report);
}

/* A quarter of the experts has a slot. */
static Plan bench_plan(const BenchShape *shape, const char *evict, ReplayOrder order,
                       BufferScopeKind scope)
{
    Plan plan = plan_default();
    uint32_t layers = scope == SCOPE_DEVICE ? shape->layers : 1;
    plan.buffer.on = true;
    plan.buffer.order = order;
    plan.buffer.scope = scope;
    plan.buffer.slots = layers * shape->experts / 4;
    snprintf(plan.buffer.evict, sizeof plan.buffer.evict, "%s", evict);
    if (eviction_needs_hot(evict))
        plan.buffer.hot.choice = HOT_HOTTEST;
    return plan;
}

/* The exact curve of all sizes of a scope. */
static Status measure_curve(const PackedTrace *trace, const BenchShape *shape,
                            BufferScopeKind scope, BenchReport *report)
{
    const Plan plan = bench_plan(shape, "lru", ORDER_SERIAL, scope);
    const ReplayFuture none = {0};
    uint64_t best_ns = UINT64_MAX;
    uint32_t sizes = 0;
    for (int round = 0; round < ROUNDS; round++) {
        MissCurve curve;
        TRY(curve_run(trace, &plan, &none, &curve));
        best_ns = curve.pass_ns < best_ns ? curve.pass_ns : best_ns;
        sizes = curve.n_sizes;
        curve_free(&curve);
    }
    BenchFigure figure = {.bench = "replay",
                          .value = (double)trace->n_lookups * 1e9 / (double)best_ns,
                          .unit = "lookups/s",
                          .wanted = 25e6};
    snprintf(figure.name, sizeof figure.name, "%s, lru, serial, curve of %" PRIu32 " sizes/%s",
             shape->name, sizes, plan_scope_name(scope));
    return bench_report_add(report, &figure);
}

static Status measure_policies(const PackedTrace *trace, const BenchShape *shape,
                               BenchReport *report)
{
    static const struct {
        ReplayOrder order;
        BufferScopeKind scope;
    } kinds[] = {
        {ORDER_BATCH, SCOPE_LAYER}, {ORDER_SERIAL, SCOPE_LAYER}, {ORDER_SERIAL, SCOPE_DEVICE}};
    const TraceParts all = {.trains = true, .train = {0, trace->n_steps}};
    ReplayFuture future = {0};
    Status status = OK;
    for (const char *const *name = eviction_names(); *name != NULL; name++)
        for (size_t i = 0; i < sizeof kinds / sizeof kinds[0] && status == OK; i++) {
            if (eviction_needs_scores(*name)) /* the random trace has none */
                continue;
            Plan plan = bench_plan(shape, *name, kinds[i].order, kinds[i].scope);
            Plan learnt;
            status = learn_plan(trace, NULL, &all, &plan, &learnt);
            if (status == OK)
                status = measure(trace, shape, &learnt, &future, report);
            if (status == OK)
                plan_free(&learnt);
        }
    replay_future_free(&future);
    return status;
}

Status bench_replay(const BenchOptions *options, BenchReport *report)
{
    (void)options; /* it runs no model */
    for (size_t i = 0; i < BENCH_SHAPES; i++) {
        const BenchShape *shape = &BENCH_SHAPE[i];
        PackedTrace trace;
        TRY(bench_trace_make(shape, LOOKUPS, &trace));
        Status status = measure_policies(&trace, shape, report);
        for (int scope = SCOPE_LAYER; scope <= SCOPE_DEVICE && status == OK; scope++)
            status = measure_curve(&trace, shape, (BufferScopeKind)scope, report);
        packed_trace_free(&trace);
        TRY(status);
    }
    return OK;
}
