#include "cli/table.h"

#include <assert.h>
#include <stdarg.h>
#include <stdbool.h>
#include <string.h>

#include "base/memory.h"

enum { CELL_BYTES = 160 };

struct Table {
    const char *const *titles;
    const char *align;
    size_t columns;
    char **cells; /* [n_cells], row by row */
    size_t n_cells;
    size_t room;
    Status status;
};

Status table_new(const char *const *titles, const char *align, Table **table)
{
    TRY(mem_new(table, 1, sizeof **table, "table"));
    (*table)->titles = titles;
    (*table)->align = align;
    (*table)->columns = strlen(align);
    return OK;
}

void table_free(Table *table)
{
    if (table == NULL)
        return;
    for (size_t i = 0; i < table->n_cells; i++)
        mem_free(table->cells[i]);
    mem_free(table->cells);
    mem_free(table);
}

void table_cell(Table *table, const char *format, ...)
{
    char text[CELL_BYTES];
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(text, sizeof text, format, arguments);
    va_end(arguments);
    for (char *c = text; *c != '\0'; c++)
        if ((unsigned char)*c < 0x20 || *c == 0x7F)
            *c = '?';
    if (table->status == OK)
        table->status =
            mem_grow(&table->cells, &table->room, table->n_cells, sizeof *table->cells, "table");
    char *cell = NULL;
    if (table->status == OK)
        table->status = mem_new(&cell, strlen(text) + 1, 1, "table");
    if (table->status != OK)
        return;
    memcpy(cell, text, strlen(text) + 1);
    table->cells[table->n_cells++] = cell;
}

/* Code points, which is near enough to columns on the screen. */
static size_t text_width(const char *text)
{
    size_t width = 0;
    for (; *text != '\0'; text++)
        width += ((unsigned char)*text & 0xC0) != 0x80;
    return width;
}

static size_t column_width(const Table *table, size_t column)
{
    size_t widest = text_width(table->titles[column]);
    for (size_t i = column; i < table->n_cells; i += table->columns) {
        size_t width = text_width(table->cells[i]);
        widest = width > widest ? width : widest;
    }
    return widest;
}

static void print_padded(FILE *stream, const char *text, size_t width, char align, bool last)
{
    int padding = (int)(width - text_width(text));
    if (align == 'r')
        fprintf(stream, "%*s%s", padding, "", text);
    else
        fprintf(stream, "%s%*s", text, last ? 0 : padding, "");
    fputs(last ? "\n" : "  ", stream);
}

Status table_print(const Table *table, FILE *stream)
{
    if (table->status != OK)
        return table->status;
    assert(table->n_cells % table->columns == 0);
    size_t *widths;
    TRY(mem_new(&widths, table->columns, sizeof *widths, "table"));
    size_t total = 2 * (table->columns - 1);
    for (size_t i = 0; i < table->columns; i++) {
        widths[i] = column_width(table, i);
        total += widths[i];
    }
    for (size_t i = 0; i < table->columns; i++)
        print_padded(stream, table->titles[i], widths[i], table->align[i], i + 1 == table->columns);
    for (size_t i = 0; i < total; i++)
        putc('-', stream);
    putc('\n', stream);
    for (size_t i = 0; i < table->n_cells; i++) {
        size_t column = i % table->columns;
        print_padded(stream, table->cells[i], widths[column], table->align[column],
                     column + 1 == table->columns);
    }
    mem_free(widths);
    return OK;
}
