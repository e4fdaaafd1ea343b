/* Small tokenizer.json files for tests, from parts written as JSON. */
#ifndef TESTS_TOKENIZER_MAKER_H
#define TESTS_TOKENIZER_MAKER_H

#include <stdio.h>
#include <string.h>

#include "base/files.h"
#include "exec/text/tokenizer.h"
#include "tests/support.h"

/* NULL stands for null (added_tokens: for []). */
typedef struct {
    const char *added;
    const char *normalizer;
    const char *pre_tokenizer;
    const char *post_processor;
    const char *decoder;
    const char *model;
    const char *more; /* members in front: "\"truncation\": {}, " */
} TokenizerParts;

#define BYTE_LEVEL(prefix, regex)                                                                  \
    "{\"type\": \"ByteLevel\", \"add_prefix_space\": " prefix                                      \
    ", \"trim_offsets\": true, \"use_regex\": " regex "}"
#define BPE_OF(options, vocab, merges)                                                             \
    "{\"type\": \"BPE\", " options "\"vocab\": {" vocab "}, \"merges\": [" merges "]}"

static const char *write_tokenizer(const TokenizerParts *parts)
{
    static unsigned number;
    static char text[1 << 16];
    char name[32];
    snprintf(name, sizeof name, "tokenizer-%u.json", number++);
    const char *path = scratch_path(name);
#define OR_NULL(part) ((part) != NULL ? (part) : "null")
    int length = snprintf(
        text, sizeof text,
        "{%s\"version\": \"1.0\", \"added_tokens\": %s, \"normalizer\": %s, \"pre_tokenizer\": %s, "
        "\"post_processor\": %s, \"decoder\": %s, \"model\": %s}",
        parts->more != NULL ? parts->more : "", parts->added != NULL ? parts->added : "[]",
        OR_NULL(parts->normalizer), OR_NULL(parts->pre_tokenizer), OR_NULL(parts->post_processor),
        OR_NULL(parts->decoder), OR_NULL(parts->model));
#undef OR_NULL
    assert_in_range(length, 1, sizeof text - 1);
    assert_ok(file_write_all(path, text, (size_t)length));
    return path;
}

static Tokenizer *make_tokenizer(const TokenizerParts *parts)
{
    Tokenizer *tokenizer = NULL;
    assert_ok(tokenizer_open(write_tokenizer(parts), &tokenizer));
    return tokenizer;
}

/* The pieces of TEXT, joined by '|', in a static buffer. */
static inline const char *pieces_of(Tokenizer *tokenizer, Span text, bool special)
{
    static char joined[1 << 14];
    IdBuffer ids = {0};
    size_t used = 0;
    assert_ok(tokenizer_encode(tokenizer, text, special, &ids));
    joined[0] = '\0';
    for (size_t i = 0; i < ids.count; i++) {
        Span piece = tokenizer_piece(tokenizer, ids.ids[i]);
        used += (size_t)snprintf(joined + used, sizeof joined - used, "%s%.*s", i > 0 ? "|" : "",
                                 (int)piece.bytes, (const char *)piece.data);
        assert_true(used < sizeof joined);
    }
    ids_free(&ids);
    return joined;
}

#endif
