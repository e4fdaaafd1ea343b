#include "exec/weights.h"

#include "base/layout.h"
#include "exec/tables.h"

/* Where pieces are taken from, and what of. */
typedef struct {
    Arena *arena;
    size_t weight_bytes;
    const ModelConfig *config;
} Room;

static Matrix lay_out_matrix(const Room *room, uint64_t rows, uint32_t columns, bool bias)
{
    Matrix matrix = {.rows = (uint32_t)rows, .columns = columns};
    matrix.data = lay_out(room->arena, times(rows, columns), room->weight_bytes);
    if (bias)
        matrix.bias = lay_out(room->arena, rows, sizeof(float));
    return matrix;
}

static Norm lay_out_norm(const Room *room, NormKind kind, float eps, uint32_t columns, bool bias)
{
    Norm norm = {.kind = kind, .eps = eps};
    norm.weight = lay_out(room->arena, columns, sizeof(float));
    if (bias)
        norm.bias = lay_out(room->arena, columns, sizeof(float));
    return norm;
}

/* A norm of the residual stream. */
static Norm lay_out_model_norm(const Room *room)
{
    const ModelConfig *config = room->config;
    return lay_out_norm(room, config->norm, config->norm_eps, config->d_model, config->norm_bias);
}

static void lay_out_latent(const Room *room, const AttentionConfig *attention, LayerWeights *layer)
{
    LatentWeights *latent = &layer->latent;
    uint32_t d = room->config->d_model;
    size_t nope = attention->key_dim - attention->rotary_dims;
    size_t rank = attention->kv_rank;
    if (attention->q_rank > 0) {
        latent->q_a = lay_out_matrix(room, attention->q_rank, d, attention->qkv_bias);
        latent->q_a_norm =
            lay_out_norm(room, NORM_RMS, attention->norm_eps, attention->q_rank, false);
    }
    layer->qkv = lay_out_matrix(room, (uint64_t)attention->n_heads * attention->key_dim,
                                attention->q_rank > 0 ? attention->q_rank : d, false);
    latent->kv_a = lay_out_matrix(room, rank + attention->rotary_dims, d, attention->qkv_bias);
    latent->kv_norm = lay_out_norm(room, NORM_RMS, attention->norm_eps, attention->kv_rank, false);
    latent->absorb =
        lay_out(room->arena, times(attention->n_heads, rank * nope), room->weight_bytes);
    latent->expand = lay_out(room->arena, times(attention->n_heads, rank * attention->value_dim),
                             room->weight_bytes);
}

static void lay_out_attention(const Room *room, const AttentionConfig *attention,
                              LayerWeights *layer)
{
    uint32_t d = room->config->d_model;
    uint64_t queries = (uint64_t)attention->n_heads * attention->key_dim;
    uint64_t keys = (uint64_t)attention->n_kv_heads * attention->key_dim;
    uint64_t values = (uint64_t)attention->n_kv_heads * attention->value_dim;
    if (attention->kv_rank > 0)
        lay_out_latent(room, attention, layer);
    else
        layer->qkv = lay_out_matrix(room, queries + keys + values, d, attention->qkv_bias);
    layer->o =
        lay_out_matrix(room, d, attention->n_heads * attention->value_dim, attention->o_bias);
    if (attention->head_norm || attention->row_norm) {
        layer->q_norm =
            lay_out(room->arena, attention->row_norm ? queries : attention->key_dim, sizeof(float));
        layer->k_norm =
            lay_out(room->arena, attention->row_norm ? keys : attention->key_dim, sizeof(float));
    }
    if (attention->sinks)
        layer->sinks = lay_out(room->arena, attention->n_heads, sizeof(float));
}

static void lay_out_cross(const Room *room, const AttentionConfig *attention, CrossWeights *cross)
{
    uint32_t d = room->config->d_model;
    uint64_t kv = (uint64_t)attention->n_kv_heads * (attention->key_dim + attention->value_dim);
    cross->norm = lay_out_model_norm(room);
    cross->q = lay_out_matrix(room, (uint64_t)attention->n_heads * attention->key_dim, d,
                              attention->qkv_bias);
    cross->kv = lay_out_matrix(room, kv, d, attention->qkv_bias);
    cross->o =
        lay_out_matrix(room, d, attention->n_heads * attention->value_dim, attention->o_bias);
}

