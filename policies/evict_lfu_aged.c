/* Ages grow all the time, so residents have no order to keep. But age over lookups reaches a
 * threshold R not before the last lookup + lookups * R, less one: a lookup puts it off, nothing
 * else moves it. Whoever may have come so far is near, and the victim is among them where anyone
 * has: they are compared. All others wait for their turn of time in a wheel, at times that may be
 * too early. R goes up where many are near, and to a little less than the most there is where
 * nobody has come so far. Few residents are all near, with R at 0. */
#include "policies/event_loop.h"

static void leave_near(AgedQueue *queue, uint32_t at)
{
    uint32_t end = --queue->n;
    queue->uses[queue->object[at]].place = queue->none;
    if (at != end) {
        queue->last[at] = queue->last[end];
        queue->rate[at] = queue->rate[end];
        queue->object[at] = queue->object[end];
        queue->uses[queue->object[at]].place = at;
    }
    queue->rate[end] = 0;
}

/* USE is of an object that is near. */
ALWAYS_INLINE void note_near(AgedQueue *queue, const AgedUse *use)
{
    queue->last[use->place] = use->last;
    queue->rate[use->place] = 1.0F / (float)use->count;
}

static void put_near(AgedQueue *queue, uint32_t object)
{
    AgedUse *use = &queue->uses[object];
    use->place = queue->n++;
    queue->object[use->place] = object;
    note_near(queue, use);
}

/* Puts OBJECT near if it is due in the present turn, else where it waits: at most a whole round of
 * the wheel. It does not reach the threshold two lookups before it is due, rounded down. */
static void put(Scope *scope, uint32_t object)
{
    AgedQueue *queue = &scope->aged;
    const AgedUse *use = &queue->uses[object];
    uint64_t due = use->last + (uint64_t)queue->threshold * use->count / AGED_ONE;
    uint64_t end_of_turn = scope->time | ((1u << queue->shift) - 1);
    if (due <= end_of_turn + 2) {
        put_near(queue, object);
        return;
    }
    uint64_t turn = (due - 2) >> queue->shift;
    uint32_t last_turn = queue->turn + AGED_TURNS - 1;
    uint32_t *head = &queue->head[(turn < last_turn ? (uint32_t)turn : last_turn) % AGED_TURNS];
    queue->uses[object].next = *head;
    *head = object;
}

/* Everybody whose turn has come since. */
static void advance(Scope *scope)
{
    AgedQueue *queue = &scope->aged;
    uint32_t now = scope->time >> queue->shift;
    if (now - queue->turn > AGED_TURNS)
        queue->turn = now - AGED_TURNS;
    while (queue->turn != now) {
        uint32_t *head = &queue->head[++queue->turn % AGED_TURNS];
        uint32_t object = *head;
        *head = NOBODY;
        while (object != NOBODY) {
            uint32_t next = queue->uses[object].next;
            put(scope, object);
            object = next;
        }
    }
}

/* Takes all that are near to OBJECTS; returns how many. */
static uint32_t take_near(AgedQueue *queue, uint32_t *objects)
{
    uint32_t n = queue->n;
    for (uint32_t i = 0; i < n; i++)
        objects[i] = queue->object[i];
    while (queue->n > 0)
        leave_near(queue, queue->n - 1);
    return n;
}

static uint32_t take_waiting(AgedQueue *queue, uint32_t *objects)
{
    uint32_t n = 0;
    for (uint32_t i = 0; i < AGED_TURNS; i++) {
        for (uint32_t object = queue->head[i]; object != NOBODY; object = queue->uses[object].next)
            objects[n++] = object;
        queue->head[i] = NOBODY;
    }
    return n;
}

/* Where nobody of OBJECTS[n] is set aside there is room for all of them behind. */
static uint32_t *room_behind_aside(const Scope *scope)
{
    return scope->aside + scope->n_slots;
}

static double score_of(const Scope *scope, uint32_t object)
{
    return ((double)scope->time + 1 - scope->aged.uses[object].last) /
           scope->aged.uses[object].count;
}

/* All find their places again. */
static void put_all(Scope *scope, const uint32_t *objects, uint32_t n)
{
    scope->aged.turn = scope->time >> scope->aged.shift;
    for (uint32_t i = 0; i < n; i++)
        put(scope, objects[i]);
}

/* Nobody has come as far as the threshold. */
static void lower_threshold(Scope *scope)
{
    AgedQueue *queue = &scope->aged;
    uint32_t *objects = room_behind_aside(scope);
    uint32_t n = take_near(queue, objects);
    double most = 0;
    n += take_waiting(queue, objects + n);
    for (uint32_t i = 0; i < n; i++) {
        double score = score_of(scope, objects[i]);
        most = score > most ? score : most;
    }
    most = most * AGED_ONE < queue->threshold ? most * AGED_ONE : queue->threshold;
    queue->threshold = (uint32_t)(most * (1 - queue->share));
    put_all(scope, objects, n);
    if (queue->n < queue->near / 3 && queue->share < 0.5)
        queue->share *= 1.5;
    else if (queue->n > 2 * queue->near / 3 && queue->share > 0x1p-8)
        queue->share /= 1.5;
}

