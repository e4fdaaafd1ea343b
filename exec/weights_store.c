/* From the checkpoint's tensors to the device. */
#include "exec/tables.h"
#include "exec/weights.h"

typedef struct {
    const Backend *backend;
    Device *device;
    const ModelConfig *config;
    size_t weight_bytes;
} Store;

static Status store_floats(const Store *store, const Tensor *tensor, const float *to)
{
    if (to == NULL)
        return OK;
    Part part = part_of(tensor);
    /* The structs show the weights to the forward pass as read-only; here they are filled. */
    return store->backend->store_floats(store->device, &part, (float *)to);
}

static Status store_rows(const Store *store, const Matrix *matrix, size_t row, const Tensor *tensor,
                         const Tensor *bias)
{
    size_t bytes = store->weight_bytes;
    Part part = part_of(tensor);
    TRY(store->backend->store(store->device, &part,
                              (unsigned char *)matrix->data + row * matrix->columns * bytes));
    return matrix->bias != NULL ? store_floats(store, bias, matrix->bias + row) : OK;
}

static Status store_norm(const Store *store, const NormTensors *tensors, const Norm *norm)
{
    TRY(store_floats(store, &tensors->weight, norm->weight));
    return store_floats(store, &tensors->bias, norm->bias);
}

/* Expansion of the latent: each head has nope rows for its key and value_dim rows for its value.
 * The key's is absorbed into the query, so it is stored the other way round. */
static Status store_expansion(const Store *store, const AttentionConfig *attention,
                              const AttentionTensors *tensors, const LatentWeights *latent)
{
    size_t bytes = store->weight_bytes;
    uint32_t rank = attention->kv_rank;
    uint32_t nope = attention->key_dim - attention->rotary_dims;
    for (size_t h = 0; h < attention->n_heads; h++) {
        uint64_t first = h * (nope + attention->value_dim) * rank;
        Part key = {tensors->kv_b, first, rank, nope, 1, rank};
        Part value = {
            tensors->kv_b, first + (uint64_t)nope * rank, attention->value_dim, rank, rank, 1};
        TRY(store->backend->store(store->device, &key,
                                  (unsigned char *)latent->absorb + h * rank * nope * bytes));
        TRY(store->backend->store(store->device, &value,
                                  (unsigned char *)latent->expand +
                                      h * rank * attention->value_dim * bytes));
    }
    return OK;
}

static Status store_latent(const Store *store, const AttentionConfig *attention,
                           const AttentionTensors *tensors, const LayerWeights *layer)
{
    const LatentWeights *latent = &layer->latent;
    if (attention->q_rank > 0) {
        TRY(store_rows(store, &latent->q_a, 0, &tensors->q_a, &tensors->q_a_bias));
        TRY(store_floats(store, &tensors->q_a_norm, latent->q_a_norm.weight));
    }
    TRY(store_rows(store, &layer->qkv, 0, &tensors->q, NULL));
    TRY(store_rows(store, &latent->kv_a, 0, &tensors->kv_a, &tensors->kv_a_bias));
    TRY(store_floats(store, &tensors->kv_a_norm, latent->kv_norm.weight));
    return store_expansion(store, attention, tensors, latent);
}

/* K and V after ROW rows of MATRIX. */
static Status store_kv(const Store *store, const AttentionTensors *tensors, const Matrix *matrix,
                       size_t row)
{
    TRY(store_rows(store, matrix, row, &tensors->k, &tensors->k_bias));
    return store_rows(store, matrix, row + tensors->k.shape[0], &tensors->v, &tensors->v_bias);
}

static Status store_attention(const Store *store, const AttentionConfig *attention,
                              const AttentionTensors *tensors, const LayerWeights *layer)
{
    if (attention->kv_rank > 0) {
        TRY(store_latent(store, attention, tensors, layer));
    } else {
        TRY(store_rows(store, &layer->qkv, 0, &tensors->q, &tensors->q_bias));
        TRY(store_kv(store, tensors, &layer->qkv, tensors->q.shape[0]));
    }
    TRY(store_rows(store, &layer->o, 0, &tensors->o, &tensors->o_bias));
    TRY(store_floats(store, &tensors->q_norm, layer->q_norm));
    TRY(store_floats(store, &tensors->k_norm, layer->k_norm));
    return store_floats(store, &tensors->sinks, layer->sinks);
}