/* One block in ffn_layout()'s form, and the matrices in it. */
static FfnWeights lay_out_ffn(const Room *room, const FfnShape *shape)
{
    FfnLayout layout = ffn_layout(shape, room->weight_bytes);
    unsigned char *block = lay_out(room->arena, layout.bytes, 1);
    FfnWeights ffn = {
        .first = {.rows = ffn_first_rows(shape), .columns = shape->d_model},
        .second = {.rows = shape->d_model, .columns = shape->d_ff},
    };
    if (block == NULL)
        return ffn;
    ffn.first.data = block + layout.first;
    ffn.second.data = block + layout.second;
    if (shape->bias) {
        ffn.first.bias = (float *)(void *)(block + layout.first_bias);
        ffn.second.bias = (float *)(void *)(block + layout.second_bias);
    }
    return ffn;
}

static void lay_out_layer(const Room *room, const LayerConfig *config, LayerWeights *layer)
{
    uint32_t d = room->config->d_model;
    layer->input_norm = lay_out_model_norm(room);
    lay_out_attention(room, &config->attention, layer);
    if (config->cross)
        lay_out_cross(room, &config->attention, &layer->cross);
    layer->ffn_norm = lay_out_model_norm(room);
    if (!config->moe) {
        layer->dense = lay_out_ffn(room, &config->ffn);
        return;
    }
    layer->router = (Router){.config = &config->router, .top_k = config->top_k};
    layer->router.matrix = lay_out_matrix(room, config->experts, d, config->router.bias);
    if (config->router.correction)
        layer->router.correction = lay_out(room->arena, config->experts, sizeof(float));
    if (config->shared.d_ff > 0)
        layer->shared = lay_out_ffn(room, &config->shared);
    if (config->shared_gate)
        layer->shared_gate = lay_out_matrix(room, 1, d, false);
}

static void lay_out_tables(const Room *room, uint32_t max_length, ModelWeights *weights)
{
    const ModelConfig *config = room->config;
    for (size_t i = 0; i < 2; i++) {
        size_t angles = times(max_length, tables_rotary_dims(config) / 2);
        if (i == 1 && !tables_has_long_rotary(config)) {
            weights->rotary[1] = weights->rotary[0];
            break;
        }
        weights->rotary[i].cosine = lay_out(room->arena, angles, sizeof(float));
        weights->rotary[i].sine = lay_out(room->arena, angles, sizeof(float));
    }
    if (model_adds_positions(config))
        weights->positions =
            lay_out(room->arena, times((size_t)max_length + 1, config->d_model), sizeof(float));
    for (size_t stack = 0; stack < 2; stack++) {
        size_t floats = tables_relative_floats(config, (Stack)stack, max_length);
        if (floats > 0)
            weights->relative_bias[stack] = lay_out(room->arena, floats, sizeof(float));
    }
}

void weights_lay_out(ModelWeights *weights, const ModelConfig *config, size_t weight_bytes,
                     uint32_t max_length, Arena *arena)
{
    Room room = {arena, weight_bytes, config};
    weights->embedding = lay_out_matrix(&room, config->vocabulary, config->d_model, false);
    weights->head = weights->embedding;
    if (!config->tied_head)
        weights->head =
            lay_out_matrix(&room, config->vocabulary, config->d_model, config->head_bias);
    else if (config->head_bias)
        weights->head.bias = lay_out(arena, config->vocabulary, sizeof(float));
    weights->final_norm = lay_out_model_norm(&room);
    if (model_is_encoder_decoder(config))
        weights->encoder_norm = lay_out_model_norm(&room);
    lay_out_tables(&room, max_length, weights);
    for (uint32_t i = 0; i < config->n_layers; i++)
        lay_out_layer(&room, &config->layers[i], &weights->layers[i]);
}