/* Too many are near: those below the mean wait again. */
static void raise_threshold(Scope *scope)
{
    AgedQueue *queue = &scope->aged;
    uint32_t *objects = room_behind_aside(scope);
    uint32_t n = take_near(queue, objects);
    double mean = 0;
    for (uint32_t i = 0; i < n; i++)
        mean += score_of(scope, objects[i]) / n;
    mean = mean * AGED_ONE < UINT32_MAX ? mean * AGED_ONE : UINT32_MAX;
    queue->threshold = mean > queue->threshold ? (uint32_t)mean : queue->threshold;
    for (uint32_t i = 0; i < n; i++)
        put(scope, objects[i]);
    queue->most = queue->n < n ? queue->near : 2 * n;
}

/* Times have 32 bits, and ages 31. When they run out, half of the range is subtracted from all:
 * lookups further back than a thousand million others then count as equally old, and two thousand
 * million as often as more. */
static void start_time_again(Scope *scope)
{
    uint32_t half = INT32_MAX / 2;
    uint32_t *objects = room_behind_aside(scope);
    uint32_t n = take_near(&scope->aged, objects);
    n += take_waiting(&scope->aged, objects + n);
    for (uint32_t i = 0; i < scope->n_objects; i++) {
        AgedUse *use = &scope->aged.uses[i];
        use->last = use->last > half ? use->last - half : 0;
        use->count = use->count < UINT32_MAX / 2 ? use->count : UINT32_MAX / 2;
    }
    scope->time -= half;
    put_all(scope, objects, n);
}

static void aged_begin(Scope *scope, const ScopeEvent *event)
{
    if (event->n > INT32_MAX - scope->time)
        start_time_again(scope);
}

static void aged_hit(Scope *scope, uint32_t object)
{
    AgedQueue *queue = &scope->aged;
    AgedUse *use = &queue->uses[object];
    use->last = ++scope->time;
    use->count++;
    if (use->place != queue->none)
        note_near(queue, use);
}

static void aged_admit(Scope *scope, uint32_t object)
{
    if (scope->time == INT32_MAX) /* prefetches have no beginning */
        start_time_again(scope);
    aged_hit(scope, object);
    put(scope, object);
}

/* True when LEFT's lookups over age are fewer than RIGHT's; products of 32-bit numbers are exact.
 */
static bool is_less_used(const Scope *scope, uint32_t left, uint32_t right)
{
    uint64_t left_age = (uint64_t)scope->time - scope->aged.uses[left].last + 1;
    uint64_t right_age = (uint64_t)scope->time - scope->aged.uses[right].last + 1;
    uint64_t a = scope->aged.uses[left].count * right_age;
    uint64_t b = scope->aged.uses[right].count * left_age;
    return a != b ? a < b : left < right;
}

/* The place of the least used of those with a score of LIMIT or more. */
static uint32_t least_of_close(const Scope *scope, float limit)
{
    const AgedQueue *queue = &scope->aged;
    uint32_t least = NOBODY;
    for (uint32_t i = 0; i < queue->n; i++)
        if (aged_score(queue->last[i], queue->rate[i], scope->time + 1) >= limit &&
            (least == NOBODY || is_less_used(scope, queue->object[i], queue->object[least])))
            least = i;
    return least;
}

/* The place of the least used of all. */
static uint32_t find_least(Scope *scope)
{
    AgedQueue *queue = &scope->aged;
    for (;;) {
        uint32_t n = (queue->n + AGED_STRIDE - 1) / AGED_STRIDE * AGED_STRIDE;
        AgedMost found = queue->find(queue->last, queue->rate, n, scope->time + 1);
        float limit = found.most * AGED_CLOSE;
        if (queue->n > 0 && (double)limit * AGED_ONE >= queue->threshold)
            return found.n_close == 1 ? found.at : least_of_close(scope, limit);
        lower_threshold(scope);
    }
}

static uint32_t take_least(Scope *scope)
{
    AgedQueue *queue = &scope->aged;
    advance(scope);
    while (queue->n > queue->most)
        raise_threshold(scope);
    uint32_t at = find_least(scope);
    uint32_t object = queue->object[at];
    leave_near(queue, at);
    return object;
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

DEFINE_EVENTS(lfu_aged, RULES)

/* Frequency over age: fewest lookups since the start of the trace, divided by the lookups of the
 * scope since its own last one (and that one); ties to the lower object. Engines for expert
 * offloading call it LFRU; among causal policies it did best in replays with all of an event's
 * lookups against its start. */
const EvictionPolicy EVICT_LFU_AGED = {.name = "lfu-aged", EVENTS(lfu_aged), .needs_aged = true};
