/* One HTML page that stands by itself: no script, nothing fetched, readable in light and dark and
 * on paper. Also well-formed XML. What could not be written shows in ferror() of the stream. */
#ifndef ANALYSIS_HTML_H
#define ANALYSIS_HTML_H

#include <stdbool.h>
#include <stddef.h>
#include <stdio.h>

/* TEXT, any bytes, escaped for text and attributes; U+FFFD stands for what is no UTF-8 or no
 * character of XML. */
void html_text(FILE *stream, const char *text);

/* From the doctype to the heading; html_end() closes what is open. */
void html_begin(FILE *stream, const char *title);
void html_end(FILE *stream);

/* One paragraph, escaped, of at most 2 KiB; CLASS may be NULL. */
void html_paragraph(FILE *stream, const char *class, const char *format, ...)
    __attribute__((format(printf, 3, 4)));
void html_heading(FILE *stream, const char *title);

/* A table row by row: TITLES[columns]; ALIGN has one character per column, 'l' or 'r', and must
 * outlive the table. */
typedef struct {
    FILE *stream;
    const char *align;
    size_t columns;
    size_t column; /* of the next cell */
} HtmlTable;

HtmlTable html_table_begin(FILE *stream, const char *const *titles, const char *align);
/* The next cell, escaped, of at most 2 KiB. */
void html_cell(HtmlTable *table, const char *format, ...) __attribute__((format(printf, 2, 3)));
void html_table_end(HtmlTable *table);

#endif
