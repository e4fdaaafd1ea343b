/* Shares of a budget: the proportional ones slot by slot, the optimal ones against every other. */
#include "base/status.h"
#include "tests/support.h"

#include "base/memory.h"
#include "sim/budget.h"

enum { LAYERS = 4, EXPERTS = 6 };

typedef struct {
    BudgetShares shares;
    uint32_t experts[LAYERS];
    uint64_t weight[LAYERS];
    uint32_t least[LAYERS];
    uint64_t costs[LAYERS][EXPERTS + 1];
    const uint64_t *cost[LAYERS];
} Case;

static uint64_t used_by(const Case *of, const uint32_t *slots)
{
    uint64_t used = 0;
    for (uint32_t i = 0; i < of->shares.n_layers && i < LAYERS; i++)
        used += slots[i] * of->weight[i];
    return used;
}

static uint64_t cost_of(const Case *of, const uint32_t *slots)
{
    uint64_t cost = 0;
    for (uint32_t i = 0; i < of->shares.n_layers && i < LAYERS; i++)
        cost += of->costs[i][slots[i]];
    return cost;
}

/* Curves that fall, and some that do not always: fifo's may rise with a slot more. */
static void make_case(uint64_t seed, Case *of)
{
    static const uint64_t WEIGHTS[] = {1, 1, 2, 3, 5, 1000};
    bool equal = random_below(&seed, 2);
    uint64_t least = 0;
    *of = (Case){.shares = {.n_layers = 1 + random_below(&seed, LAYERS),
                            .experts = of->experts,
                            .weight = of->weight,
                            .least = of->least}};
    for (uint32_t i = 0; i < of->shares.n_layers; i++) {
        of->experts[i] = 1 + random_below(&seed, EXPERTS);
        of->least[i] = random_below(&seed, 3) < 2 ? random_below(&seed, 2)
                                                  : random_below(&seed, of->experts[i] + 1);
        of->weight[i] = equal ? 7 : WEIGHTS[random_below(&seed, 6)];
        of->costs[i][0] = 50 + random_below(&seed, 1000);
        for (uint32_t n = 1; n <= of->experts[i]; n++)
            of->costs[i][n] = of->costs[i][n - 1] * random_below(&seed, 11) / 9;
        of->cost[i] = of->costs[i];
        least += of->least[i] * of->weight[i];
    }
    of->shares.budget = least + random_below(&seed, equal ? 120 : 3000);
}

/* The least cost of all shares that fit. */
static uint64_t try_all(const Case *of, uint32_t layer, uint32_t *slots)
{
    uint64_t best = UINT64_MAX;
    if (layer >= of->shares.n_layers || layer >= LAYERS)
        return used_by(of, slots) <= of->shares.budget ? cost_of(of, slots) : UINT64_MAX;
    for (uint32_t n = of->least[layer]; n <= of->experts[layer]; n++) {
        slots[layer] = n;
        uint64_t cost = try_all(of, layer + 1, slots);
        best = cost < best ? cost : best;
    }
    return best;
}

static void the_optimal_shares_cost_no_more_than_any_other(void **unused)
{
    (void)unused;
    for (uint64_t seed = 1; seed <= 3000; seed++) {
        Case of;
        uint32_t slots[LAYERS];
        uint32_t other[LAYERS];
        make_case(seed, &of);
        assert_ok(budget_optimal(&of.shares, of.cost, slots));
        for (uint32_t i = 0; i < of.shares.n_layers; i++)
            assert_in_range(slots[i], of.least[i], of.experts[i]);
        assert_true(used_by(&of, slots) <= of.shares.budget);
        if (cost_of(&of, slots) != try_all(&of, 0, other))
            fail_msg("case %llu: cost %llu, the least is %llu", (unsigned long long)seed,
                     (unsigned long long)cost_of(&of, slots),
                     (unsigned long long)try_all(&of, 0, other));
    }
}

/* Weights without a common unit make more units than there are: the shares fit all the same, and
 * are worth nearly as much. */
static void weights_in_bytes_are_rounded_up_and_still_fit(void **unused)
{
    (void)unused;
    for (uint64_t seed = 1; seed <= 20; seed++) {
        Case of;
        uint32_t slots[LAYERS];
        uint64_t state = seed;
        make_case(seed, &of);
        uint64_t least = 0;
        for (uint32_t i = 0; i < of.shares.n_layers; i++) {
            of.weight[i] = 9437184 + 2 * random_below(&state, 1000000) + 1;
            least += of.least[i] * of.weight[i];
        }
        of.shares.budget = least + random_below(&state, 100000000);
        assert_ok(budget_optimal(&of.shares, of.cost, slots));
        assert_true(used_by(&of, slots) <= of.shares.budget);
        Case larger = of; /* with room for the rounding */
        uint32_t other[LAYERS];
        larger.shares.budget -= larger.shares.budget / 1000;
        uint64_t bound = try_all(&larger, 0, other);
        assert_true(bound == UINT64_MAX || cost_of(&of, slots) <= bound);
    }
}

static void proportional_shares_are_those_of_highest_averages(void **unused)
{
    (void)unused;
    for (uint64_t seed = 1; seed <= 500; seed++) {
        Case of;
        uint32_t slots[LAYERS];
        double share[LAYERS];
        uint64_t state = seed;
        make_case(seed, &of);
        for (uint32_t i = 0; i < of.shares.n_layers; i++)
            share[i] = (1 + random_below(&state, 100)) / 7.0;
        budget_in_proportion(&of.shares, share, slots);
        assert_true(used_by(&of, slots) <= of.shares.budget);
        for (uint32_t i = 0; i < of.shares.n_layers; i++)
            for (uint32_t j = 0; j < of.shares.n_layers; j++) {
                bool more = slots[j] < of.experts[j];
                /* Nobody would rather have had the last slot of another of the same weight. */
                if (more && slots[i] > of.least[i] && of.weight[i] == of.weight[j])
                    assert_true(share[i] / slots[i] >= share[j] / (slots[j] + 1) - 1e-12);
                if (more)
                    assert_true(used_by(&of, slots) + of.weight[j] > of.shares.budget);
            }
    }
}

static void every_failed_allocation_is_reported_and_leaks_nothing(void **unused)
{
    (void)unused;
    Case of;
    uint32_t slots[LAYERS];
    make_case(5, &of);
    for (FailingAllocation failing = {0}; failing_next(&failing);) {
        Status status = budget_optimal(&of.shares, of.cost, slots);
        failing_end(&failing, status);
    }
}

int main(void)
{
    memory_install();
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(the_optimal_shares_cost_no_more_than_any_other),
        cmocka_unit_test(weights_in_bytes_are_rounded_up_and_still_fit),
        cmocka_unit_test(proportional_shares_are_those_of_highest_averages),
        cmocka_unit_test(every_failed_allocation_is_reported_and_leaks_nothing),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
