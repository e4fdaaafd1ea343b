/* A profile is read from JSON. policies/hardware.schema.json says the same for editors. */
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "base/files.h"
#include "base/json_numbers.h"
#include "base/memory.h"
#include "policies/hardware.h"
#include "policies/hardware_check.h"

const char *const COST_UNIT_NAMES[COST_UNITS + 1] = {"ns", "bytes", "factor", NULL};
static const char *const BACKENDS[] = {"cpu", "cuda", NULL};
static const double LIMIT = 1e18;
static const double MEMORY_LIMIT = (double)(UINT64_C(1) << 40);

enum { MOST_POINTS = 1 << 20 };
#define MOST_SLOT_BYTES (UINT64_C(1) << 40)
#define MOST_WEIGHT_BYTES (UINT64_C(1) << 50)

#define POINT_WANTED "must be a list of %u numbers: axes, value, spread"

static Status read_text(const JsonAt *parent, const char *key, char *field, size_t room)
{
    JsonAt at;
    const char *text = NULL;
    TRY(json_need(parent, key, &at));
    TRY(json_text(&at, &text));
    size_t bytes = strlen(text) + 1;
    if (bytes > room)
        return json_fail(&at, "longer than %zu bytes", room - 1);
    memcpy(field, text, bytes);
    return OK;
}

static Status read_u32(const JsonAt *parent, const char *key, uint32_t least, uint32_t most,
                       uint32_t *value)
{
    JsonAt at;
    TRY(json_need(parent, key, &at));
    return json_u32(&at, least, most, value);
}

static Status read_f64(const JsonAt *parent, const char *key, double *value)
{
    JsonAt at;
    TRY(json_need(parent, key, &at));
    return json_f64(&at, 0, MEMORY_LIMIT, value);
}

/* Of anything but lists of numbers, which only points are. */
static Status need_array(const JsonAt *parent, const char *key, uint32_t least, uint32_t most,
                         JsonAt *at, uint32_t *n)
{
    TRY(json_need(parent, key, at));
    if (!cJSON_IsArray(at->node))
        return json_fail(at, "must be a list");
    if (json_is_table(at->node))
        return json_fail(at, "must not be a list of lists of numbers");
    *n = 0;
    for (const cJSON *item = at->node->child; item != NULL; item = item->next)
        ++*n;
    if (*n < least || *n > most)
        return json_fail(at, "has %u items, allowed are %u to %u", *n, least, most);
    return OK;
}

static Status read_axes(const JsonAt *parent, CostTable *table)
{
    JsonAt at;
    uint32_t i = 0;
    TRY(need_array(parent, "axes", 0, COST_AXES, &at, &table->n_axes));
    for (const cJSON *item = at.node->child; item != NULL; item = item->next, i++) {
        const JsonAt name = json_item(&at, item, i);
        const char *text = NULL;
        TRY(json_text(&name, &text));
        if (strlen(text) >= sizeof table->axis[i])
            return json_fail(&name, "longer than %zu bytes", sizeof table->axis[i] - 1);
        snprintf(table->axis[i], sizeof table->axis[i], "%s", text);
    }
    return OK;
}

/* Of POINTS, which are no lists of numbers. */
static Status refuse_points(const JsonAt *points, uint32_t each)
{
    size_t number = 0;
    for (const cJSON *item = points->node->child; item != NULL; item = item->next, number++) {
        const JsonAt at = json_item(points, item, number);
        size_t i = 0;
        if (!cJSON_IsArray(item) || cJSON_GetArraySize(item) != (int)each)
            return json_fail(&at, POINT_WANTED, each);
        for (const cJSON *field = item->child; field != NULL; field = field->next, i++) {
            const JsonAt field_at = json_item(&at, field, i);
            double unused;
            TRY(json_f64(&field_at, -LIMIT, LIMIT, &unused));
        }
    }
    return json_fail(points, "has 0 items, allowed are 1 to %d", MOST_POINTS);
}

/* Number I of a row of POINTS. Where it stands is written only when it is wrong. */
static Status read_number(const JsonAt *points, size_t row, size_t i, double least, double value,
                          double *field)
{
    *field = value;
    if (value >= least && value <= LIMIT)
        return OK;
    const cJSON number = {.type = cJSON_Number, .valuedouble = value};
    const JsonAt at = json_item(points, NULL, row);
    const JsonAt number_at = json_item(&at, &number, i);
    return json_f64(&number_at, least, LIMIT, field);
}

