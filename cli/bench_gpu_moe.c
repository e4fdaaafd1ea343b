#include <math.h>
#include <string.h>

#include "cli/bench_gpu.h"
#include "cli/bench_gpu_moe.h"
#include "exec/cuda/measure.h"
#include "exec/cuda/random.h"

enum { N_TOKENS = 5, REPEATS = 15 };

static const uint32_t TOKENS[N_TOKENS] = {1, 16, 128, 1024, 4096};
static const double MAX_ERROR = 1e-2; /* bf16 inside and outside, f32 sums */

static const BenchShape SHAPES[] = {
    {"mixtral-8x7b", 4096, 14336, 8, 2, 0},         {"olmoe-1b-7b", 2048, 1024, 64, 8, 0},
    {"qwen3-30b-a3b", 2048, 768, 128, 8, 0},        {"deepseek-v3", 7168, 2048, 256, 8, 0},
    {"paper-lm-52b", 1024, 4096, 512, 2, 2},        {"olmoe-1b-7b, skewed", 2048, 1024, 64, 8, 1},
    {"qwen3-30b-a3b, skewed", 2048, 768, 128, 8, 1}};

static size_t expert_bytes(const BenchShape *shape)
{
    const ExpertShape expert = bench_expert(shape);
    return packed_expert_bytes(&expert);
}

static MoeLayerShape layer_shape(const MoeBench *bench)
{
    const BenchShape *shape = bench->shape;
    return (MoeLayerShape){.expert = bench_expert(shape),
                           .experts = shape->experts,
                           .top_k = shape->top_k,
                           .normalise = true,
                           .max_tokens = TOKENS[N_TOKENS - 1],
                           .router = bench->router,
                           .weights = bench->weights,
                           .stride_bytes = expert_bytes(shape)};
}

static size_t arena_bytes(const MoeBench *bench)
{
    const BenchShape *shape = bench->shape;
    const MoeLayerShape layer = layer_shape(bench);
    size_t activations = (size_t)TOKENS[N_TOKENS - 1] * shape->d_model * 2;
    size_t bytes = (shape->experts + 1) * (expert_bytes(shape) + (size_t)shape->d_model * 2);
    bytes += (BENCH_INPUTS + 2) * activations + moe_layer_bytes(&layer);
    bytes += BENCH_PICKED * sizeof(float) *
             (shape->experts + (size_t)shape->top_k * shape->d_ff + shape->d_model);
    return bytes + CUBLAS_WORKSPACE_BYTES + (1 << 20);
}

/* Random weights, made dense and then packed. */
static Status fill_experts(MoeBench *bench)
{
    const ExpertShape shape = bench_expert(bench->shape);
    size_t matrix = (size_t)shape.d_model * shape.d_ff;
    const float deviation = 1 / sqrtf((float)shape.d_model);
    unsigned char *gate = bench->dense;
    unsigned char *up = gate + 2 * matrix;
    unsigned char *down = up + 2 * matrix;
    for (uint32_t e = 0; e < bench->shape->experts; e++) {
        TRY(random_fill(bench->dense, 3 * matrix, deviation, 100 + e, bench->stream));
        unsigned char *packed = (unsigned char *)bench->weights + e * expert_bytes(bench->shape);
        TRY(packed_expert_store(&shape, gate, up, down, packed, packed + packed_up_bytes(&shape),
                                bench->stream));
    }
    return OK;
}

static Status fill(MoeBench *bench)
{
    const BenchShape *shape = bench->shape;
    size_t inputs = (size_t)TOKENS[N_TOKENS - 1] * shape->d_model;
    TRY(fill_experts(bench));
    TRY(random_fill(bench->router, (size_t)shape->experts * shape->d_model,
                    1 / sqrtf((float)shape->d_model), 2, bench->stream));
    for (uint64_t i = 0; i < BENCH_INPUTS; i++) {
        TRY(random_fill(bench->in[i], inputs, 1, 10 + i, bench->stream));
        if (shape->skew > 0)
            TRY(random_shift_rows(bench->in[i], TOKENS[N_TOKENS - 1], shape->d_model, shape->skew,
                                  3, bench->stream));
    }
    return OK;
}

static Status bench_open(const BenchShape *shape, MoeBench *bench)
{
    void *workspace;
    *bench = (MoeBench){.shape = shape};
    TRY(device_arena_open(arena_bytes(bench), &bench->arena));
    DeviceArena *arena = &bench->arena;
    size_t d = shape->d_model;
    TRY(device_arena_take(arena, shape->experts, expert_bytes(shape), &bench->weights));
    TRY(device_arena_take(arena, 3 * d * shape->d_ff, 2, &bench->dense));
    TRY(device_arena_take(arena, shape->experts * d, 2, &bench->router));
    for (int i = 0; i < BENCH_INPUTS; i++)
        TRY(device_arena_take(arena, TOKENS[N_TOKENS - 1] * d, 2, &bench->in[i]));
    TRY(device_arena_take(arena, TOKENS[N_TOKENS - 1] * d, 2, &bench->out));
    TRY(device_arena_take(arena, BENCH_PICKED, sizeof(uint32_t), &bench->picked));
    TRY(device_arena_take(arena, (size_t)BENCH_PICKED * shape->experts, 4, &bench->picked_logits));
    TRY(device_arena_take(arena, (size_t)BENCH_PICKED * shape->top_k * shape->d_ff, 4,
                          &bench->inside));
    TRY(device_arena_take(arena, BENCH_PICKED * d, 4, &bench->expected));
    TRY(device_arena_take(arena, CUBLAS_WORKSPACE_BYTES, 1, &workspace));
    CUDA_TRY(cudaStreamCreateWithFlags(&bench->stream, cudaStreamNonBlocking));
    TRY(cublas_open(workspace, &bench->cublas));
    const MoeLayerShape layer = layer_shape(bench);
    TRY(moe_layer_open(&layer, arena, &bench->cublas, &bench->layer));
    return fill(bench);
}

