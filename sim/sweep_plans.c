#include "sim/sweep_plans.h"

#include <stdlib.h>
#include <string.h>

#include "base/memory.h"

/* Every table of the plans once, and where it lies among all. */
typedef struct {
    const PlanTable *table;
    size_t offset;
} Placed;

typedef struct {
    Placed *items; /* [n], ascending by address */
    size_t n;
    size_t bytes;
} Tables;

static int compare_placed(const void *left, const void *right)
{
    const Placed *a = left;
    const Placed *b = right;
    return (a->table > b->table) - (a->table < b->table);
}

static size_t collect(const Plan *plans, size_t n, Placed *items)
{
    size_t found = 0;
    for (size_t i = 0; i < n; i++)
        for (size_t j = 0; j < PLAN_LEARNABLE; j++) {
            const char *path;
            Plan view = plans[i];
            const PlanTable *table = plan_learned(&view, j, &path)->table;
            if (table != NULL && items != NULL)
                items[found].table = table;
            found += table != NULL;
        }
    return found;
}

static size_t rounded(size_t bytes)
{
    return (bytes + 63) / 64 * 64;
}

/* Freed with mem_free(items). */
static Status place_tables(const Plan *plans, size_t n, Tables *tables)
{
    size_t most = collect(plans, n, NULL);
    *tables = (Tables){0};
    TRY(mem_new(&tables->items, most + 1, sizeof *tables->items, "tables of plans"));
    collect(plans, n, tables->items);
    qsort(tables->items, most, sizeof *tables->items, compare_placed);
    for (size_t i = 0; i < most; i++) {
        if (tables->n > 0 && tables->items[tables->n - 1].table == tables->items[i].table)
            continue;
        tables->items[tables->n++] = (Placed){tables->items[i].table, tables->bytes};
        tables->bytes += rounded(plan_table_bytes(tables->items[tables->n - 1].table));
    }
    return OK;
}

/* A plan that travels has in the place of a table one more than where it lies. */
static void point_at_places(const Tables *tables, Plan *plans, size_t n)
{
    for (size_t i = 0; i < n; i++)
        for (size_t j = 0; j < PLAN_LEARNABLE; j++) {
            const char *path;
            PlanLearned *learned = plan_learned(&plans[i], j, &path);
            const Placed wanted = {.table = learned->table};
            if (learned->table == NULL)
                continue;
            const Placed *placed =
                bsearch(&wanted, tables->items, tables->n, sizeof *tables->items, compare_placed);
            learned->table = (const PlanTable *)(uintptr_t)(placed->offset + 1);
        }
}

static Status copy_all(const Tables *tables, const Plan *plans, size_t n, SweepPlans *packed)
{
    TRY(sweep_plans_new(n, tables->bytes, packed));
    memcpy(packed->plans, plans, n * sizeof *plans);
    for (size_t i = 0; i < tables->n; i++)
        memcpy(packed->tables + tables->items[i].offset, tables->items[i].table,
               plan_table_bytes(tables->items[i].table));
    point_at_places(tables, packed->plans, n);
    return OK;
}

Status sweep_plans_pack(const Plan *plans, size_t n, SweepPlans *packed)
{
    Tables tables;
    *packed = (SweepPlans){0};
    TRY(place_tables(plans, n, &tables));
    Status status = copy_all(&tables, plans, n, packed);
    mem_free(tables.items);
    return status;
}

Status sweep_plans_new(uint64_t n_plans, uint64_t table_bytes, SweepPlans *room)
{
    *room = (SweepPlans){.n_plans = n_plans, .table_bytes = table_bytes};
    Status status = mem_new(&room->plans, (size_t)n_plans, sizeof *room->plans, "study");
    if (status == OK && table_bytes > 0)
        status = mem_new(&room->tables, (size_t)table_bytes, 1, "tables of plans");
    if (status != OK)
        sweep_plans_free(room);
    return status;
}

Status sweep_plans_share(SweepRanks *ranks, SweepPlans *packed)
{
    TRY(ranks->transport->share(ranks, packed->plans,
                                (size_t)packed->n_plans * sizeof *packed->plans));
    if (packed->table_bytes == 0)
        return OK;
    return ranks->transport->share(ranks, packed->tables, (size_t)packed->table_bytes);
}

void sweep_plans_unpack(SweepPlans *packed)
{
    for (size_t i = 0; i < packed->n_plans; i++)
        for (size_t j = 0; j < PLAN_LEARNABLE; j++) {
            const char *path;
            PlanLearned *learned = plan_learned(&packed->plans[i], j, &path);
            if (learned->table != NULL)
                learned->table =
                    (const PlanTable *)(packed->tables + (uintptr_t)learned->table - 1);
        }
}

void sweep_plans_free(SweepPlans *plans)
{
    mem_free(plans->tables);
    mem_free(plans->plans);
    *plans = (SweepPlans){0};
}
