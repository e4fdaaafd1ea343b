/* Simulated time under expert parallelism, on small cases that are computed by hand, and against a
 * plain reference. */
#include "tests/hardware_maker.h"

#include <math.h>
#include <string.h>

#include "base/json.h"
#include "sim/timing.h"
#include "tests/plan_maker.h"

enum { EXPERTS = 4, D_MODEL = 32, ROW_BYTES = 2 * D_MODEL, MOST_EVENTS = 3 };

/* Times of the machine: embedding takes 100 a token of the rank, a router 10, experts 1000 each and
 * 10 a row, combining 5, and an exchange as many as bytes, times the skew. */
enum { EMBED_NS = 100, ROUTE_NS = 10, ACTIVE_NS = 1000, ROW_NS = 10, COMBINE_NS = 5 };

static void put_table(Hardware *hardware, const char *name, const char *const *axis,
                      uint32_t n_axes, const double (*points)[3], uint32_t n)
{
    CostTable *table;
    assert_ok(hardware_add_table(hardware, name, "", UNIT_NS, axis, n_axes, &table));
    for (uint32_t i = 0; i < n; i++)
        assert_ok(cost_table_put(table, points[i], points[i][n_axes], 0));
}

static void put_exchanges(Hardware *hardware, uint32_t ranks)
{
    static const char *const AXES_OF_EXCHANGES[] = {"skew", "bytes"};
    char shape[160];
    CostTable *table;
    hardware_ranks_shape(ranks, ranks, shape);
    assert_ok(
        hardware_add_table(hardware, "all-to-all", shape, UNIT_NS, AXES_OF_EXCHANGES, 2, &table));
    for (uint32_t skew = 1; skew <= ranks; skew += ranks - 1)
        for (double bytes = 1; bytes <= 1000000; bytes *= 1000000)
            assert_ok(cost_table_put(table, (const double[]){skew, bytes}, bytes * skew, 0));
}

/* A model of MOST_EVENTS layers of experts. */
static Hardware make_machine(void)
{
    static const char *const TOKENS[] = {"tokens"};
    static const char *const EXPERTS_AXES[] = {"active", "rows"};
    Hardware hardware = {.backend = "cuda", .device = "cuda: made up"};
    HardwareModel *model;
    double experts[2 * EXPERTS][3];
    assert_ok(hardware_add_model(&hardware, "model", &model));
    snprintf(model->compute, sizeof model->compute, "bf16");
    assert_ok(mem_new(&model->ops[STACK_DECODER], 1 + 3 * MOST_EVENTS, sizeof(HardwareOp), "ops"));
    model->ops[STACK_DECODER][model->n_ops[STACK_DECODER]++] = (HardwareOp){.op = OP_EMBED};
    for (uint32_t layer = 0; layer < MOST_EVENTS; layer++)
        for (int i = 0; i < 3; i++)
            model->ops[STACK_DECODER][model->n_ops[STACK_DECODER]++] = (HardwareOp){
                .layer = layer, .op = (const Op[]){OP_ROUTE, OP_EXPERTS, OP_COMBINE}[i]};
    for (uint32_t i = 0; i < 2 * EXPERTS; i++) {
        experts[i][0] = 1 + i / 2;
        experts[i][1] = i % 2 == 0 ? 1 : 1001;
        experts[i][2] = experts[i][0] * (ACTIVE_NS + ROW_NS * experts[i][1]);
    }
    put_table(&hardware, "gpu/embed", TOKENS, 1,
              (const double[2][3]){{1, EMBED_NS}, {1001, 1001 * EMBED_NS}}, 2);
    put_table(&hardware, "gpu/route", NULL, 0, (const double[1][3]){{ROUTE_NS}}, 1);
    put_table(&hardware, "gpu/experts", EXPERTS_AXES, 2, (const double(*)[3])experts, 2 * EXPERTS);
    put_table(&hardware, "gpu/combine", NULL, 0, (const double[1][3]){{COMBINE_NS}}, 1);
    put_table(&hardware, "memory/activations", TOKENS, 1, (const double[1][3]){{1, 7}}, 1);
    put_exchanges(&hardware, 2);
    put_exchanges(&hardware, 3);
    return hardware;
}

