/* simulate, info and check of a small trace. */
#define _XOPEN_SOURCE 700 /* realpath */
#include "base/status.h"
#include "tests/support.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <sqlite3.h>
#include <string.h>
#include <sys/stat.h>

#include "base/files.h"
#include "base/memory.h"
#include "cli/table.h"
#include "policies/plan.h"
#include "tests/cli_run.h"
#include "tests/json_at.h"
#include "tests/offline_maker.h"

static void simulate_prints_the_same_numbers_as_json_and_as_a_table(void **unused)
{
    (void)unused;
    CliRun run = RUN_OF("simulate", "--trace", trace_path, "--set", "buffer.slots=3", "--set",
                        "buffer.evict=lru", "--json");
    cJSON *json = run_json(&run);
    double lookups = number_at(json, "lookups");
    double misses = number_at(json, "misses");
    assert_true(number_at(json, "hits") + misses == lookups);
    assert_true(number_at(json, "miss_ratio") == misses / lookups);
    assert_true(number_at(json, "assignments") == (STEPS + 3) * LAYERS * TOP_K);
    assert_true(number_at(json, "bytes_loaded") == number_at(json, "loads") * 3072);
    assert_true(number_at(json, "memory_bytes") == LAYERS * 3 * 3072);
    assert_true(number_at(json, "assignment_hits") <= number_at(json, "assignments"));
    assert_true(number_at(json, "evictions") > 0);
    assert_string_equal(text_at(json, "trace"), trace_path);
    assert_string_equal(text_at(json, "routing"), "as recorded");
    const cJSON *layers = cJSON_GetObjectItemCaseSensitive(json, "per_layer");
    double sum = 0;
    const cJSON *layer;
    cJSON_ArrayForEach(layer, layers) sum += number_at(layer, "misses");
    assert_int_equal(cJSON_GetArraySize(layers), LAYERS);
    assert_true(sum == misses);
    Plan plan;
    assert_ok(plan_from_json(cJSON_GetObjectItemCaseSensitive(json, "plan"), "plan", &plan));
    assert_int_equal(plan.buffer.slots, 3);
    assert_string_equal(plan.buffer.evict, "lru");
    cJSON_Delete(json);
    CliRun people = RUN_OF("simulate", "--trace", trace_path, "--set", "buffer.slots=3", "--set",
                           "buffer.evict=lru");
    char number[NUMBER_BYTES];
    assert_run_done(&people);
    assert_non_null(strstr(people.out, "replay order batch"));
    assert_non_null(strstr(people.out, number_text((uint64_t)misses, number)));
    assert_non_null(strstr(people.out, "assignment hits"));
}

static void simulate_without_a_buffer_misses_nothing(void **unused)
{
    (void)unused;
    CliRun run = RUN_OF("simulate", "--trace", trace_path, "--json");
    cJSON *json = run_json(&run);
    assert_true(number_at(json, "misses") == 0);
    assert_true(number_at(json, "memory_bytes") == LAYERS * EXPERTS * 3072);
    cJSON_Delete(json);
}

static void simulate_says_what_static_gating_wastes(void **unused)
{
    (void)unused;
    CliRun run = RUN_OF("simulate", "--trace", trace_path, "--set", "gating.mode=static", "--set",
                        "gating.capacity_factor=0.25", "--json");
    cJSON *json = run_json(&run);
    const cJSON *gating = cJSON_GetObjectItemCaseSensitive(json, "static_gating");
    /* One row for each expert in every step: a quarter of 4 tokens, and of 1 rounded up. */
    assert_true(number_at(gating, "slots") == STEPS * LAYERS * EXPERTS);
    assert_true(number_at(gating, "assignments") == number_at(json, "assignments"));
    assert_true(number_at(gating, "waste_factor") ==
                number_at(gating, "slots") / number_at(gating, "assignments"));
    cJSON_Delete(json);
    CliRun people = RUN_OF("simulate", "--trace", trace_path, "--set", "gating.mode=static");
    assert_run_done(&people);
    assert_non_null(strstr(people.out, "Static gating drops 0.0000 of"));
}

