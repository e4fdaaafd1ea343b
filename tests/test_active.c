/* Which experts an event needs, and in which order they are touched last: the ways without branches
 * against plain ones. */
#include "tests/support.h"

#include "traces/active.h"
#include "traces/packed.h"

enum { MOST_EXPERTS = 600, MOST_IDS = 700 };

/* What is wanted of EXPERTS[ids]. */
typedef struct {
    uint32_t n;
    uint16_t active[MOST_EXPERTS];
    uint32_t tokens[MOST_EXPERTS];
    uint16_t touches[MOST_EXPERTS];
} Wanted;

static void find_wanted(const uint16_t *experts, size_t ids, uint32_t n_experts, Wanted *wanted)
{
    size_t last[MOST_EXPERTS];
    wanted->n = 0;
    for (uint32_t e = 0; e < n_experts; e++) {
        uint32_t tokens = 0;
        for (size_t i = 0; i < ids; i++)
            if (experts[i] == e) {
                tokens++;
                last[wanted->n] = i;
            }
        wanted->active[wanted->n] = (uint16_t)e;
        wanted->tokens[wanted->n] = tokens;
        wanted->n += tokens > 0;
    }
    for (uint32_t i = 0; i < wanted->n; i++) {
        uint32_t older = 0;
        for (uint32_t j = 0; j < wanted->n; j++)
            older += last[j] < last[i];
        wanted->touches[older] = (uint16_t)i;
    }
}

static void the_order_of_touches_is_that_of_each_experts_last(void **unused)
{
    (void)unused;
    static Wanted wanted;
    uint64_t random = 1;
    ActiveSet set;
    assert_ok(active_set_new(&set, MOST_EXPERTS));
    for (int round = 0; round < 3000; round++) {
        uint16_t experts[MOST_IDS];
        uint32_t n_experts = 1 + random_below(&random, round % 3 ? 20 : MOST_EXPERTS);
        size_t ids = 1 + random_below(&random, round % 2 ? 30 : MOST_IDS);
        bool drops = random_below(&random, 2);
        for (size_t i = 0; i < ids; i++)
            experts[i] = drops && random_below(&random, 9) == 0
                             ? EXPERT_DROPPED
                             : (uint16_t)random_below(&random, n_experts);
        find_wanted(experts, ids, n_experts, &wanted);
        bool touched = random_below(&random, 4) > 0;
        assert_int_equal(active_set_order(&set, experts, ids, n_experts, touched), wanted.n);
        assert_memory_equal(set.active, wanted.active, wanted.n * sizeof *set.active);
        assert_memory_equal(set.tokens, wanted.tokens, wanted.n * sizeof *set.tokens);
        if (touched)
            assert_memory_equal(set.touches, wanted.touches, wanted.n * sizeof *set.touches);
    }
    active_set_free(&set);
}

enum { MOST_LAYERS = 60, MOST_TOP_K = 10 };

/* A token's experts in each layer, below N_EXPERTS; maybe one that cannot be. True: none. */
static bool draw_token(uint64_t *random, uint32_t n_layers, uint32_t top_k, uint32_t n_experts,
                       uint16_t *experts)
{
    bool plain = top_k <= ACTIVE_TOKEN_TOP_K && n_experts <= ACTIVE_TOKEN_EXPERT + 1;
    for (uint32_t i = 0; i < n_layers * top_k; i++) {
        const uint16_t *before = experts + i / top_k * top_k;
        for (bool again = true; again;) {
            experts[i] = (uint16_t)random_below(random, n_experts);
            again = false;
            for (const uint16_t *e = before; e < experts + i; e++)
                again = again || *e == experts[i];
        }
    }
    if (random_below(random, 3))
        return plain;
    uint32_t at = random_below(random, n_layers) * top_k;
    if (random_below(random, 2))
        experts[at] = EXPERT_DROPPED;
    else
        experts[at] = experts[at + top_k - 1];
    return plain && top_k == 1 && experts[at] != EXPERT_DROPPED;
}

