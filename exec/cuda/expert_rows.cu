#include "exec/cuda/expert_rows.h"
#include "exec/cuda/launch.cuh"
#include "exec/cuda/packed.cuh"
#include "exec/cuda/product.cuh"

static constexpr uint32_t TABLE_THREADS = 1024;
static constexpr uint32_t THREADS = 256;
static constexpr uint32_t FULL = 0xFFFFFFFF;

/* ---- jobs ---- */

struct JobBlock {
    ExpertJob job[JOBS_AT_ONCE];
};

__global__ void put_jobs(const __grid_constant__ JobBlock block, uint32_t n, ExpertJob *to)
{
    if (threadIdx.x < n)
        to[threadIdx.x] = block.job[threadIdx.x];
}

extern "C" Status expert_jobs_put(ExpertJob *to, const ExpertJob *jobs, uint32_t n,
                                  cudaStream_t stream)
{
    for (uint32_t first = 0; first < n; first += JOBS_AT_ONCE) {
        uint32_t some = min(n - first, (uint32_t)JOBS_AT_ONCE);
        JobBlock block;
        for (uint32_t i = 0; i < JOBS_AT_ONCE; i++)
            block.job[i] = i < some ? jobs[first + i] : ExpertJob{0, 0};
        put_jobs<<<1, JOBS_AT_ONCE, 0, stream>>>(block, some, to + first);
        CUDA_TRY(cudaGetLastError());
    }
    return OK;
}

__global__ void fill_jobs(uint32_t n, ExpertJob *to)
{
    uint32_t i = blockIdx.x * THREADS + threadIdx.x;
    if (i < n)
        to[i] = ExpertJob{i, i};
}

extern "C" Status expert_jobs_fill(ExpertJob *to, uint32_t n, cudaStream_t stream)
{
    fill_jobs<<<divide_up(n, THREADS), THREADS, 0, stream>>>(n, to);
    CUDA_TRY(cudaGetLastError());
    return OK;
}

/* ---- the table of tiles ---- */

struct RowsTask {
    const ExpertJob *jobs;
    uint32_t n_jobs;
    RowGroups groups;
    uint32_t capacity;
    uint32_t max_width;
    uint32_t top_k;
    uint32_t *first_row;
    uint32_t *assignment;
    GroupTable table;
};

struct RowTotals {
    uint32_t rows;
    uint32_t groups;
    uint32_t tiles;

    __device__ void add(const RowTotals &other)
    {
        rows += other.rows;
        groups += other.groups;
        tiles += other.tiles;
    }
};

/* Rows that JOB computes: with a capacity all of it, once it has any. */
__device__ static uint32_t rows_of(const RowsTask &task, const ExpertJob &job)
{
    uint32_t rows = task.groups.first[job.expert + 1] - task.groups.first[job.expert];
    return rows > 0 && task.capacity > 0 ? task.capacity : rows;
}

/* The width that cuts ROWS into the fewest tiles, as equal as possible. */
__device__ static uint32_t width_of(const RowsTask &task, uint32_t rows)
{
    if (task.max_width == 0)
        return PLAIN_TILE;
    uint32_t tiles = (rows + task.max_width - 1) / task.max_width;
    return ((rows + tiles - 1) / tiles + 15) / 16 * 16;
}

/* Adds the groups of ROWS rows of the expert in SLOT to TOTALS, writing them down when WRITE. */
__device__ static void add_groups(const RowsTask &task, uint32_t slot, uint32_t rows, bool write,
                                  RowTotals &totals)
{
    for (uint32_t at = 0; at < rows; at += GROUP_ROWS) {
        uint32_t some = min(rows - at, (uint32_t)GROUP_ROWS);
        uint32_t width = width_of(task, some);
        uint32_t tiles = (some + width - 1) / width;
        if (write) {
            task.table.groups[totals.groups] = RowGroup{slot, totals.rows, width};
            task.table.first_tile[totals.groups] = totals.tiles;
        }
        totals.add(RowTotals{tiles * width, 1, tiles});
    }
}

