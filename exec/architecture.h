/* What the executor knows of a model family: how its config.json is read, and which tensors it
 * has. A family is one description in exec/arch/ and one row of the table in exec/architecture.c;
 * none has a forward pass of its own. */
#ifndef EXEC_ARCHITECTURE_H
#define EXEC_ARCHITECTURE_H

#include <stddef.h>

#include "base/json.h"
#include "exec/checkpoint.h"

/* A dimension of a tensor, resolved from the config (and the layer). */
typedef enum {
    SIZE_NONE, /* ends the shape */
    SIZE_ONE,
    SIZE_VOCABULARY,
    SIZE_MODEL,
    SIZE_QUERIES, /* n_heads * key_dim */
    SIZE_KEYS,    /* n_kv_heads * key_dim */
    SIZE_VALUES,  /* n_kv_heads * value_dim */
    SIZE_MIXED,   /* n_heads * value_dim */
    SIZE_HEAD,    /* key_dim */
    SIZE_HEADS,   /* n_heads */
    SIZE_Q_RANK,
    SIZE_KV_RANK,
    SIZE_LATENT,   /* kv_rank + rotary_dims */
    SIZE_EXPANDED, /* n_heads * (key_dim - rotary_dims + value_dim) */
    SIZE_BUCKETS,
    SIZE_POSITIONS, /* max_positions, and those up to the padding id */
    SIZE_EXPERTS,   /* of the layer */
    SIZE_FF         /* d_ff of the FFN at hand */
} SizeOf;

/* Whether a tensor is there. LAYER is NULL outside the layers, FFN outside FFNs. */
typedef bool (*When)(const ModelConfig *config, const LayerConfig *layer, const FfnShape *ffn);

/* One tensor: its name (or OTHER_NAME, which means the same) after the prefix, where it goes, its
 * shape. */
typedef struct {
    const char *name;
    const char *other_name;
    size_t field; /* offsetof in ModelTensors, LayerTensors (Tensor) or FfnTensors (Part) */
    When when;    /* NULL: always */
    SizeOf shape[2];
} TensorRule;

/* All experts of a layer as few tensors: gate_up [experts][2 d_ff][d_model] (gate, then up) and
 * down [experts][d_model][d_ff], as transformers 5 keeps them; or, when TRANSPOSED, gate_up
 * [experts][d_model][2 d_ff] with the columns of gate and up in turn, down [experts][d_ff][d_model]
 * and biases in the same order. Names come after the layer's prefix. */
typedef struct {
    const char *gate_up;
    const char *down;
    const char *gate_up_bias;
    const char *down_bias;
    bool transposed;
} StackedNames;

/* The layers of one stack. Rule lists end with a row without a name; prefixes of FFNs come after
 * the layer's. */
typedef struct {
    const char *layer_prefix; /* printf format of the layer's number within the stack */
    const TensorRule *layer;  /* into LayerTensors */
    const char *moe_name;     /* after the layer's prefix */
    const char *dense_prefix;
    const char *expert_prefix; /* printf format of the expert's number; NULL: always stacked */
    const char *shared_prefix;
    StackedNames stacked; /* tried first; gate_up NULL: never stacked */
} StackRules;

typedef struct {
    const char *model_type;
    const char *layer_keys[4]; /* keys of config.json that count layers, of each stack; then NULL */
    /* Fills all of CONFIG but json, architecture and what follows from the layers. */
    Status (*read_config)(const JsonAt *root, ModelConfig *config);
    const TensorRule *model; /* into ModelTensors */
    const TensorRule *ffn;   /* into FfnTensors, of experts, shared and dense FFNs */
    StackRules decoder;
    StackRules encoder;
    const char *const *ignored; /* NULL-terminated patterns (fnmatch) of tensors without a use */
} Architecture;

/* The row of AT (the config's model_type); ERR_UNSUPPORTED names what is supported. */
Status architecture_find(const JsonAt *at, const Architecture **architecture);
static inline const StackRules *architecture_stack(const Architecture *architecture, Stack stack)
{
    return stack == STACK_ENCODER ? &architecture->encoder : &architecture->decoder;
}

/* Reads DIRECTORY/config.json. CONFIG must be zeroed, and model_config_free() is due in any case.
 */
Status model_config_load(const char *directory, ModelConfig *config,
                         const Architecture **architecture);
/* The same of the text in CONFIG->json, in memory of base/memory.h; NAME stands for the file. */
Status model_config_read(const char *name, ModelConfig *config, const Architecture **architecture);
void model_config_free(ModelConfig *config);

extern const Architecture ARCH_DEEPSEEK_V2;
extern const Architecture ARCH_DEEPSEEK_V3;
extern const Architecture ARCH_FAIRSEQ_MOE;
extern const Architecture ARCH_GPT_OSS;
extern const Architecture ARCH_MIXTRAL;
extern const Architecture ARCH_NLLB_MOE;
extern const Architecture ARCH_OLMOE;
extern const Architecture ARCH_PHIMOE;
extern const Architecture ARCH_QWEN2_MOE;
extern const Architecture ARCH_QWEN3_MOE;
extern const Architecture ARCH_SWITCH_TRANSFORMERS;

#endif
