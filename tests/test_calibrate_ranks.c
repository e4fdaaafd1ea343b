/* What calibration does for ranks where there is no GPU: who sends how much, how tables are looked
 * up, and what is said where ranks cannot be measured. */
#include "tests/mpi_run.h"

#include <math.h>

#include "exec/calibrate_parts.h"
#include "sim/costs.h"

static const char *program(void)
{
    const char *name = getenv("MOEBIUS");
    return name != NULL ? name : "build/rel/moebius";
}

/* Bytes that RANK receives from (or sends to) all others. */
static double port_bytes(uint32_t ranks, uint32_t rank, double skew, uint64_t bytes, bool sends)
{
    double sum = 0;
    for (uint32_t i = 0; i < ranks; i++)
        sum += (double)(sends ? calibrate_bytes_between(ranks, rank, i, skew, bytes)
                              : calibrate_bytes_between(ranks, i, rank, skew, bytes));
    return sum;
}

/* Every rank has the same number of assignments: those of RANK's tokens that go to the experts of
 * each, where those that stay are of the same share as the others send there. */
static void the_first_rank_receives_the_bytes_and_has_the_skew(void **unused)
{
    (void)unused;
    for (uint32_t ranks = 2; ranks <= 16; ranks++)
        for (double skew = 1; skew <= ranks; skew += 0.25)
            for (uint64_t bytes = 1 << 14; bytes <= 1 << 28; bytes *= 7) {
                double rounding = 8.0 * ranks;
                double own = (double)calibrate_bytes_between(ranks, 1, 0, skew, bytes);
                double all =
                    own + (ranks - 1) * (double)calibrate_bytes_between(ranks, 0, 1, skew, bytes);
                assert_true(fabs(port_bytes(ranks, 0, skew, bytes, false) - (double)bytes) <=
                            rounding);
                assert_true(fabs(own * ranks - skew * all) <= 16.0 * ranks * ranks * skew);
                for (uint32_t rank = 0; rank < ranks; rank++)
                    for (int sends = 0; sends < 2; sends++)
                        assert_true(port_bytes(ranks, rank, skew, bytes, sends) <=
                                    (double)calibrate_bytes_room(ranks, bytes));
            }
}

static void nothing_is_sent_to_oneself_and_nothing_to_others_where_one_has_all(void **unused)
{
    (void)unused;
    for (uint32_t ranks = 2; ranks <= 9; ranks++)
        for (uint32_t from = 0; from < ranks; from++)
            for (uint32_t to = 0; to < ranks; to++) {
                uint64_t even = calibrate_bytes_between(ranks, from, to, 1, 1 << 20);
                uint64_t skewed = calibrate_bytes_between(ranks, from, to, ranks, 1 << 20);
                assert_true((from == to) == (even == 0));
                assert_int_equal(even % 16, 0);
                assert_true((from == to || to > 0) == (skewed == 0));
            }
}

static void shapes_name_the_ranks_and_where_they_are(void **unused)
{
    (void)unused;
    char shape[160];
    hardware_ranks_shape(4, 4, shape);
    assert_string_equal(shape, "4 ranks");
    hardware_ranks_shape(16, 8, shape);
    assert_string_equal(shape, "16 ranks, 8 a machine");
}

static const char PROFILE[] =
    "{\"moebius_hardware\": 1, \"device\": \"d\", \"backend\": \"cuda\", \"driver\": null,"
    " \"created\": \"2026-01-01T00:00:00Z\", \"version\": \"0\", \"commit\": \"c\","
    " \"command\": \"x\", \"host_threads\": 1, \"clock_mhz\": null, \"models\": [],"
    " \"tables\": [{\"name\": \"all-to-all\", \"shape\": \"2 ranks\", \"unit\": \"ns\","
    " \"axes\": [\"skew\", \"bytes\"], \"points\": [[1, 256, 10, 0], [1, 1024, 10, 0],"
    " [1, 2048, 20, 0], [2, 256, 12, 0], [2, 1024, 16, 0], [2, 2048, 40, 0]]}]}";

