#include "policies/prefetch.h"

#include <string.h>

#include "base/memory.h"
#include "policies/predictor.h"
#include "traces/layers.h"

/* What is remembered of an expert. */
enum { UNUSED = 1 /* prefetched, not looked up since */, PREDICTED = 2 /* for its next event */ };

struct Prefetch {
    Predictor *predictor;
    uint32_t experts; /* predicted of a layer; 0: what the predictor says */
    uint32_t n_layers;
    uint32_t most_in_flight;
    uint32_t most; /* loads of one event */
    PrefetchInFlight *in_flight;
    uint32_t n_in_flight;
    uint8_t *state;     /* [objects] */
    bool *is_predicted; /* [n_layers] the next event of the layer was predicted */
    uint16_t *wanted;   /* [experts of the widest layer] the prediction */
};

static uint32_t object_of(const Prefetch *prefetch, uint32_t layer_index, uint32_t expert)
{
    return prefetch->predictor->first_object[layer_index] + expert;
}

static Status fill(const Plan *plan, const TraceLayer *layers, uint32_t n_layers,
                   Prefetch *prefetch)
{
    uint32_t widest = layers_max_experts(layers, n_layers);
    TRY(predictor_new(plan, layers, n_layers, &prefetch->predictor));
    uint32_t objects = prefetch->predictor->first_object[n_layers];
    uint32_t most = plan->prefetch.max_inflight;
    prefetch->experts = plan->prefetch.experts;
    prefetch->n_layers = n_layers;
    prefetch->most_in_flight = most < objects ? most : objects;
    prefetch->most = most < widest ? most : widest;
    TRY(mem_new(&prefetch->in_flight, prefetch->most_in_flight, sizeof *prefetch->in_flight,
                "prefetch"));
    TRY(mem_new(&prefetch->state, objects, sizeof *prefetch->state, "prefetch"));
    TRY(mem_new(&prefetch->is_predicted, n_layers, sizeof *prefetch->is_predicted, "prefetch"));
    return mem_new(&prefetch->wanted, widest, sizeof *prefetch->wanted, "prefetch");
}

Status prefetch_new(const Plan *plan, const TraceLayer *layers, uint32_t n_layers, Prefetch **out)
{
    Prefetch *prefetch;
    TRY(mem_new(&prefetch, 1, sizeof *prefetch, "prefetch"));
    Status status = fill(plan, layers, n_layers, prefetch);
    if (status == OK)
        *out = prefetch;
    else
        prefetch_free(prefetch);
    return status;
}

void prefetch_free(Prefetch *prefetch)
{
    if (prefetch == NULL)
        return;
    mem_free(prefetch->wanted);
    mem_free(prefetch->is_predicted);
    mem_free(prefetch->state);
    mem_free(prefetch->in_flight);
    predictor_free(prefetch->predictor);
    mem_free(prefetch);
}

void prefetch_reset(Prefetch *prefetch, uint64_t seed)
{
    uint32_t objects = prefetch->predictor->first_object[prefetch->n_layers];
    predictor_reset(prefetch->predictor, seed);
    memset(prefetch->state, 0, objects * sizeof *prefetch->state);
    memset(prefetch->is_predicted, 0, prefetch->n_layers * sizeof *prefetch->is_predicted);
    prefetch->n_in_flight = 0;
}

bool prefetch_needs_coming(const Prefetch *prefetch)
{
    return prefetch->predictor->choice.row->needs_coming;
}

uint32_t prefetch_most(const Prefetch *prefetch)
{
    return prefetch->most;
}

const PrefetchInFlight *prefetch_in_flight(const Prefetch *prefetch, uint32_t *n)
{
    *n = prefetch->n_in_flight;
    return prefetch->in_flight;
}

/* Takes those of LAYER_INDEX, or only EXPERT of it, out of flight. */
static void land(Prefetch *prefetch, uint32_t layer_index, bool all, uint32_t expert)
{
    uint32_t kept = 0;
    for (uint32_t i = 0; i < prefetch->n_in_flight; i++) {
        PrefetchInFlight it = prefetch->in_flight[i];
        if (it.layer_index != layer_index || !(all || it.expert == expert))
            prefetch->in_flight[kept++] = it;
    }
    prefetch->n_in_flight = kept;
}

