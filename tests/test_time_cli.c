/* Time on the command line: calibrate, then simulate and validate with the profile, on the shipped
 * model and the CPU. Errors are not judged here, as the machine may be busy; structure is, and that
 * a profile that is wrong is seen through. */
#include "tests/cli_run.h"

#include <math.h>

#include "base/files.h"
#include "base/json.h"
#include "base/memory.h"
#include "policies/hardware.h"

#define MODEL "models/tiny-32x4"
static CliRun run;
static char profile[512];
static char trace[512];

static void keep(char path[512], const char *name)
{
    snprintf(path, 512, "%s", scratch_path(name));
}

static cJSON *parse_out(void)
{
    cJSON *json;
    if (run.code != 0)
        fail_msg("exit %d: %s", run.code, run.err);
    assert_ok(json_parse(run.out, strlen(run.out), "stdout", &json));
    return json;
}

static const cJSON *at(const cJSON *json, const char *key)
{
    const cJSON *item = cJSON_GetObjectItemCaseSensitive(json, key);
    if (item == NULL)
        fail_msg("no key %s", key);
    return item;
}

static double number(const cJSON *json, const char *key)
{
    assert_true(cJSON_IsNumber(at(json, key)));
    return at(json, key)->valuedouble;
}

static int make_inputs(void **unused)
{
    (void)unused;
    keep(profile, "hardware.json");
    keep(trace, "time.db");
    /* Of the shipped model, which is the default. */
    RUN("calibrate", "--quick", "--threads", "1", "--out", profile);
    assert_int_equal(run.code, 0);
    RUN("record", "--model", MODEL, "--tokens", MODEL "/eval_tokens.safetensors", "--prompt-length",
        "24", "--requests", "1", "--batch", "2", "--generate", "5", "--ignore-eos", "--out", trace);
    assert_int_equal(run.code, 0);
    return 0;
}

/* Steps follow one another, and what is said of all of them is their sum. */
static void assert_steps_make(const cJSON *time)
{
    static const char *const SUMS[] = {"tokens", "total_ns", "exposed_load_ns", "bytes_loaded"};
    double sums[4] = {0};
    double end_ns = 0;
    const cJSON *step;
    cJSON_ArrayForEach(step, at(time, "per_step"))
    {
        assert_true(number(step, "start_ns") >= end_ns);
        end_ns = number(step, "start_ns") + number(step, "total_ns");
        for (int i = 0; i < 4; i++)
            sums[i] += number(step, SUMS[i]);
    }
    assert_true(cJSON_GetArraySize(at(time, "per_step")) == number(time, "steps"));
    for (int i = 0; i < 4; i++)
        assert_true(sums[i] == number(time, SUMS[i]));
}

static void simulated_time_is_the_sum_of_its_parts(void **unused)
{
    (void)unused;
    RUN("simulate", "--trace", trace, "--hardware", profile, "--json");
    cJSON *json = parse_out();
    const cJSON *time = at(json, "time");
    double phases = 0;
    double ops = 0;
    double layers = 0;
    const cJSON *item;
    cJSON_ArrayForEach(item, at(time, "phases")) phases += number(item, "total_ns");
    cJSON_ArrayForEach(item, at(time, "ops_ns")) ops += item->valuedouble;
    cJSON_ArrayForEach(item, at(time, "layers_ns")) layers += item->valuedouble;
    double total = number(time, "total_ns");
    assert_true(total > 0);
    assert_true(phases == total);
    assert_true(layers == ops);
    assert_true(fabs(ops + number(time, "rest_ns") - total) <= 0.2 * total);
    assert_true(fabs(number(time, "tokens_per_s") - 1e9 * number(time, "tokens") / total) < 1);
    assert_true(number(time, "exposed_load_ns") == 0);
    assert_true(number(time, "peak_bytes") >= number(time, "peak_in_use_bytes"));
    assert_true(number(time, "peak_in_use_bytes") > 0);
    assert_int_equal(cJSON_GetArraySize(at(at(time, "costs"), "ops_missing")), 0);
    assert_steps_make(time);
    cJSON_Delete(json);
}

