/* CSV as RFC 4180 has it, and as programs write it: commas, optional double quotes, lines that end
 * in LF or CRLF, '#' lines before the header left to the caller. */
#ifndef TRACES_CSV_H
#define TRACES_CSV_H

#include "base/status.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum { CSV_MAX_FIELDS = 64 };

/* A row at a time over a text in memory, which it changes: fields are unquoted in place. Fields are
 * not zero-terminated and valid as long as the text is. */
typedef struct {
    const char *file;
    char *at; /* what is not read yet */
    char *end;
    uint64_t line;      /* where the current row begins, from 1 */
    uint64_t next_line; /* where the next row begins */
    size_t count;       /* fields of the current row */
    size_t width;       /* fields that every row has, once csv_header() read the names; else 0 */
    struct {
        char *text;
        size_t length;
    } fields[CSV_MAX_FIELDS];
} Csv;

/* A byte order mark in front of TEXT is no part of it. */
Csv csv_begin(const char *file, char *text, size_t bytes);
/* The row of column names, as csv_next(); every row after it must have as many fields. Fails with
 * ERR_INPUT as well where a name stands twice. */
Status csv_header(Csv *csv);
/* Next row that is not empty; STATUS_END after the last. Fails with ERR_INPUT for a quote that does
 * not end, text behind one, too many fields, or not as many as the header has. */
Status csv_next(Csv *csv);
/* The next whole line without its end, as it is; STATUS_END when there is none. */
Status csv_line(Csv *csv, char **line, size_t *length);
/* The current row's field that is NAME, or SIZE_MAX. */
size_t csv_find(const Csv *csv, const char *name);
/* Field I of the current row, whose column is NAME. Whole decimal numbers; fails with ERR_INPUT. */
Status csv_u64(const Csv *csv, size_t i, const char *name, uint64_t most, uint64_t *value);
Status csv_u32(const Csv *csv, size_t i, const char *name, uint32_t most, uint32_t *value);
/* Any finite or non-finite number that strtof() reads whole. */
Status csv_f32(const Csv *csv, size_t i, const char *name, float *value);
/* "FILE: line N: ...", ERR_INPUT. */
Status csv_fail(const Csv *csv, const char *format, ...) __attribute__((format(printf, 2, 3)));

#endif
