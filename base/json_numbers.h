/* Numbers of a JSON text that are not in its tree: where a text is mostly tables, to make a node of
 * each takes many times as long as to read it.
 *
 * Lists of lists of numbers, none of which is empty, are taken out: their nodes are lists without
 * children, and json_rows() has what was in them. */
#ifndef BASE_JSON_NUMBERS_H
#define BASE_JSON_NUMBERS_H

#include <stdbool.h>

#include "base/json.h"

/* One of the inner lists: N numbers from FIRST on. */
typedef struct {
    size_t first;
    size_t n;
} JsonRow;

/* One of the outer lists: N_ROWS rows from FIRST_ROW on. It is the array of that number in the
 * text, counted from 0 as they begin. */
typedef struct {
    size_t array;
    size_t first_row;
    size_t n_rows;
} JsonTable;

/* All of a text, in its order. Zero-initialised: none. */
typedef struct {
    double *value;
    size_t n_values;
    JsonRow *rows;
    size_t n_rows;
    JsonTable *tables;
    size_t n_tables;
    size_t room[3];
} JsonNumbers;

/* As json_parse(), of TEXT which is overwritten; NUMBERS is freed with json_numbers_free(), and is
 * empty on failure. */
Status json_parse_numbers(char *text, size_t bytes, const char *file, cJSON **root,
                          JsonNumbers *numbers);
void json_numbers_free(JsonNumbers *numbers);

/* Whether NODE is a list that rows were taken out of: what it has as children says nothing. */
bool json_is_table(const cJSON *node);
/* The rows that were taken out of NODE, *N of them; NULL: none were. */
const JsonRow *json_rows(const JsonNumbers *numbers, const cJSON *node, size_t *n);

/* Reads the number that begins at TEXT, in the grammar of RFC 8259: the double that is nearest to
 * it. Returns its end; NULL where there is none, or it is not finite. */
const char *json_number(const char *text, double *value);

/* ---- for base/json*.c ---- */

/* Takes the list out that begins at TEXT, the ARRAY-th; *END is behind it, or NULL, and nothing is
 * taken, where it is of anything else. Fails with ERR_MEMORY. */
Status json_numbers_take(JsonNumbers *numbers, const char *text, size_t array, const char **end);
/* Finds the nodes below ROOT that lists were taken from. */
void json_numbers_bind(const JsonNumbers *numbers, cJSON *root);

#endif
