#include "tests/reference_prefetch.h"

#include <stdio.h>

#include "base/memory.h"
#include "sim/parts.h"
#include "sim/replay.h"
#include "sim/sweep_learn.h"
#include "sim/train.h"
#include "traces/packed_part.h"

static RefTrace trace;

static Plan make_plan(const char *evict, ReplayOrder order, BufferScopeKind scope, uint32_t slots)
{
    Plan plan = plan_default();
    plan.buffer.on = true;
    plan.buffer.order = order;
    plan.buffer.scope = scope;
    plan.buffer.slots = slots;
    snprintf(plan.buffer.evict, sizeof plan.buffer.evict, "%s", evict);
    return plan;
}

static uint32_t n_steps(const RefTrace *of)
{
    return of->n_events / of->n_layers;
}

static void assert_same_event(const PackedEvent *is, const PackedEvent *wanted)
{
    uint16_t left[REF_EXPERTS];
    uint16_t right[REF_EXPERTS];
    assert_int_equal(is->step, wanted->step);
    assert_int_equal(is->layer_index, wanted->layer_index);
    assert_int_equal(is->n_active, wanted->n_active);
    assert_memory_equal(is->experts, wanted->experts, wanted->n_active * sizeof *is->experts);
    packed_touches(is, left);
    packed_touches(wanted, right);
    assert_memory_equal(left, right, wanted->n_active * sizeof *left);
    assert_true((is->counts == NULL) == (wanted->counts == NULL));
    const uint8_t *a = is->counts;
    const uint8_t *b = wanted->counts;
    for (uint32_t i = 0; a != NULL && i < wanted->n_active; i++)
        assert_int_equal(packed_count_read(&a), packed_count_read(&b));
}

static void a_part_has_the_events_of_its_steps(void **unused)
{
    (void)unused;
    uint64_t state = 3;
    for (uint64_t seed = 1; seed <= 100; seed++) {
        ref_trace_make(&trace, seed, 40);
        uint64_t first = random_below(&state, n_steps(&trace) + 1);
        uint64_t end = first + random_below(&state, n_steps(&trace) - (uint32_t)first + 1);
        PackedTrace part = packed_trace_part(&trace.packed, first, end);
        PackedCursor cursor = packed_cursor(&part);
        PackedCursor all = packed_cursor(&trace.packed);
        PackedEvent is;
        PackedEvent wanted;
        uint64_t lookups = 0;
        uint64_t assignments = 0;
        uint32_t widest = 0;
        for (uint64_t i = 0; i < first * trace.n_layers; i++)
            assert_true(packed_next(&all, &wanted));
        for (uint64_t e = first * trace.n_layers; e < end * trace.n_layers; e++) {
            assert_true(packed_next(&cursor, &is) && packed_next(&all, &wanted));
            assert_same_event(&is, &wanted);
            assert_int_equal(is.first_lookup, lookups);
            lookups += trace.events[e].n;
            assignments += trace.events[e].n_touches;
            widest = trace.events[e].n > widest ? trace.events[e].n : widest;
        }
        assert_false(packed_next(&cursor, &is));
        assert_int_equal(part.n_steps, end - first);
        assert_int_equal(part.n_lookups, lookups);
        assert_int_equal(part.n_assignments, assignments);
        assert_int_equal(part.max_active, widest);
        ref_trace_free(&trace);
    }
}

static PartsAsked ask(const char *train, const char *test)
{
    PartsAsked asked = {0};
    if (train != NULL)
        assert_ok(trace_part_parse(train, &asked.train));
    if (test != NULL)
        assert_ok(trace_part_parse(test, &asked.test));
    return asked;
}

static void parts_have_defaults_only_where_something_is_learnt(void **unused)
{
    (void)unused;
    static const struct {
        const char *train;
        const char *test;
        bool learnt;
        uint64_t n_steps;
        Steps wanted_train;
        Steps wanted_test;
        bool overlap;
    } cases[] = {
        {NULL, NULL, false, 11, {0, 0}, {0, 11}, false},
        {NULL, NULL, false, 0, {0, 0}, {0, 0}, false},
        {NULL, "0.5:1", false, 11, {0, 0}, {5, 11}, false},
        {NULL, NULL, true, 11, {0, 5}, {5, 11}, false},
        {NULL, NULL, true, 2, {0, 1}, {1, 2}, false},
        {"0:0.3", NULL, true, 10, {0, 3}, {3, 10}, false},
        {NULL, "0.7:0.9", true, 10, {0, 7}, {7, 9}, false},
        {"0.5:1", "0:0.5", true, 10, {5, 10}, {0, 5}, false},
        {"0:1", "0:1", true, 10, {0, 10}, {0, 10}, true},
        {"0.2:0.6", "0.5:1", true, 10, {2, 6}, {5, 10}, true},
        {"0:0.1", "0.9:1", true, 1000000, {0, 100000}, {900000, 1000000}, false},
    };
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        PartsAsked asked = ask(cases[i].train, cases[i].test);
        TraceParts parts;
        assert_ok(trace_parts_choose(&asked, cases[i].learnt, cases[i].n_steps, &parts));
        assert_int_equal(parts.trains, cases[i].learnt);
        assert_int_equal(parts.train.first, cases[i].wanted_train.first);
        assert_int_equal(parts.train.end, cases[i].wanted_train.end);
        assert_int_equal(parts.test.first, cases[i].wanted_test.first);
        assert_int_equal(parts.test.end, cases[i].wanted_test.end);
        assert_int_equal(trace_parts_overlap(&parts), cases[i].overlap);
    }
}