/* [place on each axis..., value, spread]: the next point. */
static Status read_point(const JsonAt *points, const double *from, CostTable *table)
{
    uint32_t number = table->n_points;
    uint32_t n_axes = table->n_axes;
    double *place = table->at + (size_t)number * n_axes;
    for (uint32_t i = 0; i < n_axes; i++)
        TRY(read_number(points, number, i, 0, from[i], &place[i]));
    TRY(read_number(points, number, n_axes, -LIMIT, from[n_axes], &table->value[number]));
    TRY(read_number(points, number, n_axes + 1, 0, from[n_axes + 1], &table->spread[number]));
    table->n_points++;
    if (number == 0 || cost_place_compare(table, place - n_axes, place) < 0)
        return OK;
    const JsonAt at = json_item(points, NULL, number);
    return json_fail(&at, "points must ascend, each place once");
}

static Status read_points(const JsonAt *parent, const JsonNumbers *numbers, CostTable *table)
{
    JsonAt at;
    size_t n = 0;
    TRY(json_need(parent, "points", &at));
    if (!cJSON_IsArray(at.node))
        return json_fail(&at, "must be a list");
    const JsonRow *rows = json_rows(numbers, at.node, &n);
    if (rows == NULL)
        return refuse_points(&at, table->n_axes + 2);
    if (n > MOST_POINTS)
        return json_fail(&at, "has %zu items, allowed are 1 to %d", n, MOST_POINTS);
    TRY(mem_new(&table->at, n * (table->n_axes > 0 ? table->n_axes : 1), sizeof(double),
                "cost table"));
    TRY(mem_new(&table->value, n, sizeof(double), "cost table"));
    TRY(mem_new(&table->spread, n, sizeof(double), "cost table"));
    for (size_t i = 0; i < n; i++) {
        if (rows[i].n != table->n_axes + 2) {
            const JsonAt point = json_item(&at, NULL, i);
            return json_fail(&point, POINT_WANTED, table->n_axes + 2);
        }
        TRY(read_point(&at, numbers->value + rows[i].first, table));
    }
    return OK;
}

static Status read_table(const JsonAt *at, const JsonNumbers *numbers, const Hardware *hardware,
                         CostTable *table)
{
    static const char *const KEYS[] = {"name", "shape", "unit", "axes", "points", NULL};
    JsonAt value;
    int unit = 0;
    TRY(json_only_keys(at, KEYS));
    TRY(read_text(at, "name", table->name, sizeof table->name));
    TRY(read_text(at, "shape", table->shape, sizeof table->shape));
    TRY(json_need(at, "unit", &value));
    TRY(json_choice(&value, COST_UNIT_NAMES, &unit));
    table->unit = (CostUnit)unit;
    TRY(read_axes(at, table));
    TRY(read_points(at, numbers, table));
    TRY(hardware_check_costs(at, table));
    if (hardware_table(hardware, table->name, table->shape) != table)
        return json_fail(at, "the table \"%s\" of shape \"%s\" stands twice", table->name,
                         table->shape);
    return OK;
}

static Status read_tables(const JsonAt *root, const JsonNumbers *numbers, Hardware *hardware)
{
    JsonAt at;
    uint32_t n = 0;
    TRY(need_array(root, "tables", 0, 1 << 16, &at, &n));
    TRY(mem_new(&hardware->tables, n > 0 ? n : 1, sizeof *hardware->tables, "cost tables"));
    for (const cJSON *item = at.node->child; item != NULL; item = item->next) {
        const JsonAt table = json_item(&at, item, hardware->n_tables);
        TRY(read_table(&table, numbers, hardware, &hardware->tables[hardware->n_tables++]));
    }
    return OK;
}

/* {"layer", "op", "shape"} */
static Status read_op(const JsonAt *at, HardwareOp *op)
{
    static const char *const KEYS[] = {"layer", "op", "shape", NULL};
    char name[32];
    JsonAt value;
    TRY(json_only_keys(at, KEYS));
    TRY(read_u32(at, "layer", 0, UINT16_MAX, &op->layer));
    TRY(read_text(at, "op", name, sizeof name));
    if (!op_find(name, &op->op)) {
        TRY(json_need(at, "op", &value));
        return json_fail(&value, "\"%s\" is no operation", name);
    }
    return read_text(at, "shape", op->shape, sizeof op->shape);
}

