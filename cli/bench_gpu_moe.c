#include <math.h>
#include <string.h>

#include "cli/bench_gpu.h"
#include "cli/bench_gpu_ceilings.h"
#include "cli/bench_gpu_moe.h"
#include "exec/cuda/convert.h"
#include "exec/cuda/random.h"

enum { N_TOKENS = 5, LAYER_ROUNDS = 5, STAGE_ROUNDS = 3 };

static const uint32_t TOKENS[N_TOKENS] = {1, 16, 128, 1024, 4096};
static const double MAX_ERROR = 1e-2; /* bf16 inside and outside, f32 sums */

const char *const MOE_STAGE_NAMES[MOE_STAGES] = {"route", "experts", "combine"};

/* The paper LM's skew has 88 of its experts active at 4096 tokens. */
static const BenchShape SHAPES[] = {{"mixtral-8x7b", 4096, 14336, 8, 2, 0},
                                    {"olmoe-1b-7b", 2048, 1024, 64, 8, 0},
                                    {"qwen3-30b-a3b", 2048, 768, 128, 8, 0},
                                    {"deepseek-v3", 7168, 2048, 256, 8, 0},
                                    {"paper-lm-52b", 1024, 4096, 512, 2, 1.77f},
                                    {"paper-lm-52b, more skewed", 1024, 4096, 512, 2, 2},
                                    {"olmoe-1b-7b, skewed", 2048, 1024, 64, 8, 1},
                                    {"qwen3-30b-a3b, skewed", 2048, 768, 128, 8, 1}};

static size_t expert_bytes(const MoeBench *bench)
{
    return ffn_layout(&bench->layer.ffn, sizeof(uint16_t)).bytes;
}

static DeviceOptions device_options(const MoeBench *bench)
{
    return (DeviceOptions){.config = &bench->model, .max_tokens = TOKENS[N_TOKENS - 1]};
}

static void describe_layer(MoeBench *bench)
{
    const BenchShape *shape = bench->shape;
    bench->layer = (LayerConfig){
        .moe = true,
        .experts = shape->experts,
        .top_k = shape->top_k,
        .router = {.kind = ROUTER_SOFTMAX, .normalise = true, .scale = 1, .groups = 1},
        .ffn = {.d_model = shape->d_model, .d_ff = shape->d_ff, .gated = true}};
    bench->model = (ModelConfig){.d_model = shape->d_model,
                                 .n_layers = 1,
                                 .n_moe_layers = 1,
                                 .max_experts = shape->experts,
                                 .max_top_k = shape->top_k,
                                 .layers = &bench->layer};
}

static size_t arena_bytes(const MoeBench *bench)
{
    const BenchShape *shape = bench->shape;
    const DeviceOptions options = device_options(bench);
    size_t tokens = TOKENS[N_TOKENS - 1];
    size_t activations = tokens * shape->d_model;
    size_t bytes = (shape->experts + 1) * (expert_bytes(bench) + (size_t)shape->d_model * 2);
    bytes += BENCH_INPUTS * activations * (2 + sizeof(float)) + activations * sizeof(float);
    bytes += experts_bytes(&options, true) + experts_out_bytes(&options, true);
    bytes += tokens * (shape->experts * sizeof(float) + shape->top_k * 3 * sizeof(float));
    bytes += BENCH_PICKED * sizeof(float) *
             (shape->experts + (size_t)shape->top_k * shape->d_ff + shape->d_model);
    return bytes + (1 << 20);
}

/* Random weights, made dense and then packed. */
static Status fill_experts(MoeBench *bench)
{
    const FfnShape *shape = &bench->layer.ffn;
    const float deviation = 1 / sqrtf((float)shape->d_model);
    size_t bytes = expert_bytes(bench);
    for (uint32_t e = 0; e < bench->shape->experts; e++) {
        TRY(random_fill(bench->dense, bytes / 2, deviation, 100 + e, bench->stream));
        TRY(packed_expert_store(shape, bench->dense, (unsigned char *)bench->weights + e * bytes,
                                bench->stream));
    }
    return OK;
}

