/* Reading config.json: what the readers of the architectures share. A key that is null counts as
 * absent. Keys that change nothing in a forward pass are not looked at. */
#ifndef EXEC_ARCH_CONFIG_H
#define EXEC_ARCH_CONFIG_H

#include "base/json.h"
#include "exec/model.h"

enum { MAX_SIZE = 1 << 24 };

/* KEY, or OTHER (unless NULL), which means the same; absent is an error that names KEY. */
Status config_need_u32(const JsonAt *root, const char *key, const char *other, uint32_t least,
                       uint32_t most, uint32_t *value);
/* These leave *VALUE as it is when KEY is absent. */
Status config_u32(const JsonAt *root, const char *key, uint32_t least, uint32_t most,
                  uint32_t *value);
Status config_f64(const JsonAt *root, const char *key, double least, double most, double *value);
Status config_f32(const JsonAt *root, const char *key, double least, double most, float *value);
Status config_bool(const JsonAt *root, const char *key, bool *value);
/* As json_fail(), but ERR_UNSUPPORTED. */
Status config_unsupported(const JsonAt *at, const char *why);

/* What a config holds before anything is read: a decoder with RMS norms. */
void config_defaults(ModelConfig *config);
/* vocab_size, hidden_size, num_hidden_layers, max_position_embeddings, rms_norm_eps,
 * tie_word_embeddings, eos_token_id, pad_token_id; refuses quantised weights. Makes
 * config->layers, all alike and dense, with LAYER's contents. */
Status config_decoder(const JsonAt *root, ModelConfig *config);
/* The same for models with sizes of other names: what is in CONFIG already. */
Status config_layers(const JsonAt *root, ModelConfig *config);
Status config_tokens(const JsonAt *root, ModelConfig *config);
Status config_not_quantised(const JsonAt *root);
/* num_attention_heads, num_key_value_heads, head_dim; rotary in halves over the whole head. */
Status config_attention(const JsonAt *root, const ModelConfig *config, AttentionConfig *attention);
/* Checks the sizes of an AttentionConfig. */
Status config_check_attention(const JsonAt *root, const AttentionConfig *attention);
/* rope_theta, rope_scaling, rope_parameters and partial_rotary_factor; DIMS is the head's size, and
 * *ROTARY_DIMS becomes what of it turns. THETA is the default. */
Status config_rope(const JsonAt *root, double theta, uint32_t dims, ModelConfig *config,
                   uint32_t *rotary_dims);
/* The activation at KEY, DEFAULT_NAME when absent; ERR_UNSUPPORTED lists those there are. */
Status config_activation(const JsonAt *root, const char *key, const char *default_name,
                         Activation *activation);
/* The window of layer LAYER in *WINDOW when "layer_types" says "sliding_attention", else 0;
 * *GIVEN tells whether there is a "layer_types". */
Status config_layer_window(const JsonAt *root, uint32_t layer, uint32_t sliding_window,
                           uint32_t *window, bool *given);
/* Experts (KEY or OTHER) and num_experts_per_tok of a MoE layer. */
Status config_experts(const JsonAt *root, const char *key, const char *other, uint32_t *experts,
                      uint32_t *top_k);
RouterConfig config_router(RouterKind kind, bool normalise);
FfnShape config_ffn(uint32_t d_model, uint32_t d_ff, bool gated, Activation activation);

#endif
