#include "policies/placement.h"

#include <inttypes.h>

#include "base/memory.h"
#include "base/splitmix64.h"

const char *const PLACEMENT_METHOD_NAMES[PLACEMENT_METHODS + 1] = {
    "contiguous",     "round-robin",           "random",    "greedy",
    "anticorrelated", "anticorrelated-scaled", "replicate", "given",
};

/* True when the map follows from the plan and the layers alone, so that a plan carries none. */
static bool follows(PlacementMethod method)
{
    return method <= PLACEMENT_RANDOM;
}

bool placement_learns(PlacementMethod method)
{
    return !follows(method) && method != PLACEMENT_GIVEN;
}

/* The ranks of one expert: at least one, each once. */
static Status check_ranks(const JsonAt *at, const Plan *plan, uint32_t layer, uint32_t expert,
                          PlanRow ranks)
{
    bool seen[PLACEMENT_MAX_RANKS] = {false};
    if (ranks.n == 0)
        return json_fail(at, "map: layer %" PRIu32 ": expert %" PRIu32 " is on no rank", layer,
                         expert);
    for (uint32_t i = 0; i < ranks.n; i++) {
        uint32_t rank = ranks.values[i];
        if (rank >= plan->placement.ranks)
            return json_fail(at,
                             "map: layer %" PRIu32 ": expert %" PRIu32 " on rank %" PRIu32
                             ", there are %" PRIu32,
                             layer, expert, rank, plan->placement.ranks);
        if (seen[rank])
            return json_fail(at,
                             "map: layer %" PRIu32 ": expert %" PRIu32 " twice on rank %" PRIu32,
                             layer, expert, rank);
        seen[rank] = true;
    }
    return OK;
}

static Status check_layer(const JsonAt *at, const Plan *plan, uint32_t index)
{
    const PlanTable *map = plan->placement.map.table;
    uint32_t layer = plan_table_layer(map, index);
    uint32_t experts = plan_table_rows(map, index);
    uint64_t copies = 0;
    for (uint32_t expert = 0; expert < experts; expert++) {
        PlanRow ranks = plan_table_row(map, index, expert);
        TRY(check_ranks(at, plan, layer, expert, ranks));
        copies += ranks.n;
    }
    if (copies - experts == plan->placement.replicas)
        return OK;
    return json_fail(at,
                     "replicas: %" PRIu32 ", layer %" PRIu32 " of the map has %" PRIu64
                     " copies of %" PRIu32 " experts",
                     plan->placement.replicas, layer, copies, experts);
}

Status placement_check_plan(const JsonAt *at, Plan *plan)
{
    const PlanTable *map = plan->placement.map.table;
    const char *method = PLACEMENT_METHOD_NAMES[plan->placement.method];
    if (follows(plan->placement.method)) {
        if (map != NULL || plan->placement.map.choice != PLACEMENT_MAP_AS_GIVEN)
            return json_fail(at, "map: method \"%s\" has none; \"given\" takes any", method);
        if (plan->placement.replicas > 0)
            return json_fail(at, "replicas: method \"%s\" has none", method);
        return OK;
    }
    if (map == NULL && !placement_learns(plan->placement.method))
        return json_fail(at, "method \"%s\" needs a map", method);
    if (map == NULL) {
        plan->placement.map.choice = PLACEMENT_MAP_TRAINED;
        return OK;
    }
    for (uint32_t i = 0; i < plan_table_layers(map); i++)
        TRY(check_layer(at, plan, i));
    return OK;
}

Status placement_check_one_rank(const Plan *plan)
{
    if (plan->placement.ranks == 1)
        return OK;
    return fail(ERR_PLAN, "placement.ranks: %" PRIu32 ", runs have one rank",
                plan->placement.ranks);
}

static Status check_map(const PlanTable *map, const TraceLayer *layers, uint32_t n_layers)
{
    for (uint32_t i = 0; i < n_layers; i++) {
        uint32_t at = plan_table_find(map, layers[i].layer);
        if (at == plan_table_layers(map))
            return fail(ERR_PLAN, "placement.map: layer %" PRIu32 " is missing", layers[i].layer);
        if (plan_table_rows(map, at) != layers[i].experts)
            return fail(ERR_PLAN,
                        "placement.map: layer %" PRIu32 ": %" PRIu32 " experts, it has %" PRIu32,
                        layers[i].layer, plan_table_rows(map, at), layers[i].experts);
    }
    if (plan_table_layers(map) != n_layers)
        return fail(ERR_PLAN,
                    "placement.map: %" PRIu32 " layers, the model has %" PRIu32 " MoE layers",
                    plan_table_layers(map), n_layers);
    return OK;
}

/* A block of floor or ceil(E / ranks) of the experts in the order ORDER. */
static void fill_blocks(const uint32_t *order, LayerPlacement *placement)
{
    for (uint64_t i = 0; i < placement->experts; i++)
        placement->is_on[(size_t)order[i] * placement->ranks +
                         i * placement->ranks / placement->experts] = true;
}