static Status fill(MoeBench *bench)
{
    const BenchShape *shape = bench->shape;
    size_t inputs = (size_t)TOKENS[N_TOKENS - 1] * shape->d_model;
    TRY(fill_experts(bench));
    TRY(random_fill(bench->router.matrix.data, (size_t)shape->experts * shape->d_model,
                    1 / sqrtf((float)shape->d_model), 2, bench->stream));
    for (uint64_t i = 0; i < BENCH_INPUTS; i++) {
        TRY(random_fill(bench->rounded[i], inputs, 1, 10 + i, bench->stream));
        if (shape->skew > 0)
            TRY(random_shift_rows(bench->rounded[i], TOKENS[N_TOKENS - 1], shape->d_model,
                                  shape->skew, 3, bench->stream));
        TRY(convert_to_f32(bench->rounded[i], inputs, bench->in[i], bench->stream));
    }
    return OK;
}

/* What the layer and its operations work in. */
static Status take_layer(MoeBench *bench)
{
    const BenchShape *shape = bench->shape;
    const DeviceOptions options = device_options(bench);
    DeviceArena *arena = &bench->arena;
    size_t tokens = TOKENS[N_TOKENS - 1];
    size_t d = shape->d_model;
    ExpertBatch *batch = &bench->batch;
    Router *router = &bench->router;
    *router = (Router){.config = &bench->layer.router, .top_k = shape->top_k};
    router->matrix = (Matrix){.rows = shape->experts, .columns = shape->d_model};
    TRY(device_arena_take(arena, shape->experts, expert_bytes(bench), &bench->weights));
    TRY(device_arena_take(arena, expert_bytes(bench), 1, &bench->dense));
    TRY(device_arena_take(arena, shape->experts * d, 2, &router->matrix.data));
    TRY(experts_open(&options, true, arena, &bench->work));
    TRY(device_arena_take(arena, experts_out_bytes(&options, true), 1, &bench->expert_out));
    TRY(device_arena_take(arena, tokens * shape->experts, sizeof(float), &batch->routing.scores));
    TRY(device_arena_take(arena, tokens * shape->top_k, 2, &batch->routing.experts));
    TRY(device_arena_take(arena, tokens * shape->top_k, sizeof(float), &batch->routing.weights));
    TRY(device_arena_take(arena, shape->experts + 1, sizeof(uint32_t), &batch->groups.first));
    TRY(device_arena_take(arena, tokens * shape->top_k, sizeof(uint32_t), &batch->groups.rows));
    batch->shape = &bench->layer.ffn;
    batch->top_k = shape->top_k;
    batch->n_experts = shape->experts;
    batch->slots = bench->weights;
    batch->slot_stride = expert_bytes(bench);
    return OK;
}

static Status bench_open(const BenchShape *shape, MoeBench *bench)
{
    *bench = (MoeBench){.shape = shape};
    describe_layer(bench);
    TRY(device_arena_open(arena_bytes(bench), &bench->arena));
    DeviceArena *arena = &bench->arena;
    size_t d = shape->d_model;
    TRY(take_layer(bench));
    for (int i = 0; i < BENCH_INPUTS; i++) {
        TRY(device_arena_take(arena, TOKENS[N_TOKENS - 1] * d, 2, &bench->rounded[i]));
        TRY(device_arena_take(arena, TOKENS[N_TOKENS - 1] * d, sizeof(float), &bench->in[i]));
    }
    TRY(device_arena_take(arena, TOKENS[N_TOKENS - 1] * d, sizeof(float), &bench->out));
    TRY(device_arena_take(arena, BENCH_PICKED, sizeof(uint32_t), &bench->picked));
    TRY(device_arena_take(arena, (size_t)BENCH_PICKED * shape->experts, 4, &bench->picked_logits));
    TRY(device_arena_take(arena, (size_t)BENCH_PICKED * shape->top_k * shape->d_ff, 4,
                          &bench->inside));
    TRY(device_arena_take(arena, BENCH_PICKED * d, 4, &bench->expected));
    CUDA_TRY(cudaStreamCreateWithFlags(&bench->stream, cudaStreamNonBlocking));
    return fill(bench);
}

