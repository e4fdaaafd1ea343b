#include "policies/buffer_parts.h"

#include <inttypes.h>
#include <math.h>
#include <string.h>

#include "base/memory.h"
#include "policies/placement.h"
#include "policies/scope_layout.h"

static uint32_t widest_layer(const ExpertBuffer *buffer)
{
    uint32_t widest = 0;
    for (uint32_t i = 0; i < buffer->n_layers; i++)
        widest = buffer->experts[i] > widest ? buffer->experts[i] : widest;
    return widest;
}

static Status map_objects(ExpertBuffer *buffer)
{
    Scope *scope = &buffer->scopes[0];
    if (!buffer_has_one_scope(buffer))
        return OK;
    TRY(mem_new(&buffer->object_layer, scope->n_objects, sizeof *buffer->object_layer,
                "expert buffer"));
    for (uint32_t i = 0, object = 0; i < buffer->n_layers; i++)
        for (uint32_t e = 0; e < buffer->experts[i]; e++)
            buffer->object_layer[object++] = (uint16_t)i;
    scope->object_layer = buffer->object_layer;
    scope->layer_weight = buffer->weighs ? buffer->weight : NULL;
    return OK;
}

static bool has_equal_sizes(const TraceLayer *layers, uint32_t n_layers)
{
    for (uint32_t i = 1; i < n_layers; i++)
        if (layers[i].expert_bytes != layers[0].expert_bytes)
            return false;
    return true;
}

/* SLOTS of the budget, or as many of the smallest expert as fit. Those beyond the experts of the
 * scope would stay empty for ever and are not made. Order staged needs room for the members of an
 * event besides what may stay: the budget, or all members of the event before when they exceed it;
 * both where the budget KEEPS what is in it. */
static void size_scope(const Plan *plan, uint32_t slots, uint32_t widest, bool keeps, Scope *scope)
{
    uint64_t objects = scope->n_objects;
    uint64_t count = slots < objects ? slots : objects;
    scope->budget = count;
    scope->capacity = (uint32_t)count;
    scope->young = count < 16 ? 2 : (uint32_t)count / 8;
    if (plan->buffer.order == ORDER_STAGED)
        count = (count > widest || keeps ? count : widest) + (keeps ? 2 : 1) * (uint64_t)widest;
    scope->n_slots = (uint32_t)(count < objects ? count : objects);
}

static Status size_scopes(const Plan *plan, const TraceLayer *layers, ExpertBuffer *buffer)
{
    uint32_t *slots;
    TRY(mem_new(&slots, buffer->n_layers, sizeof *slots, "expert buffer"));
    Status status = plan_slots(plan, layers, buffer->n_layers, slots);
    buffer->weighs = buffer_has_one_scope(buffer) && plan->buffer.bytes > 0 &&
                     !has_equal_sizes(layers, buffer->n_layers);
    for (uint32_t i = 0; i < buffer->n_layers; i++) {
        Scope *scope = buffer_scope(buffer, i);
        buffer->first_object[i] = scope->n_objects; /* at most 1024 * 65535 */
        scope->n_objects += layers[i].experts;
        buffer->experts[i] = layers[i].experts;
        buffer->expert_bytes[i] = layers[i].expert_bytes;
        buffer->weight[i] = buffer->weighs ? layers[i].expert_bytes : 1;
    }
    for (uint32_t i = 0; i < buffer->n_scopes; i++) {
        Scope *scope = &buffer->scopes[i];
        uint32_t widest = buffer_has_one_scope(buffer) ? widest_layer(buffer) : scope->n_objects;
        scope->n_layers = buffer_has_one_scope(buffer) ? buffer->n_layers : 1;
        scope->alpha = (uint32_t)lround(65536 * plan_alpha(plan));
        size_scope(plan, slots[i], widest, buffer->policy != NULL && buffer->policy->needs_hot,
                   scope);
        if (buffer->weighs)
            scope->budget = plan->buffer.bytes;
    }
    mem_free(slots);
    return status;
}

