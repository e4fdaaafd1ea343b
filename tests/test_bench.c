/* Benchmarks of whole steps: what they compare with, and what they print. */
#include "tests/cli_run.h"

#include <math.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/files.h"
#include "base/json.h"
#include "base/memory.h"
#include "cli/bench_command.h"
#include "cli/bench_cost.h"
#include "tests/json_at.h"

static CliRun run;

/* ---- cost ---- */

/* Routing of ROWS tokens that goes round all experts of every layer; mem_free. */
static uint16_t *round_robin(const ModelConfig *config, Stack stack, uint32_t rows)
{
    uint16_t *experts = mem_alloc((size_t)rows * config->n_layers * config->max_top_k, 2);
    size_t at = 0;
    for (uint32_t l = 0; l < config->n_layers; l++)
        for (uint32_t i = 0; config->layers[l].moe && config->layers[l].stack == stack &&
                             i < rows * config->layers[l].top_k;
             i++)
            experts[at++] = (uint16_t)(i % config->layers[l].experts);
    return experts;
}

static uint64_t elements(const Tensor *tensor)
{
    return tensor->bytes / 2;
}

/* With every expert active a step reads every matrix once, but for the embedding. */
static void a_step_of_all_experts_reads_every_matrix_once(void **unused)
{
    (void)unused;
    static const char *const NAMES[] = {"shape:mixtral-8x7b:2",  "shape:qwen1.5-moe:3",
                                        "shape:qwen3-30b-a3b:2", "shape:deepseek-v2-lite:2",
                                        "shape:deepseek-v3:4",   "shape:gpt-oss-20b:2"};
    for (size_t i = 0; i < sizeof NAMES / sizeof *NAMES; i++) {
        Checkpoint *checkpoint;
        assert_ok(checkpoint_open_model(NAMES[i], &checkpoint));
        const ModelConfig *config = checkpoint_config(checkpoint);
        StepWork work = {.requests = 256, .tokens = 1, .logits = 256, .element_bytes = 2};
        uint16_t *experts = round_robin(config, STACK_DECODER, 256);
        work.experts = experts;
        StepCost cost = step_cost(config, &work);
        double weights = (double)checkpoint_bytes(checkpoint) -
                         (double)checkpoint_tensors(checkpoint)->embedding.bytes;
        /* Biases and norms are left out, the cache of one token each comes on top. */
        assert_true(fabs(cost.bytes / weights - 1) < 0.005);
        assert_true(work.active_experts == config->max_experts);
        mem_free(experts);
        checkpoint_close(checkpoint);
    }
}

/* Each weight is a product and a sum for every token that it meets. */
static void operations_count_active_weights_and_keys(void **unused)
{
    (void)unused;
    Checkpoint *checkpoint;
    assert_ok(checkpoint_open_model("shape:qwen3-30b-a3b:3", &checkpoint));
    const ModelConfig *config = checkpoint_config(checkpoint);
    const LayerTensors *layer = &checkpoint_tensors(checkpoint)->layers[0];
    const AttentionTensors *attention = &layer->attention;
    double dense =
        (double)(elements(&attention->q) + elements(&attention->k) + elements(&attention->v) +
                 elements(&attention->o) + elements(&layer->router));
    double expert = (double)checkpoint_expert_bytes(checkpoint, 0) / 2;
    double keys = 0;
    uint16_t *experts = round_robin(config, STACK_DECODER, 40);
    StepWork work = {
        .requests = 4, .tokens = 10, .context = 7, .experts = experts, .element_bytes = 2};
    for (int i = 0; i < 10; i++)
        keys += 7 + i + 1;
    double wanted = 3 * (2 * 40 * (dense + 8 * expert) + 4 * keys * 32 * 2 * (128 + 128));
    double cached = 3 * 4 * 17 * 4 * (128 + 128) * 2;
    StepCost cost = step_cost(config, &work);
    assert_true(fabs(cost.flops / wanted - 1) < 1e-9);
    assert_true(fabs(cost.bytes / (3 * 2 * (dense + 128 * expert) + cached) - 1) < 1e-9);
    const Ceilings slow_memory = {.bytes_per_s = 1, .flops_per_s = 1e30};
    const Ceilings slow_products = {.bytes_per_s = 1e30, .flops_per_s = 1};
    assert_true(step_floor_ns(&cost, &slow_memory) == 1e9 * cost.bytes);
    assert_true(step_floor_ns(&cost, &slow_products) == 1e9 * cost.flops);
    mem_free(experts);
    checkpoint_close(checkpoint);
}

