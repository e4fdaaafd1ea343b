/* `mpirun moebius sweep`, with the program that was built. Skipped where there is no mpirun, or
 * where the program was built without MPI. */
#define _DEFAULT_SOURCE
#include "tests/mpi_run.h"

#include <dirent.h>
#include <signal.h>
#include <time.h>

#include "tests/random_trace.h"
#include "tests/sweep_maker.h"

enum { STEPS = 120, MAX_ARGUMENTS = 24 };

static char trace_path[256];
static char study_path[256];
static char long_study_path[256];
static char signals_study_path[256];

/* Of plans that read scores, predictions and requests of the trace. */
static const char SIGNALS_STUDY[] =
    "{\"moebius_study\": 1, \"base\": {\"buffer\": {\"slots\": 3}},"
    " \"grid\": {\"buffer.evict\": [\"ema-score\", \"lru\"], \"buffer.slots\": [2, 3, 4],"
    " \"prefetch.predictor\": [\"none\", \"next-gate\", \"activation-match:3\"]}}";

static const char *program(void)
{
    const char *name = getenv("MOEBIUS");
    return name != NULL ? name : "build/rel/moebius";
}

/* Starts ARGUMENTS (up to NULL) in front of the sweep of STUDY into OUT, its output going into a
 * scratch file. */
static pid_t start(const char *const *arguments, const char *study, const char *out)
{
    const char *argv[MAX_ARGUMENTS];
    const char *const sweep[] = {program(), "sweep", "--trace", trace_path, "--study",
                                 study,     "--out", out,       NULL};
    int argc = 0;
    for (; arguments[argc] != NULL; argc++)
        argv[argc] = arguments[argc];
    for (size_t i = 0; i < sizeof sweep / sizeof sweep[0]; i++)
        argv[argc++] = sweep[i];
    return mpi_start(argv);
}

static void sweep_on(const char *ranks, const char *study, const char *out, MpiSaid *said)
{
    const char *const mpirun[] = {"mpirun", "-n", ranks, NULL};
    mpi_finish(start(mpirun, study, out), said);
}

static void sweep_alone(const char *study, const char *out)
{
    MpiSaid said;
    const char *const nothing[] = {NULL};
    mpi_finish(start(nothing, study, out), &said);
    if (said.code != 0)
        fail_msg("exit status %d: %s", said.code, said.text);
}

static int make_inputs(void **unused)
{
    (void)unused;
    RandomTrace trace = random_trace(5);
    trace.weights = true;
    trace.scores = false;
    trace.distances = 1;
    snprintf(trace_path, sizeof trace_path, "%s", scratch_path("trace.db"));
    snprintf(study_path, sizeof study_path, "%s", scratch_path("study.json"));
    snprintf(long_study_path, sizeof long_study_path, "%s", scratch_path("long.json"));
    snprintf(signals_study_path, sizeof signals_study_path, "%s", scratch_path("signals.json"));
    assert_ok(file_write_all(signals_study_path, SIGNALS_STUDY, strlen(SIGNALS_STUDY)));
    assert_ok(record_random(trace_path, &trace, STEPS, NULL));
    assert_ok(file_write_all(study_path, SMALL_STUDY, strlen(SMALL_STUDY)));
    mpi_set_environment();
    return 0;
}

static void write_the_same_rows(const char *study)
{
    static const char *const RANKS[] = {"1", "2", "3"};
    unlink(scratch_path("alone.db"));
    const char *alone = scratch_path("alone.db");
    const char *out = scratch_path("out.db");
    sweep_alone(study, alone);
    for (size_t i = 0; i < 3; i++) {
        MpiSaid said;
        unlink(out);
        sweep_on(RANKS[i], study, out, &said);
        if (said.code != 0)
            fail_msg("%s ranks: exit status %d: %s", RANKS[i], said.code, said.text);
        assert_int_equal(mpi_count_lines(said.text, out), 1);
        assert_same_rows(out, alone);
    }
}

static void every_number_of_processes_writes_the_same_rows(void **unused)
{
    (void)unused;
    if (!have_mpi())
        skip();
    write_the_same_rows(study_path);
}

static void plans_that_read_scores_and_predictions_are_shared_as_well(void **unused)
{
    (void)unused;
    if (!have_mpi())
        skip();
    write_the_same_rows(signals_study_path);
}

static void a_bad_input_is_reported_once(void **unused)
{
    (void)unused;
    MpiSaid said;
    if (!have_mpi())
        skip();
    const char *out = scratch_path("bad.db");
    sweep_on("3", scratch_path("absent.json"), out, &said);
    assert_int_equal(said.code, 2);
    assert_int_equal(mpi_count_lines(said.text, "moebius: "), 1);
    assert_non_null(strstr(said.text, "absent.json: "));
    assert_false(file_exists(out));
}

static void sleep_ms(long ms)
{
    nanosleep(&(struct timespec){.tv_sec = ms / 1000, .tv_nsec = ms % 1000 * 1000000}, NULL);
}

/* Waits until OUT has results, or CHILD has ended. */
static void wait_for_results(pid_t child, const char *out)
{
    for (int i = 0; i < 3000; i++, sleep_ms(10)) {
        sqlite3 *sqlite = NULL;
        char text[64] = "";
        siginfo_t ended = {0};
        if (waitid(P_PID, (id_t)child, &ended, WEXITED | WNOHANG | WNOWAIT) == 0 &&
            ended.si_pid == child)
            return;
        if (sqlite3_open_v2(out, &sqlite, SQLITE_OPEN_READONLY, NULL) == SQLITE_OK)
            sqlite3_exec(sqlite, "SELECT sum(done) FROM result", append_row, text, NULL);
        sqlite3_close(sqlite);
        if (atoi(text) > 0)
            return;
    }
    fail_msg("no result in 30 seconds");
}

