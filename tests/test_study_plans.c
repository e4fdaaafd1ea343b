/* The plans that a study has: its grid, the plans that are listed, and the bounds. */
#include "base/status.h"
#include "tests/support.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/memory.h"
#include "tests/plan_maker.h"
#include "tests/sweep_maker.h"

static void the_grid_is_the_product_in_key_order_with_the_last_key_fastest(void **unused)
{
    (void)unused;
    Study study = make_study("{\"moebius_study\": 1, \"base\": {\"seed\": 7}, \"grid\": "
                             "{\"buffer.slots\": [4, 2], \"buffer.evict\": [\"lru\", \"mru\"]}}");
    const uint32_t slots[] = {4, 4, 2, 2};
    const char *const evict[] = {"lru", "mru", "lru", "mru"};
    assert_int_equal(study.n_plans - study.n_bounds, 4);
    for (size_t i = 0; i < 4; i++) {
        char name[64];
        assert_true(study.plans[i].buffer.on);
        assert_int_equal(study.plans[i].seed, 7);
        assert_int_equal(study.plans[i].buffer.slots, slots[i]);
        assert_string_equal(study.plans[i].buffer.evict, evict[i]);
        snprintf(name, sizeof name, "%s %u/layer batch", evict[i], slots[i]);
        assert_string_equal(study.plans[i].name, name);
    }
    study_free(&study);
}

static void values_that_the_name_does_not_show_are_added_to_it(void **unused)
{
    (void)unused;
    Study study = make_study("{\"moebius_study\": 1, \"base\": {\"name\": \"mine\"}, \"grid\": "
                             "{\"buffer.slots\": [4], \"buffer.evict\": [\"random\"],"
                             " \"seed\": [1, 2]}}");
    assert_string_equal(study.plans[0].name, "mine: random 4/layer batch seed=1");
    assert_string_equal(study.plans[1].name, "mine: random 4/layer batch seed=2");
    study_free(&study);
}

static void listed_plans_stand_after_the_grid_and_keep_their_names(void **unused)
{
    (void)unused;
    Study study =
        make_study("{\"moebius_study\": 1, \"grid\": {\"buffer.slots\": [4]}, \"plans\":"
                   " [{\"name\": \"own\", \"buffer\": {\"slots\": 5, \"evict\": \"mru\"}},"
                   "  {\"buffer\": {\"slots\": 6, \"evict\": \"lifo\", \"order\": \"serial\"}}]}");
    assert_int_equal(study.n_plans - study.n_bounds, 3);
    assert_int_equal(study.plans[0].buffer.slots, 4);
    assert_string_equal(study.plans[1].name, "own");
    assert_string_equal(study.plans[2].name, "lifo 6/layer serial");
    study_free(&study);
}

static void every_budget_gets_the_bound_once_unless_it_was_asked_for(void **unused)
{
    (void)unused;
    Study study = make_study(SMALL_STUDY);
    assert_int_equal(study.n_bounds, SMALL_BOUNDS);
    assert_int_equal(study.n_plans, SMALL_PLANS + SMALL_BOUNDS);
    for (size_t i = SMALL_PLANS; i < study.n_plans; i++)
        assert_string_equal(study.plans[i].buffer.evict, "belady");
    study_free(&study);
    study = make_study("{\"moebius_study\": 1, \"grid\": {\"buffer.evict\": [\"lru\", \"belady\"],"
                       " \"buffer.slots\": [2, 3]}, \"plans\": [{\"buffer\": {\"slots\": 3,"
                       " \"evict\": \"fifo\", \"order\": \"serial\"}}]}");
    assert_int_equal(study.n_bounds, 1);
    assert_int_equal(study.plans[study.n_plans - 1].buffer.order, ORDER_SERIAL);
    assert_int_equal(study.plans[study.n_plans - 1].buffer.slots, 3);
    study_free(&study);
}

static void
every_placement_on_several_ranks_has_a_bound_of_its_own_unless_there_are_copies(void **unused)
{
    (void)unused;
    static const char *const BOUNDS[] = {"belady 2/layer batch",
                                         "belady 2/layer batch 2 ranks contiguous",
                                         "belady 2/layer batch 2 ranks greedy"};
    Study study = make_study(
        "{\"moebius_study\": 1, \"base\": {\"buffer\": {\"slots\": 2}}, \"grid\": {"
        "\"placement.ranks\": [1, 2], \"placement.method\": [\"contiguous\", \"greedy\"]}, "
        "\"plans\": ["
        "{\"buffer\": {\"slots\": 2}, \"placement\": {\"ranks\": 2, \"method\": \"replicate\","
        " \"replicas\": 1}}]}");
    assert_int_equal(study.n_bounds, 3);
    for (size_t i = 0; i < 3; i++)
        assert_string_equal(study.plans[study.n_plans - 3 + i].name, BOUNDS[i]);
    assert_string_equal(study.plans[4].name, "lru 2/layer batch 2 ranks replicate");
    study_free(&study);
}

/* Of what only the eviction of the plan understands it has nothing. */
static void a_bound_is_a_plan_that_is_read_as_it_is_written(void **unused)
{
    (void)unused;
    Study study = make_study(
        "{\"moebius_study\": 1, \"plans\": ["
        "{\"buffer\": {\"slots\": 2, \"evict\": \"ema-score\", \"params\": {\"alpha\": 0.25}}},"
        "{\"buffer\": {\"slots\": 3, \"evict\": \"static\", \"hot\": {\"0\": [1]},"
        " \"initial\": {\"0\": [1]}}}, {\"buffer\": {\"slots\": 4}, \"compute\": {\"mode\":"
        " \"gpu\"}, \"prefetch\": {\"predictor\": \"frequency\", \"experts\": 3}}]}");
    assert_int_equal(study.n_bounds, 3);
    for (size_t i = 3; i < study.n_plans; i++) {
        char *text;
        assert_ok(plan_to_text(&study.plans[i], &text));
        Plan plan = good_plan(text);
        assert_string_equal(plan.buffer.evict, "belady");
        plan_free(&plan);
        mem_free(text);
    }
    study_free(&study);
}

