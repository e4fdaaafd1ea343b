#include "sim/curve.h"

#include <inttypes.h>
#include <string.h>

#include "base/clock.h"
#include "base/memory.h"
#include "sim/curve_recency.h"

typedef enum { RANK_LRU, RANK_MRU, RANK_LFU, RANK_BELADY, RANK_BELADY_ADMIT, NO_RANK } Rank;

/* The stacks of all scopes, and what objects are ranked by. Objects are numbered over all layers.
 */
typedef struct {
    Rank rank;
    bool shared;            /* one scope */
    uint32_t *first_object; /* [n_layers] */
    uint32_t n_objects;
    uint32_t *stack; /* [n_objects] that of a scope begins at its first object */
    uint32_t *depth; /* [n_layers] objects in the stack of each scope */
    uint64_t *keep;  /* [n_objects] the larger stays */
    uint32_t *count; /* [n_objects] lookups */
    uint32_t time;
    RecencyDepths *recency; /* [scopes] lru: it needs no stack for its depths */
    void *recency_block;
} Stacks;

static Rank rank_of(const char *evict)
{
    static const char *const NAMES[] = {"lru", "mru", "lfu", "belady", "belady-admit"};
    for (size_t i = 0; i < sizeof NAMES / sizeof NAMES[0]; i++)
        if (strcmp(NAMES[i], evict) == 0)
            return (Rank)i;
    return NO_RANK;
}

static bool has_uniform_budget(const Plan *plan)
{
    return plan->buffer.budget.table == NULL && plan->buffer.budget.choice == BUDGET_UNIFORM;
}

bool curve_is_exact(const Plan *plan)
{
    return plan->buffer.on && plan->buffer.order == ORDER_SERIAL && plan->buffer.bytes == 0 &&
           rank_of(plan->buffer.evict) != NO_RANK && !plan_prefetches(plan) &&
           plan->placement.ranks == 1 && plan->compute.mode == COMPUTE_ON_GPU &&
           has_uniform_budget(plan) && plan->buffer.initial.table == NULL &&
           plan->buffer.initial.choice == HOT_NONE;
}

/* What OBJECT is kept by after a lookup with NEXT_USE. Nobody but those never needed again share a
 * next use; of them the lower object goes first. */
static inline uint64_t rank_object(const Stacks *stacks, Rank rank, uint32_t object,
                                   uint32_t next_use)
{
    switch (rank) {
    case RANK_MRU:
        return UINT64_MAX - stacks->time;
    case RANK_LFU:
        return (uint64_t)stacks->count[object] << 32 | stacks->time;
    default:
        return (uint64_t)(UINT32_MAX - next_use) << 32 | object;
    }
}

/* Moves OBJECT into STACK of *DEPTH and everybody that goes for it down: at each depth the better
 * of the one that comes down and the one that is there stays. Returns the depth at which OBJECT lay
 * from 0, or *DEPTH where it is new. */
static inline uint32_t sink(Stacks *stacks, Rank rank, uint32_t *stack, uint32_t *depth,
                            uint32_t object, uint64_t key)
{
    uint32_t falling = object;
    uint64_t falling_key = rank == RANK_BELADY ? key & ~(uint64_t)UINT32_MAX : UINT64_MAX;
    uint32_t at = 0;
    for (; at < *depth && stack[at] != object; at++) {
        uint32_t here = stack[at];
        if (falling_key > stacks->keep[here]) {
            stack[at] = falling;
            falling = here;
            falling_key = stacks->keep[here];
        }
    }
    stack[at] = falling;
    stacks->keep[object] = key;
    return at;
}

static uint32_t look_up(Stacks *stacks, Rank rank, uint32_t layer, uint32_t expert,
                        uint32_t next_use)
{
    uint32_t scope = stacks->shared ? 0 : layer;
    uint32_t object = stacks->first_object[layer] + expert;
    if (rank == RANK_LRU)
        return recency_depths_use(&stacks->recency[scope], object - stacks->first_object[scope]);
    stacks->time++;
    stacks->count[object]++;
    uint64_t key = rank_object(stacks, rank, object, next_use);
    uint32_t at = sink(stacks, rank, stacks->stack + stacks->first_object[scope],
                       &stacks->depth[scope], object, key);
    if (at < stacks->depth[scope])
        return at;
    stacks->depth[scope]++;
    return UINT32_MAX;
}

