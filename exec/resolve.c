#include "exec/resolve.h"

#include <fnmatch.h>
#include <inttypes.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/memory.h"
#include "base/threads.h"
#include "exec/rule.h"

enum { NAME_BYTES = 256, MOST_DIMENSIONS = 3 };

typedef struct {
    const Architecture *architecture;
    Shards *shards;
    RuleContext rule;
} Context;

static void shape_text(char text[128], const uint64_t *shape, uint32_t rank)
{
    size_t used = 0;
    for (uint32_t i = 0; i < rank && used < 128; i++)
        used += (size_t)snprintf(text + used, 128 - used, "%s%" PRIu64, i ? ", " : "", shape[i]);
    if (rank == 0)
        text[0] = '\0';
}

static Status check_shape(const ShardTensor *found, const uint64_t *wanted, uint32_t rank)
{
    const Tensor *tensor = found->tensor;
    if (tensor->rank == rank && memcmp(tensor->shape, wanted, rank * sizeof *wanted) == 0)
        return OK;
    char is_text[128];
    char wanted_text[128];
    shape_text(is_text, tensor->shape, tensor->rank);
    shape_text(wanted_text, wanted, rank);
    return fail(ERR_INPUT, "%s: tensor %s: shape [%s], wanted [%s]", found->file, tensor->name,
                is_text, wanted_text);
}

static Status check_dtype(const ShardTensor *found)
{
    Dtype dtype = found->tensor->dtype;
    if (dtype == DTYPE_F32 || dtype == DTYPE_F16 || dtype == DTYPE_BF16)
        return OK;
    return fail(ERR_INPUT, "%s: tensor %s: dtype %s, wanted F32, F16 or BF16", found->file,
                found->tensor->name, dtype_name(dtype));
}

/* Checks FOUND: dtype and shape. Values are checked when all are found. */
static Status take(ShardTensor *found, const uint64_t *wanted, uint32_t rank, Tensor *tensor)
{
    TRY(check_dtype(found));
    TRY(check_shape(found, wanted, rank));
    found->used = true;
    *tensor = *found->tensor;
    return OK;
}

/* The tensor PREFIX + NAME, or with OTHER for NAME; NULL when there is neither, and NAME_TEXT is
 * then the first. */
static ShardTensor *find(const Context *context, const char *prefix, const char *name,
                         const char *other, char name_text[NAME_BYTES])
{
    if (other != NULL) {
        snprintf(name_text, NAME_BYTES, "%s%s", prefix, other);
        ShardTensor *found = shards_find(context->shards, name_text);
        if (found != NULL)
            return found;
    }
    snprintf(name_text, NAME_BYTES, "%s%s", prefix, name);
    return shards_find(context->shards, name_text);
}

static Status missing(const Context *context, const char *name)
{
    return fail(ERR_INPUT, "%s: tensor %s: missing", context->shards->source, name);
}

static Status resolve(const Context *context, const char *prefix, const TensorRule *rule,
                      Tensor *tensor)
{
    char name[NAME_BYTES];
    ShardTensor *found = find(context, prefix, rule->name, rule->other_name, name);
    if (found == NULL)
        return missing(context, name);
    uint64_t wanted[2];
    uint32_t rank = rule_shape(&context->rule, rule, wanted);
    return take(found, wanted, rank, tensor);
}

/* Resolves RULES into the Tensor fields of OWNER. */
static Status resolve_all(const Context *context, const char *prefix, const TensorRule *rules,
                          void *owner)
{
    for (const TensorRule *rule = rules; rule->name != NULL; rule++) {
        Tensor *field = (Tensor *)(void *)((unsigned char *)owner + rule->field);
        if (rule_is_wanted(&context->rule, rule))
            TRY(resolve(context, prefix, rule, field));
    }
    return OK;
}

/* Resolves the architecture's FFN rules into the Part fields of OWNER. */
static Status resolve_ffn(const Context *context, const char *layer_prefix, const char *prefix,
                          const FfnShape *ffn, FfnTensors *owner)
{
    char full[NAME_BYTES];
    Context inside = *context;
    inside.rule.ffn = ffn;
    snprintf(full, sizeof full, "%s%s", layer_prefix, prefix);
    for (const TensorRule *rule = context->architecture->ffn; rule->name != NULL; rule++) {
        Tensor tensor;
        if (!rule_is_wanted(&inside.rule, rule))
            continue;
        TRY(resolve(&inside, full, rule, &tensor));
        *(Part *)(void *)((unsigned char *)owner + rule->field) = part_of(&tensor);
    }
    return OK;
}

/* All experts of a layer fill slots of one size. */
static Status check_same_dtypes(const Context *context, const FfnTensors *first,
                                const FfnTensors *other)
{
    const Part *const firsts[] = {&first->gate, &first->up, &first->down};
    const Part *const others[] = {&other->gate, &other->up, &other->down};
    for (size_t i = 0; i < 3; i++)
        if (firsts[i]->tensor.dtype != others[i]->tensor.dtype)
            return fail(ERR_INPUT, "%s: tensor %s: dtype %s, but that of %s is %s",
                        context->shards->source, others[i]->tensor.name,
                        dtype_name(others[i]->tensor.dtype), firsts[i]->tensor.name,
                        dtype_name(firsts[i]->tensor.dtype));
    return OK;
}

