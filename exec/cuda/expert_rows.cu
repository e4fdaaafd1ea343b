#include "exec/cuda/expert_rows.h"
#include "exec/cuda/hopper.cuh"
#include "exec/cuda/launch.cuh"
#include "exec/cuda/layer_product.h"

static constexpr uint32_t THREADS = 256;

/* Threads of a block, for rows of COLUMNS of which each takes COUNT. */
static uint32_t row_threads(uint32_t columns, uint32_t count)
{
    uint32_t needed = divide_up(divide_up(columns, count), 32) * 32;
    return needed < THREADS ? needed : THREADS;
}

/* ---- elements ---- */

/* COUNT of a row's elements, side by side. */
template <uint32_t COUNT> struct Values {
    float v[COUNT];

    __device__ void load(const float *from)
    {
        if constexpr (COUNT == 1) {
            v[0] = *from;
        } else {
            for (uint32_t i = 0; i < COUNT; i += 4)
                *(float4 *)(v + i) = *(const float4 *)(from + i);
        }
    }
    __device__ void load(const __nv_bfloat16 *from)
    {
        static_assert(COUNT == 8, "one word of bf16");
        const uint4 word = __ldcs((const uint4 *)from);
        const __nv_bfloat162 *pair = (const __nv_bfloat162 *)&word;
#pragma unroll
        for (uint32_t i = 0; i < 4; i++) {
            float2 two = __bfloat1622float2(pair[i]);
            v[2 * i] = two.x;
            v[2 * i + 1] = two.y;
        }
    }
    __device__ void store(float *to) const
    {
        if constexpr (COUNT == 1) {
            *to = v[0];
        } else {
            for (uint32_t i = 0; i < COUNT; i += 4)
                *(float4 *)(to + i) = *(const float4 *)(v + i);
        }
    }
    __device__ void store(__nv_bfloat16 *to) const
    {
        static_assert(COUNT == 8, "one word of bf16");
        *(uint4 *)to = make_uint4(pack_bf16(v[0], v[1]), pack_bf16(v[2], v[3]),
                                  pack_bf16(v[4], v[5]), pack_bf16(v[6], v[7]));
    }
};

/* ---- to the rows ---- */

struct FillTask {
    const uint32_t *row;       /* of an assignment */
    const uint32_t *first;     /* assignments of the experts before */
    const uint32_t *first_row; /* rows of the experts before */
    const uint8_t *selected;
    uint32_t tokens;
    uint32_t top_k;
    uint32_t columns;
};

/* Block (t, c): part of token t; beyond the tokens, the padding of one expert. Reads a token once
 * and writes it top_k times; bound by the writes. */
template <typename Element, uint32_t COUNT>
__global__ void __launch_bounds__(THREADS)
    fill_rows(FillTask task, const uint16_t *__restrict__ experts, const float *__restrict__ tokens,
              Element *__restrict__ to)
{
    wait_for_earlier_kernels();
    let_next_kernel_start();
    uint32_t column = (blockIdx.y * THREADS + threadIdx.x) * COUNT;
    if (column >= task.columns)
        return;
    Values<COUNT> values = {};
    if (blockIdx.x >= task.tokens) {
        uint32_t expert = blockIdx.x - task.tokens;
        uint32_t end = task.first_row[expert + 1];
        uint32_t row = task.first_row[expert] + task.first[expert + 1] - task.first[expert];
        bool wanted = task.selected == nullptr || task.selected[expert];
        for (; wanted && row < end; row++)
            values.store(to + (size_t)row * task.columns + column);
        return;
    }
    values.load(tokens + (size_t)blockIdx.x * task.columns + column);
#pragma unroll 4
    for (uint32_t slot = 0; slot < task.top_k; slot++) {
        uint32_t assignment = blockIdx.x * task.top_k + slot;
        uint32_t row = task.row[assignment];
        if (row != NO_ROW && (task.selected == nullptr || task.selected[experts[assignment]]))
            values.store(to + (size_t)row * task.columns + column);
    }
}

template <typename Element, uint32_t COUNT>
static Status fill(const ExpertRows &rows, const FillTask &task, const uint16_t *experts,
                   const float *tokens)
{
    const LaunchShape launch = {
        dim3(task.tokens + rows.batch->n_experts, divide_up(task.columns, THREADS * COUNT)),
        row_threads(task.columns, COUNT), 0, 0};
    return launch_after(fill_rows<Element, COUNT>, launch, rows.stream, task, experts, tokens,
                        (Element *)rows.in);
}

