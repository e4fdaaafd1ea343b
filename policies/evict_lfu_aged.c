/* Ages grow all the time, so residents have no order to keep. But who does not reach a threshold
 * before a horizon is no victim until then while anyone is above it: a lookup puts it off, nothing
 * else moves it. Whoever does reach it is near, and near are few: the victim is the most of them.
 * When the horizon has come, or nobody near is above the threshold, near is filled again from all,
 * with a threshold a little below the most and a horizon as far as some dozens of victims. */
#include "policies/turns.h"

/* Where more are near than are WANTED as victims by so many, the threshold goes up; a try has
 * 3/4 of the one before. */
enum { FEW_SPARE = 10, MANY_SPARE = 19, GAPS = 64, TRIES = 8 };

static void clear_near(AgedQueue *queue)
{
    for (; queue->near != 0; queue->near &= queue->near - 1)
        queue->index[queue->near_slot[__builtin_ctzll(queue->near)]] = AGED_NEAR;
}

static void put_near(AgedQueue *queue, uint32_t index, uint32_t slot, uint32_t object)
{
    queue->near |= UINT64_C(1) << index;
    queue->near_last[index] = queue->last[slot];
    queue->near_rate[index] = queue->rate[slot];
    queue->near_slot[index] = slot;
    queue->near_object[index] = object;
    queue->index[slot] = (uint16_t)index;
}

static bool reaches(const AgedQueue *queue, uint32_t slot)
{
    return aged_score(queue->last[slot], queue->rate[slot], queue->horizon) >= queue->threshold;
}

/* OBJECT may go from now on. */
static void put(Scope *scope, uint32_t object)
{
    AgedQueue *queue = &scope->aged;
    uint32_t slot = scope->slot[object];
    float count = (float)queue->uses[object].count; /* to be compared before it is divided by */
    queue->rate[slot] = 1.0F / count;
    if ((float)(int32_t)(queue->horizon - queue->last[slot]) < queue->threshold * count)
        return;
    if (queue->near != UINT64_MAX)
        put_near(queue, (uint32_t)__builtin_ctzll(~queue->near), slot, object);
    else
        queue->horizon = 0;
}

/* Times have 31 bits. When they run out, half of the range is subtracted from all: lookups further
 * back than a thousand million others then count as equally old, and two thousand million as often
 * as more. */
static void start_time_again(Scope *scope)
{
    AgedQueue *queue = &scope->aged;
    uint32_t half = AGED_LAST_TIME / 2;
    clear_near(queue);
    for (uint32_t i = 0; i < queue->n; i++)
        queue->last[i] = queue->last[i] > half ? queue->last[i] - half : 0;
    for (uint32_t i = 0; i < scope->n_objects; i++) {
        AgedUse *use = &queue->uses[i];
        use->count = use->count < UINT32_MAX / 2 ? use->count : UINT32_MAX / 2;
    }
    scope->time -= half;
    queue->since = queue->since > half ? queue->since - half : 0;
    queue->horizon = 0;
}

static void aged_begin(Scope *scope, const ScopeEvent *event)
{
    if (event->n > AGED_LAST_TIME - scope->time)
        start_time_again(scope);
}

static uint32_t lookups_so_far(const Scope *scope)
{
    return scope->time + scope->aged.ahead;
}

/* OBJECT was looked up at TIME; or nothing was, without a branch. (Compilers branch on choices.) */
static void note_at(AgedQueue *queue, uint32_t object, uint32_t time, bool hit)
{
    AgedUse *use = &queue->uses[object];
    uint32_t count = use->count += hit;
    float rate = 1.0F / (float)count;
    uint32_t slot = queue->n ^ ((queue->n ^ use->slot) & -(uint32_t)hit);
    uint32_t index = queue->index[slot];
    queue->last[slot] = time;
    queue->rate[slot] = rate;
    queue->near_last[index] = time;
    queue->near_rate[index] = rate;
}

static void aged_hit(Scope *scope, uint32_t object)
{
    note_at(&scope->aged, object, ++scope->time, true);
}

static void admit_at(Scope *scope, uint32_t object, uint32_t time)
{
    AgedUse *use = &scope->aged.uses[object];
    use->count++;
    use->slot = scope->slot[object];
    scope->aged.last[use->slot] = time;
    put(scope, object);
}

