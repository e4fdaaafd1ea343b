/* moebius validate with a profile: how far simulated times are from those of runs. */
#include "tests/cli_run.h"

#include <math.h>

#include "base/files.h"
#include "base/json.h"
#include "base/memory.h"
#include "cli/validate.h"
#include "policies/hardware.h"
#include "tests/disturbed_machine.h"
#include "tests/json_at.h"
#include "tests/time_maker.h"

/* Operations called NAME. */
static int count_named(const char *path, const char *name)
{
    char *text;
    size_t bytes;
    cJSON *json;
    const cJSON *item;
    int n = 0;
    assert_ok(file_read_all(path, 1 << 26, &text, &bytes));
    assert_ok(json_parse(text, bytes, path, &json));
    cJSON_ArrayForEach(item, at(json, "traceEvents")) n +=
        strcmp(at(item, "name")->valuestring, name) == 0;
    cJSON_Delete(json);
    mem_free(text);
    return n;
}

static void check_stats(const cJSON *stats)
{
    assert_true(number_at(stats, "n") > 0);
    assert_true(number_at(stats, "predicted_ns") > 0);
    assert_true(number_at(stats, "measured_ns") > 0);
    assert_true(number_at(stats, "median") <= number_at(stats, "p95"));
    assert_true(number_at(stats, "p95") <= number_at(stats, "worst"));
    assert_true(fabs(number_at(stats, "bias")) <= number_at(stats, "mean") + 1e-12);
    assert_true(number_at(stats, "noise") >= 0);
}

static void validate_tells_errors_of_times_by_operation_layer_and_step(void **unused)
{
    (void)unused;
    RUN("validate", "--trace", trace, "--threads", "1", "--hardware", profile, "--runs", "2",
        "--set", "buffer.slots=8", "--set", "buffer.evict=lru", "--json");
    cJSON *json = parse_out();
    const cJSON *time = at(json, "time");
    check_stats(at(at(time, "steps"), "all"));
    check_stats(at(at(time, "steps"), "prefill"));
    check_stats(at(at(time, "ops"), "experts"));
    check_stats(at(at(time, "ops"), "loads"));
    check_stats(at(at(time, "layers"), "5"));
    assert_true(number_at(at(at(time, "end_to_end"), "decode"), "measured_ns") > 0);
    assert_true(number_at(at(time, "memory"), "measured_bytes") > 0);
    assert_true(cJSON_IsTrue(at(json, "agreed")));
    cJSON_Delete(json);
}

/* The profile of a machine whose cores took FACTOR times as long for the experts that nobody asked
 * for; all that it predicts from is the same. */
static void keep_slow_profile(char path[512], double factor)
{
    Hardware hardware;
    keep(path, "slow.json");
    assert_ok(hardware_load(profile, &hardware));
    for (uint32_t t = 0; t < hardware.n_tables; t++)
        if (strcmp(hardware.tables[t].name, "host/probe") == 0)
            hardware.tables[t].value[0] *= factor;
    assert_ok(hardware_save(&hardware, path));
    hardware_free(&hardware);
}

/* What the profile in PATH predicts of the trace under MODE, and in *PROFILE_NS what it has of the
 * host's speed; 0: that is not told. A timeline has predicted and measured steps once. */
static double validate_mode(const char *path, const char *mode, double *profile_ns)
{
    char line[512];
    keep(line, "host-time.json");
    RUN("validate", "--trace", trace, "--threads", "1", "--hardware", path, "--runs", "2", "--set",
        "buffer.slots=8", "--set", "buffer.evict=lru", "--set", mode, "--timeline", line, "--json");
    cJSON *json = parse_out();
    const cJSON *time = at(json, "time");
    double predicted = number_at(at(at(time, "end_to_end"), "all"), "predicted_ns");
    assert_int_equal(count_named(line, "head"),
                     2 * (int)number_at(at(at(time, "steps"), "all"), "n"));
    const cJSON *host = cJSON_GetObjectItemCaseSensitive(time, "host");
    *profile_ns = host != NULL ? number_at(host, "profile_ns") : 0;
    if (host != NULL) {
        assert_int_equal(cJSON_GetArraySize(host), 3);
        assert_true(number_at(host, "slow") > 0);
        assert_true(number_at(host, "samples") == 8);
    }
    cJSON_Delete(json);
    return predicted;
}

