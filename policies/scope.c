#include "policies/scope.h"

void scope_begin_event(Scope *scope)
{
    scope->marked = false;
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
    scope->outside = scope->n_used - active;
    scope->marked = true;
}

/* The layer that OBJECT belongs to: the last whose first object is not above it. */
static uint32_t layer_of(const ScopeEvent *event, uint32_t object)
{
    if (event->layer_objects == NULL)
        return event->layer_index;
    uint32_t low = 0;
    uint32_t high = event->n_layers;
    while (high - low > 1) {
        uint32_t middle = low + (high - low) / 2;
        if (event->layer_objects[middle] <= object)
            low = middle;
        else
            high = middle;
    }
    return low;
}

void scope_report(ScopeEvent *event, ResidencyKind kind, uint32_t object, uint32_t slot)
{
    uint32_t layer = layer_of(event, object);
    uint32_t first = event->layer_objects != NULL ? event->layer_objects[layer] : 0;
    event->actions[event->n_actions++] = (BufferAction){.kind = (uint8_t)kind,
                                                        .layer_index = (uint16_t)layer,
                                                        .expert = (uint16_t)(object - first),
                                                        .slot = slot};
}

void scope_report_hits(const Scope *scope, ScopeEvent *event)
{
    for (uint32_t i = 0; i < event->n; i++) {
        uint32_t object = event->first_object + event->experts[i];
        if (scope_holds(scope, object))
            scope_report(event, RESIDENCY_HIT, object, scope->nodes[object].slot);
    }
}
