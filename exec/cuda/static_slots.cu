#include "exec/cuda/grouping.cuh"
#include "exec/cuda/launch.cuh"
#include "exec/cuda/product.cuh"
#include "exec/cuda/put.cuh"
#include "exec/cuda/static_slots.h"

static constexpr uint32_t THREADS = 256;

extern "C" StaticTiles static_tiles(uint32_t capacity, uint32_t max_width, uint32_t multiple)
{
    StaticTiles tiles;
    tiles.tiles = divide_up(capacity, max_width);
    tiles.width = divide_up(divide_up(capacity, tiles.tiles), multiple) * multiple;
    tiles.slots = tiles.tiles * tiles.width;
    return tiles;
}

/* ---- the table of tiles ---- */

/* A thread: one tile. */
__global__ void __launch_bounds__(THREADS)
    make_static_table(StaticTiles tiles, uint32_t first, uint32_t n, GroupTable table)
{
    uint32_t i = blockIdx.x * THREADS + threadIdx.x;
    uint32_t per_group = GROUP_ROWS / tiles.width;
    if (i < n * tiles.tiles) {
        uint32_t in_expert = i % tiles.tiles;
        uint32_t in_group = in_expert % per_group;
        uint32_t of_group = min(per_group, tiles.tiles - (in_expert - in_group));
        table.tiles[i] =
            RowGroup{first + i / tiles.tiles, (i - in_group) * tiles.width, i - in_group,
                     (uint16_t)tiles.width, (uint16_t)(of_group * tiles.width)};
    }
    if (i == 0)
        start_table(table, n * tiles.tiles, n * tiles.tiles);
}

extern "C" Status static_slots_table(const StaticSlots *slots, uint32_t first, uint32_t n,
                                     const GroupTable *table)
{
    uint32_t blocks = divide_up(n * slots->tiles.tiles, THREADS);
    make_static_table<<<blocks, THREADS, 0, slots->stream>>>(slots->tiles, first, n, *table);
    CUDA_TRY(cudaGetLastError());
    return OK;
}

/* ---- masks ---- */

struct SlotsTask {
    RowGroups groups;
    const uint16_t *experts;
    const float *weights;
    uint32_t n_experts;
    uint32_t top_k;
    uint32_t slots; /* of an expert */
    uint32_t columns;
    float scale;
};

static SlotsTask make_task(const StaticSlots &slots, float scale)
{
    const ExpertBatch &batch = *slots.batch;
    return SlotsTask{batch.groups, batch.routing.experts, batch.routing.weights, batch.n_experts,
                     batch.top_k,  slots.tiles.slots,     batch.shape->d_model,  scale};
}

/* A block: one expert's slots. */
template <typename Element>
__global__ void __launch_bounds__(THREADS)
    mark_slots(SlotsTask task, Element *__restrict__ dispatch, Element *__restrict__ weights)
{
    uint32_t first = task.groups.first[blockIdx.x];
    uint32_t n = task.groups.first[blockIdx.x + 1] - first;
    size_t pitch = (size_t)task.n_experts * task.slots;
    for (uint32_t i = threadIdx.x; i < n; i += THREADS) {
        uint32_t assignment = task.groups.rows[first + i];
        size_t at = assignment / task.top_k * pitch + (size_t)blockIdx.x * task.slots + i;
        put(&dispatch[at], 1);
        put(&weights[at], task.scale * task.weights[assignment]);
    }
}

/* Writes both matrices whole: 2 * tokens * experts * slots elements; bound by memory. */
extern "C" Status static_slots_mark(const StaticSlots *slots, float scale, void *dispatch,
                                    void *weights)
{
    const SlotsTask task = make_task(*slots, scale);
    size_t element = slots->bf16 ? sizeof(__nv_bfloat16) : sizeof(float);
    size_t bytes = (size_t)slots->batch->tokens * task.n_experts * task.slots * element;
    CUDA_TRY(cudaMemsetAsync(dispatch, 0, bytes, slots->stream));
    CUDA_TRY(cudaMemsetAsync(weights, 0, bytes, slots->stream));
    if (slots->bf16)
        mark_slots<<<task.n_experts, THREADS, 0, slots->stream>>>(task, (__nv_bfloat16 *)dispatch,
                                                                  (__nv_bfloat16 *)weights);
    else
        mark_slots<<<task.n_experts, THREADS, 0, slots->stream>>>(task, (float *)dispatch,
                                                                  (float *)weights);
    CUDA_TRY(cudaGetLastError());
    return OK;
}

