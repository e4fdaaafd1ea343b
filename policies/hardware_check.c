#include "policies/hardware_check.h"

#include <string.h>

static bool is_one_of(const char *const *names, const char *name)
{
    while (*names != NULL && strcmp(*names, name) != 0)
        names++;
    return *names != NULL;
}

static bool begins_with(const char *name, const char *const *beginnings)
{
    while (*beginnings != NULL && strncmp(name, *beginnings, strlen(*beginnings)) != 0)
        beginnings++;
    return *beginnings != NULL;
}

static bool is_factor(const char *name)
{
    static const char *const FACTORS[] = {"slowdown",    "slowdown/all-to-all", "unevenness",
                                          "host/beside", "copy/beside",         "host/reuse",
                                          NULL};
    return is_one_of(FACTORS, name);
}

static Status check_unit(const JsonAt *at, const CostTable *table)
{
    static const char *const TIMES[] = {
        "gpu/",  "queued/",   "forced/",      "held/", "issue/",    "copy/",  "padded/",
        "mask/", "host/copy", "host/experts", "step/", "host/warm", "decide", NULL};
    static const char *const MEMORY[] = {"memory/", NULL};
    CostUnit unit = table->unit;
    if (is_factor(table->name))
        unit = UNIT_FACTOR;
    else if (begins_with(table->name, MEMORY))
        unit = UNIT_BYTES;
    else if (begins_with(table->name, TIMES))
        unit = UNIT_NS;
    return unit == table->unit
               ? OK
               : json_fail(at, "the table \"%s\" is in %s, allowed is %s", table->name,
                           COST_UNIT_NAMES[table->unit], COST_UNIT_NAMES[unit]);
}

static Status check_axes(const JsonAt *at, const CostTable *table)
{
    static const char *const BY_AXES[] = {"gpu/", "queued/", NULL};
    const char *axis[COST_AXES];
    Op op;
    if (table->n_axes == 0 || !begins_with(table->name, BY_AXES))
        return OK;
    if (!op_find(strchr(table->name, '/') + 1, &op))
        return json_fail(at, "the table \"%s\" is of no operation", table->name);
    uint32_t n = hardware_op_axes(op, axis);
    if (n != table->n_axes)
        return json_fail(at, "the table \"%s\" has %u axes, allowed are 0 and %u", table->name,
                         table->n_axes, n);
    for (uint32_t i = 0; i < n; i++)
        if (strcmp(table->axis[i], axis[i]) != 0)
            return json_fail(at, "the table \"%s\" has the axis \"%s\", allowed there is \"%s\"",
                             table->name, table->axis[i], axis[i]);
    return OK;
}

/* Of other tables, which are what one measurement has beyond another, a point may be below 0. */
static bool is_measured_alone(const char *name)
{
    static const char *const ALONE[] = {"gpu/",         "queued/",   "memory/",
                                        "padded/",      "mask/",     "host/copy",
                                        "host/experts", "host/warm", NULL};
    static const char *const COPIES[] = {"copy/h2d", "copy/h2d-busy", "copy/d2h", NULL};
    return begins_with(name, ALONE) || is_one_of(COPIES, name) || is_factor(name);
}

static Status check_values(const JsonAt *at, const CostTable *table)
{
    for (uint32_t i = 0; is_measured_alone(table->name) && i < table->n_points; i++)
        if (table->value[i] < 0)
            return json_fail(at, "the table \"%s\" has the value %g, allowed are those from 0 on",
                             table->name, table->value[i]);
    return OK;
}

Status hardware_check_costs(const JsonAt *at, const CostTable *table)
{
    TRY(check_unit(at, table));
    TRY(check_axes(at, table));
    return check_values(at, table);
}

static Status check_ops(const JsonAt *at, const HardwareOp *ops, uint32_t n)
{
    uint32_t seen = 0; /* of the layer, a bit for each operation */
    _Static_assert(OPS <= 32, "operations are bits");
    for (uint32_t i = 0; i < n; i++) {
        if (i > 0 && ops[i].layer < ops[i - 1].layer)
            return json_fail(at, "layer %u stands behind layer %u", ops[i].layer, ops[i - 1].layer);
        if (i > 0 && ops[i].layer > ops[i - 1].layer)
            seen = 0;
        if ((seen & UINT32_C(1) << ops[i].op) != 0)
            return json_fail(at, "layer %u has \"%s\" twice", ops[i].layer, op_name(ops[i].op));
        seen |= UINT32_C(1) << ops[i].op;
    }
    return OK;
}

static bool has_experts(const HardwareModel *model, uint32_t layer)
{
    for (Stack stack = STACK_DECODER; stack <= STACK_ENCODER; stack++)
        for (uint32_t i = 0; i < model->n_ops[stack]; i++)
            if (model->ops[stack][i].op == OP_EXPERTS && model->ops[stack][i].layer == layer)
                return true;
    return false;
}

static uint32_t count_moe_layers(const HardwareModel *model)
{
    uint32_t n = 0;
    for (Stack stack = STACK_DECODER; stack <= STACK_ENCODER; stack++)
        for (uint32_t i = 0; i < model->n_ops[stack]; i++)
            n += model->ops[stack][i].op == OP_EXPERTS;
    return n;
}

static Status check_slots(const JsonAt *at, const HardwareModel *model)
{
    uint32_t n = count_moe_layers(model);
    if (model->n_slots == 0)
        return OK;
    for (uint32_t i = 0; i < model->n_slots; i++) {
        uint32_t layer = model->slots[i].layer;
        if (i > 0 && layer <= model->slots[i - 1].layer)
            return json_fail(at, "slots of layer %u stand behind those of layer %u", layer,
                             model->slots[i - 1].layer);
        if (!has_experts(model, layer))
            return json_fail(at, "there are slots of layer %u, which has no experts", layer);
    }
    return model->n_slots == n
               ? OK
               : json_fail(at, "there are slots of %u layers, experts have %u", model->n_slots, n);
}

Status hardware_check_model(const JsonAt *at, const HardwareModel *model)
{
    for (Stack stack = STACK_DECODER; stack <= STACK_ENCODER; stack++)
        TRY(check_ops(at, model->ops[stack], model->n_ops[stack]));
    return check_slots(at, model);
}
