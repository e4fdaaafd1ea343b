#include "exec/cuda/find_gpu.h"

#include "exec/cuda/check.h"

Status cuda_find_gpu(void)
{
    int count = 0;
    cudaError_t error = cudaGetDeviceCount(&count);
    if (error != cudaSuccess || count == 0)
        return fail(ERR_UNSUPPORTED, "device cuda: there is no GPU that can be used: %s",
                    error != cudaSuccess ? cudaGetErrorString(error) : "none is visible");
    CUDA_TRY(cudaSetDevice(0));
    return OK;
}
