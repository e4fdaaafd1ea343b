/* Ranks with buffers: each decides as a replay of its own experts would, and where all that is
 * asked for lies on one rank, it takes as long as a machine with those experts alone. */
#include "tests/timing_machine.h"

#include "sim/ranked_replay.h"
#include "sim/timed_replay.h"
#include "traces/packed_future.h"

enum { STEPS = 40, MOST_TOKENS = 6, TOP_K = 2, MOST_RANKS = 4 };

static void draw_experts(uint64_t *random, uint16_t *experts)
{
    uint32_t among = random_below(random, 2) ? EXPERTS : 4;
    experts[0] = (uint16_t)random_below(random, among);
    experts[1] = (uint16_t)((experts[0] + 1 + random_below(random, among - 1)) % among);
}

typedef struct {
    uint32_t tokens[STEPS];
    uint16_t experts[STEPS][MOE_LAYERS * MOST_TOKENS * TOP_K];
} Routing;

static void draw_routing(uint64_t *random, Routing *routing)
{
    for (uint32_t i = 0; i < STEPS; i++) {
        routing->tokens[i] = random_below(random, 3) ? 1 : 1 + random_below(random, MOST_TOKENS);
        for (uint32_t j = 0; j < MOE_LAYERS * routing->tokens[i]; j++)
            draw_experts(random, routing->experts[i] + j * TOP_K);
    }
}

/* NUMBER[MOE_LAYERS][EXPERTS] are other names for the experts, EXPERT_DROPPED for those that are
 * left out; NULL: the same. */
static void pack(const Routing *routing, const TraceLayer *layers,
                 const uint16_t (*number)[EXPERTS], PackedTrace *packed)
{
    static const uint32_t SAME[MOST_TOKENS] = {0};
    assert_ok(packed_trace_new(layers, MOE_LAYERS, packed));
    for (uint32_t i = 0; i < STEPS; i++) {
        uint16_t experts[MOE_LAYERS * MOST_TOKENS * TOP_K];
        uint32_t each = routing->tokens[i] * TOP_K;
        for (uint32_t j = 0; j < MOE_LAYERS * each; j++)
            experts[j] =
                number != NULL ? number[j / each][routing->experts[i][j]] : routing->experts[i][j];
        const TraceStep step = {.step = i,
                                .phase = PHASE_DECODE,
                                .tokens = routing->tokens[i],
                                .request = SAME,
                                .position = SAME,
                                .experts = experts};
        assert_ok(packed_trace_add_step(packed, &step));
    }
}

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

/* The experts of RANK by its numbers, and what layers it has. */
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

/* ---- time ---- */

static void set_table(Hardware *hardware, const char *name, double ns)
{
    CostTable *table = (CostTable *)hardware_table(hardware, name, "");
    assert_non_null(table);
    table->value[0] = ns;
}

static void add_exchanges(Hardware *hardware, double ns)
{
    char shape[160];
    CostTable *table;
    hardware_ranks_shape(2, 2, shape);
    assert_ok(hardware_add_table(hardware, "all-to-all", shape, UNIT_NS, NULL, 0, &table));
    assert_ok(cost_table_put(table, (const double[1]){0}, ns, 0));
}

static Timing *open_timing(Hardware *hardware, const Plan *plan, TraceLayer *layers, bool records)
{
    Timing *timing;
    for (uint32_t i = 0; i < MOE_LAYERS; i++)
        layers[i].d_model = 64;
    assert_ok(timing_new(&(TimingOptions){.hardware = hardware,
                                          .model = "model",
                                          .plan = plan,
                                          .layers = layers,
                                          .n_layers = MOE_LAYERS,
                                          .logits = true,
                                          .records = records},
                         &timing));
    return timing;
}

typedef struct {
    StepTime steps[STEPS];
    uint32_t n;
} Steps;

static Status note_step(void *argument, const StepFeatures *features, const StepTime *step)
{
    Steps *steps = argument;
    (void)features;
    steps->steps[steps->n++] = *step;
    return OK;
}

/* One request, whose tokens come one by one or several at a time. */
static void make_features(const Routing *routing, StepFeatures *steps)
{
    uint64_t context = 0;
    for (uint32_t i = 0; i < STEPS; i++) {
        uint32_t tokens = routing->tokens[i];
        steps[i] = (StepFeatures){.step = i,
                                  .phase = PHASE_DECODE,
                                  .tokens = tokens,
                                  .requests = 1,
                                  .most_keys = (uint32_t)context + tokens};
        steps[i].groups[tokens == 1 ? SPANS_ONE : SPANS_SEVERAL] =
            (SpanGroup){.requests = 1, .tokens = tokens, .context = context};
        context += tokens;
    }
}

static TimingTotals play(const Routing *routing, const Plan *plan, Timing *timing,
                         const PackedTrace *packed, Steps *steps)
{
    StepFeatures features[STEPS];
    const TraceFeatures all = {.steps = features, .n_steps = STEPS};
    ReplayFuture future = {0};
    ReplayResult result;
    steps->n = 0;
    make_features(routing, features);
    assert_ok(replay_prepare(packed, plan, &future));
    assert_ok(timed_replay(packed, &future, timing, &all, 0, plan, note_step, steps, &result));
    replay_result_free(&result);
    replay_future_free(&future);
    return timing_totals(timing);
}

/* The even experts, which are those of rank 0 of two. */
static void keep_even(Routing *routing)
{
    for (uint32_t i = 0; i < STEPS; i++)
        for (uint32_t j = 0; j < MOE_LAYERS * routing->tokens[i] * TOP_K; j += 2) {
            uint16_t *experts = routing->experts[i] + j;
            experts[0] -= experts[0] % 2;
            experts[1] -= experts[1] % 2;
            if (experts[0] == experts[1])
                experts[1] = (uint16_t)((experts[0] + 2) % EXPERTS);
        }
}

