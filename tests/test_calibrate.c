/* Calibration on the CPU: what it forces, what it writes, what it refuses. */
#include "tests/cli_run.h"

#include <math.h>

#include "base/files.h"
#include "base/memory.h"
#include "exec/calibrate_parts.h"
#include "sim/costs.h"
#include "tests/disturbed_machine.h"

static const char MODEL[] = "models/tiny-32x4";
static char out[256];
static CliRun run;

static CalibrateOptions options_of_cpu(void)
{
    return (CalibrateOptions){.device = "cpu", .threads = 2, .quick = true};
}

/* A calibration of MODEL with every expert in place, closed by close_model(). */
static Calibration open_model(uint32_t requests, uint32_t length, uint32_t tokens)
{
    static CalibrateOptions options;
    static Hardware hardware;
    const Plan plan = plan_default();
    options = options_of_cpu();
    hardware = (Hardware){0};
    Calibration c = {.options = &options, .hardware = &hardware, .model = MODEL};
    assert_ok(calibration_open(&c, MODEL, &plan, requests, length, tokens));
    return c;
}

static void close_model(Calibration *c)
{
    calibration_free(c);
    hardware_free(c->hardware);
}

/* Rows of each of EXPERTS, of TOKENS tokens with TOP_K each, which must differ. */
static void count_rows(const uint16_t *forced, uint32_t tokens, uint32_t top_k, uint32_t experts,
                       uint32_t *rows)
{
    memset(rows, 0, experts * sizeof *rows);
    for (uint32_t t = 0; t < tokens; t++)
        for (uint32_t k = 0; k < top_k; k++) {
            uint16_t expert = forced[t * top_k + k];
            assert_true(expert < experts);
            for (uint32_t other = 0; other < k; other++)
                assert_int_not_equal(forced[t * top_k + other], expert);
            rows[expert]++;
        }
}

static void forced_routing_is_of_as_many_experts_and_of_the_load_it_says(void **unused)
{
    (void)unused;
    Calibration c = open_model(2, 64, 1024);
    for (uint32_t tokens = 1; tokens <= 1024; tokens = tokens * 2 + tokens % 3)
        for (uint32_t active = 4; active <= 32 && active <= 4 * tokens; active++)
            for (int skew = 0; skew <= 2; skew++) {
                uint32_t rows[32];
                double load = calibration_force(&c, STACK_DECODER, tokens, active, skew / 2.0);
                for (uint32_t layer = 0; layer < c.config->n_moe_layers; layer++) {
                    uint32_t n = 0;
                    double wanted = 0;
                    count_rows(c.forced + (size_t)layer * tokens * 4, tokens, 4, 32, rows);
                    for (uint32_t e = 0; e < 32; e++) {
                        n += rows[e] > 0;
                        wanted += rows[e] > 0 ? cost_load_of(rows[e]) : 0;
                    }
                    assert_int_equal(n, active);
                    assert_true(fabs(load - wanted / n) < 1e-9);
                }
            }
    close_model(&c);
}

static void rows_that_fall_by_rank_are_as_uneven_as_it_says(void **unused)
{
    (void)unused;
    Calibration c = open_model(2, 64, 1024);
    for (uint32_t tokens = 1; tokens <= 1024; tokens = tokens * 2 + tokens % 3)
        for (uint32_t active = 4; active <= 32 && active <= 4 * tokens; active++) {
            double unevenness = calibration_force_zipf(&c, STACK_DECODER, tokens, active);
            for (uint32_t layer = 0; layer < c.config->n_moe_layers; layer++) {
                uint32_t rows[32];
                uint32_t n = 0;
                uint32_t most = 0;
                double squares = 0;
                count_rows(c.forced + (size_t)layer * tokens * 4, tokens, 4, 32, rows);
                for (uint32_t e = 0; e < 32; e++) {
                    n += rows[e] > 0;
                    most = rows[e] > most ? rows[e] : most;
                    squares += (double)rows[e] * rows[e];
                }
                assert_int_equal(n, active);
                assert_true(most <= tokens);
                assert_true(fabs(unevenness - cost_unevenness(n, 4 * tokens, squares)) < 1e-9);
            }
            if (tokens >= 64 && active >= 16)
                assert_true(unevenness > 0.5);
        }
    close_model(&c);
}

/* Beside a device, or where a machine is played. The thread goes to processor 1, and the loop is
 * timed ten times before the rounds and twice after each; others come in the third. A step that
 * takes long, as any may where the machine at hand is busy, is not asked for, and all is done
 * again.
 */
