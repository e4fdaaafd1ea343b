/* Simulated time against the same tasks on the discrete-event engine, and its rules by themselves.
 */
#include "tests/reference_timing.h"

#include "sim/rests.h"

/* ---- random steps on both ---- */

typedef struct {
    uint16_t experts[EXPERTS];
    uint32_t rows[EXPERTS];
    BufferAction actions[8 * EXPERTS];
    uint32_t n_actions;
    TimingEvent event;
} RandomEvent;

static void random_event(uint64_t *random, ExpertBuffer *buffer, uint32_t layer, RandomEvent *event)
{
    uint32_t n = 0;
    for (uint16_t e = 0; e < EXPERTS; e++)
        if (random_below(random, 3) == 0 || (n == 0 && e + 1 == EXPERTS)) {
            event->experts[n] = e;
            event->rows[n++] = 1 + random_below(random, 3);
        }
    event->event =
        (TimingEvent){.layer_index = layer, .n = n, .experts = event->experts, .rows = event->rows};
    const BufferEvent asked = {.layer_index = layer, .n = n, .experts = event->experts};
    assert_true(buffer_max_actions(buffer, n) <= 8 * EXPERTS);
    buffer_event(buffer, &asked, NULL, event->actions, &event->n_actions);
}

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

enum { SPACED = 6 };

/* Steps whose experts are all in place but for one, which begin at EARLIEST [SPACED] or later. */
/* SPACED steps of TOKENS requests. */
static void run_steps(const Hardware *hardware, const Plan *plan, uint32_t tokens,
                      const uint64_t *earliest, StepTime *steps)
{
    TraceLayer layers[MOE_LAYERS];
    ExpertBuffer *buffer;
    Timing *timing;
    RandomEvent event;
    uint64_t random = 5;
    make_layers(layers);
    assert_ok(buffer_new(plan, layers, MOE_LAYERS, &buffer));
    const TimingOptions options = {.hardware = hardware,
                                   .model = "model",
                                   .plan = plan,
                                   .layers = layers,
                                   .n_layers = MOE_LAYERS};
    assert_ok(timing_new(&options, &timing));
    for (int i = 0; i < SPACED; i++) {
        const StepFeatures step = {.tokens = tokens,
                                   .requests = tokens,
                                   .groups[SPANS_ONE] = {.requests = tokens, .tokens = tokens}};
        assert_ok(timing_begin(timing, &step, earliest[i]));
        for (uint32_t layer = 0; layer < MOE_LAYERS; layer++) {
            random_event(&random, buffer, layer, &event);
            assert_ok(timing_event(timing, &event.event, event.actions, event.n_actions));
        }
        assert_ok(timing_end(timing, &steps[i]));
    }
    timing_free(timing);
    buffer_free(buffer);
}

static void run_plan(const Hardware *hardware, const Plan *plan, const uint64_t *earliest,
                     StepTime *steps)
{
    run_steps(hardware, plan, 1, earliest, steps);
}

static Plan buffered(uint32_t slots)
{
    Plan plan = plan_default();
    plan.buffer.on = true;
    plan.buffer.slots = slots;
    return plan;
}

static void run_spaced(const Hardware *hardware, const uint64_t *earliest, StepTime *steps)
{
    const Plan plan = buffered(EXPERTS - 1);
    run_plan(hardware, &plan, earliest, steps);
}

/* The profile's cost at 0, 10 and 20 ms is 0, 1 and 3 ms. */
static void a_queued_step_is_longer_by_what_the_time_since_the_last_began_costs(void **unused)
{
    (void)unused;
    static const char *const AXIS[] = {"elapsed"};
    static const uint64_t APART_MS[SPACED] = {0, 1000, 10, 5, 15, 400};
    static const uint64_t COLD_US[SPACED] = {3000, 3000, 1000, 500, 2000, 3000};
    uint64_t random = 11;
    uint64_t earliest[SPACED];
    StepTime warm[SPACED];
    StepTime cold[SPACED];
    Hardware hardware;
    CostTable *table;
    make_machine(&random, 1000, &hardware);
    for (int i = 0; i < SPACED; i++)
        earliest[i] = (i > 0 ? earliest[i - 1] : 0) + 1000000 * APART_MS[i];
    run_spaced(&hardware, earliest, warm);
    assert_ok(hardware_add_table(&hardware, "step/cold", "model", UNIT_NS, AXIS, 1, &table));
    for (int i = 0; i < 3; i++)
        assert_ok(cost_table_put(table, (const double[]){1e7 * i}, 5e5 * i * (i + 1), 0));
    run_spaced(&hardware, earliest, cold);
    for (int i = 0; i < SPACED; i++) {
        assert_int_equal(cold[i].start_ns, earliest[i]);
        assert_int_equal(cold[i].duration_ns, warm[i].duration_ns + 1000 * COLD_US[i]);
    }
    hardware_free(&hardware);
}

