#include <math.h>
#include <string.h>

#include "base/layout.h"
#include "base/memory.h"
#include "policies/predictor.h"
#include "policies/shares.h"

/* Counts stay at MOST_COUNT, so that sums of products over 2^16 experts fit in 62 bits. Cosines and
 * shares are whole multiples of 2^-SHARE_BITS. */
enum { MOST_COUNT = 1 << 23 };
#define NO_ENTRY UINT32_MAX

/* The collection. A request has an entry from its first token on. */
typedef struct {
    Arena arena;
    uint32_t room; /* entries */
    uint32_t n;
    uint64_t event;       /* number of the present event */
    uint32_t *request;    /* [room] whose each is */
    uint64_t *joined;     /* [room] how many came before it */
    uint64_t *present;    /* [room] number of the last event with tokens of it */
    uint64_t *matches;    /* [room] how often it was the nearest */
    uint32_t *counts;     /* [room][objects] tokens of the request that each expert got */
    double *length;       /* [room][n_layers] root of the sum of the squares of a layer's counts */
    uint32_t *cosine;     /* [room][room][n_layers] of two entries' counts of a layer */
    uint64_t *similarity; /* [room][room] the sum of that over the layers */
    uint64_t n_joined;
} Collection;

static uint32_t n_objects(const Predictor *predictor)
{
    return predictor->first_object[predictor->n_layers];
}

static void lay_out_collection(const Predictor *predictor, Collection *it)
{
    size_t room = it->room;
    Arena *arena = &it->arena;
    it->request = lay_out(arena, room, sizeof *it->request);
    it->joined = lay_out(arena, room, sizeof *it->joined);
    it->present = lay_out(arena, room, sizeof *it->present);
    it->matches = lay_out(arena, room, sizeof *it->matches);
    it->counts = lay_out(arena, room * n_objects(predictor), sizeof *it->counts);
    it->length = lay_out(arena, room * predictor->n_layers, sizeof *it->length);
    it->cosine = lay_out(arena, room * room * predictor->n_layers, sizeof *it->cosine);
    it->similarity = lay_out(arena, room * room, sizeof *it->similarity);
}

static Status match_open(Predictor *predictor)
{
    Collection *it;
    TRY(mem_new(&it, 1, sizeof *it, "predictor"));
    predictor->own = it;
    it->room = predictor->choice.entries;
    lay_out_collection(predictor, it);
    TRY(arena_commit(&it->arena, "predictor: activations of requests"));
    lay_out_collection(predictor, it);
    return OK;
}

static void match_close(Predictor *predictor)
{
    Collection *it = predictor->own;
    if (it != NULL)
        arena_free(&it->arena);
    mem_free(it);
}

static uint32_t *counts_of(const Predictor *predictor, uint32_t entry, uint32_t layer)
{
    const Collection *it = predictor->own;
    return it->counts + (size_t)entry * n_objects(predictor) + predictor->first_object[layer];
}

/* Takes out what two entries have to do with each other. */
static void part(const Predictor *predictor, uint32_t a, uint32_t b)
{
    Collection *it = predictor->own;
    size_t pair = (size_t)a * it->room + b;
    it->similarity[pair] = 0;
    memset(it->cosine + pair * predictor->n_layers, 0, predictor->n_layers * sizeof *it->cosine);
}

static void clear_entry(const Predictor *predictor, uint32_t entry)
{
    Collection *it = predictor->own;
    memset(counts_of(predictor, entry, 0), 0, n_objects(predictor) * sizeof *it->counts);
    for (uint32_t layer = 0; layer < predictor->n_layers; layer++)
        it->length[(size_t)entry * predictor->n_layers + layer] = 0;
    it->matches[entry] = 0;
    for (uint32_t other = 0; other < it->room; other++) {
        part(predictor, entry, other);
        part(predictor, other, entry);
    }
}

static void match_reset(Predictor *predictor)
{
    Collection *it = predictor->own;
    it->n = 0;
    it->event = 0;
    it->n_joined = 0;
}

static uint32_t find(const Collection *it, uint32_t request)
{
    for (uint32_t i = 0; i < it->n; i++)
        if (it->request[i] == request)
            return i;
    return NO_ENTRY;
}

/* The entry that was the nearest least often, then the earliest, of requests without a token in
 * this event. */
static uint32_t least_matched(const Collection *it)
{
    uint32_t least = NO_ENTRY;
    for (uint32_t i = 0; i < it->n; i++) {
        if (it->present[i] == it->event)
            continue;
        if (least == NO_ENTRY || it->matches[i] < it->matches[least] ||
            (it->matches[i] == it->matches[least] && it->joined[i] < it->joined[least]))
            least = i;
    }
    return least;
}

/* An entry for REQUEST, which has none; NO_ENTRY when the event's own requests have all. */
static uint32_t join(const Predictor *predictor, uint32_t request)
{
    Collection *it = predictor->own;
    uint32_t entry = it->n < it->room ? it->n++ : least_matched(it);
    if (entry == NO_ENTRY)
        return NO_ENTRY;
    clear_entry(predictor, entry);
    it->request[entry] = request;
    it->joined[entry] = it->n_joined++;
    it->present[entry] = it->event;
    return entry;
}

static void add_token(const Predictor *predictor, uint32_t entry, uint32_t layer,
                      const uint16_t *experts)
{
    uint32_t *counts = counts_of(predictor, entry, layer);
    for (uint32_t k = 0; k < predictor->layers[layer].top_k; k++)
        if (experts[k] != EXPERT_DROPPED)
            counts[experts[k]] += counts[experts[k]] < MOST_COUNT;
}

