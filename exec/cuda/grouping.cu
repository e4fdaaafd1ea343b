/* Grouping rows by expert: a counting sort.
 *
 * A block marks, for each expert, which of its 128 tokens chose it, in four words; a token's rank
 * among the block's is the population of the bits below its own. How many of the tokens before and
 * after them chose each expert every block counts for itself, from all the ids: it then needs
 * nothing of the other blocks, and the first one writes the table of groups for all.
 *
 * Bytes: 2 * tokens * top_k read by each block, from the L2, 8 * tokens * top_k written; bound by
 * the additions in shared memory, and for few tokens by latency. */
#include "exec/cuda/grouping.cuh"

#include <string.h>

#include "exec/cuda/hopper.cuh"
#include "exec/cuda/launch.cuh"

static constexpr uint32_t COUNT_THREADS = 1024;
static constexpr uint32_t MANY_ROWS = 128; /* an expert's that are bound by arithmetic, about */

static_assert(COUNT_THREADS >= MAX_EXPERTS, "a thread per expert");
static_assert(COUNT_THREADS == 32 * 32, "a lane per warp");
static_assert(GROUP_ROWS % MAX_WIDTH == 0 && GROUP_ROWS % MIDDLE_WIDTH == 0 &&
                  GROUP_ROWS % NARROW_WIDTH == 0,
              "only an expert's last group has padding");

/* Which tokens of a block chose each expert. */
struct Marks {
    static constexpr uint32_t WORDS = TOKENS_PER_BLOCK / 32;
    uint32_t word[WORDS][MAX_EXPERTS];

    __device__ void set(const GroupingShape &shape, const uint16_t *ids, uint32_t first)
    {
        for (uint32_t w = 0; w < WORDS; w++)
            for (uint32_t e = threadIdx.x; e < shape.experts; e += blockDim.x)
                word[w][e] = 0;
        __syncthreads();
        uint32_t end = min(shape.tokens, first + TOKENS_PER_BLOCK) * shape.top_k;
        for (uint32_t i = first * shape.top_k + threadIdx.x; i < end; i += blockDim.x) {
            uint32_t token = i / shape.top_k - first;
            if (ids[i] != EXPERT_DROPPED)
                atomicOr(&word[token / 32][ids[i]], 1u << token % 32);
        }
        __syncthreads();
    }
    /* Tokens before TOKEN that chose EXPERT. */
    __device__ uint32_t before(uint32_t expert, uint32_t token) const
    {
        uint32_t sum = 0;
#pragma unroll
        for (uint32_t w = 0; w < WORDS; w++) {
            uint32_t bits = word[w][expert];
            uint32_t lower = (1u << token % 32) - 1;
            sum += w < token / 32 ? __popc(bits) : w == token / 32 ? __popc(bits & lower) : 0;
        }
        return sum;
    }
    __device__ uint32_t count(uint32_t expert) const
    {
        uint32_t sum = 0;
#pragma unroll
        for (uint32_t w = 0; w < WORDS; w++)
            sum += __popc(word[w][expert]);
        return sum;
    }
};

/* What is summed over experts. */
struct Totals {
    uint32_t assignments;
    uint32_t rows;
    uint32_t tiles; /* of experts with many rows */
    uint32_t small_tiles;

    __device__ void add(const Totals &other)
    {
        assignments += other.assignments;
        rows += other.rows;
        tiles += other.tiles;
        small_tiles += other.small_tiles;
    }
    __device__ Totals of_lane(uint32_t lane) const
    {
        return Totals{__shfl_sync(0xFFFFFFFF, assignments, lane),
                      __shfl_sync(0xFFFFFFFF, rows, lane), __shfl_sync(0xFFFFFFFF, tiles, lane),
                      __shfl_sync(0xFFFFFFFF, small_tiles, lane)};
    }
    __device__ Totals from_lane_below(uint32_t distance) const
    {
        return Totals{__shfl_up_sync(0xFFFFFFFF, assignments, distance),
                      __shfl_up_sync(0xFFFFFFFF, rows, distance),
                      __shfl_up_sync(0xFFFFFFFF, tiles, distance),
                      __shfl_up_sync(0xFFFFFFFF, small_tiles, distance)};
    }
};