static void make_layers(TraceLayer layers[MOST_EVENTS])
{
    for (uint32_t i = 0; i < MOST_EVENTS; i++)
        layers[i] = (TraceLayer){
            .layer = i, .experts = EXPERTS, .top_k = 1, .d_model = D_MODEL, .expert_bytes = 1000};
}

static Status open_timing_of(Hardware *hardware, const Plan *plan, const TraceLayer *layers,
                             Timing **timing)
{
    return timing_new(&(TimingOptions){.hardware = hardware,
                                       .model = "model",
                                       .plan = plan,
                                       .layers = layers,
                                       .n_layers = MOST_EVENTS,
                                       .bare = true},
                      timing);
}

static Status open_timing(Hardware *hardware, const Plan *plan, Timing **timing)
{
    static TraceLayer layers[MOST_EVENTS];
    make_layers(layers);
    return open_timing_of(hardware, plan, layers, timing);
}

static Plan plan_of(const char *text)
{
    return good_plan(text);
}

static StepFeatures decode_of(uint32_t requests)
{
    return (StepFeatures){.phase = PHASE_DECODE,
                          .tokens = requests,
                          .requests = requests,
                          .groups[SPANS_ONE] = {.requests = requests, .tokens = requests}};
}

/* The time of a step of which every event has ROWS [EXPERTS]. */
static uint64_t step_ns(Timing *timing, const StepFeatures *step, const uint32_t *rows)
{
    StepTime time;
    uint16_t experts[EXPERTS];
    uint32_t active[EXPERTS];
    uint32_t n = 0;
    for (uint16_t e = 0; e < EXPERTS; e++)
        if (rows[e] > 0) {
            experts[n] = e;
            active[n++] = rows[e];
        }
    assert_ok(timing_begin(timing, step, 0));
    for (uint32_t layer = 0; layer < MOST_EVENTS; layer++) {
        const TimingEvent event = {
            .layer_index = layer, .n = n, .experts = experts, .rows = active};
        assert_ok(timing_event(timing, &event, NULL, 0));
    }
    assert_ok(timing_end(timing, &time));
    return time.duration_ns;
}

static uint64_t time_under(const char *text, const StepFeatures *step, const uint32_t *rows)
{
    Timing *timing;
    Hardware hardware = make_machine();
    Plan plan = plan_of(text);
    assert_ok(open_timing(&hardware, &plan, &timing));
    uint64_t ns = step_ns(timing, step, rows);
    const TimingTotals totals = timing_totals(timing);
    assert_int_equal(totals.total.tokens, step->tokens);
    assert_int_equal(totals.ranks, plan.placement.ranks);
    timing_free(timing);
    plan_free(&plan);
    hardware_free(&hardware);
    return ns;
}

/* A step whose fullest rank has TOKENS, and whose events take EVENT_NS. */
static uint64_t by_hand(uint32_t tokens, uint64_t event_ns)
{
    return (uint64_t)tokens * EMBED_NS + MOST_EVENTS * (ROUTE_NS + event_ns + COMBINE_NS);
}

#define TWO "{\"moebius_plan\": 1, \"placement\": {\"ranks\": 2}}"

/* Rank 0 has 6 of the 8 rows, those of two experts: 6 * 64 / 2 bytes come from rank 1, 1.5 times
 * the mean. */
static void an_event_ends_with_the_slowest_rank_and_its_exchanges(void **unused)
{
    (void)unused;
    const StepFeatures step = decode_of(8);
    uint64_t way_ns = 192 * 3 / 2;
    assert_int_equal(time_under(TWO, &step, (const uint32_t[]){5, 1, 2, 0}),
                     by_hand(4, way_ns + 2 * ACTIVE_NS + 6 * ROW_NS + way_ns));
    assert_int_equal(time_under(TWO, &step, (const uint32_t[]){0, 0, 2, 6}),
                     by_hand(4, 2 * 256 * 2 + 2 * ACTIVE_NS + 8 * ROW_NS));
    assert_int_equal(time_under(TWO, &step, (const uint32_t[]){4, 0, 0, 4}),
                     by_hand(4, 2 * 128 + ACTIVE_NS + 4 * ROW_NS));
}

