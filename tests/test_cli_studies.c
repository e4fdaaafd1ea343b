/* From sweep to plan to simulate. */
#include "base/status.h"
#include "tests/support.h"

#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/files.h"
#include "base/memory.h"
#include "policies/plan.h"
#include "tests/cli_run.h"
#include "tests/json_at.h"
#include "tests/offline_maker.h"

static void a_study_goes_from_sweep_to_plan_to_simulate(void **unused)
{
    (void)unused;
    const char *out = scratch_path("loop.db");
    const char *best = scratch_path("best.json");
    CliRun sweep = RUN_OF("sweep", "--trace", trace_path, "--study", study_path, "--out", out,
                          "--jobs", "2", "--json");
    cJSON *json = run_json(&sweep);
    assert_true(number_at(json, "plans") == 9);
    assert_true(number_at(json, "bounds") == 3);
    assert_true(number_at(json, "done") == 9);
    cJSON_Delete(json);
    CliRun again = RUN_OF("sweep", "--trace", trace_path, "--study", study_path, "--out", out);
    assert_run_done(&again);
    assert_non_null(strstr(again.out, "0 replayed now, 9 kept"));
    CliRun check = RUN_OF("check", out);
    assert_run_done(&check);
    assert_string_equal(check.out, "ok: 9 plans, 9 results\n");
    CliRun pick = RUN_OF("plan", "--from", out, "--best", "misses", "--where", "slots < 8", "--out",
                         best, "--json");
    json = run_json(&pick);
    Plan plan;
    assert_ok(plan_load(best, &plan));
    assert_int_equal(plan.buffer.slots, 4);
    assert_string_equal(text_at(json, "name"), plan.name);
    CliRun simulate = RUN_OF("simulate", "--trace", trace_path, "--plan", best, "--json");
    cJSON *result = run_json(&simulate);
    assert_true(number_at(result, "misses") == number_at(json, "misses"));
    assert_true(number_at(result, "bytes_loaded") == number_at(json, "bytes_loaded"));
    assert_true(number_at(result, "memory_bytes") == number_at(json, "memory_bytes"));
    cJSON_Delete(result);
    cJSON_Delete(json);
    static const struct {
        const char *option;
        const char *value;
        uint32_t slots;
    } MEMORY[] = {{"--misses-at-most", "1", 2}, {"--where", "slots > 2", 4}, {NULL, NULL, 2}};
    for (size_t i = 0; i < sizeof MEMORY / sizeof *MEMORY; i++) {
        CliRun memory = RUN_OF("plan", "--from", out, "--best", "memory", "--out", best,
                               MEMORY[i].option, MEMORY[i].value);
        assert_run_done(&memory);
        assert_ok(plan_load(best, &plan));
        assert_int_equal(plan.buffer.slots, MEMORY[i].slots);
    }
}

/* What was scored on the second half is what a simulation of that half gives, with the plan as it
 * was written and without the trace's first half. */
