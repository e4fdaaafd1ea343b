/* Simulated time against the same tasks on the discrete-event engine, and its rules by themselves.
 */
#include "tests/reference_timing.h"

#include "tests/timing_events.h"

/* ---- random steps on both ---- */

static void compare_step(uint64_t *random, ExpertBuffer *buffer, Timing *timing, Played *played)
{
    RandomEvent event;
    StepTime time;
    uint32_t tokens = 1 + random_below(random, 30);
    const StepFeatures step = {.phase = PHASE_DECODE,
                               .tokens = tokens,
                               .requests = tokens,
                               .groups[SPANS_ONE] = {.requests = tokens, .tokens = tokens}};
    uint64_t start_ns = timing_now(timing);
    assert_int_equal(engine_now(played->engine), start_ns);
    assert_ok(timing_begin(timing, &step, 0));
    queue_op(played, OP_EMBED, tokens);
    queue_op(played, OP_ATTENTION, tokens);
    queue_op(played, OP_DENSE_FFN, tokens);
    for (uint32_t layer = 0; layer < MOE_LAYERS; layer++) {
        random_event(random, buffer, layer, &event);
        assert_ok(timing_event(timing, &event.event, event.actions, event.n_actions));
        queue_op(played, OP_ATTENTION, tokens);
        queue_op(played, OP_ROUTE, tokens);
        queue_experts(played, &event.event, event.actions, event.n_actions);
        queue_op(played, OP_COMBINE, tokens);
    }
    queue_op(played, OP_HEAD, tokens);
    assert_ok(timing_end(timing, &time));
    uint64_t head = played->n_compute - 1;
    uint64_t end_ns = end_step(played);
    assert_int_equal(time.start_ns, start_ns);
    assert_int_equal(time.start_ns + time.duration_ns, end_ns);
    const TimingRecord *last = &time.ops[time.n_ops - 1];
    assert_int_equal(last->op, OP_HEAD);
    assert_int_equal(last->start_ns + last->duration_ns, played->compute_ends[head]);
}

/* Of the prefetches of all runs. */
typedef struct {
    uint64_t cancelled;
    uint64_t late;
} Fates;

static void compare_run(uint64_t seed, Fates *fates)
{
    static const uint64_t SLOT_BYTES[] = {1000, 400000, 24 << 20};
    static const EngineResource STREAMS[] = {
        {ENGINE_STREAM, 1}, {ENGINE_STREAM, 1}, {ENGINE_STREAM, 1}};
    uint64_t random = seed;
    Hardware hardware;
    TraceLayer layers[MOE_LAYERS];
    ExpertBuffer *buffer;
    Timing *timing;
    static Played played;
    uint64_t slot_bytes = SLOT_BYTES[seed % 3];
    make_machine(&random, slot_bytes, &hardware);
    make_layers(layers);
    Plan plan = random_plan(&random);
    /* A plan that holds everything turns to graphs. */
    if (plan_holds_all(&plan, layers, MOE_LAYERS))
        plan.buffer.slots--;
    assert_ok(buffer_new(&plan, layers, MOE_LAYERS, &buffer));
    assert_ok(timing_new(&(TimingOptions){.hardware = &hardware,
                                          .model = "model",
                                          .plan = &plan,
                                          .layers = layers,
                                          .n_layers = MOE_LAYERS,
                                          .logits = true,
                                          .records = true},
                         &timing));
    played = (Played){.hardware = &hardware,
                      .slot_bytes = slot_bytes,
                      .predicts = plan_prefetches(&plan),
                      .shares = plan.buffer.scope == SCOPE_DEVICE};
    played.load_ns = plan.link.h2d_gb_per_s > 0 ? (uint64_t)(1000 / plan.link.h2d_gb_per_s) : 0;
    assert_ok(engine_new(STREAMS, 3, &played.engine));
    for (int i = 0; i < 12; i++)
        compare_step(&random, buffer, timing, &played);
    TimingTotals totals = timing_totals(timing);
    assert_int_equal(totals.total.prefetches_cancelled, played.cancelled);
    assert_int_equal(totals.total.late_loads, played.late);
    fates->cancelled += played.cancelled;
    fates->late += played.late;
    engine_free(played.engine);
    timing_free(timing);
    buffer_free(buffer);
    hardware_free(&hardware);
}