static Status make_arrays(ExpertBuffer *buffer)
{
    Arena arena = {0};
    uint32_t n = buffer->n_layers;
    arena_reserve(&arena, buffer->n_scopes, sizeof *buffer->scopes);
    arena_reserve(&arena, n, sizeof *buffer->first_object);
    arena_reserve(&arena, n, sizeof *buffer->expert_bytes);
    arena_reserve(&arena, n, sizeof *buffer->weight);
    arena_reserve(&arena, n, sizeof *buffer->experts);
    arena_reserve(&arena, n, sizeof *buffer->hot);
    arena_reserve(&arena, n, sizeof *buffer->events);
    arena_reserve(&arena, n, sizeof *buffer->initial);
    arena_reserve(&arena, n, sizeof *buffer->counts);
    TRY(arena_commit(&arena, "expert buffer"));
    buffer->scopes = arena_take(&arena, buffer->n_scopes, sizeof *buffer->scopes);
    buffer->first_object = arena_take(&arena, n, sizeof *buffer->first_object);
    buffer->expert_bytes = arena_take(&arena, n, sizeof *buffer->expert_bytes);
    buffer->weight = arena_take(&arena, n, sizeof *buffer->weight);
    buffer->experts = arena_take(&arena, n, sizeof *buffer->experts);
    buffer->hot = arena_take(&arena, n, sizeof *buffer->hot);
    buffer->events = arena_take(&arena, n, sizeof *buffer->events);
    buffer->initial = arena_take(&arena, n, sizeof *buffer->initial);
    buffer->counts = arena_take(&arena, n, sizeof *buffer->counts);
    return OK;
}

/* With the buffer off, expert e lies in slot e of its layer. */
static void all_resident(Scope *scope, ScopeEvent *events, const BufferRun *run)
{
    for (uint32_t i = 0; i < run->n_spans; i++) {
        BufferSpan span = run->spans[i];
        ScopeEvent *event = &events[span.layer_index];
        event->hits += span.n;
        event->lookups += span.n;
        if (run->hit != NULL)
            memset(run->hit + span.first, 1, span.n);
        for (uint32_t j = 0; event->actions != NULL && j < span.n; j++) {
            uint32_t expert = run->experts[span.first + j];
            scope_report(scope, event, RESIDENCY_HIT, expert, expert);
        }
    }
}

static Status choose_policy(const Plan *plan, ExpertBuffer *buffer)
{
    buffer->run = all_resident;
    TRY(placement_check_one_rank(plan));
    if (!plan->buffer.on)
        return OK;
    TRY(plan_check_learned(plan));
    buffer->policy = eviction_find(plan->buffer.evict);
    if (buffer->policy == NULL)
        return fail(ERR_PLAN, "buffer.evict: \"%s\" is no eviction policy", plan->buffer.evict);
    buffer->order = plan->buffer.order;
    buffer->run = buffer->policy->run[plan->buffer.order];
    buffer->bypasses = buffer->policy->may_bypass && plan->buffer.order != ORDER_STAGED;
    return OK;
}

/* Looks up what TABLE, of KEY, lists for each layer, and checks that it fits the scopes. */
static Status take_lists(const ExpertBuffer *buffer, const char *key, const PlanTable *table,
                         const TraceLayer *layers, PlanRow *lists)
{
    TRY(plan_lists_check(key, table, layers, buffer->n_layers));
    for (uint32_t i = 0; i < buffer->n_layers; i++)
        lists[i] = plan_table_list(table, layers[i].layer);
    for (uint32_t i = 0; i < buffer->n_scopes; i++) {
        const Scope *scope = &buffer->scopes[i];
        uint64_t used = 0;
        for (uint32_t layer = 0; layer < buffer->n_layers; layer++)
            if (buffer_scope(buffer, layer) == scope)
                used += lists[layer].n * buffer->weight[layer];
        const char *unit = buffer->weighs ? "bytes" : "slots";
        if (used > scope->budget && buffer_has_one_scope(buffer))
            return fail(ERR_PLAN, "%s: takes %" PRIu64 " %s, the device has %" PRIu64, key, used,
                        unit, scope->budget);
        if (used > scope->budget)
            return fail(ERR_PLAN, "%s: layer %" PRIu32 ": takes %" PRIu64 " %s, it has %" PRIu64,
                        key, layers[i].layer, used, unit, scope->budget);
    }
    return OK;
}

