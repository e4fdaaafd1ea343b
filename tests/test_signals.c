/* What a trace says beyond which experts were needed, against plain sums; and the decisions that
 * are made by it, against the plain reference. */
#include "tests/reference_prefetch.h"
#include "tests/signalled_trace.h"

#include <math.h>
#include <sqlite3.h>
#include <stdio.h>
#include <unistd.h>

#include "base/memory.h"
#include "policies/signals_load.h"
#include "sim/sweep.h"
#include "tests/action_log.h"
#include "tests/random_trace.h"

static void a_value_is_the_half_in_multiples_of_2_to_the_minus_24(void **state)
{
    (void)state;
    for (uint32_t half = 0; half <= UINT16_MAX; half++) {
        assert_true((double)signal_value((uint16_t)half) == plain_value((uint16_t)half));
    }
}

/* What one event must say, by plain arrays over all experts. */
typedef struct {
    double weight_sum[2048];
    double predicted_sum[2048];
    bool predicts;
} PlainEvent;

static void plain_event(const RandomTrace *trace, const RandomStep *made, uint32_t index,
                        uint32_t distance, PlainEvent *plain)
{
    const TraceStep *step = &made->step;
    StackSpan span = layers_span(trace->layers, trace->n_layers, step->stack);
    size_t at = 0;
    *plain = (PlainEvent){0};
    for (uint32_t i = span.first; i < index; i++)
        at += step->tokens * trace->layers[i].top_k;
    for (uint32_t i = 0; i < step->tokens * trace->layers[index].top_k; i++)
        if (step->experts[at + i] != EXPERT_DROPPED)
            plain->weight_sum[step->experts[at + i]] +=
                plain_value(f16_from_f32(step->weights[at + i]));
    uint32_t target = index + distance;
    plain->predicts = target < span.first + span.count;
    if (!plain->predicts)
        return;
    at = (distance - 1) * step->tokens * span.top_k;
    for (uint32_t i = span.first + distance; i < target; i++)
        at += step->tokens * trace->layers[i].top_k;
    for (uint32_t i = 0; i < step->tokens * trace->layers[target].top_k; i++)
        plain->predicted_sum[step->predicted[at + i]] +=
            1 + plain_value(f16_from_f32(step->predicted_weights[at + i]));
}

static void compare_event(const RandomTrace *trace, const RandomStep *made, uint32_t index,
                          uint32_t distance, const EventSignals *event)
{
    static PlainEvent plain;
    const TraceStep *step = &made->step;
    plain_event(trace, made, index, distance, &plain);
    assert_int_equal(event->tokens, step->tokens);
    for (uint32_t e = 0; e < trace->layers[index].experts; e++)
        assert_true(event->scores[e] ==
                    fmin(floor(plain.weight_sum[e] / step->tokens), UINT32_MAX));
    uint32_t n = 0;
    for (uint32_t e = 0; e < 2048 && plain.predicts; e++) {
        if (plain.predicted_sum[e] == 0)
            continue;
        assert_true(n < event->n_predicted && event->predicted[n] == e);
        assert_true((double)event->predicted_weights[n++] == plain.predicted_sum[e]);
    }
    assert_int_equal(event->n_predicted, n);
    const uint16_t *routing = step->experts;
    StackSpan span = layers_span(trace->layers, trace->n_layers, step->stack);
    for (uint32_t i = span.first; i < index; i++)
        routing += step->tokens * trace->layers[i].top_k;
    assert_memory_equal(event->routing, routing,
                        2 * (size_t)step->tokens * trace->layers[index].top_k);
    for (uint32_t i = 0; i < step->tokens; i++)
        for (uint32_t j = 0; j < i; j++)
            assert_int_equal(event->request[i] == event->request[j],
                             step->request[i] == step->request[j]);
}

static const Batching AS_RECORDED = {.mode = BATCHING_AS_RECORDED};

static void signals_are_plain_sums_over_what_the_trace_stores(void **state)
{
    (void)state;
    const char *path = scratch_path("signals.db");
    for (uint64_t seed = 0; seed < 40; seed++) {
        RandomTrace trace = random_trace(seed);
        TraceSignals *signals;
        trace.weights = true;
        trace.distances = RANDOM_DISTANCES;
        SignalNeeds needs = {.requests = true, .scores = true, .distance = 1 + seed % 3};
        const SignalNeeds all[] = {{.distance = 1 + (seed + 1) % 3}, needs, {.scores = true}};
        unlink(path);
        assert_ok(record_random(path, &trace, 12, NULL));
        assert_ok(trace_signals_load(&path, 1, &AS_RECORDED, all, 3, &signals));
        assert_int_equal(trace_signals_source(signals), SCORES_OF_WEIGHTS);
        SignalsCursor cursor = signals_cursor(signals, &needs);
        for (uint32_t s = 0; s < 12; s++) {
            static RandomStep made;
            random_step(&trace, s, &made);
            StackSpan span = layers_span(trace.layers, trace.n_layers, made.step.stack);
            for (uint32_t i = span.first; i < span.first + span.count; i++) {
                EventSignals event;
                signals_next(&cursor, &event);
                compare_event(&trace, &made, i, needs.distance, &event);
            }
        }
        trace_signals_free(signals);
    }
}

