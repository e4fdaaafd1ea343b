#include "exec/text/decoder.h"

#include <string.h>

#include "base/memory.h"
#include "exec/text/byte_alphabet.h"
#include "exec/text/byte_pieces.h"
#include "exec/text/component.h"
#include "exec/text/utf8.h"

typedef enum {
    DECODE_BYTE_LEVEL,
    DECODE_METASPACE,
    DECODE_BYTE_FALLBACK,
    DECODE_FUSE,
    DECODE_STRIP,
    DECODE_REPLACE,
    DECODE_SEQUENCE /* only while loading */
} DecodeKind;

typedef struct {
    DecodeKind kind;
    Finder finder;      /* replace; metaspace: the mark */
    ByteBuffer content; /* replace; strip: the character */
    bool drop_first;    /* metaspace: marks of the first piece stand for nothing */
    uint32_t start;     /* strip: how many at most */
    uint32_t stop;
} DecodeStep;

enum { STEPS_MAX = 16 };

struct Decoder {
    DecodeStep steps[STEPS_MAX];
    size_t n_steps;
    bool joined_by_spaces;
    ByteAlphabet alphabet;
    TextList made; /* by the step in work */
};

void text_list_free(TextList *list)
{
    bytes_free(&list->bytes);
    ids_free(&list->ends);
}

void text_list_clear(TextList *list)
{
    list->bytes.bytes = 0;
    list->ends.count = 0;
}

Status text_list_end(TextList *list)
{
    if (list->bytes.bytes > UINT32_MAX)
        return fail(ERR_INPUT, "text: more than 4 GiB at once");
    return ids_push(&list->ends, (uint32_t)list->bytes.bytes);
}

Span text_list_at(const TextList *list, size_t index)
{
    size_t from = index > 0 ? list->ends.ids[index - 1] : 0;
    return (Span){.data = list->bytes.data + from, .bytes = list->ends.ids[index] - from};
}

void decoder_free(Decoder *decoder)
{
    if (decoder == NULL)
        return;
    for (size_t i = 0; i < decoder->n_steps; i++) {
        finder_free(&decoder->steps[i].finder);
        bytes_free(&decoder->steps[i].content);
    }
    text_list_free(&decoder->made);
    mem_free(decoder);
}

static Status load_strip(const JsonAt *at, DecodeStep *step)
{
    static const char *const KEYS[] = {"type", "content", "start", "stop", NULL};
    JsonAt value;
    Span content;
    TRY(json_only_keys(at, KEYS));
    TRY(component_need_text(at, "content", &content));
    if (content.bytes == 0 || utf8_length(content.data[0]) != content.bytes)
        return json_fail(at, "the content must be one character");
    TRY(json_need(at, "start", &value));
    TRY(json_u32(&value, 0, UINT32_MAX, &step->start));
    TRY(json_need(at, "stop", &value));
    TRY(json_u32(&value, 0, UINT32_MAX, &step->stop));
    return bytes_append(&step->content, content.data, content.bytes);
}

static Status load_replace(const JsonAt *at, DecodeStep *step)
{
    static const char *const KEYS[] = {"type", "pattern", "content", NULL};
    JsonAt value;
    Span content;
    TRY(json_only_keys(at, KEYS));
    TRY(json_need(at, "pattern", &value));
    TRY(finder_load(&value, &step->finder));
    TRY(component_need_text(at, "content", &content));
    return bytes_append(&step->content, content.data, content.bytes);
}

static Status load_metaspace(const JsonAt *at, DecodeStep *step)
{
    MetaspaceOptions options;
    TRY(component_metaspace(at, &options));
    step->drop_first = options.scheme != PREFIX_NEVER;
    TRY(bytes_append(&step->content, " ", 1));
    return bytes_append(&step->finder.literal, options.replacement.data, options.replacement.bytes);
}

