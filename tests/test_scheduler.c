/* The scheduler against a plain one, and against what a schedule must keep to. */
#include "base/status.h" /* before cmocka, which has a macro called fail */

#include "tests/support.h"

#include <math.h>

#include <string.h>

#include "base/memory.h"
#include "policies/arrivals.h"
#include "policies/scheduler.h"

enum { MAX_REQUESTS = 24, ROUNDS = 400 };

typedef struct {
    Batching batching;
    ScheduledRequest requests[MAX_REQUESTS];
    uint32_t n;
    uint64_t state;
} Case;

static Case random_case(uint64_t seed)
{
    Case made = {.state = seed * 31 + 7};
    made.n = 1 + random_below(&made.state, MAX_REQUESTS);
    made.batching.mode = seed % 3 == 0   ? BATCHING_APART
                         : seed % 3 == 1 ? BATCHING_MIXED
                                         : BATCHING_CONTINUOUS;
    made.batching.sequences = 1 + random_below(&made.state, 9);
    made.batching.max_tokens = made.batching.sequences + random_below(&made.state, 20);
    for (uint32_t i = 0; i < made.n; i++) {
        made.requests[i].arrival_ns = random_below(&made.state, 3) * random_below(&made.state, 300);
        made.requests[i].work[WORK_PROMPT] = 1 + random_below(&made.state, 40);
        made.requests[i].work[WORK_OUTPUT] = random_below(&made.state, 12);
    }
    return made;
}

/* One request, told plainly. */
typedef struct {
    bool running;
    uint32_t fed;
    uint32_t place; /* in the order of arrival */
} Plain;

static bool is_before(const Case *made, uint32_t a, uint32_t b)
{
    uint64_t first = made->requests[a].arrival_ns;
    uint64_t other = made->requests[b].arrival_ns;
    return first < other || (first == other && a < b);
}

static uint32_t total(const ScheduledRequest *request)
{
    return request->work[WORK_PROMPT] + request->work[WORK_OUTPUT];
}

/* Tokens that each request has in the step at NOW, by the rules of scheduler.h with loops over all
 * requests in the order of their arrival. Returns their sum. */
static uint32_t plain_step(const Case *made, uint64_t now, Plain *plain, uint32_t *tokens)
{
    const Batching *batching = &made->batching;
    uint32_t order[MAX_REQUESTS];
    uint32_t running = 0;
    uint32_t sum = 0;
    bool prompts = false;
    for (uint32_t i = 0; i < made->n; i++) {
        uint32_t place = 0;
        for (uint32_t j = 0; j < made->n; j++)
            place += is_before(made, j, i);
        order[place] = i;
        tokens[i] = 0;
        plain[i].running = plain[i].running && plain[i].fed < total(&made->requests[i]);
        running += plain[i].running;
    }
    for (uint32_t p = 0; p < made->n; p++) {
        Plain *one = &plain[order[p]];
        const ScheduledRequest *request = &made->requests[order[p]];
        if (!one->running && one->fed == 0 && request->arrival_ns <= now &&
            running < batching->sequences) {
            one->running = true;
            running++;
        }
        prompts = prompts || (one->running && one->fed < request->work[WORK_PROMPT]);
    }
    bool outputs = batching->mode != BATCHING_APART || !prompts;
    for (uint32_t p = 0; p < made->n; p++)
        if (outputs && plain[order[p]].running &&
            plain[order[p]].fed >= made->requests[order[p]].work[WORK_PROMPT])
            sum += tokens[order[p]] = 1;
    for (uint32_t p = 0; p < made->n; p++) {
        uint32_t i = order[p];
        uint32_t prompt = made->requests[i].work[WORK_PROMPT];
        for (uint32_t fed = plain[i].fed;
             plain[i].running && fed < prompt && sum < batching->max_tokens; fed++, sum++)
            tokens[i]++;
    }
    for (uint32_t i = 0; i < made->n; i++)
        plain[i].fed += tokens[i];
    return sum;
}

/* What the step must be whatever the rules are. */
static void assert_sound(const Case *made, const ScheduledStep *step, uint64_t now)
{
    uint32_t sum = 0;
    for (uint32_t i = 0; i < step->n_parts; i++) {
        const SchedulePart *part = &step->parts[i];
        assert_true(part->count > 0);
        assert_true(part->slot < made->batching.sequences);
        assert_true(made->requests[part->request].arrival_ns <= now);
        for (uint32_t j = 0; j < i; j++) {
            assert_int_not_equal(step->parts[j].slot, part->slot);
            assert_int_not_equal(step->parts[j].request, part->request);
        }
        sum += part->count;
    }
    assert_int_equal(sum, step->tokens);
    assert_true(sum <= made->batching.max_tokens);
}

