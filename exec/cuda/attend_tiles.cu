/* Attention of many query rows: prefill, encoders, cross attention.
 *
 * One block per multiprocessor takes tile after tile. A warp fetches: the tile's queries, then its
 * keys and values, in blocks of 128 from the last to the first, into a ring in shared memory. Two
 * warpgroups multiply 64 rows each; the products with the next keys run while the last scores
 * become shares. Queries come as f32 into a room of their own, the next tile's while this tile is
 * computed. */
#include "exec/cuda/attend_tile_rows.cuh"

static constexpr uint32_t THREADS = WARPGROUPS * 128 + 128;
static constexpr uint32_t FETCH_REGISTERS = 56; /* 3 * 168 = 56 + 2 * 224 */
static constexpr uint32_t MULTIPLY_REGISTERS = 224;

struct TileMaps {
    CUtensorMap queries; /* f32 [token][head][dim] */
    CUtensorMap keys;    /* [slot][position][head][dim] */
    CUtensorMap values;
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

    /* Says which tile comes next, and fetches its queries. */
    __device__ void post(const AttendTile &tile)
    {
        uint32_t full = shared_address(&room.control->queries_full);
        barrier_wait(shared_address(&room.control->queries_empty), queries_parity ^ 1);
        queries_parity ^= 1;
        room.control->tile = tile;
        if (tile.at.tokens == 0 || !has_keys(tile)) {
            barrier_arrive(full);
            return;
        }
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
        barrier_wait(shared_address(&room.control->keys_empty[stage]), keys_turn.parity ^ 1);
        fetch(&maps.keys, tile, first, room.keys(stage),
              shared_address(&room.control->keys_full[stage]));
        keys_turn.advance();
    }

    __device__ void fetch_values(const AttendTile &tile, uint32_t first, bool cut)
    {
        uint32_t stage = values_turn.stage;
        barrier_wait(shared_address(&room.control->values_empty[stage]), values_turn.parity ^ 1);
        fetch(&maps.values, tile, first, room.values(stage),
              shared_address(cut ? &room.control->last_values : &room.control->values_full[stage]));
        values_turn.advance();
    }

    /* What lies behind the last key is of no request, and may be no number: a share of 0 would not
     * hide it. By the warp. */
    __device__ void cut_off(uint32_t stage, uint32_t keys)
    {
        barrier_wait(shared_address(&room.control->last_values), last_parity);
        last_parity ^= 1;
        for (uint32_t c = 0; c < Room::CHUNKS; c++) {
            uint4 *row = (uint4 *)(room.values(stage) + (c * KEYS + keys) * ROW_BYTES);
            for (uint32_t i = threadIdx.x % 32; i < (KEYS - keys) * ROW_BYTES / 16; i += 32)
                row[i] = make_uint4(0, 0, 0, 0);
        }
        fence_for_copies();
        __syncwarp();
        if (threadIdx.x % 32 == 0)
            barrier_arrive(shared_address(&room.control->values_full[stage]));
    }

    /* The keys and values of TILE; after the first of them AFTER is posted. */
    __device__ void fetch_tile(const AttendTile &tile, const AttendTile &after)
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
                if (b == blocks - 1)
                    post(after);
            }
            if ((b + 2 == blocks || blocks == 1) && last_keys < KEYS)
                cut_off(stage, last_keys);
        }
        __syncwarp();
    }

    __device__ void run()
    {
        AttendItems items = {0};
        AttendTile tile = {};
        items.next(task, &tile);
        if (threadIdx.x % 32 == 0)
            post(tile);
        while (tile.at.tokens > 0) {
            AttendTile after = {};
            items.next(task, &after);
            if (has_keys(tile))
                fetch_tile(tile, after);
            else if (threadIdx.x % 32 == 0)
                post(after);
            tile = after;
        }
    }
};

/* ---- the warpgroups that multiply ---- */

