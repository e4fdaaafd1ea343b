/* Weights from the checkpoint into device memory, and experts into pinned memory for the loads. */
#include "exec/cuda/convert.h"
#include "exec/cuda/device.h"
#include "exec/cuda/synthetic.h"

enum { STAGING_ALIGNMENT = 256 };

typedef struct {
    const Part *part;
    uint32_t first;
    float *to;
} ConvertTask;

static void convert_row(void *argument, size_t item, size_t worker)
{
    (void)worker;
    const ConvertTask *task = argument;
    part_row(task->part, task->first + (uint32_t)item, task->to + item * task->part->columns);
}

static Status wait_for_stores(Device *device)
{
    CUDA_TRY(cudaStreamSynchronize(device->stream));
    device->reads_sources = false;
    device->staged = 0;
    return OK;
}

/* What was made up has no source that somebody may change. */
static Status wait_for_sources(Device *device)
{
    return device->reads_sources ? wait_for_stores(device) : OK;
}

/* Elements that are stored as the device wants them are copied from the map, rows that lie one
 * behind the other at once. */
static Status copy_part(Device *device, const Part *part, size_t element, void *to)
{
    const unsigned char *from = (const unsigned char *)part->tensor.data + part->first * element;
    size_t width = part->columns * element;
    size_t pitch = part->row_step * element;
    if (pitch == width)
        CUDA_TRY(
            cudaMemcpyAsync(to, from, part->rows * width, cudaMemcpyHostToDevice, device->stream));
    else
        CUDA_TRY(cudaMemcpy2DAsync(to, width, from, pitch, width, part->rows,
                                   cudaMemcpyHostToDevice, device->stream));
    device->reads_sources = true;
    return OK;
}

/* BYTES of the staging memory, behind what the queue may still read; *AT is where. */
static Status take_staging(Device *device, size_t bytes, size_t *at)
{
    if (bytes > STORE_STAGING_BYTES - device->staged)
        TRY(wait_for_stores(device));
    *at = device->staged;
    device->staged += (bytes + STAGING_ALIGNMENT - 1) / STAGING_ALIGNMENT * STAGING_ALIGNMENT;
    device->reads_sources = true;
    return OK;
}

/* Rows [first, first + n) by way of the staging memory. */
static Status convert_rows(Device *device, const Part *part, uint32_t first, uint32_t n, bool bf16,
                           unsigned char *to)
{
    size_t count = (size_t)n * part->columns;
    size_t at;
    TRY(take_staging(device, count * sizeof(float), &at));
    float *converted = device->staging.memory;
    ConvertTask task = {part, first, converted + at / sizeof(float)};
    thread_pool_run(device->pool, n, convert_row, &task);
    void *floats = bf16 ? (unsigned char *)device->staging_device + at : to;
    CUDA_TRY(cudaMemcpyAsync(floats, task.to, count * sizeof(float), cudaMemcpyHostToDevice,
                             device->stream));
    return bf16 ? convert_to_bf16(floats, count, to, device->stream) : OK;
}

/* Nothing crosses the link, and nobody waits: what reads the elements is queued after them. */
static Status make_elements(Device *device, const Part *part, bool bf16, void *to)
{
    const SyntheticPart made = {.tensor = *part->tensor.synthetic,
                                .first = part->first,
                                .row_step = part->row_step,
                                .column_step = part->column_step,
                                .rows = part->rows,
                                .columns = part->columns};
    return synthetic_store(&made, bf16, to, device->stream);
}

/* What was given must stay as it is until wait_for_sources(). */
static Status queue_elements(Device *device, const Part *part, bool bf16, void *to)
{
    size_t element = bf16 ? sizeof(uint16_t) : sizeof(float);
    if (part->rows == 0 || part->columns == 0)
        return OK;
    if (part->tensor.synthetic != NULL)
        return make_elements(device, part, bf16, to);
    if (part->column_step == 1 && part->tensor.dtype == (bf16 ? DTYPE_BF16 : DTYPE_F32))
        return copy_part(device, part, element, to);
    size_t at_once = STORE_STAGING_BYTES / (part->columns * sizeof(float));
    if (at_once == 0)
        return fail(ERR_UNSUPPORTED, "device cuda: a matrix of %u columns: at most %zu",
                    part->columns, STORE_STAGING_BYTES / sizeof(float));
    for (uint32_t first = 0; first < part->rows; first += (uint32_t)at_once) {
        uint32_t left = part->rows - first;
        TRY(convert_rows(device, part, first, left < at_once ? left : (uint32_t)at_once, bf16,
                         (unsigned char *)to + (size_t)first * part->columns * element));
    }
    return OK;
}

