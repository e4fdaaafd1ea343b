/* Measuring on processors that others disturb: where the thread goes, how long it waits, and which
 * rounds are measured again. */
#include "tests/support.h"

#include <math.h>

#include "tests/disturbed_machine.h"

static const uint64_t SECOND = 1000000000;

static void where_nobody_disturbs_it_every_round_counts_and_the_thread_stays(void **unused)
{
    (void)unused;
    DisturbedMachine all = {0};
    QuietProcessor quiet;
    disturbed_machine_begin(&all, &quiet);
    quiet_processor_seek(&quiet);
    assert_int_equal(quiet.best_ns, LOOP_NS);
    int processor = quiet.processor;
    uint64_t loops = all.loops;
    for (int i = 0; i < 100; i++)
        assert_true(quiet_processor_counts(&quiet));
    assert_int_equal(quiet.processor, processor);
    assert_int_equal(quiet.rounds, 100);
    assert_int_equal(quiet.again + quiet.disturbed + quiet.waited_ns, 0);
    assert_true(quiet.loop_ns == 100.0 * LOOP_NS);
    assert_true(all.loops - loops <= 200);
}

static void a_round_whose_processor_became_disturbed_is_measured_again_elsewhere(void **unused)
{
    (void)unused;
    DisturbedMachine all = {0};
    QuietProcessor quiet;
    disturbed_machine_begin(&all, &quiet);
    quiet_processor_seek(&quiet);
    assert_true(quiet_processor_counts(&quiet));
    int before = quiet.processor;
    all.spells[0] = (Spell){.processor = before, .end = UINT64_MAX};
    assert_false(quiet_processor_counts(&quiet));
    assert_int_not_equal(quiet.processor, before);
    for (int i = 0; i < 20; i++)
        assert_true(quiet_processor_counts(&quiet));
    assert_int_equal(quiet.again, 1);
    assert_int_equal(quiet.rounds, 21);
    assert_int_equal(quiet.disturbed, 0);
}

static void a_thread_moves_before_a_round_from_a_processor_that_is_disturbed(void **unused)
{
    (void)unused;
    for (int free = 0; free < PROCESSORS; free++) {
        DisturbedMachine all = {0};
        QuietProcessor quiet;
        disturbed_machine_begin(&all, &quiet);
        for (int i = 0; i < PROCESSORS; i++)
            if (i != free)
                all.spells[i] = (Spell){.processor = i, .end = UINT64_MAX};
        quiet_processor_seek(&quiet);
        assert_int_equal(quiet.processor, free);
        assert_true(quiet_processor_counts(&quiet));
        assert_int_equal(quiet.disturbed, 0);
    }
}

static void where_all_are_disturbed_for_a_while_it_is_waited_for(void **unused)
{
    (void)unused;
    DisturbedMachine all = {0};
    QuietProcessor quiet;
    disturbed_machine_begin(&all, &quiet);
    quiet.may_wait_ns = SECOND;
    quiet.best_ns = LOOP_NS; /* as a profile has it */
    all.spells[0] = (Spell){.processor = -1, .end = SECOND / 10, .timed = true};
    quiet_processor_seek(&quiet);
    assert_true(all.now_ns >= SECOND / 10 && all.now_ns < SECOND / 8);
    assert_true(quiet.waited_ns > SECOND / 20 && quiet.waited_ns <= SECOND / 8);
    assert_true(quiet_processor_counts(&quiet));
    assert_int_equal(quiet.again + quiet.disturbed, 0);
}

static void where_it_lasts_rounds_count_as_disturbed_and_waiting_has_an_end(void **unused)
{
    (void)unused;
    DisturbedMachine all = {0};
    QuietProcessor quiet;
    disturbed_machine_begin(&all, &quiet);
    quiet.may_wait_ns = SECOND;
    quiet.best_ns = LOOP_NS;
    all.spells[0] = (Spell){.processor = -1, .end = UINT64_MAX};
    quiet_processor_seek(&quiet);
    for (int i = 0; i < 1000; i++) {
        all.now_ns += SECOND / 100;
        assert_true(quiet_processor_counts(&quiet));
    }
    assert_int_equal(quiet.rounds, 1000);
    assert_int_equal(quiet.disturbed, 1000);
    assert_int_equal(quiet.again, 0);
    assert_true(quiet.waited_ns <= SECOND);
    assert_true(quiet.loop_ns == 1000.0 * DISTURBED_LOOP_NS);
    assert_true(all.now_ns < 12 * SECOND);
}

static void where_it_lasts_a_processor_that_becomes_quiet_is_found(void **unused)
{
    (void)unused;
    DisturbedMachine all = {0};
    QuietProcessor quiet;
    disturbed_machine_begin(&all, &quiet);
    quiet.best_ns = LOOP_NS;
    for (int i = 0; i < PROCESSORS; i++)
        all.spells[i] = (Spell){.processor = i, .end = i == 2 ? SECOND : UINT64_MAX, .timed = true};
    quiet_processor_seek(&quiet);
    assert_true(quiet_processor_counts(&quiet));
    assert_int_equal(quiet.disturbed, 1);
    all.now_ns = 2 * SECOND;
    quiet_processor_seek(&quiet);
    assert_int_equal(quiet.processor, 2);
    assert_true(quiet_processor_counts(&quiet));
    assert_int_equal(quiet.disturbed, 1);
}

