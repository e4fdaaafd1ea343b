#include "exec/cuda/few_rows.h"

#include "exec/cuda/hopper.cuh"
#include "exec/cuda/launch.cuh"
#include "exec/cuda/mma.cuh"
#include "exec/cuda/reduce.cuh"

static constexpr uint32_t WARPS = 8;
static constexpr uint32_t THREADS = WARPS * 32;
static constexpr uint32_t COLUMNS = 16; /* of OUT, rows of the weights, that a cluster makes */
static constexpr uint32_t MOST_SPLITS = 8;
static constexpr uint32_t MOST_SHARED_BYTES = 227 * 1024;
static constexpr uint32_t OWN_SHARED_BYTES = 12 * 1024; /* at the most, beside operands */

struct FewRowsTask {
    const float *in;
    const __nv_bfloat16 *rounded; /* instead of IN; or NULL */
    const float *norm;            /* weights, or NULL */
    float eps;
    const __nv_bfloat16 *weight;
    const float *bias;
    uint32_t rows;
    uint32_t n;
    uint32_t k;
    uint32_t splits;
    uint32_t depth;  /* of a block */
    uint32_t slice;  /* of a warp */
    uint32_t stride; /* of the staged rows, elements */
    bool add;
    float *out;
};

/* The staged rows must start in different halves of the banks. */
__host__ __device__ static inline uint32_t staged_stride(uint32_t depth)
{
    return depth % 64 == 0 ? depth + 32 : depth;
}

/* From BEGIN on, LENGTH of the depth. */
struct DepthPart {
    uint32_t begin;
    uint32_t length;
};

__device__ static DepthPart cut_depth(uint32_t begin, uint32_t length, uint32_t end)
{
    begin = min(begin, end);
    return {begin, min(length, end - begin)};
}

/* A warp: PART of the weights of COLUMNS columns, from FIRST on, into shared memory [COLUMNS]
 * [task.slice]; BARRIER tells when it is there. Columns beyond the last are left out, and what is
 * computed with what lies there is not written. */
__device__ static void copy_weights(const FewRowsTask &task, const DepthPart &part, uint32_t first,
                                    uint32_t to, uint32_t barrier)
{
    uint32_t lane = threadIdx.x % 32;
    uint32_t columns = min(COLUMNS, task.n - first);
    uint32_t bytes = part.length * (uint32_t)sizeof(__nv_bfloat16);
    if (lane == 0) {
        barrier_init(barrier, 1);
        barrier_init_fence();
        barrier_arrive_expect(barrier, columns * bytes);
    }
    __syncwarp();
    if (lane < columns && bytes > 0)
        copy_bytes(to + lane * task.slice * (uint32_t)sizeof(__nv_bfloat16),
                   task.weight + (size_t)(first + lane) * task.k + part.begin, bytes, barrier);
}

__device__ static float4 times(float4 a, float4 b)
{
    return make_float4(a.x * b.x, a.y * b.y, a.z * b.z, a.w * b.w);
}

__device__ static float squares_of(float4 a)
{
    return a.x * a.x + a.y * a.y + a.z * a.z + a.w * a.w;
}

/* Eight elements of a row at AT of PART, times the norm's weights and rounded; returns their
 * squares where there is a norm. */
__device__ static float stage_word(const FewRowsTask &task, const DepthPart &part, uint32_t row,
                                   uint32_t at, __nv_bfloat16 *staged)
{
    const float *from = task.in + (size_t)row * task.k + part.begin + at;
    float4 a = *(const float4 *)from;
    float4 b = *(const float4 *)(from + 4);
    float squares = 0;
    if (task.norm != nullptr) {
        const float *weight = task.norm + part.begin + at;
        squares = squares_of(a) + squares_of(b);
        a = times(a, *(const float4 *)weight);
        b = times(b, *(const float4 *)(weight + 4));
    }
    *(uint4 *)(staged + row * task.stride + at) = make_uint4(
        pack_bf16(a.x, a.y), pack_bf16(a.z, a.w), pack_bf16(b.x, b.y), pack_bf16(b.z, b.w));
    return squares;
}