static void a_plan_that_learnt_says_all_that_it_needs(void **unused)
{
    (void)unused;
    const char *study = scratch_path("learns.json");
    const char *out = scratch_path("learns.db");
    const char *best = scratch_path("learnt.json");
    static const char TEXT[] =
        "{\"moebius_study\": 1, \"grid\": {\"buffer.evict\": [\"static\", \"lru\"],"
        " \"buffer.slots\": [2, 4]}}";
    assert_ok(file_write_all(study, TEXT, sizeof TEXT - 1));
    CliRun sweep = RUN_OF("sweep", "--trace", trace_path, "--study", study, "--out", out, "--json");
    cJSON *json = run_json(&sweep);
    const cJSON *test = cJSON_GetObjectItemCaseSensitive(json, "test");
    const cJSON *train = cJSON_GetObjectItemCaseSensitive(json, "train");
    assert_true(number_at(train, "first_step") == 0);
    assert_true(number_at(train, "end_step") == number_at(test, "first_step"));
    cJSON_Delete(json);
    CliRun pick = RUN_OF("plan", "--from", out, "--best", "misses", "--where",
                         "evict = 'static' AND slots = 4", "--out", best, "--json");
    cJSON *picked = run_json(&pick);
    CliRun alone =
        RUN_OF("simulate", "--trace", trace_path, "--plan", best, "--test", "0.5:1", "--json");
    json = run_json(&alone);
    assert_true(cJSON_IsNull(cJSON_GetObjectItemCaseSensitive(json, "train")));
    assert_true(number_at(json, "misses") == number_at(picked, "misses"));
    assert_true(number_at(json, "memory_bytes") == number_at(picked, "memory_bytes"));
    cJSON_Delete(json);
    CliRun trained = RUN_OF("simulate", "--trace", trace_path, "--set", "buffer.slots=4", "--set",
                            "buffer.evict=static", "--train", "0:0.5", "--json");
    json = run_json(&trained);
    assert_true(number_at(json, "misses") == number_at(picked, "misses"));
    cJSON_Delete(json);
    cJSON_Delete(picked);
    CliRun people = RUN_OF("simulate", "--trace", trace_path, "--plan", best, "--test", "0.5:1");
    assert_run_done(&people);
    assert_non_null(strstr(people.out, "Nothing learnt, scored on steps "));
    assert_non_null(strstr(people.out, ", starting cold."));
    CliRun warm = RUN_OF("simulate", "--trace", trace_path, "--set", "buffer.slots=4", "--set",
                         "buffer.initial=hottest", "--train", "0:0.5");
    assert_run_done(&warm);
    assert_non_null(strstr(warm.out, ", starting with the plan's initial experts."));
    CliRun none = RUN_OF("simulate", "--trace", trace_path, "--set", "buffer.slots=4", "--set",
                         "buffer.evict=static");
    assert_run_refused(&none, 2, "buffer.hot: must be learnt from a part of a trace before");
    CliRun idle = RUN_OF("simulate", "--trace", trace_path, "--plan", best, "--train", "0:0.5");
    assert_run_refused(&idle, 2, "--train: nothing is learnt");
    CliRun wrong = RUN_OF("simulate", "--trace", trace_path, "--test", "1:0");
    assert_run_refused(&wrong, 2, "--test: \"1:0\": must be FROM:TO");
}

static void sweep_of_all_sizes_names_the_first_hit_of_lru(void **unused)
{
    (void)unused;
    const char *out = scratch_path("sizes.db");
    CliRun sweep = RUN_OF("sweep", "--trace", trace_path, "--study", study_path, "--out", out,
                          "--sizes", "all", "--json");
    cJSON *json = run_json(&sweep);
    assert_true(number_at(json, "plans") == 3 * EXPERTS); /* two policies and the bound */
    assert_true(number_at(json, "bounds") == EXPERTS);
    const cJSON *first = cJSON_GetObjectItemCaseSensitive(json, "lru_first_hit_slots");
    double slots = number_at(first, "layer");
    assert_null(cJSON_GetObjectItemCaseSensitive(first, "device"));
    char set[64];
    for (int less = 0; less < 2 && slots - less >= 1; less++) {
        snprintf(set, sizeof set, "buffer.slots=%d", (int)slots - less);
        CliRun one = RUN_OF("simulate", "--trace", trace_path, "--set", set, "--set",
                            "buffer.evict=lru", "--set", "buffer.order=serial", "--json");
        cJSON *counts = run_json(&one);
        assert_int_equal(number_at(counts, "hits") > 0, less == 0);
        cJSON_Delete(counts);
    }
    cJSON_Delete(json);
    CliRun again = RUN_OF("sweep", "--trace", trace_path, "--study", study_path, "--out", out,
                          "--sizes", "all");
    assert_run_done(&again);
    assert_non_null(strstr(again.out, "lru in order serial has its first hit at"));
}

