/* Attention of many query rows: prefill, encoders, cross attention.
 *
 * One block per multiprocessor takes tile after tile. A warp fetches: the tile's queries, then its
 * keys and values, in blocks of 128 from the last to the first, into a ring in shared memory. Two
 * warpgroups multiply 64 rows each; the products with the next keys run while the last scores
 * become shares. Queries come as f32 into a room of their own, the next tile's while this tile is
 * computed. */
#include "exec/cuda/attend_items.cuh"
#include "exec/cuda/hopper.cuh"
#include "exec/cuda/reduce.cuh"
#include "exec/cuda/tensor_map.h"
#include "exec/cuda/wgmma.cuh"

static constexpr uint32_t KEYS = 128; /* of a block of them */
static constexpr uint32_t STAGES = 2;
static constexpr uint32_t WARPGROUPS = 2;
static constexpr uint32_t THREADS = WARPGROUPS * 128 + 128;
static constexpr uint32_t FETCH_REGISTERS = 56; /* 3 * 168 = 56 + 2 * 224 */
static constexpr uint32_t MULTIPLY_REGISTERS = 224;

static_assert(TILE_ROWS == WARPGROUPS * 64, "rows");

struct TileMaps {
    CUtensorMap queries; /* f32 [token][head][dim] */
    CUtensorMap keys;    /* [slot][position][head][dim] */
    CUtensorMap values;
};

struct TileBarriers {
    uint64_t queries_full;
    uint64_t queries_empty;
    uint64_t keys_full[STAGES];
    uint64_t values_full[STAGES];
    uint64_t keys_empty[STAGES];
    uint64_t values_empty[STAGES];
    uint64_t last_values; /* landed, not yet cut off */
};

/* Addresses in shared memory. Operands are chunks of 64 dimensions: rows of 128 bytes. */
template <uint32_t DIM> struct TileRoom {
    static constexpr uint32_t CHUNKS = DIM / 64;
    static constexpr uint32_t ROWS_BYTES = TILE_ROWS * DIM * 2;
    static constexpr uint32_t KEYS_BYTES = KEYS * DIM * 2;
    static constexpr uint32_t FLOATS_BYTES = TILE_ROWS * DIM * 4;
    static constexpr uint32_t BYTES =
        1024 + ROWS_BYTES + 2 * STAGES * KEYS_BYTES + FLOATS_BYTES + sizeof(TileBarriers);

    unsigned char *base;
    TileBarriers *barriers;

    __device__ explicit TileRoom(unsigned char *shared)
    {
        base = (unsigned char *)(((uintptr_t)shared + 1023) & ~(uintptr_t)1023);
        barriers = (TileBarriers *)(base + BYTES - 1024 - sizeof(TileBarriers));
    }
    __device__ unsigned char *rows() const
    {
        return base;
    }
    __device__ unsigned char *keys(uint32_t stage) const
    {
        return base + ROWS_BYTES + 2 * stage * KEYS_BYTES;
    }
    __device__ unsigned char *values(uint32_t stage) const
    {
        return keys(stage) + KEYS_BYTES;
    }
    __device__ float *floats() const
    {
        return (float *)(base + ROWS_BYTES + 2 * STAGES * KEYS_BYTES);
    }
};

/* ---- the warp that fetches ---- */