/* The flags are those of the pre-tokenizer of the same name and change nothing here. */
static Status load_byte_level(const JsonAt *at)
{
    static const char *const KEYS[] = {"type", "add_prefix_space", "trim_offsets", "use_regex",
                                       NULL};
    bool flag = false;
    TRY(json_only_keys(at, KEYS));
    TRY(component_flag(at, "add_prefix_space", &flag));
    TRY(component_flag(at, "trim_offsets", &flag));
    return component_flag(at, "use_regex", &flag);
}

static Status load_options(const JsonAt *at, DecodeStep *step)
{
    static const char *const KEYS[] = {"type", NULL};
    switch (step->kind) {
    case DECODE_BYTE_LEVEL:
        return load_byte_level(at);
    case DECODE_METASPACE:
        return load_metaspace(at, step);
    case DECODE_STRIP:
        return load_strip(at, step);
    case DECODE_REPLACE:
        return load_replace(at, step);
    case DECODE_BYTE_FALLBACK:
    case DECODE_FUSE:
    case DECODE_SEQUENCE:
        break;
    }
    return json_only_keys(at, KEYS);
}

static Status load_into(const JsonAt *at, Decoder *decoder);

static Status load_sequence(const JsonAt *at, Decoder *decoder)
{
    JsonAt list;
    size_t index = 0;
    TRY(component_sequence(at, "decoders", &list));
    for (const cJSON *node = list.node->child; node != NULL; node = node->next) {
        JsonAt item = json_item(&list, node, index++);
        TRY(load_into(&item, decoder));
    }
    return OK;
}

static Status load_into(const JsonAt *at, Decoder *decoder)
{
    static const char *const TYPES[] = {"ByteLevel", "Metaspace", "ByteFallback", "Fuse",
                                        "Strip",     "Replace",   "Sequence",     NULL};
    int type = 0;
    TRY(component_type(at, TYPES, &type));
    if (type == DECODE_SEQUENCE)
        return load_sequence(at, decoder);
    if (decoder->n_steps == STEPS_MAX)
        return json_fail(at, "more than %d steps are not supported", STEPS_MAX);
    DecodeStep *step = &decoder->steps[decoder->n_steps++];
    step->kind = (DecodeKind)type;
    return load_options(at, step);
}

Status decoder_load(const JsonAt *at, Decoder **decoder)
{
    Decoder *made;
    *decoder = NULL;
    TRY(mem_new(&made, 1, sizeof *made, "decoder"));
    byte_alphabet_init(&made->alphabet);
    made->joined_by_spaces = json_is_null(at);
    Status status = json_is_null(at) ? OK : load_into(at, made);
    if (status == OK)
        *decoder = made;
    else
        decoder_free(made);
    return status;
}

/* All pieces become one text; a piece with a character that is no byte's stands for itself. */
static Status decode_byte_level(const Decoder *decoder, const TextList *in, TextList *out)
{
    for (size_t i = 0; i < in->ends.count; i++) {
        Span piece = text_list_at(in, i);
        Status status;
        if (!byte_alphabet_append_bytes(&decoder->alphabet, piece, &out->bytes, &status)) {
            TRY(status);
            TRY(bytes_append(&out->bytes, piece.data, piece.bytes));
        }
    }
    return text_list_end(out);
}

static Status append_replaced(const DecodeStep *step, Span text, Span content, ByteBuffer *out)
{
    Segments segments;
    Segment segment;
    Status status;
    segments_start(&segments, &step->finder, text);
    while ((status = segments_next(&segments, &segment)) == OK) {
        if (segment.is_match)
            TRY(bytes_append(out, content.data, content.bytes));
        else
            TRY(bytes_append(out, text.data + segment.start, segment.end - segment.start));
    }
    return status == STATUS_END ? OK : status;
}

static Status decode_replace(const DecodeStep *step, const TextList *in, TextList *out)
{
    for (size_t i = 0; i < in->ends.count; i++) {
        Span content = bytes_span(&step->content, 0);
        if (i == 0 && step->drop_first)
            content.bytes = 0;
        TRY(append_replaced(step, text_list_at(in, i), content, &out->bytes));
        TRY(text_list_end(out));
    }
    return OK;
}

