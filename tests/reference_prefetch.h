/* Plain predictors and plain prefetching over the plain buffer, to measure the real ones against:
 * every prediction is counted anew from the whole trace. Shares no code with policies/. */
#ifndef TESTS_REFERENCE_PREFETCH_H
#define TESTS_REFERENCE_PREFETCH_H

#include "tests/reference_buffer.h"

/* What the plain buffer does not know of. All layers of a RefTrace are of one stack, and each step
 * has an event of every layer. */
typedef struct RefPrefetch {
    RefBuffer buffer;
    const char *predictor; /* without its parameters */
    /* In the place of ref_predict(), where a test brings its own. */
    uint32_t (*predict)(struct RefPrefetch *prefetch, uint32_t target, uint64_t *score);
    void *argument;
    double recall;
    double precision;
    uint64_t random;
    bool in_flight[REF_LAYERS][REF_EXPERTS];
    bool unused[REF_LAYERS][REF_EXPERTS]; /* prefetched, not looked up since */
    bool predicted[REF_LAYERS][REF_EXPERTS];
    bool is_predicted[REF_LAYERS];
    BufferCounts counts; /* of prefetching alone */
} RefPrefetch;

static inline bool ref_needs(const RefEvent *event, uint32_t expert)
{
    for (uint32_t i = 0; i < event->n; i++)
        if (event->experts[i] == expert)
            return true;
    return false;
}

/* Events of LAYER up to number LAST that needed EXPERT. */
static inline uint64_t ref_events(const RefTrace *trace, uint32_t layer, uint32_t expert,
                                  uint32_t last)
{
    uint64_t events = 0;
    for (uint32_t e = 0; e <= last; e++)
        events += trace->events[e].layer == layer && ref_needs(&trace->events[e], expert);
    return events;
}

/* Steps before that of event NOW which needed both. */
static inline uint64_t ref_pairs(const RefTrace *trace, uint32_t now, uint32_t from,
                                 uint32_t from_expert, uint32_t to, uint32_t to_expert)
{
    uint64_t pairs = 0;
    for (uint32_t first = 0; first + trace->n_layers <= now; first += trace->n_layers)
        pairs += ref_needs(&trace->events[first + from], from_expert) &&
                 ref_needs(&trace->events[first + to], to_expert);
    return pairs;
}

static inline double ref_share(RefPrefetch *prefetch)
{
    return (double)(random_next(&prefetch->random) >> 11) / 9007199254740992.0;
}

static inline void ref_synthetic(RefPrefetch *prefetch, const RefEvent *coming, uint32_t n_experts,
                                 uint64_t *score)
{
    uint32_t right = 0;
    uint32_t others = n_experts - coming->n;
    for (uint32_t i = 0; i < coming->n; i++)
        if (ref_share(prefetch) < prefetch->recall) {
            score[coming->experts[i]] = random_next(&prefetch->random) | 1;
            right++;
        }
    double mean = right * (1 - prefetch->precision) / prefetch->precision;
    uint32_t wrong = (uint32_t)mean + (ref_share(prefetch) < mean - (uint32_t)mean);
    for (uint32_t e = 0; e < n_experts; e++) {
        if (ref_needs(coming, e) || wrong == 0)
            continue;
        if (ref_share(prefetch) * others < wrong) {
            score[e] = random_next(&prefetch->random) | 1;
            wrong--;
        }
        others--;
    }
}

/* Scores the experts of layer TARGET; returns how many are predicted when the plan leaves it open.
 */