static void bench_close(MoeBench *bench)
{
    if (bench->stream != NULL)
        cudaStreamDestroy(bench->stream);
    device_arena_close(&bench->arena);
}

/* The layer's input is normed already. */
static Status enter(MoeBench *bench, float *in)
{
    const ExpertBatch *batch = &bench->batch;
    cudaStream_t stream = bench->stream;
    const MoeEntry entry = {.shape = batch->shape,
                            .in = in,
                            .normed = in,
                            .tokens = batch->tokens,
                            .router = &bench->router,
                            .routing = batch->routing,
                            .groups = batch->groups};
    if (experts_entry_fits(&bench->work, &entry))
        return experts_enter(&bench->work, &entry, stream);
    TRY(router_route(&bench->router, true, in, batch->tokens, NULL, NULL, &batch->routing, stream));
    return experts_group(&bench->work, batch->routing.experts, batch->tokens, batch->top_k,
                         batch->n_experts, &batch->groups, stream);
}

/* Queues one operation for input I. */
static Status queue_stage(MoeBench *bench, MoeStage stage, int i)
{
    const ExpertBatch *batch = &bench->batch;
    cudaStream_t stream = bench->stream;
    switch (stage) {
    case MOE_ROUTE:
        return enter(bench, bench->in[i]);
    case MOE_EXPERTS:
        return experts_run(&bench->work, batch, NULL, 0, bench->in[i], bench->expert_out, stream);
    default:
        return experts_combine(&bench->work, batch, 1, bench->expert_out, bench->out, stream);
    }
}

Status moe_bench_layer(MoeBench *bench, int i)
{
    for (int stage = 0; stage < MOE_STAGES; stage++)
        TRY(queue_stage(bench, (MoeStage)stage, i));
    return OK;
}

/* The layer's first operations, up to LAST. */
typedef struct {
    MoeBench *bench;
    MoeStage last;
} LayerPart;

static Status queue_part(void *context, cudaStream_t stream)
{
    const LayerPart *part = context;
    (void)stream; /* the bench's own */
    for (int i = 0; i < BENCH_INPUTS; i++)
        for (int stage = 0; stage <= (int)part->last; stage++)
            TRY(queue_stage(part->bench, (MoeStage)stage, i));
    return OK;
}

/* Experts with at least one token, over the inputs. */
static Status count_active(MoeBench *bench, MoeCell *cell)
{
    uint32_t first[MAX_EXPERTS + 1];
    uint32_t experts = bench->shape->experts;
    double active = 0;
    for (int i = 0; i < BENCH_INPUTS; i++) {
        TRY(moe_bench_layer(bench, i));
        CUDA_TRY(cudaMemcpyAsync(first, bench->batch.groups.first, (experts + 1) * sizeof *first,
                                 cudaMemcpyDeviceToHost, bench->stream));
        CUDA_TRY(cudaStreamSynchronize(bench->stream));
        for (uint32_t e = 0; e < experts; e++)
            active += first[e + 1] > first[e];
    }
    cell->active = active / BENCH_INPUTS;
    return OK;
}

/* The product has the clock that power leaves to the layer. Copies need less of it: in turn with
 * them both would be faster than they are for long. */
static Status time_layer(MoeBench *bench, CeilingsRig *rig, MoeCell *cell)
{
    LayerPart layer = {bench, MOE_COMBINE};
    TimedWork works[] = {{queue_part, &layer, 0}, {queue_device_product, &rig->product, 0}};
    TRY(measure_in_turn(works, 2, LAYER_ROUNDS, bench->stream));
    cell->milliseconds = works[0].milliseconds / BENCH_INPUTS;
    cell->flops_per_s = device_product_rate(&rig->product, works[1].milliseconds);
    return measure_copy(&rig->copy, bench->stream, &cell->bytes_per_s);
}

