#include "policies/scope.h"

void scope_begin_event(Scope *scope)
{
    scope->marked = false;
    scope->kept = 0;
    scope->cursor = NOBODY;
    if (++scope->event != 0)
        return;
    for (uint32_t i = 0; i < scope->n_objects; i++)
        scope->nodes[i].mark = 0;
    scope->event = 1;
}

void scope_mark(Scope *scope, const ScopeEvent *event)
{
    uint32_t active = 0;
    for (uint32_t i = 0; i < event->n; i++) {
        ScopeNode *node = &scope->nodes[event->first_object + event->experts[i]];
        node->mark = scope->event;
        active += node->slot != NOBODY;
    }
    scope->outside = scope->n_residents - active;
    scope->marked = true;
}

void scope_keep(Scope *scope, uint32_t object)
{
    if (scope_holds(scope, object) && !scope_is_active(scope, object))
        scope->kept += scope_weight(scope, object);
    scope->nodes[object].mark = scope->event;
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
            scope_report(scope, event, RESIDENCY_HIT, object, scope->nodes[object].slot);
    }
}
