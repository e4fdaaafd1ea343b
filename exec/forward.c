#include "exec/forward.h"

#include <math.h>
#include <string.h>

#include "exec/layout.h"

enum { LOGIT_ROWS = 256 };

/* What the blocks of one step share. */
typedef struct {
    Forward *forward;
    const StepInput *input;
    const Span *spans;
    uint32_t n_spans;
    uint32_t moe_layer;       /* MoE layers done */
    size_t routed;            /* entries of host.experts used by them */
    size_t scored;            /* entries of host.scores */
    const uint32_t *next_use; /* of the next event */
} Step;

static uint32_t qkv_columns(const ModelConfig *config)
{
    return (config->n_heads + 2 * config->n_kv_heads) * config->head_dim;
}

static size_t cache_floats(const Forward *forward)
{
    const ModelConfig *config = forward->config;
    size_t positions = times(forward->max_requests, forward->max_length);
    return times(positions, (size_t)config->n_kv_heads * config->head_dim);
}

void forward_lay_out_cache(Forward *forward, Arena *arena)
{
    size_t floats = times(forward->config->n_layers, cache_floats(forward));
    forward->at.keys = lay_out(arena, floats, sizeof(float));
    forward->at.values = lay_out(arena, floats, sizeof(float));
}

void forward_lay_out_activations(Forward *forward, Arena *arena)
{
    const ModelConfig *config = forward->config;
    Activations *at = &forward->at;
    size_t tokens = forward->max_tokens;
    size_t top_k = config->max_top_k > 0 ? config->max_top_k : 1;
    size_t rows = times(tokens, top_k);
    at->ids = lay_out(arena, tokens, sizeof *at->ids);
    at->hidden = lay_out(arena, times(tokens, config->d_model), sizeof(float));
    at->normed = lay_out(arena, times(tokens, config->d_model), sizeof(float));
    at->qkv = lay_out(arena, times(tokens, qkv_columns(config)), sizeof(float));
    at->mixed =
        lay_out(arena, times(tokens, (size_t)config->n_heads * config->head_dim), sizeof(float));
    at->scores = lay_out(arena, times(tokens, config->max_experts), sizeof(float));
    at->experts = lay_out(arena, rows, sizeof *at->experts);
    at->route_weights = lay_out(arena, rows, sizeof(float));
    at->rows = lay_out(arena, rows, sizeof *at->rows);
    at->expert_out = lay_out(arena, times(rows, config->d_model), sizeof(float));
    if (forward->max_logits > 0)
        at->logits = lay_out(arena, times(LOGIT_ROWS, config->vocabulary), sizeof(float));
}

void forward_lay_out_host(Forward *forward, Arena *arena)
{
    const ModelConfig *config = forward->config;
    ForwardHost *host = &forward->host;
    size_t tokens = forward->max_tokens;
    size_t top_k = 0;
    size_t experts = 0;
    for (uint32_t i = 0; i < config->n_layers; i++) {
        top_k += config->layers[i].moe ? config->layers[i].top_k : 0;
        experts += config->layers[i].moe ? config->layers[i].experts : 0;
    }
    size_t widest_k = config->max_top_k > 0 ? config->max_top_k : 1;
    host->experts = lay_out(arena, times(tokens, top_k), sizeof *host->experts);
    host->weights = lay_out(arena, times(tokens, top_k), sizeof(float));
    host->scores = lay_out(arena, times(tokens, experts), sizeof(float));
    host->logits = lay_out(arena, times(forward->max_logits, config->vocabulary), sizeof(float));
    host->ones = lay_out(arena, tokens, sizeof(float));
    host->counts = lay_out(arena, config->max_experts, sizeof *host->counts);
    host->rows.active = lay_out(arena, config->max_experts, sizeof *host->rows.active);
    host->rows.first = lay_out(arena, (size_t)config->max_experts + 1, sizeof *host->rows.first);
    host->rows.rows = lay_out(arena, times(tokens, widest_k), sizeof *host->rows.rows);
}

