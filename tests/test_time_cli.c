/* Time on the command line: calibrate, then simulate and validate with the profile, on the shipped
 * model and the CPU. Errors are not judged here, as the machine may be busy; structure is. */
#include "tests/cli_run.h"

#include <math.h>

#include "base/files.h"
#include "base/json.h"
#include "base/memory.h"
#include "policies/hardware.h"
#include "tests/json_at.h"
#include "tests/time_maker.h"

/* The profile with times that grow with their places and with nothing else, whatever the machine
 * did while it was measured: what takes longer by a rule takes longer by it. */
static char even[512];

static void even_out(CostTable *table)
{
    bool differs = strncmp(table->name, "uneven/", 7) == 0; /* from even routing */
    for (uint32_t i = 0; table->unit == UNIT_NS && i < table->n_points; i++) {
        table->value[i] = differs ? 0 : 100;
        for (uint32_t axis = 0; axis < table->n_axes && !differs; axis++)
            table->value[i] += table->at[(size_t)i * table->n_axes + axis];
    }
}

static int make_profiles(void **unused)
{
    Hardware hardware;
    int failed = make_inputs(unused);
    keep(even, "even.json");
    assert_ok(hardware_load(profile, &hardware));
    for (uint32_t t = 0; t < hardware.n_tables; t++)
        even_out(&hardware.tables[t]);
    assert_ok(hardware_save(&hardware, even));
    hardware_free(&hardware);
    return failed;
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
        assert_true(number_at(step, "start_ns") >= end_ns);
        end_ns = number_at(step, "start_ns") + number_at(step, "total_ns");
        for (int i = 0; i < 4; i++)
            sums[i] += number_at(step, SUMS[i]);
    }
    assert_true(cJSON_GetArraySize(at(time, "per_step")) == number_at(time, "steps"));
    for (int i = 0; i < 4; i++)
        assert_true(sums[i] == number_at(time, SUMS[i]));
}

static void simulated_time_is_the_sum_of_its_parts(void **unused)
{
    (void)unused;
    RUN("simulate", "--trace", trace, "--hardware", even, "--json");
    cJSON *json = parse_out();
    const cJSON *time = at(json, "time");
    double phases = 0;
    double ops = 0;
    double layers = 0;
    const cJSON *item;
    cJSON_ArrayForEach(item, at(time, "phases")) phases += number_at(item, "total_ns");
    cJSON_ArrayForEach(item, at(time, "ops_ns")) ops += item->valuedouble;
    cJSON_ArrayForEach(item, at(time, "layers_ns")) layers += item->valuedouble;
    double total = number_at(time, "total_ns");
    assert_true(total > 0);
    assert_true(phases == total);
    assert_true(layers == ops);
    assert_true(ops + number_at(time, "rest_ns") == total);
    assert_true(fabs(number_at(time, "tokens_per_s") - 1e9 * number_at(time, "tokens") / total) <
                1);
    assert_true(number_at(time, "exposed_load_ns") == 0);
    assert_true(number_at(time, "peak_bytes") >= number_at(time, "peak_in_use_bytes"));
    assert_true(number_at(time, "peak_in_use_bytes") > 0);
    assert_int_equal(cJSON_GetArraySize(at(at(time, "costs"), "ops_missing")), 0);
    assert_steps_make(time);
    cJSON_Delete(json);
}

static double total_with(const char *slots, double *exposed)
{
    RUN("simulate", "--trace", trace, "--hardware", even, "--json", "--set", slots, "--set",
        "buffer.evict=lru", "--set", "link.h2d_gb_per_s=0.05");
    cJSON *json = parse_out();
    const cJSON *time = at(json, "time");
    double total = number_at(time, "total_ns");
    *exposed = number_at(time, "exposed_load_ns");
    assert_true(number_at(time, "bytes_loaded") == number_at(json, "bytes_loaded"));
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
            assert_true(number_at(at(item, "args"), "slots") > 0);
            counters++;
        }
        if (strcmp(at(item, "ph")->valuestring, "X") != 0)
            continue;
        assert_true(number_at(item, "ts") >= 0);
        assert_true(number_at(item, "dur") >= 0);
        pids |= (int)number_at(item, "pid");
        n_steps += number_at(item, "tid") == 1;
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
    int steps = (int)number_at(json, "steps");
    cJSON_Delete(json);
    count_slices(path, 2, steps);
    RUN("validate", "--trace", trace, "--threads", "1", "--hardware", profile, "--runs", "1",
        "--timeline", path, "--json");
    json = parse_out();
    cJSON_Delete(json);
    count_slices(path, 3, 2 * steps);
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
    assert_true(number_at(json, "done") == 2);
    cJSON_Delete(json);
}