static double time_at(const Costs *costs, double skew, double bytes)
{
    CostUse use = {0};
    const double at[] = {skew, bytes};
    return costs_at(costs, costs_find(costs, "all-to-all", "2 ranks"), at, &use);
}

static void a_profile_of_ranks_alone_is_read_and_looked_up(void **unused)
{
    (void)unused;
    Hardware hardware;
    Costs *costs;
    const char *path = scratch_path("ranks.json");
    assert_ok(file_write_all(path, PROFILE, strlen(PROFILE)));
    assert_ok(hardware_load(path, &hardware));
    assert_ok(costs_new(&hardware, &costs));
    assert_true(time_at(costs, 1, 1024) == 10);
    assert_true(time_at(costs, 1, 16) == 10);
    assert_true(time_at(costs, 1, 1536) == 15);
    assert_true(time_at(costs, 1, 4096) == 40);
    assert_true(time_at(costs, 1.5, 2048) == 30);
    assert_true(time_at(costs, 1.25, 1536) == 15 + (28 - 15) / 4.0);
    costs_free(costs);
    hardware_free(&hardware);
}

static void run_calibrate(const char *const *before, const char *device, MpiSaid *said)
{
    const char *argv[24];
    const char *const calibrate[] = {
        program(), "calibrate", "--device", device, "--out", scratch_path("out.json"), NULL};
    int argc = 0;
    for (; before[argc] != NULL; argc++)
        argv[argc] = before[argc];
    for (size_t i = 0; i < COUNT(calibrate); i++)
        argv[argc++] = calibrate[i];
    mpi_finish(mpi_start(argv), said);
    assert_false(file_exists(scratch_path("out.json")));
}

static void processes_on_the_cpu_are_told_once_that_they_have_no_ranks(void **unused)
{
    (void)unused;
    MpiSaid said;
    const char *const mpirun[] = {"mpirun", "-n", "2", NULL};
    if (!have_mpi())
        skip();
    run_calibrate(mpirun, "cpu", &said);
    assert_int_equal(said.code, 2);
    assert_int_equal(mpi_count_lines(said.text, "moebius: "), 1);
    assert_non_null(strstr(said.text, "2 processes measure what GPUs send one another: device cpu "
                                      "has none; start one process"));
}

static void a_bad_option_is_told_once(void **unused)
{
    (void)unused;
    MpiSaid said;
    const char *const mpirun[] = {"mpirun", "-n", "3", NULL};
    if (!have_mpi())
        skip();
    run_calibrate(mpirun, "toaster", &said);
    assert_int_equal(said.code, 2);
    assert_int_equal(mpi_count_lines(said.text, "moebius: "), 1);
}

/* As several processes that cannot find each other: without MPI, or under another one. */
static void processes_that_cannot_meet_are_refused_in_one_line(void **unused)
{
    (void)unused;
    const char *const first[] = {"env", "PMI_RANK=0", "PMI_SIZE=3", NULL};
    const char *const second[] = {"env", "PMI_RANK=1", "PMI_SIZE=3", NULL};
    MpiSaid said;
    run_calibrate(first, "cuda", &said);
    assert_int_equal(said.code, 2);
    assert_int_equal(mpi_count_lines(said.text, "moebius: calibrate: started as 3 processes"), 1);
    run_calibrate(second, "cuda", &said);
    assert_int_equal(said.code, 0);
    assert_string_equal(said.text, "");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(the_first_rank_receives_the_bytes_and_has_the_skew),
        cmocka_unit_test(nothing_is_sent_to_oneself_and_nothing_to_others_where_one_has_all),
        cmocka_unit_test(shapes_name_the_ranks_and_where_they_are),
        cmocka_unit_test(a_profile_of_ranks_alone_is_read_and_looked_up),
        cmocka_unit_test(processes_on_the_cpu_are_told_once_that_they_have_no_ranks),
        cmocka_unit_test(a_bad_option_is_told_once),
        cmocka_unit_test(processes_that_cannot_meet_are_refused_in_one_line),
    };
    mpi_set_environment();
    return cmocka_run_group_tests(tests, NULL, NULL);
}
