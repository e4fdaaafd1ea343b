/* Latent attention: one key head of 576 elements, whose first 512 are the values too.
 *
 * One block per multiprocessor takes tile after tile of 64 rows. A warp fetches keys in blocks of
 * 64 into a ring in shared memory, where they serve both products. Each of two warpgroups computes
 * the scores of half of the keys; they tell each other the rows' maxima and shares by way of shared
 * memory, and each weighs half of the values. The scores of the next keys follow the values of the
 * last ones through the tensor cores without a pause; the softmax between them is not hidden. */
#include "exec/cuda/attend_items.cuh"
#include "exec/cuda/reduce.cuh"
#include "exec/cuda/wgmma.cuh"

static constexpr uint32_t KEYS = 64;
static constexpr uint32_t STAGES = 2;
static constexpr uint32_t WARPGROUPS = 2;
static constexpr uint32_t MULTIPLIERS = WARPGROUPS * 128;
static constexpr uint32_t THREADS = MULTIPLIERS + 128;
static constexpr uint32_t FETCH_REGISTERS = 56; /* 3 * 168 = 56 + 2 * 224 */
static constexpr uint32_t MULTIPLY_REGISTERS = 224;
static constexpr uint32_t CHUNKS = LATENT_KEY_DIM / 64;
static constexpr uint32_t OWN_KEYS = KEYS / WARPGROUPS;
static constexpr uint32_t OWN_DIMS = LATENT_VALUE_DIM / WARPGROUPS;
static constexpr uint32_t STORED_DIMS = 128;              /* of a warp's rows at a time */
static constexpr uint32_t STORED_PITCH = STORED_DIMS + 8; /* floats; without bank conflicts */
static constexpr uint32_t EXCHANGE = 1;                   /* the barrier of the warpgroups */

/* Shared memory, aligned to 1024. Operands are chunks of 64 columns. */
struct LatentRoom {
    unsigned char rows[CHUNKS][LATENT_ROWS * ROW_BYTES];
    unsigned char keys[STAGES][CHUNKS][KEYS * ROW_BYTES];
    unsigned char shares[LATENT_ROWS * ROW_BYTES];
    float exchanged[WARPGROUPS][LATENT_ROWS]; /* maxima, then sums */
    uint64_t full[STAGES];
    uint64_t empty[STAGES];
    uint64_t last_keys; /* landed, not yet cut off */
};

static_assert(MULTIPLIERS / 32 * 16 * STORED_PITCH * 4 <= CHUNKS * LATENT_ROWS * ROW_BYTES, "room");

static constexpr uint32_t ROOM_BYTES = sizeof(LatentRoom) + 1024;

/* ---- the warp that fetches ---- */

struct LatentFetcher {
    const CUtensorMap &map;
    LatentRoom &room;
    Turn<STAGES> turn;
    uint32_t last_parity;

    /* Keys from FIRST on; the first of a tile's may have an end to be CUT off. By one thread. */
    __device__ void fetch(const AttendTile &tile, uint32_t first, bool cut)
    {
        uint32_t stage = turn.stage;
        uint32_t barrier = shared_address(cut ? &room.last_keys : &room.full[stage]);
        barrier_wait(shared_address(&room.empty[stage]), turn.parity ^ 1);
        barrier_arrive_expect(barrier, CHUNKS * KEYS * ROW_BYTES);
        for (uint32_t c = 0; c < CHUNKS; c++)
            copy_box_4d(shared_address(room.keys[stage][c]), &map, barrier, (int)(c * 64), 0,
                        (int)first, (int)tile.at.span.kv_slot);
    }

    /* What lies behind the last key may be no number, which a share of 0 would not hide. */
    __device__ void cut_off(uint32_t keys)
    {
        barrier_wait(shared_address(&room.last_keys), last_parity);
        last_parity ^= 1;
        for (uint32_t c = 0; c < CHUNKS; c++) {
            uint4 *row = (uint4 *)(room.keys[turn.stage][c] + keys * ROW_BYTES);
            for (uint32_t i = threadIdx.x % 32; i < (KEYS - keys) * ROW_BYTES / 16; i += 32)
                row[i] = make_uint4(0, 0, 0, 0);
        }
        fence_for_copies();
        release(&room.full[turn.stage]);
    }

    __device__ void fetch_tile(const AttendTile &tile)
    {
        uint32_t all = tile.keys.end - tile.keys.first;
        for (uint32_t first = 0; first < all; first += KEYS) {
            bool cut = all - first < KEYS;
            if (threadIdx.x % 32 == 0)
                fetch(tile, tile.keys.first + first, cut);
            __syncwarp();
            if (cut)
                cut_off(all - first);
            turn.advance();
        }
    }

