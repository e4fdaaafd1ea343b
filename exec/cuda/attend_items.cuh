/* What the kernels share whose blocks stay and take one tile after the other, multiplying operands
 * in shared memory. */
#ifndef EXEC_CUDA_ATTEND_ITEMS_CUH
#define EXEC_CUDA_ATTEND_ITEMS_CUH

#include "exec/cuda/attend.cuh"
#include "exec/cuda/hopper.cuh"
#include "exec/cuda/tensor_map.h"

static constexpr uint32_t ROW_BYTES = 128; /* of an operand: 64 elements, swizzled */
static constexpr float LOG2_E = 1.44269504f;

__host__ __device__ inline uint32_t count_items(const AttendTask &task)
{
    return task.token_tiles * task.layer.n_kv_heads * task.head_tiles * task.splits;
}

/* The tile of item NUMBER: first the last tokens of a span, whose work is the longest. */
__device__ inline AttendTile find_item(const AttendTask &task, uint32_t number)
{
    uint32_t heads = task.layer.n_kv_heads * task.head_tiles;
    uint32_t in_split = number % (task.token_tiles * heads);
    const dim3 place(task.token_tiles - 1 - in_split % task.token_tiles,
                     in_split / task.token_tiles, number / (task.token_tiles * heads));
    return find_attend_tile(task, place);
}

/* A block's items, in rounds over the blocks, every other one backwards, so that what is long in
 * one is short in the next. */
struct AttendItems {
    uint32_t round;

    /* The next tile that there is; false after the last. By a warp. */
    __device__ bool next(const AttendTask &task, AttendTile *tile)
    {
        uint32_t items = count_items(task);
        for (; round * gridDim.x < items; round++) {
            uint32_t at = round % 2 == 0 ? blockIdx.x : gridDim.x - 1 - blockIdx.x;
            uint32_t number = round * gridDim.x + at;
            if (number >= items)
                continue;
            *tile = find_item(task, number);
            if (tile->at.tokens == 0)
                continue;
            round++;
            return true;
        }
        return false;
    }
};

/* A place in a ring of STAGES, and the parity of its current round. */
template <uint32_t STAGES> struct Turn {
    uint32_t stage;
    uint32_t parity;

    __device__ void advance()
    {
        stage = stage + 1 == STAGES ? 0 : stage + 1;
        parity ^= stage == 0;
    }
};

/* One arrival of this warp. */
__device__ inline void release(uint64_t *barrier)
{
    __syncwarp();
    if (threadIdx.x % 32 == 0)
        barrier_arrive(shared_address(barrier));
}

/* The first byte of SHARED that operands may begin at: a multiple of 1024. */
__device__ inline unsigned char *align_operands(unsigned char *shared)
{
    return shared + (0 - shared_address(shared) & 1023);
}

__device__ inline bool has_keys(const AttendTile &tile)
{
    return tile.keys.first < tile.keys.end;
}

/* 0 for -inf. */
__device__ inline float power_of_2(float x)
{
    float result;
    asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(result) : "f"(x));
    return result;
}

/* Bytes to COLUMN of ROW in a chunk of 64 columns of an operand. */
__device__ inline uint32_t swizzled_offset(uint32_t row, uint32_t column)
{
    return row * ROW_BYTES + (column * 2 ^ row % 8 * 16);
}

/* Keys or values of a cache of bf16 [slot][position][head][DIM], in boxes of 64 x KEYS. */
inline Status map_cache(const AttendLayer &layer, const void *data, uint32_t dim, size_t stride,
                        uint32_t keys, CUtensorMap *map)
{
    const uint64_t slots = 1 << 20; /* a bound: spans name slots that are there */
    const TensorShape shape = {
        data,

        4,
        {dim, layer.n_kv_heads, layer.cache.positions, slots},
        {0, (uint64_t)dim * 2, stride * 2, (uint64_t)layer.cache.positions * stride * 2, 0},
        {64, 1, keys, 1, 0}};
    return tensor_map_make(&shape, map);
}

#endif
