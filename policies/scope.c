#include "policies/scope.h"

#include <string.h>

void scope_begin_event(Scope *scope)
{
    scope->marked = false;
    scope->kept = 0;
    if (++scope->event != 0)
        return;
    memset(scope->mark, 0, scope->n_objects * sizeof *scope->mark);
    scope->event = 1;
}

void scope_mark(Scope *scope, const ScopeEvent *event)
{
    uint32_t active = 0;
    for (uint32_t i = 0; i < event->n; i++) {
        uint32_t object = event->first_object + event->experts[i];
        scope->mark[object] = scope->event;
        active += scope_holds(scope, object);
    }
    scope->outside = scope->n_residents - active;
    scope->marked = true;
}

void scope_keep(Scope *scope, uint32_t object)
{
    if (scope_holds(scope, object) && !scope_is_active(scope, object))
        scope->kept += scope_weight(scope, object);
    scope->mark[object] = scope->event;
}

void scope_report(const Scope *scope, ScopeEvent *event, ResidencyKind kind, uint32_t object,
                  uint32_t slot)
{
    bool shared = scope->object_layer != NULL;
    uint32_t layer = shared ? scope->object_layer[object] : event->layer_index;
    uint32_t expert = shared ? object - event->layer_objects[layer] : object;
    event->actions[event->n_actions++] = (BufferAction){.kind = (uint8_t)kind,
                                                        .layer_index = (uint16_t)layer,
                                                        .expert = (uint16_t)expert,
                                                        .slot = slot};
}

void scope_report_hits(const Scope *scope, ScopeEvent *event)
{
    for (uint32_t i = 0; i < event->n; i++) {
        uint32_t object = event->first_object + event->experts[i];
        if (scope_holds(scope, object))
            scope_report(scope, event, RESIDENCY_HIT, object, scope->slot[object]);
    }
}

void scope_write_hits(const ScopeEvent *event, const uint16_t *misses, uint32_t n_misses)
{
    memset(event->hit, 1, event->n);
    for (uint32_t i = 0; i < n_misses; i++)
        event->hit[misses[i]] = 0;
}