    /* The queries of a tile come from the L2 when it is its turn. */
    __device__ static void announce(const AttendTask &task, const AttendTile &tile)
    {
        for (uint32_t r = threadIdx.x % 32; r < LATENT_ROWS; r += 32) {
            const AttendRow row = find_row(task, tile, r);
            if (row.there)
                prefetch_bytes(row_query(task, row), LATENT_KEY_DIM * sizeof(float));
        }
    }

    __device__ void run(const AttendTask &task)
    {
        AttendItems items = {0};
        AttendTile tile = {};
        items.next(task, &tile);
        while (tile.at.tokens > 0) {
            AttendTile after = {};
            if (items.next(task, &after))
                announce(task, after);
            fetch_tile(tile);
            tile = after;
        }
    }
};

/* ---- the warpgroups that multiply ---- */

/* DIMS values of two rows that a lane has (as wgmma's sums), of which WANTED are, -> TO[0] and
 * TO[1] where THERE says so, by way of ROOM for 16 * STORED_PITCH floats. By a warp. */
template <uint32_t DIMS> static constexpr uint32_t STORE_PITCH = DIMS + 8; /* no bank conflicts */

__device__ static void store_rows(float *room, const float *value, const float (&scale)[2],
                                  const bool (&there)[2], float *const (&to)[2])
{
    uint32_t g = threadIdx.x % 32 / 4;
    uint32_t t = threadIdx.x % 4;
    float *own = room + g * STORED_PITCH;
#pragma unroll
    for (uint32_t r = 0; r < 2; r++)
#pragma unroll
        for (uint32_t j = 0; j < STORED_DIMS / 8; j++)
            *(float2 *)(own + 8 * r * STORED_PITCH + 8 * j + 2 * t) =
                make_float2(value[4 * j + 2 * r] * scale[r], value[4 * j + 2 * r + 1] * scale[r]);
    fence_for_copies();
    __syncwarp();
    if (t < 2 && (t == 0 ? there[0] : there[1]))
        store_bytes(t == 0 ? to[0] : to[1], shared_address(own + 8 * t * STORED_PITCH),
                    STORED_DIMS * sizeof(float));
    await_stores();
    __syncwarp();
}

/* A thread: two rows of the tile's 64, and of each two columns of every eight of its warpgroup's.
 */
struct LatentRows {
    AttendRow row[2];
    uint32_t place[2]; /* of the row in the tile */
    float most[2];     /* of the scores, times FACTOR an exponent of 2 */
    float sum[2];      /* of this thread's keys */
    float mixed[OWN_DIMS / 2];

    __device__ void begin(const AttendTask &task, const AttendTile &tile)
    {
#pragma unroll
        for (uint32_t i = 0; i < 2; i++) {
            place[i] = threadIdx.x % 128 / 32 * 16 + threadIdx.x % 32 / 4 + 8 * i;
            row[i] = find_row(task, tile, place[i]);
            most[i] = -CUDART_INF_F;
            sum[i] = 0;
        }
#pragma unroll
        for (float &m : mixed)
            m = 0;
    }

    __device__ void hide_unseen(uint32_t first, const KeyRange &keys, float (&score)[OWN_KEYS / 2])
    {
        uint32_t column = threadIdx.x / 128 * OWN_KEYS + threadIdx.x % 4 * 2;
#pragma unroll
        for (uint32_t i = 0; i < OWN_KEYS / 2; i++) {
            const KeyRange &seen = row[i / 2 % 2].seen;
            uint32_t key = first + column + i / 4 * 8 + i % 2;
            if (key < seen.first || key >= min(seen.end, keys.end))
                score[i] = -CUDART_INF_F;
        }
    }

    /* This warpgroup's maxima, told to the other, which tells its own. */
    __device__ void exchange_most(LatentRoom &room, const float (&score)[OWN_KEYS / 2],
                                  float (&higher)[2])
    {
        uint32_t own = threadIdx.x / 128;
#pragma unroll
        for (uint32_t r = 0; r < 2; r++) {
            higher[r] = most[r];
#pragma unroll
            for (uint32_t i = 0; i < OWN_KEYS / 4; i++)
                higher[r] = fmaxf(higher[r], score[i / 2 * 4 + 2 * r + i % 2]);
            higher[r] = most_of_lanes<4>(higher[r]);
            if (threadIdx.x % 4 == 0)
                room.exchanged[own][place[r]] = higher[r];
        }
        named_barrier(EXCHANGE, MULTIPLIERS);
#pragma unroll
        for (uint32_t r = 0; r < 2; r++)
            higher[r] = fmaxf(higher[r], room.exchanged[1 - own][place[r]]);
    }

