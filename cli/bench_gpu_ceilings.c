#include "cli/bench_gpu_ceilings.h"

#include "exec/cuda/find_gpu.h"
#include "exec/cuda/random.h"

enum { CEILING_BYTES = 1 << 30, CEILING_SIZE = 8192, UPLOAD_BYTES = 256 << 20 };

/* What is copied is random as the matrices are, which lie there. */
Status ceilings_rig_open(CeilingsRig *rig)
{
    *rig = (CeilingsRig){0};
    TRY(cuda_find_gpu());
    TRY(device_arena_open(2 * (size_t)CEILING_BYTES + CUBLAS_WORKSPACE_BYTES, &rig->arena));
    unsigned char *base = rig->arena.base;
    rig->copy = (DeviceCopy){base + CEILING_BYTES, base, CEILING_BYTES};
    rig->product = (DeviceProduct){CEILING_SIZE, base, &rig->cublas};
    TRY(cublas_open(base + 2 * (size_t)CEILING_BYTES, &rig->cublas));
    TRY(random_fill(base, CEILING_BYTES / 2, 1, 1, NULL));
    CUDA_TRY(cudaDeviceSynchronize());
    return OK;
}

void ceilings_rig_close(CeilingsRig *rig)
{
    cublas_close(&rig->cublas);
    if (rig->arena.base != NULL)
        device_arena_close(&rig->arena);
}

static Status measure_on(CeilingsRig *rig, const void *pinned, cudaStream_t stream,
                         Ceilings *ceilings)
{
    DeviceCopy upload = {rig->copy.to, pinned, UPLOAD_BYTES};
    TRY(measure_copy(&rig->copy, stream, &ceilings->bytes_per_s));
    TRY(measure_copy(&upload, stream, &ceilings->upload_bytes_per_s));
    ceilings->upload_bytes_per_s /= 2;
    return measure_product(&rig->product, stream, &ceilings->flops_per_s);
}

Status ceilings_rig_measure(CeilingsRig *rig, Ceilings *ceilings)
{
    void *pinned;
    cudaStream_t stream = NULL;
    CUDA_TRY(cudaHostAlloc(&pinned, UPLOAD_BYTES, cudaHostAllocDefault));
    cudaError_t error = cudaStreamCreateWithFlags(&stream, cudaStreamNonBlocking);
    Status status = error == cudaSuccess
                        ? measure_on(rig, pinned, stream, ceilings)
                        : cuda_failed(error, "cudaStreamCreateWithFlags(&stream, ...)");
    if (stream != NULL)
        cudaStreamDestroy(stream);
    cudaFreeHost(pinned);
    return status;
}

Status ceilings_measure(Ceilings *ceilings)
{
    CeilingsRig rig;
    Status status = ceilings_rig_open(&rig);
    if (status == OK)
        status = ceilings_rig_measure(&rig, ceilings);
    ceilings_rig_close(&rig);
    return status;
}
