#include "traces/active.h"

#include <string.h>
#if defined(__SSE2__)
#include <emmintrin.h>
#endif

#include "base/memory.h"

Status active_set_new(ActiveSet *set, uint32_t max_experts)
{
    Arena arena = {0};
    *set = (ActiveSet){0};
    size_t words = max_experts / 64 + 1;
    arena_reserve(&arena, max_experts, sizeof *set->counts);
    arena_reserve(&arena, words, sizeof *set->seen);
    arena_reserve(&arena, max_experts, sizeof *set->active);
    arena_reserve(&arena, max_experts, sizeof *set->tokens);
    arena_reserve(&arena, (size_t)max_experts + 1, sizeof *set->touches);
    arena_reserve(&arena, max_experts, sizeof *set->place);
    arena_reserve(&arena, max_experts, sizeof *set->last);
    TRY(arena_commit(&arena, "active experts"));
    set->counts = arena_take(&arena, max_experts, sizeof *set->counts);
    set->seen = arena_take(&arena, words, sizeof *set->seen);
    set->active = arena_take(&arena, max_experts, sizeof *set->active);
    set->tokens = arena_take(&arena, max_experts, sizeof *set->tokens);
    set->touches = arena_take(&arena, (size_t)max_experts + 1, sizeof *set->touches);
    set->place = arena_take(&arena, max_experts, sizeof *set->place);
    set->last = arena_take(&arena, max_experts, sizeof *set->last);
    set->bytes = arena.capacity;
    return OK;
}

void active_set_free(ActiveSet *set)
{
    mem_free(set->counts); /* the first piece of the arena is its block */
    *set = (ActiveSet){0};
}

uint32_t active_set_count(ActiveSet *set, const uint16_t *experts, size_t ids,
                          uint32_t experts_of_layer)
{
    for (size_t i = 0; i < ids; i++) {
        uint16_t expert = experts[i];
        if (expert == EXPERT_DROPPED)
            continue;
        set->counts[expert]++;
        set->seen[expert / 64] |= UINT64_C(1) << expert % 64;
    }
    uint32_t n = 0;
    for (uint32_t word = 0; word <= (experts_of_layer - 1) / 64; word++) {
        uint64_t bits = set->seen[word];
        set->seen[word] = 0;
        for (; bits != 0; bits &= bits - 1) {
            uint32_t expert = word * 64 + (uint32_t)__builtin_ctzll(bits);
            set->active[n] = (uint16_t)expert;
            set->tokens[n++] = set->counts[expert];
            set->counts[expert] = 0;
        }
    }
    return n;
}

/* Backwards, the first time that an expert comes up is its last touch. */
void last_touches(const uint16_t *experts, size_t ids, const uint16_t *active, uint32_t n_active,
                  uint16_t *place, uint16_t *touches)
{
    const uint16_t done = UINT16_MAX; /* positions are below 65535 */
    for (uint32_t i = 0; i < n_active; i++)
        place[active[i]] = (uint16_t)i;
    for (uint32_t left = n_active; left > 0;) {
        uint16_t expert = experts[--ids];
        if (expert == EXPERT_DROPPED || place[expert] == done)
            continue;
        touches[--left] = place[expert];
        place[expert] = done;
    }
}

/* Many ids of few experts: without a branch that depends on them. */
static uint32_t count_many(ActiveSet *set, const uint16_t *experts, size_t ids,
                           uint32_t experts_of_layer)
{
    uint32_t n = 0;
    for (size_t i = 0; i < ids; i++)
        set->counts[experts[i]]++;
    for (uint32_t e = 0; e < experts_of_layer; e++) {
        set->active[n] = (uint16_t)e;
        set->tokens[n] = set->counts[e];
        set->place[e] = (uint16_t)n;
        n += set->counts[e] > 0;
        set->counts[e] = 0;
    }
    return n;
}

/* The same for the order of touches of what was counted. */
static void order_many(ActiveSet *set, const uint16_t *experts, size_t ids)
{
    uint32_t ordered = 0;
    for (size_t i = 0; i < ids; i++)
        set->last[experts[i]] = i;
    for (size_t i = 0; i < ids; i++) {
        set->touches[ordered] = set->place[experts[i]];
        ordered += set->last[experts[i]] == i;
    }
}

