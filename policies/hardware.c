/* Profiles in memory: their tables and models, found and added. */
#include "policies/hardware.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/memory.h"

static void free_table(CostTable *table)
{
    mem_free(table->at);
    mem_free(table->value);
    mem_free(table->spread);
}

static void free_model(HardwareModel *model)
{
    for (Stack stack = STACK_DECODER; stack <= STACK_ENCODER; stack++)
        mem_free(model->ops[stack]);
    mem_free(model->slots);
}

void hardware_free(Hardware *hardware)
{
    for (uint32_t i = 0; i < hardware->n_tables; i++)
        free_table(&hardware->tables[i]);
    for (uint32_t i = 0; i < hardware->n_models; i++)
        free_model(&hardware->models[i]);
    mem_free(hardware->tables);
    mem_free(hardware->models);
    *hardware = (Hardware){0};
}

static CostTable *find_table(const Hardware *hardware, const char *name, const char *shape)
{
    for (uint32_t i = 0; i < hardware->n_tables; i++) {
        CostTable *table = &hardware->tables[i];
        if (strcmp(table->name, name) == 0 && strcmp(table->shape, shape) == 0)
            return table;
    }
    return NULL;
}

const CostTable *hardware_table(const Hardware *hardware, const char *name, const char *shape)
{
    return find_table(hardware, name, shape);
}

void hardware_rest_shape(const char *model, Stack stack, StepMode mode, bool forced,
                         char shape[160])
{
    static const char *const MODES[STEP_MODES] = {[STEP_FIRST] = "first",
                                                  [STEP_CAPTURED] = "capture",
                                                  [STEP_LAUNCHED] = "launch",
                                                  [STEP_REPEATED] = "graph",
                                                  [STEP_QUEUED] = "queued"};
    snprintf(shape, 160, "%s%s %s%s", model, stack == STACK_ENCODER ? " encoder" : "", MODES[mode],
             forced ? " forced" : "");
}

void hardware_ranks_shape(uint32_t ranks, uint32_t machine_ranks, char shape[160])
{
    int used = snprintf(shape, 160, "%u ranks", ranks);
    if (machine_ranks < ranks)
        snprintf(shape + used, 160 - (size_t)used, ", %u a machine", machine_ranks);
}

uint32_t hardware_decide_table(const char *predictor, char name[48], const char *axis[COST_AXES],
                               double *entries)
{
    int length = (int)strcspn(predictor, ":");
    bool remembers = strncmp(predictor, "activation-match", (size_t)length) == 0;
    snprintf(name, 48, "decide/%.*s", length, predictor);
    *entries = remembers ? strtod(predictor + length + (predictor[length] == ':'), NULL) : 0;
    axis[0] = remembers ? "requests" : "active";
    axis[1] = "entries";
    return remembers ? 2 : 1;
}

/* The last component of a path without the slashes at its end; *LENGTH bytes. */
static const char *last_component(const char *path, size_t *length)
{
    size_t end = strlen(path);
    while (end > 1 && path[end - 1] == '/')
        end--;
    size_t first = end;
    while (first > 0 && path[first - 1] != '/')
        first--;
    *length = end - first;
    return path + first;
}

static bool is_same_model(const char *left, const char *right)
{
    size_t left_length;
    size_t right_length;
    const char *left_name = last_component(left, &left_length);
    const char *right_name = last_component(right, &right_length);
    return left_length == right_length && memcmp(left_name, right_name, left_length) == 0;
}

const HardwareModel *hardware_model(const Hardware *hardware, const char *name)
{
    for (uint32_t i = 0; i < hardware->n_models; i++)
        if (is_same_model(hardware->models[i].name, name))
            return &hardware->models[i];
    return NULL;
}

uint64_t hardware_best_loop(const Hardware *hardware)
{
    uint64_t best_ns = 0;
    for (uint32_t i = 0; i < hardware->n_models; i++) {
        const HardwareHost *host = &hardware->models[i].host;
        if (host->rounds > 0 && (best_ns == 0 || host->best_ns < best_ns))
            best_ns = host->best_ns;
    }
    return best_ns;
}

uint32_t hardware_op_axes(Op op, const char *axis[COST_AXES])
{
    if (op == OP_ATTENTION || op == OP_CROSS_ATTENTION) {
        axis[0] = "requests";
        axis[1] = "tokens";
        axis[2] = "context";
        return 3;
    }
    if (op == OP_EXPERTS) {
        axis[0] = "active";
        axis[1] = "rows";
        axis[2] = "load";
        return 3;
    }
    axis[0] = op == OP_HEAD ? "rows" : "tokens";
    return 1;
}

