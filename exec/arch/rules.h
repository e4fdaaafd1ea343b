/* Pieces of descriptions that architectures share: where tensors go, when they are there, and the
 * names that most decoders of the Hugging Face library have in common. */
#ifndef EXEC_ARCH_RULES_H
#define EXEC_ARCH_RULES_H

#include "exec/architecture.h"

#define IN_MODEL(field) offsetof(ModelTensors, field)
#define IN_LAYER(field) offsetof(LayerTensors, field)
#define IN_FFN(field) offsetof(FfnTensors, field)

bool when_moe(const ModelConfig *config, const LayerConfig *layer, const FfnShape *ffn);
bool when_untied(const ModelConfig *config, const LayerConfig *layer, const FfnShape *ffn);
bool when_norm_bias(const ModelConfig *config, const LayerConfig *layer, const FfnShape *ffn);
bool when_qkv_bias(const ModelConfig *config, const LayerConfig *layer, const FfnShape *ffn);
bool when_o_bias(const ModelConfig *config, const LayerConfig *layer, const FfnShape *ffn);
bool when_cross(const ModelConfig *config, const LayerConfig *layer, const FfnShape *ffn);
bool when_router_bias(const ModelConfig *config, const LayerConfig *layer, const FfnShape *ffn);

/* embed_tokens, norm and lm_head, the norm with its bias where the model's norms have one. */
extern const TensorRule RULES_DECODER_MODEL[];
/* gate_proj, up_proj, down_proj. */
extern const TensorRule RULES_GATED_FFN[];
/* w1, w3, w2. */
extern const TensorRule RULES_NUMBERED_FFN[];
/* fc1 and fc2 with biases. */
extern const TensorRule RULES_PLAIN_FFN[];
/* Buffers that old files hold, and a head that is tied. */
extern const char *const IGNORED_BUFFERS[];

/* The rows of a matrix [ROWS][COLUMNS] of a layer and its bias, NAME.weight and NAME.bias. */
/* clang-format off */
#define RULES_LINEAR(name, into, when, rows, columns)                                              \
    {name ".weight", NULL, IN_LAYER(into), when, {rows, columns}},                                 \
    {name ".bias", NULL, IN_LAYER(into##_bias), when, {rows}}
/* clang-format on */

/* The rows of a layer's q, k, v and o projections under "self_attn.", with biases by
 * AttentionConfig. */
#define RULES_SELF_ATTENTION                                                                       \
    {"self_attn.q_proj.weight", NULL, IN_LAYER(attention.q), NULL, {SIZE_QUERIES, SIZE_MODEL}},    \
        {"self_attn.k_proj.weight", NULL, IN_LAYER(attention.k), NULL, {SIZE_KEYS, SIZE_MODEL}},   \
        {"self_attn.v_proj.weight", NULL, IN_LAYER(attention.v), NULL, {SIZE_VALUES, SIZE_MODEL}}, \
        {"self_attn.q_proj.bias",                                                                  \
         NULL,                                                                                     \
         IN_LAYER(attention.q_bias),                                                               \
         when_qkv_bias,                                                                            \
         {SIZE_QUERIES}},                                                                          \
        {"self_attn.k_proj.bias", NULL, IN_LAYER(attention.k_bias), when_qkv_bias, {SIZE_KEYS}},   \
    {                                                                                              \
        "self_attn.v_proj.bias", NULL, IN_LAYER(attention.v_bias), when_qkv_bias,                  \
        {                                                                                          \
            SIZE_VALUES                                                                            \
        }                                                                                          \
    }

#define RULES_SELF_OUTPUT                                                                          \
    {"self_attn.o_proj.weight", NULL, IN_LAYER(attention.o), NULL, {SIZE_MODEL, SIZE_MIXED}},      \
    {                                                                                              \
        "self_attn.o_proj.bias", NULL, IN_LAYER(attention.o_bias), when_o_bias,                    \
        {                                                                                          \
            SIZE_MODEL                                                                             \
        }                                                                                          \
    }

/* The norms before attention and FFN. */
#define RULES_LAYER_NORMS                                                                          \
    {"input_layernorm.weight", NULL, IN_LAYER(input_norm.weight), NULL, {SIZE_MODEL}},             \
        {"input_layernorm.bias", NULL, IN_LAYER(input_norm.bias), when_norm_bias, {SIZE_MODEL}},   \
        {"post_attention_layernorm.weight", NULL, IN_LAYER(ffn_norm.weight), NULL, {SIZE_MODEL}},  \
    {                                                                                              \
        "post_attention_layernorm.bias", NULL, IN_LAYER(ffn_norm.bias), when_norm_bias,            \
        {                                                                                          \
            SIZE_MODEL                                                                             \
        }                                                                                          \
    }

#endif