static Status resolve_each_expert(const Context *context, const StackRules *rules,
                                  const char *layer_prefix, LayerTensors *layer)
{
    for (uint32_t i = 0; i < context->rule.layer->experts; i++) {
        char prefix[NAME_BYTES / 2];
        snprintf(prefix, sizeof prefix, rules->expert_prefix, i);
        TRY(resolve_ffn(context, layer_prefix, prefix, &context->rule.layer->ffn,
                        &layer->experts[i]));
        TRY(check_same_dtypes(context, &layer->experts[0], &layer->experts[i]));
    }
    return OK;
}

static Status resolve_stack(const Context *context, const char *prefix, const char *name,
                            const uint64_t *shape, uint32_t rank, Tensor *tensor)
{
    char full[NAME_BYTES];
    ShardTensor *found = find(context, prefix, name, NULL, full);
    return found != NULL ? take(found, shape, rank, tensor) : missing(context, full);
}

/* Expert EXPERT's ROWS x COLUMNS matrix in STACK, of which each expert has SIZE elements; it begins
 * at element FIRST of these. */
static Part part_in_stack(const Tensor *stack, uint32_t expert, uint64_t size, uint64_t first,
                          uint32_t rows, uint32_t columns, uint64_t row_step, uint64_t column_step)
{
    return (Part){*stack, expert * size + first, rows, columns, row_step, column_step};
}

/* Cuts the stacked matrices into each expert's. Transposed ones have the columns of gate and up in
 * turn. */
static void cut_matrices(const FfnShape *ffn, uint32_t n_experts, const Tensor *gate_up,
                         const Tensor *down, bool transposed, FfnTensors *experts)
{
    uint32_t d = ffn->d_model;
    uint32_t ff = ffn->d_ff;
    uint64_t half = (uint64_t)ff * d;
    for (uint32_t e = 0; e < n_experts; e++) {
        FfnTensors *expert = &experts[e];
        if (transposed) {
            expert->gate = part_in_stack(gate_up, e, 2 * half, 0, ff, d, 2, 2 * (uint64_t)ff);
            expert->up = part_in_stack(gate_up, e, 2 * half, 1, ff, d, 2, 2 * (uint64_t)ff);
            expert->down = part_in_stack(down, e, half, 0, d, ff, 1, d);
        } else {
            expert->gate = part_in_stack(gate_up, e, 2 * half, 0, ff, d, d, 1);
            expert->up = part_in_stack(gate_up, e, 2 * half, half, ff, d, d, 1);
            expert->down = part_in_stack(down, e, half, 0, d, ff, ff, 1);
        }
    }
}

static void cut_biases(const FfnShape *ffn, uint32_t n_experts, const Tensor *gate_up,
                       const Tensor *down, bool transposed, FfnTensors *experts)
{
    uint32_t ff = ffn->d_ff;
    uint32_t step = transposed ? 2 : 1;
    for (uint32_t e = 0; e < n_experts; e++) {
        FfnTensors *expert = &experts[e];
        expert->gate_bias = part_in_stack(gate_up, e, 2 * (uint64_t)ff, 0, 1, ff, 0, step);
        expert->up_bias =
            part_in_stack(gate_up, e, 2 * (uint64_t)ff, transposed ? 1 : ff, 1, ff, 0, step);
        expert->down_bias = part_in_stack(down, e, ffn->d_model, 0, 1, ffn->d_model, 0, 1);
    }
}

static Status resolve_stacked(const Context *context, const StackedNames *names,
                              const char *layer_prefix, LayerTensors *layer)
{
    const FfnShape *ffn = &context->rule.layer->ffn;
    uint64_t experts = context->rule.layer->experts;
    uint64_t d = ffn->d_model;
    uint64_t ff = ffn->d_ff;
    const uint64_t gate_up_shape[] = {experts, names->transposed ? d : 2 * ff,
                                      names->transposed ? 2 * ff : d};
    const uint64_t down_shape[] = {experts, names->transposed ? ff : d, names->transposed ? d : ff};
    const uint64_t gate_up_bias_shape[] = {experts, 2 * ff};
    const uint64_t down_bias_shape[] = {experts, d};
    Tensor gate_up;
    Tensor down;
    TRY(resolve_stack(context, layer_prefix, names->gate_up, gate_up_shape, 3, &gate_up));
    TRY(resolve_stack(context, layer_prefix, names->down, down_shape, 3, &down));
    cut_matrices(ffn, (uint32_t)experts, &gate_up, &down, names->transposed, layer->experts);
    if (!ffn->bias)
        return OK;
    TRY(resolve_stack(context, layer_prefix, names->gate_up_bias, gate_up_bias_shape, 2, &gate_up));
    TRY(resolve_stack(context, layer_prefix, names->down_bias, down_bias_shape, 2, &down));
    cut_biases(ffn, (uint32_t)experts, &gate_up, &down, names->transposed, layer->experts);
    return OK;
}

