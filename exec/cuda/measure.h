/* Times of device work, and the two ceilings that they are compared with. */
#ifndef EXEC_CUDA_MEASURE_H
#define EXEC_CUDA_MEASURE_H

#include "exec/cuda/cublas.h"

#include <stdint.h>

/* Queues something on STREAM. */
typedef Status (*DeviceWork)(void *context, cudaStream_t stream);

/* Captures WORK once as a graph and replays it REPEATS (up to 64) times after two that do not
 * count: the median of their times. */
Status measure_graph(DeviceWork work, void *context, uint32_t repeats, cudaStream_t stream,
                     double *milliseconds);

/* Work that is timed in turn with other work. */
typedef struct {
    DeviceWork queue;
    void *context;
    double milliseconds; /* written */
} TimedWork;

enum { MAX_TIMED_WORKS = 8 };

/* Times N works on a card that is as warm, and has as much power left, for one as for the others.
 * Each is captured as a graph and replayed for 20 ms without a pause (3 times at least), one after
 * the other; that ROUNDS times over, up to 8. The median of a work's times, without those of the
 * first time over, after which a card no longer runs as fast as while it is cool, and without the
 * first of each turn. No copies: in a graph they take other ways. */
Status measure_in_turn(TimedWork *works, uint32_t n, uint32_t rounds, cudaStream_t stream);

/* A copy of BYTES on the device or from pinned memory. */
typedef struct {
    void *to;
    const void *from;
    size_t bytes;
} DeviceCopy;

/* A bf16 product of two SIZE x SIZE matrices by cuBLAS; MEMORY has room for three. */
typedef struct {
    uint32_t size;
    unsigned char *memory;
    const Cublas *cublas;
} DeviceProduct;

/* DeviceWork of a DeviceProduct. */
Status queue_device_product(void *product, cudaStream_t stream);

/* Operations per second of PRODUCT when it takes MILLISECONDS. */
double device_product_rate(const DeviceProduct *product, double milliseconds);

/* Rates over some repeats: bytes read plus bytes written, and operations. */
Status measure_copy(DeviceCopy *copy, cudaStream_t stream, double *bytes_per_s);
Status measure_product(DeviceProduct *product, cudaStream_t stream, double *flops_per_s);

#endif