static Status store_cross(const Store *store, const LayerTensors *tensors,
                          const CrossWeights *cross)
{
    TRY(store_norm(store, &tensors->cross_norm, &cross->norm));
    TRY(store_rows(store, &cross->q, 0, &tensors->cross.q, &tensors->cross.q_bias));
    TRY(store_kv(store, &tensors->cross, &cross->kv, 0));
    return store_rows(store, &cross->o, 0, &tensors->cross.o, &tensors->cross.o_bias);
}

static Status store_layer(const Store *store, const LayerConfig *config,
                          const LayerTensors *tensors, const LayerWeights *layer)
{
    const Backend *backend = store->backend;
    TRY(store_norm(store, &tensors->input_norm, &layer->input_norm));
    TRY(store_attention(store, &config->attention, &tensors->attention, layer));
    if (config->cross)
        TRY(store_cross(store, tensors, &layer->cross));
    TRY(store_norm(store, &tensors->ffn_norm, &layer->ffn_norm));
    if (!config->moe)
        return backend->store_ffn(store->device, &config->ffn, &tensors->dense,
                                  layer->dense.first.data);
    TRY(store_rows(store, &layer->router.matrix, 0, &tensors->router, &tensors->router_bias));
    TRY(store_floats(store, &tensors->correction, layer->router.correction));
    if (config->shared.d_ff > 0)
        TRY(backend->store_ffn(store->device, &config->shared, &tensors->shared,
                               layer->shared.first.data));
    if (config->shared_gate)
        TRY(store_rows(store, &layer->shared_gate, 0, &tensors->shared_gate, NULL));
    return OK;
}

/* The decoder's norm, times what its output is scaled by before the head. */
static Status store_final_norm(const Store *store, const ModelTensors *tensors, const Norm *norm)
{
    uint32_t d = store->config->d_model;
    float scale = store->config->head_scale;
    TRY(store_norm(store, &tensors->final_norm, norm));
    if (scale == 1)
        return OK;
    float *row;
    TRY(mem_new(&row, d, sizeof *row, "executor: last norm"));
    Status status = OK;
    const float *const parts[] = {norm->weight, norm->bias};
    for (size_t i = 0; i < 2 && status == OK; i++) {
        if (parts[i] == NULL)
            continue;
        status = store->backend->download(store->device, row, parts[i], d * sizeof *row);
        for (uint32_t j = 0; j < d; j++)
            row[j] *= scale;
        if (status == OK)
            status = store->backend->upload(store->device, (float *)parts[i], row, d * sizeof *row);
    }
    mem_free(row);
    return status;
}

Status weights_store(const ModelWeights *weights, const Checkpoint *checkpoint,
                     const Backend *backend, Device *device, size_t weight_bytes,
                     uint32_t max_length)
{
    const ModelConfig *config = checkpoint_config(checkpoint);
    const ModelTensors *tensors = checkpoint_tensors(checkpoint);
    const Store store = {backend, device, config, weight_bytes};
    TRY(store_rows(&store, &weights->embedding, 0, &tensors->embedding, NULL));
    if (!config->tied_head)
        TRY(store_rows(&store, &weights->head, 0, &tensors->head, &tensors->head_bias));
    else
        TRY(store_floats(&store, &tensors->head_bias, weights->head.bias));
    TRY(store_final_norm(&store, tensors, &weights->final_norm));
    if (model_is_encoder_decoder(config))
        TRY(store_norm(&store, &tensors->encoder_norm, &weights->encoder_norm));
    for (uint32_t i = 0; i < config->n_layers; i++)
        TRY(store_layer(&store, &config->layers[i], &tensors->layers[i], &weights->layers[i]));
    return tables_store(weights, checkpoint, backend, device, max_length);
}
