/* Parts of a trace, and the experts that are hottest in the one that is learnt from. */
#include "tests/reference_prefetch.h"

#include <stdio.h>

#include "base/memory.h"
#include "sim/parts.h"
#include "sim/replay.h"
#include "sim/sweep_learn.h"
#include "traces/packed_part.h"
#include "tests/train_maker.h"

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
        cmocka_unit_test(a_plan_with_nothing_to_learn_stays_as_it_is),
        cmocka_unit_test(every_failed_allocation_of_training_is_reported_and_leaks_nothing),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
