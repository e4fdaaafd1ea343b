/* Routing as exec/backend.h says it, for every kind of router, all in f32. Device pointers; each
 * call queues and never waits. */
#ifndef EXEC_CUDA_ROUTER_H
#define EXEC_CUDA_ROUTER_H

#include "exec/cuda/grouping.h"

#ifdef __cplusplus
extern "C" {
#endif

#include "exec/backend.h"

/* Backend.route, the matrix' elements being bf16 or f32. Fails with ERR_UNSUPPORTED when a token's
 * scores do not fit in a multiprocessor's shared memory (25,000 experts). */
Status router_route(const Router *router, bool bf16, const float *in, uint32_t tokens,
                    const uint16_t *forced, const float *forced_weights, const Routing *routing,
                    cudaStream_t stream);
/* True where router_enter() can do ENTRY in bf16. */
bool router_entry_fits(const MoeEntry *entry);
/* Backend.enter_moe. The rows are those of grouping_run() in tiles of MAX_WIDTH at the most;
 * GATHERED, bf16, gets the tokens where their rows are, and its padding is left as it was. NULL:
 * not. */
Status router_enter(const MoeEntry *entry, const Grouping *grouping, uint32_t max_width,
                    void *gathered, cudaStream_t stream);
/* Backend.limit */
Status router_limit(uint32_t capacity, uint32_t tokens, uint32_t top_k, uint32_t n_experts,
                    bool normalise, const Routing *routing, cudaStream_t stream);

#ifdef __cplusplus
}
#endif

#endif
