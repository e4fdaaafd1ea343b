/* Prefetching against a plain reference: every decision and every count, for every predictor, and
 * what the contract says of any eviction policy. */
#include "tests/reference_prefetch.h"

#include <inttypes.h>
#include <stdio.h>

#include "base/memory.h"
#include "policies/shares.h"
#include "tests/action_log.h"

enum { MANY = 3000 };

/* PREDICTOR receives its name, RECALL and PRECISION its parameters. */
static void choose_predictor(uint64_t *seed, Plan *plan, RefPrefetch *wanted)
{
    static const char *const NAMES[] = {"frequency", "previous-step", "transition",
                                        "pre-gate",  "oracle",        "synthetic"};
    static const struct {
        const char *text;
        double value;
    } SHARES[] = {{"0.25", 0.25}, {"0.7", 0.7}, {"1", 1}, {"1.0", 1}};
    uint32_t recall = random_below(seed, 4);
    uint32_t precision = random_below(seed, 4);
    wanted->predictor = NAMES[random_below(seed, 6)];
    wanted->recall = SHARES[recall].value;
    wanted->precision = SHARES[precision].value;
    plan->prefetch.distance =
        strcmp(wanted->predictor, "pre-gate") == 0 ? 1 : 1 + random_below(seed, 3);
    snprintf(plan->prefetch.predictor, sizeof plan->prefetch.predictor, "%s", wanted->predictor);
    if (strcmp(wanted->predictor, "oracle") == 0)
        snprintf(plan->prefetch.predictor, sizeof plan->prefetch.predictor, "oracle:%" PRIu32,
                 plan->prefetch.distance);
    if (strcmp(wanted->predictor, "synthetic") == 0)
        snprintf(plan->prefetch.predictor, sizeof plan->prefetch.predictor, "synthetic:%s,%s",
                 SHARES[recall].text, SHARES[precision].text);
}

static uint32_t count_evictions(void)
{
    uint32_t n = 0;
    while (eviction_names()[n] != NULL)
        n++;
    return n;
}

static Plan random_plan(uint64_t *seed, RefPrefetch *wanted)
{
    Plan plan = plan_default();
    plan.seed = random_below(seed, 1000);
    plan.buffer.on = true;
    plan.buffer.scope = random_below(seed, 2) ? SCOPE_DEVICE : SCOPE_LAYER;
    plan.buffer.order = (ReplayOrder)random_below(seed, REPLAY_ORDERS);
    if (plan.buffer.scope == SCOPE_DEVICE && random_below(seed, 3) == 0)
        plan.buffer.bytes = 300 + random_below(seed, 5000);
    else
        plan.buffer.slots = 1 + random_below(seed, plan.buffer.scope == SCOPE_DEVICE ? 40 : 16);
    do
        snprintf(plan.buffer.evict, sizeof plan.buffer.evict, "%s",
                 eviction_names()[random_below(seed, count_evictions())]);
    while (eviction_needs_future(plan.buffer.evict) || eviction_needs_scores(plan.buffer.evict));
    plan.prefetch.max_inflight = 1 + random_below(seed, 12);
    plan.prefetch.experts = random_below(seed, 2) ? 1 + random_below(seed, 6) : 0;
    choose_predictor(seed, &plan, wanted);
    return plan;
}

/* What PLAN keeps or begins with, where it has such; freed with plan_free(). */
static void give_lists(const RefTrace *trace, uint64_t *seed, Plan *plan)
{
    ref_random_learned(trace, seed, plan);
}

static void assert_same_counts(const BufferCounts *is, const RefPrefetch *wanted)
{
    const BufferCounts *must = &wanted->counts;
    assert_true(is->prefetches == must->prefetches);
    assert_true(is->prefetch_hits == must->prefetch_hits);
    assert_true(is->prefetch_evicted == must->prefetch_evicted);
    assert_true(is->bytes_prefetched == must->bytes_prefetched);
    assert_true(is->predictions == must->predictions);
    assert_true(is->predictable == must->predictable);
    assert_true(is->predicted == must->predicted);
    assert_true(is->predicted_right == must->predicted_right);
    assert_true(is->evicted_newest == wanted->buffer.evicted_newest);
    assert_true(is->evicted_young == wanted->buffer.evicted_young);
}

