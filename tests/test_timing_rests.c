/* What is left of whole steps beyond their operations. */
#include "tests/timing_machine.h"

#include "sim/rests.h"

enum { WHOLE = 18, PROMPT = 4 };

/* Steps of WHOLE kinds, each measured to take what chance has it, of chance's routing: of a token
 * each, the last third with a prompt beside. */
static void make_whole_steps(uint64_t *random, WholeSteps *whole)
{
    TraceLayer layers[MOE_LAYERS];
    make_layers(layers);
    assert_ok(whole_steps_begin(whole, "model", layers, MOE_LAYERS));
    for (uint32_t i = 0; i < WHOLE; i++) {
        uint16_t experts[MOE_LAYERS * (6 + PROMPT) * 2];
        for (size_t k = 0; k < sizeof experts / sizeof *experts; k++)
            experts[k] = (uint16_t)random_below(random, EXPERTS);
        const WholeStep step = {.requests = 1 + i % 6,
                                .tokens = 1,
                                .context = i >= 2 * WHOLE / 3 ? 30 : 0,
                                .prompt = i >= 2 * WHOLE / 3 ? PROMPT : 0,
                                .forced = i >= WHOLE / 3,
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
        .phase = step->prompt > 0 ? PHASE_MIXED : PHASE_DECODE,
        .tokens = step->requests + step->prompt,
        .requests = step->requests + (step->prompt > 0),
        .groups[SPANS_ONE] = {.requests = step->requests,
                              .tokens = step->requests,
                              .context = (uint64_t)step->requests * step->context},
        .groups[SPANS_SEVERAL] = {.requests = step->prompt > 0, .tokens = step->prompt}};
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

/* The machine's rests are by another axis. */
static void whole_steps_take_what_they_were_measured_to(void **unused)
{
    (void)unused;
    for (uint64_t seed = 1; seed <= 20; seed++) {
        uint64_t random = seed;
        Hardware hardware;
        WholeSteps whole = {0};
        make_machine(&random, 1000, &hardware);
        put_table(&hardware, "forced/route", "shape", "tokens", random_below(&random, 3000), 9);
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

static bool says_that_rests_are_missing(const Hardware *hardware, bool buffer, bool bare)
{
    TraceLayer layers[MOE_LAYERS];
    Plan plan = plan_default();
    Timing *timing;
    bool says = false;
    plan.buffer.on = buffer;
    plan.buffer.slots = 1;
    make_layers(layers);
    const TimingOptions options = {.hardware = hardware,
                                   .model = "model",
                                   .plan = &plan,
                                   .layers = layers,
                                   .n_layers = MOE_LAYERS,
                                   .bare = bare};
    assert_ok(timing_new(&options, &timing));
    const TimingTotals totals = timing_totals(timing);
    for (uint32_t i = 0; i < totals.n_missing; i++)
        says = says || strcmp(totals.missing[i], "step/rest") == 0;
    timing_free(timing);
    return says;
}

/* Steps without a buffer take it from the profile as graphs, those with one as they are queued, or
 * else as graphs. */
static void a_profile_that_lacks_rests_is_not_taken_for_one_without(void **unused)
{
    (void)unused;
    for (int with = 0; with < 3; with++) {
        static const char *const SHAPES[] = {"other graph", "model queued", "model graph"};
        uint64_t random = 3;
        Hardware hardware;
        make_machine(&random, 1000, &hardware);
        CostTable *rest = &hardware.tables[0];
        while (strcmp(rest->name, "step/rest") != 0)
            rest++;
        snprintf(rest->shape, sizeof rest->shape, "%s", SHAPES[with]);
        assert_true(says_that_rests_are_missing(&hardware, false, false) == (with < 2));
        assert_true(says_that_rests_are_missing(&hardware, true, false) == (with < 1));
        assert_false(says_that_rests_are_missing(&hardware, true, true));
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
        cmocka_unit_test(whole_steps_take_what_they_were_measured_to),
        cmocka_unit_test(a_profile_that_lacks_rests_is_not_taken_for_one_without),
        cmocka_unit_test(rests_that_memory_ends_lose_nothing),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
