/* Opening and closing the CUDA device, its memory and copies, and the table of the backend. */

#include "exec/cuda/device.h"
#include "exec/cuda/find_gpu.h"
#include "exec/cuda/router.h"
#include "base/layout.h"

enum { PIECE_SLACK = 256, PIECES = 8 };

static ComputeType compute_of(const DeviceOptions *options)
{
    return options->compute == COMPUTE_DEFAULT ? COMPUTE_BF16 : options->compute;
}

static size_t element_bytes(ComputeType compute)
{
    return compute == COMPUTE_BF16 ? sizeof(uint16_t) : sizeof(float);
}

size_t cuda_weight_bytes(const Device *device)
{
    return element_bytes(device->compute);
}

/* Of the largest expert; 0 without MoE layers. */
static size_t widest_expert(const DeviceOptions *options)
{
    const ModelConfig *config = options->config;
    size_t widest = 0;
    for (uint32_t i = 0; i < config->n_layers; i++) {
        size_t bytes = ffn_layout(&config->layers[i].ffn, element_bytes(compute_of(options))).bytes;
        if (config->layers[i].moe && bytes > widest)
            widest = bytes;
    }
    return widest;
}

/* ---- opening ---- */

static void lay_out_tables(Device *device)
{
    Arena *arena = &device->tables;
    device->stamps = lay_out(arena, device->options.max_stamps, sizeof *device->stamps);
}

static Status make_events(Device *device)
{
    CUDA_TRY(cudaEventCreateWithFlags(&device->queued, cudaEventDisableTiming));
    CUDA_TRY(cudaEventCreate(&device->anchor));
    for (uint32_t i = 0; i < device->options.max_stamps; i++)
        CUDA_TRY(cudaEventCreate(&device->stamps[i]));
    return cuda_make_loads(device, device->options.max_loads);
}

/* The loads' few small kernels go before what computes. */
static Status make_streams(Device *device)
{
    int least;
    int greatest;
    CUDA_TRY(cudaDeviceGetStreamPriorityRange(&least, &greatest));
    CUDA_TRY(cudaStreamCreateWithPriority(&device->stream, cudaStreamNonBlocking, least));
    CUDA_TRY(cudaStreamCreateWithPriority(&device->copies, cudaStreamNonBlocking, greatest));
    return OK;
}

static Status describe(Device *device)
{
    struct cudaDeviceProp properties;
    CUDA_TRY(cudaGetDeviceProperties(&properties, 0));
    device->queue.multiprocessors = (uint32_t)properties.multiProcessorCount;
    if (properties.major != 9)
        return fail(ERR_UNSUPPORTED,
                    "device cuda: %s has compute capability %d.%d: this build runs on 9.0 (Hopper)",
                    properties.name, properties.major, properties.minor);
    return cuda_describe_gpu(device->compute == COMPUTE_BF16 ? "bf16" : "f32", device->description,
                             sizeof device->description);
}

/* One processor is left to the threads of the driver and of the system: where all of them look for
 * work, whoever else must run takes turns with one, which the others then wait for. */
static size_t count_threads(const DeviceOptions *options)
{
    size_t all = thread_count_default();
    if (options->threads > 0)
        return options->threads;
    return all > 2 ? all - 1 : all;
}

static Status open_parts(Device *device)
{
    TRY(cuda_find_gpu());
    TRY(describe(device));
    TRY(make_streams(device));
    TRY(thread_pool_new(count_threads(&device->options), &device->pool));
    lay_out_tables(device);
    TRY(arena_commit(&device->tables, "executor: events"));
    lay_out_tables(device);
    return make_events(device);
}

static void free_events(Device *device)
{
    for (uint32_t i = 0; device->stamps != NULL && i < device->options.max_stamps; i++)
        if (device->stamps[i] != NULL)
            cudaEventDestroy(device->stamps[i]);
    cuda_free_loads(device);
    if (device->queued != NULL)
        cudaEventDestroy(device->queued);
    if (device->anchor != NULL)
        cudaEventDestroy(device->anchor);
}

