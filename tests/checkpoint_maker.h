/* Writes small random qwen3_moe checkpoints.
 *
 * The weights are scaled so that logits are about 1 and router logits about 2 (so that the k-th and
 * the next expert rarely tie). The same spec gives the same files. */
#ifndef TESTS_CHECKPOINT_MAKER_H
#define TESTS_CHECKPOINT_MAKER_H

#include "base/status.h"

#include "tests/support.h"

#include <errno.h>
#include <math.h>
#include <stdbool.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>

#include "base/memory.h"
#include "exec/checkpoint.h"
#include "traces/f16.h"

/* Zero numbers take the default in brackets. */
typedef struct {
    uint32_t vocabulary;    /* [96] */
    uint32_t d_model;       /* [32] */
    uint32_t n_layers;      /* [3] */
    uint32_t n_heads;       /* [4] */
    uint32_t n_kv_heads;    /* [2] */
    uint32_t head_dim;      /* [d_model / n_heads] */
    uint32_t d_ff;          /* [48] of dense layers */
    uint32_t expert_d_ff;   /* [16] */
    uint32_t experts;       /* [8] */
    uint32_t top_k;         /* [2] */
    uint32_t sparse_step;   /* [1] */
    uint32_t max_positions; /* [512] */
    uint64_t dense_layers;  /* bit i: layer i is in mlp_only_layers */
    uint32_t eos;           /* the end token */
    uint32_t shards;        /* 0: model.safetensors; else an index and so many shards */
    Dtype dtype;            /* DTYPE_F32, DTYPE_F16 or [DTYPE_BF16] */
    bool norm_top_k;
    bool untied; /* with its own lm_head.weight */
    bool bias;   /* attention_bias */
    uint64_t seed;
    /* May change each tensor, to make a bad checkpoint. Called first with VALUES == NULL, when
     * name, dtype and shape may change (false leaves the tensor out), then with its VALUES [count].
     */
    bool (*edit)(void *argument, Tensor *tensor, float *values, size_t count);
    void *edit_argument;
    /* Replaces text in config.json, or NULL: "\"num_experts\": 8" by CONFIG_TO. */
    const char *config_from;
    const char *config_to;
} CheckpointSpec;

/* A tensor on its way to a file: values are uniform in CENTER +- SPREAD. */
typedef struct {
    char name[128];
    Tensor tensor;
    float center;
    float spread;
} MakerTensor;

typedef struct {
    CheckpointSpec spec;
    MakerTensor *tensors;
    size_t count;
    size_t room;
} Maker;

static inline uint32_t maker_default(uint32_t value, uint32_t otherwise)
{
    return value != 0 ? value : otherwise;
}

static inline void maker_complete(CheckpointSpec *spec)
{
    spec->vocabulary = maker_default(spec->vocabulary, 96);
    spec->d_model = maker_default(spec->d_model, 32);
    spec->n_layers = maker_default(spec->n_layers, 3);
    spec->n_heads = maker_default(spec->n_heads, 4);
    spec->n_kv_heads = maker_default(spec->n_kv_heads, 2);
    spec->head_dim = maker_default(spec->head_dim, spec->d_model / spec->n_heads);
    spec->d_ff = maker_default(spec->d_ff, 48);
    spec->expert_d_ff = maker_default(spec->expert_d_ff, 16);
    spec->experts = maker_default(spec->experts, 8);
    spec->top_k = maker_default(spec->top_k, 2);
    spec->sparse_step = maker_default(spec->sparse_step, 1);
    spec->max_positions = maker_default(spec->max_positions, 512);
    if (spec->dtype == (Dtype)0)
        spec->dtype = DTYPE_BF16;
}

static inline bool maker_is_moe(const CheckpointSpec *spec, uint32_t layer)
{
    bool dense = layer < 64 && (spec->dense_layers >> layer & 1) != 0;
    return !dense && (layer + 1) % spec->sparse_step == 0;
}

