/* Variants of the architectures, and what the executor computes of them. */
#ifndef TESTS_ARCHITECTURE_MAKER_H
#define TESTS_ARCHITECTURE_MAKER_H

#include "tests/plain_model.h"
#include "tests/random_checkpoint.h"

#include "exec/executor.h"

/* Keys that decoders share; a variant adds its own. */
#define DECODER(type)                                                                              \
    "{\"model_type\": \"" type "\", \"vocab_size\": 71, \"num_hidden_layers\": 3, "                \
    "\"rms_norm_eps\": 1e-5, \"max_position_embeddings\": 64, \"hidden_size\": 24, "
#define HEADS "\"num_attention_heads\": 4, \"num_key_value_heads\": 2, "
#define QWEN                                                                                       \
    HEADS "\"hidden_act\": \"silu\", \"intermediate_size\": 20, \"moe_intermediate_size\": 12, "   \
          "\"num_experts\": 7, "
#define MIXTRAL                                                                                    \
    HEADS "\"hidden_act\": \"silu\", \"intermediate_size\": 14, \"num_local_experts\": 5, "
#define LATENT                                                                                     \
    "\"num_attention_heads\": 3, \"num_key_value_heads\": 3, \"hidden_act\": \"silu\", "           \
    "\"qk_nope_head_dim\": 5, \"qk_rope_head_dim\": 6, \"v_head_dim\": 7, \"kv_lora_rank\": 9, "   \
    "\"intermediate_size\": 20, \"moe_intermediate_size\": 6, \"n_routed_experts\": 12, "
#define OSS                                                                                        \
    HEADS "\"hidden_act\": \"silu\", \"intermediate_size\": 14, \"num_local_experts\": 6, "        \
          "\"num_experts_per_tok\": 3, \"head_dim\": 10, "
#define NLLB                                                                                       \
    "{\"model_type\": \"nllb-moe\", \"vocab_size\": 71, \"d_model\": 24, "                         \
    "\"max_position_embeddings\": 64, \"num_experts\": 6, \"activation_function\": \"relu\", "     \
    "\"encoder_attention_heads\": 4, \"decoder_attention_heads\": 3, \"encoder_ffn_dim\": 14, "    \
    "\"decoder_ffn_dim\": 18, \"eos_token_id\": 2, \"pad_token_id\": 1, "                          \
    "\"decoder_start_token_id\": 2, "
#define SWITCH                                                                                     \
    "{\"model_type\": \"switch_transformers\", \"vocab_size\": 71, \"d_model\": 24, \"d_kv\": 5, " \
    "\"num_heads\": 4, \"d_ff\": 14, \"num_experts\": 6, \"pad_token_id\": 0, "                    \
    "\"eos_token_id\": 1, "
#define FAIRSEQ                                                                                    \
    "{\"model_type\": \"fairseq_moe\", \"vocab_size\": 71, \"decoder_embed_dim\": 24, "            \
    "\"decoder_layers\": 4, \"decoder_attention_heads\": 3, \"decoder_ffn_embed_dim\": 14, "       \
    "\"moe_expert_count\": 6, \"max_target_positions\": 64, \"pad_token_id\": 1, "

typedef struct {
    enum { CUT, WHOLE } steps; /* WHOLE: the numbers depend on how steps are cut */
    const char *name;
    const char *config;
} Variant;