static double total_of(const char *const *arguments)
{
    cli_run(arguments, &run);
    cJSON *json = parse_out();
    const cJSON *best = cJSON_GetObjectItem(json, "pareto");
    double ns = number_at(best != NULL ? best->child : at(json, "time"), "total_ns");
    cJSON_Delete(json);
    return ns;
}

/* On a device that makes graphs: steps from which was learnt ran before. */
static void a_part_of_a_trace_takes_what_it_does_in_a_sweep(void **unused)
{
    (void)unused;
    static const char STUDY[] = "{\"moebius_study\": 1, \"base\": {}, \"grid\": "
                                "{\"placement.method\": [\"greedy\"]}}";
    char study[512];
    char device[512];
    char out[512];
    Hardware hardware;
    keep(study, "greedy.json");
    keep(device, "device.json");
    keep(out, "greedy.db");
    assert_ok(file_write_all(study, STUDY, strlen(STUDY)));
    assert_ok(hardware_load(profile, &hardware));
    snprintf(hardware.backend, sizeof hardware.backend, "cuda");
    for (uint32_t t = 0; t < hardware.n_tables; t++)
        if (strcmp(hardware.tables[t].name, "step/rest") == 0)
            hardware.tables[t].value[0] = strstr(hardware.tables[t].shape, "first") ? 7e6 : 1e6;
    assert_ok(hardware_save(&hardware, device));
    hardware_free(&hardware);
    double one = total_of((const char *const[]){"simulate", "--trace", trace, "--hardware", device,
                                                "--train", "0:0.5", "--set",
                                                "placement.method=greedy", "--json", NULL});
    double all =
        total_of((const char *const[]){"sweep", "--trace", trace, "--hardware", device, "--train",
                                       "0:0.5", "--study", study, "--out", out, "--json", NULL});
    assert_true(one == all);
}

/* Whether steps are told one by one changes no time: where all experts are in place, predictions
 * take theirs, too. */
static void predictions_take_time_where_nothing_is_missing(void **unused)
{
    (void)unused;
    char ahead[512];
    char line[512];
    keep(ahead, "ahead.db");
    keep(line, "ahead.json");
    RUN("record", "--model", MODEL, "--tokens", MODEL "/eval_tokens.safetensors", "--prompt-length",
        "24", "--requests", "1", "--batch", "2", "--generate", "5", "--ignore-eos", "--predictions",
        "1", "--out", ahead);
    assert_int_equal(run.code, 0);
#define AHEAD                                                                                      \
    "simulate", "--trace", ahead, "--hardware", even, "--train", "0:0.5", "--set",                 \
        "buffer.slots=32", "--set", "buffer.initial=hottest", "--set",                             \
        "prefetch.predictor=next-gate", "--json"
    double told = total_of((const char *const[]){AHEAD, "--timeline", line, NULL});
    assert_true(told == total_of((const char *const[]){AHEAD, NULL}));
#undef AHEAD
}

/* As simulate says it of one plan: of the tables that are renamed one is said to lack, and
 * attention is asked of beyond the one place that is left. */
