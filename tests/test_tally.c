/* Events whose ids take a byte: counted quickly, against plain counts, and as packed traces have
 * them. */
#include "base/status.h"

#include <unistd.h>

#include "base/memory.h"
#include "tests/random_trace.h"
#include "traces/active.h"
#include "traces/packed.h"
#include "traces/tally.h"

enum { EXPERTS = 255 };

/* IDS[n], with at[0] to at[255] how many of each. */
static void draw_ids(uint64_t *random, size_t n, uint32_t experts, uint8_t *ids, uint32_t *at)
{
    uint32_t few = 1 + random_below(random, experts);
    memset(at, 0, 256 * sizeof *at);
    for (size_t i = 0; i < n; i++) {
        uint32_t below = random_below(random, 3) ? experts : few;
        ids[i] = (uint8_t)(random_below(random, 30) ? random_below(random, below) : UINT8_MAX);
        at[ids[i]]++;
    }
}

/* SUM is of AT, where the list is of the same unless it is NULL. */
static void assert_sum(const TallySum *sum, const uint32_t *at, const uint16_t *active,
                       const uint8_t *counts)
{
    TallySum wanted = {0};
    for (uint32_t expert = 0; expert < EXPERTS; expert++) {
        if (at[expert] == 0)
            continue;
        if (active != NULL)
            assert_int_equal(active[wanted.active], expert);
        wanted.is_large |= at[expert] >= TALLY_LARGE;
        if (active != NULL && !sum->is_large)
            assert_int_equal(counts[wanted.active], at[expert]);
        wanted.active++;
        wanted.assignments += at[expert];
        wanted.squares += at[expert] * at[expert];
    }
    assert_int_equal(sum->active, wanted.active);
    assert_int_equal(sum->assignments, wanted.assignments);
    assert_int_equal(sum->is_large, wanted.is_large);
    if (!wanted.is_large)
        assert_int_equal(sum->squares, wanted.squares);
}

static void a_tally_is_what_counting_one_by_one_gives(void **unused)
{
    (void)unused;
    static uint8_t ids[TALLY_IDS];
    uint16_t active[EXPERTS + TALLY_ROOM];
    uint8_t counts[EXPERTS + TALLY_ROOM];
    uint32_t at[256];
    Tally tally = {0};
    uint64_t random = 5;
    for (int round = 0; round < 5000; round++) {
        uint32_t experts = 1 + random_below(&random, EXPERTS);
        size_t n = random_below(&random, round % 2 ? 100 : TALLY_IDS + 1);
        draw_ids(&random, n, experts, ids, at);
        TallySum sum;
        tally_sums(&tally, ids, n, 1, experts, 1, &sum);
        assert_sum(&sum, at, NULL, NULL);
        const TallySum listed = tally_list(&tally, ids, n, experts, active, counts);
        assert_sum(&listed, at, active, counts);
    }
}

/* Of tokens that ask different experts, mostly; with at[0] to at[255] how many of each. */
static void draw_tokens(uint64_t *random, size_t tokens, uint32_t top_k, uint32_t experts,
                        uint8_t *ids, uint32_t *at)
{
    memset(at, 0, 256 * sizeof *at);
    for (size_t i = 0; i < tokens * top_k; i++) {
        const uint8_t *token = ids + i / top_k * top_k;
        bool again = random_below(random, 3000) == 0;
        ids[i] = (uint8_t)random_below(random, experts);
        while (!again && memchr(token, ids[i], (size_t)(ids + i - token)) != NULL)
            ids[i] = (uint8_t)random_below(random, experts);
        if (random_below(random, 9000) == 0)
            ids[i] = UINT8_MAX;
        at[ids[i]]++;
    }
}