static void check_alone(Hardware *hardware, const Routing *routing, const Plan *plan)
{
    static Steps together;
    static Steps alone;
    uint16_t number[MOE_LAYERS][EXPERTS];
    TraceLayer layers[MOE_LAYERS];
    TraceLayer half[MOE_LAYERS];
    PackedTrace packed[2];
    Plan one = *plan;
    one.placement.ranks = 1;
    make_layers(layers);
    make_layers(half);
    for (uint32_t i = 0; i < MOE_LAYERS; i++) {
        half[i].experts = EXPERTS / 2;
        for (uint16_t e = 0; e < EXPERTS; e++)
            number[i][e] = e / 2;
    }
    pack(routing, layers, NULL, &packed[0]);
    pack(routing, half, (const uint16_t(*)[EXPERTS])number, &packed[1]);
    Timing *ranks = open_timing(hardware, plan, layers, false);
    Timing *machine = open_timing(hardware, &one, half, false);
    const TimingTotals totals = play(routing, plan, ranks, &packed[0], &together);
    play(routing, &one, machine, &packed[1], &alone);
    for (uint32_t i = 0; i < STEPS; i++) {
        assert_int_equal(together.steps[i].duration_ns, alone.steps[i].duration_ns);
        assert_int_equal(together.steps[i].exposed_load_ns, alone.steps[i].exposed_load_ns);
        assert_int_equal(together.steps[i].loads, alone.steps[i].loads);
        assert_int_equal(together.steps[i].bytes_loaded, alone.steps[i].bytes_loaded);
        assert_int_equal(together.steps[i].load_ns, alone.steps[i].load_ns);
    }
    assert_int_equal(totals.of_ranks[1].compute_ns, 0);
    assert_int_equal(totals.of_ranks[0].loads, totals.total.loads);
    timing_free(ranks);
    timing_free(machine);
    packed_trace_free(&packed[0]);
    packed_trace_free(&packed[1]);
}

static void a_rank_that_has_all_is_as_fast_as_a_machine_of_its_experts(void **unused)
{
    (void)unused;
    uint64_t random = 12;
    for (int i = 0; i < 200; i++) {
        Routing routing;
        Hardware hardware;
        Plan plan = random_plan(&random);
        make_machine(&random, random_below(&random, 2) ? 4096 : 1 << 20, &hardware);
        add_exchanges(&hardware, 0);
        set_table(&hardware, "lag", 0);
        draw_routing(&random, &routing);
        keep_even(&routing);
        plan.placement.ranks = 2;
        plan.placement.method = PLACEMENT_ROUND_ROBIN;
        check_alone(&hardware, &routing, &plan);
        hardware_free(&hardware);
    }
}

/* Rank 0 has the even experts, by their ids, and rank 1 the others. */
static Status check_step(void *argument, const StepFeatures *features, const StepTime *step)
{
    uint64_t *loads = argument;
    uint64_t of_step = 0;
    (void)features;
    assert_int_equal(step->n_ranks, 2);
    for (uint32_t rank = 0; rank < 2; rank++) {
        const RankStep *of = &step->ranks[rank];
        for (size_t i = 0; i < of->n_residency; i++) {
            assert_int_equal(of->residency[i].expert % 2, rank);
            of_step += of->residency[i].duration_ns > 0;
        }
        for (size_t i = 0; i < of->n_ports; i++) {
            assert_int_equal(of->ports[i].back, i % 2);
            assert_true(of->ports[i].start_ns >= step->start_ns);
            assert_true(of->ports[i].start_ns + of->ports[i].duration_ns <=
                        step->start_ns + step->duration_ns);
        }
    }
    assert_int_equal(step->ranks[0].n_ports, 2 * MOE_LAYERS);
    assert_int_equal(of_step, step->loads);
    *loads += of_step;
    return OK;
}

static void records_of_ranks_name_the_experts_of_the_trace(void **unused)
{
    (void)unused;
    uint64_t random = 14;
    uint64_t loads = 0;
    for (int i = 0; i < 40; i++) {
        Routing routing;
        Hardware hardware;
        TraceLayer layers[MOE_LAYERS];
        PackedTrace packed;
        StepFeatures features[STEPS];
        const TraceFeatures all = {.steps = features, .n_steps = STEPS};
        const ReplayFuture future = {0};
        ReplayResult result;
        Plan plan = random_plan(&random);
        plan.placement.ranks = 2;
        plan.placement.method = PLACEMENT_ROUND_ROBIN;
        make_machine(&random, 1 << 20, &hardware);
        add_exchanges(&hardware, 700);
        draw_routing(&random, &routing);
        make_layers(layers);
        pack(&routing, layers, NULL, &packed);
        make_features(&routing, features);
        Timing *timing = open_timing(&hardware, &plan, layers, true);
        assert_ok(
            timed_replay(&packed, &future, timing, &all, 0, &plan, check_step, &loads, &result));
        replay_result_free(&result);
        timing_free(timing);
        packed_trace_free(&packed);
        hardware_free(&hardware);
    }
    assert_true(loads > 0);
}

/* ---- what is not defined ---- */

static void assert_refused(const Plan *plan, const char *why)
{
    assert_int_equal(ranked_replay_check(plan), ERR_UNSUPPORTED);
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
        cmocka_unit_test(a_rank_that_has_all_is_as_fast_as_a_machine_of_its_experts),
        cmocka_unit_test(records_of_ranks_name_the_experts_of_the_trace),
        cmocka_unit_test(what_ranks_do_not_decide_is_refused),
        cmocka_unit_test(every_failed_allocation_is_reported_and_leaks_nothing),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
