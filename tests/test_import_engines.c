/* What SGLang, vLLM and TensorRT-LLM dump. The .pt files are torch.save()'s own
 * (tests/files/make_sglang.py). */
#include "base/status.h"
#include "tests/support.h"

#include <sys/stat.h>

#include "tests/import_maker.h"
#include "traces/import_counts.h"
#include "policies/packed_view.h"
#include "traces/pickle.h"
#include "traces/safetensors.h"

static ImportOptions from(ImportFormat format, const char *path)
{
    return (ImportOptions){.from = format, .path = path};
}

/* As topk() and MAP of make_sglang.py. */
static uint16_t sglang_expert(uint32_t pass, uint32_t layer, uint32_t token, uint32_t slot)
{
    uint32_t physical = (pass + 3 * layer + token + (slot == 0 ? 0 : 1 + token % 2)) % 7;
    return physical == 6 ? 2 : (uint16_t)physical;
}

static void sglang_tokens_are_the_logical_experts_of_each_pass(void **unused)
{
    (void)unused;
    static const uint32_t PASSES[3] = {5, 6, 9};
    static const uint32_t TOKENS[3] = {5, 2, 2};
    static const Phase PHASES[3] = {PHASE_PREFILL, PHASE_DECODE, PHASE_DECODE};
    static const uint32_t REQUESTS[3][5] = {{0, 0, 0, 1, 1}, {0, 1}, {0, 1}};
    static const uint32_t POSITIONS[3][5] = {{0, 1, 2, 0, 1}, {3, 2}, {4, 3}};
    const char *out = scratch_name("tokens.db");
    import_to(from(IMPORT_SGLANG, "tests/files/sglang_per_token.pt"), out);
    TraceReader *reader;
    TraceStep step;
    uint32_t n_layers;
    assert_ok(trace_reader_open(out, &reader));
    const TraceLayer *layers = trace_reader_layers(reader, &n_layers);
    assert_int_equal(n_layers, 2);
    assert_int_equal(layers[0].layer, 1);
    assert_int_equal(layers[1].layer, 2);
    assert_int_equal(layers[1].experts, 6);
    assert_int_equal(layers[1].top_k, 2);
    for (uint32_t i = 0; i < 3; i++) {
        assert_ok(trace_reader_next_step(reader, &step));
        assert_int_equal(step.step, PASSES[i]);
        assert_int_equal(step.phase, PHASES[i]);
        assert_int_equal(step.tokens, TOKENS[i]);
        assert_memory_equal(step.request, REQUESTS[i], 4 * step.tokens);
        assert_memory_equal(step.position, POSITIONS[i], 4 * step.tokens);
        for (uint32_t token = 0; token < step.tokens; token++) {
            assert_int_equal(step.rank[token], 1);
            assert_int_equal(step.token[token], 100 + token);
            for (uint32_t layer = 0; layer < 2; layer++)
                for (uint32_t slot = 0; slot < 2; slot++)
                    assert_int_equal(step.experts[(layer * step.tokens + token) * 2 + slot],
                                     sglang_expert(PASSES[i], layer + 1, token, slot));
        }
    }
    trace_reader_close(reader);
}

/* Loads of passes 0 and 1 with 5 and 2 tokens. */
static void assert_sglang_loads(const char *file)
{
    static const uint32_t TOKENS[2] = {5, 2};
    const char *out = scratch_name("counts.db");
    TraceReader *reader;
    TraceEvent event;
    import_to(from(IMPORT_SGLANG_COUNTS, file), out);
    assert_ok(trace_reader_open(out, &reader));
    assert_true(trace_counts_only(trace_reader_run(reader)));
    for (uint32_t pass = 0; pass < 2; pass++)
        for (uint32_t layer = 1; layer <= 2; layer++) {
            uint32_t loads[6] = {0};
            for (uint32_t token = 0; token < TOKENS[pass]; token++)
                for (uint32_t slot = 0; slot < 2; slot++)
                    loads[sglang_expert(pass, layer, token, slot)]++;
            assert_ok(trace_reader_next_event(reader, &event));
            assert_int_equal(event.step, pass);
            assert_int_equal(event.layer_index, layer - 1);
            uint32_t active = 0;
            for (uint32_t expert = 0; expert < 6; expert++)
                if (loads[expert] > 0) {
                    assert_int_equal(event.active[active], expert);
                    assert_int_equal(event.active_tokens[active++], loads[expert]);
                }
            assert_int_equal(active, event.n_active);
        }
    trace_reader_close(reader);
}

