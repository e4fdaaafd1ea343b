#include "analysis/html.h"

#include <assert.h>
#include <stdarg.h>
#include <stdint.h>
#include <string.h>

#include "exec/text/utf8.h"

enum { TEXT_BYTES = 2048 };

#define LIGHT_COLOURS                                                                              \
    "--heat:#0b68cb;--c0:#0b68cb;--c1:#c4500b;--c2:#1b7f4b;--c3:#8a3ab9;--c4:#a8123e;"             \
    "--c5:#0f7f8f;--c6:#8a6a00;--c7:#5b6470"

static const char STYLE[] =
    ":root{color-scheme:light dark;--ink:#1c2024;--dim:#687076;--rule:#d7dbdf;"
    "--paper:#fff;" LIGHT_COLOURS "}\n"
    "@media (prefers-color-scheme:dark){:root{--ink:#e8eaed;--dim:#9aa4ad;--rule:#3a4148;"
    "--paper:#15181b;--heat:#5eb0ff;--c0:#5eb0ff;--c1:#ff9a57;--c2:#5fd095;--c3:#cf95f2;"
    "--c4:#ff7d9d;--c5:#55cfe0;--c6:#e5c04b;--c7:#b4bdc7}}\n"
    "body{font:15px/1.5 system-ui,sans-serif;color:var(--ink);background:var(--paper);"
    "max-width:66rem;margin:2rem auto;padding:0 1rem}\n"
    "h1{font-size:1.5rem;overflow-wrap:anywhere}h2{font-size:1.15rem;margin-top:2.2rem;"
    "border-bottom:1px solid var(--rule);padding-bottom:.2rem}\n"
    "p{max-width:46rem;overflow-wrap:anywhere}p.lead{font-size:1.1rem}p.note{color:var(--dim)}\n"
    "figure{margin:1rem 0}svg{width:100%;height:auto;display:block}\n"
    "svg text{fill:var(--ink);font:12px system-ui,sans-serif}svg .grid{stroke:var(--rule)}\n"
    ".scroll{overflow-x:auto}table{border-collapse:collapse;font-variant-numeric:tabular-nums}\n"
    "th,td{padding:.2rem .6rem .2rem 0;text-align:left;border-bottom:1px solid var(--rule);"
    "vertical-align:top;overflow-wrap:break-word}th{color:var(--dim);font-weight:600}\n"
    "th.r,td.r{text-align:right;white-space:nowrap}\n"
    "@media print{:root{color-scheme:light;--ink:#000;--dim:#444;--rule:#bbb;"
    "--paper:#fff;" LIGHT_COLOURS "}\n*{print-color-adjust:exact;-webkit-print-color-adjust:exact}"
    ".scroll{overflow:visible}table{font-size:.7rem}figure,tr{break-inside:avoid}"
    "h2{break-after:avoid}}\n";

/* XML 1.0, section 2.2. */
static bool is_character(uint32_t code_point)
{
    return (code_point >= 0x20 && code_point != 0x7F && code_point != 0xFFFE &&
            code_point != 0xFFFF) ||
           code_point == '\t' || code_point == '\n';
}

static void put_character(FILE *stream, const unsigned char *at, size_t length)
{
    switch (*at) {
    case '&':
        fputs("&amp;", stream);
        break;
    case '<':
        fputs("&lt;", stream);
        break;
    case '>':
        fputs("&gt;", stream);
        break;
    case '"':
        fputs("&quot;", stream);
        break;
    case '\'':
        fputs("&#39;", stream);
        break;
    default:
        fwrite(at, 1, length, stream);
    }
}

void html_text(FILE *stream, const char *text)
{
    Span left = span_of(text);
    while (left.bytes > 0) {
        size_t wrong = 0;
        size_t length = utf8_valid_length(left, &wrong);
        if (length > 0 && is_character(utf8_code_point(left.data)))
            put_character(stream, left.data, length);
        else
            fputs("\xEF\xBF\xBD", stream);
        length = length > 0 ? length : wrong;
        left.data += length;
        left.bytes -= length;
    }
}

static void put_format(FILE *stream, const char *format, va_list arguments)
    __attribute__((format(printf, 2, 0)));

static void put_format(FILE *stream, const char *format, va_list arguments)
{
    char text[TEXT_BYTES];
    vsnprintf(text, sizeof text, format, arguments);
    html_text(stream, text);
}

void html_begin(FILE *stream, const char *title)
{
    fputs("<!DOCTYPE html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\"/>\n"
          "<meta name=\"viewport\" content=\"width=device-width, initial-scale=1\"/>\n<title>",
          stream);
    html_text(stream, title);
    fprintf(stream, "</title>\n<style>\n%s</style>\n</head>\n<body>\n<h1>", STYLE);
    html_text(stream, title);
    fputs("</h1>\n", stream);
}

void html_end(FILE *stream)
{
    fputs("<p class=\"note\">Written by moebius " MOEBIUS_VERSION
          " report.</p>\n</body>\n</html>\n",
          stream);
}

void html_paragraph(FILE *stream, const char *class, const char *format, ...)
{
    va_list arguments;
    fputs("<p", stream);
    if (class != NULL)
        fprintf(stream, " class=\"%s\"", class);
    fputs(">", stream);
    va_start(arguments, format);
    put_format(stream, format, arguments);
    va_end(arguments);
    fputs("</p>\n", stream);
}

void html_heading(FILE *stream, const char *title)
{
    fputs("<h2>", stream);
    html_text(stream, title);
    fputs("</h2>\n", stream);
}

static void open_cell(const HtmlTable *table, const char *name)
{
    fprintf(table->stream, "<%s%s>", name,
            table->align[table->column] == 'r' ? " class=\"r\"" : "");
}

HtmlTable html_table_begin(FILE *stream, const char *const *titles, const char *align)
{
    HtmlTable table = {.stream = stream, .align = align, .columns = strlen(align)};
    fputs("<div class=\"scroll\"><table>\n<thead><tr>", stream);
    for (; table.column < table.columns; table.column++) {
        open_cell(&table, "th");
        html_text(stream, titles[table.column]);
        fputs("</th>", stream);
    }
    fputs("</tr></thead>\n<tbody>\n", stream);
    table.column = 0;
    return table;
}

void html_cell(HtmlTable *table, const char *format, ...)
{
    va_list arguments;
    if (table->column == 0)
        fputs("<tr>", table->stream);
    open_cell(table, "td");
    va_start(arguments, format);
    put_format(table->stream, format, arguments);
    va_end(arguments);
    fputs("</td>", table->stream);
    table->column = (table->column + 1) % table->columns;
    if (table->column == 0)
        fputs("</tr>\n", table->stream);
}

void html_table_end(HtmlTable *table)
{
    assert(table->column == 0);
    fputs("</tbody></table></div>\n", table->stream);
}
