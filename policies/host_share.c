#include "policies/host_share.h"

#include <inttypes.h>

#include "base/memory.h"

/* What the host has done for a layer, and what it costs there. */
typedef struct {
    uint64_t experts;
    uint64_t rows;
    ShareCosts costs;
    uint32_t at; /* of the layer in the table of the host's costs */
} LayerShare;

struct HostShare {
    ComputeMode mode;
    bool has_touches;
    const PlanTable *host_ns;
    uint32_t n_layers;
    LayerShare *layers; /* [n_layers] */

    /* Of one event, [experts of the widest layer] each. */
    HostMiss *misses;
    bool *on_host;     /* of the given experts */
    uint16_t *experts; /* those left to the scope */
    uint16_t *place;   /* where each given one stands among them */
    uint16_t *touches;
    uint8_t *hit;
};

static bool is_before(const HostMiss *a, const HostMiss *b)
{
    return a->host_ns != b->host_ns ? a->host_ns > b->host_ns : a->at < b->at;
}

/* Moves the element at I of the heap MISSES[n], whose root is before all others, to its place. */
static void sink(HostMiss *misses, uint32_t n, uint32_t i)
{
    for (;;) {
        uint32_t first = 2 * i + 1;
        if (first + 1 < n && is_before(&misses[first + 1], &misses[first]))
            first++;
        if (first >= n || is_before(&misses[i], &misses[first]))
            return;
        HostMiss swap = misses[i];
        misses[i] = misses[first];
        misses[first] = swap;
        i = first;
    }
}

static uint64_t larger(uint64_t a, uint64_t b)
{
    return a > b ? a : b;
}

static void reverse(HostMiss *misses, uint32_t n)
{
    for (uint32_t i = 0; i < n / 2; i++) {
        HostMiss swap = misses[i];
        misses[i] = misses[n - 1 - i];
        misses[n - 1 - i] = swap;
    }
}

/* The larger side where LOADS of N are loaded, and the others cost HOST_NS together. */
static uint64_t longer_side(const ShareCosts *costs, uint64_t loads, uint64_t host_ns, uint32_t n)
{
    return larger(loads > 0 ? costs->load_event_ns + loads * costs->load_ns : 0,
                  loads < n ? costs->host_event_ns + host_ns : 0);
}

/* The most loads of the best choice but that all are loaded, whose time is *BEST_NS. One more load
 * makes the loads' side longer and the host's shorter: from where the loads' is the longer one,
 * none is better. Of a heap of misses those that are loaded are popped, to its end. */
static uint32_t best_but_all(const ShareCosts *costs, HostMiss *misses, uint32_t n,
                             uint64_t host_ns, uint64_t *best_ns)
{
    uint32_t best = 0;
    *best_ns = longer_side(costs, 0, host_ns, n);
    for (uint32_t loads = 1; loads < n; loads++) {
        HostMiss loaded = misses[0];
        uint32_t left = n - loads;
        host_ns -= loaded.host_ns;
        misses[0] = misses[left];
        sink(misses, left, 0);
        misses[left] = loaded;
        uint64_t ns = longer_side(costs, loads, host_ns, n);
        best = ns < *best_ns ? loads : best;
        *best_ns = ns < *best_ns ? ns : *best_ns;
        if (costs->load_event_ns + loads * costs->load_ns >= costs->host_event_ns + host_ns)
            break;
    }
    return best;
}

uint32_t host_share_split(const ShareCosts *costs, HostMiss *misses, uint32_t n)
{
    uint64_t host_ns = 0;
    uint64_t best_ns;
    if (n == 0)
        return 0;
    for (uint32_t i = 0; i < n; i++)
        host_ns += misses[i].host_ns;
    for (uint32_t i = n / 2; i-- > 0;)
        sink(misses, n, i);
    uint32_t best = best_but_all(costs, misses, n, host_ns, &best_ns);
    reverse(misses, n);
    return longer_side(costs, n, 0, n) < best_ns ? n : best;
}

uint64_t host_share_ns(const PlanTable *table, uint32_t at, uint32_t rows)
{
    uint32_t n = plan_table_rows(table, at);
    uint32_t i = 0;
    while (i < n && plan_table_row(table, at, i).values[0] < rows)
        i++;
    if (i == n) {
        const uint32_t *last = plan_table_row(table, at, n - 1).values;
        return (uint64_t)last[1] * rows / last[0];
    }
    const uint32_t *high = plan_table_row(table, at, i).values;
    if (i == 0 || high[0] == rows)
        return high[1];
    const uint32_t *low = plan_table_row(table, at, i - 1).values;
    return low[1] + (uint64_t)(high[1] - low[1]) * (rows - low[0]) / (high[0] - low[0]);
}

static Status find_costs(const Plan *plan, const TraceLayer *layers, HostShare *share)
{
    share->host_ns = plan->compute.host_ns.table;
    for (uint32_t i = 0; i < share->n_layers; i++) {
        LayerShare *layer = &share->layers[i];
        PlanRow load = plan_table_list(plan->compute.load_ns.table, layers[i].layer);
        PlanRow event = plan_table_list(plan->compute.event_ns.table, layers[i].layer);
        layer->at = plan_table_find(share->host_ns, layers[i].layer);
        if (layer->at == plan_table_layers(share->host_ns) || load.n == 0)
            return fail(ERR_PLAN, "compute.%s: layer %" PRIu32 " is missing",
                        load.n == 0 ? "load_ns" : "host_ns", layers[i].layer);
        layer->costs.load_ns = load.values[0];
        if (event.n == 2) {
            layer->costs.host_event_ns = event.values[0];
            layer->costs.load_event_ns = event.values[1];
        }
    }
    return OK;
}

