/* Stands in for sentencepiece.cc in builds without libsentencepiece: nothing opens, so nothing else
 * is ever called. */
#include <assert.h>

#include "exec/text/sentencepiece.h"

Status sentencepiece_open(const char *path, SentencePiece **model)
{
    *model = NULL;
    return fail(ERR_UNSUPPORTED,
                "%s: a SentencePiece model, and this build has no libsentencepiece: install "
                "libsentencepiece-dev and build again",
                path);
}

void sentencepiece_close(SentencePiece *model)
{
    assert(model == NULL);
    (void)model;
}

uint32_t sentencepiece_count(const SentencePiece *model)
{
    assert(model != NULL);
    (void)model;
    return 0;
}

Span sentencepiece_piece(const SentencePiece *model, uint32_t id)
{
    assert(model != NULL);
    (void)model;
    (void)id;
    return (Span){0};
}

bool sentencepiece_is_control(const SentencePiece *model, uint32_t id)
{
    assert(model != NULL);
    (void)model;
    (void)id;
    return false;
}

Status sentencepiece_encode(const SentencePiece *model, Span text, IdBuffer *ids)
{
    assert(model != NULL);
    (void)model;
    (void)text;
    (void)ids;
    return ERR_UNSUPPORTED;
}

Status sentencepiece_decode(const SentencePiece *model, const uint32_t *ids, size_t count,
                            ByteBuffer *text)
{
    assert(model != NULL);
    (void)model;
    (void)ids;
    (void)count;
    (void)text;
    return ERR_UNSUPPORTED;
}