static void aged_admit(Scope *scope, uint32_t object)
{
    if (scope->time == AGED_LAST_TIME) /* prefetches have no beginning */
        start_time_again(scope);
    admit_at(scope, object, ++scope->time);
}

/* True when the lookups over age of who is in slot LEFT are fewer than RIGHT's; products of 32-bit
 * numbers are exact. */
static bool is_less_used(const Scope *scope, uint32_t left, uint32_t right)
{
    const AgedQueue *queue = &scope->aged;
    uint32_t left_object = scope->slot_object[left];
    uint32_t right_object = scope->slot_object[right];
    uint64_t now = (uint64_t)lookups_so_far(scope) + 1;
    uint64_t a = queue->uses[left_object].count * (now - queue->last[right]);
    uint64_t b = queue->uses[right_object].count * (now - queue->last[left]);
    return a != b ? a < b : left_object < right_object;
}

/* The slot of the least used of those near that are CLOSE. */
static uint32_t least_of_close(const Scope *scope, uint64_t close)
{
    const uint32_t *slot = scope->aged.near_slot;
    uint32_t least = slot[__builtin_ctzll(close)];
    for (close &= close - 1; close != 0; close &= close - 1)
        if (is_less_used(scope, slot[__builtin_ctzll(close)], least))
            least = slot[__builtin_ctzll(close)];
    return least;
}

/* The slot of the least used of all with a score of LIMIT or more. */
static uint32_t least_of_all(const Scope *scope, float limit)
{
    const AgedQueue *queue = &scope->aged;
    uint32_t now = lookups_so_far(scope) + 1;
    uint32_t least = NOBODY;
    for (uint32_t i = 0; i < queue->n; i++)
        if (aged_score(queue->last[i], queue->rate[i], now) >= limit &&
            (least == NOBODY || is_less_used(scope, i, least)))
            least = i;
    return least;
}

/* Sets threshold and horizon by MOST, the greatest score NOW, and the PART of what is aimed at. */
static void aim(AgedQueue *queue, uint32_t now, float most, float part)
{
    float lookups = queue->gap * (float)queue->wanted * part;
    uint32_t left = INT32_MAX - now;
    queue->horizon = now + (lookups < (float)left ? (uint32_t)lookups : left);
    queue->threshold = most * (1 - queue->share * part);
}

/* Of N that were found. */
static void learn_share(AgedQueue *queue, uint32_t n)
{
    if (n < queue->wanted + FEW_SPARE && queue->share < 0.5F)
        queue->share *= 1.2F;
    else if (n > queue->wanted + MANY_SPARE && queue->share > 0x1p-14F)
        queue->share *= 0.85F;
}

static void learn_gap(AgedQueue *queue, uint32_t now)
{
    float lookups = GAPS * queue->gap + (float)(now - queue->since);
    queue->gap = lookups / (float)(GAPS + queue->taken);
    queue->since = now;
    queue->taken = 0;
}

/* Leaves those of N found who reach the threshold; returns how many. */
static uint32_t sift(AgedQueue *queue, uint32_t n)
{
    uint32_t n_left = 0;
    for (uint32_t i = 0; i < n; i++) {
        uint32_t slot = queue->found[i];
        queue->found[n_left] = slot;
        n_left += reaches(queue, slot);
    }
    return n_left;
}

/* Fills near, which has no one where too many are as good; MOST is the greatest score. */
static void fill_near(Scope *scope, float most)
{
    AgedQueue *queue = &scope->aged;
    uint32_t now = lookups_so_far(scope) + 1;
    float part = 1;
    clear_near(queue);
    learn_gap(queue, now);
    aim(queue, now, most, part);
    uint32_t n = queue->search.reach(queue->last, queue->rate, queue->n, queue->horizon,
                                     queue->threshold, queue->found);
    learn_share(queue, n);
    for (int i = 0; n > AGED_NEAR && i < TRIES; i++) {
        aim(queue, now, most, part *= 0.75F);
        n = sift(queue, n);
    }
    if (n > AGED_NEAR)
        n = queue->horizon = 0;
    for (uint32_t i = 0; i < n; i++)
        put_near(queue, i, queue->found[i], scope->slot_object[queue->found[i]]);
}

/* Who goes, and his bit if he is near. */
typedef struct {
    uint32_t slot;
    uint32_t object;
    uint64_t near;
} AgedPick;

