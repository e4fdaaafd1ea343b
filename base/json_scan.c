#include "base/json_scan.h"

#include <ctype.h>
#include <math.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>

#include "base/json.h"

/* A number of fewer digits and without an exponent is not too large. */
enum { DIGITS_OF_FINITE = 300 };

/* Length of the valid UTF-8 sequence at TEXT, 0 when there is none. RFC 3629: no surrogates, no
 * overlong forms. */
static size_t utf8_length(const unsigned char *text, size_t bytes)
{
    unsigned char lead = text[0];
    if (lead < 0x80)
        return 1;
    size_t length = lead >= 0xF0 ? 4 : lead >= 0xE0 ? 3 : 2;
    if (lead < 0xC2 || lead > 0xF4 || length > bytes)
        return 0;
    for (size_t i = 1; i < length; i++)
        if ((text[i] & 0xC0) != 0x80)
            return 0;
    if ((lead == 0xE0 && text[1] < 0xA0) || (lead == 0xED && text[1] > 0x9F) ||
        (lead == 0xF0 && text[1] < 0x90) || (lead == 0xF4 && text[1] > 0x8F))
        return 0;
    return length;
}

typedef struct {
    const char *file;
    size_t line;
    int depth;
    bool in_string;
    size_t arrays; /* that have begun */
} Scan;

Status json_scan_fail(const char *file, size_t line, const char *why)
{
    if (line == 0)
        return fail(ERR_INPUT, "%s: %s", file, why);
    return fail(ERR_INPUT, "%s: line %zu: %s", file, line, why);
}

static Status scan_fail(const Scan *scan, const char *why)
{
    return json_scan_fail(scan->file, scan->line, why);
}

/* At a backslash. cJSON takes \u with a wrong digit for a zero character, which would end the
 * string. */
static Status scan_escape(Scan *scan, const char *text, size_t bytes, size_t *at)
{
    bool zero = true;
    size_t length = 2;
    if (*at + 1 < bytes && text[*at + 1] == 'u') {
        for (; length < 6; length++) {
            char digit = *at + length < bytes ? text[*at + length] : ' ';
            if (!isxdigit((unsigned char)digit))
                return scan_fail(scan, "\\u without four hexadecimal digits");
            zero = zero && digit == '0';
        }
        if (zero)
            return scan_fail(scan, "a string holds a zero character");
    }
    *at += length;
    return OK;
}

/* Over bytes of a string that mean themselves. */
static size_t skip_plain(const char *text, size_t bytes, size_t at)
{
    while (at < bytes && (signed char)text[at] >= 0x20 && text[at] != '"' && text[at] != '\\')
        at++;
    return at;
}

static Status scan_string_byte(Scan *scan, const char *text, size_t bytes, size_t *at)
{
    unsigned char c = (unsigned char)text[*at];
    if (c == '\\')
        return scan_escape(scan, text, bytes, at);
    if (c < 0x20)
        return scan_fail(scan, "a string holds a raw control character");
    size_t length = utf8_length((const unsigned char *)text + *at, bytes - *at);
    if (length == 0)
        return scan_fail(scan, "invalid UTF-8");
    scan->in_string = c != '"';
    *at += length;
    return OK;
}

static size_t skip_digits(const char *text, size_t bytes, size_t at)
{
    while (at < bytes && text[at] >= '0' && text[at] <= '9')
        at++;
    return at;
}

static Status scan_number(Scan *scan, const char *text, size_t bytes, size_t *at)
{
    size_t first = *at + (text[*at] == '-');
    size_t i = skip_digits(text, bytes, first);
    if (i == first || (text[first] == '0' && i - first > 1))
        return scan_fail(scan, "a number is not JSON");
    bool is_finite = i - first < DIGITS_OF_FINITE;
    if (i < bytes && text[i] == '.') {
        first = ++i;
        i = skip_digits(text, bytes, first);
        if (i == first)
            return scan_fail(scan, "a number is not JSON");
    }
    if (!is_finite || (i < bytes && (text[i] == 'e' || text[i] == 'E'))) {
        char *end;
        if (!isfinite(strtod(text + *at, &end)))
            return scan_fail(scan, "a number is too large");
        i = (size_t)(end - text);
    }
    *at = i;
    return OK;
}

