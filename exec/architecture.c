#include "exec/architecture.h"

#include <stddef.h>
#include <stdio.h>
#include <string.h>

#include "exec/qwen3_moe.h"

#define IN_MODEL(field) offsetof(ModelTensors, field)
#define IN_LAYER(field) offsetof(LayerTensors, field)
#define IN_EXPERT(field) offsetof(ExpertTensors, field)

/* Names that most decoders of the Hugging Face library share. */
static const TensorRule DECODER_MODEL[] = {
    {"model.embed_tokens.weight", IN_MODEL(embedding), WHEN_ALWAYS, {SIZE_VOCABULARY, SIZE_MODEL}},
    {"model.norm.weight", IN_MODEL(final_norm), WHEN_ALWAYS, {SIZE_MODEL}},
    {"lm_head.weight", IN_MODEL(head), WHEN_UNTIED, {SIZE_VOCABULARY, SIZE_MODEL}},
    {0},
};

static const TensorRule QWEN3_LAYER[] = {
    {"input_layernorm.weight", IN_LAYER(input_norm), WHEN_ALWAYS, {SIZE_MODEL}},
    {"self_attn.q_proj.weight", IN_LAYER(q), WHEN_ALWAYS, {SIZE_HEADS, SIZE_MODEL}},
    {"self_attn.k_proj.weight", IN_LAYER(k), WHEN_ALWAYS, {SIZE_KV_HEADS, SIZE_MODEL}},
    {"self_attn.v_proj.weight", IN_LAYER(v), WHEN_ALWAYS, {SIZE_KV_HEADS, SIZE_MODEL}},
    {"self_attn.o_proj.weight", IN_LAYER(o), WHEN_ALWAYS, {SIZE_MODEL, SIZE_HEADS}},
    {"self_attn.q_proj.bias", IN_LAYER(q_bias), WHEN_BIAS, {SIZE_HEADS}},
    {"self_attn.k_proj.bias", IN_LAYER(k_bias), WHEN_BIAS, {SIZE_KV_HEADS}},
    {"self_attn.v_proj.bias", IN_LAYER(v_bias), WHEN_BIAS, {SIZE_KV_HEADS}},
    {"self_attn.o_proj.bias", IN_LAYER(o_bias), WHEN_BIAS, {SIZE_MODEL}},
    {"self_attn.q_norm.weight", IN_LAYER(q_norm), WHEN_ALWAYS, {SIZE_HEAD}},
    {"self_attn.k_norm.weight", IN_LAYER(k_norm), WHEN_ALWAYS, {SIZE_HEAD}},
    {"post_attention_layernorm.weight", IN_LAYER(ffn_norm), WHEN_ALWAYS, {SIZE_MODEL}},
    {"mlp.gate.weight", IN_LAYER(router), WHEN_MOE, {SIZE_EXPERTS, SIZE_MODEL}},
    {0},
};

static const TensorRule GATED_FFN[] = {
    {"gate_proj.weight", IN_EXPERT(gate), WHEN_ALWAYS, {SIZE_FF, SIZE_MODEL}},
    {"up_proj.weight", IN_EXPERT(up), WHEN_ALWAYS, {SIZE_FF, SIZE_MODEL}},
    {"down_proj.weight", IN_EXPERT(down), WHEN_ALWAYS, {SIZE_MODEL, SIZE_FF}},
    {0},
};

static const Architecture ARCHITECTURES[] = {
    {
        .model_type = "qwen3_moe",
        .read_config = qwen3_moe_read_config,
        .model = DECODER_MODEL,
        .layer_prefix = "model.layers.%u.",
        .layer = QWEN3_LAYER,
        .expert_prefix = "mlp.experts.%u.",
        .dense_prefix = "mlp.",
        .expert = GATED_FFN,
    },
};

enum { N_ARCHITECTURES = sizeof ARCHITECTURES / sizeof *ARCHITECTURES };

Status architecture_find(const JsonAt *at, const Architecture **architecture)
{
    const char *model_type = NULL;
    char known[256] = "";
    size_t used = 0;
    TRY(json_text(at, &model_type));
    for (size_t i = 0; i < N_ARCHITECTURES; i++) {
        const char *name = ARCHITECTURES[i].model_type;
        if (strcmp(name, model_type) == 0) {
            *architecture = &ARCHITECTURES[i];
            return OK;
        }
        if (used < sizeof known)
            used +=
                (size_t)snprintf(known + used, sizeof known - used, "%s%s", i ? ", " : "", name);
    }
    return fail(ERR_UNSUPPORTED, "%s: %s: \"%.64s\" is not supported, supported are %s", at->file,
                at->path, model_type, known);
}
