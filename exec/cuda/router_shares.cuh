/* From a token's logits to its experts where many are chosen from by their shares alone: a softmax
 * router without corrections or groups, which most are. Half the instructions of the general way
 * (exec/cuda/router.cuh), which bound it when there are many tokens: for 32 tokens of a
 * multiprocessor and 2 of 512 experts 7 us instead of 13 on an H200. With up to 256 experts the
 * general way has fewer for each choice.
 *
 * A warp takes a token. A lane has four neighbouring experts of every 128, whose shares never leave
 * its registers but for where they are recorded, and knows the best of each four: a choice looks at
 * these, and then at one four. */
#ifndef EXEC_CUDA_ROUTER_SHARES_CUH
#define EXEC_CUDA_ROUTER_SHARES_CUH

#include "exec/cuda/router.cuh"

#include <utility>

template <uint32_t I> struct Index {
    __device__ constexpr operator uint32_t() const
    {
        return I;
    }
};

template <uint32_t... I, typename Body>
__device__ __forceinline__ void each_in(std::integer_sequence<uint32_t, I...>, const Body &body)
{
    (body(Index<I>()), ...);
}

/* BODY(i) for i below N. Unlike in an unrolled loop i is a constant from the first, and the
 * compiler never takes an array's place for one that changes: it stays in registers. */
template <uint32_t N, typename Body> __device__ __forceinline__ void each_of(const Body &body)
{
    each_in(std::make_integer_sequence<uint32_t, N>(), body);
}

static constexpr uint32_t SHARE_FOURS = 4; /* of a lane */
static constexpr uint32_t LEAST_SHARES = 257;
static constexpr uint32_t MOST_SHARES = 128 * SHARE_FOURS;

/* True where a ShareRouter can choose, and is faster. */
inline bool chosen_by_shares(const RouteTask &task)
{
    return task.experts >= LEAST_SHARES && task.experts <= MOST_SHARES &&
           (task.config.kind == ROUTER_SOFTMAX || task.config.kind == ROUTER_TOP_K_SOFTMAX) &&
           task.correction == nullptr && task.config.groups <= 1 && task.forced == nullptr &&
           task.experts % 4 == 0 && task.top_k <= 32 &&
           (uintptr_t)task.routing.scores % sizeof(float4) == 0;
}

/* One token's, in the hands of one warp. */
struct ShareRouter {
    static constexpr uint32_t FOURS = SHARE_FOURS;
    static constexpr uint32_t OWN = 4 * FOURS;
    static constexpr uint32_t THERE = 0x80000000; /* in a rank: 0 comes before all others */
    const RouteTask &task;
    uint32_t lane;
    float share[OWN];
    uint32_t rank[OWN];   /* orders as shares do; 0: chosen already, or no expert */
    uint32_t best[FOURS]; /* of each four */

    __device__ __forceinline__ explicit ShareRouter(const RouteTask &route_task)
        : task(route_task), lane(threadIdx.x % 32)
    {
    }

    /* The first expert of the lane's four number J, and whether they are there. */
    __device__ __forceinline__ uint32_t first(uint32_t j) const
    {
        return j * 128 + lane * 4;
    }
    __device__ __forceinline__ bool has(uint32_t j) const
    {
        return first(j) < task.experts;
    }

    /* LOGITS, shared, aligned to 16 -> shares, of which all TOTAL; that is no number where the
     * logits are none. */
    __device__ __forceinline__ float make_shares(const float *logits)
    {
        float most = -CUDART_INF_F;
        float sum = 0;
        each_of<FOURS>([&](auto j) {
            float4 four = make_float4(-CUDART_INF_F, -CUDART_INF_F, -CUDART_INF_F, -CUDART_INF_F);
            if (has(j))
                four = *(const float4 *)(logits + first(j));
            share[4 * j] = four.x;
            share[4 * j + 1] = four.y;
            share[4 * j + 2] = four.z;
            share[4 * j + 3] = four.w;
        });
        each_of<OWN>([&](auto i) { most = fmaxf(most, share[i]); });
        most = most_of_lanes(most);
        each_of<OWN>([&](auto i) {
            share[i] = expf(share[i] - most);
            sum += share[i];
        });
        return sum_lanes(sum);
    }