static void windows_bound_the_keys_that_are_read(void **unused)
{
    (void)unused;
    Checkpoint *checkpoint;
    assert_ok(checkpoint_open_model("shape:gpt-oss-20b:2", &checkpoint));
    const ModelConfig *config = checkpoint_config(checkpoint);
    uint16_t *experts = round_robin(config, STACK_DECODER, 1);
    StepWork work = {.requests = 1, .tokens = 1, .experts = experts, .element_bytes = 1};
    double bytes[2];
    for (int i = 0; i < 2; i++) {
        work.context = i == 0 ? 999 : 1999;
        bytes[i] = step_cost(config, &work).bytes;
    }
    /* One of the two layers sees 128 keys, whatever the context. */
    assert_true(bytes[1] - bytes[0] == 1000.0 * 8 * 2 * 64);
    mem_free(experts);
    checkpoint_close(checkpoint);
}

static void times_are_median_and_bounds(void **unused)
{
    (void)unused;
    double odd[] = {5, 1, 9};
    double even[] = {4, 1, 2, 100};
    StepTimes times = step_times(odd, 3);
    assert_true(times.median_ns == 5 && times.least_ns == 1 && times.most_ns == 9);
    times = step_times(even, 4);
    assert_true(times.median_ns == 3 && times.repeats == 4);
}

static void lists_of_batches_are_read_or_refused(void **unused)
{
    (void)unused;
    static const char *const BAD[] = {"",  "0",   "1,", ",1",   "1x",    "1x0",
                                      "a", "1 2", "-1", "1,,2", "70000", "60000x60000"};
    const OptionTable table = {.command = "bench decode"};
    BenchBatch batches[BENCH_MAX_BATCHES];
    uint32_t n;
    assert_ok(bench_batches_read(&table, "batch", "1,16x1024,8", 5, batches, &n));
    assert_int_equal(n, 3);
    assert_int_equal(batches[0].requests * 1000 + batches[0].tokens, 1005);
    assert_int_equal(batches[1].tokens, 1024);
    assert_int_equal(batches[2].requests * 1000 + batches[2].tokens, 8005);
    for (size_t i = 0; i < sizeof BAD / sizeof *BAD; i++)
        assert_int_equal(bench_batches_read(&table, "batch", BAD[i], 1, batches, &n), ERR_USAGE);
}

/* ---- at the command line ---- */

static const char CONFIG[] =
    "{\"model_type\":\"qwen3_moe\",\"vocab_size\":96,\"hidden_size\":32,\"intermediate_size\":48,"
    "\"moe_intermediate_size\":16,\"num_hidden_layers\":2,\"num_attention_heads\":4,"
    "\"num_key_value_heads\":2,\"head_dim\":8,\"num_experts\":8,\"num_experts_per_tok\":2,"
    "\"norm_topk_prob\":true,\"hidden_act\":\"silu\",\"max_position_embeddings\":256,"
    "\"rms_norm_eps\":1e-6}";
static const char PAIR[] =
    "{\"model_type\":\"nllb-moe\",\"vocab_size\":96,\"d_model\":32,\"encoder_layers\":2,"
    "\"encoder_attention_heads\":4,\"encoder_ffn_dim\":48,\"encoder_sparse_step\":2,"
    "\"decoder_layers\":2,\"decoder_attention_heads\":4,\"decoder_ffn_dim\":48,"
    "\"decoder_sparse_step\":2,\"num_experts\":8,\"max_position_embeddings\":256}";

static const char *shape_of(const char *config)
{
    static char name[300];
    const char *path = scratch_path("config.json");
    assert_ok(file_write_all(path, config, strlen(config)));
    snprintf(name, sizeof name, "shape:%s", path);
    return name;
}

/* The document that the last run printed; cJSON_Delete. */
static cJSON *document(void)
{
    cJSON *json;
    if (run.code != 0 || run.err[0] != '\0')
        fail_msg("exit %d: %s", run.code, run.err);
    assert_ok(json_parse(run.out, strlen(run.out), "stdout", &json));
    return json;
}

