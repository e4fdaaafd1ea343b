/* Continuous batching at the command line: what record and simulate say of it, and refuse. */
#include "tests/cli_run.h"

#include "base/files.h"
#include "base/json.h"
#include "base/memory.h"
#include "tests/checkpoint_maker.h"
#include "tests/hardware_maker.h"
#include "tests/json_at.h"

static char model[256];
static char tokens[256];
static char out[256];
static CliRun run;

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

/* scratch_path() for longer than 16 calls, in PATH. */
static const char *named(const char *name, char path[256])
{
    snprintf(path, 256, "%s", scratch_path(name));
    return path;
}

static void assert_refused(const char *wanted)
{
    assert_run_refused(&run, 2, wanted);
    assert_false(file_exists(out));
}

static void record_tells_latencies_and_throughput(void **unused)
{
    (void)unused;
    RECORD("--set", "batching.sequences=2", "--set", "batching.arrivals=fixed", "--set",
           "batching.requests_per_s=200", "--generate", "5", "--ttft-at-most", "100000", "--json");
    assert_int_equal(run.code, 0);
    cJSON *json = cJSON_Parse(run.out);
    const cJSON *serving = cJSON_GetObjectItemCaseSensitive(json, "serving");
    assert_true(number_at(serving, "requests") == 4);
    assert_true(number_at(serving, "output_tokens") == number_at(json, "generated"));
    assert_true(number_in(serving, "ttft_ns", "n") == 4);
    assert_true(number_in(serving, "tbt_ns", "n") == number_at(json, "generated") - 4);
    assert_true(number_at(serving, "duration_ns") >= 15e6);
    assert_true(number_in(serving, "ttft_ns", "median") > 0);
    assert_true(number_in(serving, "ttft_ns", "p90") <= number_in(serving, "ttft_ns", "p99"));
    assert_true(number_at(serving, "busy_ns") <= number_at(serving, "duration_ns"));
    assert_true(number_in(serving, "tpot_ns", "n") == 4);
    assert_true(number_in(serving, "goodput", "requests") == 4);
    assert_true(number_in(serving, "goodput", "ttft_ms") == 100000);
    cJSON_Delete(json);
    RUN("info", out, "--latency-at-most", "0.001", "--json");
    assert_int_equal(run.code, 0);
    json = cJSON_Parse(run.out);
    serving = cJSON_GetObjectItemCaseSensitive(json, "serving");
    assert_true(number_in(serving, "goodput", "requests") == 0);
    cJSON_Delete(json);
}

static void goals_are_of_requests_that_arrive(void **unused)
{
    (void)unused;
    RUN("record", "--model", model, "--tokens", tokens, "--out", out, "--tpot-at-most", "5");
    assert_refused("--tpot-at-most and --latency-at-most are of requests that arrive");
    RUN("record", "--model", model, "--tokens", tokens, "--out", out);
    assert_int_equal(run.code, 0);
    RUN("info", out, "--ttft-at-most", "5");
    assert_run_refused(&run, 2, "are of requests that arrive");
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
    assert_refused("batching.arrivals: \"trace\": the requests of the token file have no arrivals");
}

/* Records all requests at once, as OUT moved to NAME. */
static void record_served(const char *name, char path[256])
{
    RECORD("--set", "batching.sequences=4", "--generate", "5", "--ignore-eos");
    assert_int_equal(run.code, 0);
    snprintf(path, 256, "%s", scratch_path(name));
    assert_int_equal(rename(out, path), 0);
}

/* The trace tells nearly what the run itself said: it lacks what lies between steps. */
static void a_recorded_run_can_be_judged_from_its_trace(void **unused)
{
    (void)unused;
    char served[256];
    RECORD("--set", "batching.sequences=2", "--set", "batching.arrivals=fixed", "--set",
           "batching.requests_per_s=100", "--generate", "5", "--json");
    assert_int_equal(run.code, 0);
    cJSON *said = cJSON_Parse(run.out);
    const cJSON *run_said = cJSON_GetObjectItemCaseSensitive(said, "serving");
    named("judged.db", served);
    assert_int_equal(rename(out, served), 0);
    RUN("info", served, "--json");
    assert_int_equal(run.code, 0);
    cJSON *told = cJSON_Parse(run.out);
    const cJSON *trace_told = cJSON_GetObjectItemCaseSensitive(told, "serving");
    static const char *const EQUAL[] = {"requests", "steps", "tokens", "output_tokens"};
    static const char *const NEAR[] = {"ttft_ns", "tbt_ns", "latency_ns"};
    for (int i = 0; i < 4; i++)
        assert_true(number_at(run_said, EQUAL[i]) == number_at(trace_told, EQUAL[i]));
    for (int i = 0; i < 3; i++) {
        double from_run = number_in(run_said, NEAR[i], "mean");
        double from_trace = number_in(trace_told, NEAR[i], "mean");
        assert_true(number_in(run_said, NEAR[i], "n") == number_in(trace_told, NEAR[i], "n"));
        assert_true(from_trace <= from_run + 1e5 && from_trace > 0.2 * from_run);
    }
    cJSON_Delete(told);
    cJSON_Delete(said);
}