/* Others begin as soon as a round does, wherever it is. */
static void
rounds_that_are_always_disturbed_are_measured_again_a_bounded_number_of_times(void **unused)
{
    (void)unused;
    DisturbedMachine all = {0};
    QuietProcessor quiet;
    disturbed_machine_begin(&all, &quiet);
    quiet_processor_seek(&quiet);
    for (int i = 0; i < 2000; i++) {
        int tries = 0;
        for (bool counts = false; !counts; tries++) {
            quiet_processor_seek(&quiet);
            all.now_ns += SECOND / 100;
            all.spells[0] = (Spell){.processor = quiet.processor, .end = UINT64_MAX};
            counts = quiet_processor_counts(&quiet);
        }
        assert_true(tries <= QUIET_TRIES);
        assert_true(quiet.again_ns <= QUIET_AGAIN_NS + quiet.rounds_ns / QUIET_SHARE);
    }
    assert_int_equal(quiet.rounds, 2000);
    assert_int_equal(quiet.rounds_ns, 20 * SECOND);
    assert_true(quiet.again >= 440 && quiet.again <= 450);
    assert_int_equal(quiet.disturbed, 2000);
}

/* Of a round of seconds others take a part, whatever they do. */
static void long_rounds_are_not_measured_again(void **unused)
{
    (void)unused;
    DisturbedMachine all = {0};
    QuietProcessor quiet;
    disturbed_machine_begin(&all, &quiet);
    quiet_processor_seek(&quiet);
    all.now_ns += 2 * QUIET_AGAIN_NS;
    all.spells[0] = (Spell){.processor = quiet.processor, .end = UINT64_MAX};
    assert_true(quiet_processor_counts(&quiet));
    assert_int_equal(quiet.disturbed, 1);
    assert_int_equal(quiet.again, 0);
}

/* A slower machine than the profile's, or one whose clock went down, is as good as it gets; what
 * disturbs it further is told from it. */
static void what_is_quiet_is_told_from_the_quietest_that_there_is(void **unused)
{
    (void)unused;
    DisturbedMachine all = {0};
    QuietProcessor quiet;
    disturbed_machine_begin(&all, &quiet);
    quiet.best_ns = LOOP_NS / 2;
    quiet_processor_seek(&quiet);
    assert_true(quiet_processor_counts(&quiet));
    all.spells[0] = (Spell){.processor = quiet.processor, .end = UINT64_MAX};
    assert_false(quiet_processor_counts(&quiet));
    assert_true(quiet_processor_counts(&quiet));
    assert_int_equal(quiet.disturbed, 2); /* beside the best that is known */
    assert_int_equal(quiet.best_ns, LOOP_NS / 2);
}

/* Others come and go in between. */
static void a_round_is_watched_while_it_lasts(void **unused)
{
    (void)unused;
    for (uint32_t beside = 0; beside <= 16; beside++) {
        DisturbedMachine all = {0};
        QuietProcessor quiet;
        disturbed_machine_begin(&all, &quiet);
        quiet_processor_seek(&quiet);
        assert_true(quiet_processor_counts(&quiet));
        all.spells[0] =
            (Spell){.processor = -1, .first = all.loops + 3, .end = all.loops + 3 + beside};
        for (int i = 0; i < 24; i++)
            quiet_processor_watch(&quiet);
        assert_true(quiet_processor_counts(&quiet) == (beside <= 3));
        assert_int_equal(quiet.again, beside > 3);
        for (int i = 0; i < 24; i++)
            quiet_processor_watch(&quiet);
        assert_true(quiet_processor_counts(&quiet));
        assert_int_equal(quiet.disturbed, 0);
        if (beside == 2)
            assert_true(
                fabs(quiet.loop_ns - 3 * LOOP_NS - 2.0 / 26 * (DISTURBED_LOOP_NS - LOOP_NS)) < 1);
    }
}

/* Clocks jump. */
static void a_loop_that_was_fast_once_is_not_the_best(void **unused)
{
    (void)unused;
    DisturbedMachine all = {0};
    QuietProcessor quiet;
    disturbed_machine_begin(&all, &quiet);
    all.spells[0] = (Spell){.processor = -1, .first = 5, .end = 6, .loop_ns = LOOP_NS / 3};
    all.spells[1] = (Spell){.processor = -1, .first = 20, .end = 21, .loop_ns = LOOP_NS / 3};
    quiet_processor_seek(&quiet);
    for (int i = 0; i < 10; i++)
        assert_true(quiet_processor_counts(&quiet));
    assert_int_equal(quiet.best_ns, LOOP_NS);
    assert_int_equal(quiet.disturbed, 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(where_nobody_disturbs_it_every_round_counts_and_the_thread_stays),
        cmocka_unit_test(a_round_whose_processor_became_disturbed_is_measured_again_elsewhere),
        cmocka_unit_test(a_thread_moves_before_a_round_from_a_processor_that_is_disturbed),
        cmocka_unit_test(where_all_are_disturbed_for_a_while_it_is_waited_for),
        cmocka_unit_test(where_it_lasts_rounds_count_as_disturbed_and_waiting_has_an_end),
        cmocka_unit_test(where_it_lasts_a_processor_that_becomes_quiet_is_found),
        cmocka_unit_test(
            rounds_that_are_always_disturbed_are_measured_again_a_bounded_number_of_times),
        cmocka_unit_test(a_round_is_watched_while_it_lasts),
        cmocka_unit_test(a_loop_that_was_fast_once_is_not_the_best),
        cmocka_unit_test(long_rounds_are_not_measured_again),
        cmocka_unit_test(what_is_quiet_is_told_from_the_quietest_that_there_is),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