static void parts_that_make_no_sense_are_refused(void **unused)
{
    (void)unused;
    static const char *const WRONG[] = {"",      "0",       ":",      "0:",    ":1",   "0.5:0.5",
                                        "1:0",   "0:1.5",   "-0.5:1", "0:1x",  "0 :1", " 0:1",
                                        "0:nan", "0x0:0x1", "0:1e0",  "0:1:1", "a:b",  "0:inf",
                                        "0,0:1", "0.5.1:1", "0.5:1 ", "0::1",  "+0:1"};
    static const struct {
        const char *train;
        const char *test;
        bool learnt;
        const char *reason;
    } cases[] = {
        {"0:0.5", NULL, false, "--train: nothing is learnt"},
        {"0:1", NULL, true, "--train: nothing lies behind it"},
        {NULL, "0:0.5", true, "--test: nothing lies before it"},
        {"0:0.01", NULL, true, "--train: the part 0:0.01 of 10 steps has none"},
        {NULL, "0.99:0.999", false, "--test: the part 0.99:0.999 of 10 steps has none"},
    };
    TracePart part;
    for (size_t i = 0; i < sizeof WRONG / sizeof WRONG[0]; i++)
        if (trace_part_parse(WRONG[i], &part) != ERR_INPUT)
            fail_msg("\"%s\" was taken", WRONG[i]);
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        PartsAsked asked = ask(cases[i].train, cases[i].test);
        TraceParts parts;
        assert_int_equal(trace_parts_choose(&asked, cases[i].learnt, 10, &parts), ERR_INPUT);
        if (strstr(error_message(), cases[i].reason) == NULL)
            fail_msg("\"%s\" does not say \"%s\"", error_message(), cases[i].reason);
    }
}

/* Events of the first STEPS steps that need the expert. */
static uint64_t count_events(uint32_t steps, uint32_t layer, uint32_t expert)
{
    uint64_t events = 0;
    for (uint32_t e = 0; e < steps * trace.n_layers; e++)
        for (uint32_t i = 0; i < trace.events[e].n; i++)
            events += trace.events[e].layer == layer && trace.events[e].experts[i] == expert;
    return events;
}

/* Whether the table lists the experts that events need most: each by trying all. */
static void assert_hottest(const Plan *plan, const PlanTable *table, uint32_t steps)
{
    bool shared = plan->buffer.scope == SCOPE_DEVICE;
    for (uint32_t first = 0; first < trace.n_layers; first++) {
        bool taken[REF_LAYERS][REF_EXPERTS] = {{false}};
        bool left[REF_LAYERS][REF_EXPERTS] = {{false}};
        uint64_t budget = plan->buffer.bytes > 0 ? plan->buffer.bytes : plan->buffer.slots;
        uint32_t at[REF_LAYERS] = {0};
        if (shared && first > 0)
            return;
        for (;;) {
            int64_t best = -1;
            uint64_t most = 0;
            for (uint32_t l = 0; l < trace.n_layers; l++)
                for (uint32_t e = 0; e < trace.layers[l].experts && (shared || l == first); e++) {
                    uint64_t events = count_events(steps, l, e);
                    if (taken[l][e] || left[l][e] || (best >= 0 && events <= most))
                        continue;
                    best = l * REF_EXPERTS + e;
                    most = events;
                }
            if (best < 0)
                break;
            uint32_t layer = (uint32_t)best / REF_EXPERTS;
            uint32_t expert = (uint32_t)best % REF_EXPERTS;
            uint64_t weight = plan->buffer.bytes > 0 ? trace.layers[layer].expert_bytes : 1;
            left[layer][expert] = weight > budget;
            taken[layer][expert] = weight <= budget;
            if (left[layer][expert])
                continue;
            budget -= weight;
            PlanRow list = plan_table_list(table, trace.layers[layer].layer);
            assert_true(at[layer] < list.n);
            assert_int_equal(list.values[at[layer]++], expert);
        }
        for (uint32_t l = 0; l < trace.n_layers; l++)
            if (shared || l == first)
                assert_int_equal(plan_table_list(table, trace.layers[l].layer).n, at[l]);
    }
}