static void sglang_counts_per_pass_and_summed_give_the_same_loads(void **unused)
{
    (void)unused;
    assert_sglang_loads("tests/files/sglang_per_pass.pt");
    assert_sglang_loads("tests/files/sglang_stat.pt");
}

static void tokens_without_requests_cannot_be_regrouped(void **unused)
{
    (void)unused;
    const char *out = scratch_name("fixed.db");
    const Batching apart = {BATCHING_APART, 4, 16};
    PackedTrace packed;
    import_to(from(IMPORT_SGLANG, "tests/files/sglang_per_token.pt"), out);
    assert_int_equal(packed_trace_load_view(&out, 1, &apart, NULL, &packed), ERR_INPUT);
    assert_non_null(strstr(error_message(), "does not say which tokens are of one request"));
}

/* FILE with its bytes FIND replaced by the equally long PUT. */
static const char *changed(const char *file, const char *find, const char *put)
{
    char *data;
    size_t bytes;
    size_t length = strlen(find);
    char *path = scratch_name("changed.pt");
    bool found = false;
    assert_ok(file_read_all(file, 1 << 20, &data, &bytes));
    for (size_t i = 0; i + length <= bytes; i++)
        if (memcmp(data + i, find, length) == 0) {
            memcpy(data + i, put, length);
            found = true;
        }
    assert_true(found);
    assert_ok(file_write_all(path, data, bytes));
    mem_free(data);
    return path;
}

static void bad_sglang_dumps_are_refused(void **unused)
{
    (void)unused;
    static const char TOKENS[] = "tests/files/sglang_per_token.pt";
    static const char STAT[] = "tests/files/sglang_stat.pt";
    assert_import_refused(from(IMPORT_SGLANG, text_file("x.pt", "hello")), "not a file of torch");
    assert_import_refused(from(IMPORT_SGLANG, text_file("x.pt", "PK\3\4")), "too short");
    assert_import_refused(from(IMPORT_SGLANG, STAT), "use --from sglang-counts");
    assert_import_refused(from(IMPORT_SGLANG, "tests/files/sglang_per_pass.pt"),
                          "use --from sglang-counts");
    assert_import_refused(
        from(IMPORT_SGLANG, changed(TOKENS, "topk_ids_of_layer", "topk_ids_of_laser")),
        "no topk_ids_of_layer");
    assert_import_refused(from(IMPORT_SGLANG, changed(TOKENS, "positions", "pasitions")),
                          "do not agree");
    assert_import_refused(from(IMPORT_SGLANG, changed(TOKENS, "records", "recards")),
                          "records: a list of passes is wanted");
    assert_import_refused(from(IMPORT_SGLANG_COUNTS, changed(STAT, "torch._utils", "posix sysxxx")),
                          "asks for \"posix sysxxx");
    assert_import_refused(from(IMPORT_SGLANG_COUNTS, changed(STAT, "IntStorage", "OddStorage")),
                          "asks for \"torch OddStorage\"");
    ImportOptions options = from(IMPORT_SGLANG, TOKENS);
    options.experts = 5;
    assert_import_refused(options, "expert 5, --experts says 5");
}

