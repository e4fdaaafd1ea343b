#include "exec/cuda/few_rows.h"

#include "exec/cuda/hopper.cuh"
#include "exec/cuda/launch.cuh"
#include "exec/cuda/mma.cuh"
#include "exec/cuda/reduce.cuh"

static constexpr uint32_t WARPS = 8;
static constexpr uint32_t THREADS = WARPS * 32;
static constexpr uint32_t TILE_COLUMNS = 16; /* of OUT, rows of the weights, of an instruction */
static constexpr uint32_t MOST_TILES = 3;
static constexpr uint32_t MOST_SPLITS = 8;
static constexpr uint32_t MOST_SHARED_BYTES = 227 * 1024;
static constexpr uint32_t OWN_SHARED_BYTES = 15 * 1024; /* at the most, beside operands */

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
    uint32_t columns; /* of a cluster */
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

/* Where the weights of COLUMN begin among a warp's: four columns in one half of the banks, the next
 * four in the other. */
__host__ __device__ static inline uint32_t column_at(uint32_t slice, uint32_t column)
{
    return column * slice + column / 4 * 32;
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

/* A lane of a warp: begins its share of the copies of PART of the weights of a cluster's columns,
 * from FIRST on, into shared memory, and returns their bytes. Columns beyond the last are left out,
 * and what is computed with what lies there is not written. */
__device__ static uint32_t copy_weights(const FewRowsTask &task, const DepthPart &part,
                                        uint32_t first, uint32_t to, uint32_t barrier)
{
    uint32_t columns = min(task.columns, task.n - first);
    uint32_t bytes = part.length * (uint32_t)sizeof(__nv_bfloat16);
    uint32_t copied = 0;
    for (uint32_t i = threadIdx.x % 32; i < columns && bytes > 0; i += 32) {
        copy_bytes(to + column_at(task.slice, i) * (uint32_t)sizeof(__nv_bfloat16),
                   task.weight + (size_t)(first + i) * task.k + part.begin, bytes, barrier);
        copied += bytes;
    }
    return copied;
}

__device__ static float4 times(float4 a, float4 b)
{
    return make_float4(a.x * b.x, a.y * b.y, a.z * b.z, a.w * b.w);
}

__device__ static float squares_of(float4 a)
{
    return a.x * a.x + a.y * a.y + a.z * a.z + a.w * a.w;
}

/* Eight elements of a row. */
struct RowWord {
    float4 a;
    float4 b;
};

__device__ static RowWord load_word(const float *from)
{
    return {*(const float4 *)from, *(const float4 *)(from + 4)};
}

/* PART of the rows, times the norm's weights and rounded; squares[row] by warps where there is a
 * norm. A thread takes the same word of all rows. */
template <uint32_t ROWS>
__device__ static void stage_rows(const FewRowsTask &task, const DepthPart &part,
                                  __nv_bfloat16 *staged, float (*squares)[WARPS])
{
    const float4 one = make_float4(1, 1, 1, 1);
    float sum[ROWS] = {};
#pragma unroll 1
    for (uint32_t at = threadIdx.x * 8; at < part.length; at += THREADS * 8) {
        RowWord word[ROWS];
        RowWord weight = {one, one};
        if (task.norm != nullptr)
            weight = load_word(task.norm + part.begin + at);
#pragma unroll
        for (uint32_t row = 0; row < ROWS; row++)
            if (row < task.rows)
                word[row] = load_word(task.in + (size_t)row * task.k + part.begin + at);
#pragma unroll
        for (uint32_t row = 0; row < ROWS; row++) {
            if (row >= task.rows)
                break;
            sum[row] += squares_of(word[row].a) + squares_of(word[row].b);
            float4 a = times(word[row].a, weight.a);
            float4 b = times(word[row].b, weight.b);
            *(uint4 *)(staged + row * task.stride + at) = make_uint4(
                pack_bf16(a.x, a.y), pack_bf16(a.z, a.w), pack_bf16(b.x, b.y), pack_bf16(b.z, b.w));
        }
    }
    if (task.norm != nullptr)
#pragma unroll
        for (uint32_t row = 0; row < ROWS; row++) {
            float of_warp = sum_lanes(sum[row]);
            if (threadIdx.x % 32 == 0)
                squares[row][threadIdx.x / 32] = of_warp;
        }
    __syncthreads();
}

/* The same with PART of rows that are rounded already; a lane has one at the most. */
__device__ static uint32_t copy_rows(const FewRowsTask &task, const DepthPart &part, uint32_t to,
                                     uint32_t barrier)
{
    uint32_t row = threadIdx.x % 32;
    uint32_t bytes = row < task.rows ? part.length * (uint32_t)sizeof(__nv_bfloat16) : 0;
    if (bytes > 0)
        copy_bytes(to + row * task.stride * (uint32_t)sizeof(__nv_bfloat16),
                   task.rounded + (size_t)row * task.k + part.begin, bytes, barrier);
    return bytes;
}

/* A warp: sum += PART's product, its weights at WEIGHTS, its rows at STAGED. Of both a lane takes 8
 * of the depth at once, permuted alike, so that they lie together. */
template <uint32_t TILES>
__device__ static void multiply(const FewRowsTask &task, const DepthPart &part,
                                const __nv_bfloat16 *weights, const __nv_bfloat16 *staged,
                                float (&sum)[TILES][4])
{
    uint32_t group = threadIdx.x % 32 / 4;
    uint32_t offset = threadIdx.x % 4 * 8;
    const __nv_bfloat16 *low = weights + column_at(task.slice, group) + offset;
    uint32_t step = column_at(task.slice, 8);
    uint32_t row = min(group, task.rows - 1);
    float other[TILES][4] = {};
#pragma unroll 4 / TILES
    for (uint32_t at = 0; at < part.length; at += 32) {
        uint4 x = *(const uint4 *)(staged + row * task.stride + at + offset);
#pragma unroll
        for (uint32_t t = 0; t < TILES; t++) {
            uint32_t high = 2 * t + (TILE_COLUMNS * t + 8 < task.columns);
            uint4 a = *(const uint4 *)(low + 2 * t * step + at);
            uint4 b = *(const uint4 *)(low + high * step + at);
            mma_16x8x16(sum[t], a.x, b.x, a.y, b.y, x.x, x.y);
            mma_16x8x16(other[t], a.z, b.z, a.w, b.w, x.z, x.w);
        }
    }
#pragma unroll
    for (uint32_t t = 0; t < TILES; t++)
#pragma unroll
        for (uint32_t i = 0; i < 4; i++)
            sum[t][i] += other[t][i];
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
template <uint32_t TILES> struct Sums {
    float product[WARPS][TILES * TILE_COLUMNS][FEW_ROWS + 1];
    float squares[FEW_ROWS][WARPS];

    __device__ void put(const float (&sum)[TILES][4])
    {
        uint32_t lane = threadIdx.x % 32;
#pragma unroll
        for (uint32_t t = 0; t < TILES; t++)
#pragma unroll
            for (uint32_t i = 0; i < 4; i++)
                product[threadIdx.x / 32][t * TILE_COLUMNS + lane / 4 + i / 2 * 8]
                       [lane % 4 * 2 + i % 2] = sum[t][i];
    }
};

/* The elements of OUT that a thread of the cluster's blocks writes. */
template <uint32_t TILES> struct FewRowsPlaces {
    static constexpr uint32_t COLUMNS = TILES * TILE_COLUMNS;
    static constexpr uint32_t COUNT = (COLUMNS * FEW_ROWS + THREADS - 1) / THREADS;
    const FewRowsTask &task;
    uint32_t first;
    float before[COUNT];

    __device__ FewRowsPlaces(const FewRowsTask &few, uint32_t first_column)
        : task(few), first(first_column)
    {
    }
    __device__ uint32_t column(uint32_t i) const
    {
        return (threadIdx.x + i * THREADS) % COLUMNS;
    }
    __device__ uint32_t row(uint32_t i) const
    {
        return (threadIdx.x + i * THREADS) / COLUMNS;
    }
    __device__ bool there(uint32_t i) const
    {
        return column(i) < task.columns && first + column(i) < task.n && row(i) < task.rows;
    }
    __device__ float *at(uint32_t i) const
    {
        return task.out + (size_t)row(i) * task.n + first + column(i);
    }
    /* What OUT has there. */
    __device__ void load()
    {
#pragma unroll
        for (uint32_t i = 0; i < COUNT; i++)
            before[i] = task.add && there(i) ? *at(i) : 0;
    }
    /* Writes the I-th where it is this block's. */
    __device__ void put(uint32_t i, float product, float squares, uint32_t rank) const
    {
        if (!there(i) || row(i) % task.splits != rank)
            return;
        if (task.norm != nullptr)
            product *= 1 / sqrtf(squares / task.k + task.eps);
        *at(i) = before[i] + (product + (task.bias != nullptr ? task.bias[first + column(i)] : 0));
    }
};

/* Adds the warps' sums up in their order, then those of the cluster's blocks, and writes them. */
template <uint32_t TILES>
__device__ static void write_columns(const FewRowsTask &task, const FewRowsPlaces<TILES> &places,
                                     Sums<TILES> &sums)
{
    constexpr uint32_t COUNT = FewRowsPlaces<TILES>::COUNT;
    float product[COUNT] = {};
    float squares[COUNT] = {};
    __syncthreads();
#pragma unroll
    for (uint32_t i = 0; i < COUNT; i++)
#pragma unroll
        for (uint32_t w = 0; w < WARPS && places.there(i); w++) {
            product[i] += sums.product[w][places.column(i)][places.row(i)];
            squares[i] += task.norm != nullptr ? sums.squares[places.row(i)][w] : 0;
        }
    uint32_t rank = 0;
    if (task.splits > 1) {
        rank = cluster_rank();
        __syncthreads();
#pragma unroll
        for (uint32_t i = 0; i < COUNT; i++) {
            if (places.there(i))
                sums.product[0][places.column(i)][places.row(i)] = product[i];
            if (places.there(i) && places.column(i) == 0)
                sums.squares[places.row(i)][0] = squares[i];
        }
        cluster_sync();
#pragma unroll
        for (uint32_t i = 0; i < COUNT; i++) {
            product[i] = squares[i] = 0;
            for (uint32_t r = 0; r < task.splits && places.there(i); r++) {
                product[i] += load_from_rank(&sums.product[0][places.column(i)][places.row(i)], r);
                squares[i] += load_from_rank(&sums.squares[places.row(i)][0], r);
            }
        }
        cluster_sync();
    }
#pragma unroll
    for (uint32_t i = 0; i < COUNT; i++)
        places.put(i, product[i], squares[i], rank);
}

/* A cluster makes some columns of OUT, its blocks sharing the depth and the warps of a block its
 * part. All weights of a block are under way to shared memory before the kernels ahead have ended,
 * which it waits for only then to read the rows; the norm's scale is a factor of the sums.
 *
 * A warp's barrier tells when all is there that its lanes had copied. Each lane arrives behind its
 * own copies, since racecheck takes them for its writes.
 *
 * Reads 2 k bytes of weights per column, and 4 k bytes of each row per cluster from the L2; device
 * memory bounds it: 107 % of the rate of a large copy with 622 MB of weights on an H200. */
template <uint32_t TILES, uint32_t ROWS>
__global__ void __launch_bounds__(THREADS, TILES *ROWS == 1 ? 3 : 1)
    few_rows(const FewRowsTask task)
{
    extern __shared__ __align__(128) __nv_bfloat16 operands[];
    __shared__ Sums<TILES> sums;
    __shared__ uint64_t barriers[WARPS];
    uint32_t warp = threadIdx.x / 32;
    uint32_t first = blockIdx.x / task.splits * task.columns;
    const DepthPart part = cut_depth(blockIdx.x % task.splits * task.depth, task.depth, task.k);
    const DepthPart mine =
        cut_depth(part.begin + warp * task.slice, task.slice, part.begin + part.length);
    uint32_t of_warp = column_at(task.slice, task.columns);
    const __nv_bfloat16 *weights = operands + warp * of_warp;
    __nv_bfloat16 *staged = operands + WARPS * of_warp;
    const __nv_bfloat16 *rows = staged + (mine.begin - part.begin);
    uint32_t barrier = shared_address(&barriers[warp]);
    FewRowsPlaces<TILES> places(task, first);
    let_next_kernel_start();
    if (threadIdx.x % 32 == 0) {
        barrier_init(barrier, 32);
        barrier_init_fence();
    }
    __syncwarp();
    uint32_t copied = copy_weights(task, mine, first, shared_address(weights), barrier);
    wait_for_earlier_kernels();
    if (task.rounded == nullptr)
        stage_rows<ROWS>(task, part, staged, sums.squares);
    else
        copied += copy_rows(task, mine, shared_address(rows), barrier);
    barrier_arrive_expect(barrier, copied);
    places.load();
    barrier_wait(barrier, 0);
    float sum[TILES][4] = {};
    multiply<TILES>(task, mine, weights, rows, sum);
    sums.put(sum);
    write_columns<TILES>(task, places, sums);
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

static size_t operand_bytes(uint32_t rows, uint32_t k, const FewRowsCut &cut)
{
    size_t depth = depth_of(k, cut.splits);
    size_t elements = WARPS * (size_t)column_at(slice_of((uint32_t)depth), cut.columns) +
                      rows * (size_t)staged_stride((uint32_t)depth);
    return elements * sizeof(__nv_bfloat16);
}

/* Each cluster reads all rows for itself, so that several pay off only while there are few
 * clusters. On an H200, in steps of eight requests: 5120 x 2048 with its norm 10 us, 12 by cuBLAS
 * with a kernel before it that norms; alone, a row of 2048 x 4096 6.3 against cuBLAS's 10.2, eight
 * 9.1 against 10.2; 151936 x 2048, a row 139 against 147, two 148 against 147. */
static bool pays_off(const OpsQueue *queue, const FewRows *product, const FewRowsCut &cut)
{
    return product->rows == 1 ||
           (product->rows <= FEW_ROWS &&
            divide_up(product->weight->rows, cut.columns) <= queue->multiprocessors);
}

static constexpr size_t OPERAND_ROOM = MOST_SHARED_BYTES - OWN_SHARED_BYTES;

/* One cluster for each multiprocessor where that goes, else as many as there are. */
static FewRowsCut choose_cut(const OpsQueue *queue, const FewRows *product)
{
    const Matrix *weight = product->weight;
    FewRowsCut cut = {divide_up(divide_up(weight->rows, queue->multiprocessors), 8) * 8, 1};
    if (cut.columns > TILE_COLUMNS && cut.columns <= MOST_TILES * TILE_COLUMNS &&
        operand_bytes(product->rows, weight->columns, cut) <= OPERAND_ROOM)
        return cut;
    cut.columns = TILE_COLUMNS;
    uint32_t clusters = divide_up(weight->rows, TILE_COLUMNS);
    while (cut.splits < MOST_SPLITS && weight->columns >= 1024 * cut.splits &&
           (2 * clusters * cut.splits <= queue->multiprocessors ||
            operand_bytes(product->rows, weight->columns, cut) > OPERAND_ROOM))
        cut.splits *= 2;
    return cut;
}

extern "C" bool few_rows_fit(const OpsQueue *queue, const FewRows *product, FewRowsCut *cut)
{
    const Matrix *weight = product->weight;
    uintptr_t rows = (uintptr_t)(product->rounded != nullptr ? product->rounded : product->in);
    if (queue->compute != COMPUTE_BF16 || weight->columns % 32 != 0 ||
        ((uintptr_t)weight->data | rows) % 16 != 0 ||
        (product->norm != nullptr && product->norm->kind != NORM_RMS) || product->rows > FEW_ROWS)
        return false;
    *cut = choose_cut(queue, product);
    return pays_off(queue, product, *cut) &&
           operand_bytes(product->rows, weight->columns, *cut) <= OPERAND_ROOM;
}

template <uint32_t ROWS> static auto kernel_of(uint32_t columns)
{
    return columns <= TILE_COLUMNS       ? few_rows<1, ROWS>
           : columns <= 2 * TILE_COLUMNS ? few_rows<2, ROWS>
                                         : few_rows<3, ROWS>;
}

extern "C" Status few_rows_run(const OpsQueue *queue, const FewRows *product, const FewRowsCut *cut)
{
    const Matrix *weight = product->weight;
    const Norm *norm = product->norm;
    uint32_t depth = depth_of(weight->columns, cut->splits);
    const FewRowsTask task = {product->in,
                              (const __nv_bfloat16 *)product->rounded,
                              norm != nullptr ? norm->weight : nullptr,
                              norm != nullptr ? norm->eps : 0,
                              (const __nv_bfloat16 *)weight->data,
                              weight->bias,
                              product->rows,
                              weight->rows,
                              weight->columns,
                              cut->columns,
                              cut->splits,
                              depth,
                              slice_of(depth),
                              staged_stride(depth),
                              product->add,
                              product->out};
    const LaunchShape launch = {dim3(divide_up(weight->rows, cut->columns) * cut->splits), THREADS,
                                (uint32_t)operand_bytes(product->rows, weight->columns, *cut),
                                cut->splits > 1 ? cut->splits : 0};
    auto kernel =
        product->rows == 1 ? kernel_of<1>(cut->columns) : kernel_of<FEW_ROWS>(cut->columns);
    CUDA_TRY(cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize,
                                  (int)OPERAND_ROOM));
    return launch_after(kernel, launch, queue->stream, task);
}
