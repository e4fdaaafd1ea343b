/* Calibration on the CPU: what it writes, what it refuses. */
#include "tests/cli_run.h"

#include <math.h>

#include "base/files.h"
#include "base/memory.h"
#include "sim/costs.h"
#include "tests/calibrate_maker.h"

static char out[256];
static CliRun run;

/* Every operation of MODEL has a table, whose values are times. */
static void assert_prices(const Hardware *hardware, const HardwareModel *model)
{
    assert_true(model->n_ops[STACK_DECODER] > 0);
    for (uint32_t i = 0; i < model->n_ops[STACK_DECODER]; i++) {
        const HardwareOp *op = &model->ops[STACK_DECODER][i];
        const char *axis[COST_AXES];
        char name[48];
        snprintf(name, sizeof name, "gpu/%s", op_name(op->op));
        const CostTable *table = hardware_table(hardware, name, op->shape);
        if (table == NULL)
            fail_msg("%s of %s has no table", name, op->shape);
        assert_int_equal(table->n_axes, hardware_op_axes(op->op, axis));
        for (uint32_t a = 0; a < table->n_axes; a++)
            assert_string_equal(table->axis[a], axis[a]);
        assert_true(table->n_points > 3);
        for (uint32_t p = 0; p < table->n_points; p++)
            assert_true(table->value[p] >= 0 && table->value[p] < 1e9);
    }
}

static const char *experts_shape(const HardwareModel *model)
{
    for (uint32_t i = 0; i < model->n_ops[STACK_DECODER]; i++)
        if (model->ops[STACK_DECODER][i].op == OP_EXPERTS)
            return model->ops[STACK_DECODER][i].shape;
    return "none";
}

static void a_profile_prices_every_operation_of_its_model(void **unused)
{
    (void)unused;
    static const char *const OTHERS[] = {"copy/h2d", "copy/d2h", "host/copy", "graph/launch",
                                         "end/load"};
    Hardware hardware;
    RUN("calibrate", "--model", MODEL, "--quick", "--threads", "2", "--out", out, "--json");
    if (run.code != 0)
        fail_msg("%s", run.err);
    assert_ok(hardware_load(out, &hardware));
    const HardwareModel *model = hardware_model(&hardware, MODEL);
    assert_non_null(model);
    assert_int_equal(model->measured_layers, 6);
    assert_string_equal(model->compute, "f32");
    assert_string_equal(hardware.backend, "cpu");
    assert_int_equal(hardware.host_threads, 2);
    assert_prices(&hardware, model);
    for (size_t i = 0; i < sizeof OTHERS / sizeof *OTHERS; i++)
        assert_non_null(hardware_table(&hardware, OTHERS[i], ""));
    assert_non_null(hardware_table(&hardware, "decide", experts_shape(model)));
    assert_non_null(hardware_table(&hardware, "decide/synthetic", experts_shape(model)));
    assert_non_null(hardware_table(&hardware, "step/rest", "models/tiny-32x4 graph"));
    assert_non_null(hardware_table(&hardware, "step/rest", "models/tiny-32x4 graph forced"));
    assert_non_null(hardware_table(&hardware, "step/rest", "models/tiny-32x4 queued"));
    assert_non_null(hardware_table(&hardware, "between", "models/tiny-32x4"));
    assert_non_null(hardware_table(&hardware, "between", "models/tiny-32x4 forced"));
    hardware_free(&hardware);
}

/* A small model without files. */
static const char *small_shape(void)
{
    static const char CONFIG[] =
        "{\"model_type\":\"qwen3_moe\",\"vocab_size\":96,\"hidden_size\":32,"
        "\"num_hidden_layers\":8,\"num_attention_heads\":2,\"num_key_value_heads\":1,"
        "\"head_dim\":16,\"moe_intermediate_size\":16,\"num_experts\":6,"
        "\"num_experts_per_tok\":2,\"norm_topk_prob\":true,\"hidden_act\":\"silu\","
        "\"intermediate_size\":32,\"decoder_sparse_step\":1,\"mlp_only_layers\":[],"
        "\"max_position_embeddings\":512,\"rms_norm_eps\":1e-06,\"rope_theta\":10000.0,"
        "\"attention_bias\":false,\"tie_word_embeddings\":false}";
    static char name[300];
    const char *path = scratch_path("small.json");
    assert_ok(file_write_all(path, CONFIG, sizeof CONFIG - 1));
    snprintf(name, sizeof name, "shape:%s", path);
    return name;
}

