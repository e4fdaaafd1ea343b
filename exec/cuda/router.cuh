/* From a token's logits to its experts and their weights, for every kind of router. A warp takes a
 * token; its scores and what has become of each expert lie in shared memory. */
#ifndef EXEC_CUDA_ROUTER_CUH
#define EXEC_CUDA_ROUTER_CUH

#include "exec/cuda/reduce.cuh"
#include "exec/cuda/router.h"

#include <math_constants.h>

static constexpr uint32_t NO_EXPERT = UINT32_MAX;

/* What the choice may still do with an expert. */
enum ExpertState : unsigned char { OPEN, CLOSED, TAKEN };

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

/* Words of shared memory that a token takes. */
__host__ __device__ inline uint32_t router_words(uint32_t experts, uint32_t top_k)
{
    return experts + 2 * top_k + (experts + 3) / 4;
}

/* One token's, in the hands of one warp. */
struct TokenRouter {
    const RouteTask &task;
    uint32_t lane;
    float *scores;    /* shared [experts]: logits, then scores */
    float *weights;   /* [top_k] */
    uint32_t *chosen; /* [top_k] */
    ExpertState *state;

    __device__ TokenRouter(const RouteTask &route_task, float *shared)
        : task(route_task), lane(threadIdx.x % 32), scores(shared),
          weights(shared + route_task.experts), chosen((uint32_t *)(weights + route_task.top_k)),
          state((ExpertState *)(chosen + route_task.top_k))
    {
    }

    __device__ float choice_score(uint32_t expert) const
    {
        float score = scores[expert] + (task.correction != nullptr ? task.correction[expert] : 0);
        return isnan(score) ? -CUDART_INF_F : score;
    }

    __device__ void softmax()
    {
        float most = -CUDART_INF_F;
        for (uint32_t e = lane; e < task.experts; e += 32)
            most = fmaxf(most, scores[e]);
        most = most_of_lanes(most);
        float sum = 0;
        for (uint32_t e = lane; e < task.experts; e += 32) {
            scores[e] = expf(scores[e] - most);
            sum += scores[e];
        }
        sum = sum_lanes(sum);
        for (uint32_t e = lane; e < task.experts; e += 32)
            scores[e] /= sum;
        __syncwarp();
    }

    /* Logits -> what the choice is made by. */
    __device__ void score()
    {
        if (task.config.kind == ROUTER_SIGMOID)
            for (uint32_t e = lane; e < task.experts; e += 32)
                scores[e] = 1 / (1 + expf(-scores[e]));
        else if (task.config.kind != ROUTER_SPARSEMIXER)
            softmax();
        __syncwarp();
    }

    /* The sum of the best one or two of the group's choice scores. */
    __device__ float group_score(uint32_t group, uint32_t size) const
    {
        float best = -CUDART_INF_F;
        float second = -CUDART_INF_F;
        for (uint32_t e = group * size; e < (group + 1) * size; e++) {
            float score = choice_score(e);
            second = score > best ? best : fmaxf(second, score);
            best = fmaxf(best, score);
        }
        return task.config.group_best == 2 && size > 1 ? best + second : best;
    }

    /* Leaves the best groups open; of equals the lower number goes first. */
    __device__ void close_groups()
    {
        uint32_t size = task.experts / task.config.groups;
        for (uint32_t group = lane; group < task.config.groups; group += 32) {
            float own = group_score(group, size);
            uint32_t before = 0;
            for (uint32_t g = 0; g < task.config.groups; g++) {
                float other = g == group ? own : group_score(g, size);
                before += other > own || (other == own && g < group);
            }
            for (uint32_t e = group * size; e < (group + 1) * size; e++)
                state[e] = before < task.config.top_groups ? OPEN : CLOSED;
        }
        __syncwarp();
    }

    __device__ void open_all()
    {
        for (uint32_t e = lane; e < task.experts; e += 32)
            state[e] = OPEN;
        __syncwarp();
    }

    __device__ void take(uint32_t expert)
    {
        __syncwarp();
        if (lane == 0)
            state[expert] = TAKEN;
        __syncwarp();
    }

    /* The lowest expert that is not taken. */
    __device__ uint32_t spare() const
    {
        uint32_t lowest = NO_EXPERT;
        for (uint32_t e = lane; e < task.experts && lowest == NO_EXPERT; e += 32)
            lowest = state[e] != TAKEN ? e : NO_EXPERT;
        return __reduce_min_sync(0xFFFFFFFF, lowest);
    }

