#include "base/status.h" /* before cmocka, which has a macro called fail */
#include "tests/support.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "base/memory.h"
#include "policies/buffer.h"
#include "policies/placement_balance.h"
#include "sim/place.h"
#include "sim/place_statistics.h"
#include "tests/sweep_maker.h"

enum { MAX_EXPERTS = 40, MAX_RANKS = 9 };

/* A layer to place, and what became of it. */
typedef struct {
    uint32_t experts;
    uint32_t ranks;
    uint32_t replicas;
    double load[MAX_EXPERTS];
    double correlation[MAX_EXPERTS * MAX_EXPERTS];
    bool is_on[MAX_EXPERTS * MAX_RANKS];
} Case;

static Case random_case(uint64_t *state)
{
    Case made = {.ranks = 1 + random_below(state, MAX_RANKS)};
    double sum = 0;
    made.experts = made.ranks + random_below(state, MAX_EXPERTS - made.ranks + 1);
    for (uint32_t e = 0; e < made.experts; e++)
        sum += made.load[e] = random_below(state, 4) > 0 ? random_below(state, 1000) : 0;
    for (uint32_t e = 0; e < made.experts && sum > 0; e++)
        made.load[e] /= sum;
    for (uint32_t i = 0; i < made.experts; i++)
        for (uint32_t j = 0; j <= i; j++)
            made.correlation[i * made.experts + j] = made.correlation[j * made.experts + i] =
                i == j ? 1 : (double)random_float(state);
    return made;
}

static void balance(Case *made, PlacementMethod method)
{
    LayerPlacement placement = {made->experts, made->ranks, made->is_on};
    const LayerLoad load = {made->load, made->correlation};
    memset(made->is_on, 0, sizeof made->is_on);
    assert_ok(placement_balance(method, &load, made->replicas, &placement));
}

static uint32_t copies_of(const Case *made, uint32_t expert)
{
    uint32_t n = 0;
    for (uint32_t rank = 0; rank < made->ranks; rank++)
        n += made->is_on[expert * made->ranks + rank];
    return n;
}

static uint32_t copies_on(const Case *made, uint32_t rank)
{
    uint32_t n = 0;
    for (uint32_t expert = 0; expert < made->experts; expert++)
        n += made->is_on[expert * made->ranks + rank];
    return n;
}

static void assert_even(const Case *made)
{
    uint32_t all = made->experts + made->replicas;
    uint32_t found = 0;
    for (uint32_t expert = 0; expert < made->experts; expert++)
        assert_true(copies_of(made, expert) >= 1);
    for (uint32_t rank = 0; rank < made->ranks; rank++) {
        uint32_t on = copies_on(made, rank);
        assert_true(on == all / made->ranks || on == (all + made->ranks - 1) / made->ranks);
        found += on;
    }
    assert_int_equal(found, all);
}

static void every_expert_has_a_rank_and_ranks_have_as_many(void **unused)
{
    (void)unused;
    uint64_t state = 1;
    for (int i = 0; i < 400; i++) {
        Case made = random_case(&state);
        for (PlacementMethod method = PLACEMENT_GREEDY; method < PLACEMENT_REPLICATE; method++) {
            balance(&made, method);
            assert_even(&made);
        }
        made.replicas = random_below(&state, made.experts * (made.ranks - 1) + 1);
        balance(&made, PLACEMENT_REPLICATE);
        assert_even(&made);
    }
}

/* The formula of each method as the paper has it, for ranks that take the same number each. */
static double plain_score(const Case *made, PlacementMethod method, uint32_t expert, uint32_t rank)
{
    double sum = 0;
    for (uint32_t m = 0; m < made->experts; m++) {
        double s = made->correlation[expert * made->experts + m];
        if (!made->is_on[m * made->ranks + rank])
            continue;
        if (method == PLACEMENT_GREEDY)
            sum += made->load[m];
        else if (method == PLACEMENT_ANTICORRELATED)
            sum += made->load[m] + 0.5 * s;
        else
            sum += made->load[m] * (1 + 0.5 * s);
    }
    return sum;
}

static uint32_t plain_next(const Case *made, const bool *placed)
{
    uint32_t next = made->experts;
    for (uint32_t e = 0; e < made->experts; e++)
        if (!placed[e] && (next == made->experts || made->load[e] > made->load[next]))
            next = e;
    return next;
}

