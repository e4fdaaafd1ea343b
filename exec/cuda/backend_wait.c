/* Waiting for the queue. Where the host is told something few bytes long, a kernel writes it to
 * host memory, and behind it a number, which the host watches: that takes some microseconds less
 * than a copy and the driver's own wait. The stream is asked now and then whether it has failed. */
#include "base/clock.h"
#include "exec/cuda/device.h"

/* More is left to the copy engine. */
enum { MOST_TOLD_BYTES = 8 << 10, LOOKS = 64, ASK_NS = 200000 };

Status cuda_tell(Device *device, void *to, const void *from, size_t bytes)
{
    if (bytes > MOST_TOLD_BYTES || device->n_tells == MOST_TELLS) {
        CUDA_TRY(cudaMemcpyAsync(to, from, bytes, cudaMemcpyDeviceToHost, device->stream));
        return OK;
    }
    device->tells[device->n_tells++] = (Tell){from, to, bytes};
    return OK;
}

static bool is_told(const Device *device)
{
    const uint32_t *word = device->told_word.memory;
    for (int i = 0; i < LOOKS; i++) {
        if (__atomic_load_n(word, __ATOMIC_ACQUIRE) == device->told)
            return true;
        __builtin_ia32_pause();
    }
    return false;
}

/* Asks the stream from time to time: what has failed would never tell. */
static Status watch(const Device *device)
{
    uint64_t asked_ns = clock_ns();
    while (!is_told(device)) {
        uint64_t now_ns = clock_ns();
        if (now_ns - asked_ns < ASK_NS)
            continue;
        asked_ns = now_ns;
        cudaError_t error = cudaStreamQuery(device->stream);
        if (error == cudaSuccess)
            break;
        if (error != cudaErrorNotReady)
            return cuda_failed(error, "cudaStreamQuery(device->stream)");
    }
    return OK;
}

Status cuda_wait(Device *device)
{
    if (device->n_tells == 0) {
        CUDA_TRY(cudaStreamSynchronize(device->stream));
        return OK;
    }
    TRY(tell_host(device->tells, device->n_tells, device->told_word.memory, ++device->told,
                  device->stream));
    device->n_tells = 0;
    return watch(device);
}
