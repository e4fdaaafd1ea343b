/* Where the parts of an FFN lie, in a slot or in the arena: one block of bytes, so that an expert
 * is one copy from host to device. */
#ifndef EXEC_FFN_LAYOUT_H
#define EXEC_FFN_LAYOUT_H

#include <stddef.h>

#include "exec/model.h"

/* Offsets in bytes, each a multiple of 64: first [gated ? 2 d_ff : d_ff][d_model] (the gate's rows,
 * then those of up), first_bias f32 [its rows], second [d_model][d_ff], second_bias f32 [d_model].
 * Without biases these have no room. BYTES is the whole, SIZE_MAX when it does not fit. */
typedef struct {
    size_t first;
    size_t first_bias;
    size_t second;
    size_t second_bias;
    size_t bytes;
} FfnLayout;

/* Rows of the first matrix. */
static inline uint32_t ffn_first_rows(const FfnShape *shape)
{
    return shape->gated ? 2 * shape->d_ff : shape->d_ff;
}

/* WEIGHT_BYTES is the size of one element of a matrix. */
FfnLayout ffn_layout(const FfnShape *shape, size_t weight_bytes);

#endif
