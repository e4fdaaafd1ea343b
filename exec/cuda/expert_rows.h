/* The rows of experts: how tokens get there, what is computed of them, and how they get back. */
#ifndef EXEC_CUDA_EXPERT_ROWS_H
#define EXEC_CUDA_EXPERT_ROWS_H

#include "exec/cuda/grouped_product.h"

#ifdef __cplusplus
extern "C" {
#endif

/* Rows of some experts of a layer, and device memory for what becomes of them. Arrays have bf16
 * elements when the experts are PACKED, else f32. */
typedef struct {
    const ExpertBatch *batch;
    bool packed; /* the experts in their slots, exec/cuda/packed.h */
    bool bf16;   /* elements of their matrices; f32 else */
    GroupTable table;
    uint32_t max_width; /* of tiles */
    uint32_t max_rows;  /* of the arrays */
    uint32_t max_tiles; /* of TABLE */
    void *in;           /* [max_rows][d_model] */
    void *inside;       /* [max_rows][d_ff] */
    void *out;          /* [max_rows][d_model] */
    cudaStream_t stream;
} ExpertRows;

/* rows->in[row] = tokens[row's token], padding 0, for the experts that are SELECTED (device
 * [experts], or NULL: all). */
Status expert_rows_fill(const ExpertRows *rows, const Grouping *grouping, const uint8_t *selected,
                        const float *tokens);
/* in -> inside -> out by the weights in the slots. */
Status expert_rows_multiply(const ExpertRows *rows);
/* ... right after expert_rows_fill(), with a table made by grouping or selecting: once for each. */
Status expert_rows_multiply_filled(const ExpertRows *rows);
/* True where that counts the rows that it has written, if the table has room for it. */
bool expert_rows_counts(const ExpertRows *rows);
/* ... in f32, whatever the sizes: what expert_rows_multiply() does unless they are packed. */
Status expert_rows_multiply_plainly(const ExpertRows *rows);
/* rows->out[row of each of N ASSIGNMENTS] = FROM, in the same form. Both lie in pinned memory. */
Status expert_rows_put(const ExpertRows *rows, const Grouping *grouping,
                       const uint32_t *assignments, uint32_t n, const void *from);
/* out[token] += scale * sum over slots, in order, of weight * in[row of (token, slot)]; IN is what
 * rows->out was. Where the table counts rows, as soon as a token's are there. */
Status expert_rows_combine(const ExpertRows *rows, const Grouping *grouping, const float *weights,
                           float scale, const void *in, float *out);

#ifdef __cplusplus
}
#endif

#endif
