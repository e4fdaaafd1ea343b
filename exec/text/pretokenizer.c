#include "exec/text/pretokenizer.h"

#include <string.h>

#include "base/memory.h"
#include "exec/text/pretokenizer_stage.h"

/* One run: pieces go down the stages depth first, so that nothing is collected. */
typedef struct {
    PreTokenizer *pretokenizer;
    WordSink sink;
    void *argument;
} Run;

typedef struct {
    Span text;
    bool at_start;
} Piece;

static Status run_stage(const Run *run, size_t stage, Piece piece);

void pretokenizer_free(PreTokenizer *pretokenizer)
{
    if (pretokenizer == NULL)
        return;
    for (size_t i = 0; i < pretokenizer->n_stages; i++) {
        Stage *stage = &pretokenizer->stages[i];
        bytes_free(&stage->replacement);
        bytes_free(&stage->prefix);
        bytes_free(&stage->text);
        finder_free(&stage->finder);
    }
    mem_free(pretokenizer);
}

bool pretokenizer_is_byte_level(const PreTokenizer *pretokenizer)
{
    return pretokenizer->byte_level;
}

/* Appends TEXT with each space replaced. */
static Status replace_spaces(ByteBuffer *out, Span text, Span replacement)
{
    for (size_t at = 0; at < text.bytes;) {
        const unsigned char *space = memchr(text.data + at, ' ', text.bytes - at);
        size_t end = space != NULL ? (size_t)(space - text.data) : text.bytes;
        TRY(bytes_append(out, text.data + at, end - at));
        if (space != NULL)
            TRY(bytes_append(out, replacement.data, replacement.bytes));
        at = end + (space != NULL);
    }
    return OK;
}

static bool begins_with(Span text, Span prefix)
{
    return text.bytes >= prefix.bytes && memcmp(text.data, prefix.data, prefix.bytes) == 0;
}

/* Puts the stage's prefix in front of *TEXT, unless it is there. */
static Status add_prefix(Stage *stage, Span *text)
{
    Span prefix = bytes_span(&stage->prefix, 0);
    if (begins_with(*text, prefix))
        return OK;
    if (stage->text.data == text->data && stage->text.bytes == text->bytes) {
        TRY(bytes_reserve(&stage->text, prefix.bytes));
        memmove(stage->text.data + prefix.bytes, stage->text.data, stage->text.bytes);
        memcpy(stage->text.data, prefix.data, prefix.bytes);
        stage->text.bytes += prefix.bytes;
    } else {
        stage->text.bytes = 0;
        TRY(bytes_append(&stage->text, prefix.data, prefix.bytes));
        TRY(bytes_append(&stage->text, text->data, text->bytes));
    }
    *text = bytes_span(&stage->text, 0);
    return OK;
}

static Status change_text(Stage *stage, bool at_start, Span *text)
{
    if (stage->replacement.bytes > 0 && memchr(text->data, ' ', text->bytes) != NULL) {
        stage->text.bytes = 0;
        TRY(replace_spaces(&stage->text, *text, bytes_span(&stage->replacement, 0)));
        *text = bytes_span(&stage->text, 0);
    }
    if (stage->scheme == PREFIX_ALWAYS || (stage->scheme == PREFIX_FIRST && at_start))
        TRY(add_prefix(stage, text));
    return OK;
}

/* Hands START to END of PIECE to the next stage. */
static Status hand_on(const Run *run, size_t stage, Piece piece, Segment segment)
{
    if (segment.start == segment.end)
        return OK;
    Piece part = {.text = {piece.text.data + segment.start, segment.end - segment.start},
                  .at_start = piece.at_start && segment.start == 0};
    return run_stage(run, stage + 1, part);
}

/* True when NEXT belongs to the same piece as HELD. */
static bool joins(SplitBehavior behavior, const Segment *held, const Segment *next)
{
    switch (behavior) {
    case SPLIT_CONTIGUOUS:
        return held->is_match == next->is_match;
    case SPLIT_MERGED_WITH_PREVIOUS:
        return next->is_match && !held->is_match;
    case SPLIT_MERGED_WITH_NEXT:
        return held->is_match && !next->is_match;
    case SPLIT_REMOVED:
    case SPLIT_ISOLATED:
        break;
    }
    return false;
}

static Status split(const Run *run, size_t at, Piece piece)
{
    const Stage *stage = &run->pretokenizer->stages[at];
    Segments segments;
    Segment next;
    Segment held = {0};
    bool holds = false;
    Status status;
    segments_start(&segments, &stage->finder, piece.text);
    while ((status = segments_next(&segments, &next)) == OK) {
        next.is_match ^= stage->invert;
        if (stage->behavior == SPLIT_REMOVED && next.is_match)
            continue;
        if (holds && joins(stage->behavior, &held, &next)) {
            held.end = next.end;
            held.is_match = next.is_match;
            continue;
        }
        if (holds)
            TRY(hand_on(run, at, piece, held));
        held = next;
        holds = true;
    }
    if (status != STATUS_END)
        return status;
    return holds ? hand_on(run, at, piece, held) : OK;
}

static Status run_stage(const Run *run, size_t at, Piece piece)
{
    if (at == run->pretokenizer->n_stages)
        return run->sink(run->argument, piece.text);
    Stage *stage = &run->pretokenizer->stages[at];
    TRY(change_text(stage, piece.at_start, &piece.text));
    return stage->splits ? split(run, at, piece) : run_stage(run, at + 1, piece);
}

Status pretokenizer_run(PreTokenizer *pretokenizer, Span text, bool at_start, WordSink sink,
                        void *argument)
{
    Run run = {.pretokenizer = pretokenizer, .sink = sink, .argument = argument};
    if (text.bytes == 0)
        return OK;
    return run_stage(&run, 0, (Piece){.text = text, .at_start = at_start});
}