/* Outside strings; cJSON takes all control characters for spaces. */
static bool may_stand_outside(char c)
{
    return (signed char)c >= ' ' || c == '\n' || c == '\t' || c == '\r';
}

/* A text that lists are taken out of: what is kept lies at its beginning, and from KEPT_FROM on. */
typedef struct {
    char *text; /* NULL: nothing is taken out */
    size_t kept;
    size_t kept_from;
    JsonNumbers *numbers;
} Cut;

/* Keeps what lies before AT. */
static void keep(Cut *cut, size_t at)
{
    memmove(cut->text + cut->kept, cut->text + cut->kept_from, at - cut->kept_from);
    cut->kept += at - cut->kept_from;
    cut->kept_from = at;
}

/* Takes the list out that begins at *AT, where it is one of lists of numbers; then *AT is its end.
 */
static Status cut_list(Scan *scan, Cut *cut, size_t *at)
{
    const char *end;
    if (scan->depth + 2 > JSON_MAX_DEPTH)
        return OK;
    TRY(json_numbers_take(cut->numbers, cut->text + *at, scan->arrays, &end));
    if (end == NULL)
        return OK;
    keep(cut, *at + 1);
    size_t close = (size_t)(end - cut->text) - 1;
    for (; cut->kept_from < close; cut->kept_from++)
        if (cut->text[cut->kept_from] == '\n') {
            cut->text[cut->kept++] = '\n';
            scan->line++;
        }
    *at = close + 1;
    return OK;
}

static Status scan_outside(Scan *scan, char c, size_t *at)
{
    scan->line += c == '\n' && scan->line > 0;
    scan->in_string = c == '"';
    scan->depth += (c == '{' || c == '[') - (c == '}' || c == ']');
    scan->arrays += c == '[';
    if (scan->depth > JSON_MAX_DEPTH)
        return scan_fail(scan, "nested too deeply");
    if (!may_stand_outside(c))
        return scan_fail(scan, "not JSON");
    ++*at;
    return OK;
}

static size_t skip_indent(const char *text, size_t bytes, size_t at)
{
    while (at < bytes && (text[at] == ' ' || text[at] == '\t'))
        at++;
    return at;
}

static Status scan_all(Scan *scan, const char *text, size_t bytes, Cut *cut)
{
    for (size_t at = 0; at < bytes;) {
        at = scan->in_string ? skip_plain(text, bytes, at) : skip_indent(text, bytes, at);
        if (at == bytes && !scan->in_string)
            break;
        size_t before = at;
        char c = text[at]; /* a 0 at the end */
        if (scan->in_string && at < bytes) {
            TRY(scan_string_byte(scan, text, bytes, &at));
        } else if (c == '-' || (c >= '0' && c <= '9')) {
            TRY(scan_number(scan, text, bytes, &at));
        } else {
            if (c == '[' && cut != NULL)
                TRY(cut_list(scan, cut, &at));
            if (at == before)
                TRY(scan_outside(scan, c, &at));
            else
                scan->arrays++;
        }
    }
    return OK;
}

Status json_scan(const char *text, size_t bytes, const char *file, size_t line)
{
    Scan scan = {.file = file, .line = line};
    return scan_all(&scan, text, bytes, NULL);
}

Status json_scan_numbers(char *text, size_t *bytes, const char *file, JsonNumbers *numbers)
{
    Scan scan = {.file = file, .line = 1};
    Cut cut = {.text = text, .numbers = numbers};
    TRY(scan_all(&scan, text, *bytes, &cut));
    keep(&cut, *bytes);
    *bytes = cut.kept;
    text[*bytes] = '\0';
    return OK;
}
