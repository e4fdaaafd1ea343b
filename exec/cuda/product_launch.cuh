/* Launching the persistent kernel of a grouped product. */
#ifndef EXEC_CUDA_PRODUCT_LAUNCH_CUH
#define EXEC_CUDA_PRODUCT_LAUNCH_CUH

#include "exec/cuda/launch.cuh"
#include "exec/cuda/product_ring.cuh"

static constexpr uint32_t PRODUCT_BLOCK = (CONSUMERS + 1) * 128; /* threads */
static constexpr uint32_t FETCH_REGISTERS = 40;                  /* 3 * 168 = 40 + 2 * 232 */
static constexpr uint32_t MULTIPLY_REGISTERS = 232;

/* As many clusters as the device runs of KERNEL at once; the device is asked once. */
template <auto KERNEL> static Status count_clusters(uint32_t shared_bytes, uint32_t *clusters)
{
    static int count = 0; /* the same whoever writes it */
    if (count == 0) {
        CUDA_TRY(cudaFuncSetAttribute(KERNEL, cudaFuncAttributeMaxDynamicSharedMemorySize,
                                      (int)shared_bytes));
        cudaLaunchAttribute cluster = {};
        cluster.id = cudaLaunchAttributeClusterDimension;
        cluster.val.clusterDim.x = CLUSTER;
        cluster.val.clusterDim.y = 1;
        cluster.val.clusterDim.z = 1;
        cudaLaunchConfig_t config = {};
        config.gridDim = dim3(CLUSTER);
        config.blockDim = dim3(PRODUCT_BLOCK);
        config.dynamicSmemBytes = shared_bytes;
        config.attrs = &cluster;
        config.numAttrs = 1;
        CUDA_TRY(cudaOccupancyMaxActiveClusters(&count, KERNEL, &config));
    }
    *clusters = (uint32_t)count;
    return OK;
}

/* Launches as many clusters of KERNEL, whose tiles are up to WIDEST wide, as run at once. */
template <auto KERNEL, int WIDEST, typename Product>
static Status launch_product(const Product &product, const GroupTable &table, cudaStream_t stream)
{
    uint32_t clusters = 0;
    TRY(count_clusters<KERNEL>(Ring<WIDEST>::SHARED_BYTES, &clusters));
    const LaunchShape shape = {dim3(clusters * CLUSTER), PRODUCT_BLOCK, Ring<WIDEST>::SHARED_BYTES,
                               0};
    return launch_after(KERNEL, shape, stream, product, table);
}

#endif