/* hidden += o * attention(qkv * norm(hidden)) */
static Status attention_block(const Step *step, uint32_t layer)
{
    Forward *f = step->forward;
    const Backend *backend = f->backend;
    const ModelConfig *config = f->config;
    const LayerWeights *weights = &f->weights.layers[layer];
    const AttentionLayer attention = {.n_heads = config->n_heads,
                                      .n_kv_heads = config->n_kv_heads,
                                      .head_dim = config->head_dim,
                                      .norm_eps = config->norm_eps,
                                      .q_norm = weights->q_norm,
                                      .k_norm = weights->k_norm,
                                      .cosine = f->weights.cosine,
                                      .sine = f->weights.sine,
                                      .keys = f->at.keys + layer * cache_floats(f),
                                      .values = f->at.values + layer * cache_floats(f)};
    uint32_t tokens = step->input->tokens;
    TRY(backend->rms_norm(f->device, f->at.hidden, weights->input_norm, tokens, config->d_model,
                          config->norm_eps, f->at.normed));
    TRY(backend->linear(f->device, f->at.normed, &weights->qkv, tokens, false, f->at.qkv));
    TRY(backend->append(f->device, &attention, step->spans, step->n_spans, f->at.qkv));
    TRY(backend->attend(f->device, &attention, step->spans, step->n_spans, f->at.qkv, f->at.mixed));
    return backend->linear(f->device, f->at.mixed, &weights->o, tokens, true, f->at.hidden);
}

/* Weights of forced experts: the trace's, or the router's probabilities of them. */
static void force_weights(const LayerConfig *layer, const float *given, const float *scores,
                          const uint16_t *experts, float *weights)
{
    float sum = 0;
    for (uint32_t slot = 0; slot < layer->top_k; slot++) {
        bool dropped = experts[slot] == EXPERT_DROPPED;
        weights[slot] = dropped ? 0 : given != NULL ? given[slot] : scores[experts[slot]];
        sum += weights[slot];
    }
    for (uint32_t slot = 0; given == NULL && layer->norm_top_k && slot < layer->top_k; slot++)
        weights[slot] = sum > 0 ? weights[slot] / sum : 0;
}

static void force_routing(const Step *step, const LayerConfig *layer, const float *scores,
                          uint16_t *experts, float *weights)
{
    const StepInput *input = step->input;
    const float *given = input->forced_weights;
    memcpy(experts, input->forced_experts + step->routed,
           (size_t)input->tokens * layer->top_k * sizeof *experts);
    for (size_t i = 0; i < input->tokens; i++)
        force_weights(layer, given != NULL ? given + step->routed + i * layer->top_k : NULL,
                      scores + i * layer->experts, experts + i * layer->top_k,
                      weights + i * layer->top_k);
}

static Status check_routing(const Step *step, uint32_t layer, const float *weights)
{
    uint32_t top_k = step->forward->config->layers[layer].top_k;
    for (uint32_t i = 0; i < step->input->tokens; i++)
        if (isnan(weights[(size_t)i * top_k]))
            return fail(ERR_INPUT,
                        "layer %u: token %u of the step, position %u: the router's "
                        "probabilities are not numbers (NaN)",
                        layer, i, step->input->position[i]);
    return OK;
}

/* Asks the router, puts forced routing in its place, drops what is over capacity, and groups the
 * rows by expert. EXPERTS, WEIGHTS and SCORES are the layer's part of the host's arrays. */
