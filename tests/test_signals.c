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

enum { MANY = 1500 };

static double plain_value(uint16_t half)
{
    double value = ldexp((double)f32_from_f16(half), 24);
    if (isnan(value) || value < 0)
        return 0;
    return isinf(value) ? ldexp(65504, 24) : value;
}

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

static Log replay(const Signalled *it, const Plan *plan, ReplayResult *result)
{
    Log log = {0};
    SignalNeeds needs = plan_needs_signals(plan);
    TraceSignals *signals = signals_of(it, &needs);
    ReplayFuture future = {.signals = signals};
    assert_ok(replay_run(&it->ref.packed, plan, &future, log_append, &log, result));
    trace_signals_free(signals);
    return log;
}

static void assert_same_actions(const Log *log, const RefBuffer *wanted)
{
    for (size_t i = 0; i < log->n && i < wanted->n_actions; i++) {
        const BufferAction *is = &log->actions[i];
        const BufferAction *must = &wanted->actions[i];
        if (is->kind != must->kind || is->layer_index != must->layer_index ||
            is->expert != must->expert || is->slot != must->slot)
            fail_msg("action %zu: %s of %u/%u in %u, wanted %s of %u/%u in %u", i,
                     residency_kind_name(is->kind), is->layer_index, is->expert, is->slot,
                     residency_kind_name(must->kind), must->layer_index, must->expert, must->slot);
    }
    assert_int_equal(log->n, wanted->n_actions);
}

static Plan random_plan(uint64_t *seed)
{
    static const char *const EVICTS[] = {"lru", "lfu", "fifo", "arc", "random", "lifo"};
    Plan plan = plan_default();
    plan.seed = random_next(seed);
    plan.buffer.on = true;
    plan.buffer.scope = random_below(seed, 2) ? SCOPE_DEVICE : SCOPE_LAYER;
    plan.buffer.order = (ReplayOrder)random_below(seed, REPLAY_ORDERS);
    plan.buffer.slots = 1 + random_below(seed, plan.buffer.scope == SCOPE_DEVICE ? 40 : 16);
    snprintf(plan.buffer.evict, sizeof plan.buffer.evict, "%s", EVICTS[random_below(seed, 6)]);
    plan.prefetch.distance = 1 + random_below(seed, SIGNALLED_DISTANCES);
    plan.prefetch.max_inflight = 1 + random_below(seed, 12);
    plan.prefetch.experts = random_below(seed, 2) ? 1 + random_below(seed, 6) : 0;
    return plan;
}

static uint32_t plain_next_gate(RefPrefetch *prefetch, uint32_t target, uint64_t *score)
{
    const Signalled *it = prefetch->argument;
    const RefTrace *ref = &it->ref;
    uint32_t now = prefetch->buffer.event;
    uint32_t d = prefetch->buffer.plan->prefetch.distance - 1;
    uint32_t ids = tokens_of(ref, &ref->events[now]) * ref->layers[target].top_k;
    for (uint32_t i = 0; i < ids; i++)
        score[it->predicted[now][d][i]] +=
            1 + (uint64_t)ldexp((double)f32_from_f16(it->weights[now][d][i]), 24);
    return REF_EXPERTS;
}

/* The collection by plain arrays, and the events that are in it. */
typedef struct {
    Signalled *it;
    uint32_t room;
    uint32_t n;
    uint32_t next; /* event */
    uint32_t joined;
    struct {
        uint32_t request;
        uint32_t joined;
        uint32_t matches;
        uint64_t counts[REF_LAYERS][REF_EXPERTS];
    } entries[8];
} PlainMatch;

static int plain_find(const PlainMatch *match, uint32_t request)
{
    for (uint32_t i = 0; i < match->n; i++)
        if (match->entries[i].request == request)
            return (int)i;
    return -1;
}

static bool is_present(const PlainMatch *match, uint32_t now, uint32_t request)
{
    const RefTrace *ref = &match->it->ref;
    for (uint32_t t = 0; t < tokens_of(ref, &ref->events[now]); t++)
        if (match->it->request[now][t] == request)
            return true;
    return false;
}

/* The next free place, or that of the request that matched least, the earliest of these. */
static int plain_join(PlainMatch *match, uint32_t now, uint32_t request)
{
    int place = match->n < match->room ? (int)match->n : -1;
    for (uint32_t i = 0; match->n == match->room && i < match->n; i++) {
        if (is_present(match, now, match->entries[i].request))
            continue;
        if (place < 0 || match->entries[i].matches < match->entries[place].matches ||
            (match->entries[i].matches == match->entries[place].matches &&
             match->entries[i].joined < match->entries[place].joined))
            place = (int)i;
    }
    if (place < 0)
        return -1;
    match->n += match->n < match->room;
    memset(&match->entries[place], 0, sizeof match->entries[place]);
    match->entries[place].request = request;
    match->entries[place].joined = match->joined++;
    return place;
}