/* Sum over the warp's lanes up to this one. */
__device__ static Totals warp_scan(Totals sum)
{
    for (uint32_t step = 1; step < 32; step *= 2) {
        Totals below = sum.from_lane_below(step);
        if (threadIdx.x % 32 >= step)
            sum.add(below);
    }
    return sum;
}

/* Sum over the block's threads before this one; *ALL: over all of them. */
__device__ static Totals block_scan(const Totals &own, Totals *all)
{
    __shared__ Totals warps[COUNT_THREADS / 32];
    uint32_t warp = threadIdx.x / 32;
    Totals sum = warp_scan(own);
    if (threadIdx.x % 32 == 31)
        warps[warp] = sum;
    __syncthreads();
    const Totals of_warps = warp_scan(warps[threadIdx.x % 32]);
    *all = of_warps.of_lane(31);
    Totals before = of_warps.of_lane(warp > 0 ? warp - 1 : 0);
    if (warp == 0)
        before = Totals{0, 0, 0, 0};
    before.add(Totals{sum.assignments - own.assignments, sum.rows - own.rows, sum.tiles - own.tiles,
                      sum.small_tiles - own.small_tiles});
    return before;
}

/* ROWS with their padding. */
__device__ static uint32_t whole_rows(uint32_t rows)
{
    return (rows + 15) / 16 * 16;
}

/* The width that cuts ROWS into the fewest tiles, as equal as possible. */
__device__ static uint32_t tile_width(uint32_t rows, uint32_t max_width)
{
    uint32_t tiles = (rows + max_width - 1) / max_width;
    return whole_rows((rows + tiles - 1) / tiles);
}

/* What an expert with COUNT assignments adds. */
__device__ static Totals expert_totals(uint32_t max_width, uint32_t count)
{
    uint32_t all_rows = 0;
    uint32_t all_tiles = 0;
    for (uint32_t at = 0; at < count; at += GROUP_ROWS) {
        uint32_t rows = min(count - at, (uint32_t)GROUP_ROWS);
        uint32_t width = tile_width(rows, max_width);
        all_rows += whole_rows(rows);
        all_tiles += (rows + width - 1) / width;
    }
    bool many = count >= MANY_ROWS;
    return Totals{count, all_rows, many ? all_tiles : 0, many ? 0 : all_tiles};
}

/* Writes the groups of an expert with COUNT assignments in PLACE of the weights, from FIRST_ROW and
 * tile FIRST_TILE on; returns its rows. */
__device__ static uint32_t write_groups(const GroupTable &table, uint32_t max_width, uint32_t place,
                                        uint32_t count, uint32_t first_row, uint32_t first_tile)
{
    uint32_t row = first_row;
    for (uint32_t at = 0; at < count; at += GROUP_ROWS) {
        uint32_t rows = min(count - at, (uint32_t)GROUP_ROWS);
        uint32_t width = tile_width(rows, max_width);
        uint32_t tiles = (rows + width - 1) / width;
        for (uint32_t tile = first_tile; tile < first_tile + tiles; tile++) {
            table.tiles[tile] =
                RowGroup{place, row, first_tile, (uint16_t)width, (uint16_t)whole_rows(rows)};
            table.written[tile] = 0;
        }
        row += whole_rows(rows);
        first_tile += tiles;
    }
    return row - first_row;
}

/* Where an expert's tiles begin: those with many rows go before all others. */
__device__ static uint32_t first_tile(uint32_t count, const Totals &before, const Totals &all)
{
    return count >= MANY_ROWS ? before.tiles : all.tiles + before.small_tiles;
}

__device__ static void end_table(const GroupTable &table, const Totals &all)
{
    start_table(table, all.tiles + all.small_tiles, all.tiles);
}

/* Where the experts' assignments and rows begin. */
struct Starts {
    uint32_t first[MAX_EXPERTS];
    uint32_t row[MAX_EXPERTS];
};

/* Thread e: expert e has COUNT assignments. */
__device__ static void write_expert(const GroupingShape &shape, const Grouping &grouping,
                                    const RowGroups &groups, uint32_t count, const Totals &before,
                                    const Totals &all)
{
    uint32_t expert = threadIdx.x;
    groups.first[expert] = before.assignments;
    grouping.first_row[expert] = before.rows;
    write_groups(grouping.table, shape.max_width, expert, count, before.rows,
                 first_tile(count, before, all));
    if (expert == shape.experts - 1) {
        groups.first[expert + 1] = all.assignments;
        grouping.first_row[expert + 1] = all.rows;
        end_table(grouping.table, all);
    }
}