static void plain_balance(Case *made, PlacementMethod method)
{
    bool placed[MAX_EXPERTS] = {false};
    memset(made->is_on, 0, sizeof made->is_on);
    for (uint32_t i = 0; i < made->experts; i++) {
        uint32_t expert = plain_next(made, placed);
        uint32_t best = made->ranks;
        for (uint32_t rank = 0; rank < made->ranks; rank++)
            if (copies_on(made, rank) < made->experts / made->ranks &&
                (best == made->ranks ||
                 plain_score(made, method, expert, rank) < plain_score(made, method, expert, best)))
                best = rank;
        made->is_on[expert * made->ranks + best] = true;
        placed[expert] = true;
    }
}

static void greedy_and_anticorrelated_are_those_of_the_paper(void **unused)
{
    (void)unused;
    uint64_t state = 2;
    for (int i = 0; i < 200; i++) {
        Case made = random_case(&state);
        made.experts = made.experts / made.ranks * made.ranks;
        for (PlacementMethod method = PLACEMENT_GREEDY; method < PLACEMENT_REPLICATE; method++) {
            Case plain = made;
            balance(&made, method);
            plain_balance(&plain, method);
            assert_memory_equal(made.is_on, plain.is_on, sizeof made.is_on);
        }
    }
}

/* No expert could give a copy to another and lower the largest load per copy. */
static void replicas_go_to_the_largest_load_per_copy(void **unused)
{
    (void)unused;
    uint64_t state = 3;
    for (int i = 0; i < 200; i++) {
        Case made = random_case(&state);
        made.replicas = random_below(&state, made.experts * (made.ranks - 1) + 1);
        balance(&made, PLACEMENT_REPLICATE);
        for (uint32_t a = 0; a < made.experts; a++)
            for (uint32_t b = 0; b < made.experts; b++) {
                uint32_t more = copies_of(&made, a);
                uint32_t less = copies_of(&made, b);
                if (more > 1 && less < made.ranks)
                    assert_true(made.load[a] / (more - 1) >= made.load[b] / less);
            }
    }
}

/* Whole rows of the shares of one layer's experts, an event each. */
static uint32_t shares_of(const PackedTrace *trace, uint32_t layer, double (*shares)[EXPERTS])
{
    PackedCursor cursor = packed_cursor(trace);
    PackedEvent event;
    uint32_t n = 0;
    while (packed_next(&cursor, &event)) {
        const uint8_t *at = event.counts;
        double all = 0;
        if (event.layer_index != layer)
            continue;
        memset(shares[n], 0, sizeof shares[n]);
        for (uint32_t i = 0; i < event.n_active; i++)
            all += shares[n][event.experts[i]] = at != NULL ? packed_count_read(&at) : 1;
        for (uint32_t e = 0; e < EXPERTS; e++)
            shares[n][e] /= all;
        n++;
    }
    return n;
}

static double mean_of(double (*shares)[EXPERTS], uint32_t n, uint32_t expert)
{
    double sum = 0;
    for (uint32_t i = 0; i < n; i++)
        sum += shares[i][expert];
    return sum / n;
}

static double covariance_of(double (*shares)[EXPERTS], uint32_t n, uint32_t a, uint32_t b)
{
    double sum = 0;
    double mean_a = mean_of(shares, n, a);
    double mean_b = mean_of(shares, n, b);
    for (uint32_t i = 0; i < n; i++)
        sum += (shares[i][a] - mean_a) * (shares[i][b] - mean_b);
    return sum / n;
}

static void loads_are_mean_shares_and_correlations_pearsons(void **unused)
{
    (void)unused;
    static double shares[300][EXPERTS];
    for (uint64_t seed = 0; seed < 6; seed++) {
        PackedTrace trace = make_trace(seed, seed == 5 ? 2 : 300);
        PlaceStatistics found;
        assert_ok(place_statistics(&trace, true, &found));
        for (uint32_t layer = 0; layer < LAYERS; layer++) {
            uint32_t n = shares_of(&trace, layer, shares);
            for (uint32_t a = 0; a < EXPERTS; a++) {
                assert_true(fabs(found.layers[layer].load[a] - mean_of(shares, n, a)) < 1e-12);
                for (uint32_t b = 0; b < EXPERTS; b++) {
                    double spread = covariance_of(shares, n, a, a) * covariance_of(shares, n, b, b);
                    double wanted =
                        spread > 1e-20 ? covariance_of(shares, n, a, b) / sqrt(spread) : 0;
                    assert_true(fabs(found.layers[layer].correlation[a * EXPERTS + b] - wanted) <
                                1e-9);
                }
            }
        }
        place_statistics_free(&found);
        packed_trace_free(&trace);
    }
}