/* Sum over the block's threads before this one; *ALL: of the block. */
__device__ static RowTotals totals_before(const RowTotals &own, RowTotals *all)
{
    __shared__ RowTotals warps[TABLE_THREADS / 32];
    RowTotals sum = own;
    for (uint32_t step = 1; step < 32; step *= 2) {
        RowTotals below = {__shfl_up_sync(FULL, sum.rows, step),
                           __shfl_up_sync(FULL, sum.groups, step),
                           __shfl_up_sync(FULL, sum.tiles, step)};
        if (threadIdx.x % 32 >= step)
            sum.add(below);
    }
    __syncthreads();
    if (threadIdx.x % 32 == 31)
        warps[threadIdx.x / 32] = sum;
    __syncthreads();
    RowTotals before = {sum.rows - own.rows, sum.groups - own.groups, sum.tiles - own.tiles};
    *all = RowTotals{0, 0, 0};
    for (uint32_t w = 0; w < TABLE_THREADS / 32; w++) {
        if (w < threadIdx.x / 32)
            before.add(warps[w]);
        all->add(warps[w]);
    }
    return before;
}

/* One block, a thread per job. */
__global__ void __launch_bounds__(TABLE_THREADS) make_table(RowsTask task)
{
    RowTotals done = {0, 0, 0};
    for (uint32_t first = 0; first < task.n_jobs; first += TABLE_THREADS) {
        uint32_t i = first + threadIdx.x;
        ExpertJob job = i < task.n_jobs ? task.jobs[i] : ExpertJob{0, 0};
        uint32_t rows = i < task.n_jobs ? rows_of(task, job) : 0;
        RowTotals own = {0, 0, 0};
        add_groups(task, job.slot, rows, false, own);
        RowTotals all;
        RowTotals before = totals_before(own, &all);
        before.add(done);
        if (i < task.n_jobs)
            task.first_row[i] = before.rows;
        add_groups(task, job.slot, rows, true, before);
        done.add(all);
    }
    if (threadIdx.x == 0) {
        task.first_row[task.n_jobs] = done.rows;
        task.table.first_tile[done.groups] = done.tiles;
        *task.table.n_groups = done.groups;
    }
}

/* A block: the rows of one job, then its padding. */
__global__ void __launch_bounds__(THREADS) place_rows_of_jobs(RowsTask task)
{
    ExpertJob job = task.jobs[blockIdx.x];
    uint32_t from = task.groups.first[job.expert];
    uint32_t count = task.groups.first[job.expert + 1] - from;
    uint32_t to = task.first_row[blockIdx.x];
    uint32_t rows = task.first_row[blockIdx.x + 1] - to;
    for (uint32_t i = threadIdx.x; i < rows; i += THREADS)
        task.assignment[to + i] = i < count ? task.groups.rows[from + i] : NO_ROW;
}

static RowsTask make_task(const ExpertRows &rows)
{
    const ExpertsWork &work = *rows.work;
    return RowsTask{rows.jobs,      rows.n_jobs,       rows.batch->groups, rows.batch->capacity,
                    rows.max_width, rows.batch->top_k, work.first_row,     work.assignment,
                    work.table};
}

extern "C" Status expert_rows_place(const ExpertRows *rows)
{
    const RowsTask task = make_task(*rows);
    make_table<<<1, TABLE_THREADS, 0, rows->stream>>>(task);
    CUDA_TRY(cudaGetLastError());
    place_rows_of_jobs<<<rows->n_jobs, THREADS, 0, rows->stream>>>(task);
    CUDA_TRY(cudaGetLastError());
    return OK;
}

/* ---- gathering ---- */

/* Rows of the inputs, as the two kinds of products read them. */
struct PlainRows {
    float *data;
    uint32_t columns;

