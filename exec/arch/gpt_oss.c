/* gpt-oss: attention sinks, windows in every other layer, biases everywhere, softmax over the
 * chosen experts, and a clamped activation. Its released files hold MXFP4 blocks, which are
 * refused by name; converted ones in bf16 load. */
#include "exec/arch/config.h"
#include "exec/arch/rules.h"

static Status read_ffn(const JsonAt *root, const ModelConfig *config, FfnShape *ffn)
{
    uint32_t d_ff = 0;
    TRY(config_need_u32(root, "intermediate_size", NULL, 1, MAX_SIZE, &d_ff));
    Activation named;
    TRY(config_activation(root, "hidden_act", "silu", &named));
    *ffn = config_ffn(config->d_model, d_ff, true, ACTIVATION_CLAMPED_SWIGLU);
    ffn->bias = true;
    ffn->alpha = 1.702f;
    ffn->limit = 7;
    return config_f32(root, "swiglu_limit", 0, 1e9, &ffn->limit);
}

static Status read_config(const JsonAt *root, ModelConfig *config)
{
    LayerConfig like = {.stack = STACK_DECODER, .moe = true};
    uint32_t window = 128;
    TRY(config_decoder(root, config));
    like.attention.qkv_bias = true;
    TRY(config_attention(root, config, &like.attention));
    TRY(config_rope(root, 150000, like.attention.key_dim, config, &like.attention.rotary_dims));
    TRY(config_bool(root, "attention_bias", &like.attention.qkv_bias));
    like.attention.o_bias = like.attention.qkv_bias;
    like.attention.sinks = true;
    TRY(config_experts(root, "num_local_experts", "num_experts", &like.experts, &like.top_k));
    TRY(read_ffn(root, config, &like.ffn));
    like.router = config_router(ROUTER_TOP_K_SOFTMAX, false);
    like.router.bias = true;
    TRY(config_u32(root, "sliding_window", 1, MAX_SIZE, &window));
    for (uint32_t i = 0; i < config->n_layers; i++) {
        bool given = false;
        uint32_t *of_layer = &config->layers[i].attention.window;
        config->layers[i] = like;
        TRY(config_layer_window(root, i, window, of_layer, &given));
        if (!given)
            *of_layer = i % 2 == 0 ? window : 0;
    }
    return OK;
}

static const TensorRule LAYER[] = {
    RULES_LAYER_NORMS,
    RULES_SELF_ATTENTION,
    RULES_SELF_OUTPUT,
    {"self_attn.sinks", NULL, IN_LAYER(attention.sinks), NULL, {SIZE_HEADS}},
    {"mlp.router.weight", NULL, IN_LAYER(router), NULL, {SIZE_EXPERTS, SIZE_MODEL}},
    {"mlp.router.bias", NULL, IN_LAYER(router_bias), NULL, {SIZE_EXPERTS}},
    {0},
};

const Architecture ARCH_GPT_OSS = {
    .model_type = "gpt_oss",
    .layer_keys = {"num_hidden_layers"},
    .read_config = read_config,
    .model = RULES_DECODER_MODEL,
    .ffn = RULES_GATED_FFN,
    .decoder = {.layer_prefix = "model.layers.%u.",
                .layer = LAYER,
                .moe_name = "mlp",
                .stacked = {"mlp.experts.gate_up_proj", "mlp.experts.down_proj",
                            "mlp.experts.gate_up_proj_bias", "mlp.experts.down_proj_bias", true}},
    .ignored = IGNORED_BUFFERS,
};