static void plain_learn(PlainMatch *match, uint32_t now)
{
    const RefTrace *ref = &match->it->ref;
    const RefEvent *event = &ref->events[now];
    uint32_t top_k = ref->layers[event->layer].top_k;
    for (uint32_t t = 0; t < tokens_of(ref, event); t++) {
        int place = plain_find(match, match->it->request[now][t]);
        if (place < 0)
            place = plain_join(match, now, match->it->request[now][t]);
        for (uint32_t k = 0; place >= 0 && k < top_k; k++)
            match->entries[place].counts[event->layer][event->touches[t * top_k + k]]++;
    }
}

static double plain_dot(const uint64_t *a, const uint64_t *b)
{
    double sum = 0;
    for (uint32_t e = 0; e < REF_EXPERTS; e++)
        sum += (double)(a[e] * b[e]);
    return sum;
}

static uint64_t plain_similarity(const PlainMatch *match, uint32_t i, uint32_t j)
{
    uint64_t sum = 0;
    for (uint32_t l = 0; l < match->it->ref.n_layers; l++) {
        const uint64_t *a = match->entries[i].counts[l];
        const uint64_t *b = match->entries[j].counts[l];
        double lengths = sqrt(plain_dot(a, a)) * sqrt(plain_dot(b, b));
        sum += lengths > 0 ? (uint64_t)floor(plain_dot(a, b) / lengths * 16777216) : 0;
    }
    return sum;
}

static uint32_t plain_match(RefPrefetch *prefetch, uint32_t target, uint64_t *score)
{
    PlainMatch *match = prefetch->argument;
    uint32_t now = prefetch->buffer.event;
    while (match->next <= now)
        plain_learn(match, match->next++);
    for (uint32_t i = 0; i < match->n; i++) {
        uint32_t best = i;
        uint64_t most = 0;
        if (!is_present(match, now, match->entries[i].request))
            continue;
        for (uint32_t j = 0; j < match->n; j++) {
            uint64_t similarity = j != i ? plain_similarity(match, i, j) : 0;
            if (similarity > most || (similarity == most && most > 0 &&
                                      match->entries[j].joined < match->entries[best].joined)) {
                most = similarity;
                best = j;
            }
        }
        if (best == i)
            continue;
        match->entries[best].matches++;
        uint64_t sum = 0;
        for (uint32_t e = 0; e < REF_EXPERTS; e++)
            sum += match->entries[best].counts[target][e];
        for (uint32_t e = 0; sum > 0 && e < REF_EXPERTS; e++)
            score[e] += match->entries[best].counts[target][e] * 16777216 / sum;
    }
    return match->it->ref.events[now].n;
}

/* Runs TRIES random traces under random plans with PREDICTOR; returns the prefetches. */
static uint64_t compare_predictor(const char *predictor,
                                  uint32_t (*plain)(RefPrefetch *, uint32_t, uint64_t *),
                                  uint32_t tries)
{
    uint64_t seed = 77;
    uint64_t prefetches = 0;
    for (uint32_t i = 0; i < tries; i++) {
        static Signalled it;
        static RefPrefetch wanted;
        ReplayResult result;
        Plan plan = random_plan(&seed);
        snprintf(plan.prefetch.predictor, sizeof plan.prefetch.predictor, "%s", predictor);
        signalled_make(&it, random_next(&seed), 1 + random_below(&seed, 30));
        static PlainMatch match;
        match = (PlainMatch){.it = &it, .room = (uint32_t)atoi(strchr(predictor, 0) - 1)};
        wanted = (RefPrefetch){.predict = plain, .argument = &it};
        if (plain == plain_match)
            wanted.argument = &match;
        ref_run_prefetch(&wanted, &it.ref, &plan);
        Log log = replay(&it, &plan, &result);
        assert_same_actions(&log, &wanted.buffer);
        const BufferCounts *counts = &result.total.counts;
        assert_true(counts->predicted == wanted.counts.predicted);
        assert_true(counts->predicted_right == wanted.counts.predicted_right);
        prefetches += counts->prefetches;
        replay_result_free(&result);
        free(log.actions);
        free(wanted.buffer.actions);
        ref_trace_free(&it.ref);
    }
    return prefetches;
}

