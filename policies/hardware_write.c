/* A profile is written as JSON. */
#include "policies/hardware.h"

static Status write_point(cJSON *list, const CostTable *table, uint32_t number)
{
    cJSON *point = cJSON_CreateArray();
    TRY(json_push(list, point));
    for (uint32_t i = 0; i < table->n_axes; i++)
        TRY(json_push(point, cJSON_CreateNumber(table->at[number * table->n_axes + i])));
    TRY(json_push(point, cJSON_CreateNumber(table->value[number])));
    return json_push(point, cJSON_CreateNumber(table->spread[number]));
}

static Status write_table(cJSON *list, const CostTable *table)
{
    cJSON *object = cJSON_CreateObject();
    cJSON *array;
    TRY(json_push(list, object));
    TRY(json_add_text(object, "name", table->name));
    TRY(json_add_text(object, "shape", table->shape));
    TRY(json_add_text(object, "unit", COST_UNIT_NAMES[table->unit]));
    TRY(json_add_array(object, "axes", &array));
    for (uint32_t i = 0; i < table->n_axes; i++)
        TRY(json_push(array, cJSON_CreateString(table->axis[i])));
    TRY(json_add_array(object, "points", &array));
    for (uint32_t i = 0; i < table->n_points; i++)
        TRY(write_point(array, table, i));
    return OK;
}

static Status write_ops(cJSON *object, const HardwareModel *model, Stack stack)
{
    cJSON *list;
    TRY(json_add_array(object, stack_name(stack), &list));
    for (uint32_t i = 0; i < model->n_ops[stack]; i++) {
        const HardwareOp *op = &model->ops[stack][i];
        cJSON *item = cJSON_CreateObject();
        TRY(json_push(list, item));
        TRY(json_add_u64(item, "layer", op->layer));
        TRY(json_add_text(item, "op", op_name(op->op)));
        TRY(json_add_text(item, "shape", op->shape));
    }
    return OK;
}

static Status write_slots(cJSON *object, const HardwareModel *model)
{
    cJSON *list;
    TRY(json_add_array(object, "slots", &list));
    for (uint32_t i = 0; i < model->n_slots; i++) {
        cJSON *item = cJSON_CreateObject();
        TRY(json_push(list, item));
        TRY(json_add_u64(item, "layer", model->slots[i].layer));
        TRY(json_add_u64(item, "experts", model->slots[i].experts));
        TRY(json_add_u64(item, "bytes", model->slots[i].slot_bytes));
    }
    return OK;
}

Status hardware_add_host(cJSON *object, const HardwareHost *host)
{
    TRY(json_add_u64(object, "best_ns", host->best_ns));
    TRY(json_add_f64(object, "mean_ns", host->mean_ns));
    TRY(json_add_u64(object, "rounds", host->rounds));
    TRY(json_add_u64(object, "disturbed", host->disturbed));
    TRY(json_add_u64(object, "again", host->again));
    return json_add_u64(object, "waited_ns", host->waited_ns);
}

static Status write_host(cJSON *model, const HardwareHost *host)
{
    cJSON *object;
    if (host->rounds == 0)
        return OK;
    TRY(json_add_object(model, "host", &object));
    return hardware_add_host(object, host);
}

static Status write_model(cJSON *list, const HardwareModel *model)
{
    cJSON *object = cJSON_CreateObject();
    cJSON *part;
    TRY(json_push(list, object));
    TRY(json_add_text(object, "name", model->name));
    TRY(json_add_text(object, "compute", model->compute));
    TRY(json_add_u64(object, "measured_layers", model->measured_layers));
    TRY(json_add_object(object, "ops", &part));
    for (Stack stack = STACK_DECODER; stack <= STACK_ENCODER; stack++)
        TRY(write_ops(part, model, stack));
    TRY(write_slots(object, model));
    TRY(json_add_object(object, "memory", &part));
    TRY(json_add_u64(part, "weights", model->memory.weights_bytes));
    TRY(json_add_f64(part, "position", model->memory.position_bytes));
    TRY(json_add_f64(part, "request", model->memory.request_bytes));
    TRY(json_add_f64(part, "length", model->memory.length_bytes));
    return write_host(object, &model->host);
}

static Status write_clocks(cJSON *root, const Hardware *hardware)
{
    cJSON *clocks;
    if (hardware->least_clock_mhz == 0)
        return json_add_null(root, "clock_mhz");
    TRY(json_add_object(root, "clock_mhz", &clocks));
    TRY(json_add_u64(clocks, "least", hardware->least_clock_mhz));
    return json_add_u64(clocks, "most", hardware->most_clock_mhz);
}

static Status write_origin(cJSON *root, const Hardware *hardware)
{
    TRY(json_add_u64(root, "moebius_hardware", HARDWARE_VERSION));
    TRY(json_add_text(root, "device", hardware->device));
    TRY(json_add_text(root, "backend", hardware->backend));
    TRY(hardware->driver[0] != '\0' ? json_add_text(root, "driver", hardware->driver)
                                    : json_add_null(root, "driver"));
    TRY(json_add_text(root, "created", hardware->created));
    TRY(json_add_text(root, "version", hardware->version));
    TRY(json_add_text(root, "commit", hardware->commit));
    TRY(json_add_text(root, "command", hardware->command));
    TRY(json_add_u64(root, "host_threads", hardware->host_threads));
    return write_clocks(root, hardware);
}

static Status write_all(cJSON *root, const Hardware *hardware)
{
    cJSON *list;
    TRY(write_origin(root, hardware));
    TRY(json_add_array(root, "tables", &list));
    for (uint32_t i = 0; i < hardware->n_tables; i++)
        TRY(write_table(list, &hardware->tables[i]));
    TRY(json_add_array(root, "models", &list));
    for (uint32_t i = 0; i < hardware->n_models; i++)
        TRY(write_model(list, &hardware->models[i]));
    return OK;
}

Status hardware_to_json(const Hardware *hardware, cJSON **json)
{
    *json = cJSON_CreateObject();
    Status status = *json != NULL ? write_all(*json, hardware) : fail_memory("hardware profile", 0);
    if (status != OK) {
        cJSON_Delete(*json);
        *json = NULL;
    }
    return status;
}

Status hardware_save(const Hardware *hardware, const char *path)
{
    cJSON *json;
    TRY(hardware_to_json(hardware, &json));
    Status status = json_save(json, path);
    cJSON_Delete(json);
    return status;
}
