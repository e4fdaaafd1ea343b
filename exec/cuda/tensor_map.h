/* Descriptors of arrays for the tensor copy engine. */
#ifndef EXEC_CUDA_TENSOR_MAP_H
#define EXEC_CUDA_TENSOR_MAP_H

#include "exec/cuda/check.h"

#include <cuda.h>
#include <stdint.h>

enum { MAX_TENSOR_DIMENSIONS = 5 };

/* An array of bf16 or f32; dimension 0 runs fastest and is dense. */
typedef struct {
    const void *data;
    uint32_t n_dimensions;
    uint64_t size[MAX_TENSOR_DIMENSIONS];
    uint64_t stride_bytes[MAX_TENSOR_DIMENSIONS]; /* of dimensions 1 and up, multiples of 16 */
    uint32_t box[MAX_TENSOR_DIMENSIONS]; /* what one copy takes; bf16: box[0] is 64 or 32 */
} TensorShape;

#ifdef __cplusplus
extern "C" {
#endif

/* Of bf16: copies through MAP swizzle rows of 128 or 64 bytes; outside of the array they read zeros
 * and write nothing. */
Status tensor_map_make(const TensorShape *shape, CUtensorMap *map);
/* Of f32: rows lie in shared memory as they are. */
Status tensor_map_make_f32(const TensorShape *shape, CUtensorMap *map);

#ifdef __cplusplus
}
#endif

#endif
