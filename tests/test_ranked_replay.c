/* Ranks with buffers: each decides as a replay of its own experts would. */
#include "tests/ranked_routing.h"

#include <stdio.h>

#include "base/memory.h"
#include "policies/eviction.h"
#include "sim/ranked_replay.h"
#include "tests/plan_maker.h"
#include "traces/packed_future.h"

/* ---- decisions ---- */

enum { MOST_ACTIONS = STEPS * MOE_LAYERS * EXPERTS * 4 };

typedef struct {
    BufferAction actions[MOST_ACTIONS];
    uint32_t n;
} Log;

static void log_actions(Log *log, const BufferAction *actions, uint32_t n)
{
    assert_true(log->n + n <= MOST_ACTIONS);
    if (n > 0)
        memcpy(log->actions + log->n, actions, n * sizeof *actions);
    log->n += n;
}

typedef struct {
    Log *logs; /* [ranks] */
    uint32_t ranks;
} Logs;

static Status log_ranks(void *argument, const PackedEvent *event, const RankDecision *decided)
{
    const Logs *logs = argument;
    (void)event;
    for (uint32_t rank = 0; rank < logs->ranks; rank++)
        log_actions(&logs->logs[rank], decided[rank].actions, decided[rank].n_actions);
    return OK;
}

static const char *draw_eviction(uint64_t *random)
{
    const char *const *names = eviction_names();
    uint32_t n = 0;
    while (names[n] != NULL)
        n++;
    const char *name = names[random_below(random, n)];
    return eviction_needs_hot(name) || eviction_needs_scores(name) ? "lru" : name;
}

static Plan draw_plan(uint64_t *random)
{
    static const PlacementMethod METHODS[] = {PLACEMENT_CONTIGUOUS, PLACEMENT_ROUND_ROBIN,
                                              PLACEMENT_RANDOM};
    static const ReplayOrder ORDERS[] = {ORDER_SERIAL, ORDER_BATCH, ORDER_STAGED};
    Plan plan = plan_default();
    plan.buffer.on = true;
    plan.buffer.scope = random_below(random, 2) ? SCOPE_LAYER : SCOPE_DEVICE;
    plan.buffer.slots = 1 + random_below(random, plan.buffer.scope == SCOPE_LAYER ? 6 : 14);
    plan.buffer.order = ORDERS[random_below(random, 3)];
    snprintf(plan.buffer.evict, sizeof plan.buffer.evict, "%s", draw_eviction(random));
    if (random_below(random, 2) && !eviction_needs_future(plan.buffer.evict)) {
        static const char *const PREDICTORS[] = {"previous-step", "frequency", "transition"};
        snprintf(plan.prefetch.predictor, sizeof plan.prefetch.predictor, "%s",
                 PREDICTORS[random_below(random, 3)]);
        plan.prefetch.max_inflight = 1 + random_below(random, 4);
    }
    plan.seed = random_next(random);
    plan.placement.ranks = 2 + random_below(random, MOST_RANKS - 1);
    plan.placement.method = METHODS[random_below(random, 3)];
    return plan;
}

/* The experts of RANK by its numbers, and what layers it has: where it has none, with
 * some that nobody asks for. */
static void number_experts(const PlanTable *map, uint32_t rank, uint16_t (*number)[EXPERTS],
                           TraceLayer *layers)
{
    make_layers(layers);
    for (uint32_t i = 0; i < MOE_LAYERS; i++) {
        layers[i].experts = 0;
        for (uint32_t e = 0; e < EXPERTS; e++) {
            const PlanRow on = plan_table_row(map, plan_table_find(map, layers[i].layer), e);
            assert_int_equal(on.n, 1);
            number[i][e] =
                on.values[0] == rank ? (uint16_t)layers[i].experts++ : (uint16_t)EXPERT_DROPPED;
        }
        layers[i].experts = layers[i].experts > 0 ? layers[i].experts : TOP_K;
    }
}

