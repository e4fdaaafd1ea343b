#include "policies/event_loop.h"

enum { SMALL = 1, MAIN, GHOST, COUNT_CAP = 3, PROMOTE_AT = 2 };

static uint32_t sentinel_of(const Scope *scope, uint8_t list)
{
    return scope->n_objects + list - 1;
}

static void enter(Scope *scope, uint8_t list, uint32_t object)
{
    list_push(scope, sentinel_of(scope, list), object);
    scope->list[object] = list;
    scope->length[list]++;
}

static void leave(Scope *scope, uint32_t object)
{
    list_remove(scope, object);
    scope->length[scope->list[object]]--;
    scope->list[object] = 0;
}

static uint32_t oldest_of(const Scope *scope, uint8_t list)
{
    return scope->nodes[sentinel_of(scope, list)].newer;
}

/* A tenth of the capacity, at least one. */
static uint32_t small_capacity(const Scope *scope)
{
    return scope->capacity < 20 ? 1 : scope->capacity / 10;
}

static uint32_t main_capacity(const Scope *scope)
{
    uint32_t small = small_capacity(scope);
    return scope->capacity > small ? scope->capacity - small : 0;
}

static void s3_hit(Scope *scope, uint32_t object)
{
    scope->flag[object] += scope->flag[object] < COUNT_CAP;
}

static void s3_miss(Scope *scope, uint32_t object)
{
    scope->came_back = scope->list[object] == GHOST;
    if (scope->came_back)
        leave(scope, object);
}

static void s3_admit(Scope *scope, uint32_t object)
{
    bool is_small_full = scope->length[SMALL] >= small_capacity(scope);
    bool to_main = scope->came_back || (!scope->has_evicted && is_small_full);
    scope->flag[object] = 0;
    enter(scope, to_main ? MAIN : SMALL, object);
}

static void remember(Scope *scope, uint32_t object)
{
    uint32_t most = main_capacity(scope);
    while (scope->length[GHOST] > 0 && scope->length[GHOST] >= most)
        leave(scope, oldest_of(scope, GHOST));
    if (most > 0)
        enter(scope, GHOST, object);
}

/* Members of A are passed over as they are. NOBODY when the queue has no one else to give. */
ALWAYS_INLINE uint32_t take_small(Scope *scope, bool outside)
{
    for (uint32_t left = scope->length[SMALL]; left > 0; left--) {
        uint32_t object = oldest_of(scope, SMALL);
        leave(scope, object);
        if (outside && scope_is_active(scope, object)) {
            enter(scope, SMALL, object);
        } else if (scope->flag[object] >= PROMOTE_AT) {
            scope->flag[object] = 0;
            enter(scope, MAIN, object);
        } else {
            remember(scope, object);
            return object;
        }
    }
    return NOBODY;
}

ALWAYS_INLINE uint32_t take_main(Scope *scope, bool outside)
{
    uint32_t passed = 0; /* members of A since the last that was none */
    while (passed < scope->length[MAIN]) {
        uint32_t object = oldest_of(scope, MAIN);
        bool is_passed_over = outside && scope_is_active(scope, object);
        leave(scope, object);
        passed = is_passed_over ? passed + 1 : 0;
        if (!is_passed_over && scope->flag[object] == 0)
            return object;
        scope->flag[object] -= !is_passed_over;
        enter(scope, MAIN, object);
    }
    return NOBODY;
}

ALWAYS_INLINE uint32_t s3_take(Scope *scope, bool outside)
{
    scope->has_evicted = true;
    bool from_main = scope->length[MAIN] > main_capacity(scope) || scope->length[SMALL] == 0;
    uint32_t object = from_main ? take_main(scope, outside) : take_small(scope, outside);
    if (object == NOBODY)
        object = from_main ? take_small(scope, outside) : take_main(scope, outside);
    return object != NOBODY ? object : take_main(scope, outside);
}

static uint32_t s3_victim(Scope *scope)
{
    return s3_take(scope, false);
}

static uint32_t s3_victim_outside(Scope *scope)
{
    return s3_take(scope, true);
}

static const EvictionRules RULES = {.hit = s3_hit,
                                    .miss = s3_miss,
                                    .admit = s3_admit,
                                    .victim = s3_victim,
                                    .victim_outside = s3_victim_outside};

DEFINE_EVENTS(s3, RULES)

/* S3-FIFO. Yang et al. 2023 (SOSP): a small queue (10 %) that newcomers pass, a main queue for
 * those looked up at least twice more on their way or remembered when they come back, and a ghost
 * queue as long as the main one. Lookups are counted up to 3; the main queue takes one back for
 * each time round. As in libCacheSim, newcomers go to the main queue while the small one is full
 * and nobody was evicted yet. */
const EvictionPolicy EVICT_S3_FIFO = {
    .name = "s3-fifo", EVENTS(s3), .needs_flags = true, .n_more_lists = 2};