/* The first operation of a step, where a byte that an event of the step before loaded costs 1 us,
 * up to MOST of them. */
static void assert_cold(double most)
{
    static const char *const AXES[] = {"tokens", "bytes"};
    static const uint64_t AT_ONCE[SPACED] = {0};
    uint64_t random = 11;
    uint64_t loaded = 0;
    StepTime warm[SPACED];
    StepTime cold[SPACED];
    Hardware hardware;
    CostTable *table;
    make_machine(&random, 1000, &hardware);
    run_spaced(&hardware, AT_ONCE, warm);
    assert_ok(hardware_add_table(&hardware, "cold/embed", "shape", UNIT_NS, AXES, 2, &table));
    assert_ok(cost_table_put(table, (const double[]){1, 0}, 0, 0));
    assert_ok(cost_table_put(table, (const double[]){1, most}, 1e3 * most, 0));
    run_spaced(&hardware, AT_ONCE, cold);
    for (int i = 0; i < SPACED; i++) {
        int64_t more_ns = (int64_t)cold[i].duration_ns - (int64_t)warm[i].duration_ns;
        double before = i > 0 ? (double)(warm[i - 1].bytes_loaded / MOE_LAYERS) : 0;
        int64_t bytes = (int64_t)(before < most ? before : most);
        /* What queueing had hidden behind the device is in sight. */
        assert_true(more_ns <= 1000 * bytes && more_ns > 1000 * bytes - 60000);
        assert_true(bytes > 0 || more_ns == 0);
        loaded += warm[i].bytes_loaded;
    }
    assert_true((double)loaded > most);
    hardware_free(&hardware);
}

static void after_loads_the_first_of_its_sort_is_queued_in_more_time(void **unused)
{
    (void)unused;
    assert_cold(300);
    assert_cold(5000);
}

/* The stamp that waking up is told from lasts 5 us, where there is none as well. */
static void the_host_wakes_up_as_if_there_were_a_stamp(void **unused)
{
    (void)unused;
    static const uint64_t AT_ONCE[SPACED] = {0};
    uint64_t random = 17;
    StepTime before[SPACED];
    StepTime after[SPACED];
    Hardware hardware;
    CostTable *table;
    make_machine(&random, 1000, &hardware);
    run_spaced(&hardware, AT_ONCE, before);
    assert_ok(hardware_add_table(&hardware, "stamp/queued", "", UNIT_NS, NULL, 0, &table));
    assert_ok(cost_table_put(table, NULL, 5000, 0));
    run_spaced(&hardware, AT_ONCE, after);
    for (int i = 0; i < SPACED; i++) {
        assert_true(after[i].duration_ns > before[i].duration_ns);
        assert_true(after[i].duration_ns <= before[i].duration_ns + 5000 * MOE_LAYERS);
    }
    hardware_free(&hardware);
}

/* Steps of TOKENS, where a stamp takes so much by the N points of TOKENS and nanoseconds; 0: by
 * NS alone. */
static void run_stamped_as(uint32_t tokens, const double points[][2], uint32_t n, double ns,
                           StepTime *steps)
{
    static const char *const AXIS[] = {"tokens"};
    static const uint64_t AT_ONCE[SPACED] = {0};
    const Plan plan = buffered(EXPERTS - 1);
    uint64_t random = 17;
    Hardware hardware;
    CostTable *table;
    make_machine(&random, 1000, &hardware);
    assert_ok(
        hardware_add_table(&hardware, "stamp/queued", "", UNIT_NS, AXIS, n > 0 ? 1 : 0, &table));
    for (uint32_t i = 0; i < n; i++)
        assert_ok(cost_table_put(table, &points[i][0], points[i][1], 0));
    if (n == 0)
        assert_ok(cost_table_put(table, NULL, ns, 0));
    run_steps(&hardware, &plan, tokens, AT_ONCE, steps);
    hardware_free(&hardware);
}

