#include "exec/text/normalizer.h"

#include "base/memory.h"
#include "exec/text/charsmap.h"
#include "exec/text/component.h"
#include "exec/text/finder.h"
#include "exec/text/unicode.h"
#include "exec/text/utf8.h"

typedef enum {
    STEP_NFC,
    STEP_NFD,
    STEP_NFKC,
    STEP_NFKD,
    STEP_LOWERCASE,
    STEP_STRIP_ACCENTS,
    STEP_PREPEND,
    STEP_REPLACE,
    STEP_STRIP,
    STEP_PRECOMPILED,
    STEP_SEQUENCE /* only while loading */
} StepKind;

typedef struct {
    StepKind kind;
    ByteBuffer content; /* prepend, replace */
    Finder finder;      /* replace */
    Charsmap map;       /* precompiled */
    bool left;          /* strip */
    bool right;
} Step;

enum { STEPS_MAX = 32 };

struct Normalizer {
    Step steps[STEPS_MAX];
    size_t n_steps;
    UnicodeScratch scratch;
    ByteBuffer texts[2]; /* what one step made is the next one's input */
};

void normalizer_free(Normalizer *normalizer)
{
    if (normalizer == NULL)
        return;
    for (size_t i = 0; i < normalizer->n_steps; i++) {
        bytes_free(&normalizer->steps[i].content);
        finder_free(&normalizer->steps[i].finder);
        charsmap_free(&normalizer->steps[i].map);
    }
    unicode_scratch_free(&normalizer->scratch);
    bytes_free(&normalizer->texts[0]);
    bytes_free(&normalizer->texts[1]);
    mem_free(normalizer);
}

static Status append_text(const JsonAt *at, const char *key, ByteBuffer *content)
{
    Span text;
    TRY(component_need_text(at, key, &text));
    return bytes_append(content, text.data, text.bytes);
}

static Status load_options(const JsonAt *at, Step *step)
{
    static const char *const NO_KEYS[] = {"type", NULL};
    static const char *const PREPEND_KEYS[] = {"type", "prepend", NULL};
    static const char *const REPLACE_KEYS[] = {"type", "pattern", "content", NULL};
    static const char *const STRIP_KEYS[] = {"type", "strip_left", "strip_right", NULL};
    static const char *const MAP_KEYS[] = {"type", "precompiled_charsmap", NULL};
    JsonAt value;
    switch (step->kind) {
    case STEP_PREPEND:
        TRY(json_only_keys(at, PREPEND_KEYS));
        return append_text(at, "prepend", &step->content);
    case STEP_REPLACE:
        TRY(json_only_keys(at, REPLACE_KEYS));
        TRY(json_need(at, "pattern", &value));
        TRY(finder_load(&value, &step->finder));
        if (step->finder.pattern != NULL && pattern_matches_nothing(step->finder.pattern))
            return json_fail(&value, "matches no text at all, which cannot be replaced");
        return append_text(at, "content", &step->content);
    case STEP_STRIP:
        TRY(json_only_keys(at, STRIP_KEYS));
        TRY(component_need_flag(at, "strip_left", &step->left));
        return component_need_flag(at, "strip_right", &step->right);
    case STEP_PRECOMPILED:
        TRY(json_only_keys(at, MAP_KEYS));
        TRY(json_need(at, "precompiled_charsmap", &value));
        return charsmap_load(&value, &step->map);
    default:
        return json_only_keys(at, NO_KEYS);
    }
}

static Status load_into(const JsonAt *at, Normalizer *normalizer);

static Status load_sequence(const JsonAt *at, Normalizer *normalizer)
{
    JsonAt list;
    size_t index = 0;
    TRY(component_sequence(at, "normalizers", &list));
    for (const cJSON *node = list.node->child; node != NULL; node = node->next) {
        JsonAt item = json_item(&list, node, index++);
        TRY(load_into(&item, normalizer));
    }
    return OK;
}

static Status load_into(const JsonAt *at, Normalizer *normalizer)
{
    static const char *const TYPES[] = {"NFC",       "NFD",          "NFKC",     "NFKD",
                                        "Lowercase", "StripAccents", "Prepend",  "Replace",
                                        "Strip",     "Precompiled",  "Sequence", NULL};
    int type = 0;
    TRY(component_type(at, TYPES, &type));
    if (type == STEP_SEQUENCE)
        return load_sequence(at, normalizer);
    if (normalizer->n_steps == STEPS_MAX)
        return json_fail(at, "more than %d steps are not supported", STEPS_MAX);
    Step *step = &normalizer->steps[normalizer->n_steps++];
    step->kind = (StepKind)type;
    return load_options(at, step);
}