/* Cut anywhere, or with any byte changed: refused or imported, never a crash. */
static void damaged_sglang_dumps_never_crash(void **unused)
{
    (void)unused;
    char *data;
    size_t bytes;
    uint64_t state = 5;
    ImportReport report;
    char *path = scratch_name("damaged.pt");
    char *out = scratch_name("damaged.db");
    assert_ok(file_read_all("tests/files/sglang_per_token.pt", 1 << 20, &data, &bytes));
    ImportOptions options = from(IMPORT_SGLANG, path);
    options.out = out;
    for (int round = 0; round < 200; round++) {
        size_t at = random_next(&state) % bytes;
        char saved = data[at];
        data[at] = (char)random_next(&state);
        assert_ok(file_write_all(path, data, round % 3 == 0 ? at : bytes));
        data[at] = saved;
        if (trace_import(&options, &report) == OK)
            unlink(out);
        else
            assert_nothing_written(out);
    }
    mem_free(data);
}

static const char *tensors_file(const char *folder, const char *name, const Tensor *tensors,
                                size_t n)
{
    static char path[400];
    SafeTensorsWriter *writer;
    snprintf(path, sizeof path, "%s/%s", folder, name);
    assert_ok(safetensors_writer_open(path, tensors, n, &writer));
    for (size_t i = 0; i < n; i++)
        assert_ok(safetensors_writer_append(writer, i, tensors[i].data, tensors[i].bytes));
    assert_ok(safetensors_writer_commit(writer));
    return path;
}

static const char *statistics_folder(const char *name, const char *meta)
{
    char path[400];
    char *folder = scratch_name(name);
    assert_int_equal(mkdir(folder, 0700), 0);
    snprintf(path, sizeof path, "%s/meta_info.json", folder);
    assert_ok(file_write_all(path, meta, strlen(meta)));
    return folder;
}

#define META "{\"num_experts\": 4, \"num_experts_per_token\": 2}"

static Tensor tensor(const char *name, Dtype dtype, uint64_t rows, uint64_t columns,
                     const void *data)
{
    Tensor made = {
        .name = name, .dtype = dtype, .rank = columns > 0 ? 2 : 1, .shape = {rows, columns}};
    made.data = data;
    made.bytes = rows * (columns > 0 ? columns : 1) * dtype_bytes(dtype);
    return made;
}

static void trtllm_raw_statistics_are_tokens_by_rank(void **unused)
{
    (void)unused;
    static const int32_t A[3][2] = {{0, 1}, {2, 3}, {1, 2}};
    static const int32_t B[3][2] = {{3, 1}, {0, 3}, {0, 2}};
    static const int32_t C[1][2] = {{3, 0}};
    static const int32_t D[1][2] = {{1, 0}};
    static const uint16_t WANTED[2][4][2] = {{{0, 1}, {2, 3}, {1, 2}, {3, 0}},
                                             {{3, 1}, {0, 3}, {0, 2}, {1, 0}}};
    const char *folder = statistics_folder("raw", META);
    const Tensor zero[2] = {tensor("7_3", DTYPE_I32, 3, 2, A), tensor("7_10", DTYPE_I32, 3, 2, B)};
    const Tensor one[2] = {tensor("7_3", DTYPE_I32, 1, 2, C), tensor("7_10", DTYPE_I32, 1, 2, D)};
    tensors_file(folder, "rank0_raw.safetensors", zero, 2);
    tensors_file(folder, "rank1_raw.safetensors", one, 2);
    const char *out = scratch_name("raw.db");
    import_to(from(IMPORT_TRTLLM, folder), out);
    TraceReader *reader;
    TraceStep step;
    uint32_t count;
    assert_ok(trace_reader_open(out, &reader));
    const TraceLayer *layers = trace_reader_layers(reader, &count);
    assert_int_equal(layers[0].layer, 3);
    assert_int_equal(layers[1].layer, 10);
    assert_int_equal(layers[1].experts, 4);
    assert_ok(trace_reader_next_step(reader, &step));
    assert_int_equal(step.step, 7);
    assert_int_equal(step.tokens, 4);
    assert_memory_equal(step.experts, WANTED, sizeof WANTED);
    assert_int_equal(step.rank[2], 0);
    assert_int_equal(step.rank[3], 1);
    trace_reader_close(reader);
}