static Status queue_floats(Device *device, const Part *part, float *to)
{
    return queue_elements(device, part, false, to);
}

Status cuda_store(Device *device, const Part *part, void *to)
{
    TRY(queue_elements(device, part, device->compute == COMPUTE_BF16, to));
    return wait_for_sources(device);
}

Status cuda_store_floats(Device *device, const Part *part, float *to)
{
    TRY(queue_floats(device, part, to));
    return wait_for_sources(device);
}

static Status queue_ffn(Device *device, const FfnShape *shape, const FfnTensors *tensors, void *to)
{
    const bool bf16 = device->compute == COMPUTE_BF16;
    unsigned char *block = to;
    FfnLayout layout = ffn_layout(shape, cuda_weight_bytes(device));
    size_t gate_bytes = (size_t)shape->d_ff * shape->d_model * cuda_weight_bytes(device);
    unsigned char *up = block + layout.first + (shape->gated ? gate_bytes : 0);
    float *first_bias = (float *)(void *)(block + layout.first_bias);
    if (shape->gated)
        TRY(queue_elements(device, &tensors->gate, bf16, block + layout.first));
    TRY(queue_elements(device, &tensors->up, bf16, up));
    TRY(queue_elements(device, &tensors->down, bf16, block + layout.second));
    if (!shape->bias)
        return OK;
    if (shape->gated)
        TRY(queue_floats(device, &tensors->gate_bias, first_bias));
    TRY(queue_floats(device, &tensors->up_bias, first_bias + (shape->gated ? shape->d_ff : 0)));
    return queue_floats(device, &tensors->down_bias, (float *)(void *)(block + layout.second_bias));
}

Status cuda_store_ffn(Device *device, const FfnShape *shape, const FfnTensors *tensors, void *to)
{
    TRY(queue_ffn(device, shape, tensors, to));
    return wait_for_sources(device);
}

static Status queue_expert(Device *device, const FfnShape *shape, const FfnTensors *tensors,
                           void *to)
{
    if (!experts_packed(shape, device->compute == COMPUTE_BF16))
        return queue_ffn(device, shape, tensors, to);
    TRY(queue_ffn(device, shape, tensors, device->expert_dense));
    return packed_expert_store(shape, device->expert_dense, to, device->stream);
}

Status cuda_store_expert(Device *device, const FfnShape *shape, const FfnTensors *tensors, void *to)
{
    TRY(queue_expert(device, shape, tensors, to));
    return wait_for_stores(device);
}

/* All experts of the model, in the slots' form. */
static size_t bytes_of_experts(const Device *device)
{
    const ModelConfig *config = device->options.config;
    size_t bytes = 0;
    for (uint32_t i = 0; i < config->n_layers; i++)
        if (config->layers[i].moe)
            bytes += config->layers[i].experts *
                     ffn_layout(&config->layers[i].ffn, cuda_weight_bytes(device)).bytes;
    return bytes;
}

Status cuda_keep_expert(Device *device, const FfnShape *shape, const FfnTensors *tensors,
                        const void **kept)
{
    size_t bytes = ffn_layout(shape, cuda_weight_bytes(device)).bytes;
    if (device->kept.memory == NULL)
        TRY(pinned_take(device->pool, bytes_of_experts(device), "the experts", &device->kept));
    unsigned char *to = (unsigned char *)device->kept.memory + device->kept_bytes;
    TRY(queue_expert(device, shape, tensors, device->expert_form));
    CUDA_TRY(
        cudaMemcpyAsync(to, device->expert_form, bytes, cudaMemcpyDeviceToHost, device->stream));
    TRY(wait_for_stores(device));
    device->kept_bytes += bytes;
    *kept = to;
    return OK;
}