/* Assignments of tokens outside the block by expert, those before it apart. */
struct Others {
    static constexpr uint32_t WORD = 8; /* ids in 16 bytes */
    static_assert(TOKENS_PER_BLOCK % WORD == 0, "a block's ids begin a word");
    uint32_t before[MAX_EXPERTS];
    uint32_t after[MAX_EXPERTS];

    __device__ static void add(uint32_t (&to)[MAX_EXPERTS], uint32_t id)
    {
        if (id != EXPERT_DROPPED)
            atomicAdd(&to[id], 1);
    }
    /* Ids FROM, a multiple of WORD, to END, by the whole block, WORD of them at a time. */
    __device__ static void count(uint32_t (&to)[MAX_EXPERTS], const uint16_t *__restrict__ ids,
                                 uint32_t from, uint32_t end)
    {
        bool aligned = (uintptr_t)ids % (WORD * sizeof *ids) == 0;
        uint32_t words = aligned && end > from ? (end - from) / WORD : 0;
        const uint4 *word = (const uint4 *)(ids + from);
#pragma unroll 4
        for (uint32_t i = threadIdx.x; i < words; i += COUNT_THREADS) {
            const uint4 four = word[i];
            const uint32_t pairs[] = {four.x, four.y, four.z, four.w};
#pragma unroll
            for (uint32_t j = 0; j < WORD; j++)
                add(to, pairs[j / 2] >> j % 2 * 16 & 0xFFFF);
        }
        for (uint32_t i = from + words * WORD + threadIdx.x; i < end; i += COUNT_THREADS)
            add(to, ids[i]);
    }
    __device__ void set(const GroupingShape &shape, const uint16_t *ids, uint32_t first)
    {
        uint32_t all = shape.tokens * shape.top_k;
        for (uint32_t e = threadIdx.x; e < shape.experts; e += COUNT_THREADS)
            before[e] = after[e] = 0;
        __syncthreads();
        count(before, ids, 0, first * shape.top_k);
        count(after, ids, min(all, (first + TOKENS_PER_BLOCK) * shape.top_k), all);
        __syncthreads();
    }
};

/* This block's share of what counts ROWS. */
__device__ static void forget_done(const GroupTable &table, uint32_t rows)
{
    uint32_t first = blockIdx.x * COUNT_THREADS + threadIdx.x;
    for (uint32_t i = first; i < rows / DONE_ROWS; i += gridDim.x * COUNT_THREADS)
        table.done[i] = 0;
}

/* Numbers the rows of the block's tokens; of expert e, BEFORE[e] assignments of earlier blocks come
 * first. */
__device__ static void number_rows(const GroupingShape &shape, const uint16_t *ids, uint32_t first,
                                   const Marks &marks, const Starts &starts, const uint32_t *before,
                                   const RowGroups &groups, const Grouping &grouping)
{
    uint32_t end = min(shape.tokens, first + TOKENS_PER_BLOCK) * shape.top_k;
    for (uint32_t i = first * shape.top_k + threadIdx.x; i < end; i += blockDim.x) {
        uint32_t expert = ids[i];
        uint32_t row = NO_ROW;
        if (expert != EXPERT_DROPPED) {
            uint32_t rank = before[expert] + marks.before(expert, i / shape.top_k - first);
            row = starts.row[expert] + rank; /* whole groups have no padding */
            groups.rows[starts.first[expert] + rank] = i;
        }
        grouping.row[i] = row;
    }
}

__global__ void __launch_bounds__(COUNT_THREADS)
    group_rows(GroupingShape shape, const uint16_t *ids, RowGroups groups, Grouping grouping)
{
    __shared__ Marks marks;
    __shared__ Others others;
    __shared__ Starts starts;
    uint32_t expert = threadIdx.x;
    uint32_t first = blockIdx.x * TOKENS_PER_BLOCK;
    wait_for_earlier_kernels();
    let_next_kernel_start();
    marks.set(shape, ids, first);
    others.set(shape, ids, first);
    uint32_t count = expert < shape.experts
                         ? others.before[expert] + marks.count(expert) + others.after[expert]
                         : 0;
    Totals all;
    Totals before = block_scan(expert_totals(shape.max_width, count), &all);
    if (expert < shape.experts) {
        starts.first[expert] = before.assignments;
        starts.row[expert] = before.rows;
        if (blockIdx.x == 0)
            write_expert(shape, grouping, groups, count, before, all);
    }
    forget_done(grouping.table, all.rows);
    __syncthreads();
    number_rows(shape, ids, first, marks, starts, others.before, groups, grouping);
}