static const Variant VARIANTS[] = {
    {CUT, "qwen3",
     DECODER("qwen3_moe") QWEN "\"num_experts_per_tok\": 3, \"head_dim\": 10, "
                               "\"norm_topk_prob\": true, \"decoder_sparse_step\": 2}"},
    {CUT, "qwen3 biases, tied, all layers",
     DECODER("qwen3_moe") QWEN "\"num_experts_per_tok\": 2, \"attention_bias\": true, "
                               "\"tie_word_embeddings\": true, \"mlp_only_layers\": [1]}"},
    {CUT, "qwen3 window",
     DECODER("qwen3_moe") QWEN "\"num_experts_per_tok\": 2, \"sliding_window\": 4, "
                               "\"use_sliding_window\": true}"},
    {CUT, "qwen3 linear",
     DECODER("qwen3_moe") QWEN
     "\"num_experts_per_tok\": 2, \"rope_theta\": 500.0, \"rope_scaling\": {\"type\": \"linear\", "
     "\"factor\": 3}}"},
    {CUT, "qwen3 llama3",
     DECODER("qwen3_moe") QWEN
     "\"num_experts_per_tok\": 2, \"rope_parameters\": {\"rope_type\": \"llama3\", \"factor\": 4, "
     "\"rope_theta\": 50.0, \"low_freq_factor\": 1, \"high_freq_factor\": 4, "
     "\"original_max_position_embeddings\": 16}}"},
    {CUT, "qwen3 part of a head",
     DECODER("qwen3_moe") QWEN
     "\"num_experts_per_tok\": 2, \"head_dim\": 12, \"rope_parameters\": {\"rope_type\": "
     "\"default\", \"partial_rotary_factor\": 0.5, \"rope_theta\": 100.0}}"},
    {CUT, "qwen2",
     DECODER("qwen2_moe") QWEN
     "\"num_experts_per_tok\": 3, \"shared_expert_intermediate_size\": 10}"},
    {CUT, "qwen2 no biases, normalised, windows in the last layers",
     DECODER("qwen2_moe") QWEN
     "\"num_experts_per_tok\": 2, \"shared_expert_intermediate_size\": 8, \"qkv_bias\": false, "
     "\"norm_topk_prob\": true, \"use_sliding_window\": true, \"sliding_window\": 3, "
     "\"max_window_layers\": 1, \"decoder_sparse_step\": 2}"},
    {CUT, "mixtral", DECODER("mixtral") MIXTRAL "\"num_experts_per_tok\": 2}"},
    {CUT, "mixtral window, tied",
     DECODER("mixtral") MIXTRAL
     "\"num_experts_per_tok\": 3, \"sliding_window\": 5, \"tie_word_embeddings\": true}"},
    {CUT, "olmoe",
     DECODER("olmoe") HEADS "\"hidden_act\": \"silu\", \"intermediate_size\": 14, "
                            "\"num_experts\": 6, \"num_experts_per_tok\": 3}"},
    {CUT, "olmoe clipped, biases",
     DECODER("olmoe") HEADS
     "\"hidden_act\": \"gelu\", \"intermediate_size\": 14, \"num_experts\": 6, "
     "\"num_experts_per_tok\": 3, \"clip_qkv\": 0.6, \"attention_bias\": true, "
     "\"norm_topk_prob\": true}"},
    {CUT, "phimoe", DECODER("phimoe") MIXTRAL "\"num_experts_per_tok\": 2}"},
    {CUT, "phimoe wide jitter, biases, window",
     DECODER("phimoe") MIXTRAL
     "\"num_experts_per_tok\": 2, \"router_jitter_noise\": 0.3, \"attention_bias\": true, "
     "\"lm_head_bias\": true, \"sliding_window\": 6}"},
    {CUT, "phimoe longrope, short",
     DECODER("phimoe") MIXTRAL
     "\"num_experts_per_tok\": 2, \"rope_scaling\": {\"type\": \"longrope\", \"short_factor\": "
     "[1, 1.5, 2], \"long_factor\": [2, 3, 4], \"short_mscale\": 1.1, \"long_mscale\": 1.3, "
     "\"original_max_position_embeddings\": 20}}"},
    {WHOLE, "phimoe longrope, long",
     DECODER("phimoe") MIXTRAL
     "\"num_experts_per_tok\": 2, \"original_max_position_embeddings\": 10, \"rope_scaling\": "
     "{\"type\": \"longrope\", \"short_factor\": [1, 1.5, 2], \"long_factor\": [2, 3, 4]}}"},
    {CUT, "gpt-oss",
     DECODER("gpt_oss") OSS
     "\"attention_bias\": true, \"sliding_window\": 3, \"layer_types\": [\"full_attention\", "
     "\"sliding_attention\", \"full_attention\"], \"swiglu_limit\": 0.7}"},
    {CUT, "gpt-oss yarn, no biases",
     DECODER("gpt_oss") OSS
     "\"attention_bias\": false, \"sliding_window\": 5, \"rope_scaling\": {\"rope_type\": "
     "\"yarn\", \"factor\": 8.0, \"beta_fast\": 4.0, \"beta_slow\": 1.0, \"truncate\": false, "
     "\"original_max_position_embeddings\": 16}, \"rope_theta\": 100}"},
    {CUT, "deepseek v2 greedy",
     DECODER("deepseek_v2") LATENT
     "\"num_experts_per_tok\": 3, \"n_shared_experts\": 2, \"first_k_dense_replace\": 1, "
     "\"q_lora_rank\": null, \"topk_method\": \"greedy\", \"routed_scaling_factor\": 1.5}"},
    {CUT, "deepseek v2 groups, query rank, biases",
     DECODER("deepseek_v2") LATENT
     "\"num_experts_per_tok\": 3, \"n_shared_experts\": null, \"q_lora_rank\": 8, "
     "\"topk_method\": \"group_limited_greedy\", \"n_group\": 4, \"topk_group\": 2, "
     "\"attention_bias\": true, \"mlp_bias\": true, \"first_k_dense_replace\": 2}"},
    {CUT, "deepseek v3",
     DECODER("deepseek_v3") LATENT
     "\"num_experts_per_tok\": 4, \"n_shared_experts\": 1, \"q_lora_rank\": 8, \"n_group\": 3, "
     "\"topk_group\": 2, \"norm_topk_prob\": true, \"first_k_dense_replace\": 1}"},
    {CUT, "deepseek v3 yarn, halves, not normalised",
     DECODER("deepseek_v3") LATENT
     "\"num_experts_per_tok\": 2, \"n_shared_experts\": 3, \"q_lora_rank\": null, \"n_group\": 1, "
     "\"topk_group\": 1, \"norm_topk_prob\": false, \"routed_scaling_factor\": 0.8, "
     "\"rope_interleave\": false, \"rope_scaling\": {\"type\": \"yarn\", \"factor\": 6, "
     "\"original_max_position_embeddings\": 12, \"mscale\": 0.7, \"mscale_all_dim\": 1.2, "
     "\"beta_fast\": 3, \"beta_slow\": 1}, \"rope_theta\": 200.0}"},
    {CUT, "fairseq",
     FAIRSEQ "\"moe_eval_capacity_token_fraction\": 1.0, "
             "\"share_decoder_input_output_embed\": true, \"activation_fn\": \"gelu\"}"},
    {WHOLE, "fairseq learned positions, capacity",
     FAIRSEQ "\"moe_freq\": 1, \"decoder_learned_pos\": true, \"no_scale_embedding\": true, "
             "\"moe_eval_capacity_token_fraction\": 0.25, \"activation_fn\": \"relu\"}"},
    {CUT, "nllb",
     NLLB "\"encoder_layers\": 3, \"decoder_layers\": 2, \"encoder_sparse_step\": 2, "
          "\"decoder_sparse_step\": 2, \"moe_token_dropout\": 0.2}"},
    {WHOLE, "nllb capacity, untied, router bias, unscaled",
     NLLB "\"encoder_layers\": 2, \"decoder_layers\": 4, \"encoder_sparse_step\": 1, "
          "\"decoder_sparse_step\": 4, \"moe_token_dropout\": 0, \"router_bias\": true, "
          "\"scale_embedding\": false, \"tie_word_embeddings\": false, "
          "\"moe_eval_capacity_token_fraction\": 0.3}"},
    {WHOLE, "nllb capacity, normalised before",
     NLLB "\"encoder_layers\": 2, \"decoder_layers\": 2, \"encoder_sparse_step\": 1, "
          "\"decoder_sparse_step\": 0, \"normalize_router_prob_before_dropping\": true, "
          "\"moe_eval_capacity_token_fraction\": 0.2}"},
    {CUT, "switch",
     SWITCH "\"num_layers\": 4, \"num_decoder_layers\": 2, "
            "\"num_sparse_encoder_layers\": 2, \"num_sparse_decoder_layers\": 1}"},
    {CUT, "switch untied, few buckets, router bias",
     SWITCH "\"num_layers\": 2, \"num_decoder_layers\": 3, \"encoder_sparse_step\": 1, "
            "\"decoder_sparse_step\": 2, \"tie_word_embeddings\": false, \"router_bias\": true, "
            "\"relative_attention_num_buckets\": 8, \"relative_attention_max_distance\": 6, "
            "\"dense_act_fn\": \"gelu_new\"}"},
};

