#include "sim/budget.h"

#include <stdbool.h>

#include "base/memory.h"

static uint32_t least_of(const BudgetShares *shares, uint32_t layer)
{
    uint32_t most = shares->experts[layer];
    return shares->least[layer] < most ? shares->least[layer] : most;
}

static uint64_t give_least(const BudgetShares *shares, uint32_t *slots)
{
    uint64_t used = 0;
    for (uint32_t i = 0; i < shares->n_layers; i++) {
        slots[i] = least_of(shares, i);
        used += slots[i] * shares->weight[i];
    }
    return used;
}

static bool has_room(const BudgetShares *shares, uint64_t used, const uint32_t *slots, uint32_t i)
{
    return slots[i] < shares->experts[i] && used + shares->weight[i] <= shares->budget;
}

void budget_in_proportion(const BudgetShares *shares, const double *share, uint32_t *slots)
{
    uint64_t used = give_least(shares, slots);
    for (;;) {
        uint32_t best = shares->n_layers;
        for (uint32_t i = 0; i < shares->n_layers; i++)
            if (has_room(shares, used, slots, i) &&
                (best == shares->n_layers ||
                 share[i] / (slots[i] + 1.0) > share[best] / (slots[best] + 1.0)))
                best = i;
        if (best == shares->n_layers)
            return;
        slots[best]++;
        used += shares->weight[best];
    }
}

static uint64_t common_divisor(uint64_t a, uint64_t b)
{
    while (b != 0) {
        uint64_t rest = a % b;
        a = b;
        b = rest;
    }
    return a;
}

/* The budget in whole units. */
typedef struct {
    const BudgetShares *shares;
    const uint64_t *const *cost;
    uint64_t *weight; /* [n_layers] in units */
    uint64_t units;
    uint64_t *before; /* [units + 1] the least cost of the layers so far within so many units */
    uint64_t *after;
    uint16_t *chosen; /* [n_layers][units + 1] slots of the layer */
} Table;

static void choose_units(Table *table)
{
    const BudgetShares *shares = table->shares;
    uint64_t unit = 0;
    uint64_t most = 0;
    for (uint32_t i = 0; i < shares->n_layers; i++) {
        unit = common_divisor(unit, shares->weight[i]);
        most += shares->experts[i] * shares->weight[i];
    }
    uint64_t budget = shares->budget < most ? shares->budget : most;
    uint64_t least = budget / BUDGET_UNITS + 1;
    unit = unit < least ? least : unit;
    table->units = budget / unit;
    for (uint32_t i = 0; i < shares->n_layers; i++)
        table->weight[i] = (shares->weight[i] + unit - 1) / unit;
}

static Status make_table(Table *table)
{
    const BudgetShares *shares = table->shares;
    TRY(mem_new(&table->weight, shares->n_layers, sizeof *table->weight, "budget"));
    choose_units(table);
    size_t room = (size_t)table->units + 1;
    TRY(mem_new(&table->before, room, sizeof *table->before, "budget"));
    TRY(mem_new(&table->after, room, sizeof *table->after, "budget"));
    return mem_new(&table->chosen, shares->n_layers * room, sizeof *table->chosen, "budget");
}

/* UINT64_MAX: cannot be. */
static uint64_t best_of_layer(const Table *table, uint32_t layer, uint64_t units, uint16_t *chosen)
{
    const BudgetShares *shares = table->shares;
    uint32_t most = shares->experts[layer];
    uint64_t best = UINT64_MAX;
    for (uint32_t n = least_of(shares, layer); n <= most && n * table->weight[layer] <= units;
         n++) {
        uint64_t rest = table->before[units - n * table->weight[layer]];
        if (rest == UINT64_MAX || rest + table->cost[layer][n] >= best)
            continue;
        best = rest + table->cost[layer][n];
        *chosen = (uint16_t)n;
    }
    return best;
}

static void fill_table(Table *table)
{
    for (uint32_t layer = 0; layer < table->shares->n_layers; layer++) {
        uint16_t *chosen = table->chosen + layer * (table->units + 1);
        for (uint64_t units = 0; units <= table->units; units++)
            table->after[units] = best_of_layer(table, layer, units, &chosen[units]);
        uint64_t *swap = table->before;
        table->before = table->after;
        table->after = swap;
    }
}

/* What is left goes where it costs nothing. */
static void give_rest(const BudgetShares *shares, const uint64_t *const *cost, uint32_t *slots)
{
    uint64_t used = 0;
    for (uint32_t i = 0; i < shares->n_layers; i++)
        used += slots[i] * shares->weight[i];
    for (;;) {
        uint32_t best = shares->n_layers;
        for (uint32_t i = 0; i < shares->n_layers; i++)
            if (has_room(shares, used, slots, i) && cost[i][slots[i] + 1] <= cost[i][slots[i]] &&
                (best == shares->n_layers || slots[i] < slots[best]))
                best = i;
        if (best == shares->n_layers)
            return;
        slots[best]++;
        used += shares->weight[best];
    }
}

Status budget_optimal(const BudgetShares *shares, const uint64_t *const *cost, uint32_t *slots)
{
    Table table = {.shares = shares, .cost = cost};
    Status status = make_table(&table);
    if (status == OK) {
        fill_table(&table);
        uint64_t units = table.units;
        if (table.before[units] == UINT64_MAX) /* rounded up, not even the least fits */
            give_least(shares, slots);
        for (uint32_t i = shares->n_layers; i-- > 0 && table.before[table.units] != UINT64_MAX;) {
            slots[i] = table.chosen[i * (table.units + 1) + units];
            units -= slots[i] * table.weight[i];
        }
        give_rest(shares, cost, slots);
    }
    mem_free(table.chosen);
    mem_free(table.after);
    mem_free(table.before);
    mem_free(table.weight);
    return status;
}