static double total_with(const char *slots, double *exposed)
{
    RUN("simulate", "--trace", trace, "--hardware", profile, "--json", "--set", slots, "--set",
        "buffer.evict=lru", "--set", "link.h2d_gb_per_s=0.05");
    cJSON *json = parse_out();
    const cJSON *time = at(json, "time");
    double total = number(time, "total_ns");
    *exposed = number(time, "exposed_load_ns");
    assert_true(number(time, "bytes_loaded") == number(json, "bytes_loaded"));
    assert_steps_make(time);
    cJSON_Delete(json);
    return total;
}

static void fewer_slots_take_longer_and_wait_for_loads(void **unused)
{
    (void)unused;
    double few_exposed;
    double many_exposed;
    double few = total_with("buffer.slots=4", &few_exposed);
    double many = total_with("buffer.slots=24", &many_exposed);
    assert_true(few > many);
    assert_true(few_exposed > many_exposed);
    assert_true(few_exposed <= few);
}

/* Every slice of a time line has its place, and one process those of both tracks. */
static void count_slices(const char *path, int processes, int steps)
{
    char *text;
    size_t bytes;
    cJSON *json;
    const cJSON *item;
    int n_steps = 0;
    int n_ops = 0;
    int pids = 0;
    int counters = 0;
    assert_ok(file_read_all(path, 1 << 26, &text, &bytes));
    assert_ok(json_parse(text, bytes, path, &json));
    cJSON_ArrayForEach(item, at(json, "traceEvents"))
    {
        if (strcmp(at(item, "ph")->valuestring, "C") == 0) {
            assert_true(number(at(item, "args"), "slots") > 0);
            counters++;
        }
        if (strcmp(at(item, "ph")->valuestring, "X") != 0)
            continue;
        assert_true(number(item, "ts") >= 0);
        assert_true(number(item, "dur") >= 0);
        pids |= (int)number(item, "pid");
        n_steps += number(item, "tid") == 1;
        n_ops += strcmp(at(item, "name")->valuestring, "experts") == 0;
    }
    assert_int_equal(pids, processes);
    assert_int_equal(n_steps, steps);
    assert_int_equal(counters, processes == 2 ? steps : steps / 2);
    assert_int_equal(n_ops, steps * 6);
    cJSON_Delete(json);
    mem_free(text);
}

