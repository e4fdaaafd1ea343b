/* Every architecture, with the options that its config can take, against a plain forward pass in
 * double precision: prompts of several requests in one step, then token by token over the cache;
 * and every architecture's bad files. */
#include "tests/plain_model.h"
#include "tests/random_checkpoint.h"

#include "base/memory.h"
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

static Sequences make_sequences(uint32_t n_requests, uint64_t seed)
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

static size_t routed_at(const Computed *made, uint32_t layer, uint32_t row, uint32_t token)
{
    return (((size_t)layer * ROWS + row) * MOST + token) * made->top_k;
}

/* Feeds the tokens [FROM, TO) of each row that has them, in one step. */
static void step(Executor *executor, const Checkpoint *checkpoint, const Sequences *rows,
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
static void compute(const Checkpoint *checkpoint, const Plan *plan, const Sequences *rows,
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

static void computed_free(Computed *made)
{
    free(made->logits);
    free(made->experts);
    free(made->weights);
}

/* The routing of ROW in STACK, layer by layer; LAYER counts the model's MoE layers. */
static void compare_routing(const char *name, const ModelConfig *config, const PlainOutput *plain,
                            Stack stack, uint32_t row, uint32_t n, const Computed *made)
{
    size_t at = 0;
    uint32_t moe = 0;
    for (uint32_t l = 0; l < config->n_layers; l++) {
        const LayerConfig *layer = &config->layers[l];
        for (uint32_t i = 0; layer->moe && layer->stack == stack && i < n; i++)
            for (uint32_t slot = 0; slot < layer->top_k; slot++, at++) {
                size_t ours = routed_at(made, moe, row, i) + slot;
                if (made->experts[ours] != plain->experts[at] ||
                    fabs(made->weights[ours] - plain->weights[at]) > 1e-4)
                    fail_msg("%s: layer %u, row %u, token %u, slot %u: expert %d at %g, wanted %d "
                             "at %g",
                             name, l, row, i, slot, made->experts[ours],
                             (double)made->weights[ours], plain->experts[at], plain->weights[at]);
            }
        moe += layer->moe;
    }
    assert_int_equal(at, plain->routed);
}

static double compare_logits(const char *name, const ModelConfig *config, const PlainOutput *plain,
                             uint32_t row, uint32_t n, const Computed *made)
{
    double worst = 0;
    const float *logits = made->logits + (size_t)row * MOST * config->vocabulary;
    for (size_t i = 0; i < (size_t)n * config->vocabulary; i++) {
        double difference = fabs(logits[i] - plain->logits[i]);
        worst = difference > worst ? difference : worst;
    }
    if (!(worst <= 1e-4))
        fail_msg("%s: row %u: logits differ by %g", name, row, worst);
    return worst;
}

/* Returns false when a choice of the plain pass was too close to be held to. */
static bool compare_row(const char *name, const Checkpoint *checkpoint, const Sequences *rows,
                        uint32_t row, const Computed *made)
{
    const ModelConfig *config = checkpoint_config(checkpoint);
    PlainOutput encoded = {.least_gap = INFINITY};
    if (model_is_encoder_decoder(config))
        encoded = plain_forward(checkpoint, STACK_ENCODER, rows->source[row], rows->n_source[row],
                                NULL, 0);
    PlainOutput plain = plain_forward(checkpoint, STACK_DECODER, rows->tokens[row], rows->n[row],
                                      encoded.hidden, rows->n_source[row]);
    bool clear = fmin(encoded.least_gap, plain.least_gap) > 1e-5;
    if (clear) {
        compare_routing(name, config, &encoded, STACK_ENCODER, row,
                        encoded.hidden != NULL ? rows->n_source[row] : 0, made);
        compare_routing(name, config, &plain, STACK_DECODER, row, rows->n[row], made);
        compare_logits(name, config, &plain, row, rows->n[row], made);
    }
    plain_free(&encoded);
    plain_free(&plain);
    return clear;
}

/* Returns how many rows were compared. */
static uint32_t check_variant(const Variant *variant, const Plan *plan, uint64_t seed)
{
    uint32_t compared = 0;
    Checkpoint *checkpoint;
    Computed made;
    Sequences rows = make_sequences(variant->steps == WHOLE ? 1 : ROWS, seed);
    assert_ok(checkpoint_open(random_checkpoint("any", variant->config, seed, NULL), &checkpoint));
    compute(checkpoint, plan, &rows, variant->steps == WHOLE, &made);
    for (uint32_t row = 0; row < rows.n_requests; row++)
        compared += compare_row(variant->name, checkpoint, &rows, row, &made);
    computed_free(&made);
    checkpoint_close(checkpoint);
    return compared;
}

static void every_option_computes_what_a_plain_pass_does(void **state)
{
    (void)state;
    Plan plan = plan_default();
    uint32_t compared = 0;
    for (size_t i = 0; i < N_VARIANTS; i++)
        for (uint64_t seed = 1; seed <= (exhaustive() ? 20 : 1); seed++)
            compared += check_variant(&VARIANTS[i], &plan, seed * 100 + i);
    assert_true(compared > N_VARIANTS);
}

/* Loads in any order and few slots change no number. */
static void an_expert_buffer_changes_nothing(void **state)
{
    (void)state;
    static const struct {
        ReplayOrder order;
        BufferScopeKind scope;
        uint32_t slots;
    } BUFFERS[] = {{ORDER_BATCH, SCOPE_LAYER, 2}, {ORDER_SERIAL, SCOPE_LAYER, 1}};
    for (size_t i = 0; i < N_VARIANTS; i++) {
        Plan plan = plan_default();
        plan.buffer.on = true;
        plan.buffer.order = BUFFERS[i % 2].order;
        plan.buffer.scope = BUFFERS[i % 2].scope;
        plan.buffer.slots = BUFFERS[i % 2].slots;
        strcpy(plan.buffer.evict, "lru");
        check_variant(&VARIANTS[i], &plan, 7000 + i);
    }
}

/* Writes the checkpoint of PATH again with the experts of each layer as one stack, as transformers
 * 5 keeps them in memory: gate over up, then down; and the router under the name it has there. */
typedef struct {
    const char *each[3]; /* "model.layers.%u.<...>.%u.<gate, up, down>" */
    const char *router;  /* "model.layers.%u.<...>" */
    const char *new_router;
    uint32_t layers;
    uint32_t experts;
} Restack;

static void add_spec(TensorList *list, const char *name, const uint64_t *shape, uint32_t rank)
{
    list_tensor(list, name, shape, rank);
}

static const char *layer_name(const char *format, uint32_t layer, uint32_t expert)
{
    static char names[4][128];
    static unsigned next;
    char *name = names[next++ % 4];
    snprintf(name, 128, format, layer, expert);
    return name;
}

static bool is_replaced(const Restack *restack, const char *name)
{
    for (uint32_t l = 0; l < restack->layers; l++)
        if (strcmp(layer_name(restack->router, l, 0), name) == 0)
            return true;
    return strstr(name, ".experts.") != NULL;
}

static void restack(const char *from, const char *to, const Restack *how)
{
    static const Harm NONE = {0};
    SafeTensors *file;
    SafeTensorsWriter *writer;
    TensorList *list = calloc(1, sizeof *list);
    list->harm = &NONE;
    assert_ok(safetensors_open(from, &file));
    for (size_t i = 0; i < safetensors_count(file); i++) {
        const Tensor *tensor = safetensors_at(file, i);
        if (!is_replaced(how, tensor->name))
            add_spec(list, tensor->name, tensor->shape, tensor->rank);
    }
    size_t plain = list->n;
    for (uint32_t l = 0; l < how->layers; l++) {
        const Tensor *up = safetensors_find(file, layer_name(how->each[1], l, 0));
        const Tensor *router = safetensors_find(file, layer_name(how->router, l, 0));
        add_spec(list, layer_name("model.layers.%u.mlp.experts.gate_up_proj", l, 0),
                 (uint64_t[]){how->experts, 2 * up->shape[0], up->shape[1]}, 3);
        add_spec(list, layer_name("model.layers.%u.mlp.experts.down_proj", l, 0),
                 (uint64_t[]){how->experts, up->shape[1], up->shape[0]}, 3);
        add_spec(list, layer_name(how->new_router, l, 0), router->shape, 2);
    }
    assert_ok(safetensors_writer_open(to, list->specs, list->n, &writer));
    for (size_t i = 0; i < plain; i++) {
        const Tensor *tensor = safetensors_find(file, list->names[i]);
        assert_ok(safetensors_writer_append(writer, i, tensor->data, tensor->bytes));
    }
    for (uint32_t l = 0; l < how->layers; l++) {
        const Tensor *router = safetensors_find(file, layer_name(how->router, l, 0));
        for (uint32_t e = 0; e < how->experts; e++)
            for (size_t part = 0; part < 3; part++) {
                const Tensor *tensor = safetensors_find(file, layer_name(how->each[part], l, e));
                assert_ok(safetensors_writer_append(writer, plain + 3 * l + part / 2, tensor->data,
                                                    tensor->bytes));
            }
        assert_ok(
            safetensors_writer_append(writer, plain + 3 * l + 2, router->data, router->bytes));
    }
    assert_ok(safetensors_writer_commit(writer));
    safetensors_close(file);
    for (size_t i = 0; i < list->n; i++)
        free(list->names[i]);
    free(list);
}

static void stacked_experts_are_the_same_experts(void **state)
{
    (void)state;
    static const struct {
        size_t variant;
        Restack how;
    } CASES[] = {
        {8,
         {{"model.layers.%u.block_sparse_moe.experts.%u.w1.weight",
           "model.layers.%u.block_sparse_moe.experts.%u.w3.weight",
           "model.layers.%u.block_sparse_moe.experts.%u.w2.weight"},
          "model.layers.%u.block_sparse_moe.gate.weight",
          "model.layers.%u.mlp.gate.weight",
          3,
          5}},
        {10,
         {{"model.layers.%u.mlp.experts.%u.gate_proj.weight",
           "model.layers.%u.mlp.experts.%u.up_proj.weight",
           "model.layers.%u.mlp.experts.%u.down_proj.weight"},
          "model.layers.%u.mlp.gate.weight",
          "model.layers.%u.mlp.gate.weight",
          3,
          6}},
    };
    for (size_t i = 0; i < sizeof CASES / sizeof *CASES; i++) {
        char file[600];
        Computed each;
        Computed stacked;
        Checkpoint *checkpoint;
        Plan plan = plan_default();
        Sequences rows = make_sequences(ROWS, 40 + i);
        const char *folder =
            random_checkpoint("stacked", VARIANTS[CASES[i].variant].config, 9, NULL);
        snprintf(file, sizeof file, "%s/model.safetensors", folder);
        assert_ok(checkpoint_open(folder, &checkpoint));
        size_t vocabulary = checkpoint_config(checkpoint)->vocabulary;
        uint64_t expert_bytes = checkpoint_expert_bytes(checkpoint, 1);
        compute(checkpoint, &plan, &rows, false, &each);
        checkpoint_close(checkpoint);
        restack(file, file, &CASES[i].how);
        assert_ok(checkpoint_open(folder, &checkpoint));
        assert_int_equal(checkpoint_expert_bytes(checkpoint, 1), expert_bytes);
        compute(checkpoint, &plan, &rows, false, &stacked);
        checkpoint_close(checkpoint);
        assert_memory_equal(each.logits, stacked.logits,
                            (size_t)ROWS * MOST * vocabulary * sizeof(float));
        computed_free(&each);
        computed_free(&stacked);
    }
}

static void assert_refused(const char *config, const Harm *harm, const char *why)
{
    Checkpoint *checkpoint = NULL;
    Status status = checkpoint_open(random_checkpoint("bad", config, 5, harm), &checkpoint);
    if (status == OK)
        fail_msg("accepted, wanted: %s", why);
    assert_int_equal(status, ERR_INPUT);
    if (strstr(error_message(), why) == NULL)
        fail_msg("\"%s\", wanted: %s", error_message(), why);
}

/* Any tensor of any architecture that is missing, misshapen or holds NaN is named. */
static void every_bad_tensor_is_named(void **state)
{
    (void)state;
    uint64_t random = 3;
    for (size_t i = 0; i < N_VARIANTS; i++) {
        TensorList *list = calloc(1, sizeof *list);
        static const Harm NONE = {0};
        ModelConfig model = {0};
        const Architecture *architecture;
        list->harm = &NONE;
        random_checkpoint("bad", VARIANTS[i].config, 5, NULL);
        assert_ok(model_config_load(scratch_path("bad"), &model, &architecture));
        assert_ok(architecture_visit(architecture, &model, list_tensor, list));
        for (size_t pass = 0; pass < (exhaustive() ? 3 * list->n : 9); pass++) {
            char why[400];
            const char *name = list->names[random_below(&random, (uint32_t)list->n)];
            Harm harm = {.leave_out = pass % 3 == 0 ? name : NULL,
                         .misshape = pass % 3 == 1 ? name : NULL,
                         .poison = pass % 3 == 2 ? name : NULL};
            snprintf(why, sizeof why, "tensor %s: %s", name,
                     (const char *[]){"missing", "shape [", "element "}[pass % 3]);
            assert_refused(VARIANTS[i].config, &harm, why);
        }
        for (size_t t = 0; t < list->n; t++)
            free(list->names[t]);
        free(list);
        model_config_free(&model);
    }
}

static void a_tensor_without_a_use_is_named(void **state)
{
    (void)state;
    for (size_t i = 0; i < N_VARIANTS; i++)
        assert_refused(VARIANTS[i].config, &(Harm){.add = "model.layers.0.mystery.weight"},
                       "tensor model.layers.0.mystery.weight: no part of a");
}

/* Old files hold buffers, and the head that is tied all the same. */
static void known_leftovers_are_ignored(void **state)
{
    (void)state;
    static const struct {
        size_t variant;
        const char *name;
    } LEFTOVERS[] = {{8, "model.layers.0.self_attn.rotary_emb.inv_freq"}, {9, "lm_head.weight"}};
    for (size_t i = 0; i < sizeof LEFTOVERS / sizeof *LEFTOVERS; i++) {
        Checkpoint *checkpoint;
        const char *config = VARIANTS[LEFTOVERS[i].variant].config;
        assert_ok(checkpoint_open(
            random_checkpoint("old", config, 5, &(Harm){.add = LEFTOVERS[i].name}), &checkpoint));
        checkpoint_close(checkpoint);
    }
}

/* The factor is on the whole product of query and key, not on its rotated part alone. */
static void yarn_scales_the_logits_of_latent_attention(void **state)
{
    (void)state;
    static const char *const TYPES[] = {"deepseek_v2", "deepseek_v3"};
    for (size_t i = 0; i < 2; i++) {
        char text[2000];
        char path[600];
        ModelConfig model = {0};
        const Architecture *architecture;
        const char *rest = strchr(DECODER("deepseek_v2") LATENT, ',');
        snprintf(text, sizeof text,
                 "{\"model_type\": \"%s\"%s\"num_experts_per_tok\": 4, \"n_group\": 1, "
                 "\"topk_group\": 1, \"rope_scaling\": {\"type\": \"yarn\", \"factor\": 40, "
                 "\"original_max_position_embeddings\": 16, \"mscale\": 0.707, "
                 "\"mscale_all_dim\": 0.707}}",
                 TYPES[i], rest);
        mkdir(scratch_path("yarn"), 0700);
        snprintf(path, sizeof path, "%s/config.json", scratch_path("yarn"));
        assert_ok(file_write_all(path, text, strlen(text)));
        assert_ok(model_config_load(scratch_path("yarn"), &model, &architecture));
        double mscale = 0.1 * 0.707 * log(40) + 1;
        assert_true(fabs(model.layers[0].attention.scale - mscale * mscale / sqrt(5 + 6)) < 1e-6);
        model_config_free(&model);
    }
}

static void unknown_activations_and_rope_types_are_named(void **state)
{
    (void)state;
    static const struct {
        const char *config;
        const char *why;
    } BAD[] = {
        {DECODER("olmoe") HEADS "\"hidden_act\": \"swiglu7\", \"intermediate_size\": 14, "
                                "\"num_experts\": 6, \"num_experts_per_tok\": 3}",
         "hidden_act: \"swiglu7\" is not supported"},
        {SWITCH "\"num_layers\": 2, \"dense_act_fn\": \"tanh\"}",
         "dense_act_fn: \"tanh\" is not supported"},
        {DECODER("mixtral") MIXTRAL
         "\"num_experts_per_tok\": 2, \"rope_scaling\": {\"type\": \"fancy\"}}",
         "rope_scaling.type: \"fancy\" is not supported"},
        {DECODER("deepseek_v3") LATENT "\"rope_scaling\": {\"rope_type\": \"mrope\"}}",
         "rope_scaling.rope_type: \"mrope\" is not supported"},
        {DECODER("gpt_oss") OSS "\"quantization_config\": {\"quant_method\": \"mxfp4\"}}",
         "these are \"mxfp4\""},
        {DECODER("deepseek_v3") LATENT "\"quantization_config\": {\"quant_method\": \"fp8\"}}",
         "these are \"fp8\""},
        {DECODER("deepseek_v3") LATENT
         "\"num_experts_per_tok\": 4, \"n_group\": 5, \"topk_group\": 2}",
         "n_routed_experts: 12 is no multiple of n_group, 5"},
    };
    for (size_t i = 0; i < sizeof BAD / sizeof *BAD; i++) {
        char path[600];
        ModelConfig model = {0};
        const Architecture *architecture;
        mkdir(scratch_path("bad"), 0700);
        snprintf(path, sizeof path, "%s/config.json", scratch_path("bad"));
        assert_ok(file_write_all(path, BAD[i].config, strlen(BAD[i].config)));
        assert_int_not_equal(model_config_load(scratch_path("bad"), &model, &architecture), OK);
        if (strstr(error_message(), BAD[i].why) == NULL)
            fail_msg("\"%s\", wanted: %s", error_message(), BAD[i].why);
        model_config_free(&model);
    }
}

int main(void)
{
    memory_install();
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_option_computes_what_a_plain_pass_does),
        cmocka_unit_test(an_expert_buffer_changes_nothing),
        cmocka_unit_test(stacked_experts_are_the_same_experts),
        cmocka_unit_test(every_bad_tensor_is_named),
        cmocka_unit_test(a_tensor_without_a_use_is_named),
        cmocka_unit_test(known_leftovers_are_ignored),
        cmocka_unit_test(yarn_scales_the_logits_of_latent_attention),
        cmocka_unit_test(unknown_activations_and_rope_types_are_named),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
