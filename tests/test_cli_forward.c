/* moebius forward. */
#include "tests/cli_run.h"

#include <dirent.h>
#include <math.h>

#include "base/memory.h"
#include "traces/safetensors.h"
#include "tests/checkpoint_maker.h"
#include "tests/json_at.h"
#include "traces/reader.h"
#include "tests/online_maker.h"

static const Tensor *tensor(const SafeTensors *file, const char *name, Dtype dtype, uint32_t rank,
                            uint64_t a, uint64_t b, uint64_t c)
{
    const Tensor *found = safetensors_find(file, name);
    const uint64_t shape[] = {a, b, c};
    if (found == NULL || found->dtype != dtype || found->rank != rank ||
        memcmp(found->shape, shape, rank * sizeof shape[0]) != 0)
        fail_msg("%s: missing, or of another dtype or shape", name);
    return found;
}

static void forward_writes_logits_and_routing_by_layer_number(void **state)
{
    (void)state;
    SafeTensors *file;
    RUN("forward", "--model", model, "--tokens", one, "--key", "ids", "--out", out);
    assert_run_done(&run);
    assert_ok(safetensors_open(out, &file));
    /* Layer 1 is dense. */
    assert_int_equal(safetensors_count(file), 5);
    tensor(file, "logits", DTYPE_F32, 2, LENGTH, VOCABULARY, 0);
    tensor(file, "layer0.weights", DTYPE_F32, 2, LENGTH, 2, 0);
    tensor(file, "layer2.weights", DTYPE_F32, 2, LENGTH, 2, 0);
    tensor(file, "layer2.expert_ids", DTYPE_I32, 2, LENGTH, 2, 0);
    const Tensor *ids = tensor(file, "layer0.expert_ids", DTYPE_I32, 2, LENGTH, 2, 0);
    for (size_t i = 0; i < LENGTH * 2; i++) {
        int32_t id;
        memcpy(&id, (const char *)ids->data + 4 * i, sizeof id);
        assert_in_range(id, 0, 7);
    }
    safetensors_close(file);
}

static void assert_same_file(const char *path, const char *other, double tolerance)
{
    SafeTensors *a;
    SafeTensors *b;
    assert_ok(safetensors_open(path, &a));
    assert_ok(safetensors_open(other, &b));
    assert_int_equal(safetensors_count(a), safetensors_count(b));
    for (size_t i = 0; i < safetensors_count(a); i++) {
        const Tensor *left = safetensors_at(a, i);
        const Tensor *right = safetensors_find(b, left->name);
        assert_true(right != NULL && left->bytes == right->bytes && left->rank == right->rank);
        if (left->dtype != DTYPE_F32) {
            assert_memory_equal(left->data, right->data, left->bytes);
            continue;
        }
        for (size_t j = 0; j < left->bytes / 4; j++) {
            float x;
            float y;
            tensor_to_f32(left, j, 1, &x);
            tensor_to_f32(right, j, 1, &y);
            assert_float_equal(x, y, tolerance);
        }
    }
    safetensors_close(a);
    safetensors_close(b);
}

static void forward_of_a_batch_has_rows_and_is_the_same_however_it_runs(void **state)
{
    (void)state;
    static const char *const VARIANTS[][6] = {
        {"--batch", "3"},
        {"--batch", "16", "--set", "batching.max_tokens=4"},
        {"--set", "buffer.slots=1", "--set", "buffer.evict=lru"},
        {"--batch", "2", "--set", "buffer.slots=5", "--set", "buffer.scope=device"},
        {"--threads", "1", "--set", "gating.mode=static", "--set", "gating.capacity_factor=1"},
    };
    char other[256];
    SafeTensors *file;
    snprintf(other, sizeof other, "%s", scratch_path("other"));
    RUN("forward", "--model", model, "--tokens", batch, "--out", out);
    assert_run_done(&run);
    assert_ok(safetensors_open(out, &file));
    tensor(file, "logits", DTYPE_F32, 3, ROWS, LENGTH, VOCABULARY);
    tensor(file, "layer2.expert_ids", DTYPE_I32, 2, ROWS * LENGTH, 2, 0);
    safetensors_close(file);
    for (size_t i = 0; i < sizeof VARIANTS / sizeof VARIANTS[0]; i++) {
        const char *arguments[16] = {"forward", "--model", model, "--tokens",
                                     batch,     "--out",   other};
        for (size_t j = 0; j < 6; j++)
            arguments[7 + j] = VARIANTS[i][j];
        cli_run(arguments, &run);
        assert_run_done(&run);
        assert_same_file(out, other, 1e-4);
    }
}

static void forward_marks_what_static_gating_drops(void **state)
{
    (void)state;
    SafeTensors *file;
    uint32_t dropped = 0;
    RUN("forward", "--model", model, "--tokens", one, "--out", out, "--set", "gating.mode=static",
        "--set", "gating.capacity_factor=0.01");
    assert_run_done(&run);
    assert_ok(safetensors_open(out, &file));
    const Tensor *ids = tensor(file, "layer0.expert_ids", DTYPE_I32, 2, LENGTH, 2, 0);
    const Tensor *weights = tensor(file, "layer0.weights", DTYPE_F32, 2, LENGTH, 2, 0);
    for (size_t i = 0; i < LENGTH * 2; i++) {
        int32_t id;
        float weight;
        memcpy(&id, (const char *)ids->data + 4 * i, sizeof id);
        tensor_to_f32(weights, i, 1, &weight);
        dropped += id == -1;
        assert_true((id == -1) == (weight == 0.0f));
    }
    safetensors_close(file);
    assert_in_range(dropped, 2 * LENGTH - 8, 2 * LENGTH - 1);
}

static void forward_refuses_what_it_cannot_run(void **state)
{
    (void)state;
    char tokens[256];
    snprintf(tokens, sizeof tokens, "%s", scratch_path("tokens.jsonl"));
    write_text(tokens, "{\"tokens\": [1]}\n{\"tokens\": [2]}\n");
    RUN("forward", "--model", model, "--tokens", tokens, "--out", out);
    assert_refused("2 streams, wanted one");
    RUN("forward", "--model", model, "--tokens", one, "--key", "no", "--out", out);
    assert_refused("key \"no\": not in the file, which has ids");
    RUN("forward", "--model", model, "--tokens", one, "--out", "/nonexistent/out");
    assert_refused("/nonexistent/out: cannot create");
    RUN("forward", "--model", model, "--tokens", one, "--out", out, "--set", "buffer.slots=2",
        "--set", "buffer.evict=belady");
    assert_refused("belady needs the future");
    RUN("forward", "--model", model, "--tokens", "random:1x41", "--out", out);
    assert_refused("41 tokens and 0 to generate, the model allows 40\n"); /* it cuts nothing */
    RUN("forward", "--model", model, "--tokens", one);
    assert_refused("--out is missing");
}

int main(void)
{
    memory_install();
    const struct CMUnitTest tests[] = {
        /* first: they fork, and the others start threads */
        cmocka_unit_test_setup(forward_writes_logits_and_routing_by_layer_number, remove_out),
        cmocka_unit_test_setup(forward_of_a_batch_has_rows_and_is_the_same_however_it_runs,
                               remove_out),
        cmocka_unit_test_setup(forward_marks_what_static_gating_drops, remove_out),
        cmocka_unit_test_setup(forward_refuses_what_it_cannot_run, remove_out),
    };
    return cmocka_run_group_tests(tests, make_files, NULL);
}