static void set_changes_the_plan_of_a_file_and_errors_name_it(void **unused)
{
    (void)unused;
    const char *plan = scratch_path("set-plan.json");
    static const char text[] =
        "{\"moebius_plan\": 1, \"buffer\": {\"slots\": 2, \"evict\": \"fifo\"}}";
    assert_ok(file_write_all(plan, text, strlen(text)));
    CliRun run = RUN_OF("simulate", "--trace", trace_path, "--plan", plan, "--set",
                        "buffer.order=serial", "--set", "buffer.slots=5", "--json");
    cJSON *json = run_json(&run);
    Plan read;
    assert_ok(plan_from_json(cJSON_GetObjectItemCaseSensitive(json, "plan"), "plan", &read));
    assert_int_equal(read.buffer.order, ORDER_SERIAL);
    assert_int_equal(read.buffer.slots, 5);
    assert_string_equal(read.buffer.evict, "fifo");
    cJSON_Delete(json);
    static const struct {
        const char *set;
        const char *wanted;
    } cases[] = {
        {"buffer.slots=0", "buffer.slots: 0"},
        {"buffer.slots=many", "buffer.slots: must be"},
        {"buffer.slot=4", "buffer.slot: unknown key"},
        {"buffer.evict=best", "buffer.evict: \"best\""},
        {"buffer.slots", "--set buffer.slots: "},
        {"=4", "--set =4: "},
        {"moebius_plan=2", "moebius_plan: 2"},
        {"buffer.slots.x=4", "slots"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        CliRun bad =
            RUN_OF("simulate", "--trace", trace_path, "--plan", plan, "--set", cases[i].set);
        assert_run_refused(&bad, 2, cases[i].wanted);
    }
    CliRun absent = RUN_OF("simulate", "--trace", trace_path, "--plan", "/no/such/plan.json");
    assert_run_refused(&absent, 2, "/no/such/plan.json: cannot open");
}

static void info_says_what_the_trace_holds(void **unused)
{
    (void)unused;
    CliRun run = RUN_OF("info", trace_path, "--json");
    cJSON *json = run_json(&run);
    assert_true(number_at(json, "steps") == STEPS);
    assert_true(number_at(json, "tokens") == STEPS + 3);
    assert_true(number_at(json, "requests") == 1);
    assert_true(number_at(json, "file_bytes") > 4096);
    assert_true(number_at(json, "bytes_per_token") == number_at(json, "file_bytes") / (STEPS + 3));
    assert_true(cJSON_IsFalse(cJSON_GetObjectItemCaseSensitive(json, "has_weights")));
    assert_true(cJSON_IsTrue(cJSON_GetObjectItemCaseSensitive(json, "complete")));
    const cJSON *phases = cJSON_GetObjectItemCaseSensitive(json, "phases");
    const cJSON *prefill = cJSON_GetObjectItemCaseSensitive(phases, "prefill");
    assert_true(number_at(prefill, "steps") == 1 && number_at(prefill, "tokens") == 4);
    const cJSON *layers = cJSON_GetObjectItemCaseSensitive(json, "layers");
    assert_int_equal(cJSON_GetArraySize(layers), LAYERS);
    assert_true(number_at(cJSON_GetArrayItem(layers, 1), "experts") == EXPERTS);
    cJSON_Delete(json);
    CliRun people = RUN_OF("info", trace_path);
    assert_run_done(&people);
    assert_non_null(strstr(people.out, "model.layers.1.mlp"));
    assert_null(strchr(people.out, '\x1b')); /* a trace may not send escapes to the terminal */
}

static void check_says_ok_or_names_the_bad_step(void **unused)
{
    (void)unused;
    const char *path = scratch_path("corrupt.db");
    record_trace(path);
    CliRun good = RUN_OF("check", path);
    assert_run_done(&good);
    assert_memory_equal(good.out, "ok: 40 steps, 43 tokens, 1 requests", 35);
    CliRun json_run = RUN_OF("check", path, "--json");
    cJSON *json = run_json(&json_run);
    assert_true(number_at(json, "steps") == STEPS);
    cJSON_Delete(json);
    sqlite3 *sqlite;
    assert_int_equal(sqlite3_open(path, &sqlite), SQLITE_OK);
    assert_int_equal(sqlite3_exec(sqlite,
                                  "UPDATE step SET duration_ns = 1 + duration_ns"
                                  " WHERE step = 17",
                                  NULL, NULL, NULL),
                     SQLITE_OK);
    sqlite3_close(sqlite);
    CliRun bad = RUN_OF("check", path);
    assert_run_refused(&bad, 2, "step 17");
    CliRun info = RUN_OF("info", path);
    assert_run_refused(&info, 2, "step 17");
    CliRun study = RUN_OF("check", study_path);
    assert_run_refused(&study, 2, "study.json");
}

static void shards_and_other_batches_are_replayed_as_one_trace(void **unused)
{
    (void)unused;
    CliRun run = RUN_OF("simulate", "--trace", trace_path, "--set", "buffer.slots=4", "--json");
    cJSON *one = run_json(&run);
    run = RUN_OF("simulate", "--trace", trace_path, "--trace", trace_path, "--set",
                 "buffer.slots=4", "--json");
    cJSON *two = run_json(&run);
    assert_true(number_at(two, "assignments") == 2 * number_at(one, "assignments"));
    assert_int_equal(cJSON_GetArraySize(cJSON_GetObjectItem(two, "trace")), 2);
    run =
        RUN_OF("simulate", "--trace", trace_path, "--trace", trace_path, "--set", "buffer.slots=4",
               "--set", "batching.mode=mixed", "--set", "batching.sequences=2", "--json");
    cJSON *regrouped = run_json(&run);
    assert_true(number_at(regrouped, "assignments") == number_at(two, "assignments"));
    assert_true(number_at(regrouped, "lookups") < number_at(two, "lookups"));
    cJSON_Delete(one);
    cJSON_Delete(two);
    cJSON_Delete(regrouped);
    run = RUN_OF("simulate", "--trace", trace_path, "--set", "batching.mode=mixed");
    assert_run_refused(&run, 2, "batching: mode \"mixed\" needs \"sequences\"");
}

/* A path of BYTES bytes from the root that ends in NAME. */
static void deep_path(const char *name, size_t bytes, char *path)
{
    char folder[101];
    memset(folder, 'd', sizeof folder - 1);
    folder[sizeof folder - 1] = '\0';
    assert_non_null(realpath(scratch_path(""), path));
    size_t used = strlen(path);
    for (; used + 200 < bytes; used += sizeof folder) {
        snprintf(path + used, PATH_MAX - used, "/%s", folder);
        assert_true(mkdir(path, 0700) == 0 || errno == EEXIST);
    }
    memset(path + used, 'f', bytes - used);
    path[used] = '/';
    strcpy(path + bytes - strlen(name), name);
}

static void copy(const char *from, const char *to)
{
    char *text;
    size_t bytes;
    assert_ok(file_read_all(from, 1 << 20, &text, &bytes));
    assert_ok(file_write_all(to, text, bytes));
    mem_free(text);
}

static void a_path_that_is_too_long_for_sqlite_is_told_to_be(void **unused)
{
    (void)unused;
    static const char WHY[] = " bytes from the root on, and SQLite takes ";
    const size_t most = (size_t)sqlite3_vfs_find(NULL)->mxPathname - strlen("-journal");
    char fits[PATH_MAX];
    char over[PATH_MAX];
    deep_path(".db", most, fits);
    deep_path(".db", most + 1, over);
    copy(trace_path, fits);
    copy(trace_path, over);
    CliRun run = RUN_OF("info", fits);
    assert_run_done(&run);
    run = RUN_OF("info", over);
    assert_run_refused(&run, 2, WHY);
    unlink(fits);
    unlink(over);
    const char *counts = scratch_path("counts.csv");
    static const char LINES[] = "layer,expert,count\n0,0,1\n";
    assert_ok(file_write_all(counts, LINES, strlen(LINES)));
    run = RUN_OF("import", "--from", "counts", counts, "--out", over);
    assert_run_refused(&run, 2, WHY);
    run = RUN_OF("sweep", "--trace", trace_path, "--study", study_path, "--out", over);
    assert_run_refused(&run, 2, WHY);
    assert_false(file_exists(over));
    run = RUN_OF("sweep", "--trace", trace_path, "--study", study_path, "--out", fits);
    assert_run_done(&run);
    assert_int_equal(rename(fits, over), 0);
    run = RUN_OF("plan", "--from", over, "--best", "misses", "--out", fits);
    assert_run_refused(&run, 2, WHY);
}

/* A path that is short itself. */
static void the_folder_that_the_program_runs_in_counts_as_well(void **unused)
{
    (void)unused;
    char path[PATH_MAX];
    char here[PATH_MAX];
    assert_non_null(getcwd(here, sizeof here));
    deep_path(".db", 600, path);
    char *name = strrchr(path, '/') + 1;
    copy(trace_path, path);
    name[-1] = '\0';
    assert_int_equal(chdir(path), 0);
    CliRun run = RUN_OF("info", name);
    assert_int_equal(chdir(here), 0);
    assert_run_refused(&run, 2, ": this path has 600 bytes from the root on");
}

int main(void)
{
    memory_install();
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(shards_and_other_batches_are_replayed_as_one_trace),
        cmocka_unit_test(simulate_prints_the_same_numbers_as_json_and_as_a_table),
        cmocka_unit_test(simulate_without_a_buffer_misses_nothing),
        cmocka_unit_test(simulate_says_what_static_gating_wastes),
        cmocka_unit_test(set_changes_the_plan_of_a_file_and_errors_name_it),
        cmocka_unit_test(info_says_what_the_trace_holds),
        cmocka_unit_test(check_says_ok_or_names_the_bad_step),
        cmocka_unit_test(a_path_that_is_too_long_for_sqlite_is_told_to_be),
        cmocka_unit_test(the_folder_that_the_program_runs_in_counts_as_well),
    };
    return cmocka_run_group_tests(tests, make_files, NULL);
}