    /* Scores of this warpgroup's keys -> shares of all keys in shared memory. */
    __device__ void take_shares(LatentRoom &room, float factor, float (&score)[OWN_KEYS / 2])
    {
        float higher[2];
        float kept[2];
        exchange_most(room, score, higher);
#pragma unroll
        for (uint32_t r = 0; r < 2; r++) {
            float base = higher[r] == -CUDART_INF_F ? 0 : higher[r] * factor;
            kept[r] = power_of_2(most[r] * factor - base);
            most[r] = higher[r];
            float total = 0;
#pragma unroll
            for (uint32_t i = 0; i < OWN_KEYS / 4; i += 2) {
                float low = power_of_2(fmaf(score[2 * i + 2 * r], factor, -base));
                float high = power_of_2(fmaf(score[2 * i + 2 * r + 1], factor, -base));
                uint32_t column = threadIdx.x / 128 * OWN_KEYS + i * 4 + threadIdx.x % 4 * 2;
                total += low + high;
                *(uint32_t *)(room.shares + swizzled_offset(place[r], column)) =
                    pack_bf16(low, high);
            }
            sum[r] = sum[r] * kept[r] + total;
        }
        fence_for_copies();
        named_barrier(EXCHANGE, MULTIPLIERS);
        if (__any_sync(0xFFFFFFFF, kept[0] != 1 || kept[1] != 1))
#pragma unroll
            for (uint32_t i = 0; i < OWN_DIMS / 2; i++)
                mixed[i] *= kept[i / 2 % 2];
    }

    __device__ void finish(LatentRoom &room, const AttendTask &task, const AttendTile &tile)
    {
        uint32_t own = threadIdx.x / 128;
#pragma unroll
        for (uint32_t r = 0; r < 2; r++) {
            sum[r] = sum_lanes<4>(sum[r]);
            if (threadIdx.x % 4 == 0)
                room.exchanged[own][place[r]] = sum[r];
        }
        named_barrier(EXCHANGE, MULTIPLIERS);
        float *to[2] = {task.out, task.out};
        float scale[2] = {0, 0};
        const bool there[2] = {row[0].there, row[1].there};
#pragma unroll
        for (uint32_t r = 0; r < 2; r++) {
            float total = room.exchanged[0][place[r]] + room.exchanged[1][place[r]];
            if (there[r])
                scale[r] = begin_row(task, row[r], tile.split, most[r] * task.layer.scale, total,
                                     own == 0 && threadIdx.x % 4 == 0, &to[r]);
            to[r] += own * OWN_DIMS;
        }
        float *stored = (float *)room.rows + threadIdx.x / 32 * (16 * STORED_PITCH);
#pragma unroll
        for (uint32_t first = 0; first < OWN_DIMS; first += STORED_DIMS) {
            store_rows(stored, &mixed[first / 2], scale, there, to);
            to[0] += STORED_DIMS;
            to[1] += STORED_DIMS;
        }
        named_barrier(EXCHANGE, MULTIPLIERS); /* the sums are read, and the rows' room is free */
    }
};

struct LatentMultiplier {
    const AttendTask &task;
    LatentRoom &room;
    Turn<STAGES> keys_turn;
    Turn<STAGES> values_turn;

    /* The tile's queries, rounded, to where the products read them: a warp takes two rows at a
     * time, a lane 16 bytes of every 512. */
    __device__ void take_queries(const AttendTile &tile)
    {
        constexpr uint32_t WORDS = (LATENT_KEY_DIM + 127) / 128;
        uint32_t column = threadIdx.x % 32 * 4;
        for (uint32_t first = threadIdx.x / 32; first < LATENT_ROWS; first += MULTIPLIERS / 16) {
            float4 word[2][WORDS];
#pragma unroll
            for (uint32_t i = 0; i < 2; i++) {
                const AttendRow row = find_row(task, tile, first + MULTIPLIERS / 32 * i);
                const float *query = row_query(task, row) + column;
#pragma unroll
                for (uint32_t w = 0; w < WORDS; w++)
                    word[i][w] = row.there && column + 128 * w < LATENT_KEY_DIM
                                     ? *(const float4 *)(query + 128 * w)
                                     : make_float4(0, 0, 0, 0);
            }
#pragma unroll
            for (uint32_t i = 0; i < 2; i++)
#pragma unroll
                for (uint32_t w = 0; w < WORDS; w++)
                    if (column + 128 * w < LATENT_KEY_DIM)
                        *(uint2 *)(room.rows[2 * w + column / 64] +
                                   swizzled_offset(first + MULTIPLIERS / 32 * i, column % 64)) =
                            make_uint2(pack_bf16(word[i][w].x, word[i][w].y),
                                       pack_bf16(word[i][w].z, word[i][w].w));
        }
        fence_for_copies();
        named_barrier(EXCHANGE, MULTIPLIERS);
    }

