#include "tests/support.h"

#include <cjson/cJSON.h>
#include <sqlite3.h>
#include <stdio.h>
#include <string.h>

#include "base/memory.h"

static void blocks_are_zeroed_aligned_and_counted(void **unused)
{
    (void)unused;
    int64_t before = mem_live_blocks();
    void *blocks[100];
    for (size_t i = 0; i < 100; i++) {
        blocks[i] = mem_alloc(i, 7);
        assert_non_null(blocks[i]);
        assert_int_equal((uintptr_t)blocks[i] % 64, 0);
        for (size_t j = 0; j < 7 * i; j++)
            assert_int_equal(((unsigned char *)blocks[i])[j], 0);
        memset(blocks[i], 0xAB, 7 * i);
    }
    assert_int_equal(mem_live_blocks(), before + 100);
    for (size_t i = 0; i < 100; i++)
        mem_free(blocks[i]);
    mem_free(NULL);
    assert_int_equal(mem_live_blocks(), before);
}

static void sizes_that_overflow_are_refused(void **unused)
{
    (void)unused;
    uint64_t failures = mem_failures();
    void *block = NULL;
    assert_null(mem_alloc(SIZE_MAX, 2));
    assert_null(mem_alloc(SIZE_MAX / 2 + 1, 2));
    assert_null(mem_alloc(1, SIZE_MAX));
    assert_null(mem_alloc(1, SIZE_MAX - 100));
    assert_null(mem_resize(NULL, SIZE_MAX, SIZE_MAX));
    assert_int_equal(mem_new(&block, SIZE_MAX, 8, "table"), ERR_MEMORY);
    assert_non_null(strstr(error_message(), "table: out of memory"));
    assert_null(block);
    assert_true(mem_failures() == failures + 6);
}

static void resizing_keeps_the_bytes_and_failing_leaves_the_block(void **unused)
{
    (void)unused;
    int64_t before = mem_live_blocks();
    char *block = mem_resize(NULL, 5, 1);
    assert_non_null(block);
    memcpy(block, "abcd", 5);
    block = mem_resize(block, 100000, 1);
    assert_string_equal(block, "abcd");
    mem_fail_at(1);
    assert_null(mem_resize(block, 200000, 1));
    mem_fail_at(0);
    assert_null(mem_resize(block, SIZE_MAX, 2));
    assert_string_equal(block, "abcd");
    block = mem_resize(block, 2, 1);
    assert_memory_equal(block, "ab", 2);
    assert_int_equal(mem_live_blocks(), before + 1);
    mem_free(block);
    assert_int_equal(mem_live_blocks(), before);
}

static void exactly_the_kth_allocation_fails(void **unused)
{
    (void)unused;
    for (uint64_t k = 1; k <= 5; k++) {
        mem_fail_at(k);
        for (uint64_t i = 1; i <= 6; i++) {
            assert_int_equal(mem_fail_reached(), i > k);
            void *block = mem_alloc(1, 8);
            assert_int_equal(block == NULL, i == k);
            mem_free(block);
        }
    }
    uint64_t asked = mem_allocations();
    mem_fail_at(3);
    assert_false(mem_fail_reached());
    mem_free(mem_alloc(1, 1));
    mem_free(mem_resize(NULL, 1, 1));
    assert_true(mem_allocations() == asked + 2);
    mem_fail_at(0);
    for (int i = 0; i < 5; i++)
        mem_free(mem_alloc(1, 1));
    assert_false(mem_fail_reached());
}

static void sqlite_and_cjson_allocate_here(void **unused)
{
    (void)unused;
    int64_t before = mem_live_blocks();
    cJSON *json = cJSON_CreateObject();
    assert_true(mem_live_blocks() > before);
    cJSON_Delete(json);
    mem_fail_at(1);
    assert_null(cJSON_CreateObject());
    assert_int_equal(sqlite3_initialize(), SQLITE_OK);
    before = mem_live_blocks();
    uint64_t asked = mem_allocations();
    uint64_t failures = mem_failures();
    void *block = sqlite3_malloc(100);
    assert_int_equal(mem_live_blocks(), before + 1);
    assert_true(sqlite3_msize(block) >= 100);
    block = sqlite3_realloc(block, 1000);
    sqlite3_free(block);
    assert_int_equal(mem_live_blocks(), before);
    mem_fail_at(1);
    assert_null(sqlite3_malloc(100));
    mem_fail_at(0);
    assert_true(mem_allocations() == asked + 3);
    assert_true(mem_failures() == failures + 1);
}