static void assert_follows(Case *made)
{
    Scheduler *scheduler;
    Plain plain[MAX_REQUESTS] = {{0}};
    uint32_t slots[MAX_REQUESTS];
    uint32_t given[MAX_REQUESTS] = {0};
    uint64_t now = 0;
    assert_ok(scheduler_new(&made->batching, made->requests, made->n, &scheduler));
    for (;;) {
        ScheduledStep step;
        uint32_t tokens[MAX_REQUESTS];
        uint32_t sum = plain_step(made, now, plain, tokens);
        if (!scheduler_next(scheduler, now, &step)) {
            assert_int_equal(sum, 0);
            if (step.until_ns == SCHEDULE_OVER)
                break;
            assert_true(step.until_ns > now);
            now = step.until_ns;
            continue;
        }
        assert_sound(made, &step, now);
        assert_int_equal(step.tokens, sum);
        for (uint32_t i = 0; i < step.n_parts; i++) {
            const SchedulePart *part = &step.parts[i];
            uint32_t before =
                part->first +
                (part->kind == WORK_OUTPUT ? made->requests[part->request].work[WORK_PROMPT] : 0);
            assert_int_equal(part->count, tokens[part->request]);
            assert_int_equal(before + part->count, plain[part->request].fed);
            if (before > 0)
                assert_int_equal(slots[part->request], part->slot);
            slots[part->request] = part->slot;
            given[part->request] += part->gives_token;
        }
        now += 1 + random_below(&made->state, 30);
    }
    for (uint32_t i = 0; i < made->n; i++) {
        assert_int_equal(plain[i].fed, total(&made->requests[i]));
        assert_int_equal(given[i], made->requests[i].work[WORK_OUTPUT] + 1);
    }
    scheduler_free(scheduler);
}

static void steps_are_those_of_a_plain_scheduler(void **unused)
{
    (void)unused;
    for (uint64_t seed = 0; seed < ROUNDS; seed++) {
        Case made = random_case(seed);
        assert_follows(&made);
    }
}

static void a_request_that_ends_early_makes_room(void **unused)
{
    (void)unused;
    const Batching batching = {BATCHING_CONTINUOUS, 1, 8};
    const ScheduledRequest requests[] = {{0, {0, 3, 100}}, {0, {0, 2, 1}}};
    Scheduler *scheduler;
    ScheduledStep step;
    assert_ok(scheduler_new(&batching, requests, 2, &scheduler));
    for (int i = 0; i < 3; i++) {
        assert_true(scheduler_next(scheduler, 0, &step));
        assert_int_equal(step.parts[0].request, 0);
    }
    scheduler_end(scheduler, 0);
    assert_true(scheduler_is_over(scheduler, 0));
    assert_true(scheduler_next(scheduler, 0, &step));
    assert_int_equal(step.n_parts, 1);
    assert_int_equal(step.parts[0].request, 1);
    assert_int_equal(step.phase, PHASE_PREFILL);
    assert_true(scheduler_next(scheduler, 0, &step));
    assert_false(scheduler_next(scheduler, 0, &step));
    assert_true(step.until_ns == SCHEDULE_OVER);
    scheduler_free(scheduler);
}

static void decoding_goes_on_while_a_long_prompt_comes_in_chunks(void **unused)
{
    (void)unused;
    const Batching batching = {BATCHING_CONTINUOUS, 4, 16};
    const ScheduledRequest requests[] = {{0, {0, 4, 50}}, {10, {0, 100, 2}}};
    Scheduler *scheduler;
    ScheduledStep step;
    assert_ok(scheduler_new(&batching, requests, 2, &scheduler));
    assert_true(scheduler_next(scheduler, 0, &step));
    for (uint64_t now = 10; now < 16; now++) {
        assert_true(scheduler_next(scheduler, now, &step));
        assert_int_equal(step.phase, PHASE_MIXED);
        assert_int_equal(step.tokens, 16);
        assert_int_equal(step.parts[0].kind, WORK_OUTPUT);
        assert_int_equal(step.parts[1].count, 15);
    }
    scheduler_free(scheduler);
}

static void a_step_allocates_nothing(void **unused)
{
    (void)unused;
    Case made = random_case(5);
    Scheduler *scheduler;
    ScheduledStep step;
    assert_ok(scheduler_new(&made.batching, made.requests, made.n, &scheduler));
    uint64_t before = mem_allocations();
    for (uint64_t now = 0; scheduler_next(scheduler, now, &step) || step.until_ns != SCHEDULE_OVER;)
        now += 10;
    assert_int_equal(mem_allocations(), before);
    scheduler_free(scheduler);
}

static void batches_out_of_range_are_refused(void **unused)
{
    (void)unused;
    assert_int_equal(batching_check(&(Batching){BATCHING_MIXED, 0, 8}), ERR_PLAN);
    assert_int_equal(batching_check(&(Batching){BATCHING_MIXED, 9, 8}), ERR_PLAN);
    assert_int_equal(batching_check(&(Batching){BATCHING_MIXED, 9, TRACE_MAX_TOKENS + 1}),
                     ERR_PLAN);
    assert_ok(batching_check(&(Batching){BATCHING_MIXED, 8, 8}));
}