static void a_study_of_all_sizes_need_not_give_any(void **unused)
{
    (void)unused;
    static const char study[] =
        "{\"moebius_study\": 1, \"base\": {\"buffer\": {\"evict\": \"lru\"}},"
        " \"grid\": {\"buffer.order\": [\"serial\", \"batch\"]},"
        " \"plans\": [{\"moebius_plan\": 1, \"buffer\": {\"evict\": \"fifo\"}}]}";
    char without[256];
    snprintf(without, sizeof without, "%s", scratch_path("no-sizes.json"));
    const char *out = scratch_path("no-sizes.db");
    assert_ok(file_write_all(without, study, strlen(study)));
    CliRun given = RUN_OF("sweep", "--trace", trace_path, "--study", without, "--out", out);
    assert_run_refused(&given, 2,
                       "combination 1 (buffer.order=\"serial\"): buffer: needs \"slots\"");
    CliRun all = RUN_OF("sweep", "--trace", trace_path, "--study", without, "--out", out, "--sizes",
                        "all", "--json");
    cJSON *json = run_json(&all);
    assert_true(number_at(json, "plans") == 5 * EXPERTS); /* three plans and two bounds */
    cJSON_Delete(json);
}

static void plan_refusals_leave_no_file(void **unused)
{
    (void)unused;
    const char *from = scratch_path("refuse.db");
    const char *out = scratch_path("refuse.json");
    CliRun sweep = RUN_OF("sweep", "--trace", trace_path, "--study", study_path, "--out", from);
    assert_run_done(&sweep);
    CliRun time = RUN_OF("plan", "--from", from, "--best", "time", "--out", out);
    assert_run_refused(&time, 2, "the study has no times");
    CliRun none =
        RUN_OF("plan", "--from", from, "--best", "misses", "--where", "slots > 99", "--out", out);
    assert_run_refused(&none, 2, "no result meets the conditions");
    CliRun sql = RUN_OF("plan", "--from", from, "--best", "misses", "--where",
                        "1); drop table result; --", "--out", out);
    assert_run_refused(&sql, 2, "plan: --where: ");
    CliRun trace = RUN_OF("plan", "--from", trace_path, "--best", "misses", "--out", out);
    assert_run_refused(&trace, 2, "not a Moebius study");
    assert_false(file_exists(out));
    CliRun folder =
        RUN_OF("plan", "--from", from, "--best", "misses", "--out", "/no/such/plan.json");
    assert_run_refused(&folder, 2, "/no/such/plan.json: cannot create");
}

/* SQLite would wait for a FIFO's other end for ever. */
static void what_is_no_regular_file_is_no_study(void **unused)
{
    (void)unused;
    const char *fifo = scratch_path("fifo");
    const char *out = scratch_path("fifo.json");
    assert_int_equal(mkfifo(fifo, 0600), 0);
    const char *const paths[] = {fifo, "/dev/null", scratch_path("")};
    for (size_t i = 0; i < 3; i++) {
        CliRun plan = RUN_OF("plan", "--from", paths[i], "--best", "misses", "--out", out);
        assert_run_refused(&plan, 2, "not a regular file");
        CliRun sweep =
            RUN_OF("sweep", "--trace", trace_path, "--study", study_path, "--out", paths[i]);
        assert_run_refused(&sweep, 2, "not a regular file");
        CliRun info = RUN_OF("info", paths[i]);
        assert_run_refused(&info, 2, "not a regular file");
    }
    assert_false(file_exists(out));
    unlink(fifo);
}

/* SQLite would take these names for databases in memory. */
static void a_study_is_a_file_whatever_it_is_called(void **unused)
{
    (void)unused;
    static const char *const NAMES[] = {":memory:", "file:study.db?mode=memory", "file::memory:"};
    char here[1024];
    assert_non_null(getcwd(here, sizeof here));
    assert_int_equal(chdir(scratch_path("")), 0);
    for (size_t i = 0; i < 3; i++) {
        CliRun sweep =
            RUN_OF("sweep", "--trace", trace_path, "--study", study_path, "--out", NAMES[i]);
        CliRun check = RUN_OF("check", NAMES[i]);
        CliRun plan =
            RUN_OF("plan", "--from", NAMES[i], "--best", "misses", "--out", "of-file.json");
        CliRun again =
            RUN_OF("sweep", "--trace", trace_path, "--study", study_path, "--out", NAMES[i]);
        const bool is_there = file_exists(NAMES[i]);
        unlink(NAMES[i]);
        unlink("of-file.json");
        assert_run_done(&sweep);
        assert_run_done(&check);
        assert_run_done(&plan);
        assert_run_done(&again);
        assert_non_null(strstr(again.out, " 0 replayed now"));
        assert_true(is_there);
    }
    assert_int_equal(chdir(here), 0);
}

