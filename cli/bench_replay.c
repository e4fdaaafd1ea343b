#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "base/memory.h"
#include "cli/bench.h"
#include "cli/print.h"
#include "cli/table.h"
#include "sim/replay.h"

enum { TOP_K = 8, MAX_LAYERS = 64, MAX_EXPERTS = 256, ROUNDS = 3, LOOKUPS = 20000000 };

/* The shape of one made-up trace. */
typedef struct {
    const char *name;
    uint32_t layers;
    uint32_t experts;
} BenchShape;

static const BenchShape SHAPES[] = {{"24x128 top-8", 24, 128}, {"58x256 top-8", 58, 256}};

/* Zipf with exponent 0.8 over a ranking of each layer's own; an expert of the step before is kept
 * with probability 0.5. */
typedef struct {
    const BenchShape *shape;
    double cumulative[MAX_EXPERTS];
    uint16_t ranking[MAX_LAYERS][MAX_EXPERTS];
    uint16_t chosen[MAX_LAYERS * TOP_K]; /* of the step before */
    uint64_t random;
} Router;

static uint64_t draw(Router *router)
{
    uint64_t z = router->random += 0x9E3779B97F4A7C15u;
    z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9u;
    z = (z ^ (z >> 27)) * 0x94D049BB133111EBu;
    return z ^ (z >> 31);
}

static double draw_unit(Router *router)
{
    return (double)(draw(router) >> 11) / 9007199254740992.0;
}

static void router_start(Router *router, const BenchShape *shape)
{
    double sum = 0;
    *router = (Router){.shape = shape, .random = 1};
    for (uint32_t e = 0; e < shape->experts; e++)
        router->cumulative[e] = sum += pow(e + 1, -0.8);
    for (uint32_t e = 0; e < shape->experts; e++)
        router->cumulative[e] /= sum;
    for (uint32_t l = 0; l < shape->layers; l++) {
        for (uint32_t e = 0; e < shape->experts; e++) {
            uint32_t other = (uint32_t)(draw(router) % (e + 1));
            router->ranking[l][e] = router->ranking[l][other];
            router->ranking[l][other] = (uint16_t)e;
        }
        memcpy(&router->chosen[l * TOP_K], router->ranking[l], TOP_K * sizeof(uint16_t));
    }
}

static uint16_t draw_expert(Router *router, uint32_t layer)
{
    double at = draw_unit(router);
    uint32_t low = 0;
    uint32_t high = router->shape->experts - 1;
    while (low < high) {
        uint32_t middle = (low + high) / 2;
        if (router->cumulative[middle] < at)
            low = middle + 1;
        else
            high = middle;
    }
    return router->ranking[layer][low];
}

static bool is_among(const uint16_t *experts, uint32_t n, uint16_t expert)
{
    for (uint32_t i = 0; i < n; i++)
        if (experts[i] == expert)
            return true;
    return false;
}

static void route_layer(Router *router, uint32_t layer)
{
    uint16_t *chosen = &router->chosen[layer * TOP_K];
    uint16_t next[TOP_K];
    uint32_t n = 0;
    for (uint32_t i = 0; i < TOP_K; i++)
        if (draw(router) >> 63)
            next[n++] = chosen[i];
    while (n < TOP_K) {
        uint16_t expert = draw_expert(router, layer);
        if (!is_among(next, n, expert))
            next[n++] = expert;
    }
    memcpy(chosen, next, sizeof next);
}

static Status add_steps(Router *router, PackedTrace *trace)
{
    const uint32_t zero = 0;
    for (uint32_t step = 0; trace->n_lookups < LOOKUPS; step++) {
        for (uint32_t l = 0; l < router->shape->layers; l++)
            route_layer(router, l);
        const TraceStep made = {.step = step,
                                .phase = PHASE_DECODE,
                                .tokens = 1,
                                .request = &zero,
                                .position = &step,
                                .experts = router->chosen};
        TRY(packed_trace_add_step(trace, &made));
    }
    return OK;
}

static Status make_trace(const BenchShape *shape, PackedTrace *trace)
{
    Router *router;
    TraceLayer layers[MAX_LAYERS] = {0};
    for (uint32_t i = 0; i < shape->layers; i++) {
        layers[i].layer = i;
        layers[i].experts = shape->experts;
        layers[i].top_k = TOP_K;
        layers[i].expert_bytes = 1;
    }
    TRY(mem_new(&router, 1, sizeof *router, "bench"));
    router_start(router, shape);
    Status status = packed_trace_new(layers, shape->layers, trace);
    if (status == OK) {
        status = add_steps(router, trace);
        if (status != OK)
            packed_trace_free(trace);
    }
    mem_free(router);
    return status;
}

/* Where results go: the table or the JSON list. */
typedef struct {
    Table *table;
    cJSON *list;
} Sink;

