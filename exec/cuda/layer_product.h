/* Both products of grouped rows with their experts' packed weights as one kernel.
 *
 * Only for gated SiLU experts and many rows, where the time that multiprocessors wait for the last
 * of the first product's tiles is more than what the second one's waiting for counters costs. */
#ifndef EXEC_CUDA_LAYER_PRODUCT_H
#define EXEC_CUDA_LAYER_PRODUCT_H

#include "exec/cuda/grouped_product.h"

typedef struct {
    GroupedProduct first;
    GroupedProduct second;
} LayerProduct;

/* What the table's counters of rows come to when all COLUMNS of them are written. */
#ifdef __CUDACC__
__host__ __device__
#endif
    static inline uint32_t
    layer_product_counts(uint32_t columns)
{
    return (columns + 255) / 256 * 4;
}

#ifdef __cplusplus
extern "C" {
#endif

/* True where the kernel can do ASSIGNMENTS of experts of SHAPE in up to MAX_TILES of MAX_WIDTH, and
 * it pays. */
bool layer_product_suits(const FfnShape *shape, size_t assignments, size_t max_tiles,
                         uint32_t max_width);

/* Runs the tiles of TABLE, which are at most MAX_WIDTH wide, once for each grouping, and counts the
 * rows that are done where the table has room for it. Must follow in
 * the stream the kernel that fills the rows; the table must be older than that. */
Status layer_product_run(const LayerProduct *layer, const GroupTable *table, uint32_t max_width,
                         cudaStream_t stream);

#ifdef __cplusplus
}
#endif

#endif