static void steps_end_as_their_tasks_do_on_the_engine(void **unused)
{
    (void)unused;
    Fates fates = {0};
    for (uint64_t seed = 1; seed <= (exhaustive() ? 3000 : 200); seed++)
        compare_run(seed, &fates);
    assert_true(fates.cancelled > 0 && fates.late > 0);
}

/* ---- steps that come long after others ---- */

/* ---- steps without a buffer ---- */

typedef struct {
    StepTime steps[20];
    uint32_t tokens[20];
    TimingTotals totals;
    uint64_t layer_ns[LAYERS];
} Summary;

typedef struct {
    bool records;
    bool stamped;
    bool forced;
    double forced_route_ns; /* 0: the profile does not have it */
} Variant;

static void run_without_buffer(uint64_t seed, const Variant *variant, Summary *summary)
{
    uint64_t random = seed;
    Hardware hardware;
    TraceLayer layers[MOE_LAYERS];
    ExpertBuffer *buffer;
    Timing *timing;
    RandomEvent event;
    const Plan plan = plan_default();
    make_machine(&random, 1000, &hardware);
    if (variant->forced_route_ns > 0)
        put_table(&hardware, "forced/route", "shape", "tokens", variant->forced_route_ns, 0);
    put_table(&hardware, "stamp", "", NULL, 3000, 0);
    put_table(&hardware, "step/rest", "model first", "tokens", 70000, 0);
    put_table(&hardware, "step/rest", "model capture", "tokens", 500000, 0);
    make_layers(layers);
    assert_ok(buffer_new(&plan, layers, MOE_LAYERS, &buffer));
    const TimingOptions options = {.hardware = &hardware,
                                   .model = "model",
                                   .plan = &plan,
                                   .layers = layers,
                                   .n_layers = MOE_LAYERS,
                                   .logits = seed % 2,
                                   .forced = variant->forced,
                                   .stamped = variant->stamped,
                                   .records = variant->records};
    assert_ok(timing_new(&options, &timing));
    for (int i = 0; i < 20; i++) {
        uint32_t tokens = summary->tokens[i] = 1 + random_below(&random, 3);
        const StepFeatures step = {.phase = PHASE_DECODE,
                                   .tokens = tokens,
                                   .requests = tokens,
                                   .groups[SPANS_ONE] = {.requests = tokens, .tokens = tokens}};
        assert_ok(timing_begin(timing, &step, 0));
        for (uint32_t layer = 0; layer < MOE_LAYERS; layer++) {
            random_event(&random, buffer, layer, &event);
            assert_ok(timing_event(timing, &event.event, event.actions, event.n_actions));
        }
        assert_ok(timing_end(timing, &summary->steps[i]));
    }
    summary->totals = timing_totals(timing);
    assert_int_equal(summary->totals.n_model_layers, LAYERS);
    memcpy(summary->layer_ns, summary->totals.layer_ns, sizeof summary->layer_ns);
    timing_free(timing);
    buffer_free(buffer);
    hardware_free(&hardware);
}

/* Attention of a step of ONE requests that generate and SEVERAL of 5 tokens. */
static uint64_t attention_ns(const Hardware *hardware, uint32_t one, uint32_t several)
{
    TraceLayer layers[MOE_LAYERS];
    const Plan plan = plan_default();
    Timing *timing;
    StepTime time;
    make_layers(layers);
    const TimingOptions options = {.hardware = hardware,
                                   .model = "model",
                                   .plan = &plan,
                                   .layers = layers,
                                   .n_layers = MOE_LAYERS};
    const StepFeatures step = {
        .phase = PHASE_MIXED,
        .tokens = one + 5 * several,
        .requests = one + several,
        .groups = {[SPANS_ONE] = {.requests = one, .tokens = one, .context = 9 * one},
                   [SPANS_SEVERAL] = {.requests = several, .tokens = 5 * several}}};
    assert_ok(timing_new(&options, &timing));
    assert_ok(timing_begin(timing, &step, 0));
    assert_ok(timing_end(timing, &time));
    uint64_t ns = timing_totals(timing).op_ns[OP_ATTENTION];
    timing_free(timing);
    return ns;
}

static const char *const ATTENTION_AXES[] = {"requests", "tokens", "context"};

static double known_attention_ns(uint32_t requests, uint32_t tokens, uint32_t context)
{
    return 4000 + 100 * requests * tokens * (1 + context);
}