static Plan random_budget(uint64_t *state, const char *evict)
{
    BufferScopeKind scope = random_below(state, 2) ? SCOPE_DEVICE : SCOPE_LAYER;
    uint32_t slots = 1 + random_below(state, scope == SCOPE_DEVICE ? 40 : 12);
    Plan plan = make_plan(evict, (ReplayOrder)random_below(state, REPLAY_ORDERS), scope, slots);
    if (random_below(state, 2)) {
        plan.buffer.bytes = 200 * plan.buffer.slots + 300 + random_below(state, 200);
        plan.buffer.slots = 0;
    }
    return plan;
}

static void the_hot_set_is_what_most_events_of_the_training_part_need(void **unused)
{
    (void)unused;
    uint64_t state = 9;
    for (uint64_t seed = 1; seed <= 200; seed++) {
        Plan learnt;
        ref_trace_make(&trace, 500 + seed, 30);
        Plan plan = random_budget(&state, "static");
        plan.buffer.hot.choice = HOT_HOTTEST;
        plan.buffer.initial.choice = HOT_HOTTEST;
        uint32_t steps = 1 + random_below(&state, n_steps(&trace));
        const TraceParts parts = {.trains = true, .train = {0, steps}};
        assert_ok(learn_plan(&trace.packed, NULL, &parts, &plan, &learnt));
        assert_null(plan_unlearned(&learnt));
        assert_hottest(&plan, learnt.buffer.hot.table, steps);
        assert_hottest(&plan, learnt.buffer.initial.table, steps);
        plan_free(&learnt);
        ref_trace_free(&trace);
    }
}

/* Misses of the first layer, but for the first load of each that is kept. */
static uint64_t misses_when_warm(const Plan *plan)
{
    ReplayFuture none = {0};
    ReplayResult result;
    PlanRow hot = plan_table_list(plan->buffer.hot.table, trace.layers[0].layer);
    assert_ok(replay_run(&trace.packed, plan, &none, NULL, NULL, &result));
    uint64_t misses = result.layers[0].counts.misses;
    for (uint32_t i = 0; i < hot.n; i++)
        misses -= count_events(n_steps(&trace), 0, hot.values[i]) > 0;
    replay_result_free(&result);
    return misses;
}

/* The experts of SET of the first layer, none of the others. */
static PlanTable *table_of_set(uint32_t set)
{
    PlanTable *table;
    assert_ok(plan_table_new(TABLE_LISTS, 1, 1, (uint32_t)__builtin_popcount(set), &table));
    PlanTableParts parts = plan_table_parts(table);
    parts.layer[0] = trace.layers[0].layer;
    parts.first_row[1] = 1;
    for (uint32_t e = 0; e < trace.layers[0].experts; e++)
        if (set >> e & 1)
            parts.value[parts.first_value[1]++] = e;
    return table;
}

static void no_other_hot_set_misses_less_where_it_was_learnt(void **unused)
{
    (void)unused;
    for (uint64_t seed = 1; seed <= 12; seed++) {
        ref_trace_make(&trace, 900 + seed, 30);
        Plan plan = make_plan("static", (ReplayOrder)(seed % 2), SCOPE_LAYER, 1 + seed % 3);
        Plan learnt;
        plan.buffer.hot.choice = HOT_HOTTEST;
        const TraceParts parts = {.trains = true, .train = {0, trace.packed.n_steps}};
        assert_ok(learn_plan(&trace.packed, NULL, &parts, &plan, &learnt));
        uint64_t best = misses_when_warm(&learnt);
        plan_free(&learnt);
        for (uint32_t set = 0; set < 1u << trace.layers[0].experts; set++) {
            if ((uint32_t)__builtin_popcount(set) != plan.buffer.slots)
                continue;
            plan.buffer.hot = (PlanLearned){.table = table_of_set(set)};
            assert_true(misses_when_warm(&plan) >= best);
            plan_free(&plan);
        }
        ref_trace_free(&trace);
    }
}

static BufferCounts counts_of(const Plan *plan)
{
    ReplayFuture future = {0};
    ReplayResult result;
    assert_ok(replay_prepare(&trace.packed, plan, &future));
    assert_ok(replay_run(&trace.packed, plan, &future, NULL, NULL, &result));
    BufferCounts counts = result.total.counts;
    replay_result_free(&result);
    replay_future_free(&future);
    return counts;
}

