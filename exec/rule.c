#include "exec/rule.h"

#include <stdio.h>

enum { NAME_BYTES = 256 };

static uint64_t size_in_attention(const AttentionConfig *attention, SizeOf size)
{
    uint64_t heads = attention->n_heads;
    switch (size) {
    case SIZE_QUERIES:
        return heads * attention->key_dim;
    case SIZE_KEYS:
        return (uint64_t)attention->n_kv_heads * attention->key_dim;
    case SIZE_VALUES:
        return (uint64_t)attention->n_kv_heads * attention->value_dim;
    case SIZE_MIXED:
        return heads * attention->value_dim;
    case SIZE_HEAD:
        return attention->key_dim;
    case SIZE_HEADS:
        return heads;
    case SIZE_Q_RANK:
        return attention->q_rank;
    case SIZE_KV_RANK:
        return attention->kv_rank;
    case SIZE_LATENT:
        return attention->kv_rank + attention->rotary_dims;
    case SIZE_EXPANDED:
        return heads * (attention->key_dim - attention->rotary_dims + attention->value_dim);
    default:
        return 0;
    }
}

static uint64_t size_of(const RuleContext *context, SizeOf size)
{
    switch (size) {
    case SIZE_NONE:
        return 0;
    case SIZE_ONE:
        return 1;
    case SIZE_VOCABULARY:
        return context->config->vocabulary;
    case SIZE_MODEL:
        return context->config->d_model;
    case SIZE_BUCKETS:
        return context->config->relative_buckets;
    case SIZE_POSITIONS:
        return (uint64_t)context->config->max_positions + context->config->pad + 1;
    case SIZE_EXPERTS:
        return context->layer->experts;
    case SIZE_FF:
        return context->ffn->d_ff;
    default:
        return size_in_attention(&context->layer->attention, size);
    }
}

bool rule_is_wanted(const RuleContext *context, const TensorRule *rule)
{
    return rule->when == NULL || rule->when(context->config, context->layer, context->ffn);
}

uint32_t rule_shape(const RuleContext *context, const TensorRule *rule, uint64_t shape[2])
{
    uint32_t rank = 0;
    for (; rank < 2 && rule->shape[rank] != SIZE_NONE; rank++)
        shape[rank] = size_of(context, rule->shape[rank]);
    return rank;
}

/* A walk over the rules of a family. */
typedef struct {
    const Architecture *architecture;
    RuleContext rule;
    TensorVisit visit;
    void *argument;
} Walk;

static Status visit_rules(const Walk *walk, const char *prefix, const TensorRule *rules)
{
    for (const TensorRule *rule = rules; rule->name != NULL; rule++) {
        char name[NAME_BYTES];
        uint64_t shape[2];
        if (!rule_is_wanted(&walk->rule, rule))
            continue;
        snprintf(name, sizeof name, "%s%s", prefix, rule->name);
        TRY(walk->visit(walk->argument, name, shape, rule_shape(&walk->rule, rule, shape)));
    }
    return OK;
}

static Status visit_ffn(Walk *walk, const char *layer_prefix, const char *prefix,
                        const FfnShape *ffn)
{
    char full[NAME_BYTES];
    snprintf(full, sizeof full, "%s%s", layer_prefix, prefix);
    walk->rule.ffn = ffn;
    Status status = visit_rules(walk, full, walk->architecture->ffn);
    walk->rule.ffn = NULL;
    return status;
}

static Status visit_stack(const Walk *walk, const char *layer_prefix, const char *name,
                          const uint64_t *shape, uint32_t rank)
{
    char full[NAME_BYTES];
    snprintf(full, sizeof full, "%s%s", layer_prefix, name);
    return walk->visit(walk->argument, full, shape, rank);
}

static Status visit_stacked(const Walk *walk, const StackedNames *names, const char *layer_prefix)
{
    const LayerConfig *layer = walk->rule.layer;
    uint64_t experts = layer->experts;
    uint64_t d = layer->ffn.d_model;
    uint64_t ff = layer->ffn.d_ff;
    bool turned = names->transposed;
    TRY(visit_stack(walk, layer_prefix, names->gate_up,
                    (uint64_t[]){experts, turned ? d : 2 * ff, turned ? 2 * ff : d}, 3));
    TRY(visit_stack(walk, layer_prefix, names->down,
                    (uint64_t[]){experts, turned ? ff : d, turned ? d : ff}, 3));
    if (!layer->ffn.bias)
        return OK;
    TRY(visit_stack(walk, layer_prefix, names->gate_up_bias, (uint64_t[]){experts, 2 * ff}, 2));
    return visit_stack(walk, layer_prefix, names->down_bias, (uint64_t[]){experts, d}, 2);
}

static Status visit_layer(Walk *walk, const StackRules *rules, uint32_t number)
{
    const LayerConfig *layer = walk->rule.layer;
    char prefix[NAME_BYTES / 2];
    snprintf(prefix, sizeof prefix, rules->layer_prefix, number);
    TRY(visit_rules(walk, prefix, rules->layer));
    if (!layer->moe)
        return visit_ffn(walk, prefix, rules->dense_prefix, &layer->ffn);
    if (layer->shared.d_ff > 0)
        TRY(visit_ffn(walk, prefix, rules->shared_prefix, &layer->shared));
    if (rules->expert_prefix == NULL)
        return visit_stacked(walk, &rules->stacked, prefix);
    for (uint32_t e = 0; e < layer->experts; e++) {
        char expert[NAME_BYTES / 2];
        snprintf(expert, sizeof expert, rules->expert_prefix, e);
        TRY(visit_ffn(walk, prefix, expert, &layer->ffn));
    }
    return OK;
}

Status architecture_visit(const Architecture *architecture, const ModelConfig *config,
                          TensorVisit visit, void *argument)
{
    Walk walk = {architecture, {.config = config}, visit, argument};
    TRY(visit_rules(&walk, "", architecture->model));
    for (uint32_t i = 0; i < config->n_layers; i++) {
        uint32_t first;
        uint32_t end;
        walk.rule.layer = &config->layers[i];
        model_stack(config, walk.rule.layer->stack, &first, &end);
        TRY(visit_layer(&walk, architecture_stack(architecture, walk.rule.layer->stack),
                        i - first));
    }
    return OK;
}