/* A machine whose attention is known by requests, tokens and context. Returns how many operations
 * of it a step has. */
static uint32_t make_attending_machine(Hardware *hardware)
{
    uint64_t random = 3;
    uint32_t n = 0;
    CostTable *table;
    make_machine(&random, 1000, hardware);
    assert_ok(
        hardware_add_table(hardware, "gpu/attention", "other", UNIT_NS, ATTENTION_AXES, 3, &table));
    for (uint32_t i = 0; i < MOST_OPS && i < hardware->models[0].n_ops[STACK_DECODER]; i++)
        if (hardware->models[0].ops[STACK_DECODER][i].op == OP_ATTENTION) {
            snprintf(hardware->models[0].ops[STACK_DECODER][i].shape, 160, "other");
            n++;
        }
    for (uint32_t requests = 1; requests <= 4; requests++)
        for (uint32_t tokens = 0; tokens <= 20; tokens += 5)
            for (uint32_t context = 0; context <= 9; context += 9) {
                uint32_t at_least_1 = tokens > 0 ? tokens : 1;
                assert_ok(cost_table_put(table, (double[]){requests, at_least_1, context},
                                         known_attention_ns(requests, at_least_1, context), 0));
            }
    return n;
}

static void one_request_that_generates_adds_nothing_to_the_attention_of_prompts(void **unused)
{
    (void)unused;
    Hardware hardware;
    make_attending_machine(&hardware);
    uint64_t single_ns = attention_ns(&hardware, 1, 0);
    for (uint32_t one = 1; one <= 4; one++)
        for (uint32_t several = 1; several <= 4; several++) {
            uint64_t one_ns = attention_ns(&hardware, one, 0);
            uint64_t several_ns = attention_ns(&hardware, 0, several);
            uint64_t both_ns = several_ns + one_ns - single_ns;
            assert_int_equal(attention_ns(&hardware, one, several),
                             both_ns > one_ns ? both_ns : one_ns);
        }
    hardware_free(&hardware);
}

/* Of a prompt of 5 or 10 tokens, and requests with 9 before. */
static void what_a_prompt_beside_requests_was_measured_to_take_is_what_they_add(void **unused)
{
    (void)unused;
    Hardware hardware;
    CostTable *table;
    uint32_t n_ops = make_attending_machine(&hardware);
    uint64_t unknown_ns = attention_ns(&hardware, 2, 3);
    assert_ok(hardware_add_table(&hardware, "mixed/attention", "other", UNIT_NS, ATTENTION_AXES, 3,
                                 &table));
    for (uint32_t one = 1; one <= 4; one++)
        for (uint32_t tokens = 5; tokens <= 10; tokens += 5)
            assert_ok(cost_table_put(table, (double[]){one, tokens, 9},
                                     9000 + 700 * one + 30 * tokens, 0));
    for (uint32_t one = 1; one <= 4; one++) {
        assert_int_equal(attention_ns(&hardware, one, 1), n_ops * (9000 + 700 * one + 30 * 5));
        double added_ns = 9000 + 700 * one + 30 * 10 - known_attention_ns(1, 10, 0);
        assert_int_equal(attention_ns(&hardware, one, 2),
                         n_ops * (known_attention_ns(2, 5, 0) + added_ns));
    }
    /* 15 tokens were not measured. */
    assert_int_equal(attention_ns(&hardware, 2, 3), unknown_ns);
    hardware_free(&hardware);
}

static void steps_that_are_added_up_last_as_long_as_those_that_are_played(void **unused)
{
    (void)unused;
    for (uint64_t seed = 1; seed <= 40; seed++) {
        static Summary added;
        static Summary played;
        run_without_buffer(seed, &(Variant){.stamped = seed % 3 == 0}, &added);
        run_without_buffer(seed, &(Variant){.stamped = seed % 3 == 0, .records = true}, &played);
        for (int i = 0; i < 20; i++) {
            assert_int_equal(added.steps[i].start_ns, played.steps[i].start_ns);
            assert_int_equal(added.steps[i].duration_ns, played.steps[i].duration_ns);
        }
        assert_memory_equal(added.totals.op_ns, played.totals.op_ns, sizeof added.totals.op_ns);
        assert_memory_equal(added.layer_ns, played.layer_ns, sizeof added.layer_ns);
        assert_int_equal(added.totals.op_ns[OP_HEAD] > 0, seed % 2);
    }
}