static void a_token_has_its_experts_sorted_in_all_layers(void **unused)
{
    (void)unused;
    static Wanted wanted;
    uint64_t random = 2;
    for (int round = 0; round < 4000; round++) {
        uint16_t experts[MOST_LAYERS * MOST_TOP_K];
        uint16_t active[MOST_LAYERS * MOST_TOP_K];
        uint8_t touches[MOST_LAYERS * MOST_TOP_K];
        uint32_t n_layers = 1 + random_below(&random, MOST_LAYERS);
        uint32_t top_k = 1 + random_below(&random, MOST_TOP_K);
        uint32_t n_experts = round % 50 == 0 ? 5000 : top_k + random_below(&random, 500);
        bool plain = draw_token(&random, n_layers, top_k, n_experts, experts);
        bool done = active_of_token(experts, n_layers, top_k, active, round % 4 ? touches : NULL);
        if (n_experts < MOST_EXPERTS)
            assert_int_equal(done, plain);
        for (uint32_t i = 0; i < n_layers && done && n_experts < MOST_EXPERTS; i++) {
            find_wanted(experts + i * top_k, top_k, n_experts, &wanted);
            assert_memory_equal(active + i * top_k, wanted.active, top_k * sizeof *active);
            for (uint32_t k = 0; k < top_k && round % 4; k++)
                assert_int_equal(touches[i * top_k + k], wanted.touches[k]);
        }
    }
}

/* The largest expert that fits beside its place. */
static void the_largest_expert_of_a_token_is_sorted_last(void **unused)
{
    (void)unused;
    const uint16_t experts[] = {ACTIVE_TOKEN_EXPERT, 0, 5, ACTIVE_TOKEN_EXPERT - 1, 9, 3, 2, 1};
    const uint16_t too_large[] = {ACTIVE_TOKEN_EXPERT + 1, 0, 5, 4, 9, 3, 2, 1};
    uint16_t active[8];
    uint8_t touches[8];
    assert_true(active_of_token(experts, 1, 8, active, touches));
    assert_int_equal(active[7], ACTIVE_TOKEN_EXPERT);
    assert_int_equal(active[6], ACTIVE_TOKEN_EXPERT - 1);
    assert_int_equal(touches[0], 7);
    assert_false(active_of_token(too_large, 1, 8, active, touches));
}

/* Without touches a packed trace is the same but for them. */
static void touches_can_be_left_out(void **unused)
{
    (void)unused;
    const TraceLayer layers[] = {{.layer = 0, .experts = 300, .top_k = 2},
                                 {.layer = 1, .experts = 20, .top_k = 2}};
    const PackedLoading no_touches = {.no_touches = true};
    uint64_t random = 3;
    PackedTrace with;
    PackedTrace without;
    PackedCursor cursor;
    PackedEvent event;
    assert_ok(packed_trace_new(layers, 2, &with));
    assert_ok(packed_trace_new_as(layers, 2, &no_touches, &without));
    for (uint32_t i = 0; i < 200; i++) {
        uint32_t zeroes[40] = {0};
        uint16_t experts[2 * 40 * 2];
        uint32_t tokens = i % 2 ? 1 : 1 + random_below(&random, 40);
        for (uint32_t j = 0; j < 4 * tokens; j++)
            experts[j] = (uint16_t)random_below(&random, j < 2 * tokens ? 300 : 20);
        const TraceStep step = {.step = i,
                                .phase = PHASE_DECODE,
                                .tokens = tokens,
                                .request = zeroes,
                                .position = zeroes,
                                .experts = experts};
        assert_ok(packed_trace_add_step(&with, &step));
        assert_ok(packed_trace_add_step(&without, &step));
    }
    assert_int_equal(without.touches_bytes, 0);
    assert_int_equal(without.n_lookups, with.n_lookups);
    assert_int_equal(without.counts_bytes, with.counts_bytes);
    assert_memory_equal(without.experts, with.experts, with.n_lookups * sizeof *with.experts);
    assert_memory_equal(without.counts, with.counts, with.counts_bytes);
    for (cursor = packed_cursor(&without); packed_next(&cursor, &event);)
        assert_null(event.touches);
    packed_trace_free(&with);
    packed_trace_free(&without);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(the_order_of_touches_is_that_of_each_experts_last),
        cmocka_unit_test(a_token_has_its_experts_sorted_in_all_layers),
        cmocka_unit_test(the_largest_expert_of_a_token_is_sorted_last),
        cmocka_unit_test(touches_can_be_left_out)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