    /* Orders experts as their choice scores do; 0 comes before all of them. */
    __device__ uint32_t rank(uint32_t expert) const
    {
        uint32_t bits = __float_as_uint(choice_score(expert) + 0.0f); /* -0 is 0 */
        return bits >> 31 != 0 ? ~bits : bits | 0x80000000;
    }

    /* The best open one of the lane's, the lowest id of equals; its rank is 0 without any. */
    __device__ void find_best(uint32_t *best, uint32_t *expert) const
    {
        *best = 0;
        *expert = NO_EXPERT;
        for (uint32_t e = lane; e < task.experts; e += 32) {
            uint32_t own = state[e] == OPEN ? rank(e) : 0;
            if (own > *best) {
                *best = own;
                *expert = e;
            }
        }
    }

    /* CHOICE's share among what is not taken and has a logit within 2 * jitter of the best,
     * relative to the larger of it and their own size. */
    __device__ float sparsemixer_weight(uint32_t choice) const
    {
        const float close = 2 * task.config.jitter;
        float most = -CUDART_INF_F;
        for (uint32_t e = lane; e < task.experts; e += 32)
            most = state[e] != TAKEN ? fmaxf(most, scores[e]) : most;
        most = most_of_lanes(most);
        float sum = 0;
        for (uint32_t e = lane; e < task.experts; e += 32) {
            bool far = (most - scores[e]) / fmaxf(fabsf(scores[e]), most) > close;
            sum += !far && state[e] != TAKEN ? expf(scores[e] - most) : 0;
        }
        sum = sum_lanes(sum);
        float logit = scores[choice];
        bool far = (most - logit) / fmaxf(fabsf(logit), most) > close;
        return far ? 0 : expf(logit - most) / sum;
    }

    /* The best open ones in descending order, of equals the lowest id first; when no open one is
     * left, the lowest that is free. */
    __device__ void choose()
    {
        uint32_t best;
        uint32_t own;
        if (task.config.groups > 1)
            close_groups();
        find_best(&best, &own);
        for (uint32_t slot = 0; slot < task.top_k; slot++) {
            uint32_t most = __reduce_max_sync(0xFFFFFFFF, best);
            uint32_t expert =
                most > 0 ? __reduce_min_sync(0xFFFFFFFF, best == most ? own : NO_EXPERT) : spare();
            if (lane == 0)
                chosen[slot] = expert;
            take(expert);
            if (expert % 32 == lane)
                find_best(&best, &own);
        }
        open_all();
    }

    __device__ void weigh(size_t at)
    {
        bool mixer = task.config.kind == ROUTER_SPARSEMIXER;
        bool divide = task.config.normalise || task.config.kind == ROUTER_TOP_K_SOFTMAX;
        float sum = 0;
        for (uint32_t slot = 0; slot < task.top_k; slot++) {
            uint32_t expert = chosen[slot];
            bool there = expert != EXPERT_DROPPED;
            float weight = !there ? 0 : mixer ? sparsemixer_weight(expert) : scores[expert];
            if (there && mixer)
                take(expert);
            sum += weight;
            if (lane == 0)
                weights[slot] = weight;
        }
        __syncwarp();
        for (uint32_t slot = lane; slot < task.top_k; slot += 32)
            task.routing.weights[at + slot] =
                (divide && sum != 0 ? weights[slot] / sum : weights[slot]) * task.config.scale;
    }

    /* From the logits in scores on. */
    __device__ void route(size_t token)
    {
        size_t at = token * task.top_k;
        float *row = task.routing.scores + token * task.experts;
        open_all();
        score();
        if (task.forced == nullptr)
            choose();
        for (uint32_t slot = lane; task.forced != nullptr && slot < task.top_k; slot += 32)
            chosen[slot] = task.forced[at + slot];
        __syncwarp();
        for (uint32_t slot = lane; slot < task.top_k; slot += 32)
            task.routing.experts[at + slot] = (uint16_t)chosen[slot];
        if (task.forced_weights == nullptr)
            weigh(at);
        for (uint32_t slot = lane; task.forced_weights != nullptr && slot < task.top_k; slot += 32)
            task.routing.weights[at + slot] = task.forced_weights[at + slot];
        if (task.config.kind == ROUTER_SPARSEMIXER)
            softmax();
        for (uint32_t e = lane; e < task.experts; e += 32)
            row[e] = scores[e];
    }
};

#endif
