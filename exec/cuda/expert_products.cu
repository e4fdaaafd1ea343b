/* The experts' products in f32 without tensor cores, whatever their sizes, biases and activation:
 * what checks, and what the tensor core kernel does not know.
 *
 * A block multiplies 128 rows of a tile by 128 rows of weights, 8 x 8 of the sums to a thread; of a
 * gated first matrix the same 64 rows of gate and of up, so that a thread holds both. The next 16
 * columns are on their way to registers while these are multiplied from shared memory. Sums are
 * made along the depth in order, so that a row's numbers do not depend on the rows beside it. 2 *
 * 128 * 128 operations per 1024 bytes from the L2; bound by arithmetic for 64 rows per expert and
 * more. */
#include "exec/cuda/activation.cuh"
#include "exec/cuda/expert_rows.h"
#include "exec/cuda/hopper.cuh"
#include "exec/cuda/launch.cuh"
#include "exec/cuda/product.cuh"

static constexpr uint32_t SIDE = 128; /* of a block's tile */
static constexpr uint32_t DEPTH = 16; /* multiplied at a time */
static constexpr uint32_t THREADS = 256;
static constexpr uint32_t PITCH = SIDE + 4;

/* One of the two products. */
struct TileTask {
    GroupTable table;
    FfnShape shape;
    const unsigned char *weights; /* of place 0 */
    const unsigned char *bias;    /* f32, or NULL */
    size_t stride;
    const float *in;
    float *out;
    uint32_t columns; /* of OUT */
    uint32_t depth;
    uint32_t parts; /* blocks that a tile's rows may take */
    bool gated;
    bool activates;
};

/* Where a block works. */
struct Corner {
    uint32_t first_row;
    uint32_t rows;
    uint32_t first_column;
    uint32_t weights_at;
};

/* FALSE: there is nothing to do. */
__device__ static bool find_corner(const TileTask &task, Corner *corner)
{
    uint32_t tile = blockIdx.y / task.parts;
    uint32_t part = blockIdx.y % task.parts;
    if (tile >= *task.table.n_tiles)
        return false;
    const RowGroup group = task.table.tiles[tile];
    uint32_t first = (tile - group.first_tile) * group.width;
    uint32_t rows = min((uint32_t)group.width, group.rows - first);
    if (part * SIDE >= rows)
        return false;
    corner->first_row = group.first_row + first + part * SIDE;
    corner->rows = min(rows - part * SIDE, SIDE);
    corner->first_column = blockIdx.x * (task.gated ? SIDE / 2 : SIDE);
    corner->weights_at = group.weights_at;
    return true;
}

/* A thread's part of what is fetched: 8 columns of a row of IN, and of a row of weights. */
template <typename Weight> struct Fetched {
    const float *row;
    const Weight *weight;
    bool row_there;
    bool weight_there;
    float a[8];
    float b[8];

    __device__ Fetched(const TileTask &task, const Corner &corner)
    {
        uint32_t line = threadIdx.x / 2;
        uint32_t half = task.gated ? line % (SIDE / 2) : line;
        uint32_t column = corner.first_column + half;
        uint32_t weight_row = column + (line >= SIDE / 2 && task.gated ? task.columns : 0);
        row_there = line < corner.rows;
        weight_there = column < task.columns;
        row = task.in + (size_t)(corner.first_row + line) * task.depth;
        weight = (const Weight *)(task.weights + corner.weights_at * task.stride) +
                 (size_t)weight_row * task.depth;
    }
    __device__ void load(uint32_t k, uint32_t depth)
    {
        uint32_t first = k + threadIdx.x % 2 * 8;
#pragma unroll
        for (uint32_t i = 0; i < 8; i++) {
            bool inside = first + i < depth;
            a[i] = row_there && inside ? row[first + i] : 0;
            b[i] = weight_there && inside ? element(weight[first + i]) : 0;
        }
    }
    __device__ void store(float (*rows)[PITCH], float (*weights)[PITCH]) const
    {
#pragma unroll
        for (uint32_t i = 0; i < 8; i++) {
            rows[threadIdx.x % 2 * 8 + i][threadIdx.x / 2] = a[i];
            weights[threadIdx.x % 2 * 8 + i][threadIdx.x / 2] = b[i];
        }
    }
};

