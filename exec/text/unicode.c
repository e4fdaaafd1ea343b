#include "exec/text/unicode.h"

#include <string.h>
#include <utf8proc.h>

#include "base/memory.h"
#include "exec/text/utf8.h"

bool unicode_is_space(uint32_t code_point)
{
    if (code_point < 0x80)
        return code_point == ' ' || (code_point >= '\t' && code_point <= '\r');
    switch (utf8proc_category((utf8proc_int32_t)code_point)) {
    case UTF8PROC_CATEGORY_ZS:
    case UTF8PROC_CATEGORY_ZL:
    case UTF8PROC_CATEGORY_ZP:
        return true;
    default:
        return code_point == 0x85;
    }
}

bool unicode_is_numeric(uint32_t code_point)
{
    if (code_point < 0x80)
        return code_point >= '0' && code_point <= '9';
    switch (utf8proc_category((utf8proc_int32_t)code_point)) {
    case UTF8PROC_CATEGORY_ND:
    case UTF8PROC_CATEGORY_NL:
    case UTF8PROC_CATEGORY_NO:
        return true;
    default:
        return false;
    }
}

bool unicode_is_punctuation(uint32_t code_point)
{
    if (code_point < 0x80)
        return (code_point >= '!' && code_point <= '/') ||
               (code_point >= ':' && code_point <= '@') ||
               (code_point >= '[' && code_point <= '`') || (code_point >= '{' && code_point <= '~');
    switch (utf8proc_category((utf8proc_int32_t)code_point)) {
    case UTF8PROC_CATEGORY_PC:
    case UTF8PROC_CATEGORY_PD:
    case UTF8PROC_CATEGORY_PS:
    case UTF8PROC_CATEGORY_PE:
    case UTF8PROC_CATEGORY_PI:
    case UTF8PROC_CATEGORY_PF:
    case UTF8PROC_CATEGORY_PO:
        return true;
    default:
        return false;
    }
}

bool unicode_is_mark(uint32_t code_point)
{
    if (code_point < 0x300)
        return false;
    switch (utf8proc_category((utf8proc_int32_t)code_point)) {
    case UTF8PROC_CATEGORY_MN:
    case UTF8PROC_CATEGORY_MC:
    case UTF8PROC_CATEGORY_ME:
        return true;
    default:
        return false;
    }
}

/* Alphabetic, but neither a letter nor a mark nor Nl: the circled and squared Latin letters. */
static bool is_enclosed_letter(uint32_t code_point)
{
    return (code_point >= 0x24B6 && code_point <= 0x24E9) ||
           (code_point >= 0x1F130 && code_point <= 0x1F149) ||
           (code_point >= 0x1F150 && code_point <= 0x1F169) ||
           (code_point >= 0x1F170 && code_point <= 0x1F189);
}

bool unicode_is_word(uint32_t code_point)
{
    switch (utf8proc_category((utf8proc_int32_t)code_point)) {
    case UTF8PROC_CATEGORY_LU:
    case UTF8PROC_CATEGORY_LL:
    case UTF8PROC_CATEGORY_LT:
    case UTF8PROC_CATEGORY_LM:
    case UTF8PROC_CATEGORY_LO:
    case UTF8PROC_CATEGORY_ND:
    case UTF8PROC_CATEGORY_NL:
    case UTF8PROC_CATEGORY_PC:
        return true;
    default:
        return unicode_is_mark(code_point) || is_enclosed_letter(code_point) ||
               code_point == 0x200C || code_point == 0x200D;
    }
}

Status unicode_append_lower(ByteBuffer *buffer, Span text)
{
    for (size_t at = 0; at < text.bytes; at += utf8_length(text.data[at])) {
        uint32_t code_point = utf8_code_point(text.data + at);
        if (code_point == 0x130) /* the one letter whose lower case is two code points */
            TRY(bytes_append(buffer, "i\xCC\x87", 3));
        else
            TRY(utf8_append(buffer, (uint32_t)utf8proc_tolower((utf8proc_int32_t)code_point)));
    }
    return OK;
}

void unicode_scratch_free(UnicodeScratch *scratch)
{
    mem_free(scratch->code_points);
    *scratch = (UnicodeScratch){0};
}

static Status scratch_reserve(UnicodeScratch *scratch, size_t more)
{
    return mem_reserve(&scratch->code_points, &scratch->room, scratch->count, more,
                       sizeof *scratch->code_points, "Unicode normalization");
}

static Status decompose(UnicodeScratch *scratch, Span text, utf8proc_option_t options)
{
    enum { LONGEST = 32 }; /* no code point decomposes into more than 18 */
    int boundary = 0;
    scratch->count = 0;
    for (size_t at = 0; at < text.bytes; at += utf8_length(text.data[at])) {
        TRY(scratch_reserve(scratch, LONGEST));
        utf8proc_int32_t code_point = (utf8proc_int32_t)utf8_code_point(text.data + at);
        utf8proc_ssize_t made = utf8proc_decompose_char(
            code_point, scratch->code_points + scratch->count, LONGEST, options, &boundary);
        if (made < 0 || made > LONGEST)
            return fail(ERR_INPUT, "Unicode normalization: U+%04X: %s", (unsigned)code_point,
                        utf8proc_errmsg(made));
        scratch->count += (size_t)made;
    }
    return OK;
}