static void assert_cells(const char *bench, const char *config, const char *batch, int cells)
{
    RUN("bench", bench, "--model", shape_of(config), "--batch", batch, "--context", "12",
        "--repeats", "3", "--routing", "zipf:1", "--timing", "--json");
    cJSON *json = document();
    const cJSON *list = cJSON_GetObjectItemCaseSensitive(json, "cells");
    assert_int_equal(cJSON_GetArraySize(list), cells);
    assert_string_equal(cJSON_GetObjectItemCaseSensitive(json, "bench")->valuestring, bench);
    assert_non_null(cJSON_GetObjectItemCaseSensitive(json, "commit"));
    assert_non_null(cJSON_GetObjectItemCaseSensitive(json, "command"));
    assert_true(number_at(cJSON_GetObjectItemCaseSensitive(json, "ceilings"), "copy_bytes_per_s") >
                0);
    for (const cJSON *cell = list->child; cell != NULL; cell = cell->next) {
        double ops = 0;
        const cJSON *op = cJSON_GetObjectItemCaseSensitive(cell, "ops_ns")->child;
        assert_true(number_at(cell, "min_ns") <= number_at(cell, "median_ns"));
        assert_true(number_at(cell, "median_ns") <= number_at(cell, "max_ns"));
        assert_true(number_at(cell, "floor_ns") > 0);
        assert_true(number_at(cell, "active_experts") >= 1);
        for (; op != NULL; op = op->next)
            ops += op->valuedouble;
        assert_true(ops > 0);
    }
    cJSON_Delete(json);
}

static void decode_and_prefill_measure_each_batch(void **unused)
{
    (void)unused;
    assert_cells("decode", CONFIG, "1,3", 2);
    assert_cells("decode", PAIR, "2", 1);
    assert_cells("prefill", CONFIG, "2x8,3", 2);
    assert_cells("prefill", PAIR, "2x8", 1);
    RUN("bench", "decode", "--model", shape_of(CONFIG), "--batch", "2", "--repeats", "2");
    assert_int_equal(run.code, 2);
    assert_non_null(strstr(run.err, "the model allows 256"));
}

/* The cell of GATING in the list, one of N batches of it. */
static const cJSON *cell_of(const cJSON *json, const char *gating, int batch)
{
    const cJSON *cell = cJSON_GetObjectItemCaseSensitive(json, "cells")->child;
    for (; cell != NULL; cell = cell->next) {
        const cJSON *name = cJSON_GetObjectItemCaseSensitive(cell, "gating");
        if (strcmp(name->valuestring, gating) == 0 && batch-- == 0)
            return cell;
    }
    fail_msg("there is no cell of %s", gating);
    return NULL;
}

static void assert_gains(const cJSON *json, const char *gating, int batches)
{
    const cJSON *gains = cJSON_GetObjectItemCaseSensitive(json, "dynamic_over");
    double best[2] = {0, 0};
    for (int i = 0; i < batches; i++) {
        best[0] = fmax(best[0], number_at(cell_of(json, "dynamic", i), "tokens_per_s"));
        best[1] = fmax(best[1], number_at(cell_of(json, gating, i), "tokens_per_s"));
    }
    assert_true(fabs(number_at(gains, gating) / (best[0] / best[1]) - 1) < 1e-9);
}

static void gatings_are_compared_at_their_best_batches(void **unused)
{
    (void)unused;
    static const char *const STATIC[] = {"padded", "mask"};
    RUN("bench", "gating", "--model", shape_of(CONFIG), "--batch", "1x4,6x10", "--repeats", "3",
        "--routing", "zipf:2", "--capacity", "0.25", "--json");
    cJSON *json = document();
    assert_true(number_at(json, "waste_factor") == 8 * 0.25 / 2);
    const cJSON *dynamic = cell_of(json, "dynamic", 1);
    assert_true(number_at(dynamic, "dropped_share") == 0);
    for (int i = 0; i < 2; i++) {
        const cJSON *cell = cell_of(json, STATIC[i], 1);
        assert_gains(json, STATIC[i], 2);
        assert_true(number_at(cell, "dropped_share") > 0.2);
        assert_true(number_at(cell, "device_bytes") > 0);
    }
    /* The masks are work of their own. */
    assert_true(number_at(cell_of(json, "mask", 1), "floor_ns") >
                number_at(cell_of(json, "padded", 1), "floor_ns"));
    cJSON_Delete(json);
}

static size_t count_cells(const cJSON *json)
{
    return (size_t)cJSON_GetArraySize(cJSON_GetObjectItemCaseSensitive(json, "cells"));
}