static uint64_t bytes_loaded(const Plan *plan)
{
    BufferCounts counts = counts_of(plan);
    return counts.bytes_loaded + counts.bytes_prefetched;
}

static PlanTable *table_of_slots(const uint32_t *slots)
{
    PlanTable *table;
    uint32_t n = trace.n_layers;
    assert_ok(plan_table_new(TABLE_NUMBERS, n, n, n, &table));
    PlanTableParts parts = plan_table_parts(table);
    for (uint32_t i = 0; i < n; i++) {
        parts.layer[i] = trace.layers[i].layer;
        parts.first_row[i + 1] = i + 1;
        parts.first_value[i + 1] = i + 1;
        parts.value[i] = slots[i];
    }
    return table;
}

/* The fewest bytes of all shares of the budget, each replayed; what is learnt besides is learnt for
 * each. */
static uint64_t try_all_shares(const Plan *plan, const TraceParts *parts, uint32_t layer,
                               uint32_t *slots, uint64_t left)
{
    uint64_t best = UINT64_MAX;
    if (layer >= trace.n_layers || layer >= REF_LAYERS) {
        Plan given = *plan;
        Plan learnt;
        given.buffer.budget = (PlanLearned){.table = table_of_slots(slots)};
        assert_ok(learn_plan(&trace.packed, NULL, parts, &given, &learnt));
        best = bytes_loaded(&learnt);
        plan_free(&learnt);
        plan_free(&given);
        return best;
    }
    uint64_t weight = plan->buffer.bytes > 0 ? trace.layers[layer].expert_bytes : 1;
    uint32_t least = plan->buffer.order == ORDER_STAGED ? 0 : 1;
    for (uint32_t n = least; n <= trace.layers[layer].experts && n * weight <= left; n++) {
        slots[layer] = n;
        uint64_t bytes = try_all_shares(plan, parts, layer + 1, slots, left - n * weight);
        best = bytes < best ? bytes : best;
    }
    return best;
}

/* Makes a trace of few enough shares to try them all. */
static void make_small_trace(uint64_t *state)
{
    do {
        if (trace.packed.layers != NULL)
            ref_trace_free(&trace);
        ref_trace_make(&trace, random_next(state), 20);
    } while (trace.n_layers > 3);
}

static void optimal_budgets_load_no_more_than_any_other_where_they_were_learnt(void **unused)
{
    (void)unused;
    static const char *const EVICT[] = {"lru",    "fifo",         "lfu",    "lifo-inactive-first",
                                        "belady", "belady-admit", "static", "s3-fifo"};
    uint64_t state = 11;
    for (uint64_t seed = 1; seed <= 60; seed++) {
        uint32_t slots[REF_LAYERS];
        Plan learnt;
        make_small_trace(&state);
        Plan plan = make_plan(EVICT[seed % 8], (ReplayOrder)random_below(&state, REPLAY_ORDERS),
                              SCOPE_LAYER, 1 + random_below(&state, 4));
        if (random_below(&state, 2)) {
            plan.buffer.bytes = 300 + 100 * plan.buffer.slots;
            plan.buffer.slots = 0;
        }
        plan.buffer.budget.choice = BUDGET_OPTIMAL;
        plan.buffer.hot.choice = eviction_needs_hot(plan.buffer.evict) ? HOT_HOTTEST : HOT_NONE;
        if (!eviction_needs_future(plan.buffer.evict) && random_below(&state, 2))
            plan.buffer.initial.choice = HOT_HOTTEST;
        const TraceParts parts = {
            .trains = true, .train = {0, trace.packed.n_steps}, .test = {0, trace.packed.n_steps}};
        uint64_t each = plan.buffer.bytes > 0 ? plan.buffer.bytes : plan.buffer.slots;
        assert_ok(learn_plan(&trace.packed, NULL, &parts, &plan, &learnt));
        uint64_t bytes = bytes_loaded(&learnt);
        uint64_t best = try_all_shares(&plan, &parts, 0, slots, each * trace.n_layers);
        if (bytes != best)
            fail_msg("trace %llu: %s, order %s: loads %llu bytes, the fewest are %llu",
                     (unsigned long long)seed, plan.buffer.evict,
                     plan_order_name(plan.buffer.order), (unsigned long long)bytes,
                     (unsigned long long)best);
        plan_free(&learnt);
    }
    ref_trace_free(&trace);
}

/* With distance 1 all that is in flight is of one layer, so that layers do not depend on each
 * other. Farther ahead they may: then equal shares are the bound. */