/* Beside experts on the host it is told how fast its cores were, and nothing is predicted from it.
 */
static void validate_tells_how_fast_the_host_is_that_computes_experts(void **unused)
{
    (void)unused;
    char slow[512];
    double profile_ns;
    double slow_ns;
    keep_slow_profile(slow, 10);
    validate_mode(profile, "compute.mode=gpu", &profile_ns);
    assert_true(profile_ns == 0);
    double predicted = validate_mode(profile, "compute.mode=host", &profile_ns);
    assert_true(predicted > 0 && profile_ns > 0);
    assert_true(validate_mode(slow, "compute.mode=host", &slow_ns) == predicted);
    assert_true(fabs(slow_ns - 10 * profile_ns) <= 10);
}

/* Two runs without stamps and two with, on a machine that is played. The thread goes to processor
 * 1: the loop is timed ten times before the first of two runs that do not count, and twice before
 * the others and after those that are measured, and once a step in these. */
static void validate_on(DisturbedMachine *all, const char *path, Validation *validation)
{
    static ValidatedPlan result;
    static Plan plan;
    static ValidateArguments arguments;
    static char name[] = MODEL;
    plan = plan_default();
    plan.buffer.on = true;
    plan.buffer.slots = 8;
    result = (ValidatedPlan){.name = "lru"};
    arguments = (ValidateArguments){
        .trace = trace, .device = {.name = "cpu", .threads = 1}, .hardware = path, .runs = 2};
    *validation = (Validation){
        .arguments = &arguments, .plans = &plan, .results = &result, .n_plans = 1, .model = name};
    disturbed_machine_begin(all, &validation->quiet);
    assert_ok(checkpoint_open_model(name, &validation->checkpoint));
    assert_ok(validation_run(validation));
    assert_true(result.report.agreed);
    assert_true(result.time.report.steps.n > 0);
    assert_true(result.time.report.kinds[OP_EXPERTS].n == result.time.report.steps.n);
}

static void close_validation(Validation *validation)
{
    executor_close(validation->executor);
    hardware_free(&validation->hardware);
    replay_result_free(&validation->results->predicted);
    validation_free_time(&validation->results->time);
    checkpoint_close(validation->checkpoint);
    scratch_close(&validation->folder);
}

static void runs_whose_processor_became_disturbed_are_run_again(void **unused)
{
    (void)unused;
    for (uint64_t first = 14; first <= 18; first += 4) {
        DisturbedMachine all = {.spells = {{.processor = 1, .first = first, .end = UINT64_MAX}}};
        Validation validation;
        validate_on(&all, profile, &validation);
        const QuietRuns *runs = &validation.results->time.quiet;
        assert_int_equal(runs->runs, 4);
        assert_int_equal(runs->again, 1);
        assert_int_equal(runs->disturbed, 0);
        assert_true(runs->loop_ns == 4.0 * LOOP_NS);
        close_validation(&validation);
    }
}

/* The profile of a machine that was faster, or slower, while it was made. */
static void the_host_is_compared_to_what_it_was_when_it_was_calibrated(void **unused)
{
    (void)unused;
    char path[512];
    for (int i = 0; i < 2; i++) {
        DisturbedMachine all = {0};
        Hardware hardware;
        Validation validation;
        const double mean_ns = LOOP_NS * (i == 0 ? 0.5 : 2.0);
        keep(path, "before.json");
        assert_ok(hardware_load(profile, &hardware));
        hardware.models[0].host =
            (HardwareHost){.best_ns = (uint64_t)mean_ns, .mean_ns = mean_ns, .rounds = 1};
        assert_ok(hardware_save(&hardware, path));
        hardware_free(&hardware);
        validate_on(&all, path, &validation);
        cJSON *json = cJSON_CreateObject();
        const QuietRuns *runs = &validation.results->time.quiet;
        assert_ok(validation_add_quiet(json, &validation, runs));
        const cJSON *processor = at(json, "processor");
        assert_true(number_at(processor, "slow") == (i == 0 ? 2 : 0.5));
        assert_true(number_at(processor, "runs") == 4);
        assert_true(number_at(processor, "again") == 0);
        assert_true(number_at(processor, "disturbed") == (i == 0 ? 4 : 0));
        assert_true((validation.quiet.waited_ns > 0) == (i == 0));
        cJSON_Delete(json);
        close_validation(&validation);
    }
}