static void modes_have_batches_of_their_own_and_are_told_as_they_are_measured(void **unused)
{
    (void)unused;
    RUN("bench", "gating", "--model", shape_of(CONFIG), "--batch", "1x4,2x4,3x5", "--mask", "2x3",
        "--modes", "mask,dynamic", "--repeats", "2", "--json", "--progress");
    const char *at = run.err;
    for (int i = 0; i < 3; i++)
        assert_non_null(at = strstr(at + 1, "\ndynamic"));
    assert_non_null(strstr(at, "\nmask"));
    run.err[0] = '\0';
    cJSON *json = document();
    assert_int_equal(count_cells(json), 4);
    assert_true(number_at(cell_of(json, "dynamic", 2), "requests") == 3);
    assert_true(number_at(cell_of(json, "mask", 0), "tokens_each") == 3);
    assert_true(cJSON_IsTrue(cJSON_GetObjectItemCaseSensitive(json, "complete")));
    /* Memory is that of the batch alone, whatever the executor had room for. */
    double bytes = number_at(cell_of(json, "dynamic", 0), "device_bytes");
    cJSON_Delete(json);
    RUN("bench", "gating", "--model", shape_of(CONFIG), "--batch", "1x4", "--modes", "dynamic",
        "--repeats", "2", "--json");
    json = document();
    assert_true(number_at(cell_of(json, "dynamic", 0), "device_bytes") == bytes);
    cJSON_Delete(json);
    static const char *const WRONG[][2] = {
        {"--modes", "dynamic,masked"}, {"--modes", "mask,,"}, {"--modes", ""}, {"--padded", "4y"}};
    for (size_t i = 0; i < sizeof WRONG / sizeof WRONG[0]; i++) {
        RUN("bench", "gating", "--model", shape_of(CONFIG), WRONG[i][0], WRONG[i][1]);
        assert_int_equal(run.code, 2);
        assert_non_null(strstr(run.err, WRONG[i][0]));
    }
    RUN("bench", "gating", "--model", shape_of(CONFIG), "--modes", "mask", "--padded", "4");
    assert_int_equal(run.code, 2);
    assert_non_null(strstr(run.err, "--modes leaves padded out"));
}

static void both_stacks_can_be_compared(void **unused)
{
    (void)unused;
    static const char *const STACKS[] = {"encoder", "decoder"};
    for (int i = 0; i < 2; i++) {
        RUN("bench", "gating", "--model", shape_of(PAIR), "--stack", STACKS[i], "--batch", "2,5",
            "--length", "6", "--repeats", "2", "--json");
        cJSON *json = document();
        const cJSON *cell = cell_of(json, "mask", 1);
        assert_true(number_at(cell, "dropped_share") == 0); /* capacity 1 drops nothing */
        assert_true(number_at(cell, "tokens_each") == (i == 0 ? 6 : 1));
        assert_string_equal(cJSON_GetObjectItemCaseSensitive(json, "routing")->valuestring, "gate");
        cJSON_Delete(json);
    }
    RUN("bench", "gating", "--model", shape_of(CONFIG), "--stack", "encoder");
    assert_int_equal(run.code, 2);
    RUN("bench", "gating", "--model", shape_of(CONFIG), "--stack", "middle");
    assert_int_equal(run.code, 2);
}

/* ---- buffers ---- */

static void open_buffered(const char *model, Plan *plan, uint32_t slots, StepBench *bench)
{
    static const DeviceInput device = {.name = "cpu"};
    *plan = plan_default();
    plan->buffer.on = true;
    plan->buffer.slots = slots;
    snprintf(plan->buffer.evict, sizeof plan->buffer.evict, "lru");
    const StepBenchSetup setup = {.model = model,
                                  .device = &device,
                                  .plan = plan,
                                  .routing = "zipf:0.5",
                                  .max_requests = 2,
                                  .max_length = 64,
                                  .max_tokens = 32};
    assert_ok(step_bench_open(&setup, bench));
}

static void a_buffer_that_was_given_fewer_slots_is_as_one_made_so(void **unused)
{
    (void)unused;
    static StepBench benches[2];
    Plan plans[2];
    double ns;
    const char *model = shape_of(CONFIG);
    open_buffered(model, &plans[0], 8, &benches[0]);
    open_buffered(model, &plans[1], 3, &benches[1]);
    assert_ok(step_bench_fill(&benches[0], 2, 16));
    step_bench_empty(&benches[0]);
    assert_ok(executor_set_plan(benches[0].executor, &plans[1]));
    assert_int_equal(executor_slot_bytes(benches[0].executor),
                     executor_slot_bytes(benches[1].executor));
    for (uint32_t p = 0; p < 20; p++) {
        StepOutput outputs[2];
        const StepBenchStep step = {
            .requests = 2, .tokens = 1, .position = p, .logits = LOGITS_LAST};
        for (int i = 0; i < 2; i++)
            assert_ok(step_bench_run(&benches[i], &step, &outputs[i], &ns));
        assert_int_equal(outputs[0].n_residency, outputs[1].n_residency);
        for (size_t i = 0; i < outputs[0].n_residency; i++) {
            const ResidencyRecord *a = &outputs[0].residency[i];
            const ResidencyRecord *b = &outputs[1].residency[i];
            assert_true(a->layer == b->layer && a->expert == b->expert && a->kind == b->kind &&
                        a->slot == b->slot);
        }
        assert_memory_equal(outputs[0].best, outputs[1].best, 2 * sizeof *outputs[0].best);
    }
    for (int i = 0; i < 2; i++)
        step_bench_close(&benches[i]);
}

