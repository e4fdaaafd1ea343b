/* What a step's time depends on, against sums over the requests that made the steps. */
#include "tests/support.h"

#include "base/memory.h"
#include "sim/features.h"

enum { REQUESTS = 40, MOST_TOKENS = 64, MOST_STEPS = 400 };

typedef struct {
    uint32_t prompt; /* tokens that are left of it */
    uint32_t output;
    uint32_t length; /* so far */
    uint32_t first_step;
    uint32_t last_step;
    bool begun;
} Request;

/* A step as it was made, and what is to be found of it. */
typedef struct {
    uint32_t request[MOST_TOKENS];
    uint32_t position[MOST_TOKENS];
    StepFeatures wanted;
} Made;

typedef struct {
    Request requests[REQUESTS];
    Made steps[MOST_STEPS];
    uint32_t n;
} Schedule;

static void add_span(Made *made, Request *request, uint32_t number, uint32_t tokens, uint32_t step)
{
    StepFeatures *wanted = &made->wanted;
    SpanGroup *group = &wanted->groups[tokens == 1 ? SPANS_ONE : SPANS_SEVERAL];
    if (!request->begun)
        request->first_step = step;
    request->begun = true;
    request->last_step = step;
    group->requests++;
    group->tokens += tokens;
    group->context += request->length;
    wanted->requests++;
    for (uint32_t i = 0; i < tokens; i++) {
        made->request[wanted->tokens] = number;
        made->position[wanted->tokens++] = request->length++;
    }
    wanted->most_keys = request->length > wanted->most_keys ? request->length : wanted->most_keys;
}

/* Each request takes a part of its prompt, or a token, or nothing. */
static void make_step(Schedule *schedule, uint64_t *random)
{
    Made *made = &schedule->steps[schedule->n];
    *made = (Made){.wanted = {.step = 3 * schedule->n, .phase = PHASE_MIXED}};
    for (uint32_t r = 0; r < REQUESTS && made->wanted.tokens < MOST_TOKENS; r++) {
        Request *request = &schedule->requests[r];
        uint32_t room = MOST_TOKENS - made->wanted.tokens;
        uint32_t left = request->prompt > 0 ? request->prompt : request->output > 0;
        uint32_t tokens = left < room ? left : room;
        if (tokens == 0 || random_below(random, 6) != 0)
            continue;
        tokens = 1 + random_below(random, tokens);
        *(request->prompt > 0 ? &request->prompt : &request->output) -= tokens;
        add_span(made, request, 7 * r, tokens, schedule->n);
    }
    schedule->n += made->wanted.tokens > 0;
}

static void make_schedule(uint64_t seed, Schedule *schedule)
{
    uint64_t random = seed;
    *schedule = (Schedule){0};
    for (uint32_t r = 0; r < REQUESTS; r++)
        schedule->requests[r] =
            (Request){.prompt = 1 + random_below(&random, 50), .output = random_below(&random, 20)};
    for (int i = 0; i < MOST_STEPS; i++)
        make_step(schedule, &random);
}

/* Positions held by requests between their first and last step. */
static uint64_t positions_at(const Schedule *schedule, uint32_t step)
{
    uint64_t positions = 0;
    for (uint32_t s = 0; s <= step; s++)
        for (uint32_t i = 0; i < schedule->steps[s].wanted.tokens; i++)
            positions += schedule->requests[schedule->steps[s].request[i] / 7].last_step >= step;
    return positions;
}

static uint32_t requests_at(const Schedule *schedule, uint32_t step)
{
    uint32_t n = 0;
    for (uint32_t r = 0; r < REQUESTS; r++) {
        const Request *request = &schedule->requests[r];
        n += request->begun && request->first_step <= step && request->last_step >= step;
    }
    return n;
}

static void assert_same(const StepFeatures *found, const StepFeatures *wanted)
{
    assert_int_equal(found->step, wanted->step);
    assert_int_equal(found->phase, wanted->phase);
    assert_int_equal(found->tokens, wanted->tokens);
    assert_int_equal(found->requests, wanted->requests);
    assert_int_equal(found->most_keys, wanted->most_keys);
    assert_int_equal(found->positions, wanted->positions);
    assert_memory_equal(found->groups, wanted->groups, sizeof found->groups);
}