static void pieces_of_an_arena_do_not_overlap_and_lie_in_it(void **unused)
{
    (void)unused;
    Arena arena = {0};
    unsigned char *pieces[50];
    for (size_t i = 0; i < 50; i++)
        arena_reserve(&arena, i, 3);
    assert_ok(arena_commit(&arena, "pieces"));
    for (size_t i = 0; i < 50; i++) {
        pieces[i] = arena_take(&arena, i, 3);
        assert_int_equal((uintptr_t)pieces[i] % 64, 0);
        assert_true(pieces[i] >= arena.base && pieces[i] + 3 * i <= arena.base + arena.capacity);
        for (size_t j = 0; j < 3 * i; j++)
            assert_int_equal(pieces[i][j], 0);
        memset(pieces[i], (int)i + 1, 3 * i);
    }
    for (size_t i = 0; i < 50; i++)
        for (size_t j = 0; j < 3 * i; j++)
            assert_int_equal(pieces[i][j], i + 1);
    assert_true(arena.used == arena.capacity);
    arena_free(&arena);
    assert_null(arena.base);
}

static void an_arena_larger_than_the_address_space_is_refused(void **unused)
{
    (void)unused;
    static const size_t sizes[][2][2] = {
        {{SIZE_MAX, 2}, {0, 0}},       {{SIZE_MAX, 1}, {0, 0}},
        {{SIZE_MAX - 63, 1}, {0, 0}},  {{SIZE_MAX / 2, 1}, {SIZE_MAX / 2 + 64, 1}},
        {{SIZE_MAX - 128, 1}, {1, 1}},
    };
    for (size_t i = 0; i < sizeof sizes / sizeof *sizes; i++) {
        Arena arena = {0};
        arena_reserve(&arena, sizes[i][0][0], sizes[i][0][1]);
        arena_reserve(&arena, sizes[i][1][0], sizes[i][1][1]);
        arena_reserve(&arena, 1, 1); /* does not make up for it */
        assert_int_equal(arena_commit(&arena, "model"), ERR_MEMORY);
        assert_non_null(strstr(error_message(), "model: out of memory"));
        arena_free(&arena);
    }
    Arena arena = {0};
    arena_reserve(&arena, 100, 1);
    mem_fail_at(1);
    assert_int_equal(arena_commit(&arena, "model"), ERR_MEMORY);
    mem_fail_at(0);
    arena_free(&arena);
}

static void an_array_grows_when_it_is_full_and_keeps_what_it_holds(void **unused)
{
    (void)unused;
    uint32_t *numbers = NULL;
    size_t room = 0;
    for (uint32_t n = 0; n < 1000; n++) {
        const uint32_t *before = numbers;
        size_t room_before = room;
        mem_fail_at(1);
        Status status = mem_grow(&numbers, &room, n, sizeof *numbers, "numbers");
        mem_fail_at(0);
        assert_int_equal(status, n == room_before ? ERR_MEMORY : OK);
        assert_ptr_equal(numbers, before);
        assert_int_equal(room, room_before);
        assert_int_equal(mem_grow(&numbers, &room, n, sizeof *numbers, "numbers"), OK);
        assert_true(n < room);
        numbers[n] = n;
    }
    for (uint32_t n = 0; n < 1000; n++)
        assert_int_equal(numbers[n], n);
    mem_free(numbers);
}

static void an_array_has_room_for_as_many_more_as_are_asked_for(void **unused)
{
    (void)unused;
    uint16_t *numbers = NULL;
    size_t room = 0;
    uint64_t random = 1;
    for (size_t n = 0; n < 100000;) {
        size_t more = random_below(&random, 3000);
        assert_ok(mem_reserve(&numbers, &room, n, more, sizeof *numbers, "numbers"));
        assert_true(n + more <= room);
        for (; more > 0; more--, n++)
            numbers[n] = (uint16_t)n;
        assert_int_equal(numbers[n / 2], (uint16_t)(n / 2));
    }
    const uint16_t *before = numbers;
    assert_int_equal(mem_reserve(&numbers, &room, room, SIZE_MAX, 1, "numbers"), ERR_MEMORY);
    assert_int_equal(mem_reserve(&numbers, &room, room, SIZE_MAX / 2, 4, "numbers"), ERR_MEMORY);
    assert_int_equal(mem_resize_array(&numbers, SIZE_MAX, 2, "numbers"), ERR_MEMORY);
    assert_ptr_equal(numbers, before);
    mem_free(numbers);
}