static bool drops_any(const uint16_t *experts, size_t ids)
{
    uint16_t most = 0;
    for (size_t i = 0; i < ids; i++)
        most = experts[i] > most ? experts[i] : most;
    return most == EXPERT_DROPPED;
}

uint32_t active_set_order(ActiveSet *set, const uint16_t *experts, size_t ids,
                          uint32_t experts_of_layer, bool wanted)
{
    bool many = ids >= experts_of_layer / 4 && !drops_any(experts, ids);
    uint32_t n = many ? count_many(set, experts, ids, experts_of_layer)
                      : active_set_count(set, experts, ids, experts_of_layer);
    if (wanted && many)
        order_many(set, experts, ids);
    else if (wanted)
        last_touches(experts, ids, set->active, n, set->place, set->touches);
    return n;
}

/* ---- one token ---- */

enum { SIDE = ACTIVE_TOKEN_TOP_K };

/* An expert of one rank, and its place in the token, of layers side by side; and a square of them,
 * rank by rank, or layer by layer. */
typedef int16_t Keys __attribute__((vector_size(2 * SIDE)));
typedef uint8_t Bytes __attribute__((vector_size(SIDE)));

static void exchange(Keys *low, Keys *high)
{
    Keys a = *low;
    Keys b = *high;
#if defined(__SSE2__)
    *low = (Keys)_mm_min_epi16((__m128i)a, (__m128i)b);
    *high = (Keys)_mm_max_epi16((__m128i)a, (__m128i)b);
#else
    Keys below = a < b;
    *low = (a & below) | (b & ~below);
    *high = (b & below) | (a & ~below);
#endif
}

/* A network that sorts eight. Batcher, odd-even merge sort, 1968. */
static void sort(Keys keys[SIDE])
{
    static const uint8_t PAIRS[][2] = {{0, 1}, {2, 3}, {4, 5}, {6, 7}, {0, 2}, {1, 3}, {4, 6},
                                       {5, 7}, {1, 2}, {5, 6}, {0, 4}, {1, 5}, {2, 6}, {3, 7},
                                       {2, 4}, {3, 5}, {1, 2}, {3, 4}, {5, 6}};
    for (size_t i = 0; i < sizeof PAIRS / sizeof *PAIRS; i++)
        exchange(&keys[PAIRS[i][0]], &keys[PAIRS[i][1]]);
}

/* Rows become columns: thrice the first half of them goes between the second. */
static void transpose(Keys keys[SIDE])
{
    for (int round = 0; round < 3; round++) {
        Keys mixed[SIDE];
        for (int i = 0; i < SIDE / 2; i++) {
            Keys a = keys[i];
            Keys b = keys[i + SIDE / 2];
            mixed[2 * i] = __builtin_shufflevector(a, b, 0, 8, 1, 9, 2, 10, 3, 11);
            mixed[2 * i + 1] = __builtin_shufflevector(a, b, 4, 12, 5, 13, 6, 14, 7, 15);
        }
        memcpy(keys, mixed, sizeof mixed);
    }
}

static bool any(Keys keys)
{
    uint64_t words[2];
    memcpy(words, &keys, sizeof words);
    return (words[0] | words[1]) != 0;
}

/* Layers that are not there ask for the first experts, and ranks above TOP_K for the last. */
static void load_keys(const uint16_t *experts, uint32_t n, uint32_t top_k, Keys keys[SIDE])
{
    const Keys places = {0, 1, 2, 3, 4, 5, 6, 7};
    for (uint32_t i = 0; i < SIDE; i++) {
        Keys ids = i < n ? places + (INT16_MAX >> 3) - SIDE + 1 : places;
        if (i < n && top_k == SIDE) /* of a known size, which costs no call */
            memcpy(&ids, experts + (size_t)i * SIDE, sizeof ids);
        else if (i < n)
            memcpy(&ids, experts + (size_t)i * top_k, top_k * sizeof *experts);
        keys[i] = ids << 3 | places;
    }
    transpose(keys);
}

