#include "traces/active.h"

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
    arena_reserve(&arena, max_experts, sizeof *set->touches);
    arena_reserve(&arena, max_experts, sizeof *set->place);
    TRY(arena_commit(&arena, "active experts"));
    set->counts = arena_take(&arena, max_experts, sizeof *set->counts);
    set->seen = arena_take(&arena, words, sizeof *set->seen);
    set->active = arena_take(&arena, max_experts, sizeof *set->active);
    set->tokens = arena_take(&arena, max_experts, sizeof *set->tokens);
    set->touches = arena_take(&arena, max_experts, sizeof *set->touches);
    set->place = arena_take(&arena, max_experts, sizeof *set->place);
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