static void trtllm_counts_are_summed_over_ranks(void **unused)
{
    (void)unused;
    static const int64_t A[4] = {3, 0, 1, 0};
    static const int64_t B[4] = {1, 2, 0, 0};
    const char *folder = statistics_folder("sums", META);
    const Tensor zero[1] = {tensor("7_3", DTYPE_I64, 4, 0, A)};
    const Tensor one[1] = {tensor("7_3", DTYPE_I64, 4, 0, B)};
    tensors_file(folder, "rank0.safetensors", zero, 1);
    tensors_file(folder, "rank1.safetensors", one, 1);
    const char *out = scratch_name("sums.db");
    import_to(from(IMPORT_TRTLLM, folder), out);
    TraceReader *reader;
    TraceEvent event;
    assert_ok(trace_reader_open(out, &reader));
    assert_ok(trace_reader_next_event(reader, &event));
    assert_int_equal(event.n_active, 3);
    assert_int_equal(event.active_tokens[0], 4);
    assert_int_equal(event.active_tokens[1], 2);
    assert_int_equal(event.active_tokens[2], 1);
    trace_reader_close(reader);
}

static void bad_trtllm_statistics_are_refused(void **unused)
{
    (void)unused;
    static const int32_t IDS[3][2] = {{0, 1}, {2, 3}, {1, 4}};
    static const float REALS[6] = {0};
    assert_import_refused(from(IMPORT_TRTLLM, "/nowhere"), "not a folder");
    assert_import_refused(from(IMPORT_TRTLLM, statistics_folder("empty", META)),
                          "no rank0.safetensors");
    assert_import_refused(from(IMPORT_TRTLLM, statistics_folder("meta", "{\"num_experts\": 4}")),
                          "num_experts_per_token");
    const char *folder = statistics_folder("range", META);
    Tensor bad[2] = {tensor("7_3", DTYPE_I32, 3, 2, IDS)};
    tensors_file(folder, "rank0_raw.safetensors", bad, 1);
    assert_import_refused(from(IMPORT_TRTLLM, folder), "element 5: 4 is out of range");
    folder = statistics_folder("reals", META);
    bad[0] = tensor("7_3", DTYPE_F32, 3, 2, REALS);
    tensors_file(folder, "rank0_raw.safetensors", bad, 1);
    assert_import_refused(from(IMPORT_TRTLLM, folder), "dtype: F32");
    folder = statistics_folder("key", META);
    bad[0] = tensor("seven", DTYPE_I32, 2, 2, IDS);
    tensors_file(folder, "rank0_raw.safetensors", bad, 1);
    assert_import_refused(from(IMPORT_TRTLLM, folder), "\"iteration_layer\"");
    folder = statistics_folder("shape", META);
    bad[0] = tensor("7_3", DTYPE_I32, 2, 3, IDS);
    tensors_file(folder, "rank0_raw.safetensors", bad, 1);
    assert_import_refused(from(IMPORT_TRTLLM, folder), "does not go with meta_info.json");
    folder = statistics_folder("pieces", META);
    bad[0] = tensor("7_3", DTYPE_I32, 2, 2, IDS);
    bad[1] = tensor("7_4", DTYPE_I32, 1, 2, IDS);
    tensors_file(folder, "rank0_raw.safetensors", bad, 2);
    assert_import_refused(from(IMPORT_TRTLLM, folder), "was the batch run in pieces?");
    folder = statistics_folder("holes", META);
    bad[1] = tensor("8_4", DTYPE_I32, 2, 2, IDS);
    tensors_file(folder, "rank0_raw.safetensors", bad, 2);
    assert_import_refused(from(IMPORT_TRTLLM, folder), "not every layer and rank is there");
}