static void sweep_refuses_bad_studies_and_outputs(void **unused)
{
    (void)unused;
    const char *study = scratch_path("bad-study.json");
    const char *out = scratch_path("bad-study.db");
    static const char text[] = "{\"moebius_study\": 1, \"grid\": {\"buffer.slots\": [4, -1]}}";
    assert_ok(file_write_all(study, text, strlen(text)));
    CliRun bad = RUN_OF("sweep", "--trace", trace_path, "--study", study, "--out", out);
    assert_run_refused(&bad, 2, "bad-study.json: combination 2 (buffer.slots=-1)");
    CliRun absent = RUN_OF("sweep", "--trace", "/no/trace.db", "--study", study_path, "--out", out);
    assert_run_refused(&absent, 2, "/no/trace.db");
    assert_false(file_exists(out));
    CliRun output =
        RUN_OF("sweep", "--trace", trace_path, "--study", study_path, "--out", "/no/such/study.db");
    assert_run_refused(&output, 2, "/no/such/study.db: cannot open for writing");
    CliRun trace =
        RUN_OF("sweep", "--trace", trace_path, "--study", study_path, "--out", trace_path);
    assert_run_refused(&trace, 2, "not a Moebius study");
    CliRun check = RUN_OF("check", trace_path);
    assert_run_done(&check);
}

static void a_study_regroups_in_one_way_only(void **unused)
{
    (void)unused;
    static const char SAME[] =
        "{\"moebius_study\": 1, \"grid\": {\"batching.mode\": [\"apart\"], "
        "\"batching.sequences\": [4], \"buffer.slots\": [2, 4], \"buffer.evict\": [\"lru\"]}}";
    static const char DIFFERENT[] =
        "{\"moebius_study\": 1, \"grid\": {\"batching.mode\": [\"apart\"], "
        "\"batching.sequences\": [4, 8], \"buffer.slots\": [2]}}";
    char study[256];
    snprintf(study, sizeof study, "%s", scratch_path("batches.json"));
    assert_ok(file_write_all(study, SAME, strlen(SAME)));
    CliRun run = RUN_OF("sweep", "--trace", trace_path, "--study", study, "--out",
                        scratch_path("batches.db"), "--json");
    cJSON *json = run_json(&run);
    assert_true(number_at(json, "plans") == 4);
    cJSON_Delete(json);
    assert_ok(file_write_all(study, DIFFERENT, strlen(DIFFERENT)));
    run = RUN_OF("sweep", "--trace", trace_path, "--study", study, "--out",
                 scratch_path("different.db"));
    assert_run_refused(&run, 2, "regroup the trace in different ways");
}

int main(void)
{
    memory_install();
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_study_regroups_in_one_way_only),
        cmocka_unit_test(a_study_goes_from_sweep_to_plan_to_simulate),
        cmocka_unit_test(a_plan_that_learnt_says_all_that_it_needs),
        cmocka_unit_test(sweep_of_all_sizes_names_the_first_hit_of_lru),
        cmocka_unit_test(a_study_of_all_sizes_need_not_give_any),
        cmocka_unit_test(plan_refusals_leave_no_file),
        cmocka_unit_test(what_is_no_regular_file_is_no_study),
        cmocka_unit_test(a_study_is_a_file_whatever_it_is_called),
        cmocka_unit_test(sweep_refuses_bad_studies_and_outputs),
    };
    return cmocka_run_group_tests(tests, make_files, NULL);
}