static inline uint32_t ref_predict(RefPrefetch *prefetch, uint32_t target, uint64_t *score)
{
    const RefTrace *trace = prefetch->buffer.trace;
    uint32_t now = prefetch->buffer.event;
    const RefEvent *event = &trace->events[now];
    const RefEvent *coming = &trace->events[now + target - event->layer];
    uint32_t n_experts = trace->layers[target].experts;
    const char *name = prefetch->predictor;
    if (strcmp(name, "synthetic") == 0)
        ref_synthetic(prefetch, coming, n_experts, score);
    for (uint32_t e = 0; e < n_experts; e++) {
        if (strcmp(name, "frequency") == 0)
            score[e] = ref_events(trace, target, e, now);
        if (strcmp(name, "previous-step") == 0)
            score[e] = now >= trace->n_layers &&
                       ref_needs(&trace->events[now + target - event->layer - trace->n_layers], e);
        if (strcmp(name, "oracle") == 0 || strcmp(name, "pre-gate") == 0)
            score[e] = ref_needs(coming, e);
        for (uint32_t i = 0; strcmp(name, "transition") == 0 && i < event->n; i++)
            score[e] += ref_pairs(trace, now, event->layer, event->experts[i], target, e) *
                        16777216 / ref_events(trace, event->layer, event->experts[i], now);
    }
    bool ranks = strcmp(name, "frequency") == 0 || strcmp(name, "transition") == 0;
    return ranks ? event->n : n_experts;
}

/* Who no prefetch evicts: what the event needs, what is in flight, and what is predicted of TARGET.
 */
static inline void ref_set_stays(RefPrefetch *prefetch, uint32_t target)
{
    RefBuffer *buffer = &prefetch->buffer;
    const RefEvent *event = &buffer->trace->events[buffer->event];
    for (uint32_t l = 0; l < REF_LAYERS; l++)
        for (uint32_t e = 0; e < REF_EXPERTS; e++)
            buffer->stays[l][e] = (l == event->layer && ref_needs(event, e)) ||
                                  prefetch->in_flight[l][e] ||
                                  (l == target && prefetch->predicted[l][e]);
}

/* True when the budget has room for one more of TARGET once all who may go have gone. */
static inline bool ref_can_prefetch(const RefPrefetch *prefetch, uint32_t target)
{
    const RefBuffer *buffer = &prefetch->buffer;
    uint64_t stay = 0;
    for (uint32_t l = 0; l < buffer->trace->n_layers; l++)
        for (uint32_t e = 0; e < REF_EXPERTS; e++)
            if ((l == target || ref_is_device(buffer)) && buffer->experts[l][e].resident &&
                buffer->stays[l][e])
                stay += ref_weight(buffer, l);
    return stay + ref_weight(buffer, target) <= ref_budget(buffer, target);
}

static inline void ref_note_gone(RefPrefetch *prefetch, uint32_t layer, uint32_t expert)
{
    prefetch->counts.prefetch_evicted += prefetch->unused[layer][expert];
    prefetch->unused[layer][expert] = false;
    prefetch->in_flight[layer][expert] = false;
}

static inline void ref_prefetch_one(RefPrefetch *prefetch, uint32_t target, uint32_t expert)
{
    RefBuffer *buffer = &prefetch->buffer;
    uint32_t scope = ref_scope(buffer, target);
    ref_remember(buffer, target, &buffer->experts[target][expert]);
    while (!ref_is_static(buffer) &&
           buffer->used[scope] + ref_weight(buffer, target) > ref_budget(buffer, target)) {
        ref_evict(buffer, target);
        const BufferAction *gone = &buffer->actions[buffer->n_actions - 1];
        ref_note_gone(prefetch, gone->layer_index, gone->expert);
    }
    ref_load(buffer, target, expert);
    buffer->actions[buffer->n_actions - 1].kind = RESIDENCY_PREFETCH;
    ref_admit(buffer, target, &buffer->experts[target][expert]);
    buffer->newest[scope] = &buffer->experts[target][expert];
    prefetch->unused[target][expert] = true;
    prefetch->in_flight[target][expert] = true;
    prefetch->counts.prefetches++;
    prefetch->counts.bytes_prefetched += buffer->trace->layers[target].expert_bytes;
}

static inline uint32_t ref_in_flight(const RefPrefetch *prefetch)
{
    uint32_t n = 0;
    for (uint32_t l = 0; l < REF_LAYERS; l++)
        for (uint32_t e = 0; e < REF_EXPERTS; e++)
            n += prefetch->in_flight[l][e];
    return n;
}

