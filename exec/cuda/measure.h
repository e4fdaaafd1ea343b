/* Times of device work, and the two ceilings that they are compared with. */
#ifndef EXEC_CUDA_MEASURE_H
#define EXEC_CUDA_MEASURE_H

#include "exec/cuda/cublas.h"

#include <stdint.h>

/* Queues something on STREAM. */
typedef Status (*DeviceWork)(void *context, cudaStream_t stream);

/* Queues WORK REPEATS (up to 64) times after two that do not count: the median of their times. */
Status measure_work(DeviceWork work, void *context, uint32_t repeats, cudaStream_t stream,
                    double *milliseconds);

/* The same for WORK captured once as a graph and replayed. */
Status measure_graph(DeviceWork work, void *context, uint32_t repeats, cudaStream_t stream,
                     double *milliseconds);

/* Bytes read plus bytes written per second by a copy of BYTES from FROM to TO, on the device or in
 * pinned memory. */
Status measure_copy(void *to, const void *from, size_t bytes, cudaStream_t stream,
                    double *bytes_per_s);

/* Operations per second of a bf16 product of two random SIZE x SIZE matrices, by cuBLAS. MEMORY has
 * room for three. */
Status measure_product(uint32_t size, void *memory, const Cublas *cublas, cudaStream_t stream,
                       double *flops_per_s);

#endif