enum { STEP_NS = 2000000, SERVICE_NS = 5 * STEP_NS };

/* One request at a time; each takes its prompt and 4 tokens more. */
static void a_queue_that_can_be_computed_by_hand_comes_out_exact(void **unused)
{
    (void)unused;
    char served[256];
    const char *hardware = named("exact.json", (char[256]){0});
    record_served("exact.db", served);
    make_hardware(served, STEP_NS, 0, hardware);
    RUN("simulate", "--trace", served, "--hardware", hardware, "--set", "batching.mode=continuous",
        "--set", "batching.sequences=1", "--set", "batching.arrivals=fixed", "--set",
        "batching.requests_per_s=125", "--json");
    assert_int_equal(run.code, 0);
    cJSON *json = cJSON_Parse(run.out);
    const cJSON *serving = cJSON_GetObjectItemCaseSensitive(json, "serving");
    assert_true(number_at(serving, "requests") == 4);
    assert_true(number_at(serving, "output_tokens") == 20);
    assert_true(number_at(serving, "steps") == 20);
    assert_true(number_at(serving, "duration_ns") == 4 * SERVICE_NS);
    assert_true(number_in(serving, "ttft_ns", "median") == STEP_NS + 2000000);
    assert_true(number_in(serving, "ttft_ns", "max") == STEP_NS + 3 * 2000000);
    assert_true(number_in(serving, "tbt_ns", "p99") == STEP_NS);
    assert_true(number_at(serving, "output_tokens_per_s") == 1e9 / STEP_NS);
    assert_true(number_in(json, "time", "total_ns") == 20.0 * STEP_NS);
    assert_true(number_in(json, "time", "peak_bytes") > 1000000);
    cJSON_Delete(json);
}

static void time_is_said_before_hits_and_misses(void **unused)
{
    (void)unused;
    char served[256];
    const char *hardware = named("order.json", (char[256]){0});
    record_served("order.db", served);
    make_hardware(served, STEP_NS, 50000, hardware);
    RUN("simulate", "--trace", served, "--hardware", hardware, "--set", "batching.mode=continuous",
        "--set", "batching.sequences=2", "--set", "buffer.slots=3");
    assert_int_equal(run.code, 0);
    const char *first = strstr(run.out, "time to first token");
    const char *steps = strstr(run.out, "waited for misses");
    const char *misses = strstr(run.out, "miss ratio");
    assert_true(first != NULL && steps != NULL && misses != NULL);
    assert_true(first < steps && steps < misses);
    assert_non_null(strstr(run.out, "Continuous batching: at most 2 requests"));
}

static void write_file(const char *path, const char *text)
{
    assert_ok(file_write_all(path, text, strlen(text)));
}

/* Of 2, 5 (of 9) and 5 tokens; the second comes first. */
static void requests_of_a_file_come_and_end_as_their_lines_say(void **unused)
{
    (void)unused;
    const char *lines = named("lines.jsonl", (char[256]){0});
    write_file(lines, "{\"tokens\": [1, 2, 3], \"arrival_ms\": 40.5, \"output_tokens\": 2}\n"
                      "{\"tokens\": [9, 8], \"arrival_ms\": 10, \"output_tokens\": 9}\n"
                      "{\"tokens\": [5], \"arrival_ms\": 20.25}\n");
    RUN("record", "--model", model, "--tokens", lines, "--out", out, "--generate", "5",
        "--ignore-eos", "--set", "batching.mode=continuous", "--set", "batching.sequences=2",
        "--set", "batching.arrivals=trace", "--json");
    assert_int_equal(run.code, 0);
    cJSON *json = cJSON_Parse(run.out);
    const cJSON *serving = cJSON_GetObjectItemCaseSensitive(json, "serving");
    assert_true(number_at(serving, "requests") == 3);
    assert_true(number_at(serving, "output_tokens") == 2 + 5 + 5);
    assert_true(number_at(serving, "duration_ns") >= 30.5e6);
    cJSON_Delete(json);
    remove_out(NULL);
    RUN("record", "--model", model, "--tokens", lines, "--out", out, "--generate", "5",
        "--ignore-eos", "--batch", "3", "--json");
    assert_int_equal(run.code, 0);
    json = cJSON_Parse(run.out);
    assert_true(number_at(json, "generated") == 2 + 5 + 5);
    cJSON_Delete(json);
    remove_out(NULL);
    RUN("record", "--model", model, "--tokens", lines, "--out", out, "--generate", "5", "--beam",
        "2");
    assert_refused("output_tokens of a request do not go with --beam");
    write_file(lines, "{\"tokens\": [1], \"arrival_ms\": 4}\n{\"tokens\": [9]}\n");
    RUN("record", "--model", model, "--tokens", lines, "--out", out);
    assert_refused("line 2: arrival_ms: all requests have one, or none");
    write_file(lines, "{\"tokens\": [1], \"output_tokens\": 0}\n");
    RUN("record", "--model", model, "--tokens", lines, "--out", out);
    assert_refused("line 1: output_tokens: 0, allowed is 1 to 1048576");
}