/* The busier rank is not the slower one: three experts of one row each, or one of four. */
static void the_slowest_rank_may_have_fewer_rows(void **unused)
{
    (void)unused;
    const char *plan = "{\"moebius_plan\": 1, \"placement\": {\"ranks\": 2, \"method\": \"given\","
                       " \"map\": {\"0\": [[0], [0], [0], [1]], \"1\": [[0], [0], [0], [1]],"
                       " \"2\": [[0], [0], [0], [1]]}}}";
    const StepFeatures step = decode_of(7);
    uint64_t way_ns = (uint64_t)(4 * ROW_BYTES / 2 * (4 * 2 / 7.0) + 0.5);
    assert_int_equal(time_under(plan, &step, (const uint32_t[]){1, 1, 1, 4}),
                     by_hand(4, 2 * way_ns + 3 * ACTIVE_NS + 3 * ROW_NS));
}

/* Of expert 0's 5 rows rank 0 takes 3. */
static void copies_of_an_expert_share_its_rows(void **unused)
{
    (void)unused;
    const char *plan = "{\"moebius_plan\": 1, \"placement\": {\"ranks\": 2, \"method\": \"given\","
                       " \"replicas\": 1, \"map\": {\"0\": [[0, 1], [0], [1], [1]],"
                       " \"1\": [[0, 1], [0], [1], [1]], \"2\": [[0, 1], [0], [1], [1]]}}}";
    const StepFeatures step = decode_of(8);
    assert_int_equal(time_under(plan, &step, (const uint32_t[]){5, 1, 2, 0}),
                     by_hand(4, 2 * 4 * ROW_BYTES / 2 + 2 * ACTIVE_NS + 4 * ROW_NS));
}

/* One request cannot be divided; of three the fuller rank has two. */
static void ranks_share_whole_requests(void **unused)
{
    (void)unused;
    const uint32_t rows[] = {30, 0, 30, 0};
    const uint64_t event_ns = 2 * 30 * ROW_BYTES / 2 + ACTIVE_NS + 30 * ROW_NS;
    StepFeatures step = {.phase = PHASE_PREFILL,
                         .tokens = 60,
                         .requests = 1,
                         .groups[SPANS_SEVERAL] = {.requests = 1, .tokens = 60}};
    assert_int_equal(time_under(TWO, &step, rows), by_hand(60, event_ns));
    step.requests = step.groups[SPANS_SEVERAL].requests = 3;
    assert_int_equal(time_under(TWO, &step, rows), by_hand(40, event_ns));
}

static void one_rank_exchanges_nothing(void **unused)
{
    (void)unused;
    const StepFeatures step = decode_of(8);
    assert_int_equal(time_under("{\"moebius_plan\": 1}", &step, (const uint32_t[]){5, 1, 2, 0}),
                     by_hand(8, 3 * ACTIVE_NS + 8 * ROW_NS));
}

/* ---- against a plain reference ---- */

/* Of an event whose experts lie in blocks (round-robin else), with ROWS [EXPERTS]. */
static double reference_event(uint32_t ranks, bool blocks, const uint32_t *rows)
{
    double on[4] = {0};
    double ns[4] = {0};
    double sum = 0;
    double most = 0;
    double slowest = 0;
    for (uint32_t e = 0; e < EXPERTS; e++) {
        uint32_t rank = blocks ? e * ranks / EXPERTS : e % ranks;
        on[rank] += rows[e];
        ns[rank] += rows[e] > 0 ? ACTIVE_NS + ROW_NS * (double)rows[e] : 0;
        sum += rows[e];
    }
    for (uint32_t i = 0; i < ranks; i++) {
        most = on[i] > most ? on[i] : most;
        slowest = ns[i] > slowest ? ns[i] : slowest;
    }
    return 2 * most * ROW_BYTES * (ranks - 1) / ranks * most * ranks / sum + slowest;
}