static void tallies_of_tokens_are_what_counting_one_by_one_gives(void **unused)
{
    (void)unused;
    static uint8_t ids[TALLY_EVENTS * TALLY_IDS];
    static uint32_t at[TALLY_EVENTS][256];
    Tally tally = {0};
    uint64_t random = 7;
    for (int round = 0; round < 3000; round++) {
        uint32_t top_k = round % 3 ? 8 : 1 + random_below(&random, 10);
        uint32_t experts = top_k + random_below(&random, round % 5 ? 129 - top_k : 255 - top_k);
        size_t tokens = random_below(&random, TALLY_IDS / top_k + 1);
        uint32_t n = 1 + random_below(&random, TALLY_EVENTS);
        TallySum sums[TALLY_EVENTS];
        for (uint32_t i = 0; i < n; i++)
            draw_tokens(&random, tokens, top_k, experts, ids + i * tokens * top_k, at[i]);
        tally_sums(&tally, ids, tokens, top_k, experts, n, sums);
        for (uint32_t i = 0; i < n; i++)
            assert_sum(&sums[i], at[i], NULL, NULL);
    }
}

/* Whatever else the token asks: twice the same, a half of the experts or a whole apart, or nobody.
 */
static void a_token_that_asks_twice_is_counted_right(void **unused)
{
    (void)unused;
    Tally tally = {0};
    uint64_t random = 9;
    for (int round = 0; round < 100000; round++) {
        uint8_t ids[8];
        uint32_t at[256] = {0};
        uint32_t top_k = round % 2 ? 8 : 1 + random_below(&random, 8);
        uint32_t few = 1 + random_below(&random, 4);
        TallySum sum;
        for (uint32_t k = 0; k < top_k; k++) {
            ids[k] = (uint8_t)(61 + random_below(&random, few) + 64 * random_below(&random, 2));
            ids[k] = random_below(&random, 20) ? ids[k] % 128 : UINT8_MAX;
            at[ids[k]]++;
        }
        tally_sums(&tally, ids, 1, top_k, 128, 1, &sum);
        assert_sum(&sum, at, NULL, NULL);
    }
}

/* As many ids as it counts, all of one expert. */
static void the_fullest_tally_is_large(void **unused)
{
    (void)unused;
    static uint8_t ids[TALLY_IDS];
    Tally tally = {0};
    memset(ids, 200, sizeof ids);
    for (size_t n = TALLY_LARGE - 1; n <= TALLY_IDS; n += n < TALLY_LARGE ? 1 : TALLY_LARGE) {
        TallySum sum;
        tally_sums(&tally, ids, n, 1, 201, 1, &sum);
        assert_int_equal(sum.active, 1);
        assert_int_equal(sum.assignments, n);
        assert_int_equal(sum.is_large, n >= TALLY_LARGE);
    }
    TallySum nothing;
    tally_sums(&tally, ids, 0, 1, 201, 1, &nothing);
    assert_int_equal(nothing.active + nothing.assignments + nothing.squares, 0);
}

static void ids_of_a_token_are_distinct_unless_one_stands_twice_or_none(void **unused)
{
    (void)unused;
    uint64_t random = 6;
    for (int round = 0; round < 20000; round++) {
        uint8_t ids[4 * 10];
        uint32_t layers = 1 + random_below(&random, 4);
        uint32_t top_k = round % 2 ? 8 : 1 + random_below(&random, 10);
        uint32_t at[256];
        bool distinct = true;
        for (uint32_t i = 0; i < layers; i++) {
            memset(at, 0, sizeof at);
            for (uint32_t k = 0; k < top_k; k++) {
                uint8_t *id = &ids[i * top_k + k];
                *id = (uint8_t)random_below(&random, random_below(&random, 9) ? 255 : 256);
                distinct = distinct && *id != UINT8_MAX && at[*id]++ == 0;
            }
        }
        assert_int_equal(active_is_distinct(ids, layers, top_k), distinct);
    }
}

