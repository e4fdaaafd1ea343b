#include "exec/cuda/device_arena.h"

#include <stdint.h>

enum { PIECE_ALIGNMENT = 256 };

static const double GIB = 1 << 30;

/* Waits, since no other stream does so for the one in which this is queued. */
static Status clear(const DeviceArena *arena)
{
    CUDA_TRY(cudaMemset(arena->base, 0, arena->capacity));
    CUDA_TRY(cudaDeviceSynchronize());
    return OK;
}

Status device_arena_open(size_t bytes, DeviceArena *arena)
{
    size_t free_bytes;
    size_t all_bytes;
    void *memory = NULL;
    CUDA_TRY(cudaMemGetInfo(&free_bytes, &all_bytes));
    if (bytes > free_bytes || cudaMalloc(&memory, bytes) != cudaSuccess) {
        cudaGetLastError();
        return fail(ERR_MEMORY,
                    "cuda: device memory: %.2f GiB are wanted, %.2f GiB of %.2f GiB are free",
                    (double)bytes / GIB, (double)free_bytes / GIB, (double)all_bytes / GIB);
    }
    *arena = (DeviceArena){.base = memory, .capacity = bytes};
    Status status = clear(arena);
    if (status != OK)
        device_arena_close(arena);
    return status;
}

void device_arena_close(DeviceArena *arena)
{
    cudaFree(arena->base);
    *arena = (DeviceArena){0};
}

Status device_arena_take(DeviceArena *arena, size_t count, size_t size, void *out_pointer)
{
    size_t bytes;
    if (__builtin_mul_overflow(count, size, &bytes) || bytes > arena->capacity - arena->used)
        return fail(ERR_MEMORY, "cuda: device arena: %zu x %zu bytes are wanted, %zu are left",
                    count, size, arena->capacity - arena->used);
    *(void **)out_pointer = arena->base + arena->used;
    size_t rounded = (bytes + PIECE_ALIGNMENT - 1) / PIECE_ALIGNMENT * PIECE_ALIGNMENT;
    arena->used = rounded < arena->capacity - arena->used ? arena->used + rounded : arena->capacity;
    return OK;
}
