#include "tests/gpu/gpu_support.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "exec/cuda/device_arena.h"

enum { MAX_ARRAYS = 256 };

static const size_t SCRATCH_BYTES = (size_t)64 << 20;

static struct {
    bool open;
    Cublas cublas;
    OpsQueue queue;
    void *device[MAX_ARRAYS];
    void *host[MAX_ARRAYS];
    size_t n_device;
    size_t n_host;
} gpu;

static void *take_device(size_t bytes)
{
    void *memory = NULL;
    assert_true(gpu.n_device < MAX_ARRAYS);
    assert_int_equal(cudaMalloc(&memory, bytes + 16), cudaSuccess);
    gpu.device[gpu.n_device++] = memory;
    return memory;
}

static void *take_host(size_t bytes)
{
    void *memory = calloc(1, bytes + 16);
    assert_non_null(memory);
    assert_true(gpu.n_host < MAX_ARRAYS);
    gpu.host[gpu.n_host++] = memory;
    return memory;
}

static void open_gpu(void)
{
    struct cudaDeviceProp properties;
    void *workspace = NULL;
    assert_int_equal(cudaGetDeviceProperties(&properties, 0), cudaSuccess);
    assert_int_equal(cudaMalloc(&workspace, CUBLAS_WORKSPACE_BYTES), cudaSuccess);
    assert_int_equal(cudaMalloc(&gpu.queue.scratch, SCRATCH_BYTES), cudaSuccess);
    /* initcheck does not see what bulk copies write there: NaNs show what nobody wrote. */
    assert_int_equal(cudaMemset(gpu.queue.scratch, 0xFF, SCRATCH_BYTES), cudaSuccess);
    assert_ok(cublas_open(workspace, &gpu.cublas));
    assert_int_equal(cudaStreamCreate(&gpu.queue.stream), cudaSuccess);
    gpu.queue.scratch_bytes = SCRATCH_BYTES;
    gpu.queue.multiprocessors = (uint32_t)properties.multiProcessorCount;
    gpu.queue.cublas = &gpu.cublas;
    gpu.open = true;
}

OpsQueue gpu_queue(ComputeType compute)
{
    if (!gpu.open)
        open_gpu();
    OpsQueue queue = gpu.queue;
    queue.compute = compute;
    return queue;
}

void gpu_reset(void)
{
    assert_int_equal(cudaStreamSynchronize(gpu.queue.stream), cudaSuccess);
    while (gpu.n_device > 0)
        cudaFree(gpu.device[--gpu.n_device]);
    while (gpu.n_host > 0)
        free(gpu.host[--gpu.n_host]);
}

void *gpu_upload(const void *from, size_t bytes)
{
    void *memory = take_device(bytes);
    assert_int_equal(cudaMemcpy(memory, from, bytes, cudaMemcpyHostToDevice), cudaSuccess);
    return memory;
}

static uint16_t bf16_bits(float value)
{
    uint32_t bits;
    memcpy(&bits, &value, sizeof bits);
    return (uint16_t)((bits + 0x7FFF + (bits >> 16 & 1)) >> 16);
}

float gpu_rounded(float value)
{
    uint32_t bits = (uint32_t)bf16_bits(value) << 16;
    memcpy(&value, &bits, sizeof bits);
    return value;
}

Floats gpu_random(uint64_t *state, size_t n, bool rounded)
{
    Floats floats = {.host = take_host(n * sizeof(float)), .n = n};
    for (size_t i = 0; i < n; i++) {
        float value = random_float(state);
        floats.host[i] = rounded ? gpu_rounded(value) : value;
    }
    floats.device = gpu_upload(floats.host, n * sizeof(float));
    return floats;
}

Floats gpu_result(size_t n)
{
    Floats floats = {.host = take_host(n * sizeof(float)), .n = n};
    floats.device = take_device(n * sizeof(float));
    assert_int_equal(cudaMemset(floats.device, 0xFF, n * sizeof(float)), cudaSuccess);
    return floats;
}