/* Device memory by the coefficients of MODEL, with every expert in place. */
static double memory_of(const Hardware *hardware, const HardwareModel *model,
                        const ExecutorOptions *options)
{
    const HardwareMemory *memory = &model->memory;
    CostUse use = {0};
    Costs *costs;
    double requests = options->max_requests;
    double tokens = options->max_tokens;
    double bytes = (double)memory->weights_bytes +
                   memory->position_bytes * requests * options->max_length +
                   memory->request_bytes * requests + memory->length_bytes * options->max_length;
    assert_ok(costs_new(hardware, &costs));
    bytes += costs_at(costs, costs_find(costs, "memory/activations", model->name), &tokens, &use);
    assert_int_equal(use.n[COST_MISSING], 0);
    costs_free(costs);
    for (uint32_t i = 0; i < model->n_slots; i++)
        bytes += (double)model->slots[i].slot_bytes * model->slots[i].experts;
    return bytes;
}

static void memory_is_that_of_an_executor(void **unused)
{
    (void)unused;
    const Plan plan = plan_default();
    static const uint32_t SIZES[][3] = {{1, 64, 1}, {3, 100, 50}, {16, 512, 700}, {64, 33, 2048}};
    Hardware hardware;
    Checkpoint *checkpoint;
    assert_ok(hardware_load(out, &hardware));
    assert_ok(checkpoint_open_model(MODEL, &checkpoint));
    for (size_t i = 0; i < sizeof SIZES / sizeof *SIZES; i++) {
        const ExecutorOptions options = {.plan = &plan,
                                         .device = "cpu",
                                         .threads = 2,
                                         .max_requests = SIZES[i][0],
                                         .max_length = SIZES[i][1],
                                         .max_tokens = SIZES[i][2],
                                         .logits = LOGITS_LAST};
        ExecutorMemory memory;
        assert_ok(executor_memory(checkpoint, &options, &memory));
        double is = (double)memory.weights + (double)memory.slots + (double)memory.cache +
                    (double)memory.activations + (double)memory.own;
        double said = memory_of(&hardware, hardware_model(&hardware, MODEL), &options);
        if (fabs(said - is) > 0.02 * is)
            fail_msg("size %zu: %.0f bytes, the executor takes %.0f", i, said, is);
    }
    checkpoint_close(checkpoint);
    hardware_free(&hardware);
}

static void a_profile_grows_by_another_model(void **unused)
{
    (void)unused;
    const char *more = scratch_path("more.json");
    const char *small = small_shape();
    Hardware hardware;
    RUN("calibrate", "--model", small, "--quick", "--threads", "2", "--add", out, "--out", more);
    if (run.code != 0)
        fail_msg("%s", run.err);
    assert_ok(hardware_load(more, &hardware));
    assert_int_equal(hardware.n_models, 2);
    assert_non_null(hardware_model(&hardware, MODEL));
    assert_prices(&hardware, hardware_model(&hardware, small));
    hardware_free(&hardware);
}

/* Experts on the host are: how fast its memory is, others have a share in. */
static void what_a_profile_has_is_not_measured_again(void **unused)
{
    (void)unused;
    const char *again = scratch_path("again.json");
    Hardware before;
    Hardware after;
    bool host_differs = false;
    RUN("calibrate", "--model", MODEL, "--quick", "--threads", "2", "--add", out, "--out", again);
    assert_int_equal(run.code, 0);
    assert_ok(hardware_load(out, &before));
    assert_ok(hardware_load(again, &after));
    assert_int_equal(after.n_tables, before.n_tables);
    for (uint32_t i = 0; i < before.n_tables; i++) {
        const CostTable *old = &before.tables[i];
        const CostTable *table = hardware_table(&after, old->name, old->shape);
        bool host = strncmp(old->name, "host/", 5) == 0 && strcmp(old->name, "host/copy") != 0;
        if (strncmp(old->name, "gpu/", 4) != 0 && strcmp(old->name, "host/copy") != 0 && !host)
            continue;
        assert_non_null(table);
        assert_int_equal(table->n_points, old->n_points);
        size_t bytes = old->n_points * sizeof *old->value;
        host_differs = host_differs || (host && memcmp(table->value, old->value, bytes) != 0);
        if (!host)
            assert_memory_equal(table->value, old->value, bytes);
    }
    assert_true(host_differs);
    hardware_free(&before);
    hardware_free(&after);
}

