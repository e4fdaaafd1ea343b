#include "cli/bench_gpu_ceilings.h"

#include "exec/cuda/device_arena.h"
#include "exec/cuda/measure.h"

enum { COPY_BYTES = 1 << 30, PRODUCT_SIZE = 8192 };

/* The arena has room for two copies, and for a workspace after them. */
static Status measure_in(const DeviceArena *arena, Cublas *cublas, Ceilings *ceilings)
{
    cudaStream_t stream;
    CUDA_TRY(cudaStreamCreateWithFlags(&stream, cudaStreamNonBlocking));
    Status status = measure_copy(arena->base, arena->base + COPY_BYTES, COPY_BYTES, stream,
                                 &ceilings->bytes_per_s);
    if (status == OK)
        status = cublas_open(arena->base + 2 * (size_t)COPY_BYTES, cublas);
    if (status == OK)
        status = measure_product(PRODUCT_SIZE, arena->base, cublas, stream, &ceilings->flops_per_s);
    cublas_close(cublas);
    cudaStreamDestroy(stream);
    return status;
}

Status ceilings_measure(Ceilings *ceilings)
{
    DeviceArena arena;
    Cublas cublas = {.library = NULL};
    TRY(device_arena_open(2 * (size_t)COPY_BYTES + CUBLAS_WORKSPACE_BYTES, &arena));
    Status status = measure_in(&arena, &cublas, ceilings);
    device_arena_close(&arena);
    return status;
}
