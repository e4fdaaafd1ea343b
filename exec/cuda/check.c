#include "exec/cuda/check.h"

#include <stdio.h>

Status cuda_failed(cudaError_t error, const char *call)
{
    Status status = error == cudaErrorMemoryAllocation ? ERR_MEMORY : ERR_IO;
    return fail(status, "cuda: %s: %s", call, cudaGetErrorString(error));
}

Status cuda_describe_gpu(const char *compute, char *text, size_t bytes)
{
    struct cudaDeviceProp properties;
    int device;
    int driver;
    CUDA_TRY(cudaGetDevice(&device));
    CUDA_TRY(cudaGetDeviceProperties(&properties, device));
    CUDA_TRY(cudaDriverGetVersion(&driver));
    snprintf(text, bytes, "cuda: %s, %d multiprocessors, %s, CUDA %d.%d", properties.name,
             properties.multiProcessorCount, compute, driver / 1000, driver % 1000 / 10);
    return OK;
}