enum { N_VARIANTS = sizeof VARIANTS / sizeof *VARIANTS, MOST = 17, ROWS = 2 };

/* Two requests with their tokens, and sources for models that want them. */
typedef struct {
    uint32_t n_requests;
    uint32_t n[ROWS];
    uint32_t n_source[ROWS];
    uint32_t tokens[ROWS][MOST];
    uint32_t source[ROWS][MOST];
} Sequences;

static inline Sequences make_sequences(uint32_t n_requests, uint64_t seed)
{
    Sequences made = {.n_requests = n_requests, .n = {MOST, 11}, .n_source = {13, MOST}};
    for (size_t r = 0; r < ROWS; r++)
        for (size_t i = 0; i < MOST; i++) {
            made.tokens[r][i] = 3 + random_below(&seed, 68);
            made.source[r][i] = 3 + random_below(&seed, 68);
        }
    return made;
}

/* What the executor computed, row by row. */
typedef struct {
    float *logits; /* [ROWS][MOST][vocabulary] */
    int *experts;  /* [2 stacks][layers of it][ROWS * MOST][top_k], token by token of each row */
    float *weights;
    uint32_t n_layers;
    uint32_t top_k;
} Computed;

static inline size_t routed_at(const Computed *made, uint32_t layer, uint32_t row, uint32_t token)
{
    return (((size_t)layer * ROWS + row) * MOST + token) * made->top_k;
}