/* Ends a run of byte pieces, from FROM on in OUT: valid UTF-8 is one text, else each byte is
 * U+FFFD. */
static Status end_byte_run(TextList *out, size_t from)
{
    Span run = bytes_span(&out->bytes, from);
    if (run.bytes == 0)
        return OK;
    if (utf8_valid_prefix(run) == run.bytes)
        return text_list_end(out);
    out->bytes.bytes = from;
    for (size_t i = 0; i < run.bytes; i++) {
        TRY(utf8_append(&out->bytes, 0xFFFD));
        TRY(text_list_end(out));
    }
    return OK;
}

static Status decode_byte_fallback(const TextList *in, TextList *out)
{
    size_t from = 0;
    for (size_t i = 0; i < in->ends.count; i++) {
        Span piece = text_list_at(in, i);
        int value = byte_piece_value(piece);
        unsigned char byte = (unsigned char)value;
        if (value >= 0) {
            TRY(bytes_append(&out->bytes, &byte, 1));
            continue;
        }
        TRY(end_byte_run(out, from));
        TRY(bytes_append(&out->bytes, piece.data, piece.bytes));
        TRY(text_list_end(out));
        from = out->bytes.bytes;
    }
    return end_byte_run(out, from);
}

static Status decode_fuse(const TextList *in, TextList *out)
{
    TRY(bytes_append(&out->bytes, in->bytes.data, in->bytes.bytes));
    return text_list_end(out);
}

static Span strip(const DecodeStep *step, Span text)
{
    Span mark = bytes_span(&step->content, 0);
    for (uint32_t i = 0; i < step->start && text.bytes >= mark.bytes &&
                         memcmp(text.data, mark.data, mark.bytes) == 0;
         i++) {
        text.data += mark.bytes;
        text.bytes -= mark.bytes;
    }
    for (uint32_t i = 0; i < step->stop && text.bytes >= mark.bytes &&
                         memcmp(text.data + text.bytes - mark.bytes, mark.data, mark.bytes) == 0;
         i++)
        text.bytes -= mark.bytes;
    return text;
}

static Status decode_strip(const DecodeStep *step, const TextList *in, TextList *out)
{
    for (size_t i = 0; i < in->ends.count; i++) {
        Span text = strip(step, text_list_at(in, i));
        TRY(bytes_append(&out->bytes, text.data, text.bytes));
        TRY(text_list_end(out));
    }
    return OK;
}

static Status run_step(const Decoder *decoder, const DecodeStep *step, const TextList *in,
                       TextList *out)
{
    switch (step->kind) {
    case DECODE_BYTE_LEVEL:
        return decode_byte_level(decoder, in, out);
    case DECODE_BYTE_FALLBACK:
        return decode_byte_fallback(in, out);
    case DECODE_STRIP:
        return decode_strip(step, in, out);
    case DECODE_METASPACE:
    case DECODE_REPLACE:
        return decode_replace(step, in, out);
    case DECODE_FUSE:
    case DECODE_SEQUENCE:
        break;
    }
    return decode_fuse(in, out);
}

Status decoder_run(Decoder *decoder, TextList *pieces, ByteBuffer *text)
{
    for (size_t i = 0; i < decoder->n_steps; i++) {
        text_list_clear(&decoder->made);
        TRY(run_step(decoder, &decoder->steps[i], pieces, &decoder->made));
        TextList swapped = *pieces;
        *pieces = decoder->made;
        decoder->made = swapped;
    }
    for (size_t i = 0; i < pieces->ends.count; i++) {
        Span piece = text_list_at(pieces, i);
        if (i > 0 && decoder->joined_by_spaces)
            TRY(bytes_append(text, " ", 1));
        TRY(bytes_append(text, piece.data, piece.bytes));
    }
    return OK;
}
