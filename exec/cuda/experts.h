/* The experts' feed-forward networks on the device: Backend.run_experts, for every shape.
 *
 * The rows of the experts that run are put one expert after the other, each padded to whole tiles;
 * a table of tiles is made on the device, so that nothing depends on counts that the host would
 * have to wait for. bf16 experts whose sizes and activation the tensor core kernel knows lie packed
 * in their slots (exec/cuda/packed.h) and run there; all others go through plain products in f32.
 */
#ifndef EXEC_CUDA_EXPERTS_H
#define EXEC_CUDA_EXPERTS_H

#include "exec/cuda/device_arena.h"
#include "exec/cuda/grouped_product.h"

#ifdef __cplusplus
extern "C" {
#endif

#include "exec/backend.h"

/* Device memory of a call. */
typedef struct {
    bool bf16;
    uint32_t max_jobs;
    size_t max_rows;      /* padding included, a multiple of 64 */
    ExpertJob *jobs;      /* [max_jobs] */
    ExpertJob *all;       /* [max_jobs] every expert in the slot of its own number */
    uint32_t *first_row;  /* [max_jobs + 1] rows of the jobs before */
    uint32_t *assignment; /* [max_rows] token * top_k + slot; NO_ROW: padding */
    GroupTable table;
    void *gathered; /* [max_rows][d_model] */
    void *inside;   /* [max_rows][d_ff] */
    void *outside;  /* [max_rows][d_model] */
} ExpertsWork;

/* True where experts of SHAPE lie packed in their slots. */
bool experts_packed(const FfnShape *shape, bool bf16);
/* Bytes that experts_open() takes; SIZE_MAX when they do not fit. */
size_t experts_bytes(const DeviceOptions *options, bool bf16);
Status experts_open(const DeviceOptions *options, bool bf16, DeviceArena *arena, ExpertsWork *work);
/* Backend.run_experts */
Status experts_run(const ExpertsWork *work, const ExpertBatch *batch, const ExpertJob *jobs,
                   uint32_t n_jobs, const float *in, float *out, cudaStream_t stream);

#ifdef __cplusplus
}
#endif

#endif