/* COLUMNS 0: a vector. */
static inline void maker_add(Maker *maker, const char *name, uint32_t rows, uint32_t columns,
                             float center, float deviation)
{
    if (maker->count == maker->room) {
        maker->room = 2 * maker->room + 64;
        MakerTensor *grown = mem_resize(maker->tensors, maker->room, sizeof *grown);
        assert_non_null(grown);
        maker->tensors = grown;
    }
    MakerTensor *made = &maker->tensors[maker->count];
    *made = (MakerTensor){.center = center, .spread = deviation * sqrtf(3.0f)};
    snprintf(made->name, sizeof made->name, "%s", name);
    made->tensor = (Tensor){.name = made->name,
                            .dtype = maker->spec.dtype,
                            .rank = columns != 0 ? 2 : 1,
                            .shape = {rows, columns}};
    if (maker->spec.edit != NULL &&
        !maker->spec.edit(maker->spec.edit_argument, &made->tensor, NULL, 0))
        return;
    maker->count++;
}

static inline void maker_add_ffn(Maker *maker, const char *prefix, uint32_t d_ff)
{
    uint32_t d = maker->spec.d_model;
    char name[128];
    snprintf(name, sizeof name, "%sgate_proj.weight", prefix);
    maker_add(maker, name, d_ff, d, 0, 1.0f / sqrtf((float)d));
    snprintf(name, sizeof name, "%sup_proj.weight", prefix);
    maker_add(maker, name, d_ff, d, 0, 1.0f / sqrtf((float)d));
    snprintf(name, sizeof name, "%sdown_proj.weight", prefix);
    maker_add(maker, name, d, d_ff, 0, 1.5f / sqrtf((float)d_ff));
}

static inline void maker_add_attention(Maker *maker, uint32_t layer)
{
    const CheckpointSpec *spec = &maker->spec;
    uint32_t q = spec->n_heads * spec->head_dim;
    uint32_t kv = spec->n_kv_heads * spec->head_dim;
    float in = 1.0f / sqrtf((float)spec->d_model);
    const struct {
        const char *name;
        uint32_t rows, columns;
        float center, deviation;
        bool wanted;
    } parts[] = {
        {"input_layernorm.weight", spec->d_model, 0, 1, 0.1f, true},
        {"self_attn.q_proj.weight", q, spec->d_model, 0, in, true},
        {"self_attn.k_proj.weight", kv, spec->d_model, 0, in, true},
        {"self_attn.v_proj.weight", kv, spec->d_model, 0, in, true},
        {"self_attn.o_proj.weight", spec->d_model, q, 0, 1.0f / sqrtf((float)q), true},
        {"self_attn.q_proj.bias", q, 0, 0, 0.3f, spec->bias},
        {"self_attn.k_proj.bias", kv, 0, 0, 0.3f, spec->bias},
        {"self_attn.v_proj.bias", kv, 0, 0, 0.3f, spec->bias},
        {"self_attn.o_proj.bias", spec->d_model, 0, 0, 0.3f, spec->bias},
        {"self_attn.q_norm.weight", spec->head_dim, 0, 1, 0.1f, true},
        {"self_attn.k_norm.weight", spec->head_dim, 0, 1, 0.1f, true},
        {"post_attention_layernorm.weight", spec->d_model, 0, 1, 0.1f, true},
    };
    for (size_t i = 0; i < sizeof parts / sizeof *parts; i++) {
        char name[128];
        snprintf(name, sizeof name, "model.layers.%u.%s", layer, parts[i].name);
        if (parts[i].wanted)
            maker_add(maker, name, parts[i].rows, parts[i].columns, parts[i].center,
                      parts[i].deviation);
    }
}

static inline void maker_add_layer(Maker *maker, uint32_t layer)
{
    const CheckpointSpec *spec = &maker->spec;
    char name[64];
    maker_add_attention(maker, layer);
    if (!maker_is_moe(spec, layer)) {
        snprintf(name, sizeof name, "model.layers.%u.mlp.", layer);
        maker_add_ffn(maker, name, spec->d_ff);
        return;
    }
    snprintf(name, sizeof name, "model.layers.%u.mlp.gate.weight", layer);
    maker_add(maker, name, spec->experts, spec->d_model, 0, 2.0f / sqrtf((float)spec->d_model));
    for (uint32_t i = 0; i < spec->experts; i++) {
        snprintf(name, sizeof name, "model.layers.%u.mlp.experts.%u.", layer, i);
        maker_add_ffn(maker, name, spec->expert_d_ff);
    }
}

