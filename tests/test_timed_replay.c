/* A replay with its time: the fast ways in which steps are played, by what hit, as what one like
 * them took, or added up, against the way of a replay that keeps records, operation by operation
 * and action by action (which tests/test_timing.c compares with the engine). */
#include "tests/timing_machine.h"

#include "sim/timed_replay.h"

enum { STEPS = 60, MOST_TOKENS = 4, TOP_K = 2 };

typedef struct {
    PackedTrace packed;
    PackedTrace bare; /* without touches and experts, as where nothing is decided */
    TraceFeatures features;
} Routed;

static void free_trace(Routed *routed)
{
    packed_trace_free(&routed->packed);
    packed_trace_free(&routed->bare);
    trace_features_free(&routed->features);
}

/* Two experts of the few that the last step had, or any. */
static void draw_experts(uint64_t *random, uint16_t *experts)
{
    uint32_t among = random_below(random, 2) ? EXPERTS : 4;
    experts[0] = (uint16_t)random_below(random, among);
    experts[1] = (uint16_t)((experts[0] + 1 + random_below(random, among - 1)) % among);
}

/* Mostly steps of one token, and some of several. */
static void make_trace(uint64_t *random, Routed *routed)
{
    const PackedLoading bare = {.no_touches = true, .no_experts = true};
    TraceLayer layers[MOE_LAYERS];
    FeaturesBuilder *builder;
    uint32_t positions[MOST_TOKENS] = {0};
    make_layers(layers);
    assert_ok(packed_trace_new(layers, MOE_LAYERS, &routed->packed));
    assert_ok(packed_trace_new_as(layers, MOE_LAYERS, &bare, &routed->bare));
    assert_ok(features_builder_new(1, &builder));
    for (uint32_t i = 0; i < STEPS; i++) {
        static const uint32_t REQUESTS[MOST_TOKENS] = {0, 1, 2, 3};
        uint16_t experts[MOE_LAYERS * MOST_TOKENS * TOP_K];
        uint32_t tokens = random_below(random, 4) ? 1 : 1 + random_below(random, MOST_TOKENS);
        for (uint32_t j = 0; j < MOE_LAYERS * tokens; j++)
            draw_experts(random, experts + j * TOP_K);
        const TraceStep step = {.step = i,
                                .phase = PHASE_DECODE,
                                .tokens = tokens,
                                .request = REQUESTS,
                                .position = positions,
                                .experts = experts};
        assert_ok(packed_trace_add_step(&routed->packed, &step));
        assert_ok(packed_trace_add_step(&routed->bare, &step));
        assert_ok(features_builder_add(builder, &step, NULL));
        for (uint32_t j = 0; j < tokens; j++)
            positions[j]++;
    }
    assert_ok(features_builder_close(builder, &routed->features));
}

/* What is to be the same. */
typedef struct {
    StepTime steps[STEPS];
    uint32_t n_steps;
    TimingTotals totals;
    uint64_t layer_ns[LAYERS];
    BufferCounts counts;
} Summary;

static Status note_step(void *argument, const StepFeatures *features, const StepTime *step)
{
    Summary *summary = argument;
    StepTime kept = *step;
    (void)features;
    kept.ops = NULL;
    kept.residency = NULL;
    kept.n_ops = kept.n_residency = 0;
    summary->steps[summary->n_steps++] = kept;
    return OK;
}

static void replay_packed(const PackedTrace *packed, const Routed *routed, const Hardware *hardware,
                          const Plan *plan, bool records, Summary *summary)
{
    ReplayFuture future = {0};
    ReplayResult result;
    Timing *timing;
    memset(summary, 0, sizeof *summary);
    assert_ok(timing_new(&(TimingOptions){.hardware = hardware,
                                          .model = "model",
                                          .plan = plan,
                                          .layers = routed->packed.layers,
                                          .n_layers = MOE_LAYERS,
                                          .logits = true,
                                          .records = records},
                         &timing));
    assert_ok(replay_prepare(packed, plan, &future));
    assert_ok(timed_replay(packed, &future, timing, &routed->features, 0, plan, note_step, summary,
                           &result));
    summary->totals = timing_totals(timing);
    memcpy(summary->layer_ns, summary->totals.layer_ns, sizeof summary->layer_ns);
    summary->totals.layer_ns = NULL;
    summary->counts = result.total.counts;
    replay_result_free(&result);
    replay_future_free(&future);
    timing_free(timing);
}

static void replay(const Routed *routed, const Hardware *hardware, const Plan *plan, bool records,
                   Summary *summary)
{
    replay_packed(&routed->packed, routed, hardware, plan, records, summary);
}

