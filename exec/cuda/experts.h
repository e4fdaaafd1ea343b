/* The experts' part of a MoE layer on the device: Backend.group, run_experts and combine.
 *
 * group() numbers the rows of all experts, each expert's padded to whole tiles, and makes the table
 * of tiles; run_experts() puts the tokens where their rows are and computes them, those of all
 * experts or of some, into the rows of OUT; combine() finds them there. Nothing depends on counts
 * that the host would have to wait for. bf16 experts whose sizes are multiples of 64 lie packed in
 * their slots (exec/cuda/packed.h) and run on the tensor cores, with rows in bf16; all others go
 * through plain products in f32. */
#ifndef EXEC_CUDA_EXPERTS_H
#define EXEC_CUDA_EXPERTS_H

#include "exec/cuda/device_arena.h"
#include "exec/cuda/expert_rows.h"

#ifdef __cplusplus
extern "C" {
#endif

/* Device memory of a MoE layer at work. */
typedef struct {
    bool bf16;
    size_t max_rows;   /* padding included */
    uint8_t *selected; /* [experts of any layer] 1: the expert is one of the jobs' */
    Grouping grouping; /* by the last group() */
    GroupTable some;   /* of the jobs */
    void *gathered;    /* [max_rows][d_model] */
    const void *in;    /* whose rows lie there since the last grouping; NULL: none */
    void *inside;      /* [max_rows][d_ff] */
    bool counted;      /* the grouping's table says which rows run() has written since */
} ExpertsWork;

/* True where experts of SHAPE lie packed in their slots. */
bool experts_packed(const FfnShape *shape, bool bf16);
/* Bytes that experts_open() takes; SIZE_MAX when they do not fit. */
size_t experts_bytes(const DeviceOptions *options, bool bf16);
/* BackendSizes.expert_out */
size_t experts_out_bytes(const DeviceOptions *options, bool bf16);
Status experts_open(const DeviceOptions *options, bool bf16, DeviceArena *arena, ExpertsWork *work);

/* True where experts_enter() can do ENTRY: few tokens, bf16, no capacity. */
bool experts_entry_fits(const ExpertsWork *work, const MoeEntry *entry);
/* Backend.enter_moe, by one kernel; packed experts then find their rows gathered. */
Status experts_enter(ExpertsWork *work, const MoeEntry *entry, cudaStream_t stream);
/* Backend.group */
Status experts_group(ExpertsWork *work, const uint16_t *experts, uint32_t tokens, uint32_t top_k,
                     uint32_t n_experts, const RowGroups *groups, cudaStream_t stream);
/* Backend.run_experts */
Status experts_run(ExpertsWork *work, const ExpertBatch *batch, const ExpertJob *jobs,
                   uint32_t n_jobs, const float *in, void *out, cudaStream_t stream);
/* Puts N ROWS, in pinned memory and OUT's form, where OUT has the assignments of the same numbers.
 */
Status experts_put_rows(const ExpertsWork *work, const ExpertBatch *batch,
                        const uint32_t *assignments, uint32_t n, const void *rows, void *out,
                        cudaStream_t stream);
/* Backend.combine */
Status experts_combine(const ExpertsWork *work, const ExpertBatch *batch, float scale,
                       const void *in, float *out, cudaStream_t stream);

#ifdef __cplusplus
}
#endif

#endif