static void optimal_budgets_count_what_is_loaded_ahead(void **unused)
{
    (void)unused;
    static const char *const PREDICTORS[] = {"frequency", "previous-step", "transition", "oracle",
                                             "synthetic:0.8,0.5"};
    static const char *const EVICT[] = {"lru", "lfu", "lifo-inactive-first", "static", "arc"};
    uint64_t state = 12;
    uint64_t prefetches = 0;
    for (uint64_t seed = 0; seed < 100; seed++) {
        uint32_t slots[REF_LAYERS];
        Plan learnt;
        Plan equal;
        make_small_trace(&state);
        Plan plan = make_plan(EVICT[seed % 5], (ReplayOrder)random_below(&state, REPLAY_ORDERS),
                              SCOPE_LAYER, 1 + random_below(&state, 4));
        snprintf(plan.prefetch.predictor, sizeof plan.prefetch.predictor, "%s",
                 PREDICTORS[seed / 5 % 5]);
        plan.prefetch.distance = 1 + random_below(&state, 2);
        if (strcmp(plan.prefetch.predictor, "oracle") == 0)
            snprintf(plan.prefetch.predictor, sizeof plan.prefetch.predictor, "oracle:%u",
                     plan.prefetch.distance);
        if (seed / 5 % 5 == 0 || seed / 5 % 5 == 2)
            plan.prefetch.table.choice = random_below(&state, 2) ? TABLE_TRAINED : 0;
        plan.prefetch.max_inflight = 1 + random_below(&state, 3);
        plan.buffer.budget.choice = BUDGET_OPTIMAL;
        plan.buffer.hot.choice = eviction_needs_hot(plan.buffer.evict) ? HOT_HOTTEST : HOT_NONE;
        const TraceParts parts = {
            .trains = true, .train = {0, trace.packed.n_steps}, .test = {0, trace.packed.n_steps}};
        assert_ok(learn_plan(&trace.packed, NULL, &parts, &plan, &learnt));
        uint64_t bytes = bytes_loaded(&learnt);
        plan_free(&learnt);
        plan.buffer.budget.choice = BUDGET_UNIFORM;
        assert_ok(learn_plan(&trace.packed, NULL, &parts, &plan, &equal));
        assert_true(bytes <= bytes_loaded(&equal));
        prefetches += counts_of(&equal).prefetches;
        plan_free(&equal);
        uint64_t best =
            try_all_shares(&plan, &parts, 0, slots, (uint64_t)plan.buffer.slots * trace.n_layers);
        if (plan.prefetch.distance == 1 ? bytes != best : bytes < best)
            fail_msg("trace %llu: %s, order %s, %s: loads %llu bytes, the fewest are %llu",
                     (unsigned long long)seed, plan.buffer.evict,
                     plan_order_name(plan.buffer.order), plan.prefetch.predictor,
                     (unsigned long long)bytes, (unsigned long long)best);
    }
    print_message("%llu prefetches\n", (unsigned long long)prefetches);
    assert_true(prefetches > 100);
    ref_trace_free(&trace);
}

/* The first N experts of each of N_LAYERS, or all it has. */
static PlanTable *table_of_first(uint32_t n, uint32_t n_layers)
{
    PlanTable *table;
    uint32_t used = 0;
    for (uint32_t i = 0; i < n_layers; i++)
        used += n < trace.layers[i].experts ? n : trace.layers[i].experts;
    assert_ok(plan_table_new(TABLE_LISTS, n_layers, n_layers, used, &table));
    PlanTableParts parts = plan_table_parts(table);
    used = 0;
    for (uint32_t i = 0; i < n_layers; i++) {
        parts.layer[i] = trace.layers[i].layer;
        parts.first_row[i + 1] = i + 1;
        for (uint32_t e = 0; e < n && e < trace.layers[i].experts; e++)
            parts.value[used++] = e;
        parts.first_value[i + 1] = used;
    }
    return table;
}

