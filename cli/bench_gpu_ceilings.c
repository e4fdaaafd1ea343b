#include "cli/bench_ceilings.h"
#include "exec/cuda/device_arena.h"
#include "exec/cuda/find_gpu.h"
#include "exec/cuda/measure.h"

enum { CEILING_BYTES = 1 << 30, CEILING_SIZE = 8192, UPLOAD_BYTES = 256 << 20 };

/* The arena has room for two copies, and for a workspace after them. */
static Status measure_in(const DeviceArena *arena, const void *pinned, cudaStream_t stream,
                         Cublas *cublas, Ceilings *ceilings)
{
    TRY(measure_copy(arena->base, arena->base + CEILING_BYTES, CEILING_BYTES, stream,
                     &ceilings->bytes_per_s));
    TRY(measure_copy(arena->base, pinned, UPLOAD_BYTES, stream, &ceilings->upload_bytes_per_s));
    ceilings->upload_bytes_per_s /= 2;
    TRY(cublas_open(arena->base + 2 * (size_t)CEILING_BYTES, cublas));
    return measure_product(CEILING_SIZE, arena->base, cublas, stream, &ceilings->flops_per_s);
}

static Status measure_with(void *pinned, Ceilings *ceilings)
{
    DeviceArena arena;
    cudaStream_t stream = NULL;
    Cublas cublas = {.library = NULL};
    TRY(device_arena_open(2 * (size_t)CEILING_BYTES + CUBLAS_WORKSPACE_BYTES, &arena));
    cudaError_t error = cudaStreamCreateWithFlags(&stream, cudaStreamNonBlocking);
    Status status = error == cudaSuccess
                        ? measure_in(&arena, pinned, stream, &cublas, ceilings)
                        : cuda_failed(error, "cudaStreamCreateWithFlags(&stream, ...)");
    cublas_close(&cublas);
    if (stream != NULL)
        cudaStreamDestroy(stream);
    device_arena_close(&arena);
    return status;
}

Status ceilings_measure(Ceilings *ceilings)
{
    void *pinned;
    TRY(cuda_find_gpu());
    CUDA_TRY(cudaHostAlloc(&pinned, UPLOAD_BYTES, cudaHostAllocDefault));
    Status status = measure_with(pinned, ceilings);
    cudaFreeHost(pinned);
    return status;
}