/* Sorts each layer's; false when an expert is there twice. */
static bool sort_layers(const uint16_t *experts, uint32_t n, uint32_t top_k, Keys keys[SIDE])
{
    Keys twice = {0};
    load_keys(experts, n, top_k, keys);
    sort(keys);
    for (int rank = 1; rank < SIDE; rank++)
        twice |= keys[rank] >> 3 == keys[rank - 1] >> 3;
    return !any(twice);
}

/* KEYS is sorted by expert: the place of each rank in the token. */
static void put_touches(const Keys keys[SIDE], uint32_t n, uint32_t top_k, uint8_t *touches)
{
    Keys ranks[SIDE]; /* of the experts in the order of the token */
    for (int rank = 0; rank < SIDE; rank++)
        ranks[rank] = (keys[rank] & 7) << 3 | (int16_t)rank;
    sort(ranks);
    transpose(ranks);
    for (uint32_t i = 0; i < n; i++) {
        const Bytes bytes = __builtin_convertvector(ranks[i] & 7, Bytes);
        if (top_k == SIDE)
            memcpy(touches + (size_t)i * SIDE, &bytes, sizeof bytes);
        else
            memcpy(touches + (size_t)i * top_k, &bytes, top_k);
    }
}

static void put_experts(Keys keys[SIDE], uint32_t n, uint32_t top_k, uint16_t *active)
{
    for (int rank = 0; rank < SIDE; rank++)
        keys[rank] >>= 3;
    transpose(keys);
    for (uint32_t i = 0; i < n; i++)
        if (top_k == SIDE)
            memcpy(active + (size_t)i * SIDE, &keys[i], sizeof keys[i]);
        else
            memcpy(active + (size_t)i * top_k, &keys[i], top_k * sizeof *active);
}

bool active_of_token(const uint16_t *experts, uint32_t n_layers, uint32_t top_k, uint16_t *active,
                     uint8_t *touches)
{
    uint16_t most = 0;
    for (size_t i = 0; i < (size_t)n_layers * top_k; i++)
        most = experts[i] > most ? experts[i] : most;
    if (top_k > SIDE || most > ACTIVE_TOKEN_EXPERT)
        return false;
    for (uint32_t layer = 0; layer < n_layers; layer += SIDE) {
        Keys keys[SIDE];
        uint32_t n = n_layers - layer < SIDE ? n_layers - layer : SIDE;
        size_t at = (size_t)layer * top_k;
        if (!sort_layers(experts + at, n, top_k, keys))
            return false;
        if (touches != NULL)
            put_touches(keys, n, top_k, touches + at);
        if (active != NULL)
            put_experts(keys, n, top_k, active + at);
    }
    return true;
}

/* The top bit of each byte that is zero, and maybe that of a byte of 1 above one. */
static uint64_t zero_bytes(uint64_t word)
{
    return (word - 0x0101010101010101u) & ~word & 0x8080808080808080u;
}

/* Eight ids are a word: turned by one to four bytes it meets each other id in one of them. */
static bool is_eight_distinct(const uint8_t *experts, uint32_t n_layers)
{
    uint64_t same = 0;
    for (uint32_t i = 0; i < n_layers; i++) {
        uint64_t ids;
        memcpy(&ids, experts + (size_t)i * sizeof ids, sizeof ids);
        same |= zero_bytes(~ids);
        for (int bits = 8; bits <= 32; bits += 8)
            same |= zero_bytes(ids ^ (ids << bits | ids >> (64 - bits)));
    }
    return same == 0;
}

bool active_is_distinct(const uint8_t *experts, uint32_t n_layers, uint32_t top_k)
{
    if (top_k == 8)
        return is_eight_distinct(experts, n_layers);
    for (uint32_t i = 0; i < n_layers; i++, experts += top_k) {
        uint64_t seen[4] = {[3] = UINT64_C(1) << 63};
        for (uint32_t k = 0; k < top_k; k++) {
            uint64_t bit = UINT64_C(1) << experts[k] % 64;
            if (seen[experts[k] / 64] & bit)
                return false;
            seen[experts[k] / 64] |= bit;
        }
    }
    return true;
}
