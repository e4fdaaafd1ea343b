/* The residency of one scope of the expert buffer (a layer, or the whole device) and the orders
 * that eviction policies keep over it. Inside policies/ only.
 *
 * Every expert that can be in the scope is an object: its id under scope layer, and under scope
 * device its id plus the experts of all layers before, so that objects ascend by layer, then id.
 * What a lookup reads is small: a byte an object says whether it is resident. Orders are rings of
 * objects; only a policy that takes out of the middle, of several lists, links nodes. No array of a
 * scope is of characters: writing to one would make the compiler read the scope again. */
#ifndef POLICIES_SCOPE_H
#define POLICIES_SCOPE_H

#include <assert.h>
#include <string.h>

#include "policies/aged_queue.h"
#include "policies/buffer.h"
#include "policies/farthest.h"
#include "policies/heap.h"
#include "policies/places.h"
#include "policies/ring.h"
#include "policies/value_queue.h"

#define NOBODY UINT32_MAX
#define ALWAYS_INLINE static inline __attribute__((always_inline))

enum { MOST_RINGS = 5 };

/* Neighbours in a list; a sentinel node closes it. */
typedef struct {
    uint32_t newer;
    uint32_t older;
} ScopeNode;

/* On cache lines of its own: where its members lie on them would otherwise depend on the layer. */
typedef struct {
    _Alignas(64) bool *resident; /* [n_objects] in a slot */
    uint32_t *slot;              /* [n_objects] of those that are resident */
    uint32_t *slot_object;       /* [n_slots] who is there, or NOBODY */
    uint16_t *mark;              /* [n_objects] the last event that marked it as a member of A */
    uint32_t n_objects;
    uint32_t n_slots;
    uint32_t *free_slots; /* [n_free] a stack: from 0 up at first, then the slot freed last */
    uint32_t n_free;
    uint32_t n_residents;
    uint32_t n_loaded;   /* loads so far */
    uint32_t *loaded_at; /* [n_objects] their number after its last load */
    uint32_t young;      /* so many residents, the newest, are young */
    uint32_t newest;     /* the object loaded last, or NOBODY */
    uint16_t event;      /* number of the event, from 1 and round again */
    bool is_wide;        /* runs may be wide */
    bool marked;         /* A carries this event's mark */
    uint32_t outside;    /* residents outside A; valid once marked */
    uint64_t kept;       /* prefetching: what those that must stay take of the budget */
    uint16_t *misses;    /* [2 * experts of the widest layer] positions in A that missed */
    uint8_t *missed;     /* [experts of the widest layer] order staged: whether each of A missed */

    /* The budget, in slots (each object weighs 1) or in bytes where sizes differ. */
    uint64_t budget;
    uint64_t used;
    uint64_t peak;                /* the most ever used */
    const uint64_t *layer_weight; /* of an object of each layer; NULL: all weigh 1 */
    const uint16_t *object_layer; /* [n_objects]; NULL under scope layer */

    /* For the policy. */
    Ring rings[MOST_RINGS]; /* its orders */
    uint32_t *position;     /* [n_objects] in a ring where lookups move objects */
    Places places;          /* ... or the places that wide runs lay a ring out in */
    ScopeNode *nodes;       /* [n_objects + lists of the policy]; the last are their sentinels */
    uint64_t random;        /* state of its random numbers */
    Heap heap;              /* residents, where the policy asks for it */
    Farthest farthest;      /* the same */
    AgedQueue aged;         /* residents, where the policy asks for it */
    ValueQueue queue;       /* residents of the smallest values, where it asks for that */
    uint32_t *count;        /* [n_objects] lookups of each */
    uint32_t *last;         /* [n_objects] time of its last lookup */
    uint32_t time;          /* lookups so far */
    uint32_t *aside;        /* [2 * n_slots] taken out of the order for the rest of the event */
    uint32_t n_aside;
    uint32_t n_newer;   /* lifo: in the second half of aside, those admitted since */
    uint32_t *turn;     /* [n_objects] when it was last looked up, in policies/turns.h */
    uint32_t turns;     /* of the event begun last */
    uint16_t *flag;     /* [n_objects] visited, or lookups up to a cap */
    uint16_t *list;     /* [n_objects] the list it is in; 0: none */
    uint32_t length[5]; /* objects of each such list */
    uint32_t capacity;  /* most residents that the budget allows, of the smallest size */
    uint32_t came_from; /* arc: the ghost list that the miss being admitted was in, or 0 */
    double target;      /* arc: what part of the capacity seen once is aimed at */
    bool has_evicted;
    bool came_back; /* the miss being admitted was remembered */
    uint32_t step;  /* number of the pass over the layers, from 1 */
    uint32_t layer; /* of the event */
    uint32_t n_layers;
    uint64_t inflation; /* cost-aware: the value of the last victim */
    uint64_t *value;    /* [n_objects] cost-aware, ema-score */
    uint32_t alpha;     /* ema-score: what share of 2^16 the newest score has */
} Scope;