extern "C" Status grouping_run(const GroupingShape *shape, const uint16_t *ids,
                               const RowGroups *groups, const Grouping *grouping,
                               cudaStream_t stream)
{
    const LaunchShape launch = {dim3(divide_up(shape->tokens, TOKENS_PER_BLOCK)), COUNT_THREADS, 0,
                                0};
    if (shape->experts > MAX_EXPERTS)
        return fail(ERR_UNSUPPORTED, "cuda: %u experts: at most %u are possible", shape->experts,
                    (unsigned)MAX_EXPERTS);
    return launch_after(group_rows, launch, stream, *shape, ids, *groups, *grouping);
}

/* ---- some of the experts ---- */

/* In device memory. */
struct JobsThere {
    const ExpertJob *job;
};

/* At most COUNT of them, which come with the kernel. */
template <uint32_t COUNT> struct JobsHere {
    ExpertJob job[COUNT];
};

/* One block, a thread per job; each job's expert is another one. */
template <typename Jobs>
__global__ void __launch_bounds__(COUNT_THREADS)
    select_experts(const __grid_constant__ GroupingShape shape, RowGroups groups, Grouping grouping,
                   const __grid_constant__ Jobs jobs, uint32_t n, GroupTable table,
                   uint8_t *selected)
{
    wait_for_earlier_kernels();
    let_next_kernel_start();
    bool there = threadIdx.x < n;
    ExpertJob job = there ? jobs.job[threadIdx.x] : ExpertJob{0, 0};
    uint32_t count = there ? groups.first[job.expert + 1] - groups.first[job.expert] : 0;
    if (threadIdx.x < shape.experts)
        selected[threadIdx.x] = 0;
    Totals all;
    Totals before = block_scan(expert_totals(shape.max_width, count), &all);
    if (there) {
        selected[job.expert] = 1;
        write_groups(table, shape.max_width, job.slot, count, grouping.first_row[job.expert],
                     first_tile(count, before, all));
    }
    if (threadIdx.x == 0)
        end_table(table, all);
}

template <typename Jobs>
static Status select(const GroupingShape *shape, const RowGroups *groups, const Grouping *grouping,
                     const Jobs &jobs, uint32_t n, const GroupTable *table, uint8_t *selected,
                     cudaStream_t stream)
{
    const LaunchShape launch = {dim3(1), COUNT_THREADS, 0, 0};
    return launch_after(select_experts<Jobs>, launch, stream, *shape, *groups, *grouping, jobs, n,
                        *table, selected);
}

template <uint32_t COUNT>
static Status select_here(const GroupingShape *shape, const RowGroups *groups,
                          const Grouping *grouping, const ExpertJob *jobs, uint32_t n,
                          const GroupTable *table, uint8_t *selected, cudaStream_t stream)
{
    JobsHere<COUNT> here;
    memcpy(here.job, jobs, n * sizeof *jobs);
    return select(shape, groups, grouping, here, n, table, selected, stream);
}

extern "C" Status grouping_select(const GroupingShape *shape, const RowGroups *groups,
                                  const Grouping *grouping, const ExpertJob *jobs, uint32_t n,
                                  const GroupTable *table, uint8_t *selected, cudaStream_t stream)
{
    auto pick = n <= 64 ? select_here<64> : n <= 256 ? select_here<256> : select_here<MAX_EXPERTS>;
    return pick(shape, groups, grouping, jobs, n, table, selected, stream);
}

extern "C" Status grouping_select_placed(const GroupingShape *shape, const RowGroups *groups,
                                         const Grouping *grouping, const ExpertJob *placed,
                                         uint32_t n, const GroupTable *table, uint8_t *selected,
                                         cudaStream_t stream)
{
    return select(shape, groups, grouping, JobsThere{placed}, n, table, selected, stream);
}