template <uint32_t DIM> struct Fetcher {
    using Room = TileRoom<DIM>;
    const AttendTask &task;
    const TileMaps &maps;
    Room room;
    Turn<STAGES> keys_turn;
    Turn<STAGES> values_turn;
    uint32_t queries_parity;
    uint32_t last_parity;

    __device__ void fetch_queries(const AttendTile &tile)
    {
        uint32_t full = shared_address(&room.barriers->queries_full);
        barrier_wait(shared_address(&room.barriers->queries_empty), queries_parity ^ 1);
        queries_parity ^= 1;
        barrier_arrive_expect(full, task.tile_heads * task.tile_tokens * DIM * 4);
        copy_box_3d(shared_address(room.floats()), &maps.queries, full, 0, (int)tile.first_head,
                    (int)(tile.at.span.first_token + tile.at.first));
    }

    __device__ void fetch(const CUtensorMap *map, const AttendTile &tile, uint32_t first,
                          const unsigned char *to, uint32_t barrier)
    {
        barrier_arrive_expect(barrier, Room::KEYS_BYTES);
        for (uint32_t c = 0; c < Room::CHUNKS; c++)
            copy_box_4d(shared_address(to) + c * KEYS * ROW_BYTES, map, barrier, (int)(c * 64),
                        (int)tile.kv_head, (int)first, (int)tile.at.span.kv_slot);
    }

    __device__ void fetch_keys(const AttendTile &tile, uint32_t first)
    {
        uint32_t stage = keys_turn.stage;
        barrier_wait(shared_address(&room.barriers->keys_empty[stage]), keys_turn.parity ^ 1);
        fetch(&maps.keys, tile, first, room.keys(stage),
              shared_address(&room.barriers->keys_full[stage]));
        keys_turn.advance();
    }

    __device__ void fetch_values(const AttendTile &tile, uint32_t first, bool cut)
    {
        uint32_t stage = values_turn.stage;
        barrier_wait(shared_address(&room.barriers->values_empty[stage]), values_turn.parity ^ 1);
        fetch(
            &maps.values, tile, first, room.values(stage),
            shared_address(cut ? &room.barriers->last_values : &room.barriers->values_full[stage]));
        values_turn.advance();
    }

    /* What lies behind the last key is of no request, and may be no number: a share of 0 would not
     * hide it. By the warp. */
    __device__ void cut_off(uint32_t stage, uint32_t keys)
    {
        barrier_wait(shared_address(&room.barriers->last_values), last_parity);
        last_parity ^= 1;
        for (uint32_t c = 0; c < Room::CHUNKS; c++) {
            uint4 *row = (uint4 *)(room.values(stage) + (c * KEYS + keys) * ROW_BYTES);
            for (uint32_t i = threadIdx.x % 32; i < (KEYS - keys) * ROW_BYTES / 16; i += 32)
                row[i] = make_uint4(0, 0, 0, 0);
        }
        fence_for_copies();
        __syncwarp();
        if (threadIdx.x % 32 == 0)
            barrier_arrive(shared_address(&room.barriers->values_full[stage]));
    }

    /* The keys and values of TILE; after the first of them the queries of the tile AFTER. */
    __device__ void fetch_tile(const AttendTile &tile, const AttendTile *after)
    {
        uint32_t blocks = divide_up(tile.keys.end - tile.keys.first, KEYS);
        uint32_t stage = __shfl_sync(0xFFFFFFFF, values_turn.stage, 0);
        uint32_t last_keys = tile.keys.end - tile.keys.first - (blocks - 1) * KEYS;
        bool leads = threadIdx.x % 32 == 0;
        for (uint32_t b = blocks; b-- > 0;) {
            uint32_t first = tile.keys.first + b * KEYS;
            bool cut = b == blocks - 1 && last_keys < KEYS;
            if (leads) {
                fetch_keys(tile, first);
                fetch_values(tile, first, cut);
                if (b == blocks - 1 && after != nullptr)
                    fetch_queries(*after);
            }
            if ((b + 2 == blocks || blocks == 1) && last_keys < KEYS)
                cut_off(stage, last_keys);
        }
        __syncwarp();
    }

    __device__ void run()
    {
        AttendItems items = {0};
        AttendTile tile;
        AttendTile after;
        bool there = items.next_with_keys(task, &tile);
        if (there && threadIdx.x % 32 == 0)
            fetch_queries(tile);
        while (there) {
            there = items.next_with_keys(task, &after);
            fetch_tile(tile, there ? &after : nullptr);
            tile = after;
        }
    }
};

/* ---- the warpgroups that multiply ---- */

