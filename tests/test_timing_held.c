/* Simulated operations that are stamped and held: their times are the device's alone. */
#include "sim/timing_parts.h"
#include "tests/timing_machine.h"

enum { STEPS = 6, TOKENS = 3, BESIDE_NS = 700 };

static const Op HELD[] = {OP_EMBED, OP_ATTENTION, OP_DENSE_FFN, OP_ROUTE, OP_COMBINE, OP_HEAD};

/* What held/OP adds: less than nothing to some. */
static int64_t added_ns(Op op)
{
    return op % 2 ? 2100 + 10 * (int64_t)op : -40;
}

/* A machine whose host is SLOW times as slow at queueing. */
static void make_held_machine(uint64_t seed, double slow, Hardware *hardware)
{
    char name[64];
    uint64_t random = seed;
    make_machine(&random, 24 << 20, hardware);
    put_table(hardware, "stamp", "", NULL, 3000, 0);
    put_table(hardware, "stamp/beside", "", NULL, BESIDE_NS, 0);
    for (uint32_t i = 0; i < hardware->n_tables; i++)
        if (strncmp(hardware->tables[i].name, "issue/", 6) == 0)
            for (uint32_t j = 0; j < hardware->tables[i].n_points; j++)
                hardware->tables[i].value[j] *= slow;
    for (size_t i = 0; i < sizeof HELD / sizeof *HELD; i++) {
        snprintf(name, sizeof name, "held/%s", op_name(HELD[i]));
        put_table(hardware, name, "shape", NULL, (double)added_ns(HELD[i]), 0);
    }
}

static void run_event(ExpertBuffer *buffer, uint32_t layer, uint32_t step, Timing *timing)
{
    BufferAction actions[8 * EXPERTS];
    uint32_t n_actions;
    const uint16_t experts[] = {(uint16_t)(step / 2 % 4), (uint16_t)(4 + (step + layer) % 5), 9};
    const TimingEvent event = {.layer_index = layer, .n = 3, .experts = experts};
    const BufferEvent asked = {.layer_index = layer, .n = 3, .experts = experts};
    buffer_event(buffer, &asked, NULL, actions, &n_actions);
    assert_ok(timing_event(timing, &event, actions, n_actions));
}

/* Of the operations but for experts. */
typedef struct {
    TimingRecord ops[STEPS][MOST_OPS];
    size_t n_ops;
} Records;

static Plan lru_plan(const char *predictor)
{
    Plan plan = plan_default();
    plan.buffer.on = true;
    plan.buffer.scope = SCOPE_DEVICE;
    plan.buffer.slots = 6;
    snprintf(plan.buffer.evict, sizeof plan.buffer.evict, "lru");
    snprintf(plan.prefetch.predictor, sizeof plan.prefetch.predictor, "%s", predictor);
    plan.prefetch.distance = 1;
    plan.prefetch.max_inflight = 2;
    return plan;
}

static void run(const Hardware *hardware, const Plan *plan, Records *records)
{
    TraceLayer layers[MOE_LAYERS];
    ExpertBuffer *buffer;
    Timing *timing;
    make_layers(layers);
    assert_ok(buffer_new(plan, layers, MOE_LAYERS, &buffer));
    const TimingOptions options = {.hardware = hardware,
                                   .model = "model",
                                   .plan = plan,
                                   .layers = layers,
                                   .n_layers = MOE_LAYERS,
                                   .logits = true,
                                   .stamped = true,
                                   .records = true};
    const StepFeatures step = {.phase = PHASE_DECODE,
                               .tokens = TOKENS,
                               .requests = TOKENS,
                               .groups[SPANS_ONE] = {.requests = TOKENS, .tokens = TOKENS}};
    assert_ok(timing_new(&options, &timing));
    for (uint32_t i = 0; i < STEPS; i++) {
        StepTime time;
        assert_ok(timing_begin(timing, &step, 0));
        for (uint32_t layer = 0; layer < MOE_LAYERS; layer++)
            run_event(buffer, layer, i, timing);
        assert_ok(timing_end(timing, &time));
        memcpy(records->ops[i], time.ops, time.n_ops * sizeof *time.ops);
        records->n_ops = time.n_ops;
    }
    timing_free(timing);
    buffer_free(buffer);
}

static double cost_of(const Hardware *hardware, Op op)
{
    char name[64];
    snprintf(name, sizeof name, "gpu/%s", op_name(op));
    for (uint32_t i = 0; i < hardware->n_tables; i++)
        if (strcmp(hardware->tables[i].name, name) == 0)
            return hardware->tables[i].value[TOKENS - 1];
    fail_msg("no table %s", name);
    return 0;
}

static void a_held_operation_takes_what_its_tables_say_however_slow_the_host(void **unused)
{
    (void)unused;
    static Records records;
    const Plan plan = lru_plan("none");
    for (uint64_t seed = 1; seed <= 30; seed++) {
        Hardware hardware;
        make_held_machine(seed, seed % 2 ? 1 : 20, &hardware);
        run(&hardware, &plan, &records);
        for (uint32_t i = 0; i < STEPS; i++)
            for (size_t j = 0; j < records.n_ops; j++) {
                const TimingRecord *op = &records.ops[i][j];
                int64_t ns = (int64_t)cost_of(&hardware, (Op)op->op) + added_ns((Op)op->op);
                if (op->op != OP_EXPERTS)
                    assert_int_equal(op->duration_ns, ns > 0 ? ns : 0);
            }
        hardware_free(&hardware);
    }
}