static void what_is_disturbed_is_measured_again(void **unused)
{
    (void)unused;
    const StepKind kind = {.requests = 1, .tokens = 1, .stamped_only = true};
    Calibration c = open_model(2, 64, 64);
    StepMeasured measured;
    uint64_t steps;
    int tries = 0;
    do {
        DisturbedMachine all = {.spells = {{.processor = 1, .first = 14, .end = UINT64_MAX}}};
        assert_true(tries++ < 100);
        disturbed_machine_begin(&all, &c.quiet);
        steps = c.texts;
        assert_ok(calibration_measure(&c, &kind, 5, &measured));
        steps = c.texts - steps;
    } while (c.quiet.rounds + c.quiet.again != steps);
    assert_int_equal(measured.repeats, 5);
    assert_int_equal(steps, 6);
    assert_int_equal(c.quiet.rounds, 5);
    assert_int_equal(c.quiet.again, 1);
    assert_int_equal(c.quiet.disturbed, 0);
    c.quiet.machine = NULL;
    close_model(&c);
}

/* ... and a profile tells. */
static void a_profile_tells_how_far_the_host_was_disturbed(void **unused)
{
    (void)unused;
    Calibration c = open_model(2, 64, 64);
    HardwareModel *model;
    assert_ok(hardware_add_model(c.hardware, MODEL, &model));
    calibration_note_host(&c);
    assert_int_equal(model->host.rounds, 0);
    c.quiet = (QuietProcessor){
        .best_ns = 30, .waited_ns = 7, .rounds = 10, .disturbed = 3, .loop_ns = 400, .again = 2};
    calibration_note_host(&c);
    assert_int_equal(model->host.best_ns, 30);
    assert_true(model->host.mean_ns == 40);
    assert_int_equal(model->host.rounds, 10);
    assert_int_equal(model->host.disturbed, 3);
    assert_int_equal(model->host.again, 2);
    assert_int_equal(model->host.waited_ns, 7);
    Calibration next = {.options = c.options, .hardware = c.hardware};
    calibration_open_quiet(&next);
    assert_int_equal(next.quiet.best_ns, 30);
    close_model(&c);
}

static void requests_are_brought_to_their_contexts(void **unused)
{
    (void)unused;
    Calibration c = open_model(5, 200, 64);
    StepOutput output;
    double ns;
    assert_ok(calibration_fill(&c, 3, 100));
    assert_ok(calibration_fill(&c, 5, 30));
    for (uint32_t r = 0; r < 5; r++)
        assert_int_equal(c.length[r], 30);
    StepKind kind = {.requests = 5, .tokens = 3, .context = 30};
    assert_ok(calibration_step(&c, &kind, false, &output, &ns));
    assert_int_equal(c.length[4], 33);
    kind = (StepKind){.requests = 2, .tokens = 4, .context = 7};
    assert_ok(calibration_step(&c, &kind, true, &output, &ns));
    assert_int_equal(c.length[1], 11);
    assert_int_equal(c.length[2], 33);
    assert_true(output.n_timing > 0 && ns > 0);
    close_model(&c);
}

static void samples_of_one_place_become_their_median(void **unused)
{
    (void)unused;
    const CalibrateOptions options = options_of_cpu();
    Hardware hardware = {0};
    Calibration c = {.options = &options, .hardware = &hardware, .model = MODEL};
    static const char *const AXIS[] = {"tokens"};
    static const double VALUES[] = {9, 1, 4, 8};
    for (uint32_t i = 0; i < 600; i++) {
        double at = i % 3;
        assert_ok(calibration_note(&c, i % 2 ? "a" : "b", "", UNIT_NS, AXIS, 1, &at,
                                   VALUES[i / 150] + at, 0.1 * (i / 150)));
    }
    assert_ok(calibration_settle(&c));
    assert_int_equal(hardware.n_tables, 2);
    for (uint32_t t = 0; t < 2; t++) {
        assert_int_equal(hardware.tables[t].n_points, 3);
        for (uint32_t i = 0; i < 3; i++) {
            assert_true(hardware.tables[t].value[i] == 6 + i);
            assert_true(fabs(hardware.tables[t].spread[i] - 0.3) < 1e-12);
        }
    }
    calibration_free(&c);
    hardware_free(&hardware);
}

static void the_least_sample_of_a_place_counts_where_others_are_in_the_way(void **unused)
{
    (void)unused;
    const CalibrateOptions options = options_of_cpu();
    Hardware hardware = {0};
    Calibration c = {.options = &options, .hardware = &hardware, .model = MODEL};
    static const char *const AXIS[] = {"bytes"};
    static const double VALUES[] = {9, 4, 8, 5};
    for (uint32_t i = 0; i < 8; i++) {
        double at = i % 2;
        assert_ok(calibration_note_least(&c, "a", AXIS, 1, &at, VALUES[i / 2] + at, 0.1));
    }
    assert_ok(calibration_settle(&c));
    assert_int_equal(hardware.tables[0].n_points, 2);
    for (uint32_t i = 0; i < 2; i++)
        assert_true(hardware.tables[0].value[i] == 4 + i);
    calibration_free(&c);
    hardware_free(&hardware);
}

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