/* A thread: two rows of a warpgroup's 64, and of each two columns of every eight. */
template <uint32_t DIM, bool BIASED> struct TileRows {
    using Room = TileRoom<DIM>;
    AttendRow row[2];
    KeyRange seen; /* by all rows */
    float most[2]; /* of the scores, times FACTOR an exponent of 2 */
    float sum[2];
    float factor;
    float mixed[DIM / 2];
    uint32_t share[KEYS / 4];

    __device__ void begin(const AttendTask &task, const AttendTile &tile)
    {
        uint32_t first = threadIdx.x / 32 * 16 + threadIdx.x % 32 / 4;
        uint32_t position = tile.at.span.position + tile.at.first;
        uint32_t keys = tile.at.span.keys;
        seen.first = seen_keys(task.layer, keys, position + tile.at.tokens - 1).first;
        seen.end = min(seen_keys(task.layer, keys, position).end, tile.keys.end);
        factor = BIASED ? LOG2_E : task.layer.scale * LOG2_E;
#pragma unroll
        for (uint32_t i = 0; i < 2; i++) {
            row[i] = find_row(task, tile, first + 8 * i);
            most[i] = -CUDART_INF_F;
            sum[i] = 0;
        }
#pragma unroll
        for (float &m : mixed)
            m = 0;
    }

    /* Queries of this warp from FLOATS to where the products read them. */
    __device__ static void round_queries(const Room &room)
    {
        uint32_t first = threadIdx.x / 32 * 16;
        for (uint32_t i = 0; i < 16 * DIM / 4; i += 32) {
            uint32_t at = i + threadIdx.x % 32;
            uint32_t r = first + at / (DIM / 4);
            uint32_t dim = at % (DIM / 4) * 4;
            float4 word = *(const float4 *)(room.floats() + r * DIM + dim);
            *(uint2 *)(room.rows() + dim / 64 * TILE_ROWS * ROW_BYTES +
                       swizzled_offset(r, dim % 64)) =
                make_uint2(pack_bf16(word.x, word.y), pack_bf16(word.z, word.w));
        }
    }

    __device__ static void multiply_keys(const Room &room, uint32_t stage, float (&score)[KEYS / 2])
    {
        uint32_t warpgroup = threadIdx.x / 128;
        uint64_t a = swizzled_operand(shared_address(room.rows()) + warpgroup * 64 * ROW_BYTES);
        uint64_t b = swizzled_operand(shared_address(room.keys(stage)));
#pragma unroll
        for (uint32_t k = 0; k < DIM / 16; k++) {
            uint64_t at_a = a + k / 4 * (TILE_ROWS * ROW_BYTES >> 4) + k % 4 * 2;
            uint64_t at_b = b + k / 4 * (KEYS * ROW_BYTES >> 4) + k % 4 * 2;
            if (k == 0)
                Wgmma<KEYS>::set_product(score, at_a, at_b);
            else
                Wgmma<KEYS>::add_product(score, at_a, at_b);
        }
        wgmma_commit();
    }

    __device__ void multiply_values(const Room &room, uint32_t stage)
    {
        uint64_t b = swizzled_columns(shared_address(room.values(stage)), KEYS * ROW_BYTES);
#pragma unroll
        for (uint32_t k = 0; k < KEYS / 16; k++)
            WgmmaColumns<DIM>::add_product(mixed, share[4 * k], share[4 * k + 1], share[4 * k + 2],
                                           share[4 * k + 3], b + k * 128);
        wgmma_commit();
    }

    /* Scores of the keys from FIRST on: their bias, and -inf where they are not seen. */
    __device__ void finish_scores(const AttendTask &task, const AttendTile &tile, uint32_t first,
                                  float (&score)[KEYS / 2])
    {
        uint32_t column = threadIdx.x % 4 * 2;
        if (!BIASED && first >= seen.first && first + KEYS <= seen.end)
            return;
#pragma unroll
        for (uint32_t i = 0; i < KEYS / 2; i++) {
            const AttendRow &at = row[i / 2 % 2];
            uint32_t key = first + i / 4 * 8 + column + i % 2;
            bool sees = key >= at.seen.first && key < min(at.seen.end, tile.keys.end);
            if (BIASED)
                score[i] = score[i] * task.layer.scale + (sees ? at.bias[key] : 0);
            score[i] = sees ? score[i] : -CUDART_INF_F;
        }
    }

    /* Scores -> shares in f32; KEPT is what is left of the earlier ones. */
    __device__ void take_shares(float (&score)[KEYS / 2], float (&kept)[2])
    {
#pragma unroll
        for (uint32_t r = 0; r < 2; r++) {
            float higher = most[r];
#pragma unroll
            for (uint32_t i = 0; i < KEYS / 4; i++)
                higher = fmaxf(higher, score[i / 2 * 4 + 2 * r + i % 2]);
            higher = most_of_lanes<4>(higher);
            float base = higher == -CUDART_INF_F ? 0 : higher * factor;
            kept[r] = power_of_2(most[r] * factor - base);
            most[r] = higher;
            float total = 0;
#pragma unroll
            for (uint32_t i = 0; i < KEYS / 4; i++) {
                float &s = score[i / 2 * 4 + 2 * r + i % 2];
                s = power_of_2(fmaf(s, factor, -base));
                total += s;
            }
            sum[r] = sum[r] * kept[r] + total;
        }
    }

    __device__ void keep_mixed(const float (&kept)[2])
    {
#pragma unroll
        for (uint32_t i = 0; i < DIM / 2; i++)
            mixed[i] *= kept[i / 2 % 2];
    }

    __device__ void round_shares(const float (&score)[KEYS / 2])
    {
#pragma unroll
        for (uint32_t i = 0; i < KEYS / 4; i++)
            share[i] = pack_bf16(score[2 * i], score[2 * i + 1]);
    }

    __device__ void finish(const AttendTask &task, const AttendTile &tile)
    {
        uint32_t column = threadIdx.x % 4 * 2;
#pragma unroll
        for (uint32_t r = 0; r < 2; r++) {
            float total = sum_lanes<4>(sum[r]);
            if (!row[r].there)
                continue;
            float *to;
            float natural = BIASED ? most[r] : most[r] * task.layer.scale;
            float scale = begin_row(task, row[r], tile.split, natural, total, column == 0, &to);
#pragma unroll
            for (uint32_t j = 0; j < DIM / 8; j++)
                if (8 * j + column < task.layer.value_dim)
                    *(float2 *)(to + 8 * j + column) =
                        make_float2(mixed[4 * j + 2 * r] * scale, mixed[4 * j + 2 * r + 1] * scale);
        }
    }
};

