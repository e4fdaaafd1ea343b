/* Waiting for the queue. Where the host is told something of some KiB at most, a kernel writes it
 * to host memory, and behind it a number, which the host watches: that takes some microseconds less
 * than a copy and the driver's own wait. */
#include "base/clock.h"
#include "exec/cuda/convert.h"
#include "exec/cuda/device.h"

/* More is left to the copy engine. */
enum { MOST_TOLD_BYTES = 16 << 10, LOOKS = 64, ASK_NS = 200000 };

Status cuda_tell(Device *device, void *to, const void *from, size_t bytes)
{
    if (bytes > MOST_TOLD_BYTES || device->n_tells == MOST_TELLS) {
        CUDA_TRY(cudaMemcpyAsync(to, from, bytes, cudaMemcpyDeviceToHost, device->stream));
        return OK;
    }
    device->tells[device->n_tells++] = (Tell){from, to, bytes};
    return OK;
}

static void rest_a_little(void)
{
#if defined(__x86_64__)
    __builtin_ia32_pause();
#endif
}

/* The stream, or an error where it failed. */
static Status ask_stream(Device *device, bool *done)
{
    cudaError_t error = cudaStreamQuery(device->stream);
    *done = error == cudaSuccess;
    if (error == cudaSuccess || error == cudaErrorNotReady)
        return OK;
    return cuda_failed(error, "cudaStreamQuery(device->stream)");
}

/* Looks for the number; the stream is asked now and then, since what has failed would never tell.
 */
static Status look(Device *device, bool *done)
{
    const uint32_t *word = device->told_word.memory;
    *done = false;
    for (int i = 0; i < LOOKS && !*done; i++) {
        *done = __atomic_load_n(word, __ATOMIC_ACQUIRE) == device->told;
        rest_a_little();
    }
    uint64_t now_ns = clock_ns();
    if (!*done && now_ns - device->asked_ns > ASK_NS) {
        device->asked_ns = now_ns;
        TRY(ask_stream(device, done));
    }
    device->is_telling = !*done;
    return OK;
}

Status cuda_poll(Device *device, bool *done)
{
    if (device->n_tells > 0) {
        TRY(tell_host(device->tells, device->n_tells, device->told_word.memory, ++device->told,
                      device->stream));
        device->n_tells = 0;
        device->is_telling = true;
        device->asked_ns = clock_ns();
    }
    return device->is_telling ? look(device, done) : ask_stream(device, done);
}

Status cuda_wait(Device *device)
{
    bool done = false;
    if (device->n_tells == 0 && !device->is_telling) {
        CUDA_TRY(cudaStreamSynchronize(device->stream));
        return OK;
    }
    while (!done)
        TRY(cuda_poll(device, &done));
    return OK;
}

Status cuda_hold(Device *device)
{
    return hold_queue(device->held_word.memory, ++device->held, device->stream);
}

void cuda_release(Device *device)
{
    uint32_t *word = device->held_word.memory;
    if (word != NULL)
        __atomic_store_n(word, device->held, __ATOMIC_RELEASE);
}
