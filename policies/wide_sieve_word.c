#include "policies/wide.h"

#if defined(__x86_64__)
#include "policies/wide_lanes.h"

/* The queue of few objects in load order, a byte each, so that one comparison finds an object's
 * place; sets of places are words, with the oldest at bit 0. An event changes the words only. At
 * its end those who went leave the vector, and the newcomers follow. */
typedef struct {
    __m512i objects;
    uint64_t all;
    uint64_t visited;
    uint64_t ahead; /* those that the hand has not passed */
} Queue;

enum { AHEAD, PASSED, MOST_PLACES = WIDE_WORD_PLACES };

/* An event on its way. Its newcomers stand behind all places. */
typedef struct {
    uint64_t hits; /* their places */
    uint64_t come; /* those whose turn has been, or who went before it */
    uint64_t stay; /* those who did not go */
    uint64_t in;   /* newcomers, a byte each */
    uint32_t n_in;
    uint32_t n_gone; /* of them, the first */
    uint32_t missed; /* a bit for each turn */
} Move;

static void line_up(Scope *scope, Queue *queue)
{
    _Alignas(64) uint8_t objects[MOST_PLACES] = {0};
    uint32_t passed = ring_size(&scope->rings[PASSED]);
    *queue = (Queue){.all = UINT64_MAX >> (MOST_PLACES - scope->n_slots)};
    for (uint32_t i = 0; i < scope->n_slots; i++) {
        uint32_t object = ring_pop_oldest(&scope->rings[i < passed ? PASSED : AHEAD]);
        objects[i] = (uint8_t)object;
        queue->visited |= (uint64_t)(scope->flag[object] != 0) << i;
    }
    queue->ahead = passed < scope->n_slots ? UINT64_MAX << passed : UINT64_MAX;
    memcpy(&queue->objects, objects, sizeof objects);
}

static void take_back(Scope *scope, const Queue *queue)
{
    uint8_t objects[MOST_PLACES];
    memcpy(objects, &queue->objects, sizeof objects);
    memset(scope->position, 0xFF, (scope->n_objects + 1) * sizeof *scope->position);
    for (uint32_t i = 0; i < scope->n_slots; i++) {
        ring_push(&scope->rings[queue->ahead >> i & 1 ? AHEAD : PASSED], objects[i]);
        scope->flag[objects[i]] = queue->visited >> i & 1;
        scope->position[objects[i]] = i;
    }
}

/* Looks A up against the start: N experts, one at least. BEFORE: the places of the hits before each
 * turn. Always as many comparisons, which cost less than a loop. */
WIDE_INLINE Move look_up(const Queue *queue, const uint16_t *experts, uint32_t n, uint64_t *before)
{
    Move move = {.stay = queue->all};
    for (uint32_t i = 0; i < WIDE_LANES; i++) {
        __m512i object = _mm512_set1_epi8((char)experts[i < n ? i : 0]);
        uint64_t place = _mm512_mask_cmpeq_epi8_mask(queue->all, queue->objects, object);
        before[i] = move.hits;
        move.hits |= place;
        move.missed |= (uint32_t)(place == 0) << i;
    }
    move.missed &= (1u << n) - 1;
    before[WIDE_LANES] = move.hits;
    return move;
}

/* The turn of the hits at the places BEFORE has come. */
WIDE_INLINE void visit(Queue *queue, Move *move, uint64_t before)
{
    queue->visited |= before & ~move->come;
    move->come |= before;
}

/* The hand stands at the places AHEAD, or where nobody is left there at the oldest. */
WIDE_INLINE void set_hand(Queue *queue, const Move *move, uint64_t ahead)
{
    bool is_last = (ahead & move->stay) == 0 && move->n_gone == move->n_in;
    queue->ahead = is_last ? UINT64_MAX : ahead;
}

/* The hand has passed all, and who was visited stays once. Returns who may go now: in vain the hand
 * goes round again. */
WIDE_INLINE uint64_t begin_again(Queue *queue, const Move *move, uint64_t active)
{
    queue->visited &= ~queue->ahead | active;
    queue->ahead = UINT64_MAX;
    uint64_t may_go = move->stay & ~(queue->visited | active);
    if (may_go == 0)
        queue->visited &= active;
    return may_go != 0 ? may_go : move->stay & ~active;
}

/* Takes the next victim: the bit of its place, or 0: the first newcomer, whom serial may take.
 * Nobody visited those. */
WIDE_INLINE uint64_t take_victim(Queue *queue, Move *move, uint64_t active, bool serial)
{
    uint64_t may_go = queue->ahead & move->stay & ~(queue->visited | active);
    if (RARELY(may_go == 0)) {
        if (serial && move->n_gone < move->n_in) {
            queue->visited &= ~queue->ahead;
            move->n_gone++;
            set_hand(queue, move, 0);
            return 0;
        }
        may_go = begin_again(queue, move, active);
    }
    uint64_t victim = may_go & (0 - may_go);
    queue->visited &= ~(queue->ahead & (victim - 1)) | active;
    move->stay ^= victim;
    set_hand(queue, move, queue->ahead & ~(victim | (victim - 1)));
    return victim;
}

