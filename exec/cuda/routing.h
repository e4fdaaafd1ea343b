/* Which experts a token goes to, and what their answers weigh. */
#ifndef EXEC_CUDA_ROUTING_H
#define EXEC_CUDA_ROUTING_H

#include "exec/cuda/cublas.h"

#include <stdbool.h>
#include <stdint.h>

typedef struct {
    uint32_t tokens;
    uint32_t experts; /* up to 512 */
    uint32_t top_k;
    uint32_t columns; /* of a token: d_model, a multiple of 8 */
    bool normalise;   /* divide a token's weights by their sum */
} RoutingShape;

#ifdef __cplusplus
extern "C" {
#endif

/* logits[tokens][experts], f32, = in[tokens][columns] * router[experts][columns]^T, bf16. */
Status routing_logits(const RoutingShape *shape, const void *in, const void *router, float *logits,
                      const Cublas *cublas, cudaStream_t stream);

/* LOGITS -> softmax in place (the scores); IDS and WEIGHTS [tokens][top_k] its largest in
 * descending order, ties to the lower id. */
Status routing_select(const RoutingShape *shape, float *logits, uint16_t *ids, float *weights,
                      cudaStream_t stream);

/* out[token] = sum over slots, in order, of weights[token][slot] * in[row[token * top_k + slot]],
 * bf16 rows of COLUMNS with f32 sums; slots whose row is UINT32_MAX are not read. */
Status routing_combine(const RoutingShape *shape, const void *in, const uint32_t *row,
                       const float *weights, void *out, cudaStream_t stream);

#ifdef __cplusplus
}
#endif

#endif