/* All events of PACKED with an expert. */
static void replay_events(const PackedTrace *packed, const Plan *plan, const uint32_t *next_use,
                          Log *log, BufferCounts *sum)
{
    PackedCursor cursor = packed_cursor(packed);
    PackedEvent event;
    ExpertBuffer *buffer;
    assert_ok(buffer_new(plan, packed->layers, packed->n_layers, &buffer));
    while (packed_next(&cursor, &event)) {
        uint16_t touches[EXPERTS];
        uint32_t n_actions;
        BufferAction actions[4 * EXPERTS * MOE_LAYERS];
        const BufferEvent asked = {.layer_index = event.layer_index,
                                   .n = event.n_active,
                                   .experts = event.experts,
                                   .next_use = next_use + event.first_lookup,
                                   .touches = touches};
        if (event.n_active == 0 && !plan_prefetches(plan))
            continue;
        packed_touches(&event, touches);
        assert_true(buffer_max_actions(buffer, EXPERTS) <= sizeof actions / sizeof *actions);
        buffer_event(buffer, &asked, NULL, actions, &n_actions);
        log_actions(log, actions, n_actions);
    }
    for (uint32_t i = 0; i < packed->n_layers; i++) {
        const BufferCounts counts = buffer_counts(buffer, i);
        buffer_counts_add(sum, &counts);
    }
    buffer_free(buffer);
}

static void replay_rank(const Routing *routing, const Plan *plan, const PlanTable *map,
                        uint32_t rank, Log *log, BufferCounts *sum)
{
    uint16_t number[MOE_LAYERS][EXPERTS];
    TraceLayer layers[MOE_LAYERS];
    PackedTrace packed;
    uint32_t *next_use;
    Plan one = *plan;
    one.placement.ranks = 1;
    number_experts(map, rank, number, layers);
    pack(routing, layers, (const uint16_t(*)[EXPERTS])number, &packed);
    assert_ok(packed_next_use(&packed, plan->buffer.order == ORDER_SERIAL, &next_use));
    replay_events(&packed, &one, next_use, log, sum);
    mem_free(next_use);
    packed_trace_free(&packed);
}

static void check_decisions(const Routing *routing, const Plan *plan)
{
    static Log logs[MOST_RANKS];
    static Log wanted;
    TraceLayer layers[MOE_LAYERS];
    PackedTrace packed;
    RankSplit split;
    ReplayFuture future = {0};
    ReplayResult result;
    BufferCounts sum = {0};
    make_layers(layers);
    pack(routing, layers, NULL, &packed);
    for (uint32_t rank = 0; rank < MOST_RANKS; rank++)
        logs[rank].n = 0;
    assert_ok(rank_split_open(plan, layers, MOE_LAYERS, &split));
    assert_ok(replay_prepare(&packed, plan, &future));
    assert_ok(ranked_replay_run(&packed, plan, &future, &split, log_ranks,
                                &(Logs){logs, split.ranks}, &result));
    for (uint32_t rank = 0; rank < split.ranks; rank++) {
        wanted.n = 0;
        replay_rank(routing, plan, split.map, rank, &wanted, &sum);
        assert_int_equal(logs[rank].n, wanted.n);
        for (uint32_t i = 0; i < wanted.n; i++) {
            assert_int_equal(logs[rank].actions[i].kind, wanted.actions[i].kind);
            assert_int_equal(logs[rank].actions[i].layer_index, wanted.actions[i].layer_index);
            assert_int_equal(logs[rank].actions[i].expert, wanted.actions[i].expert);
            assert_int_equal(logs[rank].actions[i].slot, wanted.actions[i].slot);
        }
    }
    assert_memory_equal(&result.total.counts, &sum, sizeof sum);
    assert_int_equal(result.total.assignments, packed.n_assignments);
    replay_result_free(&result);
    replay_future_free(&future);
    rank_split_close(&split);
    packed_trace_free(&packed);
}

