#include "exec/text/finder.h"

#include <string.h>

#include "exec/text/utf8.h"

Status finder_load(const JsonAt *at, Finder *finder)
{
    static const char *const KEYS[] = {"String", "Regex", NULL};
    JsonAt value;
    const char *text = NULL;
    TRY(json_only_keys(at, KEYS));
    if (at->node->child == NULL || at->node->child->next != NULL)
        return json_fail(at, "must hold one of String, Regex");
    TRY(json_need(at, at->node->child->string, &value));
    TRY(json_text(&value, &text));
    if (text[0] == '\0')
        return json_fail(&value, "must not be empty");
    if (strcmp(at->node->child->string, "Regex") == 0)
        return pattern_new(&value, text, &finder->pattern);
    return bytes_append(&finder->literal, text, strlen(text));
}

void finder_free(Finder *finder)
{
    pattern_free(finder->pattern);
    bytes_free(&finder->literal);
    *finder = (Finder){0};
}

static bool find_literal(Span literal, Span text, size_t from, size_t *start, size_t *end)
{
    while (text.bytes - from >= literal.bytes) {
        const unsigned char *first =
            memchr(text.data + from, literal.data[0], text.bytes - from - literal.bytes + 1);
        if (first == NULL)
            return false;
        *start = (size_t)(first - text.data);
        *end = *start + literal.bytes;
        if (memcmp(first, literal.data, literal.bytes) == 0)
            return true;
        from = *start + 1;
    }
    return false;
}

static bool find_member(bool (*is_member)(uint32_t), Span text, size_t from, size_t *start,
                        size_t *end)
{
    for (size_t at = from; at < text.bytes; at = *end) {
        *start = at;
        *end = at + utf8_length(text.data[at]);
        if (is_member(utf8_code_point(text.data + at)))
            return true;
    }
    return false;
}

static Status find(const Finder *finder, Span text, size_t from, bool *found, size_t *start,
                   size_t *end)
{
    if (finder->pattern != NULL)
        return pattern_find(finder->pattern, text, from, found, start, end);
    *found = finder->is_member != NULL
                 ? find_member(finder->is_member, text, from, start, end)
                 : find_literal(bytes_span(&finder->literal, 0), text, from, start, end);
    return OK;
}

void segments_start(Segments *segments, const Finder *finder, Span text)
{
    *segments =
        (Segments){.finder = finder, .text = text, .last_match = SIZE_MAX, .done = text.bytes == 0};
}

/* The next match. After an empty one the search goes on a character further; an empty match right
 * behind the last match is none. */
static Status next_match(Segments *segments, bool *found)
{
    Span text = segments->text;
    *found = false;
    while (segments->from <= text.bytes) {
        size_t start = 0;
        size_t end = 0;
        TRY(find(segments->finder, text, segments->from, found, &start, &end));
        if (!*found)
            return OK;
        segments->from = end;
        if (start == end)
            segments->from += end < text.bytes ? utf8_length(text.data[end]) : 1;
        if (start == end && end == segments->last_match)
            continue;
        segments->last_match = end;
        segments->held_start = start;
        segments->held_end = end;
        return OK;
    }
    *found = false;
    return OK;
}

Status segments_next(Segments *segments, Segment *segment)
{
    if (segments->done)
        return STATUS_END;
    if (!segments->held)
        TRY(next_match(segments, &segments->held));
    if (!segments->held) {
        segments->done = true;
        *segment = (Segment){.start = segments->at, .end = segments->text.bytes};
        return segments->at < segments->text.bytes ? OK : STATUS_END;
    }
    if (segments->at < segments->held_start) {
        *segment = (Segment){.start = segments->at, .end = segments->held_start};
        segments->at = segments->held_start;
        return OK;
    }
    *segment =
        (Segment){.start = segments->held_start, .end = segments->held_end, .is_match = true};
    segments->at = segments->held_end;
    segments->held = false;
    return OK;
}
