#include "policies/placement_slots.h"

#include <inttypes.h>

#include "base/memory.h"

static uint32_t copies_of(const PlanTable *map, uint32_t at)
{
    uint32_t copies = 0;
    for (uint32_t expert = 0; expert < plan_table_rows(map, at); expert++)
        copies += plan_table_row(map, at, expert).n;
    return copies;
}

static Status check_copies(const PlanTable *map, uint32_t ranks, uint32_t n_slots)
{
    for (uint32_t at = 1; at < plan_table_layers(map); at++)
        if (copies_of(map, at) != n_slots)
            return fail(ERR_PLAN,
                        "placement: layer %" PRIu32 " has %" PRIu32 " experts on ranks, layer "
                        "%" PRIu32 " has %" PRIu32 ": the format has as many in each layer",
                        plan_table_layer(map, at), copies_of(map, at), plan_table_layer(map, 0),
                        n_slots);
    if (n_slots % ranks == 0)
        return OK;
    return fail(ERR_PLAN,
                "placement: %" PRIu32 " experts with their copies on %" PRIu32
                " ranks: the format has as many on each rank",
                n_slots, ranks);
}

/* USED[ranks] is zero. */
static Status fill_layer(const PlanTable *map, uint32_t at, uint32_t ranks, uint32_t n_slots,
                         uint32_t *used, uint32_t *slots)
{
    uint32_t on_each = n_slots / ranks;
    for (uint32_t expert = 0; expert < plan_table_rows(map, at); expert++) {
        PlanRow row = plan_table_row(map, at, expert);
        for (uint32_t i = 0; i < row.n; i++) {
            uint32_t rank = row.values[i];
            if (used[rank] == on_each)
                return fail(ERR_PLAN,
                            "placement: layer %" PRIu32 ": rank %" PRIu32 " has more than %" PRIu32
                            " experts: the format has as many on each rank",
                            plan_table_layer(map, at), rank, on_each);
            slots[rank * on_each + used[rank]++] = expert;
        }
    }
    return OK;
}

static Status fill(const PlanTable *map, uint32_t ranks, uint32_t n_slots, uint32_t *block)
{
    uint32_t n_layers = plan_table_layers(map);
    for (uint32_t at = 0; at < n_layers; at++) {
        uint32_t used[PLACEMENT_MAX_RANKS] = {0};
        block[at] = plan_table_layer(map, at);
        TRY(fill_layer(map, at, ranks, n_slots, used, block + n_layers + (size_t)at * n_slots));
    }
    return OK;
}

Status placement_slots(const PlanTable *map, uint32_t ranks, PlacementSlots *out)
{
    uint32_t *block;
    uint32_t n_layers = plan_table_layers(map);
    if (n_layers == 0)
        return fail(ERR_PLAN, "placement: no layer");
    uint32_t n_slots = copies_of(map, 0);
    TRY(check_copies(map, ranks, n_slots));
    TRY(mem_new(&block, n_layers + (size_t)n_layers * n_slots, sizeof *block, "placement"));
    Status status = fill(map, ranks, n_slots, block);
    if (status == OK)
        *out = (PlacementSlots){
            .n_layers = n_layers, .n_slots = n_slots, .layer = block, .slots = block + n_layers};
    else
        mem_free(block);
    return status;
}

void placement_slots_free(PlacementSlots *slots)
{
    mem_free((void *)slots->layer);
    *slots = (PlacementSlots){0};
}