static void time_lines_have_every_step_and_operation(void **unused)
{
    (void)unused;
    char path[512];
    keep(path, "line.json");
    RUN("simulate", "--trace", trace, "--hardware", profile, "--json", "--timeline", path);
    cJSON *json = parse_out();
    cJSON_Delete(json);
    RUN("info", trace, "--json");
    json = parse_out();
    int steps = (int)number(json, "steps");
    cJSON_Delete(json);
    count_slices(path, 2, steps);
    RUN("validate", "--trace", trace, "--threads", "1", "--hardware", profile, "--runs", "1",
        "--timeline", path, "--json");
    json = parse_out();
    cJSON_Delete(json);
    count_slices(path, 3, 2 * steps);
}

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
    assert_true(number(stats, "n") > 0);
    assert_true(number(stats, "predicted_ns") > 0);
    assert_true(number(stats, "measured_ns") > 0);
    assert_true(number(stats, "median") <= number(stats, "p95"));
    assert_true(number(stats, "p95") <= number(stats, "worst"));
    assert_true(fabs(number(stats, "bias")) <= number(stats, "mean") + 1e-12);
    assert_true(number(stats, "noise") >= 0);
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
    assert_true(number(at(at(time, "end_to_end"), "decode"), "measured_ns") > 0);
    assert_true(number(at(time, "memory"), "measured_bytes") > 0);
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
    double predicted = number(at(at(time, "end_to_end"), "all"), "predicted_ns");
    assert_int_equal(count_named(line, "head"), 2 * (int)number(at(at(time, "steps"), "all"), "n"));
    const cJSON *host = cJSON_GetObjectItemCaseSensitive(time, "host");
    *profile_ns = host != NULL ? number(host, "profile_ns") : 0;
    if (host != NULL) {
        assert_int_equal(cJSON_GetArraySize(host), 3);
        assert_true(number(host, "slow") > 0);
        assert_true(number(host, "samples") == 8);
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

/* Budgets are learnt by replays, which divide misses by what was measured. */
static void a_sweep_learns_with_the_costs_that_were_measured(void **unused)
{
    (void)unused;
    static const char STUDY[] =
        "{\"moebius_study\": 1, \"base\": {\"buffer\": {\"slots\": 6, \"budget\": \"optimal\"}, "
        "\"compute\": {\"mode\": \"split\"}}, \"grid\": {\"buffer.evict\": [\"lru\", \"lfu\"]}}";
    char study[512];
    char out[512];
    keep(study, "split.json");
    keep(out, "split.db");
    assert_ok(file_write_all(study, STUDY, strlen(STUDY)));
    RUN("sweep", "--trace", trace, "--study", study, "--hardware", profile, "--out", out, "--json");
    cJSON *json = parse_out();
    assert_true(number(json, "done") == 2);
    cJSON_Delete(json);
}

/* The profile with costs of attention that are FACTOR times what they were, and MORE. */
static void keep_wrong_profile(char path[512], double factor, double more)
{
    Hardware hardware;
    keep(path, "wrong.json");
    assert_ok(hardware_load(profile, &hardware));
    for (uint32_t t = 0; t < hardware.n_tables; t++)
        for (uint32_t i = 0; strcmp(hardware.tables[t].name, "gpu/attention") == 0 &&
                             i < hardware.tables[t].n_points;
             i++)
            hardware.tables[t].value[i] = factor * hardware.tables[t].value[i] + more;
    assert_ok(hardware_save(&hardware, path));
    hardware_free(&hardware);
}

/* Where a profile says that attention takes years it is held at eleven days: times do not run over.
 */
static void absurd_costs_stay_times(void **unused)
{
    (void)unused;
    char wrong[512];
    keep_wrong_profile(wrong, 0, 9e17);
    RUN("simulate", "--trace", trace, "--hardware", wrong, "--json");
    cJSON *json = parse_out();
    double ns = number(at(at(json, "time"), "ops_ns"), "attention");
    double steps = number(at(json, "time"), "steps");
    double layers = cJSON_GetArraySize(at(json, "per_layer"));
    assert_true(ns == steps * layers * 1e15);
    cJSON_Delete(json);
}

/* Attention is said to take a hundred times as long. */
static void an_operation_with_wrong_costs_is_blamed(void **unused)
{
    (void)unused;
    char wrong[512];
    keep_wrong_profile(wrong, 100, 0);
    RUN("validate", "--trace", trace, "--threads", "1", "--hardware", wrong, "--runs", "1",
        "--json");
    cJSON *json = parse_out();
    const cJSON *blamed = at(at(json, "time"), "blamed");
    assert_string_equal(at(blamed, "op")->valuestring, "attention");
    assert_true(number(blamed, "error_ns") > 0);
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
    assert_true(number(at(json, "ranking"), "kendall_tau") == 1);
    assert_true(number(at(json, "ranking"), "regret") == 0);
    cJSON_Delete(json);
    RUN("validate", "--trace", trace, "--threads", "1", "--hardware", profile, "--runs", "1",
        "--plan", paths[0], "--plan", paths[1]);
    assert_int_equal(run.code, 0);
    assert_non_null(strstr(run.out, "Kendall's tau"));
    assert_non_null(strstr(run.out, "To blame most"));
}

static void refuses(const char *what, const char *const *arguments)
{
    cli_run(arguments, &run);
    assert_int_equal(run.code, 2);
    assert_true(cli_said_one_line(&run));
    if (strstr(run.err, what) == NULL)
        fail_msg("\"%s\" is not in: %s", what, run.err);
}

static void swap_first_and_last_experts(HardwareModel *model)
{
    HardwareOp *first = NULL;
    HardwareOp *last = NULL;
    for (uint32_t i = 0; i < model->n_ops[STACK_DECODER]; i++) {
        HardwareOp *op = &model->ops[STACK_DECODER][i];
        first = op->op == OP_EXPERTS && first == NULL ? op : first;
        last = op->op == OP_EXPERTS ? op : last;
    }
    assert_true(first != NULL && first != last);
    HardwareOp other = *first;
    *first = *last;
    *last = other;
}

static uint32_t find_table(const Hardware *hardware, const char *name)
{
    const CostTable *table = hardware_table(hardware, name, "");
    assert_non_null(table);
    return (uint32_t)(table - hardware->tables);
}

/* Every expert computes its capacity, whatever it is given: masks cost more than slots that are
 * filled, and more capacity takes longer. */
static double total_of_static(const char *dispatch, const char *factor)
{
    char mode[64];
    char capacity[64];
    snprintf(mode, sizeof mode, "gating.dispatch=%s", dispatch);
    snprintf(capacity, sizeof capacity, "gating.capacity_factor=%s", factor);
    RUN("simulate", "--trace", trace, "--hardware", profile, "--set", "gating.mode=static", "--set",
        mode, "--set", capacity, "--json");
    assert_int_equal(run.code, 0);
    cJSON *json = parse_out();
    const cJSON *time = at(json, "time");
    assert_true(number(at(time, "ops_ns"), "experts") > 0);
    assert_null(cJSON_GetObjectItem(at(time, "ops_ns"), "combine"));
    double total = number(time, "total_ns");
    cJSON_Delete(json);
    return total;
}

static void static_gating_takes_as_long_as_its_capacity(void **unused)
{
    (void)unused;
    assert_true(total_of_static("padded", "1") > total_of_static("padded", "0.1"));
    assert_true(total_of_static("mask", "1") > total_of_static("mask", "0.1"));
}

/* The simulated time of the experts of the trace, and how many lookups missed, with SLOTS slots a
 * layer. */
static double experts_with_slots(const char *mode, const char *dispatch, const char *factor,
                                 const char *slots, double *misses)
{
    char sets[4][64];
    snprintf(sets[0], sizeof sets[0], "gating.mode=%s", mode);
    snprintf(sets[1], sizeof sets[1], "gating.dispatch=%s", dispatch);
    snprintf(sets[2], sizeof sets[2], "gating.capacity_factor=%s", factor);
    snprintf(sets[3], sizeof sets[3], "buffer.slots=%s", slots);
    if (strcmp(mode, "static") == 0)
        RUN("simulate", "--trace", trace, "--hardware", profile, "--set", sets[0], "--set", sets[1],
            "--set", sets[2], "--set", sets[3], "--json");
    else
        RUN("simulate", "--trace", trace, "--hardware", profile, "--set", sets[3], "--json");
    assert_int_equal(run.code, 0);
    cJSON *json = parse_out();
    const cJSON *time = at(json, "time");
    assert_true(number(at(time, "ops_ns"), "combine") > 0); /* an operation of its own */
    double ns = number(at(time, "ops_ns"), "experts");
    *misses = number(json, "misses");
    cJSON_Delete(json);
    return ns;
}

/* With a buffer the experts of an event run, each on the rows that it keeps: what is over the
 * capacity costs nothing, how all of them would be computed plays no part, and where nothing is
 * dropped the time is that of dynamic gating. */
static void static_gating_with_a_buffer_only_limits_the_rows(void **unused)
{
    (void)unused;
    static const char *const SLOTS[] = {"2", "8"};
    for (size_t i = 0; i < 2; i++) {
        double dynamic_misses;
        double misses;
        double dynamic = experts_with_slots("dynamic", "", "", SLOTS[i], &dynamic_misses);
        double all = experts_with_slots("static", "padded", "1", SLOTS[i], &misses);
        assert_true(all == dynamic);
        assert_true(misses == dynamic_misses);
        double few = experts_with_slots("static", "padded", "0.05", SLOTS[i], &misses);
        assert_true(few < all);
        assert_true(misses == dynamic_misses);
        assert_true(experts_with_slots("static", "mask", "0.05", SLOTS[i], &misses) == few);
    }
}

static void static_gating_with_a_buffer_is_compared_with_the_run(void **unused)
{
    (void)unused;
    RUN("validate", "--trace", trace, "--hardware", profile, "--set", "gating.mode=static", "--set",
        "gating.capacity_factor=0.5", "--set", "buffer.slots=3", "--runs", "2", "--threads", "1",
        "--json");
    if (run.code != 0)
        fail_msg("exit %d: %s", run.code, run.err);
    cJSON *json = parse_out();
    assert_true(cJSON_IsTrue(at(json, "agreed")));
    assert_true(number(at(json, "measured"), "misses") > 0);
    cJSON_Delete(json);
}

static void profiles_that_do_not_fit_are_refused(void **unused)
{
    (void)unused;
    Hardware hardware;
    char other[512];
    keep(other, "other.json");
    refuses("need --hardware",
            (const char *const[]){"simulate", "--trace", trace, "--timeline", "x.json", NULL});
    refuses("/no/such/hw.json: cannot create", /* before the model is opened, and measured */
            (const char *const[]){"calibrate", "--model", "models/other", "--out",
                                  "/no/such/hw.json", NULL});
    refuses("need --hardware",
            (const char *const[]){"validate", "--trace", trace, "--runs", "3", NULL});
    refuses("does not know the model",
            (const char *const[]){"simulate", "--trace", trace, "--hardware", profile, "--model",
                                  "models/other", NULL});
    assert_ok(hardware_load(profile, &hardware));
    snprintf(hardware.tables[find_table(&hardware, "copy/h2d")].name, sizeof hardware.tables->name,
             "copy/other");
    assert_ok(hardware_save(&hardware, other));
    refuses("it has no table \"copy/h2d\", which times of this plan need",
            (const char *const[]){"simulate", "--trace", trace, "--hardware", other, "--set",
                                  "buffer.slots=8", NULL});
    snprintf(hardware.tables[find_table(&hardware, "copy/other")].name,
             sizeof hardware.tables->name, "copy/h2d");
    HardwareModel *model = &hardware.models[0];
    uint32_t experts = model->slots[0].experts;
    model->slots[0].experts = experts / 2;
    assert_ok(hardware_save(&hardware, other));
    refuses("experts, the trace has",
            (const char *const[]){"simulate", "--trace", trace, "--hardware", other, NULL});
    model->slots[0].experts = experts;
    swap_first_and_last_experts(model);
    assert_ok(hardware_save(&hardware, other));
    refuses("other.json: hardware profile: model models/tiny-32x4: layer 1 has no experts there, "
            "or not in the order of the trace",
            (const char *const[]){"simulate", "--trace", trace, "--hardware", other, "--set",
                                  "buffer.slots=8", NULL});
    swap_first_and_last_experts(model);
    snprintf(model->compute, sizeof model->compute, "bf16");
    assert_ok(hardware_save(&hardware, other));
    refuses("in bf16, the plans run in f32",
            (const char *const[]){"validate", "--trace", trace, "--hardware", other, NULL});
    snprintf(hardware.backend, sizeof hardware.backend, "cuda");
    assert_ok(hardware_save(&hardware, other));
    hardware_free(&hardware);
    refuses("it is of device cuda",
            (const char *const[]){"validate", "--trace", trace, "--hardware", other, NULL});
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(simulated_time_is_the_sum_of_its_parts),
        cmocka_unit_test(fewer_slots_take_longer_and_wait_for_loads),
        cmocka_unit_test(time_lines_have_every_step_and_operation),
        cmocka_unit_test(validate_tells_errors_of_times_by_operation_layer_and_step),
        cmocka_unit_test(validate_tells_how_fast_the_host_is_that_computes_experts),
        cmocka_unit_test(a_sweep_learns_with_the_costs_that_were_measured),
        cmocka_unit_test(absurd_costs_stay_times),
        cmocka_unit_test(an_operation_with_wrong_costs_is_blamed),
        cmocka_unit_test(a_profile_of_another_device_is_refused_and_of_another_driver_told),
        cmocka_unit_test(several_plans_are_ranked),
        cmocka_unit_test(static_gating_takes_as_long_as_its_capacity),
        cmocka_unit_test(static_gating_with_a_buffer_only_limits_the_rows),
        cmocka_unit_test(static_gating_with_a_buffer_is_compared_with_the_run),
        cmocka_unit_test(profiles_that_do_not_fit_are_refused),
    };
    memory_install();
    return cmocka_run_group_tests(tests, make_inputs, NULL);
}
