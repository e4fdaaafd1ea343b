#include "policies/scope.h"

void scope_keep(Scope *scope, uint32_t object)
{
    if (scope_holds(scope, object) && !scope_is_active(scope, object))
        scope->kept += scope_weight(scope, object);
    scope->mark[object] = scope->event;
}