/* A stage's time is what the layer takes longer with it than without it and those after it. */
static Status time_stages(MoeBench *bench, MoeCell *cell)
{
    LayerPart parts[MOE_STAGES];
    TimedWork works[MOE_STAGES];
    double before = 0;
    for (int stage = 0; stage < MOE_STAGES; stage++) {
        parts[stage] = (LayerPart){bench, (MoeStage)stage};
        works[stage] = (TimedWork){queue_part, &parts[stage], 0};
    }
    TRY(measure_in_turn(works, MOE_STAGES, STAGE_ROUNDS, bench->stream));
    for (int stage = 0; stage < MOE_STAGES; stage++) {
        double milliseconds = works[stage].milliseconds / BENCH_INPUTS;
        cell->stages_ms[stage] = milliseconds - before;
        before = milliseconds;
    }
    return OK;
}

static Status run_cell(MoeBench *bench, CeilingsRig *rig, const Ceilings *cool, MoeCell *cell)
{
    const BenchShape *shape = bench->shape;
    *cell = (MoeCell){.shape = shape->name, .tokens = bench->batch.tokens};
    TRY(count_active(bench, cell));
    TRY(moe_bench_check(bench, cell));
    TRY(time_layer(bench, rig, cell));
    TRY(time_stages(bench, cell));
    double bytes = cell->active * (double)expert_bytes(bench);
    double flops = (double)bench->batch.tokens * shape->top_k * (double)expert_bytes(bench);
    cell->floor_ms = 1e3 * fmax(bytes / cell->bytes_per_s, flops / cell->flops_per_s);
    cell->cool_floor_ms = 1e3 * fmax(bytes / cool->bytes_per_s, flops / cool->flops_per_s);
    return OK;
}

static Status run_shape(const BenchShape *shape, CeilingsRig *rig, const Ceilings *cool,
                        MoeCell *cells)
{
    MoeBench bench;
    Status status = bench_open(shape, &bench);
    for (int i = 0; status == OK && i < N_TOKENS; i++) {
        bench.batch.tokens = TOKENS[i];
        status = run_cell(&bench, rig, cool, &cells[i]);
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

/* NULL stands for all. */
static bool is_measured(const char *shape)
{
    bool found = shape == NULL;
    for (size_t i = 0; i < sizeof SHAPES / sizeof *SHAPES && !found; i++)
        found = strcmp(shape, SHAPES[i].name) == 0;
    return found;
}

enum { N_SHAPES = sizeof SHAPES / sizeof *SHAPES };

static Status run_shapes(const char *only, CeilingsRig *rig, const Ceilings *cool, MoeCell *cells,
                         size_t *n)
{
    for (int i = 0; i < N_SHAPES; i++) {
        if (only != NULL && strcmp(only, SHAPES[i].name) != 0)
            continue;
        TRY(run_shape(&SHAPES[i], rig, cool, cells + *n));
        *n += N_TOKENS;
    }
    return OK;
}

Status bench_gpu_moe_layer(const BenchGpuOptions *options)
{
    MoeCell cells[N_SHAPES * N_TOKENS];
    Ceilings ceilings = {0};
    CeilingsRig rig;
    size_t n = 0;
    if (!is_measured(options->shape))
        return fail(ERR_USAGE, "moe-layer: '%s' is no layer that is measured", options->shape);
    Status status = ceilings_rig_open(&rig);
    if (status == OK)
        status = ceilings_rig_measure(&rig, &ceilings);
    if (status == OK)
        status = run_shapes(options->shape, &rig, &ceilings, cells, &n);
    ceilings_rig_close(&rig);
    TRY(status);
    TRY(options->json ? moe_cells_print_json(options, &ceilings, cells, n)
                      : moe_cells_print(&ceilings, cells, n));
    return check_cells(cells, n);
}
