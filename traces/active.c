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
    TRY(arena_commit(&arena, "active experts"));
    set->counts = arena_take(&arena, max_experts, sizeof *set->counts);
    set->seen = arena_take(&arena, words, sizeof *set->seen);
    set->active = arena_take(&arena, max_experts, sizeof *set->active);
    set->tokens = arena_take(&arena, max_experts, sizeof *set->tokens);
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