static void every_layer_keeps_room_for_the_lists_of_the_plan(void **unused)
{
    (void)unused;
    for (uint64_t seed = 1; seed <= 30; seed++) {
        Plan learnt;
        uint32_t n = 1 + seed % 3;
        ref_trace_make(&trace, seed, 20);
        Plan plan = make_plan(seed % 2 ? "static" : "lfu", (ReplayOrder)(seed % REPLAY_ORDERS),
                              SCOPE_LAYER, n + seed % 2);
        plan.buffer.budget.choice = seed % 5 < 3 ? BUDGET_OPTIMAL : BUDGET_SKEW;
        plan.buffer.initial.table = table_of_first(n, trace.n_layers);
        if (seed % 2)
            plan.buffer.hot.table = table_of_first(n, trace.n_layers);
        const TraceParts parts = {
            .trains = true, .train = {0, trace.packed.n_steps}, .test = {0, trace.packed.n_steps}};
        assert_ok(learn_plan(&trace.packed, NULL, &parts, &plan, &learnt));
        for (uint32_t i = 0; i < trace.n_layers; i++) {
            uint32_t slots =
                plan_table_list(learnt.buffer.budget.table, trace.layers[i].layer).values[0];
            assert_true(slots >= (n < trace.layers[i].experts ? n : trace.layers[i].experts));
        }
        bytes_loaded(&learnt); /* it can be replayed */
        plan_free(&learnt);
        plan_free(&plan);
        ref_trace_free(&trace);
    }
    ref_trace_make(&trace, 1, 20);
    Plan plan = make_plan("lru", ORDER_BATCH, SCOPE_LAYER, 1);
    Plan learnt;
    plan.buffer.budget.choice = BUDGET_OPTIMAL;
    plan.buffer.initial.table = table_of_first(REF_EXPERTS, trace.n_layers);
    const TraceParts parts = {.trains = true, .train = {0, 1}, .test = {0, 1}};
    assert_int_equal(learn_plan(&trace.packed, NULL, &parts, &plan, &learnt), ERR_PLAN);
    assert_non_null(strstr(error_message(), "buffer.budget: what the layers keep and begin with"));
    plan_free(&plan);
    ref_trace_free(&trace);
}

/* One layer begins with more than an equal share, which is then no choice. */
static void a_list_may_take_more_than_an_equal_share(void **unused)
{
    (void)unused;
    uint32_t cases = 0;
    for (uint64_t seed = 1; seed <= 60; seed++) {
        Plan learnt;
        ref_trace_make(&trace, seed, 20);
        Plan plan = make_plan("lru", (ReplayOrder)(seed % REPLAY_ORDERS), SCOPE_LAYER, 2);
        plan.buffer.budget.choice = BUDGET_OPTIMAL;
        plan.buffer.initial.table = table_of_first(3, 1);
        snprintf(plan.prefetch.predictor, sizeof plan.prefetch.predictor, "frequency");
        plan.prefetch.distance = 2;
        const TraceParts parts = {
            .trains = true, .train = {0, trace.packed.n_steps}, .test = {0, trace.packed.n_steps}};
        if (trace.n_layers > 1 && trace.layers[0].experts >= 3) {
            assert_ok(learn_plan(&trace.packed, NULL, &parts, &plan, &learnt));
            bytes_loaded(&learnt); /* it can be replayed */
            plan_free(&learnt);
            cases++;
        }
        plan_free(&plan);
        ref_trace_free(&trace);
    }
    assert_true(cases > 10);
}

/* Steps of the training part that need both. */
static uint64_t count_pairs(uint32_t steps, uint32_t from, uint32_t expert, uint32_t to,
                            uint32_t follower)
{
    uint64_t pairs = 0;
    for (uint32_t s = 0; s < steps; s++) {
        const RefEvent *events = &trace.events[(size_t)s * trace.n_layers];
        bool both[2] = {false, false};
        for (uint32_t i = 0; i < events[from].n; i++)
            both[0] = both[0] || events[from].experts[i] == expert;
        for (uint32_t i = 0; i < events[to].n; i++)
            both[1] = both[1] || events[to].experts[i] == follower;
        pairs += both[0] && both[1];
    }
    return pairs;
}

/* Adds the shares of the N that follow EXPERT most. */
static void add_followers(uint32_t steps, uint32_t from, uint32_t expert, uint32_t to, uint32_t n,
                          uint64_t *score)
{
    bool taken[REF_EXPERTS] = {false};
    for (uint32_t i = 0; i < n; i++) {
        uint32_t best = REF_EXPERTS;
        uint64_t most = 0;
        for (uint32_t e = 0; e < trace.layers[to].experts; e++) {
            uint64_t pairs = count_pairs(steps, from, expert, to, e);
            if (!taken[e] && pairs > most) {
                best = e;
                most = pairs;
            }
        }
        if (best == REF_EXPERTS)
            return;
        taken[best] = true;
        score[best] += most * 1024 / count_events(steps, from, expert);
    }
}

typedef struct {
    uint32_t steps;
    uint32_t successors;
} Learnt;

static uint32_t predict_from_training(struct RefPrefetch *prefetch, uint32_t target,
                                      uint64_t *score)
{
    const Learnt *learnt = prefetch->argument;
    const RefEvent *event = &trace.events[prefetch->buffer.event];
    for (uint32_t e = 0; e < trace.layers[target].experts; e++)
        if (strcmp(prefetch->predictor, "frequency") == 0)
            score[e] = count_events(learnt->steps, target, e);
    for (uint32_t i = 0; i < event->n && strcmp(prefetch->predictor, "transition") == 0; i++)
        add_followers(learnt->steps, event->layer, event->experts[i], target, learnt->successors,
                      score);
    return event->n;
}