typedef struct {
    const BenchShape *shape;
    const Plan *plan;
    uint64_t lookups;
    uint64_t misses;
    uint64_t best_ns;
} Figure;

static const char *order_name(const Plan *plan)
{
    return plan->buffer.order == ORDER_SERIAL ? "serial" : "batch";
}

static const char *scope_name(const Plan *plan)
{
    return plan->buffer.scope == SCOPE_LAYER ? "layer" : "device";
}

static Status add_json(cJSON *list, const Figure *figure)
{
    cJSON *item = cJSON_CreateObject();
    TRY(json_push(list, item));
    TRY(json_add_text(item, "trace", figure->shape->name));
    TRY(json_add_text(item, "evict", figure->plan->buffer.evict));
    TRY(json_add_text(item, "order", order_name(figure->plan)));
    TRY(json_add_text(item, "scope", scope_name(figure->plan)));
    TRY(json_add_u64(item, "slots", figure->plan->buffer.slots));
    TRY(json_add_u64(item, "lookups", figure->lookups));
    TRY(json_add_u64(item, "misses", figure->misses));
    TRY(json_add_u64(item, "replay_ns", figure->best_ns));
    return json_add_f64(item, "lookups_per_s",
                        (double)figure->lookups * 1e9 / (double)figure->best_ns);
}

static void add_row(Table *table, const Figure *figure)
{
    char text[NUMBER_BYTES];
    table_cell(table, "%s", figure->shape->name);
    table_cell(table, "%s", figure->plan->buffer.evict);
    table_cell(table, "%s", order_name(figure->plan));
    table_cell(table, "%" PRIu32 "/%s", figure->plan->buffer.slots, scope_name(figure->plan));
    table_cell(table, "%s", ratio_text(figure->misses, figure->lookups, text));
    table_cell(table, "%.1f", (double)figure->lookups * 1e3 / (double)figure->best_ns);
}

static Status measure(const PackedTrace *trace, const BenchShape *shape, const Plan *plan,
                      ReplayFuture *future, const Sink *sink)
{
    Figure figure = {.shape = shape, .plan = plan, .lookups = trace->n_lookups};
    TRY(replay_prepare(trace, plan, future));
    for (int round = 0; round < ROUNDS; round++) {
        ReplayResult result;
        TRY(replay_run(trace, plan, future, NULL, NULL, &result));
        figure.misses = result.total.counts.misses;
        if (round == 0 || result.replay_ns < figure.best_ns)
            figure.best_ns = result.replay_ns;
        replay_result_free(&result);
    }
    if (sink->list != NULL)
        return add_json(sink->list, &figure);
    add_row(sink->table, &figure);
    return OK;
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
    return plan;
}

static Status measure_policies(const PackedTrace *trace, const BenchShape *shape, const Sink *sink)
{
    static const struct {
        ReplayOrder order;
        BufferScopeKind scope;
    } kinds[] = {
        {ORDER_BATCH, SCOPE_LAYER}, {ORDER_SERIAL, SCOPE_LAYER}, {ORDER_SERIAL, SCOPE_DEVICE}};
    ReplayFuture future = {0};
    Status status = OK;
    for (const char *const *name = eviction_names(); *name != NULL; name++)
        for (size_t i = 0; i < sizeof kinds / sizeof kinds[0] && status == OK; i++) {
            Plan plan = bench_plan(shape, *name, kinds[i].order, kinds[i].scope);
            status = measure(trace, shape, &plan, &future, sink);
        }
    replay_future_free(&future);
    return status;
}

static Status measure_shapes(const Sink *sink)
{
    for (size_t i = 0; i < sizeof SHAPES / sizeof SHAPES[0]; i++) {
        PackedTrace trace;
        TRY(make_trace(&SHAPES[i], &trace));
        Status status = measure_policies(&trace, &SHAPES[i], sink);
        packed_trace_free(&trace);
        TRY(status);
    }
    return OK;
}

static Status bench_json(void)
{
    Sink sink = {0};
    cJSON *json = cJSON_CreateObject();
    Status status = json != NULL ? OK : fail_memory("JSON output", 0);
    if (status == OK)
        status = json_add_array(json, "replay", &sink.list);
    if (status == OK)
        status = measure_shapes(&sink);
    if (status == OK)
        status = print_json(json);
    cJSON_Delete(json);
    return status;
}

static Status bench_table(void)
{
    static const char *const TITLES[] = {"trace",      "policy",      "order", "slots",
                                         "miss ratio", "M lookups/s", NULL};
    Sink sink = {0};
    TRY(table_new(TITLES, "lllrrr", &sink.table));
    Status status = measure_shapes(&sink);
    if (status == OK)
        status = table_print(sink.table, stdout);
    table_free(sink.table);
    return status;
}

Status bench_replay(bool json)
{
    return json ? bench_json() : bench_table();
}