static void buffers_of_all_sizes_have_a_row(void **unused)
{
    (void)unused;
    double last = -1;
    RUN("bench", "buffer", "--model", shape_of(CONFIG), "--batch", "2", "--context", "16",
        "--slots", "1,4,all,4", "--repeats", "6", "--routing", "uniform", "--json");
    cJSON *json = document();
    const cJSON *rows = cJSON_GetObjectItemCaseSensitive(json, "rows");
    assert_int_equal(cJSON_GetArraySize(rows), 4);
    assert_true(cJSON_IsNull(cJSON_GetObjectItemCaseSensitive(rows->child, "slots")));
    double whole = number_at(rows->child, "slot_bytes");
    static const double SLOTS[] = {8, 4, 1};
    int i = 0;
    for (const cJSON *row = rows->child->next; row != NULL; row = row->next, i++) {
        double ratio = number_at(row, "misses") / number_at(row, "lookups");
        assert_true(number_at(row, "slots") == SLOTS[i]);
        assert_true(number_at(row, "slot_bytes") == whole * SLOTS[i] / 8);
        assert_true(number_at(row, "saved_bytes") == whole * (8 - SLOTS[i]) / 8);
        assert_true(ratio > last);
        assert_true((ratio > 0) == (SLOTS[i] < 8)); /* one slot for each is full from the start */
        assert_true((number_at(row, "load_bytes_per_s") > 0) == (ratio > 0));
        last = ratio;
    }
    cJSON_Delete(json);
    RUN("bench", "buffer", "--model", shape_of(CONFIG), "--slots", "9");
    assert_int_equal(run.code, 2);
    assert_non_null(strstr(run.err, "--slots: '9', allowed are 1 to 8 and all"));
    RUN("bench", "buffer", "--model", shape_of(CONFIG), "--slots", "4", "--set",
        "placement.ranks=2");
    assert_run_refused(&run, 2, "--set: placement.ranks: 2, runs have one rank");
}

static void recording_compares_both_phases_and_leaves_no_file(void **unused)
{
    (void)unused;
    char folder[300];
    snprintf(folder, sizeof folder, "%s", scratch_path("recording"));
    assert_int_equal(mkdir(folder, 0700), 0);
    setenv("TMPDIR", folder, 1);
    RUN("bench", "recording", "--model", shape_of(CONFIG), "--batch", "2", "--context", "8",
        "--prefill", "2x8", "--pairs", "3", "--json");
    unsetenv("TMPDIR");
    cJSON *json = document();
    const cJSON *loads = cJSON_GetObjectItemCaseSensitive(json, "loads");
    assert_int_equal(cJSON_GetArraySize(loads), 2);
    for (const cJSON *load = loads->child; load != NULL; load = load->next) {
        assert_true(number_at(load, "tokens_per_s") > 0);
        assert_true(number_at(load, "cost_min") <= number_at(load, "cost"));
        assert_true(number_at(load, "cost") <= number_at(load, "cost_max"));
    }
    cJSON_Delete(json);
    assert_int_equal(rmdir(folder), 0); /* it is empty */
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_step_of_all_experts_reads_every_matrix_once),
        cmocka_unit_test(operations_count_active_weights_and_keys),
        cmocka_unit_test(windows_bound_the_keys_that_are_read),
        cmocka_unit_test(times_are_median_and_bounds),
        cmocka_unit_test(lists_of_batches_are_read_or_refused),
        cmocka_unit_test(decode_and_prefill_measure_each_batch),
        cmocka_unit_test(gatings_are_compared_at_their_best_batches),
        cmocka_unit_test(modes_have_batches_of_their_own_and_are_told_as_they_are_measured),
        cmocka_unit_test(both_stacks_can_be_compared),
        cmocka_unit_test(a_buffer_that_was_given_fewer_slots_is_as_one_made_so),
        cmocka_unit_test(buffers_of_all_sizes_have_a_row),
        cmocka_unit_test(recording_compares_both_phases_and_leaves_no_file),
    };
    memory_install();
    return cmocka_run_group_tests(tests, NULL, NULL);
}