static inline uint16_t maker_bf16(float value)
{
    uint32_t bits;
    memcpy(&bits, &value, sizeof bits);
    if (value != value)
        return 0x7FC0;
    return (uint16_t)((bits + 0x7FFF + (bits >> 16 & 1)) >> 16);
}

/* Encodes COUNT VALUES as DTYPE into OUT; an integer DTYPE (for bad files) gets zeros. */
static inline void maker_encode(const float *values, size_t count, Dtype dtype, void *out)
{
    if (dtype == DTYPE_F32) {
        memcpy(out, values, count * sizeof *values);
    } else if (dtype == DTYPE_F16) {
        f16_encode(values, count, out);
    } else if (dtype == DTYPE_BF16) {
        for (size_t i = 0; i < count; i++)
            ((uint16_t *)out)[i] = maker_bf16(values[i]);
    }
}

static inline void maker_write_tensor(Maker *maker, size_t i, SafeTensorsWriter *writer,
                                      size_t index)
{
    MakerTensor *made = &maker->tensors[i];
    Tensor *tensor = &made->tensor;
    tensor->name = made->name; /* it has moved */
    size_t count = 1;
    for (uint32_t r = 0; r < tensor->rank; r++)
        count *= tensor->shape[r];
    float *values = mem_alloc(count, sizeof *values);
    void *bytes = mem_alloc(count, dtype_bytes(tensor->dtype));
    assert_non_null(values);
    assert_non_null(bytes);
    uint64_t random = maker->spec.seed;
    for (const char *c = made->name; *c != '\0'; c++)
        random = random * 31 + (unsigned char)*c;
    for (size_t j = 0; j < count; j++)
        values[j] = made->center + made->spread * random_float(&random);
    if (maker->spec.edit != NULL)
        maker->spec.edit(maker->spec.edit_argument, tensor, values, count);
    maker_encode(values, count, tensor->dtype, bytes);
    assert_ok(safetensors_writer_append(writer, index, bytes, count * dtype_bytes(tensor->dtype)));
    mem_free(values);
    mem_free(bytes);
}

/* Tensors FROM to TO - 1. */
static inline void maker_write_file(Maker *maker, const char *path, size_t from, size_t to)
{
    Tensor *specs = mem_alloc(to - from + 1, sizeof *specs);
    SafeTensorsWriter *writer = NULL;
    assert_non_null(specs);
    for (size_t i = from; i < to; i++) {
        specs[i - from] = maker->tensors[i].tensor;
        specs[i - from].name = maker->tensors[i].name;
    }
    assert_ok(safetensors_writer_open(path, specs, to - from, &writer));
    for (size_t i = from; i < to; i++)
        maker_write_tensor(maker, i, writer, i - from);
    assert_ok(safetensors_writer_commit(writer));
    mem_free(specs);
}

static inline void maker_write_shards(Maker *maker, const char *directory)
{
    char path[512];
    if (maker->spec.shards == 0) {
        snprintf(path, sizeof path, "%s/model.safetensors", directory);
        maker_write_file(maker, path, 0, maker->count);
        return;
    }
    snprintf(path, sizeof path, "%s/model.safetensors.index.json", directory);
    FILE *index = fopen(path, "w");
    assert_non_null(index);
    fprintf(index, "{\"metadata\": {\"total_size\": 0}, \"weight_map\": {");
    uint32_t shards = maker->spec.shards;
    for (uint32_t s = 0; s < shards; s++) {
        char name[64];
        size_t from = maker->count * s / shards;
        size_t to = maker->count * (s + 1) / shards;
        snprintf(name, sizeof name, "model-%05u-of-%05u.safetensors", s + 1, shards);
        snprintf(path, sizeof path, "%s/%s", directory, name);
        maker_write_file(maker, path, from, to);
        for (size_t i = from; i < to; i++)
            fprintf(index, "%s\n\"%s\": \"%s\"", i > 0 ? "," : "", maker->tensors[i].name, name);
    }
    fprintf(index, "}}\n");
    assert_int_equal(fclose(index), 0);
}

