/* Static gating's capacity, and the grouping of rows by expert, against plain loops. */
#include "base/status.h" /* before cmocka, which has a macro called fail */

#include "tests/support.h"

#include <stdbool.h>

#include "exec/gating.h"

enum { MAX_TOKENS = 40, MAX_K = 4, MAX_EXPERTS = 12, ROUNDS = 3000 };

/* One random routing: distinct experts per token, some already dropped. */
typedef struct {
    uint32_t tokens;
    uint32_t top_k;
    uint32_t n_experts;
    uint16_t experts[MAX_TOKENS * MAX_K];
    float weights[MAX_TOKENS * MAX_K];
} Routing;

static Routing random_routing(uint64_t *state)
{
    Routing routing = {.tokens = 1 + random_below(state, MAX_TOKENS),
                       .top_k = 1 + random_below(state, MAX_K)};
    routing.n_experts = routing.top_k + random_below(state, MAX_EXPERTS - routing.top_k + 1);
    for (uint32_t i = 0; i < routing.tokens; i++) {
        uint16_t *experts = routing.experts + (size_t)i * routing.top_k;
        uint32_t first = random_below(state, routing.n_experts);
        for (uint32_t k = 0; k < routing.top_k; k++) {
            experts[k] = (uint16_t)((first + k) % routing.n_experts);
            if (random_below(state, 10) == 0)
                experts[k] = EXPERT_DROPPED;
            routing.weights[(size_t)i * routing.top_k + k] = 0.5f + random_float(state) / 4;
        }
    }
    return routing;
}

static void capacity_is_the_factor_times_the_tokens_rounded_up(void **state)
{
    (void)state;
    static const struct {
        double factor;
        uint32_t tokens, capacity;
    } cases[] = {{1, 10, 10},   {0.5, 7, 4},  {0.25, 8, 2},  {0.01, 10, 1}, {0.000001, 1, 1},
                 {2.5, 10, 10}, {1000, 3, 3}, {0.125, 8, 1}, {0.3, 1, 1},   {0.75, 100, 75}};
    Plan plan = plan_default();
    assert_int_equal(gating_capacity(&plan, 100), 0); /* dynamic */
    plan.gating.mode = GATING_STATIC;
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        plan.gating.capacity_factor = cases[i].factor;
        assert_int_equal(gating_capacity(&plan, cases[i].tokens), cases[i].capacity);
    }
}

static void first_choices_of_all_tokens_come_before_any_second(void **state)
{
    (void)state;
    uint64_t random = 1;
    uint32_t counts[MAX_EXPERTS];
    for (int round = 0; round < ROUNDS; round++) {
        Routing routing = random_routing(&random);
        Routing limited = routing;
        uint32_t capacity = 1 + random_below(&random, routing.tokens);
        gating_limit(capacity, routing.tokens, routing.top_k, routing.n_experts, counts,
                     limited.experts, round % 2 ? limited.weights : NULL);
        for (uint32_t at = 0; at < routing.tokens * routing.top_k; at++) {
            uint32_t before = 0; /* rows of the same expert that were given a place earlier */
            for (uint32_t other = 0; other < routing.tokens * routing.top_k; other++) {
                uint32_t slot = other % routing.top_k;
                bool earlier =
                    slot < at % routing.top_k || (slot == at % routing.top_k && other < at);
                before += earlier && routing.experts[other] == routing.experts[at];
            }
            bool dropped = routing.experts[at] != EXPERT_DROPPED && before >= capacity;
            assert_int_equal(limited.experts[at], dropped ? EXPERT_DROPPED : routing.experts[at]);
            assert_true(limited.weights[at] == (dropped && round % 2 ? 0 : routing.weights[at]));
        }
    }
}

static void every_row_is_in_its_experts_group_in_token_order(void **state)
{
    (void)state;
    uint64_t random = 2;
    for (int round = 0; round < ROUNDS; round++) {
        Routing routing = random_routing(&random);
        uint16_t active[MAX_EXPERTS];
        uint32_t first[MAX_EXPERTS + 1];
        uint32_t grouped[MAX_TOKENS * MAX_K];
        gating_group(routing.experts, routing.tokens, routing.top_k, routing.n_experts, first,
                     grouped);
        uint32_t n = gating_active(first, routing.n_experts, active);
        uint32_t at = 0;
        uint32_t n_active = 0;
        for (uint32_t e = 0; e < routing.n_experts; e++) {
            assert_int_equal(first[e], at);
            uint32_t begin = at;
            for (uint32_t row = 0; row < routing.tokens * routing.top_k; row++)
                if (routing.experts[row] == e)
                    assert_int_equal(grouped[at++], row);
            if (at > begin)
                assert_int_equal(active[n_active++], e);
        }
        assert_int_equal(first[routing.n_experts], at);
        assert_int_equal(n, n_active);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(capacity_is_the_factor_times_the_tokens_rounded_up),
        cmocka_unit_test(first_choices_of_all_tokens_come_before_any_second),
        cmocka_unit_test(every_row_is_in_its_experts_group_in_token_order),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
