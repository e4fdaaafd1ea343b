#include "sim/costs.h"

#include <string.h>

#include "base/memory.h"

/* The distinct places of one axis under each place of the axis before: a node's children are those
 * of the next level from FIRST[node] to FIRST[node + 1] - 1. The nodes of the last level are the
 * table's points. */
typedef struct {
    uint32_t n;
    double *place;   /* [n] */
    uint32_t *first; /* [n + 1]; of the last level NULL */
} Level;

typedef struct {
    Level levels[COST_AXES];
    bool holds; /* beyond the largest place of an axis its value stays as it is */
} Index;

struct Costs {
    const Hardware *hardware;
    Index *index; /* [n_tables] */
    Arena arena;
};

const char *cost_status_name(CostStatus status)
{
    static const char *const NAMES[COST_STATUSES] = {"measured", "interpolated", "extrapolated",
                                                     "missing"};
    return NAMES[status];
}

/* True when point I begins a place of AXIS that differs from that of point I - 1. */
static bool begins(const CostTable *table, uint32_t i, uint32_t axis)
{
    if (i == 0)
        return true;
    const double *at = table->at + (size_t)i * table->n_axes;
    for (uint32_t a = 0; a <= axis; a++)
        if (at[a] != at[a - (int64_t)table->n_axes])
            return true;
    return false;
}

static uint32_t count_places(const CostTable *table, uint32_t axis)
{
    uint32_t n = 0;
    for (uint32_t i = 0; i < table->n_points; i++)
        n += begins(table, i, axis);
    return n;
}

static void fill_level(const CostTable *table, uint32_t axis, Level *level)
{
    uint32_t children = 0;
    uint32_t n = 0;
    for (uint32_t i = 0; i < table->n_points; i++) {
        if (begins(table, i, axis)) {
            level->place[n] = table->at[(size_t)i * table->n_axes + axis];
            if (level->first != NULL)
                level->first[n] = children;
            n++;
        }
        children += axis + 1 < table->n_axes && begins(table, i, axis + 1);
    }
    if (level->first != NULL)
        level->first[n] = children;
}

/* What does no work that grows with its axes. */
static bool holds(const CostTable *table)
{
    static const char *const NAMES[] = {"step/rest",    "step/cold", "lag",  "after/load",
                                        "after/tokens", "end/load",  "turn", "beside",
                                        "host/rested",  "host/aged"};
    for (size_t i = 0; i < sizeof NAMES / sizeof *NAMES; i++)
        if (strcmp(table->name, NAMES[i]) == 0)
            return true;
    return table->unit == UNIT_FACTOR || strncmp(table->name, "cold/", strlen("cold/")) == 0 ||
           strncmp(table->name, "issue/", strlen("issue/")) == 0;
}

/* Sums the sizes, or takes the pieces and fills them in. */
static void build(Costs *costs, bool take)
{
    Arena *arena = &costs->arena;
    uint32_t n_tables = costs->hardware->n_tables;
    if (!take)
        arena_reserve(arena, n_tables, sizeof *costs->index);
    else
        costs->index = arena_take(arena, n_tables, sizeof *costs->index);
    for (uint32_t i = 0; i < n_tables; i++) {
        const CostTable *table = &costs->hardware->tables[i];
        if (take)
            costs->index[i].holds = holds(table);
        for (uint32_t axis = 0; axis < table->n_axes; axis++) {
            uint32_t n = count_places(table, axis);
            bool last = axis + 1 == table->n_axes;
            if (!take) {
                arena_reserve(arena, n, sizeof(double));
                arena_reserve(arena, last ? 0 : (size_t)n + 1, sizeof(uint32_t));
                continue;
            }
            Level *level = &costs->index[i].levels[axis];
            level->n = n;
            level->place = arena_take(arena, n, sizeof(double));
            level->first = last ? NULL : arena_take(arena, (size_t)n + 1, sizeof(uint32_t));
            fill_level(table, axis, level);
        }
    }
}

Status costs_new(const Hardware *hardware, Costs **costs)
{
    TRY(mem_new(costs, 1, sizeof **costs, "costs"));
    (*costs)->hardware = hardware;
    build(*costs, false);
    Status status = arena_commit(&(*costs)->arena, "costs");
    if (status == OK)
        build(*costs, true);
    else {
        costs_free(*costs);
        *costs = NULL;
    }
    return status;
}

void costs_free(Costs *costs)
{
    if (costs == NULL)
        return;
    arena_free(&costs->arena);
    mem_free(costs);
}

uint32_t costs_find(const Costs *costs, const char *name, const char *shape)
{
    const CostTable *table = hardware_table(costs->hardware, name, shape);
    return table != NULL && table->n_points > 0 ? (uint32_t)(table - costs->hardware->tables)
                                                : COSTS_NONE;
}