/* The same requests with as many tokens each, whatever the model says now; all events agree. Those
 * that all come at 0 cannot come earlier or later. */
static void validate_lets_the_requests_of_a_trace_arrive_again(void **unused)
{
    (void)unused;
    static const char *const ARRIVALS[] = {"batching.arrivals=trace", "batching.arrivals=fixed"};
    static const char *const RATE[] = {"seed=1", "batching.requests_per_s=300"};
    char served[256];
    char forced[300];
    const char *hardware = named("again.json", (char[256]){0});
    record_served("again.db", served);
    make_hardware(served, STEP_NS, 50000, hardware);
    snprintf(forced, sizeof forced, "trace:%s", served);
    for (int i = 0; i < 2; i++) {
        RUN("validate", "--trace", served, "--model", model, "--routing", i > 0 ? forced : "gate",
            "--hardware", hardware, "--set", "batching.mode=continuous", "--set",
            "batching.sequences=2", "--set", ARRIVALS[i], "--set", RATE[i], "--set",
            "buffer.slots=3", "--runs", i > 0 ? "3" : "1", "--json");
        assert_int_equal(run.code, 0);
        cJSON *json = cJSON_Parse(run.out);
        assert_true(cJSON_IsTrue(cJSON_GetObjectItemCaseSensitive(json, "agreed")));
        assert_true(number_at(json, "tokens") == 8 + 2 + 5 + 1 + 4 * 4);
        const cJSON *sides = cJSON_GetObjectItemCaseSensitive(json, "served");
        static const char *const SIDES[] = {"predicted", "measured"};
        for (int side = 0; side < 2; side++) {
            const cJSON *of = cJSON_GetObjectItemCaseSensitive(sides, SIDES[side]);
            assert_true(number_at(of, "device_bytes") > 0);
            assert_true(number_at(of, "between_ns") >= (side == 1));
            of = cJSON_GetObjectItemCaseSensitive(of, "serving");
            assert_true(number_at(of, "requests") == 4);
            assert_true(number_at(of, "output_tokens") == 20);
            assert_true(number_in(of, "tbt_ns", "n") == 16);
        }
        const cJSON *runs = cJSON_GetObjectItemCaseSensitive(sides, "runs");
        assert_int_equal(cJSON_GetArraySize(runs), i > 0 ? 3 : 1);
        const cJSON *noise = cJSON_GetObjectItemCaseSensitive(sides, "noise");
        if (i > 0)
            assert_true(number_in(noise, "ttft_ns", "p90") > 0);
        else
            assert_true(cJSON_IsNull(noise)); /* one run does not tell */
        noise = cJSON_GetObjectItemCaseSensitive(sides, "predicted_varies");
        assert_true((number_at(noise, "duration_ns") > 0) == (i > 0));
        double steps_that_ran = 0;
        const cJSON *one;
        cJSON_ArrayForEach(one, runs)
        {
            steps_that_ran += number_in(one, "serving", "steps");
            assert_true(number_in(one, "serving", "output_tokens") == 20);
        }
        const cJSON *plan = cJSON_GetArrayItem(cJSON_GetObjectItemCaseSensitive(json, "plans"), 0);
        const cJSON *time = cJSON_GetObjectItemCaseSensitive(plan != NULL ? plan : json, "time");
        const cJSON *steps = cJSON_GetObjectItemCaseSensitive(time, "steps");
        assert_true(number_in(steps, "all", "predicted_ns") > 0);
        assert_true(number_in(steps, "all", "measured_ns") > 0);
        assert_true(number_in(steps, "all", "n") == steps_that_ran);
        cJSON_Delete(json);
    }
}