static void bench_close(MoeBench *bench)
{
    cublas_close(&bench->cublas);
    if (bench->stream != NULL)
        cudaStreamDestroy(bench->stream);
    device_arena_close(&bench->arena);
}

static Status queue_layers(void *context, cudaStream_t stream)
{
    const MoeBench *bench = context;
    for (int i = 0; i < BENCH_INPUTS; i++) {
        for (int stage = 0; stage < (int)bench->n_stages; stage++)
            TRY(moe_layer_stage(&bench->layer, (MoeStage)stage, bench->tokens, bench->in[i],
                                bench->out, stream));
    }
    return OK;
}

/* Experts with at least one token, over the inputs. */
static Status count_active(MoeBench *bench, MoeCell *cell)
{
    uint32_t first[MAX_EXPERTS + 1];
    uint32_t experts = bench->shape->experts;
    double active = 0;
    for (int i = 0; i < BENCH_INPUTS; i++) {
        TRY(moe_layer_run(&bench->layer, bench->tokens, bench->in[i], bench->out, bench->stream));
        CUDA_TRY(cudaMemcpyAsync(first, bench->layer.grouping.count_before,
                                 (experts + 1) * sizeof *first, cudaMemcpyDeviceToHost,
                                 bench->stream));
        CUDA_TRY(cudaStreamSynchronize(bench->stream));
        for (uint32_t e = 0; e < experts; e++)
            active += first[e + 1] > first[e];
    }
    cell->active = active / BENCH_INPUTS;
    return OK;
}

/* A stage's time is what the layer takes longer with it than without it and those after it. */
static Status time_stages(MoeBench *bench, MoeCell *cell)
{
    double before = 0;
    for (int stage = 0; stage < MOE_STAGES; stage++) {
        bench->n_stages = (uint32_t)stage + 1;
        TRY(measure_graph(queue_layers, bench, REPEATS, bench->stream, &cell->milliseconds));
        cell->milliseconds /= BENCH_INPUTS;
        cell->stages_ms[stage] = cell->milliseconds - before;
        before = cell->milliseconds;
    }
    return OK;
}

static Status run_cell(MoeBench *bench, const Ceilings *ceilings, MoeCell *cell)
{
    const BenchShape *shape = bench->shape;
    *cell = (MoeCell){.shape = shape->name, .tokens = bench->tokens};
    TRY(count_active(bench, cell));
    TRY(moe_bench_check(bench, cell));
    double bytes = cell->active * (double)expert_bytes(shape);
    double flops = (double)bench->tokens * shape->top_k * (double)expert_bytes(shape);
    cell->floor_ms = 1e3 * fmax(bytes / ceilings->bytes_per_s, flops / ceilings->flops_per_s);
    return time_stages(bench, cell);
}

static Status run_shape(const BenchShape *shape, const Ceilings *ceilings, MoeCell *cells)
{
    MoeBench bench;
    Status status = bench_open(shape, &bench);
    for (int i = 0; status == OK && i < N_TOKENS; i++) {
        bench.tokens = TOKENS[i];
        status = run_cell(&bench, ceilings, &cells[i]);
    }
    bench_close(&bench);
    return fail_in(status, "%s", shape->name);
}

static Status check_cells(const MoeCell *cells, size_t n)
{
    for (size_t i = 0; i < n; i++)
        if (!(cells[i].error < MAX_ERROR) || !cells[i].repeats)
            return fail(ERR_MISMATCH, "%s: %u tokens: error %.4f, %s", cells[i].shape,
                        cells[i].tokens, cells[i].error,
                        cells[i].repeats ? "repeats" : "does not repeat");
    return OK;
}

Status bench_gpu_moe_layer(const BenchGpuOptions *options)
{
    enum { N_SHAPES = sizeof SHAPES / sizeof *SHAPES };
    MoeCell cells[N_SHAPES * N_TOKENS];
    Ceilings ceilings = {0};
    size_t n = 0;
    TRY(ceilings_measure(&ceilings));
    for (int i = 0; i < N_SHAPES; i++) {
        if (options->shape != NULL && strcmp(options->shape, SHAPES[i].name) != 0)
            continue;
        TRY(run_shape(&SHAPES[i], &ceilings, cells + n));
        n += N_TOKENS;
    }
    if (n == 0)
        return fail(ERR_USAGE, "moe-layer: '%s' is no layer that is measured", options->shape);
    TRY(options->json ? moe_cells_print_json(&ceilings, cells, n)
                      : moe_cells_print(&ceilings, cells, n));
    return check_cells(cells, n);
}