static Plan plan_on(uint32_t ranks, PlacementMethod method, uint32_t replicas)
{
    Plan plan = plan_default();
    plan.placement.ranks = ranks;
    plan.placement.method = method;
    plan.placement.replicas = replicas;
    plan.seed = 7;
    return plan;
}

/* The largest share of an event, with the map read row by row. */
static double plain_share(const PackedEvent *event, const PlanTable *map, uint32_t layer)
{
    double on_rank[EXPERTS] = {0};
    double all = 0;
    double most = 0;
    const uint8_t *at = event->counts;
    for (uint32_t i = 0; i < event->n_active; i++) {
        uint32_t count = at != NULL ? packed_count_read(&at) : 1;
        PlanRow row = plan_table_row(map, plan_table_find(map, layer), event->experts[i]);
        for (uint32_t j = 0; j < row.n; j++)
            on_rank[row.values[j]] += (double)count / row.n;
        all += count;
    }
    for (uint32_t i = 0; i < EXPERTS; i++)
        most = on_rank[i] > most ? on_rank[i] : most;
    return most / all;
}

static void scores_are_shares_of_the_fullest_rank(void **unused)
{
    (void)unused;
    for (PlacementMethod method = PLACEMENT_CONTIGUOUS; method < PLACEMENT_GIVEN; method++) {
        PackedTrace trace = make_trace(method, 200);
        Plan plan = plan_on(4, method, method == PLACEMENT_REPLICATE ? 5 : 0);
        const PlanTable *map;
        PlaceScore score;
        PackedCursor cursor = packed_cursor(&trace);
        PackedEvent event;
        double sum[LAYERS] = {0};
        double most[LAYERS] = {0};
        assert_ok(place_learn(&trace, &plan));
        assert_int_equal(plan.placement.map.table != NULL, placement_learns(method));
        assert_ok(placement_map(&plan, trace.layers, LAYERS, &map));
        assert_ok(place_score(&trace, map, 4, &score));
        while (packed_next(&cursor, &event)) {
            double share = plain_share(&event, map, trace.layers[event.layer_index].layer);
            sum[event.layer_index] += share;
            most[event.layer_index] = fmax(most[event.layer_index], share);
        }
        for (uint32_t i = 0; i < LAYERS; i++) {
            assert_int_equal(score.layers[i].events, 200);
            assert_true(fabs(score.layers[i].avg_max_load - sum[i] / 200) < 1e-12);
            assert_true(score.layers[i].max_load == most[i]);
            assert_true(score.layers[i].imbalance >= 1 - 1e-12 && score.layers[i].imbalance <= 4);
        }
        assert_true(score.total.max_load == fmax(most[0], fmax(most[1], most[2])));
        place_score_free(&score);
        plan_table_release(map);
        plan_free(&plan);
        packed_trace_free(&trace);
    }
}

static void what_was_learnt_survives_the_way_through_json(void **unused)
{
    (void)unused;
    PackedTrace trace = make_trace(1, 100);
    Plan plan = plan_on(5, PLACEMENT_REPLICATE, 7);
    Plan again;
    cJSON *json;
    assert_ok(place_learn(&trace, &plan));
    assert_ok(plan_to_json(&plan, &json));
    assert_ok(plan_from_json(json, "plan", &again));
    assert_int_equal(again.placement.ranks, 5);
    assert_int_equal(again.placement.method, PLACEMENT_REPLICATE);
    assert_int_equal(again.placement.replicas, 7);
    assert_true(plan_table_is_same(again.placement.map.table, plan.placement.map.table));
    cJSON_Delete(json);
    plan_free(&again);
    plan_free(&plan);
    packed_trace_free(&trace);
}

static void assert_rank(const Plan *plan, const TraceLayer *layer, uint32_t expert, uint32_t rank)
{
    const PlanTable *map;
    assert_ok(placement_map(plan, layer, 1, &map));
    PlanRow row = plan_table_row(map, 0, expert);
    assert_int_equal(row.n, 1);
    assert_int_equal(row.values[0], rank);
    plan_table_release(map);
}