/* PART of all rows, each of them the whole block's work; squares[row] by warps. */
__device__ static void stage_rows(const FewRowsTask &task, const DepthPart &part,
                                  __nv_bfloat16 *staged, float (*squares)[WARPS])
{
#pragma unroll 4
    for (uint32_t row = 0; row < task.rows; row++) {
        float sum = 0;
#pragma unroll 2
        for (uint32_t at = threadIdx.x * 8; at < part.length; at += THREADS * 8)
            sum += stage_word(task, part, row, at, staged);
        if (task.norm == nullptr)
            continue;
        sum = sum_lanes(sum);
        if (threadIdx.x % 32 == 0)
            squares[row][threadIdx.x / 32] = sum;
    }
    __syncthreads();
}

/* PART of rows that are rounded already, by the copy engine. A thread. */
__device__ static void copy_rows(const FewRowsTask &task, const DepthPart &part, uint32_t staged,
                                 uint32_t barrier)
{
    uint32_t bytes = part.length * (uint32_t)sizeof(__nv_bfloat16);
    barrier_arrive_expect(barrier, task.rows * bytes);
    for (uint32_t row = 0; row < task.rows && bytes > 0; row++)
        copy_bytes(staged + row * task.stride * (uint32_t)sizeof(__nv_bfloat16),
                   task.rounded + (size_t)row * task.k + part.begin, bytes, barrier);
}

/* A warp: sum += PART's product, its weights at WEIGHTS, its rows at STAGED. Of both a lane takes 8
 * of the depth at once, permuted alike, so that they lie together. */
__device__ static void multiply(const FewRowsTask &task, const DepthPart &part,
                                const __nv_bfloat16 *weights, const __nv_bfloat16 *staged,
                                float (&sum)[4])
{
    uint32_t group = threadIdx.x % 32 / 4;
    uint32_t offset = threadIdx.x % 4 * 8;
    const __nv_bfloat16 *low = weights + group * task.slice + offset;
    const __nv_bfloat16 *high = low + 8 * task.slice;
    uint32_t row = min(group, task.rows - 1);
    float other[4] = {};
#pragma unroll 4
    for (uint32_t at = 0; at < part.length; at += 32) {
        uint4 a = *(const uint4 *)(low + at);
        uint4 b = *(const uint4 *)(high + at);
        uint4 x = *(const uint4 *)(staged + row * task.stride + at + offset);
        mma_16x8x16(sum, a.x, b.x, a.y, b.y, x.x, x.y);
        mma_16x8x16(other, a.z, b.z, a.w, b.w, x.z, x.w);
    }
#pragma unroll
    for (uint32_t i = 0; i < 4; i++)
        sum[i] += other[i];
}

/* The sum of a block of the cluster at a place of its shared memory. */
__device__ static float load_from_rank(const float *at, uint32_t rank)
{
    float value;
    asm volatile("{\n"
                 ".reg .b32 remote;\n"
                 "mapa.shared::cluster.u32 remote, %1, %2;\n"
                 "ld.shared::cluster.f32 %0, [remote];\n"
                 "}"
                 : "=f"(value)
                 : "r"(shared_address(at)), "r"(rank)
                 : "memory");
    return value;
}

/* What the warps of a block have summed, and the squares of its part of the rows. */
struct Sums {
    float product[WARPS][COLUMNS][FEW_ROWS + 1];
    float squares[FEW_ROWS][WARPS];
};

/* The element of OUT that a thread of the cluster's blocks writes. */
struct FewRowsPlace {
    uint32_t column;
    bool there;
    float *to;

    __device__ FewRowsPlace(const FewRowsTask &task, uint32_t first)
    {
        uint32_t row = threadIdx.x / COLUMNS;
        column = first + threadIdx.x % COLUMNS;
        there = column < task.n && row < task.rows;
        to = task.out + (size_t)row * task.n + column;
    }
};

