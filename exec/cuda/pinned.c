#include "exec/cuda/pinned.h"

#include <string.h>

#include "base/memory.h"

/* Less is not worth it, and a small block shares its pages with others. */
enum { LEAST_REGISTERED = 16 << 20 };

static const double GIB = 1 << 30;

/* False when the system does not let its pages be held; then nothing is taken. */
static bool take_registered(ThreadPool *pool, size_t bytes, Pinned *pinned)
{
    unsigned char *memory = mem_alloc(bytes, 1);
    if (memory == NULL)
        return false;
    thread_pool_touch(pool, memory, bytes);
    if (cudaHostRegister(memory, bytes, cudaHostRegisterDefault) != cudaSuccess) {
        cudaGetLastError();
        mem_free(memory);
        return false;
    }
    *pinned = (Pinned){memory, true};
    return true;
}

Status pinned_take(ThreadPool *pool, size_t bytes, const char *what, Pinned *pinned)
{
    bytes = bytes > 0 ? bytes : 1;
    if (bytes >= LEAST_REGISTERED && take_registered(pool, bytes, pinned))
        return OK;
    cudaError_t error = cudaHostAlloc(&pinned->memory, bytes, cudaHostAllocDefault);
    if (error != cudaSuccess) {
        cudaGetLastError();
        *pinned = (Pinned){0};
        return fail(ERR_MEMORY, "cuda: pinned host memory: %.2f GiB are wanted for %s: %s",
                    (double)bytes / GIB, what, cudaGetErrorString(error));
    }
    memset(pinned->memory, 0, bytes);
    return OK;
}

void pinned_free(Pinned *pinned)
{
    if (pinned->registered) {
        cudaHostUnregister(pinned->memory);
        mem_free(pinned->memory);
    } else {
        cudaFreeHost(pinned->memory);
    }
    *pinned = (Pinned){0};
}
