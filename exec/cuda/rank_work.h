/* Computation beside what a rank sends and receives: products with one square bf16 matrix, in a
 * stream of their own. */
#ifndef EXEC_CUDA_RANK_WORK_H
#define EXEC_CUDA_RANK_WORK_H

#include "exec/cuda/cublas.h"
#include "exec/cuda/device_arena.h"

typedef struct {
    uint32_t side; /* 0: there is none */
    uint32_t most_rows;
    void *matrix; /* device [side][side] */
    void *in;     /* device [most_rows][side], as OUT */
    void *out;
    Cublas cublas;
    cudaStream_t stream;
} RankWork;

/* Bytes of ARENA that it takes. */
size_t rank_work_bytes(uint32_t side, uint32_t most_rows);
/* For the current device; random numbers. On failure WORK may be closed. */
Status rank_work_open(DeviceArena *arena, uint32_t side, uint32_t most_rows, RankWork *work);
/* Accepts a zeroed one. */
void rank_work_close(RankWork *work);
/* Queues TIMES products of ROWS rows, at most most_rows. */
Status rank_work_queue(const RankWork *work, uint32_t rows, uint32_t times);

#endif