static void fixed_arrivals_are_at_equal_distances(void **unused)
{
    (void)unused;
    uint64_t at[100];
    const Arrivals fixed = {.kind = ARRIVALS_FIXED, .requests_per_s = 8};
    assert_ok(arrivals_fill(&fixed, 100, at));
    for (uint64_t i = 0; i < 100; i++)
        assert_int_equal(at[i], i * 125000000);
    const Arrivals slow = {.kind = ARRIVALS_FIXED, .requests_per_s = 1e-9};
    assert_int_equal(arrivals_fill(&slow, 100, at), ERR_PLAN);
    assert_non_null(strstr(error_message(), "batching.requests_per_s"));
}

/* Gaps of a Poisson process have mean and standard deviation 1 / rate; 4 standard errors. */
static void poisson_arrivals_have_the_rate_and_follow_the_seed(void **unused)
{
    (void)unused;
    enum { N = 20000 };
    static uint64_t at[N];
    static uint64_t again[N];
    Arrivals poisson = {.kind = ARRIVALS_POISSON, .requests_per_s = 1000, .seed = 3};
    double sum = 0;
    double squares = 0;
    assert_ok(arrivals_fill(&poisson, N, at));
    assert_ok(arrivals_fill(&poisson, N, again));
    assert_memory_equal(at, again, sizeof at);
    assert_int_equal(at[0], 0);
    for (int i = 1; i < N; i++) {
        double gap = (double)(at[i] - at[i - 1]) * 1e-6;
        sum += gap;
        squares += gap * gap;
    }
    double mean = sum / (N - 1);
    assert_true(mean > 1 - 4 / 141.0 && mean < 1 + 4 / 141.0);
    double variance = squares / (N - 1) - mean * mean;
    assert_true(variance > 0.9 && variance < 1.1);
    poisson.seed = 4;
    assert_ok(arrivals_fill(&poisson, N, again));
    assert_memory_not_equal(at, again, sizeof at);
}

static void recorded_arrivals_begin_at_0(void **unused)
{
    (void)unused;
    uint64_t at[] = {1700000000000000500u, 1700000000000000100u, 1700000000000000400u};
    const Arrivals trace = {.kind = ARRIVALS_TRACE};
    assert_ok(arrivals_fill(&trace, 3, at));
    assert_int_equal(at[0], 400);
    assert_int_equal(at[1], 0);
    assert_int_equal(at[2], 300);
}

/* Of every kind, from the first on. */
static void stretched_arrivals_come_at_so_many_times_their_time(void **unused)
{
    (void)unused;
    enum { N = 50 };
    for (ArrivalsKind kind = ARRIVALS_AT_ONCE; kind <= ARRIVALS_POISSON; kind++) {
        Arrivals arrivals = {.kind = kind, .requests_per_s = 7, .seed = 5};
        uint64_t at[N];
        uint64_t stretched[N];
        for (int i = 0; i < N; i++)
            at[i] = stretched[i] = 1000000007u * (uint64_t)(i + 3);
        assert_ok(arrivals_fill(&arrivals, N, at));
        arrivals.stretch = 0.75;
        assert_ok(arrivals_fill(&arrivals, N, stretched));
        for (int i = 0; i < N; i++)
            assert_true(fabs((double)stretched[i] - 0.75 * (double)at[i]) <= 1);
    }
}

static void every_failed_allocation_is_reported_and_frees_all(void **unused)
{
    (void)unused;
    Case made = random_case(2);
    for (FailingAllocation failing = {0}; failing_next(&failing);) {
        Scheduler *scheduler;
        Status status = scheduler_new(&made.batching, made.requests, made.n, &scheduler);
        failing_end(&failing, status);
        if (status == OK)
            scheduler_free(scheduler);
    }
}

int main(void)
{
    memory_install();
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(steps_are_those_of_a_plain_scheduler),
        cmocka_unit_test(a_request_that_ends_early_makes_room),
        cmocka_unit_test(decoding_goes_on_while_a_long_prompt_comes_in_chunks),
        cmocka_unit_test(a_step_allocates_nothing),
        cmocka_unit_test(batches_out_of_range_are_refused),
        cmocka_unit_test(fixed_arrivals_are_at_equal_distances),
        cmocka_unit_test(poisson_arrivals_have_the_rate_and_follow_the_seed),
        cmocka_unit_test(recorded_arrivals_begin_at_0),
        cmocka_unit_test(stretched_arrivals_come_at_so_many_times_their_time),
        cmocka_unit_test(every_failed_allocation_is_reported_and_frees_all),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
