/* Policies that decide by scores and predictions, against plain references. */
#include "tests/reference_prefetch.h"
#include "tests/signalled_trace.h"

#include <math.h>
#include <stdio.h>

#include "base/memory.h"
#include "sim/sweep.h"
#include "tests/action_log.h"
#include "tests/random_trace.h"

enum { MANY = 1500 };

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
        assert_same_actions(&log, wanted.buffer.actions, wanted.buffer.n_actions);
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
        assert_same_actions(&log, wanted.buffer.actions, wanted.buffer.n_actions);
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

int main(void)
{
    memory_install();
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(next_gate_loads_what_the_plain_reference_loads),
        cmocka_unit_test(activation_match_loads_what_the_plain_reference_loads),
        cmocka_unit_test(ema_score_evicts_as_the_plain_reference),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