template <uint32_t DIM, bool BIASED> struct Multiplier {
    using Rows = TileRows<DIM, BIASED>;
    using Scores = float[KEYS / 2];
    const AttendTask &task;
    TileRoom<DIM> room;
    Turn<STAGES> keys_turn;
    Turn<STAGES> values_turn;
    uint32_t queries_parity;
    AttendItems items;

    __device__ void take_queries()
    {
        barrier_wait(shared_address(&room.barriers->queries_full), queries_parity);
        queries_parity ^= 1;
        named_barrier(1 + threadIdx.x / 128, 128); /* nobody reads the last tile's rows */
        Rows::round_queries(room);
        release(&room.barriers->queries_empty);
        fence_for_copies();
        named_barrier(1 + threadIdx.x / 128, 128);
    }

    /* Queues the products of the next keys. */
    __device__ void multiply_keys(Scores &score)
    {
        barrier_wait(shared_address(&room.barriers->keys_full[keys_turn.stage]), keys_turn.parity);
        wgmma_fence();
        Rows::multiply_keys(room, keys_turn.stage, score);
    }

    __device__ void multiply_values(Rows &rows)
    {
        barrier_wait(shared_address(&room.barriers->values_full[values_turn.stage]),
                     values_turn.parity);
        wgmma_fence();
        rows.multiply_values(room, values_turn.stage);
    }

    __device__ void keys_done(Scores &score)
    {
        wgmma_results(score);
        release(&room.barriers->keys_empty[keys_turn.stage]);
        keys_turn.advance();
    }

    __device__ void values_done(Rows &rows)
    {
        wgmma_results(rows.mixed);
        release(&room.barriers->values_empty[values_turn.stage]);
        values_turn.advance();
    }

    /* The queries of the next tile, and the products of its last keys, from here on queued. */
    __device__ void begin_tile(Scores &score)
    {
        take_queries();
        multiply_keys(score);
    }

    __device__ void first_block(Rows &rows, const AttendTile &tile, uint32_t first, Scores &score)
    {
        float kept[2];
        rows.finish_scores(task, tile, first, score);
        rows.take_shares(score, kept);
        rows.round_shares(score);
    }

    /* The scores of the keys from FIRST on, while the shares before them weigh their values. */
    __device__ void next_block(Rows &rows, const AttendTile &tile, uint32_t first, Scores &score)
    {
        float kept[2];
        multiply_keys(score);
        multiply_values(rows);
        wgmma_wait<1>();
        keys_done(score);
        rows.finish_scores(task, tile, first, score);
        rows.take_shares(score, kept);
        wgmma_wait<0>();
        values_done(rows);
        rows.keep_mixed(kept);
        rows.round_shares(score);
    }

    /* The next tile that has keys; false after the last. A tile without gives zeros. */
    __device__ bool next_tile(AttendTile *tile)
    {
        while (items.next(task, tile)) {
            if (tile->keys.first < tile->keys.end)
                return true;
            Rows none;
            none.begin(task, *tile);
            none.finish(task, *tile);
        }
        return false;
    }

    /* The last values of a tile are weighed, and its rows written, while the first products of the
     * next one are made. */
    __device__ void run()
    {
        Rows rows;
        AttendTile tile;
        AttendTile after;
        Scores score;
        bool there = next_tile(&tile);
        if (there) {
            begin_tile(score);
            wgmma_wait<0>();
            keys_done(score);
        }
        while (there) {
            uint32_t blocks = divide_up(tile.keys.end - tile.keys.first, KEYS);
            rows.begin(task, tile);
            first_block(rows, tile, tile.keys.first + (blocks - 1) * KEYS, score);
            for (uint32_t b = blocks - 1; b-- > 0;)
                next_block(rows, tile, tile.keys.first + b * KEYS, score);
            there = next_tile(&after);
            multiply_values(rows);
            if (there) {
                begin_tile(score);
                wgmma_wait<1>();
                values_done(rows);
                rows.finish(task, tile);
                wgmma_wait<0>();
                keys_done(score);
                tile = after;
            } else {
                wgmma_wait<0>();
                values_done(rows);
                rows.finish(task, tile);
            }
        }
    }
};

