/* Grouping the rows of few tokens in one block of any size, where their choice is made. */
#ifndef EXEC_CUDA_GROUPING_CUH
#define EXEC_CUDA_GROUPING_CUH

#include "exec/cuda/grouping.h"

static constexpr uint32_t GROUP_FEW = 32;  /* tokens: a bit of a word each */
static constexpr uint32_t MOST_FEW = 1024; /* assignments: so that sums of them fit their bits */

/* Before the products; ALL tiles are there, MANY of them of experts with many rows. One thread. */
__device__ inline void start_table(const GroupTable &table, uint32_t all, uint32_t many)
{
    table.n_tiles[0] = all;
    table.n_tiles[1] = many;
    for (uint32_t i = 0; i < TAKEN; i++)
        table.taken[i] = 0;
}

/* Shared memory of the block. */
struct FewMarks {
    uint32_t word[MAX_EXPERTS];      /* which tokens chose each expert */
    uint32_t first[MAX_EXPERTS];     /* assignments of the experts before */
    uint32_t first_row[MAX_EXPERTS]; /* and their rows */
    uint32_t warps[32];
};

/* Sums over experts, side by side in a word: assignments, rows / 16, tiles. */
struct FewTotals {
    static constexpr uint32_t ASSIGNMENT_BITS = 12;
    static constexpr uint32_t ROW_BITS = 11;
    uint32_t all;

    __device__ static FewTotals of(uint32_t count)
    {
        return {count | (count + 15) / 16 << ASSIGNMENT_BITS |
                (uint32_t)(count > 0) << (ASSIGNMENT_BITS + ROW_BITS)};
    }
    __device__ uint32_t assignments() const
    {
        return all & ((1u << ASSIGNMENT_BITS) - 1);
    }
    __device__ uint32_t rows() const
    {
        return (all >> ASSIGNMENT_BITS & ((1u << ROW_BITS) - 1)) * 16;
    }
    __device__ uint32_t tiles() const
    {
        return all >> (ASSIGNMENT_BITS + ROW_BITS);
    }
};

/* Sum over the block's threads before this one; *ALL: over all of them. */
template <uint32_t THREADS>
__device__ inline FewTotals scan_few(FewMarks &marks, FewTotals own, FewTotals *all)
{
    uint32_t lane = threadIdx.x % 32;
    uint32_t sum = own.all;
#pragma unroll
    for (uint32_t step = 1; step < 32; step *= 2) {
        uint32_t below = __shfl_up_sync(0xFFFFFFFF, sum, step);
        sum += lane >= step ? below : 0;
    }
    if (lane == 31)
        marks.warps[threadIdx.x / 32] = sum;
    __syncthreads();
    uint32_t of_warp = lane < THREADS / 32 ? marks.warps[lane] : 0;
    all->all = __reduce_add_sync(0xFFFFFFFF, of_warp);
    return {sum - own.all + __reduce_add_sync(0xFFFFFFFF, lane < threadIdx.x / 32 ? of_warp : 0)};
}

/* Expert E of COUNT assignments, BEFORE which others lie. */
__device__ inline void write_few(uint32_t e, uint32_t count, const FewTotals &before,
                                 FewMarks &marks, const RowGroups &groups, const Grouping &grouping)
{
    uint32_t row = before.rows();
    uint32_t width = (count + 15) / 16 * 16;
    groups.first[e] = marks.first[e] = before.assignments();
    grouping.first_row[e] = marks.first_row[e] = row;
    if (count > 0)
        grouping.table.tiles[before.tiles()] =
            RowGroup{e, row, before.tiles(), (uint16_t)width, (uint16_t)width};
}

/* What grouping_run() writes, by the whole block: IDS, of up to GROUP_FEW tokens and MOST_FEW
 * assignments, and ROWS, the row of each assignment, lie in shared memory. An expert has no more
 * than one tile. */
template <uint32_t THREADS>
__device__ inline void group_few(const GroupingShape &shape, const uint32_t *ids, FewMarks &marks,
                                 const RowGroups &groups, const Grouping &grouping, uint32_t *rows)
{
    uint32_t assignments = shape.tokens * shape.top_k;
    uint32_t each = (shape.experts + THREADS - 1) / THREADS;
    uint32_t from = min(threadIdx.x * each, shape.experts);
    uint32_t to = min(from + each, shape.experts);
    FewTotals own = {0};
    FewTotals all;
#pragma unroll 1
    for (uint32_t e = from; e < to; e++)
        marks.word[e] = 0;
    __syncthreads();
#pragma unroll 1
    for (uint32_t i = threadIdx.x; i < assignments; i += THREADS)
        if (ids[i] != EXPERT_DROPPED)
            atomicOr(&marks.word[ids[i]], 1u << i / shape.top_k);
    __syncthreads();
#pragma unroll 1
    for (uint32_t e = from; e < to; e++)
        own.all += FewTotals::of(__popc(marks.word[e])).all;
    FewTotals before = scan_few<THREADS>(marks, own, &all);
#pragma unroll 1
    for (uint32_t e = from; e < to; e++) {
        uint32_t count = __popc(marks.word[e]);
        write_few(e, count, before, marks, groups, grouping);
        before.all += FewTotals::of(count).all;
    }
    if (threadIdx.x == 0) {
        groups.first[shape.experts] = all.assignments();
        grouping.first_row[shape.experts] = all.rows();
        start_table(grouping.table, all.tiles(), 0);
    }
    __syncthreads();
#pragma unroll 1
    for (uint32_t i = threadIdx.x; i < assignments; i += THREADS) {
        uint32_t expert = ids[i];
        uint32_t row = NO_ROW;
        if (expert != EXPERT_DROPPED) {
            uint32_t rank = __popc(marks.word[expert] & ((1u << i / shape.top_k) - 1));
            row = marks.first_row[expert] + rank;
            groups.rows[marks.first[expert] + rank] = i;
        }
        grouping.row[i] = rows[i] = row;
    }
}

#endif