/* The event's lookups are the actions from number FIRST on. */
static inline void ref_judge(RefPrefetch *prefetch, const RefEvent *event, size_t first)
{
    const RefBuffer *buffer = &prefetch->buffer;
    for (size_t i = first; i < buffer->n_actions; i++) {
        const BufferAction *action = &buffer->actions[i];
        bool *unused = &prefetch->unused[action->layer_index][action->expert];
        if (action->kind == RESIDENCY_EVICT)
            ref_note_gone(prefetch, action->layer_index, action->expert);
        if (action->kind == RESIDENCY_HIT) {
            prefetch->counts.prefetch_hits += *unused;
            *unused = false;
        }
    }
    memset(prefetch->in_flight[event->layer], 0, sizeof prefetch->in_flight[event->layer]);
    if (!prefetch->is_predicted[event->layer])
        return;
    prefetch->is_predicted[event->layer] = false;
    prefetch->counts.predictable += event->n;
    for (uint32_t i = 0; i < event->n; i++)
        prefetch->counts.predicted_right += prefetch->predicted[event->layer][event->experts[i]];
}

/* Marks the predicted experts of TARGET and writes them to ORDER, best first. */
static inline uint32_t ref_choose(RefPrefetch *prefetch, uint32_t target, uint16_t *order)
{
    uint64_t score[REF_EXPERTS] = {0};
    uint32_t given = prefetch->buffer.plan->prefetch.experts;
    uint32_t most = prefetch->predict != NULL ? prefetch->predict(prefetch, target, score)
                                              : ref_predict(prefetch, target, score);
    uint32_t n = 0;
    most = given > 0 ? given : most;
    memset(prefetch->predicted[target], 0, sizeof prefetch->predicted[target]);
    prefetch->is_predicted[target] = true;
    for (; n < most; n++) {
        uint32_t best = REF_EXPERTS;
        for (uint32_t e = 0; e < REF_EXPERTS; e++)
            if (score[e] > 0 && (best == REF_EXPERTS || score[e] > score[best]))
                best = e;
        if (best == REF_EXPERTS)
            break;
        score[best] = 0;
        prefetch->predicted[target][best] = true;
        order[n] = (uint16_t)best;
    }
    return n;
}

static inline void ref_prefetch_event(RefPrefetch *prefetch, size_t first)
{
    RefBuffer *buffer = &prefetch->buffer;
    const RefEvent *event = &buffer->trace->events[buffer->event];
    uint32_t target = event->layer + buffer->plan->prefetch.distance;
    uint16_t order[REF_EXPERTS];
    ref_judge(prefetch, event, first);
    if (target >= buffer->trace->n_layers)
        return;
    uint32_t n = ref_choose(prefetch, target, order);
    prefetch->counts.predictions++;
    prefetch->counts.predicted += n;
    buffer->prefetching = true;
    for (uint32_t i = 0; i < n; i++) {
        ref_set_stays(prefetch, target);
        bool is_cold = ref_is_static(buffer) && !ref_is_hot(buffer, target, order[i]);
        if (buffer->experts[target][order[i]].resident || is_cold)
            continue;
        if (ref_in_flight(prefetch) == buffer->plan->prefetch.max_inflight ||
            (!ref_is_static(buffer) && !ref_can_prefetch(prefetch, target)))
            break;
        ref_prefetch_one(prefetch, target, order[i]);
    }
    buffer->prefetching = false;
}

/* Runs all of TRACE; the caller frees prefetch->buffer.actions with free(). */
static inline void ref_run_prefetch(RefPrefetch *prefetch, const RefTrace *trace, const Plan *plan)
{
    RefBuffer *buffer = &prefetch->buffer;
    size_t most = 2 * trace->packed.n_lookups + 2 * (size_t)REF_EXPERTS * trace->n_events +
                  (size_t)REF_LAYERS * REF_EXPERTS;
    ref_start(buffer, trace, plan, most);
    prefetch->random = ~plan->seed;
    for (; buffer->event < trace->n_events; buffer->event++) {
        size_t first = buffer->n_actions;
        ref_event(buffer, &trace->events[buffer->event]);
        ref_prefetch_event(prefetch, first);
    }
}

#endif
