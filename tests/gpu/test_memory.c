/* What does not fit is refused in one line that says what was wanted, and so is a missing GPU. */
#include "tests/random_checkpoint.h"

#include <sys/wait.h>
#include <unistd.h>

#include "base/memory.h"
#include "exec/backend.h"
#include "exec/cuda/device_arena.h"
#include "exec/executor.h"

static const char CONFIG[] =
    "{\"model_type\": \"qwen3_moe\", \"vocab_size\": 71, \"num_hidden_layers\": 2, "
    "\"rms_norm_eps\": 1e-5, \"max_position_embeddings\": 40000, \"hidden_size\": 24, "
    "\"hidden_act\": \"silu\", \"num_attention_heads\": 4, \"num_key_value_heads\": 2, "
    "\"head_dim\": 10, \"intermediate_size\": 20, \"moe_intermediate_size\": 12, "
    "\"num_experts\": 7, \"num_experts_per_tok\": 3, \"norm_topk_prob\": true}";

static Status open_with(uint32_t requests, uint32_t length)
{
    Checkpoint *checkpoint;
    Executor *executor = NULL;
    const Plan plan = plan_default();
    const ExecutorOptions options = {.plan = &plan,
                                     .device = "cuda",
                                     .threads = 1,
                                     .max_requests = requests,
                                     .max_length = length,
                                     .max_tokens = 8,
                                     .logits = LOGITS_LAST};
    assert_ok(checkpoint_open(random_checkpoint("model", CONFIG, 3, NULL), &checkpoint));
    Status status = executor_open(checkpoint, &options, &executor);
    executor_close(executor);
    checkpoint_close(checkpoint);
    return status;
}

static void assert_says(const char *const *parts)
{
    for (; *parts != NULL; parts++)
        if (strstr(error_message(), *parts) == NULL)
            fail_msg("wanted \"%s\", got \"%s\"", *parts, error_message());
}

static void an_arena_that_does_not_fit_is_refused_with_the_sizes(void **unused)
{
    (void)unused;
    DeviceArena arena = {0};
    size_t free_bytes;
    size_t all_bytes;
    void *piece;
    assert_int_equal(cudaMemGetInfo(&free_bytes, &all_bytes), cudaSuccess);
    assert_int_equal(device_arena_open(all_bytes + 1, &arena), ERR_MEMORY);
    assert_says((const char *const[]){"device memory", "GiB are wanted", "are free", NULL});
    assert_null(arena.base);
    assert_ok(device_arena_open(1 << 20, &arena));
    assert_ok(device_arena_take(&arena, 1 << 19, 1, &piece));
    assert_int_equal(device_arena_take(&arena, (1 << 19) + 1, 1, &piece), ERR_MEMORY);
    assert_says((const char *const[]){"524289 x 1 bytes are wanted", NULL});
    device_arena_close(&arena);
}

static void a_model_that_does_not_fit_is_refused_part_by_part(void **unused)
{
    (void)unused;
    assert_int_equal(open_with(1000000, 40000), ERR_MEMORY);
    assert_says((const char *const[]){"weights want", "expert slots",
                                      "the KV cache of 1000000 requests of 40000 tokens",
                                      "activations of 8 tokens a step", "GiB are wanted", NULL});
    assert_ok(open_with(2, 16));
}

static void pinned_memory_that_is_not_there_is_an_error(void **unused)
{
    (void)unused;
    Device *device;
    ModelConfig model = {0};
    const Architecture *architecture = NULL;
    void *memory;
    assert_ok(
        model_config_load(random_checkpoint("model", CONFIG, 3, NULL), &model, &architecture));
    const DeviceOptions options = {.config = &model, .threads = 1, .max_tokens = 8};
    assert_ok(BACKEND_CUDA.open(&options, &device));
    assert_int_equal(BACKEND_CUDA.allocate_host(device, (size_t)1 << 50, &memory), ERR_MEMORY);
    assert_says((const char *const[]){"pinned host memory: 1048576.00 GiB are wanted", NULL});
    assert_ok(BACKEND_CUDA.allocate_host(device, 1 << 20, &memory));
    BACKEND_CUDA.close(device);
    model_config_free(&model);
}

/* In a process of its own, which has not yet asked for the GPU. */
static int without_gpu(void)
{
    fflush(NULL);
    pid_t child = fork();
    if (child == 0) {
        setenv("CUDA_VISIBLE_DEVICES", "", 1);
        bool refused = open_with(2, 16) == ERR_UNSUPPORTED &&
                       strstr(error_message(), "there is no GPU that can be used") != NULL;
        if (!refused)
            fprintf(stderr, "got: %s\n", error_message());
        fflush(NULL);
        _exit(refused ? 0 : 1);
    }
    int state = 1;
    return child > 0 && waitpid(child, &state, 0) == child && WIFEXITED(state) ? WEXITSTATUS(state)
                                                                               : 1;
}

static int refused_without_gpu;

static void a_missing_gpu_is_named(void **unused)
{
    (void)unused;
    assert_int_equal(refused_without_gpu, 0);
}

int main(void)
{
    memory_install();
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_missing_gpu_is_named),
        cmocka_unit_test(an_arena_that_does_not_fit_is_refused_with_the_sizes),
        cmocka_unit_test(a_model_that_does_not_fit_is_refused_part_by_part),
        cmocka_unit_test(pinned_memory_that_is_not_there_is_an_error),
    };
    refused_without_gpu = without_gpu();
    return cmocka_run_group_tests(tests, NULL, NULL);
}