static void next_gate_loads_what_the_plain_reference_loads(void **state)
{
    (void)state;
    assert_true(compare_predictor("next-gate", plain_next_gate, MANY) > 5000);
}

/* The average of one expert, from the first event on. */
static uint64_t plain_average(const Signalled *it, const Plan *plan, uint32_t now, uint32_t layer,
                              uint32_t expert)
{
    const RefTrace *ref = &it->ref;
    uint64_t average = 0;
    uint64_t newest = (uint64_t)lround(65536 * (plan->buffer.alpha > 0 ? plan->buffer.alpha : 0.5));
    for (uint32_t e = layer; e <= now; e += ref->n_layers) {
        const RefEvent *event = &ref->events[e];
        uint32_t tokens = tokens_of(ref, event);
        double sum = 0;
        for (uint32_t t = 0; it->has_scores && t < tokens; t++)
            sum += plain_value(it->scores[e][t][expert]);
        for (uint32_t i = 0; !it->has_scores && i < event->n_touches; i++)
            if (event->touches[i] == expert)
                sum += plain_value(it->scores[e][i / ref->layers[layer].top_k][expert]);
        uint64_t mean = (uint64_t)floor(sum / tokens);
        average = (newest * (mean * 16384) + (65536 - newest) * average) / 65536;
    }
    return average;
}

static uint64_t plain_rank(const RefBuffer *buffer, uint32_t layer, uint32_t expert)
{
    return UINT64_MAX -
           plain_average(buffer->trace->argument, buffer->plan, buffer->event, layer, expert);
}

/* Half of the plans prefetch, half of the budgets are in bytes over experts of different sizes. */
static Plan random_ema_plan(uint64_t *seed, RefPrefetch *wanted)
{
    static const double ALPHAS[] = {0, 0.25, 1, 0.001};
    Plan plan = random_plan(seed);
    snprintf(plan.buffer.evict, sizeof plan.buffer.evict, "ema-score");
    plan.buffer.alpha = ALPHAS[random_below(seed, 4)];
    if (random_below(seed, 2)) {
        plan.buffer.bytes = 300 * plan.buffer.slots + random_below(seed, 200);
        plan.buffer.slots = 0;
    }
    *wanted = (RefPrefetch){.predictor = "frequency"};
    if (random_below(seed, 2))
        snprintf(plan.prefetch.predictor, sizeof plan.prefetch.predictor, "frequency");
    return plan;
}

static void ema_score_evicts_as_the_plain_reference(void **state)
{
    (void)state;
    uint64_t seed = 5;
    uint64_t evictions = 0;
    for (uint32_t i = 0; i < MANY / 2; i++) {
        static Signalled it;
        static RefPrefetch wanted;
        ReplayResult result;
        Plan plan = random_ema_plan(&seed, &wanted);
        signalled_make(&it, random_next(&seed), 1 + random_below(&seed, 30));
        it.ref.rank = plain_rank;
        it.ref.argument = &it;
        if (plan_prefetches(&plan))
            ref_run_prefetch(&wanted, &it.ref, &plan);
        else
            ref_run(&wanted.buffer, &it.ref, &plan);
        Log log = replay(&it, &plan, &result);
        assert_same_actions(&log, &wanted.buffer);
        evictions += result.total.counts.evictions;
        replay_result_free(&result);
        free(log.actions);
        free(wanted.buffer.actions);
        ref_trace_free(&it.ref);
    }
    print_message("%llu evictions\n", (unsigned long long)evictions);
    assert_true(evictions > 5000);
}

static void activation_match_loads_what_the_plain_reference_loads(void **state)
{
    (void)state;
    static const char *const NAMES[] = {"activation-match:2", "activation-match:3",
                                        "activation-match:6"};
    uint64_t prefetches = 0;
    for (size_t i = 0; i < 3; i++)
        prefetches += compare_predictor(NAMES[i], plain_match, MANY / 3);
    print_message("%llu prefetches\n", (unsigned long long)prefetches);
    assert_true(prefetches > 1000);
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
        cmocka_unit_test(next_gate_loads_what_the_plain_reference_loads),
        cmocka_unit_test(activation_match_loads_what_the_plain_reference_loads),
        cmocka_unit_test(ema_score_evicts_as_the_plain_reference),
        cmocka_unit_test(a_replay_without_the_signals_of_its_plan_is_refused),
        cmocka_unit_test(every_failed_allocation_is_reported_and_leaks_nothing),
        cmocka_unit_test(results_over_other_scores_are_refused),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