static void cuda_close(Device *device)
{
    if (device == NULL)
        return;
    cuda_release(device);
    if (device->stream != NULL)
        cudaStreamSynchronize(device->stream);
    if (device->copies != NULL)
        cudaStreamSynchronize(device->copies);
    cuda_forget_graphs(device);
    free_events(device);
    cublas_close(&device->cublas);
    cuda_close_host(device);
    pinned_free(&device->host_memory);
    pinned_free(&device->kept);
    pinned_free(&device->staging);
    pinned_free(&device->told_word);
    pinned_free(&device->held_word);
    if (device->memory.base != NULL)
        device_arena_close(&device->memory);
    if (device->copies != NULL)
        cudaStreamDestroy(device->copies);
    if (device->stream != NULL)
        cudaStreamDestroy(device->stream);
    thread_pool_free(device->pool);
    arena_free(&device->tables);
    mem_free(device);
}

static Status cuda_open(const DeviceOptions *options, Device **out)
{
    Device *device;
    TRY(mem_new(&device, 1, sizeof *device, "executor: device"));
    device->options = *options;
    device->compute = compute_of(options);
    Status status = open_parts(device);
    if (status != OK) {
        cuda_close(device);
        return status;
    }
    *out = device;
    return OK;
}

static const char *cuda_describe(const Device *device)
{
    return device->description;
}

/* ---- memory ---- */

static size_t cuda_memory_bytes(const Device *device)
{
    return device->memory.capacity;
}

/* What the operations need beside what the caller asks for. */
static size_t own_bytes(const DeviceOptions *options, uint32_t multiprocessors)
{
    size_t scratch = ops_scratch_bytes(options, multiprocessors);
    bool bf16 = compute_of(options) == COMPUTE_BF16;
    size_t experts = experts_bytes(options, bf16);
    size_t gating = options->capacity > 0 ? static_gating_bytes(options, bf16) : 0;
    size_t fixed = CUBLAS_WORKSPACE_BYTES + STORE_STAGING_BYTES + 2 * widest_expert(options) +
                   sizeof(uint64_t) + (PIECES + 1) * PIECE_SLACK;
    size_t sum;
    if (__builtin_add_overflow(scratch, experts, &sum) ||
        __builtin_add_overflow(sum, gating, &sum) || __builtin_add_overflow(sum, fixed, &sum))
        return SIZE_MAX;
    return sum;
}

static Status cuda_sizes(const DeviceOptions *options, BackendSizes *sizes)
{
    int multiprocessors;
    TRY(cuda_find_gpu());
    CUDA_TRY(cudaDeviceGetAttribute(&multiprocessors, cudaDevAttrMultiProcessorCount, 0));
    size_t element = element_bytes(compute_of(options));
    *sizes = (BackendSizes){.weight = element,
                            .cache = element,
                            .expert_out =
                                experts_out_bytes(options, compute_of(options) == COMPUTE_BF16),
                            .own = own_bytes(options, (uint32_t)multiprocessors)};
    return OK;
}

static Status take_pieces(Device *device)
{
    DeviceArena *arena = &device->memory;
    const DeviceOptions *options = &device->options;
    size_t expert = widest_expert(options);
    size_t scratch = ops_scratch_bytes(options, device->queue.multiprocessors);
    bool bf16 = device->compute == COMPUTE_BF16;
    void *workspace;
    TRY(device_arena_take(arena, CUBLAS_WORKSPACE_BYTES, 1, &workspace));
    TRY(device_arena_take(arena, STORE_STAGING_BYTES, 1, &device->staging_device));
    TRY(device_arena_take(arena, expert, 1, &device->expert_dense));
    TRY(device_arena_take(arena, expert, 1, &device->expert_form));
    TRY(device_arena_take(arena, 1, sizeof(uint64_t), &device->throttle_start));
    TRY(device_arena_take(arena, scratch, 1, &device->queue.scratch));
    TRY(experts_open(options, bf16, arena, &device->experts));
    if (options->capacity > 0)
        TRY(static_gating_open(options, bf16, &device->cublas, arena, &device->gating));
    TRY(cublas_open(workspace, &device->cublas));
    device->queue.compute = device->compute;
    device->queue.cublas = &device->cublas;
    device->queue.stream = device->stream;
    device->queue.scratch_bytes = scratch;
    return OK;
}

static Status cuda_allocate(Device *device, size_t bytes, void **memory)
{
    size_t all;
    size_t own = own_bytes(&device->options, device->queue.multiprocessors);
    if (__builtin_add_overflow(own, bytes, &all))
        return fail(ERR_MEMORY, "cuda: the device memory wanted does not fit in an address");
    TRY(device_arena_open(all, &device->memory));
    TRY(device_arena_take(&device->memory, bytes, 1, memory));
    TRY(take_pieces(device));
    TRY(pinned_take(device->pool, STORE_STAGING_BYTES, "weights that are converted",
                    &device->staging));
    TRY(pinned_take(device->pool, sizeof device->told, "the word that tells", &device->told_word));
    TRY(pinned_take(device->pool, sizeof device->held, "the word that holds", &device->held_word));
    return cuda_open_host(device);
}