static Status resolve_experts(const Context *context, const StackRules *rules,
                              const char *layer_prefix, LayerTensors *layer)
{
    char name[NAME_BYTES];
    const StackedNames *stacked = &rules->stacked;
    TRY(mem_new(&layer->experts, context->rule.layer->experts, sizeof *layer->experts, "experts"));
    if (rules->expert_prefix == NULL ||
        (stacked->gate_up != NULL && find(context, layer_prefix, stacked->gate_up, NULL, name)))
        return resolve_stacked(context, stacked, layer_prefix, layer);
    return resolve_each_expert(context, rules, layer_prefix, layer);
}

/* The router comes first: its shape bounds the experts that memory is taken for. */
static Status resolve_layer(const Context *context, const StackRules *rules, uint32_t number,
                            LayerTensors *layer)
{
    const LayerConfig *config = context->rule.layer;
    char prefix[NAME_BYTES / 2];
    snprintf(prefix, sizeof prefix, rules->layer_prefix, number);
    TRY(resolve_all(context, prefix, rules->layer, layer));
    if (!config->moe)
        return resolve_ffn(context, prefix, rules->dense_prefix, &config->ffn, &layer->dense);
    if (config->shared.d_ff > 0)
        TRY(resolve_ffn(context, prefix, rules->shared_prefix, &config->shared, &layer->shared));
    return resolve_experts(context, rules, prefix, layer);
}

/* True for a tensor of the layers that follow the last one for predicting ahead. */
static bool is_prediction(const Context *context, const char *name)
{
    const ModelConfig *config = context->rule.config;
    if (config->predict_layers == 0)
        return false;
    const char *prefix = context->architecture->decoder.layer_prefix;
    size_t length = strcspn(prefix, "%");
    if (strncmp(name, prefix, length) != 0)
        return false;
    unsigned long number = strtoul(name + length, NULL, 10);
    return number >= config->n_layers && number < config->n_layers + config->predict_layers;
}

static bool is_ignored(const Context *context, const char *name)
{
    for (const char *const *p = context->architecture->ignored; *p != NULL; p++)
        if (fnmatch(*p, name, 0) == 0)
            return true;
    return is_prediction(context, name);
}

static Status check_all_used(const Context *context)
{
    const Shards *shards = context->shards;
    for (size_t i = 0; i < shards->n_tensors; i++) {
        const ShardTensor *tensor = &shards->tensors[i];
        if (!tensor->used && !is_ignored(context, tensor->tensor->name))
            return fail(ERR_INPUT, "%s: tensor %s: no part of a %s model with this config.json",
                        tensor->file, tensor->tensor->name, context->architecture->model_type);
    }
    return OK;
}

/* Values are looked at by all processors, a tensor each: one alone would be slower than the page
 * cache. */
typedef struct {
    const Shards *shards;
    _Atomic size_t first_bad; /* index, n_tensors: none */
} FiniteTask;

static void check_tensor(void *argument, size_t item, size_t worker)
{
    (void)worker;
    FiniteTask *task = argument;
    const ShardTensor *tensor = &task->shards->tensors[item];
    size_t first = atomic_load(&task->first_bad);
    if (!tensor->used || item > first || tensor->tensor->synthetic != NULL ||
        tensor_check_finite(tensor->tensor, tensor->file) == OK)
        return;
    while (item < first && !atomic_compare_exchange_weak(&task->first_bad, &first, item))
        continue;
}

static Status check_all_finite(const Shards *shards)
{
    ThreadPool *pool;
    FiniteTask task = {.shards = shards, .first_bad = shards->n_tensors};
    TRY(thread_pool_new(0, &pool));
    thread_pool_run(pool, shards->n_tensors, check_tensor, &task);
    thread_pool_free(pool);
    size_t bad = atomic_load(&task.first_bad);
    if (bad == shards->n_tensors)
        return OK;
    /* The record of the thread that saw it is not ours: see it again. */
    return tensor_check_finite(shards->tensors[bad].tensor, shards->tensors[bad].file);
}

static Status resolve_layers(Context *context, ModelTensors *tensors)
{
    const ModelConfig *config = context->rule.config;
    TRY(mem_new(&tensors->layers, config->n_layers, sizeof *tensors->layers, "layers"));
    for (uint32_t i = 0; i < config->n_layers; i++) {
        context->rule.layer = &config->layers[i];
        uint32_t first;
        uint32_t end;
        model_stack(config, context->rule.layer->stack, &first, &end);
        TRY(resolve_layer(context,
                          architecture_stack(context->architecture, context->rule.layer->stack),
                          i - first, &tensors->layers[i]));
    }
    context->rule.layer = NULL;
    return OK;
}

Status resolve_model(const Architecture *architecture, const ModelConfig *config, Shards *shards,
                     ModelTensors *tensors)
{
    Context context = {.architecture = architecture, .shards = shards, .rule = {.config = config}};
    TRY(resolve_all(&context, "", architecture->model, tensors));
    if (config->tied_head)
        tensors->head = tensors->embedding;
    TRY(resolve_layers(&context, tensors));
    TRY(check_all_used(&context));
    return check_all_finite(shards);
}