static Status compare_actions(void *argument, const PackedEvent *event, const BufferAction *actions,
                              uint32_t n_actions)
{
    const BufferAction **wanted = argument;
    (void)event;
    for (uint32_t i = 0; i < n_actions; i++, (*wanted)++)
        if (actions[i].kind != (*wanted)->kind || actions[i].expert != (*wanted)->expert ||
            actions[i].layer_index != (*wanted)->layer_index || actions[i].slot != (*wanted)->slot)
            fail_msg("%s of %u/%u, wanted %s of %u/%u", residency_kind_name(actions[i].kind),
                     actions[i].layer_index, actions[i].expert,
                     residency_kind_name((*wanted)->kind), (*wanted)->layer_index,
                     (*wanted)->expert);
    return OK;
}

static void trained_predictors_decide_as_plain_counts_over_the_training_part(void **unused)
{
    (void)unused;
    uint64_t state = 21;
    uint64_t prefetches = 0;
    for (int i = 0; i < 150; i++) {
        static RefPrefetch wanted;
        Plan learnt;
        ReplayFuture none = {0};
        ReplayResult result;
        ref_trace_make(&trace, random_next(&state), 25);
        Plan plan = random_budget(&state, random_below(&state, 2) ? "lru" : "lfu");
        wanted = (RefPrefetch){.predictor = i % 2 ? "transition" : "frequency",
                               .predict = predict_from_training};
        Learnt training = {1 + random_below(&state, n_steps(&trace)), 8};
        snprintf(plan.prefetch.predictor, sizeof plan.prefetch.predictor, "%s", wanted.predictor);
        plan.prefetch.table.choice = TABLE_TRAINED;
        plan.prefetch.distance = 1 + random_below(&state, 3);
        plan.prefetch.max_inflight = 1 + random_below(&state, 6);
        if (i % 2 && random_below(&state, 2))
            training.successors = plan.prefetch.successors = 1 + random_below(&state, 6);
        const TraceParts parts = {.trains = true, .train = {0, training.steps}};
        assert_ok(learn_plan(&trace.packed, NULL, &parts, &plan, &learnt));
        wanted.argument = &training;
        ref_run_prefetch(&wanted, &trace, &learnt);
        const BufferAction *at = wanted.buffer.actions;
        assert_ok(replay_run(&trace.packed, &learnt, &none, compare_actions, &at, &result));
        assert_int_equal(at - wanted.buffer.actions, wanted.buffer.n_actions);
        prefetches += result.total.counts.prefetches;
        replay_result_free(&result);
        free(wanted.buffer.actions);
        plan_free(&learnt);
        ref_trace_free(&trace);
    }
    assert_true(prefetches > 200);
}

