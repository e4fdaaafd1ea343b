/* What the executor knows of a model family: how its config.json is read, and which tensors it
 * has. Adding a family is one row of the table in exec/architecture.c. */
#ifndef EXEC_ARCHITECTURE_H
#define EXEC_ARCHITECTURE_H

#include "base/json.h"
#include "exec/checkpoint.h"

/* A dimension of a tensor, resolved from the config (and the layer). */
typedef enum {
    SIZE_NONE, /* ends the shape */
    SIZE_VOCABULARY,
    SIZE_MODEL,
    SIZE_HEADS,    /* n_heads * head_dim */
    SIZE_KV_HEADS, /* n_kv_heads * head_dim */
    SIZE_HEAD,     /* head_dim */
    SIZE_EXPERTS,  /* of the layer */
    SIZE_FF        /* d_ff of the layer */
} SizeOf;

typedef enum { WHEN_ALWAYS, WHEN_MOE, WHEN_BIAS, WHEN_UNTIED } When;

/* One tensor: its name after the prefix, where it goes, its shape. */
typedef struct {
    const char *name;
    size_t field; /* offsetof in ModelTensors, LayerTensors or ExpertTensors */
    When when;
    SizeOf shape[2];
} TensorRule;

/* The rules end with a row without a name. */
typedef struct {
    const char *model_type;
    /* Fills all of CONFIG but json, architecture and what follows from the layers. */
    Status (*read_config)(const JsonAt *root, ModelConfig *config);
    const TensorRule *model;   /* into ModelTensors */
    const char *layer_prefix;  /* printf format of the layer number */
    const TensorRule *layer;   /* into LayerTensors */
    const char *expert_prefix; /* after the layer's prefix; printf format of the expert number */
    const char *dense_prefix;  /* after the layer's prefix */
    const TensorRule *expert;  /* into ExpertTensors, of experts and dense layers */
} Architecture;

/* The row of AT (the config's model_type); ERR_UNSUPPORTED names what is supported. */
Status architecture_find(const JsonAt *at, const Architecture **architecture);

/* Reads DIRECTORY/config.json. CONFIG must be zeroed, and model_config_free() is due in any case.
 */
Status model_config_load(const char *directory, ModelConfig *config,
                         const Architecture **architecture);
void model_config_free(ModelConfig *config);

#endif