static const char *responses(const char *text)
{
    return text_file("responses.jsonl", text);
}

static void vllm_responses_are_prompts_and_outputs(void **unused)
{
    (void)unused;
    const char *out = scratch_name("responses.db");
    import_to(
        from(IMPORT_VLLM,
             responses("{\"id\": \"a\", \"prompt_routed_experts\": [[[0, 1], [2, 3]], [[4, 5], [6, "
                       "7]]], \"choices\": [{\"routed_experts\": [[[1, 0], [3, 2]]]}, "
                       "{\"routed_experts\": [[[5, 4], [7, 6]]]}]}\n\n"
                       "{\"choices\": [{\"routed_experts\": [[[0, 2], [1, 3]]]}]}\n")),
        out);
    static const struct {
        Phase phase;
        uint32_t tokens, request, position;
        uint16_t ids[8];
    } WANTED[] = {{PHASE_PREFILL, 2, 0, 0, {0, 1, 4, 5, 2, 3, 6, 7}},
                  {PHASE_DECODE, 1, 0, 2, {1, 0, 3, 2}},
                  {PHASE_DECODE, 1, 1, 2, {5, 4, 7, 6}},
                  {PHASE_DECODE, 1, 2, 0, {0, 2, 1, 3}}};
    TraceReader *reader;
    TraceStep step;
    assert_ok(trace_reader_open(out, &reader));
    for (size_t i = 0; i < 4; i++) {
        assert_ok(trace_reader_next_step(reader, &step));
        assert_int_equal(step.phase, WANTED[i].phase);
        assert_int_equal(step.tokens, WANTED[i].tokens);
        assert_int_equal(step.request[0], WANTED[i].request);
        assert_int_equal(step.position[0], WANTED[i].position);
        assert_memory_equal(step.experts, WANTED[i].ids, 8 * step.tokens);
    }
    assert_int_equal(trace_reader_next_step(reader, &step), STATUS_END);
    trace_reader_close(reader);
}