static unsigned combining_class(int32_t code_point)
{
    return (unsigned)utf8proc_get_property(code_point)->combining_class;
}

/* Sorts a run of combining marks by class, equal classes in order. Insertion while that is short,
 * else by counting: text may hold a megabyte of marks. */
static Status sort_marks(int32_t *marks, size_t count)
{
    enum { SHORT = 24, CLASSES = 256 };
    if (count <= SHORT) {
        for (size_t i = 1; i < count; i++) {
            int32_t mark = marks[i];
            size_t at = i;
            for (; at > 0 && combining_class(marks[at - 1]) > combining_class(mark); at--)
                marks[at] = marks[at - 1];
            marks[at] = mark;
        }
        return OK;
    }
    size_t next[CLASSES + 1] = {0};
    int32_t *sorted;
    TRY(mem_new(&sorted, count, sizeof *sorted, "Unicode normalization"));
    for (size_t i = 0; i < count; i++)
        next[combining_class(marks[i]) + 1]++;
    for (size_t i = 1; i <= CLASSES; i++)
        next[i] += next[i - 1];
    for (size_t i = 0; i < count; i++)
        sorted[next[combining_class(marks[i])]++] = marks[i];
    memcpy(marks, sorted, count * sizeof *marks);
    mem_free(sorted);
    return OK;
}

/* The canonical ordering algorithm (Unicode 15, section 3.11, D109). */
static Status order_marks(UnicodeScratch *scratch)
{
    for (size_t from = 0; from < scratch->count;) {
        size_t to = from;
        while (to < scratch->count && combining_class(scratch->code_points[to]) != 0)
            to++;
        if (to - from > 1)
            TRY(sort_marks(scratch->code_points + from, to - from));
        from = to + 1;
    }
    return OK;
}

static Status append_code_points(ByteBuffer *buffer, const int32_t *code_points, size_t count)
{
    TRY(bytes_reserve(buffer, count * 4));
    for (size_t i = 0; i < count; i++)
        buffer->bytes += utf8_write((uint32_t)code_points[i], buffer->data + buffer->bytes);
    return OK;
}

static Status normalize_run(ByteBuffer *buffer, Span text, UnicodeForm form,
                            UnicodeScratch *scratch)
{
    bool compose = form == UNICODE_NFC || form == UNICODE_NFKC;
    bool compatible = form == UNICODE_NFKC || form == UNICODE_NFKD;
    utf8proc_option_t decomposing =
        UTF8PROC_STABLE | UTF8PROC_DECOMPOSE | (compatible ? UTF8PROC_COMPAT : 0);
    TRY(decompose(scratch, text, decomposing));
    TRY(order_marks(scratch));
    if (compose) {
        utf8proc_ssize_t count =
            utf8proc_normalize_utf32(scratch->code_points, (utf8proc_ssize_t)scratch->count,
                                     UTF8PROC_STABLE | UTF8PROC_COMPOSE);
        if (count < 0)
            return fail(ERR_INPUT, "Unicode normalization: %s", utf8proc_errmsg(count));
        scratch->count = (size_t)count;
    }
    return append_code_points(buffer, scratch->code_points, scratch->count);
}

/* End of the run from AT on. A code point below U+0300 never joins with what stands before it, so
 * text may be cut there. */
static size_t run_end(Span text, size_t at)
{
    do
        at += utf8_length(text.data[at]);
    while (at < text.bytes && text.data[at] >= 0xCC);
    return at;
}

/* End of the ASCII from AT on that nothing after it can join: its last letter may compose with a
 * mark. */
static size_t ascii_end(Span text, size_t at)
{
    size_t end = at;
    while (end < text.bytes && text.data[end] < 0x80)
        end++;
    return end > at && end < text.bytes ? end - 1 : end;
}

Status unicode_append_normalized(ByteBuffer *buffer, Span text, UnicodeForm form,
                                 UnicodeScratch *scratch)
{
    for (size_t at = 0; at < text.bytes;) {
        size_t end = ascii_end(text, at);
        if (end > at) {
            TRY(bytes_append(buffer, text.data + at, end - at));
        } else {
            end = run_end(text, at);
            Span run = {.data = text.data + at, .bytes = end - at};
            TRY(normalize_run(buffer, run, form, scratch));
        }
        at = end;
    }
    return OK;
}

size_t unicode_grapheme(Span text)
{
    utf8proc_int32_t state = 0;
    size_t at = utf8_length(text.data[0]);
    utf8proc_int32_t last = (utf8proc_int32_t)utf8_code_point(text.data);
    while (at < text.bytes) {
        utf8proc_int32_t next = (utf8proc_int32_t)utf8_code_point(text.data + at);
        if (utf8proc_grapheme_break_stateful(last, next, &state))
            break;
        last = next;
        at += utf8_length(text.data[at]);
    }
    return at;
}
