#include "policies/scope.h"

void scope_keep(Scope *scope, uint32_t object)
{
    if (scope_holds(scope, object) && !scope_is_active(scope, object))
        scope->kept += scope_weight(scope, object);
    scope->mark[object] = scope->event;
}

uint32_t scope_split(const uint16_t *restrict experts, uint32_t n, const bool *restrict resident,
                     uint16_t number, uint16_t *restrict mark, uint16_t *restrict misses)
{
    uint32_t n_misses = 0;
    for (uint32_t i = 0; i < n; i++) {
        uint32_t expert = experts[i];
        misses[n_misses] = (uint16_t)i;
        n_misses += !resident[expert];
        mark[expert] = number;
    }
    return n_misses;
}

uint64_t scope_look_at(const uint16_t *restrict experts, uint32_t n, const bool *restrict resident,
                       uint32_t first, uint32_t *restrict turn)
{
    uint64_t missed = 0;
    for (uint32_t i = 0; i < n; i++) {
        missed |= (uint64_t)!resident[experts[i]] << i;
        turn[experts[i]] = first + i;
    }
    return missed;
}
