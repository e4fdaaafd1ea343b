#include "exec/arch/rules.h"

bool when_moe(const ModelConfig *config, const LayerConfig *layer, const FfnShape *ffn)
{
    (void)config, (void)ffn;
    return layer->moe;
}

bool when_untied(const ModelConfig *config, const LayerConfig *layer, const FfnShape *ffn)
{
    (void)layer, (void)ffn;
    return !config->tied_head;
}

bool when_norm_bias(const ModelConfig *config, const LayerConfig *layer, const FfnShape *ffn)
{
    (void)layer, (void)ffn;
    return config->norm_bias;
}

static bool when_head_bias(const ModelConfig *config, const LayerConfig *layer, const FfnShape *ffn)
{
    (void)layer, (void)ffn;
    return config->head_bias;
}

bool when_qkv_bias(const ModelConfig *config, const LayerConfig *layer, const FfnShape *ffn)
{
    (void)config, (void)ffn;
    return layer->attention.qkv_bias;
}

bool when_o_bias(const ModelConfig *config, const LayerConfig *layer, const FfnShape *ffn)
{
    (void)config, (void)ffn;
    return layer->attention.o_bias;
}

bool when_cross(const ModelConfig *config, const LayerConfig *layer, const FfnShape *ffn)
{
    (void)config, (void)ffn;
    return layer->cross;
}

bool when_router_bias(const ModelConfig *config, const LayerConfig *layer, const FfnShape *ffn)
{
    (void)config, (void)ffn;
    return layer->moe && layer->router.bias;
}

static bool when_ffn_bias(const ModelConfig *config, const LayerConfig *layer, const FfnShape *ffn)
{
    (void)config, (void)layer;
    return ffn->bias;
}

const TensorRule RULES_DECODER_MODEL[] = {
    {"model.embed_tokens.weight", NULL, IN_MODEL(embedding), NULL, {SIZE_VOCABULARY, SIZE_MODEL}},
    {"model.norm.weight", NULL, IN_MODEL(final_norm.weight), NULL, {SIZE_MODEL}},
    {"model.norm.bias", NULL, IN_MODEL(final_norm.bias), when_norm_bias, {SIZE_MODEL}},
    {"lm_head.weight", NULL, IN_MODEL(head), when_untied, {SIZE_VOCABULARY, SIZE_MODEL}},
    {"lm_head.bias", NULL, IN_MODEL(head_bias), when_head_bias, {SIZE_VOCABULARY}},
    {0},
};

const TensorRule RULES_GATED_FFN[] = {
    {"gate_proj.weight", NULL, IN_FFN(gate), NULL, {SIZE_FF, SIZE_MODEL}},
    {"up_proj.weight", NULL, IN_FFN(up), NULL, {SIZE_FF, SIZE_MODEL}},
    {"down_proj.weight", NULL, IN_FFN(down), NULL, {SIZE_MODEL, SIZE_FF}},
    {"gate_proj.bias", NULL, IN_FFN(gate_bias), when_ffn_bias, {SIZE_FF}},
    {"up_proj.bias", NULL, IN_FFN(up_bias), when_ffn_bias, {SIZE_FF}},
    {"down_proj.bias", NULL, IN_FFN(down_bias), when_ffn_bias, {SIZE_MODEL}},
    {0},
};

const TensorRule RULES_NUMBERED_FFN[] = {
    {"w1.weight", NULL, IN_FFN(gate), NULL, {SIZE_FF, SIZE_MODEL}},
    {"w3.weight", NULL, IN_FFN(up), NULL, {SIZE_FF, SIZE_MODEL}},
    {"w2.weight", NULL, IN_FFN(down), NULL, {SIZE_MODEL, SIZE_FF}},
    {0},
};

const TensorRule RULES_PLAIN_FFN[] = {
    {"fc1.weight", NULL, IN_FFN(up), NULL, {SIZE_FF, SIZE_MODEL}},
    {"fc1.bias", NULL, IN_FFN(up_bias), when_ffn_bias, {SIZE_FF}},
    {"fc2.weight", NULL, IN_FFN(down), NULL, {SIZE_MODEL, SIZE_FF}},
    {"fc2.bias", NULL, IN_FFN(down_bias), when_ffn_bias, {SIZE_MODEL}},
    {0},
};

const char *const IGNORED_BUFFERS[] = {"*rotary_emb.inv_freq", "lm_head.weight", NULL};
