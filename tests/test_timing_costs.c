/* What single costs of a profile do to the time of steps. */
#include "tests/timing_machine.h"

#include "tests/timing_events.h"

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

static void set_table(Hardware *hardware, const char *name, double value)
{
    for (uint32_t i = 0; i < hardware->n_tables; i++)
        for (uint32_t p = 0;
             strcmp(hardware->tables[i].name, name) == 0 && p < hardware->tables[i].n_points; p++)
            hardware->tables[i].value[p] = value;
}

/* What a step loses is 0, 1 and 3 ms where the one before was queued 0, 10 and 20 ms ago. */
static void put_cold(Hardware *hardware)
{
    static const char *const AXIS[] = {"elapsed"};
    CostTable *table;
    assert_ok(hardware_add_table(hardware, "step/cold", "model", UNIT_NS, AXIS, 1, &table));
    for (int i = 0; i < 3; i++)
        assert_ok(cost_table_put(table, (const double[]){1e7 * i}, 5e5 * i * (i + 1), 0));
}

static double lost_ns(uint64_t elapsed_ns)
{
    double ms = (double)elapsed_ns / 1e6;
    return ms < 10 ? 1e5 * ms : ms < 20 ? 1e6 + 2e5 * (ms - 10) : 3e6;
}

/* It was queued when it began at the earliest, and when it ended at the latest. */
static void a_queued_step_is_longer_by_what_the_time_since_the_last_was_costs(void **unused)
{
    (void)unused;
    static const uint64_t APART_MS[SPACED] = {0, 1000, 10, 5, 15, 400};
    uint64_t random = 11;
    uint64_t earliest[SPACED];
    StepTime warm[SPACED];
    StepTime cold[SPACED];
    Hardware hardware;
    make_machine(&random, 1000, &hardware);
    for (int i = 0; i < SPACED; i++)
        earliest[i] = (i > 0 ? earliest[i - 1] : 0) + 1000000 * APART_MS[i];
    run_spaced(&hardware, earliest, warm);
    put_cold(&hardware);
    run_spaced(&hardware, earliest, cold);
    for (int i = 0; i < SPACED; i++) {
        double ns = (double)(cold[i].duration_ns - warm[i].duration_ns);
        uint64_t end_ns = i > 0 ? cold[i - 1].start_ns + cold[i - 1].duration_ns : 0;
        assert_int_equal(cold[i].start_ns, earliest[i]);
        if (i == 0)
            assert_true(ns == 3e6);
        else
            assert_true(ns + 1 >= lost_ns(earliest[i] - end_ns) &&
                        ns <= lost_ns(earliest[i] - cold[i - 1].start_ns));
    }
    hardware_free(&hardware);
}

/* Steps of which an operation takes 25 ms: the host, which queues it, or the device, for which the
 * host waits. Only then it loses anything. */
