/* From a token's logits to its experts and their weights, for every kind of router. A warp takes a
 * token, whose scores its lanes hold. */
#ifndef EXEC_CUDA_ROUTER_CUH
#define EXEC_CUDA_ROUTER_CUH

#include "exec/cuda/reduce.cuh"
#include "exec/cuda/router.h"

#include <math_constants.h>

static constexpr uint32_t NO_EXPERT = UINT32_MAX;

struct RouteTask {
    RouterConfig config;
    const float *correction;
    uint32_t experts;
    uint32_t top_k;
    uint32_t tokens;
    const uint16_t *forced;
    const float *forced_weights;
    Routing routing;
};

/* Words of shared memory that a token takes, its logits first. */
__host__ __device__ inline uint32_t router_words(const RouteTask &task)
{
    return task.experts + 2 * task.top_k + task.config.groups;
}

/* One token's, in the hands of one warp: a lane has experts lane, lane + 32, ..., PER_LANE at the
 * most. For few tokens there is little to do, and most of its time would go into fetching
 * instructions: hence loops, but where ranks are kept in registers. MANY tokens are bound by
 * latency: no lane then branches on whether an expert is there. */
template <uint32_t PER_LANE, bool MANY = false> struct TokenRouter {
    const RouteTask &task;
    uint32_t lane;
    float *scores;    /* shared [experts]: logits, then scores */
    float *weights;   /* [top_k] */
    uint32_t *chosen; /* [top_k] */
    float *groups;    /* [groups] */
    uint32_t taken;   /* bit i: of the lane's expert number i */

    __device__ __forceinline__ TokenRouter(const RouteTask &route_task, float *shared)
        : task(route_task), lane(threadIdx.x % 32), scores(shared),
          weights(shared + route_task.experts), chosen((uint32_t *)(weights + route_task.top_k)),
          groups((float *)(chosen + route_task.top_k)), taken(0)
    {
    }

    __device__ __forceinline__ float choice_score(uint32_t expert) const
    {
        float sum = scores[expert] + (task.correction != nullptr ? task.correction[expert] : 0);
        return isnan(sum) ? -CUDART_INF_F : sum;
    }

    /* The lane's expert number I, or where it has no such one the last of all. */
    __device__ __forceinline__ uint32_t own(uint32_t i) const
    {
        return min(lane + 32 * i, task.experts - 1);
    }
    __device__ __forceinline__ bool has(uint32_t i) const
    {
        return lane + 32 * i < task.experts;
    }

    __device__ __forceinline__ void softmax()
    {
        if constexpr (MANY)
            softmax_in_registers();
        else
            softmax_in_loops();
        __syncwarp();
    }

    __device__ __forceinline__ void softmax_in_registers()
    {
        float share[PER_LANE];
        float most = -CUDART_INF_F;
        float sum = 0;
#pragma unroll
        for (uint32_t i = 0; i < PER_LANE; i++)
            share[i] = scores[own(i)];
#pragma unroll
        for (uint32_t i = 0; i < PER_LANE; i++)
            most = fmaxf(most, share[i]); /* the last one twice does no harm */
        most = most_of_lanes(most);
#pragma unroll
        for (uint32_t i = 0; i < PER_LANE; i++) {
            share[i] = expf(share[i] - most);
            sum += has(i) ? share[i] : 0;
        }
        sum = 1 / sum_lanes(sum);
        __syncwarp(); /* the last expert's logit is read by others, too */
#pragma unroll
        for (uint32_t i = 0; i < PER_LANE; i++)
            if (has(i))
                scores[own(i)] = share[i] * sum;
    }

    __device__ __forceinline__ void softmax_in_loops()
    {
        float most = -CUDART_INF_F;
        float sum = 0;
#pragma unroll 4
        for (uint32_t e = lane; e < task.experts; e += 32)
            most = fmaxf(most, scores[e]);
        most = most_of_lanes(most);
#pragma unroll 2
        for (uint32_t e = lane; e < task.experts; e += 32) {
            float share = expf(scores[e] - most);
            scores[e] = share;
            sum += share;
        }
        sum = 1 / sum_lanes(sum);
#pragma unroll 4
        for (uint32_t e = lane; e < task.experts; e += 32)
            scores[e] *= sum;
    }

    /* Logits -> what the choice is made by. */
    __device__ __forceinline__ void make_scores()
    {
        if (task.config.kind == ROUTER_SIGMOID) {
#pragma unroll 1
            for (uint32_t e = lane; e < task.experts; e += 32)
                scores[e] = 1 / (1 + expf(-scores[e]));
            __syncwarp();
        } else if (task.config.kind != ROUTER_SPARSEMIXER) {
            softmax();
        }
    }

    /* The sum of the best one or two of the group's choice scores. */
    __device__ __forceinline__ float group_score(uint32_t group, uint32_t size) const
    {
        float best = -CUDART_INF_F;
        float second = -CUDART_INF_F;
#pragma unroll 1
        for (uint32_t e = group * size; e < (group + 1) * size; e++) {
            float score = choice_score(e);
            second = score > best ? best : fmaxf(second, score);
            best = fmaxf(best, score);
        }
        return task.config.group_best == 2 && size > 1 ? best + second : best;
    }

    /* True for one of the best groups; of equals the lower number goes first. */
    __device__ __forceinline__ bool is_open(uint32_t group) const
    {
        float own = groups[group];
        uint32_t before = 0;
#pragma unroll 1
        for (uint32_t g = 0; g < task.config.groups; g++)
            before += groups[g] > own || (groups[g] == own && g < group);
        return before < task.config.top_groups;
    }

    /* Which of the lane's experts are in the best groups, bit by bit. */
    __device__ __forceinline__ uint32_t find_open() const
    {
        uint32_t size = task.experts / task.config.groups;
        uint32_t open = 0;
#pragma unroll 1
        for (uint32_t group = lane; group < task.config.groups; group += 32)
            groups[group] = group_score(group, size);
        __syncwarp();
#pragma unroll 1
        for (uint32_t e = lane; e < task.experts; e += 32)
            open |= (uint32_t)is_open(e / size) << e / 32;
        return open;
    }

    /* The lowest expert that is not taken. */
    __device__ __forceinline__ uint32_t spare() const
    {
        uint32_t first = ~taken == 0 ? NO_EXPERT : lane + 32 * (__ffs(~taken) - 1);
        return __reduce_min_sync(0xFFFFFFFF, first);
    }

    /* Orders experts as their choice SCORES do; 0 comes before all of them. */
    __device__ __forceinline__ static uint32_t rank_of(float score)
    {
        float number = isnan(score) ? -CUDART_INF_F : score;
        uint32_t bits = __float_as_uint(number + 0.0f); /* -0 is 0 */
        return bits >> 31 != 0 ? ~bits : bits | 0x80000000;
    }

    /* Of the lane's experts; 0: it is not open, or not there. */
    __device__ __forceinline__ void set_ranks(uint32_t open, uint32_t (&rank)[PER_LANE]) const
    {
        float score[PER_LANE];
#pragma unroll
        for (uint32_t i = 0; i < PER_LANE; i++)
            score[i] = scores[own(i)];
        if (task.correction != nullptr)
#pragma unroll
            for (uint32_t i = 0; i < PER_LANE; i++)
                score[i] += task.correction[own(i)];
#pragma unroll
        for (uint32_t i = 0; i < PER_LANE; i++)
            rank[i] = has(i) && (open >> i & 1) != 0 ? rank_of(score[i]) : 0;
    }

    /* The best open ones in descending order, of equals the lowest id first; when no open one is
     * left, the lowest that is free. */
    __device__ __forceinline__ void choose()
    {
        uint32_t rank[PER_LANE];
        set_ranks(task.config.groups > 1 ? find_open() : ~0u, rank);
#pragma unroll 1
        for (uint32_t slot = 0; slot < task.top_k; slot++) {
            uint32_t best = 0;
            uint32_t own = NO_EXPERT;
#pragma unroll
            for (uint32_t i = 0; i < PER_LANE; i++)
                if (rank[i] > best) {
                    best = rank[i];
                    own = lane + 32 * i;
                }
            uint32_t most = __reduce_max_sync(0xFFFFFFFF, best);
            uint32_t expert =
                most > 0 ? __reduce_min_sync(0xFFFFFFFF, best == most ? own : NO_EXPERT) : spare();
#pragma unroll
            for (uint32_t i = 0; i < PER_LANE; i++)
                rank[i] = lane + 32 * i == expert ? 0 : rank[i];
            take(expert);
            if (lane == 0)
                chosen[slot] = expert;
        }
    }

    __device__ __forceinline__ void take(uint32_t expert)
    {
        taken |= expert % 32 == lane ? 1u << expert / 32 : 0;
    }

    __device__ __forceinline__ bool is_free(uint32_t expert) const
    {
        return (taken >> expert / 32 & 1) == 0;
    }

    /* CHOICE's share among what is not taken and has a logit within 2 * jitter of the best,
     * relative to the larger of it and their own size. */
    __device__ __forceinline__ float sparsemixer_weight(uint32_t choice) const
    {
        const float close = 2 * task.config.jitter;
        float most = -CUDART_INF_F;
        float sum = 0;
#pragma unroll 1
        for (uint32_t e = lane; e < task.experts; e += 32)
            most = is_free(e) ? fmaxf(most, scores[e]) : most;
        most = most_of_lanes(most);
#pragma unroll 1
        for (uint32_t e = lane; e < task.experts; e += 32) {
            bool far = (most - scores[e]) / fmaxf(fabsf(scores[e]), most) > close;
            sum += !far && is_free(e) ? expf(scores[e] - most) : 0;
        }
        sum = sum_lanes(sum);
        float logit = scores[choice];
        bool far = (most - logit) / fmaxf(fabsf(logit), most) > close;
        return far ? 0 : expf(logit - most) / sum;
    }

    /* The second choice is weighed without the first, and so on. */
    __device__ __forceinline__ void weigh_mixed()
    {
        taken = 0;
#pragma unroll 1
        for (uint32_t slot = 0; slot < task.top_k; slot++) {
            uint32_t expert = chosen[slot];
            bool dropped = expert == EXPERT_DROPPED;
            float weight = dropped ? 0 : sparsemixer_weight(expert);
            if (!dropped)
                take(expert);
            if (lane == 0)
                weights[slot] = weight;
        }
    }

    __device__ __forceinline__ void weigh(size_t at)
    {
        bool divide = task.config.normalise || task.config.kind == ROUTER_TOP_K_SOFTMAX;
        float sum = 0;
        if (task.config.kind == ROUTER_SPARSEMIXER)
            weigh_mixed();
        else
#pragma unroll 1
            for (uint32_t slot = lane; slot < task.top_k; slot += 32)
                weights[slot] = chosen[slot] == EXPERT_DROPPED ? 0 : scores[chosen[slot]];
        __syncwarp();
#pragma unroll 4
        for (uint32_t slot = 0; slot < task.top_k; slot++)
            sum += weights[slot];
        float scale = task.config.scale;
#pragma unroll 1
        for (uint32_t slot = lane; slot < task.top_k; slot += 32)
            task.routing.weights[at + slot] =
                (divide && sum != 0 ? weights[slot] / sum : weights[slot]) * scale;
    }

    /* From the logits on, which all lanes see; leaves the choice in CHOSEN. */
    __device__ __forceinline__ void route(size_t token)
    {
        decide(token);
        record(token);
    }

    /* The part of it up to the choice ... */
    __device__ __forceinline__ void decide(size_t token)
    {
        size_t at = token * task.top_k;
        make_scores();
        if (task.forced == nullptr)
            choose();
#pragma unroll 1
        for (uint32_t slot = lane; task.forced != nullptr && slot < task.top_k; slot += 32)
            chosen[slot] = task.forced[at + slot];
        __syncwarp();
    }

    /* ... and the rest: what the layer and the trace are told. */
    __device__ __forceinline__ void record(size_t token)
    {
        size_t at = token * task.top_k;
#pragma unroll 1
        for (uint32_t slot = lane; slot < task.top_k; slot += 32)
            task.routing.experts[at + slot] = (uint16_t)chosen[slot];
        if (task.forced_weights == nullptr)
            weigh(at);
#pragma unroll 1
        for (uint32_t slot = lane; task.forced_weights != nullptr && slot < task.top_k; slot += 32)
            task.routing.weights[at + slot] = task.forced_weights[at + slot];
        if (task.config.kind == ROUTER_SPARSEMIXER) {
            __syncwarp();
            softmax();
        }
        put_scores(task.routing.scores + token * task.experts);
    }

    __device__ __forceinline__ void put_scores(float *to) const
    {
        if constexpr (MANY) {
            float score[PER_LANE];
#pragma unroll
            for (uint32_t i = 0; i < PER_LANE; i++)
                score[i] = scores[own(i)];
#pragma unroll
            for (uint32_t i = 0; i < PER_LANE; i++)
                if (has(i))
                    to[own(i)] = score[i];
        } else {
#pragma unroll 4
            for (uint32_t e = lane; e < task.experts; e += 32)
                to[e] = scores[e];
        }
    }
};

#endif