static Status read_ops(const JsonAt *parent, Stack stack, HardwareModel *model)
{
    JsonAt at;
    uint32_t n = 0;
    TRY(need_array(parent, stack_name(stack), 0, 1 << 16, &at, &n));
    TRY(mem_new(&model->ops[stack], n > 0 ? n : 1, sizeof *model->ops[stack], "models"));
    for (const cJSON *item = at.node->child; item != NULL; item = item->next) {
        const JsonAt op = json_item(&at, item, model->n_ops[stack]);
        TRY(read_op(&op, &model->ops[stack][model->n_ops[stack]]));
        model->n_ops[stack]++;
    }
    return OK;
}

static Status read_slots(const JsonAt *parent, HardwareModel *model)
{
    static const char *const KEYS[] = {"layer", "experts", "bytes", NULL};
    JsonAt at;
    uint32_t n = 0;
    TRY(need_array(parent, "slots", 0, TRACE_MAX_LAYERS, &at, &n));
    TRY(mem_new(&model->slots, n > 0 ? n : 1, sizeof *model->slots, "models"));
    for (const cJSON *item = at.node->child; item != NULL; item = item->next) {
        const JsonAt layer = json_item(&at, item, model->n_slots);
        HardwareSlots *slots = &model->slots[model->n_slots++];
        JsonAt bytes;
        TRY(json_only_keys(&layer, KEYS));
        TRY(read_u32(&layer, "layer", 0, UINT16_MAX, &slots->layer));
        TRY(read_u32(&layer, "experts", 1, TRACE_MAX_EXPERTS, &slots->experts));
        TRY(json_need(&layer, "bytes", &bytes));
        TRY(json_u64(&bytes, 0, MOST_SLOT_BYTES, &slots->slot_bytes));
    }
    return OK;
}

static Status read_memory(const JsonAt *parent, HardwareMemory *memory)
{
    static const char *const KEYS[] = {"weights", "position", "request", "length", NULL};
    JsonAt at;
    JsonAt weights;
    TRY(json_need(parent, "memory", &at));
    TRY(json_only_keys(&at, KEYS));
    TRY(json_need(&at, "weights", &weights));
    TRY(json_u64(&weights, 0, MOST_WEIGHT_BYTES, &memory->weights_bytes));
    TRY(read_f64(&at, "position", &memory->position_bytes));
    TRY(read_f64(&at, "request", &memory->request_bytes));
    return read_f64(&at, "length", &memory->length_bytes);
}

static Status need_u64(const JsonAt *parent, const char *key, uint64_t least, uint64_t *value)
{
    JsonAt at;
    TRY(json_need(parent, key, &at));
    return json_u64(&at, least, (uint64_t)LIMIT, value);
}

/* Not there where nothing is known of it. */
static Status read_host(const JsonAt *parent, HardwareHost *host)
{
    static const char *const KEYS[] = {"best_ns", "mean_ns",   "rounds", "disturbed",
                                       "again",   "waited_ns", NULL};
    JsonAt at;
    if (!json_find(parent, "host", &at))
        return OK;
    TRY(json_only_keys(&at, KEYS));
    TRY(need_u64(&at, "best_ns", 1, &host->best_ns));
    TRY(read_f64(&at, "mean_ns", &host->mean_ns));
    TRY(need_u64(&at, "rounds", 1, &host->rounds));
    TRY(need_u64(&at, "disturbed", 0, &host->disturbed));
    TRY(need_u64(&at, "again", 0, &host->again));
    return need_u64(&at, "waited_ns", 0, &host->waited_ns);
}

