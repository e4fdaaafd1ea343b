/* How a cluster of blocks shares the routing of its tokens (exec/cuda/router_clusters.cu): what
 * each block has of them in shared memory, and each warp of the weights in registers. */
#ifndef EXEC_CUDA_ROUTER_CLUSTERS_CUH
#define EXEC_CUDA_ROUTER_CLUSTERS_CUH

#include "exec/cuda/hopper.cuh"
#include "exec/cuda/router.cuh"
#include "exec/cuda/router_clusters.h"

static constexpr uint32_t SLICES = 8; /* of the depth: blocks of a cluster */
static constexpr uint32_t BLOCK_TOKENS = CLUSTER_TOKENS / SLICES; /* that a block chooses for */
static constexpr uint32_t WARPS = 8;
static constexpr uint32_t THREADS = WARPS * 32;
static constexpr uint32_t CHUNK = 32;       /* columns that a warp multiplies at a time */
static constexpr uint32_t MOST_TILES = 8;   /* of 8 experts, of a warp */
static constexpr uint32_t AHEAD_WORDS = 32; /* of weights that a thread loads at once */

/* How a cluster and its blocks share experts and depth. */
struct ClusterShape {
    const float *in;
    const float *norm; /* weights, or NULL */
    float eps;
    float *normed;
    const __nv_bfloat16 *matrix;
    const float *bias;
    uint32_t columns;
    uint32_t warps;  /* across the experts */
    uint32_t slices; /* of the block's depth, a warp each */
    uint32_t width;  /* experts, rounded up to the warps' */
    uint32_t tokens; /* of a cluster, at the most */
    uint32_t stride; /* of staged tokens, elements */

    __device__ uint32_t chunks() const
    {
        return (columns + CHUNK - 1) / CHUNK;
    }
    /* Chunks before PART, one of SLICES * slices. */
    __device__ uint32_t chunks_before(uint32_t part) const
    {
        return chunks() * part / (SLICES * slices);
    }
};

/* What few tokens' grouping is written to; groups.first is NULL without any. */
struct GroupTask {
    RowGroups groups;
    Grouping grouping;
    GroupingShape shape;
    __nv_bfloat16 *gathered;
};

/* A block's dynamic shared memory. */
struct ClusterRoom {
    float *parts;        /* [slices][tokens][width] */
    float *own;          /* [BLOCK_TOKENS][router_words()] */
    float *norm;         /* [stride] */
    uint32_t *ids;       /* [tokens][top_k], in the first block */
    uint32_t *rows;      /* [tokens][top_k] */
    __nv_bfloat16 *high; /* [tokens][stride] */
    __nv_bfloat16 *low;

    /* Returns the words of it all. */
    __host__ __device__ uint32_t cut(const ClusterShape &shape, const RouteTask &task,
                                     uint32_t *words)
    {
        uint32_t tokens = (shape.tokens + 15) / 16 * 16;
        uint32_t staged = shape.tokens * shape.stride / 2;
        uint32_t at = 0;
        high = (__nv_bfloat16 *)words;
        at += staged;
        low = (__nv_bfloat16 *)(words + at);
        at += staged;
        parts = (float *)(words + at);
        at += shape.slices * tokens * shape.width;
        norm = (float *)(words + at);
        at += shape.stride;
        own = (float *)(words + at);
        at += BLOCK_TOKENS * router_words(task);
        ids = words + at;
        at += shape.tokens * task.top_k;
        rows = words + at;
        return at + shape.tokens * task.top_k;
    }
};

/* The cluster's tokens and the block's columns. */
struct ClusterPart {
    uint32_t first; /* token */
    uint32_t tokens;
    uint32_t begin; /* column */
    uint32_t words; /* of 8 columns, the last chunk filled up */

    __device__ ClusterPart(const ClusterShape &shape, uint32_t all_tokens)
    {
        first = blockIdx.x / SLICES * CLUSTER_TOKENS;
        tokens = min(all_tokens - first, (uint32_t)CLUSTER_TOKENS);
        uint32_t chunk = shape.chunks_before(cluster_rank() * shape.slices);
        begin = chunk * CHUNK;
        words = (shape.chunks_before((cluster_rank() + 1) * shape.slices) - chunk) * (CHUNK / 8);
    }
};

__device__ inline void prefetch(const void *from)
{
    asm volatile("prefetch.global.L2 [%0];" ::"l"(from));
}

/* A warp's chunks of its experts' weights: the first ones in registers, the others asked for. */
template <uint32_t TILES> struct WarpWeights {
    static constexpr uint32_t AHEAD = AHEAD_WORDS / TILES < 8 ? AHEAD_WORDS / TILES : 8;
    const ClusterShape &shape;
    uint32_t experts;
    uint32_t first_expert;
    uint32_t begin; /* chunks */
    uint32_t end;
    uint4 ahead[AHEAD][TILES];

    __device__ WarpWeights(const ClusterShape &cluster_shape, uint32_t n_experts)
        : shape(cluster_shape), experts(n_experts)
    {
        uint32_t warp = threadIdx.x / 32;
        uint32_t slice = warp / shape.warps;
        uint32_t part = cluster_rank() * shape.slices + slice;
        first_expert = warp % shape.warps * TILES * 8 + threadIdx.x % 32 / 4;
        begin = shape.chunks_before(part);
        end = slice < shape.slices ? shape.chunks_before(part + 1) : begin;
#pragma unroll
        for (uint32_t i = 0; i < AHEAD; i++)
            load(begin + i, ahead[i]);
#pragma unroll 1
        for (uint32_t chunk = begin + AHEAD; chunk < end; chunk++)
#pragma unroll 1
            for (uint32_t n = 0; n < TILES; n++)
                if (there(chunk, n))
                    prefetch(at(chunk, n));
    }
    __device__ bool there(uint32_t chunk, uint32_t n) const
    {
        return chunk < end && chunk * CHUNK + threadIdx.x % 4 * 8 < shape.columns &&
               first_expert + n * 8 < experts;
    }
    __device__ const uint4 *at(uint32_t chunk, uint32_t n) const
    {
        size_t row = first_expert + n * 8;
        return (const uint4 *)(shape.matrix + row * shape.columns + chunk * CHUNK +
                               threadIdx.x % 4 * 8);
    }
    __device__ void load(uint32_t chunk, uint4 (&weights)[TILES]) const
    {
#pragma unroll
        for (uint32_t n = 0; n < TILES; n++)
            weights[n] = there(chunk, n) ? *at(chunk, n) : make_uint4(0, 0, 0, 0);
    }
};

#endif