/* One event on its way through its scope, and what those of its layer came to. */
typedef struct {
    const uint16_t *experts; /* [n] ascending */
    uint32_t n;
    uint32_t first_object; /* of expert 0 of the event's layer */
    uint64_t weight;       /* of each of them */
    BufferAction *actions; /* or NULL */
    uint8_t *hit;          /* [n], or NULL */
    uint64_t loads;        /* these seven add up over events */
    uint64_t evictions;
    uint64_t evicted_newest;
    uint64_t evicted_young;
    uint64_t bypasses;
    uint64_t hits;
    uint64_t lookups;
    const uint32_t *next_use; /* [n], or NULL */
    uint32_t n_experts;       /* of the layer */
    const uint32_t *scores;   /* [n_experts], or NULL */
    const uint16_t *touches;  /* [n] positions in experts, last touch longest ago first; or NULL */
    const uint32_t *layer_objects; /* first object of each layer */
    uint32_t layer_index;
    uint32_t n_actions;
} ScopeEvent;

ALWAYS_INLINE bool scope_holds(const Scope *scope, uint32_t object)
{
    return scope->resident[object];
}

/* True for members of A, once marked. */
ALWAYS_INLINE bool scope_is_active(const Scope *scope, uint32_t object)
{
    return scope->mark[object] == scope->event;
}

/* TAKEs residents until one is outside A, of which there is one; those before it are set aside. */
ALWAYS_INLINE uint32_t scope_take_outside(Scope *scope, uint32_t (*take)(Scope *scope))
{
    for (;;) {
        uint32_t object = take(scope);
        if (!scope_is_active(scope, object))
            return object;
        scope->aside[scope->n_aside++] = object;
    }
}

/* PUTs all that are set aside back, the last first. */
ALWAYS_INLINE void scope_put_back(Scope *scope, void (*put)(Scope *scope, uint32_t object))
{
    while (scope->n_aside > 0)
        put(scope, scope->aside[--scope->n_aside]);
}

/* Starts an event: nothing is marked. */
ALWAYS_INLINE void scope_begin_event(Scope *scope)
{
    scope->marked = false;
    scope->kept = 0;
    if (++scope->event != 0)
        return;
    memset(scope->mark, 0, scope->n_objects * sizeof *scope->mark);
    scope->event = 1;
}

/* Marks A and counts the residents outside it; once per event, when the first victim is wanted. */
ALWAYS_INLINE void scope_mark(Scope *scope, const ScopeEvent *event)
{
    uint32_t active = 0;
    for (uint32_t i = 0; i < event->n; i++) {
        uint32_t object = event->first_object + event->experts[i];
        scope->mark[object] = scope->event;
        active += scope_holds(scope, object);
    }
    scope->outside = scope->n_residents - active;
    scope->marked = true;
}

/* The lookups of EXPERTS[n] against RESIDENT, both of one layer: writes NUMBER to each one's MARK
 * and the positions of those that missed to MISSES, and returns how many. A function of its own, so
 * that its loop has the registers to itself; nothing branches on what is found. */
uint32_t scope_split(const uint16_t *experts, uint32_t n, const bool *resident, uint16_t number,
                     uint16_t *mark, uint16_t *misses);

/* The same for at most 64 experts: writes FIRST + its position to each one's TURN, and returns a
 * bit for each that missed. */
uint64_t scope_look_at(const uint16_t *experts, uint32_t n, const bool *resident, uint32_t first,
                       uint32_t *turn);

/* Prefetching: OBJECT, resident or not, is not to be evicted until the next event begins. */
void scope_keep(Scope *scope, uint32_t object);

/* Appends to the event's actions, which are wanted. Inline, as all that takes a scope or an event
 * in the loops over them: a copy that no pointer leads to stays in registers. */
ALWAYS_INLINE void scope_report(const Scope *scope, ScopeEvent *event, ResidencyKind kind,
                                uint32_t object, uint32_t slot)
{
    bool shared = scope->object_layer != NULL;
    uint32_t layer = shared ? scope->object_layer[object] : event->layer_index;
    uint32_t expert = shared ? object - event->layer_objects[layer] : object;
    event->actions[event->n_actions++] = (BufferAction){.kind = (uint8_t)kind,
                                                        .layer_index = (uint16_t)layer,
                                                        .expert = (uint16_t)expert,
                                                        .slot = slot};
}