static uint64_t product(const uint32_t *a, const uint32_t *b, uint32_t n)
{
    uint64_t sum = 0;
    for (uint32_t i = 0; i < n; i++)
        sum += (uint64_t)a[i] * b[i];
    return sum;
}

/* Each step of this is rounded as IEEE 754 says, so every build has the same. */
static uint32_t cosine_of(uint64_t product, double left, double right)
{
    double lengths = left * right;
    return lengths > 0 ? (uint32_t)((double)product / lengths * (1 << SHARE_BITS)) : 0;
}

/* ENTRY's counts of LAYER are new: sets right what its cosines with all others are. */
static void compare(const Predictor *predictor, uint32_t entry, uint32_t layer)
{
    Collection *it = predictor->own;
    uint32_t n_layers = predictor->n_layers;
    uint32_t experts = predictor->layers[layer].experts;
    const uint32_t *counts = counts_of(predictor, entry, layer);
    double length = sqrt((double)product(counts, counts, experts));
    it->length[(size_t)entry * n_layers + layer] = length;
    for (uint32_t other = 0; other < it->n; other++) {
        if (other == entry)
            continue;
        size_t pair = (size_t)entry * it->room + other;
        size_t mirrored = (size_t)other * it->room + entry;
        uint32_t is = cosine_of(product(counts, counts_of(predictor, other, layer), experts),
                                length, it->length[(size_t)other * n_layers + layer]);
        uint32_t was = it->cosine[pair * n_layers + layer];
        it->cosine[pair * n_layers + layer] = is;
        it->cosine[mirrored * n_layers + layer] = is;
        it->similarity[pair] = it->similarity[pair] - was + is;
        it->similarity[mirrored] = it->similarity[pair];
    }
}

static void match_learn(Predictor *predictor, const BufferEvent *event)
{
    Collection *it = predictor->own;
    const EventSignals *signals = event->signals;
    uint32_t top_k = predictor->layers[event->layer_index].top_k;
    it->event++;
    for (uint32_t t = 0; t < signals->tokens; t++) {
        uint32_t entry = find(it, signals->request[t]);
        if (entry != NO_ENTRY)
            it->present[entry] = it->event;
    }
    for (uint32_t t = 0; t < signals->tokens; t++) {
        uint32_t entry = find(it, signals->request[t]);
        if (entry == NO_ENTRY)
            entry = join(predictor, signals->request[t]);
        if (entry != NO_ENTRY)
            add_token(predictor, entry, event->layer_index, signals->routing + (size_t)t * top_k);
    }
    for (uint32_t entry = 0; entry < it->n; entry++)
        if (it->present[entry] == it->event)
            compare(predictor, entry, event->layer_index);
}

/* The other entry most like ENTRY, the earlier one of equals; NO_ENTRY when none has anything in
 * common with it. */
static uint32_t nearest(const Collection *it, uint32_t entry)
{
    const uint64_t *similarity = it->similarity + (size_t)entry * it->room;
    uint32_t best = NO_ENTRY;
    for (uint32_t other = 0; other < it->n; other++) {
        if (similarity[other] == 0)
            continue;
        if (best == NO_ENTRY || similarity[other] > similarity[best] ||
            (similarity[other] == similarity[best] && it->joined[other] < it->joined[best]))
            best = other;
    }
    return best;
}

/* Adds the shares of ENTRY's tokens that the experts of layer TARGET got. */
static void add_shares(Predictor *predictor, uint32_t entry, uint32_t target)
{
    const uint32_t *counts = counts_of(predictor, entry, target);
    uint32_t experts = predictor->layers[target].experts;
    uint64_t sum = 0;
    for (uint32_t e = 0; e < experts; e++)
        sum += counts[e];
    if (sum > 0)
        shares_add(counts, experts, sum, predictor->score);
}

static uint64_t match_predict(Predictor *predictor, const BufferEvent *event, uint32_t target,
                              const uint16_t *coming, uint32_t n_coming)
{
    Collection *it = predictor->own;
    uint64_t reads = 0;
    (void)coming;
    (void)n_coming;
    for (uint32_t entry = 0; entry < it->n; entry++) {
        if (it->present[entry] != it->event)
            continue;
        uint32_t other = nearest(it, entry);
        reads += (uint64_t)it->n * predictor->layers[event->layer_index].experts;
        if (other == NO_ENTRY)
            continue;
        it->matches[other]++;
        add_shares(predictor, other, target);
        reads += predictor->layers[target].experts;
    }
    return reads;
}

/* What the request most like this one did in the target layer: the activation-aware prefetching of
 * MoE-Infinity (Xue et al. 2024), by the cosines of the two requests' activation
 * matrices, a row per layer, summed over the layers that both have seen. (Its public code compares
 * the layers to come instead, which are empty in a request's first pass.) The collection holds
 * ENTRIES requests, those still running too, with what they have shown so far; when it is full, the
 * request that was the nearest least often gives way. Requests of a step count alike. */
const PredictorRow PREDICT_ACTIVATION_MATCH = {.name = "activation-match",
                                               .needs_requests = true,
                                               .has_entries = true,
                                               .open = match_open,
                                               .close = match_close,
                                               .reset = match_reset,
                                               .learn = match_learn,
                                               .predict = match_predict};
