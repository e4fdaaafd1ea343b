#include "policies/event_loop.h"

/* Residents seen once and more often, and the ghosts of each: linked lists, so that whoever goes or
 * is wanted is found without a search. list says in which an object is. */
enum { NOWHERE, ONCE, OFTEN, GHOST_ONCE, GHOST_OFTEN, LISTS };

static uint32_t sentinel_of(const Scope *scope, uint32_t list)
{
    return scope->n_objects + list;
}

static void enter(Scope *scope, uint32_t list, uint32_t object)
{
    scope->list[object] = (uint16_t)list;
    scope->length[list]++;
    list_push(scope, sentinel_of(scope, list), object);
}

static void arc_hit(Scope *scope, uint32_t object)
{
    uint32_t once = scope->list[object] == ONCE;
    scope->length[ONCE] -= once;
    scope->length[OFTEN] += once;
    scope->list[object] = OFTEN;
    list_remove(scope, object);
    list_push(scope, sentinel_of(scope, OFTEN), object);
}

/* Takes OBJECT out of LIST. */
static void leave(Scope *scope, uint32_t list, uint32_t object)
{
    scope->list[object] = NOWHERE;
    scope->length[list]--;
    list_remove(scope, object);
}

static uint32_t oldest(const Scope *scope, uint32_t list)
{
    return scope->nodes[sentinel_of(scope, list)].newer;
}

static void drop_oldest(Scope *scope, uint32_t list)
{
    if (scope->length[list] > 0)
        leave(scope, list, oldest(scope, list));
}

static double at_least_one(uint32_t part, uint32_t whole)
{
    return part > whole ? (double)part / (double)whole : 1.0;
}

/* What came back says which list deserved more; admission and replacement are told the ghost list
 * that it stood in. */
static void arc_miss(Scope *scope, uint32_t object)
{
    uint32_t once = scope->length[GHOST_ONCE];
    uint32_t often = scope->length[GHOST_OFTEN];
    uint32_t list = scope->list[object];
    scope->came_from = list;
    if (list == NOWHERE)
        return;
    if (list == GHOST_ONCE)
        scope->target += at_least_one(often, once);
    else
        scope->target -= at_least_one(once, often);
    if (scope->target > scope->capacity)
        scope->target = scope->capacity;
    if (scope->target < 0)
        scope->target = 0;
    leave(scope, list, object);
}

static void arc_admit(Scope *scope, uint32_t object)
{
    enter(scope, scope->came_from != NOWHERE ? OFTEN : ONCE, object);
}

/* The oldest of LIST that may go, or NOBODY. */
ALWAYS_INLINE uint32_t candidate(const Scope *scope, uint32_t list, bool outside)
{
    uint32_t sentinel = sentinel_of(scope, list);
    uint32_t object = scope->nodes[sentinel].newer;
    while (outside && object != sentinel && scope_is_active(scope, object))
        object = scope->nodes[object].newer;
    return object != sentinel ? object : NOBODY;
}

ALWAYS_INLINE uint32_t take(Scope *scope, uint32_t list, uint32_t object, bool remembered)
{
    leave(scope, list, object);
    if (remembered)
        enter(scope, list + GHOST_ONCE - ONCE, object);
    return object;
}

/* REPLACE of the paper. */
ALWAYS_INLINE uint32_t replace(Scope *scope, bool outside)
{
    double once = scope->length[ONCE];
    bool was_often = scope->came_from == GHOST_OFTEN;
    bool from_once =
        scope->length[ONCE] > 0 && (once > scope->target || (was_often && once == scope->target));
    uint32_t list = from_once ? ONCE : OFTEN;
    uint32_t object = candidate(scope, list, outside);
    if (object == NOBODY) {
        list = from_once ? OFTEN : ONCE;
        object = candidate(scope, list, outside);
    }
    return take(scope, list, object, true);
}

ALWAYS_INLINE uint32_t arc_take(Scope *scope, bool outside)
{
    uint32_t seen_once = scope->length[ONCE] + scope->length[GHOST_ONCE];
    uint32_t all = seen_once + scope->length[OFTEN] + scope->length[GHOST_OFTEN];
    if (scope->came_from != NOWHERE)
        return replace(scope, outside);
    if (seen_once >= scope->capacity) {
        uint32_t once = candidate(scope, ONCE, outside);
        if (scope->length[GHOST_ONCE] == 0 && once != NOBODY)
            return take(scope, ONCE, once, false);
        drop_oldest(scope, GHOST_ONCE);
    } else if (all >= 2 * (uint64_t)scope->capacity) {
        drop_oldest(scope, GHOST_OFTEN);
    }
    return replace(scope, outside);
}

static uint32_t arc_victim(Scope *scope)
{
    return arc_take(scope, false);
}

static uint32_t arc_victim_outside(Scope *scope)
{
    return arc_take(scope, true);
}

static const EvictionRules RULES = {.hit = arc_hit,
                                    .miss = arc_miss,
                                    .admit = arc_admit,
                                    .victim = arc_victim,
                                    .victim_outside = arc_victim_outside};

DEFINE_EVENTS(arc, RULES)

/* Adaptive replacement cache. Megiddo and Modha 2003 (FAST), figure 4: two lists in order of last
 * lookup, of residents seen once and more often, a ghost list of each, and a target for the first
 * that moves with the ghosts that come back. Where the chosen list holds members of A alone, the
 * other gives the victim. */
const EvictionPolicy EVICT_ARC = {
    .name = "arc", EVENTS(arc), .needs_flags = true, .n_lists = LISTS};