/* The scores of every expert go before weights; those of the largest M say not whose they are. */
static void router_scores_are_taken_where_they_are_of_every_expert(void **state)
{
    (void)state;
    const TraceLayer layers[2] = {{.layer = 0, .experts = 5, .top_k = 1},
                                  {.layer = 1, .experts = 3, .top_k = 2}};
    const uint16_t experts[] = {4, 0, 1, 2, 2, 1};
    const float weights[] = {0.5f, 0.5f, 0.25f, 0.25f, 0.125f, 0.125f};
    const uint32_t zeros[2] = {0};
    uint16_t scores[16];
    static const char *const NOTES[] = {"{\"scores\":{\"dtype\":\"f16\"}}",
                                        "{\"scores\":{\"dtype\":\"f16\",\"m\":9}}"};
    for (uint32_t i = 0; i < 16; i++)
        scores[i] = f16_from_f32((float)(i + 1) / 32);
    for (int kind = 0; kind < 2; kind++) {
        const char *path = scratch_path("scores.db");
        Recorder *recorder;
        TraceSignals *signals;
        const TraceRun run = {.tool = "test", .notes = NOTES[kind]};
        const TraceStep step = {.phase = PHASE_PREFILL,
                                .tokens = 2,
                                .request = zeros,
                                .position = zeros,
                                .experts = experts,
                                .weights = weights,
                                .scores = scores,
                                .score_count = 16};
        unlink(path);
        assert_ok(recorder_open(path, &run, layers, 2, NULL, &recorder));
        assert_ok(recorder_step(recorder, &step, NULL, 0, NULL, 0));
        assert_ok(recorder_close(recorder));
        const SignalNeeds needs = {.scores = true};
        assert_ok(trace_signals_load(&path, 1, &AS_RECORDED, &needs, 1, &signals));
        SignalsCursor cursor = signals_cursor(signals, &needs);
        EventSignals event;
        signals_next(&cursor, &event);
        assert_int_equal(trace_signals_source(signals),
                         kind == 0 ? SCORES_OF_ROUTER : SCORES_OF_WEIGHTS);
        for (uint32_t e = 0; e < 5; e++)
            assert_int_equal(event.scores[e], kind == 0          ? (1 << 24) / 64 * (2 * e + 7)
                                              : e == 0 || e == 4 ? 1 << 22
                                                                 : 0);
        signals_next(&cursor, &event);
        for (uint32_t e = 0; kind == 0 && e < 3; e++)
            assert_int_equal(event.scores[e], (1 << 24) / 64 * (2 * e + 25));
        assert_null(event.request);
        assert_null(event.predicted);
        trace_signals_free(signals);
    }
}

static void assert_lacks(const char *path, const Batching *batching, const SignalNeeds *needs,
                         const char *wanted)
{
    TraceSignals *signals = NULL;
    Status status = trace_signals_load(&path, 1, batching, needs, 1, &signals);
    if ((status != ERR_PLAN && status != ERR_INPUT) || strstr(error_message(), wanted) == NULL)
        fail_msg("status %d: \"%s\", wanted \"%s\"", status, error_message(), wanted);
    assert_null(signals);
}

static void what_a_trace_lacks_is_named(void **state)
{
    (void)state;
    const char *path = scratch_path("lacks.db");
    const Batching apart = {.mode = BATCHING_APART, .sequences = 2, .max_tokens = 8};
    RandomTrace trace = {.seed = 3, .n_layers = 3, .max_tokens = 4, .distances = 1};
    sqlite3 *db;
    for (uint32_t i = 0; i < 3; i++)
        trace.layers[i] = (TraceLayer){.layer = i, .experts = 9, .top_k = 2};
    unlink(path);
    assert_ok(record_random(path, &trace, 6, NULL));
    assert_lacks(path, &AS_RECORDED, &(SignalNeeds){.distance = 2},
                 "lacks.db: step 0: it has no predictions 2 MoE layers ahead (record "
                 "--predictions 2 makes them)");
    assert_lacks(path, &AS_RECORDED, &(SignalNeeds){.scores = true},
                 "lacks.db: step 0: it has no router scores of all experts, and no weights: "
                 "evict ema-score takes either");
    assert_lacks(path, &apart, &(SignalNeeds){.distance = 1}, "batching.mode: regrouped tokens");
    assert_lacks(path, &apart, &(SignalNeeds){.scores = true}, "batching.mode: regrouped tokens");
    assert_int_equal(sqlite3_open(path, &db), SQLITE_OK);
    assert_int_equal(sqlite3_exec(db, "DELETE FROM prediction WHERE step = 4", NULL, NULL, NULL),
                     SQLITE_OK);
    sqlite3_close(db);
    assert_lacks(path, &AS_RECORDED, &(SignalNeeds){.distance = 1}, "it has no predictions 1 MoE");
}

