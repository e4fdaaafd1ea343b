/* Oniguruma's Ruby syntax -> PCRE2's. One pass; inside a class the escapes become class members. */
#include <string.h>

#include "exec/text/pattern.h"

/* White_Space. PCRE2's own \s takes U+180E as well. */
#define SPACE "\\t-\\r\\x{85}\\p{Z}"
#define CLASS_WORD "\\p{Alphabetic}\\p{M}\\p{Nd}\\p{Pc}"
/* Outside classes Oniguruma counts the superscripts and fractions of Latin-1 too. */
#define WORD CLASS_WORD "\\x{B2}\\x{B3}\\x{B9}\\x{BC}-\\x{BE}"
#define HEX "0-9A-Fa-f"

typedef struct {
    const JsonAt *at;
    const char *next;
    ByteBuffer *out;
    bool in_class;
} Translation;

static Status put(Translation *work, const char *text)
{
    return bytes_append(work->out, text, strlen(text));
}

static Status put_class(Translation *work, const char *members, bool negated)
{
    if (work->in_class && negated)
        return json_fail(work->at, "a negated class inside a class is not supported");
    if (work->in_class)
        return put(work, members);
    TRY(put(work, negated ? "[^" : "["));
    TRY(put(work, members));
    return put(work, "]");
}

static Status put_boundary(Translation *work, bool negated)
{
    return put(work, negated ? "(?:(?<=[" WORD "])(?=[" WORD "])|(?<![" WORD "])(?![" WORD "]))"
                             : "(?:(?<=[" WORD "])(?![" WORD "])|(?<![" WORD "])(?=[" WORD "]))");
}

/* \uHHHH -> \x{HHHH} */
static Status put_code_point(Translation *work)
{
    if (strspn(work->next, "0123456789ABCDEFabcdef") < 4)
        return json_fail(work->at, "\\u without four digits");
    TRY(put(work, "\\x{"));
    TRY(bytes_append(work->out, work->next, 4));
    work->next += 4;
    return put(work, "}");
}

/* After the backslash. */
static Status translate_escape(Translation *work)
{
    char c = *work->next++;
    switch (c) {
    case '\0':
        return json_fail(work->at, "ends in a backslash");
    case 's':
    case 'S':
        return put_class(work, SPACE, c == 'S');
    case 'd':
    case 'D':
        return put_class(work, "\\p{Nd}", c == 'D');
    case 'w':
    case 'W':
        return put_class(work, work->in_class ? CLASS_WORD : WORD, c == 'W');
    case 'h':
    case 'H':
        return put_class(work, HEX, c == 'H');
    case 'b':
    case 'B':
        if (!work->in_class)
            return put_boundary(work, c == 'B');
        break;
    case 'u':
        return put_code_point(work);
    default:
        break;
    }
    TRY(put(work, "\\"));
    return bytes_append(work->out, &c, 1);
}

static Status translate_in_class(Translation *work)
{
    char c = *work->next++;
    if (c == '[')
        return json_fail(work->at, "a class inside a class is not supported");
    if (c == '&' && *work->next == '&')
        return json_fail(work->at, "the intersection of classes (&&) is not supported");
    work->in_class = c != ']';
    return bytes_append(work->out, &c, 1);
}

/* Opens a class. A ] right after [ or [^ is a member. */
static Status open_class(Translation *work)
{
    TRY(put(work, "["));
    if (*work->next == '^') {
        TRY(put(work, "^"));
        work->next++;
    }
    if (*work->next == ']') {
        TRY(put(work, "\\]"));
        work->next++;
    }
    work->in_class = true;
    return OK;
}

/* (?imx-imx) and (?imx-imx: may hold an m, which in Ruby lets the dot match newlines. */
static Status check_options(const Translation *work)
{
    if (work->next[0] != '?')
        return OK;
    size_t length = strspn(work->next + 1, "imx-");
    char end = work->next[1 + length];
    if (length > 0 && (end == ')' || end == ':') && memchr(work->next + 1, 'm', length) != NULL)
        return json_fail(work->at, "the option m is not supported");
    return OK;
}

/* After a }, which ends an interval, an escape or nothing: only the first may not be followed by
 * a +, which would be possessive here and is a second repeat there. */
static Status check_interval(const Translation *work, const char *open)
{
    bool interval =
        open != NULL && strspn(open + 1, "0123456789,") == (size_t)(work->next - open) - 2;
    if (interval && *work->next == '+')
        return json_fail(work->at, "a + after an interval {n,m} is not supported");
    return OK;
}

Status pattern_translate(const JsonAt *at, const char *regex, ByteBuffer *out)
{
    Translation work = {.at = at, .next = regex, .out = out};
    const char *open = NULL;
    while (*work.next != '\0') {
        if (*work.next == '\\') {
            work.next++;
            TRY(translate_escape(&work));
        } else if (work.in_class) {
            TRY(translate_in_class(&work));
        } else if (*work.next == '[') {
            work.next++;
            TRY(open_class(&work));
        } else {
            char c = *work.next++;
            if (c == '{')
                open = work.next - 1;
            if (c == '(')
                TRY(check_options(&work));
            if (c == '}')
                TRY(check_interval(&work, open));
            TRY(bytes_append(out, &c, 1));
        }
    }
    return OK;
}