static void every_decision_and_count_is_that_of_the_plain_reference(void **state)
{
    (void)state;
    uint64_t seed = 77;
    uint64_t prefetches = 0;
    uint64_t evicted = 0;
    for (int i = 0; i < MANY; i++) {
        static RefTrace trace;
        static RefPrefetch wanted;
        ReplayResult result;
        wanted = (RefPrefetch){0};
        ref_trace_make(&trace, random_next(&seed), 1 + random_below(&seed, 30));
        Plan plan = random_plan(&seed, &wanted);
        give_lists(&trace, &seed, &plan);
        ref_run_prefetch(&wanted, &trace, &plan);
        Log log = run_logged(&trace.packed, &plan, &result);
        assert_same_actions(&log, wanted.buffer.actions, wanted.buffer.n_actions);
        assert_same_counts(&result.total.counts, &wanted);
        prefetches += result.total.counts.prefetches;
        evicted += result.total.counts.prefetch_evicted;
        replay_result_free(&result);
        free(log.actions);
        free(wanted.buffer.actions);
        plan_free(&plan);
        ref_trace_free(&trace);
    }
    assert_true(prefetches > 10000 && evicted > 1000);
}

/* What the contract keeps, checked from the actions of one event. */
typedef struct {
    const Plan *plan;
    bool resident[REF_LAYERS][REF_EXPERTS];
    bool in_flight[REF_LAYERS][REF_EXPERTS];
    uint64_t prefetches;
} Watch;

static uint32_t count_in_flight(const Watch *watch)
{
    uint32_t n = 0;
    for (uint32_t l = 0; l < REF_LAYERS; l++)
        for (uint32_t e = 0; e < REF_EXPERTS; e++)
            n += watch->in_flight[l][e];
    return n;
}

static bool is_needed(const PackedEvent *event, const BufferAction *action)
{
    for (uint32_t i = 0; i < event->n_active; i++)
        if (event->layer_index == action->layer_index && event->experts[i] == action->expert)
            return true;
    return false;
}

static Status watch_event(void *argument, const PackedEvent *event, const BufferAction *actions,
                          uint32_t n_actions)
{
    Watch *watch = argument;
    uint32_t lookups = 0;
    memset(watch->in_flight[event->layer_index], 0, sizeof watch->in_flight[0]);
    for (uint32_t i = 0; i < n_actions; i++) {
        const BufferAction *it = &actions[i];
        bool *resident = &watch->resident[it->layer_index][it->expert];
        bool *in_flight = &watch->in_flight[it->layer_index][it->expert];
        bool is_ahead = false;
        for (uint32_t j = 0; j < i; j++)
            is_ahead = is_ahead || actions[j].kind == RESIDENCY_PREFETCH;
        assert_true(*resident == (it->kind == RESIDENCY_HIT || it->kind == RESIDENCY_EVICT));
        if (it->kind == RESIDENCY_PREFETCH) {
            assert_int_equal(it->layer_index, event->layer_index + watch->plan->prefetch.distance);
            watch->prefetches++;
            *in_flight = true;
        } else if (it->kind == RESIDENCY_EVICT) {
            assert_false(is_ahead && (is_needed(event, it) || *in_flight));
            *in_flight = false;
        } else {
            assert_false(is_ahead);
            lookups++;
        }
        *resident = it->kind != RESIDENCY_EVICT && it->kind != RESIDENCY_BYPASS;
    }
    assert_int_equal(lookups, event->n_active);
    assert_true(count_in_flight(watch) <= watch->plan->prefetch.max_inflight);
    return OK;
}

