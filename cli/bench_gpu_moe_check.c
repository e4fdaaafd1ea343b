#include <math.h>
#include <string.h>

#include "base/memory.h"
#include "cli/bench_gpu_moe.h"
#include "exec/cuda/reference.h"

/* Host copies of what one check compares. */
typedef struct {
    float *out;
    float *again;
    uint16_t *ids;
    float *weights;
    float *expected;
    float *logits;
    uint32_t picked[BENCH_PICKED];
    uint32_t n_picked;
} Check;

static Status run_twice(MoeBench *bench, Check *check)
{
    size_t elements = (size_t)bench->batch.tokens * bench->shape->d_model;
    size_t bytes = elements * sizeof(float);
    float *const copies[2] = {check->out, check->again};
    for (int i = 0; i < 2; i++) {
        CUDA_TRY(cudaMemsetAsync(bench->out, 0, bytes, bench->stream));
        CUDA_TRY(cudaMemsetAsync(bench->work.inside, 0xFF,
                                 bench->work.max_rows * bench->shape->d_ff * 2, bench->stream));
        CUDA_TRY(cudaMemsetAsync(bench->expert_out, 0xFF,
                                 bench->work.max_rows * bench->shape->d_model * 2, bench->stream));
        TRY(moe_bench_layer(bench, 0));
        CUDA_TRY(
            cudaMemcpyAsync(copies[i], bench->out, bytes, cudaMemcpyDeviceToHost, bench->stream));
        CUDA_TRY(cudaStreamSynchronize(bench->stream));
    }
    return OK;
}

static Status run_reference(MoeBench *bench, Check *check)
{
    const BenchShape *shape = bench->shape;
    const FfnLayout layout = ffn_layout(&bench->layer.ffn, sizeof(uint16_t));
    const Routing *routing = &bench->batch.routing;
    const ReferenceLayer layer = {.expert = bench->layer.ffn,
                                  .top_k = shape->top_k,
                                  .weights = bench->weights,
                                  .stride_bytes = layout.bytes,
                                  .down_at = layout.second};
    size_t rows = (size_t)bench->batch.tokens * shape->top_k;
    cudaStream_t stream = bench->stream;
    check->n_picked = bench->batch.tokens < BENCH_PICKED ? bench->batch.tokens : BENCH_PICKED;
    for (uint32_t i = 0; i < check->n_picked; i++)
        check->picked[i] = (uint32_t)((uint64_t)i * bench->batch.tokens / check->n_picked);
    CUDA_TRY(cudaMemcpyAsync(bench->picked, check->picked, sizeof check->picked,
                             cudaMemcpyHostToDevice, stream));
    TRY(reference_logits(bench->rounded[0], bench->router.matrix.data, shape->d_model,
                         shape->experts, bench->picked, check->n_picked, bench->picked_logits,
                         stream));
    TRY(reference_layer(&layer, bench->rounded[0], routing->experts, routing->weights,
                        bench->picked, check->n_picked, bench->inside, bench->expected, stream));
    CUDA_TRY(cudaMemcpyAsync(check->expected, bench->expected,
                             (size_t)check->n_picked * shape->d_model * 4, cudaMemcpyDeviceToHost,
                             stream));
    CUDA_TRY(cudaMemcpyAsync(check->logits, bench->picked_logits,
                             (size_t)check->n_picked * shape->experts * 4, cudaMemcpyDeviceToHost,
                             stream));
    CUDA_TRY(
        cudaMemcpyAsync(check->ids, routing->experts, rows * 2, cudaMemcpyDeviceToHost, stream));
    CUDA_TRY(cudaMemcpyAsync(check->weights, routing->weights, rows * 4, cudaMemcpyDeviceToHost,
                             stream));
    CUDA_TRY(cudaStreamSynchronize(stream));
    return OK;
}

/* No expert that was not chosen beats one that was, and the weights sum to 1. */
static bool choice_is_right(const BenchShape *shape, const float *logits, const uint16_t *ids,
                            const float *weights)
{
    bool chosen[MAX_EXPERTS] = {false};
    float least = INFINITY;
    float sum = 0;
    for (uint32_t slot = 0; slot < shape->top_k; slot++) {
        if (ids[slot] >= shape->experts || chosen[ids[slot]])
            return false;
        chosen[ids[slot]] = true;
        least = fminf(least, logits[ids[slot]]);
        sum += weights[slot];
    }
    for (uint32_t e = 0; e < shape->experts; e++)
        if (!chosen[e] && logits[e] > least + 1e-3f)
            return false;
    return fabsf(sum - 1) < 1e-5f;
}

static Status judge(const MoeBench *bench, const Check *check, MoeCell *cell)
{
    const BenchShape *shape = bench->shape;
    size_t d = shape->d_model;
    double difference = 0;
    double norm = 0;
    for (size_t i = 0; i < check->n_picked; i++) {
        size_t token = check->picked[i];
        if (!choice_is_right(shape, check->logits + i * shape->experts,
                             check->ids + token * shape->top_k,
                             check->weights + token * shape->top_k))
            return fail(ERR_MISMATCH, "%s: %u tokens: token %zu: the router's choice is wrong",
                        shape->name, bench->batch.tokens, token);
        for (size_t c = 0; c < d; c++) {
            double want = (double)check->expected[i * d + c];
            double got = (double)check->out[token * d + c];
            difference += (got - want) * (got - want);
            norm += want * want;
        }
    }
    cell->error = sqrt(difference / norm);
    cell->repeats = memcmp(check->out, check->again, bench->batch.tokens * d * sizeof(float)) == 0;
    return OK;
}

Status moe_bench_check(MoeBench *bench, MoeCell *cell)
{
    const BenchShape *shape = bench->shape;
    size_t out = (size_t)bench->batch.tokens * shape->d_model;
    size_t rows = (size_t)bench->batch.tokens * shape->top_k;
    Check check = {.n_picked = 0};
    Status status = mem_new(&check.out, out, sizeof(float), "bench: output");
    if (status == OK)
        status = mem_new(&check.again, out, sizeof(float), "bench: output");
    if (status == OK)
        status = mem_new(&check.ids, rows, 2, "bench: ids");
    if (status == OK)
        status = mem_new(&check.weights, rows, 4, "bench: weights");
    if (status == OK)
        status =
            mem_new(&check.expected, (size_t)BENCH_PICKED * shape->d_model, 4, "bench: reference");
    if (status == OK)
        status = mem_new(&check.logits, (size_t)BENCH_PICKED * shape->experts, 4, "bench: logits");
    if (status == OK)
        status = run_twice(bench, &check);
    if (status == OK)
        status = run_reference(bench, &check);
    if (status == OK)
        status = judge(bench, &check, cell);
    mem_free(check.logits);
    mem_free(check.expected);
    mem_free(check.weights);
    mem_free(check.ids);
    mem_free(check.again);
    mem_free(check.out);
    return status;
}