/* Fisher and Yates 1938. The bias of the remainder is below 2^-47 with so few experts. */
static void shuffle(uint64_t seed, uint32_t layer_index, uint32_t *order, uint32_t n)
{
    uint64_t state = seed + ((uint64_t)layer_index << 32);
    for (uint32_t i = n - 1; i > 0; i--) {
        uint32_t j = (uint32_t)(splitmix64_next(&state) % (i + 1));
        uint32_t moved = order[i];
        order[i] = order[j];
        order[j] = moved;
    }
}

static Status fill_following(void *argument, uint32_t layer_index, LayerPlacement *placement)
{
    const Plan *plan = argument;
    uint32_t *order;
    if (plan->placement.method == PLACEMENT_ROUND_ROBIN) {
        for (uint32_t e = 0; e < placement->experts; e++)
            placement->is_on[(size_t)e * placement->ranks + e % placement->ranks] = true;
        return OK;
    }
    TRY(mem_new(&order, placement->experts, sizeof *order, "placement"));
    for (uint32_t e = 0; e < placement->experts; e++)
        order[e] = e;
    if (plan->placement.method == PLACEMENT_RANDOM)
        shuffle(plan->seed, layer_index, order, placement->experts);
    fill_blocks(order, placement);
    mem_free(order);
    return OK;
}

Status placement_map_view(const Plan *plan, const TraceLayer *layers, uint32_t n_layers,
                          const PlanTable **map, const PlanTable **made)
{
    *made = NULL;
    *map = plan->placement.map.table;
    if (follows(plan->placement.method)) {
        TRY(placement_table(layers, n_layers, plan->placement.ranks, fill_following, (void *)plan,
                            made));
        *map = *made;
        return OK;
    }
    if (*map == NULL)
        return fail(ERR_PLAN,
                    "placement.map: method \"%s\" has to learn it from a trace: moebius place",
                    PLACEMENT_METHOD_NAMES[plan->placement.method]);
    return check_map(*map, layers, n_layers);
}

Status placement_map(const Plan *plan, const TraceLayer *layers, uint32_t n_layers,
                     const PlanTable **map)
{
    const PlanTable *view;
    const PlanTable *made;
    TRY(placement_map_view(plan, layers, n_layers, &view, &made));
    *map = made != NULL ? made : plan_table_share(view);
    return OK;
}

/* Where each layer's part of is_on begins; FIRST[n_layers + 1] in experts. */
static Status count_experts(const TraceLayer *layers, uint32_t n_layers, uint32_t ranks,
                            uint32_t *first)
{
    for (uint32_t i = 0; i < n_layers; i++) {
        if (layers[i].experts < ranks)
            return fail(ERR_PLAN,
                        "placement.ranks: %" PRIu32 ", layer %" PRIu32 " has %" PRIu32 " experts",
                        ranks, layers[i].layer, layers[i].experts);
        first[i + 1] = first[i] + layers[i].experts;
    }
    return OK;
}

static Status table_of(const TraceLayer *layers, uint32_t n_layers, uint32_t ranks,
                       const uint32_t *first, const bool *is_on, PlanTable **table)
{
    uint32_t copies = 0;
    size_t n = (size_t)first[n_layers] * ranks;
    for (size_t i = 0; i < n; i++)
        copies += is_on[i];
    TRY(plan_table_new(TABLE_ROWS, n_layers, first[n_layers], copies, table));
    PlanTableParts parts = plan_table_parts(*table);
    uint32_t used = 0;
    for (uint32_t i = 0; i < n_layers; i++) {
        parts.layer[i] = layers[i].layer;
        parts.first_row[i + 1] = first[i + 1];
    }
    for (uint32_t row = 0; row < first[n_layers]; row++) {
        for (uint32_t rank = 0; rank < ranks; rank++)
            if (is_on[(size_t)row * ranks + rank])
                parts.value[used++] = rank;
        parts.first_value[row + 1] = used;
    }
    return OK;
}

Status placement_table(const TraceLayer *layers, uint32_t n_layers, uint32_t ranks,
                       Status (*fill)(void *argument, uint32_t layer_index,
                                      LayerPlacement *placement),
                       void *argument, const PlanTable **map)
{
    uint32_t *first = NULL;
    bool *is_on = NULL;
    PlanTable *table = NULL;
    Status status = mem_new(&first, (size_t)n_layers + 1, sizeof *first, "placement");
    if (status == OK)
        status = count_experts(layers, n_layers, ranks, first);
    if (status == OK)
        status = mem_new(&is_on, (size_t)first[n_layers] * ranks, sizeof *is_on, "placement");
    for (uint32_t i = 0; i < n_layers && status == OK; i++) {
        LayerPlacement placement = {.experts = layers[i].experts,
                                    .ranks = ranks,
                                    .is_on = is_on + (size_t)first[i] * ranks};
        status = fill(argument, i, &placement);
    }
    if (status == OK)
        status = table_of(layers, n_layers, ranks, first, is_on, &table);
    if (status == OK)
        *map = table;
    mem_free(is_on);
    mem_free(first);
    return status;
}