Status normalizer_load(const JsonAt *at, Normalizer **normalizer)
{
    Normalizer *made;
    *normalizer = NULL;
    TRY(mem_new(&made, 1, sizeof *made, "normalizer"));
    Status status = json_is_null(at) ? OK : load_into(at, made);
    if (status == OK)
        *normalizer = made;
    else
        normalizer_free(made);
    return status;
}

static Status strip_accents(Span text, ByteBuffer *out)
{
    for (size_t at = 0; at < text.bytes;) {
        size_t length = utf8_length(text.data[at]);
        if (!unicode_is_mark(utf8_code_point(text.data + at)))
            TRY(bytes_append(out, text.data + at, length));
        at += length;
    }
    return OK;
}

static Status prepend(Span content, Span text, ByteBuffer *out)
{
    TRY(bytes_append(out, content.data, content.bytes));
    return bytes_append(out, text.data, text.bytes);
}

static Status replace(const Step *step, Span text, ByteBuffer *out)
{
    Segments segments;
    Segment segment;
    Status status;
    segments_start(&segments, &step->finder, text);
    while ((status = segments_next(&segments, &segment)) == OK) {
        if (segment.is_match)
            TRY(bytes_append(out, step->content.data, step->content.bytes));
        else
            TRY(bytes_append(out, text.data + segment.start, segment.end - segment.start));
    }
    return status == STATUS_END ? OK : status;
}

static Span strip(const Step *step, Span text)
{
    while (step->left && text.bytes > 0 && unicode_is_space(utf8_code_point(text.data))) {
        size_t length = utf8_length(text.data[0]);
        text = (Span){.data = text.data + length, .bytes = text.bytes - length};
    }
    while (step->right && text.bytes > 0) {
        size_t last = utf8_last_start(text);
        if (!unicode_is_space(utf8_code_point(text.data + last)))
            break;
        text.bytes = last;
    }
    return text;
}

static bool is_ascii(Span text)
{
    for (size_t i = 0; i < text.bytes; i++)
        if (text.data[i] >= 0x80)
            return false;
    return true;
}

static Status run_step(Normalizer *normalizer, const Step *step, Span text, ByteBuffer *out)
{
    switch (step->kind) {
    case STEP_NFC:
        return unicode_append_normalized(out, text, UNICODE_NFC, &normalizer->scratch);
    case STEP_NFD:
        return unicode_append_normalized(out, text, UNICODE_NFD, &normalizer->scratch);
    case STEP_NFKC:
        return unicode_append_normalized(out, text, UNICODE_NFKC, &normalizer->scratch);
    case STEP_NFKD:
        return unicode_append_normalized(out, text, UNICODE_NFKD, &normalizer->scratch);
    case STEP_LOWERCASE:
        return unicode_append_lower(out, text);
    case STEP_STRIP_ACCENTS:
        return strip_accents(text, out);
    case STEP_PREPEND:
        return prepend(bytes_span(&step->content, 0), text, out);
    case STEP_REPLACE:
        return replace(step, text, out);
    case STEP_PRECOMPILED:
        return charsmap_append(&step->map, text, out);
    case STEP_STRIP:
    case STEP_SEQUENCE:
        break;
    }
    return bytes_append(out, text.data, text.bytes);
}

/* True when STEP leaves any TEXT of this kind as it is, so that it need not be copied. */
static bool keeps(const Step *step, Span text)
{
    return step->kind <= STEP_NFKD && is_ascii(text);
}

Status normalizer_run(Normalizer *normalizer, Span text, Span *out, bool *at_start)
{
    size_t next = 0;
    for (size_t i = 0; i < normalizer->n_steps && text.bytes > 0; i++) {
        const Step *step = &normalizer->steps[i];
        if (keeps(step, text))
            continue;
        if (step->kind == STEP_STRIP) {
            Span stripped = strip(step, text);
            *at_start = *at_start && stripped.data == text.data;
            text = stripped;
            continue;
        }
        ByteBuffer *made = &normalizer->texts[next];
        made->bytes = 0;
        TRY(run_step(normalizer, step, text, made));
        if (step->kind == STEP_STRIP_ACCENTS && unicode_is_mark(utf8_code_point(text.data)))
            *at_start = false;
        text = bytes_span(made, 0);
        next = 1 - next;
    }
    *out = text;
    return OK;
}