/* The last of the places [first, end) of LEVEL that is at most X; FIRST when none is. */
static uint32_t find_place(const Level *level, uint32_t first, uint32_t end, double x)
{
    while (end - first > 1) {
        uint32_t middle = first + (end - first) / 2;
        if (level->place[middle] <= x)
            first = middle;
        else
            end = middle;
    }
    return first;
}

static void note(CostStatus *status, CostStatus seen)
{
    if (seen > *status)
        *status = seen;
}

/* The cost on the line of places [first, end) of AXIS. */
static double on_line(const CostTable *table, const Index *index, uint32_t axis, uint32_t first,
                      uint32_t end, const double *at, CostStatus *status);

/* The cost at place NODE of AXIS. */
static double at_place(const CostTable *table, const Index *index, uint32_t axis, uint32_t node,
                       const double *at, CostStatus *status)
{
    const Level *level = &index->levels[axis];
    if (level->first == NULL)
        return table->value[node];
    return on_line(table, index, axis + 1, level->first[node], level->first[node + 1], at, status);
}

/* The places of a line between which a point lies: LOW is NOWHERE before the first, HIGH after the
 * last, and both are the same at a place. */
typedef struct {
    uint32_t low;
    uint32_t high;
} Between;

static const uint32_t NOWHERE = UINT32_MAX;
static const double CLOSE_BEHIND = 1.25;

static Between find_between(const Level *level, uint32_t first, uint32_t end, double x)
{
    uint32_t node = find_place(level, first, end, x);
    if (x == level->place[node])
        return (Between){node, node};
    if (x < level->place[node])
        return (Between){NOWHERE, node};
    return (Between){node, node + 1 < end ? node + 1 : NOWHERE};
}

/* The line under place NODE of AXIS has the place of AT on the next axis between its ends, or
 * begins close behind it, where costs at its beginning are still near. */
static bool reaches(const Index *index, uint32_t axis, uint32_t node, const double *at)
{
    const double *place = index->levels[axis + 1].place;
    uint32_t first = index->levels[axis].first[node];
    uint32_t last = index->levels[axis].first[node + 1] - 1;
    double x = at[axis + 1];
    return place[last] >= x && place[first] <= CLOSE_BEHIND * x;
}

/* Lines that do not reach the point are passed over, where some that do lie on both sides of it. */
static Between pass_over(const Index *index, uint32_t axis, uint32_t first, uint32_t end,
                         const double *at, Between between)
{
    uint32_t low = between.low;
    uint32_t high = between.high;
    while (low != NOWHERE && !reaches(index, axis, low, at))
        low = low > first ? low - 1 : NOWHERE;
    while (high != NOWHERE && !reaches(index, axis, high, at))
        high = high + 1 < end ? high + 1 : NOWHERE;
    return low != NOWHERE && high != NOWHERE ? (Between){low, high} : between;
}

static double on_line(const CostTable *table, const Index *index, uint32_t axis, uint32_t first,
                      uint32_t end, const double *at, CostStatus *status)
{
    const Level *level = &index->levels[axis];
    double x = at[axis];
    Between between = find_between(level, first, end, x);
    if (level->first != NULL)
        between = pass_over(index, axis, first, end, at, between);
    if (between.low == between.high)
        return at_place(table, index, axis, between.low, at, status);
    if (between.low == NOWHERE) {
        note(status, COST_EXTRAPOLATED);
        return at_place(table, index, axis, between.high, at, status);
    }
    double here = level->place[between.low];
    double low = at_place(table, index, axis, between.low, at, status);
    if (between.high == NOWHERE) {
        note(status, COST_EXTRAPOLATED);
        return here > 0 && !index->holds ? low * (x / here) : low;
    }
    note(status, COST_INTERPOLATED);
    double high = at_place(table, index, axis, between.high, at, status);
    return low + (high - low) * ((x - here) / (level->place[between.high] - here));
}

double costs_at(const Costs *costs, uint32_t table, const double *at, CostUse *use)
{
    CostStatus status = COST_OK;
    if (table == COSTS_NONE) {
        use->n[COST_MISSING]++;
        return 0;
    }
    const CostTable *found = &costs->hardware->tables[table];
    const Index *index = &costs->index[table];
    double value = found->n_axes == 0
                       ? found->value[0]
                       : on_line(found, index, 0, 0, index->levels[0].n, at, &status);
    use->n[status]++;
    return value;
}

double costs_nearest(const Costs *costs, uint32_t table, const double *at, double *nearest)
{
    const CostTable *found = &costs->hardware->tables[table];
    uint32_t best = cost_table_nearest(found, at);
    memcpy(nearest, found->at + (size_t)best * found->n_axes, found->n_axes * sizeof *nearest);
    return found->value[best];
}

void cost_use_add(CostUse *sum, const CostUse *more)
{
    for (CostStatus status = COST_OK; status < COST_STATUSES; status++)
        sum->n[status] += more->n[status];
}