enum { CHUNK = 32 };

/* NEXT_USE is the event's, or NULL. Counts hits by depth, and the assignments beyond the first of
 * each; sum_depths() makes them hits by size. With the device's depths of every layer these do not
 * fit into a cache: they are asked for ahead. */
static void pass_event(Stacks *stacks, const PackedEvent *event, const uint32_t *next_use,
                       MissCurve *curve)
{
    uint32_t layer = event->layer_index;
    const uint8_t *counts = event->counts;
    uint64_t *hits = curve->hits + (size_t)layer * curve->n_sizes;
    uint64_t *more = curve->assignment_hits + (size_t)layer * curve->n_sizes;
    uint32_t depths[CHUNK];
    curve->lookups[layer] += event->n_active;
    for (uint32_t from = 0; from < event->n_active; from += CHUNK) {
        uint32_t left = event->n_active - from;
        uint32_t n = left < CHUNK ? left : CHUNK;
        for (uint32_t i = 0; i < n; i++) {
            depths[i] = look_up(stacks, stacks->rank, layer, event->experts[from + i],
                                next_use != NULL ? next_use[from + i] : 0);
            __builtin_prefetch(&hits[depths[i] != UINT32_MAX ? depths[i] : 0], 1);
        }
        for (uint32_t i = 0; i < n; i++) {
            uint32_t tokens = packed_event_count(&counts);
            curve->assignments[layer] += tokens;
            if (depths[i] == UINT32_MAX)
                continue;
            hits[depths[i]]++;
            if (tokens > 1)
                more[depths[i]] += tokens - 1;
        }
    }
}

static void sum_depths(MissCurve *curve)
{
    for (uint32_t layer = 0; layer < curve->n_layers; layer++)
        for (uint32_t i = 1; i < curve->n_sizes; i++) {
            size_t at = (size_t)layer * curve->n_sizes + i;
            curve->hits[at] += curve->hits[at - 1];
            curve->assignment_hits[at] += curve->assignment_hits[at - 1];
        }
    for (size_t at = 0; at < (size_t)curve->n_layers * curve->n_sizes; at++)
        curve->assignment_hits[at] += curve->hits[at];
}

static uint32_t scope_objects(const PackedTrace *trace, const Stacks *stacks, uint32_t scope)
{
    return stacks->shared ? stacks->n_objects : trace->layers[scope].experts;
}

static Status make_recency(const PackedTrace *trace, Stacks *stacks)
{
    uint32_t n_scopes = stacks->shared ? 1 : trace->n_layers;
    Arena arena = {0};
    TRY(mem_new(&stacks->recency, n_scopes, sizeof *stacks->recency, "miss curve"));
    for (uint32_t i = 0; i < n_scopes; i++)
        recency_depths_lay_out(&stacks->recency[i], scope_objects(trace, stacks, i), &arena);
    TRY(arena_commit(&arena, "miss curve"));
    stacks->recency_block = arena.base;
    for (uint32_t i = 0; i < n_scopes; i++)
        recency_depths_lay_out(&stacks->recency[i], scope_objects(trace, stacks, i), &arena);
    return OK;
}

static void free_stacks(Stacks *stacks)
{
    mem_free(stacks->recency_block);
    mem_free(stacks->recency);
    mem_free(stacks->first_object); /* the first piece of the arena is its block */
}

static Status make_stacks(const PackedTrace *trace, const Plan *plan, Stacks *stacks)
{
    Arena arena = {0};
    uint32_t n = trace->n_layers;
    *stacks =
        (Stacks){.rank = rank_of(plan->buffer.evict), .shared = plan->buffer.scope == SCOPE_DEVICE};
    for (uint32_t i = 0; i < n; i++)
        stacks->n_objects += trace->layers[i].experts;
    size_t objects = stacks->n_objects;
    arena_reserve(&arena, n, sizeof *stacks->first_object);
    arena_reserve(&arena, n, sizeof *stacks->depth);
    arena_reserve(&arena, objects, sizeof *stacks->stack);
    arena_reserve(&arena, objects, sizeof *stacks->keep);
    arena_reserve(&arena, objects, sizeof *stacks->count);
    TRY(arena_commit(&arena, "miss curve"));
    stacks->first_object = arena_take(&arena, n, sizeof *stacks->first_object);
    stacks->depth = arena_take(&arena, n, sizeof *stacks->depth);
    stacks->stack = arena_take(&arena, objects, sizeof *stacks->stack);
    stacks->keep = arena_take(&arena, objects, sizeof *stacks->keep);
    stacks->count = arena_take(&arena, objects, sizeof *stacks->count);
    for (uint32_t i = 1; i < n; i++)
        stacks->first_object[i] = stacks->first_object[i - 1] + trace->layers[i - 1].experts;
    return stacks->rank == RANK_LRU ? make_recency(trace, stacks) : OK;
}

