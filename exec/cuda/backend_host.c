/* Experts on the host's cores beside the GPU: what they read of a layer comes over the link before
 * the host has the event's counts, what they give is fetched by a kernel that puts it among
 * the rows of the others.
 *
 * The kernel reads the pinned rows where they are, so that they do not queue up behind loads; where
 * there are some, it runs in a stream of its own. Two buffers take turns where an event has more
 * rows than are computed at a time. */
#include "exec/cuda/device.h"
#include "base/layout.h"

/* Longer than most layers take; whoever sleeps is roused before the counts are waited for. */
enum { AWAKE_NS = 20000000 };

static void lay_out_host(Device *device, Arena *arena)
{
    const DeviceOptions *options = &device->options;
    const ModelConfig *config = options->config;
    HostSide *side = &device->host_side;
    size_t rows = host_experts_rows(config, options->max_tokens);
    side->in = lay_out(arena, times(options->max_tokens, config->d_model), sizeof *side->in);
    side->group_rows =
        lay_out(arena, times(options->max_tokens, config->max_top_k), sizeof *side->group_rows);
    side->group_first = lay_out(arena, (size_t)config->max_experts + 1, sizeof *side->group_first);
    for (size_t i = 0; i < HOST_BUFFERS; i++) {
        side->buffers[i].out = lay_out(arena, times(rows, config->d_model), sizeof(float));
        side->buffers[i].rows = lay_out(arena, rows, sizeof *side->buffers[i].rows);
    }
}

Status cuda_open_host(Device *device)
{
    HostSide *side = &device->host_side;
    Arena arena = {0};
    if (!device->options.host || device->options.config->max_experts == 0)
        return OK;
    lay_out_host(device, &arena);
    if (arena.overflow)
        return fail(ERR_MEMORY, "cuda: rows of host experts do not fit in an address");
    TRY(pinned_take(device->pool, arena.capacity, "rows of experts on the host", &side->memory));
    arena.base = side->memory.memory;
    lay_out_host(device, &arena);
    CUDA_TRY(cudaStreamCreateWithFlags(&side->results, cudaStreamNonBlocking));
    for (size_t i = 0; i < HOST_BUFFERS; i++)
        CUDA_TRY(cudaEventCreateWithFlags(&side->buffers[i].fetched, cudaEventDisableTiming));
    thread_pool_keep_awake(device->pool, AWAKE_NS);
    thread_pool_spare_caller(device->pool);
    return host_experts_new(device->options.config, device->options.max_tokens, device->pool,
                            &side->experts);
}

void cuda_close_host(Device *device)
{
    HostSide *side = &device->host_side;
    if (side->results != NULL)
        cudaStreamSynchronize(side->results);
    for (size_t i = 0; i < HOST_BUFFERS; i++)
        if (side->buffers[i].fetched != NULL)
            cudaEventDestroy(side->buffers[i].fetched);
    if (side->results != NULL)
        cudaStreamDestroy(side->results);
    host_experts_free(side->experts);
    pinned_free(&side->memory);
}

/* Few rows come with the counts, by the kernel that tells them. */
Status cuda_offer_host(Device *device, const ExpertBatch *batch, const float *in)
{
    const HostSide *side = &device->host_side;
    size_t assignments = (size_t)batch->tokens * batch->top_k;
    thread_pool_rouse(device->pool);
    TRY(cuda_tell(device, side->in, in,
                  (size_t)batch->tokens * batch->shape->d_model * sizeof *side->in));
    TRY(cuda_tell(device, side->group_first, batch->groups.first,
                  ((size_t)batch->n_experts + 1) * sizeof *side->group_first));
    return cuda_tell(device, side->group_rows, batch->groups.rows,
                     assignments * sizeof *side->group_rows);
}

static HostForm form_of(const Device *device, const FfnShape *shape)
{
    bool bf16 = device->compute == COMPUTE_BF16;
    return experts_packed(shape, bf16) ? HOST_PACKED : bf16 ? HOST_BF16 : HOST_F32;
}

/* Has the GPU fetch N rows of BUFFER, in STREAM. */
static Status put_rows(const Device *device, const ExpertBatch *batch, HostBuffer *buffer,
                       uint32_t n, void *out, cudaStream_t stream)
{
    TRY(experts_put_rows(&device->experts, batch, buffer->rows, n, buffer->out, out, stream));
    CUDA_TRY(cudaEventRecord(buffer->fetched, stream));
    buffer->used = true;
    return OK;
}

/* Where nothing is loaded the hits are done sooner than what the host computes, and behind them is
 * no wait for another stream. */
static Status choose_stream(Device *device, cudaStream_t *stream)
{
    bool idle;
    TRY(cuda_link_idle(device, &idle));
    *stream = idle ? device->stream : device->host_side.results;
    return OK;
}

Status cuda_run_host(Device *device, const ExpertBatch *batch, const HostJob *jobs, uint32_t n_jobs,
                     const float *in, void *out)
{
    HostSide *side = &device->host_side;
    HostWork work = {.shape = batch->shape,
                     .form = form_of(device, batch->shape),
                     .top_k = batch->top_k,
                     .groups = {side->group_first, side->group_rows},
                     .jobs = jobs,
                     .n_jobs = n_jobs,
                     .in = side->in};
    cudaStream_t stream;
    (void)in;
    TRY(choose_stream(device, &stream));
    for (size_t i = 0; i < HOST_BUFFERS; i++)
        side->buffers[i].used = false;
    for (size_t turn = 0;; turn++) {
        HostBuffer *buffer = &side->buffers[turn % HOST_BUFFERS];
        if (buffer->used)
            CUDA_TRY(cudaEventSynchronize(buffer->fetched));
        uint32_t n = host_experts_next(side->experts, &work, false, buffer->out, buffer->rows);
        if (n == 0)
            break;
        TRY(put_rows(device, batch, buffer, n, out, stream));
    }
    for (size_t i = 0; i < HOST_BUFFERS; i++)
        if (side->buffers[i].used && stream != device->stream)
            CUDA_TRY(cudaStreamWaitEvent(device->stream, side->buffers[i].fetched, 0));
    return OK;
}

Status cuda_time_host(Device *device, const FfnShape *shape, const HostJob *jobs, uint32_t n_jobs,
                      uint64_t *ns)
{
    host_experts_time(device->host_side.experts, shape, form_of(device, shape), jobs, n_jobs, ns);
    return OK;
}
