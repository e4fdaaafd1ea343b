/* Device memory that times come with. */
#include "tests/timing_machine.h"

#include "policies/capacity.h"

enum { PER_TOKEN = 1000, PER_ROW = 70000 };

/* The machine with static gating, of which a step of TOKENS takes PER_TOKEN each, and PER_ROW for
 * each of them that an expert keeps room for. */
static void make_static_machine(Hardware *hardware)
{
    static const char *const AXES[] = {"tokens", "share"};
    static const double TOKENS[] = {8, 64, 512};
    static const double SHARES[] = {0.125, 0.5, 1};
    uint64_t random = 4;
    CostTable *table;
    make_machine(&random, 1000, hardware);
    put_table(hardware, "padded/experts", "shape", NULL, 100, 0);
    put_table(hardware, "limited/route", "shape", NULL, 100, 0);
    assert_ok(hardware_add_table(hardware, "memory/padded", "model", UNIT_BYTES, AXES, 2, &table));
    for (int t = 0; t < 3; t++)
        for (int s = 0; s < 3; s++) {
            const double bytes = TOKENS[t] * (PER_TOKEN + SHARES[s] * PER_ROW);
            assert_ok(cost_table_put(table, (const double[]){TOKENS[t], SHARES[s]}, bytes, 0));
        }
}

static TimingMemory memory_of(const Hardware *hardware, const Plan *plan,
                              const TraceFeatures *features)
{
    TraceLayer layers[MOE_LAYERS];
    Timing *timing;
    make_layers(layers);
    const TimingOptions options = {.hardware = hardware,
                                   .model = "model",
                                   .plan = plan,
                                   .layers = layers,
                                   .n_layers = MOE_LAYERS};
    assert_ok(timing_new(&options, &timing));
    const TimingMemory memory = timing_memory(timing, features);
    timing_free(timing);
    return memory;
}

static void static_gating_takes_room_for_the_rows_that_it_keeps(void **unused)
{
    (void)unused;
    static const double FACTORS[] = {0.125, 0.25, 0.5, 1, 4};
    const TraceFeatures features = {.max_tokens = 64, .max_requests = 4, .max_length = 16};
    Hardware hardware;
    Plan plan = plan_default();
    make_static_machine(&hardware);
    plan.gating.mode = GATING_STATIC;
    for (size_t i = 0; i < sizeof FACTORS / sizeof *FACTORS; i++) {
        plan.gating.capacity_factor = FACTORS[i];
        uint64_t rows = gating_capacity(&plan, 64);
        assert_int_equal(memory_of(&hardware, &plan, &features).activations,
                         64 * PER_TOKEN + rows * PER_ROW);
    }
    hardware_free(&hardware);
}

/* Sums are held where what they count would not be bytes any more. */
static void caches_of_any_profile_and_trace_are_a_number(void **unused)
{
    (void)unused;
    const TraceFeatures features = {
        .max_tokens = 64, .max_requests = UINT32_MAX, .max_length = UINT32_MAX};
    const Plan plan = plan_default();
    uint64_t random = 4;
    Hardware hardware;
    make_machine(&random, 1000, &hardware);
    hardware.models[0].memory.position_bytes = 1e12;
    const TimingMemory memory = memory_of(&hardware, &plan, &features);
    assert_true(memory.caches == (uint64_t)OP_COSTS_MOST_NS);
    assert_true(memory.total > memory.caches);
    hardware_free(&hardware);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(static_gating_takes_room_for_the_rows_that_it_keeps),
        cmocka_unit_test(caches_of_any_profile_and_trace_are_a_number),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
