/* The experts' products in f32, whatever their sizes, biases and activation: what checks, and what
 * the tensor core kernel does not know. A block finds its tile of 64 rows in the table. */
#include "exec/cuda/expert_rows.h"
#include "exec/cuda/launch.cuh"
#include "exec/cuda/product.cuh"

struct TileTask {
    GroupTable table;
    FfnShape shape;
    FfnLayout layout;
    const unsigned char *slots;
    size_t slot_stride;
    const float *in;
    float *out;
};

struct ExpertTileAt {
    uint32_t first_row;
    const unsigned char *weights;
};

/* FALSE beyond the last tile. */
__device__ static bool find_tile(const TileTask &task, ExpertTileAt *at)
{
    const GroupTable &table = task.table;
    uint32_t n = *table.n_groups;
    uint32_t tile = blockIdx.y;
    if (tile >= table.first_tile[n])
        return false;
    uint32_t low = 0;
    uint32_t high = n;
    while (high - low > 1) {
        uint32_t middle = (low + high) / 2;
        if (table.first_tile[middle] <= tile)
            low = middle;
        else
            high = middle;
    }
    RowGroup group = table.groups[low];
    at->first_row = group.first_row + (tile - table.first_tile[low]) * group.width;
    at->weights = task.slots + group.weights_at * task.slot_stride;
    return true;
}

__device__ static float sigmoid(float x)
{
    return 1 / (1 + expf(-x));
}

__device__ static float activated(const FfnShape &shape, float gate, float up)
{
    float g;
    switch (shape.activation) {
    case ACTIVATION_CLAMPED_SWIGLU:
        g = gate > shape.limit ? shape.limit : gate;
        up = up > shape.limit ? shape.limit : up < -shape.limit ? -shape.limit : up;
        return g * sigmoid(shape.alpha * g) * (up + 1);
    case ACTIVATION_GELU:
        return 0.5f * gate * (1 + erff(gate * 0.70710678118654752f)) * up;
    case ACTIVATION_GELU_TANH:
        g = 0.79788456080286536f * (gate + 0.044715f * gate * gate * gate);
        return 0.5f * gate * (1 + tanhf(g)) * up;
    case ACTIVATION_RELU:
        return (gate < 0 ? 0 : gate) * up;
    default:
        return gate * sigmoid(gate) * up;
    }
}

/* A tile of IN times WEIGHTS from row FIRST on, of which COUNT are left. */
template <typename Weight>
__device__ static void multiply(const float *in, uint32_t depth, const Weight *weights,
                                uint32_t count, ProductStage &stage, float (&sum)[4][4])
{
    auto a = [&](uint32_t row, uint32_t k) { return in[(size_t)row * depth + k]; };
    auto b = [&](uint32_t row, uint32_t k) {
        return row < count ? element(weights[(size_t)row * depth + k]) : 0;
    };
    add_product(a, b, depth, stage, sum);
}

/* inside = act(gathered * gate^T + bias) . (gathered * up^T + bias) */
template <typename Weight>
__global__ void __launch_bounds__(PRODUCT_THREADS) first_product(TileTask task)
{
    __shared__ ProductStage stage;
    const FfnShape &shape = task.shape;
    ExpertTileAt at;
    if (!find_tile(task, &at))
        return;
    float gate[4][4] = {};
    float up[4][4] = {};
    uint32_t first = blockIdx.x * PRODUCT_TILE;
    const Weight *weights = (const Weight *)(at.weights + task.layout.first);
    const float *bias = (const float *)(at.weights + task.layout.first_bias);
    const float *in = task.in + (size_t)at.first_row * shape.d_model;
    multiply(in, shape.d_model, weights + (size_t)first * shape.d_model, shape.d_ff - first, stage,
             gate);
    if (shape.gated)
        multiply(in, shape.d_model, weights + (size_t)(shape.d_ff + first) * shape.d_model,
                 shape.d_ff - first, stage, up);
    for (uint32_t i = 0; i < 4; i++)
        for (uint32_t j = 0; j < 4; j++) {
            uint32_t row = at.first_row + threadIdx.x / 16 * 4 + i;
            uint32_t column = first + threadIdx.x % 16 * 4 + j;
            if (column >= shape.d_ff)
                continue;
            float g = gate[i][j] + (shape.bias ? bias[column] : 0);
            float u = !shape.gated ? 1 : up[i][j] + (shape.bias ? bias[shape.d_ff + column] : 0);
            task.out[(size_t)row * shape.d_ff + column] = activated(shape, g, u);
        }
}

/* outside = inside * second^T + bias */
template <typename Weight>
__global__ void __launch_bounds__(PRODUCT_THREADS) second_product(TileTask task)
{
    __shared__ ProductStage stage;
    const FfnShape &shape = task.shape;
    ExpertTileAt at;
    if (!find_tile(task, &at))
        return;
    float sum[4][4] = {};
    uint32_t first = blockIdx.x * PRODUCT_TILE;
    const Weight *weights = (const Weight *)(at.weights + task.layout.second);
    const float *bias = (const float *)(at.weights + task.layout.second_bias);
    multiply(task.in + (size_t)at.first_row * shape.d_ff, shape.d_ff,
             weights + (size_t)first * shape.d_ff, shape.d_model - first, stage, sum);
    for (uint32_t i = 0; i < 4; i++)
        for (uint32_t j = 0; j < 4; j++) {
            uint32_t row = at.first_row + threadIdx.x / 16 * 4 + i;
            uint32_t column = first + threadIdx.x % 16 * 4 + j;
            if (column < shape.d_model)
                task.out[(size_t)row * shape.d_model + column] =
                    sum[i][j] + (shape.bias ? bias[column] : 0);
        }
}

template <typename Weight> static Status multiply_rows(const ExpertRows &rows)
{
    const ExpertsWork &work = *rows.work;
    const FfnShape &shape = *rows.batch->shape;
    TileTask task = {work.table,
                     shape,
                     ffn_layout(&shape, sizeof(Weight)),
                     rows.batch->slots,
                     rows.batch->slot_stride,
                     (const float *)work.gathered,
                     (float *)work.inside};
    uint32_t tiles = (uint32_t)(rows.max_rows / PLAIN_TILE);
    first_product<Weight>
        <<<dim3(divide_up(shape.d_ff, PRODUCT_TILE), tiles), PRODUCT_THREADS, 0, rows.stream>>>(
            task);
    CUDA_TRY(cudaGetLastError());
    task.in = (const float *)work.inside;
    task.out = (float *)work.outside;
    second_product<Weight>
        <<<dim3(divide_up(shape.d_model, PRODUCT_TILE), tiles), PRODUCT_THREADS, 0, rows.stream>>>(
            task);
    CUDA_TRY(cudaGetLastError());
    return OK;
}

extern "C" Status expert_rows_multiply(const ExpertRows *rows)
{
    return rows->work->bf16 ? multiply_rows<__nv_bfloat16>(*rows) : multiply_rows<float>(*rows);
}
