/* Grouping rows by expert: a counting sort.
 *
 * A block marks, for each expert, which of its 128 tokens chose it, in four words; the count is
 * their population, and a token's rank among the block's is that of the bits below its own. With up
 * to 128 tokens the one block does everything. Else the block that ends last adds up the counts of
 * all blocks and writes the table of groups, and a second kernel numbers the rows.
 *
 * Bytes: 2 * tokens * top_k read twice, 8 * tokens * top_k and 8 * experts * blocks written; little
 * next to what launches and the one block's scan cost. */
#include "exec/cuda/grouping.h"
#include "exec/cuda/launch.cuh"
#include "exec/cuda/packed.cuh"

static constexpr uint32_t DROPPED = 0xFFFF;
static constexpr uint32_t COUNT_THREADS = 1024;
static constexpr uint32_t COPY_THREADS = 256;

static_assert(COUNT_THREADS >= MAX_EXPERTS, "a thread per expert");
static_assert(GROUP_ROWS % MAX_WIDTH == 0, "only an expert's last group has padding");

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
            if (ids[i] != DROPPED)
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
    uint32_t groups;
    uint32_t tiles;

    __device__ void add(const Totals &other)
    {
        assignments += other.assignments;
        rows += other.rows;
        groups += other.groups;
        tiles += other.tiles;
    }
    __device__ Totals from_lane_below(uint32_t distance) const
    {
        return Totals{__shfl_up_sync(0xFFFFFFFF, assignments, distance),
                      __shfl_up_sync(0xFFFFFFFF, rows, distance),
                      __shfl_up_sync(0xFFFFFFFF, groups, distance),
                      __shfl_up_sync(0xFFFFFFFF, tiles, distance)};
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

/* Sum over the block's threads up to this one. */
__device__ static Totals block_scan(const Totals &own)
{
    __shared__ Totals warps[COUNT_THREADS / 32];
    uint32_t warp = threadIdx.x / 32;
    Totals sum = warp_scan(own);
    if (threadIdx.x % 32 == 31)
        warps[warp] = sum;
    __syncthreads();
    for (uint32_t w = 0; w < warp; w++)
        sum.add(warps[w]);
    return sum;
}

/* The width that cuts ROWS into the fewest tiles, as equal as possible. */
__device__ static uint32_t tile_width(uint32_t rows, uint32_t max_width)
{
    uint32_t tiles = (rows + max_width - 1) / max_width;
    return ((rows + tiles - 1) / tiles + 15) / 16 * 16;
}

/* The groups of an expert with COUNT assignments. */
__device__ static Totals expert_totals(const GroupingShape &shape, uint32_t count)
{
    Totals totals = {count, 0, 0, 0};
    for (uint32_t at = 0; at < count; at += GROUP_ROWS) {
        uint32_t rows = min(count - at, (uint32_t)GROUP_ROWS);
        uint32_t width = tile_width(rows, shape.max_width);
        uint32_t tiles = (rows + width - 1) / width;
        totals.add(Totals{0, tiles * width, 1, tiles});
    }
    return totals;
}

/* Thread e: the groups of expert e; BEFORE sums the experts before it. */
__device__ static void write_groups(const GroupingShape &shape, const Grouping &grouping,
                                    uint32_t count, Totals before)
{
    const GroupTable &table = grouping.table;
    uint32_t expert = threadIdx.x;
    grouping.count_before[expert] = before.assignments;
    grouping.first_row[expert] = before.rows;
    for (uint32_t at = 0; at < count; at += GROUP_ROWS) {
        uint32_t rows = min(count - at, (uint32_t)GROUP_ROWS);
        uint32_t width = tile_width(rows, shape.max_width);
        uint32_t tiles = (rows + width - 1) / width;
        table.groups[before.groups] = RowGroup{expert, before.rows, width};
        table.first_tile[before.groups] = before.tiles;
        for (uint32_t row = rows; row < tiles * width; row++)
            grouping.assignment[before.rows + row] = NO_ROW;
        before.add(Totals{rows, tiles * width, 1, tiles});
    }
    if (expert == shape.experts - 1) {
        grouping.count_before[expert + 1] = before.assignments;
        grouping.first_row[expert + 1] = before.rows;
        table.first_tile[before.groups] = before.tiles;
        *table.n_groups = before.groups;
    }
}

/* Turns the counts of BLOCKS blocks into those of the blocks before them, and returns to thread e
 * the count of expert e. The threads of one expert take consecutive runs of blocks, a batch of
 * loads at a time. */
__device__ static uint32_t add_up_blocks(uint32_t experts, uint32_t blocks, uint32_t *block_counts)
{
    constexpr uint32_t BATCH = 16;
    constexpr uint32_t MAX_RUNS = 16;
    __shared__ uint32_t partial[COUNT_THREADS];
    uint32_t runs = min(blockDim.x / experts, MAX_RUNS);
    uint32_t expert = threadIdx.x % experts;
    uint32_t run = threadIdx.x / experts;
    uint32_t length = (blocks + runs - 1) / runs;
    uint32_t from = min(blocks, run * length);
    uint32_t to = run < runs ? min(blocks, from + length) : from;
    uint32_t counts[BATCH];
    uint32_t sum = 0;
    for (uint32_t b = from; b < to; b += BATCH) {
#pragma unroll
        for (uint32_t i = 0; i < BATCH; i++)
            counts[i] = b + i < to ? __ldcg(&block_counts[(b + i) * experts + expert]) : 0;
#pragma unroll
        for (uint32_t i = 0; i < BATCH; i++)
            sum += counts[i];
    }
    partial[threadIdx.x] = sum;
    __syncthreads();
    uint32_t before = 0;
    uint32_t total = 0;
    for (uint32_t r = 0; r < runs; r++) {
        before += r < run ? partial[r * experts + expert] : 0;
        total += partial[r * experts + expert];
    }
    for (uint32_t b = from; b < to; b += BATCH) {
#pragma unroll
        for (uint32_t i = 0; i < BATCH; i++)
            counts[i] = b + i < to ? __ldcg(&block_counts[(b + i) * experts + expert]) : 0;
#pragma unroll
        for (uint32_t i = 0; i < BATCH; i++) {
            if (b + i < to)
                block_counts[(b + i) * experts + expert] = before;
            before += counts[i];
        }
    }
    return threadIdx.x < experts ? total : 0;
}

/* Numbers the rows of the block's tokens: expert e's begin at ROWS[e], where BEFORE[e] (NULL: none)
 * assignments of earlier blocks come first. */
__device__ static void number_rows(const GroupingShape &shape, const uint16_t *ids, uint32_t first,
                                   const Marks &marks, const uint32_t *rows, const uint32_t *before,
                                   const Grouping &grouping)
{
    uint32_t end = min(shape.tokens, first + TOKENS_PER_BLOCK) * shape.top_k;
    for (uint32_t i = first * shape.top_k + threadIdx.x; i < end; i += blockDim.x) {
        uint32_t expert = ids[i];
        uint32_t row = NO_ROW;
        if (expert != DROPPED) {
            row = rows[expert] + (before != NULL ? before[expert] : 0) +
                  marks.before(expert, i / shape.top_k - first);
            grouping.assignment[row] = i; /* whole groups have no padding */
        }
        grouping.row[i] = row;
    }
}

/* The counts of all blocks, to thread e that of expert e, in the block that ends last: TRUE there.
 */
__device__ static bool count_all(const GroupingShape &shape, const Marks &marks,
                                 const Grouping &grouping, uint32_t *count)
{
    __shared__ bool last;
    *count = threadIdx.x < shape.experts ? marks.count(threadIdx.x) : 0;
    if (gridDim.x == 1)
        return true;
    if (threadIdx.x < shape.experts)
        grouping.block_counts[blockIdx.x * shape.experts + threadIdx.x] = *count;
    __threadfence();
    __syncthreads();
    if (threadIdx.x == 0)
        last = atomicAdd(grouping.done, 1) == gridDim.x - 1;
    __syncthreads();
    if (!last)
        return false;
    __threadfence();
    if (threadIdx.x == 0)
        *grouping.done = 0;
    *count = add_up_blocks(shape.experts, gridDim.x, grouping.block_counts);
    return true;
}

__global__ void __launch_bounds__(COUNT_THREADS)
    count_rows(GroupingShape shape, const uint16_t *ids, Grouping grouping)
{
    __shared__ Marks marks;
    __shared__ uint32_t first_row[MAX_EXPERTS];
    wait_for_earlier_kernels();
    let_next_kernel_start();
    marks.set(shape, ids, blockIdx.x * TOKENS_PER_BLOCK);
    uint32_t count;
    if (!count_all(shape, marks, grouping, &count))
        return;
    Totals own = expert_totals(shape, count);
    Totals sum = block_scan(own);
    if (threadIdx.x < shape.experts) {
        first_row[threadIdx.x] = sum.rows - own.rows;
        write_groups(shape, grouping, count,
                     Totals{sum.assignments - own.assignments, sum.rows - own.rows,
                            sum.groups - own.groups, sum.tiles - own.tiles});
    }
    __syncthreads();
    if (gridDim.x == 1)
        number_rows(shape, ids, 0, marks, first_row, NULL, grouping);
}

__global__ void __launch_bounds__(COUNT_THREADS)
    place_rows(GroupingShape shape, const uint16_t *ids, Grouping grouping)
{
    __shared__ Marks marks;
    wait_for_earlier_kernels();
    let_next_kernel_start();
    uint32_t first = blockIdx.x * TOKENS_PER_BLOCK;
    marks.set(shape, ids, first);
    number_rows(shape, ids, first, marks, grouping.first_row,
                grouping.block_counts + blockIdx.x * shape.experts, grouping);
}

/* Block (o, s): slice s of octet o, a warp per row. Reads tokens * columns * 2 bytes from memory
 * (again from the L2 for a token's later slots), writes top_k times as much, whole octets in one
 * piece; bound by the writes. */
__global__ void __launch_bounds__(COPY_THREADS)
    gather_rows(GroupingShape shape, Grouping grouping, const uint4 *__restrict__ in,
                uint32_t words, uint32_t column_blocks, uint32_t blocks_per_slice,
                uint4 *__restrict__ out)
{
    wait_for_earlier_kernels();
    let_next_kernel_start();
    uint32_t row = blockIdx.x * 8 + threadIdx.x / 32;
    uint32_t n_rows = grouping.first_row[shape.experts];
    uint32_t assignment = grouping.assignment[row];
    if (row >= n_rows || assignment == NO_ROW)
        return;
    const uint4 *from = in + (size_t)(assignment / shape.top_k) * words;
    uint32_t first = blockIdx.y * blocks_per_slice;
    uint32_t end = min(column_blocks, first + blocks_per_slice) * 8;
#pragma unroll 8
    for (uint32_t i = first * 8 + threadIdx.x % 32; i < end; i += 32)
        out[octet_offset(row, i / 8, column_blocks) / 16 + i % 8] =
            i < words ? from[i] : make_uint4(0, 0, 0, 0);
}

extern "C" Status grouping_run(const GroupingShape *shape, const uint16_t *ids,
                               const Grouping *grouping, cudaStream_t stream)
{
    uint32_t blocks = (uint32_t)grouping_blocks(shape->tokens);
    const LaunchShape count = {dim3(blocks), COUNT_THREADS, 0, 0};
    const LaunchShape place = {dim3(blocks), COUNT_THREADS, 0, 0};
    if (shape->experts > MAX_EXPERTS)
        return fail(ERR_UNSUPPORTED, "cuda: %u experts: at most %u are possible", shape->experts,
                    (unsigned)MAX_EXPERTS);
    TRY(launch_after(count_rows, count, stream, *shape, ids, *grouping));
    if (blocks == 1)
        return OK;
    return launch_after(place_rows, place, stream, *shape, ids, *grouping);
}

extern "C" Status grouping_gather(const GroupingShape *shape, const Grouping *grouping,
                                  const void *in, uint32_t columns, void *out, cudaStream_t stream)
{
    const uint32_t wanted_blocks = 528; /* so that few rows, too, keep the device busy */
    size_t rows =
        grouping_max_rows((size_t)shape->tokens * shape->top_k, shape->experts, shape->max_width);
    uint32_t octets = (uint32_t)(rows / 8);
    uint32_t column_blocks = packed_column_blocks(columns);
    uint32_t slices = min(divide_up(wanted_blocks, octets), divide_up(column_blocks, 4));
    uint32_t per_slice = divide_up(divide_up(column_blocks, slices), 4) * 4;
    const LaunchShape launch = {dim3(octets, divide_up(column_blocks, per_slice)), COPY_THREADS, 0,
                                0};
    return launch_after(gather_rows, launch, stream, *shape, *grouping, (const uint4 *)in,
                        columns / 8, column_blocks, per_slice, (uint4 *)out);
}