static void features_are_the_sums_over_the_requests_of_a_step(void **unused)
{
    (void)unused;
    static Schedule schedule;
    for (uint64_t seed = 1; seed <= 20; seed++) {
        FeaturesBuilder *builder;
        TraceFeatures features;
        uint32_t most_requests = 0;
        make_schedule(seed, &schedule);
        assert_ok(features_builder_new(1, &builder));
        for (uint32_t i = 0; i < schedule.n; i++) {
            const Made *made = &schedule.steps[i];
            const TraceStep step = {.step = made->wanted.step,
                                    .phase = made->wanted.phase,
                                    .tokens = made->wanted.tokens,
                                    .request = made->request,
                                    .position = made->position};
            assert_ok(features_builder_add(builder, &step, NULL));
        }
        assert_ok(features_builder_close(builder, &features));
        assert_int_equal(features.n_steps, schedule.n);
        for (uint32_t i = 0; i < schedule.n; i++) {
            StepFeatures *wanted = &schedule.steps[i].wanted;
            wanted->positions = positions_at(&schedule, i);
            assert_same(&features.steps[i], wanted);
            uint32_t living = requests_at(&schedule, i);
            most_requests = living > most_requests ? living : most_requests;
        }
        assert_int_equal(features.max_requests, most_requests);
        trace_features_free(&features);
    }
}

/* The decoder's tokens look at sources that beams share: the first beam's. */
static void a_step_of_beams_looks_at_the_source_of_the_first(void **unused)
{
    (void)unused;
    static const uint32_t SOURCE[] = {0, 0, 0, 2, 2};
    static const uint32_t SOURCE_AT[] = {0, 1, 2, 0, 1};
    static const uint32_t BEAMS[] = {0, 1, 2, 3};
    static const uint32_t START[4] = {0};
    FeaturesBuilder *builder;
    const StepFeatures *step;
    assert_ok(features_builder_new(2, &builder));
    assert_ok(features_builder_add(builder,
                                   &(TraceStep){.phase = PHASE_ENCODE,
                                                .stack = STACK_ENCODER,
                                                .tokens = 5,
                                                .request = SOURCE,
                                                .position = SOURCE_AT},
                                   &step));
    assert_int_equal(step->groups[SPANS_SEVERAL].source, 0);
    assert_ok(features_builder_add(
        builder,
        &(TraceStep){.phase = PHASE_DECODE, .tokens = 4, .request = BEAMS, .position = START},
        &step));
    assert_int_equal(step->groups[SPANS_ONE].source, 3 + 3 + 2 + 2);
    assert_int_equal(step->most_source, 3);
    assert_ok(features_builder_close(builder, NULL));
}

/* A trace may begin in the middle of its requests, as one whose prompts were cached. */
static void requests_that_begin_late_hold_what_came_before(void **unused)
{
    (void)unused;
    static const uint32_t REQUEST[3][2] = {{0, 1}, {0, 1}, {1}};
    static const uint32_t POSITION[3][2] = {{100, 0}, {101, 1}, {2}};
    static const uint64_t HELD[] = {101 + 1, 102 + 2, 3};
    FeaturesBuilder *builder;
    TraceFeatures features;
    assert_ok(features_builder_new(1, &builder));
    for (uint32_t i = 0; i < 3; i++)
        assert_ok(features_builder_add(builder,
                                       &(TraceStep){.step = i,
                                                    .phase = PHASE_DECODE,
                                                    .tokens = i < 2 ? 2 : 1,
                                                    .request = REQUEST[i],
                                                    .position = POSITION[i]},
                                       NULL));
    assert_ok(features_builder_close(builder, &features));
    for (uint32_t i = 0; i < 3; i++)
        assert_int_equal(features.steps[i].positions, HELD[i]);
    trace_features_free(&features);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(features_are_the_sums_over_the_requests_of_a_step),
        cmocka_unit_test(a_step_of_beams_looks_at_the_source_of_the_first),
        cmocka_unit_test(requests_that_begin_late_hold_what_came_before),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