    /* ... each divided by TOTAL, and where the trace is told. */
    __device__ __forceinline__ void record_shares(float total, float *to)
    {
        float scale = 1 / total;
        each_of<OWN>([&](auto i) { share[i] *= scale; });
        each_of<FOURS>([&](auto j) {
            if (has(j))
                *(float4 *)(to + first(j)) =
                    make_float4(share[4 * j], share[4 * j + 1], share[4 * j + 2], share[4 * j + 3]);
        });
    }

    template <uint32_t J> __device__ __forceinline__ void find_best()
    {
        best[J] = max(max(rank[4 * J], rank[4 * J + 1]), max(rank[4 * J + 2], rank[4 * J + 3]));
    }

    /* Of shares that are no NUMBERS all are equal. */
    __device__ __forceinline__ void set_ranks(bool numbers)
    {
        each_of<FOURS>([&](auto j) {
            uint32_t there = has(j) ? THERE : 0;
            uint32_t bits = numbers && has(j) ? ~THERE : 0;
            rank[4 * j] = (__float_as_uint(share[4 * j]) & bits) | there;
            rank[4 * j + 1] = (__float_as_uint(share[4 * j + 1]) & bits) | there;
            rank[4 * j + 2] = (__float_as_uint(share[4 * j + 2]) & bits) | there;
            rank[4 * j + 3] = (__float_as_uint(share[4 * j + 3]) & bits) | there;
            find_best<j>();
        });
    }

    /* Which of four number J is the first of rank MOST; where it is the lane's OWN it is taken. */
    template <uint32_t J> __device__ __forceinline__ uint32_t take(uint32_t most, bool own)
    {
        uint32_t at = rank[4 * J] == most       ? 0
                      : rank[4 * J + 1] == most ? 1
                      : rank[4 * J + 2] == most ? 2
                                                : 3;
        rank[4 * J] = own && at == 0 ? 0 : rank[4 * J];
        rank[4 * J + 1] = own && at == 1 ? 0 : rank[4 * J + 1];
        rank[4 * J + 2] = own && at == 2 ? 0 : rank[4 * J + 2];
        rank[4 * J + 3] = own && at == 3 ? 0 : rank[4 * J + 3];
        find_best<J>();
        return at;
    }

    /* The best expert that is left, of equals the lowest; *MOST_OF_ALL is its rank. */
    __device__ __forceinline__ uint32_t choose(uint32_t *most_of_all)
    {
        uint32_t most = 0;
        uint32_t place = UINT32_MAX; /* of its four */
        uint32_t at = 0;
        each_of<FOURS>([&](auto j) { most = max(most, best[j]); });
        most = __reduce_max_sync(0xFFFFFFFF, most);
        each_of<FOURS>([&](auto j) {
            uint32_t last = FOURS - 1 - j;
            place = best[FOURS - 1 - j] == most ? last * 32 + lane : place;
        });
        place = __reduce_min_sync(0xFFFFFFFF, place);
        each_of<FOURS>([&](auto j) {
            if (j == place / 32)
                at = take<j>(most, lane == place % 32);
        });
        *most_of_all = most;
        return place * 4 + __shfl_sync(0xFFFFFFFF, at, place % 32);
    }

    /* From the logits on, which all lanes see. */
    __device__ __forceinline__ void route(const float *logits, size_t token)
    {
        const float total = make_shares(logits);
        float sum = 0;
        float weight = 0;
        uint32_t expert = 0;
        record_shares(total, task.routing.scores + token * task.experts);
        set_ranks(!isnan(total));
#pragma unroll 1
        for (uint32_t slot = 0; slot < task.top_k; slot++) {
            uint32_t most;
            uint32_t chosen = choose(&most);
            float value = isnan(total) ? total : __uint_as_float(most & ~THERE);
            sum += value;
            weight = lane == slot ? value : weight;
            expert = lane == slot ? chosen : expert;
        }
        if (task.config.normalise || task.config.kind == ROUTER_TOP_K_SOFTMAX)
            weight = sum != 0 ? weight / sum : weight;
        if (lane < task.top_k) {
            task.routing.experts[token * task.top_k + lane] = (uint16_t)expert;
            task.routing.weights[token * task.top_k + lane] = weight * task.config.scale;
        }
    }
};

#endif