static void stamps_are_linear_between_the_tokens_they_were_measured_at(void **unused)
{
    (void)unused;
    Calibration c = {.stamp_ns = 7};
    assert_true(calibration_stamp_ns(&c, 3) == 7);
    calibration_keep_stamp(&c, 2, 900);
    calibration_keep_stamp(&c, 2, 100);
    assert_true(calibration_stamp_ns(&c, 1) == 100 && calibration_stamp_ns(&c, 50) == 100);
    calibration_keep_stamp(&c, 6, 300);
    calibration_keep_stamp(&c, 7, 0);
    assert_true(calibration_stamp_ns(&c, 1) == 100 && calibration_stamp_ns(&c, 2) == 100);
    assert_true(calibration_stamp_ns(&c, 3) == 150 && calibration_stamp_ns(&c, 6) == 300);
    assert_true(calibration_stamp_ns(&c, 6.5) == 150 && calibration_stamp_ns(&c, 1000) == 0);
}

/* Simulated time looks costs of all experts up by those of the first layer. */
static void experts_shape_is_that_of_the_decoders_first_moe_layer(void **unused)
{
    (void)unused;
    char shape[160];
    char wanted[160];
    LayerConfig layers[4] = {0};
    const ModelConfig config = {.n_layers = 4, .n_encoder_layers = 1, .layers = layers};
    const Calibration c = {.config = &config, .compute = "f32"};
    assert_false(calibration_experts_shape(&c, shape));
    assert_string_equal(shape, "");
    for (uint32_t i = 0; i < 4; i++)
        layers[i] = (LayerConfig){
            .moe = i != 1, .experts = 8, .top_k = 2, .ffn = {.d_model = 64, .d_ff = 64 * (i + 1)}};
    assert_true(calibration_experts_shape(&c, shape));
    calibrate_shape(&config, 2, OP_EXPERTS, "f32", wanted);
    assert_string_equal(shape, wanted);
}

/* MODEL's experts are small. As if the CPU had a queue: the places are those of steps that run. */
static void small_prefetches_are_measured_by_how_many_they_are(void **unused)
{
    (void)unused;
    CalibrateOptions queued = options_of_cpu();
    Hardware hardware = {0};
    Calibration c = {.options = &queued, .hardware = &hardware, .model = MODEL};
    Plan plan = plan_default();
    char shape[160];
    plan.buffer.on = true;
    plan.buffer.slots = 31;
    assert_ok(calibration_open(&c, MODEL, &plan, 16, 64, 64));
    queued.device = "queued";
    assert_ok(calibrate_beside(&c));
    assert_ok(calibration_settle(&c));
    assert_true(calibration_experts_shape(&c, shape));
    const CostTable *table = hardware_table(&hardware, "wait/ahead", shape);
    assert_non_null(table);
    assert_int_equal(table->n_points, 8);
    for (uint32_t i = 0; i < table->n_points; i++)
        assert_true(table->at[i] == 1 + i && table->value[i] >= 0);
    assert_null(hardware_table(&hardware, "beside", shape));
    calibration_free(&c);
    hardware_free(&hardware);
}

int main(void)
{
    memory_install();
    snprintf(out, sizeof out, "%s", scratch_path("hw.json"));
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(forced_routing_is_of_as_many_experts_and_of_the_load_it_says),
        cmocka_unit_test(rows_that_fall_by_rank_are_as_uneven_as_it_says),
        cmocka_unit_test(what_is_disturbed_is_measured_again),
        cmocka_unit_test(a_profile_tells_how_far_the_host_was_disturbed),
        cmocka_unit_test(requests_are_brought_to_their_contexts),
        cmocka_unit_test(samples_of_one_place_become_their_median),
        cmocka_unit_test(the_least_sample_of_a_place_counts_where_others_are_in_the_way),
        cmocka_unit_test(a_profile_prices_every_operation_of_its_model),
        cmocka_unit_test(memory_is_that_of_an_executor),
        cmocka_unit_test(a_profile_grows_by_another_model),
        cmocka_unit_test(what_a_profile_has_is_not_measured_again),
        cmocka_unit_test(what_cannot_be_calibrated_leaves_no_file),
        cmocka_unit_test(a_stop_ends_calibration),
        cmocka_unit_test(as_many_kinds_of_steps_run_as_were_counted),
        cmocka_unit_test(as_many_kinds_of_steps_run_where_some_are_known),
        cmocka_unit_test(stamps_are_linear_between_the_tokens_they_were_measured_at),
        cmocka_unit_test(experts_shape_is_that_of_the_decoders_first_moe_layer),
        cmocka_unit_test(small_prefetches_are_measured_by_how_many_they_are),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