/* Fills TEXT [ROOM] with the config.json of SPEC. */
static inline void maker_config_text(const CheckpointSpec *spec, char *text, size_t room)
{
    char dense[512] = "";
    for (uint32_t i = 0; i < 64; i++)
        if (spec->dense_layers >> i & 1)
            snprintf(dense + strlen(dense), sizeof dense - strlen(dense), "%s%u",
                     dense[0] ? ", " : "", i);
    int used = snprintf(
        text, room,
        "{\n \"architectures\": [\"Qwen3MoeForCausalLM\"],\n \"model_type\": \"qwen3_moe\",\n"
        " \"vocab_size\": %u,\n \"hidden_size\": %u,\n \"num_hidden_layers\": %u,\n"
        " \"num_attention_heads\": %u,\n \"num_key_value_heads\": %u,\n \"head_dim\": %u,\n"
        " \"intermediate_size\": %u,\n \"moe_intermediate_size\": %u,\n \"num_experts\": %u,\n"
        " \"num_experts_per_tok\": %u,\n \"decoder_sparse_step\": %u,\n"
        " \"mlp_only_layers\": [%s],\n \"norm_topk_prob\": %s,\n \"hidden_act\": \"silu\",\n"
        " \"rms_norm_eps\": 1e-06,\n \"rope_theta\": 10000.0,\n \"rope_scaling\": null,\n"
        " \"max_position_embeddings\": %u,\n \"tie_word_embeddings\": %s,\n"
        " \"attention_bias\": %s,\n \"eos_token_id\": %u,\n \"use_sliding_window\": false\n}\n",
        spec->vocabulary, spec->d_model, spec->n_layers, spec->n_heads, spec->n_kv_heads,
        spec->head_dim, spec->d_ff, spec->expert_d_ff, spec->experts, spec->top_k,
        spec->sparse_step, dense, spec->norm_top_k ? "true" : "false", spec->max_positions,
        spec->untied ? "false" : "true", spec->bias ? "true" : "false", spec->eos);
    assert_true(used > 0 && (size_t)used < room);
}

static inline void maker_write_config(const CheckpointSpec *spec, const char *directory)
{
    char text[4096];
    char path[512];
    maker_config_text(spec, text, sizeof text);
    snprintf(path, sizeof path, "%s/config.json", directory);
    FILE *file = fopen(path, "w");
    assert_non_null(file);
    const char *rest = text;
    if (spec->config_from != NULL) {
        const char *at = strstr(text, spec->config_from);
        assert_non_null(at);
        fprintf(file, "%.*s%s", (int)(at - text), text, spec->config_to);
        rest = at + strlen(spec->config_from);
    }
    fputs(rest, file);
    assert_int_equal(fclose(file), 0);
}

/* Writes config.json and the weights into DIRECTORY, which is made when it is not there. */
static inline void make_checkpoint(const char *directory, const CheckpointSpec *spec)
{
    Maker maker = {.spec = *spec};
    maker_complete(&maker.spec);
    uint32_t d = maker.spec.d_model;
    assert_true(mkdir(directory, 0777) == 0 || errno == EEXIST);
    maker_add(&maker, "model.embed_tokens.weight", maker.spec.vocabulary, d, 0,
              1.0f / sqrtf((float)d));
    for (uint32_t i = 0; i < maker.spec.n_layers; i++)
        maker_add_layer(&maker, i);
    maker_add(&maker, "model.norm.weight", d, 0, 1, 0.1f);
    if (maker.spec.untied)
        maker_add(&maker, "lm_head.weight", maker.spec.vocabulary, d, 0, 1.0f / sqrtf((float)d));
    maker_write_config(&maker.spec, directory);
    maker_write_shards(&maker, directory);
    mem_free(maker.tensors);
}

#endif