static void a_replay_without_the_signals_of_its_plan_is_refused(void **state)
{
    (void)state;
    static Signalled it;
    ReplayResult result;
    Plan plan = plan_default();
    plan.buffer.on = true;
    plan.buffer.slots = 4;
    snprintf(plan.prefetch.predictor, sizeof plan.prefetch.predictor, "next-gate");
    signalled_make(&it, 4, 10);
    const SignalNeeds needs = {.requests = true, .distance = 2};
    TraceSignals *signals = signals_of(&it, &needs);
    for (int given = 0; given < 2; given++) {
        ReplayFuture future = {.signals = given ? signals : NULL};
        assert_int_equal(replay_run(&it.ref.packed, &plan, &future, NULL, NULL, &result),
                         ERR_INPUT);
        assert_non_null(strstr(error_message(), "the plan needs predictions"));
    }
    trace_signals_free(signals);
    ref_trace_free(&it.ref);
}

static void every_failed_allocation_is_reported_and_leaks_nothing(void **state)
{
    (void)state;
    const char *path = scratch_path("memory.db");
    RandomTrace trace = random_trace(12);
    const SignalNeeds needs = {.requests = true, .scores = true, .distance = 1};
    trace.weights = true;
    trace.distances = 1;
    unlink(path);
    assert_ok(record_random(path, &trace, 6, NULL));
    for (FailingAllocation failing = {.may_do_without = true}; failing_next(&failing);) {
        TraceSignals *signals = NULL;
        Status status = trace_signals_load(&path, 1, &AS_RECORDED, &needs, 1, &signals);
        failing_end(&failing, status);
        trace_signals_free(signals);
    }
}

/* Sweeps TEXT's study over IT into OUT. */
static Status sweep_signalled(const Signalled *it, const char *text, const char *out)
{
    cJSON *json;
    Study study;
    SweepTotals totals;
    assert_ok(json_parse(text, strlen(text), "study.json", &json));
    assert_ok(study_from_json(json, "study.json", false, &study));
    cJSON_Delete(json);
    SignalNeeds needs = plan_needs_signals(&study.plans[0]);
    TraceSignals *signals = signals_needed(&needs) ? signals_of(it, &needs) : NULL;
    const SweepOptions options = {.jobs = 1, .signals = signals};
    Status status = sweep_run(&it->ref.packed, "trace", &study, out, &options, &totals);
    trace_signals_free(signals);
    study_free(&study);
    return status;
}

static void results_over_other_scores_are_refused(void **state)
{
    (void)state;
    static Signalled it;
    static const char SCORED[] = "{\"moebius_study\": 1, \"base\": {\"buffer\": {\"evict\":"
                                 " \"ema-score\"}}, \"grid\": {\"buffer.slots\": [1]}}";
    static const char PLAIN[] = "{\"moebius_study\": 1, \"base\": {\"buffer\": {\"evict\":"
                                " \"lru\"}}, \"grid\": {\"buffer.slots\": [1]}}";
    const char *out = scratch_path("scored.db");
    signalled_make(&it, 5, 20);
    it.has_scores = true;
    assert_ok(sweep_signalled(&it, PLAIN, out));
    assert_ok(sweep_signalled(&it, SCORED, out));
    assert_ok(sweep_signalled(&it, SCORED, out));
    it.scores[0][0][0] ^= 0x2000;
    assert_ok(sweep_signalled(&it, PLAIN, out));
    assert_int_equal(sweep_signalled(&it, SCORED, out), ERR_INPUT);
    assert_non_null(strstr(error_message(), "holds results of another trace"));
    assert_non_null(strstr(error_message(), "scores="));
    ref_trace_free(&it.ref);
}

int main(void)
{
    memory_install();
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_value_is_the_half_in_multiples_of_2_to_the_minus_24),
        cmocka_unit_test(signals_are_plain_sums_over_what_the_trace_stores),
        cmocka_unit_test(router_scores_are_taken_where_they_are_of_every_expert),
        cmocka_unit_test(what_a_trace_lacks_is_named),
        cmocka_unit_test(a_replay_without_the_signals_of_its_plan_is_refused),
        cmocka_unit_test(every_failed_allocation_is_reported_and_leaks_nothing),
        cmocka_unit_test(results_over_other_scores_are_refused),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
