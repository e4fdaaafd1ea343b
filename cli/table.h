/* Aligned tables for people, and numbers as people read them. */
#ifndef CLI_TABLE_H
#define CLI_TABLE_H

#include <stdint.h>
#include <stdio.h>

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

/* Room for any of the texts below. */
enum { NUMBER_BYTES = 48 };

/* "12,345,678" */
const char *number_text(uint64_t value, char text[NUMBER_BYTES]);
/* "3.42 MiB": three or four digits and a binary unit. */
const char *bytes_text(uint64_t bytes, char text[NUMBER_BYTES]);
/* PART / WHOLE to four places, "-" when WHOLE is 0. */
const char *ratio_text(uint64_t part, uint64_t whole, char text[NUMBER_BYTES]);
/* "12.3 s", "4.56 ms", ... */
const char *duration_text(uint64_t duration_ns, char text[NUMBER_BYTES]);

#endif
