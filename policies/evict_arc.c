#include "policies/event_loop.h"
#include "policies/recency.h"

/* Residents seen once and more often, and the ghosts of each. */
enum { ONCE = 1, OFTEN, GHOST_ONCE, GHOST_OFTEN };

static void enter(Scope *scope, uint16_t list, uint32_t object)
{
    scope->list[object] = list;
    scope->length[list]++;
    recency_push(scope, &scope->rings[list], list, object);
}

/* What stays behind in the ring is stale. */
static void leave(Scope *scope, uint32_t object)
{
    scope->length[scope->list[object]]--;
    scope->list[object] = 0;
}

static void drop_oldest(Scope *scope, uint16_t list)
{
    if (scope->length[list] > 0)
        leave(scope, recency_oldest(scope, &scope->rings[list], list));
}

static void arc_hit(Scope *scope, uint32_t object)
{
    leave(scope, object);
    enter(scope, OFTEN, object);
}

static double at_least_one(uint32_t part, uint32_t whole)
{
    return part > whole ? (double)part / (double)whole : 1.0;
}

/* What came back says which list deserved more. flag tells admission and replacement: the ghost
 * list it stood in. */
static void arc_miss(Scope *scope, uint32_t object)
{
    uint32_t once = scope->length[GHOST_ONCE];
    uint32_t often = scope->length[GHOST_OFTEN];
    uint16_t ghost = scope->list[object];
    if (ghost == GHOST_ONCE)
        scope->target += at_least_one(often, once);
    if (ghost == GHOST_OFTEN)
        scope->target -= at_least_one(once, often);
    if (scope->target > scope->capacity)
        scope->target = scope->capacity;
    if (scope->target < 0)
        scope->target = 0;
    scope->came_back = ghost != 0;
    scope->flag[object] = ghost;
    scope->missing = object;
    if (ghost != 0)
        leave(scope, object);
}

static void arc_admit(Scope *scope, uint32_t object)
{
    enter(scope, scope->flag[object] != 0 ? OFTEN : ONCE, object);
}

/* The oldest of LIST that may go, or NOBODY. */
static uint32_t candidate(Scope *scope, uint16_t list, bool outside)
{
    if (scope->length[list] == 0)
        return NOBODY;
    uint32_t object = recency_oldest(scope, &scope->rings[list], list);
    if (!outside || !scope_is_active(scope, object))
        return object;
    return recency_oldest_outside(scope, &scope->rings[list], list);
}

static uint32_t take(Scope *scope, uint32_t object, bool remembered)
{
    uint16_t list = scope->list[object];
    leave(scope, object);
    if (remembered)
        enter(scope, list == ONCE ? GHOST_ONCE : GHOST_OFTEN, object);
    return object;
}

/* REPLACE of the paper. */
static uint32_t replace(Scope *scope, bool outside)
{
    double once = scope->length[ONCE];
    bool was_often = scope->flag[scope->missing] == GHOST_OFTEN;
    bool from_once =
        scope->length[ONCE] > 0 && (once > scope->target || (was_often && once == scope->target));
    uint32_t object = candidate(scope, from_once ? ONCE : OFTEN, outside);
    if (object == NOBODY)
        object = candidate(scope, from_once ? OFTEN : ONCE, outside);
    return take(scope, object, true);
}

ALWAYS_INLINE uint32_t arc_take(Scope *scope, bool outside)
{
    uint32_t seen_once = scope->length[ONCE] + scope->length[GHOST_ONCE];
    uint32_t all = seen_once + scope->length[OFTEN] + scope->length[GHOST_OFTEN];
    if (scope->came_back)
        return replace(scope, outside);
    if (seen_once >= scope->capacity) {
        uint32_t once = candidate(scope, ONCE, outside);
        if (scope->length[GHOST_ONCE] == 0 && once != NOBODY)
            return take(scope, once, false);
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
    .name = "arc", EVENTS(arc), .needs_flags = true, .needs_positions = true, .n_rings = 5};
