/* From a description to tensors: finds each one that the architecture asks for in the shards, and
 * checks it. */
#ifndef EXEC_RESOLVE_H
#define EXEC_RESOLVE_H

#include "exec/architecture.h"
#include "exec/shards.h"

/* Fills TENSORS, whose layers and their experts the caller frees, in any case. Fails with ERR_INPUT
 * naming the tensor: missing, of another dtype or shape, holding NaN or infinity, or not part of
 * such a model. */
Status resolve_model(const Architecture *architecture, const ModelConfig *config, Shards *shards,
                     ModelTensors *tensors);

#endif
