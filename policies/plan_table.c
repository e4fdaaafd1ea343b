#include "policies/plan_table.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/memory.h"

struct PlanTable {
    uint32_t owners;
    uint32_t shape; /* PlanTableShape */
    uint32_t n_layers;
    uint32_t n_rows;
    uint32_t n_values;
    uint32_t data[]; /* the arrays of PlanTableParts, one after the other */
};

static size_t data_count(uint32_t n_layers, uint32_t n_rows, uint32_t n_values)
{
    return 2 * (size_t)n_layers + 1 + n_rows + 1 + n_values;
}

Status plan_table_new(PlanTableShape shape, uint32_t n_layers, uint32_t n_rows, uint32_t n_values,
                      PlanTable **out)
{
    PlanTable *table;
    size_t bytes = sizeof *table + data_count(n_layers, n_rows, n_values) * sizeof *table->data;
    TRY(mem_new(&table, bytes, 1, "table of a plan"));
    table->owners = 1;
    table->shape = shape;
    table->n_layers = n_layers;
    table->n_rows = n_rows;
    table->n_values = n_values;
    *out = table;
    return OK;
}

PlanTableParts plan_table_parts(PlanTable *table)
{
    PlanTableParts parts = {.layer = table->data};
    parts.first_row = parts.layer + table->n_layers;
    parts.first_value = parts.first_row + table->n_layers + 1;
    parts.value = parts.first_value + table->n_rows + 1;
    return parts;
}

/* To be read only. */
static PlanTableParts parts_of(const PlanTable *table)
{
    return plan_table_parts((PlanTable *)table);
}

const PlanTable *plan_table_share(const PlanTable *table)
{
    if (table != NULL)
        ((PlanTable *)table)->owners++;
    return table;
}

void plan_table_release(const PlanTable *table)
{
    PlanTable *owned = (PlanTable *)table;
    if (owned != NULL && --owned->owners == 0)
        mem_free(owned);
}

size_t plan_table_bytes(const PlanTable *table)
{
    return sizeof *table +
           data_count(table->n_layers, table->n_rows, table->n_values) * sizeof *table->data;
}

uint32_t plan_table_layers(const PlanTable *table)
{
    return table->n_layers;
}

uint32_t plan_table_layer(const PlanTable *table, uint32_t at)
{
    return parts_of(table).layer[at];
}

uint32_t plan_table_find(const PlanTable *table, uint32_t layer)
{
    const uint32_t *layers = parts_of(table).layer;
    for (uint32_t i = 0; i < table->n_layers; i++)
        if (layers[i] == layer)
            return i;
    return table->n_layers;
}

uint32_t plan_table_rows(const PlanTable *table, uint32_t at)
{
    const uint32_t *first = parts_of(table).first_row;
    return first[at + 1] - first[at];
}

PlanRow plan_table_row(const PlanTable *table, uint32_t at, uint32_t row)
{
    const PlanTableParts parts = parts_of(table);
    const uint32_t *first = parts.first_value + parts.first_row[at] + row;
    return (PlanRow){.n = first[1] - first[0], .values = parts.value + first[0]};
}

PlanRow plan_table_list(const PlanTable *table, uint32_t layer)
{
    if (table == NULL || table->shape == TABLE_ROWS)
        return (PlanRow){0};
    uint32_t at = plan_table_find(table, layer);
    return at < table->n_layers ? plan_table_row(table, at, 0) : (PlanRow){0};
}

int plan_table_compare(const PlanTable *left, const PlanTable *right)
{
    if (left == NULL || right == NULL || left == right)
        return (left != NULL) - (right != NULL);
    size_t bytes = plan_table_bytes(left);
    size_t other = plan_table_bytes(right);
    size_t front = offsetof(PlanTable, shape);
    if (bytes != other)
        return bytes < other ? -1 : 1;
    return memcmp((const char *)left + front, (const char *)right + front, bytes - front);
}

bool plan_table_is_same(const PlanTable *left, const PlanTable *right)
{
    return plan_table_compare(left, right) == 0;
}

/* A member of the object that is read, by its layer. */
typedef struct {
    uint32_t layer;
    const cJSON *node;
} Member;

static int compare_members(const void *left, const void *right)
{
    const Member *a = left;
    const Member *b = right;
    return (a->layer > b->layer) - (a->layer < b->layer);
}

/* "12", as json_add_u64() would write the key; neither "012" nor "+12". */
static bool read_layer(const char *key, uint32_t *layer)
{
    size_t length = strlen(key);
    if (length == 0 || length > 9 || strspn(key, "0123456789") != length)
        return false;
    *layer = (uint32_t)strtoul(key, NULL, 10);
    return length == 1 || key[0] != '0';
}

static Status list_members(const JsonAt *at, Member *members)
{
    size_t n = 0;
    for (const cJSON *node = at->node->child; node != NULL; node = node->next, n++) {
        members[n].node = node;
        if (!read_layer(node->string, &members[n].layer))
            return json_fail(at, "\"%s\", allowed are numbers of layers", node->string);
    }
    qsort(members, n, sizeof *members, compare_members);
    return OK;
}