extern "C" Status expert_rows_fill(const ExpertRows *rows, const Grouping *grouping,
                                   const uint8_t *selected, const float *tokens)
{
    const ExpertBatch &batch = *rows->batch;
    const FillTask task = {grouping->row, batch.groups.first, grouping->first_row, selected,
                           batch.tokens,  batch.top_k,        batch.shape->d_model};
    if (rows->packed)
        return fill<__nv_bfloat16, 8>(*rows, task, batch.routing.experts, tokens);
    return task.columns % 4 == 0 ? fill<float, 4>(*rows, task, batch.routing.experts, tokens)
                                 : fill<float, 1>(*rows, task, batch.routing.experts, tokens);
}

/* ---- products ---- */

/* Both products of packed experts. */
static Status make_products(const ExpertRows &rows, GroupedProduct *first, GroupedProduct *second)
{
    const ExpertBatch &batch = *rows.batch;
    GroupedProductShape shape = {*batch.shape, false,         batch.slots, batch.slot_stride,
                                 rows.in,      rows.max_rows, rows.inside};
    TRY(grouped_product_make(&shape, first));
    shape.down = true;
    shape.in = rows.inside;
    shape.out = rows.out;
    return grouped_product_make(&shape, second);
}

extern "C" Status expert_rows_multiply(const ExpertRows *rows)
{
    GroupedProduct first;
    GroupedProduct second;
    if (!rows->packed)
        return expert_rows_multiply_plainly(rows);
    TRY(make_products(*rows, &first, &second));
    TRY(grouped_product_run(&first, &rows->table, rows->max_width, rows->stream));
    return grouped_product_run(&second, &rows->table, rows->max_width, rows->stream);
}

extern "C" bool expert_rows_counts(const ExpertRows *rows)
{
    const ExpertBatch &batch = *rows->batch;
    return rows->packed && layer_product_suits(batch.shape, (size_t)batch.tokens * batch.top_k,
                                               rows->max_tiles, rows->max_width);
}

extern "C" Status expert_rows_multiply_filled(const ExpertRows *rows)
{
    LayerProduct layer;
    if (!expert_rows_counts(rows))
        return expert_rows_multiply(rows);
    TRY(make_products(*rows, &layer.first, &layer.second));
    return layer_product_run(&layer, &rows->table, rows->max_width, rows->stream);
}

/* ---- from the host ---- */

/* Block (i, c): part of row I. Reads host memory over the link, which bounds it. */
__global__ void __launch_bounds__(THREADS)
    put_rows(const uint32_t *__restrict__ row, const uint32_t *__restrict__ assignments,
             const uint32_t *__restrict__ from, uint32_t words, uint32_t *__restrict__ to)
{
    uint32_t word = blockIdx.y * THREADS + threadIdx.x;
    uint32_t at = row[assignments[blockIdx.x]];
    if (word < words)
        to[(size_t)at * words + word] = from[(size_t)blockIdx.x * words + word];
}

extern "C" Status expert_rows_put(const ExpertRows *rows, const Grouping *grouping,
                                  const uint32_t *assignments, uint32_t n, const void *from)
{
    uint32_t columns = rows->batch->shape->d_model;
    uint32_t words = rows->packed ? columns / 2 : columns;
    void *device_assignments;
    void *device_from;
    CUDA_TRY(cudaHostGetDevicePointer(&device_assignments, (void *)assignments, 0));
    CUDA_TRY(cudaHostGetDevicePointer(&device_from, (void *)from, 0));
    put_rows<<<dim3(n, divide_up(words, THREADS)), THREADS, 0, rows->stream>>>(
        grouping->row, (const uint32_t *)device_assignments, (const uint32_t *)device_from, words,
        (uint32_t *)rows->out);
    CUDA_TRY(cudaGetLastError());
    return OK;
}

/* ---- and back ---- */

static constexpr uint32_t AT_ONCE = 8; /* rows that are on their way together */

/* Some of a token's slots. */
struct CombineSlots {
    uint32_t row[AT_ONCE];
    float weight[AT_ONCE];