void *gpu_elements(const Floats *floats, ComputeType compute)
{
    if (compute == COMPUTE_F32)
        return floats->device;
    uint16_t *elements = take_host(floats->n * sizeof *elements);
    for (size_t i = 0; i < floats->n; i++)
        elements[i] = bf16_bits(floats->host[i]);
    return gpu_upload(elements, floats->n * sizeof *elements);
}

static void *read_device(const OpsQueue *queue, const void *from, size_t bytes)
{
    void *got = take_host(bytes);
    assert_int_equal(cudaStreamSynchronize(queue->stream), cudaSuccess);
    assert_int_equal(cudaMemcpy(got, from, bytes, cudaMemcpyDeviceToHost), cudaSuccess);
    return got;
}

const float *gpu_read(const OpsQueue *queue, const float *from, size_t n)
{
    return read_device(queue, from, n * sizeof *from);
}

void gpu_assert_same(const OpsQueue *queue, const float *a, const float *b, size_t n)
{
    assert_memory_equal(read_device(queue, a, n * sizeof *a), read_device(queue, b, n * sizeof *b),
                        n * sizeof *a);
}

static void assert_near(const float *got, const Floats *floats, float tolerance)
{
    for (size_t i = 0; i < floats->n; i++)
        if (!(fabsf(got[i] - floats->host[i]) <= tolerance * fmaxf(1, fabsf(floats->host[i]))))
            fail_msg("element %zu of %zu is %g, not %g", i, floats->n, (double)got[i],
                     (double)floats->host[i]);
}

void gpu_assert_near(const OpsQueue *queue, const Floats *floats, float tolerance)
{
    assert_near(read_device(queue, floats->device, floats->n * sizeof(float)), floats, tolerance);
}

float *gpu_random_floats(uint64_t *state, size_t n, float scale)
{
    float *floats = calloc(n, sizeof *floats);
    assert_non_null(floats);
    for (size_t i = 0; i < n; i++)
        floats[i] = gpu_rounded(scale * random_float(state));
    return floats;
}

Part gpu_matrix_part(float **at, uint32_t rows, uint32_t columns)
{
    size_t n = (size_t)rows * columns;
    const Tensor tensor = {.dtype = DTYPE_F32,
                           .rank = 2,
                           .shape = {rows, columns},
                           .data = *at,
                           .bytes = n * sizeof(float)};
    *at += n;
    return part_of(&tensor);
}

void gpu_repeat_slots(const Backend *backend, Device *device, unsigned char *slots, size_t stride,
                      uint32_t filled, uint32_t n)
{
    while (filled < n) {
        uint32_t copies = filled < n - filled ? filled : n - filled;
        assert_ok(backend->move(device, slots + filled * stride, slots, copies * stride));
        filled += copies;
    }
}

void gpu_assert_elements_near(const OpsQueue *queue, ComputeType compute, const void *elements,
                              const Floats *floats, float tolerance)
{
    size_t bytes = compute == COMPUTE_F32 ? sizeof(float) : sizeof(uint16_t);
    const void *got = read_device(queue, elements, floats->n * bytes);
    float *widened = take_host(floats->n * sizeof(float));
    for (size_t i = 0; compute != COMPUTE_F32 && i < floats->n; i++) {
        uint32_t bits = (uint32_t)((const uint16_t *)got)[i] << 16;
        memcpy(&widened[i], &bits, sizeof bits);
    }
    assert_near(compute == COMPUTE_F32 ? got : widened, floats, tolerance);
}

double gpu_distance(const float *got, const float *want, size_t n)
{
    double difference = 0;
    double norm = 0;
    for (size_t i = 0; i < n; i++) {
        difference += ((double)got[i] - want[i]) * ((double)got[i] - want[i]);
        norm += (double)want[i] * want[i];
    }
    return sqrt(difference / (norm > 0 ? norm : 1));
}