static void bad_studies_are_refused_with_the_place(void **unused)
{
    (void)unused;
    static const struct {
        const char *text;
        const char *wanted; /* part of the message */
    } cases[] = {
        {"[]", "study.json: must be an object"},
        {"{}", "moebius_study"},
        {"{\"moebius_study\": 2, \"grid\": {\"buffer.slots\": [1]}}", "moebius_study: 2"},
        {"{\"moebius_study\": 1}", "neither grid nor plans"},
        {"{\"moebius_study\": 1, \"plans\": []}", "neither grid nor plans"},
        {"{\"moebius_study\": 1, \"plans\": {}}", "plans: must be a list"},
        {"{\"moebius_study\": 1, \"plans\": [3]}", "plans[0]: must be a plan"},
        {"{\"moebius_study\": 1, \"plans\": [{\"buffer\": {\"slots\": 0, \"evict\": \"lru\"}}]}",
         "plans[0]: buffer.slots: 0"},
        {"{\"moebius_study\": 1, \"plans\": [{\"buffers\": {}}]}", "plans[0]: buffers: unknown"},
        {"{\"moebius_study\": 1, \"plans\": [{}], \"base\": {}}", "base: is used with grid only"},
        {"{\"moebius_study\": 1, \"grid\": {}}", "grid: is empty"},
        {"{\"moebius_study\": 1, \"grid\": []}", "grid: must be an object"},
        {"{\"moebius_study\": 1, \"grid\": {\"buffer.slots\": 3}}",
         "grid.buffer.slots: must be a list"},
        {"{\"moebius_study\": 1, \"grid\": {\"buffer.slots\": []}}", "grid.buffer.slots: is empty"},
        {"{\"moebius_study\": 1, \"base\": 3, \"grid\": {\"buffer.slots\": [1]}}",
         "base: must be a plan"},
        {"{\"moebius_study\": 1, \"gird\": {}}", "gird: unknown key"},
        {"{\"moebius_study\": 1, \"name\": 5, \"grid\": {\"buffer.slots\": [1]}}", "name: must be"},
        {"{\"moebius_study\": 1, \"grid\": {\"buffer.slot\": [1]}}", "buffer.slot: unknown key"},
        {"{\"moebius_study\": 1, \"grid\": {\"buffer.slots\": [1, 0]}}",
         "study.json: combination 2 (buffer.slots=0): buffer.slots: 0"},
        {"{\"moebius_study\": 1, \"grid\": {\"buffer.slots\": [1], \"buffer.evict\": [\"lru\","
         " \"best\"]}}",
         "combination 2 (buffer.slots=1, buffer.evict=\"best\"): buffer.evict: \"best\""},
        {"{\"moebius_study\": 1, \"grid\": {\"buffer.slots.x\": [1], \"buffer.slots\": [2]}}",
         "study.json: "},
        {"{\"moebius_study\": 1, \"grid\": {\"\": [1]}}", "study.json: "},
        {"{\"moebius_study\": 1, \"grid\": {\"buffer.slots\": [1]}} x", "study.json: line 1"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        Study study;
        int64_t before = mem_live_blocks();
        Status status = parse_study(cases[i].text, &study);
        if (status != ERR_INPUT || strstr(error_message(), cases[i].wanted) == NULL)
            fail_msg("%s: status %d: %s", cases[i].text, status, error_message());
        assert_int_equal(mem_live_blocks(), before);
    }
}

static void a_grid_of_more_than_a_million_plans_is_refused_before_it_is_made(void **unused)
{
    (void)unused;
    char text[20000] = "{\"moebius_study\": 1, \"grid\": {";
    for (int key = 0; key < 6; key++) {
        size_t used = strlen(text);
        used += (size_t)snprintf(text + used, sizeof text - used, "%s\"key%d\": [0",
                                 key > 0 ? ", " : "", key);
        for (int i = 1; i < 100; i++)
            used += (size_t)snprintf(text + used, sizeof text - used, ",%d", i);
        snprintf(text + used, sizeof text - used, "]");
    }
    strcat(text, "}}");
    Study study;
    assert_int_equal(parse_study(text, &study), ERR_INPUT);
    assert_non_null(strstr(error_message(), "more than 1000000 combinations"));
}

int main(void)
{
    memory_install();
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(the_grid_is_the_product_in_key_order_with_the_last_key_fastest),
        cmocka_unit_test(values_that_the_name_does_not_show_are_added_to_it),
        cmocka_unit_test(listed_plans_stand_after_the_grid_and_keep_their_names),
        cmocka_unit_test(every_budget_gets_the_bound_once_unless_it_was_asked_for),
        cmocka_unit_test(
            every_placement_on_several_ranks_has_a_bound_of_its_own_unless_there_are_copies),
        cmocka_unit_test(a_bound_is_a_plan_that_is_read_as_it_is_written),
        cmocka_unit_test(bad_studies_are_refused_with_the_place),
        cmocka_unit_test(a_grid_of_more_than_a_million_plans_is_refused_before_it_is_made),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
