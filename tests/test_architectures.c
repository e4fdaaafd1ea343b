/* Every architecture, with the options that its config can take, against a plain forward pass in
 * double precision: prompts of several requests in one step, then token by token over the cache;
 * and every architecture's bad files. */
#include "tests/plain_model.h"
#include "tests/random_checkpoint.h"

#include "base/memory.h"
#include "tests/architecture_maker.h"

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
        cmocka_unit_test(yarn_scales_the_logits_of_latent_attention),
        cmocka_unit_test(unknown_activations_and_rope_types_are_named),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