/* ---- making one ---- */

/* One element more, at the end of BLOCK [n]. */
static Status grow(void *block, uint32_t n, size_t size, const char *what)
{
    void **array = block;
    void *larger = mem_resize(*array, (size_t)n + 1, size);
    if (larger == NULL)
        return fail_memory(what, ((size_t)n + 1) * size);
    *array = larger;
    memset((char *)larger + n * size, 0, size);
    return OK;
}

static void set_axes(CostTable *table, CostUnit unit, const char *const *axis, uint32_t n_axes)
{
    table->unit = unit;
    table->n_axes = n_axes;
    for (uint32_t i = 0; i < n_axes; i++)
        snprintf(table->axis[i], sizeof table->axis[i], "%s", axis[i]);
}

Status hardware_add_table(Hardware *hardware, const char *name, const char *shape, CostUnit unit,
                          const char *const *axis, uint32_t n_axes, CostTable **table)
{
    *table = find_table(hardware, name, shape);
    if (*table != NULL)
        return OK;
    TRY(grow(&hardware->tables, hardware->n_tables, sizeof *hardware->tables, "cost tables"));
    *table = &hardware->tables[hardware->n_tables++];
    snprintf((*table)->name, sizeof(*table)->name, "%s", name);
    snprintf((*table)->shape, sizeof(*table)->shape, "%s", shape);
    set_axes(*table, unit, axis, n_axes);
    return OK;
}

Status hardware_empty_table(Hardware *hardware, const char *name, const char *shape, CostUnit unit,
                            const char *const *axis, uint32_t n_axes)
{
    CostTable *table;
    TRY(hardware_add_table(hardware, name, shape, unit, axis, n_axes, &table));
    table->n_points = 0;
    set_axes(table, unit, axis, n_axes);
    return OK;
}

int cost_place_compare(const CostTable *table, const double *left, const double *right)
{
    for (uint32_t i = 0; i < table->n_axes; i++)
        if (left[i] != right[i])
            return left[i] < right[i] ? -1 : 1;
    return 0;
}

uint32_t cost_table_nearest(const CostTable *table, const double *at)
{
    uint32_t best = 0;
    double least = INFINITY;
    for (uint32_t i = 0; i < table->n_points; i++) {
        double distance = 1;
        for (uint32_t a = 0; a < table->n_axes; a++) {
            double ratio = (table->at[(size_t)i * table->n_axes + a] + 1) / (at[a] + 1);
            distance *= ratio > 1 ? ratio : 1 / ratio;
        }
        if (distance < least) {
            least = distance;
            best = i;
        }
    }
    return best;
}

static Status insert_point(CostTable *table, uint32_t place)
{
    uint32_t n = table->n_points;
    uint32_t axes = table->n_axes > 0 ? table->n_axes : 1;
    uint32_t after = n - place;
    TRY(grow(&table->at, n, axes * sizeof *table->at, "cost table"));
    TRY(grow(&table->value, n, sizeof *table->value, "cost table"));
    TRY(grow(&table->spread, n, sizeof *table->spread, "cost table"));
    memmove(table->at + (place + 1) * axes, table->at + place * axes,
            after * axes * sizeof *table->at);
    memmove(table->value + place + 1, table->value + place, after * sizeof *table->value);
    memmove(table->spread + place + 1, table->spread + place, after * sizeof *table->spread);
    table->n_points++;
    return OK;
}

Status cost_table_put(CostTable *table, const double *at, double value, double spread)
{
    uint32_t axes = table->n_axes;
    uint32_t place = table->n_points;
    while (place > 0 && cost_place_compare(table, table->at + (place - 1) * axes, at) > 0)
        place--;
    bool there = place > 0 && cost_place_compare(table, table->at + (place - 1) * axes, at) == 0;
    if (there)
        place--;
    else
        TRY(insert_point(table, place));
    if (axes > 0) /* AT may be NULL otherwise */
        memcpy(table->at + place * axes, at, axes * sizeof *at);
    table->value[place] = value;
    table->spread[place] = spread;
    return OK;
}