/* An expert that was prefetched and never looked up has gone. */
static void note_eviction(Prefetch *prefetch, const BufferAction *action, BufferCounts *counts)
{
    uint8_t *state = &prefetch->state[object_of(prefetch, action->layer_index, action->expert)];
    if ((*state & UNUSED) == 0)
        return;
    *state &= (uint8_t)~UNUSED;
    counts[action->layer_index].prefetch_evicted++;
    land(prefetch, action->layer_index, false, action->expert);
}

static void note_lookups(Prefetch *prefetch, const BufferAction *actions, uint32_t n_actions,
                         BufferCounts *counts)
{
    for (uint32_t i = 0; i < n_actions; i++) {
        const BufferAction *action = &actions[i];
        uint32_t object = object_of(prefetch, action->layer_index, action->expert);
        if (action->kind == RESIDENCY_EVICT)
            note_eviction(prefetch, action, counts);
        if (action->kind != RESIDENCY_HIT || (prefetch->state[object] & UNUSED) == 0)
            continue;
        prefetch->state[object] &= (uint8_t)~UNUSED;
        counts[action->layer_index].prefetch_hits++;
    }
}

/* Compares what was predicted of the event with what it needs. */
static void judge(Prefetch *prefetch, const BufferEvent *event, BufferCounts *counts)
{
    const uint32_t *first = prefetch->predictor->first_object + event->layer_index;
    if (!prefetch->is_predicted[event->layer_index])
        return;
    prefetch->is_predicted[event->layer_index] = false;
    counts->predictable += event->n;
    for (uint32_t i = 0; i < event->n; i++)
        counts->predicted_right += (prefetch->state[first[0] + event->experts[i]] & PREDICTED) != 0;
    for (uint32_t object = first[0]; object < first[1]; object++)
        prefetch->state[object] &= (uint8_t)~PREDICTED;
}

static uint32_t most_predicted(const Prefetch *prefetch, const BufferEvent *event, uint32_t target)
{
    uint32_t all = prefetch->predictor->layers[target].experts;
    uint32_t most = prefetch->predictor->choice.row->is_whole ? all : event->n;
    if (prefetch->experts > 0)
        most = prefetch->experts;
    return most < all ? most : all;
}

bool prefetch_ask(Prefetch *prefetch, const BufferEvent *event, const BufferAction *actions,
                  uint32_t n_actions, BufferCounts *counts, PrefetchWish *wish)
{
    uint64_t reads;
    land(prefetch, event->layer_index, true, 0);
    note_lookups(prefetch, actions, n_actions, counts);
    judge(prefetch, event, &counts[event->layer_index]);
    predictor_learn(prefetch->predictor, event);
    uint32_t target = predictor_target(prefetch->predictor, event->layer_index);
    if (target == prefetch->n_layers)
        return false;
    *wish = (PrefetchWish){.layer_index = target,
                           .experts = prefetch->wanted,
                           .most = prefetch->most_in_flight - prefetch->n_in_flight};
    wish->n = predictor_predict(prefetch->predictor, event, target,
                                most_predicted(prefetch, event, target), prefetch->wanted, &reads);
    prefetch->is_predicted[target] = true;
    counts[target].predictions++;
    counts[target].predicted += wish->n;
    counts[target].prediction_reads += reads;
    for (uint32_t i = 0; i < wish->n; i++)
        prefetch->state[object_of(prefetch, target, prefetch->wanted[i])] |= PREDICTED;
    return true;
}

void prefetch_done(Prefetch *prefetch, const BufferAction *actions, uint32_t n_actions,
                   BufferCounts *counts)
{
    for (uint32_t i = 0; i < n_actions; i++) {
        const BufferAction *action = &actions[i];
        if (action->kind == RESIDENCY_EVICT) {
            note_eviction(prefetch, action, counts);
            continue;
        }
        prefetch->in_flight[prefetch->n_in_flight++] =
            (PrefetchInFlight){action->layer_index, action->expert};
        prefetch->state[object_of(prefetch, action->layer_index, action->expert)] |= UNUSED;
    }
}