static bool lists(PlanRow row, uint32_t expert)
{
    for (uint32_t i = 0; i < row.n; i++)
        if (row.values[i] == expert)
            return true;
    return false;
}

static Status check_initial(const ExpertBuffer *buffer, const Plan *plan, const TraceLayer *layers)
{
    if (plan->buffer.initial.table != NULL && buffer->policy->prefetch == NULL)
        return fail(ERR_PLAN, "buffer.initial: evict \"%s\" starts cold", plan->buffer.evict);
    for (uint32_t i = 0; i < buffer->n_layers && buffer->policy->needs_hot; i++)
        for (uint32_t at = 0; at < buffer->initial[i].n; at++)
            if (!lists(buffer->hot[i], buffer->initial[i].values[at]))
                return fail(ERR_PLAN,
                            "buffer.initial: layer %" PRIu32 ": expert %" PRIu32
                            " is not of the hot set",
                            layers[i].layer, buffer->initial[i].values[at]);
    return OK;
}

static Status make_prefetch(const Plan *plan, const TraceLayer *layers, ExpertBuffer *buffer)
{
    if (strcmp(plan->prefetch.predictor, "none") == 0)
        return OK;
    if (buffer->policy == NULL || buffer->policy->prefetch == NULL)
        return fail(ERR_PLAN,
                    "prefetch.predictor: \"%s\" needs a buffer whose eviction can admit "
                    "ahead of a lookup",
                    plan->prefetch.predictor);
    TRY(prefetch_new(plan, layers, buffer->n_layers, &buffer->prefetch));
    return mem_new(&buffer->actions, buffer_max_actions(buffer, widest_layer(buffer)) + 1,
                   sizeof *buffer->actions, "expert buffer");
}

static Status fill_buffer(const Plan *plan, const TraceLayer *layers, ExpertBuffer *buffer)
{
    TRY(choose_policy(plan, buffer));
    TRY(make_arrays(buffer));
    TRY(size_scopes(plan, layers, buffer));
    TRY(map_objects(buffer));
    if (buffer->policy != NULL) {
        TRY(take_lists(buffer, "buffer.hot", plan->buffer.hot.table, layers, buffer->hot));
        TRY(take_lists(buffer, "buffer.initial", plan->buffer.initial.table, layers,
                       buffer->initial));
        TRY(check_initial(buffer, plan, layers));
        TRY(scopes_make(buffer->policy, buffer->scopes, buffer->n_scopes, widest_layer(buffer)));
    }
    TRY(make_prefetch(plan, layers, buffer));
    if (buffer->policy != NULL)
        TRY(host_share_new(plan, layers, buffer->n_layers, &buffer->host_share));
    buffer_reset(buffer);
    return OK;
}

Status buffer_new(const Plan *plan, const TraceLayer *layers, uint32_t n_layers, ExpertBuffer **out)
{
    ExpertBuffer *buffer;
    TRY(mem_new(&buffer, 1, sizeof *buffer, "expert buffer"));
    bool shared = plan->buffer.on && plan->buffer.scope == SCOPE_DEVICE;
    buffer->n_layers = n_layers;
    buffer->n_scopes = shared ? 1 : n_layers;
    buffer->seed = plan->seed;
    Status status = fill_buffer(plan, layers, buffer);
    if (status != OK)
        buffer_free(buffer);
    else
        *out = buffer;
    return status;
}

void buffer_free(ExpertBuffer *buffer)
{
    if (buffer == NULL)
        return;
    if (buffer->scopes != NULL)
        scopes_free(buffer->scopes);
    prefetch_free(buffer->prefetch);
    host_share_free(buffer->host_share);
    mem_free(buffer->actions);
    mem_free(buffer->scopes);
    mem_free(buffer->object_layer);
    mem_free(buffer);
}