/* BEFORE is what OUT has at PLACE. Adds the warps' sums up in their order, then those of the
 * cluster's blocks, and writes them. */
__device__ static void write_columns(const FewRowsTask &task, const FewRowsPlace &place,
                                     float before, Sums &sums)
{
    uint32_t rank = task.splits > 1 ? cluster_rank() : 0;
    uint32_t column = threadIdx.x % COLUMNS;
    uint32_t row = threadIdx.x / COLUMNS;
    bool there = place.there;
    __syncthreads();
    float product = 0;
    float squares = 0;
#pragma unroll
    for (uint32_t w = 0; w < WARPS && there; w++) {
        product += sums.product[w][column][row];
        squares += task.norm != nullptr ? sums.squares[row][w] : 0;
    }
    if (task.splits > 1) {
        float *mine = &sums.product[0][column][there ? row : 0];
        float *my_squares = &sums.squares[there ? row : 0][0];
        __syncthreads();
        if (there)
            *mine = product;
        if (there && column == 0)
            *my_squares = squares;
        cluster_sync();
        product = 0;
        squares = 0;
        for (uint32_t r = 0; r < task.splits && there; r++) {
            product += load_from_rank(mine, r);
            squares += load_from_rank(my_squares, r);
        }
        cluster_sync();
    }
    if (!there || row % task.splits != rank)
        return;
    if (task.norm != nullptr)
        product *= 1 / sqrtf(squares / task.k + task.eps);
    *place.to = before + (product + (task.bias != nullptr ? task.bias[place.column] : 0));
}

/* A cluster makes COLUMNS columns of OUT, its blocks sharing the depth and the warps of a block its
 * part. All weights of a block are under way to shared memory before the kernels ahead have ended,
 * which it waits for only then to read the rows; the norm's scale is a factor of the sums.
 *
 * Reads 2 k bytes of weights per column, and 4 k bytes of each row per cluster from the L2; device
 * memory bounds it. Of the rate of a large copy a row reaches on an H200, one launch after the
 * other in a graph: 107 % with 622 MB of weights, 78 % with 21 MB, 63 % with 17 MB in 128 clusters.
 */
__global__ void __launch_bounds__(THREADS, 3) few_rows(const FewRowsTask task)
{
    extern __shared__ __align__(128) __nv_bfloat16 operands[];
    __shared__ Sums sums;
    __shared__ uint64_t barriers[WARPS];
    __shared__ uint64_t rows_barrier;
    uint32_t warp = threadIdx.x / 32;
    uint32_t lane = threadIdx.x % 32;
    uint32_t first = blockIdx.x / task.splits * COLUMNS;
    const DepthPart part = cut_depth(blockIdx.x % task.splits * task.depth, task.depth, task.k);
    const DepthPart mine =
        cut_depth(part.begin + warp * task.slice, task.slice, part.begin + part.length);
    const __nv_bfloat16 *weights = operands + warp * COLUMNS * task.slice;
    __nv_bfloat16 *staged = operands + WARPS * COLUMNS * task.slice;
    uint32_t barrier = shared_address(&barriers[warp]);
    const FewRowsPlace place(task, first);
    let_next_kernel_start();
    copy_weights(task, mine, first, shared_address(weights), barrier);
    if (task.rounded != nullptr) {
        uint32_t rows = shared_address(&rows_barrier);
        if (threadIdx.x == 0) {
            barrier_init(rows, 1);
            barrier_init_fence();
            wait_for_earlier_kernels();
            copy_rows(task, part, shared_address(staged), rows);
        }
        __syncthreads();
        wait_for_earlier_kernels();
        barrier_wait(rows, 0);
    } else {
        wait_for_earlier_kernels();
        stage_rows(task, part, staged, sums.squares);
    }
    float before = task.add && place.there ? *place.to : 0;
    barrier_wait(barrier, 0);
    float sum[4] = {};
    multiply(task, mine, weights, staged + (mine.begin - part.begin), sum);
#pragma unroll
    for (uint32_t i = 0; i < 4; i++)
        sums.product[warp][lane / 4 + i / 2 * 8][lane % 4 * 2 + i % 2] = sum[i];
    write_columns(task, place, before, sums);
}

