/* The tiles of attend_tiles.cu: what lies in shared memory, and a thread's part of a tile's rows.
 */
#ifndef EXEC_CUDA_ATTEND_TILE_ROWS_CUH
#define EXEC_CUDA_ATTEND_TILE_ROWS_CUH

#include "exec/cuda/attend_items.cuh"
#include "exec/cuda/reduce.cuh"
#include "exec/cuda/wgmma.cuh"

static constexpr uint32_t KEYS = 128; /* of a block of them */
static constexpr uint32_t STAGES = 2;
static constexpr uint32_t WARPGROUPS = 2;

static_assert(TILE_ROWS == WARPGROUPS * 64, "rows");

struct TileControl {
    AttendTile tile; /* whose queries come next; without tokens: the end */
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
        1024 + ROWS_BYTES + 2 * STAGES * KEYS_BYTES + FLOATS_BYTES + sizeof(TileControl);

    unsigned char *base;
    TileControl *control;

    __device__ explicit TileRoom(unsigned char *shared)
    {
        base = align_operands(shared);
        control = (TileControl *)(base + BYTES - 1024 - sizeof(TileControl));
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
        constexpr uint32_t LANES = DIM / 4; /* of a row */
        constexpr uint32_t TURNS = 16 * LANES / 32;
        uint32_t lane = threadIdx.x % LANES;
        uint32_t row = threadIdx.x / 32 * 16 + threadIdx.x % 32 / LANES;
        const float *from = room.floats() + row * DIM + lane * 4;
        unsigned char *to = room.rows() + lane / 16 * TILE_ROWS * ROW_BYTES + row * ROW_BYTES;
        float4 word[TURNS];
#pragma unroll
        for (uint32_t i = 0; i < TURNS; i++)
            word[i] = *(const float4 *)(from + i * 128);
#pragma unroll
        for (uint32_t i = 0; i < TURNS; i++) {
            uint32_t below = i * 32 / LANES; /* rows */
            uint32_t swizzle = (row + below) % 8 * 16;
            *(uint2 *)(to + below * ROW_BYTES + (lane % 16 * 8 ^ swizzle)) =
                make_uint2(pack_bf16(word[i].x, word[i].y), pack_bf16(word[i].z, word[i].w));
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

    /* Where rows go, and their factors; writes what is to be known of parts. */
    __device__ void find_places(const AttendTask &task, const AttendTile &tile, float (&scale)[2],
                                float *(&to)[2])
    {
        float total[2] = {sum_lanes<4>(sum[0]), sum_lanes<4>(sum[1])};
#pragma unroll
        for (uint32_t r = 0; r < 2; r++) {
            float natural = BIASED ? most[r] : most[r] * task.layer.scale;
            if (row[r].there)
                scale[r] = begin_row(task, row[r], tile.split, natural, total[r],
                                     threadIdx.x % 4 == 0, &to[r]);
        }
    }

    __device__ void finish(const AttendTask &task, const AttendTile &tile)
    {
        float *to[2];
        float scale[2];
        uint32_t column = threadIdx.x % 4 * 2;
        find_places(task, tile, scale, to);
#pragma unroll
        for (uint32_t r = 0; r < 2; r++) {
            if (!row[r].there)
                continue;
#pragma unroll
            for (uint32_t j = 0; j < DIM / 8; j++)
                if (8 * j + column < task.layer.value_dim)
                    put_results(task, to[r], 8 * j + column,
                                make_float2(mixed[4 * j + 2 * r] * scale[r],
                                            mixed[4 * j + 2 * r + 1] * scale[r]));
        }
    }
};

#endif