static void what_cannot_be_calibrated_leaves_no_file(void **unused)
{
    (void)unused;
    const char *never = scratch_path("never.json");
    const char *other = scratch_path("other.json");
    static const struct {
        const char *model;
        const char *add;
        const char *message;
    } CASES[] = {
        {"models/absent", NULL, "models/absent"},
        {"shape:none", NULL, "shape:none"},
        {MODEL, "absent.json", "absent.json"},
        {"././././././././././././././././././././././././././././././././././././././././././././"
         "./"
         "./././././././././././././././././././././././././././models/tiny-32x4",
         NULL, "longer than 130 bytes"},
    };
    for (size_t i = 0; i < sizeof CASES / sizeof *CASES; i++) {
        RUN("calibrate", "--quick", "--model", CASES[i].model, "--out", never,
            CASES[i].add != NULL ? "--add" : NULL, CASES[i].add);
        assert_int_equal(run.code, 2);
        assert_true(cli_said_one_line(&run));
        assert_non_null(strstr(run.err, CASES[i].message));
        assert_false(file_exists(never));
    }
    Hardware hardware;
    assert_ok(hardware_load(out, &hardware));
    snprintf(hardware.device, sizeof hardware.device, "another");
    assert_ok(hardware_save(&hardware, other));
    hardware_free(&hardware);
    RUN("calibrate", "--quick", "--model", MODEL, "--add", other, "--out", never);
    assert_int_equal(run.code, 2);
    assert_non_null(strstr(run.err, "another"));
    assert_false(file_exists(never));
}

static void a_stop_ends_calibration(void **unused)
{
    (void)unused;
    const volatile int stop = 1;
    CalibrateOptions options = options_of_cpu();
    Hardware hardware = {0};
    options.stop = &stop;
    WholeSteps whole = {0};
    int64_t before = mem_live_blocks();
    assert_int_equal(calibrate_model(&options, MODEL, &hardware, &whole), ERR_INTERRUPTED);
    whole_steps_free(&whole);
    hardware_free(&hardware);
    assert_int_equal(mem_live_blocks(), before);
}

static void note_progress(void *argument, uint64_t done, uint64_t total)
{
    uint64_t *seen = argument;
    assert_true(done < total);
    assert_int_equal(done, seen[0]);
    seen[0] = done + 1;
    seen[1] = total;
}

static void note_last(void *argument, uint64_t done, uint64_t total)
{
    uint64_t *seen = argument;
    assert_true(done < total && done >= seen[0]);
    seen[0] = done + 1;
    seen[1] = total;
}

static void as_many_kinds_of_steps_run_as_were_counted(void **unused)
{
    (void)unused;
    uint64_t seen[2] = {0};
    CalibrateOptions options = options_of_cpu();
    Hardware hardware = {0};
    WholeSteps whole = {0};
    options.progress = note_progress;
    options.progress_argument = seen;
    assert_ok(calibrate_model(&options, small_shape(), &hardware, &whole));
    assert_int_equal(seen[0], seen[1]);
    whole_steps_free(&whole);
    hardware_free(&hardware);
}

/* The profile has all but what is measured last: steps of static gating. */
static void as_many_kinds_of_steps_run_where_some_are_known(void **unused)
{
    (void)unused;
    uint64_t seen[2] = {0};
    CalibrateOptions options = options_of_cpu();
    Hardware known;
    Hardware hardware = {0};
    WholeSteps whole = {0};
    assert_ok(hardware_load(out, &known));
    for (uint32_t i = 0; i < known.n_tables; i++)
        if (strcmp(known.tables[i].name, "mask/experts") == 0)
            known.tables[i].n_points = 0;
    options.known = &known;
    options.known_path = out;
    options.progress = note_last;
    options.progress_argument = seen;
    assert_ok(calibrate_model(&options, MODEL, &hardware, &whole));
    assert_true(seen[0] > 0);
    assert_int_equal(seen[0], seen[1]);
    whole_steps_free(&whole);
    hardware_free(&hardware);
    hardware_free(&known);
}

int main(void)
{
    memory_install();
    snprintf(out, sizeof out, "%s", scratch_path("hw.json"));
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_profile_prices_every_operation_of_its_model),
        cmocka_unit_test(memory_is_that_of_an_executor),
        cmocka_unit_test(a_profile_grows_by_another_model),
        cmocka_unit_test(what_a_profile_has_is_not_measured_again),
        cmocka_unit_test(what_cannot_be_calibrated_leaves_no_file),
        cmocka_unit_test(a_stop_ends_calibration),
        cmocka_unit_test(as_many_kinds_of_steps_run_as_were_counted),
        cmocka_unit_test(as_many_kinds_of_steps_run_where_some_are_known),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