/* Lists of numbers under some keys, and strings of which some are larger than a chunk. */
static cJSON *made_tree(size_t n)
{
    char text[5000];
    cJSON *root = cJSON_CreateObject();
    for (size_t i = 0; i < n; i++) {
        size_t length = i * 131 % sizeof text;
        snprintf(text, sizeof text, "key %zu", i);
        cJSON *list = cJSON_AddArrayToObject(root, text);
        cJSON_AddItemToArray(list, cJSON_CreateNumber((double)i));
        memset(text, 'b', length);
        text[length] = '\0';
        cJSON_AddItemToArray(list, cJSON_CreateString(text));
    }
    return root;
}

static void assert_is_tree(const cJSON *root, size_t n)
{
    assert_int_equal(cJSON_GetArraySize(root), n);
    size_t i = 0;
    for (const cJSON *list = root->child; list != NULL; list = list->next, i++) {
        assert_true(list->child->valuedouble == (double)i);
        const char *text = list->child->next->valuestring;
        assert_int_equal(strlen(text), i * 131 % 5000);
        assert_int_equal(strspn(text, "b"), strlen(text));
    }
}

static void blocks_of_cjson_in_chunks_are_few_allocations_and_all_freed(void **unused)
{
    (void)unused;
    static const size_t BYTES[] = {0, 4000, 100000, 1 << 30};
    for (size_t i = 0; i < sizeof BYTES / sizeof *BYTES; i++) {
        int64_t before = mem_live_blocks();
        uint64_t made = mem_allocations();
        memory_json_begin(BYTES[i]);
        cJSON *tree = made_tree(200);
        cJSON *passing = made_tree(10);
        cJSON_Delete(passing);
        memory_json_end();
        made = mem_allocations() - made;
        assert_true(BYTES[i] < 100000 || made < 20);
        assert_is_tree(tree, 200);
        cJSON *taken = cJSON_DetachItemFromArray(tree, 17);
        cJSON_AddItemToArray(tree, cJSON_CreateNumber(1));
        cJSON_Delete(tree);
        assert_true(taken->child->valuedouble == 17);
        assert_true(mem_live_blocks() > before);
        cJSON_Delete(taken);
        assert_int_equal(mem_live_blocks(), before);
    }
}

static void a_chunk_that_cannot_be_had_is_a_failed_allocation(void **unused)
{
    (void)unused;
    int64_t before = mem_live_blocks();
    memory_json_begin(4096);
    mem_fail_at(1);
    assert_null(cJSON_CreateNumber(1));
    assert_true(mem_fail_reached());
    mem_fail_at(0);
    cJSON *number = cJSON_CreateNumber(2);
    memory_json_end();
    assert_true(number->valuedouble == 2);
    cJSON_Delete(number);
    assert_int_equal(mem_live_blocks(), before);
}

int main(void)
{
    memory_install();
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(blocks_are_zeroed_aligned_and_counted),
        cmocka_unit_test(sizes_that_overflow_are_refused),
        cmocka_unit_test(resizing_keeps_the_bytes_and_failing_leaves_the_block),
        cmocka_unit_test(exactly_the_kth_allocation_fails),
        cmocka_unit_test(sqlite_and_cjson_allocate_here),
        cmocka_unit_test(pieces_of_an_arena_do_not_overlap_and_lie_in_it),
        cmocka_unit_test(an_arena_larger_than_the_address_space_is_refused),
        cmocka_unit_test(an_array_has_room_for_as_many_more_as_are_asked_for),
        cmocka_unit_test(an_array_grows_when_it_is_full_and_keeps_what_it_holds),
        cmocka_unit_test(blocks_of_cjson_in_chunks_are_few_allocations_and_all_freed),
        cmocka_unit_test(a_chunk_that_cannot_be_had_is_a_failed_allocation),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