static void validate_takes_plans_that_arrive_or_plans_that_do_not(void **unused)
{
    (void)unused;
    char served[256];
    const char *plain = named("plain.json", (char[256]){0});
    const char *continuous = named("continuous.json", (char[256]){0});
    const char *slower = named("slower.json", (char[256]){0});
    const char *wider = named("wider.json", (char[256]){0});
    record_served("mixed.db", served);
    write_file(plain, "{\"moebius_plan\": 1}");
    write_file(continuous, "{\"moebius_plan\": 1, \"batching\": {\"mode\": \"continuous\","
                           " \"sequences\": 2}}");
    RUN("validate", "--trace", served, "--model", model, "--plan", plain, "--plan", continuous);
    assert_refused("batching.mode: all plans are \"continuous\", or none");
    write_file(slower, "{\"moebius_plan\": 1, \"batching\": {\"mode\": \"continuous\","
                       " \"sequences\": 2, \"arrivals\": \"fixed\", \"requests_per_s\": 100}}");
    write_file(wider, "{\"moebius_plan\": 1, \"batching\": {\"mode\": \"continuous\","
                      " \"sequences\": 4, \"arrivals\": \"fixed\", \"requests_per_s\": 100}}");
    RUN("validate", "--trace", served, "--model", model, "--plan", continuous, "--plan", slower,
        "--plan", wider, "--json");
    assert_int_equal(run.code, 0);
    cJSON *json = cJSON_Parse(run.out);
    const cJSON *plans = cJSON_GetObjectItemCaseSensitive(json, "plans");
    double duration_ns[3];
    assert_int_equal(cJSON_GetArraySize(plans), 3);
    for (int i = 0; i < 3; i++) {
        const cJSON *sides =
            cJSON_GetObjectItemCaseSensitive(cJSON_GetArrayItem(plans, i), "served");
        const cJSON *measured = cJSON_GetObjectItemCaseSensitive(sides, "measured");
        duration_ns[i] = number_in(measured, "serving", "duration_ns");
        assert_true(number_in(measured, "serving", "requests") == 4);
    }
    /* The last of four comes 30 ms after the first. */
    assert_true(duration_ns[1] >= 30e6 && duration_ns[2] >= 30e6);
    cJSON_Delete(json);
}

/* What a sweep stores of a plan is what simulate says of it. */
static void assert_swept_as_simulated(const char *served, const char *hardware, const char *study,
                                      const char *mode, const char *sequences)
{
    const char *db = named("swept.db", (char[256]){0});
    const char *plan = named("best.json", (char[256]){0});
    unlink(db);
    RUN("sweep", "--trace", served, "--study", study, "--hardware", hardware, "--out", db,
        "--json");
    assert_int_equal(run.code, 0);
    cJSON *swept = cJSON_Parse(run.out);
    const cJSON *point = cJSON_GetArrayItem(cJSON_GetObjectItemCaseSensitive(swept, "pareto"), 0);
    RUN("plan", "--from", db, "--best", "memory", "--tokens-per-second-at-least", "1", "--out",
        plan, "--json");
    assert_int_equal(run.code, 0);
    cJSON *picked = cJSON_Parse(run.out);
    assert_true(number_at(picked, "plan_id") == number_at(point, "plan_id"));
    RUN("simulate", "--trace", served, "--hardware", hardware, "--plan", plan, "--json");
    assert_int_equal(run.code, 0);
    cJSON *simulated = cJSON_Parse(run.out);
    const cJSON *as = cJSON_GetObjectItemCaseSensitive(
        cJSON_GetObjectItemCaseSensitive(simulated, "plan"), "batching");
    assert_string_equal(cJSON_GetObjectItemCaseSensitive(as, "mode")->valuestring, mode);
    assert_true((sequences == NULL) ==
                (cJSON_GetObjectItemCaseSensitive(simulated, "serving") == NULL));
    static const char *const KEYS[] = {"exposed_load_ns", "peak_bytes"};
    for (int i = 0; i < 2; i++) {
        double value = number_in(simulated, "time", KEYS[i]);
        assert_true(value > 0);
        assert_true(number_at(point, KEYS[i]) == value);
        assert_true(number_in(picked, "time", KEYS[i]) == value);
    }
    double total_ns = sequences != NULL ? number_in(simulated, "serving", "duration_ns")
                                        : number_in(simulated, "time", "total_ns");
    assert_true(number_in(picked, "time", "total_ns") == total_ns);
    cJSON_Delete(simulated);
    cJSON_Delete(picked);
    cJSON_Delete(swept);
}