/* Each number of tokens is a shape: run directly, then captured, then repeated. */
static void the_second_step_of_a_shape_becomes_a_graph(void **unused)
{
    (void)unused;
    static Summary summary;
    run_without_buffer(4, &(Variant){.records = true}, &summary);
    for (int i = 0; i < 20; i++) {
        uint32_t before = 0;
        for (int j = 0; j < i; j++)
            before += summary.tokens[j] == summary.tokens[i];
        uint64_t ns = summary.steps[i].duration_ns;
        assert_true(before == 1 ? ns >= 500000 : ns < 500000);
        assert_true(before > 0 || ns >= 70000);
        assert_true(before < 2 || ns < 70000);
    }
}

/* Forced routing costs what the router's does where the profile says nothing of it, and changes no
 * other operation. */
static void forced_routing_has_a_price_of_its_own(void **unused)
{
    (void)unused;
    static Summary free_choice;
    static Summary unpriced;
    static Summary priced;
    run_without_buffer(6, &(Variant){.records = true}, &free_choice);
    run_without_buffer(6, &(Variant){.records = true, .forced = true}, &unpriced);
    run_without_buffer(6, &(Variant){.records = true, .forced = true, .forced_route_ns = 12345},
                       &priced);
    for (Op op = 0; op < OPS; op++) {
        assert_int_equal(unpriced.totals.op_ns[op], free_choice.totals.op_ns[op]);
        if (op != OP_ROUTE)
            assert_int_equal(priced.totals.op_ns[op], free_choice.totals.op_ns[op]);
    }
    assert_int_equal(priced.totals.op_ns[OP_ROUTE], 20 * MOE_LAYERS * 12345);
}

/* A step under a plan that loads, with records. */
static Status run_one_step(const TimingOptions *options, ExpertBuffer *buffer)
{
    const StepFeatures step = {.phase = PHASE_DECODE,
                               .tokens = 2,
                               .requests = 2,
                               .groups[SPANS_ONE] = {.requests = 2, .tokens = 2}};
    uint64_t random = 9;
    RandomEvent event;
    StepTime time;
    Timing *timing;
    TRY(timing_new(options, &timing));
    Status status = timing_begin(timing, &step, 0);
    for (uint32_t layer = 0; layer < MOE_LAYERS && status == OK; layer++) {
        random_event(&random, buffer, layer, &event);
        status = timing_event(timing, &event.event, event.actions, event.n_actions);
    }
    if (status == OK)
        status = timing_end(timing, &time);
    timing_free(timing);
    return status;
}

static void memory_that_ends_is_told_and_nothing_is_lost(void **unused)
{
    (void)unused;
    uint64_t random = 5;
    Hardware hardware;
    TraceLayer layers[MOE_LAYERS];
    ExpertBuffer *buffer;
    Plan plan = plan_default();
    make_machine(&random, 1000, &hardware);
    make_layers(layers);
    plan.buffer.on = true;
    plan.buffer.slots = 4;
    snprintf(plan.buffer.evict, sizeof plan.buffer.evict, "lru");
    assert_ok(buffer_new(&plan, layers, MOE_LAYERS, &buffer));
    const TimingOptions options = {.hardware = &hardware,
                                   .model = "model",
                                   .plan = &plan,
                                   .layers = layers,
                                   .n_layers = MOE_LAYERS,
                                   .logits = true,
                                   .records = true};
    for (FailingAllocation failing = {0}; failing_next(&failing);) {
        Status status = run_one_step(&options, buffer);
        failing_end(&failing, status);
        buffer_reset(buffer);
    }
    buffer_free(buffer);
    hardware_free(&hardware);
}

/* ---- what whole steps take besides their operations ---- */

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(steps_end_as_their_tasks_do_on_the_engine),
        cmocka_unit_test(one_request_that_generates_adds_nothing_to_the_attention_of_prompts),
        cmocka_unit_test(what_a_prompt_beside_requests_was_measured_to_take_is_what_they_add),
        cmocka_unit_test(steps_that_are_added_up_last_as_long_as_those_that_are_played),
        cmocka_unit_test(the_second_step_of_a_shape_becomes_a_graph),
        cmocka_unit_test(memory_that_ends_is_told_and_nothing_is_lost),
        cmocka_unit_test(forced_routing_has_a_price_of_its_own),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