static Status make_curve(const PackedTrace *trace, const Stacks *stacks, MissCurve *curve)
{
    uint32_t n = trace->n_layers;
    curve->n_layers = n;
    for (uint32_t i = 0; i < n; i++)
        if (trace->layers[i].experts > curve->n_sizes)
            curve->n_sizes = trace->layers[i].experts;
    if (stacks->shared)
        curve->n_sizes = stacks->n_objects;
    size_t cells = (size_t)n * curve->n_sizes;
    TRY(mem_new(&curve->hits, cells, sizeof *curve->hits, "miss curve"));
    TRY(mem_new(&curve->assignment_hits, cells, sizeof *curve->assignment_hits, "miss curve"));
    TRY(mem_new(&curve->lookups, n, sizeof *curve->lookups, "miss curve"));
    return mem_new(&curve->assignments, n, sizeof *curve->assignments, "miss curve");
}

static void pass(const PackedTrace *trace, FutureReader *future, Stacks *stacks, MissCurve *curve)
{
    PackedCursor cursor = packed_cursor(trace);
    PackedEvent event;
    while (packed_next(&cursor, &event))
        pass_event(stacks, &event,
                   future != NULL ? future_reader_at(future, event.first_lookup) : NULL, curve);
    sum_depths(curve);
}

Status curve_run(const PackedTrace *trace, const Plan *plan, const ReplayFuture *future,
                 MissCurve *curve)
{
    Stacks stacks;
    FutureReader *reader = NULL;
    *curve = (MissCurve){0};
    if (!curve_is_exact(plan))
        return fail(ERR_UNSUPPORTED,
                    "%s in order %s: no stack policy, so each size needs its own replay",
                    plan->buffer.evict, plan_order_name(plan->buffer.order));
    if (trace->n_lookups > UINT32_MAX - 1)
        return fail(ERR_INPUT, "miss curve: %" PRIu64 " lookups, at most %u", trace->n_lookups,
                    UINT32_MAX - 1);
    Status status = make_stacks(trace, plan, &stacks);
    if (status == OK)
        status = make_curve(trace, &stacks, curve);
    if (status == OK && eviction_needs_future(plan->buffer.evict))
        status = future_reader_new(future->serial, &reader);
    uint64_t start_ns = clock_ns();
    if (status == OK)
        pass(trace, reader, &stacks, curve);
    curve->pass_ns = clock_ns() - start_ns;
    future_reader_free(reader);
    free_stacks(&stacks);
    if (status != OK)
        curve_free(curve);
    return status;
}

void curve_free(MissCurve *curve)
{
    mem_free(curve->hits);
    mem_free(curve->assignment_hits);
    mem_free(curve->lookups);
    mem_free(curve->assignments);
    *curve = (MissCurve){0};
}

uint64_t curve_misses(const MissCurve *curve, uint32_t size)
{
    uint64_t misses = 0;
    uint32_t at = size < curve->n_sizes ? size : curve->n_sizes;
    for (uint32_t i = 0; i < curve->n_layers; i++) {
        misses += curve->lookups[i];
        if (at > 0)
            misses -= curve->hits[(size_t)i * curve->n_sizes + at - 1];
    }
    return misses;
}

uint32_t curve_first_hit(const MissCurve *curve)
{
    uint64_t none = curve_misses(curve, 0);
    for (uint32_t size = 1; size <= curve->n_sizes; size++)
        if (curve_misses(curve, size) < none)
            return size;
    return 0;
}