static void a_stamp_is_that_of_as_many_tokens_and_no_more_beyond_those_measured(void **unused)
{
    (void)unused;
    static const double POINTS[][2] = {{2, 5000}, {6, 1000}};
    static const struct {
        uint32_t tokens;
        double ns;
    } WANTED[] = {{1, 5000}, {2, 5000}, {3, 4000}, {5, 2000}, {6, 1000}, {40, 1000}};
    StepTime by_tokens[SPACED];
    StepTime wanted[SPACED];
    StepTime none[SPACED];
    for (size_t i = 0; i < sizeof WANTED / sizeof *WANTED; i++) {
        run_stamped_as(WANTED[i].tokens, POINTS, 2, 0, by_tokens);
        run_stamped_as(WANTED[i].tokens, NULL, 0, WANTED[i].ns, wanted);
        run_stamped_as(WANTED[i].tokens, NULL, 0, 0, none);
        for (int step = 0; step < SPACED; step++) {
            assert_int_equal(by_tokens[step].duration_ns, wanted[step].duration_ns);
            assert_true(by_tokens[step].duration_ns > none[step].duration_ns);
        }
    }
}

static void set_table(Hardware *hardware, const char *name, double value)
{
    for (uint32_t i = 0; i < hardware->n_tables; i++)
        for (uint32_t p = 0;
             strcmp(hardware->tables[i].name, name) == 0 && p < hardware->tables[i].n_points; p++)
            hardware->tables[i].value[p] = value;
}

/* Of experts that prefetches bring in parts, each in 100 us: that table NAME is 300 us makes steps
 * longer that prefetch, and no others. */
static void assert_prefetches_cost(const char *name)
{
    static const uint64_t AT_ONCE[SPACED] = {0};
    uint64_t random = 13;
    StepTime before[2][SPACED];
    StepTime after[2][SPACED];
    Hardware hardware;
    CostTable *table;
    Plan plans[] = {buffered(EXPERTS), buffered(EXPERTS)};
    snprintf(plans[1].prefetch.predictor, sizeof plans[1].prefetch.predictor, "previous-step");
    plans[0].buffer.scope = plans[1].buffer.scope = SCOPE_DEVICE;
    plans[1].prefetch.max_inflight = 4;
    make_machine(&random, 24 << 20, &hardware);
    set_table(&hardware, "copy/h2d", 100000);
    for (int i = 0; i < 2; i++)
        run_plan(&hardware, &plans[i], AT_ONCE, before[i]);
    assert_ok(hardware_add_table(&hardware, name, "", UNIT_NS, NULL, 0, &table));
    assert_ok(cost_table_put(table, NULL, 300000, 0));
    int64_t longer_ns = 0;
    for (int i = 0; i < 2; i++)
        run_plan(&hardware, &plans[i], AT_ONCE, after[i]);
    for (int i = 0; i < SPACED; i++) {
        assert_int_equal(after[0][i].duration_ns, before[0][i].duration_ns);
        longer_ns += (int64_t)after[1][i].duration_ns - (int64_t)before[1][i].duration_ns;
    }
    assert_true(longer_ns > 300000);
    assert_true(longer_ns <= 300000ll * SPACED * MOST_OPS);
    hardware_free(&hardware);
}

static void while_prefetches_wait_operations_are_queued_in_more_time(void **unused)
{
    (void)unused;
    assert_prefetches_cost("issue/poll");
}

static void while_prefetches_are_copied_operations_take_longer(void **unused)
{
    (void)unused;
    assert_prefetches_cost("beside");
}

/* What a profile may hold at the most, which in nanoseconds is 30 years. */
static void no_cost_is_longer_than_eleven_days(void **unused)
{
    (void)unused;
    static const char *const NAMES[] = {"wake", "lag", "issue/await", "after/load", "step/rest"};
    static const double DAYS_NS = 1e15;
    static const uint64_t AT_ONCE[SPACED] = {0};
    for (size_t i = 0; i < sizeof NAMES / sizeof *NAMES; i++) {
        uint64_t random = 3 + i;
        StepTime steps[SPACED];
        Hardware hardware;
        make_machine(&random, 1000, &hardware);
        set_table(&hardware, NAMES[i], 1e18);
        run_spaced(&hardware, AT_ONCE, steps);
        for (int s = 0; s < SPACED; s++)
            assert_true((double)steps[s].duration_ns < 60 * DAYS_NS);
        hardware_free(&hardware);
    }
}

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