static Status cuda_allocate_host(Device *device, size_t bytes, void **memory)
{
    TRY(pinned_take(device->pool, bytes, "the arrays of a step", &device->host_memory));
    *memory = device->host_memory.memory;
    return OK;
}

/* ---- copies ---- */

static Status copy(Device *device, void *to, const void *from, size_t bytes,
                   enum cudaMemcpyKind kind)
{
    if (bytes > 0)
        CUDA_TRY(cudaMemcpyAsync(to, from, bytes, kind, device->stream));
    return OK;
}

static Status cuda_send(Device *device, void *to, const void *from, size_t bytes)
{
    return copy(device, to, from, bytes, cudaMemcpyHostToDevice);
}

static Status cuda_fetch(Device *device, void *to, const void *from, size_t bytes)
{
    return copy(device, to, from, bytes, cudaMemcpyDeviceToHost);
}

static Status cuda_move(Device *device, void *to, const void *from, size_t bytes)
{
    return copy(device, to, from, bytes, cudaMemcpyDeviceToDevice);
}

static Status cuda_upload(Device *device, void *to, const void *from, size_t bytes)
{
    TRY(cuda_send(device, to, from, bytes));
    return cuda_wait(device);
}

static Status cuda_download(Device *device, void *to, const void *from, size_t bytes)
{
    TRY(cuda_fetch(device, to, from, bytes));
    return cuda_wait(device);
}

/* ---- operations ---- */

static Status cuda_embed(Device *device, const Matrix *table, const uint32_t *ids, uint32_t tokens,
                         float scale, const float *positions, const uint32_t *places, float *out)
{
    return ops_embed(&device->queue, table, ids, tokens, scale, positions, places, out);
}

static Status cuda_norm(Device *device, const Norm *norm, const float *in, const uint32_t *pick,
                        uint32_t rows, uint32_t columns, float *out)
{
    return ops_norm(&device->queue, norm, in, pick, rows, columns, out);
}

static Status cuda_linear(Device *device, const float *in, const Matrix *weight, uint32_t rows,
                          bool add, float *out)
{
    return ops_linear(&device->queue, in, weight, rows, add, out);
}

static Status cuda_linear_mixed(Device *device, const void *mixed, const Matrix *weight,
                                uint32_t rows, float *out)
{
    return ops_linear_mixed(&device->queue, mixed, weight, rows, out);
}

static Status cuda_find_nan(Device *device, const float *in, uint32_t rows, size_t columns,
                            uint32_t *found)
{
    return ops_find_nan(&device->queue, in, rows, columns, found);
}

static Status cuda_find_best(Device *device, const float *in, uint32_t rows, uint32_t columns,
                             uint32_t *best)
{
    return ops_find_best(&device->queue, in, rows, columns, best);
}

static Status cuda_norm_linear(Device *device, const Norm *norm, const float *in,
                               const Matrix *weight, uint32_t rows, float *normed, float *out)
{
    return ops_norm_linear(&device->queue, norm, in, weight, rows, normed, out);
}

static Status cuda_linear_heads(Device *device, const HeadMatrices *matrices, const float *in,
                                uint32_t tokens, float *out)
{
    return ops_linear_heads(&device->queue, matrices, in, tokens, out);
}

static Status cuda_ffn(Device *device, const DenseFfn *ffn, const float *in, uint32_t rows,
                       float *out)
{
    return ops_ffn(&device->queue, ffn, in, rows, out);
}

static Status cuda_append(Device *device, const AppendLayer *layer, const Spans *spans, float *qkv)
{
    return ops_append(&device->queue, layer, spans, qkv);
}

static Status cuda_append_latent(Device *device, const LatentLayer *layer, const Spans *spans,
                                 const float *kv, const float *queries, float *absorbed)
{
    return ops_append_latent(&device->queue, layer, spans, kv, queries, absorbed);
}

static Status cuda_attend(Device *device, const AttendLayer *layer, const Spans *spans,
                          const float *queries, float *out)
{
    return ops_attend(&device->queue, layer, spans, queries, out);
}