static Status fill(const Plan *plan, const TraceLayer *layers, HostShare *share)
{
    static const char WHAT[] = "experts on the host";
    uint32_t widest = 0;
    for (uint32_t i = 0; i < share->n_layers; i++)
        widest = layers[i].experts > widest ? layers[i].experts : widest;
    TRY(mem_new(&share->layers, share->n_layers, sizeof *share->layers, WHAT));
    if (share->mode == COMPUTE_SPLIT)
        TRY(find_costs(plan, layers, share));
    TRY(mem_new(&share->misses, widest, sizeof *share->misses, WHAT));
    TRY(mem_new(&share->on_host, widest, sizeof *share->on_host, WHAT));
    TRY(mem_new(&share->experts, widest, sizeof *share->experts, WHAT));
    TRY(mem_new(&share->place, widest, sizeof *share->place, WHAT));
    TRY(mem_new(&share->touches, widest, sizeof *share->touches, WHAT));
    return mem_new(&share->hit, widest, sizeof *share->hit, WHAT);
}

Status host_share_new(const Plan *plan, const TraceLayer *layers, uint32_t n_layers,
                      HostShare **out)
{
    HostShare *share;
    *out = NULL;
    if (plan->compute.mode == COMPUTE_ON_GPU)
        return OK;
    TRY(mem_new(&share, 1, sizeof *share, "experts on the host"));
    share->mode = plan->compute.mode;
    share->n_layers = n_layers;
    share->has_touches = plan->buffer.order == ORDER_STAGED;
    Status status = fill(plan, layers, share);
    if (status == OK)
        *out = share;
    else
        host_share_free(share);
    return status;
}

void host_share_free(HostShare *share)
{
    if (share == NULL)
        return;
    mem_free(share->hit);
    mem_free(share->touches);
    mem_free(share->place);
    mem_free(share->experts);
    mem_free(share->on_host);
    mem_free(share->misses);
    mem_free(share->layers);
    mem_free(share);
}

void host_share_reset(HostShare *share)
{
    for (uint32_t i = 0; i < share->n_layers; i++) {
        share->layers[i].experts = 0;
        share->layers[i].rows = 0;
    }
}

/* Marks in share->on_host what the host computes of GIVEN. */
static void choose(HostShare *share, const Scope *scope, const BufferEvent *given,
                   uint32_t first_object)
{
    const LayerShare *layer = &share->layers[given->layer_index];
    uint32_t n_misses = 0;
    for (uint32_t i = 0; i < given->n; i++) {
        share->on_host[i] = !scope_holds(scope, first_object + given->experts[i]);
        if (share->on_host[i])
            share->misses[n_misses++] = (HostMiss){.at = i};
    }
    if (share->mode != COMPUTE_SPLIT)
        return;
    for (uint32_t i = 0; i < n_misses; i++)
        share->misses[i].host_ns =
            host_share_ns(share->host_ns, layer->at, given->rows[share->misses[i].at]);
    uint32_t n_loads = host_share_split(&layer->costs, share->misses, n_misses);
    for (uint32_t i = 0; i < n_loads; i++)
        share->on_host[share->misses[i].at] = false;
}

static void take_touches(HostShare *share, const BufferEvent *given, ScopeEvent *event)
{
    uint32_t n = 0;
    for (uint32_t i = 0; i < given->n; i++)
        if (!share->on_host[given->touches[i]])
            share->touches[n++] = share->place[given->touches[i]];
    event->touches = share->touches;
}

void host_share_take(HostShare *share, const Scope *scope, const BufferEvent *given,
                     ScopeEvent *event)
{
    LayerShare *layer = &share->layers[given->layer_index];
    uint32_t n = 0;
    choose(share, scope, given, event->first_object);
    for (uint32_t i = 0; i < given->n; i++) {
        if (!share->on_host[i]) {
            share->place[i] = (uint16_t)n;
            share->experts[n++] = given->experts[i];
            continue;
        }
        layer->experts++;
        layer->rows += given->rows[i];
        if (event->actions != NULL)
            scope_report(scope, event, RESIDENCY_HOST, event->first_object + given->experts[i],
                         BUFFER_NO_SLOT);
    }
    if (share->has_touches)
        take_touches(share, given, event);
    event->experts = share->experts;
    event->n = n;
    event->hit = event->hit != NULL ? share->hit : NULL;
}

void host_share_hits(const HostShare *share, const BufferEvent *given, uint8_t *hit)
{
    for (uint32_t i = 0; hit != NULL && i < given->n; i++)
        hit[i] = share->on_host[i] ? 0 : share->hit[share->place[i]];
}

void host_share_count(const HostShare *share, uint32_t layer_index, BufferCounts *counts)
{
    counts->host_computed = share->layers[layer_index].experts;
    counts->host_rows = share->layers[layer_index].rows;
}