static void no_policy_evicts_for_a_prefetch_what_the_event_needs_or_what_is_in_flight(void **state)
{
    (void)state;
    uint64_t seed = 5;
    for (const char *const *evict = eviction_names(); *evict != NULL; evict++) {
        uint64_t prefetches = 0;
        if (eviction_needs_scores(*evict)) /* tests/test_signal_policies.c */
            continue;
        for (int i = 0; i < 150 && !eviction_needs_future(*evict); i++) {
            static RefTrace trace;
            RefPrefetch unused;
            Watch watch = {0};
            ReplayFuture future = {0};
            ReplayResult result;
            ref_trace_make(&trace, random_next(&seed), 60);
            Plan plan = random_plan(&seed, &unused);
            snprintf(plan.buffer.evict, sizeof plan.buffer.evict, "%s", *evict);
            give_lists(&trace, &seed, &plan);
            watch.plan = &plan;
            for (uint32_t l = 0; l < REF_LAYERS; l++)
                for (uint32_t e = 0; e < REF_EXPERTS && l < trace.n_layers; e++)
                    watch.resident[l][e] = ref_is_listed(&trace, plan.buffer.initial.table, l, e);
            assert_ok(replay_run(&trace.packed, &plan, &future, watch_event, &watch, &result));
            assert_true(watch.prefetches == result.total.counts.prefetches);
            prefetches += watch.prefetches;
            replay_result_free(&result);
            plan_free(&plan);
            ref_trace_free(&trace);
        }
        assert_true(prefetches > (eviction_needs_hot(*evict) ? 20u : 1000u) ||
                    eviction_needs_future(*evict));
    }
}

static void counts_are_the_same_without_an_observer(void **state)
{
    (void)state;
    uint64_t seed = 8;
    for (int i = 0; i < 100; i++) {
        static RefTrace trace;
        RefPrefetch unused;
        ReplayFuture future = {0};
        ReplayResult seen;
        ReplayResult result;
        ref_trace_make(&trace, random_next(&seed), 40);
        Plan plan = random_plan(&seed, &unused);
        Log log = run_logged(&trace.packed, &plan, &seen);
        assert_ok(replay_run(&trace.packed, &plan, &future, NULL, NULL, &result));
        assert_memory_equal(&seen.total, &result.total, sizeof result.total);
        replay_result_free(&seen);
        replay_result_free(&result);
        free(log.actions);
        ref_trace_free(&trace);
    }
}

/* One request, room for everything: after the cold start of a layer the oracle leaves no miss that
 * it was allowed to see coming. */
static void the_oracle_with_room_leaves_only_the_misses_of_the_first_layers(void **state)
{
    (void)state;
    uint64_t seed = 31;
    for (int i = 0; i < 100; i++) {
        static RefTrace trace;
        ReplayResult result;
        Plan plan = plan_default();
        ref_trace_make(&trace, random_next(&seed), 60);
        plan.buffer.on = true;
        plan.buffer.slots = REF_EXPERTS;
        plan.prefetch.distance = 1 + random_below(&seed, 2);
        plan.prefetch.max_inflight = 2 * REF_EXPERTS;
        snprintf(plan.prefetch.predictor, sizeof plan.prefetch.predictor, "oracle:%" PRIu32,
                 plan.prefetch.distance);
        Log log = run_logged(&trace.packed, &plan, &result);
        for (uint32_t l = 0; l < trace.n_layers; l++) {
            const BufferCounts *counts = &result.layers[l].counts;
            assert_true(l < plan.prefetch.distance ? counts->prefetches == 0 : counts->misses == 0);
            assert_true(counts->prefetches == counts->prefetch_hits);
            assert_true(counts->predicted == counts->predicted_right);
        }
        replay_result_free(&result);
        free(log.actions);
        ref_trace_free(&trace);
    }
}

