/* Simulated time of ranks with buffers: where all that is asked for lies on one rank, or all do the
 * same, it takes as long as a machine with the experts of one alone. */
#include "tests/ranked_routing.h"
#include "tests/timing_machine.h"

#include "sim/timed_replay.h"

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

/* REQUESTS that are alike, whose tokens come one by one or several at a time. */
static void make_features(const Routing *routing, uint32_t requests, StepFeatures *steps)
{
    uint64_t context = 0;
    for (uint32_t i = 0; i < STEPS; i++) {
        uint32_t tokens = routing->tokens[i] / requests;
        steps[i] = (StepFeatures){.step = i,
                                  .phase = PHASE_DECODE,
                                  .tokens = routing->tokens[i],
                                  .requests = requests,
                                  .most_keys = (uint32_t)context + tokens};
        steps[i].groups[tokens == 1 ? SPANS_ONE : SPANS_SEVERAL] = (SpanGroup){
            .requests = requests, .tokens = routing->tokens[i], .context = requests * context};
        context += tokens;
    }
}

static TimingTotals play(const Routing *routing, uint32_t requests, const Plan *plan,
                         Timing *timing, const PackedTrace *packed, Steps *steps)
{
    StepFeatures features[STEPS];
    const TraceFeatures all = {.steps = features, .n_steps = STEPS};
    ReplayFuture future = {0};
    ReplayResult result;
    steps->n = 0;
    make_features(routing, requests, features);
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

/* As many tokens again, each of which needs the odd expert beside every even one. */
static Routing mirrored(const Routing *routing)
{
    Routing both;
    for (uint32_t i = 0; i < STEPS; i++) {
        uint32_t each = routing->tokens[i] * TOP_K;
        both.tokens[i] = 2 * routing->tokens[i];
        for (uint32_t j = 0; j < MOE_LAYERS * each; j++) {
            uint16_t *to = both.experts[i] + j / each * 2 * each + j % each;
            to[0] = routing->experts[i][j];
            to[each] = (uint16_t)(to[0] + 1);
        }
    }
    return both;
}

/* ROUTING is of even experts. With WORKING ranks the second does what the first does. */
static void check_alone(Hardware *hardware, const Routing *routing, const Plan *plan,
                        uint32_t working)
{
    static Steps together;
    static Steps alone;
    uint16_t number[MOE_LAYERS][EXPERTS];
    TraceLayer layers[MOE_LAYERS];
    TraceLayer half[MOE_LAYERS];
    PackedTrace packed[2];
    const Routing of_ranks = working == 2 ? mirrored(routing) : *routing;
    Plan one = *plan;
    one.placement.ranks = 1;
    make_layers(layers);
    make_layers(half);
    for (uint32_t i = 0; i < MOE_LAYERS; i++) {
        half[i].experts = EXPERTS / 2;
        for (uint16_t e = 0; e < EXPERTS; e++)
            number[i][e] = e / 2;
    }
    pack(&of_ranks, layers, NULL, &packed[0]);
    pack(routing, half, (const uint16_t(*)[EXPERTS])number, &packed[1]);
    Timing *ranks = open_timing(hardware, plan, layers, false);
    Timing *machine = open_timing(hardware, &one, half, false);
    const TimingTotals totals = play(&of_ranks, working, plan, ranks, &packed[0], &together);
    play(routing, 1, &one, machine, &packed[1], &alone);
    for (uint32_t i = 0; i < STEPS; i++) {
        assert_int_equal(together.steps[i].duration_ns, alone.steps[i].duration_ns);
        assert_int_equal(together.steps[i].exposed_load_ns, alone.steps[i].exposed_load_ns);
        assert_int_equal(together.steps[i].loads, working * alone.steps[i].loads);
        assert_int_equal(together.steps[i].bytes_loaded, working * alone.steps[i].bytes_loaded);
        assert_int_equal(together.steps[i].load_ns, working * alone.steps[i].load_ns);
    }
    assert_int_equal(totals.of_ranks[1].compute_ns,
                     working == 2 ? totals.of_ranks[0].compute_ns : 0);
    assert_int_equal(working * totals.of_ranks[0].loads, totals.total.loads);
    assert_int_equal(totals.imbalance_ns > 0, working == 1);
    timing_free(ranks);
    timing_free(machine);
    packed_trace_free(&packed[0]);
    packed_trace_free(&packed[1]);
}

static void ranks_are_as_fast_as_a_machine_of_the_experts_of_one(void **unused)
{
    (void)unused;
    uint64_t random = 12;
    for (int i = 0; i < 400; i++) {
        uint32_t working = 1 + random_below(&random, 2);
        Routing routing;
        Hardware hardware;
        Plan plan = random_plan(&random);
        make_machine(&random, random_below(&random, 2) ? 4096 : 1 << 20, &hardware);
        add_exchanges(&hardware, 0);
        set_table(&hardware, "lag", 0);
        draw_routing(&random, &routing);
        for (uint32_t step = 0; step < STEPS; step++)
            routing.tokens[step] = 1 + (routing.tokens[step] - 1) % (MOST_TOKENS / working);
        keep_even(&routing);
        plan.placement.ranks = 2;
        plan.placement.method = PLACEMENT_ROUND_ROBIN;
        check_alone(&hardware, &routing, &plan, working);
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
            assert_true(of->residency[i].duration_ns == 0 ||
                        of->residency[i].start_ns + of->residency[i].duration_ns <=
                            step->start_ns + step->duration_ns);
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
    for (int i = 0; i < 200; i++) {
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
        make_features(&routing, 1, features);
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
/* Once its own are all there, a rank waits for loads no more, whatever it has nothing of. */
static void ranks_that_have_loaded_all_of_theirs_are_as_fast_as_without_a_buffer(void **unused)
{
    (void)unused;
    static const char *const BUFFERS[] = {"{\"slots\": 10}",
                                          "{\"slots\": 15, \"scope\": \"device\"}", "null"};
    static Steps steps[3];
    uint64_t random = 16;
    Routing routing;
    Hardware hardware;
    TraceLayer layers[MOE_LAYERS];
    PackedTrace packed;
    draw_routing(&random, &routing);
    routing.tokens[0] = EXPERTS / TOP_K;
    for (uint32_t i = 0; i < MOE_LAYERS * EXPERTS; i++)
        routing.experts[0][i] = (uint16_t)(i % EXPERTS);
    make_machine(&random, 1 << 20, &hardware);
    add_exchanges(&hardware, 700);
    make_layers(layers);
    pack(&routing, layers, NULL, &packed);
    for (int i = 0; i < 3; i++) {
        Plan plan = lopsided_plan(BUFFERS[i]);
        Timing *timing = open_timing(&hardware, &plan, layers, false);
        play(&routing, 1, &plan, timing, &packed, &steps[i]);
        timing_free(timing);
        plan_free(&plan);
    }
    for (int i = 0; i < 2; i++) {
        assert_true(steps[i].steps[0].duration_ns > steps[2].steps[0].duration_ns);
        for (uint32_t step = 1; step < STEPS; step++)
            assert_int_equal(steps[i].steps[step].duration_ns, steps[2].steps[step].duration_ns);
    }
    packed_trace_free(&packed);
    hardware_free(&hardware);
}

int main(void)
{
    memory_install();
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(ranks_are_as_fast_as_a_machine_of_the_experts_of_one),
        cmocka_unit_test(ranks_that_have_loaded_all_of_theirs_are_as_fast_as_without_a_buffer),
        cmocka_unit_test(records_of_ranks_name_the_experts_of_the_trace),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