static Status read_model(const JsonAt *at, const Hardware *hardware, HardwareModel *model)
{
    static const char *const KEYS[] = {
        "name", "compute", "measured_layers", "ops", "slots", "memory", "host", NULL};
    static const char *const STACKS[] = {"decoder", "encoder", NULL};
    JsonAt ops;
    TRY(json_only_keys(at, KEYS));
    TRY(read_text(at, "name", model->name, sizeof model->name));
    TRY(read_text(at, "compute", model->compute, sizeof model->compute));
    TRY(read_u32(at, "measured_layers", 1, UINT16_MAX, &model->measured_layers));
    TRY(json_need(at, "ops", &ops));
    TRY(json_only_keys(&ops, STACKS));
    for (Stack stack = STACK_DECODER; stack <= STACK_ENCODER; stack++)
        TRY(read_ops(&ops, stack, model));
    TRY(read_slots(at, model));
    TRY(read_memory(at, &model->memory));
    TRY(read_host(at, &model->host));
    TRY(hardware_check_model(at, model));
    return hardware_model(hardware, model->name) == model
               ? OK
               : json_fail(at, "the model \"%s\" stands twice", model->name);
}

static Status read_models(const JsonAt *root, Hardware *hardware)
{
    JsonAt at;
    uint32_t n = 0;
    TRY(need_array(root, "models", 0, 4096, &at, &n));
    TRY(mem_new(&hardware->models, n > 0 ? n : 1, sizeof *hardware->models, "models"));
    for (const cJSON *item = at.node->child; item != NULL; item = item->next) {
        const JsonAt model = json_item(&at, item, hardware->n_models);
        TRY(read_model(&model, hardware, &hardware->models[hardware->n_models++]));
    }
    return OK;
}

static Status read_clocks(const JsonAt *root, Hardware *hardware)
{
    static const char *const KEYS[] = {"least", "most", NULL};
    JsonAt at;
    TRY(json_need(root, "clock_mhz", &at));
    if (json_is_null(&at))
        return OK;
    TRY(json_only_keys(&at, KEYS));
    TRY(read_u32(&at, "least", 1, 1000000, &hardware->least_clock_mhz));
    return read_u32(&at, "most", hardware->least_clock_mhz, 1000000, &hardware->most_clock_mhz);
}

static Status read_origin(const JsonAt *root, Hardware *hardware)
{
    JsonAt driver;
    JsonAt backend;
    int number;
    TRY(read_text(root, "device", hardware->device, sizeof hardware->device));
    TRY(json_need(root, "backend", &backend));
    TRY(json_choice(&backend, BACKENDS, &number));
    snprintf(hardware->backend, sizeof hardware->backend, "%s", BACKENDS[number]);
    TRY(json_need(root, "driver", &driver));
    if (!json_is_null(&driver))
        TRY(read_text(root, "driver", hardware->driver, sizeof hardware->driver));
    TRY(read_text(root, "created", hardware->created, sizeof hardware->created));
    TRY(read_text(root, "version", hardware->version, sizeof hardware->version));
    TRY(read_text(root, "commit", hardware->commit, sizeof hardware->commit));
    TRY(read_text(root, "command", hardware->command, sizeof hardware->command));
    TRY(read_u32(root, "host_threads", 1, UINT16_MAX, &hardware->host_threads));
    return read_clocks(root, hardware);
}

static Status read_all(const JsonAt *root, const JsonNumbers *numbers, Hardware *hardware)
{
    static const char *const KEYS[] = {
        "moebius_hardware", "device",       "backend",   "driver", "created", "version", "commit",
        "command",          "host_threads", "clock_mhz", "tables", "models",  NULL};
    uint32_t format;
    TRY(json_only_keys(root, KEYS));
    TRY(read_u32(root, "moebius_hardware", HARDWARE_VERSION, HARDWARE_VERSION, &format));
    TRY(read_origin(root, hardware));
    TRY(read_tables(root, numbers, hardware));
    return read_models(root, hardware);
}

Status hardware_parse(char *text, size_t bytes, const char *file, Hardware *hardware)
{
    cJSON *json;
    JsonNumbers numbers;
    *hardware = (Hardware){0};
    TRY(json_parse_numbers(text, bytes, file, &json, &numbers));
    const JsonAt root = json_root(json, file);
    Status status = read_all(&root, &numbers, hardware);
    if (status != OK)
        hardware_free(hardware);
    json_numbers_free(&numbers);
    cJSON_Delete(json);
    return status;
}

Status hardware_load(const char *path, Hardware *hardware)
{
    char *text;
    size_t bytes;
    *hardware = (Hardware){0};
    TRY(file_read_all(path, HARDWARE_BYTES, &text, &bytes));
    Status status = hardware_parse(text, bytes, path, hardware);
    mem_free(text);
    return status;
}