/* ---- the cut ---- */

static uint32_t depth_of(uint32_t k, uint32_t splits)
{
    return divide_up(divide_up(k, splits), 32) * 32;
}

static uint32_t slice_of(uint32_t depth)
{
    return divide_up(depth, WARPS * 32) * 32;
}

static size_t operand_bytes(uint32_t rows, uint32_t k, uint32_t splits)
{
    size_t depth = depth_of(k, splits);
    size_t elements = WARPS * COLUMNS * (size_t)slice_of((uint32_t)depth) +
                      rows * (size_t)staged_stride((uint32_t)depth);
    return elements * sizeof(__nv_bfloat16);
}

/* Each cluster reads all rows for itself, so that several pay off only while there are few
 * clusters, and rounded before. On an H200, against cuBLAS with its operand normed or rounded by a
 * kernel before it: 5120 x 2048, a row 6.8 against 9.1 us, two 10.3 against 9.1; 2048 x 4096, a
 * row 6.3 against 10.2, eight 9.1 against 10.2; 151936 x 2048, a row 139 against 147, two 148
 * against 147. */
static bool pays_off(const OpsQueue *queue, const FewRows *product)
{
    return product->rows == 1 ||
           (product->rows <= FEW_ROWS && product->rounded != nullptr &&
            divide_up(product->weight->rows, COLUMNS) <= queue->multiprocessors);
}

extern "C" bool few_rows_fit(const OpsQueue *queue, const FewRows *product, uint32_t *splits)
{
    const Matrix *weight = product->weight;
    const size_t room = MOST_SHARED_BYTES - OWN_SHARED_BYTES;
    if (queue->compute != COMPUTE_BF16 || weight->columns % 32 != 0 ||
        ((uintptr_t)weight->data |
         (uintptr_t)(product->rounded != nullptr ? product->rounded : product->in)) %
                16 !=
            0 ||
        (product->norm != nullptr && product->norm->kind != NORM_RMS) || !pays_off(queue, product))
        return false;
    uint32_t clusters = divide_up(weight->rows, COLUMNS);
    *splits = 1;
    while (*splits < MOST_SPLITS && weight->columns >= 1024 * *splits &&
           (2 * clusters * *splits <= queue->multiprocessors ||
            operand_bytes(product->rows, weight->columns, *splits) > room))
        *splits *= 2;
    return operand_bytes(product->rows, weight->columns, *splits) <= room;
}

extern "C" Status few_rows_run(const OpsQueue *queue, const FewRows *product, uint32_t splits)
{
    const Matrix *weight = product->weight;
    const Norm *norm = product->norm;
    uint32_t depth = depth_of(weight->columns, splits);
    const FewRowsTask task = {product->in,
                              (const __nv_bfloat16 *)product->rounded,
                              norm != nullptr ? norm->weight : nullptr,
                              norm != nullptr ? norm->eps : 0,
                              (const __nv_bfloat16 *)weight->data,
                              weight->bias,
                              product->rows,
                              weight->rows,
                              weight->columns,
                              splits,
                              depth,
                              slice_of(depth),
                              staged_stride(depth),
                              product->add,
                              product->out};
    const LaunchShape launch = {dim3(divide_up(weight->rows, COLUMNS) * splits), THREADS,
                                (uint32_t)operand_bytes(product->rows, weight->columns, splits),
                                splits > 1 ? splits : 0};
    CUDA_TRY(cudaFuncSetAttribute(few_rows, cudaFuncAttributeMaxDynamicSharedMemorySize,
                                  MOST_SHARED_BYTES - OWN_SHARED_BYTES));
    return launch_after(few_rows, launch, queue->stream, task);
}
