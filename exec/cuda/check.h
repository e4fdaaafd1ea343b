/* Every CUDA call is checked here, and turned into the project's Status.
 *
 * Files in C++ include the C headers of other modules through this one. */
#ifndef EXEC_CUDA_CHECK_H
#define EXEC_CUDA_CHECK_H

#include <cuda_runtime_api.h>

#ifdef __cplusplus
extern "C" {
#endif

#include "base/status.h"

/* The record of a failed call: "cuda: CALL: WHY"; out of memory is ERR_MEMORY, the rest ERR_IO. */
Status cuda_failed(cudaError_t error, const char *call);

/* "cuda: NVIDIA H200, 132 multiprocessors, COMPUTE, CUDA 13.0" of the GPU in use. */
Status cuda_describe_gpu(const char *compute, char *text, size_t bytes);

#ifdef __cplusplus
}
#endif

/* Returns from the caller unless CALL succeeds. */
#define CUDA_TRY(call)                                                                             \
    do {                                                                                           \
        cudaError_t cuda_try_error = (call);                                                       \
        if (cuda_try_error != cudaSuccess)                                                         \
            return cuda_failed(cuda_try_error, #call);                                             \
    } while (0)

#endif
