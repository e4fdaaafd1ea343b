/* Makes text of pieces: "decoder" of a tokenizer.json.
 *
 * Not thread-safe. */
#ifndef EXEC_TEXT_DECODER_H
#define EXEC_TEXT_DECODER_H

#include <stdbool.h>

#include "base/json.h"
#include "exec/text/buffers.h"

/* A list of texts in one buffer: text i ends at ends[i]. */
typedef struct {
    ByteBuffer bytes;
    IdBuffer ends;
} TextList;

void text_list_free(TextList *list);
void text_list_clear(TextList *list);
/* Ends the text that was appended to list->bytes since the last end. */
Status text_list_end(TextList *list);
Span text_list_at(const TextList *list, size_t index);

typedef struct Decoder Decoder;

/* AT may be null: then pieces are joined by spaces. Fails with ERR_INPUT for what is not supported.
 */
Status decoder_load(const JsonAt *at, Decoder **decoder);
void decoder_free(Decoder *decoder);
/* Appends the text of PIECES, which it changes. A byte-level decoder gives the very bytes, which
 * need not be valid UTF-8. */
Status decoder_run(Decoder *decoder, TextList *pieces, ByteBuffer *text);

#endif