    __device__ void put(uint32_t row, uint32_t column, float value) const
    {
        data[(size_t)row * columns + column] = value;
    }
};

struct OctetRows {
    unsigned char *data;
    uint32_t column_blocks;

    __device__ void put(uint32_t row, uint32_t column, float value) const
    {
        unsigned char *at = data + octet_offset(row, column / BLOCK_COLUMNS, column_blocks);
        ((__nv_bfloat16 *)at)[column % BLOCK_COLUMNS] = __float2bfloat16_rn(value);
    }
};

/* A block: one row. Reads and writes it once; bound by memory. */
template <typename Rows>
__global__ void __launch_bounds__(THREADS)
    gather_by_index(RowsTask task, const float *__restrict__ in, uint32_t columns, Rows to)
{
    uint32_t row = blockIdx.x;
    if (row >= task.first_row[task.n_jobs])
        return;
    uint32_t assignment = task.assignment[row];
    const float *from = in + (size_t)(assignment / task.top_k) * columns;
    for (uint32_t i = threadIdx.x; i < columns; i += THREADS)
        to.put(row, i, assignment != NO_ROW ? from[i] : 0);
}

/* mask[row][token] = 1 where the row is the token's; to = mask * in. A block: a tile. */
template <typename Rows>
__global__ void __launch_bounds__(PRODUCT_THREADS)
    gather_by_mask(RowsTask task, const float *__restrict__ in, uint32_t tokens, uint32_t columns,
                   Rows to)
{
    __shared__ ProductStage stage;
    float sum[4][4] = {};
    uint32_t n_rows = task.first_row[task.n_jobs];
    uint32_t first_row = blockIdx.y * PRODUCT_TILE;
    uint32_t first_column = blockIdx.x * PRODUCT_TILE;
    if (first_row >= n_rows)
        return;
    auto mask = [&](uint32_t row, uint32_t token) {
        uint32_t a = first_row + row < n_rows ? task.assignment[first_row + row] : NO_ROW;
        return a != NO_ROW && a / task.top_k == token ? 1.0f : 0.0f;
    };
    auto value = [&](uint32_t column, uint32_t token) {
        return first_column + column < columns ? in[(size_t)token * columns + first_column + column]
                                               : 0;
    };
    add_product(mask, value, tokens, stage, sum);
    for (uint32_t i = 0; i < 4; i++)
        for (uint32_t j = 0; j < 4; j++) {
            uint32_t row = first_row + threadIdx.x / 16 * 4 + i;
            uint32_t column = first_column + threadIdx.x % 16 * 4 + j;
            if (row < n_rows && column < columns)
                to.put(row, column, sum[i][j]);
        }
}

template <typename Rows> static Status gather(const ExpertRows &rows, const float *in, Rows to)
{
    const RowsTask task = make_task(rows);
    uint32_t columns = rows.batch->shape->d_model;
    uint32_t n = (uint32_t)rows.max_rows;
    if (rows.batch->mask)
        gather_by_mask<<<dim3(divide_up(columns, PRODUCT_TILE), divide_up(n, PRODUCT_TILE)),
                         PRODUCT_THREADS, 0, rows.stream>>>(task, in, rows.batch->tokens, columns,
                                                            to);
    else
        gather_by_index<<<n, THREADS, 0, rows.stream>>>(task, in, columns, to);
    CUDA_TRY(cudaGetLastError());
    return OK;
}

extern "C" Status expert_rows_gather(const ExpertRows *rows, const float *in)
{
    uint32_t columns = rows->batch->shape->d_model;
    void *to = rows->work->gathered;
    if (rows->max_width > 0)
        return gather(*rows, in, OctetRows{(unsigned char *)to, packed_column_blocks(columns)});
    return gather(*rows, in, PlainRows{(float *)to, columns});
}

/* ---- scattering ---- */