/* Attention is said to take a second longer, which no machine is late by. */
static void an_operation_with_wrong_costs_is_blamed(void **unused)
{
    (void)unused;
    char wrong[512];
    keep_wrong_profile(wrong, 1, 1e9);
    RUN("validate", "--trace", trace, "--threads", "1", "--hardware", wrong, "--runs", "1",
        "--json");
    cJSON *json = parse_out();
    const cJSON *blamed = at(at(json, "time"), "blamed");
    assert_string_equal(at(blamed, "op")->valuestring, "attention");
    assert_true(number_at(blamed, "error_ns") > 0);
    cJSON_Delete(json);
}

static void a_profile_of_another_device_is_refused_and_of_another_driver_told(void **unused)
{
    (void)unused;
    char other[512];
    Hardware hardware;
    keep(other, "elsewhere.json");
    assert_ok(hardware_load(profile, &hardware));
    snprintf(hardware.driver, sizeof hardware.driver, "1.2.3");
    assert_ok(hardware_save(&hardware, other));
    RUN("validate", "--trace", trace, "--threads", "1", "--hardware", other, "--runs", "1",
        "--json");
    cJSON *json = parse_out();
    assert_true(cJSON_IsTrue(at(json, "driver_differs")));
    assert_string_equal(at(json, "profile_driver")->valuestring, "1.2.3");
    cJSON_Delete(json);
    snprintf(hardware.device, sizeof hardware.device, "cpu: Abacus 7, 1 thread");
    assert_ok(hardware_save(&hardware, other));
    hardware_free(&hardware);
    RUN("validate", "--trace", trace, "--threads", "1", "--hardware", other, "--runs", "1");
    assert_int_equal(run.code, 2);
    assert_non_null(strstr(run.err, "elsewhere.json: the profile is of \"Abacus 7\", the plans "));
}

static void several_plans_are_ranked(void **unused)
{
    (void)unused;
    static const char *const TEXTS[] = {
        "{\"moebius_plan\":1,\"name\":\"all\"}",
        "{\"moebius_plan\":1,\"name\":\"slow\",\"buffer\":{\"slots\":4,\"evict\":\"lru\"},"
        "\"link\":{\"h2d_gb_per_s\":0.02}}"};
    char paths[2][512];
    for (size_t i = 0; i < 2; i++) {
        keep(paths[i], i == 0 ? "all.json" : "slow.json");
        assert_ok(file_write_all(paths[i], TEXTS[i], strlen(TEXTS[i])));
    }
    RUN("validate", "--trace", trace, "--threads", "1", "--hardware", profile, "--runs", "1",
        "--plan", paths[0], "--plan", paths[1], "--json");
    cJSON *json = parse_out();
    assert_true(number_at(at(json, "ranking"), "kendall_tau") == 1);
    assert_true(number_at(at(json, "ranking"), "regret") == 0);
    cJSON_Delete(json);
    RUN("validate", "--trace", trace, "--threads", "1", "--hardware", profile, "--runs", "1",
        "--plan", paths[0], "--plan", paths[1]);
    assert_int_equal(run.code, 0);
    assert_non_null(strstr(run.out, "Kendall's tau"));
    assert_non_null(strstr(run.out, "To blame most"));
    assert_null(strstr(run.out, "times may differ"));
    RUN("validate", "--trace", trace, "--threads", "2", "--hardware", profile, "--runs", "1");
    assert_non_null(strstr(run.out, "made with 1 host thread, this is 2: times may differ"));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(validate_tells_errors_of_times_by_operation_layer_and_step),
        cmocka_unit_test(validate_tells_how_fast_the_host_is_that_computes_experts),
        cmocka_unit_test(runs_whose_processor_became_disturbed_are_run_again),
        cmocka_unit_test(the_host_is_compared_to_what_it_was_when_it_was_calibrated),
        cmocka_unit_test(an_operation_with_wrong_costs_is_blamed),
        cmocka_unit_test(a_profile_of_another_device_is_refused_and_of_another_driver_told),
        cmocka_unit_test(several_plans_are_ranked),
    };
    memory_install();
    return cmocka_run_group_tests(tests, make_inputs, NULL);
}