/* Thread (y, x) of 16 x 16 has rows 8 y + i, and of the weights' rows 4 x + j and 64 + 4 x + j. */
__device__ static void multiply_stage(const float (*rows)[PITCH], const float (*weights)[PITCH],
                                      float (&sum)[8][8])
{
    uint32_t y = threadIdx.x / 16 * 8;
    uint32_t x = threadIdx.x % 16 * 4;
#pragma unroll
    for (uint32_t k = 0; k < DEPTH; k++) {
        float a[8];
        float b[8];
        *(float4 *)a = *(const float4 *)&rows[k][y];
        *(float4 *)(a + 4) = *(const float4 *)&rows[k][y + 4];
        *(float4 *)b = *(const float4 *)&weights[k][x];
        *(float4 *)(b + 4) = *(const float4 *)&weights[k][SIDE / 2 + x];
#pragma unroll
        for (uint32_t i = 0; i < 8; i++)
#pragma unroll
            for (uint32_t j = 0; j < 8; j++)
                sum[i][j] = fmaf(a[i], b[j], sum[i][j]);
    }
}

__device__ static void write_sums(const TileTask &task, const Corner &corner,
                                  const float (&sum)[8][8])
{
    const float *bias =
        task.bias != NULL ? (const float *)(task.bias + corner.weights_at * task.stride) : NULL;
    uint32_t width = task.gated ? 4 : 8;
#pragma unroll
    for (uint32_t i = 0; i < 8; i++) {
        uint32_t row = threadIdx.x / 16 * 8 + i;
#pragma unroll
        for (uint32_t j = 0; j < 8; j++) {
            uint32_t column =
                corner.first_column + j / 4 * (SIDE / 2) + threadIdx.x % 16 * 4 + j % 4;
            if (j >= width || row >= corner.rows || column >= task.columns)
                continue;
            float value = sum[i][j] + (bias != NULL ? bias[column] : 0);
            float up = 1;
            if (task.gated && j < 4)
                up = sum[i][j + 4] + (bias != NULL ? bias[task.columns + column] : 0);
            task.out[(size_t)(corner.first_row + row) * task.columns + column] =
                task.activates ? activated(task.shape, value, up) : value;
        }
    }
}

template <typename Weight>
__global__ void __launch_bounds__(THREADS, 2) multiply_tiles(TileTask task)
{
    __shared__ float rows[2][DEPTH][PITCH];
    __shared__ float weights[2][DEPTH][PITCH];
    Corner corner;
    wait_for_earlier_kernels();
    let_next_kernel_start();
    if (!find_corner(task, &corner))
        return;
    Fetched<Weight> fetched(task, corner);
    float sum[8][8] = {};
    uint32_t stage = 0;
    fetched.load(0, task.depth);
    for (uint32_t k = 0; k < task.depth; k += DEPTH, stage ^= 1) {
        fetched.store(rows[stage], weights[stage]);
        __syncthreads();
        if (k + DEPTH < task.depth)
            fetched.load(k + DEPTH, task.depth);
        multiply_stage(rows[stage], weights[stage], sum);
    }
    write_sums(task, corner, sum);
}

static Status multiply(const ExpertRows &rows, const TileTask &task)
{
    uint32_t side = task.gated ? SIDE / 2 : SIDE;
    const LaunchShape launch = {dim3(divide_up(task.columns, side), rows.max_tiles * task.parts),
                                THREADS, 0, 0};
    return rows.bf16 ? launch_after(multiply_tiles<__nv_bfloat16>, launch, rows.stream, task)
                     : launch_after(multiply_tiles<float>, launch, rows.stream, task);
}

extern "C" Status expert_rows_multiply_plainly(const ExpertRows *rows)
{
    const ExpertBatch &batch = *rows->batch;
    const FfnShape &shape = *batch.shape;
    const FfnLayout layout = ffn_layout(&shape, rows->bf16 ? sizeof(__nv_bfloat16) : sizeof(float));
    TileTask task = {rows->table,
                     shape,
                     batch.slots + layout.first,
                     shape.bias ? batch.slots + layout.first_bias : NULL,
                     batch.slot_stride,
                     (const float *)rows->in,
                     (float *)rows->inside,
                     shape.d_ff,
                     shape.d_model,
                     divide_up(rows->max_width, SIDE),
                     shape.gated,
                     true};
    TRY(multiply(*rows, task));
    task.weights = batch.slots + layout.second;
    task.bias = shape.bias ? batch.slots + layout.second_bias : NULL;
    task.in = (const float *)rows->inside;
    task.out = (float *)rows->out;
    task.columns = shape.d_model;
    task.depth = shape.d_ff;
    task.gated = false;
    task.activates = false;
    return multiply(*rows, task);
}