/* The bit of the turn, TURN or later, of the hit at PLACE. */
WIDE_INLINE uint32_t turn_of(const uint64_t *before, uint32_t turn, uint64_t place)
{
    while ((before[turn + 1] & place) == 0)
        turn++;
    return 1u << turn;
}

/* Closes the gaps of those who went, and the newcomers follow. */
WIDE_INLINE void close_up(Queue *queue, const Move *move)
{
    uint64_t in = move->n_gone < WIDE_LANES ? move->in >> 8 * move->n_gone : 0;
    uint64_t behind = _bzhi_u64(UINT64_MAX, wide_bits_64(move->stay));
    __m512i newcomers = _mm512_castsi128_si512(_mm_cvtsi64_si128((long long)in));
    __m512i stay = _mm512_maskz_compress_epi8(move->stay, queue->objects);
    queue->objects = _mm512_mask_expand_epi8(stay, ~behind, newcomers);
    queue->visited = _pext_u64(queue->visited, move->stay);
    queue->ahead = UINT64_MAX << wide_bits_64(move->stay & ~queue->ahead);
}

/* What the replacements of an event add up to, in registers until it is over. */
typedef struct {
    uint32_t n_loaded; /* of the scope */
    uint32_t newest;
    uint32_t n_newest;
    uint32_t n_young;
} Tally;

/* OBJECT takes VICTIM's slot. Positions are set at the end of the run. */
WIDE_INLINE void replace(const Scope *scope, Tally *tally, uint32_t victim, uint32_t object)
{
    tally->n_newest += victim == tally->newest;
    tally->n_young += tally->n_loaded - scope->loaded_at[victim] < scope->young;
    scope->slot[object] = scope->slot[victim];
    scope->loaded_at[object] = ++tally->n_loaded;
    tally->newest = object;
}

WIDE_INLINE void count(Scope *scope, ScopeEvent *counts, const Tally *tally, uint32_t n,
                       uint32_t n_misses)
{
    scope->n_loaded = tally->n_loaded;
    scope->newest = tally->newest;
    counts->lookups += n;
    counts->hits += n - n_misses;
    counts->loads += n_misses;
    counts->evictions += n_misses;
    counts->evicted_newest += tally->n_newest;
    counts->evicted_young += tally->n_young;
}

WIDE_INLINE void decide(Scope *scope, ScopeEvent *counts, Queue *queue, const uint16_t *experts,
                        uint32_t n, uint8_t *hit, bool serial)
{
    Tally tally = {.n_loaded = scope->n_loaded, .newest = scope->newest};
    uint64_t before[WIDE_LANES + 1];
    uint8_t objects[MOST_PLACES];
    Move move = look_up(queue, experts, n, before);
    uint64_t active = serial ? 0 : move.hits;
    if (!serial)
        visit(queue, &move, move.hits);
    _mm512_storeu_si512(objects, queue->objects);
    for (uint32_t left = move.missed; left != 0;) {
        uint32_t turn = (uint32_t)__builtin_ctz(left);
        left &= left - 1;
        if (serial)
            visit(queue, &move, before[turn]);
        uint64_t place = take_victim(queue, &move, active, serial);
        uint32_t victim = place != 0 ? objects[__builtin_ctzll(place)]
                                     : (uint8_t)(move.in >> 8 * (move.n_gone - 1));
        if (serial && RARELY((place & move.hits & ~move.come) != 0)) {
            uint32_t late = turn_of(before, turn, place);
            left |= late;
            move.missed |= late;
        }
        move.come |= place;
        move.in |= (uint64_t)experts[turn] << 8 * move.n_in++;
        replace(scope, &tally, victim, experts[turn]);
    }
    visit(queue, &move, move.hits);
    close_up(queue, &move);
    count(scope, counts, &tally, n, move.n_in);
    for (uint32_t i = 0; i < n && hit != NULL; i++)
        hit[i] = !(move.missed >> i & 1);
}

ALWAYS_INLINE bool can_decide(const Scope *scope, BufferSpan span)
{
    return span.n > 0 && wide_can(scope, span);
}

WIDE_INLINE uint32_t decide_run(Scope *scope, ScopeEvent *events, const BufferRun *run,
                                uint32_t from, bool serial)
{
    Queue queue;
    if (!can_decide(scope, run->spans[from]))
        return from;
    line_up(scope, &queue);
    for (; from < run->n_spans && can_decide(scope, run->spans[from]); from++) {
        BufferSpan span = run->spans[from];
        decide(scope, &events[span.layer_index], &queue, run->experts + span.first, span.n,
               run->hit != NULL ? run->hit + span.first : NULL, serial);
    }
    take_back(scope, &queue);
    return from;
}

WIDE uint32_t wide_sieve_word_serial(Scope *scope, ScopeEvent *events, const BufferRun *run,
                                     uint32_t from)
{
    return decide_run(scope, events, run, from, true);
}

WIDE uint32_t wide_sieve_word_batch(Scope *scope, ScopeEvent *events, const BufferRun *run,
                                    uint32_t from)
{
    return decide_run(scope, events, run, from, false);
}

#else
WIDE_NONE(wide_sieve_word_serial)
WIDE_NONE(wide_sieve_word_batch)
#endif
