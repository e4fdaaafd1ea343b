/* SentencePiece models through libsentencepiece, behind a C face.
 *
 * The library is looked for when the program is built; without it every open fails with
 * ERR_UNSUPPORTED. No special tokens are added: a .model file does not say which a model wants. */
#ifndef EXEC_TEXT_SENTENCEPIECE_H
#define EXEC_TEXT_SENTENCEPIECE_H

#include <stdbool.h>

#include "exec/text/buffers.h"

#ifdef __cplusplus
extern "C" {
#endif

typedef struct SentencePiece SentencePiece;

/* Fails with ERR_INPUT when PATH is no model that the library reads. */
Status sentencepiece_open(const char *path, SentencePiece **model);
void sentencepiece_close(SentencePiece *model);
/* Number of pieces; ids are 0 to one less. */
uint32_t sentencepiece_count(const SentencePiece *model);
/* The piece of ID, which must be in range; points into the model. */
Span sentencepiece_piece(const SentencePiece *model, uint32_t id);
/* True for control pieces, as <s>, which stand for no text. */
bool sentencepiece_is_control(const SentencePiece *model, uint32_t id);
/* Appends the ids of TEXT, which must be valid UTF-8. */
Status sentencepiece_encode(const SentencePiece *model, Span text, IdBuffer *ids);
/* Appends the text of IDS[COUNT], all in range. */
Status sentencepiece_decode(const SentencePiece *model, const uint32_t *ids, size_t count,
                            ByteBuffer *text);

#ifdef __cplusplus
}
#endif

#endif