    __device__ void multiply_keys(float (&score)[OWN_KEYS / 2])
    {
        uint32_t stage = keys_turn.stage;
        uint64_t a = swizzled_operand(shared_address(room.rows[0]));
        uint64_t b = swizzled_operand(shared_address(room.keys[stage][0]) +
                                      threadIdx.x / 128 * OWN_KEYS * ROW_BYTES);
        barrier_wait(shared_address(&room.full[stage]), keys_turn.parity);
        keys_turn.advance();
        wgmma_fence();
        Wgmma<OWN_KEYS>::set_product(score, a, b);
#pragma unroll
        for (uint32_t k = 1; k < LATENT_KEY_DIM / 16; k++)
            Wgmma<OWN_KEYS>::add_product(score,
                                         a + k / 4 * (LATENT_ROWS * ROW_BYTES >> 4) + k % 4 * 2,
                                         b + k / 4 * (KEYS * ROW_BYTES >> 4) + k % 4 * 2);
        wgmma_commit();
    }

    __device__ void multiply_values(LatentRows &rows)
    {
        uint64_t a = swizzled_operand(shared_address(room.shares));
        uint32_t first = threadIdx.x / 128 * (OWN_DIMS / 64);
        uint64_t b =
            swizzled_columns(shared_address(room.keys[values_turn.stage][first]), KEYS * ROW_BYTES);
        wgmma_fence();
#pragma unroll
        for (uint32_t k = 0; k < KEYS / 16; k++)
            WgmmaColumns<OWN_DIMS>::add_product(rows.mixed, a + 2 * k, b + 128 * k);
        wgmma_commit();
    }

    __device__ void release_keys()
    {
        release(&room.empty[values_turn.stage]);
        values_turn.advance();
    }

    __device__ void do_tile(const AttendTile &tile)
    {
        const float factor = task.layer.scale * LOG2_E;
        LatentRows rows;
        float score[OWN_KEYS / 2];
        rows.begin(task, tile);
        take_queries(tile);
        for (uint32_t first = tile.keys.first; first < tile.keys.end; first += KEYS) {
            bool follows = first > tile.keys.first;
            if (follows)
                multiply_values(rows);
            multiply_keys(score);
            if (follows) {
                wgmma_wait<1>();
                wgmma_results(rows.mixed);
                release_keys();
            }
            wgmma_wait<0>();
            wgmma_results(score);
            rows.hide_unseen(first, tile.keys, score);
            rows.take_shares(room, factor, score);
        }
        if (tile.keys.end > tile.keys.first) {
            multiply_values(rows);
            wgmma_wait<0>();
            wgmma_results(rows.mixed);
            release_keys();
        }
        rows.finish(room, task, tile);
    }

    __device__ void run()
    {
        AttendItems items = {0};
        AttendTile tile;
        while (items.next(task, &tile))
            do_tile(tile);
    }
};

__device__ static void init_barriers(LatentRoom &room)
{
    barrier_init(shared_address(&room.last_keys), 1);
    for (uint32_t s = 0; s < STAGES; s++) {
        barrier_init(shared_address(&room.full[s]), 1);
        barrier_init(shared_address(&room.empty[s]), MULTIPLIERS / 32);
    }
    barrier_init_fence();
}

/* A block: tiles of 64 rows. Per 64 keys it reads 72 KiB and computes 8.9 million operations, as
 * many for fewer rows: with 16 query heads and one token, device memory bounds it, with 64 rows the
 * tensor cores. */
__global__ void __launch_bounds__(THREADS, 1)
    attend_rows_latents(const __grid_constant__ AttendTask task,
                        const __grid_constant__ CUtensorMap map)
{
    extern __shared__ unsigned char shared[];
    LatentRoom &room = *(LatentRoom *)align_operands(shared);
    if (threadIdx.x == 0)
        init_barriers(room);
    __syncthreads();
    wait_for_earlier_kernels();
    let_next_kernel_start();
    if (threadIdx.x / 128 == WARPGROUPS) {
        take_registers<FETCH_REGISTERS, false>();
        if (threadIdx.x / 32 == MULTIPLIERS / 32)
            LatentFetcher{map, room, {0, 0}, 0}.run(task);
    } else {
        take_registers<MULTIPLY_REGISTERS, true>();
        LatentMultiplier{task, room, {0, 0}, {0, 0}}.run();
    }
}

Status attend_latents(const AttendTask &task, uint32_t blocks, cudaStream_t stream)
{
    const AttendLayer &layer = task.layer;
    const LaunchShape launch = {dim3(min(blocks, count_items(task))), THREADS, ROOM_BYTES, 0};
    CUtensorMap map;
    TRY(map_cache(layer, layer.cache.keys, layer.key_dim, layer.cache.key_stride, KEYS, &map));
    CUDA_TRY(cudaFuncSetAttribute(attend_rows_latents, cudaFuncAttributeMaxDynamicSharedMemorySize,
                                  (int)ROOM_BYTES));
    return launch_after(attend_rows_latents, launch, stream, task, map);
}
