/* The dense operations of exec/backend.h on the device: what each computes, and the shapes of its
 * arrays, stand there. All pointers are device memory but for the structs, which are read before
 * the call returns.
 *
 * Each call queues kernels on the stream and never waits; nothing is allocated. Grids are sized
 * from spans->n, tokens and most_keys, which may be larger than what the spans on the device then
 * hold, so that a captured step can be replayed with other spans. Sums are made in a fixed order:
 * the same call gives the same bits. */
#ifndef EXEC_CUDA_OPS_H
#define EXEC_CUDA_OPS_H

#include "exec/cuda/cublas.h"

#ifdef __cplusplus
extern "C" {
#endif

#include "exec/backend.h"

/* Where operations are queued, and what they need there. */
typedef struct {
    ComputeType compute; /* COMPUTE_F32 or COMPUTE_BF16: the elements of matrices */
    uint32_t multiprocessors;
    const Cublas *cublas;
    cudaStream_t stream;
    void *scratch; /* aligned to 256; used by one operation after the other */
    size_t scratch_bytes;
} OpsQueue;

/* Bytes of scratch that the operations of a step may need; SIZE_MAX when they do not fit. */
size_t ops_scratch_bytes(const DeviceOptions *options, uint32_t multiprocessors);

Status ops_embed(const OpsQueue *queue, const Matrix *table, const uint32_t *ids, uint32_t tokens,
                 float scale, const float *positions, const uint32_t *places, float *out);
Status ops_norm(const OpsQueue *queue, const Norm *norm, const float *in, const uint32_t *pick,
                uint32_t rows, uint32_t columns, float *out);
/* All rows; OUT is bf16. */
Status ops_norm_rounded(const OpsQueue *queue, const Norm *norm, const float *in, uint32_t rows,
                        uint32_t columns, void *out);
/* In bf16, IN is rounded to it; sums are f32. */
Status ops_linear(const OpsQueue *queue, const float *in, const Matrix *weight, uint32_t rows,
                  bool add, float *out);
/* The same, added to OUT, for IN of the compute type. */
Status ops_linear_mixed(const OpsQueue *queue, const void *in, const Matrix *weight, uint32_t rows,
                        float *out);
/* In bf16 the normed rows are rounded to it. */
Status ops_norm_linear(const OpsQueue *queue, const Norm *norm, const float *in,
                       const Matrix *weight, uint32_t rows, float *normed, float *out);
Status ops_find_nan(const OpsQueue *queue, const float *in, uint32_t rows, size_t columns,
                    uint32_t *found);
/* best[row] = place of the largest in row ROW, 0 to COLUMNS - 1; the lowest of equals; UINT32_MAX
 * where there is a NaN. */
Status ops_find_best(const OpsQueue *queue, const float *in, uint32_t rows, uint32_t columns,
                     uint32_t *best);
Status ops_linear_heads(const OpsQueue *queue, const HeadMatrices *matrices, const float *in,
                        uint32_t tokens, float *out);
/* HIDDEN [rows][gated ? 2 d_ff : d_ff], the first matrix' output -> OUT [rows][d_ff], the second's
 * input, times sigmoid(gates[row]) unless GATES is NULL. */
Status ops_activate(const OpsQueue *queue, const FfnShape *shape, const float *hidden,
                    const float *gates, uint32_t rows, float *out);
/* The same for HIDDEN that lacks BIAS (NULL: none) and, like OUT, is bf16; d_ff is a multiple of 8.
 */
Status ops_activate_rounded(const OpsQueue *queue, const FfnShape *shape, const void *hidden,
                            const float *bias, const float *gates, uint32_t rows, void *out);
/* Products of many rows in bf16: HIDDEN and INSIDE are rounded to it. */
Status ops_ffn(const OpsQueue *queue, const DenseFfn *ffn, const float *in, uint32_t rows,
               float *out);
Status ops_append(const OpsQueue *queue, const AppendLayer *layer, const Spans *spans, float *qkv);
Status ops_append_latent(const OpsQueue *queue, const LatentLayer *layer, const Spans *spans,
                         const float *kv, const float *queries, float *absorbed);
/* In bf16, queries, keys, values and probabilities are rounded to it; sums and softmax are f32.
 * Fails with ERR_UNSUPPORTED when key_dim is over 576 or value_dim over 512. */
Status ops_attend(const OpsQueue *queue, const AttendLayer *layer, const Spans *spans,
                  const float *queries, float *out);
/* The same; MIXED is of the compute type. */
Status ops_attend_mixed(const OpsQueue *queue, const AttendLayer *layer, const Spans *spans,
                        const float *queries, void *mixed);

#ifdef __cplusplus
}
#endif

#endif