static Status route(const Step *step, uint32_t layer, uint32_t capacity, uint16_t *experts,
                    float *weights, float *scores)
{
    Forward *f = step->forward;
    const Backend *backend = f->backend;
    const LayerConfig *shape = &f->config->layers[layer];
    uint32_t tokens = step->input->tokens;
    size_t routed = (size_t)tokens * shape->top_k;
    TRY(backend->route(f->device, f->at.normed, &f->weights.layers[layer].router, tokens,
                       shape->top_k, shape->norm_top_k, f->at.scores, f->at.experts,
                       f->at.route_weights));
    TRY(backend->download(f->device, experts, f->at.experts, routed * sizeof *experts));
    TRY(backend->download(f->device, weights, f->at.route_weights, routed * sizeof *weights));
    TRY(backend->download(f->device, scores, f->at.scores,
                          (size_t)tokens * shape->experts * sizeof *scores));
    TRY(check_routing(step, layer, weights));
    if (step->input->forced_experts != NULL)
        force_routing(step, shape, scores, experts, weights);
    if (capacity > 0)
        gating_limit(capacity, tokens, shape->top_k, shape->experts, f->host.counts, experts,
                     weights);
    gating_group(experts, tokens, shape->top_k, shape->experts, &f->host.rows);
    TRY(backend->upload(f->device, f->at.rows, f->host.rows.rows,
                        f->host.rows.n_rows * sizeof *f->at.rows));
    return backend->upload(f->device, f->at.route_weights, weights, routed * sizeof *weights);
}

/* hidden += sum of the experts' outputs, weighted */
static Status moe_block(Step *step, uint32_t layer)
{
    Forward *f = step->forward;
    const LayerConfig *shape = &f->config->layers[layer];
    uint32_t tokens = step->input->tokens;
    uint32_t capacity = gating_capacity(f->plan, tokens);
    const ExpertBatch batch = {.tokens = tokens,
                               .top_k = shape->top_k,
                               .d_ff = shape->d_ff,
                               .capacity = capacity,
                               .mask = capacity > 0 && f->plan->gating.dispatch == DISPATCH_MASK,
                               .rows = f->at.rows};
    const ExpertEvent event = {.layer_index = step->moe_layer,
                               .rows = &f->host.rows,
                               .next_use = step->next_use,
                               .batch = &batch,
                               .in = f->at.normed,
                               .out = f->at.expert_out};
    TRY(route(step, layer, capacity, f->host.experts + step->routed, f->host.weights + step->routed,
              f->host.scores + step->scored));
    if (f->host.rows.n_active > 0)
        TRY(expert_slots_run(&f->slots, &event));
    TRY(f->backend->combine(f->device, f->at.expert_out, f->at.route_weights, tokens, shape->top_k,
                            f->at.hidden));
    if (step->next_use != NULL)
        step->next_use += f->host.rows.n_active;
    step->routed += (size_t)tokens * shape->top_k;
    step->scored += (size_t)tokens * shape->experts;
    step->moe_layer++;
    return OK;
}

/* A dense layer is one expert that every token goes to. */
static Status dense_block(const Step *step, uint32_t layer)
{
    Forward *f = step->forward;
    uint32_t tokens = step->input->tokens;
    const ExpertBatch batch = {
        .tokens = tokens, .top_k = 1, .d_ff = f->config->layers[layer].d_ff, .rows = f->at.rows};
    const ExpertJob job = {.weights = f->weights.layers[layer].dense, .n_rows = tokens};
    for (uint32_t i = 0; i < tokens; i++) {
        f->host.rows.rows[i] = i;
        f->host.ones[i] = 1;
    }
    TRY(f->backend->upload(f->device, f->at.rows, f->host.rows.rows, tokens * sizeof *f->at.rows));
    TRY(f->backend->upload(f->device, f->at.route_weights, f->host.ones, tokens * sizeof(float)));
    TRY(f->backend->run_experts(f->device, &batch, &job, 1, f->at.normed, f->at.expert_out));
    return f->backend->combine(f->device, f->at.expert_out, f->at.route_weights, tokens, 1,
                               f->at.hidden);
}