static void a_sweep_stores_the_time_that_simulate_says(void **unused)
{
    (void)unused;
    char served[256];
    const char *hardware = named("swept.json", (char[256]){0});
    const char *study = named("study.json", (char[256]){0});
    record_served("to-sweep.db", served);
    make_hardware(served, STEP_NS, 50000, hardware);
    write_file(study, "{\"moebius_study\": 1, \"grid\": {\"buffer.slots\": [2, 4, 6],"
                      " \"buffer.evict\": [\"lru\", \"fifo\"]}}");
    assert_swept_as_simulated(served, hardware, study, "as-recorded", NULL);
    write_file(study, "{\"moebius_study\": 1, \"base\": {\"batching\": {\"mode\": \"continuous\","
                      " \"sequences\": 2, \"arrivals\": \"poisson\", \"requests_per_s\": 100}},"
                      " \"grid\": {\"buffer.slots\": [2, 4, 6], \"batching.max_tokens\": [4, 9]}}");
    assert_swept_as_simulated(served, hardware, study, "continuous", "2");
}

static void sweeps_say_what_times_they_cannot_have(void **unused)
{
    (void)unused;
    char served[256];
    const char *hardware = named("cannot.json", (char[256]){0});
    const char *study = named("cannot-study.json", (char[256]){0});
    record_served("cannot.db", served);
    make_hardware(served, STEP_NS, 50000, hardware);
    write_file(study, "{\"moebius_study\": 1, \"base\": {\"batching\": {\"mode\": \"continuous\","
                      " \"sequences\": 2}}, \"grid\": {\"buffer.slots\": [2, 4]}}");
    RUN("sweep", "--trace", served, "--study", study, "--out", out);
    assert_refused("it needs --hardware");
    RUN("sweep", "--trace", served, "--study", study, "--out", out, "--hardware", hardware,
        "--test", "0.5:1");
    assert_refused("of which no part can be chosen");
    RUN("sweep", "--trace", served, "--study", study, "--out", out, "--model", "other");
    assert_refused("--model needs --hardware");
    RUN("sweep", "--trace", served, "--study", study, "--out", out, "--hardware", hardware,
        "--model", "other");
    assert_refused("other");
    write_file(study, "{\"moebius_study\": 1, \"base\": {\"batching\": {\"mode\": \"continuous\","
                      " \"sequences\": 2}}, \"grid\": {\"buffer.evict\": [\"belady\"],"
                      " \"buffer.slots\": [2, 4]}}");
    RUN("sweep", "--trace", served, "--study", study, "--out", out, "--hardware", hardware);
    assert_refused("buffer.evict: \"belady\" knows the future");
    RUN("simulate", "--trace", served, "--hardware", hardware, "--set", "batching.mode=continuous",
        "--set", "batching.sequences=2", "--test", "0:0.5");
    assert_refused("--train and --test do not go with batching.mode \"continuous\"");
}

static void steps_of_a_trace_do_not_arrive(void **unused)
{
    (void)unused;
    char served[256];
    record_served("served.db", served);
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
        cmocka_unit_test_setup(goals_are_of_requests_that_arrive, remove_out),
        cmocka_unit_test_setup(requests_of_a_file_come_and_end_as_their_lines_say, remove_out),
        cmocka_unit_test_setup(record_prints_a_table_of_them, remove_out),
        cmocka_unit_test_setup(a_recorded_run_can_be_judged_from_its_trace, remove_out),
        cmocka_unit_test_setup(what_cannot_be_served_is_refused, remove_out),
        cmocka_unit_test_setup(steps_of_a_trace_do_not_arrive, remove_out),
        cmocka_unit_test_setup(a_queue_that_can_be_computed_by_hand_comes_out_exact, remove_out),
        cmocka_unit_test_setup(time_is_said_before_hits_and_misses, remove_out),
        cmocka_unit_test_setup(a_sweep_stores_the_time_that_simulate_says, remove_out),
        cmocka_unit_test_setup(sweeps_say_what_times_they_cannot_have, remove_out),
        cmocka_unit_test_setup(validate_lets_the_requests_of_a_trace_arrive_again, remove_out),
        cmocka_unit_test_setup(validate_takes_plans_that_arrive_or_plans_that_do_not, remove_out),
    };
    return cmocka_run_group_tests(tests, make_files, NULL);
}