template <typename Element>
__global__ void __launch_bounds__(THREADS)
    scatter_by_index(RowsTask task, const Element *__restrict__ from, uint32_t columns,
                     float *__restrict__ out)
{
    uint32_t row = blockIdx.x;
    if (row >= task.first_row[task.n_jobs])
        return;
    uint32_t assignment = task.assignment[row];
    if (assignment == NO_ROW)
        return;
    for (uint32_t i = threadIdx.x; i < columns; i += THREADS)
        out[(size_t)assignment * columns + i] = element(from[(size_t)row * columns + i]);
}

/* Which of the job's ROWS, ascending, is the token's; NO_ROW: none. */
__device__ static uint32_t find_assignment(const uint32_t *assignment, uint32_t rows,
                                           uint32_t token, uint32_t top_k)
{
    uint32_t low = 0;
    uint32_t high = rows;
    while (low < high) {
        uint32_t middle = (low + high) / 2;
        if (assignment[middle] < token * top_k)
            low = middle + 1;
        else
            high = middle;
    }
    bool found = low < rows && assignment[low] != NO_ROW && assignment[low] / top_k == token;
    return found ? assignment[low] : NO_ROW;
}

/* spread = mask^T * from, for one job (z) and a tile of tokens and columns; the tokens that the
 * expert has keep theirs. */
template <typename Element>
__global__ void __launch_bounds__(PRODUCT_THREADS)
    scatter_by_mask(RowsTask task, const Element *__restrict__ from, uint32_t tokens,
                    uint32_t columns, float *__restrict__ out)
{
    __shared__ ProductStage stage;
    float sum[4][4] = {};
    uint32_t first_row = task.first_row[blockIdx.z];
    uint32_t rows = task.first_row[blockIdx.z + 1] - first_row;
    uint32_t first_token = blockIdx.y * PRODUCT_TILE;
    uint32_t first_column = blockIdx.x * PRODUCT_TILE;
    const uint32_t *assignment = task.assignment + first_row;
    auto mask = [&](uint32_t token, uint32_t row) {
        uint32_t a = assignment[row];
        return a != NO_ROW && a / task.top_k == first_token + token ? 1.0f : 0.0f;
    };
    auto value = [&](uint32_t column, uint32_t row) {
        return first_column + column < columns
                   ? element(from[(size_t)(first_row + row) * columns + first_column + column])
                   : 0;
    };
    add_product(mask, value, rows, stage, sum);
    for (uint32_t i = 0; i < 4; i++) {
        uint32_t token = first_token + threadIdx.x / 16 * 4 + i;
        uint32_t to =
            token < tokens ? find_assignment(assignment, rows, token, task.top_k) : NO_ROW;
        for (uint32_t j = 0; j < 4 && to != NO_ROW; j++) {
            uint32_t column = first_column + threadIdx.x % 16 * 4 + j;
            if (column < columns)
                out[(size_t)to * columns + column] = sum[i][j];
        }
    }
}

template <typename Element>
static Status scatter(const ExpertRows &rows, const Element *from, float *out)
{
    const RowsTask task = make_task(rows);
    uint32_t columns = rows.batch->shape->d_model;
    const dim3 tiles(divide_up(columns, PRODUCT_TILE), divide_up(rows.batch->tokens, PRODUCT_TILE),
                     rows.n_jobs);
    if (rows.batch->mask)
        scatter_by_mask<<<tiles, PRODUCT_THREADS, 0, rows.stream>>>(task, from, rows.batch->tokens,
                                                                    columns, out);
    else
        scatter_by_index<<<(uint32_t)rows.max_rows, THREADS, 0, rows.stream>>>(task, from, columns,
                                                                               out);
    CUDA_TRY(cudaGetLastError());
    return OK;
}

extern "C" Status expert_rows_scatter(const ExpertRows *rows, float *out)
{
    if (rows->max_width > 0)
        return scatter(*rows, (const __nv_bfloat16 *)rows->work->outside, out);
    return scatter(*rows, (const float *)rows->work->outside, out);
}