/* Between two events; before the first one, all may move. */
static void held_operations_follow_each_other_without_a_gap(void **unused)
{
    (void)unused;
    static Records records;
    for (uint64_t seed = 1; seed <= 30; seed++) {
        Hardware hardware;
        uint64_t random = seed;
        const Plan plan = random_plan(&random);
        make_held_machine(seed, 20, &hardware);
        run(&hardware, &plan, &records);
        for (uint32_t i = 0; i < STEPS; i++)
            for (size_t j = 1; j < records.n_ops; j++) {
                const TimingRecord *op = &records.ops[i][j];
                uint64_t end_ns = op[-1].start_ns + op[-1].duration_ns;
                assert_true(op->start_ns >= end_ns);
                if (op[-1].op != OP_EXPERTS)
                    assert_int_equal(op->start_ns, end_ns);
            }
        hardware_free(&hardware);
    }
}

static void multiply(Hardware *hardware, const char *name, double by)
{
    for (uint32_t i = 0; i < hardware->n_tables; i++)
        for (uint32_t j = 0;
             strcmp(hardware->tables[i].name, name) == 0 && j < hardware->tables[i].n_points; j++)
            hardware->tables[i].value[j] *= by;
}

/* Prefetches go on behind the experts, longer than a layer takes. */
static void beside_copies_a_held_operation_takes_longer(void **unused)
{
    (void)unused;
    static Records alone;
    static Records beside;
    const Plan plans[] = {lru_plan("none"), lru_plan("previous-step")};
    Hardware hardware;
    uint32_t longer = 0;
    make_held_machine(5, 1, &hardware);
    multiply(&hardware, "copy/h2d", 20);
    run(&hardware, &plans[0], &alone);
    run(&hardware, &plans[1], &beside);
    for (uint32_t i = 0; i < STEPS; i++)
        for (size_t j = 0; j < alone.n_ops; j++) {
            uint64_t ns = alone.ops[i][j].duration_ns;
            uint64_t beside_ns = beside.ops[i][j].duration_ns;
            if (alone.ops[i][j].op == OP_EXPERTS)
                continue;
            assert_true(beside_ns == ns || beside_ns == ns + BESIDE_NS);
            longer += beside_ns != ns;
        }
    assert_true(longer > 0);
    hardware_free(&hardware);
}

/* So does the experts' stamp: while prefetches are copied that take longer than a layer. */
static void beside_copies_the_experts_stamp_takes_longer(void **unused)
{
    (void)unused;
    static Records early;
    static Records late;
    const Plan plan = lru_plan("previous-step");
    Hardware hardware;
    uint32_t longer = 0;
    make_held_machine(5, 1, &hardware);
    multiply(&hardware, "copy/h2d", 20);
    run(&hardware, &plan, &late);
    multiply(&hardware, "stamp/beside", 0);
    run(&hardware, &plan, &early);
    for (uint32_t i = 0; i < STEPS; i++)
        for (size_t j = 0; j < late.n_ops; j++)
            longer += late.ops[i][j].op == OP_EXPERTS &&
                      late.ops[i][j].duration_ns == early.ops[i][j].duration_ns + BESIDE_NS;
    assert_true(longer > 0);
    hardware_free(&hardware);
}

/* N parts from START_NS on, one after the other, each begun when the one before is over. */
static bool is_copied(const Timing *timing, uint64_t start_ns, uint32_t n, uint64_t at_ns)
{
    for (uint32_t i = 0; i < n; i++) {
        uint64_t from_ns = start_ns + timing->lag_ns;
        start_ns = from_ns + timing->layers[1].part_ns;
        if (at_ns >= from_ns && at_ns < start_ns)
            return true;
    }
    return false;
}

static void between_the_parts_of_prefetches_nothing_is_copied(void **unused)
{
    (void)unused;
    const Plan plan = lru_plan("previous-step");
    const StepFeatures step = {.phase = PHASE_DECODE, .tokens = TOKENS, .requests = TOKENS};
    TraceLayer layers[MOE_LAYERS];
    make_layers(layers);
    for (uint64_t seed = 1; seed <= 30; seed++) {
        Hardware hardware;
        Timing *timing;
        make_held_machine(seed, 1, &hardware);
        const TimingOptions options = {.hardware = &hardware,
                                       .model = "model",
                                       .plan = &plan,
                                       .layers = layers,
                                       .n_layers = MOE_LAYERS,
                                       .stamped = true};
        assert_ok(timing_new(&options, &timing));
        assert_ok(timing_begin(timing, &step, 0));
        uint64_t start_ns = timing->host_ns;
        uint32_t parts = 2 * timing->layers[1].parts;
        uint64_t end_ns = start_ns + (parts + 1) * (timing->lag_ns + timing->layers[1].part_ns);
        assert_true(parts > 2);
        for (uint16_t expert = 0; expert < 2; expert++) {
            const BufferAction action = {.layer_index = 1, .expert = expert, .slot = expert};
            assert_ok(link_prefetch(timing, &action));
        }
        for (uint64_t at_ns = start_ns; at_ns < end_ns; at_ns += 13)
            assert_int_equal(link_copies(timing, at_ns), is_copied(timing, start_ns, parts, at_ns));
        timing_free(timing);
        hardware_free(&hardware);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_held_operation_takes_what_its_tables_say_however_slow_the_host),
        cmocka_unit_test(held_operations_follow_each_other_without_a_gap),
        cmocka_unit_test(beside_copies_a_held_operation_takes_longer),
        cmocka_unit_test(beside_copies_the_experts_stamp_takes_longer),
        cmocka_unit_test(between_the_parts_of_prefetches_nothing_is_copied),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
