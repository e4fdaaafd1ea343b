/* What the processes of an MPI run tell one another; and what they say where they cannot. */
#include "tests/mpi_run.h"

#include <time.h>

#include "base/clock.h"
#include "base/processes.h"

#define CHECK(holds)                                                                               \
    do {                                                                                           \
        if (!(holds)) {                                                                            \
            fprintf(stderr, "rank %u: %s does not hold: %s\n", all->rank, #holds,                  \
                    error_message());                                                              \
            return 1;                                                                              \
        }                                                                                          \
    } while (0)

/* ---- as one of several processes ---- */

static int share(Processes *all)
{
    uint64_t block[3] = {all->rank, 7 + all->rank, 9};
    double most[2] = {all->rank, -(double)all->rank};
    CHECK(processes_share(all, block, sizeof block) == OK);
    CHECK(block[0] == 0 && block[1] == 7 && block[2] == 9);
    CHECK(processes_most(all, most, 2) == OK);
    CHECK(most[0] == all->count - 1 && most[1] == 0);
    CHECK(all->machine_count == all->count && all->machine_rank == all->rank);
    return 0;
}

/* All is well; then FIRST and those after it fail. */
static int agree(Processes *all, uint32_t first)
{
    CHECK(processes_agree(all, OK) == OK);
    Status own = all->rank < first ? OK : (fail)(ERR_UNSUPPORTED, "thing %u: broken", all->rank);
    Status status = processes_agree(all, own);
    if (all->rank > 0)
        CHECK(status == STATUS_END);
    else
        CHECK(status == ERR_UNSUPPORTED);
    if (all->rank == 0)
        CHECK(strcmp(error_message(), first == 0 ? "thing 0: broken" : "rank 1: thing 1: broken") ==
              0);
    CHECK(processes_agree(all, OK) == OK);
    return 0;
}

static void sleep_s(double s)
{
    nanosleep(&(struct timespec){.tv_sec = (time_t)s, .tv_nsec = (long)(s * 1e9) % 1000000000},
              NULL);
}

/* Rank 1 comes late: the others fail rather than wait. */
static int come_late(Processes *all)
{
    uint64_t start_ns = clock_ns();
    all->limit_ns = 300000000;
    if (all->rank == 1) {
        sleep_s(30);
        return 0;
    }
    CHECK(processes_agree(all, OK) == ERR_IO);
    CHECK(clock_ns() - start_ns < 10000000000);
    CHECK(strstr(error_message(), "waited") != NULL);
    CHECK(processes_agree(all, ERR_INPUT) == ERR_INPUT); /* without the others */
    fprintf(stderr, "rank %u was late\n", all->rank + 1);
    return 0;
}

static int work(const char *what)
{
    Processes *all;
    int code = 1;
    if (processes_join(&all) != OK || all == NULL) {
        fprintf(stderr, "no processes: %s\n", error_message());
        return 1;
    }
    if (strcmp(what, "share") == 0)
        code = share(all);
    else if (strcmp(what, "late") == 0)
        code = come_late(all);
    else
        code = agree(all, what[0] == '0' ? 0 : 1);
    processes_leave(all, code == 0 && strcmp(what, "late") != 0 ? OK : ERR_IO);
    return code;
}

/* ---- as the test ---- */

static void run_well(const char *ranks, const char *what)
{
    MpiSaid said;
    mpi_run_self(ranks, what, &said);
    if (said.code != 0)
        fail_msg("%s processes: exit status %d: %s", ranks, said.code, said.text);
}

static void what_rank_0_has_and_the_most_come_to_all(void **unused)
{
    (void)unused;
    if (!have_mpi())
        skip();
    run_well("2", "share");
    run_well("3", "share");
}

static void the_failure_of_the_lowest_rank_is_told_by_rank_0_and_by_nobody_else(void **unused)
{
    (void)unused;
    if (!have_mpi())
        skip();
    run_well("3", "0");
    run_well("3", "1");
}

static void who_waits_for_too_long_fails(void **unused)
{
    (void)unused;
    MpiSaid said;
    if (!have_mpi())
        skip();
    uint64_t start_ns = clock_ns();
    mpi_run_self("2", "late", &said);
    assert_non_null(strstr(said.text, "rank 1 was late"));
    assert_true(clock_ns() - start_ns < 25000000000);
}

static void a_process_of_its_own_has_none_to_speak_with(void **unused)
{
    (void)unused;
    Processes *all;
    assert_ok(processes_join(&all));
    assert_null(all);
    assert_int_equal(processes_leave(NULL, ERR_INPUT), ERR_INPUT);
}

int main(int argc, char **argv)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(what_rank_0_has_and_the_most_come_to_all),
        cmocka_unit_test(the_failure_of_the_lowest_rank_is_told_by_rank_0_and_by_nobody_else),
        cmocka_unit_test(who_waits_for_too_long_fails),
        cmocka_unit_test(a_process_of_its_own_has_none_to_speak_with),
    };
    if (argc > 1)
        return work(argv[1]);
    mpi_set_environment();
    return cmocka_run_group_tests(tests, NULL, NULL);
}