static void one_request_that_generates_adds_nothing_to_the_attention_of_prompts(void **unused)
{
    (void)unused;
    static const char *const AXES[] = {"requests", "tokens", "context"};
    uint64_t random = 3;
    Hardware hardware;
    CostTable *table;
    make_machine(&random, 1000, &hardware);
    assert_ok(hardware_add_table(&hardware, "gpu/attention", "other", UNIT_NS, AXES, 3, &table));
    for (uint32_t i = 0; i < MOST_OPS && i < hardware.models[0].n_ops[STACK_DECODER]; i++)
        if (hardware.models[0].ops[STACK_DECODER][i].op == OP_ATTENTION)
            snprintf(hardware.models[0].ops[STACK_DECODER][i].shape, 160, "other");
    for (uint32_t requests = 1; requests <= 4; requests++)
        for (uint32_t tokens = 1; tokens <= 5; tokens += 4)
            for (uint32_t context = 0; context <= 9; context += 9)
                assert_ok(cost_table_put(table, (double[]){requests, tokens, context},
                                         4000 + 100 * requests * tokens * (1 + context), 0));
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

static void time_between_steps_is_that_of_their_tokens_and_routing(void **unused)
{
    (void)unused;
    uint64_t random = 3;
    Hardware hardware;
    TraceLayer layers[MOE_LAYERS];
    const Plan plan = plan_default();
    make_machine(&random, 1000, &hardware);
    put_table(&hardware, "between", "model", "tokens", 1000, 10);
    make_layers(layers);
    for (int known = 0; known < 2; known++)
        for (int forced = 0; forced < 2; forced++) {
            const TimingOptions options = {.hardware = &hardware,
                                           .model = "model",
                                           .plan = &plan,
                                           .layers = layers,
                                           .n_layers = MOE_LAYERS,
                                           .forced = forced};
            const StepFeatures step = {.phase = PHASE_DECODE, .tokens = 2, .requests = 2};
            const uint64_t wanted_ns = known && forced ? 5040 : 1020;
            Timing *timing;
            StepTime time;
            if (known && !forced)
                put_table(&hardware, "between", "model forced", "tokens", 5000, 20);
            assert_ok(timing_new(&options, &timing));
            for (uint64_t i = 1; i <= 3; i++) {
                assert_ok(timing_begin(timing, &step, 0));
                assert_ok(timing_end(timing, &time));
                assert_int_equal(timing_between(timing), wanted_ns);
                assert_int_equal(timing_now(timing), time.start_ns + time.duration_ns + wanted_ns);
                assert_int_equal(timing_totals(timing).between_ns, i * wanted_ns);
            }
            timing_free(timing);
        }
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

enum { WHOLE = 12 };

/* Steps of WHOLE kinds, each measured to take what chance has it, of chance's routing. */
static void make_whole_steps(uint64_t *random, WholeSteps *whole)
{
    TraceLayer layers[MOE_LAYERS];
    make_layers(layers);
    assert_ok(whole_steps_begin(whole, "model", layers, MOE_LAYERS));
    for (uint32_t i = 0; i < WHOLE; i++) {
        uint16_t experts[MOE_LAYERS * 6 * 2];
        for (size_t k = 0; k < sizeof experts / sizeof *experts; k++)
            experts[k] = (uint16_t)random_below(random, EXPERTS);
        const WholeStep step = {.requests = 1 + i % 6,
                                .tokens = 1,
                                .forced = i >= WHOLE / 2,
                                .first_ns = 100000 + random_below(random, 900000),
                                .second_ns = 100000 + random_below(random, 900000),
                                .third_ns = 100000 + random_below(random, 900000),
                                .ns = 100000 + random_below(random, 900000)};
        assert_ok(whole_steps_add(whole, &step, experts));
    }
}

static uint64_t play_whole(Timing *timing, const WholeSteps *whole, const WholeStep *step)
{
    const uint32_t *rows = whole->rows + step->first_row;
    const StepFeatures features = {
        .phase = PHASE_DECODE,
        .tokens = step->requests,
        .requests = step->requests,
        .groups[SPANS_ONE] = {.requests = step->requests, .tokens = step->requests}};
    StepTime time;
    assert_ok(timing_begin(timing, &features, 0));
    for (uint32_t layer = 0; layer < MOE_LAYERS; layer++, rows += EXPERTS) {
        uint32_t share[EXPERTS];
        TimingEvent event = {.layer_index = layer, .rows = share};
        for (uint32_t e = 0; e < EXPERTS; e++)
            if (rows[e] > 0)
                share[event.n++] = rows[e];
        assert_ok(timing_event(timing, &event, NULL, 0));
    }
    assert_ok(timing_end(timing, &time));
    return time.duration_ns;
}

/* The first, the second and the third step of every kind. */
static void assert_steps_take_what_they_took(const WholeSteps *whole, const Hardware *hardware,
                                             bool forced)
{
    TraceLayer layers[MOE_LAYERS];
    const Plan plan = plan_default();
    Timing *timing;
    make_layers(layers);
    const TimingOptions options = {.hardware = hardware,
                                   .model = "model",
                                   .plan = &plan,
                                   .layers = layers,
                                   .n_layers = MOE_LAYERS,
                                   .logits = true,
                                   .forced = forced};
    assert_ok(timing_new(&options, &timing));
    for (size_t i = 0; i < whole->n; i++) {
        const WholeStep *step = &whole->steps[i];
        const double wanted[] = {step->first_ns, step->second_ns, step->third_ns, step->ns,
                                 step->ns};
        for (size_t k = 0; step->forced == forced && k < 5; k++) {
            double ns = (double)play_whole(timing, whole, step);
            assert_true(ns >= wanted[k] - 1 && ns <= wanted[k] + 1);
        }
    }
    timing_free(timing);
}

static void whole_steps_take_what_they_were_measured_to(void **unused)
{
    (void)unused;
    for (uint64_t seed = 1; seed <= 20; seed++) {
        uint64_t random = seed;
        Hardware hardware;
        WholeSteps whole = {0};
        make_machine(&random, 1000, &hardware);
        put_table(&hardware, "forced/route", "shape", "tokens", random_below(&random, 3000), 9);
        const CostTable *made_up = hardware_table(&hardware, "step/rest", "model graph");
        snprintf(hardware.tables[made_up - hardware.tables].name, 48, "not asked for");
        make_whole_steps(&random, &whole);
        assert_ok(rests_note(&whole, &hardware));
        assert_steps_take_what_they_took(&whole, &hardware, false);
        assert_steps_take_what_they_took(&whole, &hardware, true);
        assert_ok(rests_note(&whole, &hardware));
        assert_steps_take_what_they_took(&whole, &hardware, true);
        whole_steps_free(&whole);
        hardware_free(&hardware);
    }
}

static void rests_that_memory_ends_lose_nothing(void **unused)
{
    (void)unused;
    uint64_t random = 7;
    Hardware hardware;
    WholeSteps whole = {0};
    make_machine(&random, 1000, &hardware);
    put_table(&hardware, "forced/route", "shape", "tokens", 1000, 9);
    make_whole_steps(&random, &whole);
    assert_ok(rests_note(&whole, &hardware)); /* which now has all tables */
    for (FailingAllocation failing = {0}; failing_next(&failing);)
        failing_end(&failing, rests_note(&whole, &hardware));
    whole_steps_free(&whole);
    hardware_free(&hardware);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(steps_end_as_their_tasks_do_on_the_engine),
        cmocka_unit_test(the_host_wakes_up_as_if_there_were_a_stamp),
        cmocka_unit_test(a_stamp_is_that_of_as_many_tokens_and_no_more_beyond_those_measured),
        cmocka_unit_test(while_prefetches_wait_operations_are_queued_in_more_time),
        cmocka_unit_test(while_prefetches_are_copied_operations_take_longer),
        cmocka_unit_test(after_loads_the_first_of_its_sort_is_queued_in_more_time),
        cmocka_unit_test(a_queued_step_is_longer_by_what_the_time_since_the_last_began_costs),
        cmocka_unit_test(no_cost_is_longer_than_eleven_days),
        cmocka_unit_test(one_request_that_generates_adds_nothing_to_the_attention_of_prompts),
        cmocka_unit_test(time_between_steps_is_that_of_their_tokens_and_routing),
        cmocka_unit_test(steps_that_are_added_up_last_as_long_as_those_that_are_played),
        cmocka_unit_test(the_second_step_of_a_shape_becomes_a_graph),
        cmocka_unit_test(memory_that_ends_is_told_and_nothing_is_lost),
        cmocka_unit_test(forced_routing_has_a_price_of_its_own),
        cmocka_unit_test(whole_steps_take_what_they_were_measured_to),
        cmocka_unit_test(rests_that_memory_ends_lose_nothing),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
