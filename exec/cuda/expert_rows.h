/* The rows of the experts that run: where they lie, and how they get there and back. */
#ifndef EXEC_CUDA_EXPERT_ROWS_H
#define EXEC_CUDA_EXPERT_ROWS_H

#include "exec/cuda/experts.h"

enum { PLAIN_TILE = 64, JOBS_AT_ONCE = 256 };

/* A part of a batch whose rows fit. */
typedef struct {
    const ExpertsWork *work;
    const ExpertBatch *batch;
    const ExpertJob *jobs; /* device */
    uint32_t n_jobs;
    size_t max_rows;    /* that the jobs can have, padding included */
    uint32_t max_width; /* of tiles; 0: all are PLAIN_TILE wide */
    cudaStream_t stream;
} ExpertRows;

#ifdef __cplusplus
extern "C" {
#endif

/* to[i] = {i, i} */
Status expert_jobs_fill(ExpertJob *to, uint32_t n, cudaStream_t stream);
/* Copies N jobs of the host, which may be reused on return. */
Status expert_jobs_put(ExpertJob *to, const ExpertJob *jobs, uint32_t n, cudaStream_t stream);
/* Makes first_row, table and assignment. */
Status expert_rows_place(const ExpertRows *rows);
/* IN [tokens][d_model] -> gathered: f32, or with a max_width octet-packed bf16; padding is 0. */
Status expert_rows_gather(const ExpertRows *rows, const float *in);
/* outside, f32 or with a max_width bf16 -> OUT [tokens * top_k][d_model] */
Status expert_rows_scatter(const ExpertRows *rows, float *out);
/* gathered -> inside -> outside, all f32, by the weights in the slots */
Status expert_rows_multiply(const ExpertRows *rows);
/* The same in bf16 by packed weights; gathered is octet-packed unless DENSE. */
Status experts_multiply_packed(const ExpertRows *rows, bool dense);

#ifdef __cplusplus
}
#endif

#endif