static void random_steps_take_what_a_plain_reference_says(void **unused)
{
    (void)unused;
    uint64_t random = 3;
    char text[160];
    for (int i = 0; i < 400; i++) {
        uint32_t rows[EXPERTS];
        uint32_t ranks = 2 + random_below(&random, 2);
        bool blocks = random_below(&random, 2);
        uint32_t requests = 1 + random_below(&random, 50);
        const StepFeatures step = decode_of(requests);
        for (uint32_t e = 0; e < EXPERTS; e++)
            rows[e] = random_below(&random, 3) == 0 && e > 0 ? 0 : 1 + random_below(&random, 99);
        snprintf(text, sizeof text,
                 "{\"moebius_plan\": 1, \"placement\": {\"ranks\": %u, \"method\": \"%s\"}}", ranks,
                 blocks ? "contiguous" : "round-robin");
        double wanted =
            (requests + ranks - 1) / ranks * EMBED_NS +
            MOST_EVENTS * (ROUTE_NS + COMBINE_NS + reference_event(ranks, blocks, rows));
        assert_true(fabs((double)time_under(text, &step, rows) - wanted) <= 3 * MOST_EVENTS);
    }
}

/* ---- what it wants, and what it refuses ---- */

static void memory_is_the_fullest_ranks(void **unused)
{
    (void)unused;
    const char *plan = "{\"moebius_plan\": 1, \"placement\": {\"ranks\": 2, \"method\": \"given\","
                       " \"replicas\": 1, \"map\": {\"0\": [[0, 1], [0], [1], [1]],"
                       " \"1\": [[0, 1], [0], [1], [1]], \"2\": [[0, 1], [0], [1], [1]]}}}";
    const TraceFeatures features = {.max_tokens = 9, .max_requests = 9, .max_length = 10};
    static const char *const PLANS[] = {"{\"moebius_plan\": 1}", TWO, NULL};
    static const uint64_t SLOTS[] = {4, 2, 3};
    static const uint64_t REQUESTS[] = {9, 5, 5};
    for (int i = 0; i < 3; i++) {
        Timing *timing;
        Hardware hardware = make_machine();
        hardware.models[0].memory.position_bytes = 100;
        Plan parsed = plan_of(PLANS[i] != NULL ? PLANS[i] : plan);
        assert_ok(open_timing(&hardware, &parsed, &timing));
        const TimingMemory memory = timing_memory(timing, &features);
        assert_int_equal(memory.slots, MOST_EVENTS * SLOTS[i] * 1000);
        assert_int_equal(memory.caches, REQUESTS[i] * 10 * 100);
        assert_int_equal(memory.activations, 7 * REQUESTS[i]);
        timing_free(timing);
        plan_free(&parsed);
        hardware_free(&hardware);
    }
}

static void memory_has_room_for_the_longest_prompt_of_a_rank(void **unused)
{
    (void)unused;
    StepFeatures steps[2] = {decode_of(9), {.phase = PHASE_PREFILL, .tokens = 8, .requests = 2}};
    steps[1].groups[SPANS_ONE] = (SpanGroup){.requests = 1, .tokens = 1};
    steps[1].groups[SPANS_SEVERAL] = (SpanGroup){.requests = 1, .tokens = 7};
    const TraceFeatures features = {
        .steps = steps, .n_steps = 2, .max_tokens = 9, .max_requests = 9, .max_length = 10};
    Timing *timing;
    Hardware hardware = make_machine();
    Plan plan = plan_of(TWO);
    assert_ok(open_timing(&hardware, &plan, &timing));
    assert_int_equal(timing_memory(timing, &features).activations, 7 * 7);
    timing_free(timing);
    plan_free(&plan);
    hardware_free(&hardware);
}

/* Positions of sources and of what comes of them count each, and take half of what both take. */
static void caches_in_use_are_those_of_both_stacks(void **unused)
{
    (void)unused;
    for (uint32_t encoders = 0; encoders < 2; encoders++) {
        StepFeatures step = decode_of(4);
        step.positions = 30;
        Timing *timing;
        Hardware hardware = make_machine();
        HardwareModel *model = &hardware.models[0];
        model->memory.position_bytes = 100;
        assert_ok(mem_new(&model->ops[STACK_ENCODER], 1, sizeof(HardwareOp), "ops"));
        model->ops[STACK_ENCODER][0] = (HardwareOp){.op = OP_EMBED};
        model->n_ops[STACK_ENCODER] = encoders;
        Plan plan = plan_of("{\"moebius_plan\": 1}");
        assert_ok(open_timing(&hardware, &plan, &timing));
        step_ns(timing, &step, (const uint32_t[]){4, 0, 0, 0});
        assert_int_equal(timing_totals(timing).peak_in_use.caches, encoders ? 1500 : 3000);
        timing_free(timing);
        plan_free(&plan);
        hardware_free(&hardware);
    }
}

