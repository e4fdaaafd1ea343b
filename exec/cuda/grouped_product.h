/* Products of grouped rows with their experts' packed weights, bf16 with f32 sums.
 *
 * The weights of all experts lie in one block of memory, those of place p at p * stride bytes. The
 * kernel finds its tiles in a table on the device (exec/cuda/grouping.h), so nothing needs to be
 * known to the host but the largest tile. Whole tiles are written, padding rows included. */
#ifndef EXEC_CUDA_GROUPED_PRODUCT_H
#define EXEC_CUDA_GROUPED_PRODUCT_H

#include "exec/cuda/grouping.h"
#include "exec/cuda/packed.h"

#include <cuda.h>

typedef enum {
    PRODUCT_DOWN,       /* out = in * w^T + bias */
    PRODUCT_RELU,       /* out = relu(in * w^T + bias) */
    PRODUCT_GELU,       /* out = gelu(in * w^T + bias), by the error function or by tanh */
    PRODUCT_SILU_GATED, /* out = silu(in * gate^T + bias) . (in * up^T + bias) */
    PRODUCT_PLAIN,      /* ... with any other activation */
    PRODUCT_GATED,
} ProductKind;

typedef struct {
    FfnShape expert;
    bool down;           /* its second product, else the first one */
    const void *weights; /* device, packed, of place 0; aligned to 16 bytes */
    size_t stride_bytes; /* between places, a multiple of 16 */
    const void *in;      /* device, bf16 rows */
    uint32_t rows;       /* that IN and OUT have room for */
    void *out;           /* device, bf16 rows */
} GroupedProductShape;

/* How the copy engine takes rows. */
typedef struct {
    CUtensorMap wide;   /* 64 at a time */
    CUtensorMap narrow; /* 16 */
} RowPieces;

/* gelu(x) = x / 2 * (1 + tanh(x * (c0 + s * (c1 + s * c2)))), s the lesser of x^2 and MOST. */
typedef struct {
    float c0;
    float c1;
    float c2;
    float most;
} GeluTerms;

/* What the kernel needs to know of one product; made once for given memory, then run any number of
 * times. */
typedef struct {
    RowPieces in;
    unsigned char *out;
    FfnShape expert;
    ProductKind kind;
    GeluTerms gelu; /* of PRODUCT_GELU */
    const unsigned char *weights;
    const unsigned char *bias; /* f32, or NULL */
    size_t stride_bytes;
    uint32_t columns; /* of OUT */
    uint32_t depth_blocks;
    uint32_t weight_rows;
    uint32_t weight_tiles; /* of 128 rows */
    uint32_t parts;        /* that a tile of the table is cut into */
} GroupedProduct;

#ifdef __cplusplus
extern "C" {
#endif

/* Fails with ERR_UNSUPPORTED when the device is not of compute capability 9.0, or unless
 * packed_suits(). */
Status grouped_product_make(const GroupedProductShape *shape, GroupedProduct *product);

/* Runs the tiles of TABLE, which are at most MAX_WIDTH wide. A second product must follow its first
 * in the stream. */
Status grouped_product_run(const GroupedProduct *product, const GroupTable *table,
                           uint32_t max_width, cudaStream_t stream);

#ifdef __cplusplus
}
#endif

#endif