static void every_rank_decides_as_a_replay_of_its_experts(void **unused)
{
    (void)unused;
    uint64_t random = 11;
    for (int i = 0; i < 400; i++) {
        Routing routing;
        const Plan plan = draw_plan(&random);
        draw_routing(&random, &routing);
        check_decisions(&routing, &plan);
    }
}
/* ---- placements of one's own ---- */

static void a_rank_without_experts_of_a_layer_decides_without_that_layer(void **unused)
{
    (void)unused;
    static const char *const ORDERS[] = {"serial", "batch", "staged"};
    uint64_t random = 15;
    Routing routing;
    draw_routing(&random, &routing);
    for (const char *const *name = eviction_names(); *name != NULL; name++)
        for (int order = 0; order < 3; order++) {
            if (eviction_needs_hot(*name) || eviction_needs_scores(*name))
                continue;
            char buffer[128];
            snprintf(buffer, sizeof buffer, "{\"slots\": 3, \"evict\": \"%s\", \"order\": \"%s\"}",
                     *name, ORDERS[order]);
            Plan plan = lopsided_plan(buffer);
            check_decisions(&routing, &plan);
            plan.buffer.scope = SCOPE_DEVICE;
            /* Random victims are drawn of the slots that there are, of which staged has more for
             * more experts. */
            if (strcmp(*name, "random") != 0)
                check_decisions(&routing, &plan);
            plan_free(&plan);
        }
}

/* Of a plan under which nothing is looked up. */
static uint64_t memory_of(const char *buffer)
{
    TraceLayer layers[MOE_LAYERS];
    PackedTrace packed;
    ReplayFuture future = {0};
    ReplayResult result;
    Plan plan = lopsided_plan(buffer);
    make_layers(layers);
    assert_ok(packed_trace_new(layers, MOE_LAYERS, &packed));
    assert_ok(replay_prepare(&packed, &plan, &future));
    assert_ok(plan_replay_run(&packed, &plan, &future, &result));
    const uint64_t bytes = result.memory_bytes;
    replay_result_free(&result);
    replay_future_free(&future);
    packed_trace_free(&packed);
    plan_free(&plan);
    return bytes;
}

/* Both ranks have experts of two layers. */
static void memory_is_that_of_the_experts_of_each_rank(void **unused)
{
    (void)unused;
    assert_int_equal(memory_of("null"), 30000);
    assert_int_equal(memory_of("{\"slots\": 3}"), 2 * 2 * 3 * 1000);
    assert_int_equal(memory_of("{\"slots\": 3, \"evict\": \"belady\"}"), 2 * 2 * 4 * 1000);
    assert_int_equal(memory_of("{\"slots\": 10}"), 30000);
    assert_int_equal(memory_of("{\"slots\": 3, \"scope\": \"device\"}"), 2 * 3 * 1000);
    assert_int_equal(memory_of("{\"slots\": 40, \"scope\": \"device\"}"), 30000);
}

/* Few tokens of many experts do not all go to the rank that is named first. */
static void copies_have_tokens_in_turn(void **unused)
{
    (void)unused;
    char text[512] = "{\"moebius_plan\": 1, \"placement\": {\"ranks\": 2, \"method\": \"given\","
                     " \"replicas\": 10, \"map\": {\"1\": [[0, 1]";
    const uint16_t experts[EXPERTS] = {0, 1, 2, 3, 4, 5, 6, 7, 8, 9};
    TraceLayer layers[MOE_LAYERS];
    RankSplit split;
    for (int e = 1; e < EXPERTS; e++)
        strcat(text, ", [0, 1]");
    strcat(text, "]}}}");
    Plan plan = good_plan(text);
    make_layers(layers);
    assert_ok(rank_split_open(&plan, layers, 1, &split));
    for (uint32_t event = 0; event < 4; event++) {
        rank_split_event(&split, 0, EXPERTS, experts, NULL);
        for (uint32_t rank = 0; rank < 2; rank++) {
            assert_int_equal(split.parts[rank].n, EXPERTS / 2);
            for (uint32_t i = 0; i < EXPERTS / 2; i++)
                assert_int_equal(split.parts[rank].experts[i], 2 * i + (event + rank) % 2);
        }
    }
    rank_split_close(&split);
    plan_free(&plan);
}

