/* Shapes: models without files. A shape is the config.json of a published model, read by the same
 * description as a checkpoint's, and synthetic weights (exec/synthetic.h) for every tensor that the
 * description names. */
#ifndef EXEC_SHAPE_H
#define EXEC_SHAPE_H

#include "exec/architecture.h"
#include "exec/shards.h"

typedef struct {
    const char *name;
    const char *model;  /* whose shape it is */
    const char *config; /* text of config.json: the keys that a forward pass depends on */
} Shape;

/* The published shapes; [*count]. */
const Shape *shape_list(size_t *count);

/* Reads the config of NAME: a published shape, or the path of a config.json (it has a '/' or ends
 * in ".json"). After a ':' comes how many layers it shall have, the first ones: of each stack, or
 * as "24+1" of the encoder and of the decoder; the config's text is changed to match. CONFIG must
 * be zeroed, and model_config_free() is due in any case. Fails with ERR_INPUT when there is no such
 * shape or it has fewer layers. */
Status shape_config(const char *name, ModelConfig *config, const Architecture **architecture);

/* Makes every tensor of CONFIG. Matrices keep the size of what goes through them (deviation one
 * over the root of a row's length; an eighth of it where a branch ends in the residual stream),
 * norms are around one, biases small, and the embedding is such that the first layer sees numbers
 * around one. SHARDS must be zeroed, and shards_close() is due in any case. */
Status shape_tensors(const char *name, const Architecture *architecture, const ModelConfig *config,
                     Shards *shards);

#endif
