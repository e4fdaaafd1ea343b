/* The published shapes. Each is the config.json of the model it names, as far as the executor reads
 * it; what is left out is said. */
#include "exec/shape.h"

/* mistralai/Mixtral-8x7B-v0.1 */
static const char MIXTRAL_8X7B[] =
    "{\"model_type\":\"mixtral\",\"vocab_size\":32000,\"hidden_size\":4096,"
    "\"intermediate_size\":14336,\"num_hidden_layers\":32,\"num_attention_heads\":32,"
    "\"num_key_value_heads\":8,\"num_local_experts\":8,\"num_experts_per_tok\":2,"
    "\"hidden_act\":\"silu\",\"max_position_embeddings\":32768,\"rms_norm_eps\":1e-05,"
    "\"rope_theta\":1000000.0,\"sliding_window\":null,\"tie_word_embeddings\":false,"
    "\"bos_token_id\":1,\"eos_token_id\":2}";

/* allenai/OLMoE-1B-7B-0924 */
static const char OLMOE_1B_7B[] =
    "{\"model_type\":\"olmoe\",\"vocab_size\":50304,\"hidden_size\":2048,"
    "\"intermediate_size\":1024,\"num_hidden_layers\":16,\"num_attention_heads\":16,"
    "\"num_key_value_heads\":16,\"num_experts\":64,\"num_experts_per_tok\":8,"
    "\"norm_topk_prob\":false,\"attention_bias\":false,\"clip_qkv\":null,\"hidden_act\":\"silu\","
    "\"max_position_embeddings\":4096,\"rms_norm_eps\":1e-05,\"rope_theta\":10000.0,"
    "\"tie_word_embeddings\":false,\"eos_token_id\":50279,\"pad_token_id\":1}";

/* Qwen/Qwen1.5-MoE-A2.7B */
static const char QWEN1_5_MOE[] =
    "{\"model_type\":\"qwen2_moe\",\"vocab_size\":151936,\"hidden_size\":2048,"
    "\"intermediate_size\":5632,\"moe_intermediate_size\":1408,"
    "\"shared_expert_intermediate_size\":5632,\"num_hidden_layers\":24,"
    "\"num_attention_heads\":16,\"num_key_value_heads\":16,\"num_experts\":60,"
    "\"num_experts_per_tok\":4,\"norm_topk_prob\":false,\"decoder_sparse_step\":1,"
    "\"hidden_act\":\"silu\",\"max_position_embeddings\":8192,\"max_window_layers\":21,"
    "\"rms_norm_eps\":1e-06,\"rope_theta\":1000000.0,\"use_sliding_window\":false,"
    "\"tie_word_embeddings\":false,\"bos_token_id\":151643,\"eos_token_id\":151643}";

/* Qwen/Qwen3-30B-A3B */
static const char QWEN3_30B_A3B[] =
    "{\"model_type\":\"qwen3_moe\",\"vocab_size\":151936,\"hidden_size\":2048,"
    "\"intermediate_size\":6144,\"moe_intermediate_size\":768,\"num_hidden_layers\":48,"
    "\"num_attention_heads\":32,\"num_key_value_heads\":4,\"head_dim\":128,\"num_experts\":128,"
    "\"num_experts_per_tok\":8,\"norm_topk_prob\":true,\"decoder_sparse_step\":1,"
    "\"mlp_only_layers\":[],\"attention_bias\":false,\"hidden_act\":\"silu\","
    "\"max_position_embeddings\":40960,\"rms_norm_eps\":1e-06,\"rope_theta\":1000000.0,"
    "\"rope_scaling\":null,\"use_sliding_window\":false,\"tie_word_embeddings\":false,"
    "\"bos_token_id\":151643,\"eos_token_id\":151645}";

/* deepseek-ai/DeepSeek-V2-Lite */
static const char DEEPSEEK_V2_LITE[] =
    "{\"model_type\":\"deepseek_v2\",\"vocab_size\":102400,\"hidden_size\":2048,"
    "\"intermediate_size\":10944,\"moe_intermediate_size\":1408,\"num_hidden_layers\":27,"
    "\"first_k_dense_replace\":1,\"num_attention_heads\":16,\"num_key_value_heads\":16,"
    "\"kv_lora_rank\":512,\"q_lora_rank\":null,\"qk_nope_head_dim\":128,\"qk_rope_head_dim\":64,"
    "\"v_head_dim\":128,\"n_routed_experts\":64,\"n_shared_experts\":2,\"num_experts_per_tok\":6,"
    "\"n_group\":1,\"topk_group\":1,\"topk_method\":\"greedy\",\"norm_topk_prob\":false,"
    "\"routed_scaling_factor\":1.0,\"attention_bias\":false,\"hidden_act\":\"silu\","
    "\"max_position_embeddings\":163840,\"rms_norm_eps\":1e-06,\"rope_theta\":10000,"
    "\"rope_scaling\":{\"type\":\"yarn\",\"factor\":40,\"beta_fast\":32,\"beta_slow\":1,"
    "\"mscale\":0.707,\"mscale_all_dim\":0.707,\"original_max_position_embeddings\":4096},"
    "\"tie_word_embeddings\":false,\"bos_token_id\":100000,\"eos_token_id\":100001}";

/* deepseek-ai/DeepSeek-V3, in bf16: its quantization_config is left out, and so is the layer for
 * predicting ahead (num_nextn_predict_layers). */
