/* Products of grouped rows with their experts' packed weights, bf16 with f32 sums.
 *
 * The weights of all experts lie in one block of memory, those of place p at p * stride bytes. The
 * kernel finds its tiles in a table of groups on the device (exec/cuda/grouping.h), so nothing
 * needs to be known to the host but the largest tile. Whole tiles are written, padding rows
 * included, with numbers that mean nothing. */
#ifndef EXEC_CUDA_GROUPED_PRODUCT_H
#define EXEC_CUDA_GROUPED_PRODUCT_H

#include "exec/cuda/grouping.h"
#include "exec/cuda/packed.h"

#include <cuda.h>

typedef enum {
    PRODUCT_DOWN,       /* out = in * w^T + bias, dense rows */
    PRODUCT_RELU,       /* out = relu(in * w^T + bias), octet-packed rows */
    PRODUCT_GELU,       /* the same with gelu, by the error function */
    PRODUCT_SILU_GATED, /* out = silu(in * gate^T + bias) . (in * up^T + bias), octet-packed rows */
} ProductKind;

typedef struct {
    ProductKind kind;
    const void *weights; /* device, packed, of place 0; aligned to 16 bytes */
    const float *bias;   /* device, of place 0, [columns], gated: gate's, then up's; NULL: none */
    size_t stride_bytes; /* between places, a multiple of 16 */
    const void *in;      /* device, rows of DEPTH columns, octet-packed */
    bool dense;          /* ... or one after the other; DEPTH is then a multiple of 64 */
    uint32_t rows;       /* that IN has room for, a multiple of 16 */
    void *out;           /* device */
    uint32_t columns;    /* of OUT, a multiple of 8 */
    uint32_t depth;
} GroupedProductShape;

/* What the kernel needs to know of one product; made once for given memory, then run any number of
 * times. */
typedef struct {
    CUtensorMap wide_pieces;   /* of IN: 64 rows x 64 columns */
    CUtensorMap narrow_pieces; /* 16 rows x 64 columns */
    const unsigned char *weights;
    const unsigned char *bias;
    size_t stride_bytes;
    unsigned char *out;
    uint32_t columns;
    uint32_t column_blocks; /* of OUT */
    uint32_t depth_blocks;
    uint32_t weight_tiles; /* of 128 rows */
    uint32_t clusters;     /* that run at once */
    ProductKind kind;
} GroupedProduct;

#ifdef __cplusplus
extern "C" {
#endif

/* Fails with ERR_UNSUPPORTED when the device is not of compute capability 9.0. */
Status grouped_product_make(const GroupedProductShape *shape, GroupedProduct *product);

/* Runs the tiles of TABLE, whose widths are at most MAX_WIDTH (128 or 256). */
Status grouped_product_run(const GroupedProduct *product, const GroupTable *table,
                           uint32_t max_width, cudaStream_t stream);

#ifdef __cplusplus
}
#endif

#endif