static void what_the_host_waits_for_is_time_since_the_last_step_was_queued(void **unused)
{
    (void)unused;
    static const struct {
        const char *name;
        double lost;
    } CASES[] = {{"issue/combine", 0}, {"gpu/combine", 3e6}};
    static const uint64_t AT_ONCE[SPACED] = {0};
    for (size_t c = 0; c < sizeof CASES / sizeof *CASES; c++) {
        uint64_t random = 11;
        StepTime warm[SPACED];
        StepTime cold[SPACED];
        Hardware hardware;
        make_machine(&random, 1000, &hardware);
        set_table(&hardware, CASES[c].name, 2.5e7);
        run_spaced(&hardware, AT_ONCE, warm);
        put_cold(&hardware);
        run_spaced(&hardware, AT_ONCE, cold);
        for (int i = 1; i < SPACED; i++) {
            double ns = (double)(cold[i].duration_ns - warm[i].duration_ns);
            assert_true(ns >= CASES[c].lost && ns <= CASES[c].lost + lost_ns(1000000));
        }
        hardware_free(&hardware);
    }
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

/* Small experts over a slow link: what their steps took counts, not what a bare device did. */
static void what_a_slow_link_adds_is_that_of_the_experts_where_they_were_measured(void **unused)
{
    (void)unused;
    static const char *const NAMES[] = {"throttle/least", "issue/throttle"};
    static const uint64_t AT_ONCE[SPACED] = {0};
    for (size_t i = 0; i < sizeof NAMES / sizeof *NAMES; i++)
        for (double ns = 0; ns <= 50000; ns += 50000) {
            uint64_t random = 17;
            StepTime wanted[SPACED];
            StepTime steps[SPACED];
            Hardware hardware;
            Plan plan = buffered(EXPERTS - 1);
            plan.link.h2d_gb_per_s = 1e3;
            make_machine(&random, 1000, &hardware);
            put_table(&hardware, NAMES[i], "", NULL, ns, 0);
            run_plan(&hardware, &plan, AT_ONCE, wanted);
            put_table(&hardware, NAMES[i], "", NULL, 77000, 0);
            put_table(&hardware, NAMES[i], "shape", NULL, ns, 0);
            run_plan(&hardware, &plan, AT_ONCE, steps);
            for (int step = 0; step < SPACED; step++)
                assert_int_equal(steps[step].duration_ns, wanted[step].duration_ns);
            hardware_free(&hardware);
        }
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

/* Small experts are put off until the host waits, three at the most. It then is not told of the
 * next event before as much time has passed as is in the table, which ends at MOST of them. */
static void where_small_prefetches_begin_the_host_is_told_later(void **unused)
{
    (void)unused;
    static const char *const AXIS[] = {"loads"};
    static const uint64_t AT_ONCE[SPACED] = {0};
    static const double LEAST_NS = 400000;
    StepTime first[SPACED];
    for (uint32_t most = 1; most <= 3; most++) {
        uint64_t random = 19;
        StepTime before[2][SPACED];
        StepTime after[2][SPACED];
        Hardware hardware;
        CostTable *table;
        Plan plans[] = {buffered(EXPERTS), buffered(EXPERTS)};
        plans[0].buffer.scope = plans[1].buffer.scope = SCOPE_DEVICE;
        snprintf(plans[1].prefetch.predictor, sizeof plans[1].prefetch.predictor, "previous-step");
        plans[1].prefetch.max_inflight = 3;
        make_machine(&random, 1000, &hardware);
        for (int i = 0; i < 2; i++)
            run_plan(&hardware, &plans[i], AT_ONCE, before[i]);
        assert_ok(hardware_add_table(&hardware, "wait/ahead", "shape", UNIT_NS, AXIS, 1, &table));
        for (uint32_t n = 1; n <= most; n++)
            assert_ok(cost_table_put(table, (const double[]){n}, LEAST_NS, 0));
        int64_t longer_ns = 0;
        for (int i = 0; i < 2; i++)
            run_plan(&hardware, &plans[i], AT_ONCE, after[i]);
        for (int i = 0; i < SPACED; i++) {
            int64_t more_ns = (int64_t)after[1][i].duration_ns - (int64_t)before[1][i].duration_ns;
            assert_int_equal(after[0][i].duration_ns, before[0][i].duration_ns);
            assert_true(more_ns >= 0 && more_ns <= (int64_t)LEAST_NS * MOE_LAYERS);
            longer_ns += more_ns;
            if (most == 1)
                first[i] = after[1][i];
            assert_int_equal(after[1][i].duration_ns, first[i].duration_ns);
        }
        assert_true(longer_ns > (int64_t)LEAST_NS / 2);
        hardware_free(&hardware);
    }
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

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(the_host_wakes_up_as_if_there_were_a_stamp),
        cmocka_unit_test(a_stamp_is_that_of_as_many_tokens_and_no_more_beyond_those_measured),
        cmocka_unit_test(while_prefetches_wait_operations_are_queued_in_more_time),
        cmocka_unit_test(while_prefetches_are_copied_operations_take_longer),
        cmocka_unit_test(where_small_prefetches_begin_the_host_is_told_later),
        cmocka_unit_test(what_a_slow_link_adds_is_that_of_the_experts_where_they_were_measured),
        cmocka_unit_test(after_loads_the_first_of_its_sort_is_queued_in_more_time),
        cmocka_unit_test(a_queued_step_is_longer_by_what_the_time_since_the_last_was_costs),
        cmocka_unit_test(what_the_host_waits_for_is_time_since_the_last_step_was_queued),
        cmocka_unit_test(no_cost_is_longer_than_eleven_days),
        cmocka_unit_test(time_between_steps_is_that_of_their_tokens_and_routing),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