static const char DEEPSEEK_V3[] =
    "{\"model_type\":\"deepseek_v3\",\"vocab_size\":129280,\"hidden_size\":7168,"
    "\"intermediate_size\":18432,\"moe_intermediate_size\":2048,\"num_hidden_layers\":61,"
    "\"first_k_dense_replace\":3,\"num_attention_heads\":128,\"num_key_value_heads\":128,"
    "\"kv_lora_rank\":512,\"q_lora_rank\":1536,\"qk_nope_head_dim\":128,\"qk_rope_head_dim\":64,"
    "\"v_head_dim\":128,\"n_routed_experts\":256,\"n_shared_experts\":1,\"num_experts_per_tok\":8,"
    "\"n_group\":8,\"topk_group\":4,\"topk_method\":\"noaux_tc\",\"norm_topk_prob\":true,"
    "\"routed_scaling_factor\":2.5,\"attention_bias\":false,\"hidden_act\":\"silu\","
    "\"max_position_embeddings\":163840,\"rms_norm_eps\":1e-06,\"rope_theta\":10000,"
    "\"rope_scaling\":{\"type\":\"yarn\",\"factor\":40,\"beta_fast\":32,\"beta_slow\":1,"
    "\"mscale\":1.0,\"mscale_all_dim\":1.0,\"original_max_position_embeddings\":4096},"
    "\"tie_word_embeddings\":false,\"bos_token_id\":0,\"eos_token_id\":1}";

/* openai/gpt-oss-20b, in bf16: its quantization_config (MXFP4) is left out. Without layer_types the
 * description gives every other layer the window, from the first on, as the published list does. */
static const char GPT_OSS_20B[] =
    "{\"model_type\":\"gpt_oss\",\"vocab_size\":201088,\"hidden_size\":2880,"
    "\"intermediate_size\":2880,\"num_hidden_layers\":24,\"num_attention_heads\":64,"
    "\"num_key_value_heads\":8,\"head_dim\":64,\"num_local_experts\":32,\"num_experts_per_tok\":4,"
    "\"attention_bias\":true,\"sliding_window\":128,\"hidden_act\":\"silu\",\"swiglu_limit\":7.0,"
    "\"max_position_embeddings\":131072,\"rms_norm_eps\":1e-05,\"rope_theta\":150000,"
    "\"rope_scaling\":{\"rope_type\":\"yarn\",\"factor\":32.0,\"beta_fast\":32.0,"
    "\"beta_slow\":1.0,\"truncate\":false,\"original_max_position_embeddings\":4096},"
    "\"tie_word_embeddings\":false,\"eos_token_id\":200002,\"pad_token_id\":199999}";

/* The language model of Huang et al. 2023, table I: fairseq's en_moe_lm_52b (Artetxe et al. 2021),
 * experts in every second layer. 16 heads are those of the dense model of its width; 2048 positions
 * its training length. The evaluation capacity (0.05 of the tokens) is left to the plan's gating,
 * so that without one nothing is dropped. */
static const char PAPER_LM_52B[] =
    "{\"model_type\":\"fairseq_moe\",\"vocab_size\":51200,\"decoder_embed_dim\":1024,"
    "\"decoder_ffn_embed_dim\":4096,\"decoder_layers\":24,\"decoder_attention_heads\":16,"
    "\"moe_freq\":2,\"moe_expert_count\":512,\"moe_eval_capacity_token_fraction\":1.0,"
    "\"moe_normalize_gate_prob_before_dropping\":false,\"activation_fn\":\"gelu\","
    "\"max_target_positions\":2048,\"share_decoder_input_output_embed\":true,"
    "\"decoder_learned_pos\":false,\"no_scale_embedding\":false,\"pad_token_id\":1,"
    "\"eos_token_id\":2}";

/* facebook/nllb-moe-54b */
static const char NLLB_MOE_54B[] =
    "{\"model_type\":\"nllb-moe\",\"vocab_size\":256206,\"d_model\":2048,\"encoder_layers\":24,"
    "\"encoder_attention_heads\":16,\"encoder_ffn_dim\":8192,\"encoder_sparse_step\":4,"
    "\"decoder_layers\":24,\"decoder_attention_heads\":16,\"decoder_ffn_dim\":8192,"
    "\"decoder_sparse_step\":4,\"num_experts\":128,\"activation_function\":\"relu\","
    "\"router_bias\":false,\"second_expert_policy\":\"all\",\"moe_token_dropout\":0.2,"
    "\"moe_eval_capacity_token_fraction\":1.0,\"batch_prioritized_routing\":false,"
    "\"normalize_router_prob_before_dropping\":false,\"scale_embedding\":true,"
    "\"max_position_embeddings\":1024,\"bos_token_id\":0,\"eos_token_id\":2,\"pad_token_id\":1,"
    "\"decoder_start_token_id\":2}";

static const Shape SHAPES[] = {
    {"mixtral-8x7b", "mistralai/Mixtral-8x7B-v0.1", MIXTRAL_8X7B},
    {"olmoe-1b-7b", "allenai/OLMoE-1B-7B-0924", OLMOE_1B_7B},
    {"qwen1.5-moe", "Qwen/Qwen1.5-MoE-A2.7B", QWEN1_5_MOE},
    {"qwen3-30b-a3b", "Qwen/Qwen3-30B-A3B", QWEN3_30B_A3B},
    {"deepseek-v2-lite", "deepseek-ai/DeepSeek-V2-Lite", DEEPSEEK_V2_LITE},
    {"deepseek-v3", "deepseek-ai/DeepSeek-V3", DEEPSEEK_V3},
    {"gpt-oss-20b", "openai/gpt-oss-20b", GPT_OSS_20B},
    {"paper-lm-52b", "fairseq en_moe_lm_52b", PAPER_LM_52B},
    {"nllb-moe-54b", "facebook/nllb-moe-54b", NLLB_MOE_54B},
};

const Shape *shape_list(size_t *count)
{
    *count = sizeof SHAPES / sizeof *SHAPES;
    return SHAPES;
}