/* ---- copies ---- */

/* Four elements of a row. */
__device__ static float4 get4(const float *from)
{
    return *(const float4 *)from;
}

__device__ static float4 get4(const __nv_bfloat16 *from)
{
    float2 low = __bfloat1622float2(((const __nv_bfloat162 *)from)[0]);
    float2 high = __bfloat1622float2(((const __nv_bfloat162 *)from)[1]);
    return make_float4(low.x, low.y, high.x, high.y);
}

/* A block: one slot. Most slots are free; bound by writing them. */
template <typename Element>
__global__ void __launch_bounds__(THREADS)
    fill_slots(SlotsTask task, const float *__restrict__ in, Element *__restrict__ to,
               uint32_t *__restrict__ slot_of)
{
    uint32_t expert = blockIdx.x / task.slots;
    uint32_t row = task.groups.first[expert] + blockIdx.x % task.slots;
    bool taken = row < task.groups.first[expert + 1];
    uint32_t assignment = taken ? task.groups.rows[row] : 0;
    const float *from = in + (size_t)(assignment / task.top_k) * task.columns;
    to += (size_t)blockIdx.x * task.columns;
    for (uint32_t i = threadIdx.x * 4; i < task.columns; i += THREADS * 4)
        put(to + i, taken ? get4(from + i) : make_float4(0, 0, 0, 0));
    if (taken && threadIdx.x == 0)
        slot_of[assignment] = blockIdx.x;
}

extern "C" Status static_slots_fill(const StaticSlots *slots, const float *in, void *to,
                                    uint32_t *slot_of)
{
    const SlotsTask task = make_task(*slots, 1);
    uint32_t n = task.n_experts * task.slots;
    if (slots->bf16)
        fill_slots<<<n, THREADS, 0, slots->stream>>>(task, in, (__nv_bfloat16 *)to, slot_of);
    else
        fill_slots<<<n, THREADS, 0, slots->stream>>>(task, in, (float *)to, slot_of);
    CUDA_TRY(cudaGetLastError());
    return OK;
}

/* A thread: four columns of a token. Reads top_k rows and the token's, writes one; bound by memory.
 */
template <typename Element>
__global__ void __launch_bounds__(THREADS)
    sum_slots(SlotsTask task, const Element *__restrict__ from,
              const uint32_t *__restrict__ slot_of, float *__restrict__ out)
{
    size_t token = blockIdx.x;
    uint32_t column = (blockIdx.y * THREADS + threadIdx.x) * 4;
    if (column >= task.columns)
        return;
    float4 sum = make_float4(0, 0, 0, 0);
    for (size_t i = token * task.top_k; i < (token + 1) * task.top_k; i++) {
        if (task.experts[i] == EXPERT_DROPPED)
            continue;
        float4 value = get4(from + (size_t)slot_of[i] * task.columns + column);
        sum.x = fmaf(task.weights[i], value.x, sum.x);
        sum.y = fmaf(task.weights[i], value.y, sum.y);
        sum.z = fmaf(task.weights[i], value.z, sum.z);
        sum.w = fmaf(task.weights[i], value.w, sum.w);
    }
    float4 *to = (float4 *)(out + token * task.columns + column);
    float4 before = *to;
    *to = make_float4(fmaf(task.scale, sum.x, before.x), fmaf(task.scale, sum.y, before.y),
                      fmaf(task.scale, sum.z, before.z), fmaf(task.scale, sum.w, before.w));
}

extern "C" Status static_slots_sum(const StaticSlots *slots, float scale, const void *from,
                                   const uint32_t *slot_of, float *out)
{
    const SlotsTask task = make_task(*slots, scale);
    const dim3 grid(slots->batch->tokens, divide_up(task.columns, THREADS * 4));
    if (slots->bf16)
        sum_slots<<<grid, THREADS, 0, slots->stream>>>(task, (const __nv_bfloat16 *)from, slot_of,
                                                       out);
    else
        sum_slots<<<grid, THREADS, 0, slots->stream>>>(task, (const float *)from, slot_of, out);
    CUDA_TRY(cudaGetLastError());
    return OK;
}
