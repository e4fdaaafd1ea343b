/* Aligned tables for people. */
#ifndef CLI_TABLE_H
#define CLI_TABLE_H

#include <stdio.h>

#include "base/number_text.h"
#include "base/status.h"

typedef struct Table Table;

/* TITLES[columns]; ALIGN has one character per column, 'l' or 'r'. TITLES and ALIGN must outlive
 * the table. */
Status table_new(const char *const *titles, const char *align, Table **table);
void table_free(Table *table);
/* Adds the next cell, row by row. A failed allocation is kept and returned by table_print().
 * Control characters are shown as '?'. */
void table_cell(Table *table, const char *format, ...) __attribute__((format(printf, 2, 3)));
/* Prints titles, a rule and the rows. The last row must be complete. */
Status table_print(const Table *table, FILE *stream);

#endif
