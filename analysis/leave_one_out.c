#include "analysis/leave_one_out.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "base/memory.h"
#include "base/statistics.h"
#include "sim/costs.h"

/* Moves point I to the end, where the table's first n_points - 1 do not have it; or back. */
static void move_out(CostTable *table, uint32_t i)
{
    double at[COST_AXES];
    uint32_t axes = table->n_axes;
    uint32_t after = table->n_points - 1 - i;
    double value = table->value[i];
    memcpy(at, table->at + (size_t)i * axes, axes * sizeof *at);
    memmove(table->at + (size_t)i * axes, table->at + ((size_t)i + 1) * axes,
            (size_t)after * axes * sizeof *at);
    memmove(table->value + i, table->value + i + 1, after * sizeof *table->value);
    memcpy(table->at + (size_t)(table->n_points - 1) * axes, at, axes * sizeof *at);
    table->value[table->n_points - 1] = value;
}

static void move_back(CostTable *table, uint32_t i)
{
    double at[COST_AXES];
    uint32_t axes = table->n_axes;
    uint32_t after = table->n_points - 1 - i;
    double value = table->value[table->n_points - 1];
    memcpy(at, table->at + (size_t)(table->n_points - 1) * axes, axes * sizeof *at);
    memmove(table->at + ((size_t)i + 1) * axes, table->at + (size_t)i * axes,
            (size_t)after * axes * sizeof *at);
    memmove(table->value + i + 1, table->value + i, after * sizeof *table->value);
    memcpy(table->at + (size_t)i * axes, at, axes * sizeof *at);
    table->value[i] = value;
}

/* Predicts the last point of TABLE from the others; *ERROR is negative where they do not reach. */
static Status predict_last(const CostTable *table, double *error)
{
    CostTable others = *table;
    const Hardware hardware = {.tables = &others, .n_tables = 1};
    uint32_t last = table->n_points - 1;
    CostUse use = {0};
    Costs *costs;
    others.n_points = last;
    *error = -1;
    TRY(costs_new(&hardware, &costs));
    double predicted = costs_at(costs, 0, table->at + (size_t)last * table->n_axes, &use);
    if (use.n[COST_INTERPOLATED] > 0 && table->value[last] != 0)
        *error = fabs(predicted / table->value[last] - 1);
    costs_free(costs);
    return OK;
}

/* True when points LEFT and RIGHT, numbers of tokens next to each other, hold a jump between them:
 * they were put there so that no line crosses it. */
static bool hold_jump(const CostTable *table, uint32_t left, uint32_t right)
{
    static const double JUMP = 0.02;
    if (table->n_axes != 1 || strcmp(table->axis[0], "tokens") != 0 || right >= table->n_points)
        return false;
    double step = table->at[right] - table->at[left];
    return (step <= 1 || step <= table->at[left] / COST_NEXT_TO) &&
           fabs(table->value[right] - table->value[left]) > JUMP * table->value[left];
}

static Status predict_all(CostTable *table, double *errors, uint32_t *n)
{
    for (uint32_t i = 0; i < table->n_points; i++) {
        double error;
        if ((i > 0 && hold_jump(table, i - 1, i)) || hold_jump(table, i, i + 1))
            continue;
        move_out(table, i);
        Status status = predict_last(table, &error);
        move_back(table, i);
        TRY(status);
        if (error >= 0)
            errors[(*n)++] = error;
    }
    return OK;
}

static Status copy_table(const CostTable *table, CostTable *copy)
{
    size_t axes = table->n_axes > 0 ? table->n_axes : 1;
    *copy = *table;
    copy->at = NULL;
    copy->value = NULL;
    TRY(mem_new(&copy->at, table->n_points * axes, sizeof *copy->at, "cost table"));
    TRY(mem_new(&copy->value, table->n_points, sizeof *copy->value, "cost table"));
    memcpy(copy->at, table->at, table->n_points * table->n_axes * sizeof *copy->at);
    memcpy(copy->value, table->value, table->n_points * sizeof *copy->value);
    return OK;
}

static void sum_up(double *errors, uint32_t n, LeaveOneOut *out)
{
    double sum = 0;
    qsort(errors, n, sizeof *errors, compare_f64);
    for (uint32_t i = 0; i < n; i++)
        sum += errors[i];
    out->points = n;
    out->mean = n > 0 ? sum / n : 0;
    out->p95 = n > 0 ? errors[(uint32_t)(0.95 * (n - 1) + 0.5)] : 0;
}

Status leave_one_out(const CostTable *table, LeaveOneOut *out)
{
    double *errors = NULL;
    CostTable copy = {.at = NULL};
    uint32_t n = 0;
    *out = (LeaveOneOut){0};
    if (table->n_points < 3 || table->n_axes == 0)
        return OK;
    Status status = mem_new(&errors, table->n_points, sizeof *errors, "cost table");
    if (status == OK)
        status = copy_table(table, &copy);
    if (status == OK)
        status = predict_all(&copy, errors, &n);
    if (status == OK) {
        sum_up(errors, n, out);
        memcpy(errors, table->spread, table->n_points * sizeof *errors);
        qsort(errors, table->n_points, sizeof *errors, compare_f64);
        out->noise = errors[table->n_points / 2];
    }
    mem_free(copy.at);
    mem_free(copy.value);
    mem_free(errors);
    return status;
}
