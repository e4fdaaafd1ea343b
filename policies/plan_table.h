/* Numbers by layer that a plan carries: a hot set, the residents at the start, slots of each layer,
 * what a predictor has learnt.
 *
 * A layer has rows, a row has values. In JSON a table is an object of layers by the model's layer
 * number, ascending; its shape says what stands there:
 *
 *   TABLE_NUMBERS  { "3": 12, "5": 8 }              a row of one value
 *   TABLE_LISTS    { "3": [7, 1], "5": [] }         a row
 *   TABLE_ROWS     { "3": [[7, 900], [], [1, 20]] } rows
 *
 * One block of memory without pointers, so that the ranks of a sweep can send it as bytes. Shared
 * by reference count; whoever shares one does so in one thread. */
#ifndef POLICIES_PLAN_TABLE_H
#define POLICIES_PLAN_TABLE_H

#include <stdbool.h>

#include "base/json.h"

typedef enum { TABLE_NUMBERS, TABLE_LISTS, TABLE_ROWS } PlanTableShape;

typedef struct PlanTable PlanTable;

typedef struct {
    uint32_t n;
    const uint32_t *values; /* [n] */
} PlanRow;

/* The arrays of a table, to be filled in. */
typedef struct {
    uint32_t *layer;       /* [n_layers] the model's layer numbers, ascending */
    uint32_t *first_row;   /* [n_layers + 1] of each layer, from 0 */
    uint32_t *first_value; /* [n_rows + 1] of each row, from 0 */
    uint32_t *value;       /* [n_values] */
} PlanTableParts;

/* A table with one owner, all zero. */
Status plan_table_new(PlanTableShape shape, uint32_t n_layers, uint32_t n_rows, uint32_t n_values,
                      PlanTable **table);
PlanTableParts plan_table_parts(PlanTable *table);
/* One owner more, or less; the last frees it. Both accept NULL. */
const PlanTable *plan_table_share(const PlanTable *table);
void plan_table_release(const PlanTable *table);

size_t plan_table_bytes(const PlanTable *table);
uint32_t plan_table_layers(const PlanTable *table);
/* The model's number of the layer at AT, below plan_table_layers(). */
uint32_t plan_table_layer(const PlanTable *table, uint32_t at);
/* Where LAYER stands, or plan_table_layers() when it does not. */
uint32_t plan_table_find(const PlanTable *table, uint32_t layer);
uint32_t plan_table_rows(const PlanTable *table, uint32_t at);
PlanRow plan_table_row(const PlanTable *table, uint32_t at, uint32_t row);
/* The one row of LAYER; empty when the table does not have it, or TABLE is NULL. */
PlanRow plan_table_list(const PlanTable *table, uint32_t layer);
/* Orders tables by what they say, NULL first. */
int plan_table_compare(const PlanTable *left, const PlanTable *right);
bool plan_table_is_same(const PlanTable *left, const PlanTable *right);

/* Reads a table of SHAPE whose values are LEAST to MOST. */
Status plan_table_from_json(const JsonAt *at, PlanTableShape shape, uint32_t least, uint32_t most,
                            const PlanTable **table);
/* Adds TABLE to OBJECT as KEY. */
Status plan_table_to_json(const PlanTable *table, cJSON *object, const char *key);

#endif
