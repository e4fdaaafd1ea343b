/* Continuous batching at the command line: what record and simulate say of it, and refuse. */
#include "tests/cli_run.h"

#include "base/files.h"
#include "base/json.h"
#include "base/memory.h"
#include "tests/checkpoint_maker.h"

static char model[256];
static char tokens[256];
static char out[256];
static CliRun run;

#define RUN(...) cli_run((const char *const[]){__VA_ARGS__, NULL}, &run)
#define RECORD(...)                                                                                \
    RUN("record", "--model", model, "--tokens", tokens, "--out", out, "--set",                     \
        "batching.mode=continuous", __VA_ARGS__)

static int make_files(void **state)
{
    (void)state;
    const CheckpointSpec spec = {.seed = 31, .max_positions = 40};
    static const char TOKENS[] = "{\"tokens\": [1, 2, 3, 4, 5, 6, 7, 8]}\n{\"tokens\": [9, 8]}\n"
                                 "{\"tokens\": [5, 4, 3, 2, 1]}\n{\"tokens\": [11]}\n";
    snprintf(model, sizeof model, "%s", scratch_path("model"));
    snprintf(tokens, sizeof tokens, "%s", scratch_path("tokens.jsonl"));
    snprintf(out, sizeof out, "%s", scratch_path("out.db"));
    make_checkpoint(model, &spec);
    assert_ok(file_write_all(tokens, TOKENS, strlen(TOKENS)));
    return 0;
}

static int remove_out(void **state)
{
    (void)state;
    unlink(out);
    return 0;
}

static void assert_refused(const char *wanted)
{
    if (run.code != 2 || !cli_said_one_line(&run) || strstr(run.err, wanted) == NULL)
        fail_msg("wanted exit 2 and \"%s\", got exit %d, \"%s\"", wanted, run.code, run.err);
    assert_false(file_exists(out));
}

static double number_at(const cJSON *json, const char *object, const char *key)
{
    const cJSON *value = cJSON_GetObjectItemCaseSensitive(json, object);
    value = key != NULL ? cJSON_GetObjectItemCaseSensitive(value, key) : value;
    if (!cJSON_IsNumber(value))
        fail_msg("no number %s.%s", object, key != NULL ? key : "");
    return value->valuedouble;
}

static void record_tells_latencies_and_throughput(void **unused)
{
    (void)unused;
    RECORD("--set", "batching.sequences=2", "--set", "batching.arrivals=fixed", "--set",
           "batching.requests_per_s=200", "--generate", "5", "--json");
    assert_int_equal(run.code, 0);
    cJSON *json = cJSON_Parse(run.out);
    const cJSON *serving = cJSON_GetObjectItemCaseSensitive(json, "serving");
    assert_true(number_at(serving, "requests", NULL) == 4);
    assert_true(number_at(serving, "output_tokens", NULL) == number_at(json, "generated", NULL));
    assert_true(number_at(serving, "ttft_ns", "n") == 4);
    assert_true(number_at(serving, "tbt_ns", "n") == number_at(json, "generated", NULL) - 4);
    assert_true(number_at(serving, "duration_ns", NULL) >= 15e6);
    assert_true(number_at(serving, "ttft_ns", "median") > 0);
    assert_true(number_at(serving, "ttft_ns", "p90") <= number_at(serving, "ttft_ns", "p99"));
    assert_true(number_at(serving, "busy_ns", NULL) <= number_at(serving, "duration_ns", NULL));
    cJSON_Delete(json);
}

static void record_prints_a_table_of_them(void **unused)
{
    (void)unused;
    RECORD("--set", "batching.sequences=4", "--generate", "3");
    assert_int_equal(run.code, 0);
    assert_non_null(strstr(run.out, "time to first token"));
    assert_non_null(strstr(run.out, "time between tokens"));
    assert_non_null(strstr(run.out, "4 requests, "));
}

static void what_cannot_be_served_is_refused(void **unused)
{
    (void)unused;
    RECORD("--generate", "3");
    assert_refused("--set: batching: mode \"continuous\" needs \"sequences\"");
    RECORD("--set", "batching.sequences=4");
    assert_refused("batching.mode: \"continuous\" needs tokens to generate");
    RECORD("--set", "batching.sequences=4", "--generate", "3", "--batch", "2");
    assert_refused("--batch does not go with batching.mode \"continuous\"");
    RECORD("--set", "batching.sequences=4", "--generate", "3", "--beam", "2");
    assert_refused("batching.mode: \"continuous\" does not go with beams");
    RECORD("--set", "batching.sequences=4", "--generate", "3", "--set", "batching.arrivals=trace");
    assert_refused("batching.arrivals: \"trace\": the requests of a token file have no arrivals");
}

static void steps_of_a_trace_do_not_arrive(void **unused)
{
    (void)unused;
    char served[256];
    RECORD("--set", "batching.sequences=4", "--generate", "3");
    assert_int_equal(run.code, 0);
    snprintf(served, sizeof served, "%s", scratch_path("served.db"));
    assert_int_equal(rename(out, served), 0);
    RUN("validate", "--trace", served, "--model", model);
    assert_int_equal(run.code, 0);
    RUN("simulate", "--trace", served, "--set", "batching.mode=continuous", "--set",
        "batching.sequences=2");
    assert_refused("batching.mode: \"continuous\" plays arrivals in time: it needs --hardware");
    char forced[300];
    snprintf(forced, sizeof forced, "trace:%s", served);
    RUN("record", "--model", model, "--routing", forced, "--out", out, "--set",
        "batching.mode=continuous", "--set", "batching.sequences=2");
    assert_refused("batching.mode: \"continuous\" composes steps of its own");
}

int main(void)
{
    memory_install();
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup(record_tells_latencies_and_throughput, remove_out),
        cmocka_unit_test_setup(record_prints_a_table_of_them, remove_out),
        cmocka_unit_test_setup(what_cannot_be_served_is_refused, remove_out),
        cmocka_unit_test_setup(steps_of_a_trace_do_not_arrive, remove_out),
    };
    return cmocka_run_group_tests(tests, make_files, NULL);
}