/* Feeds the tokens [FROM, TO) of each row that has them, in one step. */
static inline void step(Executor *executor, const Checkpoint *checkpoint, const Sequences *rows,
                        Stack stack, uint32_t from, uint32_t to, Computed *made)
{
    const ModelConfig *config = checkpoint_config(checkpoint);
    uint32_t token[ROWS * MOST];
    uint32_t slot[ROWS * MOST];
    uint32_t position[ROWS * MOST];
    uint32_t n = 0;
    for (uint32_t r = 0; r < rows->n_requests; r++) {
        uint32_t length = stack == STACK_ENCODER ? rows->n_source[r] : rows->n[r];
        for (uint32_t i = from; i < to && i < length; i++, n++) {
            token[n] = stack == STACK_ENCODER ? rows->source[r][i] : rows->tokens[r][i];
            slot[n] = r;
            position[n] = i;
        }
    }
    if (n == 0)
        return;
    const StepInput input = {.stack = stack,
                             .tokens = n,
                             .token = token,
                             .kv_slot = slot,
                             .position = position,
                             .timing = from % 2 == 0,
                             .logits = stack == STACK_ENCODER ? LOGITS_NONE : LOGITS_ALL};
    StepOutput output;
    assert_ok(executor_step(executor, &input, &output));
    assert_int_equal(output.n_timing > 0, input.timing);
    for (uint32_t i = 0; stack == STACK_DECODER && i < n; i++)
        memcpy(made->logits + ((size_t)slot[i] * MOST + position[i]) * config->vocabulary,
               output.logits + (size_t)i * config->vocabulary, config->vocabulary * sizeof(float));
    uint32_t n_layers;
    size_t routed = 0;
    const TraceLayer *layers = executor_layers(executor, &n_layers);
    for (uint32_t l = 0; l < n_layers; l++) {
        if (layers[l].stack != stack)
            continue;
        for (size_t at = 0; at < (size_t)n * layers[l].top_k; at++, routed++) {
            uint32_t i = (uint32_t)(at / layers[l].top_k);
            size_t to_at = routed_at(made, l, slot[i], position[i]) + at % layers[l].top_k;
            bool dropped = output.experts[routed] == EXPERT_DROPPED;
            made->experts[to_at] = dropped ? -1 : output.experts[routed];
            made->weights[to_at] = output.weights[routed];
        }
    }
}

/* Prompts in one step, then token by token; or all at once. */
static inline void compute(const Checkpoint *checkpoint, const Plan *plan, const Sequences *rows,
                           bool whole, Computed *made)
{
    const ModelConfig *config = checkpoint_config(checkpoint);
    ExecutorOptions options = {.plan = plan,
                               .device = "cpu",
                               .threads = 2,
                               .max_requests = ROWS,
                               .max_length = MOST,
                               .max_tokens = ROWS * MOST,
                               .logits = LOGITS_ALL};
    Executor *executor;
    size_t routed = (size_t)config->n_moe_layers * ROWS * MOST * config->max_top_k;
    assert_ok(executor_open(checkpoint, &options, &executor));
    *made = (Computed){.logits = calloc((size_t)ROWS * MOST * config->vocabulary, sizeof(float)),
                       .experts = calloc(routed, sizeof(int)),
                       .weights = calloc(routed, sizeof(float)),
                       .top_k = config->max_top_k};
    if (model_is_encoder_decoder(config))
        step(executor, checkpoint, rows, STACK_ENCODER, 0, MOST, made);
    uint32_t prompt = whole ? MOST : 6;
    step(executor, checkpoint, rows, STACK_DECODER, 0, prompt, made);
    for (uint32_t i = prompt; i < MOST; i++)
        step(executor, checkpoint, rows, STACK_DECODER, i, i + 1, made);
    executor_close(executor);
}

static inline void computed_free(Computed *made)
{
    free(made->logits);
    free(made->experts);
    free(made->weights);
}

#endif