static void a_sweep_says_what_its_profile_lacks(void **unused)
{
    (void)unused;
    static const char STUDY[] =
        "{\"moebius_study\": 1, \"base\": {}, \"grid\": {\"buffer.slots\": [6, 7]}}";
    char study[512];
    char lacking[512];
    Hardware hardware;
    keep(study, "two.json");
    keep(lacking, "lacking.json");
    assert_ok(file_write_all(study, STUDY, strlen(STUDY)));
    assert_ok(hardware_load(profile, &hardware));
    for (uint32_t t = 0; t < hardware.n_tables; t++) {
        CostTable *table = &hardware.tables[t];
        if (strcmp(table->name, "step/rest") == 0)
            table->name[0] = 'x';
        if (strcmp(table->name, "gpu/attention") == 0)
            table->n_points = 1;
    }
    assert_ok(hardware_save(&hardware, lacking));
    hardware_free(&hardware);
    RUN("sweep", "--trace", trace, "--study", study, "--hardware", lacking, "--out",
        scratch_path("one.db"), "--json");
    cJSON *json = parse_out();
    const cJSON *missing = at(at(json, "costs"), "tables_missing");
    const cJSON *beyond = at(at(json, "costs"), "ops_extrapolated");
    assert_int_equal(cJSON_GetArraySize(missing), 1);
    assert_string_equal(missing->child->valuestring, "step/rest");
    assert_string_equal(beyond->child->valuestring, "attention");
    cJSON_Delete(json);
    RUN("sweep", "--trace", trace, "--study", study, "--hardware", lacking, "--out",
        scratch_path("other.db"));
    assert_non_null(strstr(run.out, "MISSING in the profile, and counted as nothing: step/rest."));
    assert_non_null(strstr(run.out, "EXTRAPOLATED, at the utilisation of the nearest measured "
                                    "place: attention"));
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
    double ns = number_at(at(at(json, "time"), "ops_ns"), "attention");
    double steps = number_at(at(json, "time"), "steps");
    double layers = cJSON_GetArraySize(at(json, "per_layer"));
    assert_true(ns == steps * layers * 1e15);
    cJSON_Delete(json);
}

static void refuses(const char *what, const char *const *arguments)
{
    cli_run(arguments, &run);
    assert_run_refused(&run, 2, what);
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
    RUN("simulate", "--trace", trace, "--hardware", even, "--set", "gating.mode=static", "--set",
        mode, "--set", capacity, "--json");
    assert_int_equal(run.code, 0);
    cJSON *json = parse_out();
    const cJSON *time = at(json, "time");
    assert_true(number_at(at(time, "ops_ns"), "experts") > 0);
    assert_null(cJSON_GetObjectItem(at(time, "ops_ns"), "combine"));
    double total = number_at(time, "total_ns");
    cJSON_Delete(json);
    return total;
}

/* Nothing else counts who is needed, without a buffer and on one rank. */
static void a_placement_on_one_rank_is_learnt_as_on_several(void **unused)
{
    (void)unused;
    RUN("simulate", "--trace", trace, "--hardware", even, "--train", "0:0.5", "--set",
        "placement.method=greedy", "--json");
    cJSON *json = parse_out();
    assert_true(number_at(at(json, "time"), "total_ns") > 0);
    cJSON_Delete(json);
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
        RUN("simulate", "--trace", trace, "--hardware", even, "--set", sets[0], "--set", sets[1],
            "--set", sets[2], "--set", sets[3], "--json");
    else
        RUN("simulate", "--trace", trace, "--hardware", even, "--set", sets[3], "--json");
    assert_int_equal(run.code, 0);
    cJSON *json = parse_out();
    const cJSON *time = at(json, "time");
    assert_true(number_at(at(time, "ops_ns"), "combine") > 0); /* an operation of its own */
    double ns = number_at(at(time, "ops_ns"), "experts");
    *misses = number_at(json, "misses");
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
    assert_true(number_at(at(json, "measured"), "misses") > 0);
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
    refuses("\", but models/tiny-32x4: name one with --model, or calibrate it",
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
    refuses("other.json: models[0]: layer 0 stands behind layer 5",
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
        cmocka_unit_test(a_sweep_learns_with_the_costs_that_were_measured),
        cmocka_unit_test(a_sweep_says_what_its_profile_lacks),
        cmocka_unit_test(a_part_of_a_trace_takes_what_it_does_in_a_sweep),
        cmocka_unit_test(predictions_take_time_where_nothing_is_missing),
        cmocka_unit_test(absurd_costs_stay_times),
        cmocka_unit_test(a_placement_on_one_rank_is_learnt_as_on_several),
        cmocka_unit_test(static_gating_takes_as_long_as_its_capacity),
        cmocka_unit_test(static_gating_with_a_buffer_only_limits_the_rows),
        cmocka_unit_test(static_gating_with_a_buffer_is_compared_with_the_run),
        cmocka_unit_test(profiles_that_do_not_fit_are_refused),
    };
    memory_install();
    return cmocka_run_group_tests(tests, make_profiles, NULL);
}