static Status layer_block(Step *step, uint32_t layer)
{
    Forward *f = step->forward;
    TRY(attention_block(step, layer));
    TRY(f->backend->rms_norm(f->device, f->at.hidden, f->weights.layers[layer].ffn_norm,
                             step->input->tokens, f->config->d_model, f->config->norm_eps,
                             f->at.normed));
    return f->config->layers[layer].moe ? moe_block(step, layer) : dense_block(step, layer);
}

/* Norms the rows whose logits are wanted into at.normed; *N_ROWS of them. */
static Status final_norm(const Step *step, uint32_t *n_rows)
{
    Forward *f = step->forward;
    uint32_t d = f->config->d_model;
    float eps = f->config->norm_eps;
    const float *norm = f->weights.final_norm;
    if (step->input->logits == LOGITS_ALL) {
        *n_rows = step->input->tokens;
        return f->backend->rms_norm(f->device, f->at.hidden, norm, *n_rows, d, eps, f->at.normed);
    }
    *n_rows = step->n_spans;
    for (size_t i = 0; i < step->n_spans; i++) {
        size_t last = (size_t)step->spans[i].first_token + step->spans[i].tokens - 1;
        TRY(f->backend->rms_norm(f->device, f->at.hidden + last * d, norm, 1, d, eps,
                                 f->at.normed + i * d));
    }
    return OK;
}

static Status check_logits(const Step *step, const float *logits, uint32_t n_rows)
{
    size_t vocabulary = step->forward->config->vocabulary;
    for (uint32_t row = 0; row < n_rows; row++) {
        unsigned nan = 0;
        for (size_t i = 0; i < vocabulary; i++)
            nan |= logits[row * vocabulary + i] != logits[row * vocabulary + i];
        if (!nan)
            continue;
        const Span *span = &step->spans[step->input->logits == LOGITS_ALL ? 0 : row];
        uint32_t token =
            step->input->logits == LOGITS_ALL ? row : span->first_token + span->tokens - 1;
        return fail(ERR_INPUT,
                    "output head: token %u of the step, position %u: the logits are not numbers "
                    "(NaN)",
                    token, step->input->position[token]);
    }
    return OK;
}

static Status compute_logits(const Step *step, StepOutput *output)
{
    Forward *f = step->forward;
    size_t vocabulary = f->config->vocabulary;
    uint32_t n_rows;
    TRY(final_norm(step, &n_rows));
    for (uint32_t row = 0; row < n_rows; row += LOGIT_ROWS) {
        uint32_t n = n_rows - row < LOGIT_ROWS ? n_rows - row : LOGIT_ROWS;
        TRY(f->backend->linear(f->device, f->at.normed + (size_t)row * f->config->d_model,
                               &f->weights.head, n, false, f->at.logits));
        TRY(f->backend->download(f->device, f->host.logits + row * vocabulary, f->at.logits,
                                 n * vocabulary * sizeof(float)));
    }
    output->logits = f->host.logits;
    output->n_logits = n_rows;
    return check_logits(step, f->host.logits, n_rows);
}

Status forward_step(Forward *f, const StepInput *input, const Span *spans, uint32_t n_spans,
                    StepOutput *output)
{
    Step step = {.forward = f,
                 .input = input,
                 .spans = spans,
                 .n_spans = n_spans,
                 .next_use = input->next_use};
    expert_slots_start_step(&f->slots);
    TRY(f->backend->upload(f->device, f->at.ids, input->token, input->tokens * sizeof *f->at.ids));
    TRY(f->backend->embed(f->device, &f->weights.embedding, f->at.ids, input->tokens,
                          f->at.hidden));
    for (uint32_t layer = 0; layer < f->config->n_layers; layer++)
        TRY(layer_block(&step, layer));
    *output = (StepOutput){.experts = f->host.experts,
                           .weights = f->host.weights,
                           .residency = f->slots.residency,
                           .n_residency = f->slots.n_residency,
                           .router_scores = f->host.scores};
    if (input->logits != LOGITS_NONE)
        TRY(compute_logits(&step, output));
    return OK;
}
