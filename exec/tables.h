/* Tables that positions are looked up in: rotary angles, position embeddings, relative biases. */
#ifndef EXEC_TABLES_H
#define EXEC_TABLES_H

#include "exec/weights.h"

/* Dimensions that the model's rotary embedding turns; the same in every layer, 0: none. */
uint32_t tables_rotary_dims(const ModelConfig *config);
/* True when requests longer than config->rope.original_positions have angles of their own. */
bool tables_has_long_rotary(const ModelConfig *config);
/* Floats of STACK's relative bias table; 0: it has none. */
size_t tables_relative_floats(const ModelConfig *config, Stack stack, uint32_t max_length);

/* Fills the tables of WEIGHTS on the device. */
Status tables_store(const ModelWeights *weights, const Checkpoint *checkpoint,
                    const Backend *backend, Device *device, uint32_t max_length);

#endif
