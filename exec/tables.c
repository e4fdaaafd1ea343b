#include "exec/tables.h"

#include <math.h>

#include "exec/rope.h"

typedef struct {
    const Backend *backend;
    Device *device;
    const ModelConfig *config;
    uint32_t max_length;
} Tables;

uint32_t tables_rotary_dims(const ModelConfig *config)
{
    const AttentionConfig *attention = &config->layers[config->n_layers - 1].attention;
    return attention->rotary == ROTARY_NONE ? 0 : attention->rotary_dims;
}

bool tables_has_long_rotary(const ModelConfig *config)
{
    return tables_rotary_dims(config) > 0 && rope_has_long_table(&config->rope);
}

size_t tables_relative_floats(const ModelConfig *config, Stack stack, uint32_t max_length)
{
    uint32_t first;
    uint32_t end;
    model_stack(config, stack, &first, &end);
    if (first == end || !config->layers[first].attention.relative_bias)
        return 0;
    return (size_t)config->layers[first].attention.n_heads * (2 * (size_t)max_length - 1);
}

static Status store_rotary(const Tables *tables, const RotaryTable *table, bool longer)
{
    uint32_t dims = tables_rotary_dims(tables->config);
    uint32_t half = dims / 2;
    float *row;
    float scale;
    if (dims == 0)
        return OK;
    TRY(mem_new(&row, 3 * (size_t)half, sizeof *row, "executor: rotary table"));
    rope_frequencies(&tables->config->rope, dims, longer, row, &scale);
    Status status = OK;
    for (uint32_t position = 0; position < tables->max_length && status == OK; position++) {
        size_t at = (size_t)position * half;
        rope_row(row, dims, scale, position, row + half, row + 2 * (size_t)half);
        status = tables->backend->upload(tables->device, table->cosine + at, row + half,
                                         half * sizeof *row);
        if (status == OK)
            status = tables->backend->upload(tables->device, table->sine + at,
                                             row + 2 * (size_t)half, half * sizeof *row);
    }
    mem_free(row);
    return status;
}

/* Sines, then cosines, of POSITION times the wave lengths 1 to 10000 (tensor2tensor's order). */
static void sinusoidal_row(uint32_t d, uint32_t position, float *row)
{
    uint32_t half = d / 2;
    float step = logf(10000.0f) / (float)(half - 1);
    for (uint32_t i = 0; i < half; i++) {
        float angle = (float)position * expf((float)i * -step);
        row[i] = sinf(angle);
        row[half + i] = cosf(angle);
    }
    if (d % 2 != 0)
        row[d - 1] = 0;
}

/* Row 1 + p is position p's, which counts on from behind the padding id; row 0, of padding, is zero
 * but for learned ones. */
static Status store_positions(const Tables *tables, const Tensor *learned, float *positions)
{
    const ModelConfig *config = tables->config;
    size_t d = config->d_model;
    float *row;
    if (positions == NULL)
        return OK;
    TRY(mem_new(&row, d, sizeof *row, "executor: position table"));
    Status status = OK;
    for (uint32_t p = config->learned_positions ? 0 : 1; p <= tables->max_length && status == OK;
         p++) {
        if (config->learned_positions)
            tensor_floats(learned, (config->pad + p) * d, d, row);
        else
            sinusoidal_row(config->d_model, config->pad + p, row);
        status = tables->backend->upload(tables->device, positions + p * d, row, d * sizeof *row);
    }
    mem_free(row);
    return status;
}

/* T5's bucket of a key DISTANCE after its query: exact when near, logarithmic when far. */
static uint32_t relative_bucket(const ModelConfig *config, bool both_ways, int64_t distance)
{
    uint32_t buckets = config->relative_buckets;
    uint32_t bucket = 0;
    if (both_ways) {
        buckets /= 2;
        bucket = distance > 0 ? buckets : 0;
        distance = distance < 0 ? -distance : distance;
    } else {
        distance = distance < 0 ? -distance : 0;
    }
    uint32_t exact = buckets / 2;
    if (distance < exact)
        return bucket + (uint32_t)distance;
    float far = logf((float)distance / (float)exact) /
                (float)log((double)config->relative_max_distance / exact) *
                (float)(buckets - exact);
    uint32_t large = exact + (uint32_t)far;
    return bucket + (large < buckets ? large : buckets - 1);
}

/* One head's row: element key - query + max_length - 1. */
static Status store_relative_head(const Tables *tables, const Tensor *tensor, bool both_ways,
                                  uint32_t head, float *row, float *to)
{
    size_t heads = tensor->shape[1];
    size_t n = 2 * (size_t)tables->max_length - 1;
    for (size_t i = 0; i < n; i++) {
        int64_t distance = (int64_t)i - (int64_t)(tables->max_length - 1);
        size_t bucket = relative_bucket(tables->config, both_ways, distance);
        tensor_floats(tensor, bucket * heads + head, 1, &row[i]);
    }
    return tables->backend->upload(tables->device, to + head * n, row, n * sizeof *row);
}

static Status store_relative(const Tables *tables, const ModelTensors *tensors, Stack stack,
                             float *to)
{
    uint32_t first;
    uint32_t end;
    float *row;
    if (to == NULL)
        return OK;
    model_stack(tables->config, stack, &first, &end);
    const Tensor *tensor = &tensors->layers[first].attention.relative_bias;
    TRY(mem_new(&row, 2 * (size_t)tables->max_length, sizeof *row, "executor: relative bias"));
    Status status = OK;
    for (uint32_t head = 0; head < tensor->shape[1] && status == OK; head++)
        status = store_relative_head(tables, tensor, stack == STACK_ENCODER, head, row, to);
    mem_free(row);
    return status;
}

Status tables_store(const ModelWeights *weights, const Checkpoint *checkpoint,
                    const Backend *backend, Device *device, uint32_t max_length)
{
    const Tables tables = {backend, device, checkpoint_config(checkpoint), max_length};
    const ModelTensors *tensors = checkpoint_tensors(checkpoint);
    TRY(store_rotary(&tables, &weights->rotary[0], false));
    if (tables_has_long_rotary(tables.config))
        TRY(store_rotary(&tables, &weights->rotary[1], true));
    TRY(store_positions(&tables, &tensors->positions, weights->positions));
    TRY(store_relative(&tables, tensors, STACK_ENCODER, weights->relative_bias[STACK_ENCODER]));
    return store_relative(&tables, tensors, STACK_DECODER, weights->relative_bias[STACK_DECODER]);
}
