/* Products of few rows with a dense bf16 matrix: one pass over the weights, which are on their way
 * before the kernels ahead in the queue have ended. */
#ifndef EXEC_CUDA_FEW_ROWS_H
#define EXEC_CUDA_FEW_ROWS_H

#include "exec/cuda/ops.h"

enum { FEW_ROWS = 8 };

/* out[rows][n] = in[rows][k] * weight[n][k]^T + bias, added to OUT when ADD; with NORM (of kind
 * NORM_RMS) the rows of IN are normed first. IN is rounded to bf16, sums are f32 in a fixed order.
 * Rows that are rounded already take the place of IN. */
typedef struct {
    const float *in;
    const Norm *norm; /* NULL: none */
    const Matrix *weight;
    uint32_t rows; /* up to FEW_ROWS */
    bool add;
    float *out;
    const void *rounded; /* bf16, or NULL */
} FewRows;

/* How the blocks share the product: COLUMNS of OUT belong to a cluster of SPLITS blocks, which
 * share the depth. */
typedef struct {
    uint32_t columns;
    uint32_t splits;
} FewRowsCut;

#ifdef __cplusplus
extern "C" {
#endif

/* The best CUT. False when this kernel cannot run PRODUCT, or cuBLAS is faster. */
bool few_rows_fit(const OpsQueue *queue, const FewRows *product, FewRowsCut *cut);
Status few_rows_run(const OpsQueue *queue, const FewRows *product, const FewRowsCut *cut);

#ifdef __cplusplus
}
#endif

#endif