static void synthetic_predictions_have_the_recall_and_precision_asked_for(void **state)
{
    (void)state;
    static const struct {
        const char *text;
        double recall;
        double precision;
    } CASES[] = {{"synthetic:0.9,0.8", 0.9, 0.8},
                 {"synthetic:0.3,0.5", 0.3, 0.5},
                 {"synthetic:1,1", 1, 1},
                 {"synthetic:0.5,0.25", 0.5, 0.25}};
    TraceLayer layers[2] = {{.layer = 0, .experts = 64, .top_k = 4, .expert_bytes = 1},
                            {.layer = 1, .experts = 64, .top_k = 4, .expert_bytes = 1}};
    uint64_t seed = 3;
    PackedTrace trace;
    assert_ok(packed_trace_new(layers, 2, &trace));
    for (uint32_t s = 0; s < 5000; s++) {
        uint16_t ids[8];
        for (uint32_t i = 0; i < 8; i++)
            ids[i] = (uint16_t)(16 * (i % 4) + random_below(&seed, 16));
        const uint32_t zero = 0;
        const TraceStep step = {.step = s,
                                .phase = PHASE_DECODE,
                                .tokens = 1,
                                .request = &zero,
                                .position = &s,
                                .experts = ids};
        assert_ok(packed_trace_add_step(&trace, &step));
    }
    for (size_t i = 0; i < sizeof CASES / sizeof CASES[0]; i++) {
        ReplayResult result;
        Plan plan = plan_default();
        plan.buffer.on = true;
        plan.buffer.slots = 32;
        snprintf(plan.prefetch.predictor, sizeof plan.prefetch.predictor, "%s", CASES[i].text);
        Log log = run_logged(&trace, &plan, &result);
        const BufferCounts *counts = &result.total.counts;
        double recall = (double)counts->predicted_right / (double)counts->predictable;
        double precision = (double)counts->predicted_right / (double)counts->predicted;
        assert_true(recall > CASES[i].recall - 0.02 && recall < CASES[i].recall + 0.02);
        assert_true(precision > CASES[i].precision - 0.02 && precision < CASES[i].precision + 0.02);
        replay_result_free(&result);
        free(log.actions);
    }
    packed_trace_free(&trace);
}

static void nothing_is_predicted_beyond_the_stack_of_the_step(void **state)
{
    (void)state;
    const TraceLayer layers[4] = {{.layer = 0, .stack = STACK_ENCODER, .experts = 4, .top_k = 2},
                                  {.layer = 1, .stack = STACK_ENCODER, .experts = 4, .top_k = 2},
                                  {.layer = 2, .experts = 4, .top_k = 2},
                                  {.layer = 3, .experts = 4, .top_k = 2}};
    static const uint16_t EXPERTS[] = {1, 2};
    ExpertBuffer *buffer;
    Plan plan = plan_default();
    plan.buffer.on = true;
    plan.buffer.slots = 3;
    snprintf(plan.prefetch.predictor, sizeof plan.prefetch.predictor, "frequency");
    assert_ok(buffer_new(&plan, layers, 4, &buffer));
    for (uint32_t step = 0; step < 3; step++)
        for (uint32_t l = 0; l < 4; l++) {
            const BufferEvent event = {.layer_index = l, .n = 2, .experts = EXPERTS};
            buffer_event(buffer, &event, NULL, NULL, NULL);
        }
    for (uint32_t l = 0; l < 4; l++)
        assert_true(buffer_counts(buffer, l).predictions == (l % 2 == 1 ? 3 : 0));
    buffer_free(buffer);
}