static void tables_of_predictors_that_do_not_fit_are_refused(void **unused)
{
    (void)unused;
    static const TraceLayer LAYERS[2] = {{.layer = 1, .experts = 2, .top_k = 1, .expert_bytes = 1},
                                         {.layer = 4, .experts = 3, .top_k = 1, .expert_bytes = 1}};
    static const struct {
        const char *predictor;
        const char *table;
        const char *reason;
    } cases[] = {
        {"frequency", "{}", "layer 4 is missing"},
        {"frequency", "{\"4\": [[1, 2]]}", "layer 4: 2 numbers, it has 3 experts"},
        {"frequency", "{\"4\": [[1, 2, 3], []]}", "layer 4: 2 lists, wanted are 1"},
        {"transition", "{\"4\": [[], [], []]}", "layer 1 is missing"},
        {"transition", "{\"1\": [[]]}", "layer 1: 1 lists, wanted are 2"},
        {"transition", "{\"1\": [[], [2]]}", "layer 1: expert 1: must be pairs"},
        {"transition", "{\"1\": [[3, 1], []]}", "layer 1: expert 0: must be pairs"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        char text[300];
        cJSON *json;
        Plan plan;
        ExpertBuffer *buffer;
        snprintf(text, sizeof text,
                 "{\"moebius_plan\": 1, \"buffer\": {\"slots\": 2}, \"prefetch\": {\"predictor\": "
                 "\"%s\", \"table\": %s}}",
                 cases[i].predictor, cases[i].table);
        assert_ok(json_parse(text, strlen(text), "plan", &json));
        assert_ok(plan_from_json(json, "plan", &plan));
        assert_int_equal(buffer_new(&plan, LAYERS, 2, &buffer), ERR_PLAN);
        if (strstr(error_message(), cases[i].reason) == NULL)
            fail_msg("\"%s\" does not say \"%s\"", error_message(), cases[i].reason);
        plan_free(&plan);
        cJSON_Delete(json);
    }
}

/* A layer that needs all its experts alike beside one that needs the same two always. */
static void skewed_layers_get_the_fewer_slots(void **unused)
{
    (void)unused;
    const TraceLayer layers[2] = {{.layer = 2, .experts = 12, .top_k = 2, .expert_bytes = 10},
                                  {.layer = 5, .experts = 12, .top_k = 2, .expert_bytes = 10}};
    PackedTrace packed;
    Plan plan = make_plan("lru", ORDER_BATCH, SCOPE_LAYER, 7);
    Plan learnt;
    assert_ok(packed_trace_new(layers, 2, &packed));
    for (uint32_t s = 0; s < 60; s++) {
        const uint32_t zero = 0;
        const uint16_t ids[] = {(uint16_t)(2 * s % 12), (uint16_t)((2 * s + 1) % 12), 3, 8};
        const TraceStep step = {.step = s,
                                .phase = PHASE_DECODE,
                                .tokens = 1,
                                .request = &zero,
                                .position = &zero,
                                .experts = ids};
        assert_ok(packed_trace_add_step(&packed, &step));
    }
    plan.buffer.budget.choice = BUDGET_SKEW;
    const TraceParts parts = {.trains = true, .train = {0, 60}};
    assert_ok(learn_plan(&packed, NULL, &parts, &plan, &learnt));
    /* 12 and 2 effective experts share 14 slots. */
    assert_int_equal(plan_table_list(learnt.buffer.budget.table, 2).values[0], 12);
    assert_int_equal(plan_table_list(learnt.buffer.budget.table, 5).values[0], 2);
    plan_free(&learnt);
    packed_trace_free(&packed);
}

static void a_plan_with_nothing_to_learn_stays_as_it_is(void **unused)
{
    (void)unused;
    ref_trace_make(&trace, 4, 10);
    Plan plan = make_plan("lru", ORDER_BATCH, SCOPE_LAYER, 2);
    Plan learnt;
    const TraceParts parts = {.test = {0, trace.packed.n_steps}};
    assert_ok(learn_plan(&trace.packed, NULL, &parts, &plan, &learnt));
    assert_memory_equal(&plan, &learnt, sizeof plan);
    ref_trace_free(&trace);
}

static void every_failed_allocation_of_training_is_reported_and_leaks_nothing(void **unused)
{
    (void)unused;
    ref_trace_make(&trace, 6, 20);
    const TraceParts parts = {.trains = true, .train = {0, trace.packed.n_steps}};
    Plan plan = make_plan("static", ORDER_BATCH, SCOPE_LAYER, 2);
    plan.buffer.hot.choice = HOT_HOTTEST;
    plan.buffer.initial.choice = HOT_HOTTEST;
    plan.buffer.budget.choice = BUDGET_OPTIMAL;
    snprintf(plan.prefetch.predictor, sizeof plan.prefetch.predictor, "transition");
    plan.prefetch.table.choice = TABLE_TRAINED;
    for (FailingAllocation failing = {0}; failing_next(&failing);) {
        Plan learnt = {0};
        Status status = learn_plan(&trace.packed, NULL, &parts, &plan, &learnt);
        failing_end(&failing, status);
        plan_free(&learnt);
    }
    ref_trace_free(&trace);
}

int main(void)
{
    memory_install();
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_part_has_the_events_of_its_steps),
        cmocka_unit_test(parts_have_defaults_only_where_something_is_learnt),
        cmocka_unit_test(parts_that_make_no_sense_are_refused),
        cmocka_unit_test(the_hot_set_is_what_most_events_of_the_training_part_need),
        cmocka_unit_test(no_other_hot_set_misses_less_where_it_was_learnt),
        cmocka_unit_test(optimal_budgets_load_no_more_than_any_other_where_they_were_learnt),
        cmocka_unit_test(every_layer_keeps_room_for_the_lists_of_the_plan),
        cmocka_unit_test(a_list_may_take_more_than_an_equal_share),
        cmocka_unit_test(optimal_budgets_count_what_is_loaded_ahead),
        cmocka_unit_test(trained_predictors_decide_as_plain_counts_over_the_training_part),
        cmocka_unit_test(tables_of_predictors_that_do_not_fit_are_refused),
        cmocka_unit_test(skewed_layers_get_the_fewer_slots),
        cmocka_unit_test(a_plan_with_nothing_to_learn_stays_as_it_is),
        cmocka_unit_test(every_failed_allocation_of_training_is_reported_and_leaks_nothing),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