/* A .npy of int16 [3, 1, 2] as base64. */
static void encode_npy(char *text)
{
    static const char DIGITS[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    static const int16_t IDS[3][2] = {{0, 1}, {2, 3}, {4, 5}};
    char *data;
    size_t bytes;
    const char *path = npy_file("inner.npy", "<i2", "(3, 1, 2)", IDS, sizeof IDS);
    assert_ok(file_read_all(path, 4096, &data, &bytes));
    for (size_t i = 0; i < bytes; i += 3) {
        unsigned char three[3] = {0};
        memcpy(three, data + i, bytes - i < 3 ? bytes - i : 3);
        uint32_t bits = (uint32_t)three[0] << 16 | (uint32_t)three[1] << 8 | three[2];
        for (int j = 0; j < 4; j++)
            *text++ = (size_t)j > bytes - i ? '=' : DIGITS[bits >> (18 - 6 * j) & 63];
    }
    *text = '\0';
    mem_free(data);
}

static void vllm_arrays_in_base64_are_split_by_usage(void **unused)
{
    (void)unused;
    char array[1024];
    char text[4096];
    const char *out = scratch_name("base64.db");
    encode_npy(array);
    snprintf(text, sizeof text,
             "{\"usage\": {\"prompt_tokens\": 2}, \"choices\": [{\"routed_experts\": \"%s\"}, "
             "{\"routed_experts\": \"%s\"}]}",
             array, array);
    ImportReport report = import_to(from(IMPORT_VLLM, responses(text)), out);
    assert_int_equal(report.tokens, 4);
    assert_int_equal(report.steps, 3);
    TraceReader *reader;
    TraceStep step;
    assert_ok(trace_reader_open(out, &reader));
    assert_ok(trace_reader_next_step(reader, &step));
    assert_int_equal(step.phase, PHASE_PREFILL);
    assert_int_equal(step.tokens, 2);
    assert_int_equal(step.experts[3], 3);
    assert_ok(trace_reader_next_step(reader, &step));
    assert_int_equal(step.experts[0], 4);
    assert_int_equal(step.position[0], 2);
    assert_ok(trace_reader_next_step(reader, &step));
    assert_int_equal(step.request[0], 1);
    assert_int_equal(step.experts[1], 5);
    trace_reader_close(reader);
}

static void bad_vllm_responses_are_refused(void **unused)
{
    (void)unused;
    static const struct {
        const char *text;
        const char *wanted;
    } CASES[] = {
        {"", "holds no token"},
        {"{", "responses.jsonl: line 1: not JSON"},
        {"{\"a\": 1}\n", "line 1: choices: a list is wanted"},
        {"\n{\"choices\": [{\"text\": \"\"}]}\n", "line 2: choices: no routed_experts"},
        {"{\"choices\": [{\"routed_experts\": [[1, 2]]}]}\n", "lists [token][layer][k]"},
        {"{\"choices\": [{\"routed_experts\": [[[1, 2], [3]]]}]}\n", "ragged"},
        {"{\"choices\": [{\"routed_experts\": [[[1, 2]], [[3]]]}]}\n",
         "1 layers, top-1; the first"},
        {"{\"choices\": [{\"routed_experts\": [[[1, 2.5]]]}]}\n", "what is no expert id"},
        {"{\"choices\": [{\"routed_experts\": [[[1, 70000]]]}]}\n", "what is no expert id"},
        {"{\"choices\": [{\"routed_experts\": [[[1, null]]]}]}\n", "what is no expert id"},
        {"{\"choices\": [{\"routed_experts\": \"AAAA\"}]}\n", "usage.prompt_tokens"},
        {"{\"usage\": {\"prompt_tokens\": 1}, \"choices\": [{\"routed_experts\": \"A?\"}]}\n",
         "a nested list or base64 is wanted"},
        {"{\"usage\": {\"prompt_tokens\": 1}, \"choices\": [{\"routed_experts\": \"AAAA\"}]}\n",
         "not a .npy file"},
    };
    for (size_t i = 0; i < sizeof CASES / sizeof *CASES; i++)
        assert_import_refused(from(IMPORT_VLLM, responses(CASES[i].text)), CASES[i].wanted);
}

static void every_failed_allocation_leaves_nothing(void **unused)
{
    (void)unused;
    ImportOptions options = from(IMPORT_SGLANG, "tests/files/sglang_per_token.pt");
    options.out = scratch_name("memory.db");
    assert_survives_lost_memory(&options);
    options = from(IMPORT_SGLANG_COUNTS, "tests/files/sglang_per_pass.pt");
    options.out = scratch_name("memory.db");
    assert_survives_lost_memory(&options);
    options = from(IMPORT_VLLM, responses("{\"choices\": [{\"routed_experts\": [[[1, 2]]]}]}"));
    options.out = scratch_name("memory.db");
    assert_survives_lost_memory(&options);
}

int main(void)
{
    memory_install();
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(sglang_tokens_are_the_logical_experts_of_each_pass),
        cmocka_unit_test(sglang_counts_per_pass_and_summed_give_the_same_loads),
        cmocka_unit_test(tokens_without_requests_cannot_be_regrouped),
        cmocka_unit_test(bad_sglang_dumps_are_refused),
        cmocka_unit_test(damaged_sglang_dumps_never_crash),
        cmocka_unit_test(trtllm_raw_statistics_are_tokens_by_rank),
        cmocka_unit_test(trtllm_counts_are_summed_over_ranks),
        cmocka_unit_test(bad_trtllm_statistics_are_refused),
        cmocka_unit_test(vllm_responses_are_prompts_and_outputs),
        cmocka_unit_test(vllm_arrays_in_base64_are_split_by_usage),
        cmocka_unit_test(bad_vllm_responses_are_refused),
        cmocka_unit_test(every_failed_allocation_leaves_nothing),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