/* ---- what is not defined ---- */

static void assert_refused(const Plan *plan, const char *why)
{
    assert_int_equal(ranked_replay_check(plan), ERR_PLAN);
    assert_non_null(strstr(error_message(), why));
}

static void what_ranks_do_not_decide_is_refused(void **unused)
{
    (void)unused;
    Plan plan = plan_default();
    plan.buffer.on = true;
    plan.placement.ranks = 2;
    assert_ok(ranked_replay_check(&plan));
    plan.compute.mode = COMPUTE_ON_HOST;
    assert_refused(&plan, "buffers of more than one rank are of plans with compute.mode \"gpu\"");
    plan.compute.mode = COMPUTE_ON_GPU;
    snprintf(plan.buffer.evict, sizeof plan.buffer.evict, "static");
    assert_refused(&plan, "that name no experts");
    snprintf(plan.buffer.evict, sizeof plan.buffer.evict, "belady");
    assert_ok(ranked_replay_check(&plan));
    plan.placement.replicas = 1;
    assert_refused(&plan, "that have no copies of experts, or do not know the future");
    snprintf(plan.buffer.evict, sizeof plan.buffer.evict, "lru");
    snprintf(plan.prefetch.predictor, sizeof plan.prefetch.predictor, "previous-step");
    assert_ok(ranked_replay_check(&plan));
    snprintf(plan.prefetch.predictor, sizeof plan.prefetch.predictor, "oracle:1");
    assert_refused(&plan, "whose predictor does not know the future");
    snprintf(plan.prefetch.predictor, sizeof plan.prefetch.predictor, "frequency");
    plan.prefetch.table.choice = TABLE_TRAINED;
    assert_refused(&plan, "whose predictor learns as the trace goes");
}

static void every_failed_allocation_is_reported_and_leaks_nothing(void **unused)
{
    (void)unused;
    uint64_t random = 13;
    Routing routing;
    TraceLayer layers[MOE_LAYERS];
    PackedTrace packed;
    static Log logs[2];
    Plan plan = plan_default();
    plan.buffer.on = true;
    plan.buffer.slots = 2;
    plan.buffer.order = ORDER_STAGED;
    plan.placement.ranks = 2;
    snprintf(plan.buffer.evict, sizeof plan.buffer.evict, "lru");
    draw_routing(&random, &routing);
    make_layers(layers);
    pack(&routing, layers, NULL, &packed);
    for (FailingAllocation failing = {0}; failing_next(&failing);) {
        const ReplayFuture future = {0};
        RankSplit split;
        ReplayResult result = {0};
        logs[0].n = logs[1].n = 0;
        Status status = rank_split_open(&plan, layers, MOE_LAYERS, &split);
        if (status == OK)
            status = ranked_replay_run(&packed, &plan, &future, &split, log_ranks, &(Logs){logs, 2},
                                       &result);
        failing_end(&failing, status);
        replay_result_free(&result);
        rank_split_close(&split);
    }
    packed_trace_free(&packed);
}

int main(void)
{
    memory_install();
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_rank_decides_as_a_replay_of_its_experts),
        cmocka_unit_test(a_rank_without_experts_of_a_layer_decides_without_that_layer),
        cmocka_unit_test(copies_have_tokens_in_turn),
        cmocka_unit_test(memory_is_that_of_the_experts_of_each_rank),
        cmocka_unit_test(what_ranks_do_not_decide_is_refused),
        cmocka_unit_test(every_failed_allocation_is_reported_and_leaks_nothing),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