static Status cuda_attend_mixed(Device *device, const AttendLayer *layer, const Spans *spans,
                                const float *queries, void *mixed)
{
    return ops_attend_mixed(&device->queue, layer, spans, queries, mixed);
}

static Status cuda_route(Device *device, const Router *router, const float *in, uint32_t tokens,
                         const uint16_t *forced, const float *forced_weights,
                         const Routing *routing)
{
    return router_route(router, device->compute == COMPUTE_BF16, in, tokens, forced, forced_weights,
                        routing, device->stream);
}

static Status cuda_limit(Device *device, uint32_t capacity, uint32_t tokens, uint32_t top_k,
                         uint32_t n_experts, bool normalise, const Routing *routing)
{
    return router_limit(capacity, tokens, top_k, n_experts, normalise, routing, device->stream);
}

static Status cuda_enter_moe(Device *device, const MoeEntry *entry)
{
    MoeEntry rest = *entry;
    if (entry->norm != NULL && entry->norm->kind != NORM_RMS) {
        TRY(cuda_norm(device, entry->norm, entry->in, NULL, entry->tokens,
                      entry->router->matrix.columns, entry->normed));
        rest.norm = NULL;
        rest.in = entry->normed;
    }
    if (experts_entry_fits(&device->experts, &rest))
        return experts_enter(&device->experts, &rest, device->stream);
    return backend_enter_moe(&BACKEND_CUDA, device, &rest);
}

static Status cuda_group(Device *device, const uint16_t *experts, uint32_t tokens, uint32_t top_k,
                         uint32_t n_experts, const RowGroups *groups)
{
    return experts_group(&device->experts, experts, tokens, top_k, n_experts, groups,
                         device->stream);
}

static Status cuda_run_experts(Device *device, const ExpertBatch *batch, const ExpertJob *jobs,
                               uint32_t n_jobs, const float *in, void *out)
{
    return experts_run(&device->experts, batch, jobs, n_jobs, in, out, device->stream);
}

static Status cuda_run_static(Device *device, const ExpertBatch *batch, float scale,
                              const float *in, void *rows, float *out)
{
    (void)rows;
    return static_gating_run(&device->gating, batch, scale, in, out, device->stream);
}

static Status cuda_combine(Device *device, const ExpertBatch *batch, float scale, const void *in,
                           float *out)
{
    return experts_combine(&device->experts, batch, scale, in, out, device->stream);
}

const Backend BACKEND_CUDA = {
    .name = "cuda",
    .loads_at_first_call = true,
    .sizes = cuda_sizes,
    .open = cuda_open,
    .close = cuda_close,
    .describe = cuda_describe,
    .memory_bytes = cuda_memory_bytes,
    .allocate = cuda_allocate,
    .allocate_host = cuda_allocate_host,
    .upload = cuda_upload,
    .download = cuda_download,
    .send = cuda_send,
    .fetch = cuda_fetch,
    .tell = cuda_tell,
    .move = cuda_move,
    .wait = cuda_wait,
    .poll = cuda_poll,
    .begin_step = cuda_begin_step,
    .end_step = cuda_end_step,
    .begin_anew = cuda_begin_anew,
    .store = cuda_store,
    .store_floats = cuda_store_floats,
    .store_ffn = cuda_store_ffn,
    .store_expert = cuda_store_expert,
    .keep_expert = cuda_keep_expert,
    .load = cuda_load,
    .await_loads = cuda_await_loads,
    .link_idle = cuda_link_idle,
    .load_time = cuda_load_time,
    .stamp = cuda_stamp,
    .stamp_times = cuda_stamp_times,
    .hold = cuda_hold,
    .release = cuda_release,
    .embed = cuda_embed,
    .norm = cuda_norm,
    .linear = cuda_linear,
    .linear_mixed = cuda_linear_mixed,
    .norm_linear = cuda_norm_linear,
    .find_nan = cuda_find_nan,
    .find_best = cuda_find_best,
    .linear_heads = cuda_linear_heads,
    .ffn = cuda_ffn,
    .append = cuda_append,
    .append_latent = cuda_append_latent,
    .attend = cuda_attend,
    .attend_mixed = cuda_attend_mixed,
    .route = cuda_route,
    .limit = cuda_limit,
    .group = cuda_group,
    .enter_moe = cuda_enter_moe,
    .run_experts = cuda_run_experts,
    .offer_host = cuda_offer_host,
    .run_host = cuda_run_host,
    .time_host = cuda_time_host,
    .run_static = cuda_run_static,
    .combine = cuda_combine,
};
