#include "exec/weights.h"

#include <math.h>

#include "exec/layout.h"

static Matrix lay_out_matrix(Arena *arena, size_t weight_bytes, uint32_t rows, uint32_t columns,
                             bool bias)
{
    Matrix matrix = {.rows = rows, .columns = columns};
    matrix.data = lay_out(arena, times(rows, columns), weight_bytes);
    if (bias)
        matrix.bias = lay_out(arena, rows, sizeof(float));
    return matrix;
}

static void lay_out_layer(LayerWeights *layer, const ModelConfig *config, const LayerConfig *shape,
                          size_t weight_bytes, Arena *arena)
{
    uint32_t d = config->d_model;
    uint32_t heads = config->n_heads * config->head_dim;
    uint32_t kv_heads = config->n_kv_heads * config->head_dim;
    bool bias = config->attention_bias;
    layer->input_norm = lay_out(arena, d, sizeof(float));
    layer->qkv = lay_out_matrix(arena, weight_bytes, heads + 2 * kv_heads, d, bias);
    layer->o = lay_out_matrix(arena, weight_bytes, d, heads, bias);
    layer->q_norm = lay_out(arena, config->head_dim, sizeof(float));
    layer->k_norm = lay_out(arena, config->head_dim, sizeof(float));
    layer->ffn_norm = lay_out(arena, d, sizeof(float));
    if (shape->moe)
        layer->router = lay_out_matrix(arena, weight_bytes, shape->experts, d, false);
    else
        layer->dense = lay_out(arena, times(3 * (size_t)d, shape->d_ff), weight_bytes);
}

void weights_lay_out(ModelWeights *weights, const ModelConfig *config, size_t weight_bytes,
                     uint32_t max_length, Arena *arena)
{
    size_t angles = times(max_length, config->head_dim / 2);
    weights->embedding =
        lay_out_matrix(arena, weight_bytes, config->vocabulary, config->d_model, false);
    weights->head = weights->embedding;
    if (!config->tied_head)
        weights->head =
            lay_out_matrix(arena, weight_bytes, config->vocabulary, config->d_model, false);
    weights->final_norm = lay_out(arena, config->d_model, sizeof(float));
    weights->cosine = lay_out(arena, angles, sizeof(float));
    weights->sine = lay_out(arena, angles, sizeof(float));
    for (uint32_t i = 0; i < config->n_layers; i++)
        lay_out_layer(&weights->layers[i], config, &config->layers[i], weight_bytes, arena);
}

/* q, k and v lie one after the other, so that one product makes all three. */
static Status store_qkv(const Matrix *qkv, const LayerTensors *tensors, const Backend *backend,
                        Device *device)
{
    const Tensor *const parts[] = {&tensors->q, &tensors->k, &tensors->v};
    const Tensor *const biases[] = {&tensors->q_bias, &tensors->k_bias, &tensors->v_bias};
    size_t row = 0;
    for (size_t i = 0; i < 3; i++) {
        size_t offset = row * qkv->columns * backend->weight_bytes;
        TRY(backend->store(device, parts[i], (unsigned char *)qkv->data + offset));
        if (qkv->bias != NULL)
            TRY(backend->store_floats(device, biases[i], qkv->bias + row));
        row += parts[i]->shape[0];
    }
    return OK;
}

static Status store_layer(const LayerWeights *layer, const LayerTensors *tensors,
                          const Backend *backend, Device *device)
{
    TRY(backend->store_floats(device, &tensors->input_norm, layer->input_norm));
    TRY(store_qkv(&layer->qkv, tensors, backend, device));
    TRY(backend->store(device, &tensors->o, layer->o.data));
    if (layer->o.bias != NULL)
        TRY(backend->store_floats(device, &tensors->o_bias, layer->o.bias));
    TRY(backend->store_floats(device, &tensors->q_norm, layer->q_norm));
    TRY(backend->store_floats(device, &tensors->k_norm, layer->k_norm));
    TRY(backend->store_floats(device, &tensors->ffn_norm, layer->ffn_norm));
    if (layer->dense != NULL)
        return backend->load_expert(device, &tensors->dense, layer->dense);
    return backend->store(device, &tensors->router, layer->router.data);
}

/* Angle position * theta^(-2i / head_dim), rounded to single precision at each operation as
 * frameworks do, so that long positions agree with them. */
static Status store_angles(const ModelWeights *weights, const ModelConfig *config,
                           const Backend *backend, Device *device, uint32_t max_length)
{
    uint32_t half = config->head_dim / 2;
    float *row;
    TRY(mem_new(&row, 3 * (size_t)half, sizeof *row, "executor: rotary table"));
    float *cosine = row + half;
    float *sine = cosine + half;
    for (uint32_t i = 0; i < half; i++)
        row[i] = 1.0f / powf(config->rope_theta, (float)(2 * i) / (float)config->head_dim);
    Status status = OK;
    for (uint32_t position = 0; position < max_length && status == OK; position++) {
        size_t at = (size_t)position * half;
        for (uint32_t i = 0; i < half; i++) {
            float angle = (float)position * row[i];
            cosine[i] = (float)cos(angle);
            sine[i] = (float)sin(angle);
        }
        status = backend->upload(device, weights->cosine + at, cosine, half * sizeof *cosine);
        if (status == OK)
            status = backend->upload(device, weights->sine + at, sine, half * sizeof *sine);
    }
    mem_free(row);
    return status;
}

Status weights_store(const ModelWeights *weights, const Checkpoint *checkpoint,
                     const Backend *backend, Device *device, uint32_t max_length)
{
    const ModelConfig *config = checkpoint_config(checkpoint);
    const ModelTensors *tensors = checkpoint_tensors(checkpoint);
    TRY(backend->store(device, &tensors->embedding, weights->embedding.data));
    if (!config->tied_head)
        TRY(backend->store(device, &tensors->head, weights->head.data));
    TRY(backend->store_floats(device, &tensors->final_norm, weights->final_norm));
    for (uint32_t i = 0; i < config->n_layers; i++)
        TRY(store_layer(&weights->layers[i], &tensors->layers[i], backend, device));
    return store_angles(weights, config, backend, device, max_length);
}
