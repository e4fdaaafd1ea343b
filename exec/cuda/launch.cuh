/* Launching a kernel: cluster, dynamic shared memory, and an early start. */
#ifndef EXEC_CUDA_LAUNCH_CUH
#define EXEC_CUDA_LAUNCH_CUH

#include <stdint.h>

#include "exec/cuda/check.h"

struct LaunchShape {
    dim3 grid;
    uint32_t threads;
    uint32_t shared_bytes;
    uint32_t cluster; /* blocks; 0: no clusters */
};

/* Launches KERNEL so that it may start while the kernel before it in STREAM is ending; the kernel
 * must call wait_for_earlier_kernels() before it touches memory that they write. What lets its own
 * successor start before it has waited must not be followed by a library's kernel. */
template <typename... Parameters, typename... Arguments>
Status launch_after(void (*kernel)(Parameters...), const LaunchShape &shape, cudaStream_t stream,
                    Arguments &&...arguments)
{
    cudaLaunchAttribute attributes[2] = {};
    attributes[0].id = cudaLaunchAttributeProgrammaticStreamSerialization;
    attributes[0].val.programmaticStreamSerializationAllowed = 1;
    attributes[1].id = cudaLaunchAttributeClusterDimension;
    attributes[1].val.clusterDim.x = shape.cluster;
    attributes[1].val.clusterDim.y = 1;
    attributes[1].val.clusterDim.z = 1;
    cudaLaunchConfig_t config = {};
    config.gridDim = shape.grid;
    config.blockDim = dim3(shape.threads);
    config.dynamicSmemBytes = shape.shared_bytes;
    config.stream = stream;
    config.attrs = attributes;
    config.numAttrs = shape.cluster > 0 ? 2 : 1;
    CUDA_TRY(cudaLaunchKernelEx(&config, kernel, static_cast<Parameters>(arguments)...));
    return OK;
}

__host__ __device__ inline uint32_t divide_up(uint32_t a, uint32_t b)
{
    return (a + b - 1) / b;
}

#endif
