/* The tensors of a shape: what the description of its architecture names, with made-up values. */
#include <math.h>
#include <string.h>

#include "base/text.h"
#include "exec/rule.h"
#include "exec/shape.h"
#include "exec/synthetic.h"

/* A branch adds so much of its size to the residual stream: even after a hundred of them tokens
 * still differ by what they are, and so does where they are routed. */
static const double BRANCH = 0.125;

/* Two walks over the same names: the first counts, the second fills. */
typedef struct {
    const Architecture *architecture;
    const ModelConfig *config;
    Tensor *tensors;      /* [n_tensors] */
    Synthetic *synthetic; /* [n_tensors] */
    char *names;          /* [name_bytes] one after the other, each with its end */
    ShardTensor *listed;  /* [n_tensors] */
    const char *source;
    size_t n_tensors;
    size_t name_bytes;
} Making;

static Status count_tensor(void *argument, const char *name, const uint64_t *shape, uint32_t rank)
{
    Making *making = argument;
    (void)shape, (void)rank;
    making->n_tensors++;
    making->name_bytes += strlen(name) + 1;
    return OK;
}

/* NAME is that of the tensor which RULES put into FIELD. */
static bool is_field(const TensorRule *rules, const char *name, size_t field)
{
    for (const TensorRule *rule = rules; rule->name != NULL; rule++)
        if (rule->field == field && text_ends_in(name, rule->name))
            return true;
    return false;
}

/* What a matrix gives is added to the residual stream. */
static bool is_branch_end(const Architecture *architecture, const char *name)
{
    const StackRules *const stacks[] = {&architecture->decoder, &architecture->encoder};
    if (is_field(architecture->ffn, name, offsetof(FfnTensors, down)))
        return true;
    for (size_t i = 0; i < 2; i++) {
        const StackRules *rules = stacks[i];
        if (rules->layer == NULL)
            continue;
        if (is_field(rules->layer, name, offsetof(LayerTensors, attention.o)) ||
            is_field(rules->layer, name, offsetof(LayerTensors, cross.o)) ||
            (rules->stacked.down != NULL && text_ends_in(name, rules->stacked.down)))
            return true;
    }
    return false;
}

/* Elements of a row, which is what one output is the sum of. */
static uint64_t row_length(const Architecture *architecture, const Tensor *tensor)
{
    bool turned = tensor->rank == 3 && architecture->decoder.stacked.transposed;
    return tensor->shape[turned ? tensor->rank - 2 : tensor->rank - 1];
}

static Synthetic values_of(const Making *making, const Tensor *tensor)
{
    const char *name = tensor->name;
    const Architecture *architecture = making->architecture;
    if (text_ends_in(name, "bias") ||
        is_field(architecture->model, name, offsetof(ModelTensors, positions)))
        return synthetic_make(name, 0, 0.02);
    if (text_ends_in(name, "sinks"))
        return synthetic_make(name, 0, 1);
    if (tensor->rank == 1)
        return synthetic_make(name, 1, 0);
    if (is_field(architecture->model, name, offsetof(ModelTensors, embedding)))
        return synthetic_make(name, 0, 1 / (double)making->config->embedding_scale);
    double deviation = 1 / sqrt((double)row_length(architecture, tensor));
    return synthetic_make(name, 0,
                          is_branch_end(architecture, name) ? deviation * BRANCH : deviation);
}

static Status add_tensor(void *argument, const char *name, const uint64_t *shape, uint32_t rank)
{
    Making *making = argument;
    size_t length = strlen(name) + 1;
    size_t i = making->n_tensors++;
    Tensor *tensor = &making->tensors[i];
    *tensor = (Tensor){.name = making->names + making->name_bytes,
                       .dtype = DTYPE_BF16,
                       .rank = rank,
                       .bytes = dtype_bytes(DTYPE_BF16),
                       .synthetic = &making->synthetic[i]};
    memcpy(making->names + making->name_bytes, name, length);
    making->name_bytes += length;
    for (uint32_t d = 0; d < rank; d++) {
        tensor->shape[d] = shape[d];
        if (__builtin_mul_overflow(tensor->bytes, shape[d], &tensor->bytes))
            return fail(ERR_INPUT, "%s: tensor %s: it is too large", making->source, name);
    }
    making->synthetic[i] = values_of(making, tensor);
    making->listed[i] = (ShardTensor){.tensor = tensor, .file = making->source};
    return OK;
}

static Status make_tensors(Making *making, Shards *shards)
{
    Arena *arena = &shards->synthetic;
    size_t n = making->n_tensors;
    size_t name_bytes = making->name_bytes;
    arena_reserve(arena, n, sizeof *making->tensors);
    arena_reserve(arena, n, sizeof *making->synthetic);
    arena_reserve(arena, name_bytes, 1);
    TRY(arena_commit(arena, "tensors of a shape"));
    making->tensors = arena_take(arena, n, sizeof *making->tensors);
    making->synthetic = arena_take(arena, n, sizeof *making->synthetic);
    making->names = arena_take(arena, name_bytes, 1);
    TRY(mem_new(&shards->tensors, n, sizeof *shards->tensors, making->source));
    making->listed = shards->tensors;
    making->n_tensors = 0;
    making->name_bytes = 0;
    TRY(architecture_visit(making->architecture, making->config, add_tensor, making));
    shards->n_tensors = n;
    shards_sort(shards);
    return OK;
}

Status shape_tensors(const char *name, const Architecture *architecture, const ModelConfig *config,
                     Shards *shards)
{
    TRY(mem_new(&shards->source, strlen(name) + 1, 1, "path"));
    strcpy(shards->source, name);
    Making making = {.architecture = architecture, .config = config, .source = shards->source};
    TRY(architecture_visit(architecture, config, count_tensor, &making));
    return make_tensors(&making, shards);
}
