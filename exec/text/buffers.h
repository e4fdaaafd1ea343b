/* Bytes and token ids that grow: what the stages of a tokenizer hand on.
 *
 * Zero-initialise; free with bytes_free() and ids_free(). Emptying one (bytes = 0, count = 0) keeps
 * its room, so that a buffer in steady use allocates nothing. */
#ifndef EXEC_TEXT_BUFFERS_H
#define EXEC_TEXT_BUFFERS_H

#include <stddef.h>
#include <stdint.h>

#include "base/status.h"

#ifdef __cplusplus
extern "C" {
#endif

/* Bytes that somebody else owns. */
typedef struct {
    const unsigned char *data;
    size_t bytes;
} Span;

typedef struct {
    unsigned char *data;
    size_t bytes;
    size_t room;
} ByteBuffer;

typedef struct {
    uint32_t *ids;
    size_t count;
    size_t room;
} IdBuffer;

/* Makes room for MORE bytes (ids) after those that are there. */
Status bytes_reserve(ByteBuffer *buffer, size_t more);
Status ids_reserve(IdBuffer *buffer, size_t more);
/* DATA may be NULL when BYTES is 0. */
Status bytes_append(ByteBuffer *buffer, const void *data, size_t bytes);
Status ids_append(IdBuffer *buffer, const uint32_t *ids, size_t count);
Status ids_push(IdBuffer *buffer, uint32_t id);
void bytes_free(ByteBuffer *buffer);
void ids_free(IdBuffer *buffer);

/* What BUFFER holds from FROM on. */
Span bytes_span(const ByteBuffer *buffer, size_t from);
/* A zero-terminated string. */
Span span_of(const char *text);

#ifdef __cplusplus
}
#endif

#endif