/* What of a table is counted first, then filled in. */
typedef struct {
    const JsonAt *at;
    PlanTableShape shape;
    uint32_t least;
    uint32_t most;
    uint32_t layer; /* that is read */
    uint32_t n_rows;
    uint32_t n_values;
    PlanTableParts parts; /* layer NULL: counting */
} Filler;

static Status add_value(Filler *filler, const cJSON *node)
{
    JsonAt at = json_root(node, filler->at->file);
    uint32_t value;
    snprintf(at.path, sizeof at.path, "%.140s.%" PRIu32, filler->at->path, filler->layer);
    TRY(json_u32(&at, filler->least, filler->most, &value));
    if (filler->parts.layer != NULL)
        filler->parts.value[filler->n_values] = value;
    filler->n_values++;
    return OK;
}

static Status need_list(const Filler *filler, const cJSON *node, const char *what)
{
    return cJSON_IsArray(node)
               ? OK
               : json_fail(filler->at, "%" PRIu32 ": must be %s", filler->layer, what);
}

static Status add_row(Filler *filler, const cJSON *node)
{
    TRY(need_list(filler, node,
                  filler->shape == TABLE_ROWS ? "a list of lists" : "a list of numbers"));
    for (const cJSON *item = node->child; item != NULL; item = item->next)
        TRY(add_value(filler, item));
    return OK;
}

static void end_row(Filler *filler)
{
    filler->n_rows++;
    if (filler->parts.layer != NULL)
        filler->parts.first_value[filler->n_rows] = filler->n_values;
}

static Status add_layer(Filler *filler, const cJSON *node)
{
    if (filler->shape != TABLE_ROWS) {
        TRY(filler->shape == TABLE_NUMBERS ? add_value(filler, node) : add_row(filler, node));
        end_row(filler);
        return OK;
    }
    TRY(need_list(filler, node, "a list of lists"));
    for (const cJSON *row = node->child; row != NULL; row = row->next) {
        TRY(add_row(filler, row));
        end_row(filler);
    }
    return OK;
}

static Status add_layers(Filler *filler, const Member *members, uint32_t n_layers)
{
    filler->n_rows = 0;
    filler->n_values = 0;
    for (uint32_t i = 0; i < n_layers; i++) {
        filler->layer = members[i].layer;
        TRY(add_layer(filler, members[i].node));
        if (filler->parts.layer == NULL)
            continue;
        filler->parts.layer[i] = members[i].layer;
        filler->parts.first_row[i + 1] = filler->n_rows;
    }
    return OK;
}

static Status read_members(Filler *filler, const Member *members, uint32_t n_layers,
                           PlanTable **table)
{
    TRY(add_layers(filler, members, n_layers));
    TRY(plan_table_new(filler->shape, n_layers, filler->n_rows, filler->n_values, table));
    filler->parts = plan_table_parts(*table);
    return add_layers(filler, members, n_layers); /* cannot fail: it has not when counting */
}

Status plan_table_from_json(const JsonAt *at, PlanTableShape shape, uint32_t least, uint32_t most,
                            const PlanTable **out)
{
    Filler filler = {.at = at, .shape = shape, .least = least, .most = most};
    PlanTable *table = NULL;
    Member *members;
    uint32_t n_layers = 0;
    for (const cJSON *node = at->node->child; node != NULL; node = node->next)
        n_layers++;
    TRY(mem_new(&members, (size_t)n_layers + 1, sizeof *members, "table of a plan"));
    Status status = list_members(at, members);
    if (status == OK)
        status = read_members(&filler, members, n_layers, &table);
    mem_free(members);
    if (status == OK)
        *out = table;
    return status;
}

static Status push_row(cJSON *list, PlanRow row)
{
    for (uint32_t i = 0; i < row.n; i++)
        TRY(json_push(list, cJSON_CreateNumber(row.values[i])));
    return OK;
}

static Status write_rows(const PlanTable *table, uint32_t at, cJSON *object, const char *key)
{
    cJSON *list;
    TRY(json_add_array(object, key, &list));
    if (table->shape == TABLE_LISTS)
        return push_row(list, plan_table_row(table, at, 0));
    for (uint32_t row = 0; row < plan_table_rows(table, at); row++) {
        cJSON *inner = cJSON_CreateArray();
        TRY(json_push(list, inner));
        TRY(push_row(inner, plan_table_row(table, at, row)));
    }
    return OK;
}

Status plan_table_to_json(const PlanTable *table, cJSON *object, const char *key)
{
    cJSON *layers;
    TRY(json_add_object(object, key, &layers));
    for (uint32_t at = 0; at < table->n_layers; at++) {
        char layer[16];
        snprintf(layer, sizeof layer, "%" PRIu32, plan_table_layer(table, at));
        if (table->shape == TABLE_NUMBERS)
            TRY(json_add_u64(layers, layer, plan_table_row(table, at, 0).values[0]));
        else
            TRY(write_rows(table, at, layers, layer));
    }
    return OK;
}