static void placements_that_follow_from_the_ids(void **unused)
{
    (void)unused;
    const TraceLayer layer = {.layer = 4, .experts = 10, .top_k = 1};
    Plan blocks = plan_on(4, PLACEMENT_CONTIGUOUS, 0);
    Plan round = plan_on(4, PLACEMENT_ROUND_ROBIN, 0);
    for (uint32_t e = 0; e < 10; e++) {
        assert_rank(&blocks, &layer, e, e * 4 / 10);
        assert_rank(&round, &layer, e, e % 4);
    }
    const PlanTable *map[3];
    Plan plan = plan_on(4, PLACEMENT_RANDOM, 0);
    assert_ok(placement_map(&plan, &layer, 1, &map[0]));
    assert_ok(placement_map(&plan, &layer, 1, &map[1]));
    plan.seed = 8;
    assert_ok(placement_map(&plan, &layer, 1, &map[2]));
    assert_true(plan_table_is_same(map[0], map[1]));
    assert_false(plan_table_is_same(map[0], map[2]));
    for (int i = 0; i < 3; i++)
        plan_table_release(map[i]);
}

static void maps_of_other_models_are_refused(void **unused)
{
    (void)unused;
    PackedTrace trace = make_trace(1, 20);
    TraceLayer layers[LAYERS];
    const PlanTable *map;
    Plan plan = plan_on(2, PLACEMENT_GREEDY, 0);
    assert_ok(place_learn(&trace, &plan));
    memcpy(layers, trace.layers, sizeof layers);
    assert_int_equal(placement_map(&plan, layers, LAYERS - 1, &map), ERR_PLAN);
    assert_string_equal(error_message(), "placement.map: 3 layers, the model has 2 MoE layers");
    layers[1].experts++;
    assert_int_equal(placement_map(&plan, layers, LAYERS, &map), ERR_PLAN);
    assert_string_equal(error_message(), "placement.map: layer 3: 12 experts, it has 13");
    layers[1].layer = 2;
    assert_int_equal(placement_map(&plan, layers, LAYERS, &map), ERR_PLAN);
    assert_string_equal(error_message(), "placement.map: layer 2 is missing");
    plan_free(&plan);
    plan = plan_on(EXPERTS + 1, PLACEMENT_CONTIGUOUS, 0);
    assert_int_equal(placement_map(&plan, trace.layers, LAYERS, &map), ERR_PLAN);
    assert_string_equal(error_message(), "placement.ranks: 13, layer 1 has 12 experts");
    plan = plan_on(3, PLACEMENT_REPLICATE, 2 * EXPERTS + 1);
    assert_int_equal(place_learn(&trace, &plan), ERR_PLAN);
    assert_string_equal(error_message(),
                        "placement.replicas: 25, 12 experts on 3 ranks have at most 24");
    packed_trace_free(&trace);
}

static void several_ranks_are_neither_replayed_nor_run(void **unused)
{
    (void)unused;
    PackedTrace trace = make_trace(1, 5);
    Plan plan = plan_on(2, PLACEMENT_CONTIGUOUS, 0);
    ExpertBuffer *buffer;
    assert_int_equal(buffer_new(&plan, trace.layers, LAYERS, &buffer), ERR_PLAN);
    assert_string_equal(error_message(), "placement.ranks: 2, runs have one rank");
    packed_trace_free(&trace);
}

static void every_failed_allocation_is_reported_and_leaks_nothing(void **unused)
{
    (void)unused;
    PackedTrace trace = make_trace(1, 20);
    for (FailingAllocation failing = {0}; failing_next(&failing);) {
        Plan plan = plan_on(3, PLACEMENT_ANTICORRELATED, 0);
        const PlanTable *map = NULL;
        PlaceScore score = {0};
        Status status = place_learn(&trace, &plan);
        if (status == OK)
            status = placement_map(&plan, trace.layers, LAYERS, &map);
        if (status == OK)
            status = place_score(&trace, map, 3, &score);
        place_score_free(&score);
        plan_table_release(map);
        plan_free(&plan);
        failing_end(&failing, status);
    }
    packed_trace_free(&trace);
}

int main(void)
{
    memory_install();
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_expert_has_a_rank_and_ranks_have_as_many),
        cmocka_unit_test(greedy_and_anticorrelated_are_those_of_the_paper),
        cmocka_unit_test(replicas_go_to_the_largest_load_per_copy),
        cmocka_unit_test(loads_are_mean_shares_and_correlations_pearsons),
        cmocka_unit_test(scores_are_shares_of_the_fullest_rank),
        cmocka_unit_test(what_was_learnt_survives_the_way_through_json),
        cmocka_unit_test(placements_that_follow_from_the_ids),
        cmocka_unit_test(maps_of_other_models_are_refused),
        cmocka_unit_test(several_ranks_are_neither_replayed_nor_run),
        cmocka_unit_test(every_failed_allocation_is_reported_and_leaks_nothing),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