static void assert_same(const Summary *fast, const Summary *whole)
{
    assert_int_equal(fast->n_steps, STEPS);
    assert_int_equal(whole->n_steps, STEPS);
    for (uint32_t i = 0; i < STEPS; i++)
        assert_memory_equal(&fast->steps[i], &whole->steps[i], sizeof fast->steps[i]);
    assert_memory_equal(&fast->totals.phases, &whole->totals.phases, sizeof fast->totals.phases);
    assert_memory_equal(&fast->totals.peak_in_use, &whole->totals.peak_in_use,
                        sizeof fast->totals.peak_in_use);
    assert_memory_equal(fast->totals.op_ns, whole->totals.op_ns, sizeof fast->totals.op_ns);
    assert_memory_equal(fast->layer_ns, whole->layer_ns, sizeof fast->layer_ns);
    assert_int_equal(fast->totals.rest_ns, whole->totals.rest_ns);
    assert_memory_equal(&fast->counts, &whole->counts, sizeof fast->counts);
}

/* Policies that decide in different ways, sizes from one slot to all, and no buffer at all. */
static Plan draw_plan(uint64_t *random)
{
    static const char *const EVICT[] = {
        "lru", "fifo",   "lifo-inactive-first", "sieve", "random", "lfu-aged", "s3-fifo",
        "mru", "belady", "belady-admit",        "belady"};
    Plan plan = random_plan(random);
    snprintf(plan.buffer.evict, sizeof plan.buffer.evict, "%s", EVICT[random_below(random, 11)]);
    plan.buffer.on = random_below(random, 8) > 0;
    bool is_offline = strncmp(plan.buffer.evict, "belady", 6) == 0; /* and admits nothing ahead */
    if (random_below(random, 3) || !plan.buffer.on || is_offline)
        plan.prefetch = plan_default().prefetch;
    return plan;
}

static void put_cold_tables(uint64_t *random, Hardware *hardware)
{
    static const char *const AXES[] = {"tokens", "bytes"};
    static const Op COLD[] = {OP_EMBED, OP_ATTENTION, OP_EXPERTS, OP_COMBINE};
    for (size_t i = 0; i < sizeof COLD / sizeof *COLD; i++) {
        char name[64];
        CostTable *table;
        snprintf(name, sizeof name, "cold/%s", op_name(COLD[i]));
        assert_ok(hardware_add_table(hardware, name, "", UNIT_NS, AXES, 2, &table));
        assert_ok(cost_table_put(table, (double[]){1, 0}, 0, 0));
        assert_ok(cost_table_put(table, (double[]){1, 1500}, random_below(random, 9000), 0));
    }
}

static void set_cost(const Hardware *hardware, const char *name, double value)
{
    const CostTable *table = hardware_table(hardware, name, "");
    assert_non_null(table);
    for (uint32_t i = 0; i < table->n_points; i++)
        table->value[i] = value;
}

/* Experts may be done before their loads are, so that the link is not idle at the next event, and
 * the compute stream before the host has queued what it did. */
static void make_host_slow(uint64_t *random, const Hardware *hardware)
{
    set_cost(hardware, "after/load", -(double)random_below(random, 60000));
    set_cost(hardware, "lag", random_below(random, 2) ? 0 : random_below(random, 300));
    set_cost(hardware, "issue/route", random_below(random, 20000));
    set_cost(hardware, "issue/embed", random_below(random, 2) ? 0 : 300);
    set_cost(hardware, "issue/experts", random_below(random, 9000));
}

static void steps_take_as_long_whichever_way_they_are_played(void **unused)
{
    static const uint64_t SLOT_BYTES[] = {1000, 400000, 24 << 20};
    (void)unused;
    for (uint64_t seed = 1; seed <= 1000; seed++) {
        static Summary fast;
        static Summary whole;
        uint64_t random = seed;
        Hardware hardware;
        Routed routed;
        make_machine(&random, SLOT_BYTES[seed % 3], &hardware);
        if (random_below(&random, 2))
            put_cold_tables(&random, &hardware);
        if (random_below(&random, 2))
            make_host_slow(&random, &hardware);
        make_trace(&random, &routed);
        const Plan plan = draw_plan(&random);
        replay(&routed, &hardware, &plan, false, &fast);
        replay(&routed, &hardware, &plan, true, &whole);
        assert_same(&fast, &whole);
        if (!plan_needs_experts(&plan)) {
            replay_packed(&routed.bare, &routed, &hardware, &plan, random_below(&random, 3) == 0,
                          &fast);
            assert_same(&fast, &whole);
        }
        free_trace(&routed);
        hardware_free(&hardware);
    }
}

/* Events of as many experts, of which as many hit, take as long as they do on their own. */
static void what_is_repeated_is_counted_as_often_as_it_happens(void **unused)
{
    (void)unused;
    uint64_t random = 7;
    Hardware hardware;
    Routed routed;
    static Summary fast;
    make_machine(&random, 1000, &hardware);
    make_trace(&random, &routed);
    Plan plan = plan_default();
    plan.buffer.on = true;
    plan.buffer.slots = 4;
    replay(&routed, &hardware, &plan, false, &fast);
    assert_int_equal(fast.totals.total.loads, fast.counts.loads);
    assert_int_equal(fast.totals.total.bytes_loaded, fast.counts.bytes_loaded);
    free_trace(&routed);
    hardware_free(&hardware);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(steps_take_as_long_whichever_way_they_are_played),
        cmocka_unit_test(what_is_repeated_is_counted_as_often_as_it_happens)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