/* The least used of all, near or not. */
static AgedPick search_all(Scope *scope)
{
    AgedQueue *queue = &scope->aged;
    AgedMost found =
        queue->search.all(queue->last, queue->rate, queue->n, lookups_so_far(scope) + 1);
    if (queue->wanted > 0)
        fill_near(scope, found.most);
    uint32_t slot = found.n_close == 1 ? found.at : least_of_all(scope, aged_limit(found.most));
    uint32_t index = queue->index[slot];
    return (AgedPick){slot, scope->slot_object[slot], index < AGED_NEAR ? UINT64_C(1) << index : 0};
}

static AgedNearest search_near(const AgedQueue *queue, uint32_t now)
{
    return queue->search.near(queue->near_last, queue->near_rate, queue->near, now);
}

/* Writes the least used of all to PICK. Returns false where it may not be near. */
static bool find_near(Scope *scope, AgedPick *pick)
{
    AgedQueue *queue = &scope->aged;
    uint32_t now = lookups_so_far(scope) + 1;
    AgedNearest found = search_near(queue, now);
    if (now > queue->horizon && found.most > 0) {
        fill_near(scope, found.most);
        found = search_near(queue, now);
    }
    if (now > queue->horizon || found.most == 0 || aged_limit(found.most) < queue->threshold)
        return false;
    pick->near = found.close;
    pick->slot = queue->near_slot[__builtin_ctzll(found.close)];
    pick->object = queue->near_object[__builtin_ctzll(found.close)];
    if ((found.close & (found.close - 1)) != 0) {
        pick->slot = least_of_close(scope, found.close);
        pick->near = UINT64_C(1) << queue->index[pick->slot];
        pick->object = scope->slot_object[pick->slot];
    }
    return true;
}

static AgedPick find_least(Scope *scope)
{
    AgedPick pick;
    if (scope->aged.wanted > 0 && find_near(scope, &pick))
        return pick;
    return search_all(scope);
}

static uint32_t take(Scope *scope, AgedPick pick)
{
    AgedQueue *queue = &scope->aged;
    queue->rate[pick.slot] = 0;
    queue->index[pick.slot] = AGED_NEAR;
    queue->near &= ~pick.near;
    queue->taken++;
    return pick.object;
}

static uint32_t take_least(Scope *scope)
{
    return take(scope, find_least(scope));
}

static void aged_end(Scope *scope)
{
    scope_put_back(scope, put);
}

static uint32_t aged_victim(Scope *scope)
{
    aged_end(scope);
    return take_least(scope);
}

static uint32_t aged_victim_outside(Scope *scope)
{
    return scope_take_outside(scope, take_least);
}

static const EvictionRules RULES = {.begin = aged_begin,
                                    .hit = aged_hit,
                                    .admit = aged_admit,
                                    .victim = aged_victim,
                                    .victim_outside = aged_victim_outside,
                                    .end = aged_end};

DEFINE_DECISIONS(lfu_aged, RULES)

/* Hits of the event that are pending have their old scores, which are greater: only who is taken
 * for the victim is asked. */
ALWAYS_INLINE uint32_t victim_at(Scope *scope, const Turns *turns, uint32_t at, uint64_t *pending)
{
    scope->aged.ahead = at;
    for (;;) {
        AgedPick pick = find_least(scope);
        if (!turns_take_hit(scope, turns, pick.object, at, pending))
            return take(scope, pick);
        note_at(&scope->aged, pick.object, scope->time + turns_of(scope, turns, pick.object) + 1,
                true);
    }
}

static void admit_next(Scope *scope, uint32_t object)
{
    admit_at(scope, object, lookups_so_far(scope) + 1);
}

static void note(Scope *scope, uint32_t object, bool hit)
{
    scope->aged.ahead = 0;
    note_at(&scope->aged, object, ++scope->time, hit);
}

static const TurnsRules TURNS = {.seeks = true,
                                 .decide = lfu_aged_serial_event,
                                 .begin = aged_begin,
                                 .victim = victim_at,
                                 .admit = admit_next,
                                 .note = note};

DEFINE_RUNS_BY_TURNS(lfu_aged, TURNS)

/* Frequency over age: fewest lookups since the start of the trace, divided by the lookups of the
 * scope since its own last one (and that one); ties to the lower object. Engines for expert
 * offloading call it LFRU; among causal policies it did best in replays with all of an event's
 * lookups against its start. */
const EvictionPolicy EVICT_LFU_AGED = {.name = "lfu-aged", EVENTS(lfu_aged), .needs_aged = true};
