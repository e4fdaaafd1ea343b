#include "exec/cuda/check.h"

Status cuda_failed(cudaError_t error, const char *call)
{
    Status status = error == cudaErrorMemoryAllocation ? ERR_MEMORY : ERR_IO;
    return fail(status, "cuda: %s: %s", call, cudaGetErrorString(error));
}