ALWAYS_INLINE void scope_report_hits(const Scope *scope, ScopeEvent *event)
{
    for (uint32_t i = 0; i < event->n; i++) {
        uint32_t object = event->first_object + event->experts[i];
        if (scope_holds(scope, object))
            scope_report(scope, event, RESIDENCY_HIT, object, scope->slot[object]);
    }
}

/* Sets the event's hit[n]: 0 at the positions of the MISSES. */
ALWAYS_INLINE void scope_write_hits(const ScopeEvent *event, const uint16_t *misses,
                                    uint32_t n_misses)
{
    memset(event->hit, 1, event->n);
    for (uint32_t i = 0; i < n_misses; i++)
        event->hit[misses[i]] = 0;
}

ALWAYS_INLINE uint64_t scope_weight(const Scope *scope, uint32_t object)
{
    return scope->layer_weight == NULL ? 1 : scope->layer_weight[scope->object_layer[object]];
}

/* True when the budget has room for one more expert of the event. */
ALWAYS_INLINE bool scope_has_room(const Scope *scope, const ScopeEvent *event)
{
    return scope->used + event->weight <= scope->budget;
}

/* True for residents that few have been loaded after. */
ALWAYS_INLINE bool scope_is_young(const Scope *scope, uint32_t object)
{
    return scope->n_loaded - scope->loaded_at[object] < scope->young;
}

ALWAYS_INLINE void scope_count_eviction(const Scope *scope, ScopeEvent *event, uint32_t victim)
{
    assert(scope_holds(scope, victim));
    event->evictions++;
    event->evicted_newest += victim == scope->newest;
    event->evicted_young += scope_is_young(scope, victim);
    if (event->actions != NULL)
        scope_report(scope, event, RESIDENCY_EVICT, victim, scope->slot[victim]);
}

ALWAYS_INLINE void scope_take_slot(Scope *scope, ScopeEvent *event, uint32_t object, uint32_t slot)
{
    scope->resident[object] = true;
    scope->slot[object] = slot;
    scope->slot_object[slot] = object;
    scope->loaded_at[object] = ++scope->n_loaded;
    event->loads++;
    if (event->actions != NULL)
        scope_report(scope, event, RESIDENCY_LOAD, object, slot);
}

/* Takes VICTIM, which its policy has let go, out of its slot. */
ALWAYS_INLINE void scope_evict(Scope *scope, ScopeEvent *event, uint32_t victim)
{
    uint32_t slot = scope->slot[victim];
    scope_count_eviction(scope, event, victim);
    scope->resident[victim] = false;
    scope->slot_object[slot] = NOBODY;
    scope->free_slots[scope->n_free++] = slot;
    scope->used -= scope_weight(scope, victim);
    scope->n_residents--;
}

/* Puts OBJECT, one of the event's, into a free slot. */
ALWAYS_INLINE void scope_load(Scope *scope, ScopeEvent *event, uint32_t object)
{
    assert(scope->n_free > 0);
    scope->used += event->weight;
    scope->n_residents++;
    scope_take_slot(scope, event, object, scope->free_slots[--scope->n_free]);
}

/* OBJECT, one of the event's, passes through the staging slot. */
ALWAYS_INLINE void scope_pass_by(const Scope *scope, ScopeEvent *event, uint32_t object)
{
    event->loads++;
    event->bypasses++;
    if (event->actions != NULL)
        scope_report(scope, event, RESIDENCY_BYPASS, object, scope->n_slots);
}

/* The two at once, where all weigh the same. */
ALWAYS_INLINE void scope_replace(Scope *scope, ScopeEvent *event, uint32_t victim, uint32_t object)
{
    scope_count_eviction(scope, event, victim);
    scope->resident[victim] = false;
    scope_take_slot(scope, event, object, scope->slot[victim]);
}

/* Linked lists: list I of a policy has the sentinel n_objects + I; from there, newer leads to the
 * oldest. */

ALWAYS_INLINE void list_remove(Scope *scope, uint32_t object)
{
    ScopeNode *nodes = scope->nodes;
    uint32_t newer = nodes[object].newer;
    uint32_t older = nodes[object].older;
    nodes[newer].older = older;
    nodes[older].newer = newer;
}

ALWAYS_INLINE void list_push(Scope *scope, uint32_t sentinel, uint32_t object)
{
    ScopeNode *nodes = scope->nodes;
    uint32_t second = nodes[sentinel].older;
    nodes[object].newer = sentinel;
    nodes[object].older = second;
    nodes[second].newer = object;
    nodes[sentinel].older = object;
}

#endif