Status hardware_add_model(Hardware *hardware, const char *name, HardwareModel **model)
{
    *model = NULL;
    for (uint32_t i = 0; i < hardware->n_models; i++)
        if (is_same_model(hardware->models[i].name, name))
            *model = &hardware->models[i];
    if (*model == NULL) {
        TRY(grow(&hardware->models, hardware->n_models, sizeof *hardware->models, "models"));
        *model = &hardware->models[hardware->n_models++];
    }
    free_model(*model);
    memset(*model, 0, sizeof **model);
    snprintf((*model)->name, sizeof(*model)->name, "%s", name);
    return OK;
}

static bool has_axes_of(const CostTable *table, const CostTable *from)
{
    bool same = table->unit == from->unit && table->n_axes == from->n_axes;
    for (uint32_t i = 0; same && i < table->n_axes; i++)
        same = strcmp(table->axis[i], from->axis[i]) == 0;
    return same;
}

Status hardware_check_table(const Hardware *hardware, const CostTable *from)
{
    const CostTable *table = hardware_table(hardware, from->name, from->shape);
    if (table == NULL || has_axes_of(table, from))
        return OK;
    return fail(ERR_INPUT,
                "the table \"%s\" of shape \"%s\" has not the unit and axes of what is put in",
                from->name, from->shape);
}

static Status merge_table(Hardware *hardware, const CostTable *from)
{
    const char *axis[COST_AXES] = {from->axis[0], from->axis[1], from->axis[2]};
    CostTable *table;
    TRY(hardware_check_table(hardware, from));
    TRY(hardware_add_table(hardware, from->name, from->shape, from->unit, axis, from->n_axes,
                           &table));
    for (uint32_t i = 0; i < from->n_points; i++)
        TRY(cost_table_put(table, from->at + i * from->n_axes, from->value[i], from->spread[i]));
    return OK;
}

static Status copy_array(void *to, const void *from, uint32_t n, size_t size)
{
    void **array = to;
    if (n == 0)
        return OK;
    TRY(mem_new(array, n, size, "models"));
    memcpy(*array, from, n * size);
    return OK;
}

static Status merge_model(Hardware *hardware, const HardwareModel *from)
{
    HardwareModel *model;
    TRY(hardware_add_model(hardware, from->name, &model));
    for (Stack stack = STACK_DECODER; stack <= STACK_ENCODER; stack++) {
        TRY(copy_array(&model->ops[stack], from->ops[stack], from->n_ops[stack],
                       sizeof *from->ops[stack]));
        model->n_ops[stack] = from->n_ops[stack];
    }
    TRY(copy_array(&model->slots, from->slots, from->n_slots, sizeof *from->slots));
    model->n_slots = from->n_slots;
    memcpy(model->compute, from->compute, sizeof model->compute);
    model->measured_layers = from->measured_layers;
    model->memory = from->memory;
    model->host = from->host;
    return OK;
}

static void merge_clocks(Hardware *hardware, const Hardware *from)
{
    if (from->least_clock_mhz == 0)
        return;
    if (hardware->least_clock_mhz == 0 || from->least_clock_mhz < hardware->least_clock_mhz)
        hardware->least_clock_mhz = from->least_clock_mhz;
    if (from->most_clock_mhz > hardware->most_clock_mhz)
        hardware->most_clock_mhz = from->most_clock_mhz;
}

Status hardware_check_merge(const Hardware *hardware, const Hardware *from)
{
    if (strcmp(hardware->backend, from->backend) != 0)
        return fail(ERR_INPUT, "measured with %s, not with %s", hardware->backend, from->backend);
    if (strcmp(hardware->device, from->device) != 0)
        return fail(ERR_INPUT, "measured on \"%s\", not on \"%s\"", hardware->device, from->device);
    for (uint32_t i = 0; i < from->n_models; i++) {
        const HardwareModel *more = &from->models[i];
        const HardwareModel *model = hardware_model(hardware, more->name);
        if (model != NULL && strcmp(model->compute, more->compute) != 0)
            return fail(ERR_INPUT, "model %s: measured in %s, not in %s", model->name,
                        model->compute, more->compute);
    }
    return OK;
}

Status hardware_merge(Hardware *hardware, const Hardware *from)
{
    TRY(hardware_check_merge(hardware, from));
    merge_clocks(hardware, from);
    for (uint32_t i = 0; i < from->n_tables; i++)
        TRY(merge_table(hardware, &from->tables[i]));
    for (uint32_t i = 0; i < from->n_models; i++)
        TRY(merge_model(hardware, &from->models[i]));
    return OK;
}