static void a_reset_buffer_decides_as_a_new_one(void **state)
{
    (void)state;
    const TraceLayer layers[2] = {{.layer = 0, .experts = 8, .top_k = 2},
                                  {.layer = 1, .experts = 8, .top_k = 2}};
    static const char *const PREDICTORS[] = {"frequency", "previous-step", "transition"};
    for (size_t p = 0; p < 3; p++) {
        ExpertBuffer *buffer;
        BufferCounts counts[2];
        Plan plan = plan_default();
        plan.buffer.on = true;
        plan.buffer.scope = SCOPE_DEVICE;
        plan.buffer.slots = 4;
        snprintf(plan.buffer.evict, sizeof plan.buffer.evict, "random");
        snprintf(plan.prefetch.predictor, sizeof plan.prefetch.predictor, "%s", PREDICTORS[p]);
        assert_ok(buffer_new(&plan, layers, 2, &buffer));
        for (int again = 0; again < 2; again++) {
            uint64_t seed = 12;
            for (uint32_t i = 0; i < 200; i++) {
                uint16_t experts[2] = {(uint16_t)random_below(&seed, 4),
                                       (uint16_t)(4 + random_below(&seed, 4))};
                const BufferEvent event = {.layer_index = i % 2, .n = 2, .experts = experts};
                buffer_event(buffer, &event, NULL, NULL, NULL);
            }
            counts[again] = counts_of_all(buffer, 2);
            buffer_reset(buffer);
        }
        assert_true(counts[0].prefetches > 0);
        assert_memory_equal(&counts[0], &counts[1], sizeof counts[0]);
        buffer_free(buffer);
    }
}

static void every_failed_allocation_is_reported_and_leaks_nothing(void **state)
{
    (void)state;
    const TraceLayer layers[2] = {{.layer = 0, .experts = 8, .top_k = 2},
                                  {.layer = 1, .experts = 8, .top_k = 2}};
    static const char *const PREDICTORS[] = {"frequency",         "previous-step", "transition",
                                             "oracle:1",          "synthetic:1,1", "next-gate",
                                             "activation-match:4"};
    for (size_t p = 0; p < sizeof PREDICTORS / sizeof PREDICTORS[0]; p++) {
        Plan plan = plan_default();
        plan.buffer.on = true;
        plan.buffer.slots = 3;
        snprintf(plan.prefetch.predictor, sizeof plan.prefetch.predictor, "%s", PREDICTORS[p]);
        for (FailingAllocation failing = {0}; failing_next(&failing);) {
            ExpertBuffer *buffer = NULL;
            Status status = buffer_new(&plan, layers, 2, &buffer);
            failing_end(&failing, status);
            if (status == OK)
                buffer_free(buffer);
        }
    }
}

static void shares_are_rounded_down_whatever_the_whole(void **unused)
{
    (void)unused;
    enum { PARTS = 37 };
    uint64_t state = 3;
    for (int round = 0; round < 20000; round++) {
        uint32_t bits = 1 + random_below(&state, 31);
        uint32_t whole = 1 + random_below(&state, UINT32_C(1) << bits);
        uint32_t parts[PARTS];
        uint64_t sum[PARTS];
        if (round % 8 == 0)
            whole = (UINT32_C(1) << 29) - 2 + (uint32_t)round % 5;
        for (uint32_t i = 0; i < PARTS; i++) {
            parts[i] = i == 0 ? whole : i == 1 ? whole - 1 : random_below(&state, whole);
            sum[i] = i;
        }
        shares_add(parts, PARTS, whole, sum);
        for (uint32_t i = 0; i < PARTS; i++)
            assert_int_equal(sum[i], i + ((uint64_t)parts[i] << SHARE_BITS) / whole);
    }
}

int main(void)
{
    memory_install();
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(shares_are_rounded_down_whatever_the_whole),
        cmocka_unit_test(every_decision_and_count_is_that_of_the_plain_reference),
        cmocka_unit_test(no_policy_evicts_for_a_prefetch_what_the_event_needs_or_what_is_in_flight),
        cmocka_unit_test(counts_are_the_same_without_an_observer),
        cmocka_unit_test(the_oracle_with_room_leaves_only_the_misses_of_the_first_layers),
        cmocka_unit_test(synthetic_predictions_have_the_recall_and_precision_asked_for),
        cmocka_unit_test(nothing_is_predicted_beyond_the_stack_of_the_step),
        cmocka_unit_test(a_reset_buffer_decides_as_a_new_one),
        cmocka_unit_test(every_failed_allocation_is_reported_and_leaks_nothing),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