    /* From slot FIRST of TOP_K on. */
    __device__ void load(const uint32_t *rows, const float *weights, uint32_t first, uint32_t top_k)
    {
#pragma unroll
        for (uint32_t i = 0; i < AT_ONCE; i++) {
            row[i] = first + i < top_k ? rows[first + i] : NO_ROW;
            weight[i] = first + i < top_k ? weights[first + i] : 0;
        }
    }
    /* SUM += what they give; IN is the thread's columns of row 0. */
    template <typename Element, uint32_t COUNT>
    __device__ void add(const Element *in, uint32_t columns, Values<COUNT> &sum) const
    {
        Values<COUNT> values[AT_ONCE];
#pragma unroll
        for (uint32_t i = 0; i < AT_ONCE; i++) {
            values[i] = Values<COUNT>{};
            if (row[i] != NO_ROW)
                values[i].load(in + (size_t)row[i] * columns);
        }
#pragma unroll
        for (uint32_t i = 0; i < AT_ONCE; i++)
#pragma unroll
            for (uint32_t c = 0; c < COUNT; c++)
                sum.v[c] = row[i] != NO_ROW ? fmaf(weight[i], values[i].v[c], sum.v[c]) : sum.v[c];
    }
};

/* Waits until DONE says that all of these TOP_K rows, of COLUMNS, are there. The whole block. */
__device__ static void await_rows(const uint32_t *done, const uint32_t *rows, uint32_t top_k,
                                  uint32_t columns)
{
    uint32_t wanted = layer_product_counts(columns);
    for (uint32_t slot = threadIdx.x; slot < top_k; slot += blockDim.x)
        while (rows[slot] != NO_ROW && load_acquired(&done[rows[slot] / DONE_ROWS]) < wanted)
            __nanosleep(100);
    __syncthreads();
}

/* Block (t, c): part of a token. Reads top_k rows and OUT, writes OUT; bound by memory. Only the
 * rows come from the kernel ahead, which starts when all before it have ended. Where DONE counts
 * them (else it is NULL) a token need not wait until that ends: multiprocessors that have no more
 * to do there begin; one block waits for it, for the kernels that come next. */
template <typename Element, uint32_t COUNT>
__global__ void __launch_bounds__(THREADS)
    combine_rows(const uint32_t *__restrict__ row, const float *__restrict__ weights,
                 const Element *in, const uint32_t *done, uint32_t top_k, uint32_t columns,
                 float scale, float *__restrict__ out)
{
    uint32_t column = (blockIdx.y * THREADS + threadIdx.x) * COUNT;
    const uint32_t *rows = row + blockIdx.x * top_k;
    const float *weight = weights + blockIdx.x * top_k;
    float *to = out + (size_t)blockIdx.x * columns + column;
    CombineSlots slots;
    Values<COUNT> total = {};
    Values<COUNT> sum = {};
    /* without tensor cores a library's kernel may come next */
    constexpr bool EARLY = sizeof(Element) == sizeof(__nv_bfloat16);
    if (EARLY)
        let_next_kernel_start();
    slots.load(rows, weight, 0, top_k);
    if (column < columns)
        total.load(to);
    if (done != nullptr)
        await_rows(done, rows, top_k, columns);
    if (done == nullptr || (blockIdx.x == gridDim.x - 1 && blockIdx.y == 0))
        wait_for_earlier_kernels();
    if (!EARLY)
        let_next_kernel_start();
    if (column >= columns)
        return;
    slots.add(in + column, columns, sum);
    for (uint32_t first = AT_ONCE; first < top_k; first += AT_ONCE) {
        slots.load(rows, weight, first, top_k);
        slots.add(in + column, columns, sum);
    }
#pragma unroll
    for (uint32_t c = 0; c < COUNT; c++)
        total.v[c] += scale * sum.v[c];
    total.store(to);
}

template <typename Element, uint32_t COUNT>
static Status combine(const ExpertRows &rows, const uint32_t *row, const float *weights,
                      float scale, const void *in, float *out)
{
    uint32_t columns = rows.batch->shape->d_model;
    const LaunchShape launch = {dim3(rows.batch->tokens, divide_up(columns, THREADS * COUNT)),
                                row_threads(columns, COUNT), 0, 0};
    return launch_after(combine_rows<Element, COUNT>, launch, rows.stream, row, weights,
                        (const Element *)in, rows.table.done, rows.batch->top_k, columns, scale,
                        out);
}

extern "C" Status expert_rows_combine(const ExpertRows *rows, const Grouping *grouping,
                                      const float *weights, float scale, const void *in, float *out)
{
    if (rows->packed)
        return combine<__nv_bfloat16, 8>(*rows, grouping->row, weights, scale, in, out);
    if (rows->batch->shape->d_model % 4 == 0)
        return combine<float, 4>(*rows, grouping->row, weights, scale, in, out);
    return combine<float, 1>(*rows, grouping->row, weights, scale, in, out);
}
