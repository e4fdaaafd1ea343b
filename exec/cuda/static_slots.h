/* Slots of static gating: how many an expert has, and rows into them and back. */
#ifndef EXEC_CUDA_STATIC_SLOTS_H
#define EXEC_CUDA_STATIC_SLOTS_H

#include "exec/cuda/grouping.h"

#ifdef __cplusplus
extern "C" {
#endif

#include "exec/backend.h"

/* How a capacity is cut into tiles: the fewest, as equal as possible. */
typedef struct {
    uint32_t width; /* rows of a tile */
    uint32_t tiles; /* of an expert */
    uint32_t slots; /* of an expert: tiles * width */
} StaticTiles;

/* Tiles of at most MAX_WIDTH rows, a multiple of MULTIPLE, which divides MAX_WIDTH and GROUP_ROWS.
 * More capacity never has fewer slots. */
StaticTiles static_tiles(uint32_t capacity, uint32_t max_width, uint32_t multiple);

/* One layer's slots. Rows of `slots` have d_model elements, bf16 or f32. */
typedef struct {
    const ExpertBatch *batch;
    StaticTiles tiles;
    bool bf16;
    cudaStream_t stream;
} StaticSlots;

/* The groups of experts FIRST to FIRST + N - 1, whose rows are numbered from 0. */
Status static_slots_table(const StaticSlots *slots, uint32_t first, uint32_t n,
                          const GroupTable *table);
/* DISPATCH and WEIGHTS, [tokens][experts * slots]: 1 and scale * weight where the token has the
 * slot, else 0. */
Status static_slots_mark(const StaticSlots *slots, float scale, void *dispatch, void *weights);
/* to[slot] = in[its token], 0 where it is free. Writes slot_of. */
Status static_slots_fill(const StaticSlots *slots, const float *in, void *to, uint32_t *slot_of);
/* out[token] += scale * sum over its assignments, in order, of weight * from[slot_of]. */
Status static_slots_sum(const StaticSlots *slots, float scale, const void *from,
                        const uint32_t *slot_of, float *out);

#ifdef __cplusplus
}
#endif

#endif