/* Two ways to pack PATH, without touches, event by event: with experts, and without. */
static void assert_same_without_experts(const char *path)
{
    const PackedLoading named = {.no_touches = true};
    const PackedLoading summed = {.no_touches = true, .no_experts = true};
    PackedTrace all;
    PackedTrace sums;
    PackedEvent wanted;
    PackedEvent got;
    assert_ok(packed_trace_load_as(path, &named, &all));
    assert_ok(packed_trace_load_as(path, &summed, &sums));
    PackedCursor from = packed_cursor(&all);
    PackedCursor cursor = packed_cursor(&sums);
    while (packed_next(&from, &wanted)) {
        PackedSums counted = {0};
        const uint8_t *at = wanted.counts;
        assert_true(packed_next(&cursor, &got));
        assert_int_equal(got.n_active, wanted.n_active);
        for (uint32_t i = 0; i < wanted.n_active; i++) {
            uint32_t count = at != NULL ? packed_count_read(&at) : 1;
            counted.assignments += count;
            counted.squares += count * count;
        }
        if (got.summed)
            assert_memory_equal(&got.sums, &counted, sizeof counted);
        else if (wanted.counts != NULL)
            assert_memory_equal(got.counts, wanted.counts, (size_t)(at - wanted.counts));
    }
    assert_false(packed_next(&cursor, &got));
    assert_null(sums.experts);
    assert_true(sums.n_assignments == all.n_assignments && sums.n_lookups == all.n_lookups);
    assert_int_equal(sums.max_active, all.max_active);
    packed_trace_free(&all);
    packed_trace_free(&sums);
}

/* Traces with ids of a byte and of two, dropped ones, and experts that all tokens ask. */
static void without_experts_events_have_what_their_counts_come_to(void **unused)
{
    (void)unused;
    const char *path = scratch_path("tally.db");
    for (uint64_t seed = 0; seed < 40; seed++) {
        RandomTrace trace = random_trace(seed);
        for (uint32_t i = 0; seed % 3 == 0 && i < trace.n_layers; i++)
            trace.layers[i].experts = trace.layers[i].top_k;
        trace.max_tokens = seed % 4 == 1 ? 1 : RANDOM_TOKENS;
        assert_ok(record_random(path, &trace, 30, NULL));
        assert_same_without_experts(path);
        unlink(path);
    }
}

/* The experts that packed_trace_add_step() is given as u16, and a file's, which take a byte. */
static void without_touches_a_loaded_trace_equals_one_added_by_hand(void **unused)
{
    (void)unused;
    const char *path = scratch_path("tally.db");
    const PackedLoading loading = {.no_touches = true};
    for (uint64_t seed = 0; seed < 20; seed++) {
        RandomTrace trace = random_trace(seed);
        PackedTrace loaded;
        PackedTrace made;
        RandomStep step;
        for (uint32_t i = 0; seed % 2 && i < trace.n_layers; i++)
            trace.layers[i].experts = RANDOM_TOP_K + i;
        assert_ok(record_random(path, &trace, 40, NULL));
        assert_ok(packed_trace_load_as(path, &loading, &loaded));
        assert_ok(packed_trace_new_as(trace.layers, trace.n_layers, &loading, &made));
        for (uint32_t i = 0; i < 40; i++) {
            random_step(&trace, i, &step);
            assert_ok(packed_trace_add_step(&made, &step.step));
        }
        assert_int_equal(loaded.n_lookups, made.n_lookups);
        assert_int_equal(loaded.counts_bytes, made.counts_bytes);
        assert_memory_equal(loaded.n_active, made.n_active, made.n_events * sizeof *made.n_active);
        assert_memory_equal(loaded.experts, made.experts, made.n_lookups * sizeof *made.experts);
        assert_memory_equal(loaded.counts, made.counts, made.counts_bytes);
        assert_memory_equal(loaded.step_counts, made.step_counts, made.n_steps);
        packed_trace_free(&loaded);
        packed_trace_free(&made);
        unlink(path);
    }
}

int main(void)
{
    memory_install();
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_tally_is_what_counting_one_by_one_gives),
        cmocka_unit_test(tallies_of_tokens_are_what_counting_one_by_one_gives),
        cmocka_unit_test(a_token_that_asks_twice_is_counted_right),
        cmocka_unit_test(the_fullest_tally_is_large),
        cmocka_unit_test(ids_of_a_token_are_distinct_unless_one_stands_twice_or_none),
        cmocka_unit_test(without_experts_events_have_what_their_counts_come_to),
        cmocka_unit_test(without_touches_a_loaded_trace_equals_one_added_by_hand),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