static void assert_not_opened(const char *text, Status status, const char *why)
{
    Timing *timing;
    Hardware hardware = make_machine();
    Plan plan = plan_of(text);
    assert_int_equal(open_timing(&hardware, &plan, &timing), status);
    if (strstr(error_message(), why) == NULL)
        fail_msg("%s", error_message());
    plan_free(&plan);
    hardware_free(&hardware);
}

static void what_is_not_known_of_several_ranks_is_refused(void **unused)
{
    (void)unused;
    assert_not_opened("{\"moebius_plan\": 1, \"placement\": {\"ranks\": 4}}", ERR_INPUT,
                      "it has no table \"all-to-all\" of 4 ranks, which times of this plan need");
    assert_not_opened(
        "{\"moebius_plan\": 1, \"placement\": {\"ranks\": 2}, \"buffer\":"
        " {\"slots\": 2}, \"prefetch\": {\"predictor\": \"oracle:1\"}}",
        ERR_PLAN,
        "placement.ranks: 2, buffers of more than one rank are of plans whose predictor does not "
        "know the future");
    assert_not_opened("{\"moebius_plan\": 1, \"placement\": {\"ranks\": 2},"
                      " \"gating\": {\"mode\": \"static\"}}",
                      ERR_PLAN, "with dynamic gating");
}

static void several_ranks_need_the_width_of_every_layer(void **unused)
{
    (void)unused;
    Timing *timing;
    TraceLayer layers[MOST_EVENTS];
    Hardware hardware = make_machine();
    Plan several = plan_of("{\"moebius_plan\": 1, \"placement\": {\"ranks\": 2}}");
    Plan one = plan_of("{\"moebius_plan\": 1}");
    make_layers(layers);
    layers[1].d_model = 0;
    assert_int_equal(open_timing_of(&hardware, &several, layers, &timing), ERR_INPUT);
    assert_string_equal(error_message(), "layer 1: the trace does not say its d_model, by which "
                                         "times of 2 ranks are told");
    assert_ok(open_timing_of(&hardware, &one, layers, &timing));
    timing_free(timing);
    plan_free(&one);
    plan_free(&several);
    hardware_free(&hardware);
}

static void every_failed_allocation_is_reported_and_leaks_nothing(void **unused)
{
    (void)unused;
    Hardware hardware = make_machine();
    Plan plan = plan_of(TWO);
    for (FailingAllocation failing = {0}; failing_next(&failing);) {
        Timing *timing = NULL;
        Status status = open_timing(&hardware, &plan, &timing);
        failing_end(&failing, status);
        if (status == OK)
            timing_free(timing);
    }
    plan_free(&plan);
    hardware_free(&hardware);
}

int main(void)
{
    memory_install();
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(an_event_ends_with_the_slowest_rank_and_its_exchanges),
        cmocka_unit_test(the_slowest_rank_may_have_fewer_rows),
        cmocka_unit_test(copies_of_an_expert_share_its_rows),
        cmocka_unit_test(ranks_share_whole_requests),
        cmocka_unit_test(one_rank_exchanges_nothing),
        cmocka_unit_test(random_steps_take_what_a_plain_reference_says),
        cmocka_unit_test(memory_is_the_fullest_ranks),
        cmocka_unit_test(memory_has_room_for_the_longest_prompt_of_a_rank),
        cmocka_unit_test(caches_in_use_are_those_of_both_stacks),
        cmocka_unit_test(what_is_not_known_of_several_ranks_is_refused),
        cmocka_unit_test(several_ranks_need_the_width_of_every_layer),
        cmocka_unit_test(every_failed_allocation_is_reported_and_leaks_nothing),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