/* The parent of the process NAME of /proc, 0 where it is none. */
static pid_t parent_of(const char *name)
{
    char path[300];
    char text[512] = "";
    int parent = 0;
    snprintf(path, sizeof path, "/proc/%s/stat", name);
    FILE *stream = fopen(path, "r");
    if (stream == NULL)
        return 0;
    const char *end = fgets(text, sizeof text, stream) != NULL ? strrchr(text, ')') : NULL;
    if (end == NULL || sscanf(end, ") %*c %d", &parent) != 1)
        parent = 0;
    fclose(stream);
    return parent;
}

/* The last process that CHILD started; 0: none runs any more. */
static pid_t last_rank(pid_t child)
{
    pid_t rank = 0;
    DIR *processes = opendir("/proc");
    assert_non_null(processes);
    for (const struct dirent *entry; (entry = readdir(processes)) != NULL;) {
        pid_t process = atoi(entry->d_name);
        if (process > rank && parent_of(entry->d_name) == child)
            rank = process;
    }
    closedir(processes);
    return rank;
}

/* A study that takes as long as it has SEEDS. */
static void write_long_study(int seeds)
{
    size_t room = 200 + (size_t)seeds * 8;
    char *text = calloc(1, room);
    size_t used = (size_t)snprintf(text, room,
                                   "{\"moebius_study\": 1, \"grid\": {\"buffer.slots\": [2, 3, 4],"
                                   " \"buffer.evict\": [\"random\"], \"seed\": [0");
    for (int i = 1; i < seeds; i++)
        used += (size_t)snprintf(text + used, room - used, ",%d", i);
    snprintf(text + used, room - used, "]}}");
    assert_ok(file_write_all(long_study_path, text, strlen(text)));
    free(text);
}

/* Interrupts mpirun, or kills a rank of it, when some results are there. Returns how many plans
 * have none then. */
static int64_t run_and_end(bool kill_a_rank, const char *out)
{
    const char *const mpirun[] = {"mpirun", "-n", "3", NULL};
    MpiSaid said;
    unlink(out);
    pid_t child = start(mpirun, long_study_path, out);
    wait_for_results(child, out);
    pid_t rank = kill_a_rank ? last_rank(child) : 0;
    if (!kill_a_rank || rank > 1)
        kill(kill_a_rank ? rank : child, kill_a_rank ? SIGKILL : SIGINT);
    mpi_finish(child, &said);
    assert_true(query_number(out, "SELECT sum(done) FROM result") > 0);
    return query_number(out, "SELECT count(*) FROM result WHERE done = 0");
}

static void end_early(bool kill_a_rank)
{
    static const char SUMS[] = "SELECT count(*), sum(hits * plan_id), sum(done) FROM result";
    const char *out = scratch_path("ended.db");
    const char *whole = scratch_path("whole.db");
    int seeds = 250;
    MpiSaid said;
    unlink(whole);
    write_long_study(seeds);
    while (run_and_end(kill_a_rank, out) == 0 && seeds < 100000)
        write_long_study(seeds *= 2);
    assert_true(seeds < 100000);
    sweep_on("2", long_study_path, out, &said);
    if (said.code != 0)
        fail_msg("exit status %d: %s", said.code, said.text);
    sweep_alone(long_study_path, whole);
    char *left = query(out, SUMS);
    char *right = query(whole, SUMS);
    assert_string_equal(left, right);
    free(left);
    free(right);
}

static void an_interrupted_run_continues(void **unused)
{
    (void)unused;
    if (!have_mpi())
        skip();
    end_early(false);
}

static void a_run_whose_rank_was_killed_continues(void **unused)
{
    (void)unused;
    if (!have_mpi())
        skip();
    end_early(true);
}

/* As several processes that cannot find each other: without MPI, or under another one. */
static void processes_that_cannot_share_the_work_are_refused_in_one_line(void **unused)
{
    (void)unused;
    const char *const first[] = {"env", "PMI_RANK=0", "PMI_SIZE=3", NULL};
    const char *const second[] = {"env", "PMI_RANK=1", "PMI_SIZE=3", NULL};
    const char *out = scratch_path("refused.db");
    MpiSaid said;
    mpi_finish(start(first, study_path, out), &said);
    assert_int_equal(said.code, 2);
    assert_int_equal(mpi_count_lines(said.text, "moebius: sweep: started as 3 processes"), 1);
    mpi_finish(start(second, study_path, out), &said);
    assert_int_equal(said.code, 0);
    assert_string_equal(said.text, "");
    assert_false(file_exists(out));
}

int main(void)
{
    memory_install();
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_number_of_processes_writes_the_same_rows),
        cmocka_unit_test(plans_that_read_scores_and_predictions_are_shared_as_well),
        cmocka_unit_test(a_bad_input_is_reported_once),
        cmocka_unit_test(an_interrupted_run_continues),
        cmocka_unit_test(a_run_whose_rank_was_killed_continues),
        cmocka_unit_test(processes_that_cannot_share_the_work_are_refused_in_one_line),
    };
    return cmocka_run_group_tests(tests, make_inputs, NULL);
}
