/* Who is needed last, against a plain list. */
#include "tests/support.h"

#include "base/memory.h"
#include "policies/farthest.h"

enum { MOST_OBJECTS = 5000 };

static void make(Farthest *farthest, uint32_t objects)
{
    *farthest = (Farthest){.n_levels = farthest_levels(objects)};
    assert_true(farthest->n_levels <= FARTHEST_LEVELS);
    for (uint32_t i = 0; i < farthest->n_levels; i++)
        assert_ok(
            mem_new(&farthest->levels[i], farthest_room(objects, i), sizeof(uint32_t), "test"));
    farthest_reset(farthest, objects);
}

static void drop(Farthest *farthest)
{
    for (uint32_t i = 0; i < farthest->n_levels; i++)
        mem_free(farthest->levels[i]);
}

/* The lowest of those with the largest number. */
static uint32_t plain_object(const uint32_t *plain, uint32_t objects)
{
    uint32_t best = 0;
    for (uint32_t i = 1; i < objects; i++)
        best = plain[i] > plain[best] ? i : best;
    return best;
}

static void the_last_needed_is_found_and_the_lowest_of_several(void **unused)
{
    (void)unused;
    static const uint32_t SIZES[] = {1, 2, 15, 16, 17, 128, 256, 257, 4097, MOST_OBJECTS};
    static uint32_t plain[MOST_OBJECTS];
    uint64_t seed = 1;
    for (size_t s = 0; s < sizeof SIZES / sizeof *SIZES; s++) {
        Farthest farthest;
        uint32_t objects = SIZES[s];
        uint32_t residents = 0;
        make(&farthest, objects);
        memset(plain, 0, sizeof plain);
        for (uint32_t now = 1; now < 4000; now++) {
            uint32_t object = random_below(&seed, objects);
            uint32_t next = now + 1 + random_below(&seed, 50);
            if (residents > 0 && random_below(&seed, 3) == 0) {
                object = plain_object(plain, objects);
                assert_int_equal(farthest_object(&farthest), object);
                assert_int_equal(farthest_use(&farthest), plain[object]);
                farthest_remove(&farthest, object);
                plain[object] = 0;
                residents--;
            } else if (next > plain[object]) {
                residents += plain[object] == 0;
                plain[object] = random_below(&seed, 9) == 0 ? UINT32_MAX : next;
                farthest_put(&farthest, object, plain[object]);
            }
        }
        drop(&farthest);
    }
}

static void a_new_one_has_nobody(void **unused)
{
    (void)unused;
    Farthest farthest;
    make(&farthest, 300);
    farthest_put(&farthest, 299, 7);
    assert_int_equal(farthest_object(&farthest), 299);
    farthest_reset(&farthest, 300);
    assert_int_equal(farthest_use(&farthest), 0);
    drop(&farthest);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(the_last_needed_is_found_and_the_lowest_of_several),
        cmocka_unit_test(a_new_one_has_nobody),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