template <uint32_t DIM, bool BIASED> struct Multiplier {
    using Rows = TileRows<DIM, BIASED>;
    using Scores = float[KEYS / 2];
    const AttendTask &task;
    TileRoom<DIM> room;
    Turn<STAGES> keys_turn;
    Turn<STAGES> values_turn;
    uint32_t queries_parity;

    /* The next tile, and its queries to where the products read them. */
    __device__ void take_tile(AttendTile *tile)
    {
        barrier_wait(shared_address(&room.control->queries_full), queries_parity);
        queries_parity ^= 1;
        *tile = room.control->tile;
        if (has_keys(*tile)) {
            named_barrier(1 + threadIdx.x / 128, 128); /* nobody reads the last tile's rows */
            Rows::round_queries(room);
            fence_for_copies();
            named_barrier(1 + threadIdx.x / 128, 128);
        }
        /* Each for what it read: racecheck does not see that one lane may for those that it met. */
        barrier_arrive(shared_address(&room.control->queries_empty));
    }

    /* Queues the products of the next keys. */
    __device__ void multiply_keys(Scores &score)
    {
        barrier_wait(shared_address(&room.control->keys_full[keys_turn.stage]), keys_turn.parity);
        wgmma_fence();
        Rows::multiply_keys(room, keys_turn.stage, score);
    }

    __device__ void multiply_values(Rows &rows)
    {
        barrier_wait(shared_address(&room.control->values_full[values_turn.stage]),
                     values_turn.parity);
        wgmma_fence();
        rows.multiply_values(room, values_turn.stage);
    }

    __device__ void keys_done(Scores &score)
    {
        wgmma_results(score);
        release(&room.control->keys_empty[keys_turn.stage]);
        keys_turn.advance();
    }

    __device__ void values_done(Rows &rows)
    {
        wgmma_results(rows.mixed);
        release(&room.control->values_empty[values_turn.stage]);
        values_turn.advance();
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

    /* The products of a tile's last keys, unless it has none. */
    __device__ void start(const AttendTile &tile, Scores &score)
    {
        if (!has_keys(tile))
            return;
        multiply_keys(score);
        wgmma_wait<0>();
        keys_done(score);
    }

    /* The last values of a tile are weighed, and its rows written, while the first products of the
     * next one are made. */
    __device__ void run()
    {
        Rows rows;
        AttendTile tile;
        AttendTile after;
        Scores score;
        take_tile(&tile);
        start(tile, score);
        while (tile.at.tokens > 0) {
            rows.begin(task, tile);
            if (!has_keys(tile)) {
                rows.finish(task, tile);
                take_tile(&tile);
                start(tile, score);
                continue;
            }
            uint32_t blocks = divide_up(tile.keys.end - tile.keys.first, KEYS);
            first_block(rows, tile, tile.keys.first + (blocks - 1) * KEYS, score);
            for (uint32_t b = blocks - 1; b-- > 0;)
                next_block(rows, tile, tile.keys.first + b * KEYS, score);
            multiply_values(rows);
            take_tile(&after);
            if (has_keys(after)) {
                multiply_keys(score);
                wgmma_wait<1>();
                values_done(rows);
                rows.finish(task, tile);
                wgmma_wait<0>();
                keys_done(score);
            } else {
                wgmma_wait<0>();
                values_done(rows);
                rows.finish(task, tile);
            }
            tile = after;
        }
    }
};

__device__ static void init_barriers(TileControl *control)
{
    const uint32_t warps = WARPGROUPS * 4;
    barrier_init(shared_address(&control->queries_full), 1);
    barrier_init(shared_address(&control->queries_empty), warps * 32);
    barrier_init(shared_address(&control->last_values), 1);
    for (uint32_t s = 0; s < STAGES; s++) {
        barrier_init(shared_address(&control->keys_full[s]), 1);
        barrier_init(shared_address(&control->values_full[s]), 1);
        barrier_init(shared_address(&control->keys_empty[s]), warps);
        barrier_init(shared_address(&control->values_empty[s]), warps);
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
        init_barriers(room.control);
    __syncthreads();
    wait_for_earlier_kernels();
    if (task.lets_next)
        let_next_kernel_start();
    if (threadIdx.x / 128 == WARPGROUPS) {
        take_registers<FETCH_REGISTERS, false>();
        if (threadIdx.x / 32 == WARPGROUPS * 4)
            Fetcher<DIM>{task, maps, room, {0, 0}, {0, 0}, 0, 0}.run();
    } else {
        take_registers<MULTIPLY_REGISTERS, true>();
        Multiplier<DIM, BIASED>{task, room, {0, 0}, {0, 0}, 0}.run();
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