__device__ static void init_barriers(TileBarriers *barriers)
{
    const uint32_t warps = WARPGROUPS * 4;
    barrier_init(shared_address(&barriers->queries_full), 1);
    barrier_init(shared_address(&barriers->queries_empty), warps);
    barrier_init(shared_address(&barriers->last_values), 1);
    for (uint32_t s = 0; s < STAGES; s++) {
        barrier_init(shared_address(&barriers->keys_full[s]), 1);
        barrier_init(shared_address(&barriers->values_full[s]), 1);
        barrier_init(shared_address(&barriers->keys_empty[s]), warps);
        barrier_init(shared_address(&barriers->values_empty[s]), warps);
    }
    barrier_init_fence();
}

/* A block: tiles of 128 rows. Per 128 keys it reads 512 DIM bytes from the L2 and computes 65,536
 * DIM operations, which bound it when there are keys enough; with few, its rows do: 4 bytes each
 * way per element. */
template <uint32_t DIM, bool BIASED>
__global__ void __launch_bounds__(THREADS, 1)
    attend_rows_tiles(const __grid_constant__ AttendTask task,
                      const __grid_constant__ TileMaps maps)
{
    extern __shared__ unsigned char shared[];
    TileRoom<DIM> room(shared);
    if (threadIdx.x == 0)
        init_barriers(room.barriers);
    __syncthreads();
    wait_for_earlier_kernels();
    let_next_kernel_start();
    if (threadIdx.x / 128 == WARPGROUPS) {
        take_registers<FETCH_REGISTERS, false>();
        if (threadIdx.x / 32 == WARPGROUPS * 4)
            Fetcher<DIM>{task, maps, room, {0, 0}, {0, 0}, 0, 0}.run();
    } else {
        take_registers<MULTIPLY_REGISTERS, true>();
        Multiplier<DIM, BIASED>{task, room, {0, 0}, {0, 0}, 0, {0}}.run();
    }
}

/* ---- launch ---- */

static Status map_queries(const AttendTask &task, uint32_t tokens, uint32_t dim, CUtensorMap *map)
{
    const AttendLayer &layer = task.layer;
    const TensorShape shape = {task.queries,
                               3,
                               {layer.key_dim, layer.n_heads, tokens},
                               {0, (uint64_t)layer.key_dim * 4, layer.query_stride * 4, 0, 0},
                               {dim, task.tile_heads, task.tile_tokens, 0, 0}};
    return tensor_map_make_f32(&shape, map);
}

template <uint32_t DIM>
static Status attend_dims(const AttendTask &task, uint32_t tokens, uint32_t blocks,
                          cudaStream_t stream)
{
    const AttendLayer &layer = task.layer;
    TileMaps maps;
    TRY(map_queries(task, tokens, DIM, &maps.queries));
    TRY(map_cache(layer, layer.cache.keys, layer.key_dim, layer.cache.key_stride, KEYS,
                  &maps.keys));
    TRY(map_cache(layer, layer.cache.values, layer.value_dim, layer.cache.value_stride, KEYS,
                  &maps.values));
    auto kernel = layer.relative_bias != nullptr ? attend_rows_tiles<DIM, true>
                                                 : attend_rows_tiles<DIM, false>;
    const LaunchShape launch = {dim3(blocks), THREADS, TileRoom<DIM>::BYTES, 0};
    CUDA_TRY(cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize,
                                  (int)launch.shared_bytes));
    return launch_after(kernel, launch, stream, task, maps);
}

Status attend_tiles(const AttendTask &task, uint32_t tokens, uint32_t blocks, cudaStream_t stream)
{
    blocks = min(blocks, count_items(task));
    return max(task.layer.key_dim, task.layer.value_dim) <= 64
               ? attend_dims<64>(task, tokens, blocks, stream)
               : attend_dims<128>(task, tokens, blocks, stream);
}
